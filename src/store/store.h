/* The store: one ordered history of objects, with transactions, reads at a revision, and a change feed.
 *
 * Keys are byte strings ("modelendpoints/demo/chat"), values are bytes; revisions count up from 1, one for each committed
 * transaction that changes something. Laws (DESIGN, "Store"; one conformance test holds them for every member):
 *   - A transaction whose callback said 0 survives kill -9 and power loss.
 *   - Nobody sees revision N+1 before N; a watcher gets each change once and in order.
 *   - A read at revision R sees exactly what was committed then, or ERR_GONE when R is compacted.
 * Values do not contain their own revision; readers get it beside the value.
 *
 * Members: memory.c (nothing survives), sqlite.c. Both keep all live objects and the retained history in memory in an ordered
 * index (index.c); sqlite.c adds a log on disk, written by its own thread with one COMMIT for all transactions that wait (group commit).
 * Threads: all calls and callbacks on the loop's thread that opened the store. No call blocks on disk but open and close.
 */
#ifndef SEKI_STORE_STORE_H
#define SEKI_STORE_STORE_H

#include <stdint.h>

#include "base/arena.h"
#include "loop/loop.h"

struct store;

/* One version of one object. Immutable and reference-counted: whoever keeps it refs it. */
struct store_value {
    unsigned refs; /* atomic: values may be unref'd on any thread */
    int64_t created_rev; /* revision that created this object */
    int64_t rev;         /* revision of this version */
    struct str key;
    struct str value;
    void *cache;         /* a decoded form kept by the apiserver; freed by cache_free with the value */
    void (*cache_free)(void *cache);
};
struct store_value *store_value_ref(struct store_value *v);
void store_value_unref(struct store_value *v);

enum store_op_type { STORE_PUT, STORE_DELETE };

struct store_op {
    enum store_op_type type;
    struct str key;
    struct str value; /* copied */
    /* Precondition on the key's latest accepted version: -1 none; 0 must not exist (ERR_EXISTS); else the rev it must have
     * (ERR_CONFLICT; ERR_NOT_FOUND when the key is gone). */
    int64_t expect_rev;
};

/* What must be durable elsewhere before a transaction is: notes of an audit ledger. Its calls come on the member's writer thread. */
struct store_note {
    int64_t rev;
    struct str text;
};
struct store_journal {
    void *ctx;
    /* The notes of transactions that are about to be committed together, in order; 0 once they are durable. Else none of the group is committed, and undone() is not called. */
    int (*before)(void *ctx, const struct store_note *notes, size_t count, struct err *err);
    /* What before() was told has not been committed after all; the revisions are given again. */
    void (*undone)(void *ctx, const struct store_note *notes, size_t count);
};

struct store_options {
    const char *path;           /* sqlite: the database file */
    const struct store_journal *journal; /* sqlite: where notes go; NULL: nowhere. Lives as long as the store */
    uint64_t retain_ms;         /* history kept; default 5 min */
    size_t retain_bytes;        /* but at most, of versions that are no longer live; default 256 MiB */
    const char *vfs;            /* sqlite VFS name, tests only */
};

int store_open_memory(struct loop *l, const struct store_options *o, struct store **ret, struct err *err) NODISCARD;
/* ERR_BUSY: another process has it; ERR_CORRUPT; ERR_INVALID: written by a newer program; ERR_IO: what is on disk cannot be made
 * durable. A full disk is no failure: the store opens, and store_health says so. */
int store_open_sqlite(struct loop *l, const struct store_options *o, struct store **ret, struct err *err) NODISCARD;
/* Waits until all accepted transactions are durable or failed, and answers them; none is accepted any more (ERR_UNAVAILABLE). Watches
 * that still run are stopped. May run the loop. */
void store_close(struct store *s);

/* Applies all ops or none, under one revision. Preconditions are judged at once against everything accepted before,
 * durable or not: a failure returns its code immediately, with the key in err->field, and done is not called. Else 0, and later
 * done(arg, 0, rev) once it is durable and visible to readers, or done(arg, code, 0): ERR_NO_SPACE, ERR_IO, and then also for
 * every transaction accepted after it that was not yet durable. A failed transaction stays undone; only when the disk goes on failing and
 * then loses power may one be found that has reached it all the same. At least one op, none with an empty key, no key twice. */
