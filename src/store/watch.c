/* The change feed. Watches are served by a pump that runs from a timer, never inside a write: so an event is delivered after its revision is
 * visible, and handlers may write. Change by change, each to all who watch: what a handler makes of a change, the next can use again. */
#include "base/mem.h"
#include "store/internal.h"

/* Calls of handlers in one turn; then the loop looks after sockets, or those who are behind would fill their buffers by our own doing. */
#define CALLS_A_TURN 4096

/* Watches of one prefix. A change is looked up by the beginnings of its key, so that it costs what its own watches cost, however many others there are. All
 * groups are fed to the same revision, s->fed_rev; a watch that begins earlier in history is behind and catches up by itself first. */
struct watch_group {
    TAILQ_HEAD(, store_watch) watches;
    size_t prefix_len;
    char prefix[];
};

struct store_watch {
    TAILQ_ENTRY(store_watch) link; /* in its group, or among those behind */
    SLIST_ENTRY(store_watch) gone;
    struct store *store;
    struct watch_group *group; /* NULL: behind */
    char *prefix;
    size_t prefix_len;
    int64_t after_rev; /* behind: delivered up to here; in a group: where it began */
    void (*fn)(void *arg, const struct store_event *e);
    void *arg;
    bool stopped;
};

/* ---- groups ---- */

static struct str prefix_of(const struct store_watch *w)
{
    return str_n(w->prefix, w->prefix_len);
}

/* How many groups have prefixes of that length. */
static size_t *length_count(struct store *s, size_t len)
{
    VEC_FOREACH (&s->watch_lengths, l)
        if (l->len == len)
            return &l->groups;
    struct watch_length *l = VEC_PUSH(&s->watch_lengths);
    *l = (struct watch_length){len, 0};
    return &l->groups;
}

static void join_group(struct store_watch *w)
{
    struct store *s = w->store;
    struct watch_group *g = map_get(s->watch_groups, prefix_of(w));
    if (!g) {
        g = xcalloc(1, sizeof(*g) + w->prefix_len + 1);
        g->prefix_len = w->prefix_len;
        memcpy(g->prefix, w->prefix, w->prefix_len);
        TAILQ_INIT(&g->watches);
        map_set(s->watch_groups, prefix_of(w), g);
        ++*length_count(s, w->prefix_len);
    }
    w->group = g;
    TAILQ_INSERT_TAIL(&g->watches, w, link);
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
    struct store *s = w->store;
    struct watch_group *g = w->group;
    if (g)
        TAILQ_REMOVE(&g->watches, w, link);
    else
        TAILQ_REMOVE(&s->behind, w, link);
    if (g && TAILQ_EMPTY(&g->watches)) {
        --*length_count(s, g->prefix_len);
        map_del(s->watch_groups, prefix_of(w));
        mem_free(g);
    }
    mem_free(w->prefix);
    mem_free(w);
}

int64_t store_delivered_rev(const struct store *s)
{
    int64_t rev = map_len(s->watch_groups) ? s->fed_rev : s->visible_rev;
    const struct store_watch *w;
    TAILQ_FOREACH (w, &s->behind, link)
        if (!w->stopped && w->after_rev < rev)
            rev = w->after_rev;
    return rev;
}

/* ---- delivery ---- */

static size_t feed_group(struct watch_group *g, const struct store_event *e)
{
    size_t calls = 0;
    struct store_watch *w;
    TAILQ_FOREACH (w, &g->watches, link)
        if (!w->stopped && e->rev > w->after_rev) {
            w->fn(w->arg, e);
            calls++;
        }
    return calls;
}

static size_t feed(struct store *s, const struct store_change *c)
{
    size_t calls = 0;
    struct store_event e = {c->rev, change_prev(c), change_now(c)};
    struct str key = c->node->key;
    for (size_t i = 0; i < s->watch_lengths.len; i++) {
        struct watch_length l = s->watch_lengths.ptr[i];
        struct watch_group *g = l.groups && l.len <= key.len ? map_get(s->watch_groups, str_n(key.ptr, l.len)) : NULL;
        if (g)
            calls += feed_group(g, &e);
    }
    return calls;
}

/* One revision whole. */
static size_t feed_revision(struct store *s, size_t *i)
{
    int64_t rev = store_change_at(s, *i)->rev;
    size_t calls = 0;
    for (; *i < s->change_count && store_change_at(s, *i)->rev == rev; (*i)++) {
        struct store_change c = *store_change_at(s, *i);
        calls += feed(s, &c);
    }
    s->fed_rev = rev;
    return calls;
}

