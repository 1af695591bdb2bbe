/* What schemas weigh, and what is refused of them. */
#include "unit.h"

#include "gateway/schema_bound.h"
#include "gateway/schema_refs.h"

#define TEXT_MAX ((size_t)4 << 20)

/* NULL: it passes. */
static void check(const char *field, const char *json, const char *says)
{
    struct err err = ERR_INIT;
    struct span at;
    struct schema_weight w = {0};
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, TEXT_MAX);
    sbuf_addf(&body, "{\"%s\":", field);
    sbuf_addc(&body, json);
    sbuf_addc(&body, "}");
    assert_true(sbuf_ok(&body));
    ASSERT_OK(span_scan(sbuf_str(&body), &field, 1, &at, &err));
    int rc = schema_bound_check(&w, field, &at, &err);
    if (says ? rc != ERR_BAD_REQUEST || !strstr(err.msg, says) || strcmp(err.field, field) != 0 : rc != 0)
        fail_msg("%.200s: %d, %s: %s", json, rc, err.field, err.msg);
}

static void what_schemas_may_be(void **state UNUSED)
{
#define SCHEMA(s) "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":" s "}}"
#define THREE(n) "{\"items\":{\"items\":{\"items\":{},\"maxItems\":" n "},\"minItems\":" n "},\"maxItems\":" n "}"
    check("response_format", "{\"type\":\"text\"}", NULL);
    check("response_format", SCHEMA(THREE("100")), NULL);
    check("response_format", SCHEMA(THREE("101")), "1000000 at most");
    check("response_format", SCHEMA(THREE("1e3")), "repetitions within each other");
    check("response_format", SCHEMA("[" THREE("100") "," THREE("100") "]"), NULL); /* beside each other */
    check("response_format", SCHEMA("{\"maxItems\":1000,\"items\":{\"anyOf\":[{\"maxItems\":7},{\"maxItems\":1001},{}]}}"), "repetitions within each other");
    check("response_format", SCHEMA("{\"max\\u0049tems\":2000000}"), "repetitions");
    check("response_format", SCHEMA("{\"maxItems\":2000,\"properties\":{\"maxItems\":{\"maxItems\":400},\"minItems\":{\"type\":\"string\"}}}"), NULL);
    check("response_format", SCHEMA("{\"maxItems\":2000,\"properties\":{\"maxItems\":{\"maxItems\":501},\"minItems\":{\"type\":\"string\"}}}"), "repetitions");
    check("response_format", SCHEMA("{\"type\":\"string\",\"maxLength\":100000}"), NULL);
    check("response_format", SCHEMA("{\"pattern\":\"^((a{0,100}){0,100})$\"}"), NULL);
    check("response_format", SCHEMA("{\"pattern\":\"^(((a{0,30}){0,30}){0,30})$\"}"), "three or more are nested");
    check("response_format", SCHEMA("{\"properties\":{\"pattern\":{\"pattern\":\"a{50000}\"}}}"), NULL);
    check("response_format", SCHEMA("{\"anyOf\":[{\"pattern\":\"a{30000}\"},{\"pattern\":\"a{30000}\"}]}"), "written out");
    check("grammar", "\"root ::= (\\\"a\\\"{0,9999}){0,99}\"", "written out");
    check("structured_outputs", "{\"regex\":\"a{60000}\"}", "written out");
    /* A list of types is walked once for each that has something within. */
    check("tools", "[{\"type\":[\"object\",\"null\"],\"maxItems\":1000000}]", NULL);
    check("tools", "[{\"type\":[\"object\",\"array\"],\"maxItems\":1000000}]", "repetitions");
}

/* Engines that take a schema as a string parse it: so it is weighed. */
static void schemas_as_text(void **state UNUSED)
{
#define MANY "{\\\"maxItems\\\":1001,\\\"items\\\":{\\\"m\\\\u0061xItems\\\":1000}}"
    check("json_schema", "\"{\\\"maxItems\\\":1000,\\\"items\\\":{\\\"maxItems\\\":1000}}\"", NULL);
    check("json_schema", "\"" MANY "\"", "repetitions within each other");
    check("guided_json", "\" " MANY " \"", "repetitions within each other");
    check("guided_json", "\"{\\\"pattern\\\":\\\"a{60000}\\\"}\"", "written out");
    check("structured_outputs", "{\"json\":\"" MANY "\"}", "repetitions within each other");
    check("structured_outputs", "{\"structural_tag\":\"" MANY "\"}", "repetitions within each other");
    check("structured_outputs", "{\"json\":\"{}\",\"grammar\":\"root ::= \\\"a\\\"\"}", NULL);
    /* What another parser takes and this one does not is not passed on unseen. */
    check("json_schema", "\"{\\\"maxItems\\\":1000000,\\\"x\\\":NaN}\"", "no JSON");
    check("guided_json", "\"\"", "no JSON");
    check("guided_json", "\"{},{}\"", "no JSON");
    check("structured_outputs", "{\"json\":{},\"json\":\"" MANY "\"}", "twice");
}

/* n times that, with commas between. */
static void repeat(struct sbuf *b, const char *before, const char *each, int n, const char *after)
{
    sbuf_addc(b, before);
    for (int i = 0; i < n; i++) {
        sbuf_addc(b, i ? "," : "");
        sbuf_addf(b, each, i);
    }
    sbuf_addc(b, after);
}

