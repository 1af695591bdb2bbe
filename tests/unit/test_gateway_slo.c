/* Service levels: what a percentage is, which requests count, and how a verdict travels in a usage record. */
#include "unit.h"

#include <string.h>

#include "gateway/slo.h"

static void percentages_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t millionths; /* 0: refused */
    } cases[] = {{"99.9", 999000}, {"95", 950000}, {"99.999", 999990}, {"0.001", 10}, {"50.50", 505000}, {"1", 10000}, {"0", 0}, {"0.0", 0}, {"100", 0}, {"99.9999", 0}, {"99.", 0}, {".9", 0},
                 {"-1", 0}, {"-0.5", 0}, {"+1", 0}, {"1e1", 0}, {"99,9", 0}, {"99.9.9", 0}, {" 99", 0}, {"", 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t n = 0;
        char text[SLO_PERCENT_MAX];
        assert_int_equal(slo_percent_read(str_of(cases[i].text), &n), cases[i].millionths != 0);
        assert_int_equal(n, cases[i].millionths);
        if (!n)
            continue;
        slo_percent_format(n, text);
        int64_t again;
        assert_true(slo_percent_read(str_of(text), &again) && again == n);
    }
}

static void percentages_are_written_short_and_rounded_down(void **state)
{
    (void)state;
    static const struct {
        int64_t millionths;
        const char *text;
    } cases[] = {{999000, "99.9"}, {1000000, "100"}, {0, "0"}, {999999, "99.999"}, {-125000, "-12.5"}, {-1, "-0.001"}, {-1000000, "-100"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[SLO_PERCENT_MAX];
        slo_percent_format(cases[i].millionths, text);
        assert_string_equal(text, cases[i].text);
    }
    char text[SLO_PERCENT_MAX];
    slo_percent_format(INT64_MIN / 2, text);
    assert_true(text[0] == '-' && strlen(text) < SLO_PERCENT_MAX);
    assert_int_equal(slo_achieved(3, 1), 666666);
    assert_int_equal(slo_achieved(INT64_MAX, 0), 1000000);
    assert_int_equal(slo_budget_left(1000, 0), 1000000);
    assert_int_equal(slo_budget_left(2000000, 1), 500000);
    assert_int_equal(slo_budget_left(1000000, 3), -2000000);
    assert_true(slo_budget_left(10, INT64_MAX) < 0);
}

enum { NOT, BAD, GOOD };

static void our_failures_count_and_not_the_client_s(void **state)
{
    (void)state;
    static const struct slo slo = {.availability = 999000, .ttft = 950000, .ttft_ms = 500};
    static const struct {
        const char *outcome;
        int status;
        bool stream;
        int64_t ttft_ms, duration_ms;
        int availability, ttft;
    } cases[] = {
        {"ok", 200, true, 500, 900, GOOD, GOOD},
        {"ok", 200, true, 501, 900, GOOD, BAD},
        {"ok", 200, false, 9000, 9000, GOOD, NOT},
        {"upstream_error", 200, true, 100, 900, BAD, GOOD}, /* it broke off */
        {"upstream_error", 502, true, -1, 900, BAD, NOT},
        {"upstream_error", 500, false, 20, 900, BAD, NOT},
        {"upstream_error", 500, true, 20, 900, BAD, NOT}, /* an error is no beginning */
        {"timeout", 504, true, -1, 90000, BAD, NOT},
        {"shutdown", 200, true, 10, 20, BAD, GOOD},
        {"refused", 503, true, -1, 2, BAD, NOT}, /* no replica */
        {"refused", 429, true, -1, 2, NOT, NOT},
        {"refused", 403, false, -1, 2, NOT, NOT},
        {"refused", 400, true, 30, 40, NOT, NOT}, /* the engine's word */
        {"client_gone", 200, true, 100, 900, NOT, GOOD},
        {"client_gone", 200, true, 700, 900, NOT, BAD},
        {"client_gone", 499, true, -1, 900, NOT, BAD}, /* he has waited long enough */
        {"client_gone", 499, true, -1, 400, NOT, NOT},
        {"client_gone", 500, false, -1, 900, NOT, NOT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct usage u = {.outcome = str_of(cases[i].outcome), .status = cases[i].status, .stream = cases[i].stream, .ttft_ms = cases[i].ttft_ms, .duration_ms = cases[i].duration_ms};
        const int want[] = {[LEVEL_AVAILABILITY] = cases[i].availability, [LEVEL_TTFT] = cases[i].ttft};
        slo_judge(&slo, "shop", &u);
        for (int k = 0; k < LEVEL_KINDS; k++)
            if (u.levels.of[k].target != (want[k] == NOT ? 0 : k == LEVEL_TTFT ? slo.ttft : slo.availability) || (want[k] != NOT && u.levels.of[k].good != (want[k] == GOOD)))
                fail_msg("case %zu, %s: target %lld, good %d", i, level_name((enum level_kind)k), (long long)u.levels.of[k].target, u.levels.of[k].good);
        assert_int_equal(u.levels.project.len != 0, cases[i].availability != NOT || cases[i].ttft != NOT);
    }
    struct usage u = {.outcome = STR("ok"), .status = 200, .stream = true, .ttft_ms = 1};
    slo_judge(&(struct slo){0}, "shop", &u);
    assert_int_equal(u.levels.project.len, 0);
}

static void a_verdict_travels_in_the_record(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct sbuf out = {0};
    struct err err = ERR_INIT;
    sbuf_init(&out, 1 << 16);
    struct usage u = {.id = STR("req-1"), .project = STR("p"), .levels = {.project = STR("sh\"op"), .of = {[LEVEL_TTFT] = {950000, true}, [LEVEL_AVAILABILITY] = {999000, false}}}}, back;
    usage_encode(&u, &out);
    ASSERT_OK(usage_decode(sbuf_str(&out), a, &back, &err));
    assert_true(str_eqc(back.levels.project, "sh\"op"));
    assert_int_equal(back.levels.of[LEVEL_TTFT].target, 950000);
    assert_true(back.levels.of[LEVEL_TTFT].good && !back.levels.of[LEVEL_AVAILABILITY].good);
    static const char *const others[] = {"", ",\"slo\":null", ",\"slo\":[]", ",\"slo\":{\"project\":7}", ",\"slo\":{\"project\":\"p\",\"ttft\":{\"target\":1000000,\"good\":true},\"availability\":{\"target\":-1}}",
                                         ",\"slo\":{\"project\":\"p\",\"ttft\":7,\"later\":{}}"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        sbuf_reset(&out);
        sbuf_addf(&out, "{\"id\":\"r\",\"project\":\"p\"%s}", others[i]);
        ASSERT_OK(usage_decode(sbuf_str(&out), a, &back, &err));
        assert_false(back.levels.of[LEVEL_TTFT].target || back.levels.of[LEVEL_AVAILABILITY].target);
    }
    sbuf_reset(&out);
    u.levels.project = STR("");
    usage_encode(&u, &out);
    assert_null(memmem(out.ptr, out.len, "slo", 3));
    sbuf_deinit(&out);
    arena_free(a);
}

static uint64_t counted(const struct slo_metrics *m, const char *objective, const char *result)
{
    return metric_value(metric_series(m->requests, (struct str[]){STR("t"), STR("shop"), STR("chat"), str_of(objective), str_of(result)}));
}

static void both_results_are_there_from_the_first_on(void **state)
{
    (void)state;
    struct slo_metrics m;
    struct slo_memo memo = {0};
    struct sbuf text = {0};
    slo_init(&m);
    struct usage u = {.tenant = STR("t"), .endpoint = STR("chat"), .levels = {.project = STR("shop"), .of = {[LEVEL_AVAILABILITY] = {999000, true}}}};
    slo_count(&m, &memo, &u);
    sbuf_init(&text, 1 << 20);
    metrics_write(&text);
    assert_non_null(strstr(text.ptr, "seki_gateway_slo_requests_total{tenant=\"t\",project=\"shop\",endpoint=\"chat\",objective=\"availability\",result=\"bad\"} 0\n"));
    assert_non_null(strstr(text.ptr, "seki_gateway_slo_error_budget_millionths{project=\"shop\",endpoint=\"chat\",objective=\"availability\"} 1000\n"));
    assert_null(strstr(text.ptr, "objective=\"ttft\""));
    u.levels.of[LEVEL_AVAILABILITY].good = false;
    u.levels.of[LEVEL_TTFT] = (struct level){950000, true};
    slo_count(&m, &memo, &u);
    assert_int_equal(counted(&m, "availability", "good"), 1);
    assert_int_equal(counted(&m, "availability", "bad"), 1);
    assert_int_equal(counted(&m, "ttft", "good"), 1);
    assert_int_equal(counted(&m, "ttft", "bad"), 0);
    sbuf_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentages_are_exact),
        cmocka_unit_test(percentages_are_written_short_and_rounded_down),
        cmocka_unit_test(our_failures_count_and_not_the_client_s),
        cmocka_unit_test(a_verdict_travels_in_the_record),
        cmocka_unit_test(both_results_are_there_from_the_first_on),
    };
    return cmocka_run_group_tests_name("gateway_slo", tests, NULL, NULL);
}
