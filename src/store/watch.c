/* The change feed. Watches are served by a pump that runs from a timer, never inside a write: so an event is delivered after its revision is
 * visible, and handlers may write. Change by change, each to all who watch: what a handler makes of a change, the next can use again. */
#include "base/mem.h"
#include "store/internal.h"

/* Calls of handlers in one turn; then the loop looks after sockets, or those who are behind would fill their buffers by our own doing. */
#define CALLS_A_TURN 4096

struct store_watch {
    TAILQ_ENTRY(store_watch) link;
    struct store *store;
    char *prefix;
    size_t prefix_len;
    int64_t after_rev; /* delivered up to here */
    void (*fn)(void *arg, const struct store_event *e);
    void *arg;
    bool stopped;
    bool fresh; /* begun by a handler: its turn is the next, from its own revision on */
};

static void watch_free(struct store_watch *w)
{
    TAILQ_REMOVE(&w->store->watches, w, link);
    mem_free(w->prefix);
    mem_free(w);
}

int64_t store_delivered_rev(const struct store *s)
{
    int64_t rev = s->visible_rev;
    const struct store_watch *w;
    TAILQ_FOREACH (w, &s->watches, link)
        if (!w->stopped && w->after_rev < rev)
            rev = w->after_rev;
    return rev;
}

static size_t deliver(struct store *s, const struct store_change *c)
{
    size_t calls = 0;
    struct store_event e = {c->rev, change_prev(c), change_now(c)};
    struct store_watch *w;
    TAILQ_FOREACH (w, &s->watches, link) {
        if (w->stopped || w->fresh || w->after_rev >= c->rev || !str_starts(c->node->key, str_n(w->prefix, w->prefix_len)))
            continue;
        w->fn(w->arg, &e);
        calls++;
    }
    return calls;
}

static void delivered(struct store *s, int64_t rev)
{
    struct store_watch *w;
    TAILQ_FOREACH (w, &s->watches, link)
        if (!w->fresh && w->after_rev < rev)
            w->after_rev = rev;
}

/* One revision whole, the first that some watch has not had. */
static size_t deliver_revision(struct store *s, size_t *i)
{
    int64_t rev = store_change_at(s, *i)->rev;
    size_t calls = 0;
    for (; *i < s->change_count && store_change_at(s, *i)->rev == rev; (*i)++) {
        struct store_change c = *store_change_at(s, *i);
        calls += deliver(s, &c);
    }
    delivered(s, rev);
    return calls;
}

/* What handlers did to the list while it was walked. */
static void settle_list(struct store *s)
{
    struct store_watch *w, *next;
    TAILQ_FOREACH_SAFE (w, &s->watches, link, next) {
        w->fresh = false;
        if (w->stopped)
            watch_free(w);
    }
}

void store_pump(struct timer *t)
{
    struct store *s = t->arg;
    size_t calls = 0;
    s->pumping = true;
    for (size_t i = store_first_change_after(s, store_delivered_rev(s)); i < s->change_count && calls < CALLS_A_TURN;)
        calls += deliver_revision(s, &i);
    s->pumping = false;
    settle_list(s);
    int64_t rev = store_delivered_rev(s);
    if (rev < s->visible_rev)
        store_schedule_pump(s);
    if (s->compact_rev > s->first_rev)
        store_compact(s, s->compact_rev);
    if (rev > s->announced_rev) {
        s->announced_rev = rev;
        if (s->on_revision)
            s->on_revision(s->on_revision_arg, rev);
    }
}

void store_schedule_pump(struct store *s)
{
    if (!timer_armed(&s->pump))
        timer_start(&s->pump, 0);
}

int store_watch(struct store *s, struct str prefix, int64_t after_rev, void (*fn)(void *arg, const struct store_event *e), void *arg,
                struct store_watch **ret, struct err *err)
{
    if (after_rev < s->first_rev)
        return err_set(err, ERR_GONE, "revision %lld is compacted; the oldest is %lld", (long long)after_rev, (long long)s->first_rev);
    struct store_watch *w = XNEW(struct store_watch);
    *w = (struct store_watch){.store = s, .prefix = xstrndup(prefix.ptr, prefix.len), .prefix_len = prefix.len, .after_rev = after_rev, .fn = fn, .arg = arg, .fresh = s->pumping};
    TAILQ_INSERT_TAIL(&s->watches, w, link);
    s->stats.watches++;
    if (after_rev < s->visible_rev)
        store_schedule_pump(s);
    *ret = w;
    return 0;
}

void store_watch_stop(struct store_watch *w)
{
    w->stopped = true;
    w->store->stats.watches--;
    if (!w->store->pumping)
        watch_free(w);
}

int64_t store_watch_rev(const struct store_watch *w)
{
    return w->after_rev;
}

void store_on_revision(struct store *s, void (*fn)(void *arg, int64_t rev), void *arg)
{
    s->on_revision = fn;
    s->on_revision_arg = arg;
}
