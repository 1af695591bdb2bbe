/* Bodies on their way to the engine: what is read of them, what is changed, and that nothing else is. */
#include "unit.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "gateway/body.h"

static void sent_with(const char *in, const char *engine_model, const char *put_in, const char *want)
{
    struct err err = ERR_INIT;
    struct request_body b = {0};
    struct iovec pieces[BODY_PIECES_MAX];
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct arena *a = arena_new(1 << 20);
    sbuf_init(&out, 1 << 20);
    ASSERT_OK(request_body_read(str_of(in), "messages", true, &b, &err));
    int n = request_body_pieces(&b, engine_model, str_of(put_in), a, pieces);
    assert_true(n > 0 && n <= BODY_PIECES_MAX);
    for (int i = 0; i < n; i++)
        sbuf_add(&out, str_n(pieces[i].iov_base, pieces[i].iov_len));
    assert_string_equal(out.ptr, want);
    arena_free(a);
}

static void sent(const char *in, const char *engine_model, const char *want)
{
    sent_with(in, engine_model, "", want);
}

static void what_is_sent(void **state)
{
    (void)state;
    static const char plain[] = " {\"model\" : \"m\",\n\"messages\":[{\"model\":\"m\"}], \"seed\":1.50}\n";
    sent(plain, NULL, plain);
    sent(plain, "e\"x", " {\"model\" : \"e\\\"x\",\n\"messages\":[{\"model\":\"m\"}], \"seed\":1.50}\n");
    sent("{\"model\":\"m\",\"messages\":1,\"stream\":true}", NULL, "{\"stream_options\":{\"include_usage\":true},\"model\":\"m\",\"messages\":1,\"stream\":true}");
    sent("{\"stream\":true,\"stream_options\":null,\"model\":\"m\",\"messages\":1}", "e", "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"model\":\"e\",\"messages\":1}");
    sent("{\"model\":\"m\",\"messages\":1,\"stream\":true,\"stream_options\":{ }}", NULL, "{\"model\":\"m\",\"messages\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true }}");
    sent("{\"model\":\"m\",\"messages\":1,\"stream\":true,\"stream_options\":{\"x\":1}}", "e",
         "{\"model\":\"e\",\"messages\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true,\"x\":1}}");
    sent("{\"stream_options\":{\"include_usage\":false},\"messages\":1,\"stream\":true,\"model\":\"m\"}", "e",
         "{\"stream_options\":{\"include_usage\":true},\"messages\":1,\"stream\":true,\"model\":\"e\"}");
    static const char asked[] = "{\"model\":\"m\",\"messages\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
    sent(asked, NULL, asked);
    static const char no_stream[] = "{\"model\":\"m\",\"messages\":1,\"stream\":false}";
    sent(no_stream, NULL, no_stream);
}

/* Members by which a client would choose whose cache he uses. */
static void what_is_taken_out(void **state)
{
    (void)state;
    static const char own[] = "\"id_slot\":1,\"cache_prompt\":false";
    sent("{\"model\":\"m\",\"id_slot\":0,\"messages\":1}", NULL, "{\"model\":\"m\",\"messages\":1}");
    sent("{ \"id_slot\" : 0 , \"model\":\"m\",\"messages\":1}", NULL, "{  \"model\":\"m\",\"messages\":1}");
    sent("{\"model\":\"m\",\"messages\":1 ,\n \"cache_salt\" : \"a,\\\"b\" }", NULL, "{\"model\":\"m\",\"messages\":1  }");
    sent("{\"id_slot\":0,\"cache_prompt\":true,\"lora\":[{\"id\":0}],\"model\":\"m\",\"messages\":1}", NULL, "{\"model\":\"m\",\"messages\":1}");
    sent("{\"id_slot\":0 , \"cache_prompt\":true , \"model\":\"m\",\"rid\":\"x\",\"priority\":1,\"messages\":1,\"extra_key\":null,\"kv_transfer_params\":{}}", "e",
         "{ \"model\":\"e\",\"messages\":1}");
    sent_with("{\"model\":\"m\",\"messages\":1}", NULL, own, "{\"id_slot\":1,\"cache_prompt\":false,\"model\":\"m\",\"messages\":1}");
    sent_with("{\"cache_prompt\":true,\"id_slot\":7,\"model\":\"m\",\"messages\":1,\"stream\":true}", "e", own,
              "{\"id_slot\":1,\"cache_prompt\":false,\"stream_options\":{\"include_usage\":true},\"model\":\"e\",\"messages\":1,\"stream\":true}");
    static const char inside[] = "{\"model\":\"m\",\"messages\":[{\"id_slot\":1}],\"metadata\":{\"rid\":\"x\"}}"; /* only at the top they are orders */
    sent(inside, NULL, inside);
}

