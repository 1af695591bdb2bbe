/* The queue: a map of keys, a FIFO a group (the namespace of a key) of those that are due, and a list of those that wait, sorted by their time. */
#include <pthread.h>
#include <sys/queue.h>
#include <time.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "controller/controller.h"

#define BACKOFF_MIN_MS 50u
#define BACKOFF_MAX_MS 60000u

enum item_state { IDLE, READY, DELAYED, PROCESSING };

struct item {
    TAILQ_ENTRY(item) link; /* in its group's ready or in delayed, by state */
    char *key;
    struct group *group;
    enum item_state state;
    uint64_t due_ms;
    bool again; /* PROCESSING: asked for once more, at again_ms */
    uint64_t again_ms;
    unsigned failures;
};
TAILQ_HEAD(item_list, item);

struct group {
    LIST_ENTRY(group) link;
    char *name;
    struct item_list ready;
    size_t items, processing;
    uint64_t served; /* when it was last given a turn; a new one waits as long as any */
};
LIST_HEAD(group_list, group);

struct workqueue {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct map *items, *groups;
    struct group_list group_list;
    struct item_list delayed;
    size_t ready_count, share; /* share 0: none */
    uint64_t turns;
    bool down;
};

static void group_free(void *value)
{
    struct group *g = value;
    LIST_REMOVE(g, link);
    mem_free(g->name);
    mem_free(g);
}

static struct group *take_group(struct workqueue *q, const char *key)
{
    const char *slash = strchr(key, '/');
    struct str name = str_n(key, slash ? (size_t)(slash - key) : 0);
    struct group *g = map_get(q->groups, name);
    if (!g) {
        g = XNEW(struct group);
        g->name = xstrndup(name.ptr, name.len);
        g->served = ++q->turns;
        TAILQ_INIT(&g->ready);
        LIST_INSERT_HEAD(&q->group_list, g, link);
        map_set(q->groups, str_of(g->name), g);
    }
    g->items++;
    return g;
}

static void item_free(void *value)
{
    struct item *i = value;
    mem_free(i->key);
    mem_free(i);
}

struct workqueue *workqueue_new(void)
{
    struct workqueue *q = XNEW(struct workqueue);
    pthread_condattr_t attr;
    q->items = map_new(item_free);
    q->groups = map_new(group_free);
    LIST_INIT(&q->group_list);
    TAILQ_INIT(&q->delayed);
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->wake, &attr);
    pthread_condattr_destroy(&attr);
    return q;
}

void workqueue_set_share(struct workqueue *q, size_t share)
{
    q->share = share;
}

void workqueue_free(struct workqueue *q)
{
    if (!q)
        return;
    map_free(q->items);
    map_free(q->groups);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    mem_free(q);
}

static struct item *find(struct workqueue *q, const char *key)
{
    struct item *i = map_getc(q->items, key);
    if (i)
        return i;
    i = XNEW(struct item);
    i->key = xstrdup(key);
    i->group = take_group(q, key);
    map_set(q->items, str_of(key), i);
    return i;
}

static void drop(struct workqueue *q, struct item *i)
{
    struct group *g = i->group;
    CLEANUP(mem_freep) char *key = xstrdup(i->key);
    map_del(q->items, str_of(key));
    if (--g->items)
        return;
    CLEANUP(mem_freep) char *name = xstrdup(g->name);
    map_del(q->groups, str_of(name));
}

static bool may_have_another(const struct workqueue *q, const struct group *g)
{
    return !q->share || !*g->name || g->processing < q->share;
}

/* The group's turn that has least at work, of those the one that waits longest; its oldest key. */
static struct item *next(struct workqueue *q)
{
    struct group *best = NULL, *g;
    LIST_FOREACH (g, &q->group_list, link)
        if (TAILQ_FIRST(&g->ready) && may_have_another(q, g) &&
            (!best || g->processing < best->processing || (g->processing == best->processing && g->served < best->served)))
            best = g;
    return best ? TAILQ_FIRST(&best->ready) : NULL;
}

static void insert(struct workqueue *q, struct item *i, uint64_t now_ms)
{
    if (i->due_ms <= now_ms) {
        i->state = READY;
        TAILQ_INSERT_TAIL(&i->group->ready, i, link);
        q->ready_count++;
        return;
    }
    i->state = DELAYED;
    struct item *before = TAILQ_LAST(&q->delayed, item_list);
    while (before && before->due_ms > i->due_ms)
        before = TAILQ_PREV(before, item_list, link);
    if (before)
        TAILQ_INSERT_AFTER(&q->delayed, before, i, link);
    else
        TAILQ_INSERT_HEAD(&q->delayed, i, link);
}

