/* Cluster: certificates → store → API server → controllers → access. Each stage looks first, takes one step, and says until when it may take; what has failed by then is started anew. */
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "kaas/addons.h"
#include "kaas/node.h"
#include "kaas/people.h"
#include "kaas/recovery.h"
#include "kaas/store_space.h"
#include "kaas/upgrade.h"
#include "kaas/warm.h"
#include "kinds/borrowed.h"

#define LOOK_MS 50u           /* while it is made … */
#define LATER_MS 250u         /* … and when that takes long, or something that did answer does not */
#define QUICK_MS 15000u
#define WAIT_MS 5000u         /* for what only an operator can mend */
#define REMOVE_LOOK_MS 50u
#define PROBE_TIMEOUT_MS 2000u
#define HUNG_MS 30000u        /* alive, and does not answer for so long: killed */
#define PKI_LOOK_MS 60000u
#define STORE_MS 60000u       /* deadlines of stages */
#define APISERVER_MS 120000u
#define CONTROLLERS_MS 120000u
#define QUIET_S 5             /* a stage that takes longer says what it waits for */

struct pass {
    struct kaas *k;
    struct reconcile *r;
    struct cluster cluster;
    struct site site;
    struct cluster_memory memory;
    struct plan plan[MEMBERS_MAX][COMPONENTS];
    const char *reason; /* why the stage that fails does, when that is known */
    bool blocked;       /* it waits for somebody, not for time */
    enum component blamed;
    int blamed_member;
    bool restartable;   /* blamed may be started anew when the deadline is over */
    unsigned up[MEMBERS_MAX]; /* components of a member that have answered, a bit each */
    bool whole;               /* all members answer, and none is being replaced */
    bool claimed;             /* its place was taken from the warm pool just now */
    const char *mending;      /* what is done about a member of the store; NULL: nothing */
    const char *event_type, *event_reason, *event; /* to be told once the status is stored */
};

/* ---- memory between passes ---- */

static void load_memory(struct pass *p)
{
    pthread_mutex_lock(&p->k->lock);
    const struct cluster_memory *m = map_getc(p->k->memory, p->site.uid);
    if (m)
        p->memory = *m;
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int member = 0; member < component_count(&p->site, c); member++) {
            char name[WORKLOAD_NAME_MAX];
            component_workload(&p->site, c, member, name);
            if (!map_getc(p->k->workloads, name))
                map_set(p->k->workloads, str_of(name), xasprintf("%s/%s", p->site.ns, p->site.name));
        }
    pthread_mutex_unlock(&p->k->lock);
}

/* Of one that was forced away meanwhile nothing. */
static void save_memory(struct pass *p)
{
    struct cluster_memory *m = XNEW(struct cluster_memory);
    *m = p->memory;
    pthread_mutex_lock(&p->k->lock);
    if (cluster_is_there(p->k, &p->site)) {
        map_set(p->k->memory, str_of(p->site.uid), m);
    } else {
        map_del(p->k->memory, str_of(p->site.uid));
        mem_free(m);
    }
    pthread_mutex_unlock(&p->k->lock);
}

/* ---- status ---- */

