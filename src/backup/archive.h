/* The stream inside a backup: files one after the other, and at the end a manifest that says what they must be.
 *
 * "SEKIBACK", u32 format = 1; then entries: u8 'F', u8 0, u16 bytes of the path, u32 mode, u64 bytes of the file (little endian), path, file. The last entry is 'M' without a path: the manifest,
 * a JSON object. All of it lies in a sealed file (crypto/sealed_file.h), so nobody without the key wrote it; its reader trusts it no more for that. A path is relative and has no ".." in it.
 * Threads: one at a time.
 */
#ifndef SEKI_BACKUP_ARCHIVE_H
#define SEKI_BACKUP_ARCHIVE_H

#include <sys/types.h>

#include "crypto/sealed_file.h"
#include "json/json.h"

#define ARCHIVE_FORMAT 1
#define ARCHIVE_PATH_MAX 1024
#define ARCHIVE_FILES_MAX 100000
#define ARCHIVE_MANIFEST_MAX (64u * 1024 * 1024)

struct archive_entry {
    const char *path;
    mode_t mode; /* permissions alone */
    uint64_t bytes;
};

struct archive_writer;
int archive_writer_new(int fd, const struct sealed_key *k, struct archive_writer **ret, struct err *err) NODISCARD;
/* Exactly entry->bytes of from, which is open; ERR_IO when it has fewer. progress may be NULL. */
int archive_add(struct archive_writer *w, const struct archive_entry *entry, int from, struct err *err) NODISCARD;
/* Writes manifest, with "files" added to it, and the end. */
int archive_finish(struct archive_writer *w, json_t *manifest, struct err *err) NODISCARD;
void archive_writer_free(struct archive_writer *w);
uint64_t archive_bytes(const struct archive_writer *w); /* of files, so far */

/* Who takes the files, or NULL in each: nobody. begin, data as often as there is some, end. */
struct archive_taker {
    void *ctx;
    int (*begin)(void *ctx, const struct archive_entry *entry, struct err *err);
    int (*data)(void *ctx, struct str bytes, struct err *err);
    int (*end)(void *ctx, struct err *err);
};
/* Reads it all and compares it with its manifest, which is the caller's then. What was handed out before an error is not to be used. ERR_INVALID: of a newer release. */
int archive_read(int fd, const struct sealed_key *k, const struct archive_taker *t, json_t **ret_manifest, struct err *err) NODISCARD;

/* The same of bytes that are not sealed: read() as sealed_read(). For the above, and fuzzed. */
struct archive_source {
    int (*read)(void *ctx, void *buf, size_t size, size_t *ret_len, struct err *err);
    void *ctx;
};
int archive_read_plain(const struct archive_source *s, const struct archive_taker *t, json_t **ret_manifest, struct err *err) NODISCARD;
bool archive_path_valid(struct str path);

#endif
