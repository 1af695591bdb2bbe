/* Field tables over any documents: input is a document, or the old and the new one with a byte 0x1E between them. */
#include "fuzz.h"

#include "json/table.h"

#define INPUT_MAX 65536
#define SEPARATOR 0x1E

struct part {
    const char *name;
    int64_t size;
};
struct thing {
    const char *title, *mode, *memory, *since, *label, *host, *blob;
    int64_t count;
    bool on;
    double ratio;
    struct part inner, *maybe;
    struct field_list parts, tags, ports;
    struct field_map options;
    json_t *any;
    int64_t seen;
};
#define ROW(type_, name_) .name = #name_, .type = type_, .offset = offsetof(struct thing, name_)

static const struct field part_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = offsetof(struct part, name), .min = 1, .max = 8},
    {.name = "size", .type = FIELD_INT, .offset = offsetof(struct part, size), .min = 1, .max = 100, .def = "1"},
    {0},
};
static const struct field fields[] = {
    {ROW(FIELD_STRING, title), .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .min = 2, .max = 10},
    {ROW(FIELD_ENUM, mode), .values = "Fast|Slow", .def = "\"Slow\""},
    {ROW(FIELD_QUANTITY, memory)},
    {ROW(FIELD_TIME, since), .flags = FIELD_NULLABLE},
    {ROW(FIELD_STRING, label), .flags = FIELD_DNS_LABEL},
    {ROW(FIELD_STRING, host), .flags = FIELD_DNS_NAME},
    {ROW(FIELD_STRING, blob), .flags = FIELD_BASE64 | FIELD_SECRET},
    {ROW(FIELD_INT, count), .min = 1, .max = 5, .def = "3"},
    {ROW(FIELD_BOOL, on), .def = "true"},
    {ROW(FIELD_NUMBER, ratio), .max = 2},
    {ROW(FIELD_OBJECT, inner), .sub = part_fields},
    {ROW(FIELD_OBJECT, maybe), .flags = FIELD_POINTER, .sub = part_fields, .sub_size = sizeof(struct part)},
    {ROW(FIELD_LIST, parts), .elem = FIELD_OBJECT, .sub = part_fields, .sub_size = sizeof(struct part), .list_type = LIST_MAP, .list_key = "name,size", .min = 1, .max = 20},
    {ROW(FIELD_LIST, tags), .elem = FIELD_STRING, .flags = FIELD_DNS_LABEL, .list_type = LIST_SET},
    {ROW(FIELD_LIST, ports), .elem = FIELD_INT},
    {ROW(FIELD_MAP, options), .flags = FIELD_BASE64, .max = 3},
    {ROW(FIELD_ANY, any)},
    {.name = "extra", .type = FIELD_OBJECT, .flags = FIELD_OPEN, .offset = FIELD_NO_MEMBER, .sub = part_fields},
    {ROW(FIELD_INT, seen), .flags = FIELD_READ_ONLY},
    {0},
};

static void check_errors(const struct field_errors *e)
{
    if (e->count > FIELD_ERRORS_MAX)
        abort();
    for (size_t i = 0; i < e->count; i++)
        if (!str_utf8_valid(str_of(e->items[i].path)) || !str_utf8_valid(str_of(e->items[i].message)))
            abort();
}

static json_t *encoded(const json_t *j, struct arena *a)
{
    struct thing t = {0};
    if (field_decode(fields, j, a, &t, NULL) < 0)
        abort();
    json_t *out = field_encode(fields, &t);
    return out ? out : (abort(), NULL);
}

/* Document to struct to document: from there on it stays the same. */
static void check_round_trip(const json_t *j, struct arena *a)
{
    JSON_AUTO once = encoded(j, a);
    JSON_AUTO twice = encoded(once, a);
    if (!json_equal(once, twice))
        abort();
}

static void check_prune(json_t *j, struct arena *a)
{
    struct field_errors none = {.arena = a};
    field_prune(fields, NULL, j);
    field_unknown(fields, j, "", &none);
    if (none.count)
        abort();
    field_keep_read_only(fields, NULL, j);
    field_redact(fields, j);
    if (json_object_get(j, "seen") || json_object_get(j, "blob"))
        abort();
}

static void check(json_t *j, struct arena *a)
{
    struct field_errors e = {.arena = a}, same = {.arena = a};
    field_validate(fields, j, "", &e);
    bool valid = !e.count;
    field_unknown(fields, j, "", &e);
    check_errors(&e);
    field_validate_update(fields, j, j, "", &same);
    if (same.count)
        abort();
    check_round_trip(j, a);
    /* Defaults make nothing wrong, and are there after the first time. */
    JSON_AUTO full = json_deep_copy(j);
    struct field_errors after = {.arena = a};
    field_defaults(fields, full);
    JSON_AUTO again = json_deep_copy(full);
    field_defaults(fields, again);
    field_validate(fields, full, "", &after);
    if (!json_equal(full, again) || (valid && after.count && !json_object_get(j, "parts")))
        abort();
    check_prune(j, a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    CLEANUP(arena_freep) struct arena *a = arena_new((size_t)256 << 20);
    struct str rest = str_n(data, size), text;
    JSON_AUTO old = NULL;
    JSON_AUTO new = NULL;
    if (str_cut(&rest, SEPARATOR, &text))
        (void)!json_parse(text, INPUT_MAX, &old, NULL);
    (void)!json_parse(rest, INPUT_MAX, &new, NULL);
    if (old && new) {
        struct field_errors e = {.arena = a};
        field_validate_update(fields, old, new, "at", &e);
        check_errors(&e);
        field_keep_read_only(fields, old, new);
        if (json_is_object(new) && !json_equal(json_object_get(new, "seen"), json_object_get(old, "seen")) && json_object_get(old, "seen"))
            abort();
    }
    if (old)
        check(old, a);
    if (new)
        check(new, a);
    return 0;
}
