/* Ledger files: an append-only, hash-chained log with one writer and any number of readers.
 *
 * Writing: ledger_append() and ledger_append_many() give the bytes to the kernel with one write(2) before they return, so that a killed process loses nothing;
 * ledger_sync() makes them survive power loss; the owner calls it on a timer (the usage journal: every 100 ms when dirty; the
 * audit ledger: before the write is acknowledged). A file is rolled at max_file_bytes to NAME.000002 …; sequence and chain go on.
 * Exactly once: whoever copies from a journal into a ledger writes with each record where it came from (the journal's id and sequence), so that a crash at any instant
 * repeats nothing and leaves nothing out.
 * Threads: a ledger is used by one thread at a time.
 */
#ifndef SEKI_LEDGER_LEDGER_H
#define SEKI_LEDGER_LEDGER_H

#include "ledger/record.h"

struct ledger;
#define LEDGER_ID_TEXT 25

struct ledger_options {
    const char *dir;          /* made 0700 */
    const char *name;         /* "usage-gateway": files NAME.000001 … */
    enum ledger_kind kind;
    size_t max_file_bytes;    /* default 64 MiB */
};

/* Opens or makes it; verifies it and cuts a torn tail. Files that were verified before and have not changed since are not read again (checkpoint.h). ERR_BUSY: another writer. */
int ledger_open(const struct ledger_options *o, struct ledger **ret, struct err *err) NODISCARD;
void ledger_close(struct ledger *l); /* syncs */
int ledger_append(struct ledger *l, int64_t time_ms, uint16_t version, struct str body, uint64_t *ret_sequence, struct err *err) NODISCARD;
/* Several of one schema and time with one write; at most LEDGER_BATCH_MAX. When the disk takes a part of them only, those that are whole stay (a reader may have them already): *ret_done says
 * how many, also on failure, and only the rest is to be tried again. */
#define LEDGER_BATCH_MAX 64
int ledger_append_many(struct ledger *l, int64_t time_ms, uint16_t version, const struct str *bodies, size_t count, size_t *ret_done, struct err *err) NODISCARD;
int ledger_sync(struct ledger *l, struct err *err) NODISCARD;
/* For a writer that many threads share under a lock: a duplicate of the descriptor that has unsynced records, which then count as synced, or -1 when there are none. The
 * caller calls fdatasync and closes it, without the lock. */
int ledger_take_unsynced(struct ledger *l);
uint64_t ledger_last_sequence(const struct ledger *l);

/* Room ahead: bytes of the disk that are the ledger's before it needs them, so that a disk which others have filled still takes its records. They lie behind the end of the last file, whose size does not
 * tell of them; a ledger that is closed, or whose process is killed, has them yet when it is opened anew. A new file gets as many; while the disk has less for one than is left, the last file goes on beyond
 * max_file_bytes. Not every file system can: then appending asks the disk as ever.
 *
 * In three steps, for a writer that many threads share under a lock: what is wished, with it; the disk is asked, without; what it gave, with it. */
struct ledger_room {
    int fd; /* a duplicate, which ledger_room_have() closes; -1: there is nothing to be asked */
    unsigned number;
    long long from, to;
};
/* So many bytes, once a quarter of them is used. */
struct ledger_room ledger_room_wish(struct ledger *l, size_t bytes);
/* ERR_NO_SPACE: the disk is full and has given less, or nothing. ERR_IO: this file system does not. */
int ledger_room_ask(struct ledger_room *r, struct err *err) NODISCARD;
/* Once after each wish. */
void ledger_room_have(struct ledger *l, struct ledger_room *r);
/* All three. */
int ledger_room(struct ledger *l, size_t bytes, struct err *err) NODISCARD;
size_t ledger_room_left(const struct ledger *l);
/* The number of the first file that opening has read; 0: there was none. */
unsigned ledger_verified_from(const struct ledger *l);
/* As ledger_reader_id(). */
void ledger_id(const struct ledger *l, char ret[LEDGER_ID_TEXT]);

/* Reading, also while another process writes: records after after_sequence, in order, until fn returns false or the end. Checks
 * checksums and the chain, of files that end before after_sequence only where they were not verified before (checkpoint.h; after 0: of all). Remembers the file position between calls, so that following a journal is cheap. What is handed to fn has been synced before, so that nothing
 * that is made from it can outlive it. After an error the reader stays where it is; close it when the files may have been replaced. */
struct ledger_reader;
int ledger_reader_open(const char *dir, const char *name, struct ledger_reader **ret, struct err *err) NODISCARD;
void ledger_reader_close(struct ledger_reader *r);
/* What names this ledger, in hexadecimal: another one under the same path has another id. ERR_NOT_FOUND: there are no files yet. */
int ledger_reader_id(struct ledger_reader *r, char ret[LEDGER_ID_TEXT], struct err *err) NODISCARD;
int ledger_read(struct ledger_reader *r, uint64_t after_sequence, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg,
                struct err *err) NODISCARD;
/* The last record that was read, and its hash; 0: none was. */
void ledger_reader_end(const struct ledger_reader *r, uint64_t *ret_sequence, uint8_t ret_hash[32]);
/* The number of the file that it began with; 0: it has not. */
unsigned ledger_reader_began(const struct ledger_reader *r);
/* Whole-ledger check: the error names the first bad record, also one that is cut off at the end. One that is being written just now is given the time for it. */
int ledger_verify(const char *dir, const char *name, uint64_t *ret_records, struct err *err) NODISCARD;

#endif