static int save_status(struct pass *p, const json_t *before, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_cluster);
    json_put_int(p->r->obj, "status.observedGeneration", obj_generation(p->r->obj));
    if (json_equal(before, json_object_get(p->r->obj, "status")))
        return 0;
    int rc = client_update_status(p->r->client, &resource, p->r->obj, NULL, err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static json_t *stage_record(json_t *obj, const char *name)
{
    json_t *list = json_at(obj, "status.stages"), *s;
    size_t i;
    json_array_foreach (list, i, s)
        if (!strcmp(json_str_or(s, "name", ""), name))
            return s;
    if (!list) {
        list = json_array();
        json_put(obj, "status.stages", list);
    }
    s = json_pack("{s:s}", "name", name);
    json_array_append_new(list, s);
    return s;
}

static void tell(struct pass *p, const char *type, const char *reason, const char *message)
{
    p->event_type = type;
    p->event_reason = reason;
    p->event = message;
}

/* ---- components ---- */

static const char *last_log_line(struct pass *p, const char *workload)
{
    const char *last = runtime_last_line(p->k->runtime, workload, p->r->arena);
    return *last ? arena_printf(p->r->arena, "; it last said: %s", last) : "";
}

/* Wanted from now on, and running: 0. */
static int ensure(struct pass *p, enum component c, int member, struct err *err)
{
    struct runtime *rt = p->k->runtime;
    struct plan *plan = &p->plan[member][c];
    char name[WORKLOAD_NAME_MAX], part[PART_NAME_MAX];
    struct workload_status w;
    component_workload(&p->site, c, member, name);
    part_name(c, member, part);
    p->blamed = c;
    p->blamed_member = member;
    if (access(plan->program, X_OK) < 0) {
        p->blocked = true;
        p->reason = "ProgramsMissing";
        return err_set(err, ERR_UNAVAILABLE,
                       c == KMS ? "this cloud has no %s"
                       : *p->site.programs
                           ? "this cloud has no %s of Kubernetes %s"
                           : "this cloud has no Kubernetes: no %s of version %s; the operator's "
                             "option kubernetes-dir names the folder of its programs",
                       strrchr(plan->program, '/') + 1, p->site.minor);
    }
    const struct workload want = {.name = name, .argv = plan->argv, .env = plan->env, .stop_timeout_ms = component_stop_ms(&p->site, c)};
    int rc = kaas_ensure(p->k, &p->site, &want, err);
    if (rc < 0)
        return rc;
    rt->ops->get(rt, name, &w);
    p->restartable = true;
    if (w.state == WORKLOAD_RUNNING)
        return 0;
    p->restartable = false; /* the runtime is at it */
    if (w.crash_looping)
        p->reason = "CrashLoopBackOff";
    return err_set(err, ERR_UNAVAILABLE, "%s: %s%s", part, *w.message ? w.message : "is being started", w.crash_looping ? last_log_line(p, name) : "");
}

/* Runs and answers. */
static int answers(struct pass *p, enum component c, int member, struct err *err)
{
    int rc = ensure(p, c, member, err);
    if (rc == 0)
        rc = probe(&p->plan[member][c], p->plan[member][c].health_path, &p->site, PROBE_TIMEOUT_MS, err);
    if (rc < 0)
        return rc;
    p->up[member] |= 1u << c;
    p->memory.failing_ms[member][c] = 0;
    return 0;
}

static void start_anew(struct pass *p, enum component c, int member, const char *why)
{
    char name[WORKLOAD_NAME_MAX], part[PART_NAME_MAX];
    struct err err = ERR_INIT;
    component_workload(&p->site, c, member, name);
    part_name(c, member, part);
    log_warn("a component of a cluster is started anew", KV("cluster", p->site.name), KV("namespace", p->site.ns), KV("component", part), KV("why", why));
    if (p->k->runtime->ops->restart(p->k->runtime, name, why, &err) < 0)
        log_warn("it could not be", KV("workload", name), KVE(&err));
}

/* Alive, and does not answer for long: killed. One that has just been started has as long as at first. */
static void mend_hung(struct pass *p, enum component c, int member, uint64_t deadline_ms)
{
    uint64_t now = clock_mono_ms(), *since = &p->memory.failing_ms[member][c];
    struct workload_status w = {0};
    struct err dead = ERR_INIT;
    char workload[WORKLOAD_NAME_MAX], part[PART_NAME_MAX];
    if (!*since)
        *since = now;
    component_workload(&p->site, c, member, workload);
    p->k->runtime->ops->get(p->k->runtime, workload, &w);
    if (!p->restartable || now - *since < HUNG_MS || w.running_ms < deadline_ms)
        return;
    *since = 0;
    if (probe(&p->plan[member][c], p->plan[member][c].alive_path, &p->site, PROBE_TIMEOUT_MS, &dead) < 0) {
        part_name(c, member, part);
        tell(p, "Warning", "ComponentHung", arena_printf(p->r->arena, "%s does not answer and is started anew: %s", part, dead.msg));
        start_anew(p, c, member, "it does not answer");
    }
}

/* ---- components of all members ---- */

/* What is said of the first that does not answer. */
struct fault {
    int rc, member;
    struct err err;
    const char *reason;
    bool blocked, restartable;
};

/* How many must answer for the cluster to be of use: at first all; later a store's majority, and of all others one. */
static int needed(const struct pass *p, enum component c)
{
    int members = site_members(&p->site);
    return !json_at(p->r->obj, "status.createMilliseconds") ? members : c == ETCD ? members / 2 + 1 : 1;
}

/* Of all members: wanted, started, asked; 0 when enough answer. Those in `held` are left alone. */
static int members_answer(struct pass *p, enum component c, unsigned held, uint64_t deadline_ms, struct err *err)
{
    struct fault first = {0};
    int good = 0;
    for (int m = 1; m < site_members(&p->site); m++) { /* all are started before one is waited for */
        struct err later = ERR_INIT;
        if (!(held & (1u << m)))
            (void)!ensure(p, c, m, &later);
    }
    for (int m = 0; m < site_members(&p->site); m++) {
        struct fault f = {.member = m, .err = ERR_INIT};
        p->reason = NULL;
        p->blocked = p->restartable = false;
        f.rc = held & (1u << m) ? err_set(&f.err, ERR_UNAVAILABLE, "%s", p->mending ? p->mending : "it is being replaced") : answers(p, c, m, &f.err);
        f.reason = p->reason;
        f.blocked = p->blocked;
        f.restartable = p->restartable;
        good += f.rc == 0;
        if (f.rc < 0 && first.rc == 0)
            first = f;
        else if (f.rc < 0)
            mend_hung(p, c, m, deadline_ms);
    }
    bool enough = good >= needed(p, c);
    p->blamed = c;
    p->blamed_member = first.member;
    p->restartable = first.restartable || first.rc == 0;
    if (enough && first.rc < 0)
        mend_hung(p, c, first.member, deadline_ms);
    p->reason = enough ? NULL : first.reason;
    p->blocked = !enough && first.blocked;
    return enough ? 0 : err_set(err, first.rc, "%s", first.err.msg);
}

/* ---- stages ---- */

/* A cluster that was made before there were nodes runs on as it was. */
static int find_network(struct pass *p, struct err *err)
{
    struct node_network w;
    int rc = node_network_of(&p->cluster, &w, err);
    if (rc < 0)
        return rc;
    memcpy(p->site.gate, w.gate, sizeof(p->site.gate));
    p->site.node_network = arena_strdup(p->r->arena, w.nodes_text);
    return 0;
}

static int find_place(struct pass *p, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = find_network(p, err);
    if (rc == 0 && p->site.warm && !json_at(p->r->obj, "status.createMilliseconds"))
        rc = warm_claim(p->k, p->r, &p->cluster, &p->site, &p->claimed, err);
    if (rc < 0)
        return rc;
    rc = place_load(&p->site, &why);
    if (rc == ERR_NOT_FOUND && json_at(p->r->obj, "status.createMilliseconds")) {
        p->blocked = true;
        p->reason = "DataMissing"; /* a new, empty cluster in its place would hide that */
        return err_set(err, ERR_NOT_FOUND, "its files are gone; it is not made anew over that: restore clusters/%s, or delete it", p->site.uid);
    }
    if (rc == ERR_NOT_FOUND)
        rc = place_take(p->k, &p->site, (int)p->cluster.spec.control_plane.replicas, err);
    else if (rc < 0)
        return err_set(err, rc, "%s", why.msg);
    if (rc < 0)
        return rc;
    place_remember(&p->site, &p->memory);
    p->site.with_nodes = place_has_nodes(p->site.dir);
    json_put_str(p->r->obj, "status.address", p->site.address);
    json_put_str(p->r->obj, "status.endpoint", arena_printf(p->r->arena, "https://%s:%d", p->site.address, PORT_APISERVER));
    return 0;
}

static void plan_all(struct pass *p)
{
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int m = 0; m < component_count(&p->site, c); m++)
            plan_component(c, m, &p->cluster, &p->site, p->r->arena, &p->plan[m][c]);
}

