#include "json/patch.h"

#define OPS_MAX 10000
#define DEPTH_MAX 64
/* What all operations of one patch may copy, move and compare, in multiples of max_bytes. */
#define WORK_FACTOR 16
#define WEIGHT_MAX (SIZE_MAX / 4)

/* A lower bound of the text's size, stopped once it is over max. Over max also when containers are nested deeper than DEPTH_MAX
 * below `depth` ones. */
static size_t weigh(const json_t *j, size_t max, int depth)
{
    size_t total = 1, i;
    const char *key;
    json_t *v;
    if (json_is_string(j))
        return json_string_length(j) + 2;
    if (!json_is_object(j) && !json_is_array(j))
        return 1;
    if (depth >= DEPTH_MAX)
        return WEIGHT_MAX;
    if (json_is_object(j)) {
        json_object_foreach ((json_t *)(uintptr_t)j, key, v)
            if ((total += strlen(key) + 4 + weigh(v, max, depth + 1)) > max)
                break;
    } else {
        json_array_foreach (j, i, v)
            if ((total += 1 + weigh(v, max, depth + 1)) > max)
                break;
    }
    return total;
}

/* ---- RFC 7396 ---- */

static json_t *merge(const json_t *target, const json_t *patch, int depth)
{
    if (!json_is_object(patch))
        return json_deep_copy(patch);
    if (depth >= DEPTH_MAX)
        return NULL;
    JSON_AUTO out = json_is_object(target) ? json_copy((json_t *)(uintptr_t)target) : json_object();
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach ((json_t *)(uintptr_t)patch, key, v) {
        if (json_is_null(v))
            json_object_del(out, key);
        else
            rc = json_object_set_new(out, key, merge(json_object_get(out, key), v, depth + 1));
        if (rc < 0)
            return NULL;
    }
    return TAKE(out);
}

int json_merge_patch(const json_t *target, const json_t *patch, json_t **ret, struct err *err)
{
    JSON_AUTO out = merge(target, patch, 0);
    if (!out || weigh(out, WEIGHT_MAX - 1, 0) >= WEIGHT_MAX)
        return err_set(err, ERR_TOO_LARGE, "the patched object is nested too deeply");
    /* Members that the patch did not touch are shared with the target until here. */
    *ret = json_deep_copy(out);
    return 0;
}

/* ---- RFC 6902 ---- */

/* As RFC 6902 compares: numbers by value, so that 1 and 1.0 are equal. */
static bool is_equal(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_number(a) && json_is_number(b) && json_typeof(a) != json_typeof(b))
        return json_number_value(a) == json_number_value(b);
    if (json_is_object(a) && json_is_object(b) && json_object_size(a) == json_object_size(b)) {
        json_object_foreach ((json_t *)(uintptr_t)a, key, v)
            if (!is_equal(v, json_object_get(b, key)))
                return false;
        return true;
    }
    if (json_is_array(a) && json_is_array(b) && json_array_size(a) == json_array_size(b)) {
        json_array_foreach (a, i, v)
            if (!is_equal(v, json_array_get(b, i)))
                return false;
        return true;
    }
    return json_equal(a, b);
}

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
    if (str_to_i64(str_of(token), 0, INT32_MAX, &i) < 0 || token[0] == '-' || (token[0] == '0' && token[1]))
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

/* How deep a pointer leads: the number of its parts. */
static int pointer_depth(const char *pointer)
{
    int n = 0;
    for (; *pointer; pointer++)
        n += *pointer == '/';
    return n;
}

/* Elements of an array that an insertion or a removal at i moves, weighed as eight to the byte. */
static size_t moved(const json_t *array, size_t i)
{
    return (json_array_size(array) - i) / 8;
}

struct patcher {
    json_t *doc;
    size_t work_left;
};

enum { APPLY_FAILS = -1, APPLY_TOO_LARGE = -2 };

static int charge(struct patcher *p, size_t weight)
{
    if (weight > p->work_left)
        return APPLY_TOO_LARGE;
    p->work_left -= weight;
    return 0;
}

/* The value is charged for before it is put where the pointer says. */
static int charge_value(struct patcher *p, const json_t *value, const char *pointer)
{
    return charge(p, weigh(value, p->work_left, pointer_depth(pointer)));
}

static int set_root(struct patcher *p, json_t *value)
{
    json_decref(p->doc);
    p->doc = json_incref(value);
    return 0;
}

static int add(struct patcher *p, const char *pointer, json_t *value)
{
    char last[TOKEN_MAX];
    size_t i;
    if (!*pointer)
        return set_root(p, value);
    json_t *parent = parent_of(p->doc, pointer, last);
    if (json_is_object(parent))
        return json_object_set(parent, last, value);
    if (!json_is_array(parent) || array_index(parent, last, true, &i) < 0)
        return APPLY_FAILS;
    int rc = charge(p, moved(parent, i));
    return rc < 0 ? rc : json_array_insert(parent, i, value);
}

