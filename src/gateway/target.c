#include "gateway/target.h"

#include "base/mem.h"

#define FAILURES_MAX 3     /* in a row; a failed connect is enough */
#define ASIDE_MS 1000      /* the first time, then twice as long each time … */
#define ASIDE_MAX_MS 30000 /* … up to this */
#define RETRIES_MAX 100    /* in a burst: what a target that dies had in flight */
#define BUSY_MS 1000       /* where the target does not say how long */
#define BUSY_MAX_MS 30000  /* whatever it says */
#define TOLD_MAX 1000000   /* requests, whatever it says */

static atomic_int indexes; /* that there are */

static void drop_index(struct target *t)
{
    if (t->prefixes)
        atomic_fetch_sub(&indexes, 1);
    prefix_index_free(t->prefixes);
    t->prefixes = NULL;
}

static void make_index(struct target *t)
{
    if (atomic_fetch_add(&indexes, 1) < TARGET_INDEXES_MAX)
        t->prefixes = prefix_index_new(TARGET_INDEX_BYTES);
    else
        atomic_fetch_sub(&indexes, 1);
}

struct target_set {
    pthread_mutex_t lock; /* for target_open() and target_tell(): all others are the builder's */
    struct map *by_name;
};

struct target *target_ref(struct target *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void target_unref(struct target *t)
{
    if (atomic_fetch_sub(&t->refs, 1) == 1) {
        drop_index(t);
        slots_free(t->slots);
        pthread_mutex_destroy(&t->lock);
        mem_free(t->name);
        mem_free(t);
    }
}

static void release(void *value)
{
    target_unref(value);
}

struct target_set *target_set_new(void)
{
    struct target_set *s = XNEW(struct target_set);
    pthread_mutex_init(&s->lock, NULL);
    s->by_name = map_new(release);
    return s;
}

void target_set_free(struct target_set *s)
{
    if (!s)
        return;
    map_free(s->by_name);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

/* It was away for a while: who listens there now is another engine, or one that is well again as control says, and has done nothing wrong yet. */
static void forgive(struct target *t)
{
    atomic_store(&t->failures, 0);
    atomic_store(&t->opened, 0);
    atomic_store(&t->aside_until_ms, 0);
    atomic_store(&t->rests_until_ms, 0);
}

struct target *target_take(struct target_set *s, const char *name)
{
    struct target *t = map_getc(s->by_name, name);
    if (!t) {
        t = XNEW(struct target);
        t->name = xstrdup(name);
        pthread_mutex_init(&t->lock, NULL);
        atomic_store(&t->refs, 1);
        atomic_store(&t->retries, RETRIES_MAX * 10);
        pthread_mutex_lock(&s->lock);
        map_set(s->by_name, str_of(name), t);
        pthread_mutex_unlock(&s->lock);
    }
    if (atomic_load(&t->closing))
        forgive(t);
    atomic_store(&t->closing, false);
    atomic_fetch_add(&t->refs, 1);
    return t;
}

const struct target *target_find(struct target_set *s, const char *name)
{
    return map_getc(s->by_name, name);
}

void target_prune(struct target_set *s)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_name, &it))
        if (atomic_load(&((struct target *)it.value)->refs) == 1)
            map_del(s->by_name, it.key);
    pthread_mutex_unlock(&s->lock);
}

void target_close(struct target_set *s, bool (*has)(void *arg, const char *name), void *arg)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->by_name, &it)) {
        struct target *t = it.value;
        if (!has(arg, t->name))
            atomic_store(&t->closing, true);
    }
}

static void tell(struct target *t, const json_t *said, uint64_t now_ms)
{
    int64_t waiting = MIN(MAX(json_int(said, "waiting", 0), (int64_t)0), (int64_t)TOLD_MAX), running = MIN(MAX(json_int(said, "running", 0), (int64_t)0), (int64_t)TOLD_MAX);
    int64_t age_ms = MAX(json_int(said, "ageMilliseconds", 0), (int64_t)0);
    atomic_store(&t->told_waiting, (int)waiting);
    atomic_store(&t->told_requests, (int)(waiting + running));
    atomic_store(&t->told_kv, (int)MIN(MAX(json_int(said, "kvThousandths", 0), (int64_t)0), (int64_t)1000));
    atomic_store(&t->told_until_ms, !said || age_ms >= TARGET_TOLD_MS ? 0 : now_ms + TARGET_TOLD_MS - (uint64_t)age_ms);
}

