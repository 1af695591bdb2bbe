/* How many ways the rules of a grammar begin, by hand and by what held engines up. */
#include "unit.h"

#include "gateway/grammar_bound.h"

static void what_is_counted(void **state UNUSED)
{
    static const struct {
        const char *grammar;
        int64_t ways;
    } cases[] = {{"", 0},
                 {"root ::= \"a\"", 1},
                 {"root ::= \"a\" | [b-d] | .", 3},
                 {"root ::= a | a\na ::= \"x\" | \"y\"", 4},
                 {"root ::= a b\na ::= \"x\"?\nb ::= \"y\" | \"z\"", 3},
                 {"root ::= \"k\" (a | a | a)\na ::= \"x\" | \"y\"", 6}, /* behind the first character, too */
                 {"root ::= \"\\\"::=|(\" b # c ::= d | d | d | d\nb ::= [\\]|(]", 1},
                 {"root ::= a a \"k\"\na ::= b b\nb ::= \"x\" |", 5}, /* each b, as all before it may be empty, and k */
                 {"root ::= \"x\"{0,50} \"y\"", 2},
                 {"root ::= a{2,3}\na ::= \"x\"?", 3},
                 {"root ::= root \"x\" | \"y\"", 3},
                 {"root ::= \"(\" root \")\" | (\"x\" root)*", 3},
                 {"root ::= nothing | nowhere", 2},
                 {"root ::= \"a\" ) | \"b\" (", 1},
                 {"value ::= object | array | string\nobject ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\narray ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
                  "string ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" [\"\\\\bfnrt])* \"\\\"\" ws\nws ::= ([ \\t\\n] ws)?",
                  5}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t ways = grammar_ways(str_of(cases[i].grammar));
        if (ways != cases[i].ways)
            fail_msg("%s: %lld", cases[i].grammar, (long long)ways);
    }
}

/* count rules, of which each is `body` with the next one's number in place of each %d. */
static int64_t chain(const char *body, int count, const char *last)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 1 << 20);
    sbuf_addc(&text, "root ::= r0\n");
    for (int i = 0; i < count; i++) {
        sbuf_addf(&text, "r%d ::= ", i);
        for (const char *p = body; *p; p++) {
            if (*p == '%')
                sbuf_addf(&text, "r%d", i + 1);
            else
                sbuf_add(&text, str_n(p, 1));
        }
        sbuf_addc(&text, "\n");
    }
    sbuf_addf(&text, "r%d ::= %s", count, last);
    assert_true(sbuf_ok(&text));
    return grammar_ways(sbuf_str(&text));
}

static void what_of_patterns_is_counted(void **state UNUSED)
{
    static const struct {
        const char *pattern;
        int64_t ways;
    } cases[] = {{"", 0},
                 {"^abc$", 1},
                 {"^(a|b|[c|d]|\\|)$", 4},
                 {"a?b?c", 3},
                 {"(?:a|b) \"c\"{x}", 2},
                 {"(a{0,300}){0,300}", 300},
                 {"^\\s*(\\d{3}-)?\\d+\\s*$", 3}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t ways = pattern_ways(str_of(cases[i].pattern));
        if (ways != cases[i].ways)
            fail_msg("%s: %lld", cases[i].pattern, (long long)ways);
    }
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 8192);
    for (int i = 0; i <= GRAMMAR_WAYS_MAX; i++)
        sbuf_addc(&text, i % 2 ? "a?" : "b?");
    assert_true(pattern_ways(sbuf_str(&text)) > GRAMMAR_WAYS_MAX);
}

static void what_held_engines_up(void **state UNUSED)
{
    assert_int_equal(chain("% | %", 9, "\"a\""), 512);
    assert_true(chain("% | %", 40, "\"a\"") > GRAMMAR_WAYS_MAX);
    assert_true(chain("% % | %", 40, "\"a\"") > GRAMMAR_WAYS_MAX);
    assert_true(chain("% %", 40, "\"a\"?") > GRAMMAR_WAYS_MAX);
    assert_true(chain("%{0,100}", 5, "\"a\"") > GRAMMAR_WAYS_MAX);
    assert_true(chain("\"k\" (% | %)", 40, "\"a\"") == 2);
    /* They cannot be hidden behind rules that refer back. */
    assert_true(chain("% | % | \"k\" root", 40, "\"a\" r39 | \"a\" r0") > GRAMMAR_WAYS_MAX);
    assert_int_equal(chain("% %", 40, "\"a\""), 1);
    assert_int_equal(chain("%", GRAMMAR_DEPTH_MAX + 1, "\"a\""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_counted),
        cmocka_unit_test(what_of_patterns_is_counted),
        cmocka_unit_test(what_held_engines_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
