#include "gateway/limit_shares.h"

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/limits_internal.h"

#define BUSY_NS 10000000000ull /* a share that was used so lately is not given away whole */

/* What is missing of a bucket of another size. now + that is never what was there before: see limits_internal.h. */
static void set_full_at(struct limit_part *p, int64_t from, int64_t to, int64_t more_missing, int64_t now)
{
    long long full_at = atomic_load(&p->full_at_ns), next;
    do {
        wide missing = (wide)limit_missing_ns(full_at, now) * from + (wide)more_missing * PERIOD_NS;
        wide ns = missing > 0 && to > 0 ? (missing + to - 1) / to : 0;
        next = now + (ns > DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)ns);
        next += next == full_at;
    } while (!atomic_compare_exchange_weak(&p->full_at_ns, &full_at, next));
}

/* A rate's. more_missing: in tokens, beside what was missing before. */
static void resize(struct limit_part *p, int64_t to, int64_t more_missing, int64_t now)
{
    int64_t from = atomic_load(&p->share);
    if (to > from) {
        atomic_store(&p->most, to);
        set_full_at(p, from, to, more_missing, now);
        atomic_store(&p->share, to);
    } else {
        atomic_store(&p->share, to);
        set_full_at(p, from, to, more_missing, now);
        atomic_store(&p->most, to);
    }
}

/* Of what runs at once: never below what does. */
static void resize_running(struct limit_part *p, int64_t to)
{
    int64_t from = atomic_load(&p->share);
    atomic_store(&p->share, to);
    int64_t running = atomic_load(&p->running);
    if (to < from && running > to)
        atomic_store(&p->share, MIN(running, from));
}

void limit_part_bound(struct limit_set *s, struct limit_part *p, int64_t max)
{
    if (p->max == max)
        return;
    int64_t beside = atomic_load(&p->share) - limit_base(p->max, s->parts);
    int64_t share = MAX(limit_base(max, s->parts) + MIN(beside, (int64_t)0), (int64_t)0); /* what was gathered of another bound is not kept */
    p->max = max;
    atomic_store(&p->most, share);
    atomic_store(&p->share, share);
    atomic_store(&p->verdict_until_ns, 0);
}

/* ---- how many gateways ---- */

static void deal(struct limit_set *s, struct limit_part *p, bool rate, int64_t parts, bool settle, int64_t now)
{
    int64_t from = atomic_load(&p->share), beside = from - limit_base(p->max, s->parts), to = limit_base(p->max, parts);
    if (settle)
        to = MIN(MAX(to + MIN(beside, (int64_t)0), (int64_t)0), from);
    if (p->cap)
        to = MIN(to, p->cap - 1);
    p->cap = p->given = 0;
    atomic_store(&p->verdict_until_ns, 0);
    if (to == from)
        return;
    if (!rate) {
        resize_running(p, to);
        return;
    }
    int64_t left = limit_left_of(limit_missing_ns(atomic_load(&p->full_at_ns), now), from);
    resize(p, to, to > from ? (s->parts || parts > 1 ? to - from : 0) : MAX(left - to, (int64_t)0) - (from - to), now);
}

void limit_set_parts(struct limit_set *s, int64_t parts, bool settle, uint64_t now_ns)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_name, &it)) {
        struct limit_counter *c = it.value;
        for (int u = 0; u < LIMIT_UNITS; u++)
            deal(s, &c->parts[u], u != LIMIT_CONCURRENT, parts, settle, (int64_t)now_ns);
    }
    if (parts != s->parts && (parts > 1 || s->parts)) {
        s->empty_until_ns = now_ns + PERIOD_NS;
        s->dealt_ms = clock_wall_ms();
    }
    s->parts = parts;
    pthread_mutex_unlock(&s->lock);
}

struct limit_counter *limit_bound(struct limit_set *s, struct str name, enum limit_unit u, int64_t max)
{
    CLEANUP(mem_freep) char *text = xstrndup(name.ptr, name.len);
    struct limit_counter *c = limit_find(s, name);
    max = MAX(max, (int64_t)0);
    if (!c) { /* the key or the limit comes with the next snapshot */
        int64_t bounds[LIMIT_UNITS] = {0};
        bounds[u] = max;
        c = limit_take(s, text, bounds, 0);
    }
    pthread_mutex_lock(&s->lock);
    if (!c->parts[u].max) /* another unit of it came before */
        limit_part_bound(s, &c->parts[u], max);
    pthread_mutex_unlock(&s->lock);
    return c;
}

void limit_cap(struct limit_set *s, struct str name, enum limit_unit u, int64_t max, int64_t share)
{
    struct limit_counter *c = limit_bound(s, name, u, max);
    pthread_mutex_lock(&s->lock);
    c->parts[u].cap = MIN(MAX(share, (int64_t)0), INT64_MAX - 1) + 1;
    pthread_mutex_unlock(&s->lock);
    limit_counter_unref(c);
}

void limit_each_beyond(struct limit_set *s, bool (*fn)(void *arg, struct limit_counter *c), void *arg)
{
    struct map_iter it = MAP_ITER_INIT;
    bool on = true;
    pthread_mutex_lock(&s->lock);
    while (on && map_next(s->by_name, &it)) {
        struct limit_counter *c = it.value;
        const struct limit_part *p = &c->parts[LIMIT_CONCURRENT];
        if (atomic_load(&p->share) > limit_base(p->max, s->parts))
            on = fn(arg, c);
    }
    pthread_mutex_unlock(&s->lock);
}

