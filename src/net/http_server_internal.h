/* Inside the HTTP server: the listener (http_server.c), connections (http_server_conn.c), answers (http_server_answer.c). */
#ifndef SEKI_NET_HTTP_SERVER_INTERNAL_H
#define SEKI_NET_HTTP_SERVER_INTERNAL_H

#include <sys/queue.h>

#include "net/http_server.h"

enum conn_state {
    CONN_HEAD,     /* waiting for, or reading, a head */
    CONN_BODY,     /* gathering the body */
    CONN_HANDLING, /* the handler has it; an answer is owed */
    CONN_SENDING,  /* the answer is complete, its last bytes are queued */
    CONN_LINGER,   /* closed our side; waiting for the peer to close, so that it reads the answer */
};

struct http_server {
    struct loop *loop;
    struct http_server_options o;
    const struct http_server_ops *ops;
    void *ctx;
    struct tls_ctx *tls;
    int fd;
    struct fd_watch *watch;
    struct net_addr bound;
    struct timer accept_again; /* out of descriptors: try later, never spin */
    LIST_HEAD(, http_server_conn) conns;
    size_t conn_count;
    bool draining;
    void (*drained)(void *arg);
    void *drained_arg;
    struct timer drained_timer;
    uint32_t id_prefix;
    uint64_t id_counter;
};

struct http_server_conn {
    LIST_ENTRY(http_server_conn) link;
    struct http_server *server;
    struct conn *conn;
    enum conn_state state;
    struct http_request *req;
    struct http_body *body;
    struct sbuf in;         /* bytes that wait for their turn */
    struct sbuf body_bytes;
    size_t body_max;
    struct timer timer;
    uint64_t since_ms;      /* start of what the timer bounds */
    uint64_t progress_ms;   /* last byte of it */
    uint64_t body_taken;

    /* the answer */
    struct sbuf head;       /* built, not sent */
    struct sbuf out;        /* queued bytes, from out_off on */
    size_t out_off;
    bool started, ended, chunked, no_body, close_after, over_high, body_unread;
    bool unheard;           /* the handler does not know of this request, or no more */

    int busy;   /* inside our own call chain: freeing waits */
    bool dead, processing;
    bool between; /* an answer has ended: the timer of the next head is to be set */
    bool reading; /* a head has begun, if only by a blank line before it: its timer runs */
};

#define PIPELINED_MAX (64 * 1024) /* bytes of later requests that are kept while one is handled */

void server_conn_accept(struct http_server *s, int fd);
void server_conn_abort(struct http_server_conn *c);   /* on_abort if a request runs, then free */
void server_conn_finish(struct http_server_conn *c);  /* the answer is with the kernel */
void server_conn_flush(struct http_server_conn *c);   /* writes what is queued */
void server_conn_error(struct http_server_conn *c, int status, const char *msg);
void server_conn_want(struct http_server_conn *c);    /* asks for the readiness that the state calls for */
void server_conn_watch_progress(struct http_server_conn *c);
void server_conn_gone(struct http_server *s);         /* a connection was freed */

#endif
