/* The control process: store, API server, controllers, billing, monitoring.
 *
 * Two threads are wired here. The loop's thread owns store, API and monitoring listener. The services thread starts everything that uses the API through a
 * blocking client, sleeps, and stops it again in the opposite order; the loop outlives it, because its calls end in the loop.
 */
#include "apiserver/apiserver.h"
#include "backup/backup.h"
#include "backup/rollback.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "billing/billing.h"
#include "cmd/break_glass.h"
#include "cmd/credentials.h"
#include "cmd/manifests.h"
#include "cmd/monitor.h"
#include "cmd/roles.h"
#include "cmd/vitals.h"
#include "inference/inference.h"
#include "kaas/kaas.h"
#include "kaas/tell.h"
#include "kinds/cluster_oidc.h"
#include "kinds/tenancy.h"
#include "tenancy/tenancy.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define UPGRADE_SPARE_BYTES (64u * 1024 * 1024) /* that a change of the store's format leaves free */
#define RENEW_EVERY_MS (24 * 3600 * 1000u)

struct control {
    const struct command_line *cl;
    struct options *options;     /* the loop thread's; services take copies of what may change */
    struct arena *arena, *held;  /* the loop thread's; held: texts of reloaded options */
    struct arena *services_arena;
    struct loop *loop;
    struct store *store;
    struct audit_log *audit;
    struct apiserver *api;
    struct monitor *monitor;
    struct tls_ctx *tls;
    struct oidc *issuers;
    struct break_glass *emergencies;
    struct token_pepper pepper;
    struct jwt_key *token_key;
    struct client_local local;
    struct timer renew;

    pthread_t services;
    bool services_running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop_asked, stop_workloads; /* under lock */
    bool apply_asked;                /* under lock: manifests are to be applied (again) */
    char *manifests_dir;             /* under lock; "" for none */
    struct err manifests_err;        /* under lock: what is wrong with them */
    atomic_bool ready;
    pthread_mutex_t inference_lock; /* guards inference: the runtime's thread tells it of changes */
    struct inference *inference;
    struct kaas *kaas;       /* under inference_lock, likewise */
    struct billing *billing; /* under inference_lock, likewise: gateways ask it */
    bool failed; /* services could not start */
    struct reach reach;
};

/* What the gateway may do: read what it routes by, and tell of its load. */
static const char builtin_manifests[] =
    "apiVersion: rbac.authorization.k8s.io/v1\n"
    "kind: ClusterRole\n"
    "metadata: {name: 'system:seki:gateway'}\n"
    "rules:\n"
    "- apiGroups: ['seki.cloud']\n"
    "  resources: [apikeys, modelendpoints, modelreplicas, modelroutes, prices, projectlimits, residencypolicies, sites, tenants]\n"
    "  verbs: [get, list, watch]\n"
    "- apiGroups: ['seki.cloud']\n"
    "  resources: [gatewayleases, gatewayloads]\n"
    "  verbs: [create]\n"
    "- apiGroups: ['']\n"
    "  resources: [namespaces]\n"
    "  verbs: [get, list, watch]\n"
    "---\n"
    "apiVersion: rbac.authorization.k8s.io/v1\n"
    "kind: ClusterRole\n"
    "metadata: {name: '" TENANT_OWNER "'}\n"
    "rules:\n"
    "- apiGroups: ['']\n"
    "  resources: [namespaces]\n"
    "  verbs: [get, list, watch, update, patch, delete]\n"
    "---\n"
    "apiVersion: rbac.authorization.k8s.io/v1\n"
    "kind: ClusterRoleBinding\n"
    "metadata: {name: 'system:seki:gateway'}\n"
    "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:seki:gateway'}\n"
    "subjects:\n"
    "- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:seki:gateways'}\n";

static void make_key(void *ctx, char *ret_text, size_t size, char *ret_hash_hex, size_t hash_size)
{
    struct control *c = ctx;
    char token[TOKEN_TEXT_MAX], hash[SHA256_HEX_MAX];
    token_make(token);
    token_hash(&c->pepper, str_of(token), hash);
    snprintf(ret_text, size, "%s", token);
    snprintf(ret_hash_hex, hash_size, "%s", hash);
    mem_wipe(token, sizeof(token));
}