static void several_answers(void **state)
{
    (void)state;
    static const struct {
        const char *member;
        bool several;
    } cases[] = {{"\"n\":1", false}, {"\"n\":null", false}, {"\"n\":2", true}, {"\"n\":1.0", true}, {"\"n\":\"2\"", true}, {"\"n\":true", true}, {"\"n_cmpl\":2", true}, {"\"x\":2", false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        char text[128];
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"messages\":1,%s}", cases[i].member);
        ASSERT_OK(request_body_read(str_of(text), "messages", true, &b, &err));
        assert_int_equal(b.several, cases[i].several);
    }
}

static void answers_and_prompts(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        int64_t answers, prompts, max_tokens;
    } cases[] = {{"\"prompt\":\"a\"", 1, 1, 5},
                 {"\"prompt\":\"a\",\"n\":3", 3, 1, 15},
                 {"\"prompt\":\"a\",\"n_cmpl\":2", 2, 1, 10},
                 {"\"prompt\":\"a\",\"n\":2,\"n_cmpl\":2", 2, 1, 10},
                 {"\"prompt\":\"a\",\"n\":1,\"n_cmpl\":2", 0, 1, 10},
                 {"\"prompt\":\"a\",\"n\":null,\"n_cmpl\":null", 1, 1, 5},
                 {"\"prompt\":\"a\",\"n\":0", 0, 1, 5},
                 {"\"prompt\":\"a\",\"n\":2.0", 0, 1, 10},
                 {"\"prompt\":\"a\",\"n\":\"7\"", 0, 1, 35},
                 {"\"prompt\":\"a\",\"n\":true", 0, 1, 5000},
                 {"\"prompt\":\"a\",\"n\":1001", 0, 1, 5005},
                 {"\"prompt\":[]", 1, 1, 5},
                 {"\"prompt\":[ \"a\" ]", 1, 1, 5},
                 {"\"prompt\":[\"a,\\\",[\", \"b\\\\\" ,\"c\"],\"n\":2", 2, 3, 30},
                 {"\"prompt\":[1,2,3]", 1, 1, 5},
                 {"\"prompt\":[\"a\",2,3]", 1, 1, 5},
                 {"\"prompt\":[[1,2],[3, [4]],{\"x\":[\"}\"]}]", 1, 3, 15}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        char text[256];
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"max_tokens\":5,%s}", cases[i].members);
        ASSERT_OK(request_body_read(str_of(text), "prompt", true, &b, &err));
        if (b.answers != cases[i].answers || b.prompts != cases[i].prompts || b.max_tokens != cases[i].max_tokens)
            fail_msg("%s: %lld answers to %lld prompts, %lld tokens", text, (long long)b.answers, (long long)b.prompts, (long long)b.max_tokens);
    }
}

/* Of several members the one of which an engine would make most; what an engine may take for "any number" is none. */
static void how_long_an_answer_may_be(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        int64_t max_tokens;
    } cases[] = {{"\"max_tokens\":5", 5},
                 {"\"max_completion_tokens\":5,\"max_tokens\":9", 9},
                 {"\"max_tokens\":1,\"n_predict\":50000", 50000},
                 {"\"n_predict\":3,\"max_output_tokens\":null", 3},
                 {"\"max_tokens\":40.0", 40},
                 {"\"max_tokens\":4e1", 40},
                 {"\"max_tokens\":40.5", 41},
                 {"\"max_tokens\":\"40\"", 40},
                 {"\"max_tokens\":1e17", 1000000000},
                 {"\"max_tokens\":9999999999999", 1000000000},
                 {"\"max_tokens\":1,\"n_predict\":-1", 0},
                 {"\"max_tokens\":1,\"n_predict\":-0.5", 0},
                 {"\"max_tokens\":1,\"n_predict\":\"many\"", 0},
                 {"\"max_tokens\":1,\"n_predict\":\"\"", 0},
                 {"\"max_tokens\":\"nan\"", 0},
                 {"\"max_tokens\":0", 0},
                 {"\"max_tokens\":null", 0},
                 {"\"x\":1", 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        char text[256];
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"messages\":1,%s}", cases[i].members);
        ASSERT_OK(request_body_read(str_of(text), "messages", true, &b, &err));
        if (b.max_tokens != cases[i].max_tokens)
            fail_msg("%s: %lld tokens", text, (long long)b.max_tokens);
    }
}