static void add_at(struct workqueue *q, struct item *i, uint64_t due_ms, uint64_t now_ms)
{
    if (i->state == PROCESSING) {
        if (!i->again || due_ms < i->again_ms)
            i->again_ms = due_ms;
        i->again = true;
        return;
    }
    if (i->state == READY || (i->state == DELAYED && i->due_ms <= due_ms))
        return;
    if (i->state == DELAYED)
        TAILQ_REMOVE(&q->delayed, i, link);
    i->due_ms = due_ms;
    insert(q, i, now_ms);
}

void workqueue_add(struct workqueue *q, const char *key, uint64_t delay_ms)
{
    uint64_t now = clock_mono_ms();
    pthread_mutex_lock(&q->lock);
    if (!q->down) {
        add_at(q, find(q, key), now + delay_ms, now);
        pthread_cond_signal(&q->wake);
    }
    pthread_mutex_unlock(&q->lock);
}

static void move_due(struct workqueue *q, uint64_t now_ms)
{
    struct item *i;
    while ((i = TAILQ_FIRST(&q->delayed)) && i->due_ms <= now_ms) {
        TAILQ_REMOVE(&q->delayed, i, link);
        insert(q, i, now_ms);
    }
}

static void wait_until(struct workqueue *q, uint64_t until_ms)
{
    struct timespec t = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_cond_timedwait(&q->wake, &q->lock, &t);
}

char *workqueue_take(struct workqueue *q, uint64_t timeout_ms)
{
    uint64_t deadline = clock_mono_ms() + timeout_ms;
    char *key = NULL;
    pthread_mutex_lock(&q->lock);
    while (!q->down) {
        uint64_t now = clock_mono_ms();
        move_due(q, now);
        struct item *i = next(q);
        if (i) {
            TAILQ_REMOVE(&i->group->ready, i, link);
            q->ready_count--;
            i->group->processing++;
            i->group->served = ++q->turns;
            i->state = PROCESSING;
            i->again = false;
            key = xstrdup(i->key);
            break;
        }
        if (now >= deadline)
            break;
        i = TAILQ_FIRST(&q->delayed);
        wait_until(q, i && i->due_ms < deadline ? i->due_ms : deadline);
    }
    if (!q->down && (q->ready_count || TAILQ_FIRST(&q->delayed)))
        pthread_cond_signal(&q->wake); /* another taker watches the time from here on */
    pthread_mutex_unlock(&q->lock);
    return key;
}

void workqueue_done(struct workqueue *q, const char *key)
{
    uint64_t now = clock_mono_ms();
    pthread_mutex_lock(&q->lock);
    struct item *i = map_getc(q->items, key);
    if (i && i->state == PROCESSING) {
        i->state = IDLE;
        i->group->processing--;
        if (i->again)
            add_at(q, i, i->again_ms, now);
        else if (!i->failures)
            drop(q, i);
        if (q->ready_count || TAILQ_FIRST(&q->delayed))
            pthread_cond_signal(&q->wake);
    }
    pthread_mutex_unlock(&q->lock);
}

uint64_t workqueue_retry(struct workqueue *q, const char *key)
{
    uint64_t now = clock_mono_ms(), delay = BACKOFF_MIN_MS;
    pthread_mutex_lock(&q->lock);
    struct item *i = find(q, key);
    delay = i->failures < 11 ? (uint64_t)BACKOFF_MIN_MS << i->failures : BACKOFF_MAX_MS;
    delay = delay > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : delay;
    i->failures++;
    delay = delay / 2 + rnd_below(delay / 2 + 1); /* spread, so that many do not come back at once */
    add_at(q, i, now + delay, now);
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
    return delay;
}

void workqueue_forget(struct workqueue *q, const char *key)
{
    pthread_mutex_lock(&q->lock);
    struct item *i = map_getc(q->items, key);
    if (i)
        i->failures = 0;
    if (i && i->state == IDLE)
        drop(q, i);
    pthread_mutex_unlock(&q->lock);
}

void workqueue_shutdown(struct workqueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->down = true;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

unsigned workqueue_failures(struct workqueue *q, const char *key)
{
    pthread_mutex_lock(&q->lock);
    const struct item *i = map_getc(q->items, key);
    unsigned failures = i ? i->failures : 0;
    pthread_mutex_unlock(&q->lock);
    return failures;
}

size_t workqueue_len(struct workqueue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t len = q->ready_count;
    pthread_mutex_unlock(&q->lock);
    return len;
}
