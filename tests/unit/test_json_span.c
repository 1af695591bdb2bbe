/* The span scanner: which bytes belong to which path, what is refused, values of spans. */
#include "unit.h"

#include <math.h>

#include "json/json.h"
#include "json/span.h"

#define MAX_BYTES ((size_t)4 << 20)

static void is_span(const struct span *s, enum span_type type, const char *text)
{
    assert_int_equal(s->type, type);
    if (!str_eqc(s->text, text))
        fail_msg("got %.*s, expected %s", STR_ARG(s->text), text);
}

static int scan1(struct str json, const char *path, struct span *ret)
{
    struct err err = ERR_INIT;
    int rc = span_scan(json, &path, 1, ret, &err);
    assert_int_equal(err.code, rc);
    return rc;
}

static void members_are_found(void **state UNUSED)
{
    static const char *const paths[] = {"model", "stream", "stream_options.include_usage", "n", "messages", "a.b.c.d", "missing", "stream_options", "z", "usage.missing", "t"};
    struct span at[ARRAY_LEN(paths)];
    struct err err = ERR_INIT;
    struct str text = STR(" \r\n{ \"messages\" : [ {\"role\":\"user\", \"model\":\"not this\"} ] , \"model\":\"m-1\",\t\"stream\" :true,"
                          "\"stream_options\": {\"x\":{},\"include_usage\":false } ,\"n\":-1.5e3,\"a\":{\"b\":{\"c\":{\"d\":[]}}},\"z\":null,\"usage\":3,\"t\":\"\"}\n");
    ASSERT_OK(span_scan(text, paths, ARRAY_LEN(paths), at, &err));
    is_span(&at[0], SPAN_STRING, "\"m-1\"");
    is_span(&at[1], SPAN_TRUE, "true");
    is_span(&at[2], SPAN_FALSE, "false");
    is_span(&at[3], SPAN_NUMBER, "-1.5e3");
    is_span(&at[4], SPAN_ARRAY, "[ {\"role\":\"user\", \"model\":\"not this\"} ]");
    is_span(&at[5], SPAN_ARRAY, "[]");
    is_span(&at[6], SPAN_ABSENT, "");
    is_span(&at[7], SPAN_OBJECT, "{\"x\":{},\"include_usage\":false }");
    is_span(&at[8], SPAN_NULL, "null");
    is_span(&at[9], SPAN_ABSENT, "");
    is_span(&at[10], SPAN_STRING, "\"\"");
    /* Positions, not copies. */
    assert_true(at[0].text.ptr > text.ptr && at[0].text.ptr < text.ptr + text.len);
}

static void names_match_as_a_whole(void **state UNUSED)
{
    struct span s;
    assert_int_equal(scan1(STR("{\"mode\":1,\"modelx\":2,\"Model\":3,\"model \":4}"), "model", &s), 0);
    assert_int_equal(s.type, SPAN_ABSENT);
    /* A path is made of parts: a name with a dot in it is no path, and a member of a list is not reached. */
    assert_int_equal(scan1(STR("{\"a.b\":1}"), "a.b", &s), 0);
    assert_int_equal(s.type, SPAN_ABSENT);
    assert_int_equal(scan1(STR("{\"a\":[{\"b\":1}]}"), "a.b", &s), 0);
    assert_int_equal(s.type, SPAN_ABSENT);
    /* The same name deeper, or higher, is another member. */
    assert_int_equal(scan1(STR("{\"b\":{\"a\":1},\"a\":{\"a\":2}}"), "a.a", &s), 0);
    is_span(&s, SPAN_NUMBER, "2");
    /* Four parts are followed, five are not. */
    assert_int_equal(scan1(STR("{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}"), "a.a.a.a", &s), 0);
    is_span(&s, SPAN_OBJECT, "{\"a\":1}");
    assert_int_equal(scan1(STR("{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}"), "a.a.a.a.a", &s), 0);
    assert_int_equal(s.type, SPAN_ABSENT);
}

