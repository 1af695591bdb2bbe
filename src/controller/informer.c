#include "controller/informer.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "base/vec.h"

#define BACKOFF_MIN_MS 200u
#define BACKOFF_MAX_MS 5000
#define STUCK_MAX 3
#define WORRY_MS 5000 /* a server that starts anew breaks every watch: only what goes on for longer is for somebody to look at */

struct informer {
    struct client *client;
    const struct kind *kind;
    VEC(struct informer_handler) handlers;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    struct map *cache; /* "NS/NAME" → json_t * */
    bool synced;
    int64_t fresh_ms;
    struct err last_error;
    /* The thread's own: */
    int64_t rev;    /* everything up to this revision was seen. One revision may change several objects, so the last event's own is complete only when a later one came */
    struct err bad; /* why the last event could not be used */
    int64_t last_rev; /* of the last event */
    bool moved;       /* the watch brought something new */
    unsigned stuck;   /* watches in a row that broke and did not */
};

static void decref(void *value)
{
    json_decref(value);
}

struct informer *informer_new(struct client *c, const struct kind *k)
{
    struct informer *i = XNEW(struct informer);
    pthread_condattr_t attr;
    *i = (struct informer){.client = c, .kind = k, .handlers = VEC_INIT, .cache = map_new(decref)};
    pthread_mutex_init(&i->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&i->wake, &attr);
    pthread_condattr_destroy(&attr);
    return i;
}

void informer_add_handler(struct informer *i, const struct informer_handler *h)
{
    *VEC_PUSH(&i->handlers) = *h;
}

static bool key_of(const json_t *obj, char *key, size_t size)
{
    const char *name = obj_name(obj);
    return name && snprintf(key, size, "%s/%s", obj_namespace(obj), name) < (int)size;
}

static int64_t rev_of(const json_t *obj)
{
    const char *rv = json_str(obj, "metadata.resourceVersion");
    int64_t n = 0;
    return rv && str_to_i64(str_of(rv), 0, INT64_MAX, &n) == 0 ? n : 0;
}

static void tell(struct informer *i, json_t *prev, json_t *now)
{
    VEC_FOREACH (&i->handlers, h)
        if (h->changed)
            h->changed(h->arg, prev, now);
}

static bool same_uid(const json_t *a, const json_t *b)
{
    const char *x = obj_uid(a), *y = obj_uid(b);
    return !strcmp(x ? x : "", y ? y : "");
}

/* Puts obj in the cache, or takes it out; the handlers hear of it. A version older than the cached one of the same object is an echo from the past. */
static void apply(struct informer *i, json_t *obj, bool deleted)
{
    char key[600];
    if (!key_of(obj, key, sizeof(key)))
        return;
    pthread_mutex_lock(&i->lock);
    json_t *prev = map_getc(i->cache, key);
    bool same = prev && same_uid(prev, obj);
    bool stale = prev && (rev_of(obj) < rev_of(prev) || (!deleted && same && rev_of(obj) == rev_of(prev)));
    if (stale || (deleted && !same)) {
        pthread_mutex_unlock(&i->lock);
        return;
    }
    prev = json_incref(prev);
    if (deleted)
        map_del(i->cache, str_of(key));
    else
        map_set(i->cache, str_of(key), json_incref(obj));
    pthread_mutex_unlock(&i->lock);
    if (prev && !same) {
        tell(i, prev, NULL);
        tell(i, NULL, obj);
    } else {
        tell(i, prev, deleted ? NULL : obj);
    }
    json_decref(prev);
}

static void seen(struct informer *i, int64_t rev)
{
    i->rev = MAX(i->rev, rev);
    pthread_mutex_lock(&i->lock);
    i->fresh_ms = clock_wall_ms();
    pthread_mutex_unlock(&i->lock);
}

