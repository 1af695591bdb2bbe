/* Clocks: durations and deadlines by the monotonic clock, records by wall clock; both can be set in tests.
 *
 * Threads: any. The test overrides apply to the whole process and are for single-threaded unit tests.
 */
#ifndef SEKI_BASE_CLOCK_H
#define SEKI_BASE_CLOCK_H

#include <stdint.h>

#include "base/str.h"

uint64_t clock_mono_ms(void);
uint64_t clock_mono_ns(void);
int64_t clock_wall_ms(void); /* since 1970-01-01 UTC */
int64_t clock_wall_ns(void);

/* RFC 3339 in UTC: "2026-11-24T03:50:22Z" (seconds, as metav1.Time) and with microseconds (as metav1.MicroTime). */
#define CLOCK_TEXT_MAX 32
void clock_format(int64_t wall_ms, char text[CLOCK_TEXT_MAX]);
void clock_format_micro(int64_t wall_us, char text[CLOCK_TEXT_MAX]);
/* Accepts both forms and any offset. */
int clock_parse(struct str text, int64_t *ret_wall_ms) NODISCARD;

/* Days since 1970-01-01 of a date of the calendar; of such a day its weekday (0: Sunday) and its year. */
int64_t clock_days(int64_t year, int64_t month, int64_t day);
int clock_weekday(int64_t days);
int64_t clock_year(int64_t days);

/* How long ago, as kubectl prints ages: "45s", "3m20s", "5h12m", "3d4h", "2y8d". */
#define CLOCK_AGE_MAX 32
void clock_format_age(int64_t age_ms, char text[CLOCK_AGE_MAX]);

/* "90s", "1m30s", "250ms", "2h": Go's duration texts. Written in the largest unit that is exact: "5m", "90s", "1500ms". */
void clock_format_duration(int64_t ms, char text[CLOCK_AGE_MAX]);
int clock_parse_duration(struct str text, int64_t *ret_ms) NODISCARD;

/* Tests only: from here on the clocks stand still at these values; clock_test_advance moves both. */
void clock_test_set(uint64_t mono_ms, int64_t wall_ms);
void clock_test_advance(uint64_t ms);
void clock_test_clear(void);

#endif