static void malformed_texts_are_refused(void **state UNUSED)
{
    static const char *const values[] = {
        "", "tru", "truex", "nulL", "fals", "True", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1.e1", "0x1", "NaN", "Infinity", "'a'",
        "\"", "\"\\\"", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12G4\"", "\"\\u\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\ud800\\n12345\"", "\"\\udc00\"", "\"\\u0000\"", "\"\n\"", "\"\x01\"", "\"01234567\x1f\"", "\"012\x1f" "4567890123\"", "\"012345\x01" "7\"",
        "\"\xC3\"", "\"\x80\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"0123456789abcdef\xFF\"",
        "9223372036854775808", "-9223372036854775809", "99999999999999999999999999", "1e309", "-1e999",
        "[", "[1", "[1,", "[1,]", "[,]", "[1 2]", "[1}", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{\"a\" 1}", "{1:1}", "{,}", "{]",
        "1,", "1]", "1}", "1 2", "/**/1",
    };
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 4096);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        /* As the member that is looked for, as another one, and inside a list. */
        static const char *const frames[][2] = {{"{\"m\":", "}"}, {"{\"other\":", "}"}, {"{\"other\":[", "]}"}, {"{\"m\":{\"x\":", "}}"}};
        for (size_t k = 0; k < ARRAY_LEN(frames); k++) {
            struct span s;
            if ((k == 2 && !*values[i]) || !strcmp(values[i], "1]") || !strcmp(values[i], "1}"))
                continue;
            sbuf_reset(&b);
            sbuf_addf(&b, "%s%s%s", frames[k][0], values[i], frames[k][1]);
            if (scan1(sbuf_str(&b), "m", &s) != ERR_BAD_REQUEST)
                fail_msg("accepted: %s", b.ptr);
        }
    }
    static const char *const texts[] = {"", " ", "[]", "1", "null", "\"x\"", "{", "}", "{}}", "{}{}", "{} x", "{\"a\":1]", "{\"a\":1}}", "x{}", "\xEF\xBB\xBF{}", "{\"a", "{\"a\\", "{\"a\\u00", "{\"\xC3\":1}"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct span s;
        if (scan1(str_of(texts[i]), "m", &s) != ERR_BAD_REQUEST)
            fail_msg("accepted: %s", texts[i]);
    }
    struct span s;
    assert_int_equal(scan1(STR("{}\0"), "m", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR("{\"a\":\"x\0y\"}"), "m", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR("{\"a\":\"\\\0\"}"), "m", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR_NULL, "m", &s), ERR_BAD_REQUEST);
    assert_int_equal(span_scan(STR("{"), NULL, 0, NULL, NULL), ERR_BAD_REQUEST);
}

/* As strtod() has it, digits and exponents of any length. */
static void numbers_are_in_range_or_not(void **state UNUSED)
{
    static const int digits[] = {1, 2, 17, 100, 307, 308, 309, 310, 400, 480};
    static const char *const exponents[] = {"", "e0", "e1", "E-1", "e-99", "e-100", "e-101", "e-999999", "e+1", "e+299", "e298", "e307", "E308", "e309", "e0000308", "e+0309", "e99999"};
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 1024);
    for (size_t i = 0; i < ARRAY_LEN(digits) * ARRAY_LEN(exponents) * 6; i++) {
        struct span s;
        int n = digits[i / 6 % ARRAY_LEN(digits)], whole = i % 3 == 0 ? n : 1;
        sbuf_reset(&b);
        sbuf_addc(&b, "{\"m\":");
        sbuf_addc(&b, i / 3 % 2 ? "-" : "");
        for (int k = 0; k < n; k++) {
            sbuf_addc(&b, k == whole ? "." : "");
            sbuf_addc(&b, i % 3 == 2 && k < whole ? "0" : "9");
        }
        sbuf_addf(&b, "%s%s}", n == whole ? ".0" : "", exponents[i / 6 / ARRAY_LEN(digits)]);
        if ((scan1(sbuf_str(&b), "m", &s) == 0) != (isfinite(strtod(b.ptr + 5, NULL)) != 0))
            fail_msg("%s", b.ptr);
    }
}

static void every_cut_is_refused(void **state UNUSED)
{
    static const char text[] = "{\"s\":\"a\\u00e9\\ud83d\\ude00\xE6\xBC\xA2\",\"n\":-12.5e+3,\"o\":{\"l\":[true,false,null,{}]},\"m\":1}";
    struct span s;
    assert_int_equal(scan1(str_of(text), "m", &s), 0);
    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        /* A block of just that size, so that a read past it is seen. */
        char *exact = malloc(len ? len : 1);
        memcpy(exact, text, len);
        assert_int_equal(scan1(str_n(exact, len), "m", &s), ERR_BAD_REQUEST);
        free(exact);
    }
}

static void watched_objects_are_strict(void **state UNUSED)
{
    struct span s;
    /* At the top, and where the path leads. */
    assert_int_equal(scan1(STR("{\"x\":1,\"x\":1}"), "a.b", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR("{\"a\":{\"x\":1,\"x\":1}}"), "a.b", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR("{\"\\u0078\":1}"), "a.b", &s), ERR_BAD_REQUEST);
    assert_int_equal(scan1(STR("{\"a\":{\"x\\n\":1}}"), "a.b", &s), ERR_BAD_REQUEST);
    assert_int_equal(span_scan(STR("{\"x\":1,\"x\":1}"), NULL, 0, NULL, NULL), ERR_BAD_REQUEST);
    /* Elsewhere nothing is read. */
    assert_int_equal(scan1(STR("{\"c\":{\"x\":1,\"x\":1},\"a\":{\"b\":{\"y\":1,\"y\\n\":1,\"y\":2}}}"), "a.b", &s), 0);
    is_span(&s, SPAN_OBJECT, "{\"y\":1,\"y\\n\":1,\"y\":2}");
}

