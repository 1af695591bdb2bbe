/* Sends finished traces to a collector: OTLP over HTTP, in its JSON encoding, in batches, by a thread of its own.
 *
 *   trace_export_add (any loop) ─► bounded queue ─► every second, or when much waits ─► POST /v1/traces ─► 2xx: sent
 *                                   │ full: dropped                                       └─► busy, or not there: again, TRIES_MAX times in all; then dropped
 *
 * Nothing here ever holds up a request: adding is a copy and two atomic operations, and what finds no room is dropped and counted (seki_gateway_traces_dropped_total, by reason). The
 * collector is on this machine, as names of tenants and keys go there in plain text; what leaves the machine is its business, and its TLS. An answer's body is not read.
 * Threads: trace_export_add() any; the rest, who made it.
 */
#ifndef SEKI_GATEWAY_TRACE_EXPORT_H
#define SEKI_GATEWAY_TRACE_EXPORT_H

#include "net/addr.h"

#define TRACE_EXPORT_QUEUE_BYTES ((size_t)8 << 20) /* of what waits to be sent */

struct trace_export;

struct trace_export_options {
    const char *endpoint; /* "http://127.0.0.1:4318", with a path where it is not /v1/traces */
    const char *instance; /* service.instance.id: the gateway's name */
};

/* The counters, which are there with and without traces. */
void trace_export_init(void);
/* Whether that is an endpoint: plain HTTP to a loopback address. ret_path: in a caller's array of 256. */
int trace_export_parse(const char *endpoint, struct net_addr *ret_addr, char ret_path[256], struct err *err) NODISCARD;
int trace_export_start(const struct trace_export_options *o, struct trace_export **ret, struct err *err) NODISCARD;
/* Spans of one trace, as trace_write() makes them; copied. STR_NULL: they were too large. */
void trace_export_add(struct trace_export *x, struct str spans);
/* Once nobody adds any more. Blocks, FLUSH_MS at most, while what waits is sent; NULL is fine. */
void trace_export_stop(struct trace_export *x);

#endif
