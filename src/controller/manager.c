/* The manager: shared informers, one queue and some workers a controller, and the lease. */
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "controller/internal.h"
#include "controller/lease.h"

#define SYNC_TIMEOUT_MS 60000u
#define PASS_ARENA_MAX (64u * 1024 * 1024)
#define TAKE_MS 500u
#define PAUSE_MS 100u
#define DEADLINE_MS 60000u
#define FAILURES_SHOWN 5 /* so many in a row, and the object says so: shorter troubles pass by themselves */
#define CONDITION "Reconciled"

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
    struct recorder *recorder;
    atomic_bool stop;
};

struct pass {
    struct controller *controller;
    uint64_t deadline_ms;
    bool late; /* a call was refused for it */
};

struct manager *manager_new(struct client *c, const char *identity)
{
    struct manager *m = XNEW(struct manager);
    *m = (struct manager){.client = c, .identity = xstrdup(identity), .controllers = VEC_INIT, .informers = VEC_INIT, .recorder = recorder_new(c)};
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
    if (!*name)
        return;
    /* Who owns things in namespaces need not lie in one: an object has one key. */
    if (snprintf(key, sizeof(key), "%s/%s", c->ops.primary->namespaced ? ns : "", name) < (int)sizeof(key))
        workqueue_add(c->queue, key, delay_ms);
}

static void on_primary(void *arg, json_t *prev, json_t *now)
{
    json_t *obj = now ? now : prev;
    enqueue(arg, obj_namespace(obj), obj_name(obj), 0);
}

static void enqueue_owners(struct controller *c, const json_t *obj)
{
    json_t *ref;
    size_t i;
    json_array_foreach (json_at(obj, "metadata.ownerReferences"), i, ref)
        if (!strcmp(json_str_or(ref, "kind", ""), c->ops.primary->name))
            enqueue(c, obj_namespace(obj), json_str_or(ref, "name", ""), 0);
}

/* An owner that is one no more wants to know that, too. */
static void on_owned(void *arg, json_t *prev, json_t *now)
{
    enqueue_owners(arg, prev);
    enqueue_owners(arg, now);
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
    c->ops.deadline_ms = ops->deadline_ms ? ops->deadline_ms : DEADLINE_MS;
    workqueue_set_share(c->queue, (size_t)ops->share);
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

/* ---- one pass ---- */

static int allow(void *arg, uint64_t *timeout_ms, struct err *err)
{
    struct pass *p = arg;
    uint64_t now = clock_mono_ms();
    if (!lease_held(p->controller->manager->lease))
        return err_set(err, ERR_CANCELED, "the lease is lost: another may be leading");
    if (now >= p->deadline_ms) {
        p->late = true;
        return err_set(err, ERR_TIMEOUT, "the pass has taken longer than %llu ms", (unsigned long long)p->controller->ops.deadline_ms);
    }
    *timeout_ms = MIN(*timeout_ms, p->deadline_ms - now);
    return 0;
}

bool reconcile_must_end(const struct reconcile *r)
{
    return atomic_load(&r->manager->stop) || !lease_held(r->manager->lease) || clock_mono_ms() >= r->pass->deadline_ms;
}

int reconcile_release(struct reconcile *r, const struct kind *k, const char *finalizer,
                      struct err *err)
{
    struct client_resource resource = kind_resource(k);
    if (!obj_drop_finalizer(r->obj, finalizer))
        return 0;
    int rc = client_update(r->client, &resource, r->obj, NULL, err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

/* Says on the object that its controller fails, or no longer does. Only a change of status or reason is written: a message that is never the same twice must not turn the
 * back-off into a busy loop. */
static void show(struct controller *c, const struct reconcile *r, const char *status, const char *reason, const char *message)
{
    struct client_resource resource = kind_resource(c->ops.primary);
    struct pass p = {.controller = c, .deadline_ms = clock_mono_ms() + c->ops.deadline_ms};
    struct err err = ERR_INIT;
    JSON_AUTO now = c->ops.primary->has_status ? informer_get(c->primary, r->ns, r->name) : NULL;
    const char *had = obj_condition(now, CONDITION), *why = obj_condition_reason(now, CONDITION);
    if (!now || (!had && !strcmp(status, "True")) || (had && !strcmp(had, status) && why && !strcmp(why, reason)))
        return;
    JSON_AUTO obj = json_deep_copy(now);
    obj_set_condition(obj, CONDITION, status, reason, message, clock_wall_ms());
    struct client *fenced = client_fenced(c->manager->client, allow, &p);
    if (client_update_status(fenced, &resource, obj, NULL, &err) < 0) /* the next pass tries again */
        log_debug("the condition " CONDITION " was not written", KV("object", r->name), KVE(&err));
    client_free(fenced);
}

static void failed(struct controller *c, const struct reconcile *r, const struct pass *p, const char *key, const struct err *err)
{
    uint64_t delay = workqueue_retry(c->queue, key);
    /* A conflict means that the cache was behind: the next look has the newer version. */
    if (err->code == ERR_CONFLICT)
        log_debug("reconcile again: the object has changed", KV("controller", c->ops.name), KV("object", key));
    else
        log_warn("reconcile failed", KV("controller", c->ops.name), KV("object", key), KVI("again_in_ms", delay), KVE(err));
    if (p->late)
        show(c, r, "False", "DeadlineExceeded", err->msg);
    else if (err->code != ERR_CANCELED && workqueue_failures(c->queue, key) >= FAILURES_SHOWN)
        show(c, r, "False", err_reason(err->code), err->msg);
}

static void pass(struct controller *c, const char *key)
{
    struct err err = ERR_INIT;
    struct arena *arena = arena_new(PASS_ARENA_MAX);
    const char *slash = strchr(key, '/');
    struct pass p = {.controller = c, .deadline_ms = clock_mono_ms() + c->ops.deadline_ms};
    struct reconcile r = {.client = client_fenced(c->manager->client, allow, &p), .manager = c->manager, .arena = arena, .pass = &p};
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
        err.code = rc;
        failed(c, &r, &p, key, &err);
    } else {
        workqueue_forget(c->queue, key);
        if (r.requeue_ms)
            workqueue_add(c->queue, key, r.requeue_ms);
        show(c, &r, "True", "Reconciled", "its controller works on it again");
    }
    client_free(r.client);
    arena_free(arena);
}

static void *work(void *arg)
{
    struct controller *c = arg;
    struct manager *m = c->manager;
    while (!atomic_load(&m->stop)) {
        if (!lease_held(m->lease)) {
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000}, NULL);
            continue;
        }
        char *key = workqueue_take(c->queue, TAKE_MS);
        if (!key)
            continue;
        if (lease_held(m->lease))
            pass(c, key);
        else
            workqueue_add(c->queue, key, 0); /* for when it is held again */
        workqueue_done(c->queue, key);
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
    m->lease = lease_new(&(struct lease_options){.client = m->client, .identity = m->identity});
    rc = lease_start(m->lease, err);
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
    lease_free(m->lease);
    VEC_FOREACH (&m->controllers, c) {
        workqueue_free((*c)->queue);
        mem_free(*c);
    }
    VEC_FOREACH (&m->informers, i)
        informer_free(*i);
    VEC_DEINIT(&m->controllers);
    VEC_DEINIT(&m->informers);
    recorder_free(m->recorder);
    mem_free(m->identity);
    mem_free(m);
}

void manager_event(struct manager *m, const json_t *obj, const char *type, const char *reason, const char *message)
{
    recorder_event(m->recorder, obj, type, reason, message);
}
