#include "base/clock.h"
#include "base/log.h"
#include "gateway/answers.h"
#include "gateway/continuation.h"
#include "gateway/fall_over.h"
#include "gateway/home.h"
#include "gateway/isolation.h"
#include "gateway/model_route.h"
#include "gateway/recheck.h"
#include "gateway/request.h"

#define HELD_MAX 65536 /* of a stream without content: then it is passed on as it is */
#define ENGINE_MESSAGE_MAX 1024
#define DRAIN_MS 1000 /* an engine has so long after its stream's last event to end its message */
#define SLOT_TICK_MS 20
#define TICK_MS 500 /* while a request waits: its deadline, new replicas */
#define COLD_TICK_MS 100 /* … while it waits for the first one */

static bool attempt_start(struct request *q);

/* The engine has written to this request for certain, so that its prompt is what is in the slot: an empty prompt, or an answer that may have no token, leaves there what was. */
static bool has_run(const struct request *q)
{
    return q->scan.exact ? q->scan.prompt_tokens > 0 && q->scan.completion_tokens > 0 : q->scan.content_events > 2;
}

static void tell_aside(const struct request *q, const struct snap_replica *r)
{
    metric_add(q->loop->gateway->metrics.put_aside, 1);
    log_warn("a replica fails and is put aside", KV("endpoint", q->endpoint->name), KV("project", q->endpoint->project), KV("replica", r->name));
}

void attempt_release(struct request *q, enum target_outcome outcome, uint64_t busy_ms)
{
    tally_end(q);
    if (!q->ticket.holds) /* while it waits, the ticket is whoever's has the lock */
        return;
    trace_attempt_end(q->trace, q->status);
    q->ticket.ran = has_run(q);
    if (dispatch_done(&q->ticket, outcome, busy_ms))
        tell_aside(q, q->replica);
}

/* ---- towards the client ---- */

#define ROUTE_HEADERS_MAX 2

static const char *chosen_by(const struct ticket *t)
{
    return t->cached ? "prefix" : t->wish.policy == PICK_BY_TURNS ? "turns" : "load";
}

/* Where it is worked on, and why there: no more than a tenant may know. Nothing while it waits. */
static size_t route_headers(const struct request *q, struct http_out_header ret[ROUTE_HEADERS_MAX])
{
    size_t n = 0;
    if (!q->replica || !q->attempts)
        return 0;
    if (q->replica->site)
        ret[n++] = (struct http_out_header){"x-seki-site", str_of(q->replica->site->name)};
    const char *by = chosen_by(&q->ticket);
    ret[n++] = (struct http_out_header){"x-seki-route", str_of(q->rule ? arena_printf(q->http->arena, "%s; rule=\"%s\"", by, q->rule) : by)};
    return n;
}

/* The head of the stream: it leaves with the first bytes. */
static void commit(struct request *q, const char *type)
{
    static const struct http_out_header headers[] = {{"Cache-Control", {"no-cache", 8}}, {"X-Accel-Buffering", {"no", 2}}};
    struct http_out_header all[ARRAY_LEN(headers) + ROUTE_HEADERS_MAX + LIMIT_HEADERS_MAX + 1];
    size_t n = ARRAY_LEN(headers);
    if (q->committed)
        return;
    q->committed = true;
    memcpy(all, headers, sizeof(headers));
    n += route_headers(q, all + n);
    n += answer_limit_headers(q->http->arena, q->key->limits, all + n);
    n += cold_headers(q, all + n);
    http_respond_start(q->http, 200, type, all, n);
}

static void write_out(struct request *q, struct str bytes)
{
    if (bytes.len && !http_write(q->http, bytes) && q->call)
        http_call_pause(q->call, true);
}

/* From now on the stream is this engine's. */
static void pass_held(struct request *q)
{
    if (q->passed)
        return;
    commit(q, q->type);
    q->passed = true;
    hedge_over(q);
    timer_stop(&q->keepalive);
    write_out(q, sbuf_str(&q->answer));
    sbuf_reset(&q->answer);
}

static void pass_on(void *arg, struct str bytes)
{
    struct request *q = arg;
    tally_note(q); /* before it goes out: whoever is killed now has counted it */
    if (q->passed)
        write_out(q, bytes);
    else
        sbuf_add(&q->answer, bytes);
}

