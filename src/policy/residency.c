#include "policy/residency.h"

#include <string.h>
#include <strings.h>

#include "kinds/kind.h"

static const char *const nothing[] = {NULL};

/* False: it is there, and is no list of texts. */
static bool read_list(struct arena *a, const json_t *obj, const char *member, const char *const **ret)
{
    const json_t *list = json_object_get(obj, member), *item;
    size_t i;
    *ret = nothing;
    if (!list || json_is_null(list))
        return true;
    if (!json_is_array(list))
        return false;
    const char **texts = ARENA_ARRAY(a, const char *, json_array_size(list) + 1);
    json_array_foreach (list, i, item) {
        if (!json_is_string(item))
            return false;
        texts[i] = arena_strdup(a, json_string_value(item));
    }
    *ret = texts;
    return true;
}

bool residency_site_read(struct arena *a, const json_t *obj, struct residency_site *ret)
{
    const json_t *spec = json_object_get(obj, "spec");
    const char *jurisdiction = json_str(spec, "jurisdiction");
    if (!obj_name(obj) || !jurisdiction || obj_deleting(obj))
        return false;
    ret->name = arena_strdup(a, obj_name(obj));
    ret->jurisdiction = arena_strdup(a, jurisdiction);
    return read_list(a, spec, "clearances", &ret->clearances) && read_list(a, spec, "servers", &ret->servers);
}

void residency_rule_read(struct arena *a, const json_t *spec, const char *name, struct residency_rule *ret)
{
    *ret = (struct residency_rule){.name = name, .models = nothing, .keys = nothing};
    ret->broken = !json_is_object(spec) || !read_list(a, spec, "jurisdictions", &ret->jurisdictions) || !read_list(a, spec, "sites", &ret->sites) ||
                  !read_list(a, spec, "clearances", &ret->clearances) || !read_list(a, spec, "models", &ret->models) || !read_list(a, spec, "keys", &ret->keys);
    if (ret->broken)
        ret->models = ret->keys = nothing; /* for all, then */
}

static bool has(const char *const *list, const char *text)
{
    for (; *list; list++)
        if (!strcmp(*list, text))
            return true;
    return false;
}

static bool is_server(const char *entry, const char *authority)
{
    const char *port = strrchr(authority, ':');
    size_t host = port && !strchr(port, ']') ? (size_t)(port - authority) : strlen(authority);
    return !strcasecmp(entry, authority) || (strlen(entry) == host && !strncasecmp(entry, authority, host));
}

const struct residency_site *residency_site_of_server(const struct residency_site *sites, size_t count, const char *authority)
{
    const struct residency_site *found = NULL;
    for (size_t i = 0; i < count; i++)
        for (const char *const *s = sites[i].servers; *s; s++)
            if (is_server(*s, authority)) {
                if (found && found != &sites[i])
                    return NULL;
                found = &sites[i];
            }
    return found;
}

bool residency_applies(const struct residency_rule *r, const char *model, const char *key)
{
    return (!*r->models || has(r->models, model)) && (!*r->keys || has(r->keys, key));
}

bool residency_allows(const struct residency_rule *r, const struct residency_site *site)
{
    if (r->broken || !site || (*r->jurisdictions && !has(r->jurisdictions, site->jurisdiction)) || (*r->sites && !has(r->sites, site->name)))
        return false;
    for (const char *const *c = r->clearances; *c; c++)
        if (!has(site->clearances, *c))
            return false;
    return true;
}
