/* One inference request, from its complete body to its last line.
 *
 *   begin ─► attempt ─► head ─► body … ─► end          a stream passes through as it comes; any other answer is gathered and sent whole
 *              ▲         │ another replica, while the client has seen nothing
 *              └─────────┘
 * Whatever happens, settle() runs once: it releases the replica and what was reserved of limits, writes the usage record, counts, logs. It runs before the client gets the last byte, so that whoever has
 * seen the end of an answer has been counted. struct request lives in the HTTP request's arena. A request that never came whole (the client left, was too slow or sent too
 * much) is none: nothing was used, nothing is written; the server's refusal is counted as one.
 */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/internal.h"

#define ANSWER_MAX (64u * 1024 * 1024) /* of an answer that is no stream */
#define TYPE_MAX 128
#define RETRY_AFTER_MAX 40 /* seconds or a date */
#define COOL_DOWN_MS 1000 /* after a connect that failed: others first */
#define BYTES_A_TOKEN 4   /* for prompts that the engine did not count */
#define HEADERS_MAX 8
#define ATTEMPTS_MAX 3 /* replicas that one request may try: what kills engines must not kill all of them */
#define ENGINE_MESSAGE_MAX 1024

struct request {
    struct http_request *http;
    struct gateway_loop *loop;
    struct snapshot *snapshot; /* keeps key, endpoint, replica alive */
    const struct gateway_route *route;
    const struct snap_key *key;
    const struct snap_endpoint *endpoint; /* NULL: not resolved */
    const struct snap_replica *replica;   /* of the last attempt */
    struct request_body body;
    struct iovec pieces[BODY_PIECES_MAX];
    struct http_header headers[HEADERS_MAX];
    struct limit_hold hold;

    struct http_call *call; /* NULL: none runs */
    uint64_t tried;         /* replicas, a bit each */
    int attempts;
    bool holds_replica;     /* its in_flight counts us */
    int status;             /* of the engine's answer */
    char type[TYPE_MAX];    /* its content type */
    char retry_after[RETRY_AFTER_MAX];
    bool streaming;         /* its answer is passed on as it comes */
    struct usage_scan scan;
    struct sbuf answer; /* gathered */

    int64_t start_ms;
    uint64_t start_ns, first_ns; /* first_ns 0: no content yet */
    bool begun, settled;
};

static bool attempt(struct request *q);

static void request_cleanup(void *arg)
{
    struct request *q = arg;
    usage_scan_deinit(&q->scan);
    sbuf_deinit(&q->answer);
    snapshot_unref(q->snapshot);
}

void request_new(struct gateway_loop *l, struct http_request *r, const struct gateway_route *route, const struct snap_key *key)
{
    struct request *q = ARENA_NEW(r->arena, struct request);
    q->http = r;
    q->loop = l;
    q->route = route;
    q->snapshot = snapshot_ref(l->snapshot);
    q->key = key;
    q->start_ms = clock_wall_ms();
    q->start_ns = r->started_ns;
    sbuf_init(&q->answer, ANSWER_MAX);
    usage_scan_init(&q->scan, false, NULL, NULL);
    q->scan.input_only = route->embeddings;
    arena_on_free(r->arena, request_cleanup, q);
    r->user = q;
}

bool request_has_begun(const struct request *q)
{
    return q->begun;
}

static bool is_success(int status)
{
    return status >= 200 && status < 300;
}

/* ---- the last line ---- */

static void release_replica(struct request *q)
{
    if (q->holds_replica)
        atomic_fetch_sub(&q->replica->target->in_flight, 1);
    q->holds_replica = false;
}

static int64_t prompt_estimate(const struct request *q)
{
    return (int64_t)q->body.prompt_bytes / BYTES_A_TOKEN + 1;
}

/* What the engine said, or what went by; a request that got no content has used nothing. */
static void fill_counts(const struct request *q, struct usage *u)
{
    if (q->scan.exact) {
        u->prompt_tokens = q->scan.prompt_tokens;
        u->cached_tokens = q->scan.cached_tokens;
        u->completion_tokens = q->scan.completion_tokens;
        u->exact = true;
    } else if (q->first_ns && is_success(q->status)) {
        u->prompt_tokens = prompt_estimate(q);
        u->completion_tokens = q->scan.content_events;
    } else {
        u->exact = true;
    }
}

