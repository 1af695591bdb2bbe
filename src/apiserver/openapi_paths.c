/* Paths of a kind: its collections, its objects, their subresources, and what can be asked there. */
#include "apiserver/openapi.h"

#include "apiserver/api.h"
#include "apiserver/types.h"

enum parameters { P_WRITE = 1 << 0, P_FORCE = 1 << 1, P_LIST = 1 << 2, P_DELETE = 1 << 3, P_AUDIT = 1 << 4 };

static const struct parameter {
    enum parameters where;
    const char *name, *type, *help;
    const char *values; /* "A|B"; NULL: any */
} parameters[] = {
    {P_WRITE | P_DELETE, "dryRun", "string", "All: check everything and write nothing", "All"},
    {P_WRITE, "fieldManager", "string", "name of the writer", NULL},
    {P_WRITE, "fieldValidation", "string", "what is done about unknown fields: Ignore, Warn or Strict, which is the default", "Ignore|Warn|Strict"},
    {P_FORCE, "force", "boolean", "apply: take fields over from other managers", NULL},
    {P_LIST, "allowWatchBookmarks", "boolean", "watch: send bookmarks", NULL},
    {P_AUDIT, "after", "integer", "only records after the one of this sequence", NULL},
    {P_LIST | P_AUDIT, "continue", "string", "the next page of a list", NULL},
    {P_LIST, "fieldSelector", "string", "fields that the objects must have", NULL},
    {P_LIST, "labelSelector", "string", "labels that the objects must have", NULL},
    {P_LIST | P_AUDIT, "limit", "integer", "objects on a page", NULL},
    {P_LIST, "resourceVersion", "string", "from which version on", NULL},
    {P_LIST, "resourceVersionMatch", "string", "how resourceVersion is meant: Exact or NotOlderThan", "Exact|NotOlderThan"},
    {P_LIST, "sendInitialEvents", "boolean", "watch: begin with what exists", NULL},
    {P_LIST, "timeoutSeconds", "integer", "watch: end after so long", NULL},
    {P_LIST, "watch", "boolean", "a stream of changes instead of a list", NULL},
    {P_DELETE, "gracePeriodSeconds", "integer", "kept for clients that send it", NULL},
    {P_DELETE, "orphanDependents", "boolean", "older form of propagationPolicy", NULL},
    {P_DELETE, "propagationPolicy", "string", "what becomes of what the object owns: Background, Foreground or Orphan", "Background|Foreground|Orphan"},
};

/* What a method does at a path. */
struct verb {
    const char *method, *action, *verb; /* "post", "post", "create" */
    unsigned parameters;
    const char *body, *answer; /* names of schemas; body NULL: none */
    const char *other;         /* a second schema that the answer may have, or NULL */
};

static json_t *parameter(const char *name, const char *in, const char *type, const char *help)
{
    json_t *p = json_pack("{s:s, s:s, s:s, s:{s:s}}", "name", name, "in", in, "description", help, "schema", "type", type);
    json_object_set_new(json_object_get(p, "schema"), "uniqueItems", json_true());
    if (!strcmp(in, "path"))
        json_object_set_new(p, "required", json_true());
    return p;
}

static json_t *query_parameter(const struct parameter *p)
{
    json_t *ret = parameter(p->name, "query", p->type, p->help), *values = json_array();
    struct str rest = str_of(p->values), item;
    while (str_cut(&rest, '|', &item))
        json_array_append_new(values, json_stringn(item.ptr, item.len));
    if (json_array_size(values))
        json_object_set(json_object_get(ret, "schema"), "enum", values);
    json_decref(values);
    return ret;
}

static json_t *ref_to(const char *schema)
{
    char ref[320];
    snprintf(ref, sizeof(ref), OPENAPI_REF "%s", schema);
    return json_pack("{s:s}", "$ref", ref);
}

/* schema in each of the media types. */
static json_t *content(json_t *schema, const char *const *types)
{
    json_t *c = json_object();
    for (; *types; types++)
        json_object_set_new(c, *types, json_pack("{s:O}", "schema", schema));
    json_decref(schema);
    return c;
}

