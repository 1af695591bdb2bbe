/* Traces: the caller's context, what a request's spans say, and what is done when nobody takes them. */
#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/trace.h"
#include "gateway/trace_export.h"
#include "json/json.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static void contexts_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good, sampled;
    } cases[] = {
        {"00-" TRACE "-" SPAN "-01", true, true},
        {"00-" TRACE "-" SPAN "-00", true, false},
        {"00-" TRACE "-" SPAN "-03", true, true},
        {"42-" TRACE "-" SPAN "-01", true, true},
        {"42-" TRACE "-" SPAN "-01-what comes later", true, true},
        {"42-" TRACE "-" SPAN "-01x", false, false},
        {"00-" TRACE "-" SPAN "-01-", false, false},
        {"00-" TRACE "-" SPAN "-1", false, false},
        {"00-" TRACE "-" SPAN "-0g", false, false},
        {"ff-" TRACE "-" SPAN "-01", false, false},
        {"00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01", false, false},
        {"00-00000000000000000000000000000000-" SPAN "-01", false, false},
        {"00-" TRACE "-0000000000000000-01", false, false},
        {"00_" TRACE "-" SPAN "-01", false, false},
        {"", false, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct trace_context c = {0};
        char text[TRACEPARENT_LEN + 1];
        assert_int_equal(trace_context_read(str_of(cases[i].text), &c), cases[i].good);
        if (!cases[i].good)
            continue;
        assert_int_equal(c.sampled, cases[i].sampled);
        trace_context_write(&c, text);
        assert_string_equal(text, cases[i].sampled ? "00-" TRACE "-" SPAN "-01" : "00-" TRACE "-" SPAN "-00");
    }
}

static const char *attribute(const json_t *span, const char *key)
{
    static char number[64];
    size_t i;
    json_t *a;
    json_array_foreach (json_object_get(span, "attributes"), i, a) {
        if (strcmp(json_str_or(a, "key", ""), key) != 0)
            continue;
        const json_t *v = json_object_get(a, "value"), *text = json_object_get(v, "stringValue"), *real = json_object_get(v, "doubleValue"), *flag = json_object_get(v, "boolValue");
        if (real)
            snprintf(number, sizeof(number), "%.3f", json_real_value(real));
        return real ? number : flag ? (json_is_true(flag) ? "true" : "false") : text ? json_string_value(text) : json_str(v, "intValue");
    }
    return NULL;
}

static struct trace *begin(struct trace_export *to, int64_t per_million, const char *parent, struct arena *a)
{
    struct http_header header = {STR("traceparent"), str_of(parent)};
    struct http_head head = {.headers = &header, .header_count = parent != NULL};
    return trace_begin(to, per_million, &head, a, clock_mono_ns());
}

static struct trace_export *const somewhere = (struct trace_export *)(uintptr_t)64; /* is not called */

static void the_caller_decides_and_else_chance(void **state)
{
    (void)state;
    struct arena *a = arena_new(16 << 20);
    int traced = 0;
    assert_null(begin(NULL, 1000000, NULL, a));
    assert_null(begin(somewhere, 0, NULL, a));
    assert_non_null(begin(somewhere, 1000000, NULL, a));
    assert_non_null(begin(somewhere, 0, "00-" TRACE "-" SPAN "-01", a));
    assert_null(begin(somewhere, 1000000, "00-" TRACE "-" SPAN "-00", a));
    assert_null(begin(somewhere, 0, "00-" TRACE "-" SPAN "-XX", a)); /* counts as absent */
    for (int i = 0; i < 2000; i++)
        traced += begin(somewhere, 500000, NULL, a) != NULL;
    assert_in_range(traced, 800, 1200);
    arena_free(a);
}

