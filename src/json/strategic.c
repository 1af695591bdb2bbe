#include "json/strategic.h"

#define PATCH "$patch"
#define RETAIN "$retainKeys"
#define DELETE_FROM "$deleteFromPrimitiveList/"
#define ORDER "$setElementOrder/"
#define NAME_MAX_BYTES ((size_t)2 << 20)

enum directive { DIRECTIVE_MERGE, DIRECTIVE_REPLACE, DIRECTIVE_DELETE, DIRECTIVE_BAD };

static enum directive directive_of(const json_t *v)
{
    const json_t *d = json_object_get(v, PATCH);
    const char *text = json_string_value(d);
    if (!d)
        return DIRECTIVE_MERGE;
    if (!text)
        return DIRECTIVE_BAD;
    return !strcmp(text, "merge") ? DIRECTIVE_MERGE : !strcmp(text, "replace") ? DIRECTIVE_REPLACE : !strcmp(text, "delete") ? DIRECTIVE_DELETE : DIRECTIVE_BAD;
}

static bool is_directive(const char *key)
{
    return !strcmp(key, PATCH) || !strcmp(key, RETAIN) || !strncmp(key, DELETE_FROM, sizeof(DELETE_FROM) - 1) || !strncmp(key, ORDER, sizeof(ORDER) - 1);
}

/* A part of the patch that meets nothing: without nulls and directives. */
static json_t *plain(const json_t *v)
{
    json_t *out, *child;
    const char *key;
    size_t i;
    if (json_is_array(v)) {
        out = json_array();
        json_array_foreach (v, i, child)
            if (directive_of(child) == DIRECTIVE_MERGE)
                json_array_append_new(out, plain(child));
        return out;
    }
    if (!json_is_object(v))
        return json_deep_copy(v);
    out = json_object();
    json_object_foreach ((json_t *)(uintptr_t)v, key, child)
        if (!json_is_null(child) && !is_directive(key))
            json_object_set_new(out, key, plain(child));
    return out;
}

/* ---- lists ---- */

/* A row that names elements by the merge key alone. */
static struct field naming(const struct field *f, char key[64])
{
    struct field row = {.name = f->name, .type = FIELD_LIST, .list_type = f->list_type, .list_key = key};
    struct str rest = str_of(f->list_key), first;
    *key = 0;
    if (str_cut(&rest, ',', &first))
        (void)!str_to_array(first, key, 64);
    return row;
}

static int bad(struct err *err, const char *name, const char *what)
{
    return err_field(err, ERR_BAD_REQUEST, name, "strategic merge patch: %.64s: %s", name, what);
}

static int merge_object(const struct field *f, const json_t *target, const json_t *patch, json_t **ret, struct err *err);

/* Patch elements by name; *ret_replace when one says that the list is replaced. */
static int index_patch(const struct field *by, const json_t *patch, json_t *ret_named, bool *ret_replace, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    size_t i;
    json_t *item;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (patch, i, item) {
        enum directive d = directive_of(item);
        if (d == DIRECTIVE_BAD)
            return bad(err, by->name, "$patch must be merge, replace or delete");
        if (d == DIRECTIVE_REPLACE)
            *ret_replace = true;
        else if (!field_element_name(by, item, &name))
            return bad(err, by->name, "an element does not contain the declared merge key");
        else
            json_object_set(ret_named, name.ptr, item);
    }
    return 0;
}

static int merge_list(const struct field *f, const json_t *target, const json_t *patch, json_t **ret, struct err *err)
{
    char key[64];
    const struct field by = naming(f, key), element = {.name = f->name, .type = f->list_type == LIST_MAP ? FIELD_OBJECT : FIELD_ANY, .sub = f->sub};
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO named = json_object();
    JSON_AUTO out = json_array();
    bool replace = false;
    size_t i;
    json_t *item, *over;
    const char *k;
    sbuf_init(&name, NAME_MAX_BYTES);
    int rc = index_patch(&by, patch, named, &replace, err);
    if (rc < 0)
        return rc;
    if (replace) {
        *ret = plain(patch);
        return 0;
    }
    json_array_foreach (target, i, item) {
        over = field_element_name(&by, item, &name) ? json_object_get(named, name.ptr) : NULL;
        if (!over) {
            json_array_append_new(out, json_deep_copy(item));
            continue;
        }
        if (directive_of(over) != DIRECTIVE_DELETE) {
            json_t *one = NULL;
            if (!json_is_object(item) || !json_is_object(over))
                one = json_deep_copy(item);
            else if ((rc = merge_object(&element, item, over, &one, err)) < 0)
                return rc;
            json_array_append_new(out, one);
        }
        json_object_del(named, name.ptr);
    }
    json_object_foreach (named, k, over)
        if (directive_of(over) != DIRECTIVE_DELETE)
            json_array_append_new(out, plain(over));
    *ret = TAKE(out);
    return 0;
}

/* Takes values off a list of scalars. */
static json_t *without(const json_t *list, const json_t *values)
{
    const struct field by = {.name = "", .type = FIELD_LIST, .list_type = LIST_SET};
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO gone = json_object();
    json_t *out = json_array(), *item;
    size_t i;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (values, i, item)
        if (field_element_name(&by, item, &name))
            json_object_set_new(gone, name.ptr, json_true());
    json_array_foreach (list, i, item)
        if (!field_element_name(&by, item, &name) || !json_object_get(gone, name.ptr))
            json_array_append(out, item);
    return out;
}

