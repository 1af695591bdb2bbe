/* What each engine did for a request: begun when the request is sent, ended when the replica is let go, written with the usage record (`engines` in ledger/usage.h).
 *
 * Counts are an engine's own where it told them. Else a stream's events with text are one token each and the prompt is estimated; what an engine that told nothing made after that is
 * in no record: only its own counters know. Threads: the request's loop.
 */
#ifndef SEKI_GATEWAY_TALLY_H
#define SEKI_GATEWAY_TALLY_H

#include "ledger/usage.h"

struct open_request;
struct request;
struct snap_replica;
struct usage_scan;

struct tally {
    struct usage_work *work; /* first, or all of them in the request's arena: most have one */
    struct usage_work first;
    size_t count;
    bool open; /* the last one runs */
    struct open_request *place; /* open_requests.h; NULL: none */
};

/* The request goes to q->replica. */
void tally_begin(struct request *q);
/* Nothing of it had left: that engine did nothing. */
void tally_drop(struct request *q);
/* The attempt is over: as its scan and its status say. Nothing happens when none runs. */
void tally_end(struct request *q);
/* It was sent then, beside another one that was given up or has failed. */
void tally_began(struct request *q, int64_t start_ms);
/* The attempt is over, as another one was quicker. */
void tally_lose(struct request *q);
/* An attempt beside the one that answers, which was not the first to write; scan: what came of it. */
void tally_loser(struct request *q, const struct snap_replica *replica, int64_t start_ms, const struct usage_scan *scan);
/* A piece of a stream was passed on. */
void tally_note(struct request *q);
/* u's engines and its columns hedge_loser_tokens and unseen_tokens, when all else of u is there: the equation of ledger/usage.h then holds. */
void tally_fill(struct request *q, struct usage *u);

#endif
