/* Controllers: level-triggered reconcile loops over a deduplicating work queue.
 *
 * A controller names its primary kind and the kinds whose objects it owns (their changes enqueue the owner). reconcile() reads what is wanted and what is,
 * takes one idempotent step, and may be killed at any instant. It runs on one of the controller's worker threads, never twice at a time for one object; it may block on
 * client calls, not on the world (drivers have deadlines). An error requeues with back-off (50 ms doubling to 60 s, jittered); *requeue_ms asks for another
 * look without an error. Only the holder of the lease reconciles.
 */
#ifndef SEKI_CONTROLLER_CONTROLLER_H
#define SEKI_CONTROLLER_CONTROLLER_H

#include "controller/informer.h"

struct controller;
struct manager;

struct reconcile {
    struct client *client;
    struct manager *manager;
    struct arena *arena;   /* dies with the pass */
    const char *ns, *name;
    json_t *obj;           /* the primary from the cache, or NULL when it is gone; a private deep copy that may be changed */
    uint64_t requeue_ms;   /* out: 0 = none */
};

struct controller_ops {
    const char *name;
    const struct kind *primary;
    const struct kind *const *owned; /* ends in NULL; may be NULL */
    int workers;                     /* default 1 */
    int (*reconcile)(void *ctx, struct reconcile *r, struct err *err);
};

/* One informer a kind is shared by all controllers of a manager. identity: for the lease. */
struct manager *manager_new(struct client *c, const char *identity);
void manager_add(struct manager *m, const struct controller_ops *ops, void *ctx);
/* The shared informer of a kind (made on first ask, before manager_start). */
struct informer *manager_informer(struct manager *m, const struct kind *k);
/* Asks for a reconcile soon; any thread. */
void manager_enqueue(struct manager *m, const char *controller, const char *ns, const char *name);
int manager_start(struct manager *m, struct err *err) NODISCARD;
void manager_stop(struct manager *m); /* waits for running passes; frees m */
/* Records an Event about obj (aggregated by reason: count grows). type: "Normal" | "Warning". Best effort. */
void manager_event(struct manager *m, const json_t *obj, const char *type, const char *reason, const char *message);

/* The queue, for tests and for others: deduplicates, serialises per key, delays. */
struct workqueue;
struct workqueue *workqueue_new(void);
void workqueue_free(struct workqueue *q);
void workqueue_add(struct workqueue *q, const char *key, uint64_t delay_ms);
/* Blocks up to timeout_ms; NULL on timeout or after shutdown. The key must be given back. mem_free it then. */
char *workqueue_take(struct workqueue *q, uint64_t timeout_ms);
void workqueue_done(struct workqueue *q, const char *key);
/* Back-off for a failed key; forget resets it. Returns the delay chosen. */
uint64_t workqueue_retry(struct workqueue *q, const char *key);
void workqueue_forget(struct workqueue *q, const char *key);
void workqueue_shutdown(struct workqueue *q);
size_t workqueue_len(struct workqueue *q);

#endif
