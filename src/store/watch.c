/* The change feed. Watches are served by a pump that runs from a timer, never inside a write: so an event is delivered after its revision is
 * visible, and handlers may write. */
#include "base/mem.h"
#include "store/internal.h"

struct store_watch {
    LIST_ENTRY(store_watch) link;
    struct store *store;
    char *prefix;
    size_t prefix_len;
    int64_t after_rev; /* delivered up to here */
    void (*fn)(void *arg, const struct store_event *e);
    void *arg;
    bool stopped;
};

static void deliver(struct store *s, struct store_watch *w)
{
    size_t i = store_first_change_after(s, w->after_rev);
    for (; i < s->change_count && !w->stopped; i++) {
        struct store_change *c = store_change_at(s, i);
        w->after_rev = c->rev;
        if (!str_starts(c->node->key, str_n(w->prefix, w->prefix_len)))
            continue;
        struct store_event e = {c->rev, c->prev, c->now};
        w->fn(w->arg, &e);
    }
}

bool store_changed(struct store *s, struct str prefix, int64_t rev)
{
    if (rev < s->first_rev)
        return true;
    for (size_t i = store_first_change_after(s, rev); i < s->change_count; i++)
        if (str_starts(store_change_at(s, i)->node->key, prefix))
            return true;
    return false;
}

static void watch_free(struct store_watch *w)
{
    LIST_REMOVE(w, link);
    mem_free(w->prefix);
    mem_free(w);
}

void store_pump(struct timer *t)
{
    struct store *s = t->arg;
    struct store_watch *w, *next;
    s->pumping = true;
    int64_t rev = s->visible_rev;
    LIST_FOREACH (w, &s->watches, link)
        if (!w->stopped)
            deliver(s, w);
    s->pumping = false;
    LIST_FOREACH_SAFE (w, &s->watches, link, next)
        if (w->stopped)
            watch_free(w);
    if (s->on_revision && rev > s->announced_rev)
        s->on_revision(s->on_revision_arg, rev);
    s->announced_rev = rev;
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
    *w = (struct store_watch){.store = s, .prefix = xstrndup(prefix.ptr, prefix.len), .prefix_len = prefix.len, .after_rev = after_rev, .fn = fn, .arg = arg};
    LIST_INSERT_HEAD(&s->watches, w, link);
    if (after_rev < s->visible_rev)
        store_schedule_pump(s);
    *ret = w;
    return 0;
}

void store_watch_stop(struct store_watch *w)
{
    w->stopped = true;
    if (!w->store->pumping)
        watch_free(w);
}

void store_on_revision(struct store *s, void (*fn)(void *arg, int64_t rev), void *arg)
{
    s->on_revision = fn;
    s->on_revision_arg = arg;
}

size_t store_watch_count(const struct store *s)
{
    size_t count = 0;
    const struct store_watch *w;
    LIST_FOREACH (w, &s->watches, link)
        count++;
    return count;
}
