/* The manager: shared informers, one queue and some workers a controller, and the lease. */
#include <pthread.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "controller/internal.h"

#define SYNC_TIMEOUT_MS 60000u
#define PASS_ARENA_MAX (64u * 1024 * 1024)
#define TAKE_MS 500u
#define PAUSE_MS 200u

struct controller {
    struct manager *manager;
    struct controller_ops ops;
    void *ctx;
    struct informer *primary;
    struct workqueue *queue;
    VEC(pthread_t) workers;
    struct metric *passes, *failures;
    struct metric *duration;
};

struct manager {
    struct client *client;
    char *identity;
    VEC(struct controller *) controllers;
    VEC(struct informer *) informers;
    struct lease *lease;
    atomic_bool stop;
};

struct manager *manager_new(struct client *c, const char *identity)
{
    struct manager *m = XNEW(struct manager);
    *m = (struct manager){.client = c, .identity = xstrdup(identity), .controllers = VEC_INIT, .informers = VEC_INIT};
    return m;
}

struct informer *manager_informer(struct manager *m, const struct kind *k)
{
    VEC_FOREACH (&m->informers, i)
        if (informer_kind(*i) == k)
            return *i;
    struct informer *i = informer_new(m->client, k);
    *VEC_PUSH(&m->informers) = i;
    return i;
}

static void enqueue(struct controller *c, const char *ns, const char *name, uint64_t delay_ms)
{
    char key[600];
    if (snprintf(key, sizeof(key), "%s/%s", ns, name) < (int)sizeof(key))
        workqueue_add(c->queue, key, delay_ms);
}

static void on_primary(void *arg, json_t *prev, json_t *now)
{
    json_t *obj = now ? now : prev;
    enqueue(arg, obj_namespace(obj), obj_name(obj), 0);
}

static void on_owned(void *arg, json_t *prev, json_t *now)
{
    struct controller *c = arg;
    json_t *obj = now ? now : prev, *ref;
    size_t i;
    json_array_foreach (json_at(obj, "metadata.ownerReferences"), i, ref)
        if (!strcmp(json_str_or(ref, "kind", ""), c->ops.primary->name))
            enqueue(c, obj_namespace(obj), json_str_or(ref, "name", ""), 0);
}

static void make_metrics(struct controller *c)
{
    static const char *const result_labels[] = {"controller", "result", NULL}, *const labels[] = {"controller", NULL};
    struct metric_family *total = metric_family("seki_controller_reconciles_total", "Reconcile passes, by controller and result.", METRIC_COUNTER, result_labels, 64, NULL, 0);
    struct metric_family *duration = metric_family("seki_controller_reconcile_duration_seconds", "Time of one pass.", METRIC_HISTOGRAM, labels, 32, metric_latency_buckets,
                                                   metric_latency_bucket_count);
    c->passes = metric_series(total, (const struct str[]){str_of(c->ops.name), STR("ok")});
    c->failures = metric_series(total, (const struct str[]){str_of(c->ops.name), STR("error")});
    c->duration = metric_series(duration, (const struct str[]){str_of(c->ops.name)});
}

void manager_add(struct manager *m, const struct controller_ops *ops, void *ctx)
{
    struct controller *c = XNEW(struct controller);
    *c = (struct controller){.manager = m, .ops = *ops, .ctx = ctx, .queue = workqueue_new(), .workers = VEC_INIT};
    c->primary = manager_informer(m, ops->primary);
    informer_add_handler(c->primary, &(struct informer_handler){.changed = on_primary, .arg = c});
    for (const struct kind *const *k = ops->owned; k && *k; k++)
        informer_add_handler(manager_informer(m, *k), &(struct informer_handler){.changed = on_owned, .arg = c});
    make_metrics(c);
    *VEC_PUSH(&m->controllers) = c;
}

void manager_enqueue(struct manager *m, const char *controller, const char *ns, const char *name)
{
    VEC_FOREACH (&m->controllers, c)
        if (!strcmp((*c)->ops.name, controller))
            enqueue(*c, ns, name, 0);
}

