/* JSON Web Key Sets (RFC 7517): the public keys of an issuer of tokens.
 *
 * Keys that cannot check a signature known here (jws.h) are left out, as the RFC wants it: other types and curves, other uses, keys that carry a private part or a shared secret, RSA
 * under 2,048 or over 4,096 bits, points that are not on their curve. A set is immutable and shared by reference count. Threads: any.
 */
#ifndef SEKI_CRYPTO_JWK_H
#define SEKI_CRYPTO_JWK_H

#include "crypto/jwt.h"

#define JWK_SET_BYTES_MAX (256 * 1024)
#define JWK_KEYS_MAX 64

struct jwk_set;

/* ERR_PROTOCOL when the text is no key set, has more than JWK_KEYS_MAX keys, or none that can be used. */
int jwk_set_parse(struct str text, struct jwk_set **ret, struct err *err) NODISCARD;
struct jwk_set *jwk_set_ref(struct jwk_set *s);
void jwk_set_unref(struct jwk_set *s); /* NULL is fine */
void jwk_set_unrefp(struct jwk_set **s); /* for CLEANUP */
size_t jwk_set_count(const struct jwk_set *s);
/* The same keys under the same names. */
bool jwk_set_equal(const struct jwk_set *a, const struct jwk_set *b);
/* Whether a token that names this key ("": names none) may be of one of these. */
bool jwk_set_has(const struct jwk_set *s, const char *key_id);
/* 0 when one of the keys that the token may be of signed it; else ERR_UNAUTHENTICATED. A token that names no key may be of any, the first JWK_TRIES_MAX that fit. */
#define JWK_TRIES_MAX 8
int jwk_set_verify(const struct jwk_set *s, const struct jwt *t, struct err *err) NODISCARD;

#endif
