/* Time zones: files of the system, the rules of the years to come, and what clocks skip and show twice. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/zone.h"

static int64_t at(const char *text)
{
    int64_t ms = 0;
    assert_int_equal(clock_parse(str_of(text), &ms), 0);
    return ms / 1000;
}

static struct zone *zone(const char *name)
{
    struct zone *z = NULL;
    struct err err = ERR_INIT;
    if (zone_load(name, &z, &err) < 0)
        fail_msg("%s: %s", name, err.msg);
    return z;
}

static void test_offsets(void **state UNUSED)
{
    static const struct {
        const char *name, *at;
        int minutes;
    } cases[] = {
        {"UTC", "2026-07-01T00:00:00Z", 0},
        {"Asia/Tokyo", "2026-07-01T00:00:00Z", 540},
        {"Asia/Kolkata", "2026-07-01T00:00:00Z", 330},
        {"America/New_York", "2026-03-08T06:59:59Z", -300},
        {"America/New_York", "2026-03-08T07:00:00Z", -240},
        {"America/New_York", "2026-11-01T05:59:59Z", -240},
        {"America/New_York", "2026-11-01T06:00:00Z", -300},
        {"Europe/Berlin", "2019-07-01T00:00:00Z", 120},
        /* Behind all that a file lists, by its rule alone. */
        {"Europe/Berlin", "2061-07-01T00:00:00Z", 120},
        {"Europe/Berlin", "2061-12-01T00:00:00Z", 60},
        {"Europe/Berlin", "2061-03-27T00:59:59Z", 60},
        {"Europe/Berlin", "2061-03-27T01:00:00Z", 120},
        {"Europe/Berlin", "2061-10-30T01:00:00Z", 60},
        {"Australia/Sydney", "2061-01-01T00:00:00Z", 660},
        {"Australia/Sydney", "2061-07-01T00:00:00Z", 600},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct zone *z = zone(cases[i].name);
        assert_int_equal(zone_offset(z, at(cases[i].at)), cases[i].minutes * 60);
        zone_free(z);
    }
}

static void test_what_a_clock_skips_and_shows_twice(void **state UNUSED)
{
    struct zone *z = zone("Europe/Berlin");
    assert_int_equal(zone_to_utc(z, at("2026-03-29T01:59:59Z")), at("2026-03-29T00:59:59Z"));
    assert_int_equal(zone_to_utc(z, at("2026-03-29T02:30:00Z")), at("2026-03-29T01:30:00Z")); /* 03:30 there */
    assert_int_equal(zone_to_utc(z, at("2026-03-29T03:00:00Z")), at("2026-03-29T01:00:00Z"));
    assert_int_equal(zone_to_utc(z, at("2026-10-25T02:30:00Z")), at("2026-10-25T00:30:00Z")); /* the first of two */
    assert_int_equal(zone_to_utc(z, at("2026-10-25T03:00:00Z")), at("2026-10-25T02:00:00Z"));
    assert_int_equal(zone_to_utc(z, at("2026-07-01T12:00:00Z")), at("2026-07-01T10:00:00Z"));
    zone_free(z);
}

static void test_names_that_cannot_be(void **state UNUSED)
{
    static const char *const names[] = {"", "/etc/passwd", "../../../etc/passwd", "Europe/../UTC", "Europe/Berlin/", "Nowhere/City", "Europe", "a b", "utc.txt", "zone.tab"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct zone *z = NULL;
        struct err err = ERR_INIT;
        assert_true(zone_load(names[i], &z, &err) < 0);
        assert_null(z);
        assert_true(*err.msg);
    }
}

static void test_a_file_that_is_cut_or_changed(void **state UNUSED)
{
    char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(file_read("/usr/share/zoneinfo/Europe/Berlin", 65536, &bytes, &len, NULL), 0);
    for (size_t n = 0; n < len; n++) {
        struct zone *z = NULL;
        char *cut = malloc(n + 1); /* its own memory: whoever reads past it is seen */
        memcpy(cut, bytes, n);
        assert_int_equal(zone_parse(str_n(cut, n), &z, NULL), ERR_CORRUPT);
        free(cut);
    }
    for (size_t n = 0; n < len; n++) {
        struct zone *z = NULL;
        bytes[n] ^= 0x5a;
        if (zone_parse(str_n(bytes, len), &z, NULL) == 0) {
            int32_t o = zone_offset(z, at("2061-07-01T00:00:00Z"));
            assert_true(o > -100000 && o < 100000);
        }
        zone_free(z);
        bytes[n] ^= 0x5a;
    }
    mem_free(bytes);
}

/* A file with nothing but a rule, made by hand. */
static struct zone *by_rule(const char *rule)
{
    static const char header[20] = "TZif2";
    char counts[24] = {0}, type[6] = {0};
    struct sbuf b = {0};
    struct zone *z = NULL;
    counts[19] = 1;
    sbuf_init(&b, 1000);
    for (int i = 0; i < 2; i++) {
        sbuf_add(&b, str_n(header, sizeof(header)));
        sbuf_add(&b, str_n(counts, sizeof(counts)));
        sbuf_add(&b, str_n(type, sizeof(type)));
    }
    sbuf_addf(&b, "\n%s\n", rule);
    (void)!zone_parse(sbuf_str(&b), &z, NULL);
    sbuf_deinit(&b);
    return z;
}

static void test_rules(void **state UNUSED)
{
    static const struct {
        const char *rule, *at;
        int minutes;
    } cases[] = {
        {"JST-9", "2026-07-01T00:00:00Z", 540},
        {"<-03>3", "2026-07-01T00:00:00Z", -180},
        {"IST-1GMT0,M10.5.0,M3.5.0/1", "2026-07-01T00:00:00Z", 60}, /* winter is the exception in Dublin */
        {"IST-1GMT0,M10.5.0,M3.5.0/1", "2026-12-01T00:00:00Z", 0},
        {"AAA0BBB,J60,J300", "2028-02-29T23:59:59Z", 0}, /* J60 is 1 March, in leap years too */
        {"AAA0BBB,J60/0,J300", "2028-03-01T00:00:00Z", 60},
        {"AAA0BBB,59/0,J300", "2028-02-29T00:00:00Z", 60}, /* 59 is 29 February in a leap year */
        {"AAA0BBB,59/0,J300", "2027-02-28T23:59:59Z", 0},
        {"EET-2EEST,M3.4.4/50,M10.4.4/50", "2026-03-27T23:59:59Z", 120}, /* two days and two hours after a Thursday */
        {"EET-2EEST,M3.4.4/50,M10.4.4/50", "2026-03-28T00:00:00Z", 180},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct zone *z = by_rule(cases[i].rule);
        assert_non_null(z);
        if (zone_offset(z, at(cases[i].at)) != cases[i].minutes * 60)
            fail_msg("%s at %s: %d", cases[i].rule, cases[i].at, zone_offset(z, at(cases[i].at)));
        zone_free(z);
    }
    static const char *const bad[] = {"J", "JST", "JST-999", "AAA0BBB,M13.1.0,J3", "AAA0BBB,M3.6.0,J3", "AAA0BBB,J0,J3", "AAA0BBB,J3", "AAA0BBB", "AAA0BBB,J3,J5,J7", "<x", "JST-9 "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_null(by_rule(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_what_a_clock_skips_and_shows_twice),
        cmocka_unit_test(test_names_that_cannot_be),
        cmocka_unit_test(test_a_file_that_is_cut_or_changed),
        cmocka_unit_test(test_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
