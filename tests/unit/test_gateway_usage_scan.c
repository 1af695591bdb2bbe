/* What a stream used, and that no byte but the usage asked for by the gateway itself is lost or moved. */
#include "unit.h"

#include "base/mem.h"
#include "gateway/usage_scan.h"

#define OUT_MAX ((size_t)8 << 20)

static void collect(void *arg, struct str bytes)
{
    sbuf_add(arg, bytes);
}

/* Feeds text in pieces of `step` bytes (0: at once) and checks what comes out of it. */
static void check(struct str text, bool take_out, size_t step, struct str want, struct usage_scan *ret)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, OUT_MAX);
    usage_scan_init(ret, take_out, collect, &out);
    while (text.len) {
        size_t n = step && step < text.len ? step : text.len;
        char *piece = xcalloc(1, n); /* a block of its own: reading on is seen */
        memcpy(piece, text.ptr, n);
        usage_scan_feed(ret, str_n(piece, n));
        mem_free(piece);
        text = str_skip(text, n);
    }
    bool whole = usage_scan_end(ret);
    assert_int_equal(whole, ret->done);
    usage_scan_deinit(ret);
    if (!str_eq(sbuf_str(&out), want))
        fail_msg("step %zu: got %zu bytes, wanted %zu:\n%.*s", step, out.len, want.len, STR_ARG(sbuf_str(&out)));
}

#define CONTENT "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}"
#define FINISH "data: {\"choices\":[{\"delta\":{},\"finish_reason\": \"stop\"}]}"
#define USAGE "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":2}}}"
#define DONE "data: [DONE]"

static const struct stream_case {
    const char *name, *in, *out; /* out: when usage is taken out; NULL: as in */
    int64_t prompt, completion, cached, events;
    bool exact, done;
} stream_cases[] = {
    {"plain", CONTENT "\n\n" CONTENT "\n\n" FINISH "\n\n" USAGE "\n\n" DONE "\n\n", CONTENT "\n\n" CONTENT "\n\n" FINISH "\n\n" DONE "\n\n", 7, 3, 2, 2, true, true},
    {"crlf", CONTENT "\r\n\r\n" USAGE "\r\n\r\n" DONE "\r\n\r\n", CONTENT "\r\n\r\n" DONE "\r\n\r\n", 7, 3, 2, 1, true, true},
    {"cr", CONTENT "\r\r" USAGE "\r\r" DONE "\r\r", CONTENT "\r\r" DONE "\r\r", 7, 3, 2, 1, true, true},
    {"comments and other fields", ": hello\n\n:\nid: 4\nevent: x\n" CONTENT "\n\n: ping\n\n" DONE "\n\n", NULL, 0, 0, 0, 1, false, true},
    {"usage behind other fields", "event: message\nid: 9\n" USAGE "\n\n" DONE "\n\n", DONE "\n\n", 7, 3, 2, 0, true, true},
    {"data in several lines", "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":1,\ndata:\"completion_tokens\":2}}\n\n" DONE "\n\n", DONE "\n\n", 1, 2, 0, 0, true, true},
    {"blank lines first", "\n\r\n\n" USAGE "\n\n" DONE "\n\n", "\n\r\n\n" DONE "\n\n", 7, 3, 2, 0, true, true},
    {"usage in a chunk with content stays", "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n" DONE "\n\n", NULL, 1, 1, 0, 1, true, true},
    {"the last usage counts", USAGE "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":4}}\n\n", "", 8, 4, 0, 0, true, false},
    {"usage null", "data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n", NULL, 0, 0, 0, 1, false, false},
    {"only a role, however it is spaced", "data: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\": null}}]}\n\ndata: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\" : \"\"}}]}\n\n" CONTENT "\n\n",
     NULL, 0, 0, 0, 1, false, false},
    {"the end without a blank line", CONTENT "\n\n" DONE, NULL, 0, 0, 0, 1, false, true},
    {"cut in an event", CONTENT "\n\ndata: {\"cho", CONTENT "\n\n", 0, 0, 0, 1, false, false},
    {"no json", "data: {this is no json\n\ndata: \xff\xfe\n\nnonsense\n\n", NULL, 0, 0, 0, 0, false, false},
    {"a negative count", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":2}}\n\n", "", 0, 0, 0, 0, false, false},
    {"a count that is text", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":\"2\"}}\n\n", "", 0, 0, 0, 0, false, false},
    {"a count that is a fraction", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1.5,\"completion_tokens\":2}}\n\n", "", 0, 0, 0, 0, false, false},
    {"a count beyond belief", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":9223372036854775807}}\n\n", "", 0, 0, 0, 0, false, false},
    {"more cached than sent", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\n", "", 1, 2, 1, 0,
     true, false},
};

