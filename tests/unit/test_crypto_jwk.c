/* Keys of issuers: what each algorithm signed verifies with its key, and with no other algorithm, key or name; what is no key is left out. */
#include "unit.h"

#include "base/mem.h"
#include "crypto/jwk.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

static const struct kind_of_key {
    const char *alg, *key;
    int bits;
} algs[] = {{"RS256", "RSA", 2048}, {"RS384", "RSA", 2048}, {"RS512", "RSA", 2048}, {"PS256", "RSA", 2048}, {"PS384", "RSA", 2048}, {"PS512", "RSA", 2048},
            {"ES256", "P-256", 32}, {"ES384", "P-384", 48}, {"ES512", "P-521", 66}, {"EdDSA", "Ed25519", 32}};

static EVP_PKEY *rsa[2]; /* they take long to make */

static int setup(void **state UNUSED)
{
    for (size_t i = 0; i < ARRAY_LEN(rsa); i++)
        rsa[i] = EVP_RSA_gen(2048);
    return 0;
}

static int teardown(void **state UNUSED)
{
    for (size_t i = 0; i < ARRAY_LEN(rsa); i++)
        EVP_PKEY_free(rsa[i]);
    return 0;
}

static EVP_PKEY *next_rsa(void)
{
    static size_t next;
    EVP_PKEY *p = rsa[next++ % ARRAY_LEN(rsa)];
    EVP_PKEY_up_ref(p);
    return p;
}

static EVP_PKEY *make_key(const struct kind_of_key *k)
{
    EVP_PKEY *p = !strcmp(k->key, "RSA") ? next_rsa() : !strcmp(k->key, "Ed25519") ? EVP_PKEY_Q_keygen(NULL, NULL, "ED25519") : EVP_EC_gen(k->key);
    assert_non_null(p);
    return p;
}

static void add_number(EVP_PKEY *p, const char *param, int len, const char *name, struct sbuf *out)
{
    BIGNUM *n = NULL;
    uint8_t bytes[512];
    assert_int_equal(EVP_PKEY_get_bn_param(p, param, &n), 1);
    int size = len ? BN_bn2binpad(n, bytes, len) : BN_bn2bin(n, bytes);
    sbuf_addf(out, ",\"%s\":\"", name);
    base64url_encode(str_n(bytes, (size_t)size), out);
    sbuf_add_char(out, '"');
    BN_free(n);
}

static void add_jwk(const struct kind_of_key *k, EVP_PKEY *p, const char *more, struct sbuf *out)
{
    if (!strcmp(k->key, "RSA")) {
        sbuf_addc(out, "{\"kty\":\"RSA\"");
        add_number(p, OSSL_PKEY_PARAM_RSA_N, 0, "n", out);
        add_number(p, OSSL_PKEY_PARAM_RSA_E, 0, "e", out);
    } else if (!strcmp(k->key, "Ed25519")) {
        uint8_t x[32];
        size_t len = sizeof(x);
        assert_int_equal(EVP_PKEY_get_raw_public_key(p, x, &len), 1);
        sbuf_addc(out, "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"");
        base64url_encode(str_n(x, len), out);
        sbuf_add_char(out, '"');
    } else {
        sbuf_addf(out, "{\"kty\":\"EC\",\"crv\":\"%s\"", k->key);
        add_number(p, OSSL_PKEY_PARAM_EC_PUB_X, k->bits, "x", out);
        add_number(p, OSSL_PKEY_PARAM_EC_PUB_Y, k->bits, "y", out);
    }
    sbuf_addf(out, "%s}", more);
}

static void add_signature(const struct kind_of_key *k, EVP_PKEY *p, struct sbuf *token)
{
    uint8_t sig[512], flat[132];
    size_t len = sizeof(sig);
    EVP_PKEY_CTX *ctx = NULL;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    const EVP_MD *digest = !strcmp(k->alg, "EdDSA") ? NULL : strstr(k->alg, "256") ? EVP_sha256() : strstr(k->alg, "384") ? EVP_sha384() : EVP_sha512();
    assert_int_equal(EVP_DigestSignInit(md, &ctx, digest, NULL, p), 1);
    if (k->alg[0] == 'P') {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING), 1);
        assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST), 1);
    }
    assert_int_equal(EVP_DigestSign(md, sig, &len, (const unsigned char *)token->ptr, token->len), 1);
    EVP_MD_CTX_free(md);
    sbuf_add_char(token, '.');
    if (k->alg[0] != 'E' || k->alg[1] != 'S') {
        base64url_encode(str_n(sig, len), token);
        return;
    }
    const unsigned char *der = sig;
    ECDSA_SIG *es = d2i_ECDSA_SIG(NULL, &der, (long)len);
    BN_bn2binpad(ECDSA_SIG_get0_r(es), flat, k->bits);
    BN_bn2binpad(ECDSA_SIG_get0_s(es), flat + k->bits, k->bits);
    ECDSA_SIG_free(es);
    base64url_encode(str_n(flat, (size_t)k->bits * 2), token);
}

