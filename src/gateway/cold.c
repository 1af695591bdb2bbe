#include "gateway/cold.h"

#include "base/clock.h"
#include "gateway/fall_over.h"
#include "gateway/home.h"
#include "gateway/load_report.h"
#include "gateway/model_route.h"
#include "gateway/request.h"

#define RETRY_GUESS_S 10 /* where nobody knows how long loading takes */
#define RETRY_MAX_S 600

static atomic_size_t held, held_bytes;

double cold_held(void *arg UNUSED)
{
    return (double)atomic_load(&held);
}

/* Milliseconds until the request is likely to be sent; 0: nobody knows. */
static uint64_t expected_ms(const struct request *q, uint64_t now_ms)
{
    const struct snap_endpoint *e = q->endpoint;
    uint64_t since_ms = dispatch_cold_since(e->dispatch), passed_ms = since_ms ? now_ms - since_ms : 0;
    if (e->load_ms <= 0)
        return 0;
    uint64_t rest_ms = (uint64_t)e->load_ms > passed_ms ? (uint64_t)e->load_ms - passed_ms : 1000;
    return rest_ms + dispatch_turn_ms(e->dispatch);
}

static void refuse(struct request *q, enum outcome outcome, const char *code, const char *message)
{
    uint64_t ms = expected_ms(q, clock_mono_ms());
    uint64_t s = ms ? (ms + 999) / 1000 : (uint64_t)MIN((int64_t)RETRY_GUESS_S, MAX(q->endpoint->start_timeout_s, (int64_t)1));
    snprintf(q->retry_after, sizeof(q->retry_after), "%llu", (unsigned long long)MIN(s, (uint64_t)RETRY_MAX_S));
    request_refuse(q, 503, outcome, "server_error", code, NULL, message);
}

static void enter(struct request *q, uint64_t now_ms)
{
    q->cold.held = true;
    q->cold.bytes = q->http->body.len;
    q->cold.since_ms = now_ms;
    atomic_fetch_add(&held, 1);
    atomic_fetch_add(&held_bytes, q->cold.bytes);
    dispatch_cold_begin(q->endpoint->dispatch, now_ms);
    uint64_t ms = expected_ms(q, now_ms);
    if (ms)
        snprintf(q->cold.expected, sizeof(q->cold.expected), "%llu", (unsigned long long)(ms + 999) / 1000);
}

void cold_waits(struct request *q)
{
    if (q->cold.held)
        load_report_wake(q->loop->gateway->report);
}

void cold_leave(struct request *q)
{
    if (!q->cold.held)
        return;
    uint64_t ms = clock_mono_ms() - q->cold.since_ms;
    q->cold.held = false;
    q->cold.before_ms += ms;
    atomic_fetch_sub(&held, 1);
    atomic_fetch_sub(&held_bytes, q->cold.bytes);
    metric_observe(q->loop->gateway->metrics.hold_seconds, (double)ms / 1000);
}

static void refuse_failed(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    snprintf(message, sizeof(message), "The model `%s` cannot be started (%s): its owner has to mend that.", q->body.model, q->endpoint->not_ready);
    refuse(q, OUTCOME_REFUSED_BY_US, "model_not_ready", message);
}

bool cold_admit(struct request *q)
{
    const struct gateway *g = q->loop->gateway;
    const struct snap_endpoint *e = q->endpoint;
    char message[MODEL_NAME_MAX + 256];
    if (!e->scaled) {
        snprintf(message, sizeof(message), "The model `%s` is not ready (%s); try again.", q->body.model, e->not_ready);
        request_refuse(q, 503, OUTCOME_REFUSED_BY_US, "server_error", "model_not_ready", NULL, message);
        return false;
    }
    if (!e->waits_for_replicas) {
        refuse_failed(q);
        return false;
    }
    bool far = !load_report_heard(g->report), many = dispatch_waiting_at(e->dispatch) >= g->o.hold_max || atomic_load(&held_bytes) + q->http->body.len > g->o.hold_bytes;
    if (!far && !many) {
        enter(q, clock_mono_ms());
        return true;
    }
    load_report_wake(g->report); /* it is wanted all the same */
    snprintf(message, sizeof(message), far ? "The model `%s` has no engine, and who starts one cannot be reached at the moment. Try again when the Retry-After of this answer has passed."
                                           : "The model `%s` is being started, and as many requests wait for it as may. Try again when the Retry-After of this answer has passed.", q->body.model);
    refuse(q, OUTCOME_REFUSED_BY_US, "model_not_ready", message);
    return false;
}

bool cold_look(struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    if (e->replica_count) {
        if (q->cold.held) {
            cold_leave(q);
            dispatch_since(&q->ticket, clock_mono_ms()); /* from now on it waits for its turn */
        }
        return true;
    }
    if (e->waits_for_replicas) {
        if (!q->cold.held) {
            enter(q, clock_mono_ms());
            cold_waits(q);
        }
        return true;
    }
    if (!fall_over(q))
        refuse_failed(q);
    return false;
}

bool cold_is_over(const struct request *q, uint64_t now_ms)
{
    const struct gateway_options *o = &q->loop->gateway->o;
    return q->cold.held ? q->cold.before_ms + (now_ms - q->cold.since_ms) >= o->hold_timeout_ms : now_ms - q->ticket.since_ms >= o->queue_timeout_ms;
}

void cold_refuse_late(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    snprintf(message, sizeof(message), "The model `%s` has not started in %llu s (%s). Try again later.", q->body.model, (unsigned long long)(q->cold.before_ms + clock_mono_ms() - q->cold.since_ms) / 1000,
             q->endpoint->not_ready);
    refuse(q, OUTCOME_TIMEOUT, "model_not_ready", message);
}

bool cold_look_anew(struct request *q)
{
    gateway_loop_refresh(q->loop);
    struct snapshot *now = q->loop->snapshot;
    const struct snap_key *k;
    const struct snap_endpoint *asked = now == q->routing ? NULL : home_find(q, now, &k), *e = asked ? model_route_again(asked, q->endpoint->dispatch) : NULL;
    const char *rule;
    if (!e || asked->is_adapter != q->adapter || (!e->replica_count && !e->waits_for_replicas) || home_fits(q, asked, e) != HOME_FITS || border_shuts(snapshot_border(now), k, e, q->body.model, &rule))
        return false;
    return home_move(q, now, asked, e);
}

struct str cold_comment(const struct request *q, char text[128])
{
    uint64_t ms = expected_ms(q, clock_mono_ms());
    size_t waiting = dispatch_waiting_at(q->endpoint->dispatch);
    if (!q->cold.held)
        return STR(": keep-alive\n\n");
    if (ms)
        snprintf(text, 128, ": the model is being started; about %llu s; %zu wait for it\n\n", (unsigned long long)(ms + 999) / 1000, waiting);
    else
        snprintf(text, 128, ": the model is being started; %zu wait for it\n\n", waiting);
    return str_of(text);
}

size_t cold_headers(const struct request *q, struct http_out_header *ret)
{
    if (!q->cold.expected[0])
        return 0;
    *ret = (struct http_out_header){"X-Seki-Expected-Wait", str_of(q->cold.expected)};
    return 1;
}
