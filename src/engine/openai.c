/* A server elsewhere that speaks OpenAI's API, as a replica. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/fetch.h"
#include "engine/internal.h"
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

/* It answers, and takes our key. */
static int probe(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    CLEANUP(mem_freep) char *body = NULL;
    char path[2200];
    size_t len = 0;
    int status = 0;
    *ret = (struct engine_health){.requests_running = -1, .tokens_read = -1, .tokens_written = -1, .tokens_total = -1};
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
    ret->serving = true;
    return 0;
}

const struct engine_ops engine_openai = {
    .name = "openai", .remote = true, .plan = plan, .probe = probe,
};