/* Any moment after the API's start: the controllers may not be there yet, or any more. */
static int take_load(void *ctx, const json_t *told, json_t **ret, struct err *err)
{
    struct control *c = ctx;
    pthread_mutex_lock(&c->inference_lock);
    int rc = c->inference ? inference_load(c->inference, told, ret, err) : err_set(err, ERR_UNAVAILABLE, "controllers are not running");
    pthread_mutex_unlock(&c->inference_lock);
    return rc;
}

/* Any moment after the API's start: billing may not be there yet, or any more. */
static int lease(void *ctx, const json_t *ask, json_t **ret, struct err *err)
{
    struct control *c = ctx;
    pthread_mutex_lock(&c->inference_lock);
    int rc = c->billing ? billing_lease(c->billing, ask, ret, err) : err_set(err, ERR_UNAVAILABLE, "billing is not running");
    pthread_mutex_unlock(&c->inference_lock);
    return rc;
}

static void set_billing(struct control *c, struct billing *b)
{
    pthread_mutex_lock(&c->inference_lock);
    c->billing = b;
    pthread_mutex_unlock(&c->inference_lock);
}

/* ---- services thread ---- */

static void workload_changed(void *arg, const char *name)
{
    struct control *c = arg;
    pthread_mutex_lock(&c->inference_lock);
    if (c->inference)
        inference_workload_changed(c->inference, name);
    if (c->kaas)
        kaas_workload_changed(c->kaas, name);
    pthread_mutex_unlock(&c->inference_lock);
}

/* kind_services.claim */
static const char *claim(void *ctx, struct arena *a, const json_t *cluster)
{
    struct control *c = ctx;
    pthread_mutex_lock(&c->inference_lock);
    const char *uid = c->kaas ? kaas_claim(c->kaas, a, cluster) : NULL;
    pthread_mutex_unlock(&c->inference_lock);
    return uid;
}

/* Once this has returned, the runtime's thread is not inside the old ones. */
static void set_inference(struct control *c, struct inference *i, struct kaas *k)
{
    pthread_mutex_lock(&c->inference_lock);
    c->inference = i;
    c->kaas = k;
    pthread_mutex_unlock(&c->inference_lock);
}

struct services {
    struct tenancy *tenancy;
    struct client *client;
    struct runtime *runtime;
    struct manager *manager;
    struct inference *inference;
    struct kaas *kaas;
    struct billing *billing;
};

/* The launcher of an installed Seki lies below the same prefix as the program: PREFIX/bin/sekid, PREFIX/share/seki/. */
static const char *installed_launcher(struct arena *a)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return NULL;
    self[n] = 0;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (!slash)
            return NULL;
        *slash = 0;
    }
    const char *path = arena_printf(a, "%s/share/seki/llamacpp-launcher.py", self);
    return file_exists(path) ? path : NULL;
}

/* A program that comes with sekid, and lies beside it: by the name that it has after an upgrade too. */
static const char *beside_us(struct arena *a, const char *name)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    return arena_printf(a, "%.*s/%s", slash ? (int)(slash - self) : 0, self, name);
}