static const char *const answer_types[] = {"application/json", "application/yaml", NULL};
static const char *const body_types[] = {"application/json", "application/yaml", NULL};
static const char *const patch_types[] = {"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml", NULL};

static json_t *responses(const struct verb *v)
{
    static const char *const error_types[] = {"application/json", "application/yaml", NULL};
    json_t *schema = v->other ? json_pack("{s:[o,o]}", "anyOf", ref_to(v->answer), ref_to(v->other)) : ref_to(v->answer);
    json_t *ok = json_pack("{s:s, s:o}", "description", "OK", "content", content(schema, answer_types));
    json_t *r = json_pack("{s:{s:s, s:o}}", "default", "description", "refused, and why", "content", content(ref_to(TYPE_STATUS), error_types));
    json_object_set_new(r, !strcmp(v->method, "post") ? "201" : "200", ok);
    if (!strcmp(v->method, "post"))
        json_object_set(r, "200", ok);
    return r;
}

/* "seki.cloud", "v1alpha1" → "SekiCloudV1alpha1" */
static const char *title_of(struct arena *a, const struct kind *k)
{
    char *text = arena_printf(a, "%s.%s", *k->group ? k->group : "core", k->version), *out = text;
    bool start = true;
    for (const char *p = text; *p; p++) {
        if (*p == '.' || *p == '-') {
            start = true;
            continue;
        }
        *out++ = start && *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
        start = false;
    }
    *out = 0;
    return text;
}

struct place {
    struct arena *a;
    const struct kind *k;
    const char *path, *scope; /* "Namespaced", "", "ForAllNamespaces" */
    const char *sub;
    const char *group, *version, *kind; /* of what is answered */
    bool named;
};

static const char *capital(struct arena *a, const char *text)
{
    char *copy = arena_strdup(a, text);
    if (*copy >= 'a' && *copy <= 'z')
        *copy = (char)(*copy - 'a' + 'A');
    return copy;
}

static json_t *operation(const struct place *p, const struct verb *v)
{
    const struct kind *k = p->k;
    bool all = !strcmp(p->scope, "ForAllNamespaces");
    const char *id = arena_printf(p->a, "%s%s%s%s%s%s", v->verb, title_of(p->a, k), all ? "" : p->scope, k->name, capital(p->a, p->sub), all ? p->scope : "");
    const char *help = arena_printf(p->a, "%s %s%s%s", v->verb, k->name, *p->sub ? ", its " : "", p->sub);
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++)
        if (parameters[i].where & v->parameters)
            json_array_append_new(list, query_parameter(&parameters[i]));
    json_t *op = json_pack("{s:s, s:s, s:[s], s:o, s:o, s:s, s:o}", "operationId", id, "description", help, "tags", title_of(p->a, k), "parameters", list, "responses", responses(v),
                           "x-kubernetes-action", v->action, "x-kubernetes-group-version-kind", openapi_gvk(p->group, p->version, p->kind));
    bool patch = !strcmp(v->method, "patch"), optional = !strcmp(v->method, "delete");
    if (v->body)
        json_object_set_new(op, "requestBody", json_pack("{s:o, s:b}", "content", content(ref_to(v->body), patch ? patch_types : body_types), "required", !optional));
    return op;
}

static void add_path(json_t *paths, const struct place *p, const struct verb *verbs, size_t count)
{
    json_t *item = json_object(), *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_object_set_new(item, verbs[i].method, operation(p, &verbs[i]));
    if (p->named)
        json_array_append_new(list, parameter("name", "path", "string", arena_printf(p->a, "name of the %s", p->k->name)));
    if (!strcmp(p->scope, "Namespaced"))
        json_array_append_new(list, parameter("namespace", "path", "string", "namespace of the object"));
    json_array_append_new(list, parameter("pretty", "query", "string", "true: the answer is indented"));
    json_object_set_new(item, "parameters", list);
    json_object_set_new(paths, p->path, item);
}