static int look_certificates(struct pass *p, struct err *err)
{
    uint64_t now = clock_mono_ms(), every = p->k->o.certificate_life_ms / 60;
    unsigned people = people_generation(p->k->people);
    bool made = false;
    int rc = find_place(p, err);
    if (rc < 0)
        return rc;
    plan_all(p);
    every = every < PKI_LOOK_MS ? every : PKI_LOOK_MS;
    if (p->memory.pki_ms && now - p->memory.pki_ms < every && p->memory.people == people && json_int(p->r->obj, "status.observedGeneration", 0) == obj_generation(p->r->obj))
        return 0;
    rc = cluster_pki_ensure(&p->cluster, &p->site, p->k->o.certificate_life_ms, &made, err);
    if (rc == 0)
        rc = cluster_conf_ensure(&p->site, err);
    if (rc == 0)
        rc = cluster_audit_ensure(&p->cluster, &p->site, err);
    if (rc == 0)
        rc = people_conf_ensure(p->k, p->r->obj, &p->site, err);
    if (rc == 0)
        rc = secrets_conf_ensure(&p->site, err);
    if (rc == 0)
        rc = gate_conf_ensure(&p->site, p->k->o.data_dir, err);
    if (rc < 0)
        return rc;
    if (made && json_at(p->r->obj, "status.createMilliseconds"))
        log_info("certificates of a cluster were made anew", KV("cluster", p->site.name), KV("namespace", p->site.ns));
    p->memory.pki_ms = now;
    p->memory.people = people;
    return 0;
}

