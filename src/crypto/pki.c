#include "crypto/pki.h"

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define CA_DAYS 3650
#define SERIAL_BYTES 16
#define PEM_MAX 65536

struct pki_ca {
    X509 *cert;
    EVP_PKEY *key;
    char *pem;
};

static int ssl_error(struct err *err, const char *what)
{
    char text[160];
    unsigned long e = ERR_get_error();
    ERR_error_string_n(e, text, sizeof(text));
    ERR_clear_error();
    return err_set(err, ERR_INTERNAL, "%s: %s", what, e ? text : "out of memory");
}

/* ---- files ---- */

static int read_bio(const char *path, BIO **ret, struct err *err)
{
    char *text = NULL;
    size_t len = 0;
    int rc = file_read(path, PEM_MAX, &text, &len, err);
    if (rc < 0)
        return rc;
    BIO *b = BIO_new(BIO_s_mem());
    if (b)
        BIO_write(b, text, (int)len);
    mem_wipe(text, len);
    mem_free(text);
    *ret = b;
    return b ? 0 : err_set(err, ERR_NO_MEMORY, "out of memory");
}

static int load_cert(const char *path, X509 **ret, struct err *err)
{
    BIO *b = NULL;
    int rc = read_bio(path, &b, err);
    if (rc < 0)
        return rc;
    *ret = PEM_read_bio_X509(b, NULL, NULL, NULL);
    BIO_free(b);
    return *ret ? 0 : err_set(err, ERR_CORRUPT, "%s: no certificate in PEM", path);
}

static int load_key(const char *path, EVP_PKEY **ret, struct err *err)
{
    BIO *b = NULL;
    int rc = read_bio(path, &b, err);
    if (rc < 0)
        return rc;
    *ret = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
    BIO_free(b);
    return *ret ? 0 : err_set(err, ERR_CORRUPT, "%s: no private key in PEM", path);
}

static int save_bio(BIO *b, const char *path, mode_t mode, struct err *err)
{
    char *text = NULL;
    long len = BIO_get_mem_data(b, &text);
    return file_write(path, str_n(text, (size_t)len), mode, err);
}

static int save_private(EVP_PKEY *key, const char *path, struct err *err)
{
    BIO *b = BIO_new(BIO_s_secmem());
    int rc = b && PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) ? save_bio(b, path, 0600, err) : ssl_error(err, path);
    BIO_free(b);
    return rc;
}

/* The key first: a certificate without its key would be useless, the other way round is repaired by the next start. */
static int save_pair(const char *dir, const char *name, X509 *cert, EVP_PKEY *key, struct err *err)
{
    CLEANUP(mem_freep) char *key_path = xasprintf("%s/%s.key", dir, name);
    CLEANUP(mem_freep) char *cert_path = xasprintf("%s/%s.crt", dir, name);
    int rc = save_private(key, key_path, err);
    if (rc < 0)
        return rc;
    BIO *b = BIO_new(BIO_s_mem());
    rc = b && PEM_write_bio_X509(b, cert) ? save_bio(b, cert_path, 0644, err) : ssl_error(err, cert_path);
    BIO_free(b);
    return rc;
}

/* ---- making certificates ---- */

static int add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!e)
        return 0;
    int ok = X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
    return ok;
}

static int set_serial(X509 *cert)
{
    unsigned char bytes[SERIAL_BYTES];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return 0;
    bytes[0] = (bytes[0] & 0x7F) | 0x40; /* positive, and never shorter */
    BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
    int ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    return ok;
}

static int set_name(X509_NAME *name, const char *common_name, const char *const *orgs)
{
    for (; orgs && *orgs; orgs++)
        if (!X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const unsigned char *)*orgs, -1, -1, 0))
            return 0;
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0);
}

static X509 *new_cert(EVP_PKEY *key, int days, int seconds)
{
    X509 *c = X509_new();
    if (c && X509_set_version(c, X509_VERSION_3) && set_serial(c) && X509_gmtime_adj(X509_getm_notBefore(c), -PKI_BACKDATE_S) &&
        X509_time_adj_ex(X509_getm_notAfter(c), days, seconds, NULL) && X509_set_pubkey(c, key))
        return c;
    X509_free(c);
    return NULL;
}

