/* Who may log in: Kubernetes' AuthenticationConfiguration (apiserver.config.k8s.io/v1), read strictly, without CEL, and with two members more: each issuer of `jwt` may say whose it is, and who the admins are.
 *
 * With `tenant: NAME` its users belong to that tenant and are in the group "seki:tenant:NAME", those in its group `tenantAdmins` also in "seki:tenant:NAME:admins";
 * without, they are the operator's. Names of users are the prefix and the claim's value. Prefixes
 * end in ':' or '#', none of them begins another or "system:" or "seki:", and none is empty: so nobody's name can be that of a user of another issuer, or of the system. Groups
 * likewise, but that issuers of one tenant may share them. Threads: any; what was read is immutable.
 */
#ifndef SEKI_OIDC_CONFIG_H
#define SEKI_OIDC_CONFIG_H

#include "json/table.h"

#define OIDC_ISSUERS_MAX 64
#define OIDC_FILE_MAX (1024 * 1024)

struct oidc_mapping {
    const char *claim, *prefix; /* prefix never NULL once read */
};
struct oidc_rule {
    const char *claim, *value;
};
struct oidc_issuer {
    struct {
        const char *url, *discovery_url, *ca_pem; /* the latter two NULL: from url, the system's */
        struct field_list audiences;              /* const char * */
        const char *match_policy;
    } issuer;
    struct {
        struct oidc_mapping username, groups; /* groups.claim NULL: none */
        struct {
            const char *claim; /* NULL: none */
        } uid;
    } mappings;
    struct field_list rules; /* struct oidc_rule */
    const char *tenant;      /* NULL: the operator's */
    const char *admins;      /* who has this in the groups claim is a tenant admin, too; NULL: nobody by that */
};
struct oidc_config {
    const char *api_version, *kind;
    struct field_list issuers; /* struct oidc_issuer */
};

/* YAML or JSON. name: for messages. ERR_INVALID or ERR_BAD_REQUEST with the member's path. What ret points at lives in a. This is the parser; it is fuzzed. */
int oidc_config_parse(struct str text, const char *name, struct arena *a, struct oidc_config *ret, struct err *err) NODISCARD;
int oidc_config_load(const char *path, struct arena *a, struct oidc_config *ret, struct err *err) NODISCARD;

/* One member of jwt alone, by the same rules; it is copied. Paths in errors begin with "jwt[0].". */
int oidc_config_one(const json_t *jwt, struct arena *a, struct oidc_config *ret, struct err *err) NODISCARD;

/* Whether Go takes it for an issuer's URL, too, and its path has no steps back: an API server does not start with a file that has another. */
bool oidc_url_plain(const char *url);
/* Whether a name with this prefix could be that of the group that Kubernetes' administrators are in, kubeadm:cluster-admins. */
bool oidc_prefix_is_admins(const char *prefix);
/* Whether users, or groups, of these two could have the same names, or they are one. */
bool oidc_issuers_meet(const struct oidc_issuer *a, const struct oidc_issuer *b);

static inline const struct oidc_issuer *oidc_config_at(const struct oidc_config *c, size_t i)
{
    return (const struct oidc_issuer *)c->issuers.items + i;
}

#endif
