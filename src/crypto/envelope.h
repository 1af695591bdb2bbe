/* Envelope encryption: a fresh data key for every text, wrapped by a key encryption key (KEK) that is known by a random id.
 *
 * Everything is AES-256-GCM with random nonces of 96 bits: a KEK wraps one data key a write, and is to be rotated long before 2^32 of them. A sealed text is
 *   version (1 byte) | id of the KEK (16) | nonce, wrapped data key, tag (12 + 32 + 16) | nonce, ciphertext, tag (12 + n + 16)
 * The tag of the ciphertext covers `aad` too, which is not stored: whoever opens says where the text belongs, and a text that was changed, or belongs elsewhere, does not open.
 * Threads: any. Data keys are wiped; the caller wipes the KEKs and texts that it holds.
 */
#ifndef SEKI_CRYPTO_ENVELOPE_H
#define SEKI_CRYPTO_ENVELOPE_H

#include <stdint.h>

#include "base/str.h"

#define ENVELOPE_KEY_BYTES 32
#define ENVELOPE_ID_BYTES 16
#define AEAD_OVERHEAD (12 + 16)
#define ENVELOPE_OVERHEAD (1 + ENVELOPE_ID_BYTES + ENVELOPE_KEY_BYTES + 2 * AEAD_OVERHEAD)

struct envelope_key {
    uint8_t bytes[ENVELOPE_KEY_BYTES];
};

/* One text under one key: nonce | ciphertext | tag, appended to out. Fails only when out is full or OpenSSL has no memory. */
int aead_seal(const struct envelope_key *key, struct str aad, struct str plain, struct sbuf *out, struct err *err) NODISCARD;
/* ERR_CORRUPT when it was not sealed by this key with this aad, byte for byte; then out is as it was. */
int aead_open(const struct envelope_key *key, struct str aad, struct str sealed, struct sbuf *out, struct err *err) NODISCARD;

int envelope_seal(const uint8_t id[ENVELOPE_ID_BYTES], const struct envelope_key *kek, struct str aad, struct str plain, struct sbuf *out, struct err *err) NODISCARD;
/* Which KEK opens it. ERR_CORRUPT: no sealed text of a version that is known here. */
int envelope_key_id(struct str sealed, uint8_t ret[ENVELOPE_ID_BYTES], struct err *err) NODISCARD;
int envelope_open(const struct envelope_key *kek, struct str aad, struct str sealed, struct sbuf *out, struct err *err) NODISCARD;

#endif
