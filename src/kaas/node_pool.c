/* NodePool: gate → roles → nodes, each looked at first and then made; and their end. Found again after a restart from the nodes' directories, what the runtime has adopted, and the status. */
#include "kaas/node.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kaas/storage.h"
#include "kaas/upgrade.h"

#define CONTROLLER "nodepool"
#define WORKERS 4
#define SHARE 2
#define LOOK_MS 100u
#define LATER_MS 500u
#define WAIT_MS 5000u
#define QUICK_MS 20000        /* so long LOOK_MS, then LATER_MS */
#define NODE_DEADLINE_MS 120000
#define GATE_DEADLINE_MS 20000
#define STOP_TIMEOUT_MS 15000u
#define TOKEN_FRESH_MS 3000000 /* of an hour */

struct node_pools {
    struct kaas *k;
    struct informer *pools;
    pthread_mutex_t lock;
    struct map *bound;     /* uid of a cluster → when it was last restored ("": never): its roles are there since */
    struct map *workloads; /* name → char *: "NS/POOL" */
};

struct pool_pass {
    struct node_pools *all;
    struct kaas *k;
    struct reconcile *r;
    json_t *cluster_obj;
    struct cluster cluster;
    struct node_pool pool;
    struct site site;
    struct node_network network;
    struct version_record version;
    struct client *client; /* in the cluster */
    struct node *nodes;
    size_t count, ready;
    const char *reason, *message; /* what is in the way */
    const char *event_type, *event_reason, *event;
};

/* ---- status ---- */

