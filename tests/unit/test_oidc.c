/* Who may log in: configurations that are taken and those that are refused, by name; and what claims make of somebody. */
#include "unit.h"

#include "base/mem.h"
#include "oidc/claims.h"

#define NOW_MS INT64_C(1800000000000)
#define SKEW_MS 10000

static struct arena *arena;

static int setup(void **state UNUSED)
{
    arena = arena_new(64 * 1024 * 1024);
    return 0;
}

static int teardown(void **state UNUSED)
{
    arena_free(arena);
    return 0;
}

#define HEAD "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
#define ONE "- issuer: {url: 'https://a.test', audiences: [seki]}\n  claimMappings: {username: {claim: sub}}\n"

static int parse(const char *jwt, struct oidc_config *ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = xasprintf(HEAD "jwt:\n%s", jwt);
    return oidc_config_parse(str_of(text), "file", arena, ret, err);
}

static void what_is_written_is_read(void **state UNUSED)
{
    struct oidc_config c;
    struct err err = ERR_INIT;
    ASSERT_OK(parse("- tenant: red\n"
                    "  issuer: {url: 'https://a.test/x/', discoveryURL: 'https://b.test:8443/d', audiences: [seki, kubectl], audienceMatchPolicy: MatchAny, certificateAuthority: "
                    "'-----BEGIN CERTIFICATE-----'}\n"
                    "  claimMappings: {username: {claim: email, prefix: 'r:'}, groups: {claim: roles, prefix: 'g#'}, uid: {claim: oid}}\n"
                    "  claimValidationRules: [{claim: hd, requiredValue: example.com}, {claim: flag}]\n" ONE,
                    &c, &err));
    assert_int_equal(c.issuers.count, 2);
    const struct oidc_issuer *a = oidc_config_at(&c, 0), *b = oidc_config_at(&c, 1);
    assert_string_equal(a->tenant, "red");
    assert_string_equal(a->issuer.url, "https://a.test/x/");
    assert_string_equal(a->issuer.discovery_url, "https://b.test:8443/d");
    assert_int_equal(a->issuer.audiences.count, 2);
    assert_string_equal(a->mappings.username.prefix, "r:");
    assert_string_equal(a->mappings.groups.claim, "roles");
    assert_string_equal(a->mappings.uid.claim, "oid");
    assert_int_equal(a->rules.count, 2);
    assert_string_equal(((struct oidc_rule *)a->rules.items)[1].value, "");
    assert_null(b->tenant);
    assert_string_equal(b->mappings.username.prefix, "oidc:");
    assert_null(b->mappings.groups.claim);
    ASSERT_OK(oidc_config_parse(STR("{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"AuthenticationConfiguration\"}"), "file", arena, &c, &err));
    assert_int_equal(c.issuers.count, 0);
}

#define ISSUER "issuer: {url: 'https://b.test', audiences: [seki]}"
#define NAMED(prefix) ONE "- " ISSUER "\n  claimMappings: {username: {claim: sub, prefix: '" prefix "'}}\n"