/* What stands between us and the client may take a silent connection for a dead one. */
static void on_keepalive(struct timer *t)
{
    struct request *q = t->arg;
    char comment[128];
    commit(q, "text/event-stream");
    write_out(q, cold_comment(q, comment));
    http_flush(q->http);
    timer_start(t, q->loop->gateway->o.keepalive_ms);
}

/* ---- failure ---- */

static void count_upstream_error(struct request *q, const char *reason, const struct err *err)
{
    metric_add(metric_series(q->loop->gateway->metrics.upstream_errors, (struct str[]){str_of(reason)}), 1);
    trace_failed(q->trace, reason);
    log_warn("an engine failed a request", KV("request", q->http->id), KV("replica", q->replica->name), KV("reason", reason), KV("error", err ? err->msg : ""));
}

/* What came of a failed attempt is forgotten, but for the time that a busy engine asked for: if all fail, the client is told the last one. */
static void forget(struct request *q)
{
    request_scan(q, false, NULL);
    sbuf_reset(&q->answer);
    q->streaming = false;
    q->status = 0;
    if (!q->passed)
        q->first_ns = 0;
}

/* Whether what has failed may be tried elsewhere: the one place where that is paid. Who was not even reached has cost nothing, nor does an attempt beside it that runs already. */
static bool may_try_again(struct request *q, enum target_outcome outcome)
{
    return outcome == TARGET_UNREACHABLE || hedge_runs(q) || target_may_retry(q->replica->target);
}

/* The stream's text goes on from another replica, or is whole but for its end. False: neither. */
static bool go_on(struct request *q, enum target_outcome outcome)
{
    enum continuation_step step = continuation_next(q);
    if (step == CONTINUATION_WHOLE) {
        request_settle(q, 200, OUTCOME_OK);
        http_respond_end(q->http);
        return true;
    }
    if (step == CONTINUATION_NONE || !may_try_again(q, outcome))
        return false;
    forget(q);
    return attempt_start(q);
}

/* The engine's part of the stream has begun and nothing more comes: the client is told inside it, when that can still be understood. */
static void end_early(struct request *q, enum outcome outcome, const char *code, const char *message)
{
    int status = q->status ? q->status : 200;
    if (usage_scan_between_events(&q->scan)) {
        request_refuse(q, status, outcome, "server_error", code, NULL, message);
    } else {
        request_settle(q, status, outcome);
        records_write(q->loop); /* the client sees that end at once */
        http_respond_abort(q->http);
    }
}

/* It has begun and cannot go on there. */
static void break_off(struct request *q, enum target_outcome target, enum outcome outcome, const char *message)
{
    attempt_release(q, target, 0);
    if (!go_on(q, target))
        end_early(q, outcome, "upstream_error", message);
}

/* ---- a 500: the engine's fault, or the request's own? ----
 *
 * An engine that is broken answers so, and one that is well, to an image that its model cannot see: if that counted against it, one tenant's request would put replicas aside for all. What another
 * replica makes of the same request tells: when it answers so, too, nobody is to blame but the request; when it does well, the first one is. Where there is no other it counts as a failure: requests
 * for that model have nowhere else to go. */

void attempt_doubt(struct request *q, struct target *t)
{
    if (!q->doubted)
        q->doubted = target_ref(t);
}

/* It was served, by another replica. One of another backend tells nothing: that is another model. */
static void blame_doubted(struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    const struct snap_replica *doubted = NULL;
    for (size_t i = 0; q->doubted && i < e->replica_count && !doubted; i++)
        doubted = e->replicas[i].target == q->doubted ? &e->replicas[i] : NULL;
    if (!doubted || q->doubted == q->replica->target || !target_blame(q->doubted, clock_mono_ms()))
        return;
    target_forget(q->doubted);
    tell_aside(q, doubted);
}

/* Some replica of another server that was not tried. Several may be one server. */
static bool has_witness(const struct request *q)
{
    const struct pick_wish *w = &q->ticket.wish;
    for (size_t i = 0; i < q->endpoint->replica_count; i++) {
        const struct target *t = q->endpoint->replicas[i].target;
        if (!((w->tried | w->barred) & (1ull << i)) && !atomic_load(&t->closing) && t != q->replica->target)
            return true;
    }
    return false;
}

