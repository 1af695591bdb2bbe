#include "gateway/request.h"
#include "gateway/answers.h"
#include "gateway/continuation.h"
#include "gateway/fall_over.h"
#include "gateway/home.h"
#include "gateway/model_route.h"

#include "base/clock.h"
#include "base/log.h"

#define ANSWER_MAX (64u * 1024 * 1024) /* of an answer that is no stream */
#define ANSWER_ROOM_FREE 65536         /* what is shorter takes no room */
#define ANSWER_TOKENS 256              /* of an answer, for its turn in a queue, where nothing is known … */
#define ANSWER_TOKENS_MAX 1024         /* … or too much is said */
#define ANSWER_PAID_TOKENS 4096        /* of an answer of which nothing is said: for so many there must be money at least */

static void request_cleanup(void *arg)
{
    struct request *q = arg;
    if (q->record.waits) /* its client has left before the turn's end */
        records_write(q->loop);
    usage_scan_deinit(&q->scan);
    sbuf_deinit(&q->answer);
    if (q->doubted)
        target_unref(q->doubted);
    limit_settle(&q->hold, 0, true); /* of one that never began */
    body_hold_end(&q->room);
    body_hold_end(&q->answer_room);
    snapshot_unref(q->snapshot);
    snapshot_unref(q->routing);
}

void request_scan(struct request *q, bool take_out, void (*out)(void *arg, struct str bytes))
{
    usage_scan_deinit(&q->scan);
    usage_scan_init(&q->scan, take_out, out, q);
    q->scan.input_only = q->route->embeddings;
    q->scan.dialect = q->route->dialect;
}

