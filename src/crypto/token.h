/* Bearer secrets: made once, shown once, kept as a keyed hash.
 *
 * An API key is "sk-seki-" + 40 characters of [A-Za-z0-9] (238 bits). What is stored is HMAC-SHA-256(pepper, key) in hex, so that a stolen store
 * lets nobody test guesses without the pepper, a 32-byte file of mode 0600 in the data directory (pki/pepper).
 */
#ifndef SEKI_CRYPTO_TOKEN_H
#define SEKI_CRYPTO_TOKEN_H

#include <stdint.h>

#include "crypto/hash.h"

#define TOKEN_TEXT_MAX 64
#define TOKEN_PREFIX "sk-seki-"

struct token_pepper {
    uint8_t bytes[32];
};
/* Loads the file or makes it. */
int token_pepper_ensure(const char *path, struct token_pepper *ret, struct err *err) NODISCARD;
void token_make(char text[TOKEN_TEXT_MAX]);
void token_hash(const struct token_pepper *p, struct str token, char ret_hex[SHA256_HEX_MAX]);

#endif