/* The engine has answered 500 in full. True: another one has the request now; false: that answer is the request's. */
static bool another_tells(struct request *q)
{
    struct target *t = q->replica->target;
    bool agreed = q->doubted && q->doubted != t;
    bool witness = agreed || hedge_runs(q) || (q->attempts < ATTEMPTS_MAX + q->fell.extra && has_witness(q));
    bool goes = !agreed && witness && may_try_again(q, TARGET_NEITHER);
    attempt_release(q, witness ? TARGET_NEITHER : TARGET_FAILED, 0);
    if (!goes)
        return false;
    attempt_doubt(q, t);
    forget(q);
    if (!hedge_take_over(q) && !attempt_start(q))
        request_refuse(q, 500, OUTCOME_UPSTREAM_ERROR, "server_error", "upstream_error", NULL, "The engine failed before it had answered.");
    return true;
}

/* The replica is let go, and nothing of it was passed on: another one, if it may be, or the end. status: what the client is told then. */
static void go_elsewhere(struct request *q, bool may, int status, const char *message)
{
    bool timed_out = status == 504;
    forget(q);
    if (hedge_take_over(q) || (may && (attempt_start(q) || fall_over(q))))
        return;
    request_refuse(q, status, timed_out ? OUTCOME_TIMEOUT : OUTCOME_UPSTREAM_ERROR, "server_error", timed_out ? "upstream_timeout" : "upstream_error", NULL, message);
}

/* The attempt has failed before anything of it was passed on. */
static void try_another(struct request *q, int status, struct verdict v, const char *message)
{
    bool may = status != 504 && may_try_again(q, v.target); /* who has waited that long does not wait again */
    attempt_release(q, v.target, v.busy_ms);
    go_elsewhere(q, may, status, message);
}

static const struct verdict failed = {.target = TARGET_FAILED};

/* The replica has too much to do: others are asked, and if there are none, the client is told what it says. */
static bool try_one_less_busy(struct request *q, uint64_t busy_ms)
{
    size_t index;
    count_upstream_error(q, "busy", NULL);
    attempt_release(q, TARGET_BUSY, busy_ms);
    bool none = q->attempts >= ATTEMPTS_MAX + q->fell.extra || pick_replica(q->endpoint, &q->ticket.wish, clock_mono_ms(), &index, NULL) == PICK_NONE;
    if ((none && !fall_over_possible(q) && !hedge_runs(q)) || !may_try_again(q, TARGET_BUSY))
        return false;
    http_call_cancel(q->call);
    q->call = NULL;
    go_elsewhere(q, true, 503, "The engines have too much to do; try again.");
    return true;
}

/* ---- what the engine answers ---- */

static void end_stream(struct request *q);

static bool is_event_stream(struct str type)
{
    struct str want = STR("text/event-stream");
    return type.len >= want.len && str_ieq(str_n(type.ptr, want.len), want);
}

/* An answer with this head is of no use. */
static void drop_answer(struct request *q, int status, struct verdict v)
{
    char message[128] = "The engine answered in a content coding that nobody asked for.";
    if (status < 200 || status >= 300)
        snprintf(message, sizeof(message), "The engine answered with status %d.", status);
    count_upstream_error(q, "status", NULL);
    http_call_cancel(q->call);
    q->call = NULL;
    try_another(q, status == 503 ? 503 : 502, v, message);
}

static void on_head(void *arg, const struct http_head *head)
{
    struct request *q = arg;
    struct verdict v = verdict_of_head(head);
    q->status = head->status;
    struct str type = http_header_get(head, "Content-Type");
    if (!type.len || !str_to_array(type, q->type, sizeof(q->type)))
        (void)!str_to_array(STR(JSON_TYPE), q->type, sizeof(q->type));
    int64_t retry_s = verdict_retry_after(head);
    q->retry_after[0] = 0;
    if (retry_s >= 0)
        snprintf(q->retry_after, sizeof(q->retry_after), "%lld", (long long)retry_s);
    if (v.use == ANSWER_USELESS) {
        drop_answer(q, head->status, v);
        return;
    }
    if (v.use == ANSWER_LAST && try_one_less_busy(q, v.busy_ms))
        return;
    if (head->status == 200 && is_event_stream(type)) {
        q->streaming = true;
        request_scan(q, q->body.ask_usage && !q->body.usage_wanted, pass_on);
        answers_scan(q);
        continuation_attach(q);
    }
}

