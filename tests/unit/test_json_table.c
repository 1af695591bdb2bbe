/* Field tables: validation with paths, unknown members, updates, defaults, decoding and encoding, OpenAPI. */
#include "unit.h"

#include "base/mem.h"
#include "json/table.h"

#define MAX_BYTES ((size_t)8 << 20)

/* ---- a table with a row of every type ---- */

struct part {
    const char *name, *digest;
    int64_t size;
};
struct box {
    const char *colour;
    bool open;
};
struct thing {
    struct {
        const char *title, *mode, *memory, *since, *label, *host, *secret, *blob;
        int64_t count;
        bool on;
        double ratio;
        struct box box;
        struct box *maybe;
        struct field_list parts, tags, ports;
        struct field_map options;
        json_t *any;
    } spec;
    struct {
        int64_t seen;
    } status;
};
#define SPEC(member) offsetof(struct thing, spec.member) - offsetof(struct thing, spec)
#define PART(member) offsetof(struct part, member)
#define BOX(member) offsetof(struct box, member)

static const struct field part_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = PART(name), .min = 1, .max = 8},
    {.name = "digest", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = PART(digest), .min = 3},
    {.name = "size", .type = FIELD_INT, .offset = PART(size), .min = 1, .max = 100, .def = "1"},
    {0},
};
static const struct field box_fields[] = {
    {.name = "colour", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE, .offset = BOX(colour), .def = "\"grey\""},
    {.name = "open", .type = FIELD_BOOL, .offset = BOX(open)},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "title", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = SPEC(title), .min = 2, .max = 10, .help = "what it is called"},
    {.name = "mode", .type = FIELD_ENUM, .offset = SPEC(mode), .values = "Fast|Slow", .def = "\"Slow\""},
    {.name = "memory", .type = FIELD_QUANTITY, .offset = SPEC(memory)},
    {.name = "since", .type = FIELD_TIME, .flags = FIELD_NULLABLE, .offset = SPEC(since)},
    {.name = "label", .type = FIELD_STRING, .flags = FIELD_DNS_LABEL, .offset = SPEC(label)},
    {.name = "host", .type = FIELD_STRING, .flags = FIELD_DNS_NAME, .offset = SPEC(host)},
    {.name = "secret", .type = FIELD_STRING, .flags = FIELD_SECRET, .offset = SPEC(secret)},
    {.name = "blob", .type = FIELD_STRING, .flags = FIELD_BASE64, .offset = SPEC(blob)},
    {.name = "count", .type = FIELD_INT, .offset = SPEC(count), .min = 1, .max = 5, .def = "3"},
    {.name = "on", .type = FIELD_BOOL, .offset = SPEC(on), .def = "true"},
    {.name = "ratio", .type = FIELD_NUMBER, .offset = SPEC(ratio), .min = 0, .max = 2},
    {.name = "box", .type = FIELD_OBJECT, .offset = SPEC(box), .sub = box_fields, .def = "{}"},
    {.name = "maybe", .type = FIELD_OBJECT, .flags = FIELD_POINTER, .offset = SPEC(maybe), .sub = box_fields, .sub_size = sizeof(struct box)},
    {.name = "parts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = SPEC(parts), .sub = part_fields, .sub_size = sizeof(struct part), .list_type = LIST_MAP, .list_key = "name", .min = 1, .max = 4},
    {.name = "tags", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_DNS_LABEL, .offset = SPEC(tags), .list_type = LIST_SET},
    {.name = "ports", .type = FIELD_LIST, .elem = FIELD_INT, .offset = SPEC(ports)},
    {.name = "options", .type = FIELD_MAP, .offset = SPEC(options), .max = 3},
    {.name = "any", .type = FIELD_ANY, .offset = SPEC(any)},
    {.name = "extra", .type = FIELD_OBJECT, .flags = FIELD_OPEN, .offset = FIELD_NO_MEMBER, .sub = box_fields},
    {0},
};
static const struct field status_fields[] = {
    {.name = "seen", .type = FIELD_INT, .flags = FIELD_READ_ONLY, .offset = 0},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct thing, spec), .sub = spec_fields},
    {.name = "status", .type = FIELD_OBJECT, .offset = offsetof(struct thing, status), .sub = status_fields},
    {0},
};

/* ---- helpers ---- */

static struct arena *arena;

static int setup(void **state UNUSED)
{
    arena = arena_new(64 << 20);
    return 0;
}

static int teardown(void **state UNUSED)
{
    arena_freep(&arena);
    return 0;
}

static json_t *parsed(const char *text)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    int rc = json_parse(str_of(text), MAX_BYTES, &j, &err);
    if (rc < 0)
        fail_msg("%.300s: %s", text, err.msg);
    return j;
}

