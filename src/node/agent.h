/* The node's agent: what the cloud does inside each node beside upstream's programs; a process that the node's first one starts and starts again.
 *
 * It serves the kubelet as CSI driver (csi.h), fulfils claims (claims.h) and enforces NetworkPolicies (network_policy.h). It has credentials of its own, in /etc/seki-node, with the role
 * seki:node-agent (kaas/storage.c), and ends when these are made anew, to be started with them. It goes on while sekid is away; while the API server is, what is mounted
 * and what is enforced stays, and nothing new is made.
 * Neither pods nor the kubelet see it or its files: it is a process of the node's first one, and these are of the second (node_init.h).
 * Threads: one for the sockets, one for claims, one for policies, one for each kind that it watches.
 */
#ifndef SEKI_NODE_AGENT_H
#define SEKI_NODE_AGENT_H

#include "node/node_init.h"

#define AGENT_VOLUMES "/var/lib/seki/volumes" /* the agent's alone: for all others in the node it is empty */
#define AGENT_ORG "seki:node-agents"

/* In the node's network namespace, before pods are started: they are cut off until the agent knows their policies. Nothing happens where there are no settings for it. */
int agent_before_pods(void);
/* Never returns 0. */
int agent_main(const struct node_settings *s);

#endif
