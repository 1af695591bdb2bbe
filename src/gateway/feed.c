#include "gateway/feed.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "controller/informer.h"
#include "kinds/inference.h"
#include "kinds/residency.h"
#include "kinds/tenancy.h"

#define SAVE_EVERY_MS 1000 /* a burst of changes is one write of the file */

enum { KEYS, ENDPOINTS, REPLICAS, NAMESPACES, TENANTS, LIMITS, ROUTES, SITES, POLICIES, PRICES, KIND_COUNT };

struct feed {
    char *file;
    const struct engine_paths *engines;
    struct informer *informers[KIND_COUNT];
    struct snapshot_memory *memory; /* the thread's */
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows, but for version */
    pthread_cond_t wake;
    struct snapshot *current;
    int64_t file_time_ms; /* of the file's snapshot, while it is the current one */
    atomic_ullong version;
    bool dirty, stop, from_api, started;
};

static void mark_dirty(struct feed *f)
{
    pthread_mutex_lock(&f->lock);
    f->dirty = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
}

static void on_changed(void *arg, json_t *prev UNUSED, json_t *now UNUSED)
{
    mark_dirty(arg);
}

static void on_synced(void *arg)
{
    mark_dirty(arg);
}

static void publish(struct feed *f, struct snapshot *s, int64_t file_time_ms)
{
    pthread_mutex_lock(&f->lock);
    struct snapshot *old = f->current;
    f->current = s;
    f->file_time_ms = file_time_ms;
    f->from_api = !file_time_ms;
    atomic_fetch_add(&f->version, 1);
    pthread_mutex_unlock(&f->lock);
    snapshot_unref(old);
}

static void load_file(struct feed *f)
{
    struct snapshot_source source;
    struct stat st;
    struct err err = ERR_INIT;
    if (lstat(f->file, &st) < 0)
        return;
    if (snapshot_load(f->file, &source, &err) < 0) {
        log_warn("the saved routing snapshot cannot be used; waiting for the API", KV("file", f->file), KVE(&err));
        return;
    }
    publish(f, snapshot_build(&source, f->engines, f->memory), (int64_t)st.st_mtim.tv_sec * 1000 + 1);
    snapshot_source_deinit(&source);
}

static bool all_synced(const struct feed *f)
{
    for (int i = 0; i < KIND_COUNT; i++)
        if (!informer_synced(f->informers[i]))
            return false;
    return true;
}

static void save(const struct feed *f, const struct snapshot_source *source)
{
    struct err err = ERR_INIT;
    if (snapshot_save(f->file, source, &err) < 0)
        log_error("the routing snapshot could not be saved", KVE(&err));
}

/* Waits under the lock until something is to be done, or until_ms (monotonic; 0: for ever). */
static void wait_for_work(struct feed *f, uint64_t until_ms)
{
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000L};
    while (!f->dirty && !f->stop) {
        if (!until_ms)
            pthread_cond_wait(&f->wake, &f->lock);
        else if (pthread_cond_timedwait(&f->wake, &f->lock, &until) == ETIMEDOUT)
            return;
    }
}

static void *run(void *arg)
{
    struct feed *f = arg;
    struct snapshot_source source = {.keys = NULL};
    uint64_t save_at_ms = 0, saved_ms = 0;
    for (;;) {
        pthread_mutex_lock(&f->lock);
        wait_for_work(f, save_at_ms);
        bool stop = f->stop, build = f->dirty;
        f->dirty = false;
        pthread_mutex_unlock(&f->lock);
        if (stop)
            break;
        if (build && all_synced(f)) {
            snapshot_source_deinit(&source);
            source = (struct snapshot_source){informer_list(f->informers[KEYS], NULL), informer_list(f->informers[ENDPOINTS], NULL),
                                              informer_list(f->informers[REPLICAS], NULL), informer_list(f->informers[NAMESPACES], NULL),
                                              informer_list(f->informers[TENANTS], NULL), informer_list(f->informers[LIMITS], NULL), informer_list(f->informers[ROUTES], NULL),
                                              informer_list(f->informers[SITES], NULL), informer_list(f->informers[POLICIES], NULL), informer_list(f->informers[PRICES], NULL)};
            publish(f, snapshot_build(&source, f->engines, f->memory), 0);
            snapshot_close_targets(f->current, f->memory); /* only this thread changes current */
            if (!save_at_ms)
                save_at_ms = MAX(saved_ms + SAVE_EVERY_MS, (uint64_t)1);
        }
        if (save_at_ms && clock_mono_ms() >= save_at_ms) {
            save(f, &source);
            saved_ms = clock_mono_ms();
            save_at_ms = 0;
        }
    }
    if (save_at_ms)
        save(f, &source);
    snapshot_source_deinit(&source);
    return NULL;
}

