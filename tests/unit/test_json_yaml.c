/* YAML: what becomes which document, and what is refused. */
#include "unit.h"

#include "json/yaml.h"

#define MAX_BYTES ((size_t)4 << 20)

static void yields(const char *yaml, const char *want)
{
    struct err err = ERR_INIT;
    JSON_AUTO got = NULL;
    JSON_AUTO j = NULL;
    int rc = yaml_parse(str_of(yaml), MAX_BYTES, &got, &err);
    if (rc < 0)
        fail_msg("%s: %s", yaml, err.msg);
    ASSERT_OK(json_parse(str_of(want), MAX_BYTES, &j, &err));
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    json_write(got, &b);
    if (!json_equal(got, j))
        fail_msg("%s: got %s, expected %s", yaml, b.ptr, want);
}

static void refused(struct str yaml, int code)
{
    struct err err = ERR_INIT;
    json_t untouched, *j = &untouched;
    int rc = yaml_parse_all(yaml, MAX_BYTES, &j, &err);
    if (rc != code)
        fail_msg("%.*s: %d, expected %d", STR_ARG(yaml), rc, code);
    assert_ptr_equal(j, &untouched);
    assert_int_equal(err.code, code);
    assert_int_equal(yaml_parse(yaml, MAX_BYTES, &j, NULL), code);
}

static void manifests(void **state UNUSED)
{
    yields("# a comment\napiVersion: seki.cloud/v1alpha1\nkind: Model\nmetadata:\n  name: tiny   # trailing\n  labels: {a: b, \"c d\": 'e'}\nspec:\n  files:\n  - name: a.gguf\n    sizeBytes: 12\n  - {name: b.gguf, sizeBytes: 0}\n  empty: []\n",
           "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"Model\",\"metadata\":{\"name\":\"tiny\",\"labels\":{\"a\":\"b\",\"c d\":\"e\"}},\"spec\":{\"files\":[{\"name\":\"a.gguf\",\"sizeBytes\":12},{\"name\":\"b.gguf\",\"sizeBytes\":0}],\"empty\":[]}}");
    yields("a: |\n  one\n  two\nb: >-\n  one\n  two\n", "{\"a\":\"one\\ntwo\\n\",\"b\":\"one two\"}");
    yields("- - 1\n  - 2\n- a: b\n", "[[1,2],{\"a\":\"b\"}]");
    yields("\xE6\xBC\xA2: \xED\x95\x9C", "{\"\xE6\xBC\xA2\":\"\xED\x95\x9C\"}");
}

static void plain_scalars_have_types(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"null", "null"}, {"Null", "null"}, {"NULL", "null"}, {"~", "null"}, {"nULL", "\"nULL\""},
        {"true", "true"}, {"True", "true"}, {"TRUE", "true"}, {"false", "false"}, {"False", "false"}, {"FALSE", "false"}, {"tRue", "\"tRue\""},
        /* YAML 1.1's other booleans are strings */
        {"yes", "\"yes\""}, {"no", "\"no\""}, {"on", "\"on\""}, {"off", "\"off\""}, {"y", "\"y\""}, {"n", "\"n\""},
        {"0", "0"}, {"12", "12"}, {"-12", "-12"}, {"+12", "12"}, {"007", "7"}, {"9223372036854775807", "9223372036854775807"}, {"-9223372036854775808", "-9223372036854775808"},
        {"9223372036854775808", "9223372036854775808.0"},
        {"1.5", "1.5"}, {"-1.5", "-1.5"}, {"+.5", "0.5"}, {".5", "0.5"}, {"1.", "1.0"}, {"1e3", "1000.0"}, {"1.5E-3", "0.0015"}, {"1e-310", "1e-310"},
        {"1e999", "\"1e999\""}, {"1e", "\"1e\""}, {"-", "[null]"}, {"+", "\"+\""}, {".", "\".\""}, {"1-2", "\"1-2\""}, {"1.2.3", "\"1.2.3\""}, {"+-1", "\"+-1\""}, {"--1", "\"--1\""}, {"e3", "\"e3\""},
        {"0x10", "\"0x10\""}, {"0o17", "\"0o17\""}, {"1_000", "\"1_000\""}, {"12:30", "\"12:30\""}, {"2026-11-24", "\"2026-11-24\""}, {".inf", "\".inf\""}, {".nan", "\".nan\""}, {"nan", "\"nan\""}, {"inf", "\"inf\""}, {"infinity", "\"infinity\""},
        {"1 2", "\"1 2\""}, {"a b", "\"a b\""},
        {"\"1\"", "\"1\""}, {"'true'", "\"true\""}, {"\"\"", "\"\""}, {"'null'", "\"null\""}, {"\"\\u00e9\\x41\\t\"", "\"\xC3\xA9" "A\\t\""}, {"'it''s'", "\"it's\""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        yields(cases[i][0], cases[i][1]);
    yields("a:\nb: \nc: ''\n", "{\"a\":null,\"b\":null,\"c\":\"\"}");
    /* Keys are strings, however they look. */
    yields("1: a\ntrue: b\nnull: c\n", "{\"1\":\"a\",\"true\":\"b\",\"null\":\"c\"}");
}

