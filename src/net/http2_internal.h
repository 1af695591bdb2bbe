/* Inside HTTP/2's server: http2_server.c (connections, what arrives, time) and http2_answer.c (what
 * leaves: answers of streams, and a connection's bytes to the kernel). Threads: the loop's.
 */
#ifndef SEKI_NET_HTTP2_INTERNAL_H
#define SEKI_NET_HTTP2_INTERNAL_H

#include <nghttp2/nghttp2.h>

#include "net/http_server_internal.h"

#define HTTP2_OUT_MAX (256 * 1024) /* waits for the kernel; streams keep their own */

struct http2_stream {
    LIST_ENTRY(http2_stream) link;
    struct http2_conn *c;
    int32_t id;
    struct http_request *req;
    size_t head_bytes, body_max;
    struct sbuf body, out;
    size_t out_off;
    uint64_t since_ms, body_since_ms, progress_ms;
    bool heard;    /* the handler knows of the request, and is owed on_done or on_abort */
    bool head_ok, headers_too_large;
    bool body_ended, handling; /* the handler has it */
    bool started, ended, sent, no_body, deferred, over_high;
    bool closed; /* by the peer or by a reset; the handler does not know yet */
};

struct http2_conn {
    LIST_ENTRY(http2_conn) link;
    struct http_server *server;
    struct conn *conn;
    struct conn_share *share; /* NULL: its address has none */
    nghttp2_session *session;
    LIST_HEAD(, http2_stream) streams;
    size_t stream_count, bodies_bytes;
    struct sbuf out;
    size_t out_off;
    struct timer timer;
    uint64_t idle_since_ms, out_progress_ms;
    uint64_t resets_since_ms;
    unsigned resets;
    bool spoke;     /* a stream has begun, once */
    bool taking_in; /* frames are being taken in: flushing waits */
    bool sending, failed;
    struct server_hold hold;
};

extern const struct http_carrier http2_carrier;

/* Writes what the kernel takes, and what streams have for it; handlers that waited for that hear
 * on_drain. Nothing while frames are taken in: whoever takes them in flushes behind that. */
void http2_flush(struct http2_conn *c);
/* The connection is of no more use; it goes when no handler is on the stack. */
void http2_fail(struct http2_conn *c);
/* code: of RFC 9113, 7. It leaves with the next flush. */
void http2_reset_stream(struct http2_stream *st, uint32_t code);
/* Bytes of its answer that nghttp2 has not taken yet. */
size_t http2_waiting(const struct http2_stream *st);

#endif
