/* A server elsewhere that speaks OpenAI's API, as a replica. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/fetch.h"
#include "engine/internal.h"
#include "json/json.h"
#include "net/addr.h"

/* The engines of this machine are other tenants' too: they are reached through their endpoints only. */
static bool is_own_socket(const struct engine_paths *p, const char *path)
{
    char *real = realpath(path, NULL), *own = p->socket_dir ? realpath(p->socket_dir, NULL) : NULL;
    size_t len = own ? strlen(own) : 0;
    bool is = real && own && !strncmp(real, own, len) && real[len] == '/';
    free(real);
    free(own);
    return is;
}

#define OPTION "the operator's option engine-remote-allow"

static int refuse(struct err *err, const char *url, const char *why)
{
    return err_field(err, ERR_INVALID, "spec.engine.url", "spec.engine.url: %s %s", url, why);
}

/* Only what all who read it read alike: curl, the gateway, people. */
static bool is_simple(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c <= 0x20 || *c >= 0x7f || strchr("@?#\\%\"<>^`{|}", *c))
            return false;
    return true;
}

/* HOST[:PORT], the host not empty. */
static bool is_host(const char *text)
{
    const char *end = text[0] == '[' ? strchr(text, ']') : text + strcspn(text, ":");
    int64_t port;
    if (!end || end == text || (text[0] == '[' && end++ == text + 1))
        return false;
    return !*end || (*end == ':' && str_to_i64(str_of(end + 1), 1, 65535, &port) == 0);
}

/* Addresses that are written as numbers are judged here; where names lead is known when somebody connects. */
static bool is_forbidden_number(const struct reach *r, const char *host_port, bool tls, struct arena *a)
{
    struct net_addr addr;
    const char *end = host_port[0] == '[' ? strchr(host_port, ']') : NULL;
    bool has_port = strchr(end ? end : host_port, ':') != NULL;
    return net_addr_parse(str_of(has_port ? host_port : arena_printf(a, "%s:1", host_port)), &addr, NULL) == 0 && !reach_addr(r, &addr.sa, tls);
}

static int unix_url(const struct engine_paths *p, const char *url, struct arena *a, struct engine_plan *ret, struct err *err)
{
    if (!reach_unix(p->remote, url + 5)) /* first: nobody learns what exists */
        return refuse(err, url, "is a socket of the host, which " OPTION " does not name");
    if (is_own_socket(p, url + 5))
        return refuse(err, url, "is an engine of this machine; it is reached through its own endpoint");
    ret->address = arena_strdup(a, url);
    return 0;
}

/* "https://host:port/v1" → address and base path. "unix:/path" has the base path /v1. */
int engine_remote_url(const struct engine_paths *p, const char *url, struct arena *a, struct engine_plan *ret, struct err *err)
{
    if (!url || !*url)
        return err_field(err, ERR_INVALID, "spec.engine.url", "a server elsewhere is known by its base URL");
    if (!strncmp(url, "unix:", 5))
        return unix_url(p, url, a, ret, err);
    bool tls = !strncmp(url, "https://", 8);
    const char *host = url + (tls ? 8 : 7), *path = strchr(host, '/');
    const char *host_port = path ? arena_strndup(a, str_n(host, (size_t)(path - host))) : host;
    if ((!tls && strncmp(url, "http://", 7) != 0) || !is_simple(url) || !is_host(host_port))
        return refuse(err, url, "is no base URL: expected https://HOST[:PORT]/PATH without user, query and fragment");
    if (!tls && !reach_plain(p->remote))
        return refuse(err, url, "is plain HTTP: expected https://; " OPTION " names the networks where plain HTTP may be spoken");
    if (is_forbidden_number(p->remote, host_port, tls, a))
        return refuse(err, url, tls ? "is no public address, and " OPTION " does not name its network" : "lies in no network that " OPTION " names");
    ret->address = arena_printf(a, "%s%s", tls ? "https://" : "http://", host_port);
    if (path) {
        char *base = arena_strdup(a, path);
        for (size_t len = strlen(base); len && base[len - 1] == '/'; len--)
            base[len - 1] = 0;
        ret->base_path = *base ? base : "/v1";
    }
    return 0;
}

static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file UNUSED, struct arena *a, struct engine_plan *ret,
                struct err *err)
{
    *ret = (struct engine_plan){.remote = p->remote};
    return engine_where(p, mr, replica_uid, a, ret, err);
}

/* ---- whether it has the model ---- */

#define LIST_MAX (1024 * 1024) /* fetch()'s own */
#define NAMES_TOLD 5
#define NAME_TOLD_MAX 60

