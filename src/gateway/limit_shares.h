/* This gateway's shares of limits, and how they change. A limit over several gateways is the sum of their shares and of what control keeps of it (billing/shares.h): each share is
 * a bucket of its own, and shares move only with no more than what is free in them. So what all let through together is never more than one gateway would.
 *
 * Of N gateways each has 1/N of every limit without a word being said, and the only one has all of it. What one lacks, and another does not use, moves between them: `give` takes it
 * out of a share here, `grow` adds it. When N changes, every share shrinks to its part of the smaller first, and when all have said that it has, grows to the new one: empty where it
 * grows, so that who joins finds nothing free, and a minute later his part. What runs is not stopped: of requests at once a gateway keeps as many as it has, and the others have less.
 *
 * Requests never wait for any of this. Threads: any; the set's lock, which requests do not take.
 */
#ifndef SEKI_GATEWAY_LIMIT_SHARES_H
#define SEKI_GATEWAY_LIMIT_SHARES_H

#include "gateway/limits.h"

struct limit_part;

/* One's share of a limit that nobody has asked more or less of. parts 0: nothing. */
static inline int64_t limit_base(int64_t max, int64_t parts)
{
    return parts > 0 ? max / parts : 0;
}

/* Of how many gateways this is one. settle: all shrink first; then nothing is above its base. Else every share is its base. 0: that is not known yet, and nothing passes. */
void limit_set_parts(struct limit_set *s, int64_t parts, bool settle, uint64_t now_ns);
int64_t limit_parts(struct limit_set *s);
/* Of the next shares that are dealt out, this one is no larger: more than the others' part of it runs elsewhere still. Not forgotten until then. */
void limit_cap(struct limit_set *s, struct str name, enum limit_unit u, int64_t max, int64_t share);
/* Counters of which more runs than is one's base, until fn says false. Under the set's lock. */
void limit_each_beyond(struct limit_set *s, bool (*fn)(void *arg, struct limit_counter *c), void *arg);

/* Limits of which this gateway has less than its base, until fn says false. Under the set's lock. */
void limit_each_less(struct limit_set *s, bool (*fn)(void *arg, const char *name, enum limit_unit u, int64_t max, int64_t share), void *arg);

struct limit_report {
    int64_t max, share, given, left, need, need_least; /* need -1: nobody waits */
};
/* Requests that wait want n of it; listed: it was so already, since the last report. Counted until that. */
bool limit_need(struct limit_set *s, struct limit_counter *c, enum limit_unit u, int64_t n);
/* It is to be in the next report. False: it is already. */
bool limit_list(struct limit_set *s, struct limit_counter *c, enum limit_unit u);
/* What there is of it; what was wanted and listed is forgotten. */
struct limit_report limit_report(struct limit_set *s, struct limit_counter *c, enum limit_unit u, uint64_t now_ns);

/* What others want of a share. */
struct limit_recall {
    int64_t amount;  /* as much, of what is free: half of one's base stays where requests are, unless … */
    int64_t restore; /* who wants it has so much less than its base: what is above one's own goes there, free or not */
    bool large;      /* … it is for a request that fits in nobody's base */
};
void limit_give(struct limit_set *s, struct limit_counter *c, enum limit_unit u, const struct limit_recall *r, uint64_t now_ns);
/* More of a share, of which `content` is free. */
void limit_grow(struct limit_set *s, struct limit_counter *c, enum limit_unit u, int64_t share, int64_t content, uint64_t now_ns);
/* Control's word, for a while: others have no more than that. */
void limit_verdict(struct limit_counter *c, enum limit_unit u, int64_t more, uint64_t until_ns);

/* A new reference; NULL: there is none of that name. */
struct limit_counter *limit_find(struct limit_set *s, struct str name);
/* A new reference: what nobody has used here yet is made, with that bound. */
struct limit_counter *limit_bound(struct limit_set *s, struct str name, enum limit_unit u, int64_t max);
const char *limit_counter_name(const struct limit_counter *c);

/* limits.c's: a limit has this bound, of which the share is a part. Under the set's lock. */
void limit_part_bound(struct limit_set *s, struct limit_part *p, int64_t max);

#endif