static int look_store(struct pass *p, struct err *err)
{
    struct err later = ERR_INIT;
    unsigned held = members_step(p->k, &p->site, json_at(p->r->obj, "status.createMilliseconds") != NULL, p->r->arena, &p->mending);
    if (p->mending)
        plan_all(p);
    /* Both are started before either is waited for. */
    int second = ensure(p, KMS, 0, &later), rc = members_answer(p, ETCD, held, STORE_MS, err);
    if (rc < 0 && __builtin_popcount(held) > (site_members(&p->site) - 1) / 2) {
        p->blocked = true;
        p->reason = "QuorumLost";
        return err_set(err, rc, "%s", p->mending);
    }
    if (rc < 0)
        return rc;
    p->blamed = KMS;
    p->blamed_member = 0;
    p->restartable = second == 0;
    if (second < 0)
        return err_set(err, second, "%s", later.msg);
    const char *reason = NULL;
    rc = secrets_keys_ensure(p->k, p->r->client, p->r->obj, &p->site, &p->memory.secrets, &reason, err);
    if (reason) {
        p->blocked = true;
        p->reason = reason;
        status_condition(p->r->obj, SECRETS_CONDITION, "False", reason, "%s", err->msg);
    }
    return rc;
}

static int look_apiserver(struct pass *p, struct err *err)
{
    int rc = members_answer(p, APISERVER, 0, APISERVER_MS, err);
    if (rc == 0 && p->site.warm && !json_at(p->r->obj, "status.createMilliseconds"))
        rc = probe_certificate(&p->plan[0][APISERVER], &p->site, PROBE_TIMEOUT_MS, err);
    return rc < 0 || site_members(&p->site) < 2 ? rc : answers(p, RELAY, 0, err);
}

static int look_controllers(struct pass *p, struct err *err)
{
    struct err later = ERR_INIT;
    /* Both are started before either is waited for. */
    (void)!ensure(p, SCHEDULER, 0, &later);
    int rc = members_answer(p, CONTROLLERS, 0, CONTROLLERS_MS, err);
    if (rc == 0)
        rc = members_answer(p, SCHEDULER, 0, CONTROLLERS_MS, err);
    if (rc < 0 || p->memory.bound)
        return rc;
    p->blamed = CONTROLLERS;
    p->blamed_member = 0;
    struct client *client = NULL;
    rc = access_client(&p->site, &client, err);
    if (rc == 0)
        rc = access_controllers_work(client, err);
    client_free(client);
    return rc;
}

