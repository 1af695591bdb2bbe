/* The kinds of Kubernetes as a service as C structs. Their tables are in cluster.c; member names in JSON are the camelCase of these. */
#ifndef SEKI_KINDS_KAAS_H
#define SEKI_KINDS_KAAS_H

#include "kinds/kind.h"
#include "kinds/maintenance.h"

extern const struct kind kind_cluster, kind_cluster_key, kind_node_pool;

/* Set at creation; the controller takes it off when nothing of the cluster is left. */
#define CLUSTER_FINALIZER "seki.cloud/cluster"
/* The Secret with the administrator's kubeconfig: NAME and this. */
#define CLUSTER_SECRET_SUFFIX "-kubeconfig"
#define CLUSTER_SECRET_KEY "kubeconfig"

/* Another value of these asks once: for a backup; for a restore, "ID" or "latest", a space and anything that makes it another value. */
#define CLUSTER_BACKUP_ANNOTATION "seki.cloud/backup"
#define CLUSTER_RESTORE_ANNOTATION "seki.cloud/restore"
#define CLUSTER_BACKUPS_MAX 200
/* Another value lets an upgrade go on that a restore has ended. */
#define CLUSTER_UPGRADE_ANNOTATION "seki.cloud/upgrade"
/* A minor version: the upgrade to it begins without waiting for spec.maintenanceWindow. */
#define CLUSTER_UPGRADE_NOW_ANNOTATION "seki.cloud/upgrade-now"
/* Minor versions of Kubernetes that Seki knows how to run, oldest first. */
#define CLUSTER_VERSIONS "1.36|1.37"

/* Cluster: a Kubernetes of a tenant's own. Status: address, endpoint, version, stages[], conditions[]. */
#define CLUSTER_CLAIMED "status.claimed" /* its control plane had been made before it was asked for */

struct cluster {
    struct {
        const char *version; /* "1.37": one of CLUSTER_VERSIONS */
        struct {
            int64_t replicas; /* 1 */
            const char *size; /* Small | Medium | Large */
        } control_plane;
        struct {
            const char *pod_cidr, *service_cidr; /* podCIDR, serviceCIDR: IPv4, disjoint, no bits behind the prefix */
            const char *service_domain;
            const char *node_cidr; /* nodeCIDR; NULL: cluster_node_network() says which */
        } network;
        struct {
            int64_t interval_seconds; /* 0: only when asked for */
            int64_t keep;             /* 1 to CLUSTER_BACKUPS_MAX */
        } backup;
        struct {
            const char *policy; /* None | Metadata | Request | RequestResponse */
        } audit;
        struct maintenance_window *maintenance_window; /* NULL: any time */
        struct field_list endpoint_names; /* DNS names and addresses for the API server's certificate */
    } spec;
};

/* Set at creation; the controller takes it off when nothing of its nodes is left. */
#define NODE_POOL_FINALIZER "seki.cloud/nodepool"
#define NODE_POOL_NAME_MAX 48
#define NODE_POOL_COUNT_MAX 64

struct node_taint {
    const char *key, *value, *effect;
};

/* NodePool: nodes of one shape. Status: nodes[], count, readyCount, conditions[]. */
struct node_pool {
    struct {
        const char *cluster_name;
        int64_t count;
        struct {
            int64_t cpus, memory_mib, disk_gib; /* memoryMiB, diskGiB */
        } machine;
        struct field_map labels;
        struct field_list taints; /* struct node_taint */
        struct {
            int64_t max_pods, pod_pids; /* maxPods, podPidsLimit */
        } kubelet;
        int64_t drain_seconds; /* drainSeconds; 0: a node ends at once */
    } spec;
};

/* An IPv4 network. */
struct cluster_network {
    uint32_t first; /* host order */
    int bits;
};
/* "10.96.0.0/16"; ERR_INVALID for anything else, host bits included. Threads: any. */
int cluster_network_parse(const char *text, struct cluster_network *ret, struct err *err) NODISCARD;
bool cluster_networks_overlap(const struct cluster_network *a, const struct cluster_network *b);
/* The nth address of a network (0: its own) as text; "" when the network has none such. */
void cluster_network_address(const struct cluster_network *n, uint32_t nth, char text[16]);
/* The network of a cluster's nodes: what its spec says, or the first of some that overlaps neither pods nor Services. Always the same for the same spec. */
int cluster_node_network(const struct cluster *c, struct cluster_network *ret, struct err *err) NODISCARD;
/* 37 of "1.37"; -1: it is no such version. */
int cluster_minor(const char *version);
/* Whether a cluster that runs `from` may be told to run `to` next; what = why not, in words. Both valid. The rules: one minor version at a time, and never back. */
bool cluster_may_become(const char *from, const char *to, char what[160]);

#endif
