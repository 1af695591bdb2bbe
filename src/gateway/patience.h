/* Whether a request waits for the replica that has its prompt, which is full, rather than be read anew by one that has room.
 *
 * Both are times: of waiting, those that wait for the same replica before it, and itself, over its slots, times how long requests take; of reading, what the others lack of the prompt over how fast
 * prompts of this endpoint are read. Reading counts twice: it holds up those who are being written to there, and takes the place of what is cached there. That is looked at anew whenever a request
 * ends, for PATIENCE_MAX_MS at most. While no speed is known (no stream of PATIENCE_LEARN_TOKENS that were not cached has begun and ended), nobody waits. Pure; threads: the caller's lock.
 */
#ifndef SEKI_GATEWAY_PATIENCE_H
#define SEKI_GATEWAY_PATIENCE_H

#include "gateway/pick.h"

#define PATIENCE_MAX_MS 5000
#define PATIENCE_LEARN_TOKENS 256 /* fewer say little of speed */
#define PATIENCE_LOOK_MS 100      /* how long a home that was found is one */

/* How fast prompts are read. */
struct patience {
    double read_speed; /* tokens a ms, a moving mean; 0: not known */
};
/* An engine read so many tokens in so many ms: from when they were sent to the first of its answer. */
void patience_learn(struct patience *p, int64_t tokens, uint64_t ms);

/* The replica that has most of a prompt, room or not: a request's. */
struct patience_home {
    size_t index; /* SIZE_MAX: none has any */
    size_t cached; /* blocks */
    uint64_t found_ms; /* 0: not looked for */
    uint64_t line;     /* in which it has this place */
    unsigned place;    /* from 1 on */
};
/* Who waits, counted as they are asked in turn, each once: nobody at first. */
struct patience_line {
    uint64_t id; /* above 0; of each line another */
    unsigned ahead[SNAPSHOT_REPLICAS_MAX];
};
/* cached: blocks that a replica with room has. service_ms: how long requests take. */
bool patience_waits(const struct patience *p, const struct snap_endpoint *e, const struct pick_wish *w, struct patience_home *home, struct patience_line *line, size_t cached, uint64_t service_ms, uint64_t now_ms);

#endif