static void on_body(void *arg, struct str bytes)
{
    struct request *q = arg;
    if (!q->first_ns)
        q->first_ns = clock_mono_ns();
    if (q->streaming) {
        usage_scan_feed(&q->scan, bytes);
        tally_note(q); /* a usage that was taken out */
        if (q->ticket.unread && q->scan.has_content)
            dispatch_read(&q->ticket);
        if (q->ticket.claimed && q->scan.content_events > 2)
            slots_begun(q->replica->pins, &q->ticket.claim);
        if (q->passed && timer_armed(&q->keepalive) && q->scan.has_content)
            timer_stop(&q->keepalive);
        if (!q->passed && (q->scan.has_content || q->answer.len > HELD_MAX))
            pass_held(q);
        if (continuation_broken(q)) {
            count_upstream_error(q, "event", NULL);
            http_call_cancel(q->call);
            q->call = NULL;
            break_off(q, TARGET_FAILED, OUTCOME_UPSTREAM_ERROR, "The engine failed in the middle of its answer.");
        } else if (usage_scan_over(&q->scan)) { /* an engine that keeps its connection then keeps nobody */
            http_call_let_go(q->call, DRAIN_MS);
            q->call = NULL;
            q->ticket.ended = true;
            end_stream(q);
        }
        return;
    }
    if (!request_hold_answer(q, q->answer.len + bytes.len))
        return; /* answered */
    sbuf_add(&q->answer, bytes);
    if (!sbuf_ok(&q->answer)) {
        count_upstream_error(q, "too_large", NULL);
        attempt_release(q, TARGET_FAILED, 0);
        request_refuse(q, 502, OUTCOME_UPSTREAM_ERROR, "server_error", "upstream_error", NULL, "The engine's answer is larger than the gateway holds.");
    }
}

/* An engine's error in OpenAI's shape: passed on when it has it, else made of what it says. */
static void answer_engine_error(struct request *q)
{
    static const char *const paths[] = {"error", "message", "detail"};
    struct span at[ARRAY_LEN(paths)];
    char message[ENGINE_MESSAGE_MAX];
    enum outcome outcome = q->status < 500 ? OUTCOME_REFUSED_BY_ENGINE : OUTCOME_UPSTREAM_ERROR;
    struct http_out_header headers[] = {{"Retry-After", str_of(q->retry_after)}};
    struct str body = sbuf_str(&q->answer);
    bool json = span_scan(body, paths, ARRAY_LEN(paths), at, NULL) == 0;
    if (json && at[0].type == SPAN_OBJECT && !q->committed && q->route->dialect != DIALECT_MESSAGES) {
        request_settle(q, q->status, outcome);
        http_respond(q->http, q->status, JSON_TYPE, headers, q->retry_after[0] != 0, body);
        return;
    }
    const char *const within[] = {"error.message"};
    struct span inner = {.type = SPAN_ABSENT};
    if (json && at[0].type == SPAN_OBJECT && span_scan(body, within, 1, &inner, NULL) == 0)
        at[0] = inner;
    if (!json || !(span_string(&at[0], message, sizeof(message)) || span_string(&at[1], message, sizeof(message)) || span_string(&at[2], message, sizeof(message))))
        snprintf(message, sizeof(message), "The engine answered with status %d.", q->status);
    request_refuse(q, q->status, outcome, q->status < 500 ? "invalid_request_error" : "server_error", q->status < 500 ? NULL : "upstream_error", NULL, message);
}

static void end_stream(struct request *q)
{
    if (usage_scan_end(&q->scan)) {
        blame_doubted(q);
        request_settle(q, 200, OUTCOME_OK);
        pass_held(q);
        http_respond_end(q->http);
        return;
    }
    count_upstream_error(q, "cut", NULL);
    if (q->passed)
        break_off(q, TARGET_FAILED, OUTCOME_UPSTREAM_ERROR, "The engine ended its answer early.");
    else
        try_another(q, 502, failed, "The engine ended its answer before it had begun.");
}

