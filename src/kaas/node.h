/* Nodes of clusters, between node_pool.c (the controller), node_files.c (what lies on disk), node_join.c (what is done inside the cluster), node_drain.c and node_end.c (its end) and the rest of this
 * folder. What runs inside nodes and gates is src/node.
 * Threads: those of the controllers. */
#ifndef SEKI_KAAS_NODE_H
#define SEKI_KAAS_NODE_H

#include "kaas/internal.h"

#define NODE_FIRST 10u     /* node 0 of a cluster has the network's 10th address; the gate has the first */
#define NODES_MAX 64u      /* of one cluster on this machine */
#define NODE_NAME_MAX 64
#define NODE_BOOT_GROUP "system:bootstrappers:seki:nodes"

/* One cluster's network of nodes; from its spec alone. */
struct node_network {
    struct cluster_network nodes, pods;
    char gate[16], nodes_text[24];
    uint32_t count; /* so many nodes have room */
};
int node_network_of(const struct cluster *c, struct node_network *ret, struct err *err) NODISCARD;

/* One node. */
struct node {
    const struct site *site;
    const struct node_network *network;
    char name[NODE_NAME_MAX];
    const char *dir;   /* clusters/UID/nodes/NAME */
    int index;         /* of the cluster's nodes: gives address, pods, cable */
    char address[16], pod_cidr[20], cgroup[96];
};
/* POOL-ORDINAL */
void node_named(const struct site *s, const char *pool, int ordinal, struct arena *a, struct node *ret);
/* "kc-NS-CLUSTER-UID8-node-POOL-0", "kc-NS-CLUSTER-UID8-gate" */
void node_workload(const struct node *n, char name[WORKLOAD_NAME_MAX]);
void gate_workload(const struct site *s, char name[WORKLOAD_NAME_MAX]);
/* Whether a workload is a node or the gate of this cluster. */
bool node_workload_is_of(const struct site *s, const char *workload);

/* ---- node_files.c ---- */

/* The index is taken once, and kept in the node's directory; called under the lock of all pools. ERR_UNAVAILABLE: the network is full. */
int node_place(struct node *n, const struct node_network *network, struct err *err) NODISCARD;
/* Its disk's file, with that size, and nothing in it yet; one that is there grows and never shrinks. Called under the lock of all pools. ERR_NO_SPACE: all nodes of this machine would have more than `limit` bytes
 * together (0: as many as they like). */
int node_disk_promise(const struct node *n, const char *data_dir, int64_t gib, int64_t limit, struct err *err) NODISCARD;
/* Writes all that the node reads but its token; *ret_settings: what tells one command line from another, 16 hex digits. */
int node_files_ensure(const struct node *n, const struct cluster *c, const struct node_pool *p, const char *pool, uint64_t life_ms, char ret_settings[17], struct err *err) NODISCARD;
/* Whether it has joined before: it has credentials of its own, and a serving certificate. The node says so (node_disk_tell()). */
bool node_has_joined(const struct node *n);
bool node_has_serving(const struct node *n);
int node_write_token(const struct node *n, const char *token, struct err *err) NODISCARD;
/* When the token that lies there was written; 0: there is none. */
int64_t node_token_written_ms(const struct node *n);
void node_forget_token(const struct node *n);
/* What a gate reads. */
int gate_files_ensure(const struct site *s, const struct node_network *w, const char *data_dir, char ret_settings[17], struct err *err) NODISCARD;
/* The socket that the API server dials through; what the API server reads about it is written with gate_conf_ensure(). */
const char *gate_socket(const struct site *s, const char *data_dir, struct arena *a);
int gate_conf_ensure(const struct site *s, const char *data_dir, struct err *err) NODISCARD;
bool gate_is_there(const struct site *s, const char *data_dir);

/* ---- node_join.c: in the cluster ---- */