static void equal(const json_t *got, const char *want)
{
    JSON_AUTO j = parsed(want);
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, MAX_BYTES);
    json_write(got, &b);
    if (!json_equal(got, j))
        fail_msg("got %s, expected %s", b.ptr, want);
}

/* The errors as lines "path reason message". */
static const char *shown(const struct field_errors *e)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 1 << 20);
    for (size_t i = 0; i < e->count; i++)
        sbuf_addf(&b, "%s%s %s %s", i ? "\n" : "", e->items[i].path, e->items[i].reason, e->items[i].message);
    assert_true(sbuf_ok(&b));
    return arena_strndup(arena, sbuf_str(&b));
}

static const char *validated(const char *text)
{
    JSON_AUTO j = parsed(text);
    struct field_errors e = {.arena = arena};
    field_validate(fields, j, "", &e);
    return shown(&e);
}

/* One member of spec beside the required title. */
static const char *spec_with(const char *member)
{
    return validated(arena_printf(arena, "{\"spec\":{\"title\":\"ok\",%s}}", member));
}

static void only(const char *member, const char *want)
{
    const char *got = spec_with(member);
    if (strcmp(got, want) != 0)
        fail_msg("%s:\n got      %s\n expected %s", member, got, want);
}

static void begins(const char *member, const char *want)
{
    const char *got = spec_with(member);
    if (strncmp(got, want, strlen(want)) != 0 || strchr(got, '\n'))
        fail_msg("%s:\n got      %s\n expected %s", member, got, want);
}

/* ---- validation ---- */

static void a_good_document_passes(void **state UNUSED)
{
    assert_string_equal(validated("{\"spec\":{\"title\":\"ok\"}}"), "");
    assert_string_equal(
        validated("{\"spec\":{\"title\":\"ten bytes!\",\"mode\":\"Fast\",\"memory\":\"1.5Gi\",\"since\":\"2026-11-24T09:00:00Z\",\"label\":\"a-1\",\"host\":\"a.b-c.d\",\"blob\":\"aGk=\","
                  "\"count\":5,\"on\":false,\"ratio\":1.5,\"box\":{\"colour\":\"red\",\"open\":true},\"maybe\":{},\"parts\":[{\"name\":\"a\",\"digest\":\"xyz\"},{\"name\":\"b\",\"digest\":\"xyz\",\"size\":100}],"
                  "\"tags\":[\"x\",\"y\"],\"ports\":[1,1],\"options\":{\"k\":\"v\"},\"any\":[{}],\"extra\":{\"more\":1}},\"status\":{\"seen\":1}}"),
        "");
    /* null is absence, for what is not required. */
    only("\"mode\":null,\"box\":null,\"parts\":null,\"since\":null,\"options\":null", "");
}

static void required_members(void **state UNUSED)
{
    assert_string_equal(validated("{}"), "spec FieldValueRequired Required value");
    assert_string_equal(validated("{\"spec\":null}"), "spec FieldValueRequired Required value");
    assert_string_equal(validated("{\"spec\":{}}"), "spec.title FieldValueRequired Required value");
    assert_string_equal(validated("{\"spec\":{\"title\":null}}"), "spec.title FieldValueRequired Required value");
    assert_string_equal(validated("{\"spec\":{\"title\":\"\"}}"), "spec.title FieldValueRequired Required value");
    only("\"parts\":[{\"name\":\"a\",\"digest\":\"abc\"},{\"name\":\"b\",\"digest\":\"abc\"},{\"name\":\"c\"}]", "spec.parts[2].digest FieldValueRequired Required value");
}