static char *make_token(const struct kind_of_key *k, EVP_PKEY *p, const char *kid)
{
    CLEANUP(sbuf_deinit) struct sbuf token = {0};
    char header[128];
    if (kid)
        snprintf(header, sizeof(header), "{\"alg\":\"%s\",\"kid\":\"%s\"}", k->alg, kid);
    else
        snprintf(header, sizeof(header), "{\"alg\":\"%s\"}", k->alg);
    sbuf_init(&token, JWT_MAX);
    base64url_encode(str_of(header), &token);
    sbuf_add_char(&token, '.');
    base64url_encode(STR("{\"sub\":\"somebody\"}"), &token);
    add_signature(k, p, &token);
    return sbuf_take(&token);
}

static int check(const struct jwk_set *s, const char *token, struct err *err)
{
    CLEANUP(jwt_deinit) struct jwt t = {0};
    int rc = jwt_parse(str_of(token), &t, err);
    return rc < 0 ? rc : jwk_set_verify(s, &t, err);
}

static struct jwk_set *set_of(const char *keys)
{
    CLEANUP(mem_freep) char *text = xasprintf("{\"keys\":[%s]}", keys);
    struct jwk_set *s = NULL;
    struct err err = ERR_INIT;
    ASSERT_OK(jwk_set_parse(str_of(text), &s, &err));
    return s;
}

static void every_algorithm_verifies_with_its_key_alone(void **state UNUSED)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        CLEANUP(sbuf_deinit) struct sbuf mine = {0}, others = {0};
        struct err err = ERR_INIT;
        sbuf_init(&mine, 4096);
        sbuf_init(&others, 4096);
        EVP_PKEY *p = make_key(&algs[i]), *other = make_key(&algs[i]);
        add_jwk(&algs[i], p, ",\"kid\":\"k\",\"use\":\"sig\"", &mine);
        add_jwk(&algs[i], other, ",\"kid\":\"k\"", &others);
        CLEANUP(jwk_set_unrefp) struct jwk_set *s = set_of(mine.ptr), *wrong = set_of(others.ptr);
        CLEANUP(mem_freep) char *token = make_token(&algs[i], p, "k"), *unnamed = make_token(&algs[i], p, NULL), *misnamed = make_token(&algs[i], p, "j");
        ASSERT_OK(check(s, token, &err));
        ASSERT_OK(check(s, unnamed, &err));
        ASSERT_ERR(check(s, misnamed, &err), ERR_UNAUTHENTICATED);
        ASSERT_ERR(check(wrong, token, &err), ERR_UNAUTHENTICATED);
        char *last = strrchr(token, '.') + 5;
        *last = *last == 'A' ? 'B' : 'A';
        ASSERT_ERR(check(s, token, &err), ERR_UNAUTHENTICATED);
        assert_true(jwk_set_has(s, "k") && jwk_set_has(s, "") && !jwk_set_has(s, "j"));
        EVP_PKEY_free(p);
        EVP_PKEY_free(other);
    }
}

/* The header says one algorithm, the key is for another. */
static void algorithms_are_not_confused(void **state UNUSED)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        struct err err = ERR_INIT;
        sbuf_init(&text, 4096);
        EVP_PKEY *p = make_key(&algs[i]);
        add_jwk(&algs[i], p, "", &text);
        CLEANUP(jwk_set_unrefp) struct jwk_set *s = set_of(text.ptr);
        CLEANUP(mem_freep) char *token = make_token(&algs[i], p, NULL);
        for (size_t n = 0; n < ARRAY_LEN(algs); n++) {
            CLEANUP(sbuf_deinit) struct sbuf header = {0};
            if (n == i)
                continue;
            sbuf_init(&header, JWT_MAX);
            CLEANUP(mem_freep) char *plain = xasprintf("{\"alg\":\"%s\"}", algs[n].alg);
            base64url_encode(str_of(plain), &header);
            sbuf_addc(&header, strchr(token, '.'));
            ASSERT_ERR(check(s, header.ptr, &err), ERR_UNAUTHENTICATED);
        }
        EVP_PKEY_free(p);
    }
    /* a key that says what it is for signs nothing else */
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    struct err err = ERR_INIT;
    sbuf_init(&text, 4096);
    EVP_PKEY *p = make_key(&algs[0]);
    add_jwk(&algs[0], p, ",\"alg\":\"RS512\"", &text);
    CLEANUP(jwk_set_unrefp) struct jwk_set *s = set_of(text.ptr);
    CLEANUP(mem_freep) char *token = make_token(&algs[0], p, NULL);
    ASSERT_ERR(check(s, token, &err), ERR_UNAUTHENTICATED);
    EVP_PKEY_free(p);
}

