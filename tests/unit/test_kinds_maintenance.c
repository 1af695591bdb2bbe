/* Maintenance windows: which one is open, or next. */
#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "kinds/maintenance.h"

static int64_t at(const char *text)
{
    int64_t ms = 0;
    assert_int_equal(clock_parse(str_of(text), &ms), 0);
    return ms;
}

static void test_windows(void **state UNUSED)
{
    static const struct {
        const char *what, *days[7], *start, *zone, *now, *begins, *ends;
        int64_t minutes;
    } cases[] = {
        {"every day, later today", {0}, "02:00", "UTC", "2026-11-29T01:59:59Z", "2026-11-29T02:00:00Z", "2026-11-29T06:00:00Z", 240},
        {"every day, just open", {0}, "02:00", "UTC", "2026-11-29T02:00:00Z", "2026-11-29T02:00:00Z", "2026-11-29T06:00:00Z", 240},
        {"every day, open for the last second", {0}, "02:00", "UTC", "2026-11-29T05:59:59Z", "2026-11-29T02:00:00Z", "2026-11-29T06:00:00Z", 240},
        {"every day, over", {0}, "02:00", "UTC", "2026-11-29T06:00:00Z", "2026-11-30T02:00:00Z", "2026-11-30T06:00:00Z", 240},
        {"over midnight, before it", {0}, "23:00", "UTC", "2026-11-29T23:30:00Z", "2026-11-29T23:00:00Z", "2026-11-30T01:00:00Z", 120},
        {"over midnight, after it", {0}, "23:00", "UTC", "2026-11-30T00:59:00Z", "2026-11-29T23:00:00Z", "2026-11-30T01:00:00Z", 120},
        {"it belongs to the day of its beginning: open on Sunday", {"Saturday"}, "23:00", "UTC", "2026-11-29T00:30:00Z", "2026-11-28T23:00:00Z", "2026-11-29T01:00:00Z", 120},
        {"and so it is shut on the night before", {"Saturday"}, "23:00", "UTC", "2026-11-28T00:30:00Z", "2026-11-28T23:00:00Z", "2026-11-29T01:00:00Z", 120},
        {"one weekday, over for this week", {"Sunday"}, "02:00", "UTC", "2026-11-29T06:00:00Z", "2026-12-06T02:00:00Z", "2026-12-06T06:00:00Z", 240},
        {"the nearest of several", {"Monday", "Friday"}, "02:00", "UTC", "2026-12-01T00:00:00Z", "2026-12-04T02:00:00Z", "2026-12-04T06:00:00Z", 240},
        {"a weekday of the zone, which is the day before in UTC", {"Monday"}, "02:00", "Asia/Tokyo", "2026-11-29T16:59:59Z", "2026-11-29T17:00:00Z", "2026-11-29T21:00:00Z", 240},
        {"summer time begins in it: four hours all the same", {"Sunday"}, "01:00", "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T00:00:00Z", "2026-03-29T04:00:00Z", 240},
        {"a start that clocks skip", {"Sunday"}, "02:30", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z", 60},
        {"a start that clocks show twice: the first", {"Sunday"}, "02:30", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", 60},
        {"and not the second", {"Sunday"}, "02:30", "Europe/Berlin", "2026-10-25T01:31:00Z", "2026-11-01T01:30:00Z", "2026-11-01T02:30:00Z", 60},
        {"the same hour on the wall in winter and summer", {0}, "02:00", "America/New_York", "2026-03-09T05:00:00Z", "2026-03-09T06:00:00Z", "2026-03-09T10:00:00Z", 240},
        {"a whole day, every day: always", {0}, "12:00", "UTC", "2026-11-29T11:59:59Z", "2026-11-28T12:00:00Z", "2026-11-29T12:00:00Z", 1440},
        {"a whole day where clocks are put on: its end is in the next day", {"Saturday"}, "23:30", "Europe/Berlin", "2026-03-29T22:29:00Z", "2026-03-28T22:30:00Z", "2026-03-29T22:30:00Z", 1440},
        {"behind a far zone's date line", {"Sunday"}, "00:00", "Pacific/Kiritimati", "2026-11-28T09:59:59Z", "2026-11-28T10:00:00Z", "2026-11-28T11:00:00Z", 60},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct maintenance_window w = {.start = cases[i].start, .duration_minutes = cases[i].minutes, .time_zone = cases[i].zone, .days = {(void *)(uintptr_t)cases[i].days, 0}};
        struct zone *z = NULL;
        struct err err = ERR_INIT;
        int64_t begins = 0, ends = 0;
        while (w.days.count < 7 && cases[i].days[w.days.count])
            w.days.count++;
        if (zone_load(w.time_zone, &z, &err) < 0)
            fail_msg("%s: %s", w.time_zone, err.msg);
        maintenance_find(&w, z, at(cases[i].now), &begins, &ends);
        if (begins != at(cases[i].begins) || ends != at(cases[i].ends)) {
            char b[CLOCK_TEXT_MAX], e[CLOCK_TEXT_MAX];
            clock_format(begins, b);
            clock_format(ends, e);
            fail_msg("%s: %s to %s", cases[i].what, b, e);
        }
        zone_free(z);
    }
}

/* At every moment of some years the window that is found is open or ahead, and no more than a week ahead. */
static void test_there_is_always_one(void **state UNUSED)
{
    static const char *const days[] = {"Thursday"};
    const struct maintenance_window w = {.days = {(void *)(uintptr_t)days, 1}, .start = "02:30", .duration_minutes = 90};
    static const char *const names[] = {"Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "Pacific/Apia"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct zone *z = NULL;
        assert_int_equal(zone_load(names[i], &z, NULL), 0);
        for (int64_t now = at("2026-01-01T00:00:00Z"); now < at("2028-01-01T00:00:00Z"); now += 1777000) {
            int64_t begins, ends;
            maintenance_find(&w, z, now, &begins, &ends);
            assert_true(ends > now && ends - begins == 90 * 60000 && begins - now < (7 * 24 + 1) * 3600000LL);
        }
        zone_free(z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_there_is_always_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
