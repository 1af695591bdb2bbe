/* The signatures of JSON Web Signatures (RFC 7518, RFC 8037): which algorithm needs which key, and whether a signature is good.
 *
 * An algorithm is a row of a table: RS, PS and ES with 256, 384 and 512, and EdDSA with Ed25519. There is no "none" and nothing with a shared secret. A key fits one family (and
 * curve) only, whatever a token's header says. Threads: any.
 */
#ifndef SEKI_CRYPTO_JWS_H
#define SEKI_CRYPTO_JWS_H

#include "base/str.h"

#define JWS_SIGNATURE_MAX 512 /* bytes: RSA of 4,096 bits */
#define JWS_RSA_MIN_BITS 2048
#define JWS_RSA_MAX_BITS 4096

struct evp_pkey_st;
struct jws_alg;

const struct jws_alg *jws_alg_find(const char *name); /* "RS256"; NULL: not known */
const char *jws_alg_name(const struct jws_alg *a);
/* A signature may have this many bytes. */
bool jws_alg_size_ok(const struct jws_alg *a, size_t len);
/* "RSA", "P-256", "P-384", "P-521" or "Ed25519": what a key must be. */
const char *jws_alg_key(const struct jws_alg *a);
/* False also when the key does not fit. */
bool jws_verify(const struct jws_alg *a, struct evp_pkey_st *key, struct str content, struct str signature);

#endif