static void types(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"\"mode\":1", "spec.mode FieldValueTypeInvalid Invalid value: \"integer\": must be of type string"},
        {"\"memory\":[]", "spec.memory FieldValueTypeInvalid Invalid value: \"array\": must be of type string"},
        {"\"since\":12", "spec.since FieldValueTypeInvalid Invalid value: \"integer\": must be of type string"},
        {"\"count\":\"3\"", "spec.count FieldValueTypeInvalid Invalid value: \"string\": must be of type integer"},
        {"\"count\":1.0", "spec.count FieldValueTypeInvalid Invalid value: \"number\": must be of type integer"},
        {"\"on\":0", "spec.on FieldValueTypeInvalid Invalid value: \"integer\": must be of type boolean"},
        {"\"ratio\":true", "spec.ratio FieldValueTypeInvalid Invalid value: \"boolean\": must be of type number"},
        {"\"box\":[]", "spec.box FieldValueTypeInvalid Invalid value: \"array\": must be of type object"},
        {"\"box\":{\"open\":\"x\"}", "spec.box.open FieldValueTypeInvalid Invalid value: \"string\": must be of type boolean"},
        {"\"parts\":{}", "spec.parts FieldValueTypeInvalid Invalid value: \"object\": must be of type array"},
        {"\"parts\":[1]", "spec.parts[0] FieldValueTypeInvalid Invalid value: \"integer\": must be of type object"},
        {"\"parts\":[null]", "spec.parts[0] FieldValueTypeInvalid Invalid value: \"null\": must be of type object"},
        {"\"tags\":[\"a\",7]", "spec.tags[1] FieldValueTypeInvalid Invalid value: \"integer\": must be of type string"},
        {"\"ports\":[1,\"x\"]", "spec.ports[1] FieldValueTypeInvalid Invalid value: \"string\": must be of type integer"},
        {"\"options\":[]", "spec.options FieldValueTypeInvalid Invalid value: \"array\": must be of type object"},
        {"\"options\":{\"a.b\":1}", "spec.options[a.b] FieldValueTypeInvalid Invalid value: \"integer\": must be of type string"},
        {"\"options\":{\"k\":null}", "spec.options[k] FieldValueTypeInvalid Invalid value: \"null\": must be of type string"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        only(cases[i][0], cases[i][1]);
    assert_string_equal(validated("{\"spec\":7}"), "spec FieldValueTypeInvalid Invalid value: \"integer\": must be of type object");
}

static void bounds(void **state UNUSED)
{
    only("\"count\":0", "spec.count FieldValueInvalid Invalid value: 0: must be greater than or equal to 1");
    only("\"count\":6", "spec.count FieldValueInvalid Invalid value: 6: must be less than or equal to 5");
    only("\"count\":-9223372036854775808", "spec.count FieldValueInvalid Invalid value: -9223372036854775808: must be greater than or equal to 1");
    only("\"ratio\":2", "");
    begins("\"ratio\":2.5", "spec.ratio FieldValueInvalid Invalid value: 2.5: must be less than or equal to 2");
    begins("\"ratio\":-0.5", "spec.ratio FieldValueInvalid Invalid value: -0.5: must be greater than or equal to 0");
    assert_string_equal(validated("{\"spec\":{\"title\":\"x\"}}"), "spec.title FieldValueInvalid Invalid value: \"x\": must have at least 2 bytes");
    assert_string_equal(validated("{\"spec\":{\"title\":\"eleven bytes\"}}"), "spec.title FieldValueTooLong Too long: may not be more than 10 bytes");
    only("\"parts\":[]", "spec.parts FieldValueInvalid Invalid value: must have at least 1 items");
    only("\"parts\":[1,2,3,4,5]", "spec.parts FieldValueTooMany Too many: 5: must have at most 4 items");
    only("\"options\":{\"a\":\"\",\"b\":\"\",\"c\":\"\"}", "");
    only("\"options\":{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"d\":\"\"}", "spec.options FieldValueTooMany Too many: 4: must have at most 3 items");
    only("\"parts\":[{\"name\":\"a\",\"digest\":\"abc\",\"size\":101}]", "spec.parts[0].size FieldValueInvalid Invalid value: 101: must be less than or equal to 100");
}