static int save_status(struct pool_pass *p, const json_t *before, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_node_pool);
    json_put_int(p->r->obj, "status.observedGeneration", obj_generation(p->r->obj));
    if (json_equal(before, json_object_get(p->r->obj, "status")))
        return 0;
    int rc = client_update_status(p->r->client, &resource, p->r->obj, NULL, err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static json_t *record_of(json_t *obj, const char *name)
{
    json_t *list = json_at(obj, "status.nodes"), *s;
    size_t i;
    json_array_foreach (list, i, s)
        if (!strcmp(json_str_or(s, "name", ""), name))
            return s;
    if (!list) {
        list = json_array();
        json_put(obj, "status.nodes", list);
    }
    s = json_pack("{s:s}", "name", name);
    json_array_append_new(list, s);
    return s;
}

/* A node that is not wanted and has no directory is gone: by this pass, or by one whose status could not be stored. */
static void drop_records(struct pool_pass *p)
{
    json_t *list = json_at(p->r->obj, "status.nodes");
    for (size_t i = json_array_size(list); i-- > 0;) {
        const char *name = json_str_or(json_array_get(list, i), "name", "");
        CLEANUP(mem_freep) char *dir = xasprintf("%s/nodes/%s", p->site.dir, name);
        bool wanted = false;
        for (size_t k = 0; k < p->count; k++)
            wanted |= !strcmp(p->nodes[k].name, name);
        if (!wanted && !file_exists(dir))
            json_array_remove(list, i);
    }
}

static void blame(struct pool_pass *p, const char *reason, const char *message)
{
    if (p->reason)
        return; /* the first says most */
    p->reason = reason;
    p->message = message;
}

/* ---- when to look again ---- */

uint64_t node_look_ms(int64_t waited_ms)
{
    return waited_ms < QUICK_MS ? LOOK_MS : LATER_MS;
}

static void look_in(struct pool_pass *p, uint64_t ms)
{
    p->r->requeue_ms = MIN(p->r->requeue_ms, ms);
}

/* ---- workloads ---- */

static void know(struct pool_pass *p, const char *workload)
{
    pthread_mutex_lock(&p->all->lock);
    if (!map_getc(p->all->workloads, workload))
        map_set(p->all->workloads, str_of(workload), xasprintf("%s/%s", p->r->ns, p->r->name));
    pthread_mutex_unlock(&p->all->lock);
}

static int ensure(struct pool_pass *p, const char *name, const char *const *argv, struct err *err)
{
    static const char *const env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ASAN_OPTIONS=detect_leaks=0", NULL};
    struct runtime *rt = p->k->runtime;
    struct workload_status w;
    const struct workload want = {.name = name, .argv = argv, .env = env, .stop_timeout_ms = STOP_TIMEOUT_MS};
    know(p, name);
    int rc = kaas_ensure(p->k, &p->site, &want, err);
    if (rc < 0)
        return rc;
    rt->ops->get(rt, name, &w);
    if (w.state == WORKLOAD_RUNNING)
        return 0;
    const char *last = w.crash_looping ? runtime_last_line(rt, name, p->r->arena) : "";
    return err_set(err, ERR_UNAVAILABLE, "%s%s%s", *w.message ? w.message : "it is being started", *last ? "; it last said: " : "", last);
}

/* ---- the gate ---- */

static bool ensure_gate(struct pool_pass *p)
{
    struct arena *a = p->r->arena;
    struct err err = ERR_INIT;
    char name[WORKLOAD_NAME_MAX], settings[17];
    gate_workload(&p->site, name);
    pthread_mutex_lock(&p->all->lock);
    int rc = gate_files_ensure(&p->site, &p->network, p->k->o.data_dir, settings, &err);
    pthread_mutex_unlock(&p->all->lock);
    const char *const argv[] = {p->k->self, "node-gate", arena_printf(a, "%s/net", p->site.dir), settings, NULL};
    if (rc == 0)
        rc = ensure(p, name, argv, &err);
    if (rc == 0 && !gate_is_there(&p->site, p->k->o.data_dir))
        rc = err_set(&err, ERR_UNAVAILABLE, "the gate is being made");
    if (rc == 0) {
        if (!obj_condition(p->r->obj, "NetworkReady") || strcmp(obj_condition(p->r->obj, "NetworkReady"), "True") != 0)
            status_condition(p->r->obj, "NetworkReady", "True", "Done", "nodes have %s, and reach the API server at %s", p->network.nodes_text, p->network.gate);
        return true;
    }
    json_t *condition = obj_find_condition(p->r->obj, "NetworkReady");
    int64_t since = condition && strcmp(json_str_or(condition, "status", ""), "False") == 0 ? status_time(condition, "lastTransitionTime") : clock_wall_ms();
    bool late = clock_wall_ms() - since > GATE_DEADLINE_MS;
    look_in(p, node_look_ms(clock_wall_ms() - since));
    status_condition(p->r->obj, "NetworkReady", "False", late ? "DeadlineExceeded" : "Waiting", "%s", err.msg);
    blame(p, late ? "DeadlineExceeded" : "Creating", arena_printf(a, "NetworkReady: %s", err.msg));
    return false;
}

/* ---- one node ---- */

static int give_token(struct pool_pass *p, struct node *n, struct err *err)
{
    char token[24];
    if (node_has_joined(n) || clock_wall_ms() - node_token_written_ms(n) < TOKEN_FRESH_MS)
        return 0;
    int rc = join_token(p->client, n->name, token, err);
    if (rc == 0)
        rc = node_write_token(n, token, err);
    mem_wipe(token, sizeof(token));
    return rc;
}

static int make_node(struct pool_pass *p, struct node *n, struct err *err)
{
    char name[WORKLOAD_NAME_MAX], settings[17];
    pthread_mutex_lock(&p->all->lock);
    int rc = node_place(n, &p->network, err);
    if (rc == 0)
        rc = node_disk_promise(n, p->k->o.data_dir, p->pool.spec.machine.disk_gib,
                               p->k->o.node_disks, err);
    pthread_mutex_unlock(&p->all->lock);
    if (rc == 0)
        rc = node_files_ensure(n, &p->cluster, &p->pool, p->r->name, p->k->o.certificate_life_ms, settings, err);
    if (rc == 0)
        rc = agent_files_ensure(n, p->k->o.certificate_life_ms, p->k->o.node_storage, err);
    if (rc == 0)
        rc = give_token(p, n, err);
    if (rc < 0)
        return rc;
    node_workload(n, name);
    const char *const argv[] = {p->k->self, "node", n->dir, settings, NULL};
    return ensure(p, name, argv, err);
}

static void node_passed(struct pool_pass *p, const struct node *n, json_t *record)
{
    struct err ignored = ERR_INIT;
    int64_t took = clock_wall_ms() - status_time(record, "startedAt");
    p->ready++;
    json_object_del(record, "message");
    if (json_at(record, "milliseconds") && !node_token_written_ms(n))
        return;
    if (!json_at(record, "milliseconds"))
        json_put_int(record, "milliseconds", took > 0 ? took : 1);
    node_forget_token(n);
    if (join_token_drop(p->client, n->name, &ignored) < 0)
        log_warn("a node's token could not be removed; it ends within the hour", KV("node", n->name), KVE(&ignored));
}

/* no_room: it is not made, or does not grow, before there is room on the disk; it cannot be late
 * meanwhile, and has time left when there is. */
static void node_waits(struct pool_pass *p, const struct node *n, json_t *record, const char *why,
                       bool no_room)
{
    int64_t now = clock_wall_ms();
    struct arena *a = p->r->arena;
    json_put_str(record, "message", why);
    if (no_room) {
        if (status_time(record, "deadline") - now < NODE_DEADLINE_MS / 2)
            status_put_time(record, "deadline", now + NODE_DEADLINE_MS);
        look_in(p, LATER_MS);
        blame(p, "NoSpace", arena_printf(a, "%s: %s", n->name, why));
        return;
    }
    if (json_at(record, "milliseconds")) {
        look_in(p, LATER_MS);
        blame(p, "NodeNotReady", arena_printf(a, "%s: %s", n->name, why));
        return;
    }
    look_in(p, node_look_ms(now - status_time(record, "deadline") + NODE_DEADLINE_MS));
    if (now >= status_time(record, "deadline")) {
        char name[WORKLOAD_NAME_MAX];
        int64_t attempt = json_int(record, "attempt", 1) + 1;
        node_workload(n, name);
        json_put_int(record, "attempt", attempt);
        status_put_time(record, "deadline", now + NODE_DEADLINE_MS);
        p->event_type = "Warning";
        p->event_reason = "DeadlineExceeded";
        p->event = arena_printf(a, "node %s was not ready within %d s: %s", n->name, NODE_DEADLINE_MS / 1000, why);
        node_forget_token(n); /* the next attempt has a fresh one */
        if (p->k->runtime->ops->restart(p->k->runtime, name, "it was not ready in time", NULL) < 0)
            log_warn("a node could not be started anew", KV("node", n->name));
    }
    blame(p, json_int(record, "attempt", 1) > 1 ? "DeadlineExceeded" : "Creating", arena_printf(a, "%s: %s", n->name, why));
}

/* It had joined, and its cluster does not know it any more: it was restored to a time before, or somebody has deleted the Node. A kubelet registers when it starts. */
static void register_anew(struct pool_pass *p, const struct node *n, json_t *record)
{
    char name[WORKLOAD_NAME_MAX];
    node_workload(n, name);
    look_in(p, LOOK_MS);
    json_object_del(record, "milliseconds");
    json_object_del(record, "startedAt");
    json_object_del(record, "deadline");
    if (p->k->runtime->ops->restart(p->k->runtime, name, "its cluster does not know it any more", NULL) < 0)
        log_warn("a node could not be started anew", KV("node", n->name));
    blame(p, "NodeNotReady", arena_printf(p->r->arena, "%s: its cluster does not know it any more; it is started anew", n->name));
}

static void look_at_node(struct pool_pass *p, struct node *n, int ordinal)
{
    struct err err = ERR_INIT;
    const char *why = "";
    bool ready = false;
    node_named(&p->site, p->r->name, ordinal, p->r->arena, n);
    const struct site *site = node_site(p->k, &p->site, &p->version, p->client, n->name, p->r->arena, &err);
    json_t *record = record_of(p->r->obj, n->name);
    if (!json_at(record, "startedAt")) {
        status_put_time(record, "startedAt", clock_wall_ms());
        status_put_time(record, "deadline", clock_wall_ms() + NODE_DEADLINE_MS);
        json_put_int(record, "attempt", 1);
    }
    n->site = site ? site : &p->site;
    int rc = site ? make_node(p, n, &err) : err.code;
    if (rc == 0)
        rc = node_undrain(p->client, n, &err);
    if (n->index >= 0) {
        json_put_str(record, "address", n->address);
        json_put_str(record, "podCIDR", n->pod_cidr);
    }
    bool made = rc == 0;
    if (made)
        rc = join_ready(p->client, n, p->r->arena, &ready, &why, &err);
    if (rc == 0 && ready && !node_has_serving(n)) {
        ready = false;
        why = "its kubelet has no serving certificate yet";
    }
    json_put(record, "ready", json_boolean(ready));
    if (ready)
        node_passed(p, n, record);
    else if (made && rc == ERR_NOT_FOUND &&
             json_at(record, "milliseconds")) /* not the Cluster, whose end is under way */
        register_anew(p, n, record);
    else
        node_waits(p, n, record,
                   rc == 0 || rc == ERR_NOT_FOUND ? *why ? why : "it is not ready"
                                                  : arena_strdup(p->r->arena, err.msg),
                   !made && rc == ERR_NO_SPACE);
}

/* ---- nodes that are not wanted any more ---- */

static int remove_surplus(struct pool_pass *p, int from, size_t *ret_left, struct err *err)
{
    struct node surplus[NODES_MAX];
    size_t n = nodes_list(&p->site, p->r->name, from, p->r->arena, surplus, ARRAY_LEN(surplus));
    *ret_left = n;
    for (size_t i = 0; i < n; i++) {
        bool done = false;
        char name[WORKLOAD_NAME_MAX];
        const char *held = NULL;
        if (p->client && !node_drained(p->client, &surplus[i], p->pool.spec.drain_seconds, p->r->arena, &held)) {
            look_in(p, LATER_MS);
            blame(p, "Draining", held);
            continue;
        }
        if (*ret_left < n) { /* one a pass has its files removed; the others end meanwhile */
            look_in(p, LOOK_MS);
            node_workload(&surplus[i], name);
            (void)node_workload_end(p->k, name);
            continue;
        }
        int files = 0, rc = node_remove(p->k, p->client, &surplus[i], &done, &held, &files, err);
        if (rc < 0)
            return rc;
        look_in(p, held ? LATER_MS : LOOK_MS);
        if (held)
            blame(p, "Wiping", held);
        if (!done)
            continue;
        node_workload(&surplus[i], name);
        pthread_mutex_lock(&p->all->lock);
        map_del(p->all->workloads, str_of(name));
        pthread_mutex_unlock(&p->all->lock);
        log_info("node removed", KV("namespace", p->r->ns), KV("cluster", p->site.name), KV("node", surplus[i].name));
        --*ret_left;
    }
    return 0;
}

/* ---- one pass ---- */

static bool has_roles(struct pool_pass *p, struct err *err)
{
    const char *restored = json_str_or(p->cluster_obj, "status.restore.startedAt", "");
    pthread_mutex_lock(&p->all->lock);
    const char *seen = map_getc(p->all->bound, p->site.uid);
    bool known = seen && !strcmp(seen, restored);
    pthread_mutex_unlock(&p->all->lock);
    if (known)
        return true;
    if (join_roles(p->client, err) < 0 || storage_objects_ensure(p->client, p->k->o.node_storage > 0, err) < 0)
        return false;
    pthread_mutex_lock(&p->all->lock);
    map_set(p->all->bound, str_of(p->site.uid), xstrdup(restored));
    pthread_mutex_unlock(&p->all->lock);
    return true;
}

/* Nothing here is slow, it waits: what is not done yet has its whole time afterwards. */
static void begin_again(struct pool_pass *p)
{
    json_t *list = json_at(p->r->obj, "status.nodes"), *record;
    const char *network = obj_condition(p->r->obj, "NetworkReady");
    size_t i;
    json_array_foreach (list, i, record) {
        if (json_at(record, "milliseconds"))
            continue;
        json_object_del(record, "startedAt");
        json_object_del(record, "deadline");
        json_object_del(record, "attempt");
    }
    if (network && !strcmp(network, "False"))
        status_condition(p->r->obj, "NetworkReady", "Unknown", "TenantSuspended", "it is made when the tenant is active again");
}

/* What its cluster must be before it can have nodes. */
static bool cluster_can(struct pool_pass *p)
{
    struct arena *a = p->r->arena;
    struct err err = ERR_INIT;
    p->r->requeue_ms = WAIT_MS;
    if (!p->cluster_obj || obj_deleting(p->cluster_obj)) {
        blame(p, p->cluster_obj ? "ClusterDeleting" : "ClusterMissing", arena_printf(a, p->cluster_obj ? "cluster %s is being deleted" : "this project has no cluster %s", p->pool.spec.cluster_name));
        return false;
    }
    const char *suspended = suspended_tenant(p->k, p->site.ns, a);
    if (*suspended) {
        struct node nodes[NODES_MAX];
        size_t n = nodes_list(&p->site, p->r->name, 0, a, nodes, ARRAY_LEN(nodes)), left = 0;
        for (size_t i = 0; i < n; i++) {
            char name[WORKLOAD_NAME_MAX];
            node_workload(&nodes[i], name);
            left += !node_workload_end(p->k, name);
        }
        if (left)
            p->r->requeue_ms = LOOK_MS;
        begin_again(p);
        blame(p, "TenantSuspended", arena_printf(a, "tenant %s is suspended: its nodes %s ended, their files are kept", suspended, left ? "are being" : "are"));
        return false;
    }
    if (geteuid() != 0) {
        blame(p, "PrivilegesMissing", "nodes on this machine take namespaces and control groups: sekid must run as root for them");
        return false;
    }
    if (kind_decode(&kind_cluster, p->cluster_obj, a, &p->cluster, &err) < 0 || node_network_of(&p->cluster, &p->network, &err) < 0) {
        blame(p, "NetworkInvalid", arena_strdup(a, err.msg));
        return false;
    }
    if (!json_at(p->cluster_obj, "status.createMilliseconds")) { /* when that changes we are asked again */
        blame(p, "ClusterNotReady", arena_printf(a, "cluster %s is being made", p->site.name));
        return false;
    }
    if (place_load(&p->site, &err) < 0) {
        blame(p, "ClusterNotReady", arena_strdup(a, err.msg));
        return false;
    }
    if (!place_has_nodes(p->site.dir)) {
        blame(p, "ClusterTooOld", "this cluster was made before there were nodes: its API server listens where none could reach it");
        return false;
    }
    if (!*p->k->o.programs_dir) {
        blame(p, "ProgramsMissing", "this cloud has no Kubernetes");
        return false;
    }
    if (version_of(p->cluster_obj, p->cluster.spec.version, p->site.dir, &p->version, &err) < 0) {
        blame(p, "ClusterNotReady", arena_strdup(a, err.msg));
        return false;
    }
    version_apply(&p->version, p->k->o.programs_dir, &p->site, a);
    static const char *const needed[] = {"containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy"};
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", p->site.programs, needed[i]);
        if (access(path, X_OK) < 0) {
            blame(p, "ProgramsMissing", arena_printf(a, "this cloud has no %s for Kubernetes %s", needed[i], p->site.minor));
            return false;
        }
    }
    return true;
}