/* What failed is free. Where the engine gave no count, no less is charged than was reserved; who left before an answer began is charged his prompt, which the engine had to read. */
static void settle_limits(struct request *q, const struct usage *u)
{
    bool ok = str_eqc(u->outcome, "ok"), gone = str_eqc(u->outcome, "client_gone");
    int64_t used = u->prompt_tokens + u->completion_tokens;
    if (ok && u->exact && !q->route->embeddings)
        limit_learn(q->key->limits, q->endpoint->name, u->completion_tokens);
    if (ok && !u->exact)
        used = MAX(used, q->hold.tokens);
    if (gone && !used && q->status < 400)
        used = MIN(prompt_estimate(q), q->hold.tokens);
    limit_settle(&q->hold, used, !ok && !gone);
}

static void count(struct request *q, const struct usage *u, uint64_t now_ns)
{
    const struct gateway_metrics *m = &q->loop->gateway->metrics;
    char status[16];
    snprintf(status, sizeof(status), "%d", u->status);
    metric_move(m->active, -1);
    metric_add(metric_series(m->requests, (struct str[]){u->route, str_of(status), u->outcome}), 1);
    if (!q->endpoint)
        return;
    bool ok = str_eqc(u->outcome, "ok"), answered = q->first_ns && is_success(q->status);
    struct str labels[] = {str_of(q->route->operation), u->model, ok ? STR("") : u->outcome};
    metric_observe(metric_series(m->duration, labels), (double)(now_ns - q->start_ns) / 1e9);
    if (answered)
        metric_observe(metric_series(m->first, labels), (double)(q->first_ns - q->start_ns) / 1e9);
    if (answered && ok && q->streaming && u->completion_tokens > 1)
        metric_observe(metric_series(m->per_token, labels), (double)(now_ns - q->first_ns) / 1e9 / (double)(u->completion_tokens - 1));
    if (u->prompt_tokens)
        metric_add(metric_series(m->tokens, (struct str[]){u->project, u->endpoint, STR("input")}), (uint64_t)u->prompt_tokens);
    if (u->cached_tokens)
        metric_add(metric_series(m->tokens, (struct str[]){u->project, u->endpoint, STR("cached")}), (uint64_t)u->cached_tokens);
    if (u->completion_tokens)
        metric_add(metric_series(m->tokens, (struct str[]){u->project, u->endpoint, STR("output")}), (uint64_t)u->completion_tokens);
}

static void settle(struct request *q, int status, const char *outcome)
{
    if (q->settled)
        return;
    q->settled = true;
    if (q->call)
        http_call_cancel(q->call);
    q->call = NULL;
    release_replica(q);
    uint64_t now_ns = clock_mono_ns();
    struct usage u = {.id = str_of(q->http->id), .project = str_of(q->key->project), .tenant = str_of(q->key->tenant), .key = str_of(q->key->name),
                      .endpoint = str_of(q->endpoint ? q->endpoint->name : ""), .model = str_of(q->endpoint ? q->endpoint->served : ""),
                      .replica = str_of(q->replica ? q->replica->name : ""), .route = str_of(q->route->name), .outcome = str_of(outcome), .stream = q->body.stream,
                      .status = status, .start_ms = q->start_ms, .ttft_ms = q->first_ns ? (int64_t)((q->first_ns - q->start_ns) / 1000000) : -1,
                      .duration_ms = (int64_t)((now_ns - q->start_ns) / 1000000)};
    fill_counts(q, &u);
    settle_limits(q, &u);
    if (status != 429 || q->attempts) /* what a limit keeps away must not fill the disk */
        journal_add(q->loop->gateway->journal, &u);
    count(q, &u, now_ns);
    log_debug("request", KVS("request", u.id), KVS("project", u.project), KVS("key", u.key), KVS("route", u.route), KVS("endpoint", u.endpoint), KVS("replica", u.replica),
              KVI("status", status), KVS("outcome", u.outcome), KVI("prompt_tokens", u.prompt_tokens), KVI("completion_tokens", u.completion_tokens),
              KVI("ttft_ms", u.ttft_ms), KVI("duration_ms", u.duration_ms));
}

/* An answer of our own instead of the engine's. */
static void refuse(struct request *q, int status, const char *outcome, const char *type, const char *code, const char *param, const char *message)
{
    settle(q, status, outcome);
    answer_error(q->http, status, type, code, param, message);
}

/* ---- failure ---- */