static void enums(void **state UNUSED)
{
    only("\"mode\":\"fast\"", "spec.mode FieldValueNotSupported Unsupported value: \"fast\": supported values: \"Fast\", \"Slow\"");
    static const char *const others[] = {"", "Fas", "Faster", "Fast|Slow", "|", " Fast"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        begins(arena_printf(arena, "\"mode\":\"%s\"", others[i]), "spec.mode FieldValueNotSupported");
}

static void lists_by_key_and_sets(void **state UNUSED)
{
    only("\"tags\":[\"a\",\"b\",\"a\"]", "spec.tags[2] FieldValueDuplicate Duplicate value: \"a\"");
    only("\"parts\":[{\"name\":\"a\",\"digest\":\"abc\"},{\"name\":\"a\",\"digest\":\"abd\"}]", "spec.parts[1] FieldValueDuplicate Duplicate value: {\"name\":\"a\",\"digest\":\"abd\"}");
    only("\"ports\":[1,1,1]", "");
    /* Of words that are listed. */
    static const struct field days[] = {{.name = "l", .type = FIELD_LIST, .elem = FIELD_ENUM, .values = "Mon|Tue", .list_type = LIST_SET}, {0}};
    JSON_AUTO words = json_pack("{s:[s, s]}", "l", "Tue", "tue");
    struct field_errors wrong = {.arena = arena};
    field_validate(days, words, "", &wrong);
    assert_int_equal(wrong.count, 1);
    assert_string_equal(wrong.items[0].path, "l[1]");
    assert_string_equal(wrong.items[0].message, "Unsupported value: \"tue\": supported values: \"Mon\", \"Tue\"");
    JSON_AUTO schema = field_openapi(days, NULL);
    equal(json_at(schema, "properties.l.items"), "{\"type\":\"string\",\"enum\":[\"Mon\",\"Tue\"]}");
    /* Long elements that differ at their ends only are different. */
    static const struct field long_set[] = {{.name = "l", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET}, {0}};
    char *a = xcalloc(1, 100001), *b = xcalloc(1, 100001);
    memset(a, 'x', 100000);
    memset(b, 'x', 100000);
    b[99999] = 'y';
    JSON_AUTO j = json_pack("{s:[s, s]}", "l", a, b);
    struct field_errors e = {.arena = arena};
    field_validate(long_set, j, "", &e);
    assert_int_equal(e.count, 0);
    mem_free(a);
    mem_free(b);
    /* Keys of two members: their pairs count, not their texts put together. */
    static const struct field pair_fields[] = {{.name = "name", .type = FIELD_STRING}, {.name = "port", .type = FIELD_INT}, {0}};
    static const struct field pairs[] = {{.name = "l", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = pair_fields, .list_type = LIST_MAP, .list_key = "name,port"}, {0}};
    JSON_AUTO k = parsed("{\"l\":[{\"name\":\"a\",\"port\":1},{\"name\":\"a\",\"port\":2},{\"name\":\"b\",\"port\":1},{\"name\":\"a\"},{\"port\":2,\"name\":\"a\"}]}");
    field_validate(pairs, k, "at", &e);
    assert_int_equal(e.count, 1);
    assert_string_equal(e.items[0].path, "at.l[4]");
    assert_string_equal(e.items[0].reason, "FieldValueDuplicate");
}

static void formats(void **state UNUSED)
{
    static const char *const quantities[] = {"0", "1", "-1", "+1", "500m", "2Gi", "1Ei", "1E", "1Pi", "1.5Gi", ".5", "1.", "1e3", "1E3", "1e-3", "1E+03", "100n", "100u", "3k", "3M"};
    static const char *const no_quantities[] = {"", "m", "-", ".", "1 Gi", "1gi", "1K", "1Kib", "1e", "1e+", "1ei", "1Eii", "1e1234", "0x1", "1,5", "Gi", "--1", "1.2.3", "NaN", "1234567890123456789012345678901"};
    for (size_t i = 0; i < ARRAY_LEN(quantities); i++)
        only(arena_printf(arena, "\"memory\":\"%s\"", quantities[i]), "");
    only("\"memory\":2,\"label\":\"\",\"host\":\"\"", "");
    for (size_t i = 0; i < ARRAY_LEN(no_quantities); i++)
        begins(arena_printf(arena, "\"memory\":\"%s\"", no_quantities[i]), "spec.memory FieldValueInvalid");
    static const char *const times[] = {"2026-11-24T09:00:00Z", "2026-11-24T09:00:00.123456Z", "2026-11-24T09:00:00+09:00"};
    static const char *const no_times[] = {"", "2026-11-24", "2026-13-24T09:00:00Z", "2026-11-24T09:00:00", "now", "2026-02-30T00:00:00Z"};
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        only(arena_printf(arena, "\"since\":\"%s\"", times[i]), "");
    for (size_t i = 0; i < ARRAY_LEN(no_times); i++)
        begins(arena_printf(arena, "\"since\":\"%s\"", no_times[i]), "spec.since FieldValueInvalid");
    static const char *const blobs[] = {"", "aGk=", "YQ==", "YWJj", "+/+/"};
    static const char *const no_blobs[] = {"a", "ab", "abc", "a===", "====", "ab=c", "=abc", "a-b_", "YWJj\\n", "aGk=YQ=="};
    for (size_t i = 0; i < ARRAY_LEN(blobs); i++)
        only(arena_printf(arena, "\"blob\":\"%s\"", blobs[i]), "");
    for (size_t i = 0; i < ARRAY_LEN(no_blobs); i++)
        only(arena_printf(arena, "\"blob\":\"%s\"", no_blobs[i]), "spec.blob FieldValueInvalid Invalid value: must be base64");
    /* Formats hold for the elements of lists. */
    begins("\"tags\":[\"ok\",\"Not\"]", "spec.tags[1] FieldValueInvalid Invalid value: \"Not\": a lowercase RFC 1123 label");
    begins("\"host\":\"a..b\"", "spec.host FieldValueInvalid Invalid value: \"a..b\": a lowercase RFC 1123 subdomain");
    begins("\"label\":\"a.b\"", "spec.label FieldValueInvalid Invalid value: \"a.b\": a lowercase RFC 1123 label");
}

static void names_of_kubernetes(void **state UNUSED)
{
    char l63[64], l64[65], n253[254], n254[255];
    memset(l63, 'a', 63), l63[63] = 0;
    memset(l64, 'a', 64), l64[64] = 0;
    memset(n253, 'a', 253), n253[253] = 0;
    memset(n254, 'a', 254), n254[254] = 0;
    const struct {
        const char *text;
        bool label, name, key, value;
    } cases[] = {
        {"a", true, true, true, true},
        {"0", true, true, true, true},
        {"a-b", true, true, true, true},
        {"-a", false, false, false, false},
        {"a-", false, false, false, false},
        {"", false, false, false, true},
        {"A", false, false, true, true},
        {"a_b", false, false, true, true},
        {"a.b", false, true, true, true},
        {".a", false, false, false, false},
        {"a.", false, false, false, false},
        {"a..b", false, false, true, true},
        {"a.-b", false, false, true, true},
        {"a b", false, false, false, false},
        {"a/b", false, false, true, false},
        {"seki.cloud/tenant", false, false, true, false},
        {"/a", false, false, false, false},
        {"a/", false, false, false, false},
        {"a/b/c", false, false, false, false},
        {"A.b/c", false, false, false, false},
        {"\xC3\xA4", false, false, false, false},
        {l63, true, true, true, true},
        {l64, false, true, false, false},
        {n253, false, true, false, false},
        {n254, false, false, false, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct str s = str_of(cases[i].text);
        if (field_dns_label(s) != cases[i].label || field_dns_name(s) != cases[i].name || field_label_key(s) != cases[i].key || field_label_value(s) != cases[i].value)
            fail_msg("'%s': label %d, name %d, key %d, value %d", cases[i].text, field_dns_label(s), field_dns_name(s), field_label_key(s), field_label_value(s));
    }
    assert_false(field_label_value(STR("a\0b")));
    assert_false(field_dns_name(STR("a\0b")));
}

static void every_error_is_reported_up_to_a_bound(void **state UNUSED)
{
    assert_string_equal(spec_with("\"count\":9,\"on\":1,\"status\":3,\"mode\":\"x\""),
                        "spec.mode FieldValueNotSupported Unsupported value: \"x\": supported values: \"Fast\", \"Slow\"\n"
                        "spec.count FieldValueInvalid Invalid value: 9: must be less than or equal to 5\n"
                        "spec.on FieldValueTypeInvalid Invalid value: \"integer\": must be of type boolean");
    /* A document full of errors costs no more memory than the ones that are kept. */
    JSON_AUTO j = json_pack("{s:{s:s, s:o}}", "spec", "title", "ok", "tags", json_array());
    for (int i = 0; i < 100000; i++)
        json_array_append_new(json_at(j, "spec.tags"), json_sprintf("%0200d_", i));
    CLEANUP(arena_freep) struct arena *small = arena_new(512 * 1024);
    struct field_errors e = {.arena = small};
    field_validate(fields, j, "", &e);
    assert_int_equal(e.count, FIELD_ERRORS_MAX);
    assert_string_equal(e.items[FIELD_ERRORS_MAX - 1].path, "spec.tags[31]");
}

static void errors_are_utf8_whatever_was_sent(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 65536);
    /* Three-byte characters behind 0, 1 and 2 others: one of them is cut in its middle, wherever the cut is. */
    for (int shift = 0; shift < 3; shift++) {
        sbuf_reset(&b);
        for (int i = 0; i < shift; i++)
            sbuf_addc(&b, "a");
        for (int i = 0; i < 400; i++)
            sbuf_addc(&b, "\xE6\xBC\xA2");
        JSON_AUTO j = json_pack("{s:{s:s, s:s, s:{s:i}, s:i}}", "spec", "title", b.ptr, "mode", b.ptr, "options", b.ptr, 1, b.ptr, 1);
        struct field_errors e = {.arena = arena};
        field_validate(fields, j, "", &e);
        field_unknown(fields, j, "", &e);
        field_errors_add(&e, "p", "FieldValueInvalid", "Invalid value: \"%s\"", b.ptr);
        assert_int_equal(e.count, 5);
        for (size_t i = 0; i < e.count; i++) {
            assert_true(str_utf8_valid(str_of(e.items[i].path)));
            assert_true(str_utf8_valid(str_of(e.items[i].message)));
        }
    }
}

/* ---- unknown members ---- */

static void unknown_members(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"spec\":{\"title\":\"ok\",\"Title\":1,\"box\":{\"colour\":\"x\",\"color\":\"x\"},\"parts\":[{\"name\":\"a\"},1,{\"nmae\":\"b\"}],\"options\":{\"free\":\"x\"},"
                         "\"any\":{\"free\":1},\"extra\":{\"free\":1},\"maybe\":7},\"metadata\":{}}");
    struct field_errors e = {.arena = arena};
    field_unknown(fields, j, "", &e);
    assert_string_equal(shown(&e), "spec.Title FieldUnknown unknown field \"spec.Title\"\n"
                                   "spec.box.color FieldUnknown unknown field \"spec.box.color\"\n"
                                   "spec.parts[2].nmae FieldUnknown unknown field \"spec.parts[2].nmae\"\n"
                                   "metadata FieldUnknown unknown field \"metadata\"");
    /* With a prefix. */
    struct field_errors at = {.arena = arena};
    JSON_AUTO b = parsed("{\"x\":1}");
    field_unknown(box_fields, b, "spec.box", &at);
    assert_string_equal(shown(&at), "spec.box.x FieldUnknown unknown field \"spec.box.x\"");
    /* They are no errors of validation. */
    struct field_errors none = {.arena = arena};
    json_object_del(json_object_get(j, "spec"), "parts");
    json_object_del(json_object_get(j, "spec"), "maybe");
    field_validate(fields, j, "", &none);
    assert_string_equal(shown(&none), "");
}

