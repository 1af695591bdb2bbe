/* Documents: what is parsed and what is refused, how it is written, dotted paths. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "json/json.h"

#define MAX_BYTES ((size_t)1 << 20)

static json_t *parsed(const char *text)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    ASSERT_OK(json_parse(str_of(text), MAX_BYTES, &j, &err));
    assert_non_null(j);
    return j;
}

/* Refused, said so, and the output untouched. */
static void refused(struct str text, int code)
{
    struct err err = ERR_INIT;
    json_t untouched, *j = &untouched;
    int rc = json_parse(text, MAX_BYTES, &j, &err);
    if (rc != code)
        fail_msg("%.*s: %d, expected %d", STR_ARG(text), rc, code);
    assert_ptr_equal(j, &untouched);
    assert_int_equal(err.code, code);
    assert_true(err.msg[0] != 0);
    assert_int_equal(json_parse(text, MAX_BYTES, &j, NULL), code);
}

static void written(const json_t *j, const char *want)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    json_write(j, &b);
    assert_true(sbuf_ok(&b));
    assert_string_equal(b.ptr, want);
}

static void accepted_texts_are_written_again(void **state UNUSED)
{
    static const char *const texts[][2] = {
        {"{}", "{}"},
        {"[]", "[]"},
        {"null", "null"},
        {"true", "true"},
        {"\"\"", "\"\""},
        {" \t\r\n{ \"b\" : 1 , \"a\" : [ true , false , null ] } \n", "{\"b\":1,\"a\":[true,false,null]}"},
        {"9223372036854775807", "9223372036854775807"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"-0", "0"},
        {"1.5", "1.5"},
        {"1e300", "1.0000000000000001e300"},
        {"1e-400", "0.0"},
        {"\"\\ud83d\\ude00 \\u6f22 \\/\"", "\"\xF0\x9F\x98\x80 \xE6\xBC\xA2 /\""},
        {"\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\"", "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\""},
        {"{\"\":0}", "{\"\":0}"},
        {"{\"a\":{\"x\":1},\"b\":{\"x\":1}}", "{\"a\":{\"x\":1},\"b\":{\"x\":1}}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        JSON_AUTO j = parsed(texts[i][0]);
        written(j, texts[i][1]);
    }
}

static void malformed_texts_are_refused(void **state UNUSED)
{
    static const char *const texts[] = {
        "", " ", "{", "}", "[", "]", "{]", "[}", "\"", "nul", "True", "NaN", "Infinity", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "0x10", "'a'", "{a:1}",
        "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "[,1]", "[1 2]", "{\"a\":1 \"b\":2}", "// c\n1", "/* c */1", "{} {}", "{}x", "1 2", "null,", "[1]]",
        /* twice the same member, the second time with an escape or deep inside */
        "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "[{\"b\":{\"a\":1,\"a\":1}}]",
        /* escapes and characters */
        "\"\\x\"", "\"\\u12\"", "\"\\u12G4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "\"\t\"", "\"\x01\"", "\"\\u0000\"", "{\"a\\u0000b\":1}",
        /* bytes that are no UTF-8: cut short, overlong, a surrogate, beyond U+10FFFF */
        "\"\xC3\"", "\"\x80\"", "\"\xC0\x80\"", "\"\xE0\x80\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xFF\"", "{\"\xC3\":1}", "\xEF\xBB\xBF{}",
        /* numbers that no type holds */
        "9223372036854775808", "-9223372036854775809", "1e309", "-1e999", "123456789012345678901234567890",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        refused(str_of(texts[i]), ERR_BAD_REQUEST);
    refused(STR_NULL, ERR_BAD_REQUEST);
    refused(STR("\"a\0b\""), ERR_BAD_REQUEST);
    refused(STR("{}\0"), ERR_BAD_REQUEST);
    refused(STR("{\0}"), ERR_BAD_REQUEST);
    refused(STR("{\"a\":1\0}"), ERR_BAD_REQUEST);
    refused(STR("[true\0]"), ERR_BAD_REQUEST);
    refused(STR("1\0"), ERR_BAD_REQUEST);
}

static void errors_name_the_place(void **state UNUSED)
{
    struct err err = ERR_INIT;
    json_t *j;
    ASSERT_ERR(json_parse(STR("{\n  \"a\": tru\n}"), MAX_BYTES, &j, &err), ERR_BAD_REQUEST);
    assert_non_null(strstr(err.msg, "line 2"));
}

static void size_has_a_cap(void **state UNUSED)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    struct str text = STR("{\"a\":\"0123456789\"}");
    ASSERT_OK(json_parse(text, text.len, &j, &err));
    json_decref(j);
    ASSERT_ERR(json_parse(text, text.len - 1, &j, &err), ERR_TOO_LARGE);
    ASSERT_ERR(json_parse(text, 0, &j, &err), ERR_TOO_LARGE);
}

static struct str nested(struct sbuf *b, size_t depth, const char *open, const char *inner, const char *close)
{
    sbuf_reset(b);
    for (size_t i = 0; i < depth; i++)
        sbuf_addc(b, open);
    sbuf_addc(b, inner);
    for (size_t i = 0; i < depth; i++)
        sbuf_addc(b, close);
    return sbuf_str(b);
}

static void a_file_is_read_whole_or_refused_by_name(void **state UNUSED)
{
    char path[] = "/tmp/seki-json-XXXXXX";
    struct err err = ERR_INIT;
    json_t *doc = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "{\"a\":1}\n", 8) == 8);
    ASSERT_OK(json_read_file(path, 8, &doc, &err));
    assert_int_equal(json_int(doc, "a", 0), 1);
    json_decref(doc);
    doc = NULL;
    ASSERT_ERR(json_read_file(path, 7, &doc, &err), ERR_TOO_LARGE);
    assert_true(write(fd, "}", 1) == 1);
    ASSERT_ERR(json_read_file(path, 64, &doc, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.msg, path));
    close(fd);
    unlink(path);
    ASSERT_ERR(json_read_file(path, 64, &doc, &err), ERR_NOT_FOUND);
    assert_null(doc);
}

static void depth_has_a_cap(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    struct err err = ERR_INIT;
    sbuf_init(&b, MAX_BYTES);
    static const char *const forms[][3] = {{"[", "", "]"}, {"{\"a\":", "1", "}"}, {"[", "\"[[[{{{\\\"[[\"", "]"}};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        JSON_AUTO j = NULL;
        ASSERT_OK(json_parse(nested(&b, 64, forms[i][0], forms[i][1], forms[i][2]), MAX_BYTES, &j, &err));
        refused(nested(&b, 65, forms[i][0], forms[i][1], forms[i][2]), ERR_BAD_REQUEST);
    }
    refused(nested(&b, 100000, "[", "", "]"), ERR_BAD_REQUEST);
    refused(nested(&b, 100000, "[", "", ""), ERR_BAD_REQUEST);
    /* Many beside each other are no depth. */
    sbuf_reset(&b);
    for (size_t i = 0; i < 1000; i++)
        sbuf_addc(&b, i ? ",[{}]" : "[[{}]");
    sbuf_addc(&b, "]");
    JSON_AUTO wide = NULL;
    ASSERT_OK(json_parse(sbuf_str(&b), MAX_BYTES, &wide, &err));
    assert_int_equal(json_array_size(wide), 1000);
}

static void writing_stops_at_the_buffers_maximum(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 16);
    JSON_AUTO j = parsed("{\"a\":\"0123456789012345678901234567890\"}");
    json_write(j, &b);
    assert_false(sbuf_ok(&b));
    assert_true(b.len <= 16);
}