/* History for one that is behind, whole revisions, until it has what the groups have. */
static size_t catch_up(struct store *s, struct store_watch *w, size_t most)
{
    size_t calls = 0;
    size_t i = store_first_change_after(s, w->after_rev);
    while (i < s->change_count && store_change_at(s, i)->rev <= s->fed_rev && calls < most && !w->stopped) {
        struct store_change c = *store_change_at(s, i++);
        struct store_event e = {c.rev, change_prev(&c), change_now(&c)};
        if (str_starts(c.node->key, prefix_of(w))) {
            w->fn(w->arg, &e);
            calls++;
        }
        if (i == s->change_count || store_change_at(s, i)->rev > c.rev)
            w->after_rev = c.rev;
        else
            most += most == calls; /* not in the middle of a revision */
    }
    if (i == s->change_count || store_change_at(s, i)->rev > s->fed_rev)
        w->after_rev = MAX(w->after_rev, s->fed_rev);
    return calls;
}

static size_t feed_behind(struct store *s, size_t most)
{
    size_t calls = 0;
    struct store_watch *w, *next;
    TAILQ_FOREACH_SAFE (w, &s->behind, link, next) {
        if (calls >= most)
            break;
        if (!w->stopped)
            calls += catch_up(s, w, most - calls);
        if (!w->stopped && w->after_rev >= s->fed_rev) {
            TAILQ_REMOVE(&s->behind, w, link);
            join_group(w);
        }
    }
    return calls;
}

/* Those that stopped while the lists were walked. */
static void settle(struct store *s)
{
    struct store_watch *w;
    while ((w = SLIST_FIRST(&s->gone))) {
        SLIST_REMOVE_HEAD(&s->gone, gone);
        watch_free(w);
    }
}

void store_pump(struct timer *t)
{
    struct store *s = t->arg;
    s->pumping = true;
    size_t calls = feed_behind(s, CALLS_A_TURN);
    for (size_t i = store_first_change_after(s, s->fed_rev); i < s->change_count && calls < CALLS_A_TURN;)
        calls += feed_revision(s, &i);
    if (s->fed_rev < s->visible_rev && store_first_change_after(s, s->fed_rev) == s->change_count)
        s->fed_rev = s->visible_rev;
    s->pumping = false;
    settle(s);
    int64_t rev = store_delivered_rev(s);
    if (s->fed_rev < s->visible_rev || !TAILQ_EMPTY(&s->behind))
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
    *w = (struct store_watch){.store = s, .prefix = xstrndup(prefix.ptr, prefix.len), .prefix_len = prefix.len, .after_rev = after_rev, .fn = fn, .arg = arg};
    s->stats.watches++;
    if (after_rev >= s->fed_rev && !s->pumping) {
        join_group(w);
    } else {
        TAILQ_INSERT_TAIL(&s->behind, w, link);
        store_schedule_pump(s);
    }
    *ret = w;
    return 0;
}

void store_watch_stop(struct store_watch *w)
{
    struct store *s = w->store;
    w->stopped = true;
    s->stats.watches--;
    if (s->pumping)
        SLIST_INSERT_HEAD(&s->gone, w, gone);
    else
        watch_free(w);
}

void store_watches_init(struct store *s)
{
    TAILQ_INIT(&s->behind);
    SLIST_INIT(&s->gone);
    s->watch_groups = map_new(NULL);
}

void store_watches_deinit(struct store *s)
{
    struct map_iter it = MAP_ITER_INIT;
    s->pumping = false; /* a test that failed in a handler comes here from it */
    settle(s);
    while (!TAILQ_EMPTY(&s->behind))
        store_watch_stop(TAILQ_FIRST(&s->behind));
    while (map_next(s->watch_groups, &it)) {
        struct watch_group *g = it.value;
        struct store_watch *w = TAILQ_FIRST(&g->watches), *next;
        for (; w; w = next) {
            next = TAILQ_NEXT(w, link);
            store_watch_stop(w); /* the last one takes the group with it */
        }
    }
    map_free(s->watch_groups);
    VEC_DEINIT(&s->watch_lengths);
}

int64_t store_watch_rev(const struct store_watch *w)
{
    return w->group ? MAX(w->after_rev, w->store->fed_rev) : w->after_rev;
}

void store_on_revision(struct store *s, void (*fn)(void *arg, int64_t rev), void *arg)
{
    s->on_revision = fn;
    s->on_revision_arg = arg;
}