/* The roles of nodes, and of the API server at kubelets. */
int join_roles(struct client *c, struct err *err) NODISCARD;
/* A token for one node, good for an hour: "id.secret". */
int join_token(struct client *c, const char *node, char ret[24], struct err *err) NODISCARD;
/* Removes a node's tokens. */
int join_token_drop(struct client *c, const char *node, struct err *err) NODISCARD;
/* Approves what a kubelet of ours asks for as a server, and denies what asks for more. *ret_denied: a sentence about the last that was denied; in a. */
int join_approve(struct client *c, const struct node *nodes, size_t count, struct arena *a, const char **ret_denied, struct err *err) NODISCARD;
/* Whether the node says Ready; it is told its pods' network. *ret_why: in a. ERR_NOT_FOUND: it has not joined. */
int join_ready(struct client *c, const struct node *n, struct arena *a, bool *ret_ready, const char **ret_why, struct err *err) NODISCARD;
int join_forget(struct client *c, const char *node, struct err *err) NODISCARD;
/* After a restore: Nodes of pools that have no directory here are of a time that is over. Those that somebody else has made stay. */
int join_forget_strangers(struct client *c, const struct site *s, struct err *err) NODISCARD;

/* ---- node_drain.c ---- */

/* One step: cordons a node and evicts its pods. True when it may end: none is left but those of DaemonSets, it has no Node, or limit_s have passed since the first step. *ret_why: what it waits for; in a. */
bool node_drained(struct client *c, const struct node *n, int64_t limit_s, struct arena *a, const char **ret_why);
/* It is wanted after all. */
int node_undrain(struct client *c, const struct node *n, struct err *err) NODISCARD;
/* Whether a node is not empty with this pod on it. Pure. */
bool drain_waits_for(const json_t *pod);
/* The path of a node's pods: the page behind `doc`, or the first (NULL). False: doc is the last. Pure. */
bool drain_next_page(const json_t *doc, const char *node, struct sbuf *path);

/* ---- node_end.c ---- */

/* Ends a workload; whether it is gone. */
bool node_workload_end(struct kaas *k, const char *name);
/* A pool's nodes that have a directory (pool NULL: all), with ordinals from `from` on; names are in a. Returns how many. */
size_t nodes_list(const struct site *s, const char *pool, int from, struct arena *a, struct node *ret, size_t max);
/* One step of a node's end; *ret_done: nothing of it is left. client NULL: its cluster needs not be told. *files grows by what was removed. ret_why (may be NULL): what it waits for, when that takes long; in the pass's arena. */
int node_remove(struct kaas *k, struct client *client, const struct node *n, bool *ret_done, const char **ret_why, int *files, struct err *err) NODISCARD;

/* One step: what runs of a pool's nodes in clusters of that name that were forced away, all but
 * this one (uid: "" when there is none). Their control groups go, too; their files stay, as the
 * cluster's do. *ret_left: so many have not ended. Whose a directory is, its record says, and not
 * an object that others may write. */
int nodes_end_orphans(struct kaas *k, const struct site *s, const char *pool, struct arena *a,
                      size_t *ret_left, struct err *err) NODISCARD;
/* One step: likewise what runs of nodes of this cluster whose NodePool is no more, as somebody took
 * its finalizer off. True: some have not ended. */
bool nodes_end_strays(struct kaas *k, const struct site *s, struct arena *a);
/* Ends all nodes of a cluster and its gate, and removes their files and namespaces; one step. *ret_done: nothing is left. */
int node_pools_remove(struct kaas *k, const struct site *s, struct cluster_memory *m, bool *ret_done, struct err *err) NODISCARD;
/* The network of a cluster whose gate was told to end: it goes with the last process in it. Nothing where there is none. */
void node_network_release(const struct kaas *k, const char *uid);
/* What is remembered of the nodes of a cluster that is gone. */
void node_pools_forget(struct kaas *k, const struct site *s);
/* After all workloads were ended: hubs are let go, so that nothing of the data directory is mounted. The next gates make others. */
void node_pools_release(struct kaas *k);

/* ---- node_pool.c ---- */

struct node_pools;
struct node_pools *node_pools_new(struct kaas *k);
void node_pools_free(struct node_pools *p);
/* After which time one that is not ready is looked at again: often at first. */
uint64_t node_look_ms(int64_t waited_ms);
/* Whether the pool of a node (POOL-ORDINAL) is among those of a list (NodePools of its project), and of that cluster. Pure. */
bool node_pool_is_there(const json_t *pools, const char *cluster, const char *node);
/* As kaas_workload_changed(). */
bool node_pools_workload_changed(struct kaas *k, const char *workload);
void node_pools_cluster_changed(struct kaas *k, const char *ns, const char *cluster);

#endif
