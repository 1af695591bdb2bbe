/* Requests for certificates: a kubelet's own are taken, those that ask for more are not. */
#include "unit.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "base/mem.h"
#include "crypto/csr.h"

struct wish {
    const char *cn, *org, *second_org, *san, *basic;
    bool forged;
};

static void add_extension(STACK_OF(X509_EXTENSION) *list, int nid, const char *value)
{
    X509_EXTENSION *e = value ? X509V3_EXT_conf_nid(NULL, NULL, nid, value) : NULL;
    if (e)
        sk_X509_EXTENSION_push(list, e);
}

static char *request_for(const struct wish *w)
{
    EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
    X509_REQ *req = X509_REQ_new();
    X509_NAME *name = X509_REQ_get_subject_name(req);
    STACK_OF(X509_EXTENSION) *list = sk_X509_EXTENSION_new_null();
    const char *const orgs[] = {w->org, w->second_org};
    for (size_t i = 0; i < 2; i++)
        if (orgs[i])
            X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const unsigned char *)orgs[i], -1, -1, 0);
    if (w->cn)
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)w->cn, -1, -1, 0);
    add_extension(list, NID_subject_alt_name, w->san);
    add_extension(list, NID_basic_constraints, w->basic);
    if (sk_X509_EXTENSION_num(list))
        X509_REQ_add_extensions(req, list);
    X509_REQ_set_pubkey(req, key);
    X509_REQ_sign(req, w->forged ? other : key, EVP_sha256());
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509_REQ(bio, req);
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    char *pem = xstrndup(data, (size_t)len);
    BIO_free(bio);
    sk_X509_EXTENSION_pop_free(list, X509_EXTENSION_free);
    X509_REQ_free(req);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other);
    return pem;
}

static void test_what_a_node_may_ask_for(void **state UNUSED)
{
    static const char *const names[] = {"workers-0", NULL}, *const ips[] = {"10.201.0.10", NULL};
    static const struct csr_allowed allowed = {"system:node:workers-0", "system:nodes", names, ips};
    static const struct {
        struct wish wish;
        int rc;
        const char *said;
    } cases[] = {
        {{"system:node:workers-0", "system:nodes", NULL, "DNS:workers-0,IP:10.201.0.10", NULL, false}, 0, ""},
        {{"system:node:workers-0", "system:nodes", NULL, "IP:10.201.0.10", NULL, false}, 0, ""},
        {{"system:node:workers-0", "system:nodes", NULL, "IP:10.201.0.10", "CA:FALSE", false}, 0, ""},
        {{"system:node:workers-0", "system:nodes", NULL, "DNS:workers-0,IP:10.201.0.11", NULL, false}, ERR_FORBIDDEN, "10.201.0.11"},
        {{"system:node:workers-0", "system:nodes", NULL, "DNS:kubernetes,IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "name"},
        {{"system:node:workers-0", "system:nodes", NULL, "IP:::1", NULL, false}, ERR_FORBIDDEN, "::1"},
        {{"system:node:workers-0", "system:nodes", NULL, "URI:https://x,IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "neither"},
        {{"system:node:workers-0", "system:nodes", NULL, NULL, NULL, false}, ERR_FORBIDDEN, "no name"},
        {{"system:node:workers-1", "system:nodes", NULL, "IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "subject"},
        {{"system:node:workers-0", "system:masters", NULL, "IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "subject"},
        {{"system:node:workers-0", "system:nodes", "system:masters", "IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "subject"},
        {{"system:node:workers-0", NULL, NULL, "IP:10.201.0.10", NULL, false}, ERR_FORBIDDEN, "subject"},
        {{"system:node:workers-0", "system:nodes", NULL, "IP:10.201.0.10", "critical,CA:TRUE", false}, ERR_FORBIDDEN, "authority"},
        {{"system:node:workers-0", "system:nodes", NULL, "IP:10.201.0.10", NULL, true}, ERR_INVALID, "signed"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(mem_freep) char *pem = request_for(&cases[i].wish);
        struct err err = ERR_INIT;
        int rc = csr_check(str_of(pem), &allowed, &err);
        if (rc != cases[i].rc || (rc < 0 && !strstr(err.msg, cases[i].said)))
            fail_msg("case %zu: %d %s", i, rc, err.msg);
    }
    struct err err = ERR_INIT;
    assert_int_equal(csr_check(STR(""), &allowed, &err), ERR_INVALID);
    assert_int_equal(csr_check(STR("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), &allowed, &err), ERR_INVALID);
}

static void test_a_request_of_ours_has_its_names_and_its_key(void **state UNUSED)
{
    static const char *const orgs[] = {"team-a", "team-b", NULL}, *const empty[] = {"", NULL};
    CLEANUP(mem_freep) char *pem = NULL, *key = NULL;
    struct err err = ERR_INIT;
    char subject[200] = "", sixty_five[66];
    memset(sixty_five, 'x', 65);
    sixty_five[65] = 0;
    ASSERT_OK(csr_make("ann", orgs, &pem, &key, &err));
    BIO *first = BIO_new_mem_buf(pem, -1), *second = BIO_new_mem_buf(key, -1);
    X509_REQ *req = PEM_read_bio_X509_REQ(first, NULL, NULL, NULL);
    EVP_PKEY *private = PEM_read_bio_PrivateKey(second, NULL, NULL, NULL);
    assert_int_equal(X509_REQ_verify(req, private), 1);
    X509_NAME_oneline(X509_REQ_get_subject_name(req), subject, sizeof(subject));
    assert_string_equal(subject, "/O=team-a/O=team-b/CN=ann");
    X509_REQ_free(req);
    EVP_PKEY_free(private);
    BIO_free(first);
    BIO_free(second);
    char *none = NULL;
    ASSERT_ERR(csr_make("", NULL, &none, &none, &err), ERR_INVALID);
    ASSERT_ERR(csr_make(sixty_five, NULL, &none, &none, &err), ERR_INVALID);
    ASSERT_ERR(csr_make("ann", empty, &none, &none, &err), ERR_INVALID);
    int64_t end = 0;
    ASSERT_ERR(csr_certificate_end(STR("no certificate"), &end, &err), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_a_node_may_ask_for), cmocka_unit_test(test_a_request_of_ours_has_its_names_and_its_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
