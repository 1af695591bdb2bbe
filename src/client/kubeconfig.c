/* kubeconfig files: the current context's cluster and user, with files or inline data. */
#include "base/file.h"
#include "base/mem.h"
#include "client/http_internal.h"
#include "crypto/hash.h"
#include "json/yaml.h"

#define FILE_MAX (1024 * 1024)

static const json_t *named(const json_t *config, const char *list, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach (json_object_get(config, list), i, item) {
        const char *n = json_str(item, "name");
        if (n && name && !strcmp(n, name))
            return item;
    }
    return NULL;
}

/* KEY-data in base64, else the file that KEY names (relative to the kubeconfig's directory). */
static int take_pem(const json_t *obj, const char *key, const char *dir, char **ret, struct err *err)
{
    CLEANUP(mem_freep) char *data_key = xasprintf("%s-data", key);
    const char *data = json_string_value(json_object_get(obj, data_key));
    const char *file = json_string_value(json_object_get(obj, key));
    if (data) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        sbuf_init(&out, FILE_MAX);
        int rc = base64_decode(str_of(data), &out, err);
        if (rc < 0)
            return err_wrap(err, "%s", data_key);
        if (!out.len || memchr(out.ptr, 0, out.len)) {
            mem_wipe(out.ptr, out.len);
            return err_field(err, ERR_INVALID, data_key, "expected PEM text in base64");
        }
        *ret = sbuf_take(&out);
        return 0;
    }
    if (!file || !*file)
        return 0;
    if (!dir)
        return err_field(err, ERR_INVALID, key, "%s names a file, and none is read here", key);
    CLEANUP(mem_freep) char *path = *file == '/' ? xstrdup(file) : xasprintf("%s/%s", dir, file);
    size_t len;
    return file_read(path, FILE_MAX, ret, &len, err);
}

/* *ret: the text, or NULL when there is none. */
static int text_at(const json_t *obj, const char *key, const char **ret, struct err *err)
{
    const json_t *value = json_object_get(obj, key);
    if (value && !json_is_string(value) && !json_is_null(value))
        return err_field(err, ERR_INVALID, key, "%s must be a text", key);
    *ret = json_string_value(value);
    return 0;
}

static int build(const json_t *config, const char *path, const char *dir, bool may_run, struct client **ret, char *ret_namespace, size_t namespace_size, struct err *err)
{
    const char *name = json_str(config, "current-context");
    const json_t *context = json_at(named(config, "contexts", name), "context");
    if (!context)
        return err_set(err, ERR_INVALID, "%s: current-context %s is not among its contexts", path, name ? name : "(none)");
    const json_t *cluster = json_at(named(config, "clusters", json_str(context, "cluster")), "cluster");
    const json_t *user = json_at(named(config, "users", json_str(context, "user")), "user");
    const char *server = NULL, *ns = NULL, *token = NULL;
    if (text_at(cluster, "server", &server, err) < 0 || text_at(context, "namespace", &ns, err) < 0 || text_at(user, "token", &token, err) < 0)
        return err_wrap(err, "%s", path);
    if (!server)
        return err_set(err, ERR_INVALID, "%s: the context's cluster has no server", path);
    if (client_check_server(server, err) < 0 || (token && client_check_token(token, err) < 0))
        return err_wrap(err, "%s", path);
    if (ret_namespace && ns && strlen(ns) >= namespace_size)
        return err_field(err, ERR_INVALID, "namespace", "%s: the context's namespace is longer than a name may be", path);
    struct client_credentials c = {0};
    int rc = take_pem(cluster, "certificate-authority", dir, &c.ca_pem, err);
    if (rc == 0)
        rc = take_pem(user, "client-certificate", dir, &c.cert_pem, err);
    if (rc == 0)
        rc = take_pem(user, "client-key", dir, &c.key_pem, err);
    if (rc == 0 && (c.cert_pem != NULL) != (c.key_pem != NULL))
        rc = err_set(err, ERR_INVALID, "%s: the user has a client certificate or a key, not both", path);
    const json_t *exec = json_object_get(user, "exec");
    if (rc == 0 && exec && !token && !c.cert_pem)
        rc = may_run ? client_exec(exec, dir, &c, err) : err_set(err, ERR_UNAUTHENTICATED, "its user's program for credentials is not run here");
    if (rc < 0) {
        client_credentials_deinit(&c);
        return err_wrap(err, "%s", path);
    }
    if (token)
        c.token = xstrdup(token);
    if (ret_namespace)
        snprintf(ret_namespace, namespace_size, "%s", ns ? ns : "");
    *ret = client_http_from(server, &c);
    return 0;
}

int client_kubeconfig_parse(struct str text, const char *path, const char *dir, bool may_run, struct client **ret, char *ret_namespace, size_t namespace_size, struct err *err)
{
    JSON_AUTO config = NULL;
    int rc = yaml_parse(text, FILE_MAX, &config, err);
    if (rc < 0)
        return err_wrap(err, "%s", path);
    return build(config, path, dir, may_run, ret, ret_namespace, namespace_size, err);
}

int client_kubeconfig_text(struct str text, const char *what, struct client **ret, struct err *err)
{
    return client_kubeconfig_parse(text, what, NULL, false, ret, NULL, 0, err);
}

json_t *client_kubeconfig_new(const char *cluster_name, json_t *cluster, const char *user_name, json_t *user, const char *context, const char *ns)
{
    return json_pack("{s:s, s:s, s:[{s:s, s:o}], s:[{s:s, s:o}], s:[{s:s, s:{s:s, s:s, s:s*}}], s:s}", "apiVersion", "v1", "kind", "Config", "clusters", "name", cluster_name, "cluster", cluster, "users",
                     "name", user_name, "user", user, "contexts", "name", context, "context", "cluster", cluster_name, "user", user_name, "namespace", ns, "current-context", context);
}

char *client_kubeconfig_path(const char *file)
{
    const char *env = getenv("KUBECONFIG"), *home = getenv("HOME");
    if (file)
        return xstrdup(file);
    return env && *env ? xstrndup(env, strcspn(env, ":")) : xasprintf("%s/.kube/config", home ? home : "");
}

int client_kubeconfig(const char *file, struct client **ret, char *ret_namespace, size_t namespace_size, struct err *err)
{
    CLEANUP(mem_freep) char *path = client_kubeconfig_path(file);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(path, FILE_MAX, &text, &len, err);
    if (rc < 0)
        return rc;
    const char *slash = strrchr(path, '/');
    CLEANUP(mem_freep) char *dir = slash ? xstrndup(path, (size_t)(slash - path)) : xstrdup(".");
    rc = client_kubeconfig_parse(str_n(text, len), path, dir, true, ret, ret_namespace, namespace_size, err);
    mem_wipe(text, len);
    return rc;
}
