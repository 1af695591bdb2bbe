/* Inside the HTTP server: the listener (http_server.c), connections of HTTP/1.1 (http_server_conn.c) and their answers (http_server_answer.c), connections of
 * HTTP/2 with theirs (http2_server.c). */
#ifndef SEKI_NET_HTTP_SERVER_INTERNAL_H
#define SEKI_NET_HTTP_SERVER_INTERNAL_H

#include <sys/queue.h>

#include "net/http_server.h"

/* The answering half of http_server.h, for one protocol; each does what the function of that name promises there. */
struct http_carrier {
    void (*respond)(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count, struct str body);
    void (*respond_start)(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count);
    bool (*write)(struct http_request *r, struct str bytes);
    void (*respond_end)(struct http_request *r);
    void (*respond_abort)(struct http_request *r);
    size_t (*queued)(const struct http_request *r);
    struct conn *(*conn_of)(struct http_request *r);
    bool (*hold)(struct http_request *r);
    void (*skip_body)(struct http_request *r);
};
extern const struct http_carrier http1_carrier;

enum conn_state {
    CONN_HEAD,     /* waiting for, or reading, a head */
    CONN_BODY,     /* gathering the body */
    CONN_HANDLING, /* the handler has it; an answer is owed */
    CONN_SENDING,  /* the answer is complete, its last bytes are queued */
    CONN_LINGER,   /* closed our side; waiting for the peer to close, so that it reads the answer */
};

/* In a connection that may be held: see http_hold(). */
struct server_hold {
    TAILQ_ENTRY(server_hold) link;
    uint64_t number; /* of the release that lets it go */
    void (*go)(struct server_hold *h); /* it is held no more */
    bool on;
};
void server_hold_on(struct http_server *s, struct server_hold *h, void (*go)(struct server_hold *h)); /* it may be on */
void server_hold_off(struct http_server *s, struct server_hold *h); /* likewise off */

#define SPARE_ARENAS 64

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
    LIST_HEAD(, http2_conn) conns2;
    TAILQ_HEAD(, server_hold) held; /* oldest first */
    uint64_t release_number;
    size_t conn_count; /* of both */
    uint64_t shed_again_ms; /* when nobody had idle connections to lose: not before that */
    bool draining, handed_over;
    void (*drained)(void *arg);
    void *drained_arg;
    struct timer drained_timer;
    uint64_t flush_turn; /* turn of the loop that flushes_left is for */
    int flushes_left;
    struct arena *spare[SPARE_ARENAS]; /* of requests that have ended, for those to come */
    int spare_count;
};

struct http_server_conn {
    LIST_ENTRY(http_server_conn) link;
    struct http_server *server;
    struct conn *conn;
    struct conn_share *share; /* NULL: its address has none */
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
    size_t skip;            /* bytes of a body that come before the next head, and that nobody wants */

    /* the answer */
    struct sbuf head;       /* built, not sent */
    struct sbuf out;        /* queued bytes, from out_off on */
    size_t out_off;
    bool started, ended, chunked, no_body, close_after, over_high, body_unread;
    bool unheard;           /* the handler does not know of this request, or no more */

    int busy;   /* inside our own call chain: freeing waits */
    bool known; /* the protocol was asked for */
    bool dead, processing;
    struct server_hold hold;
    bool between; /* an answer has ended: the timer of the next head is to be set */
    bool reading; /* a head has begun, if only by a blank line before it: its timer runs */
    bool untimed; /* a head or a body has begun: its timer is to be set, unless all of it is there already */
};

#define PIPELINED_MAX (64 * 1024) /* bytes of later requests that are kept while one is handled */

void server_conn_accept(struct http_server *s, int fd, struct conn_share *share);
bool server_conn_is_idle(const struct http_server_conn *c); /* no request, nor a byte of one */
void server_conn_abort(struct http_server_conn *c);   /* on_abort if a request runs, then free */
void server_conn_finish(struct http_server_conn *c);  /* the answer is with the kernel */
void server_conn_flush(struct http_server_conn *c);   /* writes what is queued */
void server_conn_release(struct http_server_conn *c); /* it was held: what waits is written, unless it has failed meanwhile */
void server_conn_error(struct http_server_conn *c, int status, const char *msg);
void server_conn_want(struct http_server_conn *c);    /* asks for the readiness that the state calls for */
void server_conn_watch_progress(struct http_server_conn *c);
void server_conn_count(struct http_server *s, int change); /* of connections */
void server_conn_gone(struct http_server *s);         /* a connection was freed */

/* A request with its id, for either protocol. */
struct http_request *server_request_new(struct http_server *s, const struct http_carrier *carrier, void *conn);
void server_request_free(struct http_server *s, struct http_request *r); /* NULL is fine */
bool http_status_has_no_body(int status);
/* A body that began at since_ms, whose last byte came at progress_ms, and that has so many bytes: too slow to be waited for. */
bool server_body_is_slow(const struct http_server *s, uint64_t now_ms, uint64_t since_ms, uint64_t progress_ms, uint64_t bytes);
#define BODY_GRACE_MS 30000 /* its pace counts from then on */
const char *http_date_text(void); /* "Tue, 24 Nov 2026 04:00:00 GMT", made once a second a thread */
/* Splits h->target into path and query. */
int http_target_split(struct http_head *h, struct err *err) NODISCARD;

/* Whether a connection may write out what it has queued: in one turn of the loop only some do, so that large answers do not hold up new requests. The others are
 * ready in the next turn still. */
bool server_may_flush(struct http_server *s);

/* HTTP/2: takes over a connection whose handshake chose it. */
void http2_accept(struct http_server *s, struct conn *conn, struct conn_share *share);
/* Of each connection without streams, its share; where fn says so the connection is ended. Newest first. */
void http2_each_idle(struct http_server *s, bool (*fn)(void *arg, struct conn_share *share), void *arg);
void http2_drain_all(struct http_server *s);
void http2_abort_all(struct http_server *s);

#endif