static int make_ca(struct pki_ca *ca, const char *common_name, struct err *err)
{
    ca->key = EVP_EC_gen("P-256");
    ca->cert = ca->key ? new_cert(ca->key, CA_DAYS, 0) : NULL;
    X509 *c = ca->cert;
    if (!c || !set_name(X509_get_subject_name(c), common_name, NULL) || !X509_set_issuer_name(c, X509_get_subject_name(c)) ||
        !add_ext(c, c, NID_basic_constraints, "critical,CA:TRUE") || !add_ext(c, c, NID_key_usage, "critical,keyCertSign,cRLSign,digitalSignature") ||
        !add_ext(c, c, NID_subject_key_identifier, "hash") || !add_ext(c, c, NID_authority_key_identifier, "keyid:always") ||
        !X509_sign(c, ca->key, EVP_sha256()))
        return ssl_error(err, "making a certificate authority");
    return 0;
}

static int add_san(X509 *cert, const struct pki_leaf *leaf)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    int ok = names != NULL;
    for (const char *const *n = leaf->dns_names; ok && n && *n; n++) {
        GENERAL_NAME *g = GENERAL_NAME_new();
        ASN1_IA5STRING *s = ASN1_IA5STRING_new();
        ok = g && s && ASN1_STRING_set(s, *n, -1);
        GENERAL_NAME_set0_value(g, GEN_DNS, s);
        sk_GENERAL_NAME_push(names, g);
    }
    for (const char *const *n = leaf->ips; ok && n && *n; n++) {
        GENERAL_NAME *g = GENERAL_NAME_new();
        ASN1_OCTET_STRING *s = a2i_IPADDRESS(*n);
        ok = g && s;
        if (ok) {
            GENERAL_NAME_set0_value(g, GEN_IPADD, s);
            sk_GENERAL_NAME_push(names, g);
        }
    }
    if (ok && sk_GENERAL_NAME_num(names) > 0)
        ok = X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT);
    GENERAL_NAMES_free(names);
    return ok;
}

static const char *usage_text(int usage)
{
    return usage == (PKI_SERVER | PKI_CLIENT) ? "serverAuth,clientAuth" : usage == PKI_SERVER ? "serverAuth" : "clientAuth";
}

static int make_leaf(const struct pki_ca *ca, const struct pki_leaf *leaf, X509 **ret_cert, EVP_PKEY **ret_key, struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *c = key ? new_cert(key, leaf->seconds ? 0 : leaf->days, leaf->seconds) : NULL;
    bool ok = c && set_name(X509_get_subject_name(c), leaf->common_name, leaf->orgs) && X509_set_issuer_name(c, X509_get_subject_name(ca->cert)) &&
              add_ext(c, ca->cert, NID_basic_constraints, "critical,CA:FALSE") && add_ext(c, ca->cert, NID_key_usage, "critical,digitalSignature") &&
              add_ext(c, ca->cert, NID_ext_key_usage, usage_text(leaf->usage)) && add_ext(c, ca->cert, NID_subject_key_identifier, "hash") &&
              add_ext(c, ca->cert, NID_authority_key_identifier, "keyid:always") && add_san(c, leaf);
    /* A leaf that outlives its CA fails in some verifiers and not in others. */
    if (ok && ASN1_TIME_compare(X509_get0_notAfter(c), X509_get0_notAfter(ca->cert)) > 0)
        ok = X509_set1_notAfter(c, X509_get0_notAfter(ca->cert));
    ok = ok && X509_sign(c, ca->key, EVP_sha256());
    if (!ok) {
        X509_free(c);
        EVP_PKEY_free(key);
        return ssl_error(err, "making a certificate");
    }
    *ret_cert = c;
    *ret_key = key;
    return 0;
}

/* ---- is what lies there good enough? ---- */

static bool has_orgs(X509_NAME *name, const char *const *orgs)
{
    int wanted = 0, at = -1, found = 0;
    while (orgs && orgs[wanted])
        wanted++;
    while ((at = X509_NAME_get_index_by_NID(name, NID_organizationName, at)) >= 0) {
        struct str o = str_n(ASN1_STRING_get0_data(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at))),
                             (size_t)ASN1_STRING_length(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at))));
        bool known = false;
        for (int i = 0; i < wanted; i++)
            known = known || str_eqc(o, orgs[i]);
        if (!known)
            return false;
        found++;
    }
    return found == wanted;
}

