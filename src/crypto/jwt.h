/* JSON Web Tokens (RFC 7519). Our own are signed by ES256: ECDSA on P-256 with SHA-256; those of issuers elsewhere by what jws.h knows, and are checked by jwk.h.
 *
 * A token is parsed without trust first (jwt_parse: form, caps, the header), so that a caller can look at its claims before it pays for the signature (jwt_verify), and
 * must not believe them until then. Only the one spelling of a token is taken: base64url without padding, no stray bits. The key lies in a file of mode 0600 as PKCS#8 PEM; its id
 * is the hash of the public key. Threads: any; a key is immutable.
 */
#ifndef SEKI_CRYPTO_JWT_H
#define SEKI_CRYPTO_JWT_H

#include "crypto/hash.h"
#include "crypto/jws.h"
#include "json/json.h"

#define JWT_MAX 16384       /* bytes of a token */
#define JWT_HEADER_MAX 1024 /* bytes of its header as JSON */
#define JWT_SIGNATURE_BYTES 64 /* of our own */
#define JWT_KEY_ID_MAX 256

struct jwt_key;
/* Loads the file or makes it. */
int jwt_key_ensure(const char *path, struct jwt_key **ret, struct err *err) NODISCARD;
void jwt_key_free(struct jwt_key *k);
const char *jwt_key_id(const struct jwt_key *k);

/* Appends the token of these claims. */
int jwt_sign(const struct jwt_key *k, const json_t *claims, struct sbuf *out, struct err *err) NODISCARD;

struct jwt {
    json_t *claims;              /* an object, not to be believed yet */
    const struct jws_alg *alg;   /* as the header says … */
    char key_id[JWT_KEY_ID_MAX]; /* … likewise; "" when it names no key */
    struct str content;          /* what is signed; points into the token */
    uint8_t signature[JWS_SIGNATURE_MAX];
    size_t signature_len;
};
/* ERR_UNAUTHENTICATED for all that is no token with an algorithm of jws.h. */
int jwt_parse(struct str token, struct jwt *ret, struct err *err) NODISCARD;
void jwt_deinit(struct jwt *t); /* also for CLEANUP */
/* 0 when k, one of our own keys, signed it; else ERR_UNAUTHENTICATED. */
int jwt_verify(const struct jwt_key *k, const struct jwt *t, struct err *err) NODISCARD;

#endif