/* ---- the Secret with the kubeconfig ---- */

static int write_secret(struct pass *p, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_secret);
    const char *name = arena_printf(p->r->arena, "%s" CLUSTER_SECRET_SUFFIX, p->site.name);
    JSON_AUTO want = NULL;
    JSON_AUTO there = informer_get(p->k->secrets, p->site.ns, name);
    int rc = kubeconfig_secret(&p->site, p->r->obj, name, &want, err);
    if (rc < 0)
        return rc;
    if (there && !obj_owned_by(there, p->site.uid)) {
        p->blocked = true;
        p->reason = "SecretTaken";
        return err_set(err, ERR_EXISTS, "there is a Secret %s that is not this cluster's", name);
    }
    json_put_str(p->r->obj, "status.kubeconfigSecret", name);
    if (there && json_equal(json_object_get(there, "data"), json_object_get(want, "data")))
        return 0;
    if (!there) {
        struct err why = ERR_INIT;
        rc = client_create(p->r->client, &resource, p->site.ns, want, NULL, &why);
        return rc == 0 || rc == ERR_EXISTS ? 0 : err_set(err, rc, "%s", why.msg); /* there: the cache will tell */
    }
    JSON_AUTO patch = json_pack("{s:O}", "data", json_object_get(want, "data"));
    return client_patch(p->r->client, &resource, p->site.ns, name, NULL, patch, NULL, err);
}

static int look_access(struct pass *p, struct err *err)
{
    int rc = 0;
    p->restartable = false;
    if (!p->memory.bound) {
        struct client *client = NULL;
        char version[32];
        rc = access_client(&p->site, &client, err);
        if (rc == 0)
            rc = access_bind_admins(client, err);
        if (rc == 0)
            rc = access_publish(client, &p->site, err);
        if (rc == 0)
            rc = access_version(client, version, err);
        client_free(client);
        if (rc == 0) {
            json_put_str(p->r->obj, "status.version", version);
            p->memory.bound = true;
        }
    }
    return rc < 0 ? rc : write_secret(p, err);
}

static const struct stage {
    const char *condition;
    uint64_t deadline_ms;
    /* 0: done. Else what is in the way, with p->reason where that is known. */
    int (*look)(struct pass *p, struct err *err);
} stages[] = {
    {"CertificatesReady", 10000, look_certificates},
    {"StoreReady", STORE_MS, look_store},
    {"APIServerReady", APISERVER_MS, look_apiserver},
    {"ControllersReady", CONTROLLERS_MS, look_controllers},
    {"AccessReady", 30000, look_access},
};

static const char *until_text(struct arena *a, const json_t *record)
{
    const char *deadline = json_str_or(record, "deadline", "");
    return strlen(deadline) > 19 ? arena_printf(a, "%.19sZ", deadline) : deadline;
}

static void begin(const struct stage *s, json_t *record, int64_t now)
{
    if (json_at(record, "startedAt"))
        return;
    status_put_time(record, "startedAt", now);
    status_put_time(record, "deadline", now + (int64_t)s->deadline_ms);
    json_put_int(record, "attempt", 1);
}

static void passed(struct pass *p, const struct stage *s, json_t *record, int64_t now)
{
    json_t *obj = p->r->obj;
    int64_t took = json_int(record, "milliseconds", -1);
    const char *status = obj_condition(obj, s->condition);
    if (took < 0) {
        took = now - status_time(record, "startedAt");
        json_put_int(record, "milliseconds", MAX(took, (int64_t)0));
    }
    if (!status || strcmp(status, "True") != 0)
        status_condition(obj, s->condition, "True", status && json_at(obj, "status.createMilliseconds") ? "Recovered" : p->claimed && s == stages ? "Claimed" : "Done", "took %lld ms", (long long)MAX(took, (int64_t)0));
}

