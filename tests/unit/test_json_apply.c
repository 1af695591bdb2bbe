/* Sets of fields, server-side apply and strategic merge patch on documents, by one table that has every shape. */
#include "unit.h"

#include "json/apply.h"
#include "json/strategic.h"

#define MAX_BYTES ((size_t)1 << 20)

static const struct field port_rows[] = {
    {.name = "name", .type = FIELD_STRING},
    {.name = "port", .type = FIELD_INT},
    {.name = "tags", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET},
    {0},
};
static const struct field engine_rows[] = {
    {.name = "driver", .type = FIELD_STRING},
    {.name = "slots", .type = FIELD_INT},
    {0},
};
static const struct field rows[] = {
    {.name = "labels", .type = FIELD_MAP},
    {.name = "engine", .type = FIELD_OBJECT, .sub = engine_rows},
    {.name = "ref", .type = FIELD_OBJECT, .flags = FIELD_ATOMIC, .sub = engine_rows},
    {.name = "open", .type = FIELD_OBJECT, .flags = FIELD_OPEN, .sub = engine_rows},
    {.name = "ports", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = port_rows, .list_type = LIST_MAP, .list_key = "name"},
    {.name = "tags", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET},
    {.name = "args", .type = FIELD_LIST, .elem = FIELD_STRING},
    {.name = "any", .type = FIELD_ANY},
    {.name = "count", .type = FIELD_INT},
    {0},
};

