#include "unit.h"

#include "base/mem.h"
#include "base/rnd.h"
#include "base/str.h"
#include "base/vec.h"

static void compare_and_cut(void **state)
{
    (void)state;
    assert_true(str_eq(STR(""), STR_NULL));
    assert_true(str_ieq(STR("Content-Length"), STR("content-LENGTH")));
    assert_false(str_ieq(STR("[a"), STR("{a")));
    assert_true(str_cmp(STR("ab"), STR("abc")) < 0);
    assert_true(str_cmp(STR("b"), STR("abc")) > 0);
    assert_int_equal(str_cmp(STR_NULL, STR("")), 0);
    assert_true(str_starts(STR("/api/v1"), STR("/api")));
    assert_false(str_starts(STR("/a"), STR("/api")));
    assert_true(str_ends(STR("a.json"), STR(".json")));
    assert_true(str_eqc(str_trim(STR(" \t a b\r\n")), "a b"));
    assert_int_equal(str_trim(STR("  ")).len, 0);
    assert_int_equal(str_find(STR("a=b"), '='), 1);
    assert_int_equal(str_find(STR_NULL, '='), -1);
    assert_true(str_eq_secret(STR("k1"), STR("k1")));
    assert_false(str_eq_secret(STR("k1"), STR("k2")));

    struct str rest = STR("a,,b,"), item;
    const char *want[] = {"a", "", "b", ""};
    size_t n = 0;
    while (str_cut(&rest, ',', &item)) {
        assert_true(n < ARRAY_LEN(want));
        assert_true(str_eqc(item, want[n++]));
    }
    assert_int_equal(n, ARRAY_LEN(want));
}