/* It is not there yet. */
static const char *waits(struct pass *p, const struct stage *s, json_t *record, int64_t now, const struct err *why)
{
    json_t *obj = p->r->obj;
    struct arena *a = p->r->arena;
    int64_t attempt = json_int(record, "attempt", 1), waited_ms = now - status_time(record, "startedAt");
    p->r->requeue_ms = waited_ms < (int64_t)QUICK_MS ? LOOK_MS : LATER_MS;
    if (p->blocked) {
        status_condition(obj, s->condition, "False", p->reason, "%s", why->msg);
        p->r->requeue_ms = WAIT_MS;
        /* Nothing here is slow. Not at each look: what is written is an event, of which the next look would come at once. */
        if (status_time(record, "deadline") < now + (int64_t)s->deadline_ms - (int64_t)WAIT_MS)
            status_put_time(record, "deadline", now + (int64_t)s->deadline_ms);
        return p->reason;
    }
    if (now >= status_time(record, "deadline")) {
        json_put_int(record, "attempt", ++attempt);
        status_put_time(record, "deadline", now + (int64_t)s->deadline_ms);
        const char *message = arena_printf(a, "not done within %llu s: %s", (unsigned long long)s->deadline_ms / 1000, why->msg);
        status_condition(obj, s->condition, "False", "DeadlineExceeded", "%s; attempt %lld, until %s", message, (long long)attempt, until_text(a, record));
        tell(p, "Warning", "DeadlineExceeded", message);
        if (p->restartable)
            start_anew(p, p->blamed, p->blamed_member, message);
        return "DeadlineExceeded";
    }
    if (attempt > 1)
        return "DeadlineExceeded"; /* until it works, the first failure is what matters */
    bool talks = p->reason || waited_ms > QUIET_S * 1000;
    status_condition(obj, s->condition, "False", p->reason ? p->reason : "Waiting", "until %s%s%s", until_text(a, record), talks ? ": " : "", talks ? why->msg : "");
    return p->reason ? p->reason : "Creating";
}

/* It was there, and is not. */
static const char *fails(struct pass *p, const struct stage *s, const struct err *why)
{
    const char *reason = p->reason ? p->reason : "NotAnswering";
    status_condition(p->r->obj, s->condition, "False", reason, "%s", why->msg);
    p->r->requeue_ms = p->blocked ? WAIT_MS : LATER_MS;
    mend_hung(p, p->blamed, p->blamed_member, s->deadline_ms);
    return reason;
}

/* Once: what is left by a failure stays as objects that are not ready. */
static void forget_strangers(struct pass *p)
{
    struct client *client = NULL;
    struct err err = ERR_INIT;
    int rc = access_client(&p->site, &client, &err);
    if (rc == 0)
        rc = join_forget_strangers(client, &p->site, &err);
    client_free(client);
    if (rc < 0)
        log_warn("nodes of before a restore may be left in a cluster", KV("cluster", p->site.name), KV("namespace", p->site.ns), KVE(&err));
}

static bool was_claimed(const json_t *obj)
{
    const char *reason = obj_condition_reason(obj, stages[0].condition);
    return reason && !strcmp(reason, "Claimed");
}

static void ready(struct pass *p, int64_t now)
{
    json_t *obj = p->r->obj;
    if (!json_at(obj, "status.createMilliseconds")) {
        int64_t ms = MAX(now - status_time(json_array_get(json_at(obj, "status.stages"), 0), "startedAt"), (int64_t)1);
        json_put_int(obj, "status.createMilliseconds", ms);
        tell(p, "Normal", "ClusterReady", arena_printf(p->r->arena, "ready after %lld ms%s", (long long)ms, was_claimed(obj) ? ": its control plane had been made before, and was claimed" : ""));
    }
    status_condition(obj, "Ready", "True", "Running", "all components answer");
    if (restore_ended(obj, now)) {
        if (p->site.with_nodes)
            forget_strangers(p);
        tell(p, "Normal", "ClusterRestored", arena_printf(p->r->arena, "restored from backup %s, and ready after %lld ms", json_str_or(obj, "status.restore.backup", ""), (long long)json_int(obj, "status.restore.milliseconds", 0)));
    }
    p->r->requeue_ms = p->mending ? LATER_MS : p->k->o.probe_ms;
    secrets_look(p->k, p->r->client, obj, &p->site, &p->memory.secrets);
    addons_look(p->k, obj, &p->cluster, &p->site, &p->memory.addons);
    space_look(p->k, obj, &p->site, &p->memory.space_ms);
}

