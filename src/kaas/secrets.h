/* Secrets of clusters at rest: the cluster's keys, the plugin that seals with them, and what lies in etcd. docs/internals/kaas-secrets.md has the whole.
 *
 * Keys are an object of our store (ClusterKey), pushed into the plugin's memory; never into a file. Calls block: on our API, on the plugin for TELL_MS, on etcd and the cluster's API for
 * LOOK_BUDGET_MS a pass. Threads: one pass a cluster; memory is the pass's.
 */
#ifndef SEKI_KAAS_SECRETS_H
#define SEKI_KAAS_SECRETS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"
#include "kms/server.h"

struct kaas;
struct site;

#define SECRETS_CONDITION "SecretsEncrypted"
#define SECRETS_CURSOR_MAX 384

struct secrets_memory {
    uint64_t tenant_key_ms; /* when the tenant's key was looked at */
    uint64_t look_ms;       /* when the last look at etcd ended; 0: it is due */
    uint64_t waits_ms;      /* since when API servers have not taken the current key; 0: they have */
    char current[KMS_ID_TEXT + 1];
    char cursor[SECRETS_CURSOR_MAX]; /* the key in etcd after which this look goes on; "": at the beginning */
    char refused[200];      /* the first write of this look that was refused */
    int64_t found, stale;            /* by this look so far */
    bool full;              /* the tenant has another key, and there is no room for one more */
};

/* conf/encryption.json. With `identity` where the store may have secrets from before; absent only once all is sealed. */
int secrets_conf_ensure(const struct site *s, struct err *err) NODISCARD;
/* The cluster has keys and its plugin, which runs, has them. *ret_reason: a reason that only an operator can mend, or NULL. */
int secrets_keys_ensure(struct kaas *k, struct client *c, const json_t *cluster, const struct site *s, struct secrets_memory *m, const char **ret_reason, struct err *err) NODISCARD;
/* A key for a place that no cluster has yet: an element of a ClusterKey's spec.keys. */
json_t *secrets_key_new(void);
/* The plugin, which runs, has that key and no other; *ret_used: an API server has sealed with it, and so holds nothing that another one has sealed. */
int secrets_key_give(const struct site *s, const json_t *key, bool *ret_used, struct err *err) NODISCARD;
/* The cluster has that key, and with it what its place has sealed: from now on it lies under its tenant's key. ERR_EXISTS: it has another one. */
int secrets_key_adopt(struct client *c, const json_t *cluster, const struct site *s, const json_t *key, struct err *err) NODISCARD;
/* When the cluster is ready: a look at what lies in etcd when one is due; rewrites, retires keys, and says so in the condition. */
void secrets_look(struct kaas *k, struct client *c, json_t *cluster, const struct site *s, struct secrets_memory *m);

/* Whether the i-th of a ClusterKey's keys (the newest first) may be what a backup was sealed with. Pure. */
bool secrets_key_is_needed(const json_t *keys, size_t i, const json_t *backups, int64_t restored_ms);

/* ---- at_rest.c ---- */

/* How one value of /registry/secrets/ lies: whether under that key. Pure. */
bool at_rest_is_under(struct str value, const char *key_id);
/* Goes on with a look: counts, and where `rewrite`, has the API server write anew what is stale. 1: it is over; 0: to be gone on with. */
int at_rest_look(const struct site *s, const char *key_id, bool rewrite, struct secrets_memory *m, struct err *err) NODISCARD;
/* Has the store drop all of its older states, and write its file anew without them. Its write-ahead log keeps what it has until it is cut. Blocks: for seconds when the store is large. */
int at_rest_forget_history(const struct site *s, struct err *err) NODISCARD;

#endif
