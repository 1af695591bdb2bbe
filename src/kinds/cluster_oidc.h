/* A Cluster's own issuer of people's tokens (spec.oidc), beside those of its tenant. Its API server fetches from it, out of the operator's network: so only issuers count that the operator
 * has listed (option kubernetes-issuers). Threads: any. */
#ifndef SEKI_KINDS_CLUSTER_OIDC_H
#define SEKI_KINDS_CLUSTER_OIDC_H

#include "oidc/config.h"

extern const struct field cluster_oidc_fields[]; /* of spec.oidc */

/* A Cluster's spec.oidc, by the rules of the operator's own file and those of Kubernetes. 0 with ret->issuer.url NULL: it has none. ERR_INVALID with the field. What ret points at lives in a. */
int cluster_oidc_read(const json_t *cluster, struct arena *a, struct oidc_issuer *ret, struct err *err) NODISCARD;
/* Whether an operator's list of URLs, comma-separated, has the issuer's, or one that it is below: "https://id.example/realms" has "https://id.example/realms/red". */
bool cluster_oidc_listed(const char *list, const char *url);
/* The operator's list, for admission and controllers alike: set once, before either begins; it is not copied. */
void cluster_oidc_allow(const char *list);
const char *cluster_oidc_allowed(void); /* "": nothing */
/* Whether such a list is one. */
int cluster_oidc_list_check(const char *list, struct err *err) NODISCARD;

#endif