static const char *path_of(struct arena *a, const struct kind *k, const char *ns, const char *name, const char *sub)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 1024);
    kind_path(k, ns, name, sub, &text);
    return arena_strndup(a, sbuf_str(&text));
}

static void add_subresource(struct arena *a, json_t *paths, const struct kind *k, const struct api_subresource *sub)
{
    bool own = !strcmp(sub->kind, k->name) && !strcmp(sub->group, k->group);
    const char *schema = own ? openapi_schema_name(a, k) : sub->of ? openapi_schema_name(a, sub->of) : NULL;
    for (const struct api_type *t = api_types; !schema && t->name; t++)
        if (t->kind && !strcmp(t->kind, sub->kind) && !strcmp(t->group, sub->group))
            schema = t->name;
    static const struct verb known[] = {{"get", "get", "read", 0, NULL, NULL, NULL}, {"put", "put", "replace", P_WRITE, "", NULL, NULL},
                                        {"patch", "patch", "patch", P_WRITE | P_FORCE, TYPE_PATCH, NULL, NULL}, {"post", "post", "create", P_WRITE, "", NULL, NULL}};
    static const char *const names[] = {"get", "update", "patch", "create"};
    struct verb verbs[ARRAY_LEN(known)];
    size_t count = 0;
    for (const char *const *v = sub->verbs; schema && *v; v++)
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            if (!strcmp(*v, names[i])) {
                verbs[count] = known[i];
                verbs[count].answer = schema;
                verbs[count].parameters |= !strcmp(sub->kind, AUDIT_RECORD_LIST) ? P_AUDIT : 0;
                if (known[i].body && !*known[i].body)
                    verbs[count].body = schema;
                count++;
            }
    struct place p = {.a = a, .k = k, .path = path_of(a, k, "{namespace}", "{name}", sub->name), .scope = k->namespaced ? "Namespaced" : "", .sub = sub->name,
                      .group = sub->group, .version = sub->version, .kind = sub->kind, .named = true};
    if (count)
        add_path(paths, &p, verbs, count);
}

void openapi_add_paths(struct arena *a, json_t *paths, const struct kind *k)
{
    const char *one = openapi_schema_name(a, k), *many = arena_printf(a, "%sList", one);
    const struct verb collection[] = {
        {"get", "list", "list", P_LIST, NULL, many, NULL},
        {"post", "post", "create", P_WRITE, one, one, NULL},
        {"delete", "deletecollection", "deleteCollection", P_LIST | P_DELETE, TYPE_DELETE_OPTIONS, many, TYPE_STATUS},
    };
    const struct verb object[] = {
        {"get", "get", "read", 0, NULL, one, NULL},
        {"put", "put", "replace", P_WRITE, one, one, NULL},
        {"patch", "patch", "patch", P_WRITE | P_FORCE, TYPE_PATCH, one, NULL},
        {"delete", "delete", "delete", P_DELETE, TYPE_DELETE_OPTIONS, TYPE_STATUS, one},
    };
    struct place p = {.a = a, .k = k, .scope = k->namespaced ? "Namespaced" : "", .sub = "", .group = k->group, .version = k->version, .kind = k->name};
    p.path = path_of(a, k, "{namespace}", NULL, NULL);
    if (kind_is_virtual(k)) {
        add_path(paths, &p, &collection[1], 1);
        return;
    }
    add_path(paths, &p, collection, k->read_only ? 1 : ARRAY_LEN(collection));
    p.path = path_of(a, k, "{namespace}", "{name}", NULL);
    p.named = true;
    add_path(paths, &p, object, k->read_only ? 1 : ARRAY_LEN(object));
    if (k->namespaced) {
        p.path = path_of(a, k, NULL, NULL, NULL);
        p.scope = "ForAllNamespaces";
        p.named = false;
        add_path(paths, &p, collection, 1);
    }
    struct api_subresource sub[API_SUBRESOURCES_MAX];
    size_t count = api_subresources(k, sub);
    for (size_t i = 0; i < count; i++)
        add_subresource(a, paths, k, &sub[i]);
}
