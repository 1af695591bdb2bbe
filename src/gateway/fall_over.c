#include "gateway/fall_over.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/home.h"
#include "gateway/model_route.h"
#include "gateway/request.h"

/* The route that is asked for, where another backend than those that were tried may take the request; *ret: that. */
static const struct snap_endpoint *next_backend(const struct request *q, const struct snapshot *s, const struct dispatch *const *tried, size_t count, const struct snap_endpoint **ret)
{
    const struct snap_key *k;
    const struct snap_endpoint *route = q->passed || !q->endpoint || count > FALL_OVERS_MAX ? NULL : home_find(q, s, &k);
    if (!route || !route->is_route || route->backend_count < 2)
        return NULL;
    *ret = model_route_choose_other(route, k, q->body.prompt, snapshot_border(s), tried, count);
    return *ret ? route : NULL;
}

bool fall_over_possible(const struct request *q)
{
    const struct dispatch *tried[FALL_OVERS_MAX + 2];
    memcpy(tried, q->fell.tried, q->fell.count * sizeof(*tried));
    tried[q->fell.count] = q->endpoint ? q->endpoint->dispatch : NULL;
    const struct snap_endpoint *e;
    return next_backend(q, q->loop->snapshot, tried, q->fell.count + 1, &e) != NULL;
}

/* What it costs there, and whether the budgets of the key have that. What was reserved is given back in any case. */
static bool pay_there(struct request *q, const struct snap_endpoint *e)
{
    const struct snap_key *k = q->key;
    const struct price *found = q->route->counts_only ? NULL : prices_at(&e->prices, q->start_ms);
    const struct budget *why;
    budget_settle(&q->money, 0, q->start_ms);
    q->price = NULL;
    if (found) {
        q->own_price = *found;
        q->price = &q->own_price;
    }
    if (!k->budget_count || q->route->counts_only)
        return true;
    for (size_t i = 0; i < k->budget_count; i++)
        if (!q->price || strcmp(q->price->currency, k->budgets[i].currency) != 0)
            return false;
    int64_t amount = request_most(q, e, q->ticket.prompt_tokens);
    return budget_reserve(&q->money, k->budgets, k->budget_count, amount, clock_wall_ms(), clock_mono_ns(), &why) == BUDGET_HELD;
}

/* The queue of the old one, and all that the request had of it. */
static void let_go(struct request *q)
{
    timer_stop(&q->tick);
    cold_leave(q);
    dispatch_end(&q->ticket, 0);
    int64_t prompt = q->ticket.prompt_tokens, answer = q->ticket.answer_tokens;
    q->ticket = (struct ticket){.prompt_tokens = prompt, .answer_tokens = answer};
    q->replica = NULL;
    q->continuation = NULL; /* of an attempt of which nothing was passed on */
}

bool fall_over(struct request *q)
{
    const struct snap_endpoint *route, *e;
    bool has = false;
    gateway_loop_refresh(q->loop);
    if (!fall_over_possible(q))
        return false;
    log_info("a request goes to another backend of its route", KV("request", q->http->id), KV("model", q->served), KV("endpoint", q->endpoint->name));
    q->fell.tried[q->fell.count++] = q->endpoint->dispatch;
    let_go(q);
    struct snapshot *s = snapshot_ref(q->loop->snapshot);
    while (!has && (route = next_backend(q, s, q->fell.tried, q->fell.count, &e))) {
        if (home_fits(q, route, e) == HOME_FITS && pay_there(q, e) && home_move(q, s, route, e)) {
            q->fell.extra = MAX(q->fell.extra, q->attempts + 1 - ATTEMPTS_MAX);
            metric_add(q->loop->gateway->metrics.fell_over, 1);
            has = attempt_begin(q);
            if (!has)
                let_go(q);
        }
        if (!has)
            q->fell.tried[q->fell.count++] = e->dispatch;
    }
    snapshot_unref(s);
    return has;
}
