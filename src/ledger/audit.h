/* The body of an audit record: who did what to which object, by which rule, with what result. Names and counts, never content.
 *
 * JSON members, each left out when empty: type (below), id (request), user, uid, groups, sender (who impersonated user), source (address), agent; verb, group, resource,
 * subresource, namespace, name, object (uid), tenant, origin ("JOURNAL/ID/SEQUENCE" of a record that another process wrote first); rule ("ClusterRoleBinding/ops → ClusterRole/edit"), status (HTTP), reason ("Forbidden"), rev (the store's
 * revision), count (how often the same happened within a second; absent: once).
 *
 * Types: write (durable before it is acknowledged; what could not be committed after all has an "undone" behind it), read (of secret fields), token (issued, or
 * seen for the first time), impersonation, denied (401, 403), refused (by the gateway), undone (the writes with revisions rev to last_rev before this record),
 * restored (the store was put back from a backup: it is as of revision last_rev, and goes on behind rev). A type that a later release made up reads as "other": a ledger outlives
 * the way back to an earlier release.
 */
#ifndef SEKI_LEDGER_AUDIT_H
#define SEKI_LEDGER_AUDIT_H

#include <stdint.h>

#include "json/json.h"

#define AUDIT_LEDGER "audit"
#define AUDIT_GATEWAY "audit-gateway" /* the gateway's journal of refusals, which control copies */
#define AUDIT_RECORD_VERSION 1
#define AUDIT_GROUPS_MAX 24

enum audit_type { AUDIT_WRITE, AUDIT_READ, AUDIT_TOKEN, AUDIT_IMPERSONATION, AUDIT_DENIED, AUDIT_REFUSED, AUDIT_UNDONE, AUDIT_RESTORED, AUDIT_OTHER };

struct audit_event {
    enum audit_type type;
    struct str id, user, uid, sender, source, agent;
    const char *const *groups; /* ends in NULL; or NULL */
    struct str verb, group, resource, subresource, namespace, name, object, tenant, rule, reason, origin;
    int status;
    int64_t rev, last_rev; /* 0: none */
    int64_t count;         /* 0 and 1: once */
};

/* Texts are cut at 512 bytes, between characters: what a stranger sends is no reason to have no record. */
void audit_encode(const struct audit_event *e, struct sbuf *out);
/* Slices of *ret point into arena memory. ERR_INVALID names what is wrong. */
struct arena;
int audit_decode(struct str body, struct arena *a, struct audit_event *ret, struct err *err) NODISCARD;
const char *audit_type_name(enum audit_type t);

/* As an event of OCSF 1.5, class API Activity (6003): what logging systems of security departments take. `chain` is the hash of the record before it in hexadecimal, or "". New reference. */
json_t *audit_ocsf(const struct audit_event *e, uint64_t sequence, int64_t time_ms, const char *chain);

#endif