static void test_streams(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(stream_cases); i++) {
        const struct stream_case *c = &stream_cases[i];
        for (size_t step = 0; step < 9; step++)
            for (int take_out = 0; take_out < 2; take_out++) {
                struct usage_scan u;
                check(str_of(c->in), take_out, step, str_of(take_out && c->out ? c->out : c->in), &u);
                if (u.exact != c->exact || u.done != c->done || u.prompt_tokens != c->prompt || u.completion_tokens != c->completion || u.cached_tokens != c->cached ||
                    u.content_events != c->events)
                    fail_msg("%s, step %zu: exact %d done %d prompt %lld completion %lld cached %lld events %lld", c->name, step, u.exact, u.done, (long long)u.prompt_tokens,
                             (long long)u.completion_tokens, (long long)u.cached_tokens, (long long)u.content_events);
            }
    }
}

/* An event that is too large to hold passes unread; what comes behind it is read again, wherever the packets are cut. */
static void test_oversized_event(void **state)
{
    (void)state;
    static const size_t sizes[] = {USAGE_SCAN_EVENT_MAX - 1, USAGE_SCAN_EVENT_MAX, USAGE_SCAN_EVENT_MAX + 1, 3 * USAGE_SCAN_EVENT_MAX};
    static const size_t steps[] = {0, 1000, 65536, USAGE_SCAN_EVENT_MAX + 3};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        for (size_t s = 0; s < ARRAY_LEN(steps); s++) {
            CLEANUP(sbuf_deinit) struct sbuf in = {0}, want = {0};
            struct usage_scan u;
            sbuf_init(&in, OUT_MAX);
            sbuf_init(&want, OUT_MAX);
            sbuf_addc(&in, "data: ");
            while (in.len < sizes[i])
                sbuf_add_char(&in, 'x');
            sbuf_addc(&in, "\n\n");
            sbuf_add(&want, sbuf_str(&in));
            sbuf_addc(&in, USAGE "\n\n" DONE "\n\n");
            sbuf_addc(&want, DONE "\n\n");
            check(sbuf_str(&in), true, steps[s], sbuf_str(&want), &u);
            assert_true(u.exact && u.done);
            assert_int_equal(u.prompt_tokens, 7);
        }
}

static void test_between_events(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct usage_scan u;
    for (int take_out = 0; take_out < 2; take_out++) {
        sbuf_init(&out, OUT_MAX);
        usage_scan_init(&u, take_out, collect, &out);
        assert_true(usage_scan_between_events(&u));
        usage_scan_feed(&u, STR(CONTENT "\n\n"));
        assert_true(usage_scan_between_events(&u));
        usage_scan_feed(&u, STR("data: {"));
        /* Held back, it was seen by nobody; passed on at once, it was. */
        assert_int_equal(usage_scan_between_events(&u), take_out);
        usage_scan_deinit(&u);
        sbuf_deinit(&out);
    }
}

static void test_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        bool input_only, json, exact;
        int64_t prompt, completion;
    } cases[] = {
        {"{\"choices\":[{}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6}}", false, true, true, 4, 6},
        {"{\"data\":[],\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}}", true, true, true, 4, 0},
        {"{\"data\":[],\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}}", false, true, false, 0, 0},
        {"{\"results\":[],\"usage\":{\"total_tokens\":9}}", true, true, true, 9, 0},
        {"{\"results\":[],\"usage\":{\"total_tokens\":9}}", false, true, false, 0, 0},
        {"{\"results\":[],\"usage\":{\"prompt_tokens\":\"4\",\"total_tokens\":9}}", true, true, false, 0, 0},
        {"{\"data\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":null}}", true, true, false, 0, 0},
        {"{\"choices\":[{}]}", false, true, false, 0, 0},
        {"{\"usage\":7}", false, true, false, 0, 0},
        {"[]", false, false, false, 0, 0},
        {"<html>", false, false, false, 0, 0},
        {"", false, false, false, 0, 0},
        {"{\"choices\":[{}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6}", false, false, false, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct usage_scan u;
        usage_scan_init(&u, false, NULL, NULL);
        u.input_only = cases[i].input_only;
        bool json = usage_scan_body(&u, str_of(cases[i].body));
        if (json != cases[i].json || u.exact != cases[i].exact || u.prompt_tokens != cases[i].prompt || u.completion_tokens != cases[i].completion)
            fail_msg("%s", cases[i].body);
        usage_scan_deinit(&u);
    }
}

/* ---- other dialects ---- */

#define MSG_START "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"cache_read_input_tokens\":4,\"input_tokens\":5,\"output_tokens\":0}}}\n\n"
#define MSG_BLOCK "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
#define MSG_TEXT "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"message_stop\"}}\n\n"
#define MSG_DELTA "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n"
#define MSG_STOP "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
#define RSP_CREATED "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\"}}\n\n"
#define RSP_TEXT "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n"
#define RSP_DONE "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":4}}}}\n\n"