static void members_have_a_cap(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    for (int count = 127; count <= 129; count++) {
        for (int inner = 0; inner < 3; inner++) {
            struct span s;
            sbuf_reset(&b);
            sbuf_addc(&b, inner == 0 ? "{" : inner == 1 ? "{\"a\":{" : "{\"other\":{");
            for (int i = 0; i < count; i++)
                sbuf_addf(&b, "%s\"k%d\":%d", i ? "," : "", i, i);
            sbuf_addc(&b, inner ? "}}" : "}");
            int rc = scan1(sbuf_str(&b), inner ? "a.k126" : "k126", &s);
            assert_int_equal(rc, count > 128 && inner < 2 ? ERR_BAD_REQUEST : 0);
            if (rc == 0 && inner < 2)
                is_span(&s, SPAN_NUMBER, "126");
        }
    }
}

/* A member's name is one part of a path, with dots or without. */
static void names_with_dots_are_no_paths(void **state UNUSED)
{
    static const char *const paths[] = {"a.b", "a", "ab"};
    struct span at[3];
    struct err err = ERR_INIT;
    ASSERT_OK(span_scan(STR("{\"a.b\":1,\"a\":{\"b\":2},\"a.\":3,\"\":4,\"abc\":5}"), paths, 3, at, &err));
    is_span(&at[0], SPAN_NUMBER, "2");
    is_span(&at[1], SPAN_OBJECT, "{\"b\":2}");
    assert_int_equal(at[2].type, SPAN_ABSENT);
}

/* Strings are read many bytes at a time: what ends them or is wrong in them is seen wherever it stands. */
static void every_byte_of_a_string_counts(void **state UNUSED)
{
    static const char *const path[] = {"s"};
    struct err err = ERR_INIT;
    for (size_t len = 1; len < 40; len++)
        for (size_t at = 0; at < len; at++) {
            char text[64];
            struct span s;
            int n = snprintf(text, sizeof(text), "{\"s\":\"%.*s\"}", (int)len, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
            ASSERT_OK(span_scan(str_n(text, (size_t)n), path, 1, &s, &err));
            assert_int_equal(s.text.len, len + 2);
            for (const char *bad = "\x01\x1f\n\"\\\x80\xff"; *bad; bad++) {
                char saved = text[6 + at];
                text[6 + at] = *bad;
                if (*bad != '\\' || !strchr("bfnrt", text[7 + at]) || at + 1 == len)
                    ASSERT_ERR(span_scan(str_n(text, (size_t)n), path, 1, &s, &err), ERR_BAD_REQUEST);
                text[6 + at] = saved;
            }
        }
}

/* One may stand right behind another, at any distance from the string's ends. */
static void escapes_side_by_side(void **state UNUSED)
{
    static const char *const good[] = {"\\\\\\\"", "\\u0041\\u00e4", "\\ud83d\\ude42\\n",
                                       "\\n\\u00E4\\t\\/", "\\\\u00"};
    static const char *const bad[] = {"\\\\\\",     "\\n\\x",   "\\u0041\\u00g4",
                                      "\\n\\ud83d", "\\\\\x01", "\\\\\"",
                                      "\\u004",     "\\u0000",  "\\n\xC3\\n"};
    for (int before = 0; before < 20; before++)
        for (int after = 0; after < 20; after++)
            for (size_t n = 0; n < ARRAY_LEN(good) + ARRAY_LEN(bad); n++) {
                bool is_good = n < ARRAY_LEN(good);
                char text[128];
                struct span s;
                snprintf(text, sizeof(text), "{\"s\":\"%.*s%s%.*s\"}", before,
                         "-------------------", is_good ? good[n] : bad[n - ARRAY_LEN(good)], after,
                         "-------------------");
                if ((scan1(str_of(text), "s", &s) == 0) != is_good)
                    fail_msg("%s", text);
            }
}

static void paths_have_a_cap(void **state UNUSED)
{
    const char *paths[65];
    struct span at[65];
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        paths[i] = i % 2 ? "b" : "a";
    ASSERT_OK(span_scan(STR("{\"a\":1,\"b\":2}"), paths, 64, at, &err));
    is_span(&at[62], SPAN_NUMBER, "1");
    is_span(&at[63], SPAN_NUMBER, "2");
    ASSERT_ERR(span_scan(STR("{\"a\":1,\"b\":2}"), paths, 65, at, &err), ERR_INTERNAL);
}

static void depth_is_that_of_documents(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    struct err err = ERR_INIT;
    sbuf_init(&b, MAX_BYTES);
    static const char *const inner[] = {"", "1", "\"[[[\""};
    for (size_t depth = 1; depth <= 70; depth++) {
        for (size_t k = 0; k < ARRAY_LEN(inner); k++) {
            JSON_AUTO j = NULL;
            struct span s;
            sbuf_reset(&b);
            sbuf_addc(&b, "{\"m\":");
            for (size_t i = 0; i < depth; i++)
                sbuf_addc(&b, "[");
            sbuf_addc(&b, inner[k]);
            for (size_t i = 0; i < depth; i++)
                sbuf_addc(&b, "]");
            sbuf_addc(&b, "}");
            int want = json_parse(sbuf_str(&b), MAX_BYTES, &j, &err);
            assert_int_equal(want == 0, depth <= 63);
            assert_int_equal(scan1(sbuf_str(&b), "m", &s), want);
        }
    }
    sbuf_reset(&b);
    sbuf_addc(&b, "{\"m\":");
    for (size_t i = 0; i < 1000000; i++)
        sbuf_addc(&b, "[");
    struct span s;
    assert_int_equal(scan1(sbuf_str(&b), "m", &s), ERR_BAD_REQUEST);
}

static void long_numbers(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 4096);
    for (int zeros = 500; zeros < 520; zeros++) {
        struct span s;
        sbuf_reset(&b);
        sbuf_addc(&b, "{\"m\":0.");
        for (int i = 0; i < zeros; i++)
            sbuf_addc(&b, "0");
        sbuf_addc(&b, "}");
        assert_int_equal(scan1(sbuf_str(&b), "m", &s), zeros + 2 < 512 ? 0 : ERR_BAD_REQUEST);
    }
}

