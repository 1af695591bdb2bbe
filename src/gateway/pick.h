/* Which replica is best for a request: a pure choice from what is known of them.
 *
 * Among those that were not tried and have room: the one with the best score, 2 × (part of the prompt that it has cached) - (requests in flight / slots); ties at random. A replica
 * with clearly more to do than its sisters (more than one and a half times their mean, and two requests) gets nothing for its cache: a popular beginning must not herd everybody onto
 * one. Those that are put aside serve when there is no other. Threads: any; under the endpoint's lock in dispatch.c, so that nobody takes the room in between.
 */
#ifndef SEKI_GATEWAY_PICK_H
#define SEKI_GATEWAY_PICK_H

#include "gateway/snapshot.h"

enum pick_result { PICK_ONE, PICK_FULL, PICK_NONE }; /* FULL: there are some, without room; NONE: all were tried */

/* PREFIX: as above. LOAD: nothing is known of caches. TURNS: the one that was sent nothing for longest, whatever it has to do. */
enum pick_policy { PICK_BY_PREFIX, PICK_BY_LOAD, PICK_BY_TURNS };

/* What was weighed for one choice: for the log of decisions (decisions.h). */
struct pick_candidate {
    enum { PICK_UNSEEN, PICK_WEIGHED, PICK_TRIED, PICK_BARRED, PICK_CLOSING, PICK_ASIDE, PICK_NO_ROOM } fate;
    double score;
    size_t cached;   /* blocks */
    int64_t running; /* requests */
};
#define PICK_REPORT_MAX 64
struct pick_report {
    size_t count; /* replicas of the endpoint, PICK_REPORT_MAX at most */
    struct pick_candidate of[PICK_REPORT_MAX]; /* in their order */
};

struct pick_wish {
    struct pick_report *report; /* filled by each pick_replica(); NULL: nobody asks */
    enum pick_policy policy;
    uint64_t tried; /* a bit a replica */
    uint64_t barred; /* likewise: that it must not reach, whatever happens (border.h) */
    const uint64_t *hashes; /* of the prompt's beginnings; may be NULL */
    size_t hash_count;
};
/* *ret_cached: blocks of the prompt that the replica has; may be NULL. */
enum pick_result pick_replica(const struct snap_endpoint *e, const struct pick_wish *w, uint64_t now_ms, size_t *ret_index, size_t *ret_cached);

#endif