static json_t *spans_of(const struct trace *t, const struct usage *u, const struct trace_facts *f)
{
    struct sbuf out = {0};
    struct err err = ERR_INIT;
    json_t *doc;
    sbuf_init(&out, 1 << 20);
    sbuf_addc(&out, "[");
    trace_write(t, u, f, 1800000000000000000, &out);
    sbuf_addc(&out, "]");
    ASSERT_OK(json_parse(sbuf_str(&out), 1 << 20, &doc, &err));
    sbuf_deinit(&out);
    return doc;
}

static void spans_say_where_time_went(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    clock_test_set(1000, 1800000000000);
    struct trace *t = begin(somewhere, 0, "00-" TRACE "-" SPAN "-01", a);
    uint64_t start_ns = clock_mono_ns();
    trace_wait(t, "queue");
    trace_wait(t, "queue");
    clock_test_advance(20);
    trace_attempt(t, "one-0", "tokyo");
    struct trace_context sent;
    assert_true(trace_context_read(str_of(trace_parent(t)), &sent) && sent.sampled);
    clock_test_advance(30);
    trace_failed(t, "connect");
    trace_attempt_end(t, 0);
    trace_attempt_end(t, 7); /* none runs */
    trace_attempt(t, "one-1", NULL);
    clock_test_advance(50);
    struct usage u = {.id = STR("req-1"), .project = STR("p"), .tenant = STR("t\"\\"), .key = STR("k"), .endpoint = STR("one"), .model = STR("m"), .outcome = STR("ok"), .status = 200, .prompt_tokens = 7,
                      .completion_tokens = 3, .stream = true};
    struct trace_facts f = {.path = "/v1/chat/completions", .operation = "chat", .endpoint_project = "q", .max_tokens = 9, .first_ns = start_ns + 60000000, .end_ns = clock_mono_ns()};
    JSON_AUTO doc = spans_of(t, &u, &f);
    assert_int_equal(json_array_size(doc), 4);
    const json_t *root = json_array_get(doc, 0), *queue = json_array_get(doc, 1), *first = json_array_get(doc, 2), *second = json_array_get(doc, 3);
    assert_string_equal(json_str(root, "name"), "chat m");
    assert_string_equal(json_str(root, "traceId"), TRACE);
    assert_string_equal(json_str(root, "parentSpanId"), SPAN);
    assert_int_equal(json_int(root, "kind", 0), 2);
    assert_string_equal(json_str(root, "startTimeUnixNano"), "1799999999900000000");
    assert_string_equal(json_str(root, "endTimeUnixNano"), "1800000000000000000");
    assert_string_equal(attribute(root, "gen_ai.usage.input_tokens"), "7");
    assert_string_equal(attribute(root, "gen_ai.response.time_to_first_chunk"), "0.060");
    assert_string_equal(attribute(root, "gen_ai.request.stream"), "true");
    assert_string_equal(attribute(root, "seki.tenant"), "t\"\\");
    assert_string_equal(attribute(root, "seki.attempts"), "2");
    assert_null(attribute(root, "error.type"));
    assert_null(json_object_get(root, "status"));
    assert_string_equal(json_str(queue, "name"), "queue");
    assert_int_equal(json_int(queue, "kind", 0), 1);
    assert_string_equal(json_str(queue, "endTimeUnixNano"), "1799999999920000000");
    assert_string_equal(json_str(first, "endTimeUnixNano"), "1799999999950000000");
    assert_string_equal(attribute(first, "error.type"), "connect");
    assert_string_equal(attribute(first, "seki.site"), "tokyo");
    assert_int_equal(json_int(first, "status.code", 0), 2);
    char id[2 * SPAN_ID_BYTES + 1];
    snprintf(id, sizeof(id), "%02x%02x%02x%02x%02x%02x%02x%02x", sent.span[0], sent.span[1], sent.span[2], sent.span[3], sent.span[4], sent.span[5], sent.span[6], sent.span[7]);
    assert_string_equal(json_str(first, "spanId"), id); /* what the replica was told */
    assert_string_equal(json_str(second, "parentSpanId"), json_str(root, "spanId"));
    assert_string_equal(json_str(second, "endTimeUnixNano"), "1800000000000000000"); /* it still ran */
    clock_test_clear();
    arena_free(a);
}