int feed_start(struct client *c, const char *snapshot_file, const struct engine_paths *engines, struct feed **ret, struct err *err)
{
    const struct kind *const kinds[KIND_COUNT] = {[KEYS] = &kind_api_key, [ENDPOINTS] = &kind_model_endpoint, [REPLICAS] = &kind_model_replica,
                                                  [NAMESPACES] = kind_by_name("Namespace"), [TENANTS] = &kind_tenant, [LIMITS] = &kind_limit, [ROUTES] = &kind_model_route,
                                                  [SITES] = &kind_site, [POLICIES] = &kind_residency_policy, [PRICES] = &kind_price};
    struct feed *f = XNEW(struct feed);
    pthread_condattr_t attr;
    int rc = 0;
    f->file = xstrdup(snapshot_file);
    f->engines = engines;
    f->memory = snapshot_memory_new();
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->wake, &attr);
    pthread_condattr_destroy(&attr);
    load_file(f);
    for (int i = 0; i < KIND_COUNT; i++) {
        struct informer_handler h = {.changed = on_changed, .synced = on_synced, .arg = f};
        f->informers[i] = informer_new(c, kinds[i]);
        informer_add_handler(f->informers[i], &h);
    }
    for (int i = 0; i < KIND_COUNT && rc == 0; i++)
        rc = informer_start(f->informers[i], err);
    if (rc == 0) {
        int eno = pthread_create(&f->thread, NULL, run, f);
        f->started = eno == 0;
        if (eno)
            rc = err_sys(err, eno, "start the snapshot's thread");
    }
    if (rc < 0) {
        feed_stop(f);
        return rc;
    }
    *ret = f;
    return 0;
}

void feed_stop(struct feed *f)
{
    if (!f)
        return;
    for (int i = 0; i < KIND_COUNT; i++)
        informer_stop(f->informers[i]);
    if (f->started) {
        pthread_mutex_lock(&f->lock);
        f->stop = true;
        pthread_cond_signal(&f->wake);
        pthread_mutex_unlock(&f->lock);
        pthread_join(f->thread, NULL);
    }
    for (int i = 0; i < KIND_COUNT; i++)
        informer_free(f->informers[i]);
    snapshot_unref(f->current);
    snapshot_memory_free(f->memory);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    mem_free(f->file);
    mem_free(f);
}

struct budget_set *feed_budgets(struct feed *f)
{
    return snapshot_memory_budgets(f->memory);
}

struct limit_set *feed_limits(struct feed *f)
{
    return snapshot_memory_limits(f->memory);
}

unsigned long long feed_version(const struct feed *f)
{
    return atomic_load_explicit(&f->version, memory_order_acquire);
}

struct snapshot *feed_take(struct feed *f, unsigned long long *ret_version)
{
    pthread_mutex_lock(&f->lock);
    struct snapshot *s = snapshot_ref(f->current);
    *ret_version = atomic_load(&f->version);
    pthread_mutex_unlock(&f->lock);
    return s;
}

bool feed_is_live(struct feed *f)
{
    pthread_mutex_lock(&f->lock);
    bool live = f->from_api;
    pthread_mutex_unlock(&f->lock);
    return live;
}

bool feed_target_open(struct feed *f, const char *name, int *ret_running)
{
    return snapshot_target_open(f->memory, name, ret_running);
}

void feed_tell_targets(struct feed *f, const json_t *engines)
{
    snapshot_tell_targets(f->memory, engines, clock_mono_ms());
}

double feed_age_seconds(struct feed *f)
{
    pthread_mutex_lock(&f->lock);
    bool none = !f->current, from_api = f->from_api;
    int64_t fresh = f->file_time_ms;
    pthread_mutex_unlock(&f->lock);
    if (none)
        return -1;
    for (int i = 0; from_api && i < KIND_COUNT; i++) {
        int64_t ms = informer_fresh_ms(f->informers[i]);
        if (!fresh || ms < fresh)
            fresh = ms;
    }
    int64_t age = clock_wall_ms() - fresh;
    return age > 0 ? (double)age / 1000 : 0;
}
