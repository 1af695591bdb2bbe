#include "crypto/jwk.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "crypto/jws.h"

#define NUMBER_MAX (JWS_RSA_MAX_BITS / 8)
#define POINT_MAX (1 + 2 * 66)

struct jwk {
    EVP_PKEY *pkey;
    const char *type; /* as jws_alg_key() has it */
    char alg[16];     /* "" any that fits */
    char id[JWT_KEY_ID_MAX];
};

struct jwk_set {
    atomic_uint refs;
    size_t count;
    struct jwk keys[JWK_KEYS_MAX];
};

static const struct {
    const char *curve, *group;
    size_t bytes;
} curves[] = {{"P-256", "prime256v1", 32}, {"P-384", "secp384r1", 48}, {"P-521", "secp521r1", 66}};

/* ---- one key ---- */

/* The bytes of a member; false when it is not there, or longer. */
static bool bytes_of(const json_t *j, const char *name, uint8_t *ret, size_t size, size_t *ret_len)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    const char *text = json_string_value(json_object_get(j, name));
    sbuf_init(&out, size + 3);
    if (!text || strlen(text) > size * 2 || !base64url_decode(str_of(text), &out) || !out.len || out.len > size)
        return false;
    memcpy(ret, out.ptr, out.len);
    *ret_len = out.len;
    return true;
}

static EVP_PKEY *from_params(const char *type, OSSL_PARAM_BLD *build)
{
    EVP_PKEY *pkey = NULL;
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    /* Points must be on their curve. Of a modulus only size and oddness are looked at: more costs seconds when somebody wants it to, and a bad one harms its issuer alone. */
    if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 || EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
        pkey = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    return pkey;
}

static EVP_PKEY *rsa_of(const json_t *j)
{
    uint8_t n_bytes[NUMBER_MAX], e_bytes[4];
    size_t n_len, e_len;
    if (!bytes_of(j, "n", n_bytes, sizeof(n_bytes), &n_len) || !bytes_of(j, "e", e_bytes, sizeof(e_bytes), &e_len))
        return NULL;
    BIGNUM *n = BN_bin2bn(n_bytes, (int)n_len, NULL), *e = BN_bin2bn(e_bytes, (int)e_len, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY *pkey = NULL;
    if (n && e && build && BN_num_bits(n) >= JWS_RSA_MIN_BITS && BN_is_odd(n) && BN_is_odd(e) && !BN_is_one(e) && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e))
        pkey = from_params("RSA", build);
    OSSL_PARAM_BLD_free(build);
    BN_free(n);
    BN_free(e);
    return pkey;
}

static EVP_PKEY *ec_of(const json_t *j, const char **ret_type)
{
    const char *curve = json_string_value(json_object_get(j, "crv"));
    for (size_t i = 0; curve && i < ARRAY_LEN(curves); i++) {
        uint8_t point[POINT_MAX] = {4}; /* uncompressed */
        size_t x, y, n = curves[i].bytes;
        if (strcmp(curve, curves[i].curve) != 0)
            continue;
        if (!bytes_of(j, "x", point + 1, n, &x) || !bytes_of(j, "y", point + 1 + n, n, &y) || x != n || y != n)
            return NULL;
        OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
        EVP_PKEY *pkey = NULL;
        if (build && OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, curves[i].group, 0) &&
            OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * n))
            pkey = from_params("EC", build);
        OSSL_PARAM_BLD_free(build);
        *ret_type = curves[i].curve;
        return pkey;
    }
    return NULL;
}

static EVP_PKEY *ed_of(const json_t *j)
{
    uint8_t x[32];
    size_t len;
    const char *curve = json_string_value(json_object_get(j, "crv"));
    if (!curve || strcmp(curve, "Ed25519") != 0 || !bytes_of(j, "x", x, sizeof(x), &len) || len != sizeof(x))
        return NULL;
    return EVP_PKEY_new_raw_public_key_ex(NULL, "ED25519", NULL, x, len);
}

static bool has_text(const json_t *list, const char *text)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v)
        if (json_is_string(v) && !strcmp(json_string_value(v), text))
            return true;
    return false;
}

/* Absent members say nothing; what is there must be what a key for signatures has. */
static bool is_for_signatures(const json_t *j)
{
    const json_t *use = json_object_get(j, "use"), *ops = json_object_get(j, "key_ops");
    if (use && (!json_is_string(use) || strcmp(json_string_value(use), "sig") != 0))
        return false;
    return (!ops || has_text(ops, "verify")) && !json_object_get(j, "d") && !json_object_get(j, "k");
}