static void strings_are_unescaped(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"\"\"", ""},
        {"\"plain\"", "plain"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u6F22\\ud83d\\ude00\"", "A\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80"},
        {"\"\xE6\xBC\xA2\"", "\xE6\xBC\xA2"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[64], out[64];
        struct span s;
        size_t need = strlen(cases[i][1]) + 1;
        snprintf(text, sizeof(text), "{\"m\":%s}", cases[i][0]);
        assert_int_equal(scan1(str_of(text), "m", &s), 0);
        assert_true(span_string(&s, out, sizeof(out)));
        assert_string_equal(out, cases[i][1]);
        assert_true(span_string(&s, out, need));
        assert_string_equal(out, cases[i][1]);
        /* Too small: nothing is written past the array, and what is there is an empty string. */
        for (size_t size = 0; size < need; size++) {
            memset(out, 'X', sizeof(out));
            assert_false(span_string(&s, out, size));
            assert_int_equal(out[0], size ? 0 : 'X');
            assert_int_equal(out[size ? size : 1], 'X');
        }
    }
    char out[8] = "before";
    struct span absent = {0}, number = {SPAN_NUMBER, STR("12"), 0};
    assert_false(span_string(&absent, out, sizeof(out)));
    assert_string_equal(out, "");
    assert_false(span_string(&number, out, sizeof(out)));
}

static void numbers_and_booleans(void **state UNUSED)
{
    int64_t n = 77;
    struct span s = {SPAN_NUMBER, STR("-9223372036854775808"), 0};
    assert_true(span_int(&s, &n));
    assert_true(n == INT64_MIN);
    n = 77;
    static const char *const no_int[] = {"1.0", "1e3", "9223372036854775808", ""};
    for (size_t i = 0; i < ARRAY_LEN(no_int); i++) {
        s = (struct span){SPAN_NUMBER, str_of(no_int[i]), 0};
        assert_false(span_int(&s, &n));
    }
    s = (struct span){SPAN_STRING, STR("\"1\""), 0};
    assert_false(span_int(&s, &n));
    assert_int_equal(n, 77);
    struct span yes = {.type = SPAN_TRUE}, no = {.type = SPAN_FALSE}, null = {.type = SPAN_NULL}, absent = {0};
    assert_true(span_bool(&yes, false));
    assert_false(span_bool(&no, true));
    assert_true(span_bool(&null, true));
    assert_false(span_bool(&absent, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_found),
        cmocka_unit_test(names_match_as_a_whole),
        cmocka_unit_test(malformed_texts_are_refused),
        cmocka_unit_test(numbers_are_in_range_or_not), cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(watched_objects_are_strict),
        cmocka_unit_test(members_have_a_cap),
        cmocka_unit_test(names_with_dots_are_no_paths),
        cmocka_unit_test(every_byte_of_a_string_counts),
        cmocka_unit_test(escapes_side_by_side),
        cmocka_unit_test(paths_have_a_cap),
        cmocka_unit_test(depth_is_that_of_documents),
        cmocka_unit_test(long_numbers),
        cmocka_unit_test(strings_are_unescaped),
        cmocka_unit_test(numbers_and_booleans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
