/* Controllers: level-triggered reconcile loops over a deduplicating work queue.
 *
 * A controller names its primary kind and the kinds whose objects it owns (their changes enqueue the owner). reconcile() reads what is wanted and what is,
 * takes one idempotent step, and may be killed at any instant. Namespaces take turns: many objects of one do not hold up another's. It runs on one of the controller's worker threads, never twice at a time for one object; it may block on
 * client calls, not on the world (drivers have deadlines). An error requeues with back-off (50 ms doubling to 60 s, jittered); *requeue_ms asks for another
 * look without an error. Only the holder of the lease reconciles: its client refuses calls (ERR_CANCELED) once the lease is lost, and (ERR_TIMEOUT) once the pass has had its time.
 * An object whose passes go on failing says so in its condition "Reconciled": False with the error's reason, or DeadlineExceeded; True again after the next good pass.
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
    struct pass *pass;     /* the manager's */
};
/* A pass that takes long asks this at times: true when it should end (the program stops, the lease is lost, its time is over). */
bool reconcile_must_end(const struct reconcile *r);
/* The end of what a finalizer stands for: takes it off the primary (of kind k), which may be gone
 * with it. */
int reconcile_release(struct reconcile *r, const struct kind *k, const char *finalizer,
                      struct err *err) NODISCARD;

struct controller_ops {
    const char *name;
    const struct kind *primary;
    const struct kind *const *owned; /* ends in NULL; may be NULL */
    int workers;                     /* default 1 */
    int share;                       /* so many of them at most are at work for one namespace at a time, for passes that wait for the world; 0: all */
    uint64_t deadline_ms;            /* of one pass; default 60 s */
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
/* No pass begins any more; informers end; running passes end, still under the lease; the lease is given back; m is freed. */
void manager_stop(struct manager *m);
/* Records an Event about obj (repeats grow its count; too many are cut short). type: "Normal" | "Warning". Best effort. */
void manager_event(struct manager *m, const json_t *obj, const char *type, const char *reason, const char *message);

/* The queue, for tests and for others: deduplicates, serialises per key, delays. Keys are NAMESPACE/NAME; those of one namespace
 * that are due come in the order in which they became due, and namespaces take turns, those first that have the least at work. A key that is added while it is processed
 * comes again after workqueue_done(). After shutdown nothing is handed out: what waited is found again from the world. Threads: any. */
struct workqueue;
struct workqueue *workqueue_new(void);
void workqueue_set_share(struct workqueue *q, size_t share); /* of one namespace, not of "", so many keys at most are handed out at a time; 0: no limit. Before the first take */
void workqueue_free(struct workqueue *q);
void workqueue_add(struct workqueue *q, const char *key, uint64_t delay_ms);
/* Blocks up to timeout_ms; NULL on timeout or after shutdown. The key must be given back. mem_free it then. */
char *workqueue_take(struct workqueue *q, uint64_t timeout_ms);
void workqueue_done(struct workqueue *q, const char *key);
/* Back-off for a failed key; forget resets it. Returns the delay chosen. */
uint64_t workqueue_retry(struct workqueue *q, const char *key);
void workqueue_forget(struct workqueue *q, const char *key);
unsigned workqueue_failures(struct workqueue *q, const char *key); /* since the last forget */
void workqueue_shutdown(struct workqueue *q);
size_t workqueue_len(struct workqueue *q);

#endif