static void bring_up_stages(struct pass *p)
{
    json_t *obj = p->r->obj;
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        struct err why = ERR_INIT;
        json_t *record = stage_record(obj, stages[i].condition);
        begin(&stages[i], record, clock_wall_ms());
        p->reason = NULL;
        p->restartable = p->blocked = false;
        int rc = stages[i].look(p, &why);
        int64_t now = clock_wall_ms();
        if (rc == 0) {
            passed(p, &stages[i], record, now);
            continue;
        }
        bool done_before = json_at(record, "milliseconds") != NULL;
        const char *reason = done_before ? fails(p, &stages[i], &why) : waits(p, &stages[i], record, now, &why);
        status_condition(obj, "Ready", "False", reason, "%s: %s", stages[i].condition, obj_condition_message(obj, stages[i].condition));
        return;
    }
    ready(p, clock_wall_ms());
}

static void bring_up(struct pass *p)
{
    bring_up_stages(p);
    p->whole = *p->site.address && members_tell(p->r->obj, &p->site, p->up, p->mending, p->r->arena);
    if (!p->whole && json_at(p->r->obj, "status.createMilliseconds"))
        p->r->requeue_ms = MIN(p->r->requeue_ms, LATER_MS);
}

/* ---- a tenant that is suspended ---- */

static void pause_components(struct pass *p, const char *tenant)
{
    json_t *obj = p->r->obj;
    unsigned ended = 0;
    struct err ignored = ERR_INIT;
    if (json_at(obj, "status.createMilliseconds") && look_certificates(p, &ignored) == 0)
        (void)!look_store(p, &ignored); /* it is looked after as ever */
    memset(p->memory.failing_ms, 0, sizeof(p->memory.failing_ms));
    bool gone = cluster_end(p->k, &p->site, APISERVER, &ended);
    if (*p->site.address)
        (void)!members_tell(p->r->obj, &p->site, p->up, p->mending, p->r->arena);
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        json_t *record = stage_record(obj, stages[i].condition);
        if (json_at(record, "milliseconds"))
            continue;
        json_object_del(record, "startedAt"); /* it is not slow, it waits: the time begins again */
        json_object_del(record, "deadline");
    }
    status_condition(obj, "APIServerReady", "False", "TenantSuspended", "tenant %s is suspended", tenant);
    status_condition(obj, "ControllersReady", "False", "TenantSuspended", "tenant %s is suspended", tenant);
    status_condition(obj, "Ready", "False", "TenantSuspended", "tenant %s is suspended: its API server and controllers %s ended, its store is kept", tenant, gone ? "are" : "are being");
    p->r->requeue_ms = gone ? WAIT_MS : REMOVE_LOOK_MS;
}

/* ---- the end ---- */

static int delete_secret(struct pass *p, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_secret);
    const char *name = arena_printf(p->r->arena, "%s" CLUSTER_SECRET_SUFFIX, p->site.name);
    JSON_AUTO there = informer_get(p->k->secrets, p->site.ns, name);
    if (!there || !obj_owned_by(there, p->site.uid))
        return 0;
    struct err why = ERR_INIT;
    int rc = client_delete(p->r->client, &resource, p->site.ns, name, obj_uid(there), &why);
    return rc == 0 || rc == ERR_NOT_FOUND ? 0 : err_set(err, rc, "%s", why.msg);
}

