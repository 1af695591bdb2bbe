/* Role-based access: Kubernetes' RBAC as a pure function over Role, ClusterRole, RoleBinding and ClusterRoleBinding documents.
 *
 * An rbac snapshot is built from all documents of the four kinds as of a time, and is immutable. Deny is the default; there are no deny rules. Group
 * system:masters may do everything. A ClusterRole with an aggregationRule allows what the ClusterRoles that it selects allow, and what those select; rules that are
 * written in it do not count. Threads: any.
 */
#ifndef SEKI_POLICY_RBAC_H
#define SEKI_POLICY_RBAC_H

#include "json/json.h"

#define RBAC_MASTERS "system:masters"
#define RBAC_ACCOUNT_USER "system:serviceaccount:" /* NAMESPACE:NAME */

struct rbac;

struct rbac_request {
    const char *user;
    const char *const *groups; /* ends in NULL */
    const char *verb;          /* "get" … */
    /* Either a resource … */
    const char *group, *resource, *subresource, *namespace, *name; /* "" when none */
    /* … or a path (resource NULL): "/metrics" */
    const char *path;
};

#define RBAC_EXPIRES_AT "seki.cloud/expires-at" /* annotation of a binding: from this time on it grants nothing; a text that is no time: never anything */

/* As of now_ms, wall clock. Keeps references to the documents: nobody may change them any more. */
struct rbac *rbac_build(const json_t *const *docs, size_t count, int64_t now_ms);
/* From when on another is to be built from the same documents, because a binding ends then; INT64_MAX: none does. */
int64_t rbac_good_until(const struct rbac *r);
void rbac_free(struct rbac *r);
bool rbac_allows(const struct rbac *r, const struct rbac_request *q);
/* What decided, for the audit ledger. kind "": nothing allows it. All is the snapshot's. */
struct rbac_rule {
    const char *kind, *namespace, *name; /* the binding: "RoleBinding"; or "Group" and RBAC_MASTERS, which no binding needs */
    const char *role_kind, *role;
};
bool rbac_decide(const struct rbac *r, const struct rbac_request *q, struct rbac_rule *ret);
/* Calls fn with every rule that a user has in a namespace ("": those alone that hold everywhere). wide: the rule holds everywhere, and for paths. Of q, user, groups and namespace are read. */
void rbac_each_rule(const struct rbac *r, const struct rbac_request *q, void (*fn)(void *arg, const json_t *rule, bool wide), void *arg);

/* All rules that a user has in a namespace, or ("") in none: those that hold everywhere. A new list. */
json_t *rbac_rules(const struct rbac *r, const char *user, const char *const *groups, const char *ns);
/* What a role allows; ns matters to a Role only. NULL: there is no such role. Borrowed from the snapshot. */
const json_t *rbac_role_rules(const struct rbac *r, const char *kind, const char *ns, const char *name);

#endif
