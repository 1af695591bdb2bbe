#include "crypto/jwt.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "base/file.h"
#include "base/mem.h"

#define HALF (JWT_SIGNATURE_BYTES / 2)
#define PEM_MAX 4096
#define DER_MAX 128

struct jwt_key {
    EVP_PKEY *pkey;
    char id[JWT_KEY_ID_MAX];
};

static int ssl_error(struct err *err, const char *what)
{
    ERR_clear_error();
    return err_set(err, ERR_INTERNAL, "%s failed", what);
}

/* ---- keys ---- */

static int save(const char *path, EVP_PKEY *pkey, struct err *err)
{
    BIO *b = BIO_new(BIO_s_secmem());
    char *text = NULL;
    int rc = b && PEM_write_bio_PKCS8PrivateKey(b, pkey, NULL, NULL, 0, NULL, NULL) ? 0 : ssl_error(err, "writing a key");
    if (rc == 0) {
        long len = BIO_get_mem_data(b, &text);
        rc = file_write(path, str_n(text, (size_t)len), 0600, err);
    }
    BIO_free(b);
    return rc;
}

static int load(const char *path, EVP_PKEY **ret, struct err *err)
{
    char *text = NULL, group[32] = "";
    size_t len = 0;
    int rc = file_read(path, PEM_MAX, &text, &len, err);
    if (rc < 0)
        return rc;
    BIO *b = BIO_new_mem_buf(text, (int)len);
    EVP_PKEY *pkey = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    mem_wipe(text, len);
    mem_free(text);
    if (!pkey || !EVP_PKEY_get_utf8_string_param(pkey, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), NULL) || strcmp(group, "prime256v1") != 0) {
        EVP_PKEY_free(pkey);
        ERR_clear_error();
        return err_set(err, ERR_CORRUPT, "%s: expected a P-256 private key in PEM", path);
    }
    *ret = pkey;
    return 0;
}

static int name_key(struct jwt_key *k, struct err *err)
{
    unsigned char *der = NULL;
    uint8_t digest[SHA256_BYTES];
    CLEANUP(sbuf_deinit) struct sbuf id = {0};
    int len = i2d_PUBKEY(k->pkey, &der);
    if (len <= 0)
        return ssl_error(err, "encoding a public key");
    hash_sha256(str_n(der, (size_t)len), digest);
    OPENSSL_free(der);
    sbuf_init(&id, sizeof(k->id) - 1);
    base64url_encode(str_n(digest, sizeof(digest)), &id);
    return str_to_array(sbuf_str(&id), k->id, sizeof(k->id)) ? 0 : err_set(err, ERR_INTERNAL, "a key's id is too long");
}

int jwt_key_ensure(const char *path, struct jwt_key **ret, struct err *err)
{
    struct jwt_key *k = XNEW(struct jwt_key);
    int rc = 0;
    if (file_exists(path)) {
        rc = load(path, &k->pkey, err);
    } else {
        k->pkey = EVP_EC_gen("P-256");
        rc = k->pkey ? save(path, k->pkey, err) : ssl_error(err, "making a key");
    }
    if (rc == 0)
        rc = name_key(k, err);
    if (rc < 0)
        jwt_key_free(k);
    else
        *ret = k;
    return rc;
}

void jwt_key_free(struct jwt_key *k)
{
    if (!k)
        return;
    EVP_PKEY_free(k->pkey);
    mem_free(k);
}

const char *jwt_key_id(const struct jwt_key *k)
{
    return k->id;
}

/* ---- signing ---- */

/* OpenSSL's signatures are DER; a token's are the two numbers, 32 bytes each. */
static bool flatten(const unsigned char *der, size_t len, uint8_t ret[JWT_SIGNATURE_BYTES])
{
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);
    bool ok = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret, HALF) == HALF && BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret + HALF, HALF) == HALF;
    ECDSA_SIG_free(sig);
    return ok;
}

static int sign(const struct jwt_key *k, struct str content, uint8_t ret[JWT_SIGNATURE_BYTES], struct err *err)
{
    unsigned char der[DER_MAX];
    size_t len = sizeof(der);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, k->pkey) == 1 && EVP_DigestSign(md, der, &len, (const unsigned char *)content.ptr, content.len) == 1 &&
              flatten(der, len, ret);
    EVP_MD_CTX_free(md);
    return ok ? 0 : ssl_error(err, "signing");
}

