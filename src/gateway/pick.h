/* Which replica is best for a request: a pure choice from what is known of them.
 *
 * Among those that were not tried and have room: the one where least has to be done, in tokens; ties at random. That is
 *   2 × what of the prompt is not cached there, since reading it holds up others, and takes the place of what they have cached;
 *   what it has been sent of others' prompts and has not read yet;
 *   128 for each request in flight, since it is slower for those who are there; 512 × the part of its slots that is taken.
 * Of an engine that says that others use it as well (target.h), their requests count as ours in flight, 512 more for each that waits in its own queue, since its prompt is read before ours; and where
 * memory for keys and values is scarce, up to 2048 more, since what is begun there may have to be begun anew. What is not known, or was said too long ago, counts for nothing.
 * So a popular beginning herds nobody: it draws as many requests as reading it is worth, and then is read elsewhere, too. Those that are put aside serve when there is no other.
 * Whether to wait for one that has no room is another question: patience.h. Threads: any; dispatch.c asks under the endpoint's lock, so that nobody takes the room in between. Who only
 * asks whether any is left (attempt.c) needs none.
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
    int64_t others, waiting, kv_used; /* that its engine told of: requests of others, of these in its queue, thousandths of its memory; 0: nothing was told */
};
struct pick_report {
    size_t count; /* replicas of the endpoint */
    struct pick_candidate of[SNAPSHOT_REPLICAS_MAX]; /* in their order */
};

struct pick_wish {
    struct pick_report *report; /* filled by each pick_replica(); NULL: nobody asks */
    enum pick_policy policy;
    uint64_t tried; /* a bit a replica */
    uint64_t barred; /* likewise: that it must not reach, whatever happens (border.h) */
    const uint64_t *hashes; /* of the prompt's beginnings; may be NULL */
    size_t hash_count;
    int64_t tokens; /* of the prompt, cached or not */
};
/* *ret_cached: blocks of the prompt that the replica has; may be NULL. */
enum pick_result pick_replica(const struct snap_endpoint *e, const struct pick_wish *w, uint64_t now_ms, size_t *ret_index, size_t *ret_cached);

/* It has a slot that is free, or does not say how many it has. */
bool pick_has_room(const struct snap_replica *r);

#endif
