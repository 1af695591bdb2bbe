/* What stays in support bundles, and what goes. */
#include "unit.h"

#include <stdlib.h>

#include "base/mem.h"
#include "cmd/options.h"
#include "cmd/support.h"

#define CANARY "canary-7f3a"

static const char *log_of(struct sbuf *out, const char *line, bool texts)
{
    sbuf_reset(out);
    support_log_line(str_of(line), texts, out);
    return out->len ? out->ptr : "";
}

static void log_lines(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
#define HEAD "{\"ts\":\"2026-01-01T00:00:00.000000Z\",\"level\":\"info\",\"msg\":\"done\""
    assert_string_equal(log_of(&out, HEAD ",\"status\":200,\"replica\":\"chat-0\"}", false), HEAD ",\"status\":200,\"replica\":\"chat-0\"}\n");
    assert_string_equal(log_of(&out, HEAD ",\"error\":\"" CANARY "\",\"user\":\"" CANARY "\",\"new\":\"" CANARY "\"}", false), HEAD "}\n");
    assert_string_equal(log_of(&out, HEAD ",\"error\":\"told\",\"user\":\"" CANARY "\"}", true), HEAD ",\"error\":\"told\"}\n");
    assert_string_equal(log_of(&out, HEAD ",\"replica\":\"a \\\"" CANARY "\\\"\",\"namespace\":{\"a\":\"" CANARY "\"},\"" CANARY " x\":1}", false), HEAD "}\n");
    assert_string_equal(log_of(&out, HEAD ",\"id\":\"" CANARY "\",\"request\":\"req-0123abcd00000000002a\"}", false), HEAD ",\"request\":\"req-0123abcd00000000002a\"}\n");
    assert_string_equal(log_of(&out, HEAD ",\"reason\":\"EngineHung\",\"options\":\"api.listen, data\"}", false), HEAD ",\"reason\":\"EngineHung\",\"options\":\"api.listen, data\"}\n");
    assert_string_equal(log_of(&out, HEAD ",\"reason\":\"what somebody wrote\",\"replica\":\"what somebody wrote\"}", false), HEAD "}\n");
    assert_string_equal(log_of(&out, "prompt: " CANARY, true), "");
    assert_string_equal(log_of(&out, "{\"prompt\":\"" CANARY "\"}", true), "");
    assert_string_equal(log_of(&out, "", false), "");
}

static void engine_lines(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    assert_true(support_engine_line(STR("ggml_cuda_init: failed: out of memory"), &out));
    assert_true(support_engine_line(STR("llama_model_loader: - kv 1: general.name str = '" CANARY "' end"), &out));
    assert_true(support_engine_line(STR("load: x \"" CANARY), &out));
    assert_false(support_engine_line(STR("srv  params_from_: prompt: " CANARY), &out));
    assert_false(support_engine_line(STR("slot 0: " CANARY), &out));
    assert_false(support_engine_line(STR(CANARY), &out));
    assert_string_equal(out.ptr, "ggml_cuda_init: failed: out of memory\nllama_model_loader: - kv 1: general.name str = '' end\nload: x \"\n");
}

static void monitoring(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    support_metrics(STR("# HELP seki_a b\nseki_a 1\n" CANARY " 1\n# HELP other " CANARY "\nprocess_open_fds 3\n"), &out);
    assert_string_equal(out.ptr, "# HELP seki_a b\nseki_a 1\nprocess_open_fds 3\n");
    sbuf_reset(&out);
    support_ready(STR("[+]store ok\n[-]audit failed: disk is full\n[-]manifests failed: a.yaml: \"" CANARY "\"\n" CANARY "\nnot ready\n"), false, &out);
    assert_string_equal(out.ptr, "[+]store ok\n[-]audit failed: disk is full\n[-]manifests failed (the message is left out)\nnot ready\n");
}

static json_t *parsed(const char *text)
{
    json_t *doc = NULL;
    struct err err = ERR_INIT;
    ASSERT_OK(json_parse(str_of(text), 1 << 20, &doc, &err));
    return doc;
}

