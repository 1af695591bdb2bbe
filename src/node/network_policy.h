/* NetworkPolicies as rules of a node: from what the cluster has to a text for nft.
 *
 * Pure. The text replaces the table `ip seki-policy` of the node's network namespace in one step. With no policy in the cluster the table is empty. With one, each pod of the node that a policy
 * selects has a chain a direction, which ends in drop; an address of the node's pods that the cluster has not told of yet (a pod is a moment older than its status) gets and sends nothing.
 * Judged is each packet of a connection's first direction, after Services were resolved, so that a policy also ends what was open before it; answers pass. A node reaches its own pods always.
 * hostNetwork pods are neither judged nor peers. IPv4 alone. Source: k8s.io/api, networking/v1; kubernetes.io, Network Policies.
 */
#ifndef SEKI_NODE_NETWORK_POLICY_H
#define SEKI_NODE_NETWORK_POLICY_H

#include "json/json.h"

#define POLICY_TABLE "seki-policy"
#define POLICY_TEXT_MAX (16u << 20)

struct policy_input {
    const char *node, *pod_cidr; /* of this node */
    const json_t *pods, *namespaces, *policies; /* all of the cluster */
};
/* ERR_TOO_LARGE: more than out may have; then what was in force stays. */
int policy_compile(const struct policy_input *in, struct sbuf *out, struct err *err) NODISCARD;
/* Before anything is known: pods are cut off. */
void policy_closed(const char *pod_cidr, struct sbuf *out);
/* A LabelSelector on labels; NULL selects nothing, {} everything. An operator that is not known selects nothing. */
bool policy_selects(const json_t *selector, const json_t *labels);

#endif
