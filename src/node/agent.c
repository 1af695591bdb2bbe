#include "node/agent.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "controller/informer.h"
#include "node/claims.h"
#include "node/csi.h"
#include "node/network_policy.h"
#include "node/node_gate.h"
#include "node/snapshots.h"
#include "node/volume.h"
#include "node/volume_copy.h"

#define ETC "/etc/seki-node/"
#define SETTINGS ETC "agent.json"
#define CERTIFICATE ETC "agent.crt"
#define SETTINGS_MAX 65536
#define AGAIN_MS 3000u   /* what failed is tried again */
#define IDLE_MS 10000u
#define GATHER_MS 20     /* changes of policies and pods come in bunches */

static const struct kind kind_claim = {.group = "", .version = "v1", .name = "PersistentVolumeClaim", .plural = "persistentvolumeclaims", .namespaced = true};
static const struct kind kind_pod = {.group = "", .version = "v1", .name = "Pod", .plural = "pods", .namespaced = true};
static const struct kind kind_space = {.group = "", .version = "v1", .name = "Namespace", .plural = "namespaces"};
static const struct kind kind_policy = {.group = "networking.k8s.io", .version = "v1", .name = "NetworkPolicy", .plural = "networkpolicies", .namespaced = true};
static const struct kind kind_snapshot = {.group = SNAPSHOT_GROUP, .version = "v1", .name = "VolumeSnapshot", .plural = "volumesnapshots", .namespaced = true};
static const struct kind kind_content = {.group = SNAPSHOT_GROUP, .version = "v1", .name = "VolumeSnapshotContent", .plural = "volumesnapshotcontents"};
static const struct kind kind_volume = {.group = "", .version = "v1", .name = "PersistentVolume", .plural = "persistentvolumes"};

/* What one thread waits for. */
struct bell {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    bool waiting;
};

struct agent {
    const char *node;
    char pod_cidr[24];
    int64_t storage;
    struct client *client;
    struct informer *claims, *volumes, *snapshots, *contents, *pods, *spaces, *policies;
    struct bell claims_bell, policy_bell;
    struct timespec certificate;
};

static void bell_init(struct bell *b)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->rung, &a);
    pthread_condattr_destroy(&a);
}

static void ring(struct bell *b)
{
    pthread_mutex_lock(&b->lock);
    b->waiting = true;
    pthread_cond_signal(&b->rung);
    pthread_mutex_unlock(&b->lock);
}

/* Until it rings, or so long. */
static void bell_wait(struct bell *b, uint64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&b->lock);
    while (!b->waiting && pthread_cond_timedwait(&b->rung, &b->lock, &until) == 0)
        ;
    b->waiting = false;
    pthread_mutex_unlock(&b->lock);
}

static void on_change(void *arg, json_t *prev UNUSED, json_t *now UNUSED)
{
    ring(arg);
}

static void on_synced(void *arg)
{
    ring(arg);
}

static struct informer *watch(struct agent *a, const struct kind *k, struct bell *b)
{
    struct informer *i = informer_new(a->client, k);
    informer_add_handler(i, &(struct informer_handler){.changed = on_change, .synced = on_synced, .arg = b});
    return i;
}

static NORETURN void give_up(const char *what, const struct err *err)
{
    log_error(what, KVE(err));
    fflush(NULL);
    _exit(1);
}

static void *serve_csi(void *arg)
{
    struct agent *a = arg;
    struct csi_driver d = {.node = a->node, .volumes = AGENT_VOLUMES, .stage = volume_mount, .publish = volume_bind, .unmount = volume_unmount};
    struct err err = ERR_INIT;
    if (csi_serve(&d, &err) < 0)
        give_up("volumes are not served", &err);
    return NULL;
}

static void on_wiped(void *arg)
{
    ring(arg);
}

static void *serve_claims(void *arg)
{
    struct agent *a = arg;
    volumes_thaw(AGENT_VOLUMES);
    volumes_sweep(AGENT_VOLUMES);
    struct claims *c = claims_new(a->client, wiper_new(on_wiped, &a->claims_bell), a->node, AGENT_VOLUMES, a->storage);
    bool good = false;
    for (;;) {
        bell_wait(&a->claims_bell, good ? IDLE_MS : AGAIN_MS);
        if (!informer_synced(a->claims) || !informer_synced(a->volumes))
            continue;
        struct claims_seen seen = {0};
        bool snapshots = informer_synced(a->contents) && informer_synced(a->snapshots); /* not where sekid has not made these kinds */
        seen.contents = snapshots ? informer_list(a->contents, NULL) : NULL;
        seen.snapshots = snapshots ? informer_list(a->snapshots, NULL) : NULL;
        seen.volumes = informer_list(a->volumes, NULL);
        seen.claims = informer_list(a->claims, NULL);
        good = claims_pass(c, &seen);
        json_decref(seen.contents);
        json_decref(seen.snapshots);
        json_decref(seen.volumes);
        json_decref(seen.claims);
    }
    return NULL;
}