static void numbers(void **state)
{
    (void)state;
    int64_t i = 7;
    uint64_t u = 7;
    assert_int_equal(str_to_i64(STR("-9223372036854775808"), INT64_MIN, INT64_MAX, &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(str_to_u64(STR("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x1",
                                      "1e3",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999"};
    for (size_t n = 0; n < ARRAY_LEN(bad); n++)
        ASSERT_ERR(str_to_i64(str_of(bad[n]), INT64_MIN, INT64_MAX, &i), ERR_BAD_REQUEST);
    ASSERT_ERR(str_to_u64(STR("18446744073709551616"), &u), ERR_BAD_REQUEST);
    ASSERT_ERR(str_to_i64(STR("11"), 0, 10, &i), ERR_BAD_REQUEST);
    assert_true(i == INT64_MIN); /* outputs only on success */
}

static void test_heads_are_cut_between_characters(void **state UNUSED)
{
    static const struct {
        const char *text, *head;
        size_t max;
    } cases[] = {{"seki", "seki", 4},
                 {"seki", "sek", 3},
                 {"seki", "", 0},
                 {"a\xE9\x96\xA2", "a", 3},
                 {"a\xE9\x96\xA2", "a\xE9\x96\xA2", 4},
                 {"a\xE9\x96\xA2z", "a\xE9\x96\xA2", 4},
                 {"\xF0\x9F\x9A\xA6", "", 3},
                 {"\x80\x80\x80\x80\x80\x80\x80", "\x80\x80\x80\x80\x80", 5}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_true(str_eqc(str_utf8_head(str_of(cases[i].text), cases[i].max), cases[i].head));
}

static void utf8(void **state)
{
    (void)state;
    assert_true(str_utf8_valid(STR("seki \xE9\x96\xA2 \xF0\x9F\x9A\xA6")));
    static const char *const bad[] = {
        "\x80",             /* continuation alone */
        "\xC0\xAF",         /* overlong */
        "\xE0\x80\x80",     /* overlong */
        "\xED\xA0\x80",     /* surrogate */
        "\xF4\x90\x80\x80", /* above U+10FFFF */
        "\xE9\x96",         /* cut */
        "\xFF",
    };
    for (size_t n = 0; n < ARRAY_LEN(bad); n++)
        assert_false(str_utf8_valid(str_of(bad[n])));
}

/* Whatever is beside it: much is looked at eight bytes at a time, or as the likely sequence it may
 * be. */
static void utf8_anywhere(void **state)
{
    (void)state;
    static const char *const good[] = {"\xC2\x80",         "\xDF\xBF",         "\xE0\xA0\x80",
                                       "\xE1\x80\xBF",     "\xED\x9F\xBF",     "\xEF\xBF\xBF",
                                       "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a"};
    static const char *const bad[] = {"\x80",
                                      "\xBF",
                                      "\xC1\xBF",
                                      "\xC2",
                                      "\xC2\x7F",
                                      "\xC2\xC0",
                                      "\xDF\xC3\x80",
                                      "\xE0\x9F\xBF",
                                      "\xE1\x80",
                                      "\xE1\x80\x7F",
                                      "\xE9\x96\xC0",
                                      "\xED\xA0\x80",
                                      "\xF0\x8F\xBF\xBF",
                                      "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80"};
    static const char *const around[] = {"",
                                         "x",
                                         "1234567",
                                         "12345678",
                                         "1234567890123456",
                                         "\xC3\xA4",
                                         "\xE9\x96\xA2",
                                         "\xE9\x96\xA2xyz\xC3\xA4",
                                         "\xF0\x9F\x9A\xA6 and so on"};
    for (size_t before = 0; before < ARRAY_LEN(around); before++)
        for (size_t after = 0; after < ARRAY_LEN(around); after++)
            for (size_t n = 0; n < ARRAY_LEN(good) + ARRAY_LEN(bad); n++) {
                bool is_good = n < ARRAY_LEN(good);
                char text[64];
                snprintf(text, sizeof(text), "%s%s%s", around[before],
                         is_good ? good[n] : bad[n - ARRAY_LEN(good)], around[after]);
                if (str_utf8_valid(str_of(text)) != is_good)
                    fail_msg("before %zu, what %zu, after %zu", before, n, after);
            }
}

static void sbuf_keeps_its_maximum(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 10);
    assert_int_equal(sbuf_str(&b).len, 0);
    sbuf_addc(&b, "12345");
    sbuf_addc(&b, "67890");
    assert_true(sbuf_ok(&b));
    sbuf_add_char(&b, 'x');
    assert_false(sbuf_ok(&b));
    assert_true(str_eqc(sbuf_str(&b), "1234567890"));
    assert_null(sbuf_take(&b));

    sbuf_reset(&b);
    sbuf_addf(&b, "%s-%d", "abc", 12);
    assert_true(sbuf_ok(&b));
    sbuf_consume(&b, 2);
    assert_string_equal(b.ptr, "c-12");
    assert_null(sbuf_reserve(&b, 7));
    assert_false(sbuf_ok(&b));

    sbuf_reset(&b);
    char *taken = sbuf_take(&b); /* an empty text is a text */
    assert_string_equal(taken, "");
    mem_free(taken);
}

static void sbuf_long_format(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 5000);
    sbuf_addf(&b, "%4000d", 7);
    assert_true(sbuf_ok(&b));
    assert_int_equal(b.len, 4000);
    assert_int_equal(b.ptr[3999], '7');
    sbuf_addf(&b, "%1001d", 7);
    assert_false(sbuf_ok(&b));
    assert_int_equal(b.len, 4000);
}

static void sbuf_encodings(void **state)
{
    (void)state;
    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 1000);
    sbuf_add_hex(&b, "\x00\xAB\x7f", 3);
    sbuf_add_u64(&b, 0);
    sbuf_add_u64(&b, UINT64_MAX);
    assert_string_equal(b.ptr, "00ab7f018446744073709551615");
    sbuf_reset(&b);
    sbuf_add_i64(&b, -1);
    sbuf_add_i64(&b, INT64_MIN);
    sbuf_add_i64(&b, INT64_MAX);
    assert_string_equal(b.ptr, "-1-92233720368547758089223372036854775807");
    sbuf_reset(&b);
    sbuf_add_json(&b, str_n("a\"\\\n\x01\xE9\x96\xA2\xFFz\0\x7F", 12));
    assert_string_equal(b.ptr, "\"a\\\"\\\\\\n\\u0001\xE9\x96\xA2\xEF\xBF\xBDz\\u0000\\u007f\"");
    sbuf_reset(&b);
    sbuf_add_json(&b, STR_NULL);
    assert_string_equal(b.ptr, "\"\"");
}

static void array_copy(void **state)
{
    (void)state;
    char a[4];
    assert_true(str_to_array(STR("abc"), a, sizeof(a)));
    assert_string_equal(a, "abc");
    assert_false(str_to_array(STR("abcd"), a, sizeof(a)));
    assert_string_equal(a, "");
}

static void vec(void **state)
{
    (void)state;
    VEC(int) v = VEC_INIT;
    for (int i = 0; i < 100; i++)
        *VEC_PUSH(&v) = i;
    VEC_REMOVE(&v, 0);
    assert_int_equal(v.len, 99);
    int sum = 0;
    VEC_FOREACH (&v, it)
        sum += *it;
    assert_int_equal(sum, 4950);
    VEC_DEINIT(&v);
    VEC_FOREACH (&v, it)
        fail();
}

static void random_texts(void **state)
{
    (void)state;
    char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX], name[6], secret[33];
    rnd_uuid(a);
    rnd_uuid(b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(a), 36);
    assert_int_equal(a[14], '4');
    assert_non_null(strchr("89ab", a[19]));
    rnd_name(name, 5);
    assert_int_equal(strspn(name, "bcdfghjklmnpqrstvwxz2456789"), 5);
    rnd_secret(secret, 32);
    assert_int_equal(strlen(secret), 32);
    bool seen[3] = {false};
    for (int i = 0; i < 1000; i++)
        seen[rnd_below(3)] = true;
    assert_true(seen[0] && seen[1] && seen[2]);
    assert_int_equal(rnd_below(1), 0);
    int counts[3] = {0};
    for (int i = 0; i < 3000; i++)
        counts[rnd_guessable_below(3)]++;
    for (int i = 0; i < 3; i++)
        assert_in_range(counts[i], 800, 1200);
    assert_int_equal(rnd_guessable_below(1), 0);
}

static void errors(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    ASSERT_ERR(err_field(&err, ERR_INVALID, "spec.replicas", "must be at least %d", 0),
               ERR_INVALID);
    assert_string_equal(err.field, "spec.replicas");
    ASSERT_ERR(err_wrap(&err, "mep %s", "chat"), ERR_INVALID);
    assert_string_equal(err.msg, "mep chat: must be at least 0");
    assert_int_equal(err_http_status(ERR_INVALID), 422);
    assert_string_equal(err_reason(ERR_GONE), "Expired");
    ASSERT_ERR(err_set(NULL, ERR_BUSY, "x"), ERR_BUSY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare_and_cut),
        cmocka_unit_test(numbers),
        cmocka_unit_test(test_heads_are_cut_between_characters),
        cmocka_unit_test(utf8),
        cmocka_unit_test(utf8_anywhere),
        cmocka_unit_test(sbuf_keeps_its_maximum),
        cmocka_unit_test(sbuf_long_format),
        cmocka_unit_test(sbuf_encodings),
        cmocka_unit_test(array_copy),
        cmocka_unit_test(vec),
        cmocka_unit_test(random_texts),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
