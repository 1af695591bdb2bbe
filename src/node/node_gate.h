/* `sekid node-gate DIR`: the only way between the nodes of one cluster and this machine, also for what comes from outside to Services of type LoadBalancer. Run by the runtime, one a cluster
 * that has nodes.
 *
 * It makes the cluster's hub, a network namespace with a bridge that its nodes' cables end at, and no way out; keeps it under DIR/hub; and relays connections:
 *   nodes and pods → API server   accepts at the hub's address, port 6443; dials the cluster's own loopback address
 *   API server → nodes and pods   accepts at a unix socket; reads CONNECT ADDRESS:PORT; dials in the hub, kubelets' ports and the network of pods, nothing else
 *   clients → pods                accepts at a Service's address on this machine (gate_balance.h); dials in the hub, what EndpointSlices name and is a pod or a node of this cluster
 * Killed, it finds the hub again; nodes and pods keep talking to each other meanwhile. Needs root and `ip` of iproute2. */
#ifndef SEKI_NODE_GATE_H
#define SEKI_NODE_GATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

/* An exit status; returns at SIGTERM. argv: DIR. */
int node_gate_main(char **argv);

#define GATE_HEAD_MAX 4096
#define GATE_KUBELET_PORT 10250
#define GATE_API_PORT 6443

struct gate_reach {
    uint32_t nodes, nodes_mask, pods, pods_mask, gate; /* host order */
};
/* The head of a request, up to and with its empty line. 0: this may be dialled. ERR_INVALID: it is no CONNECT with an IPv4 address and a port; ERR_FORBIDDEN: it is no node of ours, no pod. Pure. */
int gate_target(const struct gate_reach *r, struct str head, uint32_t *ret_address, uint16_t *ret_port, struct err *err) NODISCARD;
/* API servers of one cluster, by their addresses (host order), all at one port. */
#define RELAY_APIS_MAX 3
struct relay_apis {
    uint32_t address[RELAY_APIS_MAX];
    size_t count;
    uint16_t port;
    const _Atomic unsigned *ready; /* those that say they may be asked, a bit each; NULL: nobody looks */
};
/* The next one that a connection is tried with, those that are ready before the others, in turns from `start` on; -1: all of `tried` (a bit each) were. Pure. */
int relay_next_api(const struct relay_apis *a, unsigned start, unsigned tried);
struct balance; /* gate_balance.h */
/* node_relay.c: moves bytes both ways until both have ended. One thread. */
struct relay;
struct relay_options {
    int api_listener;    /* accepted there → one of apis */
    int egress_listener; /* accepted there → CONNECT; -1: none */
    int hub, outside;    /* network namespaces: of CONNECT's dials, and of all others; hub -1: the same */
    struct relay_apis apis;
    struct gate_reach reach;
    struct balance *balance; /* Services of type LoadBalancer: accepted where it listens → pods, in the hub; NULL: none */
};
/* Until *stop; looks at it once a second and after signals. */
int relay_run(const struct relay_options *o, const atomic_bool *stop, struct err *err) NODISCARD;

#endif
