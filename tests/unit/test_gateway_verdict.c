/* What the end of an attempt says of its engine and of the request: the table of it. */
#include "unit.h"

#include "gateway/verdict.h"

static struct verdict of(int status, const char *name, const char *value)
{
    struct http_header header = {str_of(name), str_of(value)};
    return verdict_of_head(&(struct http_head){.status = status, .headers = &header, .header_count = 1});
}

static void an_answer_is_judged_by_its_head(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *name, *value;
        struct verdict want;
    } cases[] = {
        {200, "A", "b", {TARGET_OK, 0, ANSWER_GOOD}},
        {200, "Content-Encoding", "identity", {TARGET_OK, 0, ANSWER_GOOD}},
        {200, "Content-Encoding", "gzip", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {302, "A", "b", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {400, "Retry-After", "5", {TARGET_OK, 0, ANSWER_GOOD}}, /* it is the request that is wrong */
        {401, "A", "b", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {403, "A", "b", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {404, "A", "b", {TARGET_OK, 0, ANSWER_GOOD}},
        {429, "A", "b", {TARGET_BUSY, 0, ANSWER_LAST}},
        {429, "Retry-After", "5", {TARGET_BUSY, 5000, ANSWER_LAST}},
        {429, "Content-Encoding", "gzip", {TARGET_BUSY, 0, ANSWER_USELESS}},
        {500, "Retry-After", "5", {TARGET_NEITHER, 0, ANSWER_DOUBTED}}, /* the engine or the request */
        {500, "Content-Encoding", "gzip", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {501, "A", "b", {TARGET_NEITHER, 0, ANSWER_DOUBTED}},
        {502, "A", "b", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {503, "A", "b", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {503, "Retry-After", "7", {TARGET_BUSY, 7000, ANSWER_USELESS}},
        {503, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {503, "Retry-After", "-1", {TARGET_FAILED, 0, ANSWER_USELESS}},
        {504, "Retry-After", "7", {TARGET_FAILED, 0, ANSWER_USELESS}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct verdict got = of(cases[i].status, cases[i].name, cases[i].value);
        assert_int_equal(got.target, cases[i].want.target);
        assert_int_equal(got.busy_ms, cases[i].want.busy_ms);
        assert_int_equal(got.use, cases[i].want.use);
    }
}

/* What is told to clients: nothing that no engine means. */
static void a_time_to_come_again_is_seconds_of_a_day_at_most(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int64_t want;
    } cases[] = {{"0", 0}, {"7", 7}, {"86400", 86400}, {"86401", -1}, {"-5", -1}, {"99999999999", -1}, {"99999999999999999999", -1}, {"", -1}, {"1.5", -1}, {"Fri, 31 Dec 1999 23:59:59 GMT", -1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_header header = {STR("Retry-After"), str_of(cases[i].value)};
        assert_int_equal(verdict_retry_after(&(struct http_head){.status = 429, .headers = &header, .header_count = 1}), cases[i].want);
    }
    assert_int_equal(verdict_retry_after(&(struct http_head){.status = 429}), -1);
}

/* Shortness here is nobody's fault, at no point of the call. */
static void a_call_that_ends_early_is_judged_by_how_far_it_came(void **state)
{
    (void)state;
    struct err short_of = {.code = ERR_NO_MEMORY}, late = {.code = ERR_TIMEOUT}, closed = {.code = ERR_CLOSED};
    for (int i = 0; i < 4; i++)
        assert_int_equal(verdict_of_error(&short_of, i & 1, i & 2), TARGET_NEITHER);
    assert_int_equal(verdict_of_error(&late, false, false), TARGET_UNREACHABLE);
    assert_int_equal(verdict_of_error(&late, true, false), TARGET_FAILED);
    assert_int_equal(verdict_of_error(&closed, false, false), TARGET_UNREACHABLE);
    assert_int_equal(verdict_of_error(&closed, true, false), TARGET_UNREACHABLE);
    assert_int_equal(verdict_of_error(&closed, true, true), TARGET_FAILED);
}

/* An engine's refusal says that it is well; ours says nothing of the engine that the request was at. */
static void a_refusal_is_ours_or_the_engines(void **state)
{
    (void)state;
    assert_string_equal(outcome_text(OUTCOME_REFUSED_BY_US), "refused");
    assert_string_equal(outcome_text(OUTCOME_REFUSED_BY_ENGINE), "refused");
    assert_int_equal(outcome_of_replica(OUTCOME_REFUSED_BY_ENGINE), TARGET_OK);
    assert_int_equal(outcome_of_replica(OUTCOME_OK), TARGET_OK);
    static const enum outcome others[] = {OUTCOME_REFUSED_BY_US, OUTCOME_CLIENT_GONE, OUTCOME_SHUTDOWN, OUTCOME_TIMEOUT, OUTCOME_UPSTREAM_ERROR};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_int_equal(outcome_of_replica(others[i]), TARGET_NEITHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_judged_by_its_head),
        cmocka_unit_test(a_time_to_come_again_is_seconds_of_a_day_at_most),
        cmocka_unit_test(a_call_that_ends_early_is_judged_by_how_far_it_came),
        cmocka_unit_test(a_refusal_is_ours_or_the_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
