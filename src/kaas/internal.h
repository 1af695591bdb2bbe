/* Between the files of this folder. */
#ifndef SEKI_KAAS_INTERNAL_H
#define SEKI_KAAS_INTERNAL_H

#include <pthread.h>

#include "base/map.h"
#include "crypto/pki.h"
#include "kaas/kaas.h"
#include "kaas/secrets.h"
#include "kinds/kaas.h"

#define CONTROLLER_CLUSTER "cluster"
#define WORKLOAD_PREFIX "kc-"

/* ---- components: plan.c ---- */

/* In the order of starting, KMS with ETCD; ended the other way round. */
enum component { ETCD, APISERVER, CONTROLLERS, SCHEDULER, KMS, RELAY, COMPONENTS };
#define MEMBERS_MAX 3

#define PORT_ETCD 2379
#define PORT_ETCD_PEERS 2380
#define PORT_ETCD_HEALTH 2381
#define PORT_ETCD_LEARNER 2378 /* where a member that is no voter yet answers clients: none that may be sent to it knows of that */
#define PORT_APISERVER 6443
#define PORT_APISERVER_MEMBER 6444 /* with more than one: the relay has the other, and hands on */
#define PORT_CONTROLLERS 10257
#define PORT_SCHEDULER 10259
extern const uint16_t cluster_ports[]; /* all of them; ends with 0 */

/* What a cluster is made of, beside its spec. Texts live as long as the pass. */
struct site {
    const char *ns, *name, *uid;
    const char *dir;      /* clusters/UID */
    const char *minor;    /* "1.37": what it runs */
    const char *programs; /* that minor's folder; "" when there is none */
    const char *older;    /* in an upgrade: the folder of the minor that it comes from … */
    unsigned behind;      /* … and which components are of it still, a bit each */
    enum component turning; /* with `waiting`: whose members come to the newer one after the other … */
    unsigned waiting;       /* … and which have not had their turn, a bit each */
    const char *kms;      /* the program seki-kms */
    const char *self;     /* the program that we are */
    char address[16];     /* the cluster's, and the first member's */
    int members;          /* of its control plane; 0 counts as 1 */
    char more[MEMBERS_MAX - 1][16]; /* addresses of the others */
    unsigned joined;      /* members of the store that were added to it while it ran, a bit each */
    unsigned replacing;   /* the one that is being replaced, as a bit: it is no voter yet, and nobody asks it */
    bool warm;       /* its place was made before it was asked for (warm.h): its workloads and command lines are without project and name. ns and name are "" while nobody has it */
    bool claiming;   /* it becomes a cluster's now: what its API server shows is issued anew */
    bool with_nodes; /* its API server can be reached by nodes, and reaches them through the gate */
    char gate[16];   /* then: where nodes find it */
    const char *node_network; /* then */
    const struct reconcile *pass; /* what runs programs asks it whether it must end; NULL: nobody waits */
};

struct plan {
    const char *program;      /* a path */
    const char *const *argv;  /* ends in NULL */
    const char *const *env;   /* ends in NULL */
    const char *health;       /* URL without path, or unix:PATH of the plugin's control socket … */
    const char *health_path;  /* … that answers 200 when it may be used */
    const char *alive_path;   /* … and while it need not be killed */
};
/* What an API server reads at its start alone about its ways out; another content takes another name, and so another command line. */
#define EGRESS_FILE "egress-all.json"
/* Pure: the same cluster gives the same command line, today and after any restart of ours, or its components would be started anew. Nothing secret is in it. */
void plan_component(enum component c, int member, const struct cluster *spec, const struct site *s, struct arena *a, struct plan *ret);
const char *component_name(enum component c); /* "etcd" */
/* "etcd", "etcd-1", "etcd-2": the first is called what the only one of a smaller cluster is. */
#define PART_NAME_MAX 24
void part_name(enum component c, int member, char name[PART_NAME_MAX]);
/* "kc-NS-NAME-UID8-etcd-1": a cluster that is made anew under the same name has other workloads. In a place that was warm "kc-warm--UID8-etcd": no cluster's name is empty. */
#define WORKLOAD_NAME_MAX 201
#define WARM_PREFIX WORKLOAD_PREFIX "warm--"
/* What they begin with, up to UID8 and a dash. */
void component_prefix(const struct site *s, char prefix[WORKLOAD_NAME_MAX]);
/* Whether a Cluster has, or was to have, a place that was warm. */
static inline bool cluster_is_claimed(const json_t *cluster)
{
    return json_flag(cluster, CLUSTER_CLAIMED, false);
}
void component_workload(const struct site *s, enum component c, int member, char name[WORKLOAD_NAME_MAX]);
/* Whether a workload of that name is a member of a store: those end last. */
bool workload_is_store(const char *name);
/* From SIGTERM to SIGKILL. */
uint64_t component_stop_ms(const struct site *s, enum component c);
static inline int site_members(const struct site *s)
{
    return s->members > 1 ? s->members : 1;
}
/* How many of a component there are: one plugin, one relay where there is more than one API server, and one of everything else for each member. */
int component_count(const struct site *s, enum component c);
const char *member_address(const struct site *s, int member);
/* "DIR/etcd", "DIR/etcd-1" */
const char *member_store(const struct site *s, int member, struct arena *a);
const char *member_audit(const struct site *s, int member, struct arena *a); /* likewise: where its API server's audit log is */

