/* Files: whole-file reads under a cap, writes that are atomic and durable, directories, locks.
 *
 * All descriptors are opened O_CLOEXEC. Threads: any; calls block.
 */
#ifndef SEKI_BASE_FILE_H
#define SEKI_BASE_FILE_H

#include <sys/types.h>

#include "base/str.h"

/* The file's bytes, NUL-terminated, mem_free'd by the caller; ERR_TOO_LARGE over max_bytes. */
int file_read(const char *path, size_t max_bytes, char **ret, size_t *ret_len, struct err *err) NODISCARD;
/* Writes a temporary file beside path, fsyncs it, renames it, fsyncs the directory. */
int file_write(const char *path, struct str data, mode_t mode, struct err *err) NODISCARD;
int file_write_all(int fd, struct str data, struct err *err) NODISCARD;
bool file_exists(const char *path);
/* mkdir -p; directories that it makes get mode. */
int file_mkdirs(const char *path, mode_t mode, struct err *err) NODISCARD;
int file_sync_dir(const char *path, struct err *err) NODISCARD;
/* Takes an exclusive lock for the life of the returned descriptor; ERR_BUSY when another process holds it. */
int file_lock(const char *path, int *ret_fd, struct err *err) NODISCARD;
/* Deletes a directory and everything in it, without following links. */
int file_remove_tree(const char *path, struct err *err) NODISCARD;

void file_closep(int *fd); /* CLEANUP: closes when >= 0 */

#endif
