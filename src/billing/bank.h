/* What gateways may spend of budgets: control's side of GatewayLease.
 *
 * What was used of a budget is the sum of the costs in the usage ledger, which is durable and counts each record once. Beside it stands what gateways hold and have not yet
 * recorded ("outstanding"): a grant is given only while
 *
 *   used + outstanding of all gateways + grant <= amount
 *
 * A gateway says what it holds, then up to which record its journal had come by then. When the ledger has that record, what it holds is all that is outstanding of it; before that, what
 * was outstanding stays. Both count some of the same money for a while, never less than there is. Outstanding grants are in a file before they are answered, so that whatever is
 * killed, what was leased is not given twice; a gateway that comes back gets back what its old self held, one that stays silent loses it LINGER after its lease, and one that leaves
 * when its last record is in the ledger.
 *
 * The same questions are about shares of rates: shares.h.
 *
 * Threads: any; one lock.
 */
#ifndef SEKI_BILLING_BANK_H
#define SEKI_BILLING_BANK_H

#include "json/json.h"
#include "ledger/usage.h"

struct bank;
/* file: outstanding grants. One that cannot be read is told of, and nothing is granted until all leases of before are over. */
struct bank *bank_new(const char *file, uint64_t lease_ms);
void bank_free(struct bank *b);
/* What such a file holds, into a bank that has nothing yet. bank_new() does it. */
int bank_read(struct bank *b, struct str text, struct err *err) NODISCARD;
/* A record of the usage ledger; each once. */
void bank_count(struct bank *b, const struct usage *u);
/* All records of a journal up to this one were counted. */
void bank_collected(struct bank *b, const char *journal, const char *id, uint64_t sequence);
/* Control runs: every second or so. */
void bank_awake(struct bank *b);
/* Answers a GatewayLease's spec; ret: its status. *ret_behind: records are missing that would let it say more. */
int bank_lease(struct bank *b, const json_t *ask, json_t **ret, bool *ret_behind, struct err *err) NODISCARD;

#endif
