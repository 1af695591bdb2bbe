/* Series of the gateway's metrics: which of them speak of what the routing snapshot does not have any more. */
#include "unit.h"

#include <string.h>

#include "gateway/series.h"

#define KEY(project) "{\"metadata\":{\"name\":\"k\",\"namespace\":\"" project "\"},\"spec\":{},\"status\":{\"hash\":\"h-" project "\"}}"
#define NAMESPACE(name, tenant) "{\"metadata\":{\"name\":\"" name "\",\"labels\":{\"seki.cloud/tenant\":\"" tenant "\"}}}"
#define ENDPOINT(project, name) "{\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" project "\"},\"spec\":{\"model\":\"x\",\"servedName\":\"" project "-" name "\",\"visibility\":\"Everyone\"}}"

static struct snapshot *build(struct snapshot_memory *memory, const char *keys, const char *endpoints)
{
    static const struct engine_paths engines = {.socket_dir = "/run/engines"};
    struct snapshot_source source = {.keys = json_loads(keys, 0, NULL), .endpoints = json_loads(endpoints, 0, NULL), .namespaces = json_loads("[" NAMESPACE("a", "ta") "," NAMESPACE("b", "tb") "]", 0, NULL)};
    assert_true(source.keys && source.endpoints && source.namespaces);
    struct snapshot *s = snapshot_build(&source, &engines, memory);
    snapshot_source_deinit(&source);
    return s;
}

static void count(const struct gateway_metrics *m, struct gateway_series *memo, const char *tenant, const char *caller, const char *project, const char *endpoint)
{
    CLEANUP(sbuf_deinit) struct sbuf model = {0};
    sbuf_init(&model, 64);
    sbuf_addf(&model, "%s-%s", project, endpoint);
    struct latency l = {.tenant = str_of(tenant), .project = str_of(project), .endpoint = str_of(endpoint), .queue = 1, .first = 1, .per_token = 1, .duration = 1};
    struct usage u = {.tenant = l.tenant, .project = str_of(caller), .endpoint = l.endpoint, .levels = {.project = l.project, .of = {[LEVEL_AVAILABILITY] = {999000, true}}}};
    latency_count(&m->latency, &memo->latency, &l);
    slo_count(&m->slo, &memo->slo, &u);
    metric_add(metric_series_owned(&memo->input, m->tokens, (struct str[]){u.project, u.endpoint, STR("input")}, u.tenant), 1);
    metric_observe(metric_series_owned(&memo->duration, m->duration, (struct str[]){STR("chat"), sbuf_str(&model), STR("")}, u.tenant), 1);
}

/* How many lines the metrics have with all of these words. */
static int lines(const char *family, const char *a, const char *b)
{
    CLEANUP(sbuf_deinit) struct sbuf out;
    sbuf_init(&out, 1 << 22);
    metrics_write(&out);
    assert_true(sbuf_ok(&out));
    struct str rest = sbuf_str(&out), line;
    int n = 0;
    while (str_cut(&rest, '\n', &line))
        n += str_starts(line, str_of(family)) && memmem(line.ptr, line.len, a, strlen(a)) && memmem(line.ptr, line.len, b, strlen(b));
    return n;
}

#define LATENCY "seki_gateway_endpoint_request_duration_seconds_count"
#define LEVELS "seki_gateway_slo_requests_total"
#define BUDGET "seki_gateway_slo_error_budget_millionths"
#define TOKENS "seki_gateway_tokens_total"
#define MODEL "gen_ai_server_request_duration_seconds_count"