static void what_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *body, *field, *says;
    } cases[] = {
        {"", "", "empty"},
        {" \n", "", "empty"},
        {"[]", "", "invalid JSON"},
        {"{\"model\":\"m\",\"messages\":[1,]}", "", "invalid JSON"},
        {"{\"model\":\"m\",\"messages\":1} x", "", "invalid JSON"},
        {"{\"model\":\"m\",\"model\":\"n\",\"messages\":1}", "model", "twice"},
        {"{\"model\":\"m\",\"id_slot\":1,\"messages\":1,\"id_slot\":2}", "id_slot", "twice"}, /* so that ours is the only one */
        {"{\"model\":\"m\",\"id\\u005fslot\":1,\"messages\":1}", "", "escapes"},
        {"{\"model\":\"m\",\"messages\":1,\"stream_options\":{\"a\":1,\"a\":2}}", "stream_options.a", "twice"},
        {"{\"model\":\"m\",\"messages\":[{\"x\":1e999}]}", "messages", "out of range"},
        {"{\"stream_options\":{\"a\":1},\"seed\":99999999999999999999}", "seed", "out of range"},
        {"{\"model\":\"m\",\"messages\":1,\"json_schema\":{\"pattern\":\"a{60000}\"}}", "json_schema", "50000 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"tools\":[{\"maxItems\":1000001}]}", "tools", "1000000 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"top_logprobs\":101}", "top_logprobs", "100 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"n_probs\":\"200000\"}", "n_probs", "100 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"logprobs\":1e3}", "logprobs", "100 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"prompt_logprobs\":100000000.00000000000000000000000000000000000000000000000000000000000000}", "prompt_logprobs", "100 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"repeat_last_n\":2147483647}", "repeat_last_n", "1000000 at most"},
        {"{\"model\":\"m\",\"messages\":1,\"dry_penalty_last_n\":1000001}", "dry_penalty_last_n", "1000000 at most"},
        {"{\"messages\":1}", "model", "missing"},
        {"{\"model\":null,\"messages\":1}", "model", "missing"},
        {"{\"model\":7,\"messages\":1}", "model", "string"},
        {"{\"model\":\"m\"}", "messages", "missing"},
        {"{\"model\":\"m\",\"messages\":null}", "messages", "missing"},
        {"{\"model\":\"m\",\"messages\":1,\"stream\":\"yes\"}", "stream", "true or false"},
        {"{\"model\":\"m\",\"messages\":1,\"stream_options\":[]}", "stream_options", "object"},
        {"{\"model\":\"m\",\"messages\":1,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage", "true or false"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        assert_int_equal(request_body_read(str_of(cases[i].body), "messages", true, &b, &err), ERR_BAD_REQUEST);
        if (strcmp(err.field, cases[i].field) != 0 || !strstr(err.msg, cases[i].says))
            fail_msg("%s: field \"%s\", \"%s\"", cases[i].body, err.field, err.msg);
    }
}

static void what_is_bounded_may_be_there(void **state)
{
    (void)state;
    static const char *const members[] = {"\"logprobs\":true", "\"logprobs\":null", "\"logprobs\":5", "\"top_logprobs\":100", "\"n_probs\":\"many\"", "\"repeat_last_n\":-1", "\"dry_penalty_last_n\":1000000"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        char body[128];
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"messages\":1,%s}", members[i]);
        ASSERT_OK(request_body_read(str_of(body), "messages", true, &b, &err));
    }
}

static void how_many_prompts(void **state)
{
    (void)state;
    static const struct {
        const char *prompt, *each;
        int most;
    } cases[] = {{"messages", "{}", BODY_MESSAGES_MAX}, {"input", "\"a\"", BODY_PROMPTS_MAX}, {"prompt", "[1]", BODY_PROMPTS_MAX}, {"prompt", "1", 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int more = 0; more <= 1; more++) {
            CLEANUP(sbuf_deinit) struct sbuf text = {0};
            struct err err = ERR_INIT;
            struct request_body b = {0};
            int n = cases[i].most ? cases[i].most + more : 10000; /* tokens of one prompt */
            sbuf_init(&text, 1 << 20);
            sbuf_addf(&text, "{\"model\":\"m\",\"%s\":[ ", cases[i].prompt);
            for (int k = 0; k < n; k++)
                sbuf_addf(&text, "%s%s", k ? ", " : "", cases[i].each);
            sbuf_addc(&text, "]}");
            int rc = request_body_read(sbuf_str(&text), cases[i].prompt, true, &b, &err);
            assert_int_equal(rc, cases[i].most && more ? ERR_BAD_REQUEST : 0);
            if (rc < 0 && (strcmp(err.field, cases[i].prompt) != 0 || !strstr(err.msg, "at most")))
                fail_msg("%s: %s", err.field, err.msg);
        }
}

/* What templates put beside the prompt is read like it. */
static void what_is_estimated(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        int64_t more;
    } cases[] = {{"\"x\":\"0123456789\"", 0},  {"\"tools\":[\"0123456789\"]", 4},     {"\"functions\":[1]", 1}, {"\"response_format\":{\"a\":\"b\"}", 3},
                 {"\"system\":\"012345\"", 3}, {"\"instructions\":\"012345\"", 3}, {"\"tools\":null", 0},    {"\"grammar\":\"0123456789\"", 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        char text[256];
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"messages\":\"01\",%s}", cases[i].members);
        ASSERT_OK(request_body_read(str_of(text), "messages", true, &b, &err));
        if (b.prompt_tokens != 2 + cases[i].more)
            fail_msg("%s: %lld tokens", text, (long long)b.prompt_tokens);
    }
}

