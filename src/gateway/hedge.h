/* Slow first tokens: a stream that has waited longer for its first content than nineteen of twenty did there is sent to a second replica too, and whoever writes first has it.
 *
 *   sent ─► first content within the learned time ─► nothing happens
 *     └──► not: is there a replica with room, at once, and the budget? ─► sent there too ─┬─► the first one writes: the second is cancelled
 *                                                                                         └─► the second writes, or the first fails: it is the request's attempt from then on
 *
 * The second replica is chosen as the first was (pick.h), among those that the border of now leaves (recheck.h); a request whose key may not ask any more is not hedged. The loser is
 * cancelled at once; what it did is in the usage record (hedge_loser_tokens), and nobody is billed for it. At most one of twenty streams of an endpoint is hedged. Not hedged are: what is
 * no stream, several answers, requests for which the engine chooses the slot, texts that go on, second attempts, and endpoints that have answered fewer than HEDGE_LEARN streams.
 * Threads: the loop's; the stats any.
 */
#ifndef SEKI_GATEWAY_HEDGE_H
#define SEKI_GATEWAY_HEDGE_H

#include <stdatomic.h>

#include "net/http.h"

#define HEDGE_LEARN 50     /* streams */
#define HEDGE_LEAST_MS 50  /* nothing is slow before */
#define HEDGE_STEPS 64

/* Of an endpoint: how long first contents took (a histogram, four steps an octave), and how many hedges are saved up, in hundredths. */
struct hedge_stats {
    atomic_ushort steps[HEDGE_STEPS];
    atomic_int credit;
};
void hedge_learn(struct hedge_stats *s, uint64_t ms);
/* After how long a first content is late; 0: not known, or more than the histogram has (a minute): such engines are not hedged. */
uint64_t hedge_after_ms(const struct hedge_stats *s);
/* A stream was sent. */
void hedge_earn(struct hedge_stats *s);
/* False: too many were hedged already. */
bool hedge_spend(struct hedge_stats *s);

struct request;
struct hedge;

/* The first attempt was sent. */
void hedge_watch(struct request *q);
/* Its engine has written the first content, or the request is over: the second one, if there is one, has lost. */
void hedge_over(struct request *q);
/* There is a second one, and none has won. */
bool hedge_runs(const struct request *q);
/* The first attempt has failed and its replica was let go. True: the second one goes on in its place. False: there is none, and nothing is learned of those that follow. */
bool hedge_take_over(struct request *q);

#endif
