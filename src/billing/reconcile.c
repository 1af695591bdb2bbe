#include "billing/reconcile.h"

#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/vec.h"

#define HOLD_MS 20000       /* attempts are kept one by one for so long after their end: a reading of before it may still come */
#define NEAR_MS 250         /* clocks of two processes, and what is between an engine's end of a request and the gateway's */
#define CUT_MS 10000        /* an engine notices so late that nobody wants what it makes */
#define EXPLAINED_MAX 2     /* comparisons in which attempts that were cut off account for a difference */
/* So many kept attempts of a replica are looked through as they come, then twice as many as had to
 * be kept. */
#define FOLD_MIN 4096

struct attempt {
    int64_t start_ms, end_ms, read, cached, written;
    bool exact, over; /* over: it was found so, and is among those that are not exact if it is not */
};
struct sum {
    int64_t read, cached, written;
};
struct diff {
    int64_t read, written;
};

struct engine {
    char *replica;
    struct engine_reading base, last, pending; /* their strings are not used; base.at_ms 0: there is none yet */
    bool waits, begun;                         /* pending is to be compared; base is to be told of */
    VEC(struct attempt) edge;                  /* that ran when base was made: they are in it, or not, or in part */
    struct sum before;                         /* of those after it, that are not held */
    struct sum after;                          /* of those that are not held and began after pending */
    VEC(struct attempt) held;
    size_t fold_at;                            /* so many of them are looked through */
    size_t inexact, inexact_before;            /* since the last difference was told, or none was left; before that one */
    size_t inexact_after;                      /* of those in `after` */
    int explained;                             /* comparisons that told something since one of these came */
    struct diff told, fresh;                   /* fresh: what the last comparison had and was not told yet */
};

struct reconcile {
    struct map *engines; /* replica → struct engine * */
};

static void engine_free(void *value)
{
    struct engine *e = value;
    VEC_DEINIT(&e->held);
    VEC_DEINIT(&e->edge);
    mem_free(e->replica);
    mem_free(e);
}

struct reconcile *reconcile_new(void)
{
    struct reconcile *r = XNEW(struct reconcile);
    r->engines = map_new(engine_free);
    return r;
}

void reconcile_free(struct reconcile *r)
{
    if (!r)
        return;
    map_free(r->engines);
    mem_free(r);
}

/* ---- attempts ---- */

static void add(struct sum *s, const struct attempt *a)
{
    s->read += a->read;
    s->cached += a->cached;
    s->written += a->written;
}

static int64_t slack_ms(const struct attempt *a)
{
    return a->exact ? NEAR_MS : CUT_MS;
}

/* Where an attempt stands to a reading. */
static bool is_over(const struct attempt *a, const struct engine_reading *e)
{
    return a->end_ms + slack_ms(a) < e->from_ms;
}

static bool has_begun(const struct attempt *a, const struct engine_reading *e)
{
    return a->start_ms - NEAR_MS <= e->at_ms;
}

static void note_over(struct engine *e, struct attempt *a)
{
    if (!a->over && !a->exact) {
        e->inexact++;
        e->explained = 0;
    }
    a->over = true;
}

/* What no reading will find at its edge any more goes into the sums, but for those at the edge of
 * the one that waits. */
static void fold(struct engine *e, int64_t until_ms)
{
    size_t kept = 0;
    for (size_t i = 0; i < e->held.len; i++) {
        struct attempt *a = &e->held.ptr[i];
        bool over = !e->waits || is_over(a, &e->pending);
        if (a->end_ms + slack_ms(a) >= until_ms || (!over && has_begun(a, &e->pending))) {
            e->held.ptr[kept++] = *a;
        } else if (over) {
            note_over(e, a);
            add(&e->before, a);
        } else {
            e->inexact_after += !a->exact;
            add(&e->after, a);
        }
    }
    e->held.len = kept;
    e->fold_at = MAX(2 * kept, (size_t)FOLD_MIN);
}

static void count_attempt(struct engine *e, const struct attempt *a)
{
    if (is_over(a, &e->base))
        return;
    if (has_begun(a, &e->base))
        *VEC_PUSH(&e->edge) = *a;
    else
        *VEC_PUSH(&e->held) = *a;
}

