/* The apiserver as a whole, and its HTTPS side: authenticate at the head, route and authorise when the body is there. */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/limits.h"
#include "apiserver/sealing.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define DEFAULT_OBJECT_BYTES (1024 * 1024)
#define DEFAULT_WATCH_MS (30 * 60 * 1000u)
#define DEFAULT_WATCH_BUFFER (4u * 1024 * 1024)
#define DEFAULT_WRITES 1000
#define DEFAULT_ISSUER "https://kubernetes.default.svc" /* of tokens; also their audience */
#define CONNECTIONS_MAX 20000
#define STRANGERS_BODY_MAX ((size_t)256 * 1024) /* of a request whose sender is not known until keys have come */
#define COMPRESS_MIN_BYTES (128 * 1024) /* as kube-apiserver has it: below, the time costs more than the bytes */
#define FREE_WAIT_MS 10000u
#define METRICS_MAX (16u * 1024 * 1024)

/* ---- health and version: no resources ---- */

void api_serve_health(struct api_request *q, bool ready)
{
    struct apiserver *s = q->server;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    int failed = 0;
    bool verbose = str_starts(q->query, STR("verbose"));
    sbuf_init(&text, 64 * 1024);
    for (size_t i = 0; ready && i < s->hook_count; i++) {
        struct err err = ERR_INIT;
        int rc = s->hooks[i].check(s->hooks[i].arg, &err);
        failed += rc != 0;
        if (rc != 0)
            sbuf_addf(&text, "[-]%s failed: %s\n", s->hooks[i].name, err.msg);
        else
            sbuf_addf(&text, "[+]%s ok%s%s\n", s->hooks[i].name, *err.msg ? ": " : "", err.msg);
    }
    if (failed)
        sbuf_addc(&text, "readyz check failed\n");
    else if (verbose)
        sbuf_addf(&text, "%s check passed\n", ready ? "readyz" : "livez");
    else
        sbuf_reset(&text), sbuf_addc(&text, "ok");
    api_reply_text(q, failed ? 503 : 200, "text/plain; charset=utf-8", sbuf_str(&text));
}

static int store_check(void *arg, struct err *err)
{
    return store_health(((struct apiserver *)arg)->store, err);
}

static int drain_check(void *arg, struct err *err)
{
    return ((struct apiserver *)arg)->draining ? err_set(err, ERR_UNAVAILABLE, "shutting down") : 0;
}

static void serve_version(struct api_request *q)
{
    api_reply(q, 200, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "major", "1", "minor", "34", "gitVersion", "v1.34.0+seki." SEKI_RELEASE, "gitCommit", "",
                                "gitTreeState", "clean", "buildDate", "", "goVersion", "", "compiler", "", "platform", "linux"));
}

static void serve_metrics(struct api_request *q)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, METRICS_MAX);
    metrics_write(&text);
    api_reply_text(q, 200, "text/plain; version=0.0.4; charset=utf-8", sbuf_str(&text));
}

static bool is_health(struct str path)
{
    return str_eqc(path, "/livez") || str_eqc(path, "/readyz") || str_eqc(path, "/healthz");
}

static void serve_path(struct api_request *q)
{
    struct str path = str_of(q->path);
    if (!str_eqc(str_of(q->method), "GET") && !str_eqc(str_of(q->method), "HEAD"))
        api_fail_code(q, ERR_METHOD, "the server does not allow this method on the requested resource");
    else if (is_health(path))
        api_serve_health(q, !str_eqc(path, "/livez"));
    else if (str_eqc(path, "/version") || str_eqc(path, "/version/"))
        serve_version(q);
    else if (str_eqc(path, "/metrics"))
        serve_metrics(q);
    else if (str_starts(path, STR("/openapi/")))
        api_openapi(q);
    else
        api_discovery(q);
}

/* ---- requests over HTTP ---- */

