/* The gate's part of Services of type LoadBalancer: listens at addresses of the operator's on this machine, and says which pod each connection goes to. Part of node_relay.c's loop; one thread.
 *
 * It reads DIR/balancer.json, which the controller (kaas/balancer.c) writes, whenever that is replaced, and answers in DIR/balancer.said with the table's generation and the listeners that
 * could not be had; those are tried again each second. Killed, the gate reads the table again: what it serves does not hang on the controller. Connections of a listener that goes are ended. */
#ifndef SEKI_NODE_GATE_BALANCE_H
#define SEKI_NODE_GATE_BALANCE_H

#include "node/node_gate.h"

#define BALANCE_TABLE "balancer.json"
#define BALANCE_SAID "balancer.said"
#define BALANCE_TABLE_MAX (4 * 1024 * 1024)
#define BALANCE_TRIES_MAX 8 /* pods that one connection is tried with */

/* One connection on its way to a pod. */
struct balance_pick {
    uint64_t listener; /* 0: it is none of ours */
    uint32_t start, tried;
};
struct balance_ops {
    void (*accepted)(void *arg, int fd, const struct balance_pick *pick); /* takes over fd */
    void (*ended)(void *arg, uint64_t listener);                          /* its connections shall end */
    void *arg;
};

struct balance;
/* NULL with err: no inotify, no epoll. */
struct balance *balance_new(const char *dir, const struct gate_reach *reach, struct err *err);
void balance_free(struct balance *b);
/* Readable when balance_turn() has something to do. */
int balance_fd(const struct balance *b);
void balance_turn(struct balance *b, const struct balance_ops *ops);
/* Once a second. */
void balance_tick(struct balance *b, const struct balance_ops *ops);
/* The next pod to try; false: there is none (any more). */
bool balance_next(struct balance *b, struct balance_pick *pick, uint32_t *ret_address, uint16_t *ret_port);
/* Whether an address may be dialled for a Service: a pod or a node of this cluster, not the gate. Pure. */
bool balance_may_reach(const struct gate_reach *r, uint32_t address);

#endif
