#include "kaas/balancer.h"
#include "kaas/node.h"
#include "kaas/people.h"
#include "kaas/recovery.h"
#include "kaas/store_space.h"
#include "kaas/warm.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"
#include "node/wiper.h"

#define WORKERS 4
#define SHARE 2
#define BACKUP_WORKERS 2
#define BACKUP_DEADLINE_MS 600000u /* programs have their own */
#define STOP_ALL_MS 12000u
#define STOP_LOOK_MS 20u

/* ---- workloads that nobody wants any more ---- */

struct strays {
    struct map *wanted;
    VEC(char *) names;
};

static void collect_stray(void *arg, const char *name, const struct workload_status *w UNUSED)
{
    struct strays *x = arg;
    if (!strncmp(name, WORKLOAD_PREFIX, sizeof(WORKLOAD_PREFIX) - 1) && !(x->wanted && map_getc(x->wanted, name)))
        *VEC_PUSH(&x->names) = xstrdup(name);
}

static void free_names(struct strays *x)
{
    VEC_FOREACH (&x->names, name)
        mem_free(*name);
    VEC_DEINIT(&x->names);
}

static struct site site_of(const json_t *cluster)
{
    return (struct site){.ns = obj_namespace(cluster), .name = obj_name(cluster), .uid = obj_uid(cluster) ? obj_uid(cluster) : "", .warm = cluster_is_claimed(cluster), .members = (int)json_int(cluster, "spec.controlPlane.replicas", 1)};
}

static void stop_workload(struct kaas *k, const char *name)
{
    struct err err = ERR_INIT;
    if (k->runtime->ops->stop(k->runtime, name, &err) < 0)
        log_warn("a process of a cluster that is gone could not be stopped", KV("workload", name), KVE(&err));
}

struct known {
    const struct kaas *k;
    const json_t *clusters;
    const char *root;
};

static void tell_of_directory(void *arg, const char *uid, const char *ns, const char *name)
{
    const struct known *known = arg;
    size_t i;
    json_t *c;
    json_array_foreach ((json_t *)(uintptr_t)known->clusters, i, c)
        if (obj_uid(c) && !strcmp(obj_uid(c), uid))
            return;
    CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", known->root, uid);
    if (place_is_warm(dir))
        return; /* the pool looks after those */
    node_network_release(known->k, uid);
    log_warn("files of a cluster that there is not are kept; remove them when nobody misses it", KV("directory", uid), KV("namespace", ns), KV("cluster", name));
}

static bool is_of_nodes(const json_t *clusters, const char *workload)
{
    size_t i;
    json_t *obj;
    json_array_foreach ((json_t *)(uintptr_t)clusters, i, obj) {
        struct site s = site_of(obj);
        if (node_workload_is_of(&s, workload))
            return true;
    }
    return false;
}

/* After each complete list: what runs without a Cluster is stopped. Its files stay: a store that was brought back to an earlier state may know less than it should. */
static void on_listed(void *arg)
{
    struct kaas *k = arg;
    struct strays x = {map_new(NULL), VEC_INIT};
    JSON_AUTO all = informer_list(k->clusters, NULL);
    size_t i;
    json_t *obj;
    json_array_foreach (all, i, obj) {
        struct site s = site_of(obj);
        for (enum component c = 0; c < COMPONENTS; c++)
            for (int m = 0; m < component_count(&s, c); m++) {
                char name[WORKLOAD_NAME_MAX];
                component_workload(&s, c, m, name);
                map_set(x.wanted, str_of(name), k);
            }
    }
    k->runtime->ops->each(k->runtime, collect_stray, &x);
    VEC_FOREACH (&x.names, name) {
        if (is_of_nodes(all, *name) || (k->listed && str_ends(str_of(*name), STR("-drill")))) /* a rehearsal of ours ends itself */
            continue;
        if (!strncmp(*name, WARM_PREFIX, sizeof(WARM_PREFIX) - 1))
            continue; /* likewise */
        log_info("a process without a Cluster is stopped", KV("workload", *name));
        stop_workload(k, *name);
    }
    k->listed = true;
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", k->o.data_dir);
    place_each(root, tell_of_directory, &(struct known){k, all, root}, NULL);
    warm_listed(k->warm);
    map_free(x.wanted);
    free_names(&x);
}