static const char *header(struct api_request *q, const char *name)
{
    struct str v = http_header_get(&q->http->head, name);
    return v.ptr ? arena_strndup(q->arena, v) : "";
}

static void refuse(struct api_request *q)
{
    metric_add(q->server->refused_total, 1);
    api_fail_code(q, ERR_UNAUTHENTICATED, "Unauthorized");
}

static void go_on(void *arg);

static int wait_for_proof(struct api_request *q, const char *issuer)
{
    const struct apiserver_options *o = &q->server->o;
    if (issuer)
        return oidc_wait(o->issuers, issuer, &q->keys, go_on, q) ? ERR_BUSY : ERR_UNAUTHENTICATED;
    q->announcing = (struct access_waiter){.fn = go_on, .arg = q};
    o->break_glass_wait(o->break_glass_ctx, &q->announcing);
    return ERR_BUSY;
}

/* 0: q->user is known. ERR_BUSY: it will be when go_on() is called; or ERR_UNAUTHENTICATED. */
static int authenticate(struct api_request *q)
{
    const char *issuer = NULL;
    struct api_user u;
    int rc = authn_http(q->server, q->http, q->arena, &u, &issuer);
    if (rc == ERR_BUSY)
        rc = wait_for_proof(q, issuer);
    if (rc < 0)
        return rc;
    q->user = u;
    q->credential.user = u.name;
    q->credential.tenant = u.tenant;
    q->credential.issued_ms = u.issued_ms;
    q->credential.expires_ms = u.expires_ms;
    q->credential.by_issuer = u.by_issuer;
    audit_token_seen(q);
    return 0;
}

/* Keys of the token's issuer have come, or will not; or the record of an access. Before the body has, that is looked at when it has. */
static void go_on(void *arg)
{
    struct api_request *q = arg;
    if (!q->has_body)
        return;
    int rc = authenticate(q);
    if (rc == 0)
        flow_admit(q->server->flow, q);
    else if (rc != ERR_BUSY)
        refuse(q);
}

static int on_head(void *ctx, struct http_request *r, size_t *body_max)
{
    struct apiserver *s = ctx;
    struct api_request *q = api_request_new(s);
    q->http = r;
    r->user = q;
    q->method = arena_strndup(q->arena, r->head.method);
    q->path = arena_strndup(q->arena, r->head.path);
    q->query = arena_str(q->arena, r->head.query);
    q->content_type = header(q, "content-type");
    q->user_agent = header(q, "user-agent");
    if (is_health(r->head.path))
        return 0;
    audit_arrived(q);
    int rc = authenticate(q);
    if (rc == ERR_BUSY)
        *body_max = MIN(*body_max, STRANGERS_BODY_MAX);
    if (rc == 0 || rc == ERR_BUSY)
        return 0;
    refuse(q);
    return ERR_UNAUTHENTICATED;
}

/* Watches are streams of JSON; whatever else is asked for. */
static int negotiate_objects(struct api_request *q, struct err *err)
{
    bool watch = !strcmp(q->verb, "watch");
    const struct kind_subresource *sub = kind_subresource(q->kind, q->sub);
    int rc = api_negotiate(q, sub && sub->view ? OFFER_YAML | OFFER_NDJSON : OFFER_META | (watch ? 0 : OFFER_YAML), err);
    return rc < 0 ? rc : shape_check(q, !strcmp(q->verb, "list"), err);
}

/* What may be read is read. */
static void serve_allowed(struct api_request *q)
{
    struct err err = ERR_INIT;
    if (!strcmp(q->verb, "watch"))
        api_watch_http(q);
    else if (strcmp(q->verb, "get") != 0 && strcmp(q->verb, "list") != 0 && flow_check_write(q->server->flow, q, &err) < 0)
        api_fail(q, &err);
    else
        api_dispatch(q);
}

static void serve_recorded(void *arg, bool recorded)
{
    if (recorded)
        serve_allowed(arg);
}

