#include "gateway/tally.h"

#include "base/clock.h"
#include "gateway/request.h"

static struct usage_work *add(struct request *q, const struct snap_replica *replica, int64_t start_ms)
{
    struct tally *t = &q->tally;
    if (t->count == USAGE_WORK_MAX) /* no request has so many attempts */
        return NULL;
    if (!t->count) {
        t->work = &t->first;
    } else if (t->work == &t->first) {
        t->work = ARENA_ARRAY(q->http->arena, struct usage_work, USAGE_WORK_MAX);
        *t->work = t->first;
    }
    struct usage_work *w = &t->work[t->count++];
    *w = (struct usage_work){.replica = arena_str(q->http->arena, str_of(replica->full_name)), .start_ms = start_ms, .end_ms = start_ms}; /* its snapshot may go */
    return w;
}

void tally_begin(struct request *q)
{
    tally_end(q);
    q->tally.open = !q->route->counts_only && add(q, q->replica, clock_wall_ms());
    if (!q->tally.open)
        return;
    struct usage u = {.outcome = STR("killed"), .work = q->tally.work, .work_count = q->tally.count, .has_work = true, .ttft_ms = -1};
    request_usage(q, &u);
    open_request_begin(q->loop->gateway->open, &q->tally.place, &u, q->price, q->body.prompt_tokens);
}

void tally_note(struct request *q)
{
    open_request_note(q->tally.place, q->scan.content_events, q->scan.exact, q->scan.prompt_tokens, q->scan.cached_tokens, q->scan.completion_tokens);
}

void tally_drop(struct request *q)
{
    q->tally.count -= q->tally.open;
    q->tally.open = false;
}

static void take_counts(struct usage_work *w, const struct usage_scan *s)
{
    w->read = s->prompt_tokens;
    w->cached = s->cached_tokens;
    w->written = s->completion_tokens;
    w->exact = true;
}

/* The engine was at work for certain: it has written something, or answered whole. */
static bool has_answered(const struct request *q)
{
    if (q->status < 200 || q->status >= 300)
        return false;
    return q->streaming ? q->scan.content_events > 0 || q->ticket.ended : q->first_ns != 0;
}

void tally_end(struct request *q)
{
    struct tally *t = &q->tally;
    if (!t->open)
        return;
    t->open = false;
    struct usage_work *w = &t->work[t->count - 1];
    w->end_ms = clock_wall_ms();
    if (q->scan.exact) {
        take_counts(w, &q->scan);
        w->exact = q->ticket.ended || q->scan.done; /* else it may have gone on after that word */
    } else if (has_answered(q)) {
        w->read = q->body.prompt_tokens;
        w->written = q->scan.content_events;
    } else {
        w->exact = q->status >= 300; /* it refused, and did nothing */
    }
}

void tally_began(struct request *q, int64_t start_ms)
{
    if (q->tally.open)
        q->tally.work[q->tally.count - 1].start_ms = start_ms;
}

void tally_lose(struct request *q)
{
    bool open = q->tally.open;
    tally_end(q);
    if (open)
        q->tally.work[q->tally.count - 1].loser = true;
}

void tally_loser(struct request *q, const struct snap_replica *replica, int64_t start_ms, const struct usage_scan *scan)
{
    struct usage_work *w = add(q, replica, start_ms);
    if (!w)
        return;
    w->loser = true;
    w->end_ms = clock_wall_ms();
    if (scan->exact)
        take_counts(w, scan);
    else if (scan->content_events) {
        w->read = q->body.prompt_tokens;
        w->written = scan->content_events;
    }
    if (q->tally.open) { /* the one that runs stays the last */
        struct usage_work *last = &q->tally.work[q->tally.count - 1], loser = *last;
        *last = last[-1];
        last[-1] = loser;
    }
}

/* Attempts of a text that others went on with: what they read is known now, where at first it was estimated. */
static void mend_reads(struct tally *t, int64_t prompt)
{
    int64_t made = 0;
    for (size_t i = 0; i < t->count; i++) {
        struct usage_work *w = &t->work[i];
        if (w->exact || w->loser || !w->written)
            continue;
        w->read = prompt + made;
        made += w->written;
    }
}

void tally_fill(struct request *q, struct usage *u)
{
    struct tally *t = &q->tally;
    if (u->replayed_tokens)
        mend_reads(t, u->prompt_tokens);
    u->work = t->work;
    u->work_count = t->count;
    u->has_work = true;
    for (size_t i = 0; i < t->count; i++)
        if (t->work[i].loser)
            u->hedge_loser_tokens += t->work[i].read + t->work[i].written;
    int64_t rest = usage_made(u) - (u->prompt_tokens + u->completion_tokens + u->hedge_loser_tokens + u->replayed_tokens);
    if (rest >= 0) {
        u->unseen_tokens = rest;
    } else if (t->count) { /* an estimate is billed that the attempt itself does not show: no content came, but the engine had begun */
        t->work[t->count - 1].read -= rest;
        t->work[t->count - 1].exact = false;
    }
}