/* Without a baseline attempts are held too: it may be a reading of before them that is on its way. */
void reconcile_count(struct reconcile *r, const struct usage *u, int64_t now_ms)
{
    for (size_t i = 0; i < u->work_count; i++) {
        const struct usage_work *w = &u->work[i];
        struct engine *e = map_get(r->engines, w->replica);
        if (w->end_ms < now_ms - HOLD_MS && (!e || !e->base.at_ms))
            continue;
        if (!e) {
            e = XNEW(struct engine);
            e->replica = xstrndup(w->replica.ptr, w->replica.len);
            map_set(r->engines, w->replica, e);
        }
        if (e->held.len >= MAX(e->fold_at, (size_t)FOLD_MIN))
            fold(e, now_ms - HOLD_MS);
        count_attempt(e, &(struct attempt){.start_ms = w->start_ms, .end_ms = w->end_ms, .read = w->read, .cached = w->cached, .written = w->written, .exact = w->exact});
    }
}

/* ---- readings ---- */

/* From this reading on. Who ran then is at its edge. */
static void begin(struct engine *e, const struct engine_reading *reading)
{
    VEC(struct attempt) old = VEC_INIT;
    VEC_FOREACH (&e->held, a)
        *VEC_PUSH(&old) = *a;
    e->base = e->last = *reading;
    e->waits = false;
    e->before = e->after = (struct sum){0};
    e->told = e->fresh = (struct diff){0};
    e->held.len = e->edge.len = e->inexact = e->inexact_before = e->inexact_after = 0;
    e->explained = 0;
    VEC_FOREACH (&old, a)
        count_attempt(e, a);
    VEC_DEINIT(&old);
}

static bool is_another(const struct engine_reading *a, const struct engine_reading *b)
{
    return a->started_ms != b->started_ms || b->read < a->read || b->written < a->written;
}

void reconcile_reading(struct reconcile *r, const struct engine_reading *reading, int64_t now_ms)
{
    struct engine *e = map_getc(r->engines, reading->replica);
    if (!e) {
        e = XNEW(struct engine);
        e->replica = xstrdup(reading->replica);
        map_set(r->engines, str_of(reading->replica), e);
    }
    if (reading->at_ms <= e->last.at_ms || reading->from_ms < now_ms - HOLD_MS / 2)
        return;
    struct engine_reading copy = *reading;
    copy.replica = NULL;
    if (!e->base.at_ms || is_another(&e->last, &copy)) {
        begin(e, &copy);
        e->begun = true;
    } else if (!e->waits) {
        e->last = e->pending = copy;
        e->waits = true;
    }
}

/* ---- comparing ---- */

static int64_t read_of(const struct sum *s, const struct engine_reading *e)
{
    return e->counts_cached ? s->read : s->read - s->cached;
}

/* Above 0: more than can be; below: less than must be. */
static int64_t outside(int64_t n, int64_t low, int64_t high)
{
    return n > high ? n - high : n < low ? n - low : 0;
}

/* What both have, of the same sign. */
static int64_t common(int64_t a, int64_t b)
{
    return a > 0 && b > 0 ? MIN(a, b) : a < 0 && b < 0 ? MAX(a, b) : 0;
}

static bool is_explained(const struct diff *d, size_t inexact)
{
    return inexact && d->written >= 0; /* an estimate of a prompt may be too high; no more is written than came by */
}