/* False: the key is of no use here. */
static bool read_key(const json_t *j, struct jwk *ret)
{
    struct jwk k = {0};
    const char *kty = json_string_value(json_object_get(j, "kty"));
    const json_t *kid = json_object_get(j, "kid"), *alg = json_object_get(j, "alg");
    if (!kty || !is_for_signatures(j))
        return false;
    if ((kid && (!json_is_string(kid) || !str_to_array(str_of(json_string_value(kid)), k.id, sizeof(k.id)))) ||
        (alg && (!json_is_string(alg) || !str_to_array(str_of(json_string_value(alg)), k.alg, sizeof(k.alg)))))
        return false;
    if (!strcmp(kty, "RSA"))
        k.type = "RSA", k.pkey = rsa_of(j);
    else if (!strcmp(kty, "EC"))
        k.pkey = ec_of(j, &k.type);
    else if (!strcmp(kty, "OKP"))
        k.type = "Ed25519", k.pkey = ed_of(j);
    ERR_clear_error();
    if (!k.pkey)
        return false;
    *ret = k;
    return true;
}

/* ---- sets ---- */

int jwk_set_parse(struct str text, struct jwk_set **ret, struct err *err)
{
    JSON_AUTO j = NULL;
    struct err inner = ERR_INIT;
    if (json_parse(text, JWK_SET_BYTES_MAX, &j, &inner) < 0)
        return err_set(err, ERR_PROTOCOL, "no key set: %s", inner.msg);
    const json_t *keys = json_object_get(j, "keys");
    if (!json_is_array(keys))
        return err_set(err, ERR_PROTOCOL, "no key set: expected a list \"keys\"");
    if (json_array_size(keys) > JWK_KEYS_MAX)
        return err_set(err, ERR_PROTOCOL, "a key set of %zu keys: expected at most %d", json_array_size(keys), JWK_KEYS_MAX);
    struct jwk_set *s = XNEW(struct jwk_set);
    s->refs = 1;
    for (size_t i = 0; i < json_array_size(keys); i++)
        if (read_key(json_array_get(keys, i), &s->keys[s->count]))
            s->count++;
    if (!s->count) {
        jwk_set_unref(s);
        return err_set(err, ERR_PROTOCOL, "a key set without a key that can be used: expected RSA of %d to %d bits, P-256, P-384, P-521 or Ed25519", JWS_RSA_MIN_BITS, JWS_RSA_MAX_BITS);
    }
    *ret = s;
    return 0;
}

struct jwk_set *jwk_set_ref(struct jwk_set *s)
{
    s->refs++;
    return s;
}

void jwk_set_unref(struct jwk_set *s)
{
    if (!s || --s->refs > 0)
        return;
    for (size_t i = 0; i < s->count; i++)
        EVP_PKEY_free(s->keys[i].pkey);
    mem_free(s);
}

void jwk_set_unrefp(struct jwk_set **s)
{
    jwk_set_unref(*s);
    *s = NULL;
}

size_t jwk_set_count(const struct jwk_set *s)
{
    return s->count;
}

bool jwk_set_equal(const struct jwk_set *a, const struct jwk_set *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->keys[i].id, b->keys[i].id) != 0 || strcmp(a->keys[i].alg, b->keys[i].alg) != 0 || EVP_PKEY_eq(a->keys[i].pkey, b->keys[i].pkey) != 1)
            return false;
    return true;
}

bool jwk_set_has(const struct jwk_set *s, const char *key_id)
{
    for (size_t i = 0; i < s->count; i++)
        if (!*key_id || !strcmp(s->keys[i].id, key_id))
            return true;
    return false;
}

int jwk_set_verify(const struct jwk_set *s, const struct jwt *t, struct err *err)
{
    int tries = 0;
    for (size_t i = 0; i < s->count && tries < JWK_TRIES_MAX; i++) {
        const struct jwk *k = &s->keys[i];
        if ((*t->key_id && strcmp(t->key_id, k->id) != 0) || (*k->alg && strcmp(k->alg, jws_alg_name(t->alg)) != 0) || strcmp(k->type, jws_alg_key(t->alg)) != 0)
            continue;
        tries++;
        if (jws_verify(t->alg, k->pkey, t->content, str_n(t->signature, t->signature_len)))
            return 0;
    }
    if (tries)
        return err_set(err, ERR_UNAUTHENTICATED, "the token is not signed by its issuer's key");
    return err_set(err, ERR_UNAUTHENTICATED, "the token names no key of its issuer that fits %s", jws_alg_name(t->alg));
}
