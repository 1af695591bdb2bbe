#include "json/apply.h"
#include "base/mem.h"

#define NAME_MAX_BYTES ((size_t)2 << 20)
#define PATH_MAX_BYTES 512

static struct field root_of(const struct field *table)
{
    return (struct field){.name = "", .type = FIELD_OBJECT, .sub = table};
}

/* The row of a list's elements. */
static struct field element_of(const struct field *f)
{
    return (struct field){.name = f->name, .type = f->list_type == LIST_MAP ? FIELD_OBJECT : f->elem, .sub = f->sub};
}

/* ---- check ---- */

static int check(const struct field *f, const json_t *v, struct sbuf *path, struct err *err);

static int check_members(const struct field *f, const json_t *v, struct sbuf *path, struct err *err)
{
    size_t len = path->len;
    const char *key;
    json_t *value;
    int rc = 0;
    json_object_foreach ((json_t *)(uintptr_t)v, key, value) {
        const struct field text = {.name = key, .type = FIELD_STRING};
        const struct field *row = f->type == FIELD_MAP ? &text : field_find(f->sub, key);
        sbuf_addf(path, ".%s", key);
        if (row && !json_is_null(value) && (rc = check(row, value, path, err)) < 0)
            return rc;
        path->len = len;
    }
    return 0;
}

static int check_elements(const struct field *f, const json_t *v, struct sbuf *path, struct err *err)
{
    const struct field row = element_of(f);
    size_t len = path->len, i;
    json_t *item;
    int rc = 0;
    json_array_foreach (v, i, item) {
        sbuf_addf(path, "[%zu]", i);
        if ((rc = check(&row, item, path, err)) < 0)
            return rc;
        path->len = len;
    }
    if (f->list_type == LIST_ATOMIC || field_elements_named(f, v))
        return 0;
    path->ptr[len] = 0;
    return err_field(err, ERR_BAD_REQUEST, path->ptr, "%s: each element must have %s%s, and none the same as another", path->ptr, f->list_type == LIST_MAP ? "the key " : "a value",
                     f->list_type == LIST_MAP ? f->list_key : "");
}

static int check(const struct field *f, const json_t *v, struct sbuf *path, struct err *err)
{
    const char *at = path->ptr ? path->ptr : ".";
    if (!field_has_type(f->type, v))
        return err_field(err, ERR_BAD_REQUEST, at, "%s: expected %s, got %s", at, field_type_name(f->type), field_json_type_name(v));
    if ((f->type == FIELD_OBJECT && f->sub) || f->type == FIELD_MAP)
        return check_members(f, v, path, err);
    return f->type == FIELD_LIST ? check_elements(f, v, path, err) : 0;
}

int apply_check(const struct field *table, const json_t *applied, struct err *err)
{
    const struct field root = root_of(table);
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    struct err local = ERR_INIT;
    sbuf_init(&path, PATH_MAX_BYTES);
    int rc = check(&root, applied, &path, &local);
    return rc < 0 ? err_field(err, rc, local.field[0] == '.' ? local.field + 1 : local.field, "%s", local.msg) : 0;
}

/* ---- merge ---- */

static json_t *merged(const struct field *f, const json_t *live, const json_t *applied);

static json_t *without_nulls(const json_t *v)
{
    if (!json_is_object(v))
        return json_deep_copy(v);
    json_t *out = json_object(), *value;
    const char *key;
    json_object_foreach ((json_t *)(uintptr_t)v, key, value)
        if (!json_is_null(value))
            json_object_set_new(out, key, without_nulls(value));
    return out;
}

static json_t *merged_object(const struct field *f, const json_t *live, const json_t *applied)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach ((json_t *)(uintptr_t)live, key, v) {
        json_t *over = json_object_get(applied, key);
        struct field scratch;
        const struct field *row = field_child(f, key, &scratch);
        if (!over || json_is_null(over))
            json_object_set_new(out, key, json_deep_copy(v));
        else
            json_object_set_new(out, key, row ? merged(row, v, over) : without_nulls(over));
    }
    json_object_foreach ((json_t *)(uintptr_t)applied, key, v)
        if (!json_is_null(v) && !json_object_get(live, key))
            json_object_set_new(out, key, without_nulls(v));
    return out;
}