/* Goes with its cluster. */
static int adopt(struct pool_pass *p, struct err *err)
{
    if (obj_owned_by(p->r->obj, p->site.uid))
        return 0;
    struct client_resource r = kind_resource(&kind_node_pool);
    obj_add_owner(p->r->obj, p->cluster_obj);
    JSON_AUTO patch = json_pack("{s:{s:O}}", "metadata", "ownerReferences", json_at(p->r->obj, "metadata.ownerReferences"));
    JSON_AUTO now = NULL;
    int rc = client_patch(p->r->client, &r, p->r->ns, p->r->name, NULL, patch, &now, err);
    if (rc == 0)
        json_object_set(p->r->obj, "metadata", json_object_get(now, "metadata"));
    return rc;
}

static void bring_up(struct pool_pass *p)
{
    struct err err = ERR_INIT;
    struct arena *a = p->r->arena;
    size_t left = 0;
    if (!cluster_can(p))
        return;
    if (adopt(p, &err) < 0 || access_client(&p->site, &p->client, &err) < 0) {
        look_in(p, LATER_MS);
        blame(p, "NotAnswering", arena_strdup(a, err.msg));
        return;
    }
    if (!ensure_gate(p))
        return;
    if (!has_roles(p, &err)) {
        p->r->requeue_ms = err.code == ERR_NOT_FOUND
                               ? LOOK_MS
                               : LATER_MS; /* a kind that was made just now is not served yet */
        blame(p, "NotAnswering", arena_printf(a, "roles of nodes: %s", err.msg));
        return;
    }
    int64_t wanted = p->pool.spec.count;
    p->nodes = ARENA_ARRAY(a, struct node, (size_t)wanted + 1);
    for (int i = 0; i < (int)wanted; i++)
        look_at_node(p, &p->nodes[p->count++], i);
    if (remove_surplus(p, (int)wanted, &left, &err) < 0 || left) {
        look_in(p, LATER_MS);
        blame(p, "Removing", left && !err.msg[0] ? "nodes that are not wanted any more are ended" : arena_strdup(a, err.msg));
    }
    drop_records(p);
    const char *denied = NULL;
    struct err why = ERR_INIT;
    if (p->count && join_approve(p->client, p->nodes, p->count, a, &denied, &why) < 0) {
        look_in(p, LATER_MS);
        blame(p, "NotAnswering", arena_printf(a, "certificates of nodes: %s", why.msg));
    }
    if (denied) {
        p->event_type = "Warning";
        p->event_reason = "CertificateDenied";
        p->event = denied;
    }
}