/* ---- pki.c ---- */

/* Makes what is missing or near its end below dir/pki, in a place that nobody has but for the administrator's; the list is in docs/internals/kaas.md. Quick: some milliseconds. ret_made (may be NULL): whether anything was. */
int cluster_pki_ensure(const struct cluster *spec, const struct site *s, uint64_t life_ms, bool *ret_made, struct err *err) NODISCARD;
/* What proves, as fetch_options.pinned takes it, that the API server shows the certificate that lies in pki/ now. */
int cluster_pki_pin(const struct site *s, char ret[PKI_PIN_MAX], struct err *err) NODISCARD;
/* A kubeconfig: with paths of the certificate and key, which its reader reads again when they change; or embedded, to be handed on. A new document. */
json_t *kubeconfig_by_path(const struct site *s, const char *leaf);
int kubeconfig_embedded(const struct site *s, const char *leaf, const char *context, json_t **ret, struct err *err) NODISCARD;
/* The Secret of that name in owner's project, with the administrator's. */
int kubeconfig_secret(const struct site *s, const json_t *owner, const char *name, json_t **ret, struct err *err) NODISCARD;
/* Writes dir/conf/NAME.json, only when it differs: who reads a file again when it changes is not made to. Takes over doc. */
int cluster_conf_write(const struct site *s, const char *name, json_t *doc, struct err *err) NODISCARD;
/* Writes what is the same for all clusters of dir/conf. */
int cluster_conf_ensure(const struct site *s, struct err *err) NODISCARD;

/* ---- audit_policy.c ---- */

/* Clusters of before have none. */
static inline const char *cluster_audit_policy(const struct cluster *c)
{
    return c->spec.audit.policy ? c->spec.audit.policy : "Metadata";
}

/* Writes dir/conf/audit-LEVEL.json, and makes dir/audit. */
int cluster_audit_ensure(const struct cluster *spec, const struct site *s, struct err *err) NODISCARD;
/* How many bytes its first API server has written so far; *ret_files: into how many files. */
int64_t cluster_audit_size(const struct site *s, int *ret_files);
/* Empties its log, while the API server writes: that makes the file before it opens it and appends (upstream's ensureLogFile), so what comes next is at the beginning. A second file it would not append to. */
int cluster_audit_empty(const struct site *s, struct err *err) NODISCARD;

struct kaas; /* below */
struct cluster_memory;

/* ---- place.c: directory and address ---- */

