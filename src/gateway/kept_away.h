/* Requests over a limit (429), in the audit ledger: who was kept away by which rule, and how often. A client that is kept away asks again at once, as often as he likes, and must fill no
 * disk with that: a key and rule has a record when it is kept away first, and while that goes on one more a minute with how many there were. A tenant has at most KEPT_AWAY_KEYS of
 * them; what its other keys are refused is counted together, by rule, without a name.
 *
 * What was counted since a key's last record is lost when the process is killed. Threads: any. kept_away_flush() by one of them, every few seconds.
 */
#ifndef SEKI_GATEWAY_KEPT_AWAY_H
#define SEKI_GATEWAY_KEPT_AWAY_H

#include "ledger/audit_log.h"

#define KEPT_AWAY_EVERY_MS 60000
#define KEPT_AWAY_LOOK_MS 2000
#define KEPT_AWAY_KEYS 50

struct kept_away;

struct kept_away *kept_away_new(struct audit_log *audit); /* which outlives it */
void kept_away_free(struct kept_away *k);                 /* writes what was counted; NULL is fine */
/* e: of a refused request: its user is the key, in its namespace. */
void kept_away_add(struct kept_away *k, const struct audit_event *e, uint64_t now_ms);
/* Records of those whose minute has passed. */
void kept_away_flush(struct kept_away *k, uint64_t now_ms);

#endif
