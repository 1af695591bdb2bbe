/* Kinds borrowed from Kubernetes, served with its groups and names so that its clients work: Namespace, Secret, ConfigMap, Event, ServiceAccount
 * (core/v1), Event once more (events.k8s.io/v1, a view of the former), Lease (coordination.k8s.io/v1), Role, RoleBinding, ClusterRole, ClusterRoleBinding (rbac.authorization.k8s.io/v1).
 * Virtual ones: who is allowed what (authorization.k8s.io/v1: SubjectAccessReview, its Self and Local forms, SelfSubjectRulesReview; access_review.c), and who somebody is
 * (authentication.k8s.io/v1: SelfSubjectReview, TokenReview; identity_review.c).
 * Their tables cover the fields that clients send; structs exist only where C code reads them.
 */
#ifndef SEKI_KINDS_BORROWED_H
#define SEKI_KINDS_BORROWED_H

#include "kinds/kind.h"

/* Holds a namespace until it is empty; the apiserver takes it off. */
#define NAMESPACE_FINALIZER "seki.cloud/contents"
/* Whose a project is: the tenant of its label; one without a label (or of which nothing is known: ns NULL) is its own. The name stays the caller's or ns'. */
const char *namespace_tenant(const json_t *ns, const char *name);

extern const struct kind kind_namespace, kind_secret, kind_config_map, kind_event, kind_event_view, kind_service_account;
extern const struct kind kind_lease, kind_role, kind_role_binding, kind_cluster_role, kind_cluster_role_binding;
extern const struct kind kind_subject_access_review, kind_self_subject_access_review, kind_local_subject_access_review, kind_self_subject_rules_review;
/* Our own, but the server's business: whose tokens and certificates count no longer. */
extern const struct kind kind_user_revocation;
extern const struct kind kind_self_subject_review, kind_token_review;
/* What the subresource "token" of ServiceAccount takes; in no registry. */
extern const struct kind kind_token_request;

/* Whose token this is, by its claims (their signature is the caller's to check): the account and the secret that it is bound to must be the ones that it names, now. What ret points
 * at lives in a; *ret_extra: a new reference, or NULL. ERR_UNAUTHENTICATED. */
int service_account_identify(const struct kind_server *s, struct arena *a, const char *issuer, const json_t *claims, int64_t now_ms, struct kind_user *ret, json_t **ret_extra,
                             struct err *err) NODISCARD;

/* The metadata of a question says nothing; `namespaced`: but its namespace. */
void review_check_metadata(const json_t *obj, bool namespaced, struct field_errors *errors);

#endif