/* Address and members of a cluster whose directory is there, into s. ERR_NOT_FOUND: there is none. ERR_CORRUPT. After an error s is as it was. */
int place_load(struct site *s, struct err *err) NODISCARD;
/* Makes the directory, takes an address for each of `members` that `taken` does not have and where nothing listens on our ports, and writes them down, and into s. */
int place_make(struct site *s, int members, const struct cluster_network *addresses, bool (*taken)(void *arg, const char *address), void *arg, struct err *err) NODISCARD;
/* The same, of what no other of ours has: the addresses are another's from the moment that they were chosen. */
int place_take(struct kaas *k, struct site *s, int members, struct err *err) NODISCARD;
void place_remember(const struct site *s, struct cluster_memory *memory);
/* The same from a Cluster's status, for a directory that is gone: false when that knows none. */
bool place_from_status(struct site *s, const json_t *cluster);
/* Whether it is a warm place that no cluster has claimed. */
bool place_is_warm(const char *dir);
/* Whether the cluster was made for nodes: clusters of before run on as they were. */
bool place_has_nodes(const char *dir);
/* Whether something listens on one of our ports there; *ret_port: on which. */
bool place_in_use(const char *address, uint16_t *ret_port);
/* Writes down what s says of its members. */
int place_keep(const struct site *s, struct err *err) NODISCARD;
/* Removes the directory; *ret_files: how many files were in it. */
int place_remove(const char *dir, int *ret_files, struct err *err) NODISCARD;
/* Directories of clusters below root: whose they say they are. Broken ones, and those of nobody, come with ns "" and name "". 0 also when there is no root; else not all were seen, and err (may be NULL) says why. */
int place_each(const char *root, void (*fn)(void *arg, const char *uid, const char *ns, const char *name), void *arg, struct err *err);

/* ---- probe.c ---- */

/* 0 when the component answers 200 to path, and, where it has a certificate, with one that our authority signed. Blocks for timeout_ms at most. */
int probe(const struct plan *p, const char *path, const struct site *s, uint64_t timeout_ms, struct err *err) NODISCARD;
/* The first check that a component's health page says has failed; "": it names none. Within `answer`. Pure. */
struct str probe_failing(struct str answer);

/* Whether its API server shows the certificate that lies in pki/ now: it takes another one by itself, in a moment or within a minute. */
int probe_certificate(const struct plan *p, const struct site *s, uint64_t timeout_ms, struct err *err) NODISCARD;

/* ---- access.c: inside the cluster ---- */

/* A client with all rights in the cluster. */
int access_client(const struct site *s, struct client **ret, struct err *err) NODISCARD;
/* Whether the controllers have done their first work: ServiceAccount `default` is there. */
int access_controllers_work(struct client *c, struct err *err) NODISCARD;
/* The administrators' ClusterRoleBinding. */
int access_bind_admins(struct client *c, struct err *err) NODISCARD;
/* With more than one API server none may tell who they are, or each that ends would take the relay's address out: nodes find them by the gate, and that is written once. */
int access_publish(struct client *c, const struct site *s, struct err *err) NODISCARD;
/* "v1.37.2" */
int access_version(struct client *c, char ret[32], struct err *err) NODISCARD;

/* ---- kaas.c ---- */

struct addons_memory {
    uint64_t look_ms; /* when CoreDNS was looked at */
};

/* What is remembered between passes; lost at a restart and found again. */
struct cluster_memory {
    char address[MEMBERS_MAX][16];   /* "": none */
    uint64_t pki_ms;                 /* when certificates were looked at … */
    unsigned people;                 /* … and people_generation() then */
    uint64_t attempt_ms;             /* when the current attempt of the stage began */
    uint64_t failing_ms[MEMBERS_MAX][COMPONENTS]; /* since when it does not answer though it did; 0: it does */
    unsigned ended;                  /* processes that the deletion has ended, a bit each … */
    int files;                       /* … and files that it has removed */
    bool bound;                      /* access was looked at since our start */
    uint64_t preflight_ms;           /* when it was asked last whether it may be upgraded */
    struct secrets_memory secrets;
    struct addons_memory addons;
    uint64_t space_ms;               /* when the room in its store was looked at */
};

struct kaas {
    struct manager *manager;
    struct runtime *runtime;
    struct kaas_options o;
    struct cluster_network addresses;
    struct informer *clusters, *secrets, *cluster_keys, *tenants, *namespaces, *revocations;
    struct people *people; /* people.h */
    struct warm *warm;     /* warm.h */
    struct node_pools *pools;
    struct informer *node_pools;
    struct balancers *balancers;
    struct wiper *wiper; /* of volumes of nodes that have ended */
    const char *self; /* the program that we are */
    char self_path[4096];
    bool listed; /* what an earlier sekid had left was looked at */
    pthread_mutex_t lock;
    struct map *memory;    /* uid → struct cluster_memory *; until the Cluster is gone */
    struct map *workloads; /* name → char *: "NS/NAME" */
    struct metric *there, *ready, *full, *took, *claimed_in;
    struct map *backing_up;   /* uid → anything: a pass of backup.c is at work on its files */
    struct map *backup_later; /* uid → uint64_t *: no backup or rehearsal before that time, after one that failed */
    struct metric *backups_ok, *backups_failed, *overdue, *oldest, *drill_took, *drills_failed; /* backup.c */
};

