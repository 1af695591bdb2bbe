/* What limits.c and limit_shares.c share. Threads: any; what is atomic without the set's lock, all else under it. */
#ifndef SEKI_GATEWAY_LIMITS_INTERNAL_H
#define SEKI_GATEWAY_LIMITS_INTERNAL_H

#include <pthread.h>

#include "gateway/limits.h"

#define PERIOD_NS 60000000000LL
#define DEBT_MAX_NS (60 * PERIOD_NS) /* of one request: what an engine says is not believed without bounds */

__extension__ typedef __int128 wide;

struct learned;

/* A limit of one unit, and this gateway's share of it. A bucket holds `share` and fills in PERIOD_NS; what is missing of it, in time, is full_at_ns - now.
 *
 * Only limit_shares.c changes a share, under the set's lock, and with it full_at_ns, so that what is missing stays the same in tokens. Requests see one of both without the other for
 * an instant: they read full_at_ns first, then the share, and exchange full_at_ns only when it has not changed. So that none gets more by that, a growing share is written after
 * full_at_ns, a shrinking one before it; and refunds go by `most`, which is the larger of both shares in between.
 */
struct limit_part {
    atomic_llong share, most;
    atomic_llong full_at_ns; /* of a rate */
    atomic_llong running;    /* LIMIT_CONCURRENT */
    atomic_ullong asked_ns;  /* when a request last took of it, or wished to */
    atomic_ullong verdict_until_ns; /* so long control's last word holds: others have no more than … */
    atomic_llong more;              /* … these */
    /* under the set's lock */
    int64_t max, given; /* given: what was free of shares that went back, since they were last dealt out */
    int64_t cap; /* plus 1, of the next share that is dealt out; 0: none */
    int64_t need, need_least; /* of requests that wait: the leases' thread's */
    bool listed;              /* likewise */
};

struct limit_counter {
    atomic_uint refs;
    char *name;
    struct limit_part parts[LIMIT_UNITS];
    _Atomic(struct learned *) learned; /* ENDPOINTS_MAX; NULL until there is something */
};

struct limit_set {
    pthread_mutex_t lock;
    struct map *by_name;
    int64_t parts;           /* of how many gateways this is one; 0: not known yet, and there is no share of anything */
    uint64_t empty_until_ns; /* a bucket that is made before has what would have flowed into it since it was empty, a period earlier … */
    int64_t dealt_ms;        /* … at this moment of the wall clock: what is younger was not used before */
};

static inline int64_t limit_cost_up(int64_t n, int64_t share)
{
    wide cost = ((wide)n * PERIOD_NS + share - 1) / share;
    return cost > DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)cost;
}

static inline int64_t limit_missing_ns(int64_t full_at, int64_t now)
{
    return full_at > now ? full_at - now : 0;
}

static inline int64_t limit_left_of(int64_t missing, int64_t share)
{
    return missing >= PERIOD_NS ? 0 : (int64_t)((wide)(PERIOD_NS - missing) * share / PERIOD_NS);
}

/* Takes n of a rate. False: there are not so many; *ret_missing is what is missing then. */
bool limit_part_take(struct limit_part *p, int64_t n, int64_t now_ns, int64_t *ret_missing, int64_t *ret_share);

#endif