static void tell_status(struct pool_pass *p)
{
    json_t *obj = p->r->obj;
    json_put_int(obj, "status.count", (int64_t)json_array_size(json_at(obj, "status.nodes")));
    json_put_int(obj, "status.readyCount", (int64_t)p->ready);
    if (p->reason) {
        status_condition(obj, "Ready", "False", p->reason, "%s", p->message);
        return;
    }
    bool was = obj_condition(obj, "Ready") && !strcmp(obj_condition(obj, "Ready"), "True");
    status_condition(obj, "Ready", "True", "Running", "all nodes are ready");
    p->r->requeue_ms = p->k->o.probe_ms;
    if (!was && !p->event) {
        int64_t slowest = 0;
        size_t i;
        json_t *record;
        json_array_foreach (json_at(obj, "status.nodes"), i, record)
            slowest = MAX(slowest, json_int(record, "milliseconds", 0));
        p->event_type = "Normal";
        p->event_reason = "NodePoolReady";
        p->event = arena_printf(p->r->arena, "%zu nodes are ready; the slowest took %lld ms", p->ready, (long long)slowest);
    }
}

/* ---- the end ---- */

static int finish(struct pool_pass *p, struct err *err)
{
    struct reconcile *r = p->r;
    struct err why = ERR_INIT;
    size_t left = 0;
    r->requeue_ms = WAIT_MS;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    if (!obj_has_finalizer(r->obj, NODE_POOL_FINALIZER))
        return 0;
    int rc = nodes_end_orphans(p->k, &p->site, r->name, r->arena, &left, &why);
    if (rc == 0 && p->cluster_obj) {
        size_t orphans = left;
        /* A cluster that goes, too, or does not answer, needs not be told. */
        bool told = !obj_deleting(p->cluster_obj) && !*suspended_tenant(p->k, p->site.ns, r->arena) && json_at(p->cluster_obj, "status.createMilliseconds");
        if (told && place_load(&p->site, NULL) == 0)
            rc = access_client(&p->site, &p->client, &why);
        if (rc == 0)
            rc = remove_surplus(p, 0, &left, &why);
        left += orphans;
    }
    if (rc < 0 || left) {
        if (rc < 0)
            r->requeue_ms = LATER_MS;
        status_condition(r->obj, "Ready", "False", rc < 0 ? "RemovalBlocked" : p->reason ? p->reason : "Removing", "%s", rc < 0 ? why.msg : p->reason ? p->message : "its nodes are ended");
        return save_status(p, before, err);
    }
    return reconcile_release(r, &kind_node_pool, NODE_POOL_FINALIZER, err);
}

