/* Who may let through how much of a rate: control's side of what gateways have of limits (gateway/limit_shares.h is theirs).
 *
 * Of N gateways each has 1/N of every limit; of that nothing is stored, and while there is one gateway nobody asks. When N changes, all are told to shrink to the smaller part; only
 * when each has said that it has do they get the new one. Who joins has nothing before that. Where one has not enough, the others are asked for what is free at them; what they give
 * is noted here, by limit, until N changes again. So at each moment
 *
 *   Σ shares of gateways, as they were last heard to be or were answered + what is kept here <= limit
 *
 * and a share moves with no more than was free in it. An answer that was lost is noticed by the next question, which says what its gateway really has.
 *
 * A gateway is gone when it says so, or LEASE after it was last heard of, not counting time in which control itself did not run. Who is cut off from a control that others reach goes
 * on with its share all the same, and the sum may be above the limit by that. All is in memory: after a restart nothing moves until the gateways of before are heard of, or their
 * leases over. Threads: one at a time.
 */
#ifndef SEKI_BILLING_SHARES_H
#define SEKI_BILLING_SHARES_H

#include "json/json.h"

struct shares;

struct shares *shares_new(uint64_t lease_ms, uint64_t now_ms, int64_t epoch); /* epoch: above all of before */
void shares_free(struct shares *s);
/* One of before the restart. */
void shares_expect(struct shares *s, const char *gateway, uint64_t now_ms);
/* Control runs: every second or so. */
void shares_awake(struct shares *s, uint64_t now_ms);
/* ask: a GatewayLease's spec; what is to be said is added to its status. */
void shares_answer(struct shares *s, const char *gateway, const char *incarnation, const json_t *ask, uint64_t now_ms, json_t *status);
void shares_leave(struct shares *s, const char *gateway);
size_t shares_gateways(const struct shares *s);

#endif