/* Its turn has come. */
static void serve(struct api_request *q)
{
    struct apiserver *s = q->server;
    struct err err = ERR_INIT;
    if (revoked_request(q)) {
        refuse(q);
        return;
    }
    if (!impersonate(q))
        return;
    if (api_route(q, &err) < 0)
        api_fail(q, &err);
    else if (!authz_allows(s, q))
        api_forbid(q);
    else if (flow_check_answer(s->flow, q, &err) < 0)
        api_fail(q, &err);
    else if (!q->kind)
        serve_path(q);
    else if (tenant_check(q, &err) < 0)
        api_forbid_because(q, str_of(err.msg));
    else if (negotiate_objects(q, &err) < 0)
        api_fail(q, &err);
    else if (!audit_first(q, serve_recorded, q))
        serve_allowed(q);
}

static void on_request(void *ctx, struct http_request *r)
{
    struct apiserver *s = ctx;
    struct api_request *q = r->user;
    q->text = r->body;
    q->has_body = true;
    if (is_health(str_of(q->path)))
        serve_path(q);
    else if (q->user.name)
        flow_admit(s->flow, q);
    else if (!q->keys.issuer && !q->announcing.list)
        go_on(q);
}

static void on_abort(void *ctx UNUSED, struct http_request *r)
{
    struct api_request *q = r->user;
    if (!q)
        return;
    r->user = NULL;
    q->http = NULL;
    q->held = NULL;
    oidc_wait_cancel(&q->keys);
    if (q->announcing.list)
        TAILQ_REMOVE(q->announcing.list, &q->announcing, link);
    q->announcing.list = NULL;
    flow_leave(q->server->flow, q);
    if (q->watch) {
        api_watch_stop(q->watch);
        return;
    }
    q->replied = true; /* what is on its way to the disk still gets there */
    api_request_unref(q);
}

static void on_drain(void *ctx UNUSED, struct http_request *r)
{
    struct api_request *q = r->user;
    if (q && q->watch)
        api_watch_drained(q->watch);
}

static void write_error(void *ctx UNUSED, const struct http_request *r UNUSED, int status, const char *msg, struct sbuf *out, const char **ret_type)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{400, "BadRequest"}, {408, "Timeout"}, {413, "RequestEntityTooLarge"}, {503, "ServiceUnavailable"}};
    const char *reason = "";
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            reason = reasons[i].reason;
    JSON_AUTO body = api_status(status, "Failure", reason, msg, NULL);
    json_write(body, out);
    *ret_type = "application/json";
}

/* ---- requests of this process ---- */

static struct api_request *local_request(struct apiserver *s, const char *method, const char *target, const char *user, const char *const *groups)
{
    struct api_request *q = api_request_new(s);
    const char *query = strchr(target, '?');
    q->method = arena_strdup(q->arena, method);
    q->path = query ? arena_strndup(q->arena, str_n(target, (size_t)(query - target))) : arena_strdup(q->arena, target);
    q->query = query ? arena_str(q->arena, str_of(query + 1)) : STR("");
    q->user.name = arena_strdup(q->arena, user);
    for (size_t i = 0; groups && groups[i] && i < API_GROUPS_MAX; i++)
        q->user.groups[i] = arena_strdup(q->arena, groups[i]);
    return q;
}

static void local_call(void *ctx, const struct local_call *c)
{
    struct apiserver *s = ctx;
    struct err err = ERR_INIT;
    struct api_request *q = local_request(s, c->method, c->target, c->user, c->groups);
    q->content_type = c->content_type ? arena_strdup(q->arena, c->content_type) : "";
    q->body = json_incref(c->body);
    q->local_done = c->done;
    q->local_arg = c->arg;
    if (api_route(q, &err) < 0)
        api_fail(q, &err);
    else if (!authz_allows(s, q))
        api_forbid(q);
    else if (!q->kind)
        serve_path(q);
    else
        api_dispatch(q);
}

