/* Who is next: requests that wait for a replica, in fair order.
 *
 * Deficit round robin (Shreedhar and Varghese, 1995) over tenants: each in its turn gets a quantum of tokens, and sends what it can pay. A request costs the tokens that are expected
 * of it and not cached; what it really cost is settled afterwards, so that tenants who wait at the same time get equal shares, however many requests each of them sends, and
 * however wrong the guess. Who does not wait earns nothing, but for what he owes: while others wait he stays in the round, without a turn, until that is paid off. Else whoever never has two requests
 * at once would owe nothing each time, and get by length what others get by number. Classes are strict: while an interactive request waits, no batch request is sent. Within a tenant's turn the request
 * with the longest cached beginning goes first, but none is overtaken more than a few times, unless it would rather wait. A tenant of whom all rather wait earns nothing in that while.
 * Threads: the caller's lock.
 */
#ifndef SEKI_GATEWAY_QUEUE_H
#define SEKI_GATEWAY_QUEUE_H

#include <sys/queue.h>

#include "base/map.h"

enum queue_class { CLASS_INTERACTIVE, CLASS_BATCH, CLASS_COUNT };

struct queue_flow;

/* Embedded in what waits. The caller sets cost and class. */
struct queue_entry {
    TAILQ_ENTRY(queue_entry) link;
    struct queue_flow *flow; /* NULL: it does not wait */
    int64_t cost;            /* tokens, at least 1 */
    uint64_t paid_by;        /* the flow that queue_take() took it from; 0: none yet, it was sent without waiting */
    enum queue_class class;
    int overtaken;
};

struct queue {
    struct map *flows; /* by class and tenant */
    TAILQ_HEAD(queue_flows, queue_flow) active[CLASS_COUNT];
    size_t len, len_of[CLASS_COUNT];
    uint64_t made; /* flows, so far */
};

void queue_init(struct queue *q);
void queue_deinit(struct queue *q);
/* first: before its tenant's others, as it was sent once and failed. */
void queue_add(struct queue *q, const char *tenant, struct queue_entry *e, bool first);
void queue_remove(struct queue *q, struct queue_entry *e); /* harmless when it does not wait */
size_t queue_len_of(const struct queue *q, const char *tenant);
/* How many tokens of an entry a replica has. Below 0: it waits for another replica, and does not go now. */
typedef int64_t (*queue_cached_fn)(void *arg, struct queue_entry *e);
/* Somebody who waits, of the highest class; NULL: nobody. Changes no turns. */
struct queue_entry *queue_peek(const struct queue *q);
/* The next one, which stays where it is until queue_take(); NULL: nobody waits, or all rather wait. cached may be NULL. */
struct queue_entry *queue_next(struct queue *q, queue_cached_fn cached, void *arg);
void queue_take(struct queue *q, struct queue_entry *e);
/* A request of the tenant cost so much more (or less) than was taken for it. Forgotten when nobody of that class waits; less is given back to the flow that paid, and to no other. */
void queue_settle(struct queue *q, const char *tenant, enum queue_class class, uint64_t paid_by, int64_t more);

#endif
