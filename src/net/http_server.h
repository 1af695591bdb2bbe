/* HTTP server: listens, reads requests under caps, hands them to a handler, writes answers with back-pressure.
 *
 * One server belongs to one loop; several share a port by reuse_port. Connections speak HTTP/1.1, or HTTP/2 where TLS's ALPN chose it; handlers see no difference.
 * On HTTP/1.1 a connection carries one request at a time (pipelined ones wait), on HTTP/2 many. Life of a request: head read and checked → ops->on_head (may answer at once, sets the body's
 * cap) → body gathered (ops->on_body, with each piece) → ops->on_request → http_respond*() … http_respond_end() → arena freed. If the client goes
 * away before the end, ops->on_abort is called once and the request is gone when it returns; else ops->on_done, likewise the last
 * call. Exactly one of on_abort and on_done is called for each request that reached on_head.
 * Threads: the loop's.
 *
 * Answers the server makes itself, through ops->write_error: 400 bad head (and close), 408 slow head or body (slow-loris),
 * 413, 431, 505, 503 over max_connections.
 */
#ifndef SEKI_NET_HTTP_SERVER_H
#define SEKI_NET_HTTP_SERVER_H

#include <stdatomic.h>

#include "loop/loop.h"
#include "net/conn.h"
#include "net/conn_shares.h"
#include "net/http.h"

struct http_server;
struct http_carrier;

struct http_request {
    struct http_head head; /* slices live as long as the request */
    struct str body;       /* complete, set before on_request; NUL-terminated */
    struct arena *arena;   /* dies with the request */
    void *user;            /* the handler's */
    struct http_server *server;
    const struct http_carrier *carrier; /* how the answer travels */
    void *conn;                         /* the carrier's */
    void *coding;                       /* the server's: the answer is being compressed */
    uint64_t started_ns;   /* first byte of the request */
    const char *id;        /* "req-" and 24 random digits; X-Request-Id of the answer */
};

struct http_server_ops {
    /* The head is here, the body not. Return 0 to go on (may lower or raise *body_max), or answer with http_respond()
     * and return a negative code: the body is then skipped or the connection closed. May be NULL. */
    int (*on_head)(void *ctx, struct http_request *r, size_t *body_max);
    /* More of the body is here: it has so many bytes then, which the server does not hold yet. Like on_head: 0 to go on. May be NULL. */
    int (*on_body)(void *ctx, struct http_request *r, size_t bytes);
    void (*on_request)(void *ctx, struct http_request *r);
    /* Bytes queued fell under the low mark after http_write() had said false. May be NULL. */
    void (*on_drain)(void *ctx, struct http_request *r);
    void (*on_abort)(void *ctx, struct http_request *r);
    void (*on_done)(void *ctx, struct http_request *r); /* the answer's last byte is with the kernel; may be NULL */
    /* Body and content type of an answer that the server itself makes. r->head is empty where it could not be read, or has not come whole; r->id may be "". NULL: text/plain. */
    void (*write_error)(void *ctx, const struct http_request *r, int status, const char *msg, struct sbuf *out, const char **ret_type);
};

struct http_server_options {
    struct net_addr listen;
    bool reuse_port;
    int listen_fd;              /* > 0: listens already, at `listen`; becomes the server's when it starts */
    struct tls_ctx *tls;        /* NULL: plain; a reference is taken */
    size_t max_connections;     /* default 10,000 */
    atomic_size_t *connections; /* of several servers together, for which max_connections then holds; NULL: of this one */
    struct conn_shares *shares; /* of the same servers; the caller's, outlives them. Once more than 3/4 of max_connections are there, an address that has its share gets no new ones, and the address that
                                 * has most idle ones (and more than 1 % of all) loses those. NULL: none has a share */
    size_t max_head_bytes;      /* default 32 KiB → 431 */
    size_t max_body_bytes;      /* default 3 MiB → 413 */
    uint64_t head_timeout_ms;   /* default 10 s from the first byte, which a new connection has as long to send */
    uint64_t body_timeout_ms;   /* default 30 s without a byte; at least 1 KiB/s on average after 30 s */
    uint64_t idle_timeout_ms;   /* keep-alive; default 75 s */
    uint64_t write_timeout_ms;  /* default 60 s without the client taking a byte, while bytes wait */
    size_t high_water_bytes;    /* default 256 KiB queued → http_write says false */
    size_t compress_min_bytes;  /* whole answers at least so long are sent as gzip to clients that take it, compressed on a pool thread; 0: none is */
    const char *server_name;    /* Server header; NULL: none */
};

int http_server_start(struct loop *l, const struct http_server_options *o, const struct http_server_ops *ops,
                      void *ctx, struct http_server **ret, struct err *err) NODISCARD;
void http_server_addr(const struct http_server *s, struct net_addr *ret); /* really bound */
/* No new connections, keep-alive off; running requests go on. done is called when the last has ended. */
void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg);
/* The same, when somebody else accepts from the same socket from now on: what waits there is his, and connections that are idle are not closed under a request that may be on its
 * way. Each gets one more answer, or leaves by its idle timeout. */
void http_server_hand_over(struct http_server *s, void (*done)(void *arg), void *arg);
int http_server_fd(const struct http_server *s); /* its listening socket, which stays its own */
void http_server_free(struct http_server *s); /* aborts what runs (on_abort is called) */
void http_server_set_tls(struct http_server *s, struct tls_ctx *tls); /* for new connections */
size_t http_server_connections(const struct http_server *s);

/* Answering. Content-Length and Connection are the server's; Date and X-Request-Id are added. */
struct http_out_header {
    const char *name;
    struct str value;
};
/* A whole answer. Bytes are copied unless body_static. */
void http_respond(struct http_request *r, int status, const char *content_type,
                  const struct http_out_header *headers, size_t header_count, struct str body);
/* In on_head, before an answer: a short body of a known length is read and dropped, so that the connection can go on behind it. Any other one ends the connection. */
void http_skip_body(struct http_request *r);
/* A streamed answer: chunked (or until close for HTTP/1.0). The head leaves with the first body bytes, or with
 * http_flush(), so that head and first chunk share one write. */
void http_respond_start(struct http_request *r, int status, const char *content_type,
                        const struct http_out_header *headers, size_t header_count);
/* Queues bytes (copied when the kernel does not take them at once). False: over the high mark; wait for on_drain. */
bool http_write(struct http_request *r, struct str bytes);
void http_flush(struct http_request *r);
void http_respond_end(struct http_request *r);
/* Breaks the answer off: closes the connection without a proper end, so that the client sees the failure. on_abort is NOT called. */
void http_respond_abort(struct http_request *r);
size_t http_queued(const struct http_request *r);
/* Nothing more of r's answer leaves until http_server_release(): the end of an answer is to wait for something that others wait for too. False: it cannot be held, or cannot be answered. */
bool http_hold(struct http_request *r);
bool http_server_holds(const struct http_server *s); /* any */
void http_server_release(struct http_server *s); /* those that are held now. They may end, and the requests behind them begin */
/* The client's verified certificate, and address; while the request is not answered. */
bool http_request_peer(struct http_request *r, struct conn_peer *ret);
void http_request_addr(struct http_request *r, struct net_addr *ret);

#endif