/* Foreign text, for people: what would break a line or a terminal is not shown. */
static void add_name(struct sbuf *out, const char *name)
{
    size_t n = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c && n < NAME_TOLD_MAX; c++, n++)
        sbuf_add_char(out, *c > 0x20 && *c < 0x7f ? (char)*c : '?');
}

/* Whether a list of models has that one. What is no list, or says that it is not whole, refuses nobody. told: the others' names. */
static bool list_has(struct str body, const char *model, struct sbuf *told)
{
    JSON_AUTO doc = NULL;
    size_t i, n = 0;
    json_t *m;
    if (json_parse(body, LIST_MAX, &doc, NULL) < 0 || !json_is_array(json_object_get(doc, "data")) || json_flag(doc, "has_more", false))
        return true;
    const json_t *list = json_object_get(doc, "data");
    json_array_foreach (list, i, m) {
        const char *id = json_str_or(m, "id", "");
        if (!strcmp(id, model))
            return true;
        if (*id && n++ < NAMES_TOLD) {
            sbuf_addc(told, n > 1 ? ", " : "");
            add_name(told, id);
        }
    }
    if (n > NAMES_TOLD)
        sbuf_addf(told, " and %zu more", n - NAMES_TOLD);
    return false;
}

/* The path of one model. Slashes stay: names have them, and servers take them so. */
static void model_path(const struct engine_plan *plan, struct sbuf *out)
{
    sbuf_addf(out, "%s/models/", plan->base_path);
    for (const unsigned char *c = (const unsigned char *)plan->engine_model; *c; c++)
        if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || strchr("-._~/:", *c))
            sbuf_add_char(out, (char)*c);
        else
            sbuf_addf(out, "%%%02X", *c);
}

/* Not in the list, and the server knows none of that name when it is asked for it alone: some serve more than they list. */
static int check_model(const struct engine_plan *plan, struct str list, uint64_t timeout_ms, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf told = {0}, path = {0};
    CLEANUP(mem_freep) char *body = NULL;
    size_t len = 0;
    int status = 0;
    sbuf_init(&told, 1024);
    sbuf_init(&path, 4096);
    if (plan->argv || !plan->engine_model || !*plan->engine_model || list_has(list, plan->engine_model, &told))
        return 0;
    model_path(plan, &path);
    if (!sbuf_ok(&path))
        return 0;
    const struct fetch_options o = {.address = plan->address, .path = path.ptr, .bearer = plan->token, .timeout_ms = timeout_ms, .guarded = true, .reach = plan->remote};
    if (fetch(&o, &status, &body, &len, NULL) < 0 || status != 404)
        return 0;
    return err_field(err, ERR_NOT_FOUND, "spec.engine.remoteModel", "the server has no model \"%.120s\" (spec.engine.remoteModel names the one that is meant); it has %s", plan->engine_model,
                     told.len ? told.ptr : "none");
}

/* It answers, takes our key, and has the model. */
static int probe(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    CLEANUP(mem_freep) char *body = NULL;
    char path[2200];
    size_t len = 0;
    int status = 0;
    *ret = ENGINE_HEALTH_UNKNOWN;
    snprintf(path, sizeof(path), "%s/models", plan->base_path);
    const struct fetch_options o = {.address = plan->address, .path = path, .bearer = plan->token, .timeout_ms = timeout_ms, .guarded = !plan->argv, .reach = plan->remote};
    int rc = fetch(&o, &status, &body, &len, err);
    if (rc == ERR_FORBIDDEN)
        return err_field(err, ERR_FORBIDDEN, "spec.engine.url", "spec.engine.url: %s leads to no %s; " OPTION " names the networks that are allowed besides", plan->address,
                         strncmp(plan->address, "http://", 7) ? "public address" : "network where plain HTTP is allowed");
    if (rc < 0 && rc != ERR_TOO_LARGE) /* a list of models too long to be read is an answer */
        return rc;
    if (status == 401 || status == 403)
        return err_set(err, ERR_FORBIDDEN, "the server refuses %s (it answers %d); see spec.engine.secret", plan->token ? "our key" : "us without a key", status);
    if (status >= 300 && status < 400)
        return err_set(err, ERR_UNAVAILABLE, "the server answers %d: redirects are not followed; give the place itself as spec.engine.url", status);
    if (status >= 500)
        return err_set(err, ERR_UNAVAILABLE, "the server answers %d", status);
    if (status == 200 && rc == 0 && (rc = check_model(plan, str_n(body, len), timeout_ms, err)) < 0)
        return rc;
    ret->serving = true;
    return 0;
}

const struct engine_ops engine_openai = {
    .name = "openai", .remote = true, .plan = plan, .probe = probe,
};