static int finish(struct pass *p, struct err *err)
{
    struct reconcile *r = p->r;
    struct err why = ERR_INIT;
    bool done = false;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    if (!obj_has_finalizer(r->obj, CLUSTER_FINALIZER))
        return 0;
    if (p->site.warm && !warm_let_go(p->k->warm, p->site.uid)) {
        r->requeue_ms = REMOVE_LOOK_MS;
        return 0;
    }
    if (place_load(&p->site, NULL) < 0)
        (void)!place_from_status(&p->site, r->obj);
    int rc = delete_secret(p, &why);
    if (rc == 0)
        rc = cluster_remove(p->k, &p->site, &p->memory, &done, &why);
    save_memory(p);
    if (rc < 0 || !done) {
        r->requeue_ms = rc < 0 ? LATER_MS : REMOVE_LOOK_MS;
        status_condition(r->obj, "Ready", "False", rc < 0 ? "RemovalBlocked" : "Removing", "%s", rc < 0 ? why.msg : "its components are ended, those that use the store first");
        return save_status(p, before, err);
    }
    const char *what = arena_printf(r->arena, "%d processes ended, %d files removed; no process, file or listener is left", __builtin_popcount(p->memory.ended), p->memory.files);
    rc = reconcile_release(r, &kind_cluster, CLUSTER_FINALIZER, err);
    if (rc < 0)
        return rc;
    log_info("cluster removed", KV("namespace", p->site.ns), KV("cluster", p->site.name), KV("uid", p->site.uid), KV("what", what));
    manager_event(p->k->manager, r->obj, "Normal", "ClusterRemoved", what);
    return 0;
}

/* ---- one pass ---- */

static int upgrade(struct pass *p, struct err *err)
{
    const char *ready = obj_condition(p->r->obj, "Ready");
    struct upgrade_told told = {0};
    if (!file_exists(p->site.dir))
        return 0;
    int rc = upgrade_step(p->k, p->r, &p->cluster, &p->site, &p->memory, p->plan, ready && !strcmp(ready, "True") && p->whole, &told, err);
    if (told.reason)
        tell(p, told.type, told.reason, told.message);
    return rc;
}

int cluster_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct pass p = {.k = ctx, .r = r};
    struct arena *a = r->arena;
    if (!r->obj || !obj_uid(r->obj))
        return 0;
    p.site = (struct site){.ns = r->ns, .name = r->name, .uid = obj_uid(r->obj), .pass = r, .self = p.k->self, .warm = cluster_is_claimed(r->obj),
                           .members = (int)json_int(r->obj, "spec.controlPlane.replicas", 1)};
    p.site.dir = arena_printf(a, "%s/clusters/%s", p.k->o.data_dir, p.site.uid);
    p.site.kms = p.k->o.kms_program;
    load_memory(&p);
    if (obj_deleting(r->obj))
        return finish(&p, err);
    int rc = kind_decode(&kind_cluster, r->obj, a, &p.cluster, err);
    if (rc < 0)
        return rc;
    struct version_record version;
    rc = version_of(r->obj, p.cluster.spec.version, p.site.dir, &version, err);
    if (rc < 0)
        return rc;
    version_apply(&version, p.k->o.programs_dir, &p.site, a);
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    const char *suspended = suspended_tenant(p.k, p.site.ns, a);
    bool busy = false;
    (void)!find_network(&p, NULL); /* a place that a restore makes anew is of a cluster with nodes; what is wrong here is said later */
    if (*suspended)
        pause_components(&p, suspended);
    else
        rc = restore_step(p.k, r, &p.site, &p.memory, &busy, err);
    if (rc == 0 && !busy && !*suspended) {
        bring_up(&p);
        rc = upgrade(&p, err);
    }
    if (nodes_end_strays(p.k, &p.site, a))
        r->requeue_ms = r->requeue_ms ? MIN(r->requeue_ms, (uint64_t)REMOVE_LOOK_MS) : REMOVE_LOOK_MS;
    save_memory(&p);
    if (rc < 0)
        return rc;
    rc = save_status(&p, before, err);
    if (rc == 0 && p.event)
        manager_event(p.k->manager, r->obj, p.event_type, p.event_reason, p.event);
    if (rc == 0 && !json_at(before, "createMilliseconds") && json_at(r->obj, "status.createMilliseconds"))
        metric_observe(was_claimed(r->obj) ? p.k->claimed_in : p.k->took, (double)json_int(r->obj, "status.createMilliseconds", 0) / 1000);
    return rc;
}
