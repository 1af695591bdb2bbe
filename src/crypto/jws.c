#include "crypto/jws.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#define DER_MAX 160

struct jws_alg {
    const char *name, *key, *group; /* group: OpenSSL's name of the curve */
    const EVP_MD *(*digest)(void);
    size_t bytes; /* of a signature; 0: of the modulus */
    bool pss;
};

static const struct jws_alg algs[] = {
    {"RS256", "RSA", NULL, EVP_sha256, 0, false},      {"RS384", "RSA", NULL, EVP_sha384, 0, false},       {"RS512", "RSA", NULL, EVP_sha512, 0, false},
    {"PS256", "RSA", NULL, EVP_sha256, 0, true},       {"PS384", "RSA", NULL, EVP_sha384, 0, true},        {"PS512", "RSA", NULL, EVP_sha512, 0, true},
    {"ES256", "P-256", "prime256v1", EVP_sha256, 64, false}, {"ES384", "P-384", "secp384r1", EVP_sha384, 96, false}, {"ES512", "P-521", "secp521r1", EVP_sha512, 132, false},
    {"EdDSA", "Ed25519", NULL, NULL, 64, false},
};

const struct jws_alg *jws_alg_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        if (name && !strcmp(algs[i].name, name))
            return &algs[i];
    return NULL;
}

const char *jws_alg_name(const struct jws_alg *a)
{
    return a->name;
}

const char *jws_alg_key(const struct jws_alg *a)
{
    return a->key;
}

bool jws_alg_size_ok(const struct jws_alg *a, size_t len)
{
    return a->bytes ? len == a->bytes : len >= JWS_RSA_MIN_BITS / 8 && len <= JWS_RSA_MAX_BITS / 8;
}

static bool fits(const struct jws_alg *a, EVP_PKEY *key)
{
    char group[32] = "";
    if (!a->digest)
        return EVP_PKEY_is_a(key, "ED25519") == 1;
    if (!a->group)
        return EVP_PKEY_is_a(key, "RSA") == 1 && EVP_PKEY_get_bits(key) >= JWS_RSA_MIN_BITS && EVP_PKEY_get_bits(key) <= JWS_RSA_MAX_BITS;
    return EVP_PKEY_is_a(key, "EC") == 1 && EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), NULL) == 1 && !strcmp(group, a->group);
}

/* A token's ECDSA signature is two numbers of fixed length, OpenSSL's is DER. Its length; 0: no memory. */
static size_t to_der(struct str signature, unsigned char der[DER_MAX])
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    int half = (int)signature.len / 2;
    const unsigned char *bytes = (const unsigned char *)signature.ptr;
    BIGNUM *r = BN_bin2bn(bytes, half, NULL), *s = BN_bin2bn(bytes + half, half, NULL);
    if (!sig || !r || !s || !ECDSA_SIG_set0(sig, r, s)) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return 0;
    }
    int len = i2d_ECDSA_SIG(sig, &der);
    ECDSA_SIG_free(sig);
    return len > 0 ? (size_t)len : 0;
}

static bool start(const struct jws_alg *a, EVP_PKEY *key, EVP_MD_CTX *md)
{
    EVP_PKEY_CTX *ctx = NULL; /* md's */
    if (EVP_DigestVerifyInit(md, &ctx, a->digest ? a->digest() : NULL, NULL, key) != 1)
        return false;
    return !a->pss || (EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 && EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1);
}

bool jws_verify(const struct jws_alg *a, EVP_PKEY *key, struct str content, struct str signature)
{
    unsigned char der[DER_MAX];
    if (!jws_alg_size_ok(a, signature.len) || !fits(a, key))
        return false;
    if (a->group) {
        size_t len = to_der(signature, der);
        signature = str_n(der, len);
    }
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = signature.len && md && start(a, key, md) &&
              EVP_DigestVerify(md, (const unsigned char *)signature.ptr, signature.len, (const unsigned char *)content.ptr, content.len) == 1;
    EVP_MD_CTX_free(md);
    ERR_clear_error();
    return ok;
}