static void end_whole(struct request *q)
{
    struct http_out_header headers[ROUTE_HEADERS_MAX + LIMIT_HEADERS_MAX];
    if (!usage_scan_body(&q->scan, sbuf_str(&q->answer))) {
        count_upstream_error(q, "protocol", NULL);
        try_another(q, 502, failed, "The engine's answer is no JSON object.");
    } else if (q->committed) {
        count_upstream_error(q, "protocol", NULL);
        attempt_release(q, TARGET_FAILED, 0);
        request_refuse(q, 502, OUTCOME_UPSTREAM_ERROR, "server_error", "upstream_error", NULL, "The engine's answer is no stream.");
    } else {
        blame_doubted(q);
        request_settle(q, q->status, OUTCOME_OK);
        size_t n = route_headers(q, headers);
        http_respond(q->http, q->status, q->type, headers, n + answer_limit_headers(q->http->arena, q->key->limits, headers + n), sbuf_str(&q->answer));
    }
}

static void on_end(void *arg)
{
    struct request *q = arg;
    q->call = NULL;
    q->ticket.ended = true;
    if (q->streaming) {
        end_stream(q);
    } else if (q->status >= 400) {
        if (q->status >= 500)
            count_upstream_error(q, "status", NULL);
        if (q->status >= 500 && !q->passed && another_tells(q))
            return;
        if (q->passed)
            break_off(q, TARGET_FAILED, OUTCOME_UPSTREAM_ERROR, "The engine failed in the middle of its answer, and another one did not go on.");
        else
            answer_engine_error(q);
    } else {
        end_whole(q);
    }
}

/* No descriptor or memory is left for the call: that is no engine's fault, and no other one would fare better. */
static void refuse_short(struct request *q, const struct err *err)
{
    q->call = NULL;
    count_upstream_error(q, "resources", err);
    attempt_release(q, TARGET_NEITHER, 0);
    if (q->passed)
        end_early(q, OUTCOME_UPSTREAM_ERROR, "gateway_overloaded", "The gateway has no room to go on with the answer elsewhere.");
    else
        request_refuse(q, 503, OUTCOME_UPSTREAM_ERROR, "server_error", "gateway_overloaded", NULL, "The gateway has no room for another request; try again.");
}

static void on_error(void *arg, const struct err *err)
{
    struct request *q = arg;
    bool sent = http_call_sent_any(q->call), spoke = q->status != 0;
    struct verdict v = {.target = verdict_of_error(err, sent, spoke)};
    attempt_note_reach(q);
    if (v.target == TARGET_NEITHER) {
        refuse_short(q, err);
        return;
    }
    /* Who could not even be reached in time has cost little: others are tried. */
    bool timed_out = err->code == ERR_TIMEOUT && sent;
    q->call = NULL;
    count_upstream_error(q, timed_out ? "timeout" : err->code == ERR_PROTOCOL ? "protocol" : !spoke ? "connect" : "cut", err);
    if (q->passed)
        break_off(q, v.target, timed_out ? OUTCOME_TIMEOUT : OUTCOME_UPSTREAM_ERROR, timed_out ? "The engine stopped in the middle of its answer." : "The engine failed in the middle of its answer.");
    else
        try_another(q, timed_out ? 504 : 502, v, timed_out ? "The engine took too long to answer." : "The engine failed before it had answered.");
}

const struct http_call_ops attempt_ops = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

/* ---- towards the engine ---- */

static void refuse_none(struct request *q)
{
    if (!fall_over(q))
        request_refuse(q, 503, OUTCOME_UPSTREAM_ERROR, "server_error", "model_not_ready", NULL, "No replica of the model can be reached; try again.");
}

