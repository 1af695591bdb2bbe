/* The root key: what wraps the keys of all tenants, and lies outside of the store. Drivers:
 *   file     a path; 64 hexadecimal digits, mode 0600. `openssl rand -hex 32 >FILE` makes one.
 *   pkcs11   a URI of RFC 7512 that names an AES key in a token, with module-path and pin-source=file:… in its query; the key never leaves the token. The
 *            token must know CKM_AES_GCM with nonces from outside. pin-value is refused: PINs are not for configuration files.
 * What one wraps is `nonce | ciphertext | tag` of AES-256-GCM for both, but only the key that wrapped it unwraps it.
 * Threads: one at a time. Calls block: on a file only at opening, on a token always, for as long as it takes.
 */
#ifndef SEKI_CRYPTO_ROOT_KEY_H
#define SEKI_CRYPTO_ROOT_KEY_H

#include "crypto/envelope.h"

struct root_key;

struct root_key_ops {
    const char *driver; /* "file" | "pkcs11" */
    /* Each may be called again after it failed. */
    int (*wrap)(void *state, struct str aad, struct str plain, struct sbuf *out, struct err *err);
    int (*unwrap)(void *state, struct str aad, struct str wrapped, struct sbuf *out, struct err *err); /* ERR_CORRUPT: not wrapped by this key with this aad */
    void (*free)(void *state);
};

/* Whether the text names a key that could be: its form alone. ERR_INVALID. */
int root_key_check(const char *where, struct err *err) NODISCARD;
/* ERR_NOT_FOUND: there is no such file, token or key, and it was not to be made; ERR_FORBIDDEN: others may read the file; ERR_CORRUPT; ERR_INVALID. may_create: a file that is
 * missing is made, durably, before this returns; nothing is ever made in a token. */
int root_key_open(const char *where, bool may_create, struct root_key **ret, struct err *err) NODISCARD;
void root_key_free(struct root_key *k);
/* "file:/etc/seki/root.key", "pkcs11:token=…": without what is secret. */
const char *root_key_name(const struct root_key *k);
const char *root_key_driver(const struct root_key *k);
int root_key_wrap(struct root_key *k, struct str aad, struct str plain, struct sbuf *out, struct err *err) NODISCARD;
int root_key_unwrap(struct root_key *k, struct str aad, struct str wrapped, struct sbuf *out, struct err *err) NODISCARD;

#endif