static void pruning_removes_what_is_unknown(void **state UNUSED)
{
    static const struct field also[] = {{.name = "metadata", .type = FIELD_ANY}, {0}};
    JSON_AUTO j = parsed("{\"spec\":{\"title\":\"ok\",\"x1\":1,\"x2\":1,\"x3\":1,\"box\":{\"open\":true,\"y\":1},\"parts\":[{\"name\":\"a\",\"z\":1},1,[]],\"options\":{\"free\":\"x\"},\"any\":{\"free\":1},"
                         "\"extra\":{\"free\":1}},\"metadata\":{\"free\":1},\"other\":1}");
    JSON_AUTO without = json_deep_copy(j);
    field_prune(fields, also, j);
    equal(j, "{\"spec\":{\"title\":\"ok\",\"box\":{\"open\":true},\"parts\":[{\"name\":\"a\"},1,[]],\"options\":{\"free\":\"x\"},\"any\":{\"free\":1},\"extra\":{\"free\":1}},\"metadata\":{\"free\":1}}");
    field_prune(fields, NULL, without);
    assert_null(json_object_get(without, "metadata"));
    struct field_errors e = {.arena = arena};
    field_unknown(fields, without, "", &e);
    assert_int_equal(e.count, 0);
}

/* ---- updates ---- */