typedef void store_done(void *arg, int code, int64_t rev);
int store_txn(struct store *s, const struct store_op *ops, size_t count, store_done *done, void *arg, struct err *err) NODISCARD;
/* Likewise, with a note for the journal, which is copied; empty: none. */
int store_txn_noted(struct store *s, const struct store_op *ops, size_t count, struct str note, store_done *done, void *arg, struct err *err) NODISCARD;

/* Latest accepted version of a key, durable or not (what preconditions are judged by); NULL when absent. Borrowed. Writers
 * (update, patch) read this, so that they queue behind accepted writes instead of conflicting. */
struct store_value *store_get_pending(struct store *s, struct str key);
/* Latest durable version; NULL when absent. Borrowed until the next loop iteration: ref it to keep it. */
struct store_value *store_get(struct store *s, struct str key);
/* All durable objects whose key starts with prefix, in key order, from `start` (empty: the beginning), at most limit (0: all), as of
 * revision at_rev (0: now). Calls fn for each, until it returns false. ERR_GONE when at_rev is compacted. */
int store_range(struct store *s, struct str prefix, struct str start, int64_t at_rev, size_t limit,
                bool (*fn)(void *arg, struct store_value *v), void *arg, struct err *err) NODISCARD;
size_t store_count(struct store *s, struct str prefix);
int64_t store_rev(const struct store *s);       /* last visible */
bool store_is_quiet(const struct store *s);     /* all that is accepted is durable and visible */
int64_t store_first_rev(const struct store *s); /* oldest revision that reads and watches may start from */

/* Change feed. after_rev: events with a greater revision, those in history first (ERR_GONE when compacted), then live ones. `prev` is the
 * version replaced or deleted (NULL for a creation); `now` is NULL for a deletion. fn runs on the loop, never inside a call of the store, and may call everything here but
 * store_close. Events of one revision come in one turn, to all who watch, before any of the next. A long history comes in turns between which the
 * loop runs: who buffers for a peer can send meanwhile. */
struct store_event {
    int64_t rev;
    struct store_value *prev;
    struct store_value *now;
};
struct store_watch;
int store_watch(struct store *s, struct str prefix, int64_t after_rev, void (*fn)(void *arg, const struct store_event *e), void *arg,
                struct store_watch **ret, struct err *err) NODISCARD;
void store_watch_stop(struct store_watch *w);
/* Whether a key that starts with prefix changed after rev, as readers see it now: for who cannot wait until events are delivered. True also when rev is compacted. Its cost
 * is linear in the changes since rev. */
bool store_changed(struct store *s, struct str prefix, int64_t rev);
int64_t store_watch_rev(const struct store_watch *w); /* all its events up to here were delivered */
/* Called after all events up to rev were delivered to every watch, for bookmarks and caches: fn(arg, rev). One hook a store. */
void store_on_revision(struct store *s, void (*fn)(void *arg, int64_t rev), void *arg);

/* Told of every change as it is accepted, durable or not, and of its way back when it fails after all: for who counts what preconditions are judged by. prev and now are the object
 * before and after; NULL: there was, or is, none. First, within this call, told of all that is accepted by now. fn runs inside calls of the store and must not call its writers. One hook a
 * store; fn NULL: none any more. */
void store_on_accept(struct store *s, void (*fn)(void *arg, struct store_value *prev, struct store_value *now), void *arg);

/* 0, or why writes fail at present (ERR_NO_SPACE …); looked at anew every second, by a write as large as the one that failed. For /readyz. */
int store_health(const struct store *s, struct err *err);
/* Drops history up to rev, as soon as every watch has had it, and not beyond what is visible; normally by the retention timer. */
void store_compact(struct store *s, int64_t rev);

/* Soon, what was forgotten is on the disk no more: neither in the database nor in its log. Costs two syncs. */
void store_scrub(struct store *s);

struct store_stats {
    uint64_t txns, commits, bytes_written; /* accepted; groups made durable; keys and values made durable */
    size_t live_objects, live_bytes, history_versions, history_bytes, watches;
};
void store_get_stats(const struct store *s, struct store_stats *ret);

#endif