static void pass(struct controller *c, const char *key)
{
    struct err err = ERR_INIT;
    struct arena *arena = arena_new(PASS_ARENA_MAX);
    const char *slash = strchr(key, '/');
    struct reconcile r = {.client = c->manager->client, .manager = c->manager, .arena = arena};
    r.ns = arena_strndup(arena, str_n(key, (size_t)(slash - key)));
    r.name = arena_strdup(arena, slash + 1);
    uint64_t began = clock_mono_ns();
    JSON_AUTO cached = informer_get(c->primary, r.ns, r.name);
    r.obj = cached ? json_deep_copy(cached) : NULL;
    int rc = c->ops.reconcile(c->ctx, &r, &err);
    json_decref(r.obj);
    metric_observe(c->duration, (double)(clock_mono_ns() - began) / 1e9);
    metric_add(rc < 0 ? c->failures : c->passes, 1);
    if (rc < 0) {
        uint64_t delay = workqueue_retry(c->queue, key);
        /* A conflict means that the cache was behind: the next look has the newer version. */
        if (rc == ERR_CONFLICT)
            log_debug("reconcile again: the object has changed", KV("controller", c->ops.name), KV("object", key));
        else
            log_warn("reconcile failed", KV("controller", c->ops.name), KV("object", key), KVI("again_in_ms", delay), KVE(&err));
    } else {
        workqueue_forget(c->queue, key);
        if (r.requeue_ms)
            workqueue_add(c->queue, key, r.requeue_ms);
    }
    arena_free(arena);
}

static void *work(void *arg)
{
    struct controller *c = arg;
    struct manager *m = c->manager;
    while (!atomic_load(&m->stop)) {
        char *key = workqueue_take(c->queue, TAKE_MS);
        if (!key)
            continue;
        if (lease_held(m->lease)) {
            pass(c, key);
            workqueue_done(c->queue, key);
        } else {
            workqueue_done(c->queue, key);
            workqueue_add(c->queue, key, PAUSE_MS);
        }
        mem_free(key);
    }
    return NULL;
}

static int start_workers(struct controller *c, struct err *err)
{
    for (int i = 0; i < (c->ops.workers ? c->ops.workers : 1); i++) {
        pthread_t t;
        int eno = pthread_create(&t, NULL, work, c);
        if (eno)
            return err_sys(err, eno, "cannot start a thread");
        *VEC_PUSH(&c->workers) = t;
    }
    return 0;
}

int manager_start(struct manager *m, struct err *err)
{
    int rc = 0;
    m->lease = lease_start(m->client, m->identity, err);
    if (!m->lease)
        return ERR_INTERNAL;
    VEC_FOREACH (&m->informers, i)
        if (rc == 0)
            rc = informer_start(*i, err);
    VEC_FOREACH (&m->informers, i)
        if (rc == 0)
            rc = informer_wait(*i, SYNC_TIMEOUT_MS, err);
    VEC_FOREACH (&m->controllers, c)
        if (rc == 0)
            rc = start_workers(*c, err);
    return rc;
}

void manager_stop(struct manager *m)
{
    if (!m)
        return;
    atomic_store(&m->stop, true);
    VEC_FOREACH (&m->controllers, c)
        workqueue_shutdown((*c)->queue);
    VEC_FOREACH (&m->informers, i)
        informer_stop(*i);
    VEC_FOREACH (&m->controllers, c) {
        VEC_FOREACH (&(*c)->workers, t)
            pthread_join(*t, NULL);
        VEC_DEINIT(&(*c)->workers);
    }
    lease_stop(m->lease);
    VEC_FOREACH (&m->controllers, c) {
        workqueue_free((*c)->queue);
        mem_free(*c);
    }
    VEC_FOREACH (&m->informers, i)
        informer_free(*i);
    VEC_DEINIT(&m->controllers);
    VEC_DEINIT(&m->informers);
    mem_free(m->identity);
    mem_free(m);
}

void manager_event(struct manager *m, const json_t *obj, const char *type, const char *reason, const char *message)
{
    controller_event(m->client, obj, type, reason, message);
}
