/* Authentication configurations: any bytes are refused with a reason, or are issuers whose users can have nobody else's names. And claims: any JSON, by an issuer that asks for all. */
#include "fuzz.h"

#include "oidc/claims.h"

#include <stdlib.h>

static void check_claims(struct str text, struct arena *a)
{
    static const char head[] = "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration, jwt: [{tenant: t, issuer: {url: 'https://a', audiences: [b]}, claimMappings: {username: {claim: "
                               "sub}, groups: {claim: groups}, uid: {claim: oid}}}]}";
    struct oidc_config c;
    struct oidc_person p;
    struct err err = ERR_INIT;
    JSON_AUTO claims = NULL;
    if (json_parse(text, 65536, &claims, NULL) < 0)
        return;
    if (oidc_config_parse(str_of(head), "f", a, &c, &err) < 0)
        abort();
    const struct oidc_issuer *i = oidc_config_at(&c, 0);
    if (oidc_claims_check(i, claims, 1000000, 1000, &err) < 0 || oidc_claims_person(i, claims, a, &p, &err) < 0) {
        if (err.code != ERR_UNAUTHENTICATED)
            abort();
        return;
    }
    if (strncmp(p.name, "t:", 2) != 0 || !p.uid || strcmp(p.groups[0], "seki:tenant:t") != 0)
        abort();
    for (size_t n = 1; p.groups[n]; n++)
        if (strncmp(p.groups[n], "t:", 2) != 0 || n > OIDC_GROUPS_MAX)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(256 * 1024 * 1024);
    struct oidc_config c;
    struct err err = ERR_INIT;
    check_claims(str_n(data, size), a);
    if (oidc_config_parse(str_n(data, size), "f", a, &c, &err) < 0) {
        if (!err.msg[0])
            abort();
        return 0;
    }
    for (size_t i = 0; i < c.issuers.count; i++) {
        const char *p = oidc_config_at(&c, i)->mappings.username.prefix;
        if (!*p || !strncmp(p, "system:", 7) || strncmp(oidc_config_at(&c, i)->issuer.url, "https://", 8) != 0)
            abort();
        for (size_t n = 0; n < i; n++)
            if (str_starts(str_of(p), str_of(oidc_config_at(&c, n)->mappings.username.prefix)))
                abort();
    }
    return 0;
}
