/* Clusters: networks, command lines that do not change, certificates as upstream wants them, directories. */
#include "unit.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kaas/internal.h"
#include "kaas/people.h"

static char dir[64];
static struct arena *arena;
static struct site site;
static struct cluster cluster;

static int set_up(void **state UNUSED)
{
    static const char *const names[] = {"api.acme.example", "192.0.2.7"};
    snprintf(dir, sizeof(dir), "/tmp/seki-kaas-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    arena = arena_new(16 << 20);
    site = (struct site){.ns = "demo", .name = "one", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir, .programs = "/k/1.37", .kms = "/k/seki-kms", .self = "/k/sekid", .address = "127.96.3.4"};
    cluster = (struct cluster){.spec = {.version = "1.37", .control_plane = {1, "Small"}, .network = {"10.244.0.0/16", "10.96.0.0/16", "cluster.local", NULL}, .audit = {"Metadata"}, .endpoint_names = {(void *)(uintptr_t)names, 2}}};
    return 0;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return file_remove_tree(dir, NULL);
}

/* ---- networks ---- */

static void test_networks(void **state UNUSED)
{
    static const char *const wrong[] = {"", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0/8", "010.0.0.0/8", "10.96.0.1/16", "fd00::/8", "10.0.0.0/8 ", "a/8"};
    struct cluster_network n, m;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (cluster_network_parse(wrong[i], &n, NULL) == 0)
            fail_msg("\"%s\" is taken for a network", wrong[i]);
    static const struct {
        const char *a, *b;
        bool overlap;
    } cases[] = {
        {"10.244.0.0/16", "10.96.0.0/16", false}, {"10.0.0.0/8", "10.96.0.0/16", true}, {"10.96.0.0/16", "10.0.0.0/8", true}, {"10.96.0.0/16", "10.96.0.0/16", true},
        {"10.96.0.0/12", "10.112.0.0/12", false}, {"0.0.0.0/0", "10.0.0.0/8", true}, {"10.0.0.1/32", "10.0.0.0/31", true}, {"10.0.0.2/32", "10.0.0.0/31", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(cluster_network_parse(cases[i].a, &n, NULL), 0);
        assert_int_equal(cluster_network_parse(cases[i].b, &m, NULL), 0);
        assert_int_equal(cluster_networks_overlap(&n, &m), cases[i].overlap);
    }
    char text[16];
    assert_int_equal(cluster_network_parse("10.96.0.0/30", &n, NULL), 0);
    cluster_network_address(&n, 1, text);
    assert_string_equal(text, "10.96.0.1");
    cluster_network_address(&n, 3, text);
    assert_string_equal(text, "10.96.0.3");
    cluster_network_address(&n, 4, text);
    assert_string_equal(text, "");
}

/* ---- secrets at rest ---- */

static void test_how_a_value_lies_in_the_store(void **state UNUSED)
{
#define UNDER "k8s:enc:kms:v2:seki:"
    static const char id[] = "00112233445566778899aabbccddeeff";
    const struct {
        const char *text;
        size_t len;
        bool under;
    } cases[] = {
        {UNDER "\x0a\x04text\x12\x20" "00112233445566778899aabbccddeeff\x1a\x03" "dek\x28\x01", 67, true},
        {UNDER "\x0a\x04text\x12\x20" "00112233445566778899aabbccddee00\x1a\x03" "dek\x28\x01", 67, false},
        {UNDER "\x0a\x04text\x12\x20" "00112233445566778899aabbccddeeff\x1a\x7f" "cut", 65, false},
        {UNDER "\x0a\x04text", 26, false},
        {"k8s:enc:kms:v2:other:\x12\x20" "00112233445566778899aabbccddeeff", 55, false},
        {"k8s\0\x0a\x0c", 6, false},
        {"{\"kind\":\"Secret\"}", 17, false},
        {"", 0, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (at_rest_is_under(str_n(cases[i].text, cases[i].len), id) != cases[i].under)
            fail_msg("case %zu", i);
}

static void test_older_keys_go_one_by_one(void **state UNUSED)
{
#define AT(m) "2026-01-01T00:" m ":00.000000Z"
    /* Made at minutes 40, 30, 20 and 10; all was under each of them five minutes later. */
    JSON_AUTO keys = json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s}]", "madeAt", "2026-01-01T00:40:00Z", "sealedAt", AT("45"), "madeAt", "2026-01-01T00:30:00Z", "sealedAt", AT("35"), "madeAt",
                               "2026-01-01T00:20:00Z", "sealedAt", AT("25"), "madeAt", "2026-01-01T00:10:00Z");
    static const struct {
        const char *backup; /* NULL: none */
        int restored_minute;
        const char *needed; /* 1 for each key */
    } cases[] = {
        {NULL, 0, "1000"},      {AT("50"), 0, "1000"}, {AT("44"), 0, "1100"}, {AT("38"), 0, "1100"}, {AT("32"), 0, "1110"}, {AT("28"), 0, "1010"}, {AT("22"), 0, "1011"}, {AT("12"), 0, "1001"},
        {AT("38"), 36, "1111"}, /* restored at 36: what lay there then is known since 45 only */
        {AT("50"), 48, "1111"}, {NULL, 48, "1111"},    {"what", 0, "1111"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO backups = cases[i].backup ? json_pack("[{s:s}]", "takenAt", cases[i].backup) : json_array();
        int64_t restored = 0;
        char got[5] = "";
        if (cases[i].restored_minute)
            assert_int_equal(clock_parse(STR("2026-01-01T00:00:00Z"), &restored), 0);
        restored += (int64_t)cases[i].restored_minute * 60000;
        for (size_t k = 0; k < 4; k++)
            got[k] = secrets_key_is_needed(keys, k, backups, restored) ? '1' : '0';
        if (strcmp(got, cases[i].needed) != 0)
            fail_msg("case %zu: %s, and should be %s", i, got, cases[i].needed);
    }
}

static bool conf_has(const char *what)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/conf/encryption.json", dir);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read(path, 65536, &text, &len, NULL), 0);
    return strstr(text, what) != NULL;
}

static void test_only_a_store_from_before_may_have_secrets_in_clear(void **state UNUSED)
{
    CLEANUP(mem_freep) char *conf = xasprintf("%s/conf", dir), *member = xasprintf("%s/etcd/member", dir), *file = xasprintf("%s/conf/encryption.json", dir);
    assert_int_equal(file_mkdirs(conf, 0700, NULL), 0);
    assert_int_equal(secrets_conf_ensure(&site, NULL), 0);
    assert_true(!conf_has("identity") && conf_has("/kms.sock"));
    /* Once it is so, it stays so. */
    assert_int_equal(file_mkdirs(member, 0700, NULL), 0);
    assert_int_equal(secrets_conf_ensure(&site, NULL), 0);
    assert_false(conf_has("identity"));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(secrets_conf_ensure(&site, NULL), 0);
    assert_true(conf_has("identity"));
    /* A directory that lies elsewhere now: the path follows, the rest stays. */
    assert_int_equal(file_write(file, STR("{\"resources\":[{\"providers\":[{},{}]}]}"), 0600, NULL), 0);
    assert_int_equal(secrets_conf_ensure(&site, NULL), 0);
    assert_true(conf_has("identity") && conf_has("/kms.sock"));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(file_remove_tree(member, NULL), 0);
}

/* ---- command lines ---- */

static const char *joined(const char *const *list)
{
    const char *all = "";
    for (; *list; list++)
        all = arena_printf(arena, "%s%s\n", all, *list);
    return all;
}

static void test_the_same_cluster_has_the_same_command_lines(void **state UNUSED)
{
    for (enum component c = 0; c < COMPONENTS; c++) {
        struct plan a, b;
        plan_component(c, 0, &cluster, &site, arena, &a);
        plan_component(c, 0, &cluster, &site, arena, &b);
        assert_string_equal(joined(a.argv), joined(b.argv));
        assert_string_equal(joined(a.env), joined(b.env));
        /* What may change in a running cluster and is read again from files restarts nothing. */
        struct cluster other = cluster;
        other.spec.endpoint_names = (struct field_list){0};
        plan_component(c, 0, &other, &site, arena, &b);
        assert_string_equal(joined(a.argv), joined(b.argv));
        assert_string_equal(joined(a.env), joined(b.env));
        other.spec.control_plane.size = "Large";
        plan_component(c, 0, &other, &site, arena, &b);
        if (c != KMS && c != RELAY) /* which are no matter of size */
            assert_string_not_equal(joined(a.env), joined(b.env));
    }
}

static void test_what_is_said_to_components(void **state UNUSED)
{
    static const struct {
        enum component c;
        const char *flag;
        bool there;
    } cases[] = {
        {ETCD, "--client-cert-auth=true\n", true},
        {ETCD, "--peer-client-cert-auth=true\n", true},
        {ETCD, "--initial-cluster-token=0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11\n", true},
        {ETCD, "0.0.0.0", false},
        {APISERVER, "--authorization-mode=Node,RBAC\n", true},
        {APISERVER, "--kubelet-certificate-authority=", true},
        {APISERVER, "--service-cluster-ip-range=10.96.0.0/16\n", true},
        {APISERVER, "--bind-address=127.96.3.4\n", true},
        {APISERVER, "AlwaysAllow", false},
        {APISERVER, "--insecure", false},
        {APISERVER, "/conf/encryption.json\n", true},
        {APISERVER, "--encryption-provider-config-automatic-reload=true\n", true},
        {KMS, "/kctl.sock\n0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11\n", true},
        {KMS, "key", false},
        {CONTROLLERS, "--cluster-cidr=10.244.0.0/16\n", true},
        {CONTROLLERS, "--use-service-account-credentials=true\n", true},
        {CONTROLLERS, "--bind-address=127.96.3.4\n", true},
        {SCHEDULER, "--bind-address=127.96.3.4\n", true},
        {SCHEDULER, "--cluster-cidr", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct plan p;
        plan_component(cases[i].c, 0, &cluster, &site, arena, &p);
        if ((strstr(joined(p.argv), cases[i].flag) != NULL) != cases[i].there)
            fail_msg("%s: %s", component_name(cases[i].c), cases[i].flag);
    }
    /* A cluster of before is told nothing of nodes; one that may have them is told where they are. Neither reaches anything but through its gate. */
    static const struct {
        enum component c;
        const char *flag;
        bool before, now;
    } of_nodes[] = {
        {APISERVER, "--advertise-address=127.96.3.4\n", true, false},
        {APISERVER, "--advertise-address=10.201.0.1\n", false, true},
        {APISERVER, "--endpoint-reconciler-type=none\n", true, false},
        {APISERVER, "--endpoint-reconciler-type=lease\n", false, true},
        {APISERVER, "--egress-selector-config-file=", true, true},
        {APISERVER, "--enable-aggregator-routing=true\n", false, true},
        {APISERVER, "--bind-address=127.96.3.4\n", true, true},
        {CONTROLLERS, "--allocate-node-cidrs=true\n", true, false},
        {CONTROLLERS, "-node-ipam-controller", false, true},
    };
    struct site with = site;
    with.with_nodes = true;
    snprintf(with.gate, sizeof(with.gate), "10.201.0.1");
    for (size_t i = 0; i < ARRAY_LEN(of_nodes); i++) {
        struct plan before, now;
        plan_component(of_nodes[i].c, 0, &cluster, &site, arena, &before);
        plan_component(of_nodes[i].c, 0, &cluster, &with, arena, &now);
        if ((strstr(joined(before.argv), of_nodes[i].flag) != NULL) != of_nodes[i].before || (strstr(joined(now.argv), of_nodes[i].flag) != NULL) != of_nodes[i].now)
            fail_msg("%s", of_nodes[i].flag);
    }
    char name[WORKLOAD_NAME_MAX];
    component_workload(&site, APISERVER, 0, name);
    assert_string_equal(name, "kc-demo-one-0b5ed6b2-apiserver");
}

/* ---- certificates ---- */

static X509 *certificate(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/pki/%s.crt", dir, name);
    FILE *f = fopen(path, "r");
    X509 *c = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;
    if (f)
        fclose(f);
    if (!c)
        fail_msg("no %s.crt", name);
    return c;
}

static void test_certificates(void **state UNUSED)
{
    static const struct {
        const char *name, *ca, *subject;
        int purpose;
    } cases[] = {
        {"apiserver", "ca", "CN=kube-apiserver", X509_PURPOSE_SSL_SERVER},
        {"apiserver-kubelet-client", "ca", "CN=kube-apiserver-kubelet-client", X509_PURPOSE_SSL_CLIENT},
        {"controllers", "ca", "CN=system:kube-controller-manager", X509_PURPOSE_SSL_CLIENT},
        {"controllers", "ca", "CN=system:kube-controller-manager", X509_PURPOSE_SSL_SERVER},
        {"scheduler", "ca", "CN=system:kube-scheduler", X509_PURPOSE_SSL_SERVER},
        {"super-admin", "ca", "O=system:masters, CN=kubernetes-super-admin", X509_PURPOSE_SSL_CLIENT},
        {"admin", "ca", "O=kubeadm:cluster-admins, CN=kubernetes-admin", X509_PURPOSE_SSL_CLIENT},
        {"front-proxy-client", "front-proxy-ca", "CN=front-proxy-client", X509_PURPOSE_SSL_CLIENT},
        {"etcd", "etcd-ca", "CN=etcd-0", X509_PURPOSE_SSL_SERVER},
        {"etcd", "etcd-ca", "CN=etcd-0", X509_PURPOSE_SSL_CLIENT},
        {"apiserver-etcd-client", "etcd-ca", "CN=kube-apiserver-etcd-client", X509_PURPOSE_SSL_CLIENT},
    };
    static const char *const api_names[] = {"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", "api.acme.example"};
    static const char *const api_ips[] = {"10.96.0.1", "127.96.3.4", "192.0.2.7"};
    bool made = false;
    assert_int_equal(cluster_pki_ensure(&cluster, &site, 365ull * 86400000, &made, NULL), 0);
    assert_true(made);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        X509 *c = certificate(cases[i].name), *ca = certificate(cases[i].ca);
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *ctx = X509_STORE_CTX_new();
        X509_STORE_add_cert(store, ca);
        X509_STORE_CTX_init(ctx, store, c, NULL);
        X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_X509_STRICT);
        X509_STORE_CTX_set_purpose(ctx, cases[i].purpose);
        if (X509_verify_cert(ctx) != 1)
            fail_msg("%s: %s", cases[i].name, X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
        BIO *b = BIO_new(BIO_s_mem());
        char subject[256] = "";
        X509_NAME_print_ex(b, X509_get_subject_name(c), 0, XN_FLAG_SEP_CPLUS_SPC);
        BIO_read(b, subject, sizeof(subject) - 1);
        BIO_free(b);
        assert_string_equal(subject, cases[i].subject);
        X509_STORE_CTX_free(ctx);
        X509_STORE_free(store);
        X509_free(ca);
        X509_free(c);
    }
    X509 *api = certificate("apiserver");
    for (size_t i = 0; i < ARRAY_LEN(api_names); i++)
        assert_int_equal(X509_check_host(api, api_names[i], 0, 0, NULL), 1);
    for (size_t i = 0; i < ARRAY_LEN(api_ips); i++)
        assert_int_equal(X509_check_ip_asc(api, api_ips[i], 0), 1);
    X509_free(api);
    made = true;
    assert_int_equal(cluster_pki_ensure(&cluster, &site, 365ull * 86400000, &made, NULL), 0);
    assert_false(made);
}

static char *text_of(const char *name)
{
    char path[256], *text = NULL;
    size_t len = 0;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(file_read(path, 65536, &text, &len, NULL), 0);
    return text;
}

static void test_keys_stay_and_leaves_are_made_anew(void **state UNUSED)
{
    static const char *const stay[] = {"pki/ca.crt", "pki/ca.key", "pki/etcd-ca.crt", "pki/front-proxy-ca.crt", "pki/sa.key", "pki/sa.pub"};
    char *before[ARRAY_LEN(stay)];
    bool made = false;
    for (size_t i = 0; i < ARRAY_LEN(stay); i++)
        before[i] = text_of(stay[i]);
    char *leaf = text_of("pki/admin.crt");
    /* A name more: another serving certificate, and no other file. */
    static const char *const more[] = {"new.acme.example"};
    struct cluster other = cluster;
    other.spec.endpoint_names = (struct field_list){(void *)(uintptr_t)more, 1};
    char *api = text_of("pki/apiserver.crt");
    assert_int_equal(cluster_pki_ensure(&other, &site, 365ull * 86400000, &made, NULL), 0);
    assert_true(made);
    char *now = text_of("pki/apiserver.crt"), *leaf_now = text_of("pki/admin.crt");
    assert_string_not_equal(api, now);
    assert_string_equal(leaf, leaf_now);
    for (size_t i = 0; i < ARRAY_LEN(stay); i++) {
        char *after = text_of(stay[i]);
        assert_string_equal(before[i], after);
        mem_free(before[i]);
        mem_free(after);
    }
    mem_free(api);
    mem_free(now);
    mem_free(leaf);
    mem_free(leaf_now);
}

/* ---- people ---- */

static void test_a_cluster_of_before_has_an_audit_log_too(void **state UNUSED)
{
    struct plan now, before;
    struct cluster old = cluster;
    old.spec.audit.policy = NULL;
    plan_component(APISERVER, 0, &cluster, &site, arena, &now);
    plan_component(APISERVER, 0, &old, &site, arena, &before);
    bool named = false;
    for (size_t i = 0; now.argv[i]; i++) {
        assert_string_equal(now.argv[i], before.argv[i]);
        named |= strstr(now.argv[i], "/conf/audit-Metadata.json") != NULL;
    }
    assert_true(named);
    assert_int_equal(cluster_audit_ensure(&old, &site, NULL), 0);
}

static void test_urls_that_an_api_server_takes(void **state UNUSED)
{
    static const char *const good[] = {"https://id.example", "https://id.example:8443/realms/a-b_c.d~e/", "https://[::1]:1", "https://127.0.0.1:5556/dex"},
                      *const bad[] = {"", "http://id.example", "https://", "https:///x", "https://h:", "https://h:0", "https://h:65536", "https://h:1x", "https://h/%zz", "https://h/?a", "https://h/#a", "https://u@h",
                                      "https://[::1", "https://[x]", "https://h h", "https://h\n", "https://h/a/../b", "https://h/.."};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (!oidc_url_plain(good[i]))
            fail_msg("%s is not taken", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (oidc_url_plain(bad[i]))
            fail_msg("%s is taken", bad[i]);
}

static void test_a_tenants_clusters_know_its_issuers_and_no_others(void **state UNUSED)
{
#define ISSUER(url, more) "{\"issuer\":{\"url\":\"" url "\",\"audiences\":[\"seki\"]},\"claimMappings\":{\"username\":{\"claim\":\"sub\"},\"groups\":{\"claim\":\"groups\"}}" more "}"
    static const char text[] = "{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"AuthenticationConfiguration\",\"jwt\":[" ISSUER("https://ops.example", "") ","
                               ISSUER("https://red.example", ",\"tenant\":\"red\"") "," ISSUER("https://blue.example", ",\"tenant\":\"blue\"") "," ISSUER("https://odd.example/a%20b", ",\"tenant\":\"odd\"") ","
                               ISSUER("https://admins.example", ",\"tenant\":\"kubeadm\"") "]}";
    static const struct {
        const char *tenant, *url, *left_out;
    } cases[] = {{"", NULL, ""}, {"green", NULL, ""}, {"red", "https://red.example", ""}, {"blue", "https://blue.example", ""}, {"odd", NULL, "https://odd.example/a%20b"}, {"kubeadm", NULL, "https://admins.example"}};
    struct oidc_config config;
    struct err err = ERR_INIT;
    ASSERT_OK(oidc_config_parse(str_of(text), "it", arena, &config, &err));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO none = json_array();
        JSON_AUTO people = NULL;
        const char *left_out;
        JSON_AUTO doc = people_document(&config, NULL, cases[i].tenant, none, &people, &left_out);
        assert_int_equal(json_array_size(json_object_get(doc, "jwt")), cases[i].url ? 1 : 0);
        assert_int_equal(json_array_size(people), cases[i].url ? 1 : 0);
        assert_string_equal(left_out, cases[i].left_out);
        if (cases[i].url)
            assert_string_equal(json_str_or(json_array_get(json_object_get(doc, "jwt"), 0), "issuer.url", ""), cases[i].url);
    }
}

static void test_a_clusters_own_issuer_stands_beside_its_tenants(void **state UNUSED)
{
    static const char text[] = "{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"AuthenticationConfiguration\",\"jwt\":[" ISSUER("https://red.example", ",\"tenant\":\"red\"") ","
                               ISSUER("https://blue.example", ",\"tenant\":\"blue\"") "]}";
    static const struct {
        const char *url, *prefix, *refused;
    } cases[] = {{"https://own.example/a", "own:", NULL}, {"https://other.example", "own:", "IssuerNotAllowed"}, {"https://red.example", "own:", "IssuerTaken"}, {"https://own.example", "red:", "IssuerTaken"}, {"https://own.example", "blue:", NULL}};
    struct oidc_config config;
    struct err err = ERR_INIT;
    ASSERT_OK(oidc_config_parse(str_of(text), "it", arena, &config, &err));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *audiences[] = {"shop"}, *left_out;
        const struct oidc_issuer own = {.issuer = {.url = cases[i].url, .audiences = {audiences, 1}}, .mappings = {.username = {"sub", cases[i].prefix}}};
        const char *refused = people_own_refused(&config, &own, "red", "https://own.example,https://red.example");
        assert_true(refused == cases[i].refused || (refused && cases[i].refused && !strcmp(refused, cases[i].refused)));
        if (refused)
            continue;
        JSON_AUTO none = json_array();
        JSON_AUTO people = NULL;
        JSON_AUTO doc = people_document(&config, &own, "red", none, &people, &left_out);
        const json_t *jwt = json_array_get(json_object_get(doc, "jwt"), 1);
        assert_int_equal(json_array_size(json_object_get(doc, "jwt")), 2);
        assert_string_equal(json_str_or(jwt, "issuer.url", ""), cases[i].url);
        assert_string_equal(json_str_or(jwt, "claimMappings.username.prefix", ""), cases[i].prefix);
        assert_null(json_at(jwt, "claimMappings.groups"));
        assert_string_equal(json_str_or(json_array_get(people, 1), "url", ""), cases[i].url);
    }
}

static void test_whose_access_was_ended_stands_in_a_rule(void **state UNUSED)
{
    static const char text[] = "{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"AuthenticationConfiguration\",\"jwt\":[" ISSUER("https://red.example", ",\"tenant\":\"red\"") "]}";
#define ENDED(user, tenant, at) "{\"spec\":{\"username\":\"" user "\",\"tenant\":\"" tenant "\",\"issuedBefore\":\"" at "\"}}"
    static const char list[] = "[" ENDED("red:a\\\"n", "red", "2026-01-01T00:00:00Z") "," ENDED("red:a\\\"n", "", "2026-01-02T00:00:00Z") "," ENDED("red:x", "blue", "2026-01-01T00:00:00Z") ","
                               ENDED("blue:y", "", "2026-01-01T00:00:00Z") "]";
    struct oidc_config config;
    struct err err = ERR_INIT;
    const char *left_out;
    JSON_AUTO revocations = NULL;
    JSON_AUTO people = NULL;
    ASSERT_OK(oidc_config_parse(str_of(text), "it", arena, &config, &err));
    ASSERT_OK(json_parse(str_of(list), sizeof(list), &revocations, &err));
    JSON_AUTO doc = people_document(&config, NULL, "red", revocations, &people, &left_out);
    const json_t *rules = json_object_get(json_array_get(json_object_get(doc, "jwt"), 0), "claimValidationRules");
    assert_int_equal(json_array_size(rules), 1);
    assert_string_equal(json_str_or(json_array_get(rules, 0), "expression", ""),
                        "claims[\"sub\"] != \"a\\\"n\" || (has(claims.iat) && int(claims.iat) >= 1767312000)");
}

static void test_a_project_without_a_label_is_a_tenant_itself(void **state UNUSED)
{
    JSON_AUTO project = json_pack("{s:{s:s}}", "metadata", "name", "red");
    assert_string_equal(people_tenant(project, "red"), "red");
    assert_string_equal(people_tenant(NULL, "red"), ""); /* not known yet */
    json_put(project, "metadata.labels", json_pack("{s:s}", LABEL_TENANT, "blue"));
    assert_string_equal(people_tenant(project, "red"), "blue");
}

static void test_private_files_are_private(void **state UNUSED)
{
    static const char *const files[] = {"pki/ca.key", "pki/sa.key", "pki/super-admin.key", "pki/etcd.key", "conf/controllers.json"};
    struct stat st;
    char path[256];
    assert_int_equal(cluster_conf_ensure(&site, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    snprintf(path, sizeof(path), "%s/pki", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void test_a_kubeconfig_that_is_handed_on_has_no_path(void **state UNUSED)
{
    JSON_AUTO doc = NULL;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    assert_int_equal(kubeconfig_embedded(&site, "admin", "one-admin", &doc, NULL), 0);
    sbuf_init(&text, 65536);
    json_write(doc, &text);
    assert_null(strstr(text.ptr, dir));
    assert_non_null(strstr(text.ptr, "https://127.96.3.4:6443"));
    assert_string_equal(json_str_or(doc, "current-context", ""), "one-admin");
}

/* ---- directories ---- */

static bool none_taken(void *arg UNUSED, const char *address UNUSED)
{
    return false;
}

static bool all_taken(void *arg UNUSED, const char *address UNUSED)
{
    return true;
}

struct seen {
    int whole, broken;
};

static void see(void *arg, const char *uid UNUSED, const char *ns, const char *name)
{
    struct seen *s = arg;
    if (!strcmp(ns, "demo") && !strcmp(name, "one"))
        s->whole++;
    else
        s->broken++;
}

static void test_places(void **state UNUSED)
{
    struct cluster_network n;
    struct site s = site;
    struct err err = ERR_INIT;
    struct site again;
    char path[256], root[128];
    uint16_t port = 0;
    int files = 0;
    snprintf(root, sizeof(root), "%s/clusters", dir);
    snprintf(path, sizeof(path), "%s/%s", root, site.uid);
    s.dir = arena_strdup(arena, path);
    assert_int_equal(cluster_network_parse("127.110.0.0/16", &n, NULL), 0);
    assert_int_equal(place_load(&s, NULL), ERR_NOT_FOUND);
    assert_int_equal(place_make(&s, 1, &n, all_taken, NULL, &err), ERR_UNAVAILABLE);
    assert_int_equal(place_make(&s, 1, &n, none_taken, NULL, NULL), 0);
    const char *address = s.address;
    assert_int_equal(strncmp(address, "127.110.", 8), 0);
    again = (struct site){.dir = s.dir};
    assert_int_equal(place_load(&again, NULL), 0);
    assert_string_equal(address, again.address);
    assert_int_equal(again.members, 1);
    assert_false(place_in_use(address, &port));
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(PORT_APISERVER)};
    assert_int_equal(inet_pton(AF_INET, address, &at.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_true(place_in_use(address, &port));
    assert_int_equal(port, PORT_APISERVER);
    close(fd);
    snprintf(path, sizeof(path), "%s/not-one", root);
    assert_int_equal(mkdir(path, 0700), 0);
    struct seen seen = {0};
    assert_int_equal(place_each(root, see, &seen, NULL), 0);
    assert_int_equal(seen.whole, 1);
    assert_int_equal(seen.broken, 1);
    /* A record that says another address than a loopback one is not believed. */
    snprintf(path, sizeof(path), "%s/cluster.json", s.dir);
    assert_int_equal(file_write(path, STR("{\"address\": \"192.0.2.1\"}"), 0600, NULL), 0);
    assert_int_equal(place_load(&again, NULL), ERR_CORRUPT);
    assert_int_equal(place_remove(s.dir, &files, NULL), 0);
    assert_int_equal(files, 1);
    assert_false(file_exists(s.dir));
    assert_int_equal(place_remove(s.dir, &files, NULL), 0); /* again: nothing to do */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_older_keys_go_one_by_one),
        cmocka_unit_test(test_how_a_value_lies_in_the_store),
        cmocka_unit_test(test_only_a_store_from_before_may_have_secrets_in_clear),
        cmocka_unit_test(test_the_same_cluster_has_the_same_command_lines),
        cmocka_unit_test(test_what_is_said_to_components),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_keys_stay_and_leaves_are_made_anew),
        cmocka_unit_test(test_private_files_are_private), cmocka_unit_test(test_a_cluster_of_before_has_an_audit_log_too), cmocka_unit_test(test_urls_that_an_api_server_takes),
                                       cmocka_unit_test(test_a_tenants_clusters_know_its_issuers_and_no_others), cmocka_unit_test(test_a_clusters_own_issuer_stands_beside_its_tenants), cmocka_unit_test(test_whose_access_was_ended_stands_in_a_rule),
                                       cmocka_unit_test(test_a_project_without_a_label_is_a_tenant_itself),
        cmocka_unit_test(test_a_kubeconfig_that_is_handed_on_has_no_path),
        cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
