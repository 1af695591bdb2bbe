/* What a cluster with nodes has from the beginning: CoreDNS. Its objects are applied (server-side apply) from a table in addons.c, all of them again when their digest has changed, which lies in
 * an annotation of its Deployment: so a restored cluster, a newer sekid and a Deployment that somebody deleted are one case.
 *
 * Field managers: `seki` owns what makes it work, and takes it back; `seki-defaults` owns the Corefile and the number of replicas, and lets go of them when somebody else has written them
 * (docs/internals/kaas-dns.md). Threads: those of the controllers. */
#ifndef SEKI_KAAS_ADDONS_H
#define SEKI_KAAS_ADDONS_H

#include "kaas/internal.h"

#define DNS_CONDITION "DNSReady"

/* Of a cluster that is ready. One step: condition DNSReady of obj says how far it is; changes
 * nothing of Ready. Blocks on the cluster's API, for a call at most when all is well. Its message
 * names what it waits for. */
void addons_look(struct kaas *k, json_t *obj, const struct cluster *c, const struct site *s, struct addons_memory *m);

/* Pure: the objects for a cluster, as they are applied, and a digest of them (16 hex digits). ERR_INVALID: its networks have no tenth address. */
struct addon {
    struct client_resource resource;
    bool yields; /* what somebody else has written stays: field manager seki-defaults */
    json_t *obj;
};
#define ADDONS_MAX 8
int addons_render(const struct cluster *c, struct addon ret[ADDONS_MAX], size_t *ret_count, char ret_digest[17], struct err *err) NODISCARD;
void addons_free(struct addon *list, size_t count);

/* Pure: how many nodes the NodePools of a cluster want, and into *ret_ready how many are there.
 * *ret: while none is, what has to be done, or what the first of these pools says. */
#define ADDONS_TEXT_MAX 2048
int64_t addons_nodes(const json_t *pools, const char *cluster, int64_t *ret_ready,
                     struct sbuf *ret);
/* Pure: why the first of the pods that is not ready is not, by its status, or why there is none.
 * of: the Deployment, may be NULL. Texts are the tenant's to write: long ones are cut. */
void addons_pods(const json_t *of, const json_t *pods, struct sbuf *ret);

#endif