static void count_upstream_error(struct request *q, const char *reason, const struct err *err)
{
    metric_add(metric_series(q->loop->gateway->metrics.upstream_errors, (struct str[]){str_of(reason)}), 1);
    log_warn("an engine failed a request", KV("request", q->http->id), KV("replica", q->replica->name), KV("reason", reason), KV("error", err ? err->msg : ""));
}

/* The stream has begun and cannot go on: the client is told inside it, when that can still be understood. */
static void break_off(struct request *q, const char *outcome, const char *message)
{
    bool between_events = usage_scan_between_events(&q->scan);
    settle(q, q->status, outcome);
    if (!between_events) {
        http_respond_abort(q->http);
        return;
    }
    CLEANUP(sbuf_deinit) struct sbuf event = {0};
    sbuf_init(&event, 4096);
    sbuf_addc(&event, "data: ");
    answer_error_body(&event, "server_error", "upstream_error", NULL, str_of(message), q->http->id);
    sbuf_addc(&event, "\n\n");
    http_write(q->http, sbuf_str(&event));
    http_respond_end(q->http);
}

/* What came of a failed attempt is forgotten. */
static void forget_attempt(struct request *q)
{
    release_replica(q);
    sbuf_reset(&q->answer);
    q->retry_after[0] = 0;
    q->status = 0;
    q->first_ns = 0;
}

/* The attempt has failed before the client saw anything: another replica, or the end. status: what the client is told then. */
static void try_another(struct request *q, int status, const char *message)
{
    bool timed_out = status == 504;
    forget_attempt(q);
    if (!timed_out && attempt(q)) /* who has waited that long does not wait again */
        return;
    refuse(q, status, timed_out ? "timeout" : "upstream_error", "server_error", timed_out ? "upstream_timeout" : "upstream_error", NULL, message);
}

/* ---- what the engine answers ---- */

static void pass_on(void *arg, struct str bytes)
{
    struct request *q = arg;
    if (!http_write(q->http, bytes) && q->call)
        http_call_pause(q->call, true);
}

static bool is_event_stream(struct str type)
{
    struct str want = STR("text/event-stream");
    return type.len >= want.len && str_ieq(str_n(type.ptr, want.len), want);
}

/* Others may do better: this replica is overloaded, starting, does not know us, or is no engine at all. */
static bool is_replica_s_own_trouble(int status)
{
    return (status >= 300 && status < 400) || status == 401 || status == 403 || status == 502 || status == 503 || status == 504;
}

/* Why an answer with this head is of no use; NULL: it is. */
static const char *wrong_with(const struct http_head *head, char message[128])
{
    struct str coding = http_header_get(head, "Content-Encoding");
    if (is_replica_s_own_trouble(head->status))
        snprintf(message, 128, "The engine answered with status %d.", head->status);
    else if (coding.len && !str_ieq(coding, STR("identity")))
        snprintf(message, 128, "The engine answered in a content coding that nobody asked for.");
    else
        return NULL;
    return message;
}

static void on_head(void *arg, const struct http_head *head)
{
    struct request *q = arg;
    char message[128];
    q->status = head->status;
    struct str type = http_header_get(head, "Content-Type");
    if (!type.len || !str_to_array(type, q->type, sizeof(q->type)))
        (void)!str_to_array(STR(JSON_TYPE), q->type, sizeof(q->type));
    struct str retry_after = http_header_get(head, "Retry-After");
    if (!str_to_array(retry_after, q->retry_after, sizeof(q->retry_after)))
        q->retry_after[0] = 0;
    if (wrong_with(head, message)) {
        count_upstream_error(q, "status", NULL);
        http_call_cancel(q->call);
        q->call = NULL;
        try_another(q, head->status == 503 ? 503 : 502, message);
        return;
    }
    if (head->status == 200 && is_event_stream(type)) {
        static const struct http_out_header headers[] = {{"Cache-Control", {"no-cache", 8}}, {"X-Accel-Buffering", {"no", 2}}};
        q->streaming = true;
        usage_scan_deinit(&q->scan);
        usage_scan_init(&q->scan, !q->body.usage_wanted, pass_on, q);
        struct http_out_header all[ARRAY_LEN(headers) + LIMIT_HEADERS_MAX];
        memcpy(all, headers, sizeof(headers));
        http_respond_start(q->http, 200, q->type, all, ARRAY_LEN(headers) + answer_limit_headers(q->http->arena, q->key->limits, all + ARRAY_LEN(headers)));
    }
}

