#include "crypto/csr.h"

#include <arpa/inet.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/mem.h"

static int subject_is(X509_NAME *name, const struct csr_allowed *allowed, struct err *err)
{
    int orgs = 0, names = 0;
    for (int i = 0; i < X509_NAME_entry_count(name); i++) {
        X509_NAME_ENTRY *e = X509_NAME_get_entry(name, i);
        int nid = OBJ_obj2nid(X509_NAME_ENTRY_get_object(e));
        const ASN1_STRING *s = X509_NAME_ENTRY_get_data(e);
        struct str text = str_n((const char *)ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
        bool good = (nid == NID_commonName && str_eqc(text, allowed->common_name)) || (nid == NID_organizationName && str_eqc(text, allowed->org));
        names += nid == NID_commonName;
        orgs += nid == NID_organizationName;
        if (!good)
            return err_set(err, ERR_FORBIDDEN, "its subject is not that of %s in %s", allowed->common_name, allowed->org);
    }
    return names == 1 && orgs == 1 ? 0 : err_set(err, ERR_FORBIDDEN, "its subject is not that of %s in %s", allowed->common_name, allowed->org);
}

static bool has(const char *const *list, struct str text)
{
    for (; list && *list; list++)
        if (str_eqc(text, *list))
            return true;
    return false;
}

static int name_is(const GENERAL_NAME *n, const struct csr_allowed *allowed, struct err *err)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (n->type == GEN_DNS) {
        struct str dns = str_n((const char *)ASN1_STRING_get0_data(n->d.dNSName), (size_t)ASN1_STRING_length(n->d.dNSName));
        return has(allowed->dns_names, dns) ? 0 : err_set(err, ERR_FORBIDDEN, "it asks for a name that is not this one's");
    }
    if (n->type != GEN_IPADD)
        return err_set(err, ERR_FORBIDDEN, "it asks for a name that is neither DNS name nor address");
    int len = ASN1_STRING_length(n->d.iPAddress);
    if (len == 4 || len == 16)
        inet_ntop(len == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(n->d.iPAddress), text, sizeof(text));
    return *text && has(allowed->ips, str_of(text)) ? 0 : err_set(err, ERR_FORBIDDEN, "it asks for address %s, which is not this one's", text);
}

static int names_are(X509_REQ *req, const struct csr_allowed *allowed, struct err *err)
{
    STACK_OF(X509_EXTENSION) *extensions = X509_REQ_get_extensions(req);
    int critical = 0, index = -1, rc = 0;
    GENERAL_NAMES *names = X509V3_get_d2i(extensions, NID_subject_alt_name, &critical, &index);
    if (!names || sk_GENERAL_NAME_num(names) < 1)
        rc = err_set(err, ERR_FORBIDDEN, "it asks for no name, or twice");
    for (int i = 0; rc == 0 && i < sk_GENERAL_NAME_num(names); i++)
        rc = name_is(sk_GENERAL_NAME_value(names, i), allowed, err);
    /* An authority is not what anybody gets here. */
    index = -1;
    BASIC_CONSTRAINTS *basic = X509V3_get_d2i(extensions, NID_basic_constraints, &critical, &index);
    if (rc == 0 && basic && basic->ca)
        rc = err_set(err, ERR_FORBIDDEN, "it asks to be an authority");
    BASIC_CONSTRAINTS_free(basic);
    GENERAL_NAMES_free(names);
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
    return rc;
}

int csr_check(struct str pem, const struct csr_allowed *allowed, struct err *err)
{
    if (!pem.len || pem.len > CSR_BYTES_MAX)
        return err_set(err, ERR_INVALID, "it is empty or too long");
    BIO *bio = BIO_new_mem_buf(pem.ptr, (int)pem.len);
    X509_REQ *req = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;
    EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;
    int rc = key && X509_REQ_verify(req, key) == 1 ? 0 : err_set(err, ERR_INVALID, "it is no request for a certificate, or not signed by its own key");
    if (rc == 0)
        rc = subject_is(X509_REQ_get_subject_name(req), allowed, err);
    if (rc == 0)
        rc = names_are(req, allowed, err);
    X509_REQ_free(req);
    BIO_free(bio);
    ERR_clear_error();
    return rc;
}

/* ---- our own ---- */

static bool add_name(X509_NAME *name, const char *field, const char *text)
{
    return *text && strlen(text) <= CSR_NAME_MAX && X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, (const unsigned char *)text, -1, -1, 0);
}

static char *text_of(BIO *bio)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    return xstrndup(data, (size_t)len);
}

static int write_both(X509_REQ *req, EVP_PKEY *key, char **ret_request_pem, char **ret_key_pem, struct err *err)
{
    BIO *first = BIO_new(BIO_s_mem()), *second = BIO_new(BIO_s_secmem());
    bool good = first && second && PEM_write_bio_X509_REQ(first, req) && PEM_write_bio_PrivateKey(second, key, NULL, NULL, 0, NULL, NULL);
    if (good) {
        *ret_request_pem = text_of(first);
        *ret_key_pem = text_of(second);
    }
    BIO_free(first);
    BIO_free(second);
    return good ? 0 : err_set(err, ERR_INTERNAL, "a request for a certificate could not be written");
}

int csr_make(const char *common_name, const char *const *orgs, char **ret_request_pem, char **ret_key_pem, struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509_REQ *req = X509_REQ_new();
    X509_NAME *name = req ? X509_REQ_get_subject_name(req) : NULL;
    int rc = key && name ? 0 : err_set(err, ERR_INTERNAL, "a request for a certificate could not be made");
    for (; rc == 0 && orgs && *orgs; orgs++)
        if (!add_name(name, "O", *orgs))
            rc = err_set(err, ERR_INVALID, "\"%.80s\": expected 1 to %d bytes", *orgs, CSR_NAME_MAX);
    if (rc == 0 && !add_name(name, "CN", common_name))
        rc = err_set(err, ERR_INVALID, "\"%.80s\": expected 1 to %d bytes", common_name, CSR_NAME_MAX);
    if (rc == 0 && !(X509_REQ_set_pubkey(req, key) && X509_REQ_sign(req, key, EVP_sha256())))
        rc = err_set(err, ERR_INTERNAL, "a request for a certificate could not be signed");
    if (rc == 0)
        rc = write_both(req, key, ret_request_pem, ret_key_pem, err);
    X509_REQ_free(req);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return rc;
}

int csr_certificate_end(struct str pem, int64_t *ret_ms, struct err *err)
{
    BIO *bio = BIO_new_mem_buf(pem.ptr, (int)pem.len);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    struct tm tm = {0};
    int rc = cert && ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) ? 0 : err_set(err, ERR_INVALID, "there is no certificate in PEM");
    if (rc == 0)
        *ret_ms = (int64_t)timegm(&tm) * 1000;
    X509_free(cert);
    BIO_free(bio);
    ERR_clear_error();
    return rc;
}
