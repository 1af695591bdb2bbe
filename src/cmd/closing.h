/* What the audit ledger says of a tenant's end: a statement that can be checked later, on the ledger's files or a copy of them, with `seki audit verify --record`. */
#ifndef SEKI_CMD_CLOSING_H
#define SEKI_CMD_CLOSING_H

#include "json/json.h"

/* Where the ledger in that directory ends now. ERR_NOT_FOUND: there is none. */
int closing_mark(const char *dir, uint64_t *ret_sequence, struct err *err) NODISCARD;
/* Names and counts of what was deleted of a tenant in the records after a mark. New reference:
 * {"kind": "ClosingStatement", "tenant", "time", "deleted": {"secrets": 3, …}, "ledger": {"id", "after", "first", "last": sequences of the tenant's records, "end": the ledger's last one, "sha256": of that}} */
int closing_statement(const char *dir, const char *tenant, uint64_t after, json_t **ret, struct err *err) NODISCARD;

#endif
