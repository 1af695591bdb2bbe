/* `sekid api-relay CA ADDRESS:PORT MEMBER:PORT …`: the one address of a cluster that has several API servers. Run by the runtime, one a cluster, so that a restart of `sekid` cuts no connection.
 *
 * Connections go to the API servers in turns, TLS untouched; to those first that answered /readyz with 200 when they were asked last (every RELAY_LOOK_MS, by a certificate of the CA), then to the
 * others. One that cannot be reached is passed over while nothing has been relayed; a connection of one that ends is cut, and its client comes again. All members have one port. */
#ifndef SEKI_NODE_API_RELAY_H
#define SEKI_NODE_API_RELAY_H

#include "node/node_gate.h"

#define RELAY_LOOK_MS 500u

/* "127.0.0.1:6443" in host order. ERR_INVALID. Pure. */
int api_relay_place(const char *text, uint32_t *ret_address, uint16_t *ret_port, struct err *err) NODISCARD;
/* An exit status; returns at SIGTERM. argv: CA, where to listen, API servers. */
int api_relay_main(char **argv);

#endif