int jwt_sign(const struct jwt_key *k, const json_t *claims, struct sbuf *out, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf header = {0}, body = {0}, token = {0};
    uint8_t signature[JWT_SIGNATURE_BYTES];
    sbuf_init(&header, JWT_HEADER_MAX);
    sbuf_init(&body, JWT_MAX);
    sbuf_init(&token, JWT_MAX);
    sbuf_addf(&header, "{\"alg\":\"ES256\",\"kid\":\"%s\",\"typ\":\"JWT\"}", k->id);
    json_write(claims, &body);
    base64url_encode(sbuf_str(&header), &token);
    sbuf_add_char(&token, '.');
    base64url_encode(sbuf_str(&body), &token);
    if (!sbuf_ok(&body) || !sbuf_ok(&token))
        return err_set(err, ERR_TOO_LARGE, "a token may have at most %d bytes", JWT_MAX);
    int rc = sign(k, sbuf_str(&token), signature, err);
    if (rc < 0)
        return rc;
    sbuf_add_char(&token, '.');
    base64url_encode(str_n(signature, sizeof(signature)), &token);
    if (sbuf_ok(&token))
        sbuf_add(out, sbuf_str(&token));
    mem_wipe(token.ptr, token.len);
    return sbuf_ok(&token) && sbuf_ok(out) ? 0 : err_set(err, ERR_TOO_LARGE, "a token may have at most %d bytes", JWT_MAX);
}

/* ---- checking ---- */

static int refuse(struct err *err, const char *why)
{
    return err_set(err, ERR_UNAUTHENTICATED, "the token %s", why);
}

static json_t *object_of(struct str part, size_t max)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    json_t *j = NULL;
    sbuf_init(&text, max);
    if (!base64url_decode(part, &text) || json_parse(sbuf_str(&text), max, &j, NULL) < 0)
        return NULL;
    if (json_is_object(j))
        return j;
    json_decref(j);
    return NULL;
}

static int read_header(struct str part, struct jwt *t, struct err *err)
{
    JSON_AUTO header = object_of(part, JWT_HEADER_MAX);
    const char *alg = json_string_value(json_object_get(header, "alg")), *kid = json_string_value(json_object_get(header, "kid"));
    if (!header)
        return refuse(err, "has no header");
    t->alg = jws_alg_find(alg);
    if (!t->alg)
        return refuse(err, "is signed by no algorithm that is accepted here");
    if (json_object_get(header, "kid") && (!kid || !*kid || !str_to_array(str_of(kid), t->key_id, sizeof(t->key_id))))
        return refuse(err, "does not name its key as it should");
    if (json_object_get(header, "crit"))
        return refuse(err, "has extensions that are not known here");
    return 0;
}

int jwt_parse(struct str token, struct jwt *ret, struct err *err)
{
    struct jwt t = {0};
    struct str rest = token, header, claims;
    CLEANUP(sbuf_deinit) struct sbuf signature = {0};
    if (token.len > JWT_MAX)
        return refuse(err, "is too long");
    if (!str_cut(&rest, '.', &header) || !str_cut(&rest, '.', &claims) || !rest.len || str_find(rest, '.') >= 0)
        return refuse(err, "does not have three parts");
    t.content = str_n(token.ptr, header.len + 1 + claims.len);
    int rc = read_header(header, &t, err);
    if (rc < 0)
        return rc;
    sbuf_init(&signature, JWS_SIGNATURE_MAX + 3); /* room for what is too long */
    if (!base64url_decode(rest, &signature) || !jws_alg_size_ok(t.alg, signature.len))
        return refuse(err, "has no signature of its algorithm");
    memcpy(t.signature, signature.ptr, signature.len);
    t.signature_len = signature.len;
    t.claims = object_of(claims, JWT_MAX);
    if (!t.claims)
        return refuse(err, "has no claims");
    *ret = t;
    return 0;
}

void jwt_deinit(struct jwt *t)
{
    json_decref(t->claims);
    t->claims = NULL;
}

int jwt_verify(const struct jwt_key *k, const struct jwt *t, struct err *err)
{
    if (strcmp(t->key_id, k->id) != 0)
        return refuse(err, "names no key of this server");
    bool ok = !strcmp(jws_alg_name(t->alg), "ES256") && jws_verify(t->alg, k->pkey, t->content, str_n(t->signature, t->signature_len));
    return ok ? 0 : refuse(err, "is not signed by this server");
}