static json_t *merged_list(const struct field *f, const json_t *live, const json_t *applied)
{
    const struct field row = element_of(f);
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO rest = json_object(); /* what live does not have, in the order of the applied document */
    json_t *out = json_array(), *item;
    const char *key;
    size_t i;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (applied, i, item)
        if (field_element_name(f, item, &name))
            json_object_set(rest, name.ptr, item);
    json_array_foreach (live, i, item) {
        json_t *over = field_element_name(f, item, &name) ? json_object_get(rest, name.ptr) : NULL;
        json_array_append_new(out, over ? merged(&row, item, over) : json_deep_copy(item));
        if (over)
            json_object_del(rest, name.ptr);
    }
    json_object_foreach (rest, key, item)
        json_array_append_new(out, merged(&row, NULL, item));
    return out;
}

static json_t *merged(const struct field *f, const json_t *live, const json_t *applied)
{
    enum field_shape shape = field_shape(f, applied);
    if (!live || shape == SHAPE_LEAF || field_shape(f, live) != shape)
        return without_nulls(applied);
    return shape == SHAPE_OBJECT || shape == SHAPE_MAP ? merged_object(f, live, applied) : merged_list(f, live, applied);
}

json_t *apply_merge(const struct field *table, const json_t *live, const json_t *applied)
{
    const struct field root = root_of(table);
    return merged(&root, live, applied);
}

/* ---- prune ---- */

static bool in_set(const json_t *node)
{
    return json_object_get(node, ".") != NULL;
}

static void prune(const struct field *f, json_t *v, const json_t *last, const json_t *keep);

static bool is_empty_container(const json_t *v)
{
    return (json_is_object(v) && !json_object_size(v)) || (json_is_array(v) && !json_array_size(v));
}

/* Whether a child goes, after what is below it went. */
static bool goes(const struct field *row, json_t *child, const json_t *last, const json_t *keep)
{
    if (in_set(last) && fieldset_is_empty(keep))
        return true;
    bool was_empty = is_empty_container(child);
    prune(row, child, last, keep);
    return fieldset_is_empty(keep) && !was_empty && is_empty_container(child);
}

static void prune_object(const struct field *f, json_t *obj, const json_t *last, const json_t *keep)
{
    const char *name;
    json_t *below;
    json_object_foreach ((json_t *)(uintptr_t)last, name, below) {
        struct field scratch;
        if (name[0] != 'f')
            continue;
        json_t *child = json_object_get(obj, name + 2);
        const struct field *row = field_child(f, name + 2, &scratch);
        if (child && row && goes(row, child, below, json_object_get(keep, name)))
            json_object_del(obj, name + 2);
    }
}

static void prune_list(const struct field *f, json_t *list, const json_t *last, const json_t *keep)
{
    const struct field row = element_of(f);
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO left = json_array();
    size_t i;
    json_t *item;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (list, i, item) {
        const json_t *below = field_element_name(f, item, &name) ? json_object_get(last, name.ptr) : NULL;
        if (!below || !goes(&row, item, below, json_object_get(keep, name.ptr)))
            json_array_append(left, item);
    }
    json_array_clear(list);
    json_array_extend(list, left);
}

static void prune(const struct field *f, json_t *v, const json_t *last, const json_t *keep)
{
    enum field_shape shape = field_shape(f, v);
    if (shape == SHAPE_OBJECT || shape == SHAPE_MAP)
        prune_object(f, v, last, keep);
    else if (shape == SHAPE_SET || shape == SHAPE_KEYED)
        prune_list(f, v, last, keep);
}

void apply_prune(const struct field *table, json_t *obj, const json_t *last, const json_t *keep)
{
    const struct field root = root_of(table);
    prune(&root, obj, last, keep);
}
