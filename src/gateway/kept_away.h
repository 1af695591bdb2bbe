/* What the gateway refuses, in the audit ledger: who was kept away by which rule, and how often. Who is refused asks again at once, as often as he likes, and must fill no disk with that:
 *
 *   over a limit (429)       a key and rule has a record when it is kept away first, and while that goes on one more a minute with how many there were
 *   by another rule          a key and rule has up to KEPT_AWAY_OWN records of their own first, which say all of the request, and then likewise
 *   without a key, or with an unknown one: a rule and address (of IPv6 its /64) has one record of its own first, and then likewise
 *
 * Counted ones say when the `first` and the `last` of them came. A tenant has at most KEPT_AWAY_KEYS keys and rules; what its others are refused is counted together, by rule, without a name. Of addresses
 * there are at most KEPT_AWAY_ADDRESSES; others are counted together, by rule, without one.
 *
 * What was counted since a key's last record is lost when the process is killed. Threads: any. kept_away_flush() by one of them, every few seconds.
 */
#ifndef SEKI_GATEWAY_KEPT_AWAY_H
#define SEKI_GATEWAY_KEPT_AWAY_H

#include "ledger/audit_log.h"

#define KEPT_AWAY_EVERY_MS 60000
#define KEPT_AWAY_LOOK_MS 2000
#define KEPT_AWAY_KEYS 50
#define KEPT_AWAY_ADDRESSES 100
#define KEPT_AWAY_OWN 10

struct kept_away;

struct kept_away *kept_away_new(struct audit_log *audit); /* which outlives it */
void kept_away_free(struct kept_away *k);                 /* writes what was counted; NULL is fine */
/* e: of a request over a limit: its user is the key, in its namespace. */
void kept_away_limited(struct kept_away *k, const struct audit_event *e, uint64_t now_ms);
/* e: of a request that another rule refused. place: where it came from, of who has no good key, whose e has no tenant; else NULL. */
void kept_away_refused(struct kept_away *k, const struct audit_event *e, const char *place, uint64_t now_ms);
/* Records of those whose minute has passed. */
void kept_away_flush(struct kept_away *k, uint64_t now_ms);

#endif
