/* Backups of clusters, restores and their rehearsal. What is in a backup and why it may be trusted is in docs/internals/kaas-recovery.md.
 *
 * A backup is a sealed archive, cluster-backups/UID/ID in the data directory (0600), written as a temporary file, synced and renamed. ID is the time in UTC, "20260131-235959-123": names sort as
 * times. In it: etcd.db (a snapshot by etcdctl, which ends in its own hash) and the files of pki/. Its key is in the Secret NAME-backup-key of the cluster's project, which the store seals under the
 * tenant's key; the Secret goes with the Cluster, and with it every copy of a backup.
 * Threads: any, one call for one cluster at a time. Calls block: for programs, at most TOOL_TIMEOUT_MS each.
 */
#ifndef SEKI_KAAS_RECOVERY_H
#define SEKI_KAAS_RECOVERY_H

#include "crypto/sealed_file.h"
#include "kaas/internal.h"

struct version_record; /* upgrade.h */

#define CONTROLLER_BACKUP "cluster-backup"
#define CLUSTER_BACKUP_KEY_SUFFIX "-backup-key"
#define TOOL_TIMEOUT_MS 60000u

/* ---- tool.c ---- */

/* Runs a program to its end: 0 when it says 0. ret_out (may be NULL): what it has written to its standard output, 1 MiB at most. An error has the last line of what it said. ERR_TIMEOUT, ERR_UNAVAILABLE: it is not there.
 * ERR_CANCELED: r (may be NULL) must end; the program was killed. */
int tool_run(const char *const *argv, uint64_t timeout_ms, const struct reconcile *r, struct sbuf *ret_out, struct err *err) NODISCARD;
/* The end of the last line that says something; "". Within `said`. Pure. */
struct str tool_last_line(struct str said);

/* ---- snapshot.c ---- */

#define BACKUP_ID_MAX 24
#define PORT_DRILL_ETCD 2479 /* where a rehearsal's store listens, at the cluster's address */
#define PORT_DRILL_PEERS 2480

struct snapshot {
    char id[BACKUP_ID_MAX];
    int64_t taken_ms;  /* wall clock, when it was begun: what was written before is in it */
    int64_t revision;  /* of the store */
    int64_t keys;      /* live ones at that revision; -1: unknown */
    int64_t bytes;     /* of the file */
    char version[8];   /* "1.37": minor version of Kubernetes; "": of before that was said */
};

bool snapshot_id_valid(const char *id);
int64_t snapshot_id_ms(const char *id); /* when it was taken */
/* cluster-backups/UID */
const char *snapshot_dir(const char *data_dir, const char *uid, struct arena *a);

/* Takes one of the running store. After an error nothing of it is there. */
int snapshot_take(const struct site *s, const char *dir, const struct sealed_key *k, struct arena *a, struct snapshot *ret, struct err *err) NODISCARD;
/* Opens one, verifies all of it, and leaves in `into` (made anew): etcd.db, pki/…. ret: what its manifest says. ERR_CORRUPT, ERR_INVALID (another key or cluster), ERR_NOT_FOUND: by its name. */
int snapshot_open(const struct site *s, const char *dir, const char *id, const struct sealed_key *k, const char *into, struct arena *a, struct snapshot *ret, struct err *err) NODISCARD;
/* Makes into/etcd, into/etcd-1 …, the data directories of a store of so many members at port `peers`, from into/etcd.db, which is removed. Its revision goes on at *ret_revision, which no life of this cluster can have
 * given out: microseconds since 1970, or behind `least`. All before counts as compacted, so who watches is told to list again. */
int snapshot_restore(const struct site *s, const char *into, int members, int64_t revision, int64_t least, uint16_t peers, struct arena *a, int64_t *ret_revision, struct err *err) NODISCARD;
/* How many keys the store at that port has, at a revision (0: now). */
int snapshot_count(const struct site *s, uint16_t port, int64_t revision, struct arena *a, int64_t *ret, struct err *err) NODISCARD;
/* What etcdctl of site's programs says of the running store: "endpoint" "status", "alarm" "list". *ret: JSON as text, in a: its numbers of members do not fit
 * into what a parser of ours takes. */