static bool covers(X509 *cert, const struct pki_leaf *leaf)
{
    char cn[256];
    X509_NAME *name = X509_get_subject_name(cert);
    if (X509_NAME_get_text_by_NID(name, NID_commonName, cn, sizeof(cn)) < 0 || strcmp(cn, leaf->common_name) || !has_orgs(name, leaf->orgs))
        return false;
    for (const char *const *n = leaf->dns_names; n && *n; n++)
        if (X509_check_host(cert, *n, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) != 1)
            return false;
    for (const char *const *n = leaf->ips; n && *n; n++)
        if (X509_check_ip_asc(cert, *n, 0) != 1)
            return false;
    uint32_t usage = X509_get_extended_key_usage(cert);
    return (!(leaf->usage & PKI_SERVER) || (usage & XKU_SSL_SERVER)) && (!(leaf->usage & PKI_CLIENT) || (usage & XKU_SSL_CLIENT));
}

static bool has_life_left(X509 *cert)
{
    int past_days = 0, past_s = 0, left_days = 0, left_s = 0;
    if (!ASN1_TIME_diff(&past_days, &past_s, X509_get0_notBefore(cert), NULL) || !ASN1_TIME_diff(&left_days, &left_s, NULL, X509_get0_notAfter(cert)))
        return false;
    int64_t past = (int64_t)past_days * 86400 + past_s, left = (int64_t)left_days * 86400 + left_s;
    return left > 0 && past > -PKI_BACKDATE_S && left * 3 > past + left;
}

static bool is_good(const struct pki_ca *ca, const char *dir, const char *name, const struct pki_leaf *leaf)
{
    CLEANUP(mem_freep) char *key_path = xasprintf("%s/%s.key", dir, name);
    CLEANUP(mem_freep) char *cert_path = xasprintf("%s/%s.crt", dir, name);
    X509 *cert = NULL;
    EVP_PKEY *key = NULL;
    bool good = load_cert(cert_path, &cert, NULL) == 0 && load_key(key_path, &key, NULL) == 0 && X509_check_private_key(cert, key) == 1 &&
                X509_verify(cert, ca->key) == 1 && covers(cert, leaf) && has_life_left(cert);
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return good;
}

/* ---- the interface ---- */

int pki_ca_ensure(const char *dir, const char *name, const char *common_name, struct pki_ca **ret, struct err *err)
{
    CLEANUP(mem_freep) char *key_path = xasprintf("%s/%s.key", dir, name);
    CLEANUP(mem_freep) char *cert_path = xasprintf("%s/%s.crt", dir, name);
    struct pki_ca *ca = XNEW(struct pki_ca);
    int rc;
    if (file_exists(cert_path)) {
        rc = load_cert(cert_path, &ca->cert, err);
        if (rc == 0)
            rc = load_key(key_path, &ca->key, err);
        if (rc == 0 && X509_check_private_key(ca->cert, ca->key) != 1)
            rc = err_set(err, ERR_CORRUPT, "%s does not belong to %s", key_path, cert_path);
    } else {
        rc = make_ca(ca, common_name, err);
        if (rc == 0)
            rc = save_pair(dir, name, ca->cert, ca->key, err);
    }
    size_t len = 0;
    if (rc == 0)
        rc = file_read(cert_path, PEM_MAX, &ca->pem, &len, err);
    if (rc < 0) {
        pki_ca_free(ca);
        return rc;
    }
    *ret = ca;
    return 0;
}

void pki_ca_free(struct pki_ca *ca)
{
    if (!ca)
        return;
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
    mem_free(ca->pem);
    mem_free(ca);
}

const char *pki_ca_pem(const struct pki_ca *ca)
{
    return ca->pem;
}

