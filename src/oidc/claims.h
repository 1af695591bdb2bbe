/* Who a token's claims say somebody is, by its issuer's configuration. Pure functions: the signature is somebody else's concern. Threads: any. */
#ifndef SEKI_OIDC_CLAIMS_H
#define SEKI_OIDC_CLAIMS_H

#include "oidc/config.h"

#define OIDC_GROUPS_MAX 200 /* of one user; a token with more is refused */
#define OIDC_NAME_MAX 512   /* bytes of a name with its prefix */

struct oidc_person {
    const char *name, *uid;    /* uid NULL: unknown */
    const char *const *groups; /* ends in NULL; with the tenant's; at most OIDC_GROUPS_MAX + 2 */
    int64_t issued_ms;         /* iat; 0: it does not say */
    int64_t expires_ms;
};

/* iss, aud, azp, exp, nbf and iat, and the rules of the configuration. skew_ms: how far clocks may be apart. ERR_UNAUTHENTICATED. */
int oidc_claims_check(const struct oidc_issuer *c, const json_t *claims, int64_t now_ms, int64_t skew_ms, struct err *err) NODISCARD;
/* Of claims that passed. What ret points at lives in a. ERR_UNAUTHENTICATED. */
int oidc_claims_person(const struct oidc_issuer *c, const json_t *claims, struct arena *a, struct oidc_person *ret, struct err *err) NODISCARD;

#endif