static size_t fill_headers(struct request *q, struct http_header headers[REQUEST_HEADERS_MAX])
{
    static const char *const forwarded[] = {"traceparent", "tracestate", "anthropic-version", "anthropic-beta"};
    size_t n = 0;
    headers[n++] = (struct http_header){STR("Content-Type"), STR("application/json")};
    headers[n++] = (struct http_header){STR("X-Request-Id"), str_of(q->http->id)};
    headers[n++] = (struct http_header){STR("User-Agent"), STR("seki-gateway")};
    if (q->replica->token) {
        const char *value = arena_printf(q->http->arena, "Bearer %s", q->replica->token);
        headers[n++] = (struct http_header){STR("Authorization"), str_of(value)};
    }
    if (q->trace)
        headers[n++] = (struct http_header){STR("traceparent"), str_of(trace_parent(q->trace))};
    for (size_t i = q->trace ? trace_has_parent(q->trace) ? 1 : 2 : 0; i < ARRAY_LEN(forwarded); i++) {
        struct str v = http_header_get(&q->http->head, forwarded[i]);
        if (v.len && v.len < 1024)
            headers[n++] = (struct http_header){str_of(forwarded[i]), v};
    }
    return n;
}

static const char *target_of(const struct request *q, const struct snap_replica *replica)
{
    struct str base = str_of(replica->base_path), path = str_skip(str_of(q->route->path), sizeof("/v1") - 1);
    char *text = arena_alloc(q->http->arena, base.len + path.len + 1);
    memcpy(text, base.ptr, base.len);
    memcpy(text + base.len, path.ptr, path.len);
    return text;
}

/* To q->replica, for which q->ticket holds. */
static struct http_call *start_call(struct request *q, struct iovec *pieces, struct http_header *headers, const struct http_call_ops *ops, void *arg)
{
    const struct gateway_options *o = &q->loop->gateway->o;
    const struct snap_replica *replica = q->replica;
    struct http_pool *pool = gateway_loop_pool(q->loop, replica);
    struct http_call_options call = {.method = "POST",
                                     .target = target_of(q, replica),
                                     .headers = headers,
                                     .header_count = fill_headers(q, headers),
                                     .body = pieces,
                                     .body_count = request_body_pieces(continuation_body(q), home_model_at(q, replica), isolation_members(q), q->http->arena, pieces),
                                     .first_byte_timeout_ms = o->first_byte_timeout_ms,
                                     .idle_timeout_ms = o->idle_timeout_ms};
    return pool ? http_call_start(pool, &call, ops, arg) : NULL;
}

static bool send_now(struct request *q)
{
    tally_begin(q);
    q->call = start_call(q, q->pieces, q->headers, &attempt_ops, q);
    q->ticket.reached = q->call != NULL;
    if (!q->call) {
        tally_drop(q);
        attempt_release(q, TARGET_NEITHER, 0);
        return false;
    }
    hedge_watch(q);
    return true;
}

struct http_call *attempt_beside(struct request *q, const struct ticket *t, const struct snap_replica *replica, struct attempt_room *room, const struct http_call_ops *ops, void *arg)
{
    const struct snap_replica *first = q->replica;
    struct ticket ticket = q->ticket;
    q->replica = replica;
    q->ticket = *t;
    decision_sent(q->decision, q->endpoint, t->index, "hedge", chosen_by(t));
    struct http_call *call = start_call(q, room->pieces, room->headers, ops, arg);
    q->replica = first;
    q->ticket = ticket;
    return call;
}

void attempt_note_reach(struct request *q)
{
    if (http_call_sent_any(q->call))
        return;
    tally_drop(q);
    q->ticket.reached = false;
}

void attempt_lose(struct request *q)
{
    attempt_note_reach(q);
    http_call_cancel(q->call);
    q->call = NULL;
    tally_lose(q);
    attempt_release(q, TARGET_NEITHER, 0);
    forget(q);
}

void attempt_adopt(struct request *q, struct http_call *call, const struct snap_replica *replica, int64_t start_ms)
{
    q->call = call;
    q->replica = replica;
    q->attempts++;
    trace_attempt(q->trace, replica->name, replica->site ? replica->site->name : NULL);
    tally_begin(q);
    tally_began(q, start_ms);
}

void attempt_replay(struct request *q, struct str bytes)
{
    struct http_header type = {STR("Content-Type"), STR("text/event-stream")};
    on_head(q, &(struct http_head){.status = 200, .headers = &type, .header_count = 1});
    if (q->call && bytes.len)
        on_body(q, bytes);
}

