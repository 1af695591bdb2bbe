/* One connection of a gRPC server of unary methods: bytes in, bytes out; no socket in here.
 *
 * HTTP/2's framing, HPACK and flow control are nghttp2's (no TLS: prior knowledge, as on a unix socket). A stream is a call: POST, content-type application/grpc, one message of at most
 * GRPC_MESSAGE_MAX bytes, not compressed. What is over a cap, or no call, is answered with a status of gRPC, or ends the connection. Source: grpc.io, PROTOCOL-HTTP2.
 * Threads: the caller's.
 */
#ifndef SEKI_KMS_GRPC_H
#define SEKI_KMS_GRPC_H

#include "kms/service.h"

#define GRPC_MESSAGE_MAX (64 * 1024)
#define GRPC_STREAMS_MAX 64

struct grpc_conn;

/* answer: as kms_answer(); called from grpc_feed(). */
struct grpc_conn *grpc_conn_new(enum grpc_status (*answer)(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why), void *arg);
void grpc_conn_free(struct grpc_conn *c);
/* ERR_PROTOCOL: the peer speaks no HTTP/2, or floods: nothing can be said to it any more. */
int grpc_feed(struct grpc_conn *c, struct str bytes, struct err *err) NODISCARD;
/* Appends to out what is to be sent, up to about max bytes of it; false: the connection is broken. */
bool grpc_take(struct grpc_conn *c, struct sbuf *out, size_t max);
/* Nothing more will come of it. */
bool grpc_over(const struct grpc_conn *c);
/* Calls that were begun before that time and are not complete are answered DEADLINE_EXCEEDED. Returns how many calls there are. */
size_t grpc_expire(struct grpc_conn *c, uint64_t began_before_ms);

#endif
