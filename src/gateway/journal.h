/* The usage journal of this gateway process: one record a request, in the kernel's hands before the client sees the end of its answer.
 *
 * journal_add() and journal_add_many() cost one write(2) under a lock that all loops share; a thread makes records survive power loss every 100 ms without holding that lock. 
 * Room for ROOM bytes of records is the journal's ahead of them (ledger_room_wish()). When a full disk gives no more, and less than half of that is left, journal_ready() fails: new requests are refused while
 * there is room yet for the records of those that run, some 8,000, so that what was answered is counted, whoever is killed. A record that is refused all the same (another fault, a file system without fallocate) waits in memory and
 * is tried again, some at a time, so that loops get at the lock in between; while one waits, journal_ready() fails as well. Threads: any.
 */
#ifndef SEKI_GATEWAY_JOURNAL_H
#define SEKI_GATEWAY_JOURNAL_H

#include "ledger/ledger.h"
#include "ledger/usage.h"

#define JOURNAL_BACKLOG_MAX 20000 /* records that wait for the disk */

struct journal;

/* dir/usage-GATEWAY.NNNNNN. ERR_BUSY: another gateway of that name writes there. */
int journal_open(const char *dir, const char *gateway, struct journal **ret, struct err *err) NODISCARD;
void journal_close(struct journal *j); /* tries the backlog once more, syncs */
void journal_add(struct journal *j, const struct usage *u);
/* Records that usage_encode() has made, in their order; at most LEDGER_BATCH_MAX. */
void journal_add_many(struct journal *j, const struct str *bodies, size_t count);
/* The same of records with something that is to live until they are written, such as a place among open requests. held: of each, or NULL; what is handed to the journal, as its record waits, is NULL
 * afterwards. What still waits when the journal is closed is not let go, nor is that of a record for which there is no room in memory. */
void journal_add_held(struct journal *j, const struct str *bodies, size_t count, void **held);
/* The same of one. */
void journal_add_one_held(struct journal *j, const struct usage *u, void **held);
/* Lets go what was handed to it: fn(arg, held), under the journal's lock. Before the first record. */
void journal_on_written(struct journal *j, void (*fn)(void *arg, void *held), void *arg);
/* Why requests cannot be counted, or 0, which costs no lock: every request asks. */
int journal_ready(struct journal *j, struct err *err) NODISCARD;
/* What the journal is called, and which one it is (ledger_reader_id()). */
const char *journal_name(const struct journal *j);
void journal_id(const struct journal *j, char ret[LEDGER_ID_TEXT]);
/* Its last record; -1: records wait for the disk. */
int64_t journal_sequence(struct journal *j);
/* Likewise, without the lock, and perhaps an older one. */
uint64_t journal_written(const struct journal *j);

#endif