static void on_slot_tick(struct timer *t)
{
    struct request *q = t->arg;
    if (clock_mono_ms() - q->ticket.sent_ms > q->loop->gateway->o.queue_timeout_ms)
        request_refuse(q, 503, OUTCOME_TIMEOUT, "server_error", "engine_overloaded", NULL, "The engine has too much to do with other requests; try again later.");
    else if (recheck(q) == RECHECK_ANSWERED)
        return;
    else if (q->ticket.holds && !slots_unpinned_may_go(q->replica->pins, q->key->tenant, clock_mono_ms()))
        timer_start(t, SLOT_TICK_MS);
    else if (!(q->ticket.holds && send_now(q)) && !attempt_start(q))
        refuse_none(q);
}

/* To the replica that the ticket names. An unpinned request waits there until it can do no harm: see slots.h. False: it could not even be begun. */
static bool send_it(struct request *q)
{
    const struct ticket *t = &q->ticket;
    enum recheck_result r = recheck(q);
    if (r != RECHECK_GO)
        return r == RECHECK_ANSWERED;
    q->replica = &q->endpoint->replicas[t->index];
    q->ticket.wish.tried |= 1ull << t->index;
    q->attempts++;
    trace_attempt(q->trace, q->replica->name, q->replica->site ? q->replica->site->name : NULL);
    decision_sent(q->decision, q->endpoint, t->index, q->attempts > 1 ? "again" : "first", chosen_by(t));
    if (!t->claimed || !t->claim.unpinned || slots_unpinned_may_go(q->replica->pins, t->tenant, clock_mono_ms()))
        return send_now(q);
    timer_init(&q->tick, q->loop->loop, on_slot_tick, q);
    timer_start(&q->tick, SLOT_TICK_MS);
    return true;
}

/* ---- waiting for a turn ---- */

static void count_wait(struct request *q)
{
    if (q->ticket.since_ms) {
        int64_t waited_ms = (int64_t)(clock_mono_ms() - q->ticket.since_ms);
        metric_observe(q->loop->gateway->metrics.queue_seconds, (double)waited_ms / 1000);
        q->waited_ms = MAX(q->waited_ms, (int64_t)0) + waited_ms;
        dispatch_since(&q->ticket, 0);
    }
}

static void on_sent(struct ticket *t)
{
    struct request *q = (struct request *)((char *)t - offsetof(struct request, ticket));
    timer_stop(&q->tick);
    trace_waited(q->trace);
    if (!cold_look(q)) /* when a replica was found, it is held no more */
        return;
    count_wait(q);
    if (!(t->index != SIZE_MAX && send_it(q)) && !attempt_start(q)) /* its replicas have gone: newer routes may have others */
        refuse_none(q);
}

/* Replicas may have come and gone meanwhile, and rules of the border too, and the key. False: answered. */
static bool look_again(struct request *q)
{
    gateway_loop_refresh(q->loop);
    struct snapshot *now = q->loop->snapshot;
    if (now == q->routing)
        return true;
    const struct snap_key *k;
    const struct snap_endpoint *asked = recheck_access(q, &k), *e = asked ? model_route_again(asked, q->endpoint->dispatch) : NULL;
    const struct border *border = snapshot_border(now);
    const char *rule;
    if (!asked)
        return false;
    /* Where it is served as before; else it stays where it is, as long as that is there. */
    bool here = e && (e->replica_count || e->scaled) && asked->is_adapter == q->adapter && home_fits(q, asked, e) == HOME_FITS;
    if (border_shuts(border, k, here ? e : q->endpoint, q->body.model, &rule)) {
        request_refuse_border(q, rule);
        return false;
    }
    if (here)
        (void)home_move(q, now, asked, e);
    else
        dispatch_move(&q->ticket, q->endpoint, border_barred_now(border, k, q->endpoint, q->body.model, NULL) | home_lacking(q, q->endpoint));
    return true;
}

/* Patience ends at half of the time that a request may wait: a look then still finds it another place. */
static uint64_t tick_ms(const struct request *q)
{
    return q->cold.held ? COLD_TICK_MS : MIN((uint64_t)TICK_MS, MAX(q->loop->gateway->o.queue_timeout_ms / 2, (uint64_t)1));
}

