#include "cmd/kubeconfig_edit.h"

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "json/yaml.h"

#define FILE_MAX (1024 * 1024)

static const char *path_of(const char *file, struct arena *a)
{
    const char *env = getenv("KUBECONFIG"), *home = getenv("HOME");
    if (file)
        return file;
    if (env && *env)
        return arena_strndup(a, str_n(env, strcspn(env, ":")));
    return arena_printf(a, "%s/.kube/config", home ? home : "");
}

static int read_file(const char *path, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    struct err inner = ERR_INIT;
    int rc = file_read(path, FILE_MAX, &text, &len, err);
    if (rc < 0)
        return rc;
    rc = yaml_parse(str_n(text, len), FILE_MAX, ret, &inner);
    mem_wipe(text, len);
    if (rc == 0 && !json_is_object(*ret)) {
        json_decref(*ret);
        rc = err_set(&inner, ERR_INVALID, "no kubeconfig");
    }
    return rc < 0 ? err_set(err, rc, "%s: %s", path, inner.msg) : 0;
}

/* Replaces the item of that name, or adds it. Steals item. */
static int put(json_t *config, const char *list, const char *name, json_t *item, struct err *err)
{
    json_t *items = json_object_get(config, list), *v;
    size_t i;
    if (!items || json_is_null(items)) {
        items = json_array();
        json_object_set_new(config, list, items);
    }
    if (!json_is_array(items)) {
        json_decref(item);
        return err_field(err, ERR_INVALID, list, "%s must be a list", list);
    }
    json_array_foreach (items, i, v)
        if (!strcmp(json_str_or(v, "name", ""), name)) {
            json_array_set_new(items, i, item);
            return 0;
        }
    json_array_append_new(items, item);
    return 0;
}

static int add(json_t *config, const struct kubeconfig_entry *e, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf ca = {0};
    json_t *cluster = json_pack("{s:s}", "server", e->server), *context = json_pack("{s:s, s:s, s:s*}", "cluster", e->name, "user", e->name, "namespace", e->ns);
    sbuf_init(&ca, 2 * FILE_MAX);
    if (e->ca_pem) {
        base64_encode(str_of(e->ca_pem), &ca);
        json_object_set_new(cluster, "certificate-authority-data", json_stringn(ca.ptr, ca.len));
    }
    int rc = put(config, "clusters", e->name, json_pack("{s:s, s:o}", "name", e->name, "cluster", cluster), err);
    if (rc < 0) {
        json_decref(context);
        return rc;
    }
    rc = put(config, "contexts", e->name, json_pack("{s:s, s:o}", "name", e->name, "context", context), err);
    if (rc == 0)
        rc = put(config, "users", e->name, json_pack("{s:s, s:{s:O}}", "name", e->name, "user", "exec", e->exec), err);
    json_object_set_new(config, "current-context", json_string(e->name));
    return rc;
}

int kubeconfig_put(const char *file, const struct kubeconfig_entry *e, struct arena *a, struct err *err)
{
    const char *path = path_of(file, a);
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    JSON_AUTO config = NULL;
    struct err inner = ERR_INIT;
    const char *slash = strrchr(path, '/');
    int rc = read_file(path, &config, &inner);
    if (rc == ERR_NOT_FOUND) {
        config = json_pack("{s:s, s:s}", "apiVersion", "v1", "kind", "Config");
        rc = slash && slash > path ? file_mkdirs(arena_strndup(a, str_n(path, (size_t)(slash - path))), 0700, err) : 0;
    } else if (rc < 0) {
        return err_set(err, rc, "%s", inner.msg);
    }
    if (rc < 0 || (rc = add(config, e, err)) < 0)
        return rc;
    sbuf_init(&out, 4 * FILE_MAX);
    yaml_write(config, &out);
    return sbuf_ok(&out) ? file_write(path, sbuf_str(&out), 0600, err) : err_set(err, ERR_TOO_LARGE, "%s: over its maximum size", path);
}

static const json_t *named(const json_t *config, const char *list, const char *name)
{
    size_t i;
    json_t *v;
    json_array_foreach (json_object_get(config, list), i, v)
        if (name && !strcmp(json_str_or(v, "name", ""), name))
            return v;
    return NULL;
}

int kubeconfig_exec_args(const char *file, struct arena *a, const char ***ret, struct err *err)
{
    JSON_AUTO config = NULL;
    const char *path = path_of(file, a);
    int rc = read_file(path, &config, err);
    if (rc < 0)
        return rc;
    const json_t *context = named(config, "contexts", json_str(config, "current-context")), *user = named(config, "users", json_str(context, "context.user"));
    const json_t *list = json_at(user, "user.exec.args");
    if (!list)
        return err_set(err, ERR_NOT_FOUND, "%s: the current user did not log in with `seki login`", path);
    const char **args = ARENA_ARRAY(a, const char *, json_array_size(list) + 1);
    for (size_t i = 0; i < json_array_size(list); i++)
        args[i] = arena_strdup(a, json_string_value(json_array_get(list, i)) ? json_string_value(json_array_get(list, i)) : "");
    *ret = args;
    return 0;
}