static void objects(void **state)
{
    (void)state;
    const struct kind *k = kind_by_name("ModelEndpoint");
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    JSON_AUTO obj = parsed("{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelEndpoint\",\"" CANARY "\":1,"
                           "\"metadata\":{\"name\":\"chat\",\"namespace\":\"demo\",\"uid\":\"u\",\"annotations\":{\"a\":\"" CANARY "\"},\"managedFields\":[\"" CANARY "\"],"
                           "\"labels\":{\"mine\":\"" CANARY "\",\"seki.cloud/tenant\":\"acme\"},\"finalizers\":[\"" CANARY "\"]},"
                           "\"spec\":{\"model\":\"gemma\",\"servedName\":\"" CANARY "\",\"replicas\":2,\"visibility\":\"Project\",\"tenants\":[\"" CANARY "\"],"
                           "\"engine\":{\"driver\":\"" CANARY "\",\"parallel\":4,\"url\":\"https://" CANARY "\",\"options\":{\"a\":\"" CANARY "\"}}},"
                           "\"status\":{\"readyReplicas\":1,\"selector\":\"" CANARY "\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Serving\","
                           "\"message\":\"it said\"},{\"type\":\"" CANARY "\",\"status\":\"" CANARY "\",\"reason\":\"" CANARY "\",\"lastTransitionTime\":\"" CANARY "!\"}]}}");
    JSON_AUTO kept = support_object(k, obj, false);
    json_write(kept, &out);
    assert_null(strstr(out.ptr, CANARY));
    assert_null(strstr(out.ptr, "it said"));
    assert_string_equal(json_str_or(kept, "spec.model", ""), "gemma");
    assert_int_equal(json_int(kept, "spec.replicas", 0), 2);
    assert_int_equal(json_int(kept, "status.readyReplicas", 0), 1);
    assert_string_equal(obj_label(kept, "seki.cloud/tenant"), "acme");
    assert_string_equal(obj_condition(kept, "Ready"), "True");
    JSON_AUTO told = support_object(k, obj, true);
    sbuf_reset(&out);
    json_write(told, &out);
    assert_non_null(strstr(out.ptr, "it said"));
    assert_null(strstr(out.ptr, CANARY));
}

/* An object in which every text that the table allows is the canary. */
static json_t *all_texts(const struct field *table, int depth)
{
    json_t *obj = json_object();
    for (const struct field *f = table; f && f->name && depth < 8; f++) {
        json_t *v = f->type == FIELD_OBJECT                                ? all_texts(f->sub, depth + 1)
                    : f->type == FIELD_LIST && f->elem == FIELD_OBJECT     ? json_pack("[o]", all_texts(f->sub, depth + 1))
                    : f->type == FIELD_LIST                                ? json_pack("[s]", CANARY "_")
                    : f->type == FIELD_MAP || f->type == FIELD_ANY         ? json_pack("{s:s}", CANARY "_", CANARY "_")
                                                                           : json_string(CANARY "_");
        json_object_set_new(obj, f->name, v);
    }
    return obj;
}

static void no_kind_lets_a_text_through(void **state)
{
    (void)state;
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        sbuf_init(&out, 1 << 20);
        if (!support_has_kind(kinds[i]))
            continue;
        JSON_AUTO obj = all_texts(kinds[i]->fields, 0);
        JSON_AUTO kept = support_object(kinds[i], obj, false);
        json_write(kept, &out);
        if (strstr(out.ptr, CANARY))
            fail_msg("%s: %s", kinds[i]->name, out.ptr);
    }
    assert_false(support_has_kind(kind_by_name("Secret")));
    assert_false(support_has_kind(kind_by_name("TokenReview")));
    assert_true(support_has_kind(kind_by_name("APIKey")));
}

/* Each option's text is the canary, where it is no path and no address. */
static void options(void **state)
{
    (void)state;
    static const struct conf_option schema[] = {
        {"", "data", CONF_PATH, 0, "", 0, 0, NULL, NULL, false, ""},
        {"oidc", "client", CONF_STR, sizeof(char *), "", 0, 0, NULL, NULL, false, ""},
        {"oidc", "secret-file", CONF_PATH, 2 * sizeof(char *), "", 0, 0, NULL, NULL, false, ""},
        {"", "level", CONF_ENUM, 3 * sizeof(char *), "", 0, 0, "debug|info|warn", NULL, false, ""},
        {"", "wait", CONF_DURATION, 4 * sizeof(char *), "", 0, 0, NULL, NULL, false, ""},
    };
    static struct {
        const char *data, *client, *file;
        int64_t level, wait;
    } values = {"/var/lib/seki", CANARY, CANARY, 1, 250};
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    support_options(schema, ARRAY_LEN(schema), &values, &out);
    assert_string_equal(out.ptr, "data = /var/lib/seki\noidc.client = (set)\noidc.secret-file = (set)\nlevel = info\nwait = 250 ms\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_lines), cmocka_unit_test(engine_lines), cmocka_unit_test(monitoring), cmocka_unit_test(objects), cmocka_unit_test(no_kind_lets_a_text_through), cmocka_unit_test(options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
