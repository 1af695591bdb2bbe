#include "inference/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/vec.h"
#include "kinds/borrowed.h"

#define DEFAULT_PROBE_MS 2000u
#define DEFAULT_STALL_MS 60000u
#define DEFAULT_IDLE_MS 60000u
#define DEFAULT_DRAIN_MS 120000u
/* A pass waits for engines, which may hang, or hashes for hours: one project has a share of the workers. */
#define REPLICA_WORKERS 16
#define REPLICA_SHARE 4
#define MODEL_WORKERS 4
#define MODEL_SHARE 2
#define MODEL_DEADLINE_MS (6u * 3600 * 1000) /* hashes files of hundreds of gigabytes */

bool set_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *fmt, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    return obj_set_condition(obj, type, status, reason, message, clock_wall_ms());
}

int save_status(struct reconcile *r, const struct kind *k, const json_t *before, struct err *err)
{
    struct client_resource resource = kind_resource(k);
    json_put_int(r->obj, "status.observedGeneration", obj_generation(r->obj));
    if (json_equal(before, json_object_get(r->obj, "status")))
        return 0;
    int rc = client_update_status(r->client, &resource, r->obj, NULL, err);
    return rc == ERR_NOT_FOUND ? 0 : rc; /* gone meanwhile */
}

/* ---- workloads that nobody wants any more ---- */

struct strays {
    struct inference *i;
    struct map *wanted;
    VEC(char *) names;
};

static void collect_stray(void *arg, const char *name, const struct workload_status *s UNUSED)
{
    struct strays *x = arg;
    if (!strncmp(name, WORKLOAD_PREFIX, sizeof(WORKLOAD_PREFIX) - 1) && !map_getc(x->wanted, name))
        *VEC_PUSH(&x->names) = xstrdup(name);
}

static bool is_replicas(void *arg, struct str uid_prefix)
{
    size_t n;
    json_t *obj;
    json_array_foreach ((json_t *)arg, n, obj)
        if (obj_uid(obj) && uid_prefix.len >= 8 && str_starts(str_of(obj_uid(obj)), uid_prefix))
            return true;
    return false;
}

/* After each complete list of replicas: what runs without one is stopped, and what it left is removed (its replica went while this program was down). */
static void on_replicas_listed(void *arg)
{
    struct inference *i = arg;
    struct strays x = {i, map_new(NULL), VEC_INIT};
    JSON_AUTO all = informer_list(i->replicas, NULL);
    size_t n;
    json_t *obj;
    json_array_foreach (all, n, obj) {
        char name[WORKLOAD_NAME_MAX];
        replica_workload_name(obj, name);
        map_set(x.wanted, str_of(name), i);
    }
    i->runtime->ops->each(i->runtime, collect_stray, &x);
    engine_files_sweep(&i->o.paths, is_replicas, all);
    VEC_FOREACH (&x.names, name) {
        struct err err = ERR_INIT;
        log_info("a workload without a replica is stopped", KV("workload", *name));
        if (i->runtime->ops->stop(i->runtime, *name, &err) < 0)
            log_warn("it could not be stopped", KV("workload", *name), KVE(&err));
        mem_free(*name);
    }
    VEC_DEINIT(&x.names);
    map_free(x.wanted);
}

/* A replica that went without its finalizer being honoured leaves nothing behind. */
static void on_replica(void *arg, json_t *prev, json_t *now)
{
    struct inference *i = arg;
    char workload[WORKLOAD_NAME_MAX];
    struct err err = ERR_INIT;
    if (now)
        return;
    replica_workload_name(prev, workload);
    if (i->runtime->ops->stop(i->runtime, workload, &err) < 0)
        log_warn("the workload of a replica that is gone could not be stopped", KV("workload", workload), KVE(&err));
    replica_remove_files(i, prev);
}

/* A key is changed in its Secret: who uses it looks at once. */
static void on_secret(void *arg, json_t *prev, json_t *now)
{
    struct inference *i = arg;
    const json_t *secret = now ? now : prev;
    JSON_AUTO all = informer_list(i->replicas, obj_namespace(secret));
    size_t n;
    json_t *obj;
    json_array_foreach (all, n, obj)
        if (!strcmp(json_str_or(obj, "spec.engine.secret", ""), obj_name(secret)))
            manager_enqueue(i->manager, CONTROLLER_REPLICA, obj_namespace(obj), obj_name(obj));
}

