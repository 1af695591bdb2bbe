/* Usage records of what was refused before an engine was asked (404, 400, 403, 503): a client that is refused asks again, as often as he likes, and must fill no disk with that.
 *
 * In a minute the first REFUSED_OWN of a key, and REFUSED_OWN_TENANT of a tenant, have records of their own. Those beyond are counted: at the minute's end there is one record for each key,
 * route, endpoint, status and outcome, with how many there were (`count` of ledger/usage.h); of a tenant with more than REFUSED_NAMED such the others are counted without key and route, by project. Their
 * model is in none, as it may be any word. Reports and service levels count all of them.
 *
 * What was counted and not yet written is lost when the process is killed: none of it used anything, and seki_gateway_requests_total has it. Threads: any. refused_flush() by one of them,
 * every few seconds.
 */
#ifndef SEKI_GATEWAY_REFUSED_H
#define SEKI_GATEWAY_REFUSED_H

#include "gateway/journal.h"

#define REFUSED_WINDOW_MS 60000
#define REFUSED_OWN 10
#define REFUSED_OWN_TENANT 200
#define REFUSED_NAMED 200

struct refused;

struct refused *refused_new(struct journal *j); /* which outlives it */
void refused_free(struct refused *r);           /* writes what was counted; NULL is fine */
/* Whether u is such a record at all. */
static inline bool refused_is(const struct usage *u)
{
    return u->status >= 400 && !u->work_count && !u->cost && !u->prompt_tokens && !u->completion_tokens && !str_eqc(u->outcome, "client_gone") && !str_eqc(u->outcome, "shutdown");
}
/* True: it is counted. False: it is to have a record of its own. */
bool refused_take(struct refused *r, const struct usage *u, uint64_t now_ms);
/* Records of what was counted, once its minute has passed. */
void refused_flush(struct refused *r, uint64_t now_ms);

#endif