static const char *updated(const char *from, const char *to)
{
    JSON_AUTO a = parsed(from);
    JSON_AUTO b = parsed(to);
    struct field_errors e = {.arena = arena};
    field_validate_update(fields, a, b, "", &e);
    return shown(&e);
}

static void immutable_members(void **state UNUSED)
{
    const char *old = "{\"spec\":{\"title\":\"ok\",\"count\":1,\"box\":{\"colour\":\"red\",\"open\":true}}}";
    assert_string_equal(updated(old, old), "");
    assert_string_equal(updated(old, "{\"spec\":{\"title\":\"ok\",\"count\":2,\"box\":{\"colour\":\"red\",\"open\":false}}}"), "");
    assert_string_equal(updated(old, "{\"spec\":{\"title\":\"no\",\"box\":{\"colour\":\"red\"}}}"), "spec.title FieldValueInvalid Invalid value: \"no\": field is immutable");
    assert_string_equal(updated(old, "{\"spec\":{\"box\":{\"colour\":\"red\"}}}"), "spec.title FieldValueInvalid Invalid value: null: field is immutable");
    assert_string_equal(updated(old, "{\"spec\":{\"title\":null,\"box\":{\"colour\":\"red\"}}}"), "spec.title FieldValueInvalid Invalid value: null: field is immutable");
    assert_string_equal(updated(old, "{\"spec\":{\"title\":\"ok\",\"box\":{\"colour\":\"blue\"}}}"), "spec.box.colour FieldValueInvalid Invalid value: \"blue\": field is immutable");
    /* Leaving out what is around it is no way to take it off. */
    assert_string_equal(updated(old, "{\"spec\":{\"title\":\"ok\"}}"), "spec.box.colour FieldValueInvalid Invalid value: null: field is immutable");
    assert_string_equal(updated(old, "{\"spec\":{\"title\":\"ok\",\"box\":null}}"), "spec.box.colour FieldValueInvalid Invalid value: null: field is immutable");
    /* What was never set may be set. */
    assert_string_equal(updated("{\"spec\":{\"title\":null,\"box\":{}}}", old), "");
    assert_string_equal(updated("{\"spec\":{\"title\":\"ok\"}}", old), "");
}