static void count(struct kaas *k)
{
    JSON_AUTO all = informer_list(k->clusters, NULL);
    size_t i, good = 0, full = 0;
    json_t *obj;
    json_array_foreach (all, i, obj) {
        const char *room = obj_condition_reason(obj, SPACE_CONDITION);
        good += obj_condition(obj, "Ready") && !strcmp(obj_condition(obj, "Ready"), "True");
        full += room && strcmp(room, "Enough") != 0;
    }
    metric_set(k->there, (int64_t)json_array_size(all));
    metric_set(k->ready, (int64_t)good);
    metric_set(k->full, (int64_t)full);
}

static void make_metrics(struct kaas *k)
{
    static const double buckets[] = {0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300};
    k->there = metric_gauge("seki_clusters", "Clusters.");
    k->ready = metric_gauge("seki_clusters_ready", "Clusters whose condition Ready is True.");
    k->full = metric_gauge("seki_clusters_store_nearly_full", "Clusters whose store has more than 80 % of its quota in use, or takes no writes.");
    k->claimed_in = metric_series(metric_family("seki_cluster_claim_seconds", "The same of Clusters that were given a control plane that had been made before.", METRIC_HISTOGRAM, NULL, 0, buckets, ARRAY_LEN(buckets)), NULL);
    k->took = metric_series(metric_family("seki_cluster_create_seconds", "From the first look at a Cluster until it was ready, where its control plane was made for it.", METRIC_HISTOGRAM, NULL, 0, buckets, ARRAY_LEN(buckets)), NULL);
}

static void end_all_with(struct kaas *k, const struct site *s)
{
    struct strays x = {NULL, VEC_INIT};
    char prefix[WORKLOAD_NAME_MAX];
    component_prefix(s, prefix);
    k->runtime->ops->each(k->runtime, collect_stray, &x);
    VEC_FOREACH (&x.names, name)
        if (!strncmp(*name, prefix, strlen(prefix)))
            stop_workload(k, *name);
    free_names(&x);
}

/* Its finalizer was taken off by somebody else; else they are gone. Nodes have its name even where the control plane was made without. */
static void end_all_of(struct kaas *k, const json_t *cluster)
{
    struct site s = site_of(cluster);
    end_all_with(k, &s);
    if (s.warm) {
        s.warm = false;
        end_all_with(k, &s);
    }
    node_network_release(k, s.uid);
}

/* Its addresses are free again. A pass that is under way remembers nothing of it any more: cluster_is_there(). */
static void forget(struct kaas *k, const json_t *cluster)
{
    const struct site s = site_of(cluster);
    pthread_mutex_lock(&k->lock);
    map_del(k->memory, str_of(s.uid));
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int m = 0; m < component_count(&s, c); m++) {
            char name[WORKLOAD_NAME_MAX];
            component_workload(&s, c, m, name);
            map_del(k->workloads, str_of(name));
        }
    pthread_mutex_unlock(&k->lock);
    node_pools_forget(k, &s);
}

bool cluster_is_there(struct kaas *k, const struct site *s)
{
    JSON_AUTO now = informer_get(k->clusters, s->ns, s->name);
    return now && obj_uid(now) && !strcmp(obj_uid(now), s->uid);
}

int kaas_ensure(struct kaas *k, const struct site *s, const struct workload *w, struct err *err)
{
    bool there = cluster_is_there(k, s);
    int rc = there ? k->runtime->ops->ensure(k->runtime, w, err) : 0;
    if (there && cluster_is_there(k, s))
        return rc;
    if (there)
        stop_workload(k, w->name);
    return err_set(err, ERR_NOT_FOUND, "cluster %s is no more", s->name);
}

