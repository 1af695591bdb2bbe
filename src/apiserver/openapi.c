/* OpenAPI, served: kubectl explain, client-side checks, and kubectl's test whether the server validates fields itself. */
#include "apiserver/openapi.h"

#include "apiserver/api.h"
#include "apiserver/types.h"

#define PROTOBUF_MAX (16u * 1024 * 1024)
#define YEAR_AHEAD "public, immutable, max-age=31536000"

/* ---- schemas ---- */

/* "seki.cloud" → "cloud.seki"; Kubernetes' own groups lie in its packages: "rbac.authorization.k8s.io" → "io.k8s.api.rbac". */
static const char *package_of(struct arena *a, const char *group)
{
    struct str rest = str_of(group), part;
    const char *name = "";
    if (!*group || !strchr(group, '.') || str_ends(rest, STR(".k8s.io")))
        return arena_printf(a, "io.k8s.api.%.*s", *group ? (int)strcspn(group, ".") : 4, *group ? group : "core");
    while (str_cut(&rest, '.', &part))
        name = arena_printf(a, "%.*s%s%s", STR_ARG(part), *name ? "." : "", name);
    return name;
}

const char *openapi_schema_name(struct arena *a, const struct kind *k)
{
    return arena_printf(a, "%s.%s.%s", package_of(a, k->group), k->version, k->name);
}

json_t *openapi_gvk(const char *group, const char *version, const char *kind)
{
    return json_pack("{s:s, s:s, s:s}", "group", group, "version", version, "kind", kind);
}

/* The shared types have schemas of their own. */
static const char *ref_of(const struct field *table)
{
    static char text[256]; /* copied by who asks, on the loop's thread */
    for (const struct api_type *t = api_types; t->name; t++)
        if (t->table == table && table) {
            snprintf(text, sizeof(text), OPENAPI_REF "%s", t->name);
            return text;
        }
    return NULL;
}

static json_t *text_schema(const char *help)
{
    return json_pack("{s:s, s:s}", "type", "string", "description", help);
}

static json_t *ref_schema(const char *type, const char *help)
{
    char ref[256];
    snprintf(ref, sizeof(ref), OPENAPI_REF "%s", type);
    return json_pack("{s:[{s:s}], s:s, s:{}}", "allOf", "$ref", ref, "description", help, "default");
}

static void add_schema(struct arena *a, json_t *schemas, const struct kind *k)
{
    json_t *s = field_openapi(k->fields, ref_of), *properties = json_object_get(s, "properties");
    json_object_set_new(properties, "apiVersion", text_schema("versioned schema of this object"));
    json_object_set_new(properties, "kind", text_schema("name of this object's kind"));
    json_object_set_new(properties, "metadata", ref_schema(TYPE_OBJECT_META, "name, labels and the like"));
    json_object_set_new(s, "description", json_string(k->help));
    json_object_set_new(s, "x-kubernetes-group-version-kind", json_pack("[o]", openapi_gvk(k->group, k->version, k->name)));
    json_object_set_new(schemas, openapi_schema_name(a, k), s);
}

static void add_kind(struct arena *a, json_t *schemas, const struct kind *k)
{
    const char *name = openapi_schema_name(a, k), *ref = arena_printf(a, OPENAPI_REF "%s", name);
    add_schema(a, schemas, k);
    for (const struct kind_subresource *sub = k->ops ? k->ops->subresources : NULL; sub && sub->name; sub++)
        if (sub->kind)
            add_schema(a, schemas, sub->kind);
    if (kind_is_virtual(k))
        return;
    const char *list = arena_printf(a, "%sList", k->name);
    json_t *s = json_pack("{s:s, s:s, s:[s], s:{s:o, s:o, s:o, s:{s:s, s:s, s:{s:s}}}, s:[o]}", "type", "object", "description", arena_printf(a, "%s is a list of %s.", list, k->name),
                  "required", "items", "properties", "apiVersion", text_schema("versioned schema of this list"), "kind", text_schema("name of this list's kind"), "metadata",
                  ref_schema(TYPE_LIST_META, "of the list"), "items", "type", "array", "description", "the objects", "items", "$ref", ref, "x-kubernetes-group-version-kind",
                  openapi_gvk(k->group, k->version, list));
    json_object_set_new(schemas, arena_printf(a, "%sList", name), s);
}

static void add_types(json_t *schemas)
{
    for (const struct api_type *t = api_types; t->name; t++) {
        json_t *s = t->table ? field_openapi(t->table, ref_of) : json_pack("{s:s}", "type", "object");
        json_object_set_new(s, "description", json_string(t->help));
        if (t->kind)
            json_object_set_new(s, "x-kubernetes-group-version-kind", json_pack("[o]", openapi_gvk(t->group, t->version, t->kind)));
        json_object_set_new(schemas, t->name, s);
    }
}