static int start_inference(struct control *c, struct services *s, struct err *err)
{
    const struct options *o = c->options;
    struct arena *a = c->services_arena;
    struct runtime_local_options ro = {.state_dir = options_path(o, a, "run/workloads"),
                                       .log_dir = options_path(o, a, "log"),
                                       .changed = workload_changed,
                                       .arg = c};
    struct inference_options io = {
        .paths = {.llama_server = *o->engine_llama_server ? o->engine_llama_server : NULL,
                  .vllm = *o->engine_vllm ? o->engine_vllm : NULL,
                  .engine_venv = *o->engine_venv ? o->engine_venv : NULL,
                  .launcher = *o->engine_launcher ? o->engine_launcher : installed_launcher(a),
                  .fake_engine = *o->engine_fake ? o->engine_fake : NULL,
                  .socket_dir = options_path(o, a, "run/engines"),
                  .remote = &c->reach},
        .probe_interval_ms = (uint64_t)o->engine_probe_ms,
        .stall_ms = (uint64_t)o->engine_stall_ms,
        .idle_ms = (uint64_t)o->engine_idle_ms,
        .drain_ms = (uint64_t)o->engine_drain_ms,
        .memory_reserve_bytes = o->engine_memory_reserve,
        .counters_ms = (uint64_t)o->usage_reconcile_ms,
        .model_dirs = o->model_dirs,
        .data_dir = o->data};
    int rc;
    if ((rc = file_mkdirs(io.paths.socket_dir, 0700, err)) < 0 ||
        (rc = runtime_local_new(&ro, &s->runtime, err)) < 0)
        return rc;
    s->manager = manager_new(s->client, "sekid");
    s->tenancy = tenancy_new(s->manager);
    s->inference = inference_new(s->manager, s->runtime, &io);
    const struct kaas_options ko = {.data_dir = o->data,
                                    .log_dir = ro.log_dir,
                                    .programs_dir = o->kubernetes_dir,
                                    .addresses = o->kubernetes_addresses,
                                    .balancer_addresses = o->kubernetes_balancer_addresses,
                                    .listens = {o->api_listen, o->gateway_listen, o->metrics_listen, o->metrics_gateway_listen},
                                    .probe_ms = (uint64_t)o->kubernetes_probe_ms,
                                    .certificate_life_ms = (uint64_t)o->kubernetes_certificate_life_ms,
                                    .kms_program = beside_us(a, "seki-kms"),
                                    .key_overlap_ms = (uint64_t)o->kubernetes_key_overlap_ms,
                                    .node_storage = o->kubernetes_node_storage,
                                    .node_disks = o->kubernetes_node_disks,
                                    .authentication_config = o->authentication_config,
                                    .warm_clusters = (size_t)o->kubernetes_warm_clusters,
                                    .drill_ms = (uint64_t)o->kubernetes_drill_ms};
    if ((rc = kaas_new(s->manager, s->runtime, &ko, &s->kaas, err)) < 0)
        return rc;
    set_inference(c, s->inference, s->kaas);
    rc = inference_settle(s->inference, s->client, err);
    if (rc == 0)
        rc = kaas_settle(s->kaas, s->client, err);
    return rc < 0 ? rc : manager_start(s->manager, err);
}

static void set_manifests_err(struct control *c, const struct err *err)
{
    pthread_mutex_lock(&c->lock);
    c->manifests_err = *err;
    pthread_mutex_unlock(&c->lock);
}

/* A failure leaves the API running, so that it can be mended; readyz tells of it. */
static void apply_manifests(struct control *c, struct services *s, const char *dir)
{
    struct manifests m = {0};
    struct manifests_result result = {0};
    struct err err = ERR_INIT;
    if (*dir && manifests_load_dir(dir, &m, &err) == 0 &&
        manifests_apply(s->client, &m, options_path(c->options, c->services_arena, "keys"), &result, &err) == 0)
        log_info("manifests applied", KV("directory", dir), KVI("created", result.created), KVI("present", result.present));
    else if (err.code)
        log_error("manifests are not applied", KVE(&err));
    manifests_deinit(&m);
    set_manifests_err(c, &err);
}

static int apply_builtin(struct services *s, struct err *err)
{
    struct manifests m = {0};
    int rc = manifests_load_text("built-in manifests", str_of(builtin_manifests), &m, err);
    if (rc == 0)
        rc = manifests_apply(s->client, &m, NULL, NULL, err);
    manifests_deinit(&m);
    return rc;
}