/* Cases are written with ' for ". */
static json_t *parsed(const char *text)
{
    struct err err = ERR_INIT;
    char plain[2048];
    json_t *j = NULL;
    assert_true(strlen(text) < sizeof(plain));
    snprintf(plain, sizeof(plain), "%s", text);
    for (char *p = plain; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    if (json_parse(str_of(plain), MAX_BYTES, &j, &err) < 0)
        fail_msg("%s: %s", plain, err.msg);
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

static json_t *set_of(const char *text)
{
    JSON_AUTO v1 = parsed(text);
    return fieldset_decode(v1);
}

static void what_an_applied_document_sets(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"{}", "{}"},
        {"{'count':1}", "{'f:count':{}}"},
        {"{'count':null}", "{}"},
        {"{'unknown':1}", "{}"},
        {"{'labels':{'a':'1'}}", "{'f:labels':{'f:a':{}}}"},
        {"{'labels':{}}", "{'f:labels':{}}"},
        {"{'engine':{'driver':'x'}}", "{'f:engine':{'f:driver':{}}}"},
        {"{'ref':{'driver':'x'}}", "{'f:ref':{}}"},
        {"{'open':{'driver':'x','more':{'y':1}}}", "{'f:open':{'f:driver':{},'f:more':{}}}"},
        {"{'args':['a','b']}", "{'f:args':{}}"},
        {"{'any':{'deep':{'x':1}}}", "{'f:any':{}}"},
        {"{'tags':['a','b']}", "{'f:tags':{'v:\\u0022a\\u0022':{},'v:\\u0022b\\u0022':{}}}"},
        {"{'tags':[]}", "{'f:tags':{}}"},
        {"{'engine':{'driver':null}}", "{'f:engine':{}}"},
        {"{'ports':[{'name':'x','port':1}]}", "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'.':{},'f:name':{},'f:port':{}}}}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO obj = parsed(cases[i][0]);
        JSON_AUTO set = fieldset_of(rows, obj);
        JSON_AUTO v1 = fieldset_encode(set);
        JSON_AUTO again = fieldset_decode(v1);
        equal(v1, cases[i][1], cases[i][0]);
        assert_true(json_equal(set, again));
    }
}

static void what_differs(void **state UNUSED)
{
    static const char *const cases[][4] = {
        {"{'count':1}", "{'count':1}", "{}", "{}"},
        {"{'count':1}", "{'count':2}", "{'f:count':{}}", "{}"},
        {"{'count':1}", "{}", "{}", "{'f:count':{}}"},
        {"{'count':1}", "{'count':null}", "{}", "{'f:count':{}}"},
        {"{}", "{'labels':{'a':'1'}}", "{'f:labels':{'.':{},'f:a':{}}}", "{}"},
        {"{'labels':{'a':'1','b':'1'}}", "{'labels':{'a':'2','c':'1'}}", "{'f:labels':{'f:a':{},'f:c':{}}}", "{'f:labels':{'f:b':{}}}"},
        {"{'ref':{'driver':'x','slots':1}}", "{'ref':{'driver':'x'}}", "{'f:ref':{}}", "{}"},
        {"{'tags':['a','b']}", "{'tags':['b','c']}", "{'f:tags':{'v:\\u0022c\\u0022':{}}}", "{'f:tags':{'v:\\u0022a\\u0022':{}}}"},
        {"{'tags':['a','b']}", "{'tags':['b','a']}", "{}", "{}"},
        {"{'ports':[{'name':'x','port':1}]}", "{'ports':[{'name':'x','port':2}]}", "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'f:port':{}}}}", "{}"},
        {"{'ports':[{'name':'x'}]}", "{'ports':[]}", "{}", "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'.':{},'f:name':{}}}}"},
        /* elements without names: the list is one value */
        {"{'ports':[{'port':1}]}", "{'ports':[{'port':2}]}", "{'f:ports':{}}", "{}"},
        {"{'count':1}", "{'count':{'x':1}}", "{'f:count':{}}", "{}"},
        {"{'engine':1}", "{'engine':{'driver':'x'}}", "{'f:engine':{'.':{},'f:driver':{}}}", "{}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO a = parsed(cases[i][0]);
        JSON_AUTO b = parsed(cases[i][1]);
        struct fieldset_diff d = fieldset_compare(rows, a, b);
        JSON_AUTO changed = fieldset_encode(d.changed);
        JSON_AUTO removed = fieldset_encode(d.removed);
        equal(changed, cases[i][2], cases[i][1]);
        equal(removed, cases[i][3], cases[i][1]);
        json_decref(d.changed);
        json_decref(d.removed);
    }
}

static void sets_are_combined(void **state UNUSED)
{
    JSON_AUTO a = set_of("{'f:x':{},'f:y':{'.':{},'f:z':{}},'f:only':{}}");
    JSON_AUTO b = set_of("{'f:x':{'f:in':{}},'f:y':{'.':{}}}");
    JSON_AUTO u = fieldset_union(a, b);
    JSON_AUTO u1 = fieldset_encode(u);
    equal(u1, "{'f:x':{'.':{},'f:in':{}},'f:y':{'.':{},'f:z':{}},'f:only':{}}", "union");
    JSON_AUTO m = fieldset_minus(a, b);
    JSON_AUTO m1 = fieldset_encode(m);
    equal(m1, "{'f:x':{},'f:y':{'f:z':{}},'f:only':{}}", "minus: x of a is not x.in of b");
    JSON_AUTO c = fieldset_common(a, b);
    JSON_AUTO c1 = fieldset_encode(c);
    equal(c1, "{'f:y':{}}", "common");
    JSON_AUTO none = fieldset_minus(a, a);
    assert_true(fieldset_is_empty(none));
    assert_true(fieldset_is_empty(NULL));
}

static void malformed_sets_are_none(void **state UNUSED)
{
    static const char *const cases[] = {"[]", "{'x':{}}", "{'f:x':1}", "{'f:x':{'y':{}}}", "{'f':{}}", "{'.':{},'g:':{}}"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO v1 = parsed(cases[i]);
        JSON_AUTO set = fieldset_decode(v1);
        if (set)
            fail_msg("%s was taken for a set", cases[i]);
    }
}

static bool join(void *arg, const char *path)
{
    sbuf_addf(arg, "%s ", path);
    return true;
}

static void paths_read_well(void **state UNUSED)
{
    JSON_AUTO set = set_of("{'f:spec':{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022,\\u0022port\\u0022:1}':{'.':{},'f:tags':{'v:\\u0022t\\u0022':{}}}}},'f:a':{}}");
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 4096);
    fieldset_each(set, join, &b);
    assert_string_equal(b.ptr, ".spec.ports[name=\"x\",port=1] .spec.ports[name=\"x\",port=1].tags[=\"t\"] .a ");
}

static void documents_are_laid_over(void **state UNUSED)
{
    static const char *const cases[][3] = {
        {"{'count':1,'other':2}", "{'count':5}", "{'count':5,'other':2}"},
        {"{'count':1}", "{'count':null}", "{'count':1}"},
        {"{}", "{'engine':{'driver':'x','slots':null}}", "{'engine':{'driver':'x'}}"},
        {"{'labels':{'a':'1'}}", "{'labels':{'b':'2'}}", "{'labels':{'a':'1','b':'2'}}"},
        {"{'ref':{'driver':'x','slots':1}}", "{'ref':{'driver':'y'}}", "{'ref':{'driver':'y'}}"},
        {"{'any':{'a':1}}", "{'any':{'b':1}}", "{'any':{'b':1}}"},
        {"{'args':['a']}", "{'args':['b']}", "{'args':['b']}"},
        {"{'tags':['b','a']}", "{'tags':['c','a']}", "{'tags':['b','a','c']}"},
        {"{'ports':[{'name':'x','port':1},{'name':'y'}]}", "{'ports':[{'name':'z'},{'name':'x','tags':['t']}]}", "{'ports':[{'name':'x','port':1,'tags':['t']},{'name':'y'},{'name':'z'}]}"},
        {"{'engine':'text'}", "{'engine':{'driver':'x'}}", "{'engine':{'driver':'x'}}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO live = parsed(cases[i][0]);
        JSON_AUTO before = json_deep_copy(live);
        JSON_AUTO applied = parsed(cases[i][1]);
        JSON_AUTO out = apply_merge(rows, live, applied);
        JSON_AUTO twice = apply_merge(rows, out, applied);
        equal(out, cases[i][2], cases[i][1]);
        assert_true(json_equal(out, twice) && json_equal(live, before));
    }
}

static void what_is_no_longer_applied_goes(void **state UNUSED)
{
    static const char *const cases[][4] = {
        /* object, last, keep, result */
        {"{'count':1,'any':1}", "{'f:count':{},'f:any':{}}", "{'f:any':{}}", "{'any':1}"},
        {"{'labels':{'a':'1','b':'1'}}", "{'f:labels':{'f:a':{}}}", "{}", "{'labels':{'b':'1'}}"},
        {"{'labels':{'a':'1'}}", "{'f:labels':{'f:a':{}}}", "{}", "{}"},
        {"{'labels':{'a':'1'}}", "{'f:labels':{'f:a':{}}}", "{'f:labels':{}}", "{'labels':{}}"},
        {"{'engine':{'driver':'x','slots':1}}", "{'f:engine':{'f:driver':{}}}", "{}", "{'engine':{'slots':1}}"},
        {"{'tags':['a','b']}", "{'f:tags':{'v:\\u0022a\\u0022':{}}}", "{}", "{'tags':['b']}"},
        {"{'tags':['a']}", "{'f:tags':{'v:\\u0022a\\u0022':{}}}", "{}", "{}"},
        {"{'ports':[{'name':'x','port':1},{'name':'y'}]}", "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'.':{},'f:name':{},'f:port':{}}}}", "{}", "{'ports':[{'name':'y'}]}"},
        /* somebody else has a part of the element: it stays, without the rest */
        {"{'ports':[{'name':'x','port':1,'tags':['t']}]}", "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'.':{},'f:name':{},'f:port':{}}}}",
         "{'f:ports':{'k:{\\u0022name\\u0022:\\u0022x\\u0022}':{'.':{},'f:name':{},'f:tags':{'v:\\u0022t\\u0022':{}}}}}", "{'ports':[{'name':'x','tags':['t']}]}"},
        {"{'count':1}", "{'f:gone':{},'k:odd':{},'v:1':{}}", "{}", "{'count':1}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO obj = parsed(cases[i][0]);
        JSON_AUTO last = set_of(cases[i][1]);
        JSON_AUTO keep = set_of(cases[i][2]);
        apply_prune(rows, obj, last, keep);
        equal(obj, cases[i][3], cases[i][0]);
    }
}

static void wrong_documents_are_named(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"{'count':'x'}", ".count: expected integer, got string"},
        {"{'labels':{'a':1}}", ".labels.a: expected string, got integer"},
        {"{'engine':{'slots':[]}}", ".engine.slots: expected integer, got array"},
        {"{'ports':[{'port':1}]}", ".ports: each element must have the key name, and none the same as another"},
        {"{'ports':[{'name':'a'},{'name':'a'}]}", ".ports: each element must have the key name"},
        {"{'ports':[{'name':'a'},7]}", ".ports[1]: expected object, got integer"},
        {"{'tags':['a','a']}", ".tags: each element must have a value"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO doc = parsed(cases[i][0]);
        assert_int_equal(apply_check(rows, doc, &err), ERR_BAD_REQUEST);
        if (!strstr(err.msg, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err.msg);
    }
    struct err err = ERR_INIT;
    JSON_AUTO good = parsed("{'count':1,'unknown':{},'ports':[{'name':'a'}],'tags':[],'labels':null}");
    ASSERT_OK(apply_check(rows, good, &err));
}

static void strategic_cases(void **state UNUSED)
{
    static const char *const cases[][3] = {
        {"{'count':1,'any':1}", "{'count':null,'any':2}", "{'any':2}"},
        {"{'labels':{'a':'1'}}", "{'labels':{'b':'2'}}", "{'labels':{'a':'1','b':'2'}}"},
        {"{'labels':{'a':'1'}}", "{'labels':{'$patch':'replace','b':'2'}}", "{'labels':{'b':'2'}}"},
        {"{'labels':{'a':'1'}}", "{'labels':{'$patch':'delete'}}", "{}"},
        {"{'engine':{'driver':'x','slots':1}}", "{'engine':{'$retainKeys':['driver'],'driver':'y'}}", "{'engine':{'driver':'y'}}"},
        {"{'ports':[{'name':'x','port':1},{'name':'y'}]}", "{'ports':[{'name':'x','port':2},{'name':'z'}]}", "{'ports':[{'name':'x','port':2},{'name':'y'},{'name':'z'}]}"},
        {"{'ports':[{'name':'x'},{'name':'y'}]}", "{'ports':[{'$patch':'delete','name':'x'}]}", "{'ports':[{'name':'y'}]}"},
        {"{'ports':[{'name':'x'}]}", "{'ports':[{'$patch':'replace'},{'name':'n'}]}", "{'ports':[{'name':'n'}]}"},
        {"{'ports':[{'name':'x'},{'name':'y'},{'name':'z'}]}", "{'$setElementOrder/ports':[{'name':'z'},{'name':'x'}],'ports':[]}", "{'ports':[{'name':'z'},{'name':'y'},{'name':'x'}]}"},
        {"{'tags':['a','b']}", "{'tags':['c'],'$deleteFromPrimitiveList/tags':['a']}", "{'tags':['b','c']}"},
        {"{'tags':['a','b']}", "{'$setElementOrder/tags':['b','a']}", "{'tags':['b','a']}"},
        {"{'args':['a']}", "{'args':['b']}", "{'args':['b']}"},
        {"{}", "{'ports':[{'name':'x','port':null},{'$patch':'delete','name':'y'}],'labels':{'a':null,'b':'1'}}", "{'ports':[{'name':'x'}],'labels':{'b':'1'}}"},
        {"{'any':{'a':1}}", "{'any':{'b':1}}", "{'any':{'a':1,'b':1}}"},
        {"{'count':1}", "{'$patch':'replace','any':1}", "{'any':1}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO target = parsed(cases[i][0]);
        JSON_AUTO before = json_deep_copy(target);
        JSON_AUTO patch = parsed(cases[i][1]);
        JSON_AUTO out = NULL;
        ASSERT_OK(json_strategic_patch(rows, target, patch, &out, &err));
        equal(out, cases[i][2], cases[i][1]);
        assert_true(json_equal(target, before));
    }
    static const char *const refused[][2] = {
        {"[]", "object"},
        {"{'$patch':'x'}", "$patch"},
        {"{'labels':{'$patch':1}}", "$patch"},
        {"{'ports':[{'port':1}]}", "merge key"},
        {"{'$deleteFromPrimitiveList/tags':1}", "list"},
        {"{'engine':{'$retainKeys':['slots'],'driver':'y'}}", "$retainKeys"},
    };
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO target = parsed("{'labels':{'a':'1'},'ports':[{'name':'x'}],'tags':['a'],'engine':{}}");
        JSON_AUTO patch = parsed(refused[i][0]);
        JSON_AUTO out = NULL;
        assert_int_equal(json_strategic_patch(rows, target, patch, &out, &err), ERR_BAD_REQUEST);
        if (!strstr(err.msg, refused[i][1]))
            fail_msg("%s: %s", refused[i][0], err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_an_applied_document_sets),
        cmocka_unit_test(what_differs),
        cmocka_unit_test(sets_are_combined),
        cmocka_unit_test(malformed_sets_are_none),
        cmocka_unit_test(paths_read_well),
        cmocka_unit_test(documents_are_laid_over),
        cmocka_unit_test(what_is_no_longer_applied_goes),
        cmocka_unit_test(wrong_documents_are_named),
        cmocka_unit_test(strategic_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
