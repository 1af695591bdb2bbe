/* The body of an audit record: who did what to which object, by which rule, with what result. Names and counts, never content.
 *
 * JSON members, each left out when empty: type (below), id (request), user, uid, groups, sender (who impersonated user), source (address), agent; verb, group, resource,
 * subresource, namespace, name, object (uid), tenant (whose that is), actor_tenant (whose user it was), origin ("JOURNAL/ID/SEQUENCE" of a record that another process wrote first); rule ("ClusterRoleBinding/ops → ClusterRole/edit"), status (HTTP), reason ("Forbidden"), rev (the store's
 * revision), count (how often the same happened within a second; absent: once), until (when a break-glass access ends by itself), first and last (when the first and the last of those came that `count` is of, where that was not within a second).
 *
 * Types: write (durable before it is acknowledged; what could not be committed after all has an "undone" behind it), read (of secret fields), token (issued, or
 * seen for the first time), impersonation, denied (401, 403; 404 when what is another's was refused as not found), refused (by the gateway), undone (the writes with revisions rev to last_rev before this record),
 * restored (the store was put back from a backup: it is as of revision last_rev, and goes on behind rev), break_glass (create: sender took access to everything as user, from source, by agent;
 * delete: it is over; reason says why). A type that a later release made up reads as "other": a ledger outlives
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

enum audit_type { AUDIT_WRITE, AUDIT_READ, AUDIT_TOKEN, AUDIT_IMPERSONATION, AUDIT_DENIED, AUDIT_REFUSED, AUDIT_UNDONE, AUDIT_RESTORED, AUDIT_BREAK_GLASS, AUDIT_OTHER };

struct audit_event {
    enum audit_type type;
    struct str id, user, uid, sender, source, agent;
    const char *const *groups; /* ends in NULL; or NULL */
    struct str verb, group, resource, subresource, namespace, name, object, tenant, actor_tenant, rule, reason, origin, until, first, last;
    int status;
    int64_t rev, last_rev; /* 0: none */
    int64_t count;         /* 0 and 1: once */
};

/* Texts are cut at 512 bytes, and where they have so many characters to be escaped that they take
 * more than 1,024 written, further; between characters: what a stranger sends is no reason to have
 * no record. So it takes AUDIT_ENCODED_MAX bytes at the most, and a ledger's record has room for
 * what its writers add (rev, count, origin). */
#define AUDIT_ENCODED_MAX (48 * 1024)
void audit_encode(const struct audit_event *e, struct sbuf *out);
/* Slices of *ret point into arena memory. ERR_INVALID names what is wrong. */
struct arena;
int audit_decode(struct str body, struct arena *a, struct audit_event *ret, struct err *err) NODISCARD;
const char *audit_type_name(enum audit_type t);

/* Whether a tenant's own view of the ledger shows the event, and then as what: *e is changed. It shows what is about the tenant, what was denied to its users elsewhere, done in their
 * names, and their tokens (without saying whose that was), and which writes were undone. Whoever of another tenant was refused as if nothing were there is not named. */
bool audit_view(struct audit_event *e, struct str tenant);
/* A body without which audit_view() says no, at little cost: true for some others, too. */
bool audit_may_concern(struct str body, struct str tenant);
#define AUDIT_FOREIGN "ForeignTenant" /* the rule of what is refused to a tenant's user because it is not the tenant's */
/* The record as an object: its body with sequence, time and previous_sha256 (chain; may be ""). */
void audit_write_item(const struct audit_event *e, uint64_t sequence, int64_t time_ms, const char *chain, struct sbuf *out);

/* As an event of OCSF 1.5, class API Activity (6003): what logging systems of security departments take. `chain` is the hash of the record before it in hexadecimal, or "". New reference. */
json_t *audit_ocsf(const struct audit_event *e, uint64_t sequence, int64_t time_ms, const char *chain);

#endif
