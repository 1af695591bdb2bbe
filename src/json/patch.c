#include "json/patch.h"

#define OPS_MAX 10000
#define DEPTH_MAX 64

/* ---- RFC 7386 ---- */

static json_t *merge(const json_t *target, const json_t *patch, int depth)
{
    if (!json_is_object(patch) || depth > DEPTH_MAX)
        return json_deep_copy(patch);
    json_t *out = json_is_object(target) ? json_copy((json_t *)(uintptr_t)target) : json_object();
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)patch, key, v) {
        if (json_is_null(v))
            json_object_del(out, key);
        else
            json_object_set_new(out, key, merge(json_object_get(out, key), v, depth + 1));
    }
    return out;
}

int json_merge_patch(const json_t *target, const json_t *patch, json_t **ret, struct err *err)
{
    JSON_AUTO out = merge(target, patch, 0);
    if (!out)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    /* Members that the patch did not touch are shared with the target until here. */
    *ret = json_deep_copy(out);
    return 0;
}

/* ---- RFC 6902 ---- */

#define TOKEN_MAX 512

/* The next part of a JSON pointer, unescaped. 1: a part; 0: the end; negative: malformed. */
static int next_token(const char **at, char token[TOKEN_MAX])
{
    if (!**at)
        return 0;
    if (**at != '/')
        return -1;
    const char *p = *at + 1;
    size_t len = 0;
    for (; *p && *p != '/'; p++) {
        char c = *p;
        if (c == '~') {
            p++;
            if (*p != '0' && *p != '1')
                return -1;
            c = *p == '0' ? '~' : '/';
        }
        if (len + 1 >= TOKEN_MAX)
            return -1;
        token[len++] = c;
    }
    token[len] = 0;
    *at = p;
    return 1;
}

static int array_index(const json_t *array, const char *token, bool may_append, size_t *ret)
{
    int64_t i;
    if (may_append && !strcmp(token, "-")) {
        *ret = json_array_size(array);
        return 0;
    }
    if (str_to_i64(str_of(token), 0, INT32_MAX, &i) < 0 || (token[0] == '0' && token[1]))
        return -1;
    *ret = (size_t)i;
    return *ret < json_array_size(array) + (may_append ? 1 : 0) ? 0 : -1;
}

static json_t *child(const json_t *at, const char *token)
{
    size_t i;
    if (json_is_object(at))
        return json_object_get(at, token);
    return json_is_array(at) && array_index(at, token, false, &i) == 0 ? json_array_get(at, i) : NULL;
}

/* Walks to the parent of what the pointer names; last is its final part. Root pointers have no parent. */
static json_t *parent_of(json_t *doc, const char *pointer, char last[TOKEN_MAX])
{
    json_t *at = doc;
    if (next_token(&pointer, last) != 1)
        return NULL;
    while (*pointer) {
        char token[TOKEN_MAX];
        at = child(at, last);
        if (!at || next_token(&pointer, token) != 1)
            return NULL;
        memcpy(last, token, TOKEN_MAX);
    }
    return at;
}

static json_t *find(json_t *doc, const char *pointer)
{
    char last[TOKEN_MAX];
    if (!*pointer)
        return doc;
    json_t *parent = parent_of(doc, pointer, last);
    return parent ? child(parent, last) : NULL;
}

static int add(json_t **doc, const char *pointer, json_t *value)
{
    char last[TOKEN_MAX];
    size_t i;
    if (!*pointer) {
        json_decref(*doc);
        *doc = json_incref(value);
        return 0;
    }
    json_t *parent = parent_of(*doc, pointer, last);
    if (json_is_object(parent))
        return json_object_set(parent, last, value);
    if (json_is_array(parent) && array_index(parent, last, true, &i) == 0)
        return json_array_insert(parent, i, value);
    return -1;
}

static int del(json_t *doc, const char *pointer)
{
    char last[TOKEN_MAX];
    size_t i;
    json_t *parent = *pointer ? parent_of(doc, pointer, last) : NULL;
    if (json_is_object(parent))
        return json_object_del(parent, last);
    if (json_is_array(parent) && array_index(parent, last, false, &i) == 0)
        return json_array_remove(parent, i);
    return -1;
}

static int replace(json_t **doc, const char *pointer, json_t *value)
{
    if (*pointer && !find(*doc, pointer))
        return -1;
    JSON_AUTO keep = json_incref(value);
    char last[TOKEN_MAX];
    json_t *parent = *pointer ? parent_of(*doc, pointer, last) : NULL;
    size_t i;
    if (json_is_array(parent) && array_index(parent, last, false, &i) == 0)
        return json_array_set(parent, i, keep);
    return add(doc, pointer, keep);
}

static int apply(json_t **doc, const json_t *op)
{
    const char *name = json_str_or(op, "op", ""), *path = json_str(op, "path"), *from = json_str(op, "from");
    json_t *value = json_object_get(op, "value");
    if (!path)
        return -1;
    if (!strcmp(name, "remove"))
        return del(*doc, path);
    if (!strcmp(name, "move") || !strcmp(name, "copy")) {
        JSON_AUTO v = from ? json_deep_copy(find(*doc, from)) : NULL;
        bool into_itself = from && !strncmp(path, from, strlen(from)) && path[strlen(from)] == '/';
        if (!v || (!strcmp(name, "move") && (into_itself || del(*doc, from) < 0)))
            return -1;
        return add(doc, path, v);
    }
    if (!value)
        return -1;
    JSON_AUTO v = json_deep_copy(value);
    if (!strcmp(name, "add"))
        return add(doc, path, v);
    if (!strcmp(name, "replace"))
        return replace(doc, path, v);
    if (!strcmp(name, "test")) {
        const json_t *found = find(*doc, path);
        return found && json_equal(found, value) ? 0 : -1;
    }
    return -1;
}

/* A lower bound of the text's size, stopped once it is over max: copy operations can double a document each. */
static size_t weigh(const json_t *j, size_t max, int depth)
{
    size_t total = 1, i;
    const char *key;
    json_t *v;
    if (depth > DEPTH_MAX)
        return SIZE_MAX / 2;
    if (json_is_string(j))
        return json_string_length(j) + 2;
    if (json_is_object(j)) {
        json_object_foreach ((json_t *)(uintptr_t)j, key, v)
            if ((total += strlen(key) + 4 + weigh(v, max, depth + 1)) > max)
                break;
    } else if (json_is_array(j)) {
        json_array_foreach (j, i, v)
            if ((total += 1 + weigh(v, max, depth + 1)) > max)
                break;
    }
    return total;
}

int json_apply_patch(const json_t *target, const json_t *ops, size_t max_bytes, json_t **ret, struct err *err)
{
    if (!json_is_array(ops))
        return err_set(err, ERR_BAD_REQUEST, "a JSON patch is an array of operations");
    if (json_array_size(ops) > OPS_MAX)
        return err_set(err, ERR_TOO_LARGE, "a JSON patch of %zu operations; at most %d are accepted", json_array_size(ops), OPS_MAX);
    JSON_AUTO doc = json_deep_copy(target);
    size_t i;
    json_t *op;
    json_array_foreach (ops, i, op) {
        if (!json_is_object(op) || apply(&doc, op) < 0)
            return err_set(err, ERR_INVALID, "operation %zu of the JSON patch (%s %s) cannot be applied", i, json_str_or(op, "op", "?"), json_str_or(op, "path", "?"));
        if (weigh(doc, max_bytes, 0) > max_bytes)
            return err_set(err, ERR_TOO_LARGE, "the patched object is too large");
    }
    *ret = TAKE(doc);
    return 0;
}