static void pretty_form_has_lines(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 1024);
    JSON_AUTO j = parsed("{\"a\":[1]}");
    json_write_pretty(j, &b);
    assert_string_equal(b.ptr, "{\n  \"a\": [\n    1\n  ]\n}");
}

static void dotted_paths_are_read(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"a\":{\"b\":{\"s\":\"x\",\"n\":7,\"t\":true,\"f\":false,\"z\":null,\"r\":1.5}},\"l\":[1],\"\":{\"\":9}}");
    assert_string_equal(json_str(j, "a.b.s"), "x");
    assert_int_equal(json_int(j, "a.b.n", 1), 7);
    assert_true(json_flag(j, "a.b.t", false));
    assert_false(json_flag(j, "a.b.f", true));
    assert_null(json_at(j, "a.b.z"));
    assert_int_equal(json_int(j, ".", 0), 9);
    /* Absent, or of another type: the default. */
    assert_null(json_str(j, "a.b.n"));
    assert_string_equal(json_str_or(j, "a.b.n", "d"), "d");
    assert_int_equal(json_int(j, "a.b.s", 3), 3);
    assert_int_equal(json_int(j, "a.b.r", 3), 3);
    assert_true(json_flag(j, "a.b.n", true));
    assert_null(json_at(j, "a.x.s"));
    assert_null(json_at(j, "a.b.s.more"));
    assert_null(json_at(j, "l.0"));
    assert_null(json_at(j, "a."));
    assert_null(json_at(NULL, "a"));
    char path[600];
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    assert_null(json_at(j, path));
}

static void dotted_paths_are_set_and_removed(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"a\":3,\"k\":{\"x\":1}}");
    json_put_str(j, "n.e.w", "v");
    json_put_int(j, "k.y", 2);
    json_put_int(j, "a.b", 5); /* what is in the way and no object is replaced */
    json_put_str(j, "k.x", "over");
    written(j, "{\"a\":{\"b\":5},\"k\":{\"x\":\"over\",\"y\":2},\"n\":{\"e\":{\"w\":\"v\"}}}");
    json_remove(j, "k.x");
    json_remove(j, "n.e.w");
    json_remove(j, "n.none.w");
    json_remove(j, "none");
    json_remove(j, "k.y.z");
    written(j, "{\"a\":{\"b\":5},\"k\":{\"y\":2},\"n\":{\"e\":{}}}");
    char path[600];
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    json_put_int(j, path, 1);
    assert_int_equal(json_object_size(j), 3);
}

static void setting_into_what_is_no_object_does_nothing(void **state UNUSED)
{
    JSON_AUTO list = parsed("[1]");
    json_put_str(list, "a.b.c", "x");
    json_put_str(list, "a", "x");
    json_remove(list, "a.b");
    written(list, "[1]");
    json_put_str(NULL, "a.b", "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepted_texts_are_written_again),
        cmocka_unit_test(malformed_texts_are_refused),
        cmocka_unit_test(errors_name_the_place),
        cmocka_unit_test(size_has_a_cap),
        cmocka_unit_test(a_file_is_read_whole_or_refused_by_name),
        cmocka_unit_test(depth_has_a_cap),
        cmocka_unit_test(writing_stops_at_the_buffers_maximum),
        cmocka_unit_test(pretty_form_has_lines),
        cmocka_unit_test(dotted_paths_are_read),
        cmocka_unit_test(dotted_paths_are_set_and_removed),
        cmocka_unit_test(setting_into_what_is_no_object_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