static void on_body(void *arg, struct str bytes)
{
    struct request *q = arg;
    if (!q->first_ns)
        q->first_ns = clock_mono_ns();
    if (q->streaming) {
        usage_scan_feed(&q->scan, bytes);
        return;
    }
    sbuf_add(&q->answer, bytes);
    if (!sbuf_ok(&q->answer)) {
        count_upstream_error(q, "too_large", NULL);
        refuse(q, 502, "upstream_error", "server_error", "upstream_error", NULL, "The engine's answer is larger than the gateway holds.");
    }
}

/* An engine's error in OpenAI's shape: passed on when it has it, else made of what it says. */
static void answer_engine_error(struct request *q)
{
    static const char *const paths[] = {"error", "message", "detail"};
    struct span at[ARRAY_LEN(paths)];
    char message[ENGINE_MESSAGE_MAX];
    struct http_out_header headers[] = {{"Retry-After", str_of(q->retry_after)}};
    struct str body = sbuf_str(&q->answer);
    bool json = span_scan(body, paths, ARRAY_LEN(paths), at, NULL) == 0;
    if (json && at[0].type == SPAN_OBJECT) {
        http_respond(q->http, q->status, JSON_TYPE, headers, q->retry_after[0] != 0, body);
        return;
    }
    if (!json || !(span_string(&at[0], message, sizeof(message)) || span_string(&at[1], message, sizeof(message)) || span_string(&at[2], message, sizeof(message))))
        snprintf(message, sizeof(message), "The engine answered with status %d.", q->status);
    answer_error(q->http, q->status, q->status < 500 ? "invalid_request_error" : "server_error", q->status < 500 ? NULL : "upstream_error", NULL, message);
}

static void end_stream(struct request *q)
{
    if (!usage_scan_end(&q->scan)) {
        count_upstream_error(q, "cut", NULL);
        break_off(q, "upstream_error", "The engine ended its answer early.");
        return;
    }
    settle(q, 200, "ok");
    http_respond_end(q->http);
}

static void on_end(void *arg)
{
    struct request *q = arg;
    q->call = NULL;
    if (q->streaming) {
        end_stream(q);
    } else if (q->status >= 400) {
        if (q->status >= 500)
            count_upstream_error(q, "status", NULL);
        settle(q, q->status, q->status < 500 ? "refused" : "upstream_error");
        answer_engine_error(q);
    } else if (!usage_scan_body(&q->scan, sbuf_str(&q->answer))) {
        count_upstream_error(q, "protocol", NULL);
        try_another(q, 502, "The engine's answer is no JSON object.");
    } else {
        struct http_out_header headers[LIMIT_HEADERS_MAX];
        settle(q, q->status, "ok");
        http_respond(q->http, q->status, q->type, headers, answer_limit_headers(q->http->arena, q->key->limits, headers), sbuf_str(&q->answer));
    }
}

static void on_error(void *arg, const struct err *err)
{
    struct request *q = arg;
    /* Who could not even be reached in time has cost little: others are tried. */
    bool timed_out = err->code == ERR_TIMEOUT && http_call_sent_any(q->call);
    bool never_spoke = !q->status;
    q->call = NULL;
    count_upstream_error(q, timed_out ? "timeout" : err->code == ERR_PROTOCOL ? "protocol" : never_spoke ? "connect" : "cut", err);
    if (q->streaming) {
        break_off(q, timed_out ? "timeout" : "upstream_error", timed_out ? "The engine stopped in the middle of its answer." : "The engine failed in the middle of its answer.");
        return;
    }
    if (never_spoke && !timed_out)
        atomic_store(&q->replica->target->cool_until_ms, clock_mono_ms() + COOL_DOWN_MS);
    try_another(q, timed_out ? 504 : 502, timed_out ? "The engine took too long to answer." : "The engine failed before it had answered.");
}

static const struct http_call_ops call_ops = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

/* ---- towards the engine ---- */

static size_t fill_headers(struct request *q)
{
    static const char *const forwarded[] = {"traceparent", "tracestate"};
    size_t n = 0;
    q->headers[n++] = (struct http_header){STR("Content-Type"), STR("application/json")};
    q->headers[n++] = (struct http_header){STR("X-Request-Id"), str_of(q->http->id)};
    q->headers[n++] = (struct http_header){STR("User-Agent"), STR("seki-gateway")};
    if (q->replica->token) {
        const char *value = arena_printf(q->http->arena, "Bearer %s", q->replica->token);
        q->headers[n++] = (struct http_header){STR("Authorization"), str_of(value)};
    }
    for (size_t i = 0; i < ARRAY_LEN(forwarded); i++) {
        struct str v = http_header_get(&q->http->head, forwarded[i]);
        if (v.len && v.len < 1024)
            q->headers[n++] = (struct http_header){str_of(forwarded[i]), v};
    }
    return n;
}

