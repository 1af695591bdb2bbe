/* Targets: the places that requests are sent to, and what is known of how they do. They outlive snapshots.
 *
 * A breaker with three outcomes. What a target answers is a success, a failure, or neither: one that is busy (429, or 503 with a time) is left alone for as long as it asks, which says
 * nothing about its health; nor does a client that leaves. After a failed connect, or FAILURES_MAX failures in a row, a target is put aside, each time for twice as long; then one
 * request tries it, and its outcome decides. Those that are put aside are not forbidden: they come last, and serve when nothing else does. Whether a 500 is a failure, or the fault of its request,
 * may be known only when another target has had that request, too (target_blame()). Threads: any, without locks, but for target_set, which belongs to the builder of snapshots.
 */
#ifndef SEKI_GATEWAY_TARGET_H
#define SEKI_GATEWAY_TARGET_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "gateway/prefix.h"
#include "gateway/slots.h"
#include "json/json.h"
#include "net/addr.h"

#define TARGET_INDEX_BYTES ((size_t)512 << 10)
#define TARGET_TOLD_MS 6000 /* what an engine said of itself holds for so long after it was asked; control asks every 2 s */
#define TARGET_INDEXES_MAX 512 /* of all targets: 256 MiB. Those that come later have none, and are chosen by load alone */

struct target {
    atomic_uint refs;
    char *name; /* "PROJECT ADDRESS": whoever sends a wrong key to a server that others use, too, spoils nothing for them */
    atomic_int in_flight;
    atomic_llong unread;          /* tokens of prompts that it was sent and has not begun to answer, but for what it had cached */
    atomic_ullong turn;           /* of its endpoint, when it was last sent something */
    atomic_ullong aside_until_ms; /* for failing, on the monotonic clock */
    atomic_ullong rests_until_ms; /* as it asked to be left alone; likewise */
    atomic_int failures;          /* in a row */
    atomic_int opened;            /* how often it was put aside since it last did well; 0: it does well */
    atomic_bool closing;          /* no snapshot to come has it: nothing more is sent there */
    atomic_bool trying;           /* the request that is to tell whether it does again */
    atomic_int retries;           /* tenths of one that may still be made elsewhere after it failed */
    atomic_int told_requests, told_waiting, told_kv; /* what its engine says, whoever sent it: that run or wait, of those that wait, thousandths of its memory for keys and values */
    atomic_ullong told_until_ms;  /* so long that is believed; 0: nothing is known, and it counts for nothing */
    pthread_mutex_t lock;         /* guards prefixes */
    struct prefix_index *prefixes; /* NULL until something was sent, or when there are too many */
    bool tells;                   /* under the lock: it has said that it found something cached */
    struct net_addr addr;         /* where its name led when it was last looked up: the builder's */
    struct slots *slots;          /* of engines that are told which slot to use; the builder's: others have it from their snapshot */
};

struct target_set;
struct target_set *target_set_new(void);
void target_set_free(struct target_set *s);
struct target *target_take(struct target_set *s, const char *name); /* a new reference; of one that was closing, what it did wrong is forgotten */
struct target *target_ref(struct target *t);
const struct target *target_find(struct target_set *s, const char *name); /* the set's; NULL: it has none of that name */
void target_unref(struct target *t);
/* Marks those that a new snapshot, which is what loops find from now on, does not have, and unmarks the others. */
void target_close(struct target_set *s, bool (*has)(void *arg, const char *name), void *arg);
/* Whether it may still be sent requests, and how many run there. Any thread. */
bool target_open(struct target_set *s, const char *name, int *ret_running);
/* What engines say of themselves, a list as in GatewayLoad's status.engines. Of those that are not in it nothing is known any more. Any thread. */
void target_tell(struct target_set *s, const json_t *engines, uint64_t now_ms);
void target_prune(struct target_set *s); /* forgets those that only the set still knows */

/* Whether requests should rather go elsewhere. */
bool target_is_aside(const struct target *t, uint64_t now_ms);

/* Whether it asked to be left alone still. */
bool target_rests(const struct target *t, uint64_t now_ms);

enum target_outcome { TARGET_OK, TARGET_FAILED, TARGET_UNREACHABLE, TARGET_BUSY, TARGET_NEITHER };
/* One request is sent there. Returns whether it is the one that tries it: to be handed to target_end(). */
bool target_begin(struct target *t, uint64_t now_ms);
/* busy_ms: what it asked for, with TARGET_BUSY; 0: it did not say. True: it was put aside for failing. */
bool target_end(struct target *t, bool tries, enum target_outcome outcome, uint64_t busy_ms, uint64_t now_ms);

/* What ended there as TARGET_NEITHER was its failure after all. True: it was put aside for that. */
bool target_blame(struct target *t, uint64_t now_ms);

/* Whether a request that failed here may be sent elsewhere: one in ten, and RETRIES_MAX in a burst, so that a failure does not multiply the load of those who still serve. */
bool target_may_retry(struct target *t);

/* Beginnings of prompts that it has cached, as far as can be told from what was sent there. */
size_t target_cached(struct target *t, const uint64_t *hashes, size_t count);
/* *ret: what was known of them before. */
void target_cache(struct target *t, const uint64_t *hashes, size_t count, struct prefix_seen *ret);
/* It found so many blocks of a prompt cached. */
void target_learn(struct target *t, const struct prefix_seen *seen, size_t found);
void target_forget(struct target *t);

#endif
