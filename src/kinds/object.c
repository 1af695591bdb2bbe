/* What all objects share: metadata, owners, conditions. */
#include "base/clock.h"
#include "kinds/kind.h"

#define META(obj) json_object_get((obj), "metadata")

static const char *meta_str(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(META(obj), key));
}

const char *obj_name(const json_t *obj)
{
    return meta_str(obj, "name");
}

const char *obj_namespace(const json_t *obj)
{
    const char *ns = meta_str(obj, "namespace");
    return ns ? ns : "";
}

const char *obj_uid(const json_t *obj)
{
    return meta_str(obj, "uid");
}

const char *obj_label(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(json_object_get(META(obj), "labels"), key));
}

const char *obj_annotation(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(json_object_get(META(obj), "annotations"), key));
}

int64_t obj_generation(const json_t *obj)
{
    return json_integer_value(json_object_get(META(obj), "generation"));
}

bool obj_deleting(const json_t *obj)
{
    return meta_str(obj, "deletionTimestamp") != NULL;
}

bool obj_has_finalizer(const json_t *obj, const char *name)
{
    size_t i;
    json_t *f;
    json_array_foreach (json_object_get(META(obj), "finalizers"), i, f)
        if (json_is_string(f) && !strcmp(json_string_value(f), name))
            return true;
    return false;
}

bool obj_add_finalizer(json_t *obj, const char *name)
{
    json_t *meta = META(obj), *list = json_object_get(meta, "finalizers");
    if (obj_has_finalizer(obj, name))
        return false;
    if (!json_is_array(list)) {
        list = json_array();
        if (json_object_set_new(meta, "finalizers", list) < 0) /* no metadata */
            return false;
    }
    return json_array_append_new(list, json_string(name)) == 0;
}

bool obj_drop_finalizer(json_t *obj, const char *name)
{
    json_t *list = json_object_get(META(obj), "finalizers"), *f;
    size_t i;
    json_array_foreach (list, i, f)
        if (json_is_string(f) && !strcmp(json_string_value(f), name))
            return json_array_remove(list, i) == 0;
    return false;
}

json_t *obj_new(const struct kind *k, const char *ns, const char *name)
{
    char version[128];
    kind_api_version(k, version);
    json_t *obj = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", version, "kind", k->name, "metadata", "name", name);
    if (k->namespaced && ns && *ns)
        json_object_set_new(META(obj), "namespace", json_string(ns));
    return obj;
}

void obj_add_owner(json_t *obj, const json_t *owner)
{
    json_t *meta = META(obj), *owners = json_object_get(meta, "ownerReferences");
    if (!json_is_array(owners)) {
        owners = json_array();
        json_object_set_new(meta, "ownerReferences", owners);
    }
    json_array_append_new(owners, json_pack("{s:O, s:O, s:s, s:s, s:b, s:b}", "apiVersion",
                                            json_object_get(owner, "apiVersion"), "kind", json_object_get(owner, "kind"),
                                            "name", obj_name(owner), "uid", obj_uid(owner), "controller", 1,
                                            "blockOwnerDeletion", 1));
}

bool obj_owned_by(const json_t *obj, const char *owner_uid)
{
    size_t i;
    json_t *o;
    json_array_foreach (json_object_get(META(obj), "ownerReferences"), i, o) {
        const char *uid = json_string_value(json_object_get(o, "uid"));
        if (uid && !strcmp(uid, owner_uid))
            return true;
    }
    return false;
}

/* ---- conditions ---- */

const struct field condition_fields[] = {
    {.name = "type", .type = FIELD_STRING, .proto = 1, .flags = FIELD_REQUIRED, .help = "what the condition is about"},
    {.name = "status", .type = FIELD_ENUM, .proto = 2, .flags = FIELD_REQUIRED, .values = "True|False|Unknown", .help = "whether it holds"},
    {.name = "reason", .type = FIELD_STRING, .proto = 5, .help = "stable code for programs"},
    {.name = "message", .type = FIELD_STRING, .proto = 6, .help = "one sentence for people: what is awaited, and for how long"},
    {.name = "lastTransitionTime", .type = FIELD_TIME, .proto = 4, .help = "when status last changed"},
    {.name = "observedGeneration", .type = FIELD_INT, .proto = 3, .help = "generation that was looked at"},
    {0},
};

json_t *obj_find_condition(const json_t *obj, const char *type)
{
    size_t i;
    json_t *c;
    json_array_foreach (json_at(obj, "status.conditions"), i, c) {
        const char *t = json_string_value(json_object_get(c, "type"));
        if (t && !strcmp(t, type))
            return c;
    }
    return NULL;
}

/* Messages quote programs, whose words may be no UTF-8: those bytes become U+FFFD. */
static json_t *text_of(const char *value)
{
    if (str_utf8_valid(str_of(value)))
        return json_string(value);
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 65536);
    sbuf_add_json(&b, str_of(value));
    json_t *text = sbuf_ok(&b) ? json_loadb(b.ptr, b.len, JSON_DECODE_ANY, NULL) : NULL;
    return text ? text : json_string("");
}

static bool set_text(json_t *c, const char *key, const char *value)
{
    JSON_AUTO text = text_of(value);
    if (json_equal(json_object_get(c, key), text))
        return false;
    json_object_set(c, key, text);
    return true;
}

bool obj_set_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *message,
                       int64_t now_ms)
{
    json_t *c = obj_find_condition(obj, type);
    if (!c) {
        json_t *list = json_at(obj, "status.conditions");
        if (!json_is_array(list)) {
            list = json_array();
            json_put(obj, "status.conditions", list);
        }
        c = json_pack("{s:s}", "type", type);
        json_array_append_new(list, c);
    }
    bool changed = false;
    if (set_text(c, "status", status)) {
        char now[CLOCK_TEXT_MAX];
        clock_format(now_ms, now);
        json_object_set_new(c, "lastTransitionTime", json_string(now));
        changed = true;
    }
    changed |= set_text(c, "reason", reason);
    changed |= set_text(c, "message", message);
    return changed;
}

const char *obj_condition(const json_t *obj, const char *type)
{
    return json_string_value(json_object_get(obj_find_condition(obj, type), "status"));
}

const char *obj_condition_reason(const json_t *obj, const char *type)
{
    return json_string_value(json_object_get(obj_find_condition(obj, type), "reason"));
}

const char *obj_condition_message(const json_t *obj, const char *type)
{
    return json_str_or(obj_find_condition(obj, type), "message", "");
}
