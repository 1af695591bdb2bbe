/* The monitoring listener of a role: /metrics (Prometheus text), /livez, /readyz. Plain HTTP on loopback; no authentication, no names of tenants' content. */
#ifndef SEKI_CMD_MONITOR_H
#define SEKI_CMD_MONITOR_H

#include "loop/loop.h"
#include "net/http_server.h"

struct monitor;
/* ready: 0, or a code with err saying why not; on the loop's thread. */
int monitor_start(struct loop *l, const struct net_addr *listen, int (*ready)(void *arg, struct err *err), void *arg,
                  struct monitor **ret, struct err *err) NODISCARD;
void monitor_addr(const struct monitor *m, struct net_addr *ret);
void monitor_free(struct monitor *m);

#endif
