/* Hashes on OpenSSL: SHA-256, HMAC-SHA-256, and streaming digests of files. Threads: any. */
#ifndef SEKI_CRYPTO_HASH_H
#define SEKI_CRYPTO_HASH_H

#include <stdint.h>

#include "base/str.h"

#define SHA256_BYTES 32
#define SHA256_HEX_MAX 65

void hash_sha256(struct str data, uint8_t ret[SHA256_BYTES]);
/* Of what comes in pieces. hash_stream_end() frees it; with NULL it does nothing. */
struct hash_stream;
struct hash_stream *hash_stream_new(void);
void hash_stream_add(struct hash_stream *h, struct str piece);
void hash_stream_end(struct hash_stream *h, uint8_t ret[SHA256_BYTES]);
void hash_hmac_sha256(struct str key, struct str data, uint8_t ret[SHA256_BYTES]);
void hash_hex(const uint8_t *bytes, size_t len, char *text); /* 2 * len + 1 bytes */
/* The reverse, of exactly len bytes. False: the text is something else; bytes may have changed. */
bool hash_unhex(struct str text, uint8_t *bytes, size_t len) NODISCARD;
/* Reads the file in 1 MiB pieces; progress (may be NULL) is told the bytes so far and returns false to cancel. */
int hash_file_sha256(const char *path, bool (*progress)(void *arg, uint64_t done_bytes), void *arg,
                     char ret_hex[SHA256_HEX_MAX], uint64_t *ret_size, struct err *err) NODISCARD;
void base64_encode(struct str in, struct sbuf *out);
int base64_decode(struct str in, struct sbuf *out, struct err *err) NODISCARD;
/* base64url without padding, into an empty buffer. False for anything that base64url_encode() would not have written. */
void base64url_encode(struct str in, struct sbuf *out);
bool base64url_decode(struct str in, struct sbuf *out) NODISCARD;

#endif