static void what_is_no_key_is_left_out(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf good = {0};
    sbuf_init(&good, 4096);
    EVP_PKEY *p = make_key(&algs[6]);
    add_jwk(&algs[6], p, ",\"kid\":\"good\"", &good);
    static const char *const bad[] = {
        "7", "{}", "{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}", "{\"kty\":\"EC\",\"crv\":\"P-256\"}", "{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"}",
        "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}", "{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AAAA\"}", "{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}",
        "{\"kty\":\"RSA\",\"n\":\"====\",\"e\":\"AQAB\"}", "{\"kty\":[\"RSA\"]}",
        /* not on the curve */
        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\",\"y\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\"}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CLEANUP(mem_freep) char *two = xasprintf("%s,%s", bad[i], good.ptr), *alone = xasprintf("{\"keys\":[%s]}", bad[i]);
        CLEANUP(jwk_set_unrefp) struct jwk_set *s = set_of(two), *none = NULL;
        struct err err = ERR_INIT;
        assert_int_equal(jwk_set_count(s), 1);
        ASSERT_ERR(jwk_set_parse(str_of(alone), &none, &err), ERR_PROTOCOL);
    }
    static const char *const members[] = {",\"use\":\"enc\"", ",\"use\":7", ",\"key_ops\":[\"sign\"]", ",\"d\":\"AQAB\"", ",\"kid\":7", ",\"alg\":7"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        CLEANUP(sbuf_deinit) struct sbuf one = {0};
        struct err err = ERR_INIT;
        struct jwk_set *none = NULL;
        sbuf_init(&one, 4096);
        sbuf_addc(&one, "{\"keys\":[");
        add_jwk(&algs[6], p, members[i], &one);
        sbuf_addc(&one, "]}");
        ASSERT_ERR(jwk_set_parse(sbuf_str(&one), &none, &err), ERR_PROTOCOL);
    }
    EVP_PKEY_free(p);
    /* RSA under 2,048 bits */
    CLEANUP(sbuf_deinit) struct sbuf small = {0};
    struct err err = ERR_INIT;
    struct jwk_set *none = NULL;
    sbuf_init(&small, 4096);
    EVP_PKEY *weak = EVP_RSA_gen(1024);
    sbuf_addc(&small, "{\"keys\":[");
    add_jwk(&algs[0], weak, "", &small);
    sbuf_addc(&small, "]}");
    ASSERT_ERR(jwk_set_parse(sbuf_str(&small), &none, &err), ERR_PROTOCOL);
    EVP_PKEY_free(weak);
}

static void sets_are_bounded_and_compared(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf one = {0}, many = {0};
    struct err err = ERR_INIT;
    struct jwk_set *none = NULL;
    sbuf_init(&one, 4096);
    sbuf_init(&many, JWK_SET_BYTES_MAX * 2);
    EVP_PKEY *p = make_key(&algs[9]);
    add_jwk(&algs[9], p, ",\"kid\":\"a\"", &one);
    CLEANUP(mem_freep) char *renamed = xstrdup(one.ptr);
    strstr(renamed, "\"a\"")[1] = 'b';
    CLEANUP(jwk_set_unrefp) struct jwk_set *a = set_of(one.ptr), *same = set_of(one.ptr), *b = set_of(renamed);
    assert_true(jwk_set_equal(a, same) && !jwk_set_equal(a, b));
    sbuf_addc(&many, "{\"keys\":[");
    for (int i = 0; i <= JWK_KEYS_MAX; i++)
        sbuf_addf(&many, "%s%s", i ? "," : "", one.ptr);
    sbuf_addc(&many, "]}");
    ASSERT_ERR(jwk_set_parse(sbuf_str(&many), &none, &err), ERR_PROTOCOL);
    static const char *const bad[] = {"", "[]", "{}", "{\"keys\":7}", "{\"keys\":[]}", "{\"keys\":[],\"keys\":[]}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ASSERT_ERR(jwk_set_parse(str_of(bad[i]), &none, &err), ERR_PROTOCOL);
    EVP_PKEY_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_verifies_with_its_key_alone),
        cmocka_unit_test(algorithms_are_not_confused),
        cmocka_unit_test(what_is_no_key_is_left_out),
        cmocka_unit_test(sets_are_bounded_and_compared),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