/* What is cached and not in the list is gone. */
static void drop_missing(struct informer *i, const json_t *items)
{
    struct map *there = map_new(NULL);
    VEC(json_t *) gone = VEC_INIT;
    char key[600];
    size_t n;
    json_t *obj;
    json_array_foreach (items, n, obj)
        if (key_of(obj, key, sizeof(key)))
            map_set(there, str_of(key), obj);
    pthread_mutex_lock(&i->lock);
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(i->cache, &it))
        if (!map_get(there, it.key)) {
            *VEC_PUSH(&gone) = json_incref(it.value);
            map_del(i->cache, it.key);
        }
    pthread_mutex_unlock(&i->lock);
    VEC_FOREACH (&gone, o) {
        tell(i, *o, NULL);
        json_decref(*o);
    }
    VEC_DEINIT(&gone);
    map_free(there);
}

static int list(struct informer *i, struct err *err)
{
    struct client_resource r = kind_resource(i->kind);
    JSON_AUTO items = NULL;
    char rv[32] = "";
    int64_t rev;
    size_t n;
    json_t *obj;
    int rc = client_list_until(i->client, &r, NULL, NULL, &i->stop, &items, rv, err);
    if (rc < 0)
        return rc;
    if (str_to_i64(str_of(rv), 1, INT64_MAX, &rev) < 0)
        return err_field(err, ERR_PROTOCOL, "metadata.resourceVersion", "the list of %s has no usable resourceVersion", r.plural);
    if (rev < i->rev)
        return err_set(err, ERR_UNAVAILABLE, "the API is at revision %lld, behind %lld which was seen already; if a backup was restored, restart this program", (long long)rev,
                       (long long)i->rev);
    i->stuck = 0;
    i->last_rev = rev;
    drop_missing(i, items);
    json_array_foreach (items, n, obj)
        apply(i, obj, false);
    seen(i, rev);
    pthread_mutex_lock(&i->lock);
    i->synced = true;
    i->last_error = (struct err){0};
    pthread_cond_broadcast(&i->wake);
    pthread_mutex_unlock(&i->lock);
    VEC_FOREACH (&i->handlers, h)
        if (h->synced)
            h->synced(h->arg);
    return 0;
}

static bool on_event(void *arg, const char *type, json_t *object)
{
    struct informer *i = arg;
    int64_t rev = rev_of(object);
    bool bookmark = !strcmp(type, "BOOKMARK"), deleted = !strcmp(type, "DELETED");
    if (!rev || (!bookmark && !obj_name(object)) || (!bookmark && !deleted && strcmp(type, "ADDED") != 0 && strcmp(type, "MODIFIED") != 0)) {
        err_set(&i->bad, ERR_PROTOCOL, "an event of %s without a known type, a name and a resourceVersion", i->kind->plural);
        return false;
    }
    if (!bookmark && rev > i->rev)
        apply(i, object, deleted);
    i->moved |= rev > i->last_rev;
    i->last_rev = MAX(i->last_rev, rev);
    seen(i, bookmark ? rev : rev - 1);
    return !atomic_load(&i->stop);
}

static void wait_ms(struct informer *i, uint64_t ms)
{
    uint64_t until = clock_mono_ms() + ms;
    struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    pthread_mutex_lock(&i->lock);
    while (!atomic_load(&i->stop) && pthread_cond_timedwait(&i->wake, &i->lock, &t) == 0)
        ;
    pthread_mutex_unlock(&i->lock);
}

/* One round: list when there is nothing to go on from, else watch until it ends. */
static int follow(struct informer *i, bool *list_needed, struct err *err)
{
    struct client_resource r = kind_resource(i->kind);
    int rc = 0;
    i->moved = false;
    if (*list_needed) {
        rc = list(i, err);
        if (rc < 0)
            return rc;
        *list_needed = false;
    }
    char rv[32];
    snprintf(rv, sizeof(rv), "%lld", (long long)i->rev);
    i->bad = (struct err){0};
    rc = client_watch(i->client, &r, NULL, rv, &i->stop, on_event, i, err);
    if (rc == 0 && i->bad.code) {
        *err = i->bad;
        rc = err->code;
    }
    /* A server may break off each time before anything has arrived, when there is too much to catch up with. */
    i->stuck = rc == ERR_CLOSED && !i->moved ? i->stuck + 1 : 0;
    /* What cannot be read once cannot be read again: a list goes around it. */
    *list_needed = i->stuck >= STUCK_MAX || rc == ERR_GONE || rc == ERR_PROTOCOL || rc == ERR_BAD_REQUEST || rc == ERR_TOO_LARGE;
    return rc == ERR_GONE ? 0 : rc;
}

