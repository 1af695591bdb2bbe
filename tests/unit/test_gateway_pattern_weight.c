/* What patterns and grammars become when their repetitions are written out. */
#include "unit.h"

#include "gateway/pattern_weight.h"

static void what_patterns_weigh(void **state UNUSED)
{
    static const struct {
        const char *pattern; /* as it stands in JSON */
        int64_t weight, nested;
    } cases[] = {{"", 0, 0},
                 {"abc", 3, 0},
                 {"a{5}", 5, 0},
                 {"a{2,5}b", 6, 0},
                 {"a{,5}", 5, 0},
                 {"a{7,}", 7, 0},
                 {"a*b+", 8, 0},
                 {"[a-z{9}]{3}", 3, 0},
                 {"[\\\\]{9}]{3}", 3, 0},
                 {"\\\\{9}", 3, 0}, /* an escaped brace opens nothing */
                 {"a\\u007b5}", 5, 0},
                 {"a{x}b{", 6, 0},
                 {"(ab){10}", 30, 0},
                 {"((a{0,100}){0,100})", 10101, 0},
                 {"(((a{0,30}){0,30}){0,30})", 27931, 27930},
                 {"((a*)*){0,250}", 5250, 5250},
                 {"(a{2}b){3}(c{2}){2}", 18, 0},
                 {"a{99999999999999999999}", INT64_C(1000000000000), 0},
                 {"(a", 1, 0},
                 {"a)b", 3, 0},
                 {"\xe3\x81\x82{3}", 5, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[128];
        int64_t nested = -1;
        snprintf(text, sizeof(text), "\"%s\"", cases[i].pattern);
        int64_t weight = pattern_weight(str_of(text), &nested);
        if (weight != cases[i].weight || nested != cases[i].nested)
            fail_msg("%s: %lld, %lld", text, (long long)weight, (long long)nested);
    }
}

/* Of grammars a literal, a comment or white space hides nothing that an engine sees. */
static void what_grammars_weigh(void **state UNUSED)
{
    static const struct {
        const char *grammar; /* as it stands in JSON */
        int64_t weight, nested; /* at least, and not much more */
    } cases[] = {{"a ::= b", 5, 0},
                 {"\\\"[\\\" a{1000}", 1001, 0},
                 {"\\\"[\\\" ((a{30}){30}){30}", 27931, 27930},
                 {"(\\\")\\\" a{100}){100}", 10200, 0},
                 {"\\\"abc\\\"{100}", 300, 0},
                 {"(a {100}) {100}", 10100, 0},
                 {"(a{100})\\n\\t{100}", 10100, 0},
                 {"(a{100}){\\t100\\n}", 10100, 0},
                 {"(a{100}) # \\\"[(\\n {100}", 10100, 0},
                 {"(a{100}){ # [\\n100}", 10100, 0},
                 {"[\\\"#] (a{100}) {100}", 10101, 0},
                 {"\\\"\\\\\\\"[\\\" (a {100}) {100}", 10102, 0},
                 /* Lark */
                 {"(a~100)~100", 10100, 0},
                 {"(a ~ 2..100) ~ 2 .. 100", 10100, 0},
                 {"/\\\"/ (a~100)~100", 10101, 0},
                 {"/(a{30}){30}/~30", 27900, 27900},
                 {"(a~100) // \\\"[\\n ~100", 10100, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[128];
        int64_t nested = -1;
        snprintf(text, sizeof(text), "\"%s\"", cases[i].grammar);
        int64_t weight = grammar_weight(str_of(text), &nested);
        if (weight < cases[i].weight || weight > cases[i].weight + 40 || nested < cases[i].nested)
            fail_msg("%s: %lld, %lld", text, (long long)weight, (long long)nested);
    }
}

static void too_deep(void **state UNUSED)
{
    char text[PATTERN_GROUPS_MAX + 2];
    int64_t nested;
    memset(text, '(', sizeof(text));
    text[0] = text[PATTERN_GROUPS_MAX] = '"';
    assert_int_equal(pattern_weight(str_n(text, PATTERN_GROUPS_MAX + 1), &nested), 0);
    text[PATTERN_GROUPS_MAX] = '(';
    text[PATTERN_GROUPS_MAX + 1] = '"';
    assert_int_equal(pattern_weight(str_n(text, PATTERN_GROUPS_MAX + 2), &nested), -1);
    assert_int_equal(grammar_weight(str_n(text, PATTERN_GROUPS_MAX + 2), &nested), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_patterns_weigh),
        cmocka_unit_test(what_grammars_weigh),
        cmocka_unit_test(too_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
