/* Field tables as OpenAPI v3 schemas, with Kubernetes' marks: how lists merge, what may be unknown. */
#include "json/table.h"

#define LABEL_PATTERN "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"
#define NAME_PATTERN "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$"

typedef const char *ref_fn(const struct field *table);

static json_t *object_schema(const struct field *sub, ref_fn *ref_of)
{
    const char *ref = sub && ref_of ? ref_of(sub) : NULL;
    if (ref)
        return json_pack("{s:[{s:s}]}", "allOf", "$ref", ref); /* beside a bare $ref nothing else would count */
    return field_openapi(sub, ref_of);
}

static json_t *list_schema(const struct field *f, ref_fn *ref_of);

static json_t *values_of(const struct field *f)
{
    json_t *values = json_array();
    struct str rest = str_of(f->values), item;
    while (str_cut(&rest, '|', &item))
        json_array_append_new(values, json_stringn(item.ptr, item.len));
    return values;
}

static json_t *schema_of(const struct field *f, enum field_type type, ref_fn *ref_of)
{
    switch (type) {
    case FIELD_INT:
        return json_pack("{s:s, s:s}", "type", "integer", "format", "int64");
    case FIELD_BOOL:
        return json_pack("{s:s}", "type", "boolean");
    case FIELD_NUMBER:
        return json_pack("{s:s, s:s}", "type", "number", "format", "double");
    case FIELD_OBJECT:
        return object_schema(f->sub, ref_of);
    case FIELD_LIST:
        return list_schema(f, ref_of);
    case FIELD_MAP:
        return json_pack("{s:s, s:{s:s, s:s*}}", "type", "object", "additionalProperties", "type", "string", "format", f->flags & FIELD_BASE64 ? "byte" : NULL);
    case FIELD_ANY:
        return json_pack("{s:b}", "x-kubernetes-preserve-unknown-fields", 1);
    case FIELD_TIME:
        return json_pack("{s:s, s:s}", "type", "string", "format", "date-time");
    case FIELD_ENUM:
        return json_pack("{s:s, s:o}", "type", "string", "enum", values_of(f));
    case FIELD_QUANTITY:
        return json_pack("{s:[{s:s}, {s:s}]}", "oneOf", "type", "string", "type", "number");
    default:
        return json_pack("{s:s}", "type", "string");
    }
}

static json_t *keys_of(const struct field *f)
{
    json_t *keys = json_array();
    struct str rest = str_of(f->list_key), item;
    while (str_cut(&rest, ',', &item))
        json_array_append_new(keys, json_stringn(item.ptr, item.len));
    return keys;
}

static json_t *list_schema(const struct field *f, ref_fn *ref_of)
{
    static const char *const types[] = {"atomic", "set", "map"};
    json_t *items = schema_of(f, f->elem, ref_of);
    json_t *ref = json_object_get(json_array_get(json_object_get(items, "allOf"), 0), "$ref");
    if (ref) {
        json_t *bare = json_pack("{s:O}", "$ref", ref);
        json_decref(items);
        items = bare;
    }
    json_t *s = json_pack("{s:s, s:o, s:s}", "type", "array", "items", items, "x-kubernetes-list-type", types[f->list_type]);
    if (f->list_type == LIST_ATOMIC)
        return s;
    json_object_set_new(s, "x-kubernetes-patch-strategy", json_string("merge"));
    if (f->list_type == LIST_MAP) {
        json_t *keys = keys_of(f);
        json_object_set_new(s, "x-kubernetes-list-map-keys", keys);
        json_object_set(s, "x-kubernetes-patch-merge-key", json_array_get(keys, 0)); /* strategic merge patch knows one key only */
    }
    return s;
}

static void add_bounds(const struct field *f, json_t *s)
{
    static const char *const names[][2] = {{"minimum", "maximum"}, {"minLength", "maxLength"}, {"minItems", "maxItems"}, {"minProperties", "maxProperties"}};
    int which = f->type == FIELD_INT || f->type == FIELD_NUMBER ? 0 : f->type == FIELD_LIST ? 2 : f->type == FIELD_MAP ? 3 : 1;
    bool none = f->type == FIELD_OBJECT || f->type == FIELD_ANY || f->type == FIELD_BOOL || f->type == FIELD_QUANTITY;
    if (none || (!f->min && !f->max))
        return;
    if (f->min || which == 0)
        json_object_set_new(s, names[which][0], json_integer(f->min));
    if (f->max && f->max != INT64_MAX)
        json_object_set_new(s, names[which][1], json_integer(f->max));
}

static void add_text_rules(const struct field *f, json_t *s)
{
    if (f->type == FIELD_STRING && (f->flags & (FIELD_DNS_LABEL | FIELD_DNS_NAME)))
        json_object_set_new(s, "pattern", json_string(f->flags & FIELD_DNS_LABEL ? LABEL_PATTERN : NAME_PATTERN));
    if (f->type == FIELD_STRING && (f->flags & FIELD_BASE64))
        json_object_set_new(s, "format", json_string("byte"));
}

static json_t *property(const struct field *f, ref_fn *ref_of)
{
    json_t *s = schema_of(f, f->type, ref_of);
    if (f->help)
        json_object_set_new(s, "description", json_string(f->help));
    if (f->def)
        json_object_set_new(s, "default", json_loads(f->def, JSON_DECODE_ANY, NULL));
    if ((f->flags & FIELD_NULLABLE) && json_object_get(s, "type"))
        json_object_set_new(s, "nullable", json_true());
    if (f->flags & FIELD_READ_ONLY)
        json_object_set_new(s, "readOnly", json_true());
    add_text_rules(f, s);
    add_bounds(f, s);
    return s;
}

json_t *field_openapi(const struct field *table, ref_fn *ref_of)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct field *f = table; f && f->name; f++) {
        json_object_set_new(properties, f->name, property(f, ref_of));
        if ((f->flags & FIELD_REQUIRED) && !f->def)
            json_array_append_new(required, json_string(f->name));
    }
    json_t *s = json_pack("{s:s, s:o}", "type", "object", "properties", properties);
    if (json_array_size(required))
        json_object_set(s, "required", required);
    json_decref(required);
    return s;
}
