#include "json/fieldset.h"
#include "base/mem.h"

#define NAME_MAX_BYTES ((size_t)2 << 20)
#define PATH_TEXT_MAX 4096
#define SELF "."

/* ---- the set itself ---- */

static bool has_self(const json_t *node)
{
    return json_object_get(node, SELF) != NULL;
}

static void add_self(json_t *node)
{
    json_object_set_new(node, SELF, json_true());
}

bool fieldset_is_empty(const json_t *set)
{
    return json_object_size(set) == 0;
}

/* Steals child; the empty set is not put down. */
static void put(json_t *node, const char *name, json_t *child)
{
    if (fieldset_is_empty(child))
        json_decref(child);
    else
        json_object_set_new(node, name, child);
}

static bool is_name(const char *name)
{
    return (name[0] == 'f' || name[0] == 'k' || name[0] == 'v' || name[0] == 'i') && name[1] == ':';
}

static json_t *decode(const json_t *v1, bool root)
{
    JSON_AUTO node = json_object();
    const char *name;
    json_t *child;
    if (!json_is_object(v1))
        return NULL;
    if (!root && (json_object_size(v1) == 0 || has_self(v1)))
        add_self(node);
    json_object_foreach ((json_t *)(uintptr_t)v1, name, child) {
        if (!strcmp(name, SELF))
            continue;
        json_t *below = is_name(name) ? decode(child, false) : NULL;
        if (!below)
            return NULL;
        put(node, name, below);
    }
    return TAKE(node);
}

json_t *fieldset_decode(const json_t *fields_v1)
{
    return decode(fields_v1, true);
}

json_t *fieldset_encode(const json_t *set)
{
    json_t *out = json_object();
    const char *name;
    json_t *child;
    if (has_self(set) && json_object_size(set) > 1)
        json_object_set_new(out, SELF, json_object());
    json_object_foreach ((json_t *)(uintptr_t)set, name, child)
        if (strcmp(name, SELF) != 0)
            json_object_set_new(out, name, fieldset_encode(child));
    return out;
}

json_t *fieldset_union(const json_t *a, const json_t *b)
{
    json_t *out = a ? json_copy((json_t *)(uintptr_t)a) : json_object();
    const char *name;
    json_t *child;
    json_object_foreach ((json_t *)(uintptr_t)b, name, child) {
        json_t *mine = json_object_get(a, name);
        if (!mine || !strcmp(name, SELF))
            json_object_set(out, name, child);
        else
            json_object_set_new(out, name, fieldset_union(mine, child));
    }
    return out;
}

json_t *fieldset_minus(const json_t *a, const json_t *b)
{
    json_t *out = json_object();
    const char *name;
    json_t *child;
    json_object_foreach ((json_t *)(uintptr_t)a, name, child) {
        json_t *theirs = json_object_get(b, name);
        if (!theirs)
            json_object_set(out, name, child);
        else if (strcmp(name, SELF) != 0)
            put(out, name, fieldset_minus(child, theirs));
    }
    return out;
}

json_t *fieldset_common(const json_t *a, const json_t *b)
{
    json_t *out = json_object();
    const char *name;
    json_t *child;
    json_object_foreach ((json_t *)(uintptr_t)a, name, child) {
        json_t *theirs = json_object_get(b, name);
        if (theirs && !strcmp(name, SELF))
            add_self(out);
        else if (theirs)
            put(out, name, fieldset_common(child, theirs));
    }
    return out;
}

/* ---- tables ---- */

enum field_shape field_shape(const struct field *f, const json_t *value)
{
    if (f->flags & FIELD_ATOMIC)
        return SHAPE_LEAF;
    if (f->type == FIELD_OBJECT && f->sub && json_is_object(value))
        return SHAPE_OBJECT;
    if (f->type == FIELD_MAP && json_is_object(value))
        return SHAPE_MAP;
    if (f->type == FIELD_LIST && f->list_type == LIST_SET && json_is_array(value))
        return SHAPE_SET;
    if (f->type == FIELD_LIST && f->list_type == LIST_MAP && f->sub && json_is_array(value))
        return SHAPE_KEYED;
    return SHAPE_LEAF;
}

const struct field *field_child(const struct field *f, const char *name, struct field *scratch)
{
    const struct field *row = f->type == FIELD_OBJECT ? field_find(f->sub, name) : NULL;
    if (row)
        return row;
    if (f->type == FIELD_OBJECT && !(f->flags & FIELD_OPEN))
        return NULL;
    *scratch = (struct field){.name = name, .type = FIELD_ANY};
    return scratch;
}