/* False: nft does not take it. */
static bool put_rules(const struct sbuf *text)
{
    static const char *const nft[] = {"nft", "-f", "-", NULL};
    return node_run(nft, text->ptr, -1) == 0;
}

static void *serve_policies(void *arg)
{
    struct agent *a = arg;
    CLEANUP(sbuf_deinit) struct sbuf in_force = {0};
    bool good = true;
    sbuf_init(&in_force, POLICY_TEXT_MAX);
    for (;;) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        struct err err = ERR_INIT;
        bell_wait(&a->policy_bell, good ? IDLE_MS : AGAIN_MS);
        if (!informer_synced(a->pods) || !informer_synced(a->spaces) || !informer_synced(a->policies))
            continue;
        nanosleep(&(struct timespec){.tv_nsec = GATHER_MS * 1000000L}, NULL);
        JSON_AUTO pods = informer_list(a->pods, NULL);
        JSON_AUTO spaces = informer_list(a->spaces, NULL);
        JSON_AUTO policies = informer_list(a->policies, NULL);
        sbuf_init(&text, POLICY_TEXT_MAX);
        good = policy_compile(&(struct policy_input){a->node, a->pod_cidr, pods, spaces, policies}, &text, &err) == 0;
        if (!good)
            log_error("network policies are not followed: what was in force stays", KVE(&err));
        if (!good || (in_force.len && str_eq(sbuf_str(&text), sbuf_str(&in_force))))
            continue;
        good = put_rules(&text);
        if (!good) {
            log_error("nft refuses the rules of network policies: what was in force stays");
            continue;
        }
        sbuf_reset(&in_force);
        sbuf_add(&in_force, sbuf_str(&text));
    }
    return NULL;
}

int agent_before_pods(void)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = NULL;
    if (json_read_file(SETTINGS, SETTINGS_MAX, &doc, NULL) < 0)
        return 0;
    sbuf_init(&text, SETTINGS_MAX);
    policy_closed(json_str_or(doc, "podCIDR", ""), &text);
    return put_rules(&text) ? 0 : -1;
}

static int load(struct agent *a, const struct node_settings *s, struct err *err)
{
    JSON_AUTO doc = NULL;
    char server[64];
    struct stat st;
    int rc = json_read_file(SETTINGS, SETTINGS_MAX, &doc, err);
    if (rc == 0 && !str_to_array(str_of(json_str_or(doc, "podCIDR", "")), a->pod_cidr, sizeof(a->pod_cidr)))
        rc = err_set(err, ERR_INVALID, "podCIDR is none");
    if (rc < 0)
        return rc;
    a->node = s->name;
    a->storage = json_int(doc, "storageBytes", 0);
    if (stat(CERTIFICATE, &st) == 0)
        a->certificate = st.st_mtim;
    snprintf(server, sizeof(server), "https://%s:%d", s->gate, GATE_API_PORT);
    return client_http(&(struct client_http_options){.server = server, .ca_file = ETC "ca.crt", .cert_file = CERTIFICATE, .key_file = ETC "agent.key"}, &a->client, err);
}

static bool has_new_certificate(const struct agent *a)
{
    struct stat st;
    return stat(CERTIFICATE, &st) == 0 && (st.st_mtim.tv_sec != a->certificate.tv_sec || st.st_mtim.tv_nsec != a->certificate.tv_nsec);
}

int agent_main(const struct node_settings *s)
{
    struct agent *a = XNEW(struct agent);
    struct err err = ERR_INIT;
    pthread_t csi, claims, policies;
    prctl(PR_SET_NAME, "seki-agent");
    log_setup(LOG_INFO, LOG_AUTO, "node-agent");
    if (load(a, s, &err) < 0)
        give_up("settings", &err);
    bell_init(&a->claims_bell);
    bell_init(&a->policy_bell);
    a->claims = watch(a, &kind_claim, &a->claims_bell);
    a->volumes = watch(a, &kind_volume, &a->claims_bell);
    a->snapshots = watch(a, &kind_snapshot, &a->claims_bell);
    a->contents = watch(a, &kind_content, &a->claims_bell);
    a->pods = watch(a, &kind_pod, &a->policy_bell);
    a->spaces = watch(a, &kind_space, &a->policy_bell);
    a->policies = watch(a, &kind_policy, &a->policy_bell);
    struct informer *const all[] = {a->policies, a->spaces, a->pods, a->claims, a->volumes, a->snapshots, a->contents};
    for (size_t i = 0; i < ARRAY_LEN(all) - (a->storage > 0 ? 0 : 2); i++) /* the last two are of clusters with volumes */
        if (informer_start(all[i], &err) < 0)
            give_up("watching", &err);
    if (pthread_create(&csi, NULL, serve_csi, a) != 0 || pthread_create(&claims, NULL, serve_claims, a) != 0 || pthread_create(&policies, NULL, serve_policies, a) != 0)
        give_up("no thread", &err);
    while (!has_new_certificate(a))
        nanosleep(&(struct timespec){.tv_sec = IDLE_MS / 1000}, NULL);
    log_info("credentials are new: started again with them");
    fflush(NULL);
    _exit(1);
}