void target_tell(struct target_set *s, const json_t *engines, uint64_t now_ms)
{
    struct map *said = map_new(NULL);
    struct map_iter it = MAP_ITER_INIT;
    size_t i;
    json_t *e;
    json_array_foreach (engines, i, e)
        map_set(said, str_of(json_str_or(e, "name", "")), e);
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_name, &it)) {
        struct target *t = it.value;
        e = map_getc(said, t->name);
        if (e || atomic_load(&t->told_until_ms))
            tell(t, e, now_ms);
    }
    pthread_mutex_unlock(&s->lock);
    map_free(said);
}

bool target_open(struct target_set *s, const char *name, int *ret_running)
{
    pthread_mutex_lock(&s->lock);
    const struct target *t = map_getc(s->by_name, name);
    *ret_running = t ? atomic_load(&t->in_flight) : 0;
    bool open = t && !atomic_load(&t->closing);
    pthread_mutex_unlock(&s->lock);
    return open;
}

/* ---- the breaker ---- */

bool target_rests(const struct target *t, uint64_t now_ms)
{
    return atomic_load(&t->rests_until_ms) > now_ms;
}

bool target_is_aside(const struct target *t, uint64_t now_ms)
{
    return atomic_load(&t->aside_until_ms) > now_ms || target_rests(t, now_ms) || (atomic_load(&t->opened) && atomic_load(&t->trying));
}

bool target_begin(struct target *t, uint64_t now_ms)
{
    bool nobody = false;
    atomic_fetch_add(&t->in_flight, 1);
    if (atomic_load(&t->retries) < RETRIES_MAX * 10)
        atomic_fetch_add(&t->retries, 1);
    return atomic_load(&t->opened) && atomic_load(&t->aside_until_ms) <= now_ms && atomic_compare_exchange_strong(&t->trying, &nobody, true);
}

static uint64_t aside_for(int opened)
{
    return opened > 5 ? ASIDE_MAX_MS : MIN((uint64_t)ASIDE_MS << opened, (uint64_t)ASIDE_MAX_MS);
}

/* Those that were under way when it was put aside say nothing new. */
static bool count_failure(struct target *t, bool tries, bool unreachable, uint64_t now_ms)
{
    int failures = atomic_fetch_add(&t->failures, 1) + 1;
    bool was = atomic_load(&t->opened) && target_is_aside(t, now_ms);
    bool open = tries || (!was && (unreachable || failures >= FAILURES_MAX));
    if (open)
        atomic_store(&t->aside_until_ms, now_ms + aside_for(atomic_fetch_add(&t->opened, 1)));
    return open;
}

bool target_blame(struct target *t, uint64_t now_ms)
{
    return count_failure(t, false, false, now_ms);
}

bool target_end(struct target *t, bool tries, enum target_outcome outcome, uint64_t busy_ms, uint64_t now_ms)
{
    bool open = false;
    atomic_fetch_sub(&t->in_flight, 1);
    if (outcome == TARGET_OK) {
        atomic_store(&t->failures, 0);
        atomic_store(&t->opened, 0);
    } else if (outcome == TARGET_BUSY) {
        atomic_store(&t->rests_until_ms, now_ms + MIN(busy_ms ? busy_ms : BUSY_MS, (uint64_t)BUSY_MAX_MS));
    } else if (outcome != TARGET_NEITHER) {
        open = count_failure(t, tries, outcome == TARGET_UNREACHABLE, now_ms);
    }
    if (tries)
        atomic_store(&t->trying, false);
    return open;
}

bool target_may_retry(struct target *t)
{
    if (atomic_fetch_sub(&t->retries, 10) >= 10)
        return true;
    atomic_fetch_add(&t->retries, 10);
    return false;
}

/* ---- what it has cached ---- */

size_t target_cached(struct target *t, const uint64_t *hashes, size_t count)
{
    pthread_mutex_lock(&t->lock);
    size_t n = t->prefixes ? prefix_match(t->prefixes, hashes, count) : 0;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void target_cache(struct target *t, const uint64_t *hashes, size_t count, struct prefix_seen *ret)
{
    *ret = (struct prefix_seen){0};
    pthread_mutex_lock(&t->lock);
    if (!t->prefixes)
        make_index(t);
    if (t->prefixes) {
        prefix_look(t->prefixes, hashes, count, ret);
        prefix_add(t->prefixes, hashes, count);
    }
    pthread_mutex_unlock(&t->lock);
}

void target_learn(struct target *t, const struct prefix_seen *seen, size_t found)
{
    pthread_mutex_lock(&t->lock);
    t->tells |= found > 0; /* who never does may not know */
    if (t->prefixes && t->tells)
        prefix_learn(t->prefixes, seen, found);
    pthread_mutex_unlock(&t->lock);
}

void target_forget(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    drop_index(t);
    pthread_mutex_unlock(&t->lock);
}
