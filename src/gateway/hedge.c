#include "gateway/hedge.h"

#include "base/clock.h"
#include "gateway/isolation.h"
#include "gateway/recheck.h"
#include "gateway/request.h"

#define HELD_MAX 65536
#define SAMPLES_MAX 1024 /* then old ones count half */
#define EARNED 5         /* hundredths of a hedge, a stream */
#define SAVED_MAX 1000

/* ---- what is slow ---- */

/* The step's upper end: 1, 1.25, 1.5, 1.75, 2, 2.5, … ms. */
static uint64_t step_top(int i)
{
    return (((uint64_t)4 + (uint64_t)(i % 4)) << (i / 4)) / 4;
}

void hedge_learn(struct hedge_stats *s, uint64_t ms)
{
    unsigned total = 0;
    int i = 0;
    while (i < HEDGE_STEPS - 1 && step_top(i) < ms)
        i++;
    atomic_fetch_add(&s->steps[i], 1);
    for (i = 0; i < HEDGE_STEPS; i++)
        total += atomic_load(&s->steps[i]);
    for (i = 0; total >= SAMPLES_MAX && i < HEDGE_STEPS; i++)
        atomic_store(&s->steps[i], (unsigned short)(atomic_load(&s->steps[i]) / 2));
}

uint64_t hedge_after_ms(const struct hedge_stats *s)
{
    unsigned total = 0, seen = 0;
    for (int i = 0; i < HEDGE_STEPS; i++)
        total += atomic_load(&s->steps[i]);
    if (total < HEDGE_LEARN)
        return 0;
    for (int i = 0; i < HEDGE_STEPS; i++) {
        seen += atomic_load(&s->steps[i]);
        if (seen * 20 >= total * 19)
            return i == HEDGE_STEPS - 1 ? 0 : MAX(step_top(i), (uint64_t)HEDGE_LEAST_MS);
    }
    return 0;
}

void hedge_earn(struct hedge_stats *s)
{
    int credit = atomic_load(&s->credit);
    while (credit < SAVED_MAX && !atomic_compare_exchange_weak(&s->credit, &credit, credit + EARNED))
        ;
}

bool hedge_spend(struct hedge_stats *s)
{
    int credit = atomic_load(&s->credit);
    while (credit >= 100)
        if (atomic_compare_exchange_weak(&s->credit, &credit, credit - 100))
            return true;
    return false;
}

/* ---- a request's ---- */

struct second {
    struct ticket ticket;
    const struct snap_replica *replica; /* NULL: it runs no more */
    struct http_call *call;
    struct attempt_room room;
    struct usage_scan scan;
    struct sbuf held; /* what came before its first content */
    bool has_head;
    int64_t start_ms;
};

struct hedge {
    struct request *request;
    struct timer timer; /* until the first content is late */
    uint64_t sent_ms;   /* the first attempt */
    bool over, won;
    struct second *second; /* NULL: the first content was not late. Large, and few have it */
};

static bool has_second(const struct hedge *h)
{
    return h->second && h->second->replica;
}

static void count(struct request *q, const char *result)
{
    metric_add(metric_series(q->loop->gateway->metrics.hedges, (struct str[]){str_of(result)}), 1);
}

static void clean(struct hedge *h)
{
    usage_scan_deinit(&h->second->scan);
    sbuf_deinit(&h->second->held);
    h->second->replica = NULL;
}

/* The second attempt is no more; what its engine did is written down. */
static void lose(struct hedge *h, enum target_outcome outcome, uint64_t busy_ms, const char *result)
{
    struct request *q = h->request;
    bool sent = !h->second->call || http_call_sent_any(h->second->call);
    if (h->second->call)
        http_call_cancel(h->second->call);
    h->second->call = NULL;
    h->second->ticket.reached = sent && h->second->start_ms;
    if (h->second->ticket.reached)
        tally_loser(q, h->second->replica, h->second->start_ms, &h->second->scan);
    h->second->ticket.ran = h->second->scan.content_events > 2;
    if (dispatch_done(&h->second->ticket, outcome, busy_ms))
        metric_add(q->loop->gateway->metrics.put_aside, 1);
    count(q, result);
    clean(h);
}

static void adopt(struct hedge *h)
{
    struct request *q = h->request;
    CLEANUP(sbuf_deinit) struct sbuf held = h->second->held;
    bool has_head = h->second->has_head;
    h->won = true;
    h->second->held = (struct sbuf){0};
    h->second->ticket.entry = q->ticket.entry; /* its turn was paid once */
    q->ticket = h->second->ticket;
    attempt_adopt(q, h->second->call, h->second->replica, h->second->start_ms);
    h->second->call = NULL;
    count(q, "won");
    clean(h);
    if (has_head)
        attempt_replay(q, sbuf_str(&held));
}

/* ---- what the second engine answers ---- */

static void on_head(void *arg, const struct http_head *head)
{
    struct hedge *h = arg;
    if (h->won) {
        attempt_ops.on_head(h->request, head);
        return;
    }
    struct str type = http_header_get(head, "Content-Type");
    struct verdict v = verdict_of_head(head);
    h->second->has_head = head->status == 200 && v.use == ANSWER_GOOD && str_ieq(str_n(type.ptr, MIN(type.len, (size_t)17)), STR("text/event-stream"));
    if (v.use == ANSWER_DOUBTED)
        attempt_doubt(h->request, h->second->replica->target);
    if (!h->second->has_head) /* one that refuses has lost, too, and nobody reads on how it does */
        lose(h, v.target == TARGET_OK ? TARGET_NEITHER : v.target, v.busy_ms, "failed");
}