static int pool_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct node_pools *all = ctx;
    struct pool_pass p = {.all = all, .k = all->k, .r = r};
    if (!r->obj || !obj_uid(r->obj))
        return 0; /* had it been forced away, its cluster's pass would end its nodes */
    int rc = kind_decode(&kind_node_pool, r->obj, r->arena, &p.pool, err);
    if (rc < 0)
        return rc;
    JSON_AUTO cluster = informer_get(all->k->clusters, r->ns, p.pool.spec.cluster_name);
    p.cluster_obj = cluster;
    p.site = (struct site){.ns = r->ns, .name = p.pool.spec.cluster_name, .uid = cluster ? obj_uid(cluster) : "", .programs = "", .pass = r};
    p.site.dir = arena_printf(r->arena, "%s/clusters/%s", p.k->o.data_dir, p.site.uid);
    if (obj_deleting(r->obj)) {
        rc = finish(&p, err);
        client_free(p.client);
        return rc;
    }
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    bring_up(&p);
    client_free(p.client);
    tell_status(&p);
    rc = save_status(&p, before, err);
    if (rc == 0 && p.event)
        manager_event(p.k->manager, r->obj, p.event_type, p.event_reason, p.event);
    return rc;
}

/* ---- life ---- */

bool node_pool_is_there(const json_t *pools, const char *cluster, const char *node)
{
    const char *last = strrchr(node, '-');
    size_t i, len = last ? (size_t)(last - node) : 0;
    json_t *obj;
    json_array_foreach ((json_t *)(uintptr_t)pools, i, obj) {
        char name[NODE_NAME_MAX];
        snprintf(name, sizeof(name), "%.48s", obj_name(obj)); /* as node_named() has it */
        if (len && strlen(name) == len && !strncmp(name, node, len) && !strcmp(json_str_or(obj, "spec.clusterName", ""), cluster))
            return true;
    }
    return false;
}