/* Until the end is asked for: manifests, whenever that is asked for. Returns whether workloads are to be stopped. */
static bool serve(struct control *c, struct services *s)
{
    pthread_mutex_lock(&c->lock);
    while (!c->stop_asked) {
        if (!c->apply_asked) {
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        c->apply_asked = false;
        CLEANUP(mem_freep) char *dir = xstrdup(c->manifests_dir);
        pthread_mutex_unlock(&c->lock);
        apply_manifests(c, s, dir);
        if (!atomic_exchange(&c->ready, true))
            log_info("control is ready");
        pthread_mutex_lock(&c->lock);
    }
    bool stop_workloads = c->stop_workloads;
    pthread_mutex_unlock(&c->lock);
    return stop_workloads;
}

static int start_services(struct control *c, struct services *s, struct err *err)
{
    const struct options *o = c->options;
    struct arena *a = c->services_arena;
    s->client = client_local_new(&c->local, "system:seki:control", (const char *const[]){"system:masters", NULL});
    struct net_addr addr;
    int rc = apply_builtin(s, err);
    apiserver_addr(c->api, &addr);
    if (rc == 0)
        rc = role_write_addr(o, a, "api", &addr, err); /* a gateway that waits for it may do from now on what it must */
    if (rc == 0)
        rc = start_inference(c, s, err);
    struct billing_options bo = {.journal_dir = options_path(o, a, "ledger"),
                                 .ledger_dir = options_path(o, a, "ledger"),
                                 .lease_file = options_path(o, a, "ledger/gateway.leases"),
                                 .lease_ms = (uint64_t)o->limits_lease_ms,
                                 .manager = s->manager,
                                 .replicas = rc == 0 ? manager_informer(s->manager, &kind_model_replica) : NULL};
    if (rc == 0)
        rc = billing_start(s->client, &bo, &s->billing, err);
    if (rc == 0)
        set_billing(c, s->billing);
    return rc;
}

static void stop_services(struct control *c, struct services *s, bool stop_workloads)
{
    set_inference(c, NULL, NULL);
    set_billing(c, NULL);
    if (s->billing) /* it uses the manager */
        billing_stop(s->billing);
    if (s->kaas)
        kaas_stop_following(s->kaas);
    if (s->manager)
        manager_stop(s->manager);
    if (s->kaas && stop_workloads)
        kaas_stop_all(s->kaas);
    if (s->runtime)
        s->runtime->ops->free(s->runtime, stop_workloads);
    if (s->inference)
        inference_free(s->inference);
    kaas_free(s->kaas);
    tenancy_free(s->tenancy);
    if (s->client)
        client_free(s->client);
}

static void leave(void *arg)
{
    struct control *c = arg;
    loop_stop(c->loop);
}

static void services_gone(void *arg)
{
    struct control *c = arg;
    apiserver_drain(c->api, leave, c);
}

static void *services_main(void *arg)
{
    struct control *c = arg;
    struct services s = {0};
    struct err err = ERR_INIT;
    bool stop_workloads = false;
    if (start_services(c, &s, &err) < 0) {
        log_error("control cannot start", KVE(&err));
        c->failed = true;
    } else {
        stop_workloads = serve(c, &s);
    }
    atomic_store(&c->ready, false);
    stop_services(c, &s, stop_workloads);
    loop_post(c->loop, services_gone, c);
    return NULL;
}

/* ---- loop thread ---- */

static int check_store(void *arg, struct err *err)
{
    return store_health(((struct control *)arg)->store, err);
}

static int check_controllers(void *arg, struct err *err)
{
    struct control *c = arg;
    return atomic_load(&c->ready) ? 0 : err_set(err, ERR_UNAVAILABLE, "not running");
}

static int check_manifests(void *arg, struct err *err)
{
    struct control *c = arg;
    pthread_mutex_lock(&c->lock);
    int code = c->manifests_err.code;
    if (code)
        *err = c->manifests_err;
    pthread_mutex_unlock(&c->lock);
    return code;
}

static int check_audit(void *arg, struct err *err)
{
    return audit_log_health(((struct control *)arg)->audit, err);
}

static int check_issuers(void *arg, struct err *err)
{
    return oidc_check(((struct control *)arg)->issuers, err);
}

static const struct monitor_check checks[] = {{"store", check_store}, {"controllers", check_controllers}, {"manifests", check_manifests}, {"audit", check_audit}, {"issuers", check_issuers}, {NULL, NULL}};

static void ask_for_manifests(struct control *c)
{
    pthread_mutex_lock(&c->lock);
    mem_free(c->manifests_dir);
    c->manifests_dir = xstrdup(c->options->manifests);
    c->apply_asked = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* Certificates near their end are made anew, and those on disk are what new connections see. */
static void renew_credentials(struct control *c)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(1024 * 1024);
    const struct options *o = c->options;
    struct token_pepper pepper;
    struct net_addr addr;
    struct err err = ERR_INIT;
    apiserver_addr(c->api, &addr);
    struct jwt_key *token_key = NULL;
    int rc = credentials_ensure(o, a, &pepper, &token_key, &err);
    mem_wipe(&pepper, sizeof(pepper));
    if (rc == 0)
        jwt_key_free(token_key); /* the one in use stays: it is the same */
    if (rc == 0)
        rc = tls_server_reload(c->tls, options_path(o, a, "pki/apiserver.crt"), options_path(o, a, "pki/apiserver.key"), options_path(o, a, "pki/ca.crt"), &err);
    if (rc == 0)
        rc = credentials_write_kubeconfig(o, a, &addr, &err);
    vitals_control_certificates(o);
    if (rc < 0)
        log_error("the API keeps its certificate: another could not be had", KVE(&err));
}

/* An upgrade has a way back for a while. */
static void end_upgrade(struct control *c)
{
    struct err err = ERR_INIT;
    bool gone = false;
    if (c->options->store_rollback_keep_ms && rollback_expire(c->options->data, c->options->store_rollback_keep_ms, &gone, &err) < 0)
        log_warn("what was kept for a rollback cannot be removed", KVE(&err));
    if (gone)
        log_info("the store as it was before the upgrade is kept no longer: store.rollback-keep");
}

static void on_renew(struct timer *t)
{
    renew_credentials(t->arg);
    end_upgrade(t->arg);
    timer_start(t, RENEW_EVERY_MS);
}

/* From the file as it is now. On failure those of before stay. */
static int read_issuers(struct control *c, struct err *err)
{
    struct oidc_options opt = {.file = c->options->authentication_config, .skew_ms = c->options->authentication_skew_ms, .refresh_ms = (uint64_t)c->options->authentication_refresh_ms};
    return oidc_configure(c->issuers, &opt, err);
}

static void issuers_changed(struct control *c)
{
    apiserver_issuers_changed(c->api);
    pthread_mutex_lock(&c->inference_lock);
    if (c->kaas)
        kaas_issuers_changed(c->kaas, c->options->authentication_config);
    pthread_mutex_unlock(&c->inference_lock);
}

static void reload(struct control *c)
{
    if (options_reload_logged(c->cl, c->options, &c->held) < 0)
        return;
    struct err err = ERR_INIT;
    if (read_issuers(c, &err) < 0)
        log_error("issuers of tokens stay as they were", KVE(&err));
    else
        issuers_changed(c);
    apiserver_set_objects_per_project(c->api, c->options->limits_objects);
    renew_credentials(c);
    ask_for_manifests(c);
}

static void on_signal(void *arg, int signo)
{
    struct control *c = arg;
    if (signo == SIGHUP) {
        if (c->services_running)
            reload(c);
        return;
    }
    if (signo == SIGUSR2) {
        role_not_replaced();
        return;
    }
    log_info("stopping", KV("workloads", signo == SIGINT ? "stopped too" : "left running"));
    if (!c->services_running) {
        loop_stop(c->loop);
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->stop_asked = true;
    c->stop_workloads = c->stop_workloads || signo == SIGINT;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

static void on_bootstrapped(void *arg, int code, const struct err *err)
{
    struct control *c = arg;
    if (code < 0) {
        log_error("the API's own objects could not be made", KVE(err));
        c->failed = true;
        loop_stop(c->loop);
        return;
    }
    break_glass_start(c->emergencies, &c->local, c->api);
    ask_for_manifests(c);
    if (pthread_create(&c->services, NULL, services_main, c) != 0) {
        log_error("cannot start a thread");
        c->failed = true;
        loop_stop(c->loop);
        return;
    }
    c->services_running = true;
}

static int keep_for_rollback(struct control *c, struct err *err)
{
    struct rollback r;
    int rc = rollback_keep(c->options->data, UPGRADE_SPARE_BYTES, &r, err);
    if (rc == 0 && r.kept_ms)
        log_info("this release changes the store's format: a copy is kept for a rollback, until `seki upgrade finish`", KVI("from", r.copy.format), KVI("to", r.format), KVI("revision", r.copy.rev),
                 KVI("bytes", r.copy.bytes));
    return rc;
}

static int open_store(struct control *c, struct err *err)
{
    int rc = keep_for_rollback(c, err);
    if (rc < 0)
        return rc;
    end_upgrade(c);
    rc = audit_log_open(&(struct audit_log_options){options_path(c->options, c->arena, "ledger"), AUDIT_LEDGER, AUDIT_GATEWAY}, &c->audit, err);
    if (rc < 0)
        return rc;
    struct store_options so = {.path = options_path(c->options, c->arena, "seki.db"),
                               .journal = audit_log_journal(c->audit),
                               .retain_ms = (uint64_t)c->options->store_retain_ms};
    rc = store_open_sqlite(c->loop, &so, &c->store, err);
    return rc < 0 ? rc : audit_log_settle(c->audit, store_rev(c->store), err);
}

/* ---- what the store is like, for /metrics; read on the loop's thread ---- */

static struct store_stats stats_of(void *store)
{
    struct store_stats s;
    store_get_stats(store, &s);
    return s;
}
static double store_objects(void *store)
{
    return (double)stats_of(store).live_objects;
}
static double store_object_bytes(void *store)
{
    return (double)stats_of(store).live_bytes;
}
static double store_history_bytes(void *store)
{
    return (double)stats_of(store).history_bytes;
}
static double store_writable(void *store)
{
    struct err err = ERR_INIT;
    return store_health(store, &err) == 0;
}

static void make_store_metrics(struct store *s)
{
    metric_gauge_fn("seki_store_objects", "Objects stored.", store_objects, s);
    metric_gauge_fn("seki_store_object_bytes", "Bytes of the objects stored.", store_object_bytes, s);
    metric_gauge_fn("seki_store_history_bytes", "Bytes of earlier versions, kept for watches and paged lists.", store_history_bytes, s);
    metric_gauge_fn("seki_store_writable", "1 while the disk takes writes, else 0.", store_writable, s);
}

static double last_backup(void *data)
{
    return (double)(backup_last_ms(data) / 1000);
}

static double issuers_known(void *issuers)
{
    return (double)oidc_issuers(issuers);
}
static double issuers_unreachable(void *issuers)
{
    return (double)oidc_unreachable(issuers);
}

/* Of Clusters; no other kind has text beside it. ctx: where it lies. */
static int tell_text(void *ctx, const struct api_text *ask, struct sbuf *ret, char next[API_TEXT_NEXT_MAX], struct err *err)
{
    struct tell_ask t = *(const struct tell_ask *)ctx;
    t.cluster = ask->owner;
    t.part = ask->part;
    t.component = ask->component;
    t.after = ask->after;
    t.tail = ask->tail;
    return kaas_tell(&t, ret, next, err);
}

static int start_api(struct control *c, struct err *err)
{
    const struct options *o = c->options;
    struct arena *a = c->arena;
    struct apiserver_options ao = {.token_file = *o->api_token_file ? o->api_token_file : NULL,
                                   .audit = c->audit,
                                   .issuers = c->issuers,
                                   .break_glass = break_glass_check,
                                   .break_glass_wait = break_glass_wait,
                                   .break_glass_ctx = c->emergencies,
                                   .root_key = *o->secrets_root_key ? o->secrets_root_key : options_path(o, a, "secrets/root.key"),
                                   .old_root_key = o->secrets_old_root_key,
                                   .objects_per_project = o->limits_objects,
                                   .site = o->site,
                                   .services = {.ctx = c, .make_key = make_key, .load = take_load, .lease = lease, .token_key = c->token_key, .claim = claim, .kubernetes_dir = o->kubernetes_dir}};
    struct net_addr monitor_listen, addr;
    int rc;
    cluster_oidc_allow(o->kubernetes_issuers);
    if ((rc = tls_server_ctx(options_path(o, a, "pki/apiserver.crt"), options_path(o, a, "pki/apiserver.key"),
                             options_path(o, a, "pki/ca.crt"), &c->tls, err)) < 0 ||
        (rc = role_listen_addr(o, a, "api", o->api_listen, -1, &ao.listen, err)) < 0 ||
        (rc = role_listen_addr(o, a, "metrics", o->metrics_listen, -1, &monitor_listen, err)) < 0)
        return rc;
    ao.tls = c->tls;
    ao.text = tell_text;
    struct tell_ask *where = ARENA_NEW(a, struct tell_ask);
    *where = (struct tell_ask){.data_dir = arena_strdup(a, o->data), .log_dir = options_path(o, a, "log")};
    ao.text_ctx = where;
    if ((rc = apiserver_start(c->loop, c->store, &ao, &c->api, err)) < 0)
        return rc;
    for (size_t i = 1; checks[i].name; i++) /* the store it checks itself */
        apiserver_add_ready_check(c->api, checks[i].name, checks[i].check, c);
    c->local = apiserver_local(c->api);
    make_store_metrics(c->store);
    vitals_ready("seki_control_ready", "1 while /readyz of control answers 200, else 0.", checks, c);
    vitals_disk(o->data);
    vitals_control_certificates(o);
    metric_gauge_fn("seki_backup_last_success_timestamp_seconds", "When the newest backup of this machine's data began, since 1970-01-01 UTC; 0: none is known.", last_backup, o->data);
    metric_gauge_fn("seki_authentication_issuers", "Issuers of people's tokens.", issuers_known, c->issuers);
    metric_gauge_fn("seki_authentication_issuers_unreachable", "Issuers whose keys could not be fetched last time; known ones stay in use.", issuers_unreachable, c->issuers);
    if ((rc = monitor_start(c->loop, &monitor_listen, 0, checks, c, &c->monitor, err)) < 0)
        return rc;
    monitor_addr(c->monitor, &addr);
    if ((rc = role_write_addr(o, a, "metrics", &addr, err)) < 0)
        return rc;
    apiserver_addr(c->api, &addr);
    if ((rc = credentials_write_kubeconfig(o, a, &addr, err)) < 0)
        return rc;
    char text[NET_ADDR_TEXT_MAX];
    net_addr_format(&addr, text);
    log_info("API listens", KV("address", text));
    return 0;
}

static int start(struct control *c, struct err *err)
{
    static const char *const dirs[] = {"", "run", "pki", "ledger", "models", "log", "secrets"};
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(dirs); i++)
        rc = file_mkdirs(options_path(c->options, c->arena, dirs[i]), 0700, err);
    if (rc == 0)
        rc = loop_new(&c->loop, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(signals); i++)
        rc = loop_signal(c->loop, signals[i], on_signal, c, err);
    if (rc == 0)
        rc = open_store(c, err);
    if (rc == 0)
        rc = credentials_ensure(c->options, c->arena, &c->pepper, &c->token_key, err);
    if (rc == 0) {
        c->issuers = oidc_new(c->loop);
        c->emergencies = break_glass_new(c->loop, options_path(c->options, c->arena, "break-glass"));
        break_glass_record_in(c->emergencies, c->audit);
        rc = read_issuers(c, err);
    }
    if (rc == 0)
        rc = start_api(c, err);
    return rc;
}

int control_run(const struct command_line *cl, struct options *o, struct arena *a)
{
    struct control c = {.cl = cl, .options = o, .arena = a, .services_arena = arena_new(1024 * 1024)};
    struct err err = ERR_INIT;
    pthread_mutex_init(&c.lock, NULL);
    pthread_mutex_init(&c.inference_lock, NULL);
    pthread_cond_init(&c.wake, NULL);
    int rc = reach_parse(o->engine_remote_allow, &c.reach, &err);
    if (rc == 0)
        rc = start(&c, &err);
    if (rc == 0) {
        timer_init(&c.renew, c.loop, on_renew, &c);
        timer_start(&c.renew, RENEW_EVERY_MS);
        apiserver_bootstrap(c.api, on_bootstrapped, &c);
        loop_run(c.loop);
        timer_stop(&c.renew);
    } else {
        log_error("control cannot start", KVE(&err));
    }
    if (c.services_running)
        pthread_join(c.services, NULL);
    monitor_free(c.monitor);
    if (c.api)
        apiserver_free(c.api);
    oidc_free(c.issuers);
    break_glass_free(c.emergencies);
    tls_ctx_unref(c.tls);
    if (c.store)
        store_close(c.store);
    audit_log_close(c.audit);
    if (c.loop)
        loop_free(c.loop);
    arena_free(c.services_arena);
    arena_free(c.held);
    mem_free(c.manifests_dir);
    pthread_mutex_destroy(&c.inference_lock);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.wake);
    jwt_key_free(c.token_key);
    mem_wipe(&c.pepper, sizeof(c.pepper));
    reach_deinit(&c.reach);
    return rc == 0 && !c.failed ? 0 : 1;
}
