/* Rates and concurrency: a request reserves before it is sent, and settles when it has ended.
 *
 * A key, its project and its tenant each may have limits; the tightest wins, as all must have room. What is reserved is what the request may use: its prompt and the answer that
 * is expected of it. What it really used is settled; the rest is given back, and what it used beyond is owed. So the sum is exact however many requests run at once, but for
 * answers that grow longer than was reserved, and those are paid for by the requests that follow.
 * A place among the requests at once is taken at a request's head (limit_enter()), before its body is read: who has none is not to fill the memory with bodies.
 *
 * A rate is a bucket of one minute's worth that fills evenly: kept as the one moment at which it is full again (the generic cell rate algorithm, ITU-T I.371), so that taking and
 * giving back are one atomic operation each. Counters outlive snapshots, as targets do. Costs are rounded up, refunds down: never more than the limit passes.
 * Of several gateways each has a share of every limit (limit_shares.h): its bucket is that large and fills that fast. LIMIT_ASK: the share has no room, others' may have (slices.h parks
 * the request). The only gateway has all of it.
 * Threads: any, without locks; limit_set has one, which requests never take.
 */
#ifndef SEKI_GATEWAY_LIMITS_H
#define SEKI_GATEWAY_LIMITS_H

#include <stdatomic.h>

#include "base/map.h"

enum limit_scope { LIMIT_KEY, LIMIT_PROJECT, LIMIT_TENANT, LIMIT_SCOPES };
enum limit_unit { LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_CONCURRENT, LIMIT_UNITS };

struct limit_counter;

/* What one scope allows: in a snapshot. counter NULL: it has no limits. */
struct limit {
    struct limit_counter *counter;
    bool learns;              /* how long answers are is learned here, though nothing may be limited */
    int64_t max[LIMIT_UNITS]; /* requests a minute, tokens a minute, requests at once; 0: any number */
};

/* Counters by name, kept from one snapshot to the next. */
struct limit_set;
struct limit_set *limit_set_new(void);
void limit_set_free(struct limit_set *s);
/* A new reference. born_ms: since when there is what it limits, on the wall clock; 0: not known. */
struct limit_counter *limit_take(struct limit_set *s, const char *name, const int64_t max[LIMIT_UNITS], int64_t born_ms);
/* Forgets counters that nobody refers to and that hold nothing back any more. */
void limit_prune(struct limit_set *s, uint64_t now_ns);
struct limit_counter *limit_counter_ref(struct limit_counter *c);
void limit_counter_unref(struct limit_counter *c);

/* What a request holds. limits: LIMIT_SCOPES of them, alive until it is settled. */
struct limit_hold {
    const struct limit *limits;
    int64_t tokens;
    bool entered; /* a place among the requests at once, in each scope */
    bool held;    /* a request and its tokens, of the rates */
};
struct limit_refusal {
    struct limit_counter *counter;
    enum limit_scope scope;
    enum limit_unit unit;
    int64_t max, wanted, left;
    uint64_t retry_ns; /* from when there may be room; 0: never for a request of that size */
};

/* Tokens that an answer of the endpoint to this key is expected to have: the 90th percentile of those before, at most what the client allows (0: it does not say), and so that
 * prompt and answer fit in a full bucket. */
int64_t limit_expect(const struct limit *limits, const char *project, const char *endpoint, int64_t prompt_tokens, int64_t max_tokens);
/* That percentile alone; 0: not enough is known. */
int64_t limit_learned(const struct limit *limits, const char *project, const char *endpoint);
void limit_learn(const struct limit *limits, const char *project, const char *endpoint, int64_t completion_tokens);

enum limit_result { LIMIT_OVER, LIMIT_HELD, LIMIT_ASK };
/* A place among the requests at once, before anything else is known. ASK: others may have one for it; it has none yet, and asks again by limit_reserve(). */
enum limit_result limit_enter(struct limit_hold *h, const struct limit *limits, uint64_t now_ns, struct limit_refusal *ret);
/* One request of so many tokens, and a place where it has none yet. Not HELD: nothing is that was not before, and *ret says why. */
enum limit_result limit_reserve(struct limit_hold *h, const struct limit *limits, int64_t tokens, uint64_t now_ns, struct limit_refusal *ret);
/* One that is refused for what it is counts all the same, in rates of requests alone. Not HELD: as above. */
enum limit_result limit_take_refused(const struct limit *limits, uint64_t now_ns, struct limit_refusal *ret);
/* It has ended and used so many tokens; free: it failed, and does not count. Once; nothing happens when nothing is held. */
void limit_settle(struct limit_hold *h, int64_t tokens, bool free);
/* Gives back what limit_reserve() took of rates; the place stays its own. */
void limit_return(struct limit_hold *h);
/* What was settled has turned out to be so many tokens more, or less. */
void limit_mend(const struct limit *limits, int64_t more);

/* The scope that leaves the least of a rate: of the gateway's share, which others may add to. False: none limits it. */
struct limit_state {
    int64_t max, left;
    uint64_t reset_ns; /* until all of it is there again */
};
bool limit_state(const struct limit *limits, enum limit_unit unit, uint64_t now_ns, struct limit_state *ret);

const char *limit_scope_text(enum limit_scope s); /* "key" */
const char *limit_unit_text(enum limit_unit u);   /* "requests" */
bool limit_unit_parse(const char *text, enum limit_unit *ret);

#endif