static void *local_watch(void *ctx, const struct local_watch_call *c)
{
    struct apiserver *s = ctx;
    struct err err = ERR_INIT;
    struct api_request *q = local_request(s, "GET", c->target, c->user, c->groups);
    if (api_route(q, &err) == 0 && (!q->kind || strcmp(q->verb, "watch") != 0))
        err_set(&err, ERR_NOT_FOUND, "the server could not find the requested resource");
    if (!err.code && !authz_allows(s, q))
        err_set(&err, ERR_FORBIDDEN, "%s is forbidden: User \"%s\" cannot watch it", api_resource_text(q), q->user.name);
    if (!err.code)
        return api_watch_local(q, c);
    int status = err_http_status(err.code);
    api_request_unref(q);
    c->ended(c->arg, status, api_status(status, "Failure", err_reason(err.code), err.msg, NULL));
    return NULL;
}

static void local_watch_stop(void *ctx UNUSED, void *watch)
{
    api_watch_stop(watch);
}

struct client_local apiserver_local(struct apiserver *a)
{
    return (struct client_local){.loop = a->loop, .ctx = a, .call = local_call, .watch = local_watch, .watch_stop = local_watch_stop};
}

/* ---- life ---- */

static void set_defaults(struct apiserver_options *o)
{
    o->max_object_bytes = o->max_object_bytes ? o->max_object_bytes : DEFAULT_OBJECT_BYTES;
    o->watch_timeout_ms = o->watch_timeout_ms ? o->watch_timeout_ms : DEFAULT_WATCH_MS;
    o->watch_buffer_bytes = o->watch_buffer_bytes ? o->watch_buffer_bytes : DEFAULT_WATCH_BUFFER;
    o->services.token_issuer = o->services.token_issuer ? o->services.token_issuer : DEFAULT_ISSUER;
    o->max_in_flight_writes = o->max_in_flight_writes ? o->max_in_flight_writes : DEFAULT_WRITES;
}

struct seals {
    bool found;
};

static bool look_for_seal(void *arg, struct store_value *v)
{
    struct seals *s = arg;
    s->found = sealing_is_sealed(v->value, NULL);
    return !s->found;
}

static int open_keyring(struct apiserver *s, struct err *err)
{
    struct seals seals = {false};
    struct err local = ERR_INIT;
    if (!s->o.root_key)
        return 0;
    (void)!store_range(s->store, STR(""), STR_NULL, 0, 0, look_for_seal, &seals, NULL);
    struct keyring_options o = {.root_key = s->o.root_key, .old_root_key = s->o.old_root_key, .sealed = seals.found};
    return keyring_open(s->store, &o, &s->keyring, err ? err : &local);
}

static void make_metrics(struct apiserver *s)
{
    static const char *const request_labels[] = {"verb", "resource", "code", NULL}, *const duration_labels[] = {"verb", NULL};
    s->requests_total = metric_family("seki_apiserver_requests_total", "Requests answered, by verb, resource and HTTP status.", METRIC_COUNTER, request_labels, 4000, NULL, 0);
    s->duration = metric_family("seki_apiserver_request_duration_seconds", "Time from head to answer, without watches.", METRIC_HISTOGRAM, duration_labels, 32,
                                metric_latency_buckets, metric_latency_bucket_count);
    s->refused_total = metric_counter("seki_authentication_refused_total", "Requests answered 401: nobody is known by what they show.");
    s->limited_total = metric_counter("seki_limits_refused_total", "Creations refused because a project or tenant has all that it may have.");
    s->watch_gauge = metric_gauge("seki_apiserver_watches", "Watches that run.");
}

