/* A cluster's own issuer: what is refused by the name of its field, and what an operator's list lets in. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/pki.h"
#include "kinds/cluster_oidc.h"

static struct arena *arena;

static int set_up(void **state UNUSED)
{
    arena = arena_new(4 << 20);
    return 0;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return 0;
}

static int read_spec(const char *spec, struct oidc_issuer *ret, struct err *err)
{
    JSON_AUTO obj = NULL;
    const char *text = arena_printf(arena, "{\"spec\":{\"oidc\":%s}}", spec);
    assert_int_equal(json_parse(str_of(text), 1 << 20, &obj, NULL), 0);
    return cluster_oidc_read(obj, arena, ret, err);
}

#define SPEC(issuer, mappings) "{\"issuer\":{" issuer "},\"claimMappings\":{" mappings "}}"
#define URL "\"url\":\"https://id.example/realms/red\",\"audiences\":[\"shop\"]"
#define NAMES "\"username\":{\"claim\":\"sub\",\"prefix\":\"id:\"}"

static void what_is_written_is_read(void **state UNUSED)
{
    struct oidc_issuer i;
    struct err err = ERR_INIT;
    JSON_AUTO none = json_pack("{s:{}}", "spec");
    ASSERT_OK(cluster_oidc_read(none, arena, &i, &err));
    assert_null(i.issuer.url);
    ASSERT_OK(read_spec(SPEC(URL, NAMES ",\"groups\":{\"claim\":\"g\",\"prefix\":\"id#\"}"), &i, &err));
    assert_string_equal(i.issuer.url, "https://id.example/realms/red");
    assert_string_equal(i.mappings.username.prefix, "id:");
    assert_string_equal(i.mappings.groups.prefix, "id#");
    assert_null(i.tenant);
}

static void what_is_wrong_is_named(void **state UNUSED)
{
    static const struct {
        const char *spec, *field, *said;
    } cases[] = {
        {SPEC("\"url\":\"http://id.example\",\"audiences\":[\"a\"]", NAMES), "spec.oidc.issuer.url", "expected https://HOST"},
        {SPEC("\"url\":\"https://id.example/a/../b\",\"audiences\":[\"a\"]", NAMES), "spec.oidc.issuer.url", "steps back"},
        {SPEC("\"url\":\"https://id.example/%2e%2e\",\"audiences\":[\"a\"]", NAMES), "spec.oidc.issuer.url", "escapes"},
        {SPEC("\"url\":\"https://id.example\",\"audiences\":[\"\"]", NAMES), "spec.oidc.issuer.audiences", "an audience has a name"},
        {SPEC(URL ",\"certificateAuthority\":\"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"", NAMES), "spec.oidc.issuer.certificateAuthority", "expected certificates in PEM"},
        {SPEC(URL ",\"certificateAuthority\":\"x\"", NAMES), "spec.oidc.issuer.certificateAuthority", "expected certificates in PEM"},
        {SPEC(URL, "\"username\":{\"claim\":\"sub\",\"prefix\":\"none\"}"), "spec.oidc.claimMappings.username.prefix", "ends in ':' or '#'"},
        {SPEC(URL, "\"username\":{\"claim\":\"sub\",\"prefix\":\"system:\"}"), "spec.oidc.claimMappings.username.prefix", "the system's own"},
        {SPEC(URL, "\"username\":{\"claim\":\"sub\",\"prefix\":\"kubeadm:\"}"), "spec.oidc.claimMappings.username.prefix", "the cluster's administrators'"},
        {SPEC(URL, NAMES ",\"groups\":{\"claim\":\"g\",\"prefix\":\"kubeadm:x:\"}"), "spec.oidc.claimMappings.groups.prefix", "the cluster's administrators'"},
        {SPEC(URL, NAMES ",\"groups\":{\"claim\":\"g\",\"prefix\":\"seki:\"}"), "spec.oidc.claimMappings.groups.prefix", "the system's own"},
    };
    for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
        struct oidc_issuer i;
        struct err err = ERR_INIT;
        ASSERT_ERR(read_spec(cases[n].spec, &i, &err), ERR_INVALID);
        if (strcmp(err.field, cases[n].field) != 0 || !strstr(err.msg, cases[n].said) || strstr(err.msg, "jwt[0]"))
            fail_msg("%s: %s: %s", cases[n].spec, err.field, err.msg);
        assert_null(i.issuer.url);
    }
}

static void certificates_and_nothing_else(void **state UNUSED)
{
    char dir[] = "/tmp/seki-pem-XXXXXX";
    struct pki_ca *ca = NULL;
    struct err err = ERR_INIT;
    assert_non_null(mkdtemp(dir));
    ASSERT_OK(pki_ca_ensure(dir, "ca", "an authority", &ca, &err));
    const char *pem = pki_ca_pem(ca), *two = arena_printf(arena, "# ours\n%s\n%s", pem, pem), *cut = arena_strndup(arena, str_n(pem, strlen(pem) - 40));
    CLEANUP(mem_freep) char *path = xasprintf("%s/ca.key", dir);
    CLEANUP(mem_freep) char *key = NULL;
    size_t len = 0;
    ASSERT_OK(file_read(path, 65536, &key, &len, &err));
    assert_int_equal(pki_certificates_check(str_of(pem)), 0);
    assert_int_equal(pki_certificates_check(str_of(two)), 0);
    assert_int_equal(pki_certificates_check(str_of("")), ERR_INVALID);
    assert_int_equal(pki_certificates_check(str_of(cut)), ERR_INVALID);
    assert_int_equal(pki_certificates_check(str_of(arena_printf(arena, "%s%s", pem, cut))), ERR_INVALID);
    assert_int_equal(pki_certificates_check(str_of(arena_printf(arena, "%s%s", pem, key))), ERR_INVALID);
    pki_ca_free(ca);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void a_list_has_what_is_below_its_urls(void **state UNUSED)
{
    static const char list[] = "https://id.example/realms/ , https://login.example";
    static const char *const in[] = {"https://id.example/realms", "https://id.example/realms/red", "https://login.example", "https://login.example/x/v2.0"};
    static const char *const out[] = {"https://id.example", "https://id.example/realmsx", "https://id.example.evil.test/realms", "https://login.example.evil.test", "https://login.example:8443", "https://login.examples/", ""};
    for (size_t i = 0; i < ARRAY_LEN(in); i++)
        if (!cluster_oidc_listed(list, in[i]))
            fail_msg("%s is not let in", in[i]);
    for (size_t i = 0; i < ARRAY_LEN(out); i++)
        if (cluster_oidc_listed(list, out[i]))
            fail_msg("%s is let in", out[i]);
    assert_false(cluster_oidc_listed("", "https://id.example"));
    assert_false(cluster_oidc_listed(" , /", "https://id.example"));
    assert_int_equal(cluster_oidc_list_check(list, NULL), 0);
    assert_int_equal(cluster_oidc_list_check("", NULL), 0);
    assert_int_equal(cluster_oidc_list_check("https://id.example,id.example", NULL), ERR_INVALID);
    assert_int_equal(cluster_oidc_list_check("https://*", NULL), ERR_INVALID);
}

static void issuers_that_meet(void **state UNUSED)
{
    struct oidc_issuer a, b;
    struct err err = ERR_INIT;
    static const struct {
        const char *other;
        bool meet;
    } cases[] = {
        {SPEC("\"url\":\"https://b.example\",\"audiences\":[\"a\"]", "\"username\":{\"claim\":\"sub\",\"prefix\":\"b:\"}"), false},
        {SPEC(URL, "\"username\":{\"claim\":\"sub\",\"prefix\":\"b:\"}"), true},
        {SPEC("\"url\":\"https://b.example\",\"audiences\":[\"a\"]", "\"username\":{\"claim\":\"sub\",\"prefix\":\"id:x:\"}"), true},
        {SPEC("\"url\":\"https://b.example\",\"audiences\":[\"a\"]", "\"username\":{\"claim\":\"sub\",\"prefix\":\"b:\"},\"groups\":{\"claim\":\"g\",\"prefix\":\"id:\"}"), true},
    };
    ASSERT_OK(read_spec(SPEC(URL, NAMES ",\"groups\":{\"claim\":\"g\",\"prefix\":\"id:\"}"), &a, &err));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ASSERT_OK(read_spec(cases[i].other, &b, &err));
        assert_int_equal(oidc_issuers_meet(&a, &b), cases[i].meet);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_wrong_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(certificates_and_nothing_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_list_has_what_is_below_its_urls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(issuers_that_meet, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
