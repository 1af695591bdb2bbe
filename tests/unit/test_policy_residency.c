/* The border's rules: what they allow, whom they are for, and that what cannot be read allows nothing. */
#include "unit.h"

#include "policy/residency.h"

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = arena_new(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(arena);
    return 0;
}

static json_t *parsed(const char *text)
{
    json_t *doc = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(doc);
    return doc;
}

static struct residency_rule rule(const char *text)
{
    JSON_AUTO doc = parsed(text);
    struct residency_rule r;
    residency_rule_read(arena, doc, "a rule", &r);
    return r;
}

static struct residency_site site(const char *text)
{
    JSON_AUTO doc = parsed(text);
    struct residency_site s;
    assert_true(residency_site_read(arena, doc, &s));
    return s;
}

static void each_list_must_be_met(void **state)
{
    (void)state;
    static const struct {
        const char *rule;
        bool japan, france, nowhere;
    } rows[] = {
        {"{\"jurisdictions\":[\"JP\"]}", true, false, false},
        {"{\"jurisdictions\":[\"FR\",\"JP\"]}", true, true, false},
        {"{\"sites\":[\"paris\"]}", false, true, false},
        {"{\"sites\":[\"paris\"],\"jurisdictions\":[\"JP\"]}", false, false, false},
        {"{\"clearances\":[\"medical\"]}", true, false, false},
        {"{\"clearances\":[\"medical\",\"secret\"]}", false, false, false},
        {"{\"jurisdictions\":[]}", true, true, false},
        {"{}", true, true, false},
        {"{\"jurisdictions\":\"JP\"}", false, false, false},
        {"{\"jurisdictions\":[1]}", false, false, false},
        {"{\"sites\":{\"a\":1}}", false, false, false},
        {"[]", false, false, false},
        {"null", false, false, false},
    };
    struct residency_site japan = site("{\"metadata\":{\"name\":\"tokyo\"},\"spec\":{\"jurisdiction\":\"JP\",\"clearances\":[\"public\",\"medical\"]}}");
    struct residency_site france = site("{\"metadata\":{\"name\":\"paris\"},\"spec\":{\"jurisdiction\":\"FR\"}}");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct residency_rule r = rule(rows[i].rule);
        assert_int_equal(residency_allows(&r, &japan), rows[i].japan);
        assert_int_equal(residency_allows(&r, &france), rows[i].france);
        assert_int_equal(residency_allows(&r, NULL), rows[i].nowhere);
    }
}

static void a_rule_is_for_some_or_all(void **state)
{
    (void)state;
    struct residency_rule all = rule("{\"sites\":[\"x\"]}"), some = rule("{\"sites\":[\"x\"],\"models\":[\"a\",\"b\"],\"keys\":[\"k\"]}"), broken = rule("{\"models\":[\"a\"],\"keys\":7}");
    assert_true(residency_applies(&all, "z", "y"));
    assert_true(residency_applies(&some, "b", "k"));
    assert_false(residency_applies(&some, "c", "k"));
    assert_false(residency_applies(&some, "a", "j"));
    assert_true(residency_applies(&broken, "z", "y"));
}

static void servers_stand_where_one_site_says(void **state)
{
    (void)state;
    struct residency_site sites[] = {
        site("{\"metadata\":{\"name\":\"one\"},\"spec\":{\"jurisdiction\":\"JP\",\"servers\":[\"gpu.example.com\",\"127.0.0.1:8001\",\"[::1]:9\"]}}"),
        site("{\"metadata\":{\"name\":\"two\"},\"spec\":{\"jurisdiction\":\"FR\",\"servers\":[\"127.0.0.1:8002\",\"both.example.com\"]}}"),
        site("{\"metadata\":{\"name\":\"three\"},\"spec\":{\"jurisdiction\":\"DE\",\"servers\":[\"BOTH.example.com:443\"]}}"),
    };
    static const struct {
        const char *authority, *site;
    } rows[] = {{"gpu.example.com", "one"}, {"GPU.example.com:8443", "one"}, {"127.0.0.1:8001", "one"}, {"127.0.0.1:8002", "two"}, {"127.0.0.1:8003", NULL},
                {"127.0.0.1", NULL}, {"gpu.example.com.evil.org", NULL}, {"xgpu.example.com", NULL}, {"[::1]:9", "one"}, {"both.example.com:443", NULL}, {"both.example.com", "two"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct residency_site *s = residency_site_of_server(sites, ARRAY_LEN(sites), rows[i].authority);
        if (rows[i].site)
            assert_string_equal(s ? s->name : "(none)", rows[i].site);
        else
            assert_null(s);
    }
}

static void what_is_no_site_is_none(void **state)
{
    (void)state;
    static const char *const bad[] = {"{}", "{\"metadata\":{\"name\":\"x\"}}", "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"jurisdiction\":7}}",
                                      "{\"metadata\":{\"name\":\"x\",\"deletionTimestamp\":\"2026-11-28T00:00:00Z\"},\"spec\":{\"jurisdiction\":\"JP\"}}",
                                      "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"jurisdiction\":\"JP\",\"servers\":[3]}}"};
    struct residency_site s;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        JSON_AUTO doc = parsed(bad[i]);
        assert_false(residency_site_read(arena, doc, &s));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_list_must_be_met, setup, teardown),
        cmocka_unit_test_setup_teardown(a_rule_is_for_some_or_all, setup, teardown),
        cmocka_unit_test_setup_teardown(servers_stand_where_one_site_says, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_site_is_none, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
