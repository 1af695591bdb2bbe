/* Hashes by published vectors, base64, certificates judged by OpenSSL's own verifier, tokens. */
#include "unit.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "crypto/pki.h"
#include "crypto/token.h"

static char dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-crypto-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

static const char *in_dir(const char *name)
{
    static char paths[4][128];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
    return p;
}

static unsigned mode_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(in_dir(name), &st), 0);
    return st.st_mode & 0777;
}

/* ---- hashes ---- */

static void sha256_vectors(void **state)
{
    (void)state;
    uint8_t d[SHA256_BYTES];
    char hex[SHA256_HEX_MAX];
    hash_sha256(STR_NULL, d);
    hash_hex(d, sizeof(d), hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_sha256(STR("abc"), d);
    hash_hex(d, sizeof(d), hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    /* RFC 4231, cases 1 and 2 */
    hash_hmac_sha256(STR("\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b"), STR("Hi There"), d);
    hash_hex(d, sizeof(d), hex);
    assert_string_equal(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    hash_hmac_sha256(STR("Jefe"), STR("what do ya want for nothing?"), d);
    hash_hex(d, sizeof(d), hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    /* case 6: a key longer than a block */
    char key[131];
    memset(key, 0xaa, sizeof(key));
    hash_hmac_sha256(str_n(key, sizeof(key)), STR("Test Using Larger Than Block-Size Key - Hash Key First"), d);
    hash_hex(d, sizeof(d), hex);
    assert_string_equal(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static bool count_calls(void *arg, uint64_t done)
{
    int *calls = arg;
    ++*calls;
    assert_int_equal(done, *calls <= 2 ? (uint64_t)*calls << 20 : (2 << 20) + 1);
    return true;
}

static bool refuse(void *arg, uint64_t done)
{
    (void)arg;
    (void)done;
    return false;
}

static void file_digest(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    size_t len = (2 << 20) + 1;
    char *bytes = xcalloc(1, len), hex[SHA256_HEX_MAX] = "", want[SHA256_HEX_MAX];
    memset(bytes, 'a', len);
    uint64_t size = 0;
    uint8_t d[SHA256_BYTES];
    int calls = 0;
    ASSERT_OK(file_write(in_dir("f"), str_n(bytes, len), 0600, &err));
    ASSERT_OK(hash_file_sha256(in_dir("f"), count_calls, &calls, hex, &size, &err));
    hash_sha256(str_n(bytes, len), d);
    hash_hex(d, sizeof(d), want);
    assert_string_equal(hex, want);
    assert_int_equal(size, len);
    assert_int_equal(calls, 3);
    ASSERT_ERR(hash_file_sha256(in_dir("f"), refuse, NULL, hex, &size, &err), ERR_CANCELED);
    ASSERT_ERR(hash_file_sha256(in_dir("none"), NULL, NULL, hex, &size, &err), ERR_NOT_FOUND);
    mem_free(bytes);
}

static void base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"},
                                           {"\xff\xef\xbe", "/+++"}};
    static const char *const bad[] = {"Z", "Zg", "Zg=", "Zg===", "====", "A===", "Zg==Zg==", "Zm9\n", "Zm-_", "Z=8="};
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0}, back = {0};
        sbuf_init(&text, 64);
        sbuf_init(&back, 64);
        base64_encode(str_of(pairs[i][0]), &text);
        assert_true(str_eqc(sbuf_str(&text), pairs[i][1]));
        ASSERT_OK(base64_decode(str_of(pairs[i][1]), &back, &err));
        assert_true(str_eqc(sbuf_str(&back), pairs[i][0]));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CLEANUP(sbuf_deinit) struct sbuf back = {0};
        sbuf_init(&back, 64);
        if (base64_decode(str_of(bad[i]), &back, &err) != ERR_BAD_REQUEST)
            fail_msg("accepted: %s", bad[i]);
    }
    CLEANUP(sbuf_deinit) struct sbuf small = {0};
    sbuf_init(&small, 2);
    ASSERT_ERR(base64_decode(STR("Zm9v"), &small, &err), ERR_TOO_LARGE);
}

/* ---- certificates ---- */

static X509 *read_cert(const char *name)
{
    FILE *f = fopen(in_dir(name), "re");
    assert_non_null(f);
    X509 *c = PEM_read_X509(f, NULL, NULL, NULL);
    fclose(f);
    assert_non_null(c);
    return c;
}

/* OpenSSL's strict verification of NAME.crt against CA.crt, for a purpose. */
static int verify(const char *name, const char *ca_name, int purpose)
{
    X509 *cert = read_cert(name), *ca = read_cert(ca_name);
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509_STORE_add_cert(store, ca);
    X509_STORE_set_flags(store, X509_V_FLAG_X509_STRICT);
    assert_int_equal(X509_STORE_CTX_init(ctx, store, cert, NULL), 1);
    X509_STORE_CTX_set_purpose(ctx, purpose);
    int rc = X509_verify_cert(ctx) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(ctx);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    X509_free(cert);
    X509_free(ca);
    return rc;
}

static const char *const dns[] = {"localhost", "seki.svc", NULL};
static const char *const ips[] = {"127.0.0.1", "::1", NULL};
static const char *const orgs[] = {"system:masters", "ops", NULL};

static void issuing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pki_ca *ca = NULL, *other = NULL;
    bool made = false;
    ASSERT_OK(pki_ca_ensure(dir, "ca", "seki-ca", &ca, &err));
    ASSERT_OK(pki_ca_ensure(dir, "other", "seki-ca", &other, &err));
    const struct pki_leaf server = {.common_name = "seki", .dns_names = dns, .ips = ips, .usage = PKI_SERVER, .days = 90};
    const struct pki_leaf client = {.common_name = "admin", .orgs = orgs, .usage = PKI_CLIENT, .days = 90};
    ASSERT_OK(pki_leaf_ensure(ca, dir, "server", &server, &made, &err));
    assert_true(made);
    ASSERT_OK(pki_leaf_ensure(ca, dir, "client", &client, NULL, &err));
    assert_int_equal(mode_of("ca.key"), 0600);
    assert_int_equal(mode_of("server.key"), 0600);
    assert_int_equal(mode_of("server.crt"), 0644);
    assert_int_equal(verify("server.crt", "ca.crt", X509_PURPOSE_SSL_SERVER), X509_V_OK);
    assert_int_equal(verify("client.crt", "ca.crt", X509_PURPOSE_SSL_CLIENT), X509_V_OK);
    assert_int_equal(verify("server.crt", "ca.crt", X509_PURPOSE_SSL_CLIENT), X509_V_ERR_INVALID_PURPOSE);
    assert_int_equal(verify("client.crt", "ca.crt", X509_PURPOSE_SSL_SERVER), X509_V_ERR_INVALID_PURPOSE);
    assert_int_not_equal(verify("server.crt", "other.crt", X509_PURPOSE_SSL_SERVER), X509_V_OK);
    X509 *c = read_cert("server.crt"), *root = read_cert("ca.crt");
    assert_int_equal(X509_check_host(c, "seki.svc", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(c, "evil.svc", 0, 0, NULL), 0);
    assert_int_equal(X509_check_ip_asc(c, "127.0.0.1", 0), 1);
    assert_int_equal(X509_check_ip_asc(c, "::1", 0), 1);
    assert_int_equal(X509_check_ip_asc(c, "127.0.0.2", 0), 0);
    assert_int_equal(X509_check_ca(c), 0);
    assert_int_equal(X509_check_ca(root), 1);
    assert_int_equal(ASN1_STRING_length(X509_get0_serialNumber(c)), 16);
    X509_free(c);
    X509_free(root);
    /* The CA's text is the file's, and loading it again gives the same. */
    struct pki_ca *again = NULL;
    ASSERT_OK(pki_ca_ensure(dir, "ca", "ignored", &again, &err));
    assert_string_equal(pki_ca_pem(again), pki_ca_pem(ca));
    pki_ca_free(again);
    pki_ca_free(ca);
    pki_ca_free(other);
}

static void made_anew_only_when_it_must(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pki_ca *ca = NULL, *other = NULL;
    static const char *const more[] = {"localhost", "new.svc", NULL};
    static const char *const fewer_orgs[] = {"ops", NULL};
    bool made;
    ASSERT_OK(pki_ca_ensure(dir, "ca", "seki-ca", &ca, &err));
    ASSERT_OK(pki_ca_ensure(dir, "other", "seki-ca", &other, &err));
    struct pki_leaf leaf = {.common_name = "a", .orgs = orgs, .dns_names = dns, .ips = ips, .usage = PKI_SERVER, .days = 90};
#define ENSURE(authority, want)                                                \
    do {                                                                       \
        ASSERT_OK(pki_leaf_ensure(authority, dir, "leaf", &leaf, &made, &err)); \
        assert_int_equal(made, want);                                          \
        ASSERT_OK(pki_leaf_ensure(authority, dir, "leaf", &leaf, &made, &err)); \
        assert_false(made);                                                    \
    } while (0)
    ENSURE(ca, true);
    leaf.dns_names = more;
    ENSURE(ca, true);
    leaf.usage = PKI_SERVER | PKI_CLIENT;
    ENSURE(ca, true);
    leaf.orgs = fewer_orgs; /* a group taken away must not live on in a certificate */
    ENSURE(ca, true);
    leaf.common_name = "b";
    ENSURE(ca, true);
    ENSURE(other, true);
    ASSERT_OK(file_write(in_dir("leaf.key"), STR("garbage"), 0600, &err));
    ENSURE(other, true);
    assert_int_equal(remove(in_dir("leaf.crt")), 0);
    ENSURE(other, true);
    pki_ca_free(other);
    pki_ca_free(ca);
}

static void leaf_ends_with_its_ca(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pki_ca *ca = NULL;
    ASSERT_OK(pki_ca_ensure(dir, "ca", "seki-ca", &ca, &err));
    const struct pki_leaf leaf = {.common_name = "a", .dns_names = dns, .usage = PKI_SERVER, .days = 5000};
    ASSERT_OK(pki_leaf_ensure(ca, dir, "leaf", &leaf, NULL, &err));
    X509 *c = read_cert("leaf.crt"), *root = read_cert("ca.crt");
    assert_int_equal(ASN1_TIME_compare(X509_get0_notAfter(c), X509_get0_notAfter(root)), 0);
    X509_free(c);
    X509_free(root);
    pki_ca_free(ca);
}

static void damaged_ca(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pki_ca *ca = NULL;
    ASSERT_OK(pki_ca_ensure(dir, "a", "A", &ca, &err));
    pki_ca_free(ca);
    ASSERT_OK(pki_ca_ensure(dir, "b", "B", &ca, &err));
    pki_ca_free(ca);
    ca = NULL;
    assert_int_equal(rename(in_dir("b.key"), in_dir("a.key")), 0); /* another's key */
    ASSERT_ERR(pki_ca_ensure(dir, "a", "A", &ca, &err), ERR_CORRUPT);
    ASSERT_ERR(pki_ca_ensure(dir, "b", "B", &ca, &err), ERR_NOT_FOUND); /* never replaced silently */
    ASSERT_OK(file_write(in_dir("a.crt"), STR("garbage"), 0644, &err));
    ASSERT_ERR(pki_ca_ensure(dir, "a", "A", &ca, &err), ERR_CORRUPT);
    assert_null(ca);
}

/* ---- tokens ---- */

static void tokens(void **state)
{
    (void)state;
    char a[TOKEN_TEXT_MAX], b[TOKEN_TEXT_MAX];
    token_make(a);
    token_make(b);
    assert_int_equal(strlen(a), 48);
    assert_int_equal(strspn(a + 8, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"), 40);
    assert_memory_equal(a, TOKEN_PREFIX, 8);
    assert_string_not_equal(a, b);
}

static void pepper(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct token_pepper p, q, r;
    char one[SHA256_HEX_MAX], two[SHA256_HEX_MAX], three[SHA256_HEX_MAX];
    ASSERT_OK(token_pepper_ensure(in_dir("pepper"), &p, &err));
    assert_int_equal(mode_of("pepper"), 0600);
    ASSERT_OK(token_pepper_ensure(in_dir("pepper"), &q, &err));
    assert_memory_equal(p.bytes, q.bytes, sizeof(p.bytes));
    ASSERT_OK(token_pepper_ensure(in_dir("another"), &r, &err));
    token_hash(&p, STR("sk-seki-x"), one);
    token_hash(&r, STR("sk-seki-x"), two);
    token_hash(&p, STR("sk-seki-y"), three);
    assert_int_equal(strlen(one), 64);
    assert_string_not_equal(one, two);
    assert_string_not_equal(one, three);
    struct token_pepper zero = {{0}}; /* HMAC-SHA-256 with 32 zero bytes as key */
    uint8_t mac[SHA256_BYTES];
    hash_hmac_sha256(str_n(zero.bytes, 32), STR("t"), mac);
    hash_hex(mac, sizeof(mac), two);
    token_hash(&zero, STR("t"), one);
    assert_string_equal(one, two);
    ASSERT_OK(file_write(in_dir("pepper"), STR("short"), 0600, &err));
    ASSERT_ERR(token_pepper_ensure(in_dir("pepper"), &q, &err), ERR_CORRUPT);
}

#define DIR_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_vectors), DIR_TEST(file_digest), cmocka_unit_test(base64),
        DIR_TEST(issuing), DIR_TEST(made_anew_only_when_it_must), DIR_TEST(leaf_ends_with_its_ca),
        DIR_TEST(damaged_ca), cmocka_unit_test(tokens), DIR_TEST(pepper),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
