/* Patches: the cases of RFC 7396 and RFC 6902, and what a hostile patch may try. */
#include "unit.h"

#include "base/clock.h"
#include "json/patch.h"

#define MAX_BYTES ((size_t)1 << 20)

static json_t *parsed(const char *text)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    int rc = json_parse(str_of(text), 8 * MAX_BYTES, &j, &err);
    if (rc < 0)
        fail_msg("%.200s: %s", text, err.msg);
    return j;
}

static void equal(const json_t *got, const char *want, const char *what)
{
    JSON_AUTO j = parsed(want);
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    json_write(got, &b);
    if (!json_equal(got, j))
        fail_msg("%s: got %s, expected %s", what, b.ptr, want);
}

/* ---- merge ---- */

static void merge_cases_of_the_rfc(void **state UNUSED)
{
    static const char *const cases[][3] = {
        /* Appendix A of RFC 7396 */
        {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
        {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
        {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
        {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
        {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
        {"[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]"},
        {"{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]"},
        {"{\"a\":\"foo\"}", "null", "null"},
        {"{\"a\":\"foo\"}", "\"bar\"", "\"bar\""},
        {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
        {"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
        {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
        /* and more: nulls inside arrays stay, scalars give way to objects */
        {"{\"a\":1}", "{\"a\":[null]}", "{\"a\":[null]}"},
        {"{\"a\":1}", "{\"a\":{\"b\":{\"c\":2,\"d\":null}}}", "{\"a\":{\"b\":{\"c\":2}}}"},
        {"{\"a\":{\"x\":1,\"y\":{\"z\":1}}}", "{\"a\":{\"y\":{\"w\":2}}}", "{\"a\":{\"x\":1,\"y\":{\"z\":1,\"w\":2}}}"},
        {"{\"a\":1}", "{}", "{\"a\":1}"},
    };
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO target = parsed(cases[i][0]), *patch = parsed(cases[i][1]), *before = json_deep_copy(target), *out = NULL;
        ASSERT_OK(json_merge_patch(target, patch, &out, &err));
        equal(out, cases[i][2], cases[i][1]);
        assert_true(json_equal(target, before));
    }
}

static void a_merge_shares_nothing_with_its_inputs(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO target = parsed("{\"keep\":{\"x\":1}}"), *patch = parsed("{\"new\":{\"y\":[2]}}"), *out = NULL;
    ASSERT_OK(json_merge_patch(target, patch, &out, &err));
    json_put_int(out, "keep.x", 9);
    json_array_append_new(json_at(out, "new.y"), json_integer(3));
    equal(target, "{\"keep\":{\"x\":1}}", "target");
    equal(patch, "{\"new\":{\"y\":[2]}}", "patch");
}

/* depth containers around one another, made without the parser and its cap. */
static json_t *deep(int depth, bool objects)
{
    json_t *j = json_integer(1);
    for (int i = 0; i < depth; i++)
        j = objects ? json_pack("{s:o}", "a", j) : json_pack("[o]", j);
    return j;
}

static void a_merge_is_refused_when_too_deep(void **state UNUSED)
{
    struct err err = ERR_INIT;
    for (int objects = 0; objects < 2; objects++) {
        JSON_AUTO empty = json_object(), *fits = deep(64, objects), *over = deep(65, objects), *out = NULL, *none = NULL;
        ASSERT_OK(json_merge_patch(empty, fits, &out, &err));
        assert_true(json_equal(out, fits));
        ASSERT_ERR(json_merge_patch(empty, over, &none, &err), ERR_TOO_LARGE);
        assert_null(none);
    }
    JSON_AUTO bottomless = deep(1500, true), *empty = json_object(), *none = NULL;
    ASSERT_ERR(json_merge_patch(empty, bottomless, &none, &err), ERR_TOO_LARGE);
}

/* ---- operations ---- */

static void operations_that_apply(void **state UNUSED)
{
    static const char *const cases[][3] = {
        /* Appendix A of RFC 6902 */
        {"{\"foo\":\"bar\"}", "[{\"op\":\"add\",\"path\":\"/baz\",\"value\":\"qux\"}]", "{\"baz\":\"qux\",\"foo\":\"bar\"}"},
        {"{\"foo\":[\"bar\",\"baz\"]}", "[{\"op\":\"add\",\"path\":\"/foo/1\",\"value\":\"qux\"}]", "{\"foo\":[\"bar\",\"qux\",\"baz\"]}"},
        {"{\"baz\":\"qux\",\"foo\":\"bar\"}", "[{\"op\":\"remove\",\"path\":\"/baz\"}]", "{\"foo\":\"bar\"}"},
        {"{\"foo\":[\"bar\",\"qux\",\"baz\"]}", "[{\"op\":\"remove\",\"path\":\"/foo/1\"}]", "{\"foo\":[\"bar\",\"baz\"]}"},
        {"{\"baz\":\"qux\",\"foo\":\"bar\"}", "[{\"op\":\"replace\",\"path\":\"/baz\",\"value\":\"boo\"}]", "{\"baz\":\"boo\",\"foo\":\"bar\"}"},
        {"{\"foo\":{\"bar\":\"baz\",\"waldo\":\"fred\"},\"qux\":{\"corge\":\"grault\"}}", "[{\"op\":\"move\",\"from\":\"/foo/waldo\",\"path\":\"/qux/thud\"}]",
         "{\"foo\":{\"bar\":\"baz\"},\"qux\":{\"corge\":\"grault\",\"thud\":\"fred\"}}"},
        {"{\"foo\":[\"all\",\"grass\",\"cows\",\"eat\"]}", "[{\"op\":\"move\",\"from\":\"/foo/1\",\"path\":\"/foo/3\"}]", "{\"foo\":[\"all\",\"cows\",\"eat\",\"grass\"]}"},
        {"{\"baz\":\"qux\",\"foo\":[\"a\",2,\"c\"]}", "[{\"op\":\"test\",\"path\":\"/baz\",\"value\":\"qux\"},{\"op\":\"test\",\"path\":\"/foo/1\",\"value\":2}]",
         "{\"baz\":\"qux\",\"foo\":[\"a\",2,\"c\"]}"},
        {"{\"foo\":\"bar\"}", "[{\"op\":\"add\",\"path\":\"/child\",\"value\":{\"grandchild\":{}}}]", "{\"foo\":\"bar\",\"child\":{\"grandchild\":{}}}"},
        {"{\"foo\":\"bar\"}", "[{\"op\":\"add\",\"path\":\"/baz\",\"value\":\"qux\",\"xyz\":123}]", "{\"foo\":\"bar\",\"baz\":\"qux\"}"},
        {"{\"/\":9,\"~1\":10}", "[{\"op\":\"test\",\"path\":\"/~01\",\"value\":10}]", "{\"/\":9,\"~1\":10}"},
        {"{\"foo\":[\"bar\"]}", "[{\"op\":\"add\",\"path\":\"/foo/-\",\"value\":[\"abc\",\"def\"]}]", "{\"foo\":[\"bar\",[\"abc\",\"def\"]]}"},
        /* pointers: the root, empty names, escapes */
        {"{\"a\":1}", "[{\"op\":\"add\",\"path\":\"\",\"value\":[2]}]", "[2]"},
        {"{\"a\":1}", "[{\"op\":\"replace\",\"path\":\"\",\"value\":{\"b\":2}}]", "{\"b\":2}"},
        {"{\"a\":1}", "[{\"op\":\"test\",\"path\":\"\",\"value\":{\"a\":1}}]", "{\"a\":1}"},
        {"{\"\":{\"\":1}}", "[{\"op\":\"replace\",\"path\":\"//\",\"value\":2}]", "{\"\":{\"\":2}}"},
        {"{\"a/b\":1,\"m~n\":2}", "[{\"op\":\"replace\",\"path\":\"/a~1b\",\"value\":3},{\"op\":\"remove\",\"path\":\"/m~0n\"}]", "{\"a/b\":3}"},
        {"{\"~1\":1}", "[{\"op\":\"remove\",\"path\":\"/~01\"}]", "{}"},
        {"[0,1,2]", "[{\"op\":\"replace\",\"path\":\"/0\",\"value\":9},{\"op\":\"add\",\"path\":\"/3\",\"value\":3}]", "[9,1,2,3]"},
        {"{\"1\":\"a\",\"-\":\"b\"}", "[{\"op\":\"remove\",\"path\":\"/1\"},{\"op\":\"remove\",\"path\":\"/-\"}]", "{}"},
        /* null is a value; numbers compare by value */
        {"{\"a\":1}", "[{\"op\":\"add\",\"path\":\"/b\",\"value\":null},{\"op\":\"test\",\"path\":\"/b\",\"value\":null}]", "{\"a\":1,\"b\":null}"},
        {"{\"a\":{\"x\":[1,2.0]}}", "[{\"op\":\"test\",\"path\":\"/a\",\"value\":{\"x\":[1.0,2]}}]", "{\"a\":{\"x\":[1,2.0]}}"},
        /* add over a member replaces it; copies are of their own */
        {"{\"a\":1}", "[{\"op\":\"add\",\"path\":\"/a\",\"value\":2}]", "{\"a\":2}"},
        {"{\"a\":{\"x\":1}}", "[{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/b\"},{\"op\":\"replace\",\"path\":\"/b/x\",\"value\":2}]", "{\"a\":{\"x\":1},\"b\":{\"x\":2}}"},
        {"{\"a\":{\"x\":1}}", "[{\"op\":\"copy\",\"from\":\"\",\"path\":\"/a/y\"}]", "{\"a\":{\"x\":1,\"y\":{\"a\":{\"x\":1}}}}"},
        {"{\"a\":{\"x\":1}}", "[{\"op\":\"copy\",\"from\":\"/a/x\",\"path\":\"\"}]", "1"},
        {"{\"a\":{\"x\":1}}", "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/a\"}]", "{\"a\":{\"x\":1}}"},
        {"{\"a\":{\"x\":1}}", "[{\"op\":\"move\",\"from\":\"/a/x\",\"path\":\"/a\"}]", "{\"a\":1}"},
        {"{\"a\":{},\"ab\":1}", "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/ab\"}]", "{\"ab\":{}}"},
        {"{\"a\":1}", "[]", "{\"a\":1}"},
    };
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO target = parsed(cases[i][0]), *ops = parsed(cases[i][1]), *before = json_deep_copy(target), *ops_before = json_deep_copy(ops), *out = NULL;
        int rc = json_apply_patch(target, ops, MAX_BYTES, &out, &err);
        if (rc < 0)
            fail_msg("%s: %s", cases[i][1], err.msg);
        equal(out, cases[i][2], cases[i][1]);
        assert_true(json_equal(target, before));
        assert_true(json_equal(ops, ops_before));
    }
}

static void operations_that_do_not(void **state UNUSED)
{
    static const char *const target_text = "{\"foo\":\"bar\",\"l\":[1,2],\"o\":{\"x\":1},\"~\":0,\"n\":null}";
    static const char *const cases[] = {
        "{\"op\":\"add\",\"path\":\"/baz/bat\",\"value\":\"qux\"}", "{\"op\":\"test\",\"path\":\"/foo\",\"value\":\"other\"}",
        "{\"op\":\"test\",\"path\":\"/l/0\",\"value\":\"1\"}", "{\"op\":\"test\",\"path\":\"/o\",\"value\":{}}", "{\"op\":\"test\",\"path\":\"/o\",\"value\":{\"x\":1,\"y\":2}}",
        "{\"op\":\"test\",\"path\":\"/l\",\"value\":[2,1]}", "{\"op\":\"test\",\"path\":\"/none\",\"value\":null}", "{\"op\":\"test\",\"path\":\"/n\",\"value\":false}",
        "{\"op\":\"remove\",\"path\":\"/none\"}", "{\"op\":\"remove\",\"path\":\"\"}", "{\"op\":\"remove\",\"path\":\"/l/2\"}", "{\"op\":\"remove\",\"path\":\"/l/-\"}",
        "{\"op\":\"replace\",\"path\":\"/none\",\"value\":1}", "{\"op\":\"replace\",\"path\":\"/l/2\",\"value\":1}", "{\"op\":\"replace\",\"path\":\"/l/-\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/l/3\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/-1\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/-0\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/l/01\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/00\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/1e0\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/+1\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/l/ 1\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/l/99999999999999999999\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/l/4294967296\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/foo/x\",\"value\":1}", "{\"op\":\"add\",\"path\":\"foo\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/~\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/~2\",\"value\":1}", "{\"op\":\"add\",\"path\":\"/o/~\",\"value\":1}",
        "{\"op\":\"add\",\"path\":\"/x\"}", "{\"op\":\"add\",\"value\":1}", "{\"op\":\"add\",\"path\":1,\"value\":1}", "{\"op\":\"add\",\"path\":null,\"value\":1}",
        "{\"op\":\"copy\",\"path\":\"/x\"}", "{\"op\":\"move\",\"path\":\"/x\",\"from\":1}", "{\"op\":\"copy\",\"path\":\"/x\",\"from\":\"/none\"}", "{\"op\":\"copy\",\"path\":\"/none/x\",\"from\":\"/foo\"}",
        "{\"op\":\"move\",\"path\":\"/o/y\",\"from\":\"/o\"}", "{\"op\":\"move\",\"path\":\"/x\",\"from\":\"\"}", "{\"op\":\"move\",\"path\":\"/none\",\"from\":\"/none\"}",
        "{\"op\":\"Add\",\"path\":\"/x\",\"value\":1}", "{\"op\":\"\",\"path\":\"/x\",\"value\":1}", "{\"op\":\"merge\",\"path\":\"/x\",\"value\":1,\"from\":\"/foo\"}", "{\"path\":\"/x\",\"value\":1}", "{\"op\":7,\"path\":\"/x\",\"value\":1}",
        "{}", "[]", "null", "\"add\"", "1",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO target = parsed(target_text), *before = json_deep_copy(target), *out = NULL, *ops = NULL;
        /* The operation before it must leave no trace. */
        ops = json_pack("[o, o]", parsed("{\"op\":\"add\",\"path\":\"/new\",\"value\":1}"), parsed(cases[i]));
        int rc = json_apply_patch(target, ops, MAX_BYTES, &out, &err);
        if (rc != ERR_INVALID)
            fail_msg("%s: %d", cases[i], rc);
        assert_non_null(strstr(err.msg, "operation 1 "));
        assert_null(out);
        assert_true(json_equal(target, before));
    }
}

static void a_patch_is_an_array(void **state UNUSED)
{
    static const char *const texts[] = {"{}", "null", "\"x\"", "{\"op\":\"add\",\"path\":\"/x\",\"value\":1}"};
    JSON_AUTO target = parsed("{}");
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO ops = parsed(texts[i]), *out = NULL;
        ASSERT_ERR(json_apply_patch(target, ops, MAX_BYTES, &out, &err), ERR_BAD_REQUEST);
    }
}

/* ---- hostile ---- */

static json_t *op(const char *name, const char *path, const char *from, json_t *value)
{
    json_t *o = json_pack("{s:s, s:s, s:s*, s:o*}", "op", name, "path", path, "from", from, "value", value);
    assert_non_null(o);
    return o;
}

static int apply_times(const char *target_text, size_t times, const char *name, const char *path, const char *from, json_t **ret)
{
    struct err err = ERR_INIT;
    JSON_AUTO target = parsed(target_text), *ops = json_array(), *one = op(name, path, from, from ? NULL : json_integer(1));
    for (size_t i = 0; i < times; i++)
        json_array_append(ops, one);
    return json_apply_patch(target, ops, MAX_BYTES, ret, &err);
}

static void the_number_of_operations_has_a_cap(void **state UNUSED)
{
    JSON_AUTO out = NULL, *none = NULL;
    assert_int_equal(apply_times("{}", 10000, "add", "/a", NULL, &out), 0);
    assert_int_equal(apply_times("{}", 10001, "add", "/a", NULL, &none), ERR_TOO_LARGE);
    assert_null(none);
}

static void growth_has_a_cap(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO out = NULL;
    /* A document that doubles at each step … */
    assert_int_equal(apply_times("{\"a\":[\"0123456789abcdef\"]}", 30, "copy", "/a/-", "/a", &out), ERR_TOO_LARGE);
    /* … and ones that are too large at the end only. */
    JSON_AUTO target = parsed("{\"a\":\"0123456789\"}"), *ops = parsed("[{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/b\"}]");
    ASSERT_ERR(json_apply_patch(target, ops, 20, &out, &err), ERR_TOO_LARGE);
    assert_null(out);
    ASSERT_OK(json_apply_patch(target, ops, 100, &out, &err));
}

static void depth_has_a_cap(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO empty = json_object(), *fits = json_array(), *over = json_array(), *out = NULL, *none = NULL;
    json_array_append_new(fits, op("add", "/a", NULL, deep(63, false)));
    json_array_append_new(over, op("add", "/a", NULL, deep(64, false)));
    ASSERT_OK(json_apply_patch(empty, fits, MAX_BYTES, &out, &err));
    ASSERT_ERR(json_apply_patch(empty, over, MAX_BYTES, &none, &err), ERR_TOO_LARGE);
    /* One level more with each copy or move. */
    assert_int_equal(apply_times("{\"a\":{}}", 70, "copy", "/a/a", "/a", &none), ERR_TOO_LARGE);
    JSON_AUTO moves = json_array(), *target = parsed("{\"a\":{}}");
    for (int i = 0; i < 100; i++) {
        json_array_append_new(moves, op("add", "/b", NULL, json_object()));
        json_array_append_new(moves, op("move", "/b/x", "/a", NULL));
        json_array_append_new(moves, op("move", "/a", "/b", NULL));
    }
    ASSERT_ERR(json_apply_patch(target, moves, MAX_BYTES, &none, &err), ERR_TOO_LARGE);
    assert_null(none);
}

static void work_has_a_cap(void **state UNUSED)
{
    struct err err = ERR_INIT;
    /* Each operation is cheap to send and dear to do: copies of something large, and shifts of a long array. */
    JSON_AUTO target = json_object(), *large = json_array(), *ops = json_array(), *out = NULL;
    for (int i = 0; i < 200000; i++)
        json_array_append_new(large, json_integer(i));
    json_object_set(target, "large", large);
    for (int i = 0; i < 10000; i++)
        json_array_append_new(ops, op("copy", "/x", "/large", NULL));
    uint64_t start_ms = clock_mono_ms();
    ASSERT_ERR(json_apply_patch(target, ops, MAX_BYTES, &out, &err), ERR_TOO_LARGE);
    static const char *const shifts[] = {"add", "remove"};
    for (size_t k = 0; k < ARRAY_LEN(shifts); k++) {
        json_array_clear(ops);
        for (int i = 0; i < 5000; i++)
            json_array_append_new(ops, op(shifts[k], "/large/0", NULL, k ? NULL : json_integer(1)));
        ASSERT_ERR(json_apply_patch(target, ops, MAX_BYTES, &out, &err), ERR_TOO_LARGE);
    }
    assert_null(out);
    assert_true(clock_mono_ms() - start_ms < 30000);
    assert_int_equal(json_array_size(large), 200000);
}

static void long_names_are_refused(void **state UNUSED)
{
    char path[700] = "/";
    JSON_AUTO none = NULL;
    memset(path + 1, 'a', sizeof(path) - 2);
    path[sizeof(path) - 1] = 0;
    assert_int_equal(apply_times("{}", 1, "add", path, NULL, &none), ERR_INVALID);
    path[500] = 0;
    JSON_AUTO out = NULL;
    assert_int_equal(apply_times("{}", 1, "add", path, NULL, &out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merge_cases_of_the_rfc),
        cmocka_unit_test(a_merge_shares_nothing_with_its_inputs),
        cmocka_unit_test(a_merge_is_refused_when_too_deep),
        cmocka_unit_test(operations_that_apply),
        cmocka_unit_test(operations_that_do_not),
        cmocka_unit_test(a_patch_is_an_array),
        cmocka_unit_test(the_number_of_operations_has_a_cap),
        cmocka_unit_test(growth_has_a_cap),
        cmocka_unit_test(depth_has_a_cap),
        cmocka_unit_test(work_has_a_cap),
        cmocka_unit_test(long_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
