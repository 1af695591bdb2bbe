/* A server elsewhere that speaks OpenAI's API, as a replica. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "client/fetch.h"
#include "engine/internal.h"

#define TOKEN_MAX (16 * 1024)

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

/* "http://host:port/v1" → address and base path. "unix:/path" has the base path /v1. */
static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid UNUSED, const char *model_file UNUSED, struct arena *a,
                struct engine_plan *ret, struct err *err)
{
    const char *url = mr->spec.engine.url;
    const char *name = mr->spec.engine.remote_model && *mr->spec.engine.remote_model ? mr->spec.engine.remote_model : mr->spec.served_name;
    if (!url || !*url)
        return err_field(err, ERR_INVALID, "spec.engine.url", "driver openai needs the server's base URL");
    *ret = (struct engine_plan){.base_path = "/v1", .engine_model = name};
    if (!strncmp(url, "unix:", 5) && is_own_socket(p, url + 5))
        return err_field(err, ERR_INVALID, "spec.engine.url", "spec.engine.url: %s is an engine of this machine; it is reached through its own endpoint", url);
    if (!strncmp(url, "unix:", 5)) {
        ret->address = arena_strdup(a, url);
        return 0;
    }
    const char *host = strstr(url, "://");
    const char *path = host ? strchr(host + 3, '/') : NULL;
    ret->address = path ? arena_strndup(a, str_n(url, (size_t)(path - url))) : arena_strdup(a, url);
    if (path) {
        char *base = arena_strdup(a, path);
        for (size_t len = strlen(base); len && base[len - 1] == '/'; len--)
            base[len - 1] = 0;
        ret->base_path = *base ? base : "/v1";
    }
    return 0;
}

/* It answers, and takes our key. */
static int probe(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    CLEANUP(mem_freep) char *body = NULL;
    CLEANUP(mem_freep) char *token = NULL;
    char path[2200];
    size_t len = 0;
    int status = 0;
    *ret = (struct engine_health){.requests_running = -1, .requests_waiting = -1, .tokens_total = -1};
    if (plan->token_file && file_read(plan->token_file, TOKEN_MAX, &token, &len, err) < 0)
        return err->code;
    if (token)
        token[strcspn(token, "\r\n")] = 0;
    snprintf(path, sizeof(path), "%s/models", plan->base_path);
    const struct fetch_options o = {.address = plan->address, .path = path, .bearer = token, .timeout_ms = timeout_ms};
    int rc = fetch(&o, &status, &body, &len, err);
    if (token)
        mem_wipe(token, strlen(token));
    if (rc < 0 && rc != ERR_TOO_LARGE) /* a list of models too long to be read is an answer */
        return rc;
    if (status == 401 || status == 403)
        return err_set(err, ERR_FORBIDDEN, "the server refuses %s (it answers %d); see spec.engine.secret", plan->token_file ? "our key" : "us without a key", status);
    if (status >= 500)
        return err_set(err, ERR_UNAVAILABLE, "the server answers %d", status);
    ret->serving = true;
    return 0;
}

const struct engine_ops engine_openai = {
    .name = "openai", .flags = ENGINE_CAN_CHAT | ENGINE_CAN_EMBED | ENGINE_CAN_CONTINUE | ENGINE_REMOTE, .plan = plan, .probe = probe,
};