static int del(struct patcher *p, const char *pointer)
{
    char last[TOKEN_MAX];
    size_t i;
    json_t *parent = *pointer ? parent_of(p->doc, pointer, last) : NULL;
    if (json_is_object(parent))
        return json_object_del(parent, last);
    if (!json_is_array(parent) || array_index(parent, last, false, &i) < 0)
        return APPLY_FAILS;
    int rc = charge(p, moved(parent, i));
    return rc < 0 ? rc : json_array_remove(parent, i);
}

static int replace(struct patcher *p, const char *pointer, json_t *value)
{
    char last[TOKEN_MAX];
    size_t i;
    if (!*pointer)
        return set_root(p, value);
    json_t *parent = parent_of(p->doc, pointer, last);
    if (json_is_object(parent) && json_object_get(parent, last))
        return json_object_set(parent, last, value);
    if (json_is_array(parent) && array_index(parent, last, false, &i) == 0)
        return json_array_set(parent, i, value);
    return APPLY_FAILS;
}

/* The value leaves its place and arrives at the other: no copy is needed. */
static int move(struct patcher *p, const char *from, const char *path)
{
    size_t len = strlen(from);
    if (!strcmp(from, path))
        return find(p->doc, from) ? 0 : APPLY_FAILS;
    if (!strncmp(path, from, len) && path[len] == '/') /* into itself */
        return APPLY_FAILS;
    JSON_AUTO v = json_incref(find(p->doc, from));
    int rc;
    if (!v)
        return APPLY_FAILS;
    if ((rc = charge_value(p, v, path)) < 0 || (rc = del(p, from)) < 0)
        return rc;
    return add(p, path, v);
}

static int copy(struct patcher *p, const char *from, const char *path)
{
    const json_t *found = find(p->doc, from);
    if (!found)
        return APPLY_FAILS;
    int rc = charge_value(p, found, path);
    JSON_AUTO v = rc < 0 ? NULL : json_deep_copy(found);
    return rc < 0 ? rc : add(p, path, v);
}

static int apply(struct patcher *p, const json_t *op)
{
    const char *name = json_str_or(op, "op", ""), *path = json_str(op, "path"), *from = json_str(op, "from");
    const json_t *value = json_object_get(op, "value");
    if (!path)
        return APPLY_FAILS;
    if (!strcmp(name, "remove"))
        return del(p, path);
    if (!strcmp(name, "move") || !strcmp(name, "copy"))
        return !from ? APPLY_FAILS : *name == 'm' ? move(p, from, path) : copy(p, from, path);
    if (!value)
        return APPLY_FAILS;
    int rc = charge_value(p, value, path);
    if (rc < 0)
        return rc;
    if (!strcmp(name, "test")) {
        const json_t *found = find(p->doc, path);
        return found && is_equal(found, value) ? 0 : APPLY_FAILS;
    }
    JSON_AUTO v = json_deep_copy(value);
    if (!strcmp(name, "add"))
        return add(p, path, v);
    return strcmp(name, "replace") ? APPLY_FAILS : replace(p, path, v);
}

int json_apply_patch(const json_t *target, const json_t *ops, size_t max_bytes, json_t **ret, struct err *err)
{
    if (!json_is_array(ops))
        return err_set(err, ERR_BAD_REQUEST, "a JSON patch is an array of operations");
    if (json_array_size(ops) > OPS_MAX)
        return err_set(err, ERR_TOO_LARGE, "a JSON patch of %zu operations; at most %d are accepted", json_array_size(ops), OPS_MAX);
    JSON_AUTO doc = json_deep_copy(target);
    struct patcher p = {.work_left = MIN(max_bytes, WEIGHT_MAX / WORK_FACTOR - 1) * WORK_FACTOR};
    size_t i;
    json_t *op;
    json_array_foreach (ops, i, op) {
        p.doc = TAKE(doc);
        int rc = json_is_object(op) ? apply(&p, op) : APPLY_FAILS;
        doc = p.doc;
        if (rc == APPLY_TOO_LARGE)
            return err_set(err, ERR_TOO_LARGE, "operation %zu of the JSON patch makes the object too large, or the patch copies too much", i);
        if (rc < 0)
            return err_set(err, ERR_INVALID, "operation %zu of the JSON patch (%s %s) cannot be applied", i, json_str_or(op, "op", "?"), json_str_or(op, "path", "?"));
    }
    if (weigh(doc, max_bytes, 0) > max_bytes)
        return err_set(err, ERR_TOO_LARGE, "the patched object is too large");
    *ret = TAKE(doc);
    return 0;
}
