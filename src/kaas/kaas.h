/* Kubernetes as a service: the controller of Cluster.
 *
 * A Cluster becomes five workloads of the runtime (etcd, seki-kms, kube-apiserver, kube-controller-manager, kube-scheduler) at a loopback address of its own, with a PKI of its own below
 * clusters/UID of the data directory, and a Secret with its administrator's kubeconfig. What is made, in which order and until when is in docs/internals/kaas.md. Everything that a pass
 * finds is found again after a restart: from the Cluster's status, from cluster.json in its directory, and from what the runtime has adopted.
 */
#ifndef SEKI_KAAS_KAAS_H
#define SEKI_KAAS_KAAS_H

#include "controller/controller.h"
#include "runtime/runtime.h"

struct kaas;

struct kaas_options {
    const char *data_dir;     /* clusters/ is made there */
    const char *log_dir;      /* the runtime's */
    const char *programs_dir; /* MINOR/kube-apiserver … below it; "": there are none, and Clusters wait */
    const char *addresses;    /* a loopback network as text: each cluster takes an address of it */
    uint64_t probe_ms;        /* how often components of a cluster that is ready are asked */
    uint64_t certificate_life_ms;
    const char *kms_program;  /* seki-kms */
    uint64_t key_overlap_ms;  /* how long a cluster's older key for secrets stays beside the newer one at least */
    int64_t node_storage;     /* bytes that volumes of one node may have together; 0: clusters have no storage */
    int64_t node_disks;       /* bytes that the disks of all nodes may have together; 0: as many as NodePools ask for */
    const char *authentication_config; /* the file with issuers of people's tokens; "": there is none */
    const char *balancer_addresses; /* "": none; a network of this machine's, for Services of type LoadBalancer */
    const char *listens[5];   /* where this cloud's processes listen; ends with NULL */
    size_t warm_clusters;     /* so many control planes are kept made for Clusters to come */
    uint64_t drill_ms;        /* how often each cluster's newest backup is restored for trial; 0: never */
};

/* Adds its controller to m; the runtime stays the caller's. ERR_INVALID: the addresses are no loopback network. */
int kaas_new(struct manager *m, struct runtime *rt, const struct kaas_options *o, struct kaas **ret, struct err *err) NODISCARD;
/* Between runtime_local_new() and manager_start(): a Cluster that says Ready and has a component that was not adopted does not say so any more when controllers run. Blocks. */
int kaas_settle(struct kaas *k, struct client *c, struct err *err) NODISCARD;
/* For kind_services.claim: the uid of a control plane that is ready for such a Cluster, in a; it is offered to nobody else. NULL: none is. Any thread; quick. */
const char *kaas_claim(struct kaas *k, struct arena *a, const json_t *cluster);
/* The file with issuers was read anew and is good. Any thread; reads a file. */
void kaas_issuers_changed(struct kaas *k, const char *file);
/* For runtime_local_options.changed: a workload of ours makes its Cluster be looked at. Any thread. */
void kaas_workload_changed(struct kaas *k, const char *workload);
/* Before the runtime ends all workloads at once: ends what uses a store before the stores, since an API server whose store went first does not leave. Blocks, for some seconds at most. After
 * manager_stop(). */
void kaas_stop_all(struct kaas *k);
/* Before manager_stop(): nothing that happens in clusters is followed any more. Blocks, for a second at most. */
void kaas_stop_following(struct kaas *k);
void kaas_free(struct kaas *k);

#endif
