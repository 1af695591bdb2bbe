/* The processes of sekid: a supervisor that keeps two roles running, and the roles.
 *
 * `sekid` alone is the supervisor: it starts itself again as --role=control and --role=gateway, restarts a role that ends, and passes signals on. Units of
 * systemd run control itself, and a supervisor of the gateway alone (--role=gateway --supervise), as one process takes the place of another there. Signals: SIGTERM drains and leaves workloads
 * running; SIGINT also stops workloads; SIGHUP reloads; SIGUSR2, to a supervisor: another gateway takes over (takeover.h).
 * Each role function returns the process's exit status.
 */
#ifndef SEKI_CMD_ROLES_H
#define SEKI_CMD_ROLES_H

#include "cmd/options.h"

#define SUPERVISE_FLAG "--supervise"

/* o is the caller's; the role changes it on reload. Both roles, or with cl->supervise the gateway. */
int supervisor_run(const struct command_line *cl, struct options *o, char **argv, struct arena *a);
/* --stop-engines: ends the engines that a sekid which is gone has left running. Refused while one runs. */
int supervisor_stop_engines(const struct options *o, struct arena *a);
int control_run(const struct command_line *cl, struct options *o, struct arena *a);
int gateway_run(const struct command_line *cl, struct options *o, struct arena *a);

/* What a gateway's files are called: "gateway", or with the option gateway.name "gateway-NAME". */
const char *role_gateway_name(const struct options *o, struct arena *a);
/* A role got SIGUSR2, which is for its supervisor: says so. */
void role_not_replaced(void);
/* DATA/run/NAME.addr: the address that a listener has really bound, for those who start or follow it. */
int role_write_addr(const struct options *o, struct arena *a, const char *name, const struct net_addr *addr, struct err *err) NODISCARD;
/* Parses `listen`; with port 0, the port that NAME.addr recorded last is tried first, so that a restart keeps its address. taken: a
 * socket that this process has already, or -1: its port is free for it. */
int role_listen_addr(const struct options *o, struct arena *a, const char *name, const char *listen, int taken, struct net_addr *ret,
                     struct err *err) NODISCARD;

#endif