/* Elements that `order` names stand in its order, in the places that they have among them; others stay where they are. */
static json_t *in_order(const struct field *f, json_t *list, const json_t *order)
{
    char key[64];
    const struct field by = naming(f, key);
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO items = json_object();
    JSON_AUTO sorted = json_array();
    json_t *out = json_array(), *item;
    size_t i, next = 0;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (list, i, item)
        if (field_element_name(&by, item, &name))
            json_object_set(items, name.ptr, item);
    json_array_foreach (order, i, item)
        if (field_element_name(&by, item, &name) && json_object_get(items, name.ptr)) {
            json_array_append(sorted, json_object_get(items, name.ptr));
            json_object_del(items, name.ptr);
        }
    json_array_foreach (list, i, item) {
        bool named = field_element_name(&by, item, &name) && !json_object_get(items, name.ptr);
        json_array_append(out, named && next < json_array_size(sorted) ? json_array_get(sorted, next++) : item);
    }
    return out;
}

/* ---- objects ---- */

static int retain_keys(json_t *out, const json_t *patch, struct err *err)
{
    const json_t *keys = json_object_get(patch, RETAIN);
    JSON_AUTO kept = json_object();
    const char *key;
    json_t *v;
    size_t i;
    void *next;
    if (!keys)
        return 0;
    if (!json_is_array(keys))
        return bad(err, RETAIN, "must be a list of names");
    json_array_foreach (keys, i, v)
        if (json_is_string(v))
            json_object_set_new(kept, json_string_value(v), json_true());
    json_object_foreach ((json_t *)(uintptr_t)patch, key, v)
        if (!is_directive(key) && !json_is_null(v) && !json_object_get(kept, key))
            return bad(err, key, "is set, but $retainKeys does not name it");
    json_object_foreach_safe (out, next, key, v)
        if (!json_object_get(kept, key))
            json_object_del(out, key);
    return 0;
}

static bool merges_list(const struct field *row)
{
    return row && row->type == FIELD_LIST && (row->list_type == LIST_SET || (row->list_type == LIST_MAP && row->sub));
}

static int merge_member(const struct field *f, json_t *out, const char *key, const json_t *v, struct err *err)
{
    struct field scratch;
    const struct field *row = field_child(f, key, &scratch);
    const json_t *now = json_object_get(out, key);
    json_t *merged = NULL;
    enum directive d = directive_of(v);
    int rc = 0;
    if (d == DIRECTIVE_BAD)
        return bad(err, key, "$patch must be merge, replace or delete");
    if (json_is_null(v) || d == DIRECTIVE_DELETE) {
        json_object_del(out, key);
        return 0;
    }
    if (json_is_object(v) && json_is_object(now)) {
        const struct field any = {.name = key, .type = FIELD_ANY};
        rc = merge_object(row ? row : &any, now, v, &merged, err);
    } else if (json_is_array(v) && json_is_array(now) && merges_list(row)) {
        rc = merge_list(row, now, v, &merged, err);
    } else {
        merged = plain(v);
    }
    if (rc == 0)
        json_object_set_new(out, key, merged);
    return rc;
}

/* $deleteFromPrimitiveList/NAME and $setElementOrder/NAME, after the members were merged. */
static int direct_list(const struct field *f, json_t *out, const char *key, const json_t *v, struct err *err)
{
    bool order = !strncmp(key, ORDER, sizeof(ORDER) - 1);
    const char *name = strchr(key, '/') + 1;
    struct field scratch;
    const struct field *row = field_child(f, name, &scratch);
    json_t *list = json_object_get(out, name);
    if (!json_is_array(v))
        return bad(err, key, "must be a list");
    if (!json_is_array(list))
        return 0;
    if (!order)
        json_object_set_new(out, name, without(list, v));
    else if (merges_list(row))
        json_object_set_new(out, name, in_order(row, list, v));
    return 0;
}

static int merge_object(const struct field *f, const json_t *target, const json_t *patch, json_t **ret, struct err *err)
{
    JSON_AUTO out = json_copy((json_t *)(uintptr_t)target);
    const char *key;
    json_t *v;
    enum directive d = directive_of(patch);
    if (d == DIRECTIVE_BAD)
        return bad(err, PATCH, "must be merge, replace or delete");
    if (d != DIRECTIVE_MERGE) {
        *ret = d == DIRECTIVE_REPLACE ? plain(patch) : json_object();
        return 0;
    }
    int rc = retain_keys(out, patch, err);
    json_object_foreach ((json_t *)(uintptr_t)patch, key, v)
        if (rc == 0 && !is_directive(key))
            rc = merge_member(f, out, key, v, err);
    json_object_foreach ((json_t *)(uintptr_t)patch, key, v)
        if (rc == 0 && is_directive(key) && strchr(key, '/'))
            rc = direct_list(f, out, key, v, err);
    if (rc < 0)
        return rc;
    *ret = TAKE(out);
    return 0;
}

int json_strategic_patch(const struct field *table, const json_t *target, const json_t *patch, json_t **ret, struct err *err)
{
    const struct field root = {.name = "", .type = FIELD_OBJECT, .sub = table};
    JSON_AUTO out = NULL;
    if (!json_is_object(patch))
        return err_set(err, ERR_BAD_REQUEST, "a strategic merge patch is an object");
    int rc = merge_object(&root, target, patch, &out, err);
    if (rc == 0)
        *ret = json_deep_copy(out);
    return rc;
}