/* running: attempts that the engine may have counted, or not, or in part; near: those of them that are not exact. */
static void compare(struct engine *e, const struct sum *low, const struct sum *high, int64_t running, size_t near, struct reconcile_result *ret)
{
    const struct engine_reading *p = &e->pending;
    struct diff now = {outside(p->read - e->base.read, read_of(low, p), read_of(high, p)) - e->told.read,
                       outside(p->written - e->base.written, low->written, high->written) - e->told.written};
    struct diff d = {common(now.read, e->fresh.read), common(now.written, e->fresh.written)};
    e->told.read += d.read;
    e->told.written += d.written;
    bool quiet = !now.read && !now.written && !e->fresh.read && !e->fresh.written;
    e->fresh = (struct diff){now.read - d.read, now.written - d.written};
    *ret = (struct reconcile_result){.replica = e->replica, .outcome = RECONCILE_EQUAL, .read = d.read, .written = d.written, .inexact = e->inexact + e->inexact_before + near};
    bool tells = d.read || d.written;
    if (tells)
        ret->outcome = is_explained(&d, ret->inexact) ? RECONCILE_UNSEEN : RECONCILE_DIFFERS;
    e->explained += tells;
    /* They explain what is left to be told, too, as a second reading may have more of what they made (but no third one: an engine that makes more at each reading is not hidden by them); and what
     * others may have hidden that ran meanwhile, once more. */
    if (quiet || (tells && ((!e->fresh.read && !e->fresh.written) || e->explained >= EXPLAINED_MAX))) {
        e->inexact_before = running ? e->inexact : 0;
        e->inexact = 0;
    }
}

/* Where it stands to the reading; *ret_running and *ret_near: one more. True: it is over. */
static bool place(struct engine *e, struct attempt *a, const struct engine_reading *p, int64_t *ret_running, size_t *ret_near)
{
    if (is_over(a, p)) {
        note_over(e, a);
        return true;
    }
    *ret_running += has_begun(a, p);
    *ret_near += has_begun(a, p) && !a->exact;
    return false;
}

/* The reading that waited is done with: what came after it is before the next. */
static void go_on(struct engine *e, const struct sum *after, size_t inexact)
{
    e->before.read += after->read;
    e->before.cached += after->cached;
    e->before.written += after->written;
    e->inexact += inexact;
    if (inexact)
        e->explained = 0;
    e->after = (struct sum){0};
    e->inexact_after = 0;
}

static bool step(struct engine *e, int64_t now_ms, struct reconcile_result *ret)
{
    const struct engine_reading *p = &e->pending;
    if (e->begun) {
        e->begun = false;
        *ret = (struct reconcile_result){.replica = e->replica, .outcome = RECONCILE_BEGUN};
        return true;
    }
    fold(e, now_ms - HOLD_MS);
    if (!e->waits || now_ms < p->at_ms + RECONCILE_SETTLE_MS)
        return false;
    struct sum low = e->before, high, after = e->after;
    int64_t running = 0;
    size_t near = 0, inexact_after = e->inexact_after;
    VEC_FOREACH (&e->held, a)
        if (place(e, a, p, &running, &near))
            add(&low, a);
    high = low;
    VEC_FOREACH (&e->held, a)
        if (!is_over(a, p) && has_begun(a, p))
            add(&high, a);
    VEC_FOREACH (&e->edge, a) {
        (void)place(e, a, p, &running, &near);
        add(&high, a);
    }
    if (running < p->running && now_ms < p->at_ms + RECONCILE_GIVE_UP_MS)
        return false;
    e->waits = false;
    if (running < p->running) {
        begin(e, p);
        go_on(e, &after, inexact_after);
        *ret = (struct reconcile_result){.replica = e->replica, .outcome = RECONCILE_SKIPPED};
        return true;
    }
    compare(e, &low, &high, running, near, ret);
    go_on(e, &after, inexact_after);
    return true;
}

bool reconcile_step(struct reconcile *r, int64_t now_ms, struct reconcile_result *ret)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(r->engines, &it))
        if (step(it.value, now_ms, ret))
            return true;
    return false;
}

void reconcile_forget(struct reconcile *r, bool (*known)(void *arg, const char *replica), void *arg)
{
    struct map_iter it = MAP_ITER_INIT;
    VEC(struct engine *) gone = VEC_INIT;
    while (map_next(r->engines, &it)) {
        struct engine *e = it.value;
        if (!known(arg, e->replica))
            *VEC_PUSH(&gone) = e;
    }
    VEC_FOREACH (&gone, e)
        map_del(r->engines, str_of((*e)->replica));
    VEC_DEINIT(&gone);
}