int apiserver_start(struct loop *l, struct store *st, const struct apiserver_options *o, struct apiserver **ret, struct err *err)
{
    static const struct http_server_ops ops = {.on_head = on_head, .on_request = on_request, .on_abort = on_abort, .on_drain = on_drain, .write_error = write_error};
    struct apiserver *s = XNEW(struct apiserver);
    *s = (struct apiserver){.loop = l, .store = st, .o = *o, .arena = arena_new(64 * 1024 * 1024)};
    TAILQ_INIT(&s->watches);
    set_defaults(&s->o);
    make_metrics(s);
    sbuf_init(&s->line.text, 16u * 1024 * 1024);
    struct http_server_options ho = {.listen = o->listen, .tls = o->tls, .max_connections = CONNECTIONS_MAX, .max_body_bytes = 3 * s->o.max_object_bytes, .high_water_bytes = s->o.watch_buffer_bytes,
                                     .compress_min_bytes = COMPRESS_MIN_BYTES};
    s->flow = flow_new(s, serve);
    limits_start(s);
    int rc = open_keyring(s, err);
    if (rc == 0)
        rc = authn_load_tokens(s, err);
    if (rc == 0)
        rc = http_server_start(l, &ho, &ops, s, &s->http, err);
    if (rc < 0) {
        apiserver_free(s);
        return rc;
    }
    apiserver_add_ready_check(s, "store", store_check, s);
    apiserver_add_ready_check(s, "serving", drain_check, s);
    authz_start(s);
    audit_start(s);
    gc_start(s);
    gather_start(s);
    namespaces_start(s);
    standing_start(s);
    revoked_start(s);
    expel_start(s);
    if (s->keyring)
        reseal_start(s);
    *ret = s;
    return 0;
}

void apiserver_addr(const struct apiserver *a, struct net_addr *ret)
{
    http_server_addr(a->http, ret);
}

void apiserver_add_ready_check(struct apiserver *a, const char *name, int (*check)(void *arg, struct err *err), void *arg)
{
    if (a->hook_count == API_HOOKS_MAX)
        return;
    a->hooks[a->hook_count].name = name;
    a->hooks[a->hook_count].check = check;
    a->hooks[a->hook_count++].arg = arg;
}

void apiserver_set_objects_per_project(struct apiserver *a, int64_t max)
{
    a->o.objects_per_project = max;
    limits_changed(a);
}

static bool is_by_issuer(struct api_request *q)
{
    return q->credential.by_issuer;
}

void apiserver_issuers_changed(struct apiserver *a)
{
    api_watches_end_if(a, is_by_issuer);
}

void apiserver_drain(struct apiserver *a, void (*done)(void *arg), void *arg)
{
    a->draining = true;
    api_watches_end(a);
    http_server_drain(a->http, done, arg);
}

static bool works(const struct apiserver *s)
{
    return flow_writes(s->flow) || s->audit_views || s->texts;
}

/* Their callbacks lead to the server. False: the disk hangs. */
static bool await_work(struct apiserver *s)
{
    uint64_t end = clock_mono_ms() + FREE_WAIT_MS;
    while (works(s) && clock_mono_ms() < end)
        loop_run_once(s->loop, 20);
    return !works(s);
}

void apiserver_free(struct apiserver *a)
{
    if (!a)
        return;
    if (a->http)
        http_server_free(a->http);
    api_watches_end(a);
    gc_stop(a);
    gather_stop(a);
    namespaces_stop(a);
    standing_stop(a);
    expel_stop(a);
    revoked_stop(a);
    reseal_stop(a);
    if (!await_work(a)) {
        log_error("writes or reads are still on their way to the disk; the API's memory is left to them");
        return;
    }
    bootstrap_stop(a);
    limits_stop(a);
    keyring_free(a->keyring);
    flow_free_all(a->flow);
    rbac_free(a->rbac);
    map_free(a->tokens);
    map_free(a->verified);
    map_free(a->secret_kinds);
    map_free(a->documents);
    sbuf_deinit(&a->line.text);
    arena_free(a->arena);
    mem_free(a);
}