static void enqueue_pools(struct node_pools *p, const char *ns, const char *cluster)
{
    JSON_AUTO all = informer_list(p->pools, ns);
    size_t i;
    json_t *obj;
    json_array_foreach (all, i, obj)
        if (!strcmp(json_str_or(obj, "spec.clusterName", ""), cluster))
            manager_enqueue(p->k->manager, CONTROLLER, ns, obj_name(obj));
}

void node_pools_cluster_changed(struct kaas *k, const char *ns, const char *cluster)
{
    enqueue_pools(k->pools, ns, cluster);
}

bool node_pools_workload_changed(struct kaas *k, const char *workload)
{
    struct node_pools *p = k->pools;
    pthread_mutex_lock(&p->lock);
    const char *known = map_getc(p->workloads, workload);
    CLEANUP(mem_freep) char *key = known ? xstrdup(known) : NULL;
    pthread_mutex_unlock(&p->lock);
    char *slash = key ? strchr(key, '/') : NULL;
    if (!slash)
        return false;
    *slash = 0;
    manager_enqueue(k->manager, CONTROLLER, key, slash + 1);
    return true;
}

void node_pools_forget(struct kaas *k, const struct site *s)
{
    struct node_pools *p = k->pools;
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&p->lock);
    map_del(p->bound, str_of(s->uid));
    while (map_next(p->workloads, &it)) {
        char name[WORKLOAD_NAME_MAX];
        if (str_to_array(it.key, name, sizeof(name)) && node_workload_is_of(s, name))
            map_del(p->workloads, it.key);
    }
    pthread_mutex_unlock(&p->lock);
}

struct node_pools *node_pools_new(struct kaas *k)
{
    static const struct controller_ops controller = {.name = CONTROLLER, .primary = &kind_node_pool, .workers = WORKERS, .share = SHARE, .reconcile = pool_reconcile};
    struct node_pools *p = XNEW(struct node_pools);
    *p = (struct node_pools){.k = k, .pools = manager_informer(k->manager, &kind_node_pool), .bound = map_new(mem_free), .workloads = map_new(mem_free)};
    pthread_mutex_init(&p->lock, NULL);
    manager_add(k->manager, &controller, p);
    return p;
}

void node_pools_free(struct node_pools *p)
{
    if (!p)
        return;
    map_free(p->bound);
    map_free(p->workloads);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}