static void on_cluster(void *arg, json_t *prev, json_t *now)
{
    struct kaas *k = arg;
    count(k);
    node_pools_cluster_changed(k, obj_namespace(now ? now : prev), obj_name(now ? now : prev));
    if (now)
        return;
    end_all_of(k, prev);
    forget(k, prev);
}

/* ---- people ---- */

static void look_at_people(struct kaas *k)
{
    JSON_AUTO all = informer_list(k->clusters, NULL);
    size_t i;
    json_t *c;
    json_array_foreach (all, i, c)
        manager_enqueue(k->manager, CONTROLLER_CLUSTER, obj_namespace(c), obj_name(c));
}

static void on_revocation(void *arg, json_t *prev UNUSED, json_t *now UNUSED)
{
    struct kaas *k = arg;
    people_touch(k->people);
    look_at_people(k);
}

void kaas_issuers_changed(struct kaas *k, const char *file)
{
    struct err err = ERR_INIT;
    if (people_load(k->people, file, &err) < 0)
        log_error("issuers in clusters stay as they were", KVE(&err));
    else
        look_at_people(k);
}

/* ---- life ---- */

/* Nodes and gates are this program, too. Where it lies is asked once: later it may have been replaced. */
static void find_self(struct kaas *k)
{
    ssize_t n = readlink("/proc/self/exe", k->self_path, sizeof(k->self_path) - 1);
    k->self_path[n > 0 ? n : 0] = 0;
    k->self = k->self_path;
}

