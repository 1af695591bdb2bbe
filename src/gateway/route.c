/* From a request's head to what handles it: the route, the key, the current snapshot. */
#include <arpa/inet.h>

#include "base/clock.h"
#include "gateway/internal.h"
#include "gateway/residency_view.h"

static void answer_health(struct gateway_loop *l, struct http_request *r, const struct snap_key *k);

static const struct gateway_route routes[] = {
    {.method = "POST", .path = "/v1/chat/completions", .name = "chat.completions", .operation = "chat", .prompt = "messages"},
    {.method = "POST", .path = "/v1/completions", .name = "completions", .operation = "text_completion", .prompt = "prompt"},
    {.method = "POST", .path = "/v1/responses", .name = "responses", .operation = "chat", .prompt = "input", .dialect = DIALECT_RESPONSES},
    {.method = "POST", .path = "/v1/messages", .name = "messages", .operation = "chat", .prompt = "messages", .dialect = DIALECT_MESSAGES, .no_isolation = true},
    {.method = "POST", .path = "/v1/messages/count_tokens", .name = "messages.count_tokens", .operation = "count_tokens", .prompt = "messages", .dialect = DIALECT_MESSAGES, .counts_only = true},
    {.method = "POST", .path = "/v1/embeddings", .name = "embeddings", .operation = "embeddings", .prompt = "input", .embeddings = true, .task = TASK_EMBEDDINGS},
    {.method = "POST", .path = "/v1/rerank", .name = "rerank", .operation = "rerank", .prompt = "documents", .embeddings = true, .task = TASK_RERANK},
    {.method = "GET", .path = "/v1/models", .name = "models", .handle = answer_models},
    {.method = "GET", .path = "/v1/models/", .name = "models", .handle = answer_model}, /* and what follows: a name */
    {.method = "GET", .path = RESIDENCY_VIEW_PATH, .name = "residency", .handle = answer_residency}, /* likewise */
    {.method = "GET", .path = "/livez", .handle = answer_health},                       /* no name: no key is needed */
    {.method = "GET", .path = "/readyz", .handle = answer_health},
};

static bool path_is(const struct gateway_route *route, struct str path)
{
    struct str p = str_of(route->path);
    return p.ptr[p.len - 1] == '/' ? str_starts(path, p) && path.len > p.len : str_eq(path, p);
}

/* Of the API: "/v1/a, /v1/b". */
static void add_paths(struct sbuf *out)
{
    bool first = true;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        if (routes[i].name && !str_ends(str_of(routes[i].path), STR("/"))) {
            sbuf_addf(out, "%s%s", first ? "" : ", ", routes[i].path);
            first = false;
        }
}

enum usage_dialect route_dialect(struct str path)
{
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        if (path_is(&routes[i], path))
            return routes[i].dialect;
    return DIALECT_COMPLETIONS;
}

/* "/v1/models/" is "/v1/models". For good: everybody who looks at the path looks at the same one. */
static void trim_path(struct str *path)
{
    if (path->len > 1 && path->ptr[path->len - 1] == '/')
        path->len--;
}

/* NULL: answered. */
static const struct gateway_route *find_route(struct gateway_loop *l, struct http_request *r)
{
    const struct gateway_route *found = NULL;
    struct str path = r->head.path;
    char text[256];
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        if (path_is(&routes[i], path)) {
            found = &routes[i];
            if (str_eqc(r->head.method, found->method) || (str_eqc(r->head.method, "HEAD") && found->handle))
                return found;
        }
    if (found) {
        snprintf(text, sizeof(text), "%s takes %s, not %.*s", found->path, found->method, (int)MIN(r->head.method.len, (size_t)32), r->head.method.ptr);
        answer_wrong_method(l, r, found->handle ? "GET, HEAD" : found->method, text);
    } else {
        CLEANUP(sbuf_deinit) struct sbuf why = {0};
        sbuf_init(&why, 4096);
        sbuf_addf(&why, "Unknown path %.*s; there are ", (int)MIN(path.len, (size_t)100), path.ptr);
        add_paths(&why);
        answer_refusal(l, r, 404, "invalid_request_error", "unknown_url", why.ptr);
    }
    return NULL;
}

static void answer_health(struct gateway_loop *l, struct http_request *r, const struct snap_key *k UNUSED)
{
    struct err err = ERR_INIT;
    if (str_eqc(r->head.path, "/livez") || gateway_ready(l->gateway, &err) == 0)
        http_respond(r, 200, "text/plain; charset=utf-8", NULL, 0, STR("ok\n"));
    else
        answer_error(r, 503, "server_error", "not_ready", NULL, NULL, err.msg);
}