static void read_only_members_are_the_servers(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"spec\":{\"title\":\"ok\"},\"status\":{\"seen\":9}}");
    JSON_AUTO old = parsed("{\"spec\":{\"title\":\"old\"},\"status\":{\"seen\":4}}");
    JSON_AUTO created = json_deep_copy(j);
    field_keep_read_only(fields, NULL, created);
    equal(created, "{\"spec\":{\"title\":\"ok\"},\"status\":{}}");
    field_keep_read_only(fields, old, j);
    equal(j, "{\"spec\":{\"title\":\"ok\"},\"status\":{\"seen\":4}}");
}

/* ---- defaults, secrets ---- */

static void null_is_absence_but_where_it_may_be(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"spec\":{\"title\":null,\"since\":null,\"count\":null,\"any\":null,\"box\":{\"open\":null,\"colour\":\"red\"},\"parts\":[{\"name\":\"a\",\"size\":null},7,null],\"tags\":null}}");
    field_drop_nulls(fields, j);
    equal(j, "{\"spec\":{\"since\":null,\"box\":{\"colour\":\"red\"},\"parts\":[{\"name\":\"a\"},7,null]}}");
}

static void absent_members_get_their_defaults(void **state UNUSED)
{
    JSON_AUTO j = parsed("{\"spec\":{\"mode\":null,\"count\":0,\"maybe\":{},\"parts\":[{\"name\":\"a\"},{\"size\":7},3]}}");
    field_defaults(fields, j);
    equal(j, "{\"spec\":{\"mode\":\"Slow\",\"count\":0,\"on\":true,\"box\":{\"colour\":\"grey\"},\"maybe\":{\"colour\":\"grey\"},\"parts\":[{\"name\":\"a\",\"size\":1},{\"size\":7},3]}}");
    /* Once more changes nothing; an object without a default of its own is not made. */
    JSON_AUTO again = json_deep_copy(j);
    field_defaults(fields, again);
    assert_true(json_equal(j, again));
    JSON_AUTO empty = json_object();
    field_defaults(fields, empty);
    equal(empty, "{}");
}

static void secrets_are_redacted(void **state UNUSED)
{
    static const struct field inner[] = {{.name = "key", .type = FIELD_STRING, .flags = FIELD_SECRET}, {.name = "name", .type = FIELD_STRING}, {0}};
    static const struct field outer[] = {
        {.name = "list", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = inner},
        {.name = "one", .type = FIELD_OBJECT, .sub = inner},
        {.name = "data", .type = FIELD_MAP, .flags = FIELD_SECRET},
        {0},
    };
    JSON_AUTO j = parsed("{\"list\":[{\"key\":\"s\",\"name\":\"a\"},1,{\"key\":{\"odd\":\"s\"}}],\"one\":{\"key\":\"s\",\"name\":\"b\"},\"data\":{\"k\":\"s\"},\"more\":1}");
    field_redact(outer, j);
    equal(j, "{\"list\":[{\"name\":\"a\"},1,{}],\"one\":{\"name\":\"b\"},\"more\":1}");
}

/* ---- decode and encode ---- */

static const char full[] = "{\"spec\":{\"title\":\"ok\",\"mode\":\"Fast\",\"memory\":\"2Gi\",\"since\":\"2026-11-24T09:00:00Z\",\"count\":-5,\"on\":true,\"ratio\":0.5,\"box\":{\"colour\":\"red\",\"open\":true},"
                           "\"maybe\":{\"colour\":\"blue\",\"open\":false},\"parts\":[{\"name\":\"a\",\"digest\":\"x\",\"size\":1},{\"name\":\"b\",\"digest\":\"y\",\"size\":2}],\"tags\":[\"p\",\"q\"],"
                           "\"ports\":[9223372036854775807,-1],\"options\":{\"k\":\"v\",\"\":\"w\"},\"any\":{\"x\":[1]}},\"status\":{\"seen\":3}}";

static void documents_become_structs(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO j = parsed(full);
    struct thing t = {0};
    ASSERT_OK(field_decode(fields, j, arena, &t, &err));
    assert_string_equal(t.spec.title, "ok");
    assert_string_equal(t.spec.mode, "Fast");
    assert_string_equal(t.spec.memory, "2Gi");
    assert_null(t.spec.label);
    assert_int_equal(t.spec.count, -5);
    assert_true(t.spec.on);
    assert_true(t.spec.ratio == 0.5);
    assert_string_equal(t.spec.box.colour, "red");
    assert_true(t.spec.box.open);
    assert_string_equal(t.spec.maybe->colour, "blue");
    assert_int_equal(t.spec.parts.count, 2);
    assert_string_equal(((struct part *)t.spec.parts.items)[1].digest, "y");
    assert_int_equal(((struct part *)t.spec.parts.items)[1].size, 2);
    assert_string_equal(((const char **)t.spec.tags.items)[1], "q");
    assert_true(((int64_t *)t.spec.ports.items)[0] == INT64_MAX);
    assert_int_equal(t.spec.options.count, 2);
    assert_string_equal(t.spec.options.values[1], "w");
    assert_ptr_equal(t.spec.any, json_at(j, "spec.any"));
    assert_int_equal(t.status.seen, 3);
}

