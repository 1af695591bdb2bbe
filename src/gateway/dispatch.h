/* Sending requests of one endpoint to its replicas: at once while there is room, else in fair order (queue.h).
 *
 *   ask ─► a replica with room, and nobody waits? ─► sent
 *     │     (and the one that has its prompt is full and worth waiting for: patience.h)
 *     └──► waits ─► a request ends (done), a replica comes, one is well again (kick) ─► sent: told on the request's own loop
 *
 * One lock an endpoint; it is held for a choice among the replicas, and nothing blocks under it. (A message a decision to a loop that owns the endpoint would cost two wake-ups a
 * request; the lock costs less than one, as long as choices take microseconds.) Requests wait here and not in the engine: here they can be ordered, and who leaves costs nothing.
 *
 * Threads: a ticket's functions are its loop's, and take the lock; the set is the builder's; what has a struct dispatch alone is called from any.
 */
#ifndef SEKI_GATEWAY_DISPATCH_H
#define SEKI_GATEWAY_DISPATCH_H

#include <pthread.h>

#include "gateway/hedge.h"
#include "gateway/patience.h"
#include "gateway/queue.h"
#include "loop/loop.h"

struct dispatch;
struct ticket;

/* Kept from one snapshot to the next, by "PROJECT/ENDPOINT"; snapshots hold references. Belongs to their builder. */
struct dispatch_set;
struct dispatch_set *dispatch_set_new(void);
void dispatch_set_free(struct dispatch_set *s);
struct dispatch *dispatch_take(struct dispatch_set *s, const char *name);
void dispatch_unref(struct dispatch *d);
void dispatch_prune(struct dispatch_set *s);

/* Where tickets that were sent wait for their loop. */
struct dispatch_inbox {
    pthread_mutex_t lock;
    TAILQ_HEAD(, ticket) sent;
    struct loop *loop;
};
void dispatch_inbox_init(struct dispatch_inbox *i, struct loop *l);
void dispatch_inbox_deinit(struct dispatch_inbox *i);

/* A request's place. While it waits others look at it, under the lock: then only the functions below write it. Else it is its loop's, which also writes what is wished (`wish`, `endpoint`), what
 * its turn costs (`entry`) and what its engine did (`ran`, `ended`). */
struct ticket {
    struct queue_entry entry; /* must be first */
    TAILQ_ENTRY(ticket) link;
    struct dispatch_inbox *inbox;
    const struct snap_endpoint *endpoint;
    const char *tenant;
    struct pick_wish wish;
    int64_t prompt_tokens, answer_tokens; /* that are expected */
    bool again;                           /* it was sent before, and failed */
    enum { SLOT_NONE, SLOT_PINNED, SLOT_ANY } slot; /* it needs none, one that is chosen here, one that the engine chooses */
    void (*on_sent)(struct ticket *t);    /* on the loop; index SIZE_MAX: there is no replica left to try */

    enum { TICKET_IDLE, TICKET_WAITS, TICKET_TOLD, TICKET_SENT } state; /* under the lock: another loop may send it at any time */
    bool holds; /* its own loop knows that it was sent, and has not let go: the loop's */
    size_t index; /* of the replica */
    size_t cached; /* blocks of the prompt that it has */
    struct prefix_seen seen; /* what was known of them when it was sent */
    bool tries;   /* target_begin()'s */
    struct slots_claim claim; /* of replicas whose slots are chosen here */
    bool claimed;
    bool reached, ran, ended; /* something of it has left for the engine; which has written something to it; which has answered whole */
    uint64_t since_ms; /* set under the lock: others look at it while the ticket waits */
    uint64_t sent_ms;
    uint64_t patience_ms; /* so long at most it waits for a replica that has its prompt; 0: not at all */
    struct patience_home home;
    int64_t unread;           /* its part of target.h's unread */
    uint64_t read_ms;         /* how long that took; 0: not known, or it was little */
    int64_t weighs; /* tokens in the endpoint's sum of what runs; 0: it does not run */
};

enum dispatch_result { DISPATCH_SENT, DISPATCH_WAITS, DISPATCH_FULL, DISPATCH_NONE };
/* FULL: the tenant has max_waiting here already; *ret_retry_ms: when there is likely to be room. NONE: no replica is left to try. */
enum dispatch_result dispatch_ask(struct ticket *t, size_t max_waiting, uint64_t *ret_retry_ms);
/* The same, but only at once, out of turn where nobody waits, and of no replica that asked to be left alone. False: it is nowhere. */
bool dispatch_try(struct ticket *t);
/* A sent ticket's replica is let go. True: it was put aside for failing. */
bool dispatch_done(struct ticket *t, enum target_outcome outcome, uint64_t busy_ms);
/* Its engine has begun to answer: the prompt is read. */
void dispatch_read(struct ticket *t);
/* Its engine says how many of the tokens of its prompt (bytes: that long) it found cached. */
void dispatch_learn(const struct ticket *t, size_t bytes, int64_t cached_tokens, int64_t prompt_tokens);
/* It is over, and used so many tokens that were not cached. Leaves the queue, or the inbox, when it is still there; what it was sent to is let go. */
void dispatch_end(struct ticket *t, int64_t used_tokens);
/* Of a ticket that waits, or is nowhere: to a new snapshot's endpoint with the same queue, of which it must not reach the replicas in barred. What it tried there it has tried. False: it is another queue's, or was sent meanwhile, and stays with
 * the old one. */
bool dispatch_move(struct ticket *t, const struct snap_endpoint *e, uint64_t barred);
/* From now on it waits since then (its since_ms); 0: it does not wait. On its own loop, which alone may read that without the lock. */
void dispatch_since(struct ticket *t, uint64_t ms);
/* Something may have changed: whoever can be sent is. */
void dispatch_kick(struct dispatch *d);
size_t dispatch_waiting(void); /* in the process, now */

struct hedge_stats *dispatch_hedges(struct dispatch *d); /* hedge.h; lives as long */

/* How much is asked of an endpoint. */
struct dispatch_load {
    size_t waiting, running;
    int64_t waiting_tokens, running_tokens; /* that are expected of them */
    int64_t slot_per_minute; /* tokens that one slot does, measured while most were taken; 0: not known */
    int64_t idle_ms;         /* since a request last came or ended */
};
void dispatch_load(struct dispatch *d, struct dispatch_load *ret);
size_t dispatch_waiting_at(struct dispatch *d);
uint64_t dispatch_turn_ms(struct dispatch *d); /* how long who comes now is likely to wait for those before it */
/* There is no replica, since then: when the first request was held (begin: nothing changes when it is so already) until a snapshot has one (end), whoever has left meanwhile. 0: it is not so. */
void dispatch_cold_begin(struct dispatch *d, uint64_t now_ms);
void dispatch_cold_end(struct dispatch *d);
uint64_t dispatch_cold_since(struct dispatch *d);

#endif
