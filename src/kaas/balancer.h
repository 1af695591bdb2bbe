/* Services of type LoadBalancer in clusters with nodes: an address of the operator's range for each, from which the cluster's gate relays to its pods (docs/internals/kaas-balancer.md).
 *
 * The table that a cluster's gate reads, clusters/UID/net/balancer.json, is also where it is written down which address is whose: nothing that is in a tenant's cluster says that. Addresses are
 * taken under one lock, from what all clusters' tables have. A Service is followed by informers in the tenant's cluster, of Services and, once there is one to serve, of EndpointSlices.
 * Threads: those of the controllers; informers have one each. */
#ifndef SEKI_KAAS_BALANCER_H
#define SEKI_KAAS_BALANCER_H

#include "kaas/internal.h"

#define BALANCER_CLASS "seki.cloud/balancer"
#define BALANCER_FINALIZER "service.kubernetes.io/load-balancer-cleanup"

struct balancers;
/* listens: as balancer_own_ports() has it. range: "", or an IPv4 network whose addresses are this machine's. ERR_INVALID. Adds its controller. */
int balancers_new(struct kaas *k, const char *range, const char *const *listens, struct balancers **ret, struct err *err) NODISCARD;
/* Before manager_stop(): informers tell nobody any more. */
void balancers_stop(struct balancers *b);
void balancers_free(struct balancers *b);

/* ---- balancer_table.c: pure ---- */

/* Whether this Service is to have an address of ours: its type, its class, not being deleted. */
bool balancer_wants(const json_t *service);
/* Whether nobody else's controller has it. */
bool balancer_is_ours(const json_t *service);
#define BALANCER_SERVICES_MAX 16 /* of a cluster have an address … */
#define BALANCER_PORTS_MAX 64    /* … and of one of them, ports */
#define BALANCER_OWN_MAX 8
/* Ports that no Service gets: SSH's, and those where this cloud's own processes listen on all addresses, or on one of the range: while they start again another could take them. listens: ends with NULL; ret ends with 0. */
void balancer_own_ports(const char *const *listens, const struct cluster_network *range, uint16_t ret[BALANCER_OWN_MAX]);
/* Its row in the table; slices: all EndpointSlices of its namespace, or more; own: ports that it does not get. */
json_t *balancer_row(const json_t *service, const json_t *slices, const char *address, const uint16_t *own);
/* What status.loadBalancer.ingress shall be: failed has "ADDRESS:PORT" → why, from the gate. *ret_why: the first that is in the way, in a; NULL: nothing. An empty array: nothing of it is served. */
json_t *balancer_ingress(const json_t *service, const json_t *row, const json_t *failed, const uint16_t *own, struct arena *a, const char **ret_reason, const char **ret_why);

/* ---- balancer_disk.c ---- */

/* Where there is no file, an empty object. All else that is no table is an error: what cannot be read is not empty. */
int balancer_table_read(const char *path, json_t **ret, struct err *err) NODISCARD;
/* Puts the addresses of all tables below root but one cluster's into the map. */
int balancer_taken(const char *root, const char *but, struct map *addresses, struct err *err) NODISCARD;
void balancer_collect(struct map *addresses, const json_t *table);

#endif