static void other_dialects(void **state)
{
    (void)state;
    static const struct {
        enum usage_dialect dialect;
        const char *text;
        bool has_content, done, exact;
        int64_t prompt, cached, completion, events;
    } cases[] = {
        {DIALECT_MESSAGES, MSG_START MSG_BLOCK MSG_TEXT MSG_TEXT MSG_DELTA MSG_STOP, true, true, true, 9, 4, 3, 2},
        {DIALECT_MESSAGES, MSG_START MSG_BLOCK, false, false, false, 9, 4, 0, 0},
        {DIALECT_MESSAGES, MSG_START MSG_TEXT, true, false, false, 9, 4, 0, 1}, /* its text is no end */
        {DIALECT_MESSAGES, MSG_DELTA MSG_STOP, true, true, false, 0, 0, 0, 0},  /* half a usage is none */
        {DIALECT_RESPONSES, RSP_CREATED RSP_TEXT RSP_DONE, true, true, true, 9, 4, 3, 1},
        {DIALECT_RESPONSES, RSP_CREATED, false, false, false, 0, 0, 0, 0},
        {DIALECT_RESPONSES, RSP_CREATED RSP_TEXT RSP_TEXT, true, false, false, 0, 0, 0, 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t step = 1; step < 400; step = step * 3 + 1) {
            CLEANUP(sbuf_deinit) struct sbuf out = {0};
            struct usage_scan u;
            struct str text = str_of(cases[i].text);
            sbuf_init(&out, OUT_MAX);
            usage_scan_init(&u, false, collect, &out);
            u.dialect = cases[i].dialect;
            for (; text.len; text = str_skip(text, MIN(step, text.len)))
                usage_scan_feed(&u, str_n(text.ptr, MIN(step, text.len)));
            assert_int_equal(usage_scan_end(&u), cases[i].done);
            assert_string_equal(out.ptr, cases[i].text);
            if (u.has_content != cases[i].has_content || u.exact != cases[i].exact || u.prompt_tokens != cases[i].prompt || u.cached_tokens != cases[i].cached ||
                u.completion_tokens != cases[i].completion || u.content_events != cases[i].events)
                fail_msg("case %zu, step %zu: %d %d %lld %lld %lld %lld", i, step, u.has_content, u.exact, (long long)u.prompt_tokens, (long long)u.cached_tokens,
                         (long long)u.completion_tokens, (long long)u.content_events);
            usage_scan_deinit(&u);
        }
    static const struct {
        enum usage_dialect dialect;
        const char *body;
        int64_t prompt, cached;
    } bodies[] = {{DIALECT_MESSAGES, "{\"content\":[],\"usage\":{\"cache_read_input_tokens\":2,\"cache_creation_input_tokens\":1,\"input_tokens\":9,\"output_tokens\":4}}", 12, 2},
                  {DIALECT_RESPONSES, "{\"output\":[],\"usage\":{\"input_tokens\":9,\"output_tokens\":4,\"input_tokens_details\":{\"cached_tokens\":4}}}", 9, 4}};
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct usage_scan u;
        usage_scan_init(&u, false, NULL, NULL);
        u.dialect = bodies[i].dialect;
        assert_true(usage_scan_body(&u, str_of(bodies[i].body)));
        assert_true(u.exact);
        assert_int_equal(u.prompt_tokens, bodies[i].prompt);
        assert_int_equal(u.cached_tokens, bodies[i].cached);
        assert_int_equal(u.completion_tokens, 4);
        usage_scan_deinit(&u);
    }
}

/* Usages of several answers, each of which read the same two prompts' halves: exact when all of them are there. */
static void test_usages_are_added_up(void **state)
{
    (void)state;
    struct usage_scan u;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 65536);
    usage_scan_init(&u, true, collect, &out);
    u.usages = 4;
    u.answers = 2;
    for (int i = 0; i < 4; i++) {
        assert_false(u.exact);
        usage_scan_feed(&u, STR(CONTENT "\n\n" USAGE "\n\n"));
    }
    assert_true(u.exact && u.prompt_tokens == 14 && u.cached_tokens == 4 && u.completion_tokens == 12);
    usage_scan_feed(&u, STR(USAGE "\n\n")); /* one too many is none */
    assert_true(u.exact && u.prompt_tokens == 14 && u.completion_tokens == 12);
    usage_scan_deinit(&u);
}

/* Nothing follows the last event but what ends its last line, however late that comes. */
static void test_when_a_stream_is_over(void **state UNUSED)
{
    static const char *const over[] = {CONTENT "\r\n\r\n" DONE "\r\n\r\n", DONE "\r\n\r\n",
                                       CONTENT "\r\r" DONE "\r\r", CONTENT "\n\n" DONE "\n\n"};
    for (size_t i = 0; i < ARRAY_LEN(over) * 4; i++) {
        const char *in = over[i / 4];
        size_t len = strlen(in), step = i & 2 ? 1 : len;
        struct usage_scan u;
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        sbuf_init(&out, OUT_MAX);
        usage_scan_init(&u, i & 1, collect, &out);
        for (size_t at = 0; at < len; at += step) {
            assert_false(usage_scan_over(&u));
            usage_scan_feed(&u, str_n(in + at, step));
        }
        assert_true(usage_scan_over(&u));
        assert_true(usage_scan_end(&u));
        usage_scan_deinit(&u);
        assert_true(str_eqc(sbuf_str(&out), in));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_streams), cmocka_unit_test(test_oversized_event), cmocka_unit_test(test_between_events),
                                       cmocka_unit_test(test_bodies),   cmocka_unit_test(other_dialects), cmocka_unit_test(test_usages_are_added_up),
                                       cmocka_unit_test(test_when_a_stream_is_over)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