static void what_the_snapshot_has_not_goes(void **state)
{
    (void)state;
    static const char *const token_labels[] = {"project", "endpoint", "type", NULL}, *const model_labels[] = {"gen_ai_operation_name", "gen_ai_request_model", "error_type", NULL};
    struct gateway_metrics m = {.tokens = metric_family(TOKENS, "x", METRIC_COUNTER, token_labels, 100, NULL, 0)};
    m.duration = metric_family("gen_ai_server_request_duration_seconds", "x", METRIC_HISTOGRAM, model_labels, 100, NULL, 0);
    m.first = metric_family("gen_ai_server_time_to_first_token_seconds", "x", METRIC_HISTOGRAM, model_labels, 100, NULL, 0);
    m.per_token = metric_family("gen_ai_server_time_per_output_token_seconds", "x", METRIC_HISTOGRAM, model_labels, 100, NULL, 0);
    latency_init(&m.latency);
    slo_init(&m.slo);
    struct gateway_series memos[2] = {0};
    count(&m, &memos[0], "ta", "a", "a", "one");
    count(&m, &memos[0], "ta", "a", "a", "two");
    count(&m, &memos[1], "tb", "b", "a", "one");

    struct snapshot_memory *memory = snapshot_memory_new();
    struct snapshot *both = build(memory, "[" KEY("a") "," KEY("b") "]", "[" ENDPOINT("a", "one") "," ENDPOINT("a", "two") "]");
    struct snapshot *one = build(memory, "[" KEY("a") "]", "[" ENDPOINT("a", "one") "]");
    series_sweep(&m, both, 1000);
    series_sweep(&m, both, 1000 + 2 * SERIES_KEEP_MS);
    assert_int_equal(lines(LATENCY, "tenant=", ""), 3);
    uint64_t gone_ms = 1000 + 3 * (uint64_t)SERIES_KEEP_MS;
    series_sweep(&m, one, gone_ms);
    series_sweep(&m, one, gone_ms + SERIES_KEEP_MS - 1);
    assert_int_equal(lines(LATENCY, "tenant=", ""), 3);
    assert_int_equal(lines(LEVELS, "tenant=", ""), 6);
    assert_int_equal(lines(BUDGET, "project=", ""), 2);
    assert_int_equal(lines(TOKENS, "project=", ""), 3);
    assert_int_equal(lines(MODEL, "gen_ai_request_model=", ""), 2);
    series_sweep(&m, one, gone_ms + SERIES_KEEP_MS);
    static const char *const latencies[] = {"queue", "time_to_first_token", "time_per_output_token", "request_duration"};
    for (size_t i = 0; i < ARRAY_LEN(latencies); i++) {
        char name[96];
        snprintf(name, sizeof(name), "seki_gateway_endpoint_%s_seconds_count", latencies[i]);
        assert_int_equal(lines(name, "tenant=", ""), 1); /* neither the tenant nor the endpoint that has gone */
        assert_int_equal(lines(name, "tenant=\"ta\"", "endpoint=\"one\""), 1);
    }
    assert_int_equal(lines(LEVELS, "tenant=", ""), 2);
    assert_int_equal(lines(LEVELS, "tenant=\"ta\"", "endpoint=\"one\""), 2);
    assert_int_equal(lines(BUDGET, "project=", ""), 1);
    assert_int_equal(lines(BUDGET, "project=\"a\"", "endpoint=\"one\""), 1);
    assert_int_equal(lines(TOKENS, "project=", ""), 1); /* b has no key, and no endpoint */
    assert_int_equal(lines(TOKENS, "project=\"a\"", "endpoint=\"one\""), 1);
    assert_int_equal(lines(MODEL, "gen_ai_request_model=", ""), 1);
    assert_int_equal(lines(MODEL, "gen_ai_request_model=\"a-one\"", ""), 1);

    count(&m, &memos[0], "ta", "a", "a", "two"); /* made again, under a memo of the series that has gone */
    assert_int_equal(lines(LATENCY, "tenant=\"ta\"", "endpoint=\"two\""), 1);
    series_memos_drop(memos, ARRAY_LEN(memos));
    assert_null(memos[0].latency.queue);
    snapshot_unref(both);
    snapshot_unref(one);
    snapshot_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_snapshot_has_not_goes),
    };
    return cmocka_run_group_tests_name("gateway_series", tests, NULL, NULL);
}