bool field_element_name(const struct field *f, const json_t *item, struct sbuf *out)
{
    sbuf_reset(out);
    if (f->list_type == LIST_SET) {
        sbuf_addc(out, "v:");
        json_write(item, out);
        return sbuf_ok(out);
    }
    struct str rest = str_of(f->list_key), part;
    sbuf_addc(out, "k:{");
    while (str_cut(&rest, ',', &part)) {
        char key[64];
        const json_t *value = str_to_array(part, key, sizeof(key)) ? json_object_get(item, key) : NULL;
        if (!value || json_is_object(value) || json_is_array(value))
            return false;
        sbuf_addf(out, "%s\"%s\":", out->len > 3 ? "," : "", key);
        json_write(value, out);
    }
    sbuf_add_char(out, '}');
    return sbuf_ok(out);
}

bool field_elements_named(const struct field *f, const json_t *list)
{
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    JSON_AUTO seen = json_object();
    size_t i;
    json_t *item;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (list, i, item) {
        if (!field_element_name(f, item, &name) || json_object_get(seen, name.ptr))
            return false;
        json_object_set_new(seen, name.ptr, json_true());
    }
    return true;
}

/* The row of an element of a list by key. */
static struct field element_row(const struct field *f)
{
    return (struct field){.name = f->name, .type = FIELD_OBJECT, .sub = f->sub};
}

/* ---- sets from objects ---- */

/* all: objects and lists are in the set too, as for what was written; else only what an applied document sets. */
static json_t *paths_of(const struct field *f, const json_t *v, bool all)
{
    json_t *node = json_object();
    enum field_shape shape = field_shape(f, v);
    if ((shape == SHAPE_SET || shape == SHAPE_KEYED) && !field_elements_named(f, v))
        shape = SHAPE_LEAF;
    if (shape == SHAPE_LEAF) {
        add_self(node);
        return node;
    }
    if (all)
        add_self(node);
    if (shape == SHAPE_OBJECT || shape == SHAPE_MAP) {
        const char *key;
        json_t *value;
        json_object_foreach ((json_t *)(uintptr_t)v, key, value) {
            struct field scratch;
            const struct field *row = field_child(f, key, &scratch);
            CLEANUP(mem_freep) char *name = xasprintf("f:%s", key);
            if (row && !json_is_null(value))
                put(node, name, paths_of(row, value, all));
        }
        if (!json_object_size(node)) /* nulls count as absent */
            add_self(node);
        return node;
    }
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    struct field row = shape == SHAPE_KEYED ? element_row(f) : (struct field){.name = "", .type = FIELD_ANY};
    size_t i;
    json_t *item;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (v, i, item) {
        json_t *child = paths_of(&row, item, all);
        add_self(child);
        if (field_element_name(f, item, &name))
            json_object_set_new(node, name.ptr, child);
        else
            json_decref(child);
    }
    if (!json_object_size(node)) /* an empty list is a wish too */
        add_self(node);
    return node;
}

json_t *fieldset_of(const struct field *table, const json_t *obj)
{
    const struct field root = {.name = "", .type = FIELD_OBJECT, .sub = table};
    json_t *set = paths_of(&root, obj, false);
    json_object_del(set, SELF);
    return set;
}

static struct fieldset_diff compare(const struct field *f, const json_t *a, const json_t *b);

static void put_diff(struct fieldset_diff *out, const char *name, struct fieldset_diff d)
{
    if (d.changed) {
        out->changed = out->changed ? out->changed : json_object();
        put(out->changed, name, d.changed);
    }
    if (d.removed) {
        out->removed = out->removed ? out->removed : json_object();
        put(out->removed, name, d.removed);
    }
}

static void compare_member(const struct field *f, const char *key, const json_t *a, const json_t *b, struct fieldset_diff *out)
{
    struct field scratch;
    const struct field *row = field_child(f, key, &scratch);
    if (!row)
        return;
    struct fieldset_diff d = compare(row, a, b);
    if (!d.changed && !d.removed)
        return;
    CLEANUP(mem_freep) char *name = xasprintf("f:%s", key);
    put_diff(out, name, d);
}

