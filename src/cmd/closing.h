/* What the ledgers say of a tenant's end: a bill to the last request, and a statement that can be checked later, on the ledger's files or a copy of them, with `seki audit verify --record`. */
#ifndef SEKI_CMD_CLOSING_H
#define SEKI_CMD_CLOSING_H

#include "json/json.h"

/* Where the ledger in that directory ends now. ERR_NOT_FOUND: there is none. */
int closing_mark(const char *dir, uint64_t *ret_sequence, struct err *err) NODISCARD;
/* Names and counts of what was deleted of a tenant in the records after a mark; after 0: since the Tenant with this uid was made. ERR_INVALID: no project of it was deleted by this ledger, so it is of
 * another cloud. New reference:
 * {"kind": "ClosingStatement", "tenant", "time", "deleted": {"secrets": 3, …}, "ledger": {"id", "after", "first", "last": sequences of the tenant's records, "end": the ledger's last one, "sha256": of that}} */
int closing_statement(const char *dir, const char *tenant, const char *uid, uint64_t after, json_t **ret, struct err *err) NODISCARD;
/* UsageReports of a tenant from the time when it was made, to the last request that the usage ledger, or a gateway's journal beside it, has: also what was used while its projects were being deleted,
 * when nobody wrote reports any more. An array, new reference. */
int closing_usage(const char *dir, const char *tenant, int64_t since_ms, json_t **ret, struct err *err) NODISCARD;

#endif
