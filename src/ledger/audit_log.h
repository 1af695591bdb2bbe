/* The audit ledger of a running control: one writer for all that is recorded, on threads of its own.
 *
 * Three ways in. Writes come with the store's transactions (audit_log_journal): their records are on the disk before the store commits, so that no change exists without its
 * record; the records of a commit that fails are followed by one that says so. audit_log_add_then() tells when a record is durable: for what is not answered before. audit_log_add()
 * does not wait: denied requests, of which a stranger can make as many as he likes; the same within a second is one record with a count, and of what is
 * too much still something is recorded: how many there were.
 *
 * Threads: any, but journal's (the store's writer). After a failed write nothing new is taken (ERR_IO, ERR_NO_SPACE) until one succeeds; the store's probing leads to that.
 */
#ifndef SEKI_LEDGER_AUDIT_LOG_H
#define SEKI_LEDGER_AUDIT_LOG_H

#include "ledger/audit.h"
#include "loop/loop.h"
#include "store/store.h"

struct audit_log;

struct audit_log_options {
    const char *dir;
    const char *name;    /* AUDIT_LEDGER, or another process's journal */
    const char *collect; /* the journals in dir of this name, or with "-" and more behind it: their records are copied here, each once, in their order; NULL: none */
};
/* Verifies what is there, cuts a torn tail. ERR_CORRUPT names the first bad record. */
int audit_log_open(const struct audit_log_options *o, struct audit_log **ret, struct err *err) NODISCARD;
void audit_log_close(struct audit_log *l); /* writes what waits */
/* So many bytes of the disk are its own ahead of its records from now on, where there are: see ledger_room_wish(). Once, before the first record. */
void audit_log_keep_room(struct audit_log *l, size_t bytes);
/* For store_options; lives as long as l. */
const struct store_journal *audit_log_journal(struct audit_log *l);
/* Once, when the store is open: records of revisions that it does not have are said to be undone. */
int audit_log_settle(struct audit_log *l, int64_t store_rev, struct err *err) NODISCARD;

/* For a store that was put back from a backup, before a control runs on it: the writes behind store_rev are said to be undone, and a record tells that it goes on behind
 * next_rev, who did it, and which backup it was. Where there is no ledger one is begun. */
int audit_log_restored(const char *dir, int64_t store_rev, int64_t next_rev, const char *user, const char *backup, struct err *err) NODISCARD;

/* For a store that an earlier release gets back, likewise: one record says that the writes behind store_rev are undone, who did it, and (text) how. It is of a type that every release knows. */
int audit_log_rolled_back(const char *dir, int64_t store_rev, const char *user, const char *text, struct err *err) NODISCARD;

void audit_log_add(struct audit_log *l, const struct audit_event *e);
/* done(arg) on the loop's thread; code 0: durable. */
struct audit_wait {
    struct loop *loop;
    void (*done)(void *arg, int code);
    void *arg;
};
/* w NULL: nobody waits; it is not put together with others of the second. */
void audit_log_add_then(struct audit_log *l, const struct audit_event *e, const struct audit_wait *w);
/* Where its files lie, for readers; lives as long as l. */
void audit_log_files(const struct audit_log *l, const char **ret_dir, const char **ret_name);
/* 0, or why nothing can be recorded. For /readyz. */
int audit_log_health(struct audit_log *l, struct err *err);

#endif