int cluster_reconcile(void *ctx, struct reconcile *r, struct err *err);

/* ---- member.c: the members of a store ---- */

/* The address of a member that says it may be asked, or of the first. Blocks for a second each at most where there is more than one. */
const char *store_address(const struct site *s);
/* One line of `etcdctl member list` in its simple form: the member with that peer URL. Pure. */
struct store_member {
    char id[24];
    bool started, learner;
};
bool store_member_find(struct str list, const char *peer, struct store_member *ret);
/* The members whose line of `etcdctl endpoint status` in its simple form says that they lead; -1. Pure. */
int store_leader_find(struct str status, const struct site *s);
int store_leader(const struct site *s, struct arena *a);
/* Another member leads from now on: one that leads when it ends takes writes with it that were on their way. */
int store_move_leader(const struct site *s, int from, int to, struct arena *a, struct err *err) NODISCARD;
/* A site whose tools ask this member alone. */
struct site site_of_member(const struct site *s, int member);
/* One step of replacing a member whose files are gone: removed, added as a learner with an empty directory, promoted when it has caught up. Never two at a time, never without a quorum, and never
 * in a cluster of one. Returns the members that may not be started now, a bit each. *ret_what: what is being done or stands in the way, in a; NULL: nothing. */
unsigned members_step(struct kaas *k, struct site *s, bool made, struct arena *a, const char **ret_what);
/* Puts into status what a pass has seen: up[m] has a bit for each component of member m that answered; mending: what members_step() said. Returns whether all are as they shall be. */
bool members_tell(json_t *obj, const struct site *s, const unsigned *up, const char *mending, struct arena *a);

/* ---- status.c ---- */

/* A time in a status, path as json_str() takes it; 0: there is none, or it cannot be read. */
void status_put_time(json_t *o, const char *path, int64_t wall_ms);
int64_t status_time(const json_t *o, const char *path);
void status_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *fmt, ...) PRINTF(5, 6);

/* ---- kaas.c ---- */

/* Whether there is a Cluster of that name and uid now. */
bool cluster_is_there(struct kaas *k, const struct site *s);
/* Wants the workload of a Cluster's, if there is that Cluster still. A pass that began before somebody took the finalizer off would else start again what has just been ended for good: either the end finds what
 * was started, or this finds the Cluster gone, since informers change their cache before they tell of it. Any thread. */
int kaas_ensure(struct kaas *k, const struct site *s, const struct workload *w, struct err *err) NODISCARD;

/* ---- remove.c ---- */

/* One step: ends the components down to `last` (SCHEDULER and CONTROLLERS, then RELAY and APISERVER, KMS, ETCD, each when those before are gone). True when none is left. *ended: a bit for each that was there. */
bool cluster_end(struct kaas *k, const struct site *s, enum component last, unsigned *ended);

/* The processes of a control plane, what they have logged, and its directory: one step. Files that were removed are added to *files. */
int control_plane_remove(struct kaas *k, const struct site *s, unsigned *ended, int *files, bool *ret_done, struct err *err) NODISCARD;
/* One step of a cluster's end: *ret_done when nothing is left. What stands in the way is an error. */
int cluster_remove(struct kaas *k, const struct site *s, struct cluster_memory *m, bool *ret_done, struct err *err) NODISCARD;

/* ---- suspend.c: clusters of a tenant that is suspended ---- */

/* The tenant of a project when it is suspended; "" otherwise. */
const char *suspended_tenant(const struct kaas *k, const char *ns, struct arena *a);
/* Handler of the informer of tenants: those that were suspended, or are no more, have their clusters looked at. */
void on_tenant(void *arg, json_t *prev, json_t *now);

#endif