static void spans_are_bounded(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct trace *t = begin(somewhere, 1000000, NULL, a);
    for (int i = 0; i < 3 * TRACE_SPANS_MAX; i++) {
        trace_wait(t, "queue");
        trace_attempt(t, "r", NULL);
        assert_int_equal(strlen(trace_parent(t)), TRACEPARENT_LEN);
    }
    struct usage u = {.outcome = STR("upstream_error"), .status = 502};
    struct trace_facts f = {.path = "/", .operation = "chat", .end_ns = clock_mono_ns()};
    JSON_AUTO doc = spans_of(t, &u, &f);
    assert_int_equal(json_array_size(doc), 1 + TRACE_SPANS_MAX);
    assert_int_equal(json_int(json_array_get(doc, 0), "status.code", 0), 2);
    assert_string_equal(json_str(json_array_get(doc, 0), "name"), "chat");
    arena_free(a);
}

static void endpoints_are_on_this_machine(void **state)
{
    (void)state;
    struct net_addr addr;
    char path[256];
    struct err err = ERR_INIT;
    ASSERT_OK(trace_export_parse("http://127.0.0.1:4318", &addr, path, &err));
    assert_string_equal(path, "/v1/traces");
    ASSERT_OK(trace_export_parse("http://[::1]:4318/", &addr, path, &err));
    assert_string_equal(path, "/v1/traces");
    ASSERT_OK(trace_export_parse("http://127.0.0.1:4318/otlp/v1/traces", &addr, path, &err));
    assert_string_equal(path, "/otlp/v1/traces");
    static const char *const bad[] = {"127.0.0.1:4318", "https://127.0.0.1:4318", "http://192.0.2.1:4318", "http://collector:4318", "http://127.0.0.1:0", "http://127.0.0.1:4318/a b", "http:///v1", "http://unix:/x"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_true(trace_export_parse(bad[i], &addr, path, NULL) < 0);
}

static uint64_t dropped(const char *reason)
{
    static const char *const labels[] = {"reason", NULL};
    return metric_value(metric_series(metric_family("seki_gateway_traces_dropped_total", "", METRIC_COUNTER, labels, 4, NULL, 0), (struct str[]){str_of(reason)}));
}

/* Nobody listens there: nothing waits longer than the end of it all, and everything is counted. */
static void without_a_collector_traces_are_dropped_and_counted(void **state)
{
    (void)state;
    struct trace_export *x;
    struct err err = ERR_INIT;
    struct sbuf text = {0};
    sbuf_init(&text, 1 << 20);
    memset(sbuf_reserve(&text, 30000), ' ', 30000);
    sbuf_commit(&text, 30000);
    trace_export_init();
    ASSERT_OK(trace_export_start(&(struct trace_export_options){.endpoint = "http://127.0.0.1:1", .instance = "gateway"}, &x, &err));
    uint64_t begun_ms = clock_mono_ms();
    for (int i = 0; i < 1000; i++)
        trace_export_add(x, sbuf_str(&text));
    trace_export_add(x, STR_NULL);
    assert_true(clock_mono_ms() - begun_ms < 5000);
    assert_true(dropped("full") >= 1000 - TRACE_EXPORT_QUEUE_BYTES / 30000 - 1);
    assert_int_equal(dropped("large"), 1);
    trace_export_stop(x);
    assert_int_equal(dropped("full") + dropped("unreachable"), 1000);
    sbuf_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_are_read_strictly),
        cmocka_unit_test(the_caller_decides_and_else_chance),
        cmocka_unit_test(spans_say_where_time_went),
        cmocka_unit_test(spans_are_bounded),
        cmocka_unit_test(endpoints_are_on_this_machine),
        cmocka_unit_test(without_a_collector_traces_are_dropped_and_counted),
    };
    return cmocka_run_group_tests_name("gateway_trace", tests, NULL, NULL);
}