void gateway_loop_refresh(struct gateway_loop *l)
{
    if (feed_version(l->gateway->feed) == l->version)
        return;
    struct snapshot *old = l->snapshot;
    struct map_iter it = MAP_ITER_INIT;
    l->snapshot = feed_take(l->gateway->feed, &l->version);
    snapshot_unref(old);
    while (map_next(l->pools, &it)) {
        char name[512];
        if (str_to_array(it.key, name, sizeof(name)) && !snapshot_has_target(l->snapshot, name))
            map_del(l->pools, it.key);
    }
}

/* The first value is the header's. False: there is another one, and it differs. */
static bool note_value(struct str *value, struct str another)
{
    if (!value->ptr)
        *value = another;
    return str_eq(*value, another);
}

/* What a request is authenticated by: the bearer token of Authorization, else x-api-key, as Anthropic's SDKs send it. False: whoever is in front of us may have looked at another one. */
static bool secret_of(const struct http_head *h, struct str *ret)
{
    struct str authorization = STR_NULL, key = STR_NULL;
    bool clear = true;
    for (size_t i = 0; i < h->header_count; i++) {
        if (str_ieq(h->headers[i].name, STR("authorization")))
            clear &= note_value(&authorization, h->headers[i].value);
        else if (str_ieq(h->headers[i].name, STR("x-api-key")))
            clear &= note_value(&key, h->headers[i].value);
    }
    bool is_bearer = authorization.len > 7 && str_ieq(str_n(authorization.ptr, 7), STR("Bearer "));
    *ret = str_trim(is_bearer ? str_skip(authorization, 7) : key);
    return clear;
}

static void source_of(struct http_request *r, char source[NET_ADDR_TEXT_MAX])
{
    struct net_addr addr;
    http_request_addr(r, &addr);
    net_addr_format(&addr, source);
    char *colon = strrchr(source, ':');
    if (colon)
        *colon = 0;
}

/* By which strangers are told apart: whoever has an address of IPv6 has all that begin alike, too. */
static void place_of(struct http_request *r, const char *source, char place[NET_ADDR_TEXT_MAX])
{
    struct net_addr addr;
    char text[INET6_ADDRSTRLEN];
    snprintf(place, NET_ADDR_TEXT_MAX, "%s", source);
    http_request_addr(r, &addr);
    if (addr.sa.sa_family != AF_INET6 || IN6_IS_ADDR_V4MAPPED(&addr.in6.sin6_addr))
        return;
    memset(addr.in6.sin6_addr.s6_addr + 8, 0, 8);
    if (inet_ntop(AF_INET6, &addr.in6.sin6_addr, text, sizeof(text)))
        snprintf(place, NET_ADDR_TEXT_MAX, "%s/64", text);
}

void gateway_audit_refusal(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, int status, const char *code, const char *rule)
{
    char source[NET_ADDR_TEXT_MAX], place[NET_ADDR_TEXT_MAX];
    source_of(r, source);
    place_of(r, source, place);
    kept_away_refused(l->gateway->kept_away, &(struct audit_event){.type = AUDIT_REFUSED, .id = str_of(r->id), .user = str_of(k ? k->name : ""), .namespace = str_of(k ? k->project : ""),
                                                                   .tenant = str_of(k ? k->tenant : ""), .source = str_of(source), .agent = http_header_get(&r->head, "User-Agent"),
                                                                   .verb = r->head.method, .resource = STR("gateway"), .name = r->head.path, .status = status, .reason = str_of(code), .rule = str_of(rule)}, k ? NULL : place, clock_mono_ms());
}

void gateway_audit_limited(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, const char *scope, const char *unit)
{
    char source[NET_ADDR_TEXT_MAX], rule[64];
    bool money = !unit;
    source_of(r, source);
    snprintf(rule, sizeof(rule), money ? "Budget/%s" : "RateLimit/%s/%s", scope, unit);
    kept_away_limited(l->gateway->kept_away, &(struct audit_event){.user = str_of(k->name), .namespace = str_of(k->project), .tenant = str_of(k->tenant), .source = str_of(source), .status = 429,
                                                               .reason = money ? STR("insufficient_quota") : STR("rate_limit_exceeded"), .rule = str_of(rule)}, clock_mono_ms());
}

