/* Views: one stored object under several groups and versions. */
#include "kinds/kind.h"

const struct kind *kind_stored(const struct kind *k)
{
    return k->view_of ? k->view_of : k;
}

static const char *renamed(const struct kind_rename *r, const char *name, bool to_stored)
{
    for (; r && r->stored; r++)
        if (!strcmp(name, to_stored ? r->shown : r->stored))
            return to_stored ? r->stored : r->shown;
    return name;
}

static json_t *convert(const struct kind *to, const struct kind_rename *renames, bool to_stored, json_t *obj)
{
    char version[128];
    const char *name;
    json_t *value, *ret = json_object();
    json_object_foreach (obj, name, value)
        json_object_set(ret, renamed(renames, name, to_stored), value);
    kind_api_version(to, version);
    json_object_set_new(ret, "apiVersion", json_string(version));
    json_object_set_new(ret, "kind", json_string(to->name));
    return ret;
}

json_t *kind_show(const struct kind *k, json_t *stored)
{
    return k->view_of ? convert(k, k->renames, false, stored) : json_incref(stored);
}

json_t *kind_unshow(const struct kind *k, json_t *shown)
{
    return k->view_of ? convert(k->view_of, k->renames, true, shown) : json_incref(shown);
}