static struct fieldset_diff compare_objects(const struct field *f, const json_t *a, const json_t *b)
{
    struct fieldset_diff out = {NULL, NULL};
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)b, key, v)
        compare_member(f, key, json_object_get(a, key), v, &out);
    json_object_foreach ((json_t *)(uintptr_t)a, key, v)
        if (!json_object_get(b, key))
            compare_member(f, key, v, NULL, &out);
    return out;
}

/* The elements by name; both lists have names for all. */
static json_t *by_name(const struct field *f, const json_t *list)
{
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    json_t *out = json_object();
    size_t i;
    json_t *item;
    sbuf_init(&name, NAME_MAX_BYTES);
    json_array_foreach (list, i, item)
        if (field_element_name(f, item, &name))
            json_object_set(out, name.ptr, item);
    return out;
}

static struct fieldset_diff compare_lists(const struct field *f, const json_t *a, const json_t *b)
{
    struct fieldset_diff out = {NULL, NULL};
    const struct field row = f->list_type == LIST_MAP ? element_row(f) : (struct field){.name = "", .type = FIELD_ANY};
    JSON_AUTO old_items = by_name(f, a);
    JSON_AUTO new_items = by_name(f, b);
    const char *name;
    json_t *item;
    json_object_foreach (new_items, name, item)
        put_diff(&out, name, compare(&row, json_object_get(old_items, name), item));
    json_object_foreach (old_items, name, item)
        if (!json_object_get(new_items, name))
            put_diff(&out, name, compare(&row, item, NULL));
    return out;
}

static struct fieldset_diff compare(const struct field *f, const json_t *a, const json_t *b)
{
    a = json_is_null(a) ? NULL : a;
    b = json_is_null(b) ? NULL : b;
    if (a == b)
        return (struct fieldset_diff){NULL, NULL};
    if (!a)
        return (struct fieldset_diff){paths_of(f, b, true), NULL};
    if (!b)
        return (struct fieldset_diff){NULL, paths_of(f, a, true)};
    enum field_shape shape = field_shape(f, a);
    if (shape != field_shape(f, b))
        shape = SHAPE_LEAF;
    if (shape == SHAPE_OBJECT || shape == SHAPE_MAP)
        return compare_objects(f, a, b);
    if ((shape == SHAPE_SET || shape == SHAPE_KEYED) && field_elements_named(f, a) && field_elements_named(f, b))
        return compare_lists(f, a, b);
    if (json_equal(a, b))
        return (struct fieldset_diff){NULL, NULL};
    return (struct fieldset_diff){paths_of(f, b, true), NULL};
}

struct fieldset_diff fieldset_compare(const struct field *table, const json_t *a, const json_t *b)
{
    const struct field root = {.name = "", .type = FIELD_OBJECT, .sub = table};
    JSON_AUTO none = json_object();
    struct fieldset_diff d = compare_objects(&root, a ? a : none, b);
    d.changed = d.changed ? d.changed : json_object();
    d.removed = d.removed ? d.removed : json_object();
    return d;
}

/* ---- paths for people ---- */

/* "k:{"name":"x"}" → [name="x"], "v:1" → [=1], "f:a" → .a */
static void add_part(struct sbuf *path, const char *name)
{
    if (name[0] != 'k') {
        sbuf_addf(path, name[0] == 'f' ? ".%s" : name[0] == 'v' ? "[=%s]" : "[%s]", name + 2);
        return;
    }
    JSON_AUTO keys = json_loads(name + 2, 0, NULL);
    const char *key;
    json_t *v;
    bool first = true;
    sbuf_add_char(path, '[');
    json_object_foreach (keys, key, v) {
        sbuf_addf(path, "%s%s=", first ? "" : ",", key);
        json_write(v, path);
        first = false;
    }
    sbuf_add_char(path, ']');
}

static bool each(const json_t *set, struct sbuf *path, bool (*fn)(void *arg, const char *path), void *arg)
{
    const char *name;
    json_t *child;
    size_t len = path->len;
    json_object_foreach ((json_t *)(uintptr_t)set, name, child) {
        bool go_on = true;
        if (!strcmp(name, SELF)) {
            go_on = fn(arg, path->ptr ? path->ptr : "");
        } else {
            add_part(path, name);
            go_on = each(child, path, fn, arg);
            path->len = len;
            if (path->ptr)
                path->ptr[len] = 0;
        }
        if (!go_on)
            return false;
    }
    return true;
}

void fieldset_each(const json_t *set, bool (*fn)(void *arg, const char *path), void *arg)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    sbuf_init(&path, PATH_TEXT_MAX);
    each(set, &path, fn, arg);
}