static void what_is_wrong_is_named(void **state UNUSED)
{
    static const struct {
        const char *jwt, *path;
    } cases[] = {
        {"- {}\n", "jwt[0].issuer"},
        {"- issuer: {url: 'https://a.test', audiences: [x]}\n", "jwt[0].claimMappings"},
        {"- issuer: {url: 'https://a.test', audiences: []}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.audiences"},
        {"- issuer: {url: 'https://a.test', audiences: ['']}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.audiences"},
        {"- issuer: {url: 'http://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.url"},
        {"- issuer: {url: 'https://u@a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.url"},
        {"- issuer: {url: 'https://a.test?x', audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.url"},
        {"- issuer: {url: 'https://a.test', discoveryURL: 'https://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.discoveryURL"},
        {"- issuer: {url: 'https://a.test', certificateAuthority: x, audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.certificateAuthority"},
        {"- issuer: {url: 'https://a.test', audiences: [x], audienceMatchPolicy: All}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.audienceMatchPolicy"},
        {"- issuer: {url: 'https://a.test', audiences: [x], egressSelectorType: cluster}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.egressSelectorType"},
        {"- issuer: {url: 'https://a.test', audiences: [x], color: red}\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].issuer.color"},
        {"- " ISSUER "\n  claimMappings: {username: {expression: claims.sub}}\n", "jwt[0].claimMappings.username.expression"},
        {"- " ISSUER "\n  claimMappings: {username: {claim: sub}, groups: {expression: x}}\n", "jwt[0].claimMappings.groups.expression"},
        {"- " ISSUER "\n  claimMappings: {username: {claim: sub}, extra: [{key: a, valueExpression: b}]}\n", "jwt[0].claimMappings.extra"},
        {"- " ISSUER "\n  claimMappings: {username: {claim: sub}}\n  claimValidationRules: [{expression: x}]\n", "jwt[0].claimValidationRules[0].expression"},
        {"- " ISSUER "\n  claimMappings: {username: {claim: sub}}\n  userValidationRules: [{expression: x}]\n", "jwt[0].userValidationRules"},
        {"- " ISSUER "\n  claimMappings: {username: {claim: sub}}\n  tenant: Red\n", "jwt[0].tenant"},
        {ONE "- tenant: red\n  issuer: {url: 'https://a.test', audiences: [seki]}\n  claimMappings: {username: {claim: sub}}\n", "jwt[1].issuer.url"}, /* one issuer, one tenant */
        {NAMED(""), "jwt[1].claimMappings.username.prefix"},
        {NAMED("b"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("b :"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("oidc:"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("oidc:b:"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("system:"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("system:seki:"), "jwt[1].claimMappings.username.prefix"},
        {NAMED("seki:"), "jwt[1].claimMappings.username.prefix"},
        {"- tenant: system\n  " ISSUER "\n  claimMappings: {username: {claim: sub}}\n", "jwt[0].claimMappings.username.prefix"},
        {"- tenant: red\n  " ISSUER "\n  claimMappings: {username: {claim: sub}, groups: {claim: g, prefix: 'system:'}}\n", "jwt[0].claimMappings.groups.prefix"},
        {"- tenant: red\n  issuer: {url: 'https://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: 'a:'}, groups: {claim: g, prefix: 'x:'}}\n"
         "- tenant: blue\n  issuer: {url: 'https://b.test', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: 'b:'}, groups: {claim: g, prefix: 'x:y:'}}\n",
         "jwt[1].claimMappings.groups.prefix"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct oidc_config c;
        struct err err = ERR_INIT;
        int rc = parse(cases[i].jwt, &c, &err);
        if (rc >= 0 || strcmp(err.field, cases[i].path) != 0 || !strstr(err.msg, cases[i].path))
            fail_msg("%s: %d, %s: %s", cases[i].jwt, rc, err.field, err.msg);
    }
    static const char *const texts[] = {"", "7", "[]", "{}", "kind: AuthenticationConfiguration", "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration", HEAD "anonymous: {enabled: true}",
                                        HEAD "jwt: {}", HEAD "more: 1"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct oidc_config c;
        struct err err = ERR_INIT;
        assert_true(oidc_config_parse(str_of(texts[i]), "file", arena, &c, &err) < 0);
    }
}

static void issuers_of_one_tenant_share_groups_and_not_names(void **state UNUSED)
{
    struct oidc_config c;
    struct err err = ERR_INIT;
#define TWO(prefix) \
    "- tenant: red\n  issuer: {url: 'https://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: 'a:'}, groups: {claim: g}}\n" \
    "- tenant: red\n  issuer: {url: 'https://b.test', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: '" prefix "'}, groups: {claim: g}}\n"
    ASSERT_OK(parse(TWO("b:"), &c, &err));
    ASSERT_ERR(parse(TWO("a:"), &c, &err), ERR_INVALID);
}

/* ---- claims ---- */

static const struct oidc_issuer *the_issuer(const char *more)
{
    static struct oidc_config c;
    struct err err = ERR_INIT;
    CLEANUP(mem_freep) char *text = xasprintf("- tenant: red\n  issuer: {url: 'https://a.test', audiences: [seki]}\n%s", more);
    ASSERT_OK(parse(text, &c, &err));
    return oidc_config_at(&c, 0);
}

static int identify(const struct oidc_issuer *i, const char *claims, struct oidc_person *ret, struct err *err)
{
    JSON_AUTO j = NULL;
    CLEANUP(mem_freep) char *text = xasprintf("{\"iss\":\"https://a.test\",\"aud\":\"seki\",\"exp\":1800000100,\"iat\":1799999999%s}", claims);
    assert_int_equal(json_parse(str_of(text), 65536, &j, err), 0);
    int rc = oidc_claims_check(i, j, NOW_MS, SKEW_MS, err);
    return rc < 0 ? rc : oidc_claims_person(i, j, arena, ret, err);
}

static void a_person_is_what_the_mappings_say(void **state UNUSED)
{
    const struct oidc_issuer *i = the_issuer("  claimMappings: {username: {claim: email}, groups: {claim: g}, uid: {claim: oid}}\n  claimValidationRules: [{claim: hd, requiredValue: x}]\n");
    struct oidc_person p;
    struct err err = ERR_INIT;
    ASSERT_OK(identify(i, ",\"email\":\"a@x\",\"email_verified\":true,\"g\":[\"one\",\"system:masters\"],\"oid\":\"7\",\"hd\":\"x\"", &p, &err));
    assert_string_equal(p.name, "red:a@x");
    assert_string_equal(p.uid, "7");
    assert_string_equal(p.groups[0], "seki:tenant:red");
    assert_string_equal(p.groups[1], "red:one");
    assert_string_equal(p.groups[2], "red:system:masters");
    assert_null(p.groups[3]);
    assert_int_equal(p.issued_ms, INT64_C(1799999999000));
    assert_int_equal(p.expires_ms, INT64_C(1800000100000));
    static const char *const bad[] = {
        ",\"email\":\"a@x\",\"email_verified\":false,\"oid\":\"7\",\"hd\":\"x\"", ",\"email\":\"a@x\",\"email_verified\":\"true\",\"oid\":\"7\",\"hd\":\"x\"", ",\"email\":\"a@x\",\"hd\":\"x\"",
        ",\"email\":\"a@x\",\"oid\":\"7\"", ",\"email\":\"a@x\",\"oid\":\"7\",\"hd\":\"y\"", ",\"email\":\"a@x\",\"oid\":\"7\",\"hd\":[\"x\"]", ",\"oid\":\"7\",\"hd\":\"x\"",
        ",\"email\":\"a@x\",\"oid\":\"7\",\"hd\":\"x\",\"g\":[\"\"]", ",\"email\":\"a@x\",\"oid\":\"7\",\"hd\":\"x\",\"g\":[[\"a\"]]"};
    for (size_t n = 0; n < ARRAY_LEN(bad); n++)
        if (identify(i, bad[n], &p, &err) != ERR_UNAUTHENTICATED)
            fail_msg("%s", bad[n]);
}

static void admins_are_who_the_configuration_says(void **state UNUSED)
{
    const struct oidc_issuer *i = the_issuer("  claimMappings: {username: {claim: sub}, groups: {claim: g}}\n  tenantAdmins: boss\n");
    struct oidc_person p;
    struct err err = ERR_INIT;
    ASSERT_OK(identify(i, ",\"sub\":\"a\",\"g\":[\"boss\",\"x\",\"boss\"]", &p, &err));
    assert_string_equal(p.groups[4], "seki:tenant:red:admins");
    assert_null(p.groups[5]);
    ASSERT_OK(identify(i, ",\"sub\":\"a\",\"g\":[\"red:boss\",\"seki:tenant:red:admins\",\"Boss\"]", &p, &err));
    assert_null(p.groups[4]);
    for (size_t n = 0; p.groups[n]; n++)
        assert_string_not_equal(p.groups[n], "seki:tenant:red:admins");
    struct oidc_config c;
    ASSERT_ERR(parse("- issuer: {url: 'https://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub}, groups: {claim: g}}\n  tenantAdmins: boss\n", &c, &err), ERR_INVALID);
    ASSERT_ERR(parse("- tenant: red\n  issuer: {url: 'https://a.test', audiences: [x]}\n  claimMappings: {username: {claim: sub}}\n  tenantAdmins: boss\n", &c, &err), ERR_INVALID);
}

static void times_have_a_skew(void **state UNUSED)
{
    static const struct {
        const char *claims;
        bool good;
    } cases[] = {{"\"exp\":1799999991", true},  {"\"exp\":1799999990", false}, {"\"exp\":1799999990.5", true}, {"\"exp\":-1", false},
                 {"\"exp\":1e300", false},      {"\"exp\":\"1900000000\"", false}, {"\"exp\":1900000000,\"nbf\":1800000010", true},
                 {"\"exp\":1900000000,\"nbf\":1800000011", false}, {"\"exp\":1900000000,\"iat\":1800000011", false}, {"\"exp\":1900000000,\"nbf\":\"\"", false},
                 {"\"exp\":1900000000,\"iat\":null", false}};
    const struct oidc_issuer *i = the_issuer("  claimMappings: {username: {claim: sub}}\n");
    for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
        JSON_AUTO j = NULL;
        struct err err = ERR_INIT;
        CLEANUP(mem_freep) char *text = xasprintf("{\"iss\":\"https://a.test\",\"aud\":\"seki\",%s}", cases[n].claims);
        ASSERT_OK(json_parse(str_of(text), 4096, &j, &err));
        if ((oidc_claims_check(i, j, NOW_MS, SKEW_MS, &err) == 0) != cases[n].good)
            fail_msg("%s: %s", cases[n].claims, err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),       cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(issuers_of_one_tenant_share_groups_and_not_names), cmocka_unit_test(a_person_is_what_the_mappings_say),
        cmocka_unit_test(admins_are_who_the_configuration_says), cmocka_unit_test(times_have_a_skew),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
