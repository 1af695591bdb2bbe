#include "unit.h"

#include "base/clock.h"

static void format_and_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
        const char *canonical; /* NULL: the same */
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0, NULL},
        {"2026-11-24T03:50:22Z", 1795492222000, NULL},
        {"2024-02-29T23:59:59Z", 1709251199000, NULL},
        {"1969-12-31T23:59:59Z", -1000, NULL},
        {"0000-01-01T00:00:00Z", -62167219200000, NULL},
        {"9999-12-31T23:59:59Z", 253402300799000, NULL},
        {"2026-11-24T12:50:22+09:00", 1795492222000, "2026-11-24T03:50:22Z"},
        {"2026-11-23t22:50:22-05:00", 1795492222000, "2026-11-24T03:50:22Z"},
        {"2026-11-24T03:50:22.123456Z", 1795492222123, "2026-11-24T03:50:22Z"},
        {"2026-11-24T03:50:22.5Z", 1795492222500, "2026-11-24T03:50:22Z"},
        {"1969-12-31T23:59:59.999Z", -1, "1969-12-31T23:59:59Z"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t ms = 0;
        char text[CLOCK_TEXT_MAX];
        assert_int_equal(clock_parse(str_of(cases[i].text), &ms), 0);
        assert_true(ms == cases[i].ms);
        clock_format(ms, text);
        assert_string_equal(text, cases[i].canonical ? cases[i].canonical : cases[i].text);
    }
    char text[CLOCK_TEXT_MAX];
    clock_format_micro(1795492222123456, text);
    assert_string_equal(text, "2026-11-24T03:50:22.123456Z");
    clock_format(INT64_MAX, text);
    assert_string_equal(text, "9999-12-31T23:59:59Z");
    clock_format(INT64_MIN, text);
    assert_string_equal(text, "0000-01-01T00:00:00Z");
}

static void every_day_survives(void **state)
{
    (void)state;
    for (int64_t day = -800000; day < 2900000; day += 13) {
        char text[CLOCK_TEXT_MAX];
        int64_t ms;
        if (day < -719528 || day > 2932896)
            continue;
        clock_format(day * 86400000, text);
        assert_int_equal(clock_parse(str_of(text), &ms), 0);
        assert_true(ms == day * 86400000);
    }
}

static void refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "2026-11-24",
        "2026-11-24T03:50:22",
        "2026-11-24 03:50:22Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-24T24:00:00Z",
        "2026-11-24T03:60:22Z",
        "2026-11-24T03:50:60Z",
        "2026-11-24T03:50:22.Z",
        "2026-11-24T03:50:22+9:00",
        "2026-11-24T03:50:22+24:00",
        "2026-11-24T03:50:22Zx",
        "-026-11-24T03:50:22Z",
        "2026-1-24T03:50:22Z",
        "2026-11-24T-3:50:22Z",
    };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ASSERT_ERR(clock_parse(str_of(bad[i]), &ms), ERR_BAD_REQUEST);
    assert_int_equal(ms, 42);
}

static void durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"0", 0},        {"90s", 90000},        {"1m30s", 90000}, {"250ms", 250},
        {"2h", 7200000}, {"1.5h", 5400000},     {".5s", 500},     {"-1.5s", -1500},
        {"1500us", 1},   {"1h0.001s", 3600001}, {"999999ns", 0},  {"0.0000001h", 0},
        {"+5s", 5000},   {"3\xC2\xB5s", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        int64_t ms = -77;
        assert_int_equal(clock_parse_duration(str_of(good[i].text), &ms), 0);
        assert_int_equal(ms, good[i].ms);
    }
    static const char *const bad[] = {"",
                                      "-",
                                      "1",
                                      "s",
                                      ".s",
                                      "1d",
                                      "1 s",
                                      "1s ",
                                      "9999999999h",
                                      "1h-1m",
                                      "99999999999999999999s",
                                      "0x1s",
                                      "1.s.",
                                      "s1"};
    int64_t ms;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ASSERT_ERR(clock_parse_duration(str_of(bad[i]), &ms), ERR_BAD_REQUEST);
}

static void durations_are_written_as_they_are_read(void **state)
{
    (void)state;
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {{0, "0s"},       {1, "1ms"},       {250, "250ms"},    {1000, "1s"},         {1500, "1500ms"},
                 {90000, "90s"},  {300000, "5m"},   {3600000, "1h"},   {5400000, "90m"},     {86400000, "24h"},
                 {-5000, "-5s"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[CLOCK_AGE_MAX];
        int64_t back;
        clock_format_duration(cases[i].ms, text);
        assert_string_equal(text, cases[i].text);
        if (cases[i].ms >= 0) {
            assert_int_equal(clock_parse_duration(str_of(text), &back), 0);
            assert_int_equal(back, cases[i].ms);
        }
    }
}

static void ages(void **state)
{
    (void)state;
    static const struct {
        int64_t seconds;
        const char *text;
    } cases[] = {{-5, "0s"}, {0, "0s"}, {119, "119s"}, {120, "2m"}, {200, "3m20s"}, {600, "10m"}, {10799, "179m"}, {10800, "3h"}, {18720, "5h12m"}, {28800, "8h"},
                 {172799, "47h"}, {172800, "2d"}, {273600, "3d4h"}, {691200, "8d"}, {63072000, "2y"}, {63763200, "2y8d"}, {252288000, "8y"}, {315360000, "10y"}};
    char text[CLOCK_AGE_MAX];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        clock_format_age(cases[i].seconds * 1000, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_clock(void **state)
{
    (void)state;
    clock_test_set(1000, 5000);
    assert_int_equal(clock_mono_ms(), 1000);
    clock_test_advance(250);
    assert_int_equal(clock_mono_ms(), 1250);
    assert_int_equal(clock_wall_ms(), 5250);
    assert_int_equal(clock_mono_ns(), 1250000000);
    clock_test_clear();
    assert_true(clock_wall_ms() > 1700000000000);
    uint64_t a = clock_mono_ns();
    assert_true(clock_mono_ns() >= a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_and_parse), cmocka_unit_test(every_day_survives),
        cmocka_unit_test(refuses),          cmocka_unit_test(durations),
        cmocka_unit_test(ages),             cmocka_unit_test(durations_are_written_as_they_are_read),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
