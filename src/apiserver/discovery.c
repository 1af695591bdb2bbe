/* Discovery: which groups, versions and resources there are. */
#include "apiserver/api.h"

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

static json_t *names(const char *list)
{
    json_t *ret = json_array();
    struct str rest = str_of(list), item;
    while (str_cut(&rest, ',', &item))
        json_array_append_new(ret, json_stringn(item.ptr, item.len));
    return ret;
}

static void add_resource(json_t *list, const struct kind *k)
{
    json_t *r = json_pack("{s:s, s:s, s:b, s:s, s:[s,s,s,s,s,s,s,s]}", "name", k->plural, "singularName", k->singular, "namespaced", k->namespaced, "kind", k->name, "verbs",
                          "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch");
    if (k->short_names)
        json_object_set_new(r, "shortNames", names(k->short_names));
    if (k->categories)
        json_object_set_new(r, "categories", names(k->categories));
    json_array_append_new(list, r);
    char sub[160];
    if (k->has_status) {
        snprintf(sub, sizeof(sub), "%s/status", k->plural);
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s, s:[s,s,s]}", "name", sub, "singularName", "", "namespaced", k->namespaced, "kind", k->name, "verbs", "get",
                                              "patch", "update"));
    }
    if (k->has_scale) {
        snprintf(sub, sizeof(sub), "%s/scale", k->plural);
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s, s:s, s:s, s:[s,s,s]}", "name", sub, "singularName", "", "namespaced", k->namespaced, "group", "autoscaling",
                                              "version", "v1", "kind", "Scale", "verbs", "get", "patch", "update"));
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

void api_discovery(struct api_request *q)
{
    struct str rest = str_of(q->path), part[4] = {STR_NULL, STR_NULL, STR_NULL, STR_NULL}, item;
    size_t count = 0;
    json_t *body = NULL;
    while (str_cut(&rest, '/', &item))
        if (item.len && count < ARRAY_LEN(part))
            part[count++] = item;
    if (count == 0)
        body = json_pack("{s:[s,s,s,s,s,s,s]}", "paths", "/api", "/apis", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version");
    else if (count == 1 && str_eqc(part[0], "api"))
        body = json_pack("{s:s, s:[s], s:[]}", "kind", "APIVersions", "versions", "v1", "serverAddressByClientCIDRs");
    else if (count == 2 && str_eqc(part[0], "api"))
        body = resource_list(STR(""), part[1]);
    else if (count == 1 && str_eqc(part[0], "apis"))
        body = group_list();
    else if (count == 2 && str_eqc(part[0], "apis"))
        body = group_named(part[1]);
    else if (count == 3 && str_eqc(part[0], "apis"))
        body = resource_list(part[1], part[2]);
    if (body)
        api_reply(q, 200, body);
    else
        api_fail_code(q, ERR_NOT_FOUND, "the server could not find the requested resource");
}
