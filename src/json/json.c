#include "json/json.h"

#include "base/file.h"
#include "base/mem.h"

#define DEPTH_MAX 64
#define PATH_PART_MAX 128

/* jansson's own limit on depth is 2048: documents that deep are refused here. */
static int check_depth(struct str text, struct err *err)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DEPTH_MAX)
                return err_set(err, ERR_BAD_REQUEST, "JSON is nested deeper than %d", DEPTH_MAX);
        } else if (c == '}' || c == ']') {
            if (depth > 0)
                depth--;
        }
    }
    return 0;
}

int json_parse(struct str text, size_t max_bytes, json_t **ret, struct err *err)
{
    if (text.len > max_bytes)
        return err_set(err, ERR_TOO_LARGE, "JSON of %zu bytes, at most %zu are accepted", text.len, max_bytes);
    /* jansson drops a NUL byte that follows a number or a word. */
    if (text.len && memchr(text.ptr, 0, text.len))
        return err_set(err, ERR_BAD_REQUEST, "invalid JSON: a NUL byte");
    int rc = check_depth(text, err);
    if (rc < 0)
        return rc;
    json_error_t e;
    json_t *j = json_loadb(text.ptr ? text.ptr : "", text.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!j)
        return err_set(err, ERR_BAD_REQUEST, "invalid JSON at line %d, column %d: %s", e.line, e.column, e.text);
    *ret = j;
    return 0;
}

int json_read_file(const char *path, size_t max_bytes, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    struct err why = ERR_INIT;
    size_t len;
    int rc = file_read(path, max_bytes, &text, &len, err);
    if (rc == 0 && json_parse(str_n(text, len), max_bytes, ret, &why) < 0)
        rc = err_set(err, ERR_CORRUPT, "%s: %s", path, why.msg);
    return rc;
}

static int append(const char *buffer, size_t size, void *data)
{
    sbuf_add(data, str_n(buffer, size));
    return sbuf_ok(data) ? 0 : -1;
}

void json_write(const json_t *j, struct sbuf *out)
{
    json_dump_callback(j, append, out, JSON_COMPACT | JSON_ENCODE_ANY);
}

void json_write_pretty(const json_t *j, struct sbuf *out)
{
    json_dump_callback(j, append, out, JSON_INDENT(2) | JSON_ENCODE_ANY);
}

/* ---- paths ---- */

/* The next part of a dotted path as a NUL-terminated key; false at the end or when it is too long to exist. */
static bool next_part(const char **path, char part[PATH_PART_MAX])
{
    if (!*path)
        return false;
    const char *dot = strchr(*path, '.');
    size_t len = dot ? (size_t)(dot - *path) : strlen(*path);
    if (len >= PATH_PART_MAX)
        return false;
    memcpy(part, *path, len);
    part[len] = 0;
    *path = dot ? dot + 1 : NULL;
    return true;
}

json_t *json_at(const json_t *j, const char *path)
{
    char part[PATH_PART_MAX];
    const json_t *at = j;
    while (path) {
        if (!next_part(&path, part))
            return NULL;
        at = json_object_get(at, part);
    }
    return json_is_null(at) ? NULL : (json_t *)(uintptr_t)at;
}

const char *json_str(const json_t *j, const char *path)
{
    return json_string_value(json_at(j, path));
}

const char *json_str_or(const json_t *j, const char *path, const char *def)
{
    const char *s = json_str(j, path);
    return s ? s : def;
}

int64_t json_int(const json_t *j, const char *path, int64_t def)
{
    const json_t *v = json_at(j, path);
    return json_is_integer(v) ? json_integer_value(v) : def;
}

bool json_flag(const json_t *j, const char *path, bool def)
{
    const json_t *v = json_at(j, path);
    return json_is_boolean(v) ? json_is_true(v) : def;
}

void json_put(json_t *j, const char *path, json_t *value)
{
    char part[PATH_PART_MAX];
    json_t *at = j;
    while (json_is_object(at) && next_part(&path, part)) {
        if (!path) {
            json_object_set_new(at, part, value);
            return;
        }
        json_t *next = json_object_get(at, part);
        if (!json_is_object(next)) {
            next = json_object();
            json_object_set_new(at, part, next);
        }
        at = next;
    }
    json_decref(value);
}

void json_put_str(json_t *j, const char *path, const char *value)
{
    json_put(j, path, json_string(value));
}

void json_put_int(json_t *j, const char *path, int64_t value)
{
    json_put(j, path, json_integer(value));
}

void json_remove(json_t *j, const char *path)
{
    char part[PATH_PART_MAX];
    json_t *at = j;
    while (at && next_part(&path, part)) {
        if (!path) {
            json_object_del(at, part);
            return;
        }
        at = json_object_get(at, part);
    }
}
