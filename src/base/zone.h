/* Time zones by their IANA names ("Asia/Tokyo"), as the system's compiled files have them (TZif, RFC 9636).
 *
 * The C library knows one zone a process, by an environment variable that threads cannot change safely: hence this reader. Seconds are since 1970-01-01 UTC; local seconds are what a
 * clock on the wall there shows, counted as if it were UTC. Threads: any; a zone does not change once it is there. zone_load() reads a file.
 */
#ifndef SEKI_BASE_ZONE_H
#define SEKI_BASE_ZONE_H

#include "base/str.h"

#define ZONE_NAME_MAX 64

struct zone;

/* "UTC" needs no file. ERR_INVALID: no such name can be. ERR_NOT_FOUND: this system does not know it. ERR_CORRUPT. Freed with zone_free(). */
int zone_load(const char *name, struct zone **ret, struct err *err) NODISCARD;
/* From the bytes of such a file. */
int zone_parse(struct str bytes, struct zone **ret, struct err *err) NODISCARD;
void zone_free(struct zone *z); /* NULL is fine */
void zone_freep(struct zone **z); /* for CLEANUP */

/* Seconds east of UTC at that time. */
int32_t zone_offset(const struct zone *z, int64_t utc_s);
/* When the clock there shows that. What it shows twice: the first time. What it skips: as long after the gap begins as that was to be, so 02:30 becomes 03:30 where 02:00 becomes 03:00. */
int64_t zone_to_utc(const struct zone *z, int64_t local_s);

#endif
