/* The inference gateway: OpenAI-compatible API in front of engines.
 *
 * One loop a core, sharing the port by SO_REUSEPORT. What may be called by whom comes from an immutable snapshot, built from informers (feed.h has the kinds) and swapped by reference
 * count; it is saved to disk (0600) and loaded at start, so that a gateway serves with the API down. snapshot.c builds it, route.c finds what a path means and whose key it is, request.c
 * carries one request through its life and settles it on every exit path, dispatch.c sends it to the replica that pick.c finds best, usage goes to the journal.
 *
 * Threads: who started it drains and frees it; what may be called from any thread says so.
 */
#ifndef SEKI_GATEWAY_GATEWAY_H
#define SEKI_GATEWAY_GATEWAY_H

#include "client/client.h"
#include "crypto/token.h"
#include "engine/engine.h"
#include "gateway/pick.h"
#include "net/addr.h"
#include "net/tls.h"

struct gateway;

struct gateway_options {
    struct net_addr listen;
    struct tls_ctx *tls;          /* NULL: plain; refused for addresses that are not loopback */
    int threads;                  /* 0: one a core */
    struct client *client;        /* for informers; stays the caller's */
    struct token_pepper pepper;
    const char *snapshot_file;
    struct engine_paths engines;  /* socket_dir, remote: where engines may be; strings stay the caller's */
    const char *name;             /* "gateway"; of several on one directory each has its own */
    const char *journal_dir;      /* usage-NAME.000001 … */
    const char *shares_file;      /* what this gateway has of limits (share_file.h); NULL: that is not kept */
    const char *other_shares_file; /* what the one from which this one takes over has, or the one of that name that was last here */
    const char *open_file;        /* requests that run (open_requests.h); NULL: those of a killed gateway are not counted */
    const int *listen_fds;        /* sockets that listen at `listen` already, taken over from another gateway; they become this one's when it starts */
    size_t listen_count;
    size_t max_body_bytes;        /* default 16 MiB */
    size_t bodies_bytes;          /* of all bodies that are held at once; default 1 GiB … */
    size_t tenant_bodies_bytes;   /* … and of those of one tenant; default 256 MiB. Never less than one body */
    size_t max_connections;       /* default 9,000 */
    int address_share;            /* percent of them that one address may have when they run short; default 50, 100: no bound */
    const struct reach *trusted;  /* proxies: addresses that have no such share; stays the caller's */
    uint64_t head_timeout_ms, body_timeout_ms; /* of a request; 0: as net/http_server.h says */
    uint64_t connect_timeout_ms;  /* to an engine; default 2 s */
    uint64_t first_byte_timeout_ms; /* default 600 s: long prefills are legal */
    uint64_t idle_timeout_ms;     /* between bytes of a stream; default 300 s */
    enum pick_policy routing;     /* how replicas are chosen; default by prefix */
    size_t queue_max;             /* requests of a tenant that may wait for an endpoint; default 1,000 */
    uint64_t queue_timeout_ms;    /* how long; default 60 s */
    size_t hold_max;              /* requests that may wait for an endpoint without replicas; 0: none */
    size_t hold_bytes;            /* bodies of all of them */
    uint64_t hold_timeout_ms;     /* how long */
    const char *otlp_endpoint;    /* where traces are sent (trace_export.h); NULL or empty: none are made */
    int64_t trace_per_million;    /* of requests whose caller does not say */
    const char *decisions_file;   /* decisions.h */
    size_t decisions_max_bytes;
    int64_t decisions_per_million; /* of requests; 0: there is no such log */
    bool hedging;                 /* slow first tokens: hedge.h */
    uint64_t keepalive_ms;        /* a stream that waits for its first content gets a comment so often; 0: none */
};

int gateway_start(const struct gateway_options *o, struct gateway **ret, struct err *err) NODISCARD;
void gateway_addr(const struct gateway *g, struct net_addr *ret);
/* Its listening sockets, for who takes over; they stay its own. Returns how many; at most max. Until it drains. */
size_t gateway_listeners(const struct gateway *g, int *fds, size_t max);
/* 0 when it has a snapshot and listens; else why not. Any thread. */
int gateway_ready(struct gateway *g, struct err *err);
/* Stops accepting, lets running requests end up to timeout_ms. Blocks. handed_over: another process accepts from the same sockets, so that nobody may be sent away: what waits in
 * them is the other's, and idle connections may ask once more. */
void gateway_drain(struct gateway *g, uint64_t timeout_ms, bool handed_over);
/* Ends the wait of gateway_drain(), now or to come: what runs will be cut. Any thread. */
void gateway_drain_cancel(struct gateway *g);
/* Ends what runs. Blocks until loops and threads have ended and control was told, half a second at most for that. */
void gateway_free(struct gateway *g);

#endif
