/* Discovery: which groups, versions and resources there are; aggregated (one document for all groups) when the client asks for that, else one document a path. */
#include "apiserver/api.h"
#include "apiserver/types.h"
#include "crypto/hash.h"

#define HASH_BYTES 8
#define PARTS_MAX 4
#define AGGREGATED "application/json;g=apidiscovery.k8s.io;v=%s;as=APIGroupDiscoveryList"

static const char *const object_verbs[] = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch", NULL};
static const char *const question_verbs[] = {"create", NULL};
static const char *const reading_verbs[] = {"get", "list", "watch", NULL};
static const char *const view_verbs[] = {"get", NULL};
static const char *const part_verbs[] = {"get", "patch", "update", NULL};

size_t api_subresources(const struct kind *k, struct api_subresource ret[API_SUBRESOURCES_MAX])
{
    size_t count = 0;
    if (k->has_status)
        ret[count++] = (struct api_subresource){"status", k->group, k->version, k->name, part_verbs, NULL};
    if (k->has_scale)
        ret[count++] = (struct api_subresource){"scale", "autoscaling", "v1", "Scale", part_verbs, NULL};
    for (const struct kind_subresource *s = k->ops ? k->ops->subresources : NULL; s && s->name && count < API_SUBRESOURCES_MAX; s++)
        ret[count++] = s->view ? (struct api_subresource){s->name, SEKI_GROUP, SEKI_VERSION, s->view == VIEW_TEXT ? OBJECT_TEXT : AUDIT_RECORD_LIST, view_verbs, NULL}
                               : (struct api_subresource){s->name, s->kind->group, s->kind->version, s->kind->name, question_verbs, s->kind};
    return count;
}

static const char *const *verbs_of(const struct kind *k)
{
    return kind_is_virtual(k) ? question_verbs : k->read_only ? reading_verbs : object_verbs;
}

static json_t *texts(const char *const *list)
{
    json_t *ret = json_array();
    while (list && *list)
        json_array_append_new(ret, json_string(*list++));
    return ret;
}

static json_t *names(const char *list)
{
    json_t *ret = json_array();
    struct str rest = str_of(list), item;
    while (str_cut(&rest, ',', &item))
        json_array_append_new(ret, json_stringn(item.ptr, item.len));
    return ret;
}

static void add_names(json_t *r, const struct kind *k)
{
    if (k->short_names)
        json_object_set_new(r, "shortNames", names(k->short_names));
    if (k->categories)
        json_object_set_new(r, "categories", names(k->categories));
}

/* Clients compare it to tell whether objects are stored in another version than before: made of the version that is stored. */
static json_t *storage_hash(const struct kind *k)
{
    CLEANUP(sbuf_deinit) struct sbuf what = {0}, text = {0};
    uint8_t digest[SHA256_BYTES];
    sbuf_init(&what, 1024);
    sbuf_init(&text, 64);
    k = kind_stored(k);
    sbuf_addf(&what, "%s/%s/%s", k->group, k->version, k->name);
    hash_sha256(sbuf_str(&what), digest);
    base64_encode(str_n(digest, HASH_BYTES), &text);
    return json_string(text.ptr ? text.ptr : "");
}

/* ---- one document a path ---- */

static bool seen_before(const struct kind *const *kinds, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (!strcmp(kinds[k]->group, kinds[i]->group))
            return true;
    return false;
}

/* One version a group: all kinds of a group share theirs. */
static json_t *group_of(const struct kind *k)
{
    char version[128];
    kind_api_version(k, version);
    return json_pack("{s:s, s:[{s:s, s:s}], s:{s:s, s:s}}", "name", k->group, "versions", "groupVersion", version, "version", k->version, "preferredVersion", "groupVersion",
                     version, "version", k->version);
}

static json_t *group_list(void)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *groups = json_array();
    for (size_t i = 0; i < count; i++)
        if (*kinds[i]->group && !seen_before(kinds, i))
            json_array_append_new(groups, group_of(kinds[i]));
    return json_pack("{s:s, s:s, s:o}", "kind", "APIGroupList", "apiVersion", "v1", "groups", groups);
}

static json_t *group_named(struct str name)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    for (size_t i = 0; i < count; i++)
        if (*kinds[i]->group && str_eqc(name, kinds[i]->group)) {
            json_t *g = group_of(kinds[i]);
            json_object_set_new(g, "kind", json_string("APIGroup"));
            json_object_set_new(g, "apiVersion", json_string("v1"));
            return g;
        }
    return NULL;
}

static void add_resource(json_t *list, const struct kind *k)
{
    json_t *r = json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", k->plural, "singularName", k->singular, "namespaced", k->namespaced, "kind", k->name, "verbs", texts(verbs_of(k)));
    if (!kind_is_virtual(k))
        json_object_set_new(r, "storageVersionHash", storage_hash(k));
    add_names(r, k);
    json_array_append_new(list, r);
    struct api_subresource sub[API_SUBRESOURCES_MAX];
    size_t count = api_subresources(k, sub);
    for (size_t i = 0; i < count; i++) {
        char name[160];
        snprintf(name, sizeof(name), "%s/%s", k->plural, sub[i].name);
        r = json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", name, "singularName", "", "namespaced", k->namespaced, "kind", sub[i].kind, "verbs", texts(sub[i].verbs));
        if (strcmp(sub[i].group, k->group) != 0 || strcmp(sub[i].version, k->version) != 0) {
            json_object_set_new(r, "group", json_string(sub[i].group));
            json_object_set_new(r, "version", json_string(sub[i].version));
        }
        json_array_append_new(list, r);
    }
}