int store_ask(const struct site *s, const char *noun, const char *verb, struct arena *a, const char **ret, struct err *err) NODISCARD;
/* The same of anything, as JSON or, for its hexadecimal numbers of members, in the simple form. Words end in NULL. */
int store_tell(const struct site *s, const char *const *words, bool json, struct arena *a, const char **ret, struct err *err) NODISCARD;
bool snapshot_count_parse(struct str text, int64_t *ret); /* what etcdctl has said to that */
/* What `etcdutl snapshot status` says of a file, as JSON: its revision, which is positive. ERR_PROTOCOL, ERR_CORRUPT. Pure. */
int snapshot_revision_parse(struct str text, int64_t *ret, struct err *err) NODISCARD;
/* Those that are there, newest first by their names, `max` at most in ret; removes what a killed one has left when `clean`. Returns how many. */
size_t snapshot_list(const char *dir, struct snapshot *ret, size_t max, bool clean);
int snapshot_remove(const char *dir, const char *id, struct err *err) NODISCARD;
/* All of a cluster's; *ret_files grows by their number. */
int snapshot_remove_all(const char *dir, int *ret_files, struct err *err) NODISCARD;

/* ---- backup.c: the controller of backups and rehearsals ---- */

void backup_metrics(struct kaas *k);
int backup_reconcile(void *ctx, struct reconcile *r, struct err *err);
/* Newest first by what they hold: revisions of a cluster's store only grow, over restores too, while a clock can be put back. told: status.backups, which knows revisions; one that it does not know
 * stands where its time says, for which a time that has not come yet says nothing. Pure. */
void backups_order(struct snapshot *there, size_t count, const json_t *told, int64_t now_ms);
/* Whether a status tells of the backups that are there, by their names. Pure. */
bool backups_are(const json_t *told, const struct snapshot *there, size_t count);
/* Whether a backup is the way back from an upgrade: from one that is not done, or that was begun a few days ago. Pure. */
bool backup_way_back(const char *id, const struct version_record *v, const json_t *obj, int64_t now_ms);
/* The first of such a list that was begun between two times; -1. Pure. */
int backup_within(const struct snapshot *there, size_t count, int64_t from_ms, int64_t to_ms);
/* When the next rehearsal is due, in wall time: sooner after one that failed. Pure. */
int64_t drill_due_ms(const json_t *obj, int64_t every);
/* The key of a cluster's backups; ERR_NOT_FOUND: there is none. */
int backup_key(struct kaas *k, const struct site *s, struct sealed_key *ret, struct err *err) NODISCARD;

/* What backups have left outside of a cluster's directory, at its end; *files grows by what was removed. ERR_BUSY: a pass is at work. */
int recovery_remove(struct kaas *k, const struct site *s, int *files, struct err *err) NODISCARD;

/* ---- drill.c ---- */

struct drill {
    int64_t milliseconds; /* from the file to a store that has answered */
    int64_t keys;
};
/* Restores a backup beside the cluster, starts a store from it, counts its keys, and removes all of it. */
int drill_run(struct kaas *k, const struct site *s, const char *dir, const char *id, const struct sealed_key *key, struct arena *a, struct drill *ret, struct err *err) NODISCARD;
/* Ends and removes what a rehearsal has left that was killed; quick when there is nothing. */
void drill_clean(struct kaas *k, const struct site *s);
void drill_workload(const struct site *s, char name[WORKLOAD_NAME_MAX]);

/* ---- restore.c: a part of the passes of cluster.c ---- */

/* Whether a restore is asked for that has not ended. */
bool restore_wanted(const json_t *obj);
/* One step of it. *ret_busy: the cluster is not to be brought up now; its conditions say why. A backup that is no good is refused before anything is stopped. */
int restore_step(struct kaas *k, struct reconcile *r, struct site *s, struct cluster_memory *m, bool *ret_busy, struct err *err) NODISCARD;
/* The cluster is ready: how long its restore took. Returns whether that was said now. */
bool restore_ended(json_t *obj, int64_t now_ms);

#endif