static void refuse(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, int status, const char *code, const char *rule, const char *message)
{
    gateway_audit_refusal(l, r, k, status, code, rule);
    answer_refusal(l, r, status, status == 403 ? "permission_error" : "invalid_request_error", code, message);
}

bool gateway_key_fault(const struct snap_key *k, struct key_fault *ret)
{
    if (!k)
        *ret = (struct key_fault){401, "invalid_api_key", "KeyUnknown", "Incorrect API key provided."};
    else if (k->disabled)
        *ret = (struct key_fault){401, "invalid_api_key", "KeyDisabled", "This API key is disabled."};
    else if (k->suspended)
        *ret = (struct key_fault){403, "tenant_suspended", "TenantSuspended", "The tenant of this API key is suspended (rule TenantSuspended): ask the operator of this cloud."};
    else if (k->expires_ms <= clock_wall_ms())
        *ret = (struct key_fault){401, "invalid_api_key", "KeyExpired", "This API key has expired."};
    else
        return false;
    return true;
}

/* NULL: answered. */
static const struct snap_key *authenticate(struct gateway_loop *l, struct http_request *r)
{
    char hash[SHA256_HEX_MAX];
    struct key_fault fault;
    struct str secret;
    if (!secret_of(&r->head, &secret)) {
        answer_refusal(l, r, 400, "invalid_request_error", "invalid_value", "Two Authorization headers, or two x-api-key headers, that differ: send one API key.");
        return NULL;
    }
    if (!secret.len) {
        refuse(l, r, NULL, 401, "invalid_api_key", "KeyMissing", "No API key: send it as \"Authorization: Bearer sk-seki-…\"");
        return NULL;
    }
    token_hash(&l->gateway->o.pepper, secret, hash);
    const struct snap_key *k = snapshot_key(l->snapshot, hash);
    if (!gateway_key_fault(k, &fault))
        return k;
    refuse(l, r, k, fault.status, fault.code, fault.rule, fault.message);
    return NULL;
}

static int on_head(void *ctx, struct http_request *r, size_t *body_max)
{
    struct gateway_loop *l = ctx;
    struct err err = ERR_INIT;
    trim_path(&r->head.path);
    const struct gateway_route *route = find_route(l, r);
    if (!route)
        return ERR_NOT_FOUND;
    gateway_loop_refresh(l);
    if (route->handle)
        *body_max = 0;
    if (!route->name) {
        route->handle(l, r, NULL);
        return ERR_CANCELED;
    }
    if (!l->snapshot) {
        answer_refusal(l, r, 503, "server_error", "not_ready", "The gateway is starting; try again.");
        return ERR_UNAVAILABLE;
    }
    const struct snap_key *k = authenticate(l, r);
    if (!k)
        return ERR_UNAUTHENTICATED;
    if (route->handle) {
        route->handle(l, r, k);
        return ERR_CANCELED;
    }
    struct str coding = http_header_get(&r->head, "Content-Encoding");
    if (coding.len && !str_ieq(coding, STR("identity"))) {
        answer_refusal(l, r, 415, "invalid_request_error", "unsupported_content_encoding", "Content-Encoding: request bodies must not be compressed or coded otherwise; expected none, or identity.");
        return ERR_BAD_REQUEST;
    }
    if (journal_ready(l->gateway->journal, &err) < 0) {
        answer_refusal(l, r, 503, "server_error", "usage_not_recordable", "The gateway cannot record what is used at the moment, so it serves nothing: the disk of this cloud's operator is full or failing. Try again later.");
        return ERR_UNAVAILABLE;
    }
    return request_admit(request_new(l, r, route, k)) ? 0 : ERR_TOO_MANY;
}

static int on_body(void *ctx UNUSED, struct http_request *r, size_t bytes)
{
    return request_grow(r->user, bytes) ? 0 : ERR_TOO_MANY;
}

static void on_request(void *ctx UNUSED, struct http_request *r)
{
    request_begin(r->user);
}

static void on_drain(void *ctx UNUSED, struct http_request *r)
{
    if (r->user)
        request_drain(r->user);
}

static void on_abort(void *ctx UNUSED, struct http_request *r)
{
    if (r->user)
        (request_has_begun(r->user) ? request_abort : request_forget)(r->user);
}

const struct http_server_ops gateway_server_ops = {
    .on_head = on_head, .on_body = on_body, .on_request = on_request, .on_drain = on_drain, .on_abort = on_abort, .write_error = answer_server_error};
