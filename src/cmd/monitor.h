/* The monitoring listener of a role: /metrics (Prometheus text), /livez, /readyz. Plain HTTP on loopback; no authentication, no names of tenants' content. */
#ifndef SEKI_CMD_MONITOR_H
#define SEKI_CMD_MONITOR_H

#include "loop/loop.h"
#include "net/http_server.h"

struct monitor;

/* One part of readiness: 0, or a code with err saying why not; on the loop's thread. */
struct monitor_check {
    const char *name; /* NULL ends the list */
    int (*check)(void *arg, struct err *err);
};

/* checks must live as long as the monitor. /readyz answers 200 "ok", or 503 with a line for each failing part; ?verbose names all parts. */
/* listen_fd > 0: a socket that listens already, taken over; it becomes the monitor's when it starts. */
int monitor_start(struct loop *l, const struct net_addr *listen, int listen_fd, const struct monitor_check *checks, void *arg, struct monitor **ret,
                  struct err *err) NODISCARD;
int monitor_fd(const struct monitor *m); /* its listening socket, which stays its own */
void monitor_addr(const struct monitor *m, struct net_addr *ret);
void monitor_free(struct monitor *m);

#endif
