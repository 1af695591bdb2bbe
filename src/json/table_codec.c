/* Field tables between documents and structs: defaults, decoding, encoding, read-only and secret members. */
#include "json/table.h"

/* ---- defaults, read-only, secret ---- */

void field_defaults(const struct field *table, json_t *obj)
{
    for (const struct field *f = table; f && f->name; f++) {
        json_t *v = json_object_get(obj, f->name);
        if ((!v || json_is_null(v)) && f->def) {
            v = json_loads(f->def, JSON_DECODE_ANY, NULL);
            json_object_set_new(obj, f->name, v);
        }
        size_t i;
        json_t *item;
        if (f->type == FIELD_OBJECT && f->sub && json_is_object(v))
            field_defaults(f->sub, v);
        else if (f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub)
            json_array_foreach (v, i, item)
                if (json_is_object(item))
                    field_defaults(f->sub, item);
    }
}

void field_drop_nulls(const struct field *table, json_t *obj)
{
    for (const struct field *f = table; f && f->name; f++) {
        json_t *v = json_object_get(obj, f->name), *item;
        size_t i;
        if (json_is_null(v) && !(f->flags & FIELD_NULLABLE))
            json_object_del(obj, f->name);
        else if (f->type == FIELD_OBJECT && f->sub && json_is_object(v))
            field_drop_nulls(f->sub, v);
        else if (f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub)
            json_array_foreach (v, i, item)
                field_drop_nulls(f->sub, item);
    }
}

void field_keep_read_only(const struct field *table, const json_t *old_obj, json_t *new_obj)
{
    for (const struct field *f = table; f && f->name; f++) {
        json_t *a = json_object_get(old_obj, f->name), *b = json_object_get(new_obj, f->name);
        if (f->flags & FIELD_READ_ONLY) {
            if (a)
                json_object_set(new_obj, f->name, a);
            else
                json_object_del(new_obj, f->name);
        } else if (f->type == FIELD_OBJECT && f->sub && json_is_object(b)) {
            field_keep_read_only(f->sub, a, b);
        }
    }
}

void field_redact(const struct field *table, json_t *obj)
{
    for (const struct field *f = table; f && f->name; f++) {
        json_t *v = json_object_get(obj, f->name);
        size_t i;
        json_t *item;
        if (f->flags & FIELD_SECRET)
            json_object_del(obj, f->name);
        else if (f->type == FIELD_OBJECT && f->sub && json_is_object(v))
            field_redact(f->sub, v);
        else if (f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub)
            json_array_foreach (v, i, item)
                field_redact(f->sub, item);
    }
}

/* ---- decode ---- */

static int decode_list(const struct field *f, const json_t *v, struct arena *a, struct field_list *out, struct err *err)
{
    size_t count = json_array_size(v), i;
    json_t *item;
    out->count = count;
    if (!count)
        return 0;
    size_t size = f->elem == FIELD_OBJECT ? f->sub_size : f->elem == FIELD_INT ? sizeof(int64_t) : sizeof(char *);
    if (!size)
        return err_field(err, ERR_INTERNAL, f->name, "%s: the table has no size for its elements", f->name);
    out->items = arena_alloc(a, count * size);
    json_array_foreach (v, i, item) {
        void *slot = (char *)out->items + i * size;
        int rc = 0;
        if (f->elem == FIELD_OBJECT)
            rc = field_decode(f->sub, item, a, slot, err);
        else if (f->elem == FIELD_INT)
            *(int64_t *)slot = json_integer_value(item);
        else
            *(const char **)slot = arena_strdup(a, json_string_value(item) ? json_string_value(item) : "");
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void decode_map(const json_t *v, struct arena *a, struct field_map *out)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(v);
    if (!n)
        return;
    out->keys = ARENA_ARRAY(a, const char *, n);
    out->values = ARENA_ARRAY(a, const char *, n);
    json_object_foreach ((json_t *)(uintptr_t)v, key, value) {
        out->keys[out->count] = arena_strdup(a, key);
        out->values[out->count++] = arena_strdup(a, json_is_string(value) ? json_string_value(value) : "");
    }
}

static int decode_value(const struct field *f, const json_t *v, struct arena *a, void *slot, struct err *err)
{
    switch (f->type) {
    case FIELD_INT:
        *(int64_t *)slot = json_integer_value(v);
        return 0;
    case FIELD_BOOL:
        *(bool *)slot = json_is_true(v);
        return 0;
    case FIELD_NUMBER:
        *(double *)slot = json_number_value(v);
        return 0;
    case FIELD_OBJECT:
        if (f->flags & FIELD_POINTER) {
            void *p = arena_alloc(a, f->sub_size);
            *(void **)slot = p;
            slot = p;
        }
        return field_decode(f->sub, v, a, slot, err);
    case FIELD_LIST:
        return decode_list(f, v, a, slot, err);
    case FIELD_MAP:
        decode_map(v, a, slot);
        return 0;
    case FIELD_ANY:
        *(json_t **)slot = (json_t *)(uintptr_t)v;
        return 0;
    default:
        *(const char **)slot = json_is_string(v) ? arena_strdup(a, json_string_value(v)) : NULL;
        return 0;
    }
}

int field_decode(const struct field *table, const json_t *obj, struct arena *a, void *out, struct err *err)
{
    for (const struct field *f = table; f && f->name; f++) {
        const json_t *v = json_object_get(obj, f->name);
        if (f->offset == FIELD_NO_MEMBER || !v || json_is_null(v))
            continue;
        int rc = decode_value(f, v, a, (char *)out + f->offset, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- encode ---- */

static json_t *encode_list(const struct field *f, const struct field_list *l)
{
    if (!l->count)
        return NULL;
    json_t *out = json_array();
    for (size_t i = 0; i < l->count; i++) {
        if (f->elem == FIELD_OBJECT)
            json_array_append_new(out, field_encode(f->sub, (const char *)l->items + i * f->sub_size));
        else if (f->elem == FIELD_INT)
            json_array_append_new(out, json_integer(((const int64_t *)l->items)[i]));
        else
            json_array_append_new(out, json_string(((const char *const *)l->items)[i]));
    }
    return out;
}

static json_t *encode_map(const struct field_map *m)
{
    if (!m->count)
        return NULL;
    json_t *out = json_object();
    for (size_t i = 0; i < m->count; i++)
        json_object_set_new(out, m->keys[i], json_string(m->values[i]));
    return out;
}

static json_t *encode_value(const struct field *f, const void *slot)
{
    switch (f->type) {
    case FIELD_INT:
        return json_integer(*(const int64_t *)slot);
    case FIELD_BOOL:
        return json_boolean(*(const bool *)slot);
    case FIELD_NUMBER:
        return json_real(*(const double *)slot);
    case FIELD_OBJECT:
        if (f->flags & FIELD_POINTER)
            slot = *(const void *const *)slot;
        return slot ? field_encode(f->sub, slot) : NULL;
    case FIELD_LIST:
        return encode_list(f, slot);
    case FIELD_MAP:
        return encode_map(slot);
    case FIELD_ANY:
        return json_incref(*(json_t *const *)slot);
    default:
        return *(const char *const *)slot ? json_string(*(const char *const *)slot) : NULL;
    }
}

json_t *field_encode(const struct field *table, const void *in)
{
    json_t *out = json_object();
    for (const struct field *f = table; f && f->name; f++) {
        if (f->offset == FIELD_NO_MEMBER)
            continue;
        json_t *v = encode_value(f, (const char *)in + f->offset);
        if (v)
            json_object_set_new(out, f->name, v);
    }
    return out;
}