static void structs_become_documents_again(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO j = parsed(full);
    struct thing t = {0};
    ASSERT_OK(field_decode(fields, j, arena, &t, &err));
    JSON_AUTO out = field_encode(fields, &t);
    equal(out, full);
    struct thing zero = {0};
    JSON_AUTO empty = field_encode(fields, &zero);
    equal(empty, "{\"spec\":{\"count\":0,\"on\":false,\"ratio\":0.0,\"box\":{\"open\":false}},\"status\":{\"seen\":0}}");
}

static void decoding_survives_what_was_not_validated(void **state UNUSED)
{
    static const char *const texts[] = {
        "{}", "{\"spec\":null}", "{\"spec\":[1]}", "{\"spec\":{\"title\":1,\"mode\":[],\"since\":{},\"count\":\"x\",\"on\":3,\"ratio\":\"1\",\"box\":7,\"maybe\":7,\"parts\":{\"a\":1},\"tags\":7,\"ports\":\"x\",\"options\":[1]}}",
        "{\"spec\":{\"parts\":[1,null,\"x\",[]],\"tags\":[1,null],\"ports\":[\"x\"],\"options\":{\"a\":1}}}",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO j = parsed(texts[i]);
        struct thing t = {0};
        ASSERT_OK(field_decode(fields, j, arena, &t, &err));
        JSON_AUTO out = field_encode(fields, &t);
        assert_true(json_is_object(out));
    }
    /* A table without the size of its elements is our mistake, and says so. */
    static const struct field bad[] = {{.name = "l", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = box_fields}, {0}};
    struct err err = ERR_INIT;
    struct field_list l = {0};
    JSON_AUTO j = parsed("{\"l\":[{}]}");
    ASSERT_ERR(field_decode(bad, j, arena, &l, &err), ERR_INTERNAL);
}

/* ---- OpenAPI ---- */

static void tables_become_schemas(void **state UNUSED)
{
    JSON_AUTO s = field_openapi(fields, NULL);
    equal(json_at(s, "required"), "[\"spec\"]");
    const json_t *p = json_at(s, "properties.spec.properties");
    equal(json_at(p, "title"), "{\"type\":\"string\",\"description\":\"what it is called\",\"minLength\":2,\"maxLength\":10}");
    equal(json_at(p, "mode"), "{\"type\":\"string\",\"default\":\"Slow\",\"enum\":[\"Fast\",\"Slow\"]}");
    equal(json_at(p, "since"), "{\"type\":\"string\",\"format\":\"date-time\",\"nullable\":true}");
    equal(json_at(p, "count"), "{\"type\":\"integer\",\"format\":\"int64\",\"default\":3,\"minimum\":1,\"maximum\":5}");
    equal(json_at(p, "ratio"), "{\"type\":\"number\",\"format\":\"double\",\"minimum\":0,\"maximum\":2}");
    equal(json_at(p, "tags"), "{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"x-kubernetes-list-type\":\"set\",\"x-kubernetes-patch-strategy\":\"merge\"}");
    equal(json_at(p, "options"), "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"},\"maxProperties\":3}");
    equal(json_at(json_at(p, "parts"), "x-kubernetes-list-map-keys"), "[\"name\"]");
    equal(json_at(p, "parts.items.required"), "[\"name\",\"digest\"]");
    equal(json_at(s, "properties.status.properties.seen"), "{\"type\":\"integer\",\"format\":\"int64\",\"readOnly\":true}");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_good_document_passes),
        TEST(required_members),
        TEST(null_is_absence_but_where_it_may_be),
        TEST(types),
        TEST(bounds),
        TEST(enums),
        TEST(lists_by_key_and_sets),
        TEST(formats),
        TEST(names_of_kubernetes),
        TEST(every_error_is_reported_up_to_a_bound),
        TEST(errors_are_utf8_whatever_was_sent),
        TEST(unknown_members),
        TEST(pruning_removes_what_is_unknown),
        TEST(immutable_members),
        TEST(read_only_members_are_the_servers),
        TEST(absent_members_get_their_defaults),
        TEST(secrets_are_redacted),
        TEST(documents_become_structs),
        TEST(structs_become_documents_again),
        TEST(decoding_survives_what_was_not_validated),
        TEST(tables_become_schemas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