static void on_body(void *arg, struct str bytes)
{
    struct hedge *h = arg;
    struct request *q = h->request;
    if (h->won) {
        attempt_ops.on_body(q, bytes);
        return;
    }
    usage_scan_feed(&h->second->scan, bytes);
    sbuf_add(&h->second->held, bytes);
    if (!sbuf_ok(&h->second->held)) {
        lose(h, TARGET_NEITHER, 0, "failed");
        return;
    }
    if (!h->second->scan.content_events) /* a comment or an error wins nothing */
        return;
    attempt_lose(q);
    adopt(h);
}

static void on_end(void *arg)
{
    struct hedge *h = arg;
    if (h->won) {
        attempt_ops.on_end(h->request);
        return;
    }
    h->second->call = NULL;
    lose(h, TARGET_FAILED, 0, "failed"); /* it ended before it had begun */
}

static void on_error(void *arg, const struct err *err)
{
    struct hedge *h = arg;
    if (h->won) {
        attempt_ops.on_error(h->request, err);
        return;
    }
    bool sent = http_call_sent_any(h->second->call);
    if (!sent)
        h->second->start_ms = 0;
    h->second->call = NULL;
    lose(h, verdict_of_error(err, sent, h->second->has_head), 0, "failed");
}

static const struct http_call_ops ops = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

/* ---- when it is late ---- */

/* What another attempt of it would be, beside the one that runs. False: it may not be made any more, or no replica has room at once. */
static bool find_second(struct hedge *h)
{
    struct request *q = h->request;
    const struct ticket *t = &q->ticket;
    uint64_t barred;
    if (!recheck_beside(q, &barred))
        return false;
    h->second->ticket = (struct ticket){.inbox = t->inbox, .endpoint = t->endpoint, .tenant = t->tenant, .wish = t->wish, .prompt_tokens = t->prompt_tokens, .answer_tokens = t->answer_tokens, .again = true,
                                .slot = t->slot, .on_sent = t->on_sent};
    h->second->ticket.entry.class = t->entry.class;
    h->second->ticket.wish.barred = barred;
    if (!dispatch_try(&h->second->ticket))
        return false;
    h->second->ticket.wish.tried |= 1ull << h->second->ticket.index;
    q->ticket.wish.tried = h->second->ticket.wish.tried;
    h->second->replica = &q->endpoint->replicas[h->second->ticket.index];
    return true;
}

static void nowhere(void *arg UNUSED, struct str bytes UNUSED)
{
}

static void on_late(struct timer *timer)
{
    struct hedge *h = timer->arg;
    struct request *q = h->request;
    struct hedge_stats *stats = dispatch_hedges(q->endpoint->dispatch);
    if (!q->call || !q->ticket.holds || !hedge_spend(stats))
        return;
    h->second = ARENA_NEW(q->http->arena, struct second);
    if (!find_second(h)) {
        atomic_fetch_add(&stats->credit, 100);
        return;
    }
    h->second->start_ms = clock_wall_ms();
    usage_scan_init(&h->second->scan, false, nowhere, NULL);
    h->second->scan.dialect = q->route->dialect;
    sbuf_init(&h->second->held, HELD_MAX);
    h->second->call = attempt_beside(q, &h->second->ticket, h->second->replica, &h->second->room, &ops, h);
    h->second->ticket.reached = h->second->call != NULL;
    if (h->second->call)
        return;
    dispatch_done(&h->second->ticket, TARGET_NEITHER, 0);
    clean(h);
}

void hedge_watch(struct request *q)
{
    if (!q->body.stream || q->attempts != 1 || q->passed || q->body.several || q->endpoint->replica_count < 2 || q->route->no_isolation || (q->ticket.claimed && q->ticket.claim.unpinned))
        return;
    struct hedge_stats *stats = dispatch_hedges(q->endpoint->dispatch);
    struct hedge *h = q->hedge = ARENA_NEW(q->http->arena, struct hedge);
    *h = (struct hedge){.request = q, .sent_ms = clock_mono_ms()};
    timer_init(&h->timer, q->loop->loop, on_late, h);
    hedge_earn(stats);
    uint64_t after_ms = q->loop->gateway->o.hedging ? hedge_after_ms(stats) : 0;
    if (after_ms)
        timer_start(&h->timer, after_ms);
}

void hedge_over(struct request *q)
{
    struct hedge *h = q->hedge;
    if (!h || h->over)
        return;
    h->over = true;
    timer_stop(&h->timer);
    if (q->first_ns && q->scan.has_content)
        hedge_learn(dispatch_hedges(q->endpoint->dispatch), clock_mono_ms() - h->sent_ms);
    if (has_second(h))
        lose(h, TARGET_NEITHER, 0, "lost");
}

bool hedge_runs(const struct request *q)
{
    return q->hedge && !q->hedge->over && has_second(q->hedge);
}

bool hedge_take_over(struct request *q)
{
    struct hedge *h = q->hedge;
    if (!h || h->over)
        return false;
    timer_stop(&h->timer);
    if (!has_second(h)) {
        h->over = true; /* how long another one takes says nothing: it has waited for this one, and perhaps for a turn, or elsewhere */
        return false;
    }
    adopt(h);
    return true;
}
