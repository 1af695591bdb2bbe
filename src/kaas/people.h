/* People of a tenant in its clusters: which issuers' tokens the API server of a cluster takes, and whose it does not take any more.
 *
 * The issuers are those that the operator's file (option authentication-config) says to be the cluster's tenant's: never the operator's own, never another tenant's; and the cluster's own (spec.oidc). They go, with the users
 * of the tenant whose access was ended (UserRevocation), into conf/authentication.json, which the API server reads again when it changes. Threads: any, but for people_new() and people_free().
 */
#ifndef SEKI_KAAS_PEOPLE_H
#define SEKI_KAAS_PEOPLE_H

#include "kaas/internal.h"
#include "oidc/config.h"

struct people;
struct people *people_new(void);
void people_free(struct people *p);
/* The issuers are now what the file says; "" or NULL: there are none. On failure they stay. */
int people_load(struct people *p, const char *file, struct err *err) NODISCARD;
/* Another number after each change. */
unsigned people_generation(struct people *p);
void people_touch(struct people *p); /* something else changed that files follow from */

/* Writes conf/authentication.json, and sets status.people and status.certificateAuthority of the Cluster obj. */
int people_conf_ensure(struct kaas *k, json_t *obj, const struct site *s, struct err *err) NODISCARD;

/* ---- pure, for tests ---- */

/* Whose clusters those of a project are; "" while the project is not known (NULL). Borrowed. */
const char *people_tenant(const json_t *project, const char *ns);
/* Kubernetes' AuthenticationConfiguration: the issuers of config that are tenant's, and the cluster's own (NULL: it has none). revocations: an array of UserRevocations; those of others are passed over. *ret_people: what the Cluster's status says
 * of them; *ret_left_out: the first issuer that no API server would take, "" for none; borrowed from config. */
json_t *people_document(const struct oidc_config *config, const struct oidc_issuer *own, const char *tenant, const json_t *revocations, json_t **ret_people, const char **ret_left_out);

/* Why a cluster's own issuer is not taken beside those of its tenant, in a word for its condition; NULL: it is. list: what the operator allows. */
const char *people_own_refused(const struct oidc_config *config, const struct oidc_issuer *own, const char *tenant, const char *list);

#endif
