/* OpenAPI v3, one document a group version, made of the field tables: kubectl explain, and kubectl's test whether the server validates fields itself. */
#include "apiserver/api.h"
#include "apiserver/meta.h"
#include "base/mem.h"

#define META_SCHEMA "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
#define REF "#/components/schemas/"

/* "cloud.seki.v1alpha1.ModelEndpoint" */
static const char *schema_name(struct arena *a, const struct kind *k)
{
    char group[128] = "";
    struct str rest = str_of(*k->group ? k->group : "core"), part;
    while (str_cut(&rest, '.', &part)) {
        char joined[128];
        snprintf(joined, sizeof(joined), "%.*s%s%s", STR_ARG(part), *group ? "." : "", group);
        snprintf(group, sizeof(group), "%s", joined);
    }
    return arena_printf(a, "%s.%s.%s", group, k->version, k->name);
}

static json_t *gvk_of(const struct kind *k)
{
    return json_pack("{s:s, s:s, s:s}", "group", k->group, "version", k->version, "kind", k->name);
}

static json_t *schema_of(const struct kind *k)
{
    json_t *s = field_openapi(k->fields), *properties = json_object_get(s, "properties");
    json_object_set_new(properties, "apiVersion", json_pack("{s:s, s:s}", "type", "string", "description", "versioned schema of this object"));
    json_object_set_new(properties, "kind", json_pack("{s:s, s:s}", "type", "string", "description", "name of this object's kind"));
    json_object_set_new(properties, "metadata", json_pack("{s:[{s:s}], s:s, s:{}}", "allOf", "$ref", REF META_SCHEMA, "description", "name, labels and the like", "default"));
    json_object_set_new(s, "description", json_string(k->help));
    json_object_set_new(s, "x-kubernetes-group-version-kind", json_pack("[o]", gvk_of(k)));
    return s;
}

static json_t *query_parameter(const char *name, const char *type, const char *help)
{
    return json_pack("{s:s, s:s, s:s, s:{s:s}}", "name", name, "in", "query", "description", help, "schema", "type", type);
}

static json_t *path_parameter(const char *name)
{
    return json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", name, "in", "path", "required", 1, "schema", "type", "string");
}

static json_t *operation(const struct kind *k, const char *schema, const char *method)
{
    static const struct {
        const char *method, *action;
        bool body;
    } known[] = {{"get", "get", false}, {"put", "put", true}, {"patch", "patch", true}, {"post", "post", true}, {"delete", "delete", false}, {"list", "list", false}};
    char ref[320];
    snprintf(ref, sizeof(ref), REF "%s", schema);
    json_t *op = json_pack("{s:o, s:s, s:{s:{s:s, s:{s:{s:{s:s}}}}}, s:[]}", "x-kubernetes-group-version-kind", gvk_of(k), "x-kubernetes-action", method, "responses", "200",
                           "description", "OK", "content", "application/json", "schema", "$ref", ref, "parameters");
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (!strcmp(known[i].method, method) && known[i].body) {
            json_t *parameters = json_object_get(op, "parameters");
            json_array_append_new(parameters, query_parameter("dryRun", "string", "All: check everything and write nothing"));
            json_array_append_new(parameters, query_parameter("fieldValidation", "string", "Ignore, Warn or Strict (default): what is done about unknown fields"));
            json_array_append_new(parameters, query_parameter("fieldManager", "string", "name of the writer"));
            json_object_set_new(op, "requestBody", json_pack("{s:{s:{s:{s:s}}}}", "content", !strcmp(method, "patch") ? "application/merge-patch+json" : "application/json", "schema",
                                                             "$ref", ref));
        }
    return op;
}

static void add_paths(json_t *paths, const struct kind *k, const char *schema)
{
    CLEANUP(sbuf_deinit) struct sbuf collection = {0}, one = {0};
    sbuf_init(&collection, 1024);
    sbuf_init(&one, 1024);
    kind_path(k, "{namespace}", NULL, NULL, &collection);
    kind_path(k, "{namespace}", "{name}", NULL, &one);
    json_t *c = json_pack("{s:o, s:o, s:[]}", "get", operation(k, schema, "list"), "post", operation(k, schema, "post"), "parameters");
    json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:[]}", "get", operation(k, schema, "get"), "put", operation(k, schema, "put"), "patch", operation(k, schema, "patch"), "delete",
                          operation(k, schema, "delete"), "parameters");
    if (k->namespaced) {
        json_array_append_new(json_object_get(c, "parameters"), path_parameter("namespace"));
        json_array_append_new(json_object_get(o, "parameters"), path_parameter("namespace"));
    }
    json_array_append_new(json_object_get(o, "parameters"), path_parameter("name"));
    json_object_set_new(paths, collection.ptr, c);
    json_object_set_new(paths, one.ptr, o);
}

static json_t *document(struct api_request *q, const char *group, const char *version)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *paths = json_object(), *schemas = json_object();
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = kinds[i];
        if (strcmp(k->group, group) != 0 || strcmp(k->version, version) != 0)
            continue;
        const char *name = schema_name(q->arena, k);
        any = true;
        json_object_set_new(schemas, name, schema_of(k));
        add_paths(paths, k, name);
    }
    json_t *meta = field_openapi(meta_fields);
    json_object_set_new(meta, "description", json_string("ObjectMeta is what all objects have."));
    json_object_set_new(schemas, META_SCHEMA, meta);
    json_t *doc = json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:o}}", "openapi", "3.0.0", "info", "title", "Seki", "version", SEKI_RELEASE, "paths", paths, "components", "schemas", schemas);
    if (any)
        return doc;
    json_decref(doc);
    return NULL;
}

static json_t *index_of_groups(void)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *paths = json_object();
    for (size_t i = 0; i < count; i++) {
        char key[160], url[256];
        snprintf(key, sizeof(key), *kinds[i]->group ? "apis/%s/%s" : "api%s/%s", kinds[i]->group, kinds[i]->version);
        snprintf(url, sizeof(url), "/openapi/v3/%s?hash=" SEKI_RELEASE, key);
        json_object_set_new(paths, key, json_pack("{s:s}", "serverRelativeURL", url));
    }
    return json_pack("{s:o}", "paths", paths);
}

void api_openapi(struct api_request *q)
{
    struct str rest = str_of(q->path), item;
    const char *part[5] = {"", "", "", "", ""};
    size_t count = 0;
    json_t *body = NULL;
    while (str_cut(&rest, '/', &item))
        if (item.len && count < ARRAY_LEN(part))
            part[count++] = arena_strndup(q->arena, item);
    if (count == 2 && !strcmp(part[1], "v2"))
        body = json_pack("{s:s, s:{s:s, s:s}, s:{}, s:{}}", "swagger", "2.0", "info", "title", "Seki", "version", SEKI_RELEASE, "paths", "definitions");
    else if (count == 2 && !strcmp(part[1], "v3"))
        body = index_of_groups();
    else if (count == 4 && !strcmp(part[2], "api"))
        body = document(q, "", part[3]);
    else if (count == 5 && !strcmp(part[2], "apis"))
        body = document(q, part[3], part[4]);
    if (body)
        api_reply(q, 200, body);
    else
        api_fail_code(q, ERR_NOT_FOUND, "the server could not find the requested resource");
}