json_t *openapi_document(struct arena *a, const char *group, const char *version)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *paths = json_object(), *schemas = json_object();
    bool any = false;
    for (size_t i = 0; i < count; i++)
        if (!strcmp(kinds[i]->group, group) && !strcmp(kinds[i]->version, version)) {
            any = true;
            add_kind(a, schemas, kinds[i]);
            openapi_add_paths(a, paths, kinds[i]);
        }
    add_types(schemas);
    json_t *doc = json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:o}}", "openapi", "3.0.0", "info", "title", "Seki", "version", SEKI_RELEASE, "paths", paths, "components", "schemas", schemas);
    if (any)
        return doc;
    json_decref(doc);
    return NULL;
}

/* ---- documents ---- */

static const char *group_path(struct arena *a, const char *group, const char *version)
{
    return *group ? arena_printf(a, "apis/%s/%s", group, version) : arena_printf(a, "api/%s", version);
}

/* Of a group version; NULL: there is none. */
static const struct document *v3_document(struct api_request *q, const char *group, const char *version)
{
    const char *key = arena_printf(q->arena, "openapi/v3/%s", group_path(q->arena, group, version));
    const struct document *d = document_find(q->server, key);
    json_t *doc = d ? NULL : openapi_document(q->arena, group, version);
    return d || !doc ? d : document_put_json(q->server, key, doc);
}

static const struct document *v3_index(struct api_request *q)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    const struct document *d = document_find(q->server, "openapi/v3");
    if (d)
        return d;
    json_t *paths = json_object();
    for (size_t i = 0; i < count; i++) {
        const char *path = group_path(q->arena, kinds[i]->group, kinds[i]->version);
        d = json_object_get(paths, path) ? NULL : v3_document(q, kinds[i]->group, kinds[i]->version);
        if (d)
            json_object_set_new(paths, path, json_pack("{s:s}", "serverRelativeURL", arena_printf(q->arena, "/openapi/v3/%s?hash=%s", path, document_hash(d))));
    }
    return document_put_json(q->server, "openapi/v3", json_pack("{s:o}", "paths", paths));
}

static const struct document *v2_document(struct api_request *q)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    const struct document *d = document_find(q->server, "openapi/v2");
    if (d)
        return d;
    struct map *seen = map_new(NULL);
    json_t *all = openapi_v2_new();
    for (size_t i = 0; i < count; i++) {
        const char *path = group_path(q->arena, kinds[i]->group, kinds[i]->version);
        if (map_getc(seen, path))
            continue;
        map_set(seen, str_of(path), q);
        JSON_AUTO doc = openapi_document(q->arena, kinds[i]->group, kinds[i]->version);
        openapi_v2_join(all, doc);
    }
    map_free(seen);
    return document_put_json(q->server, "openapi/v2", all);
}

static const struct document *v2_as_protobuf(struct api_request *q)
{
    const struct document *d = document_find(q->server, "openapi/v2.pb");
    CLEANUP(sbuf_deinit) struct sbuf bytes = {0};
    JSON_AUTO doc = NULL;
    if (d)
        return d;
    sbuf_init(&bytes, PROTOBUF_MAX);
    if (json_parse(document_text(v2_document(q)), PROTOBUF_MAX, &doc, NULL) == 0)
        openapi_v2_proto(doc, &bytes);
    return document_put(q->server, "openapi/v2.pb", sbuf_str(&bytes));
}

/* The index names documents with their hash: those never change, so that clients may keep them for good. */
static void reply(struct api_request *q, const struct document *d)
{
    struct str hash = api_query(q, "hash");
    if (hash.len && !str_eqc(hash, document_hash(d))) {
        api_header(q, "Location", str_of(arena_printf(q->arena, "%s?hash=%s", q->path, document_hash(d))));
        api_reply_text(q, 301, NULL, STR_NULL);
        return;
    }
    document_reply(q, d, q->wants.form == ACCEPT_PROTOBUF ? ACCEPT_OPENAPI_V2 : "application/json", hash.len ? YEAR_AHEAD : "public");
}

void api_openapi(struct api_request *q)
{
    struct str rest = str_of(q->path), item;
    struct err err = ERR_INIT;
    const char *part[5] = {"", "", "", "", ""};
    size_t count = 0;
    const struct document *d = NULL;
    while (str_cut(&rest, '/', &item))
        if (item.len && count < ARRAY_LEN(part))
            part[count++] = arena_strndup(q->arena, item);
    bool v2 = count == 2 && !strcmp(part[1], "v2");
    if (api_negotiate(q, v2 ? OFFER_OPENAPI_V2 : 0, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    if (v2)
        d = q->wants.form == ACCEPT_PROTOBUF ? v2_as_protobuf(q) : v2_document(q);
    else if (count == 2 && !strcmp(part[1], "v3"))
        d = v3_index(q);
    else if (count == 4 && !strcmp(part[1], "v3") && !strcmp(part[2], "api"))
        d = v3_document(q, "", part[3]);
    else if (count == 5 && !strcmp(part[1], "v3") && !strcmp(part[2], "apis"))
        d = v3_document(q, part[3], part[4]);
    if (d)
        reply(q, d);
    else
        api_fail_code(q, ERR_NOT_FOUND, "the server could not find the requested resource");
}