struct request *request_new(struct gateway_loop *l, struct http_request *r, const struct gateway_route *route, const struct snap_key *key)
{
    struct request *q = ARENA_NEW(r->arena, struct request);
    q->http = r;
    q->loop = l;
    q->route = route;
    q->looked = l->version;
    q->snapshot = snapshot_ref(l->snapshot);
    q->routing = snapshot_ref(l->snapshot);
    q->key = key;
    q->start_ms = clock_wall_ms();
    q->start_ns = r->started_ns;
    q->waited_ms = -1;
    q->trace = trace_begin(l->gateway->traces, l->gateway->o.trace_per_million, &r->head, r->arena, r->started_ns);
    q->decision = decision_begin(l->gateway->decisions, l->gateway->o.decisions_per_million, r->arena, r->started_ns);
    sbuf_init(&q->answer, ANSWER_MAX);
    request_scan(q, false, NULL);
    arena_on_free(r->arena, request_cleanup, q);
    r->user = q;
    return q;
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

static int64_t prompt_estimate(const struct request *q)
{
    return q->body.prompt_tokens;
}

/* What the engine said, or what went by; a request that got no content has used nothing. */
static void fill_counts(const struct request *q, struct usage *u)
{
    if (q->route->counts_only) {
        u->exact = true;
    } else if (q->scan.exact) {
        u->prompt_tokens = q->scan.prompt_tokens;
        u->cached_tokens = q->scan.cached_tokens;
        u->completion_tokens = q->scan.completion_tokens;
        u->exact = true;
    } else if (q->first_ns && (is_success(q->status) || q->passed)) {
        u->prompt_tokens = prompt_estimate(q);
        u->completion_tokens = q->scan.content_events;
    } else {
        u->exact = true;
    }
}

/* What failed is free; what the engine refused was a request, without tokens. Where the engine gave no count, no less is charged than was reserved; who left before an answer began is charged his prompt, once an engine was asked and had to read it. Returns what was charged; -1: it is free. */
static int64_t settle_limits(struct request *q, const struct usage *u)
{
    bool ok = q->outcome == OUTCOME_OK, gone = q->outcome == OUTCOME_CLIENT_GONE;
    int64_t used = u->prompt_tokens + u->completion_tokens;
    if (ok && u->exact && !q->route->embeddings && !q->route->counts_only)
        limit_learn(q->key->limits, q->endpoint->project, q->endpoint->name, u->completion_tokens);
    if (ok && !u->exact)
        used = MAX(used, q->hold.tokens);
    if (gone && !used && q->attempts && q->status < 400)
        used = MIN(prompt_estimate(q), q->hold.tokens);
    bool is_free = !ok && !gone && q->outcome != OUTCOME_REFUSED_BY_ENGINE;
    limit_settle(&q->hold, used, is_free);
    return is_free ? -1 : used;
}

/* What the tenant's turn really cost. */
static void settle_turn(struct request *q, const struct usage *u)
{
    bool ok = q->outcome == OUTCOME_OK, gone = q->outcome == OUTCOME_CLIENT_GONE, got = ok || gone;
    int64_t used = got ? u->prompt_tokens - u->cached_tokens + u->completion_tokens : 0;
    if (gone && q->attempts && !used) /* the engine was at work, and nobody knows how much */
        used = q->ticket.entry.cost;
    /* Of one attempt alone (one beside it that took over is a second): else it is not known which engine says so. */
    if (ok && q->scan.exact && q->attempts == 1)
        dispatch_learn(&q->ticket, q->body.prompt.len, u->cached_tokens, u->prompt_tokens);
    dispatch_end(&q->ticket, used);
}

void request_count_tokens(struct gateway_loop *l, struct gateway_series *memo, const struct usage *u)
{
    struct metric_family *tokens = l->gateway->metrics.tokens;
    memo = memo ? memo : &l->series[0];
    if (u->prompt_tokens)
        metric_add(metric_series_owned(&memo->input, tokens, (struct str[]){u->project, u->endpoint, STR("input")}, u->tenant), (uint64_t)u->prompt_tokens);
    if (u->cached_tokens)
        metric_add(metric_series_owned(&memo->cached, tokens, (struct str[]){u->project, u->endpoint, STR("cached")}, u->tenant), (uint64_t)u->cached_tokens);
    if (u->completion_tokens)
        metric_add(metric_series_owned(&memo->output, tokens, (struct str[]){u->project, u->endpoint, STR("output")}, u->tenant), (uint64_t)u->completion_tokens);
}

/* has_tokens: they are known now. */
static void count(struct request *q, const struct usage *u, uint64_t now_ns, bool has_tokens)
{
    const struct gateway_metrics *m = &q->loop->gateway->metrics;
    struct gateway_series *memo = &q->loop->series[((uintptr_t)q->endpoint >> 6) % SERIES_MEMOS];
    CLEANUP(sbuf_deinit) struct sbuf status = {0};
    sbuf_init(&status, 16);
    sbuf_add_i64(&status, u->status);
    metric_add(metric_series_again(&memo->requests, m->requests, (struct str[]){u->route, sbuf_str(&status), u->outcome}), 1);
    if (!q->endpoint)
        return;
    bool ok = q->outcome == OUTCOME_OK, answered = q->first_ns && is_success(q->status);
    struct str labels[] = {str_of(q->route->operation), u->model, ok ? STR("") : u->outcome};
    metric_observe(metric_series_owned(&memo->duration, m->duration, labels, u->tenant), (double)(now_ns - q->start_ns) / 1e9);
    bool paced = answered && ok && q->streaming && u->completion_tokens > 1;
    struct latency l = {.tenant = u->tenant, .project = str_of(q->endpoint->project), .endpoint = u->endpoint, .queue = q->waited_ms < 0 ? -1 : (double)q->waited_ms / 1000,
                        .first = answered ? (double)(q->first_ns - q->start_ns) / 1e9 : -1, .duration = (double)(now_ns - q->start_ns) / 1e9,
                        .per_token = paced ? (double)(now_ns - q->first_ns) / 1e9 / (double)(u->completion_tokens - 1) : -1};
    latency_count(&m->latency, &memo->latency, &l);
    slo_count(&m->slo, &memo->slo, u);
    if (answered)
        metric_observe(metric_series_owned(&memo->first, m->first, labels, u->tenant), l.first);
    if (paced)
        metric_observe(metric_series_owned(&memo->per_token, m->per_token, labels, u->tenant), l.per_token);
    if (has_tokens)
        request_count_tokens(q->loop, memo, u);
}

void request_usage(const struct request *q, struct usage *u)
{
    u->id = str_of(q->http->id);
    u->project = str_of(q->key->project);
    u->tenant = str_of(q->key->tenant);
    u->key = str_of(q->key->name);
    u->endpoint = str_of(q->endpoint ? q->endpoint->name : "");
    u->model = str_of(q->served ? q->served : "");
    u->replica = str_of(q->replica ? q->replica->name : "");
    u->route = str_of(q->route->name);
    u->stream = q->body.stream;
    u->start_ms = q->start_ms;
}

void request_settle(struct request *q, int status, enum outcome outcome)
{
    if (q->settled)
        return;
    q->settled = true;
    q->outcome = outcome;
    hedge_over(q);
    if (q->call) {
        attempt_note_reach(q);
        http_call_cancel(q->call);
    }
    q->call = NULL;
    timer_stop(&q->keepalive);
    timer_stop(&q->tick);
    cold_leave(q);
    slices_cancel(&q->wait);
    attempt_release(q, outcome_of_replica(outcome), 0);
    uint64_t now_ns = clock_mono_ns();
    struct usage u = {.outcome = str_of(outcome_text(outcome)), .status = status, .ttft_ms = q->first_ns ? (int64_t)((q->first_ns - q->start_ns) / 1000000) : -1,
                      .duration_ms = (int64_t)((now_ns - q->start_ns) / 1000000)};
    request_usage(q, &u);
    fill_counts(q, &u);
    continuation_counts(q, &u, prompt_estimate(q));
    tally_fill(q, &u);
    struct recount *later = recount_new(q, &u);
    if (q->price) {
        u.cost = price_cost(q->price, u.prompt_tokens, u.cached_tokens, u.completion_tokens);
        u.currency = str_of(q->price->currency);
    }
    if (q->endpoint)
        slo_judge(&q->endpoint->slo, q->endpoint->project, &u);
    int64_t charged = settle_limits(q, &u);
    settle_turn(q, &u);
    count(q, &u, now_ns, !later);
    trace_end(q->trace, &u, &(struct trace_facts){.path = q->route->path, .operation = q->route->operation, .endpoint_project = q->endpoint ? q->endpoint->project : NULL, .rule = q->rule,
                                                  .max_tokens = q->body.max_tokens, .first_ns = q->first_ns, .end_ns = now_ns});
    decision_end(q->decision, &u, &(struct decision_facts){.endpoint_project = q->endpoint ? q->endpoint->project : NULL, .rule = q->rule, .batch = q->body.batch, .waited_ms = q->waited_ms,
                                                           .blocks = q->ticket.wish.hash_count});
    log_debug("request", KVS("request", u.id), KVS("project", u.project), KVS("key", u.key), KVS("route", u.route), KVS("endpoint", u.endpoint), KVS("replica", u.replica),
              KVI("status", status), KVS("outcome", u.outcome), KVI("prompt_tokens", u.prompt_tokens), KVI("completion_tokens", u.completion_tokens),
              KVI("ttft_ms", u.ttft_ms), KVI("duration_ms", u.duration_ms));
    if (later)
        recount_start(later, q, &u, charged);
    else
        records_add(q, &u); /* last: u's texts and costs are what they stay */
}

static void count_limited(struct request *q, const char *scope, const char *unit)
{
    q->kept_away = true;
    metric_add(metric_series(q->loop->gateway->metrics.limited, (struct str[]){str_of(scope), str_of(unit)}), 1);
}

static void refuse_limited(struct request *q, const struct limit_refusal *why)
{
    count_limited(q, limit_scope_text(why->scope), limit_unit_text(why->unit));
    gateway_audit_limited(q->loop, q->http, q->key, limit_scope_text(why->scope), limit_unit_text(why->unit));
    request_settle(q, 429, OUTCOME_REFUSED_BY_US);
    answer_limited(q->http, q->key, why);
}

/* What is refused for the caller's own fault, before limits were asked, costs a request: else it could be asked without end. Whoever has none left gets 429 in its place, also where another gateway may
 * have one. False: answered so. */
static bool pay_refusal(struct request *q)
{
    struct limit_refusal why;
    if (q->hold.held || q->paid || q->committed)
        return true;
    if (limit_take_refused(q->key->limits, clock_mono_ns(), &why) != LIMIT_HELD) {
        refuse_limited(q, &why);
        return false;
    }
    q->paid = true;
    return true;
}

static bool is_callers_fault(int status, enum outcome outcome)
{
    return outcome == OUTCOME_REFUSED_BY_US && status >= 400 && status < 500 && status != 429;
}

void request_refuse(struct request *q, int status, enum outcome outcome, const char *type, const char *code, const char *param, const char *message)
{
    CLEANUP(sbuf_deinit) struct sbuf event = {0};
    if (is_callers_fault(status, outcome) && !pay_refusal(q))
        return;
    bool is_told_when = q->retry_after[0] && (status == 503 || status == 429 || status == q->status); /* else it is of an attempt before */
    request_settle(q, status, outcome);
    if (!q->committed) {
        answer_error_limited(q->http, q->paid ? q->key->limits : NULL, status, type, code, param, is_told_when ? q->retry_after : NULL, message);
        return;
    }
    sbuf_init(&event, 16384);
    sbuf_addc(&event, q->route->dialect == DIALECT_COMPLETIONS ? "data: " : "event: error\ndata: ");
    answer_error_body(&event, q->route->dialect, status < 400 ? 502 : status, type, code, param, str_of(message), q->http->id);
    sbuf_addc(&event, "\n\n");
    http_write(q->http, sbuf_str(&event));
    http_respond_end(q->http);
}

/* ---- what is asked ---- */

void request_refuse_border(struct request *q, const char *rule)
{
    char message[MODEL_NAME_MAX + 700];
    if (!pay_refusal(q))
        return;
    decision_refused(q->decision, rule);
    snprintf(message, sizeof(message), "No site that serves the model `%s` is allowed for this request (rule %.600s): use another model, or ask whoever wrote the rule.", q->body.model, rule);
    gateway_audit_refusal(q->loop, q->http, q->key, 403, "residency_denied", rule);
    request_refuse(q, 403, OUTCOME_REFUSED_BY_US, "permission_error", "residency_denied", "model", message);
}

void request_refuse_unknown(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    if (!pay_refusal(q))
        return;
    snprintf(message, sizeof(message), "The model `%s` does not exist or you do not have access to it.", q->body.model);
    gateway_audit_refusal(q->loop, q->http, q->key, 404, "model_not_found", "ModelNotVisible");
    request_refuse(q, 404, OUTCOME_REFUSED_BY_US, "invalid_request_error", "model_not_found", "model", message);
}

/* Its endpoint cannot serve it. */
static void refuse_unfit(struct request *q, enum home_fit why)
{
    static const char *const does[] = {[TASK_TEXT] = "writes text", [TASK_EMBEDDINGS] = "serves embeddings only", [TASK_RERANK] = "scores documents only"};
    static const char *const by[] = {[TASK_TEXT] = "/v1/chat/completions or /v1/completions", [TASK_EMBEDDINGS] = "/v1/embeddings", [TASK_RERANK] = "/v1/rerank"};
    char message[MODEL_NAME_MAX + 256];
    if (why == HOME_NOT_COUNTED) {
        answers_refuse(q);
        return;
    }
    if (why == HOME_OTHER_TASK)
        snprintf(message, sizeof(message), "The model `%s` %s: use it with %s.", q->body.model, does[q->endpoint->task], by[q->endpoint->task]);
    else
        snprintf(message, sizeof(message), "The model `%s` %s: use /v1/chat/completions.", q->body.model,
                 q->adapter ? "is an adapter, which its engine does not serve on this path" : "is shared by tenants, and its engine cannot keep apart what they send to this path");
    request_refuse(q, 400, OUTCOME_REFUSED_BY_US, "invalid_request_error", "unsupported_model", "model", message);
}

/* The model that is meant, and whether it does what this route asks. False: answered. */
static bool resolve(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    const struct snap_endpoint *asked = snapshot_find(q->routing, q->key, q->body.model), *e = asked;
    if (!asked) {
        request_refuse_unknown(q);
        return false;
    }
    q->served = asked->served;
    q->adapter = asked->is_adapter;
    if (asked->is_route && !(e = model_route_choose(asked, q->key, q->body.prompt, snapshot_border(q->routing)))) {
        snprintf(message, sizeof(message), "None of the endpoints behind the model `%s` is there; try again.", q->body.model);
        request_refuse(q, 503, OUTCOME_REFUSED_BY_US, "server_error", "model_not_ready", NULL, message);
        return false;
    }
    q->endpoint = e;
    enum home_fit fit = home_fits(q, asked, e);
    if (fit != HOME_FITS) {
        refuse_unfit(q, fit);
        return false;
    }
    const struct border *border = snapshot_border(q->routing);
    const char *rule;
    if (border_shuts(border, q->key, e, q->body.model, &rule)) {
        request_refuse_border(q, rule);
        return false;
    }
    q->ticket.wish.barred = border_barred(border, q->key, e, q->body.model, &q->rule) | home_lacking(q, e);
    return e->replica_count || cold_admit(q);
}

/* Under a budget only what has a price is served. False: answered. */
static bool find_price(struct request *q)
{
    char message[MODEL_NAME_MAX + 512];
    const struct snap_key *k = q->key;
    const struct price *found = q->route->counts_only ? NULL : prices_at(&q->endpoint->prices, q->start_ms);
    if (found) {
        q->own_price = *found;
        q->price = &q->own_price;
    }
    for (size_t i = 0; i < k->budget_count && !q->route->counts_only; i++) {
        const struct budget *b = &k->budgets[i];
        if (q->price && !strcmp(q->price->currency, b->currency))
            continue;
        snprintf(message, sizeof(message), "The model `%s` has no price in %s, and a budget of this API key's %s is kept in it: ask the operator of this cloud for a price.", q->body.model, b->currency,
                 limit_scope_text(b->scope));
        if (!pay_refusal(q))
            return false;
        gateway_audit_refusal(q->loop, q->http, k, 403, "model_not_priced", "NoPrice");
        request_refuse(q, 403, OUTCOME_REFUSED_BY_US, "permission_error", "model_not_priced", "model", message);
        return false;
    }
    return true;
}

int64_t request_most(const struct request *q, const struct snap_endpoint *e, int64_t prompt)
{
    int64_t answer = q->body.max_tokens;
    if (q->route->embeddings)
        answer = 0;
    else if (!answer)
        answer = MAX(limit_learned(q->key->limits, e->project, e->name), ANSWER_PAID_TOKENS * q->body.most_answers);
    return q->price ? MIN(price_cost(q->price, prompt, 0, answer), AMOUNT_MICROS_MAX) : 0;
}

/* known: control has said so. */
static void refuse_over(struct request *q, const struct budget *b, int64_t amount, bool known)
{
    count_limited(q, limit_scope_text(b->scope), "money");
    if (!known) {
        request_refuse(q, 503, OUTCOME_REFUSED_BY_US, "server_error", "budget_unconfirmed", NULL, "What is left of a budget of this API key cannot be told at the moment, so nothing is spent of it; try again.");
        return;
    }
    gateway_audit_limited(q->loop, q->http, q->key, limit_scope_text(b->scope), NULL);
    request_settle(q, 429, OUTCOME_REFUSED_BY_US);
    answer_over_budget(q->http, q->key, b, amount, q->price ? q->price->exponent : 2);
}

static void reserve_again(struct slices_wait *w);

/* False: answered, or it waits for control's word. */
static bool reserve_money(struct request *q, int64_t prompt)
{
    const struct budget *why;
    int64_t amount = request_most(q, q->endpoint, prompt);
    if (!q->key->budget_count || q->route->counts_only)
        return true;
    enum budget_result r = budget_reserve(&q->money, q->key->budgets, q->key->budget_count, amount, clock_wall_ms(), clock_mono_ns(), &why);
    if (r == BUDGET_HELD)
        return true;
    limit_return(&q->hold);
    q->wait.budgets = q->key->budgets;
    q->wait.count = q->key->budget_count;
    q->wait.amount = amount;
    q->wait.counter = NULL;
    q->wait.again = reserve_again;
    if (r == BUDGET_ASK && slices_park(&q->wait, &q->loop->leases))
        return false;
    /* What others hold and do not give back is not to be had: a gateway that is gone has it for minutes. */
    bool was_told = q->wait.since_ns && atomic_load(&why->counter->told_ns) >= q->wait.since_ns;
    refuse_over(q, why, amount, r == BUDGET_OVER || was_told);
    return false;
}

/* Other gateways may have what this one lacks. False: it has waited for that. */
static bool park_for_share(struct request *q, const struct limit_refusal *why)
{
    q->wait.counter = why->counter;
    q->wait.unit = why->unit;
    q->wait.amount = why->wanted;
    q->wait.again = reserve_again;
    return slices_park(&q->wait, &q->loop->leases);
}

/* False: answered, or it waits. */
static bool reserve(struct request *q)
{
    struct limit_refusal why;
    bool no_answer = q->route->embeddings || q->route->counts_only;
    int64_t prompt = q->route->counts_only ? 0 : prompt_estimate(q), answer = no_answer ? 0 : limit_expect(q->key->limits, q->endpoint->project, q->endpoint->name, prompt, q->body.max_tokens);
    enum limit_result r = limit_reserve(&q->hold, q->key->limits, prompt + answer, clock_mono_ns(), &why);
    if (r == LIMIT_HELD) {
        q->ticket.prompt_tokens = prompt;
        q->ticket.answer_tokens = answer || no_answer ? answer : MIN(q->body.max_tokens ? q->body.max_tokens : ANSWER_TOKENS, ANSWER_TOKENS_MAX);
        return reserve_money(q, prompt);
    }
    if (r == LIMIT_ASK && park_for_share(q, &why))
        return false;
    refuse_limited(q, &why);
    return false;
}

static void go_on(struct request *q)
{
    if (!reserve(q) || attempt_begin(q) || fall_over(q))
        return;
    request_refuse(q, 503, OUTCOME_UPSTREAM_ERROR, "server_error", "model_not_ready", NULL, "No replica of the model can be reached; try again.");
}

static void reserve_again(struct slices_wait *w)
{
    go_on(CONTAINER_OF(w, struct request, wait));
}

static void begin(struct request *q)
{
    q->begun = true;
    metric_move(q->loop->gateway->metrics.active, 1);
}

static void refuse_room(struct request *q, enum body_room_result why)
{
    bool all = why == BODY_ROOM_FULL;
    count_limited(q, all ? "gateway" : "tenant", "body_bytes");
    snprintf(q->retry_after, sizeof(q->retry_after), "1");
    if (all) {
        request_refuse(q, 503, OUTCOME_REFUSED_BY_US, "server_error", "gateway_overloaded", NULL, "The gateway holds as many bytes of bodies as it may; try again.");
        return;
    }
    gateway_audit_limited(q->loop, q->http, q->key, "tenant", "body_bytes");
    const char *message = arena_printf(q->http->arena, "The bodies of the requests of tenant `%s` that run, or are being sent, and their whole answers are too large together: %zu bytes may be held at once. Try again when some have ended.",
                                       q->key->tenant, q->loop->gateway->o.tenant_bodies_bytes);
    request_refuse(q, 429, OUTCOME_REFUSED_BY_US, "requests", "rate_limit_exceeded", NULL, message);
}

static enum body_room_result grow(struct request *q, struct body_hold *h, size_t bytes)
{
    const struct gateway_options *o = &q->loop->gateway->o;
    return body_hold_grow(h, q->key->bodies, bytes, &(struct body_room_max){o->tenant_bodies_bytes, o->bodies_bytes});
}

static bool take_room(struct request *q, size_t bytes)
{
    enum body_room_result r = grow(q, &q->room, bytes);
    if (r == BODY_ROOM_HELD)
        return true;
    begin(q);
    http_skip_body(q->http);
    refuse_room(q, r);
    return false;
}

bool request_admit(struct request *q)
{
    struct limit_refusal why;
    int64_t length = q->http->head.content_length;
    if (limit_enter(&q->hold, q->key->limits, clock_mono_ns(), &why) == LIMIT_OVER) {
        begin(q);
        http_skip_body(q->http); /* most are short: their clients need not connect anew */
        refuse_limited(q, &why);
        return false;
    }
    /* One that is too long is refused by the server. */
    return length <= 0 || (uint64_t)length > q->loop->gateway->o.max_body_bytes || take_room(q, (size_t)length);
}

bool request_grow(struct request *q, size_t bytes)
{
    if (bytes <= MAX(q->room.bytes, (size_t)BODY_ROOM_FREE))
        return true;
    return take_room(q, MAX(bytes, MIN(2 * bytes, q->loop->gateway->o.max_body_bytes))); /* ahead, as its buffer grows */
}

bool request_hold_answer(struct request *q, size_t bytes)
{
    if (bytes <= MAX(q->answer_room.bytes, (size_t)ANSWER_ROOM_FREE))
        return true;
    enum body_room_result r = grow(q, &q->answer_room, MAX(bytes, MIN(2 * bytes, (size_t)ANSWER_MAX)));
    if (r == BODY_ROOM_HELD)
        return true;
    attempt_release(q, TARGET_NEITHER, 0);
    q->status = 0; /* he gets nothing of it, and pays nothing */
    refuse_room(q, r);
    return false;
}

void request_forget(struct request *q)
{
    limit_settle(&q->hold, 0, true);
}

void request_begin(struct request *q)
{
    struct err err = ERR_INIT;
    begin(q);
    body_hold_shrink(&q->room, q->http->body.len);
    if (request_body_read(q->http->body, q->route->prompt, q->route->dialect == DIALECT_COMPLETIONS, &q->body, &err) < 0) {
        request_refuse(q, 400, OUTCOME_REFUSED_BY_US, "invalid_request_error", err.field[0] ? "invalid_value" : "invalid_json", err.field, err.msg);
        return;
    }
    if (resolve(q) && find_price(q))
        go_on(q);
}

void request_drain(struct request *q)
{
    if (q->call)
        http_call_pause(q->call, false);
}

/* Many clients close at the stream's last event, without waiting for the answer's end: they have got all. */
static bool has_everything(const struct request *q)
{
    return q->streaming && q->scan.done && !http_queued(q->http);
}

void request_abort(struct request *q)
{
    bool stopping = q->loop->stopping;
    request_settle(q, q->status ? q->status : 499, has_everything(q) ? OUTCOME_OK : stopping ? OUTCOME_SHUTDOWN : OUTCOME_CLIENT_GONE);
}