int pki_leaf_ensure(const struct pki_ca *ca, const char *dir, const char *name, const struct pki_leaf *leaf, bool *ret_made, struct err *err)
{
    bool good = !leaf->anew && is_good(ca, dir, name, leaf);
    if (ret_made)
        *ret_made = !good;
    if (good)
        return 0;
    X509 *cert = NULL;
    EVP_PKEY *key = NULL;
    int rc = make_leaf(ca, leaf, &cert, &key, err);
    if (rc == 0)
        rc = save_pair(dir, name, cert, key, err);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

static int save_public(EVP_PKEY *key, const char *path, struct err *err)
{
    BIO *b = BIO_new(BIO_s_mem());
    int rc = b && PEM_write_bio_PUBKEY(b, key) ? save_bio(b, path, 0644, err) : ssl_error(err, path);
    BIO_free(b);
    return rc;
}

int pki_key_pair_ensure(const char *dir, const char *name, struct err *err)
{
    CLEANUP(mem_freep) char *key_path = xasprintf("%s/%s.key", dir, name);
    CLEANUP(mem_freep) char *pub_path = xasprintf("%s/%s.pub", dir, name);
    EVP_PKEY *key = NULL;
    int rc = 0;
    if (file_exists(key_path)) {
        rc = load_key(key_path, &key, err);
    } else {
        key = EVP_EC_gen("P-256");
        rc = key ? save_private(key, key_path, err) : ssl_error(err, "making a key");
        if (rc == 0)
            rc = save_public(key, pub_path, err);
    }
    if (rc == 0 && !file_exists(pub_path))
        rc = save_public(key, pub_path, err);
    EVP_PKEY_free(key);
    return rc;
}

int pki_certificates_check(struct str pem)
{
    BIO *bio = BIO_new_mem_buf(pem.ptr, (int)pem.len);
    char *name = NULL, *header = NULL;
    unsigned char *der = NULL;
    long len = 0;
    int found = 0;
    bool good = bio != NULL;
    ERR_clear_error();
    while (good && PEM_read_bio(bio, &name, &header, &der, &len) == 1) {
        const unsigned char *at = der;
        X509 *cert = !strcmp(name, "CERTIFICATE") && !*header ? d2i_X509(NULL, &at, len) : NULL;
        good = cert && at == der + len;
        found++;
        X509_free(cert);
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(der);
    }
    /* Whatever ended it but the end of the text is a mistake in it. */
    good = good && found && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    return good ? 0 : ERR_INVALID;
}

int pki_certificate_end(const char *path, int64_t *ret_ms, struct err *err)
{
    X509 *cert = NULL;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days = 0, seconds = 0;
    int rc = epoch ? load_cert(path, &cert, err) : err_set(err, ERR_NO_MEMORY, "out of memory");
    if (rc == 0 && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(cert)) != 1)
        rc = err_set(err, ERR_CORRUPT, "%s: the certificate's end is no time", path);
    if (rc == 0)
        *ret_ms = ((int64_t)days * 86400 + seconds) * 1000;
    X509_free(cert);
    ASN1_TIME_free(epoch);
    return rc;
}

int pki_certificate_pin(const char *path, char ret[PKI_PIN_MAX], struct err *err)
{
    X509 *cert = NULL;
    unsigned char *der = NULL;
    uint8_t digest[SHA256_BYTES];
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    int rc = load_cert(path, &cert, err);
    if (rc < 0)
        return rc;
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
    sbuf_init(&text, PKI_PIN_MAX - 1);
    if (len > 0) {
        hash_sha256(str_n((const char *)der, (size_t)len), digest);
        sbuf_add(&text, STR("sha256//"));
        base64_encode(str_n((const char *)digest, sizeof(digest)), &text);
    }
    OPENSSL_free(der);
    X509_free(cert);
    if (len <= 0 || !sbuf_ok(&text) || !str_to_array(sbuf_str(&text), ret, PKI_PIN_MAX))
        return ssl_error(err, path);
    return 0;
}

static char *text_of(BIO *b)
{
    char *text = NULL;
    long len = BIO_get_mem_data(b, &text);
    return xstrndup(text, (size_t)len);
}

int pki_leaf_make(const struct pki_ca *ca, const struct pki_leaf *leaf, char **ret_cert_pem, char **ret_key_pem, struct err *err)
{
    X509 *cert = NULL;
    EVP_PKEY *key = NULL;
    int rc = make_leaf(ca, leaf, &cert, &key, err);
    if (rc < 0)
        return rc;
    BIO *c = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_secmem());
    if (!c || !k || !PEM_write_bio_X509(c, cert) || !PEM_write_bio_PKCS8PrivateKey(k, key, NULL, NULL, 0, NULL, NULL)) {
        rc = ssl_error(err, "writing a certificate");
    } else {
        *ret_cert_pem = text_of(c);
        *ret_key_pem = text_of(k);
    }
    BIO_free(c);
    BIO_free(k);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}
