/* The usage ledger, checked by whoever has its files: without a daemon, without the store.
 *
 * The chain; that each record can be read and adds up (ledger/usage.h); that each record of a journal is there once and none between two of them is left out; that no request is
 * there twice; that journals which lie beside the ledger say the same. And all reports, made anew from the records. An error names the first bad record. Memory: about 100 bytes a
 * record. Threads: any; nobody may write there meanwhile.
 */
#ifndef SEKI_BILLING_VERIFY_H
#define SEKI_BILLING_VERIFY_H

#include "json/json.h"

struct usage_verdict {
    uint64_t records, older; /* older: they do not tell of engines, so that nothing is added up */
    int64_t first_ms, last_ms;
    uint64_t journals, behind; /* that were compared; records of theirs that the ledger does not have yet */
    json_t *reports; /* [{"project", "date", "tenant", "status"}] by project, date and tenant */
};
void usage_verdict_deinit(struct usage_verdict *v);

/* ERR_NOT_FOUND: there is no ledger. ERR_CORRUPT, ERR_INVALID: what is wrong, and where. */
int billing_verify(const char *dir, struct usage_verdict *ret, struct err *err) NODISCARD;
/* UsageReports as the API gives them (an array, or a list's object), against the records'. *ret_count: how many were compared. */
int billing_verify_reports(const struct usage_verdict *v, const json_t *reports, size_t *ret_count, struct err *err) NODISCARD;

#endif