static void long_names(void **state)
{
    (void)state;
    char text[MODEL_NAME_MAX + 64], name[MODEL_NAME_MAX + 1];
    for (size_t len = MODEL_NAME_MAX - 2; len <= MODEL_NAME_MAX; len++) {
        struct err err = ERR_INIT;
        struct request_body b = {0};
        memset(name, 'n', len);
        name[len] = 0;
        snprintf(text, sizeof(text), "{\"model\":\"%s\",\"messages\":1}", name);
        int rc = request_body_read(str_of(text), "messages", true, &b, &err);
        assert_int_equal(rc, len < MODEL_NAME_MAX ? 0 : ERR_BAD_REQUEST);
    }
}

static void tokens_are_estimated_by_script(void **state UNUSED)
{
    assert_int_equal(body_estimate_tokens(STR("")), 1);
    assert_int_equal(body_estimate_tokens(STR("\"0123456789abcd\"")), 5);
    assert_int_equal(body_estimate_tokens(STR("\"関所で検査する\"")), 8);
    assert_int_equal(body_estimate_tokens(STR("\"\\u95a2\\u6240\"")), 3); /* two characters, escaped */
    assert_int_equal(body_estimate_tokens(STR("\"\\\\u95a2\"")), 3);     /* a backslash and letters */
    assert_int_equal(body_estimate_tokens(STR("привет")), 4);
    assert_int_equal(body_estimate_tokens(STR("🙂🙂")), 3);
}

/* As the comment in body.h has it, one byte after the other. */
static int64_t estimated_slowly(struct str json)
{
    int64_t tokens = 0, others = 0;
    for (size_t i = 0; i < json.len; i++) {
        unsigned char c = (unsigned char)json.ptr[i];
        bool escape = c == '\\' && i + 5 < json.len;
        if (c >= 0xe3) {
            tokens++;
            others -= c >= 0xf0 ? 3 : 2;
        } else if (escape && json.ptr[i + 1] == 'u' &&
                   strchr("3456789abcdefABCDEF", json.ptr[i + 2])) {
            tokens++;
            i += 5;
        } else if (escape && (json.ptr[i + 1] == 'u' || json.ptr[i + 1] == '\\')) {
            others += 2;
            i++;
        } else {
            others++;
        }
    }
    return tokens + MAX(others, 0) / 4 + 1;
}

static void tokens_are_estimated_alike_anywhere(void **state UNUSED)
{
    static const char *const parts[] = {
        "\\u95a2", "\\u00e4", "\\\\",  "\\\\u95a2", "\\\\\\\\\\u95a2", "\\n",           "関",
        "é",       "🙂",      "u", "a",         "0123456789",      "\\ud83d\\ude42"};
    char text[600];
    for (int round = 0; round < 20000; round++) {
        size_t len = 0, wanted = 1 + rnd_guessable_below(sizeof(text) - 40);
        while (len < wanted) {
            const char *part = parts[rnd_guessable_below(ARRAY_LEN(parts))];
            memcpy(text + len, part, strlen(part));
            len += strlen(part);
        }
        if (body_estimate_tokens(str_n(text, len)) != estimated_slowly(str_n(text, len)))
            fail_msg("%lld and %lld: %.*s", (long long)body_estimate_tokens(str_n(text, len)),
                     (long long)estimated_slowly(str_n(text, len)), (int)len, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_are_estimated_alike_anywhere),
                                       cmocka_unit_test(how_many_prompts),
                                       cmocka_unit_test(what_is_estimated),
                                       cmocka_unit_test(what_is_sent),
                                       cmocka_unit_test(what_is_taken_out),
                                       cmocka_unit_test(tokens_are_estimated_by_script),
                                       cmocka_unit_test(several_answers),
                                       cmocka_unit_test(answers_and_prompts),
        cmocka_unit_test(how_long_an_answer_may_be),
                                       cmocka_unit_test(what_is_refused),
                                       cmocka_unit_test(what_is_bounded_may_be_there),
                                       cmocka_unit_test(long_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
