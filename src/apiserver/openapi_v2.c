/* OpenAPI v2 ("Swagger"), for clients that know nothing newer: the v3 documents in its words. */
#include "apiserver/openapi.h"

#include "apiserver/api.h"

json_t *openapi_v2_new(void)
{
    return json_pack("{s:s, s:{s:s, s:s}, s:{}, s:{}}", "swagger", "2.0", "info", "title", "Seki", "version", SEKI_RELEASE, "paths", "definitions");
}

/* "#/components/schemas/X" → "#/definitions/X" */
static void move_ref(json_t *schema)
{
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    char text[320];
    if (!ref || !str_starts(str_of(ref), STR(OPENAPI_REF)))
        return;
    snprintf(text, sizeof(text), OPENAPI_V2_REF "%s", ref + sizeof(OPENAPI_REF) - 1);
    json_object_set_new(schema, "$ref", json_string(text));
}

/* A schema in place. v2 has no anyOf, oneOf and nullable; a reference with words beside it is written plainly. */
static void convert_schema(json_t *s)
{
    const char *key;
    json_t *v, *first = json_array_get(json_object_get(s, "allOf"), 0);
    json_t *any = json_array_get(json_object_get(s, "anyOf"), 0);
    if (first)
        json_object_set(s, "$ref", json_object_get(first, "$ref"));
    if (any)
        json_object_set(s, "$ref", json_object_get(any, "$ref"));
    if (json_object_get(s, "oneOf"))
        json_object_set_new(s, "type", json_string("string"));
    static const char *const unknown[] = {"allOf", "anyOf", "oneOf", "nullable"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        json_object_del(s, unknown[i]);
    move_ref(s);
    if (json_object_get(s, "$ref"))
        json_object_del(s, "default");
    json_object_foreach (json_object_get(s, "properties"), key, v)
        convert_schema(v);
    if (json_is_object(json_object_get(s, "items")))
        convert_schema(json_object_get(s, "items"));
    if (json_is_object(json_object_get(s, "additionalProperties")))
        convert_schema(json_object_get(s, "additionalProperties"));
}

static json_t *schema_of_content(const json_t *content)
{
    void *first = json_object_iter((json_t *)(uintptr_t)content);
    json_t *s = json_deep_copy(json_object_get(first ? json_object_iter_value(first) : NULL, "schema"));
    if (s)
        convert_schema(s);
    return s;
}

static json_t *types_of(const json_t *content)
{
    const char *type;
    json_t *unused, *list = json_array();
    json_object_foreach ((json_t *)(uintptr_t)content, type, unused)
        json_array_append_new(list, json_string(type));
    return list;
}

/* Members of a parameter's schema stand beside its name. */
static json_t *convert_parameters(const json_t *list)
{
    json_t *ret = json_array(), *p;
    size_t i;
    json_array_foreach (list, i, p) {
        json_t *copy = json_copy(p);
        json_object_update(copy, json_object_get(p, "schema"));
        json_object_del(copy, "schema");
        json_array_append_new(ret, copy);
    }
    return ret;
}

static json_t *convert_responses(const json_t *responses, json_t *op)
{
    json_t *ret = json_object(), *r;
    const char *status;
    json_object_foreach ((json_t *)(uintptr_t)responses, status, r) {
        const json_t *content = json_object_get(r, "content");
        json_object_set_new(ret, status, json_pack("{s:O, s:o*}", "description", json_object_get(r, "description"), "schema", schema_of_content(content)));
        json_object_set_new(op, "produces", types_of(content));
    }
    return ret;
}

static json_t *convert_operation(const json_t *v3)
{
    json_t *op = json_copy((json_t *)(uintptr_t)v3), *body = json_object_get(v3, "requestBody"), *parameters = convert_parameters(json_object_get(v3, "parameters"));
    if (body) {
        const json_t *content = json_object_get(body, "content");
        json_array_append_new(parameters, json_pack("{s:s, s:s, s:O, s:o}", "name", "body", "in", "body", "required", json_object_get(body, "required"), "schema",
                                                    schema_of_content(content)));
        json_object_set_new(op, "consumes", types_of(content));
        json_object_del(op, "requestBody");
    }
    json_object_set_new(op, "parameters", parameters);
    json_object_set_new(op, "responses", convert_responses(json_object_get(v3, "responses"), op));
    return op;
}

void openapi_v2_join(json_t *all, const json_t *v3)
{
    const char *path, *name;
    json_t *item, *schema, *part;
    json_object_foreach (json_object_get(v3, "paths"), path, item) {
        json_t *converted = json_object();
        json_object_foreach (item, name, part)
            json_object_set_new(converted, name, json_is_array(part) ? convert_parameters(part) : convert_operation(part));
        json_object_set_new(json_object_get(all, "paths"), path, converted);
    }
    json_object_foreach (json_at(v3, "components.schemas"), name, schema) {
        json_t *copy = json_deep_copy(schema);
        convert_schema(copy);
        json_object_set_new(json_object_get(all, "definitions"), name, copy);
    }
}
