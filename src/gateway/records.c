#include "gateway/records.h"

#include "base/clock.h"
#include "gateway/refused.h"
#include "gateway/request.h"

#define HELD_BYTES_MAX (32 * 1024) /* of an answer: more is not copied */
#define USUAL_BYTES 768            /* more than most records have */

static void on_turn_end(void *arg)
{
    records_flush(arg);
}

void records_init(struct gateway_loop *l)
{
    _Static_assert(RECORDS_MAX <= LEDGER_BATCH_MAX, "one write takes them");
    STAILQ_INIT(&l->records.waiting);
    sbuf_init(&l->records.bodies, (size_t)RECORDS_MAX * LEDGER_BODY_MAX);
    loop_at_turn_end(l->loop, on_turn_end, l);
}

void records_deinit(struct gateway_loop *l)
{
    loop_at_turn_end(l->loop, NULL, NULL);
    sbuf_deinit(&l->records.bodies);
}

void records_end(struct gateway *g, struct open_request **place, struct budget_hold *money, int64_t cost, int64_t start_ms)
{
    open_request_end(g->open, place);
    budget_settle(money, cost, start_ms);
    metric_move(g->metrics.active, -1); /* last: where none is active, all are counted */
}

static void end(struct request *q)
{
    records_end(q->loop->gateway, &q->tally.place, &q->money, q->record.cost, q->start_ms);
}

void records_write(struct gateway_loop *l)
{
    struct records *r = &l->records;
    struct str bodies[RECORDS_MAX];
    void *places[RECORDS_MAX];
    const char *at = r->bodies.ptr;
    struct request *q;
    size_t n = 0;
    if (!r->count)
        return;
    STAILQ_FOREACH (q, &r->waiting, record.link) {
        tally_note(q); /* before its place may be the journal's, who lets others have it */
        places[n] = q->tally.place;
        bodies[n++] = str_n(at, q->record.bytes);
        at += q->record.bytes;
    }
    journal_add_held(l->gateway->journal, bodies, n, places);
    n = 0;
    while ((q = STAILQ_FIRST(&r->waiting))) {
        if (!places[n++])
            q->tally.place = NULL; /* its record waits for the disk: until then the place has it */
        STAILQ_REMOVE_HEAD(&r->waiting, record.link);
        q->record.waits = false;
        end(q);
    }
    r->count = 0;
    sbuf_reset(&r->bodies);
}

void records_flush(struct gateway_loop *l)
{
    /* Requests that came behind those that end now, on the same connections, may end at once. */
    while (l->records.count || http_server_holds(l->server)) {
        records_write(l);
        http_server_release(l->server);
    }
}

void records_add(struct request *q, const struct usage *u)
{
    struct gateway_loop *l = q->loop;
    struct records *r = &l->records;
    q->record.cost = u->cost;
    if (q->kept_away) {
        end(q);
        return;
    }
    if (refused_is(u) && refused_take(l->gateway->refused, u, clock_mono_ms())) {
        end(q);
        return;
    }
    size_t before = r->bodies.len;
    sbuf_reserve(&r->bodies, USUAL_BYTES);
    usage_encode(u, &r->bodies);
    q->record.bytes = r->bodies.len - before;
    q->record.waits = true;
    STAILQ_INSERT_TAIL(&r->waiting, q, record.link);
    bool full = ++r->count == RECORDS_MAX;
    if (full || q->answer.len > HELD_BYTES_MAX || !http_hold(q->http))
        records_write(l);
    if (full)
        loop_end_turn(l->loop);
}