static void how_many_there_may_be(void **state UNUSED)
{
    static const struct {
        const char *field, *before, *each, *after;
        int max;
        const char *says;
    } cases[] = {{"tools", "[", "{\"a\":%d}", "]", SCHEMA_TOOLS_MAX, "128 at most"},
                 {"functions", "[", "{\"a\":%d}", "]", SCHEMA_TOOLS_MAX, "128 at most"},
                 {"json_schema", "{\"enum\":[", "\"v%d\"", "]}", SCHEMA_ENUM_MAX, "enum"},
                 {"json_schema", "{\"properties\":{", "\"p%d\":{}", "}}", SCHEMA_OBJECT_MAX, "one object"},
                 {"json_schema", "{\"items\":[", "{\"$ref\":\"#/$defs/a%d\"}", "]}", SCHEMA_REFERENCES_MAX, "references"},
                 {"json_schema", "[", "{\"properties\":{\"p%d\":{}}}", "]", SCHEMA_PROPERTIES_MAX, "properties"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(sbuf_deinit) struct sbuf most = {0}, more = {0};
        sbuf_init(&most, TEXT_MAX);
        sbuf_init(&more, TEXT_MAX);
        repeat(&most, cases[i].before, cases[i].each, cases[i].max, cases[i].after);
        repeat(&more, cases[i].before, cases[i].each, cases[i].max + 1, cases[i].after);
        check(cases[i].field, most.ptr, NULL);
        check(cases[i].field, more.ptr, cases[i].says);
    }
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, TEXT_MAX);
    repeat(&text, "{\"description\":\"", "%08d", SCHEMA_BYTES_MAX / 9 + 9, "\"}");
    check("tools", text.ptr, "bytes");
}

/* n definitions, of which each is what `each` makes of the next one's reference, twice there. */
static void chain(const char *field, const char *before, const char *each, int n, const char *after, const char *says)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, TEXT_MAX);
    sbuf_addf(&text, "%s{\"$ref\":\"#/$defs/d0\",\"$defs\":{", before);
    for (int i = 0; i < n; i++) {
        char ref[64];
        snprintf(ref, sizeof(ref), "{\"$ref\":\"#/$defs/d%d\"}", i + 1);
        sbuf_addf(&text, "\"d%d\":", i);
        sbuf_addf(&text, each, ref, ref);
        sbuf_addc(&text, ",");
    }
    sbuf_addf(&text, "\"d%d\":{\"type\":\"integer\"}}}%s", n, after);
    check(field, text.ptr, says);
}

static void what_references_multiply_to(void **state UNUSED)
{
#define TOO_MANY "many alternatives in one place"
#define UNION(kind) "{\"" kind "\":[%s,%s]}"
    chain("json_schema", "", UNION("anyOf"), 9, "", NULL);
    chain("json_schema", "", UNION("anyOf"), 10, "", TOO_MANY);
    chain("json_schema", "", UNION("anyOf"), 40, "", TOO_MANY);
    chain("json_schema", "", UNION("oneOf"), 40, "", TOO_MANY);
    chain("response_format", "{\"schema\":", UNION("allOf"), 999 / 2, "}", TOO_MANY);
    chain("tools", "[{\"function\":{\"parameters\":", UNION("anyOf"), 40, "}}]", TOO_MANY);
    for (int n = SCHEMA_ALTERNATIVES_MAX; n <= SCHEMA_ALTERNATIVES_MAX + 1; n++) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        sbuf_init(&text, TEXT_MAX);
        repeat(&text, "{\"items\":{\"anyOf\":[", "{\"const\":%d}", n, "]}}");
        check("json_schema", text.ptr, n > SCHEMA_ALTERNATIVES_MAX ? TOO_MANY : NULL);
        sbuf_reset(&text);
        repeat(&text, "{\"oneOf\":[{\"anyOf\":[{\"$ref\":\"#/$defs/a\"}]}],\"$defs\":{\"a\":{\"enum\":[", "%d", SCHEMA_ENUM_MAX, "]}}}");
        check("json_schema", text.ptr, NULL);
    }
    /* With something between them they stand one behind the other. */
    chain("json_schema", "", "{\"properties\":{\"a\":%s,\"b\":{\"anyOf\":[%s,{\"type\":\"null\"}]}}}", 40, "", NULL);
    chain("json_schema", "", "{\"anyOf\":[{\"items\":%s},{\"prefixItems\":[%s]}]}", 40, "", NULL);
    /* Two tools' definitions of one name are not each other's. */
    check("tools", "[{\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/$defs/b\"}]},\"b\":{}}},{\"$defs\":{\"b\":{\"anyOf\":[{\"$ref\":\"#/$defs/a\"}]},\"a\":{}}}]", NULL);
    check("json_schema", "{\"definitions\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/definitions/b\"}]},\"b\":{\"$ref\":\"#/definitions/a\"}}}", "back to themselves");
    /* As JSON Schema's own recursion is meant. */
    check("json_schema", "{\"$defs\":{\"node\":{\"properties\":{\"node\":{\"$ref\":\"#/$defs/node\"},\"all\":{\"items\":{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"$ref\":\"#\"}]}}}}}}", NULL);
    CLEANUP(sbuf_deinit) struct sbuf most = {0}, more = {0};
    sbuf_init(&most, TEXT_MAX);
    sbuf_init(&more, TEXT_MAX);
    repeat(&most, "{\"anyOf\":[", "{\"$ref\":\"#/properties/p%d\"}", SCHEMA_ELSEWHERE_MAX, "]}");
    repeat(&more, "{\"anyOf\":[", "{\"$ref\":\"#/properties/p%d\"}", SCHEMA_ELSEWHERE_MAX + 1, "]}");
    check("json_schema", most.ptr, NULL);
    check("json_schema", more.ptr, "in no \"$defs\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemas_as_text),
        cmocka_unit_test(what_schemas_may_be),
        cmocka_unit_test(how_many_there_may_be),
        cmocka_unit_test(what_references_multiply_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