static json_t *resource_list(struct str group, struct str version)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *list = json_array();
    char text[128] = "";
    for (size_t i = 0; i < count; i++)
        if (str_eqc(group, kinds[i]->group) && str_eqc(version, kinds[i]->version)) {
            kind_api_version(kinds[i], text);
            add_resource(list, kinds[i]);
        }
    json_t *ret = json_pack("{s:s, s:s, s:s, s:o}", "kind", "APIResourceList", "apiVersion", "v1", "groupVersion", text, "resources", list);
    if (*text)
        return ret;
    json_decref(ret);
    return NULL;
}

/* ---- aggregated ---- */

static json_t *gvk_of(const char *group, const char *version, const char *kind)
{
    return json_pack("{s:s, s:s, s:s}", "group", group, "version", version, "kind", kind);
}

static json_t *aggregated_resource(const struct kind *k)
{
    struct api_subresource sub[API_SUBRESOURCES_MAX];
    size_t count = api_subresources(k, sub);
    json_t *r = json_pack("{s:s, s:o, s:s, s:s, s:o}", "resource", k->plural, "responseKind", gvk_of(k->group, k->version, k->name), "scope", k->namespaced ? "Namespaced" : "Cluster",
                          "singularResource", k->singular, "verbs", texts(verbs_of(k)));
    add_names(r, k);
    for (size_t i = 0; i < count; i++) {
        json_t *list = json_object_get(r, "subresources");
        if (!list) {
            list = json_array();
            json_object_set_new(r, "subresources", list);
        }
        json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "subresource", sub[i].name, "responseKind", gvk_of(sub[i].group, sub[i].version, sub[i].kind), "verbs",
                                              texts(sub[i].verbs)));
    }
    return r;
}

static json_t *aggregated_group(const char *group)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *resources = json_array(), *metadata = json_pack("{s:n}", "creationTimestamp");
    const char *version = "";
    if (*group)
        json_object_set_new(metadata, "name", json_string(group));
    for (size_t i = 0; i < count; i++)
        if (!strcmp(kinds[i]->group, group)) {
            version = kinds[i]->version;
            json_array_append_new(resources, aggregated_resource(kinds[i]));
        }
    return json_pack("{s:o, s:[{s:s, s:s, s:o}]}", "metadata", metadata, "versions", "version", version, "freshness", "Current", "resources", resources);
}

/* The core group at /api, all others at /apis. */
static json_t *aggregated(bool core, const char *version)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    json_t *items = json_array();
    char text[64];
    snprintf(text, sizeof(text), "apidiscovery.k8s.io/%s", version);
    for (size_t i = 0; i < count; i++)
        if (core == !*kinds[i]->group && !seen_before(kinds, i))
            json_array_append_new(items, aggregated_group(kinds[i]->group));
    return json_pack("{s:s, s:s, s:{}, s:o}", "kind", "APIGroupDiscoveryList", "apiVersion", text, "metadata", "items", items);
}

/* ---- paths ---- */

static json_t *api_versions(const struct api_request *q)
{
    struct str host = q->http ? http_header_get(&q->http->head, "host") : STR_NULL;
    json_t *address = json_stringn(host.ptr ? host.ptr : "", host.len);
    return json_pack("{s:s, s:[s], s:[{s:s, s:o}]}", "kind", "APIVersions", "versions", "v1", "serverAddressByClientCIDRs", "clientCIDR", "0.0.0.0/0", "serverAddress",
                     address ? address : json_string(""));
}

static json_t *make(struct api_request *q, const struct str *part, size_t count)
{
    bool core = count > 0 && str_eqc(part[0], "api"), grouped = count > 0 && str_eqc(part[0], "apis");
    if (q->wants.as == AS_DISCOVERY)
        return aggregated(core, q->wants.version);
    if (count == 0)
        return json_pack("{s:[s,s,s,s,s,s,s,s]}", "paths", "/api", "/apis", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version");
    if (count == 1 && core)
        return api_versions(q);
    if (count == 2 && core)
        return resource_list(STR(""), part[1]);
    if (count == 1 && grouped)
        return group_list();
    if (count == 2 && grouped)
        return group_named(part[1]);
    return count == 3 && grouped ? resource_list(part[1], part[2]) : NULL;
}

void api_discovery(struct api_request *q)
{
    struct str rest = str_of(q->path), part[PARTS_MAX] = {STR_NULL}, item;
    struct err err = ERR_INIT;
    size_t count = 0;
    while (str_cut(&rest, '/', &item))
        if (item.len && count < PARTS_MAX)
            part[count++] = item;
    bool top = count == 1 && (str_eqc(part[0], "api") || str_eqc(part[0], "apis"));
    if (api_negotiate(q, OFFER_YAML | (top ? OFFER_DISCOVERY : 0), &err) < 0) {
        api_fail(q, &err);
        return;
    }
    bool all = q->wants.as == AS_DISCOVERY;
    const char *key = arena_printf(q->arena, "%.*s?%s", STR_ARG(part[0]), q->wants.version), *type = arena_printf(q->arena, AGGREGATED, q->wants.version);
    const struct document *d = all ? document_find(q->server, key) : NULL;
    json_t *body = d ? NULL : make(q, part, count);
    if (all)
        document_reply(q, d ? d : document_put_json(q->server, key, body), type, "public");
    else if (body)
        api_reply(q, 200, body);
    else
        api_fail_code(q, ERR_NOT_FOUND, "the server could not find the requested resource");
}
