/* Copies of a store on SQLite, taken from its files while another process may write it, and what is done to a copy that is put in the place of a store.
 *
 * The running store has its files for itself, so a copy cannot be read through SQLite. It is taken of the bytes: the database first, then the write-ahead log. While the log is not begun
 * anew, whatever a checkpoint may have changed in the database meanwhile stands in the log, too, and opening the copy replays it: the copy is the store as of the last whole
 * transaction in its log. A copier holds PATH.hold locked, so that the store lets its log grow meanwhile; and it compares the log's head before and after, so that a store that did not wait
 * is noticed and copied again. Threads: any; calls block.
 */
#ifndef SEKI_STORE_COPY_H
#define SEKI_STORE_COPY_H

#include <stdint.h>

#include "base/err.h"

#define STORE_FORMAT_VERSION 2 /* of the files of SQLite's member */

struct store_copy_info {
    int64_t rev;          /* the last revision in it */
    int64_t newest_at_ms; /* when that was written; 0: nothing is in it */
    int64_t objects, bytes;
    int format;
};

/* Makes the file `to` (0600, must not exist): one database without a log, checked. ERR_BUSY: the store was written back again and again meanwhile; ERR_CORRUPT;
 * ERR_NOT_FOUND: there is no store. progress may be NULL. */
struct store_copy_progress {
    void (*fn)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};
int store_copy(const char *path, const char *to, const struct store_copy_progress *progress, struct store_copy_info *ret, struct err *err) NODISCARD;

/* Whether the file is a whole store that this program can open, and what is in it. Nobody else may have it open. */
int store_copy_check(const char *path, struct store_copy_info *ret, struct err *err) NODISCARD;

/* The format that stands in the file's head: 0 for a store that is empty or not there. A log beside it may have a later one, never an earlier one. */
int store_format(const char *path, int *ret, struct err *err) NODISCARD;
/* For a store that is at rest: writes its log back into it and takes the log away, so that the file alone is the store; and checks it. */
int store_settle(const char *path, struct store_copy_info *ret, struct err *err) NODISCARD;

/* The revision with which a store goes on that is put back now: greater than any that its earlier lives can have given out, whatever happened after the copy. One rule makes that so:
 * no life gives out a revision above the milliseconds since 1970 times 1,000. */
int64_t store_revision_after_restore(const struct store_copy_info *copy, int64_t now_ms);
/* Makes the copy go on behind `rev`: all that is in it stays as it is, history ends, and whoever knows an earlier revision must list again (ERR_GONE). */
int store_forget_history(const char *path, int64_t rev, struct err *err) NODISCARD;

/* For the writer of a store: whether somebody copies its files just now. fd: of PATH.hold. */
#define STORE_HOLD_SUFFIX ".hold"
int store_hold_open(const char *path); /* -1: it cannot be had */
bool store_is_held(int fd);

#endif
