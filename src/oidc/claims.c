#include "oidc/claims.h"

#define TIME_MAX_S INT64_C(253402300799) /* the year 9999 */

static int refuse(struct err *err, const char *why)
{
    return err_set(err, ERR_UNAUTHENTICATED, "the token %s", why);
}

/* Seconds since 1970, which may have a fraction; false: none, or no such time. */
static bool time_at(const json_t *claims, const char *name, int64_t *ret_ms)
{
    const json_t *v = json_object_get(claims, name);
    double s = json_number_value(v);
    if (!json_is_number(v) || !(s >= 0) || s > (double)TIME_MAX_S)
        return false;
    *ret_ms = json_is_integer(v) ? (int64_t)json_integer_value(v) * 1000 : (int64_t)(s * 1000);
    return true;
}

static int check_times(const json_t *claims, int64_t now_ms, int64_t skew_ms, struct err *err)
{
    int64_t exp, nbf = 0, iat = 0;
    if (!time_at(claims, "exp", &exp))
        return refuse(err, "does not say until when it is good");
    if (exp + skew_ms <= now_ms)
        return refuse(err, "has expired");
    if (json_object_get(claims, "nbf") && !time_at(claims, "nbf", &nbf))
        return refuse(err, "does not say from when it is good");
    if (json_object_get(claims, "iat") && !time_at(claims, "iat", &iat))
        return refuse(err, "does not say when it was made");
    if ((json_object_get(claims, "nbf") && nbf > now_ms + skew_ms) || (json_object_get(claims, "iat") && iat > now_ms + skew_ms))
        return refuse(err, "is not good yet");
    return 0;
}

static bool is_ours(const struct oidc_issuer *c, const json_t *audience)
{
    const char *text = json_string_value(audience);
    for (size_t i = 0; text && i < c->issuer.audiences.count; i++)
        if (!strcmp(((const char **)c->issuer.audiences.items)[i], text))
            return true;
    return false;
}

/* A token for several says which of them it was made for. */
static int check_audience(const struct oidc_issuer *c, const json_t *claims, struct err *err)
{
    const json_t *aud = json_object_get(claims, "aud"), *azp = json_object_get(claims, "azp"), *v;
    bool ours = is_ours(c, aud);
    size_t i;
    json_array_foreach (aud, i, v)
        ours = ours || is_ours(c, v);
    if (!ours)
        return refuse(err, "is meant for other audiences");
    if (azp ? !is_ours(c, azp) : json_array_size(aud) > 1)
        return refuse(err, "was made for another party (azp)");
    return 0;
}

static int check_rules(const struct oidc_issuer *c, const json_t *claims, struct err *err)
{
    for (size_t i = 0; i < c->rules.count; i++) {
        const struct oidc_rule *r = (const struct oidc_rule *)c->rules.items + i;
        const char *value = json_string_value(json_object_get(claims, r->claim));
        if (!value || strcmp(value, r->value) != 0)
            return err_set(err, ERR_UNAUTHENTICATED, "the token's claim %.64s is not what the configuration requires", r->claim);
    }
    return 0;
}

int oidc_claims_check(const struct oidc_issuer *c, const json_t *claims, int64_t now_ms, int64_t skew_ms, struct err *err)
{
    const char *iss = json_string_value(json_object_get(claims, "iss"));
    int rc;
    if (!iss || strcmp(iss, c->issuer.url) != 0)
        return refuse(err, "is of another issuer");
    if ((rc = check_audience(c, claims, err)) < 0 || (rc = check_times(claims, now_ms, skew_ms, err)) < 0)
        return rc;
    return check_rules(c, claims, err);
}

/* ---- who it is ---- */

/* Text that may stand in a name: not empty, nothing that a terminal would obey. */
static const char *text_of(const json_t *v, const char *prefix, struct arena *a)
{
    const char *text = json_string_value(v);
    if (!text || !*text || strlen(prefix) + strlen(text) > OIDC_NAME_MAX || strlen(text) != json_string_length(v))
        return NULL;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p < ' ' || *p == 0x7f || (*p == 0xC2 && p[1] < 0xA0)) /* the last: C1, U+0080 to U+009F */
            return NULL;
    return arena_printf(a, "%s%s", prefix, text);
}

/* An address that its issuer has not verified is nobody's. */
static bool is_unverified(const struct oidc_issuer *c, const json_t *claims)
{
    const json_t *v = json_object_get(claims, "email_verified");
    return !strcmp(c->mappings.username.claim, "email") && v && !json_is_true(v);
}

static int add_groups(const struct oidc_issuer *c, const json_t *claims, struct arena *a, const char **groups, size_t *count, struct err *err)
{
    const json_t *v = c->mappings.groups.claim ? json_object_get(claims, c->mappings.groups.claim) : NULL;
    size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v) ? 1 : 0;
    if (n > OIDC_GROUPS_MAX)
        return err_set(err, ERR_UNAUTHENTICATED, "the token names %zu groups: expected at most %d", n, OIDC_GROUPS_MAX);
    bool admin = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *group = json_is_array(v) ? json_array_get(v, i) : v;
        groups[*count] = text_of(group, c->mappings.groups.prefix, a);
        if (!groups[(*count)++])
            return refuse(err, "has a claim for groups that is no list of names");
        admin = admin || (c->admins && !strcmp(json_string_value(group), c->admins));
    }
    if (admin)
        groups[(*count)++] = arena_printf(a, "seki:tenant:%s:admins", c->tenant);
    return 0;
}

int oidc_claims_person(const struct oidc_issuer *c, const json_t *claims, struct arena *a, struct oidc_person *ret, struct err *err)
{
    struct oidc_person p = {0};
    const char **groups = ARENA_ARRAY(a, const char *, OIDC_GROUPS_MAX + 3);
    size_t count = 0;
    p.name = text_of(json_object_get(claims, c->mappings.username.claim), c->mappings.username.prefix, a);
    if (!p.name)
        return err_set(err, ERR_UNAUTHENTICATED, "the token's claim %.64s is no name", c->mappings.username.claim);
    if (is_unverified(c, claims))
        return refuse(err, "has an email address that is not verified");
    if (c->mappings.uid.claim && !(p.uid = text_of(json_object_get(claims, c->mappings.uid.claim), "", a)))
        return err_set(err, ERR_UNAUTHENTICATED, "the token's claim %.64s is no name", c->mappings.uid.claim);
    if (c->tenant)
        groups[count++] = arena_printf(a, "seki:tenant:%s", c->tenant);
    int rc = add_groups(c, claims, a, groups, &count, err);
    if (rc < 0)
        return rc;
    p.groups = groups;
    (void)!time_at(claims, "iat", &p.issued_ms);
    (void)!time_at(claims, "exp", &p.expires_ms);
    *ret = p;
    return 0;
}
