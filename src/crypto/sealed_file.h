/* Sealed files: a stream of bytes, encrypted and authenticated in chunks, of which nothing can be changed, left out, moved or cut off unseen.
 *
 * A head of 64 bytes: "SEKISEAL", u32 format = 1, u32 bytes of a chunk = 65,536 (little endian), 8 bytes that name the key, 32 random bytes, 8 zeros. Behind it chunks:
 * AES-256-GCM with a key made from the file's random bytes and the key (HKDF-SHA-256), the head as associated data, and a nonce of the chunk's number and whether it is the last one. Only the
 * last chunk may be short. What a reader hands out has been authenticated, chunk by chunk; that nothing is missing is known at the end alone.
 * Threads: a writer or reader is used by one at a time. Descriptors are the caller's.
 */
#ifndef SEKI_CRYPTO_SEALED_FILE_H
#define SEKI_CRYPTO_SEALED_FILE_H

#include <stdint.h>

#include "base/str.h"

#define SEALED_CHUNK_BYTES 65536
#define SEALED_HEAD_BYTES 64
#define SEALED_TAG_BYTES 16
#define SEALED_KEY_ID_BYTES 8

struct sealed_key {
    uint8_t bytes[32];
};
/* A key lies in a file of mode 0600 (or less) as one line, "seki-key-1 " and 64 hexadecimal digits. ERR_EXISTS: never over another. */
int sealed_key_make(const char *path, struct err *err) NODISCARD;
/* ERR_FORBIDDEN: others may read it. */
int sealed_key_load(const char *path, struct sealed_key *ret, struct err *err) NODISCARD;
void sealed_key_id(const struct sealed_key *k, uint8_t ret[SEALED_KEY_ID_BYTES]); /* tells nothing of the key */

struct sealed_writer;
int sealed_writer_new(int fd, const struct sealed_key *k, struct sealed_writer **ret, struct err *err) NODISCARD;
int sealed_write(struct sealed_writer *w, struct str bytes, struct err *err) NODISCARD;
/* Writes the last chunk. Does not sync. */
int sealed_finish(struct sealed_writer *w, struct err *err) NODISCARD;
void sealed_writer_free(struct sealed_writer *w);

struct sealed_reader;
/* ERR_INVALID: another format or key; ERR_CORRUPT: no sealed file. */
int sealed_reader_new(int fd, const struct sealed_key *k, struct sealed_reader **ret, struct err *err) NODISCARD;
/* The next bytes, at most as many as fit; *ret_len 0: the end, and nothing was missing. ERR_CORRUPT says where it is cut off or altered. */
int sealed_read(struct sealed_reader *r, void *buf, size_t size, size_t *ret_len, struct err *err) NODISCARD;
/* Whether a file that begins so, or is no longer than that, may be one that a writer has begun. */
bool sealed_file_begins(struct str head);
void sealed_reader_free(struct sealed_reader *r);

#endif
