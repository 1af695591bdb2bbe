/* Upgrades of clusters: which minor version of Kubernetes each part of a cluster runs, and how it comes to the next one. The rules, and the way back, are in docs/internals/kaas-upgrade.md.
 *
 * What a cluster runs is written to clusters/UID/version.json before anything of another version is started: so whoever comes after a restart of ours asks for the same command lines. spec.version
 * is only what is wanted. Threads: passes of one cluster's controllers, one writer (that of cluster.c); others read. Times are wall-clock milliseconds.
 */
#ifndef SEKI_KAAS_UPGRADE_H
#define SEKI_KAAS_UPGRADE_H

#include "kaas/node.h"

/* In this order. Up to UPGRADE_BACKUP nothing has been changed. */
enum upgrade_stage { UPGRADE_NONE, UPGRADE_BACKUP, UPGRADE_STORE, UPGRADE_APISERVER, UPGRADE_CONTROLLERS, UPGRADE_SCHEDULER, UPGRADE_NODES, UPGRADE_DONE };
const char *upgrade_stage_name(enum upgrade_stage s); /* as in status.upgrade.stage */

struct version_record {
    char minor[8];            /* "1.36": what the cluster runs, or comes from */
    char to[8];               /* "": no upgrade */
    enum upgrade_stage stage; /* which is at work; UPGRADE_NONE: no upgrade. UPGRADE_DONE: all of it runs `to`, and the status is to say so yet */
    int64_t at_ms[UPGRADE_DONE + 1]; /* when each stage began */
    unsigned waiting;         /* members whose component of this stage has not had its turn, a bit each */
    char backup[32];          /* taken before it; "" */
    char held[8];             /* a restore has ended the upgrade to that: it is not begun again by itself; "" */
    char held_request[64];    /* the annotation seki.cloud/upgrade at that time */
};

/* ---- version.c ---- */

/* ERR_NOT_FOUND: there is none. ERR_CORRUPT. */
int version_load(const char *dir, struct version_record *ret, struct err *err) NODISCARD;
int version_store(const char *dir, const struct version_record *v, struct err *err) NODISCARD;
/* That of the directory, or what a cluster of before there were records runs, or is to run. */
int version_of(const json_t *cluster, const char *spec_version, const char *dir, struct version_record *ret, struct err *err) NODISCARD;
/* Fills programs, older and behind of a site. programs_dir "": there are none. */
void version_apply(const struct version_record *v, const char *programs_dir, struct site *s, struct arena *a);
/* A restore has brought back the store of `minor`: the cluster runs that from now on. An upgrade to it whose store had come to it goes on. wanted: spec.version. */
int version_restored(const json_t *cluster, const char *minor, const char *wanted, const char *dir, struct err *err) NODISCARD;
/* What status.upgrade.stage is once the record knows of no upgrade any more; `stage` when that is how it ended. Pure. */
const char *upgrade_ended_as(const char *stage, const char *to, const char *minor);
/* Whether an upgrade waits for a backup that was begun after *ret_ms. */
bool version_wants_backup(const char *dir, int64_t *ret_ms);

/* ---- preflight.c ---- */

struct preflight {
    const struct site *site;
    const char *from, *to;
    const char *from_programs, *to_programs; /* folders */
};
/* 0: it may begin. An error says what stands in the way; *ret_reason: in one word, for a condition. Changes nothing. Blocks: for the cluster's API and for programs. */
int preflight(const struct preflight *p, struct arena *a, const char **ret_reason, struct err *err) NODISCARD;
/* Pure parts of it. "3.7.3" → 3007; -1. "v1.37.2" → 37; -1. */
int preflight_etcd(const char *version);
int preflight_etcd_program(struct str said); /* the same of what `etcd --version` prints */
bool preflight_alarm(const char *alarms);     /* whether etcdctl's list of alarms, as JSON, has any: without one it has no list */
/* The text of a member ("version", "storageVersion") in what etcdctl says of the store's status; "": there is none. In a. */
const char *preflight_member(const char *status, const char *member, struct arena *a);
int preflight_kubelet(const char *version);
/* The first deprecated API of /metrics that was asked for since the API server's start and is gone in `to`; text as long as the pass, NULL: none. */
const char *preflight_deprecated(struct str metrics, int to, struct arena *a);
/* Whether a webhook is asked about everything, refuses when it does not answer, and runs in the cluster: the control plane would wait for what waits for it. */
bool preflight_webhook_blocks(const json_t *webhook);

/* ---- upgrade.c: a part of the passes of cluster.c ---- */

/* After the components were looked at. ready: all of all members answered; plans: what was asked for. One step; sets status.minor, status.upgrade and condition Upgraded, and p's event. */
struct upgrade_told {
    const char *type, *reason, *message; /* an event; NULL: none */
};
int upgrade_step(struct kaas *k, struct reconcile *r, const struct cluster *c, const struct site *s, struct cluster_memory *m, struct plan (*plans)[COMPONENTS], bool ready, struct upgrade_told *told,
                 struct err *err) NODISCARD;

/* ---- node_upgrade.c ---- */

/* Which programs a node is to be made with now: those it has, until its turn has come. One node of a cluster at a time, while all others are ready. A copy of s in a. NULL: why is said in err. */
const struct site *node_site(struct kaas *k, const struct site *s, const struct version_record *v, struct client *c, const char *node, struct arena *a, struct err *err);
int nodes_count(struct kaas *k, const struct site *s); /* that have a directory, and a pool */
/* Whether all nodes of ours run `minor` and are ready, but those whose pool is gone: nobody would bring them to it; *ret_why: which does not, in a. */
int nodes_run(struct kaas *k, const struct site *s, struct client *c, const char *minor, struct arena *a, const char **ret_why, struct err *err) NODISCARD;

#endif