int kaas_new(struct manager *m, struct runtime *rt, const struct kaas_options *o, struct kaas **ret, struct err *err)
{
    static const struct kind *const owns[] = {&kind_secret, &kind_cluster_key, NULL};
    static const struct controller_ops controller = {.name = CONTROLLER_CLUSTER, .primary = &kind_cluster, .owned = owns, .workers = WORKERS, .share = SHARE, .deadline_ms = BACKUP_DEADLINE_MS, .reconcile = cluster_reconcile}; /* a restore runs in it */
    static const struct controller_ops backups = {.name = CONTROLLER_BACKUP, .primary = &kind_cluster, .workers = BACKUP_WORKERS, .share = 1, .deadline_ms = BACKUP_DEADLINE_MS, .reconcile = backup_reconcile};
    struct cluster_network n;
    if (cluster_network_parse(o->addresses, &n, err) < 0)
        return err_wrap(err, "kubernetes-addresses=%s", o->addresses);
    if (n.first >> 24 != 127 || n.bits < 8 || n.bits > 29)
        return err_set(err, ERR_INVALID, "kubernetes-addresses=%s: expected a part of 127.0.0.0/8 with a prefix of 29 bits at most", o->addresses);
    struct people *people = people_new();
    int rc = people_load(people, o->authentication_config, err);
    if (rc < 0) {
        people_free(people);
        return rc;
    }
    struct kaas *k = XNEW(struct kaas);
    *k = (struct kaas){.manager = m, .runtime = rt, .o = *o, .addresses = n, .memory = map_new(mem_free), .workloads = map_new(mem_free), .people = people, .backup_later = map_new(mem_free), .backing_up = map_new(NULL), .wiper = wiper_new(NULL, NULL)};
    pthread_mutex_init(&k->lock, NULL);
    k->clusters = manager_informer(m, &kind_cluster);
    k->secrets = manager_informer(m, &kind_secret);
    k->cluster_keys = manager_informer(m, &kind_cluster_key);
    k->tenants = manager_informer(m, &kind_tenant);
    k->namespaces = manager_informer(m, &kind_namespace);
    k->node_pools = manager_informer(m, &kind_node_pool);
    k->revocations = manager_informer(m, &kind_user_revocation);
    manager_add(m, &controller, k);
    k->pools = node_pools_new(k);
    find_self(k);
    manager_add(m, &backups, k);
    informer_add_handler(k->clusters, &(struct informer_handler){.changed = on_cluster, .synced = on_listed, .arg = k});
    informer_add_handler(k->revocations, &(struct informer_handler){.changed = on_revocation, .arg = k});
    informer_add_handler(k->tenants, &(struct informer_handler){.changed = on_tenant, .arg = k});
    make_metrics(k);
    backup_metrics(k);
    rc = balancers_new(k, o->balancer_addresses, o->listens, &k->balancers, err);
    if (rc == 0)
        rc = warm_new(k, &k->warm, err);
    if (rc < 0) {
        kaas_free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

static bool all_run(struct kaas *k, const json_t *cluster)
{
    struct site s = site_of(cluster);
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int m = 0; m < component_count(&s, c); m++) {
            char name[WORKLOAD_NAME_MAX];
            struct workload_status w = {0};
            component_workload(&s, c, m, name);
            k->runtime->ops->get(k->runtime, name, &w);
            if (w.state != WORKLOAD_RUNNING && w.state != WORKLOAD_STARTING)
                return false;
        }
    return true;
}

int kaas_settle(struct kaas *k, struct client *c, struct err *err)
{
    struct client_resource r = kind_resource(&kind_cluster);
    JSON_AUTO all = NULL;
    size_t i;
    json_t *obj;
    int rc = client_list(c, &r, NULL, NULL, &all, NULL, err);
    if (rc < 0)
        return rc;
    json_array_foreach (all, i, obj) {
        const char *ready = obj_condition(obj, "Ready");
        struct err inner = ERR_INIT;
        if (!ready || strcmp(ready, "True") != 0 || all_run(k, obj))
            continue;
        JSON_AUTO copy = json_deep_copy(obj);
        obj_set_condition(copy, "Ready", "False", "Starting", "sekid was started and found its components not running", clock_wall_ms());
        rc = client_update_status(c, &r, copy, NULL, &inner);
        if (rc < 0 && rc != ERR_CONFLICT && rc != ERR_NOT_FOUND)
            return err_set(err, rc, "%s", inner.msg);
    }
    return 0;
}

void kaas_workload_changed(struct kaas *k, const char *workload)
{
    pthread_mutex_lock(&k->lock);
    const char *known = map_getc(k->workloads, workload);
    CLEANUP(mem_freep) char *key = known ? xstrdup(known) : NULL;
    pthread_mutex_unlock(&k->lock);
    if (!key && node_pools_workload_changed(k, workload))
        return;
    char *slash = key ? strchr(key, '/') : NULL;
    if (!slash)
        return;
    *slash = 0;
    manager_enqueue(k->manager, CONTROLLER_CLUSTER, key, slash + 1);
}

const char *kaas_claim(struct kaas *k, struct arena *a, const json_t *cluster)
{
    return warm_offer(k->warm, a, cluster);
}

void kaas_stop_following(struct kaas *k)
{
    warm_stop(k->warm);
    balancers_stop(k->balancers);
}

void kaas_stop_all(struct kaas *k)
{
    uint64_t until = clock_mono_ms() + STOP_ALL_MS;
    for (;;) {
        struct strays x = {NULL, VEC_INIT};
        size_t left = 0;
        k->runtime->ops->each(k->runtime, collect_stray, &x);
        VEC_FOREACH (&x.names, name)
            if (!workload_is_store(*name)) {
                left++;
                stop_workload(k, *name);
            }
        free_names(&x);
        if (!left || clock_mono_ms() >= until)
            break;
        nanosleep(&(struct timespec){.tv_nsec = STOP_LOOK_MS * 1000000L}, NULL);
    }
    node_pools_release(k);
}

void kaas_free(struct kaas *k)
{
    if (!k)
        return;
    warm_free(k->warm);
    balancers_free(k->balancers);
    node_pools_free(k->pools);
    wiper_free(k->wiper);
    people_free(k->people);
    map_free(k->memory);
    map_free(k->workloads);
    map_free(k->backup_later);
    map_free(k->backing_up);
    pthread_mutex_destroy(&k->lock);
    mem_free(k);
}
