/* Billing, first cut: collects gateways' usage journals into the usage ledger, exactly once, and keeps UsageReports.
 *
 * A thread follows each journal (files journal_dir/usage-*.NNNNNN), appends to the ledger with where it came from (the journal's id and sequence), and every second writes
 * changed reports (report.h). Reports are derived: on start they are rebuilt from the ledger.
 */
#ifndef SEKI_BILLING_BILLING_H
#define SEKI_BILLING_BILLING_H

#include "controller/controller.h"

struct billing;
struct billing_options {
    const char *journal_dir;
    const char *ledger_dir;
    uint64_t round_ms; /* how often it looks; default 1 s */
    const char *lease_file; /* of the bank (bank.h); NULL: no bank */
    uint64_t lease_ms;
    struct manager *manager;   /* NULL: the ledger is not compared with engines' counters */
    struct informer *replicas; /* of ModelReplica, for that */
};
int billing_start(struct client *c, const struct billing_options *o, struct billing **ret, struct err *err) NODISCARD;
void billing_stop(struct billing *b);
/* What a gateway asks for of budgets: bank.h. Any thread. */
int billing_lease(struct billing *b, const json_t *ask, json_t **ret, struct err *err) NODISCARD;

#endif
