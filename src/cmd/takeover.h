/* How a new gateway takes the place of one that runs: it gets the listening sockets, so that no connection is refused or reset, and the old one ends what it has begun.
 *
 *   new                                                     old (listens at DATA/run/NAME.takeover)
 *   takeover_ask ── connects ────────────────────────────►  hands out its sockets, goes on serving
 *   starts with them: both accept now
 *   takeover_done ── "ready" ────────────────────────────►  on_taken: stops accepting, drains; its end of run/NAME.takeover is gone
 *                 ◄── "left" ──
 *
 * The sockets are the same ones in both processes: what waits in them is accepted by one of the two. A new one that fails before it is ready changes nothing. Both ends belong to the
 * same user (the directory is his alone, and the peer is asked).
 */
#ifndef SEKI_CMD_TAKEOVER_H
#define SEKI_CMD_TAKEOVER_H

#include "loop/loop.h"

#define TAKEOVER_FDS_MAX 250
#define TAKEOVER_NAME_MAX 48

/* What is handed over. */
struct takeover {
    char writer[TAKEOVER_NAME_MAX]; /* what the old one's journals are called */
    int fds[TAKEOVER_FDS_MAX];      /* the monitor's socket, then the gateway's */
    size_t count;
    int conn; /* to the old one; -1: none */
};

/* 0: a gateway runs and waits for takeover_done(). ERR_NOT_FOUND: none does, or it ended while it was asked. ERR_CLOSED: another takes over from it, for seconds now. Blocks for
 * seconds at most. */
int takeover_ask(const char *path, struct takeover *ret, struct err *err) NODISCARD;
/* This one serves: the old one is to leave. Blocks until it listens no more at path; at once when it has ended by itself meanwhile. */
int takeover_done(struct takeover *t, struct err *err) NODISCARD;
/* Closes the sockets from number `first` on, and the connection: the old one goes on if it was not told to leave. */
void takeover_close(struct takeover *t, size_t first);

/* The old one's side; on its loop. */
struct takeover_offer;
/* what: called for each who asks. on_taken: once; then the offer listens no more and is to be freed. */
int takeover_offer(struct loop *l, const char *path, void (*what)(void *arg, struct takeover *ret), void (*on_taken)(void *arg), void *arg, struct takeover_offer **ret,
                   struct err *err) NODISCARD;
void takeover_offer_free(struct takeover_offer *o);

#endif