/* Sends the request to the best replica that was not tried. False: none is left. */
static bool attempt(struct request *q)
{
    const struct gateway_options *o = &q->loop->gateway->o;
    const struct snap_replica *replica;
    size_t index;
    while (q->attempts < ATTEMPTS_MAX && (replica = snapshot_pick(q->endpoint, q->tried, clock_mono_ms(), &index))) {
        q->replica = replica;
        q->tried |= 1ull << index;
        q->attempts++;
        struct http_pool *pool = gateway_loop_pool(q->loop, replica);
        if (!pool)
            continue;
        struct http_call_options call = {.method = "POST",
                                         .target = arena_printf(q->http->arena, "%s%s", replica->base_path, q->route->path + sizeof("/v1") - 1),
                                         .headers = q->headers,
                                         .header_count = fill_headers(q),
                                         .body = q->pieces,
                                         .body_count = request_body_pieces(&q->body, replica->engine_model, q->http->arena, q->pieces),
                                         .first_byte_timeout_ms = o->first_byte_timeout_ms,
                                         .idle_timeout_ms = o->idle_timeout_ms};
        q->call = http_call_start(pool, &call, &call_ops, q);
        if (!q->call)
            continue;
        atomic_fetch_add(&replica->target->in_flight, 1);
        q->holds_replica = true;
        return true;
    }
    return false;
}

/* The model that is meant, and whether it does what this route asks. False: answered. */
static bool resolve(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    const struct snap_endpoint *e = snapshot_find(q->snapshot, q->key, q->body.model);
    if (!e) {
        snprintf(message, sizeof(message), "The model `%s` does not exist or you do not have access to it.", q->body.model);
        refuse(q, 404, "refused", "invalid_request_error", "model_not_found", "model", message);
        return false;
    }
    q->endpoint = e;
    if (e->embeddings != q->route->embeddings) {
        snprintf(message, sizeof(message), "The model `%s` %s: use it with %s.", q->body.model, e->embeddings ? "serves embeddings only" : "does not serve embeddings",
                 e->embeddings ? "/v1/embeddings" : "/v1/chat/completions or /v1/completions");
        refuse(q, 400, "refused", "invalid_request_error", "unsupported_model", "model", message);
        return false;
    }
    if (!e->replica_count) {
        snprintf(message, sizeof(message), "The model `%s` is not ready (%s); try again.", q->body.model, e->not_ready);
        refuse(q, 503, "refused", "server_error", "model_not_ready", NULL, message);
        return false;
    }
    return true;
}

/* False: answered. */
static bool reserve(struct request *q)
{
    struct limit_refusal why;
    int64_t prompt = prompt_estimate(q), answer = q->route->embeddings ? 0 : limit_expect(q->key->limits, q->endpoint->name, prompt, q->body.max_tokens);
    if (limit_reserve(&q->hold, q->key->limits, prompt + answer, clock_mono_ns(), &why))
        return true;
    metric_add(metric_series(q->loop->gateway->metrics.limited, (struct str[]){str_of(limit_scope_text(why.scope)), str_of(limit_unit_text(why.unit))}), 1);
    settle(q, 429, "refused");
    answer_limited(q->http, q->key, &why);
    return false;
}

void request_begin(struct request *q)
{
    struct err err = ERR_INIT;
    q->begun = true;
    metric_move(q->loop->gateway->metrics.active, 1);
    if (request_body_read(q->http->body, q->route->prompt, &q->body, &err) < 0) {
        refuse(q, 400, "refused", "invalid_request_error", err.field[0] ? "invalid_value" : "invalid_json", err.field, err.msg);
        return;
    }
    if (!resolve(q) || !reserve(q) || attempt(q))
        return;
    refuse(q, 503, "upstream_error", "server_error", "model_not_ready", NULL, "No replica of the model can be reached; try again.");
}

void request_drain(struct request *q)
{
    if (q->call)
        http_call_pause(q->call, false);
}

void request_abort(struct request *q)
{
    bool stopping = q->loop->stopping;
    settle(q, q->status ? q->status : 499, stopping ? "shutdown" : "client_gone");
}