static void on_tick(struct timer *t)
{
    struct request *q = t->arg;
    char message[160];
    if (!look_again(q) || !cold_look(q))
        return;
    uint64_t now_ms = clock_mono_ms(), waited_ms = now_ms - q->ticket.since_ms;
    if (!cold_is_over(q, now_ms)) {
        timer_start(t, tick_ms(q));
        dispatch_kick(q->endpoint->dispatch);
        return;
    }
    if (q->cold.held) {
        cold_refuse_late(q);
        return;
    }
    count_wait(q);
    snprintf(message, sizeof(message), "The model has too much to do: the request waited %llu s for its turn. Try again later.", (unsigned long long)waited_ms / 1000);
    request_refuse(q, 503, OUTCOME_TIMEOUT, "server_error", "engine_overloaded", NULL, message);
}

static void wait_for_turn(struct request *q)
{
    timer_init(&q->tick, q->loop->loop, on_tick, q);
    trace_wait(q->trace, q->cold.held ? "cold start" : "queue");
    timer_start(&q->tick, tick_ms(q));
    cold_waits(q);
}

static void refuse_full(struct request *q, uint64_t retry_ms)
{
    q->kept_away = !q->attempts;
    metric_add(metric_series(q->loop->gateway->metrics.limited, (struct str[]){STR("tenant"), STR("waiting")}), 1);
    gateway_audit_limited(q->loop, q->http, q->key, "tenant", "waiting");
    snprintf(q->retry_after, sizeof(q->retry_after), "%llu", (unsigned long long)(retry_ms + 999) / 1000);
    request_refuse(q, 429, OUTCOME_REFUSED_BY_US, "requests", "rate_limit_exceeded", NULL,
                   "The model has too much to do, and as many requests of your tenant wait for it as may. Try again when the Retry-After of this answer has passed.");
}

/* Now or in its turn. False: no replica is left. */
static bool attempt_start(struct request *q)
{
    const struct gateway_options *o = &q->loop->gateway->o;
    uint64_t retry_ms = 0;
    while (q->attempts < ATTEMPTS_MAX + q->fell.extra) {
        q->ticket.again = q->attempts > 0 || q->waited_ms >= 0;
        enum dispatch_result r = dispatch_ask(&q->ticket, o->queue_max, &retry_ms);
        if (r == DISPATCH_NONE && cold_look_anew(q)) /* also after a failure: who waited long knows of old replicas only */
            continue;
        if (r == DISPATCH_NONE)
            return false;
        if (q->body.stream && o->keepalive_ms && r != DISPATCH_FULL && !timer_armed(&q->keepalive)) {
            timer_init(&q->keepalive, q->loop->loop, on_keepalive, q);
            timer_start(&q->keepalive, o->keepalive_ms);
        }
        if (r == DISPATCH_FULL)
            refuse_full(q, retry_ms);
        else if (r == DISPATCH_WAITS)
            wait_for_turn(q);
        else if (!send_it(q))
            continue;
        return true;
    }
    return false;
}

bool attempt_begin(struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    struct ticket *t = &q->ticket;
    t->inbox = &q->loop->inbox;
    t->endpoint = e;
    t->tenant = q->key->tenant;
    t->on_sent = on_sent;
    t->patience_ms = MIN((uint64_t)PATIENCE_MAX_MS, q->loop->gateway->o.queue_timeout_ms / 2);
    t->wish.policy = q->loop->gateway->o.routing;
    t->wish.report = decision_report(q->decision);
    t->slot = q->route->counts_only ? SLOT_NONE : q->route->no_isolation || q->body.several ? SLOT_ANY : SLOT_PINNED;
    t->entry.class = q->body.batch ? CLASS_BATCH : CLASS_INTERACTIVE;
    size_t blocks = MIN(q->body.prompt.len / PREFIX_BLOCK_BYTES, (size_t)PREFIX_BLOCKS_MAX);
    if (t->wish.policy == PICK_BY_PREFIX && blocks && (e->replica_count != 1 || e->replicas[0].slots)) {
        struct prefix_salt salt;
        uint64_t *hashes = ARENA_ARRAY(q->http->arena, uint64_t, blocks);
        /* What an adapter makes of a prompt is of no use to another. */
        prefix_salt_of(q->adapter ? arena_printf(q->http->arena, "%s\n%s", t->tenant, q->served) : t->tenant, &salt);
        t->wish.hash_count = prefix_hash(&salt, q->body.prompt, hashes);
        t->wish.hashes = hashes;
    }
    return attempt_start(q);
}