void limit_each_less(struct limit_set *s, bool (*fn)(void *arg, const char *name, enum limit_unit u, int64_t max, int64_t share), void *arg)
{
    struct map_iter it = MAP_ITER_INIT;
    bool on = true;
    pthread_mutex_lock(&s->lock);
    while (on && map_next(s->by_name, &it)) {
        struct limit_counter *c = it.value;
        for (int u = 0; u < LIMIT_UNITS && on; u++) {
            const struct limit_part *p = &c->parts[u];
            int64_t share = atomic_load(&p->share);
            if (p->max > 0 && share < limit_base(p->max, s->parts))
                on = fn(arg, c->name, (enum limit_unit)u, p->max, share);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

int64_t limit_parts(struct limit_set *s)
{
    pthread_mutex_lock(&s->lock);
    int64_t parts = s->parts;
    pthread_mutex_unlock(&s->lock);
    return parts;
}

/* ---- reports ---- */

static int64_t left_in(const struct limit_part *p, enum limit_unit u, uint64_t now_ns)
{
    int64_t share = atomic_load(&p->share);
    return u == LIMIT_CONCURRENT ? MAX(share - atomic_load(&p->running), 0ll) : limit_left_of(limit_missing_ns(atomic_load(&p->full_at_ns), (int64_t)now_ns), share);
}

bool limit_list(struct limit_set *s, struct limit_counter *c, enum limit_unit u)
{
    pthread_mutex_lock(&s->lock);
    struct limit_part *p = &c->parts[u];
    bool fresh = !p->listed;
    if (fresh)
        p->need = -1;
    p->listed = true;
    pthread_mutex_unlock(&s->lock);
    return fresh;
}

bool limit_need(struct limit_set *s, struct limit_counter *c, enum limit_unit u, int64_t n)
{
    bool fresh = limit_list(s, c, u);
    pthread_mutex_lock(&s->lock);
    struct limit_part *p = &c->parts[u];
    p->need_least = p->need < 0 ? n : MIN(p->need_least, n);
    p->need = MIN(MAX(p->need, (int64_t)0) + n, INT64_MAX / 4);
    pthread_mutex_unlock(&s->lock);
    return fresh;
}

struct limit_report limit_report(struct limit_set *s, struct limit_counter *c, enum limit_unit u, uint64_t now_ns)
{
    pthread_mutex_lock(&s->lock);
    struct limit_part *p = &c->parts[u];
    struct limit_report r = {.max = p->max, .share = atomic_load(&p->share), .given = p->given, .left = left_in(p, u, now_ns), .need = p->need, .need_least = p->need_least};
    p->listed = false;
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* ---- moving ---- */

/* Takes what is free out of a share, n at most. */
static int64_t take_free(struct limit_part *p, enum limit_unit u, int64_t n, uint64_t now_ns)
{
    int64_t missing, share, most = MIN(n, left_in(p, u, now_ns));
    while (u != LIMIT_CONCURRENT && most > 0 && !limit_part_take(p, most, (int64_t)now_ns, &missing, &share))
        most = MIN(most - 1, limit_left_of(missing, share));
    return MAX(most, (int64_t)0);
}

void limit_give(struct limit_set *s, struct limit_counter *c, enum limit_unit u, const struct limit_recall *r, uint64_t now_ns)
{
    struct limit_part *p = &c->parts[u];
    pthread_mutex_lock(&s->lock);
    int64_t share = atomic_load(&p->share), base = limit_base(p->max, s->parts);
    int64_t back = MIN(MAX(share - base, (int64_t)0), MAX(r->restore, (int64_t)0)); /* what is another's */
    bool busy = now_ns < atomic_load(&p->asked_ns) + BUSY_NS;
    int64_t stays = busy && !r->large ? (base + 1) / 2 : 0, may = MAX(share - back - stays, (int64_t)0);
    int64_t free = take_free(p, u, back + MIN(may, MAX(r->amount - back, (int64_t)0)), now_ns), to = share - MAX(back, free);
    if (u == LIMIT_CONCURRENT) {
        if (free)
            resize_running(p, share - free);
    } else if (to < share) {
        resize(p, to, -(share - to), (int64_t)now_ns); /* what was taken is missing here, and goes with the share */
        p->given += free;
    }
    pthread_mutex_unlock(&s->lock);
}

void limit_grow(struct limit_set *s, struct limit_counter *c, enum limit_unit u, int64_t share, int64_t content, uint64_t now_ns)
{
    struct limit_part *p = &c->parts[u];
    pthread_mutex_lock(&s->lock);
    int64_t to = MIN(atomic_load(&p->share) + MAX(share, (int64_t)0), p->max);
    if (u == LIMIT_CONCURRENT)
        resize_running(p, to);
    else if (to > atomic_load(&p->share))
        resize(p, to, MAX(to - atomic_load(&p->share) - MAX(content, (int64_t)0), (int64_t)0), (int64_t)now_ns);
    pthread_mutex_unlock(&s->lock);
}

void limit_verdict(struct limit_counter *c, enum limit_unit u, int64_t more, uint64_t until_ns)
{
    atomic_store(&c->parts[u].more, MAX(more, (int64_t)0));
    atomic_store(&c->parts[u].verdict_until_ns, until_ns);
}

struct limit_counter *limit_find(struct limit_set *s, struct str name)
{
    pthread_mutex_lock(&s->lock);
    struct limit_counter *c = map_get(s->by_name, name);
    if (c)
        atomic_fetch_add(&c->refs, 1);
    pthread_mutex_unlock(&s->lock);
    return c;
}

const char *limit_counter_name(const struct limit_counter *c)
{
    return c->name;
}