/* A model's change is its endpoints' and replicas' business. */
static void on_model(void *arg, json_t *prev, json_t *now)
{
    struct inference *i = arg;
    const json_t *model = now ? now : prev;
    static const char *const controllers[] = {CONTROLLER_ENDPOINT, CONTROLLER_REPLICA};
    struct informer *const users[] = {i->endpoints, i->replicas};
    for (size_t u = 0; u < ARRAY_LEN(users); u++) {
        JSON_AUTO all = informer_list(users[u], obj_namespace(model));
        size_t n;
        json_t *obj;
        json_array_foreach (all, n, obj)
            if (!strcmp(json_str_or(obj, "spec.model", ""), obj_name(model)))
                manager_enqueue(i->manager, controllers[u], obj_namespace(obj), obj_name(obj));
    }
}

static void on_endpoint(void *arg, json_t *prev, json_t *now)
{
    struct inference *i = arg;
    if (now || !obj_uid(prev))
        return;
    pthread_mutex_lock(&i->lock);
    map_del(i->scales, str_of(obj_uid(prev)));
    pthread_mutex_unlock(&i->lock);
}

/* ---- life ---- */

struct inference *inference_new(struct manager *m, struct runtime *rt, const struct inference_options *o)
{
    static const struct kind *const endpoint_owns[] = {&kind_model_replica, NULL};
    static const struct controller_ops controllers[] = {
        {.name = CONTROLLER_MODEL, .primary = &kind_model, .workers = MODEL_WORKERS, .share = MODEL_SHARE, .deadline_ms = MODEL_DEADLINE_MS, .reconcile = model_reconcile},
        {.name = CONTROLLER_ENDPOINT, .primary = &kind_model_endpoint, .owned = endpoint_owns, .workers = 1, .reconcile = endpoint_reconcile},
        {.name = CONTROLLER_ROUTE, .primary = &kind_model_route, .workers = 1, .reconcile = route_reconcile},
        {.name = CONTROLLER_REPLICA, .primary = &kind_model_replica, .workers = REPLICA_WORKERS, .share = REPLICA_SHARE, .reconcile = replica_reconcile},
    };
    struct inference *i = XNEW(struct inference);
    *i = (struct inference){.manager = m, .runtime = rt, .o = *o, .workloads = map_new(mem_free), .memory = map_new(mem_free)};
    i->o.probe_interval_ms = o->probe_interval_ms ? o->probe_interval_ms : DEFAULT_PROBE_MS;
    i->o.stall_ms = o->stall_ms ? o->stall_ms : DEFAULT_STALL_MS;
    i->o.idle_ms = o->idle_ms ? o->idle_ms : DEFAULT_IDLE_MS;
    i->o.drain_ms = o->drain_ms ? o->drain_ms : DEFAULT_DRAIN_MS;
    pthread_mutex_init(&i->lock, NULL);
    scaling_start(i);
    i->models = manager_informer(m, &kind_model);
    i->endpoints = manager_informer(m, &kind_model_endpoint);
    i->replicas = manager_informer(m, &kind_model_replica);
    i->routes = manager_informer(m, &kind_model_route);
    i->secrets = manager_informer(m, &kind_secret);
    for (size_t c = 0; c < ARRAY_LEN(controllers); c++)
        manager_add(m, &controllers[c], i);
    census_start(i);
    informer_add_handler(i->endpoints, &(struct informer_handler){.changed = on_endpoint, .arg = i});
    informer_add_handler(i->models, &(struct informer_handler){.changed = on_model, .arg = i});
    informer_add_handler(i->replicas, &(struct informer_handler){.changed = on_replica, .synced = on_replicas_listed, .arg = i});
    informer_add_handler(i->endpoints, &(struct informer_handler){.changed = route_on_endpoint, .arg = i});
    informer_add_handler(i->secrets, &(struct informer_handler){.changed = on_secret, .arg = i});
    return i;
}

void inference_workload_changed(struct inference *i, const char *workload)
{
    CLEANUP(mem_freep) char *key = NULL;
    pthread_mutex_lock(&i->lock);
    const char *known = map_getc(i->workloads, workload);
    key = known ? xstrdup(known) : NULL;
    pthread_mutex_unlock(&i->lock);
    char *slash = key ? strchr(key, '/') : NULL;
    if (!slash)
        return;
    *slash = 0;
    manager_enqueue(i->manager, CONTROLLER_REPLICA, key, slash + 1);
}

void inference_free(struct inference *i)
{
    if (!i)
        return;
    map_free(i->workloads);
    map_free(i->memory);
    scaling_stop(i);
    pthread_mutex_destroy(&i->lock);
    mem_free(i);
}
