/* The usage journal of this gateway process: one record a request, in the kernel's hands before the client sees the end of its answer.
 *
 * journal_add() and journal_add_many() cost one write(2) under a lock that all loops share; a thread makes records survive power loss every 100 ms without holding that lock. When the disk
 * refuses a record it waits in memory and is tried again, some at a time, so that loops get at the lock in between; with BACKLOG_MAX of them waiting journal_ready() fails, and the gateway refuses new requests rather than serve
 * what it cannot count. Threads: any.
 */
#ifndef SEKI_GATEWAY_JOURNAL_H
#define SEKI_GATEWAY_JOURNAL_H

#include "ledger/ledger.h"
#include "ledger/usage.h"

struct journal;

/* dir/usage-GATEWAY.NNNNNN. ERR_BUSY: another gateway of that name writes there. */
int journal_open(const char *dir, const char *gateway, struct journal **ret, struct err *err) NODISCARD;
void journal_close(struct journal *j); /* tries the backlog once more, syncs */
void journal_add(struct journal *j, const struct usage *u);
/* Records that usage_encode() has made, in their order; at most LEDGER_BATCH_MAX. */
void journal_add_many(struct journal *j, const struct str *bodies, size_t count);
/* Why requests cannot be counted, or 0. Without the lock: every request asks. */
int journal_ready(const struct journal *j, struct err *err) NODISCARD;
/* What the journal is called, and which one it is (ledger_reader_id()). */
const char *journal_name(const struct journal *j);
void journal_id(const struct journal *j, char ret[LEDGER_ID_TEXT]);
/* Its last record; -1: records wait for the disk. */
int64_t journal_sequence(struct journal *j);
/* Likewise, without the lock, and perhaps an older one. */
uint64_t journal_written(const struct journal *j);

#endif
