/* HTTP/1.1 client for the gateway's upstreams: pooled connections, byte-exact streaming, back-pressure, cancellation.
 *
 * A pool is one peer (address, TLS) on one loop. A call sends one request and reports the response as it comes; the caller may
 * pause it (the socket is then not read, so the peer is held back) and cancel it (the connection is closed at once, so the
 * peer notices). Response heads go through http_head_parse. No redirects, no retries but one: a call on a kept connection that
 * fails before any response byte and before the peer can have seen the whole request (or: is closed by the peer with no byte
 * answered) is sent once more on a fresh connection, unless no_retry. Threads: the loop's.
 */
#ifndef SEKI_NET_HTTP_CLIENT_H
#define SEKI_NET_HTTP_CLIENT_H

#include "loop/loop.h"
#include "net/conn.h"
#include "net/http.h"

struct http_pool;
struct http_call;

struct http_pool_options {
    struct net_addr addr;
    struct tls_ctx *tls;         /* NULL: plain */
    const char *host;            /* Host header; without its port the TLS name */
    size_t max_idle;             /* kept connections; default 64 */
    uint64_t connect_timeout_ms; /* default 5 s */
    uint64_t idle_timeout_ms;    /* default 60 s */
    size_t max_head_bytes;       /* of a response; default 64 KiB */
};

struct http_pool *http_pool_new(struct loop *l, const struct http_pool_options *o);
/* Cancels nothing that runs, but for what was let go: the pool goes when its last call has ended. */
void http_pool_free(struct http_pool *p);

struct http_call_ops {
    /* Status line and headers; slices are valid during the call only. 1xx are skipped before. */
    void (*on_head)(void *arg, const struct http_head *head);
    /* A piece of the decoded body, as it came. */
    void (*on_body)(void *arg, struct str bytes);
    /* Exactly one of these is the last call. Not called after http_call_cancel(). */
    void (*on_end)(void *arg);
    void (*on_error)(void *arg, const struct err *err); /* ERR_CLOSED, ERR_TIMEOUT, ERR_PROTOCOL … */
};

struct http_call_options {
    const char *method;
    const char *target;
    const struct http_header *headers; /* besides Host, Content-Length */
    size_t header_count;
    const struct iovec *body; /* borrowed until the call's end: not copied */
    int body_count;
    uint64_t first_byte_timeout_ms; /* from the request sent to the response head; 0: none */
    uint64_t idle_timeout_ms;       /* between body bytes while not paused; 0: none */
    bool no_retry;
};

/* Never calls back before it has returned. NULL only when memory is short. */
struct http_call *http_call_start(struct http_pool *p, const struct http_call_options *o,
                                  const struct http_call_ops *ops, void *arg);
void http_call_pause(struct http_call *c, bool paused);
void http_call_cancel(struct http_call *c); /* no callback afterwards; c is gone */
/* Its reader has all that he wants: nobody is called any more, and c is the pool's. What is left of the message is read for so long; if it ends by then the connection is kept, else it is closed. Borrowed
 * bytes are not used any more. */
void http_call_let_go(struct http_call *c, uint64_t drain_ms);
bool http_call_sent_any(const struct http_call *c); /* a request byte has left: the peer may have seen it */

const struct net_addr *http_pool_addr(const struct http_pool *p);
size_t http_pool_active(const struct http_pool *p);
size_t http_pool_idle(const struct http_pool *p);

#endif