static void core_tags_must_agree(void **state UNUSED)
{
    yields("!!str 12", "\"12\"");
    yields("!!str", "\"\"");
    yields("!!int 12", "12");
    yields("!!int \"12\"", "12");
    yields("!!float 12", "12.0");
    yields("!!bool true", "true");
    yields("!!null ''", "null");
    yields("!!map {a: !!seq [1]}", "{\"a\":[1]}");
    yields("!!str a: 1", "{\"a\":1}");
    static const char *const texts[] = {
        "!!int x", "!!int 1.5", "!!bool yes", "!!null x", "!!float x", "!!binary aGk=", "!!timestamp 2026-11-24", "!!python/object:os.system x", "!foo x", "! x", "!<tag:example.com,2000:x> 1", "!!map x", "!!seq x",
        "!foo {a: 1}", "!!set {a}", "!!omap [a: 1]", "!!seq {a: 1}", "!!map [1]", "!foo [1]", "!foo a: 1", "!!int 1: a",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        refused(str_of(texts[i]), ERR_BAD_REQUEST);
}

static void what_can_blow_up_is_refused(void **state UNUSED)
{
    static const char *const texts[] = {
        "a: &x 1\nb: *x\n", "a: &x 1\n", "&x a: 1\n", "&x [1]", "&x {a: 1}", "- &a [1,2]\n- [*a,*a]\n", "*x", "{a: *x}", "*x : 1",
        "<<: {a: 1}", "a: {<<: [1]}", "\"<<\": 1",
        "a: 1\na: 2\n", "{a: 1, \"a\": 2}", "{1: a, \"1\": b}", "a: {b: 1, b: 1}",
        "[a]: 1", "{a: 1}: 2", "? [x]\n: 1\n", "a: \"\\0\"", "\"a\\0b\": 1", "\"\\0\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        refused(str_of(texts[i]), ERR_BAD_REQUEST);
}

static void malformed_texts_are_refused(void **state UNUSED)
{
    static const char *const texts[] = {
        "[", "{", "]", "}", "[1", "{a", "{a: ", "[1,,2]", "\"", "'", "\"\\q\"", "\"\\uD800\"", "a: b: c", "a: [1\nb: 2", "- a\nb", "a:\n\t- 1", "\ta: 1", "%YAML 3.0\n--- 1", "@a", "`a`", "a: |x\n", "...\n...\n]", "--- 1\n2: [\n",
        "{} {}", "[] []", "\"a\" b",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        refused(str_of(texts[i]), ERR_BAD_REQUEST);
    refused(STR("a: \xFF"), ERR_BAD_REQUEST);
    refused(STR("\xFF\xFE" "a\0"), ERR_BAD_REQUEST);
    refused(STR("a: \xED\xA0\x80"), ERR_BAD_REQUEST);
    refused(STR("a: x\0y"), ERR_BAD_REQUEST);
    refused(STR("a: \x01"), ERR_BAD_REQUEST);
}

static void errors_name_the_place(void **state UNUSED)
{
    struct err err = ERR_INIT;
    json_t *j;
    ASSERT_ERR(yaml_parse(STR("a: 1\nb: &x 2\n"), MAX_BYTES, &j, &err), ERR_BAD_REQUEST);
    assert_string_equal(err.msg, "line 2, column 4: anchors are not accepted");
    ASSERT_ERR(yaml_parse(STR("a: 1\nb: [\n"), MAX_BYTES, &j, &err), ERR_BAD_REQUEST);
    assert_non_null(strstr(err.msg, "line 3, "));
}

static void documents_are_counted(void **state UNUSED)
{
    struct err err = ERR_INIT;
    static const struct {
        const char *text;
        size_t count;
    } cases[] = {{"", 0}, {"# nothing\n", 0}, {"---\n", 1}, {"1", 1}, {"--- 1\n--- 2\n", 2}, {"a: 1\n---\nb: 2\n...\n---\nc: 3\n", 3}, {"{\"a\":1}\n---\n{\"b\":1}\n", 2}, {"---\n---\n", 2}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO all = NULL;
        JSON_AUTO one = NULL;
        ASSERT_OK(yaml_parse_all(str_of(cases[i].text), MAX_BYTES, &all, &err));
        assert_int_equal(json_array_size(all), cases[i].count);
        int rc = yaml_parse(str_of(cases[i].text), MAX_BYTES, &one, &err);
        assert_int_equal(rc, cases[i].count == 1 ? 0 : ERR_BAD_REQUEST);
        assert_true((one != NULL) == (cases[i].count == 1));
    }
    JSON_AUTO none = NULL;
    ASSERT_OK(yaml_parse_all(STR_NULL, MAX_BYTES, &none, &err));
    assert_int_equal(json_array_size(none), 0);
}

static void size_and_depth_have_caps(void **state UNUSED)
{
    struct err err = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    static const char *const forms[][3] = {{"[", "1", "]"}, {"{a: ", "1", "}"}, {"{\"a\":", "[]", "}"}};
    for (size_t k = 0; k < ARRAY_LEN(forms); k++) {
        for (int depth = 62; depth <= 66; depth++) {
            JSON_AUTO j = NULL;
            sbuf_reset(&b);
            for (int i = 0; i < depth; i++)
                sbuf_addc(&b, forms[k][0]);
            sbuf_addc(&b, forms[k][1]);
            for (int i = 0; i < depth; i++)
                sbuf_addc(&b, forms[k][2]);
            int deepest = depth + (k == 2);
            int rc = yaml_parse(sbuf_str(&b), MAX_BYTES, &j, &err);
            assert_int_equal(rc, deepest <= 64 ? 0 : ERR_BAD_REQUEST);
        }
    }
    sbuf_reset(&b);
    for (int i = 0; i < 100000; i++)
        sbuf_addc(&b, "- ");
    refused(sbuf_str(&b), ERR_BAD_REQUEST);
    JSON_AUTO j = NULL;
    ASSERT_OK(yaml_parse(STR("a: 1"), 4, &j, &err));
    JSON_AUTO none = NULL;
    ASSERT_ERR(yaml_parse(STR("a: 1"), 3, &none, &err), ERR_TOO_LARGE);
}

static void json_objects_are_accepted(void **state UNUSED)
{
    static const char *const texts[] = {
        "{}", "{\"a\":[1,-2,1.5,1e-310,true,false,null,\"x\",{\"b\":{}}]}", "{\"a\":\"\\ud83d\\ude00 \\/ \\b\\f\\n\\r\\t\\\"\\\\\"}", "\n\t{ \"a\" :\t1 ,\n\"b\":\"<<\", \"<<\" : 1}\n", "{\"a\":\"&x *x !y\"}",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        yields(texts[i], texts[i]);
    /* A long name, which YAML has no room for. */
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 65536);
    sbuf_addc(&b, "{\"");
    for (int i = 0; i < 5000; i++)
        sbuf_addc(&b, "k");
    sbuf_addc(&b, "\":1}");
    yields(b.ptr, b.ptr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifests),
        cmocka_unit_test(plain_scalars_have_types),
        cmocka_unit_test(core_tags_must_agree),
        cmocka_unit_test(what_can_blow_up_is_refused),
        cmocka_unit_test(malformed_texts_are_refused),
        cmocka_unit_test(errors_name_the_place),
        cmocka_unit_test(documents_are_counted),
        cmocka_unit_test(size_and_depth_have_caps),
        cmocka_unit_test(json_objects_are_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
