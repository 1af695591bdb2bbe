/* The way back from an upgrade that changes the store's format.
 *
 * A program of an earlier release refuses a store of a later format, rightly. So before a program changes a store's format it keeps a copy of it in DATA/rollback; undoing the upgrade puts
 * that copy back, and then the earlier release can be installed. What was written to the store since is lost with that. The ledgers are not put back: usage stays counted, the audit ledger
 * says which writes did not last. Revisions go on behind all that were given out. What replaced the copy stays in DATA/rollback, too.
 * A copy of an earlier format may hold what later ones seal: it is in no backup, and is overwritten when it goes.
 * Threads: one call at a time; calls block.
 */
#ifndef SEKI_BACKUP_ROLLBACK_H
#define SEKI_BACKUP_ROLLBACK_H

#include "store/copy.h"

#define ROLLBACK_DIR "rollback" /* in the data directory */

struct rollback {
    struct store_copy_info copy; /* what is kept */
    int64_t kept_ms;             /* since when */
    int format;                  /* of the store now */
};

/* Before a store is opened: keeps a copy, synced, when opening would change its format; one of an earlier upgrade is replaced. ret->kept_ms is 0 when there is nothing to keep. Nothing of
 * the store is changed. ERR_NO_SPACE: says how much is needed; spare_bytes: what the disk must have beyond the copy. ERR_BUSY: another process has the store. */
int rollback_keep(const char *data, uint64_t spare_bytes, struct rollback *ret, struct err *err) NODISCARD;

/* What is kept. ERR_NOT_FOUND: nothing. */
int rollback_look(const char *data, struct rollback *ret, struct err *err) NODISCARD;

/* Puts it back. No sekid may run; user: for the audit ledger. ERR_NOT_FOUND: nothing is kept; ERR_CONFLICT: the store has the copy's format already. After an error the store is as it was.
 * A call that was killed is repeated. */
struct rollback_done {
    struct rollback was;
    int64_t lost;     /* revisions that are gone; -1: the store that was replaced could not be read */
    int64_t next_rev; /* the store goes on behind it */
};
int rollback_undo(const char *data, const char *user, struct rollback_done *ret, struct err *err) NODISCARD;

/* The upgrade is to stay: overwrites and removes what is kept. Nothing there is no error. */
int rollback_finish(const char *data, struct err *err) NODISCARD;
/* The same when it is older than keep_ms. *ret_gone: whether it was. */
int rollback_expire(const char *data, int64_t keep_ms, bool *ret_gone, struct err *err) NODISCARD;

#endif