static void *run(void *arg)
{
    struct informer *i = arg;
    uint64_t backoff = BACKOFF_MIN_MS, failing_since = 0;
    bool list_needed = true;
    while (!atomic_load(&i->stop)) {
        struct err err = ERR_INIT;
        uint64_t began = clock_mono_ms();
        int rc = follow(i, &list_needed, &err);
        if (atomic_load(&i->stop))
            break;
        uint64_t now = clock_mono_ms();
        if (i->moved || now - began > BACKOFF_MAX_MS) {
            backoff = BACKOFF_MIN_MS;
            failing_since = 0;
        }
        if (rc < 0) {
            failing_since = failing_since ? failing_since : now;
            pthread_mutex_lock(&i->lock);
            i->last_error = err;
            pthread_mutex_unlock(&i->lock);
            LOG_AT(now - failing_since < WORRY_MS ? LOG_INFO : LOG_WARN, "watching objects failed; trying again", KV("resource", i->kind->plural), KVI("in_ms", backoff), KVE(&err));
        }
        if (rc < 0 || clock_mono_ms() - began < 100) { /* a watch that ends at once must not make us spin */
            wait_ms(i, backoff / 2 + rnd_below(backoff / 2 + 1));
            backoff = backoff * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff * 2;
        }
    }
    return NULL;
}

int informer_start(struct informer *i, struct err *err)
{
    if (i->started)
        return 0;
    int eno = pthread_create(&i->thread, NULL, run, i);
    if (eno)
        return err_sys(err, eno, "cannot start a thread");
    i->started = true;
    return 0;
}

void informer_stop(struct informer *i)
{
    if (!i->started)
        return;
    pthread_mutex_lock(&i->lock);
    atomic_store(&i->stop, true);
    pthread_cond_broadcast(&i->wake);
    pthread_mutex_unlock(&i->lock);
    pthread_join(i->thread, NULL);
    i->started = false;
}

void informer_free(struct informer *i)
{
    if (!i)
        return;
    informer_stop(i);
    map_free(i->cache);
    VEC_DEINIT(&i->handlers);
    pthread_cond_destroy(&i->wake);
    pthread_mutex_destroy(&i->lock);
    mem_free(i);
}

bool informer_synced(struct informer *i)
{
    pthread_mutex_lock(&i->lock);
    bool synced = i->synced;
    pthread_mutex_unlock(&i->lock);
    return synced;
}

int informer_wait(struct informer *i, uint64_t timeout_ms, struct err *err)
{
    uint64_t until = clock_mono_ms() + timeout_ms;
    struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    int rc = 0;
    pthread_mutex_lock(&i->lock);
    while (!i->synced && !atomic_load(&i->stop) && pthread_cond_timedwait(&i->wake, &i->lock, &t) == 0)
        ;
    if (!i->synced)
        rc = err_set(err, ERR_TIMEOUT, "%s could not be listed within %llu ms: %s", i->kind->plural, (unsigned long long)timeout_ms,
                     i->last_error.code ? i->last_error.msg : "no answer yet");
    pthread_mutex_unlock(&i->lock);
    return rc;
}

json_t *informer_get(struct informer *i, const char *ns, const char *name)
{
    char key[600];
    snprintf(key, sizeof(key), "%s/%s", i->kind->namespaced && ns ? ns : "", name);
    pthread_mutex_lock(&i->lock);
    json_t *obj = json_incref(map_getc(i->cache, key));
    pthread_mutex_unlock(&i->lock);
    return obj;
}

json_t *informer_list(struct informer *i, const char *ns)
{
    json_t *all = json_array();
    pthread_mutex_lock(&i->lock);
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(i->cache, &it))
        if (!ns || !strcmp(obj_namespace(it.value), ns))
            json_array_append(all, it.value);
    pthread_mutex_unlock(&i->lock);
    return all;
}

int64_t informer_fresh_ms(struct informer *i)
{
    pthread_mutex_lock(&i->lock);
    int64_t ms = i->fresh_ms;
    pthread_mutex_unlock(&i->lock);
    return ms;
}

const struct kind *informer_kind(const struct informer *i)
{
    return i->kind;
}
