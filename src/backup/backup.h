/* Backups of a data directory, taken while it is in use, and their restoring on an empty machine.
 *
 * What is in one: the store, the ledgers, and every other file of the directory but those that a machine makes anew or that are no state (see BACKUP_LEFT_OUT in tree.c). What makes it
 * consistent is the order: who was told of something is copied before where it stands.
 *   store, then files, then ledgers (usage, audit), then the journals that they are copied from.
 * So the store lacks nothing in the audit ledger (a record is durable before its write), and no ledger has copied a journal's record that the journal in the backup lacks.
 * The other way round what is too much is dealt with: the audit ledger's newer writes are called undone at the restore, journals' newer records are copied at the next start.
 * Threads: one call at a time; calls block.
 */
#ifndef SEKI_BACKUP_BACKUP_H
#define SEKI_BACKUP_BACKUP_H

#include "crypto/sealed_file.h"
#include "json/json.h"

struct backup_progress {
    void (*fn)(void *arg, const char *what, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

/* Writes FILE (0600, under FILE.tmp until it is whole and synced); never over another: ERR_EXISTS. ERR_BUSY: another backup runs; ERR_FORBIDDEN: not the owner of the data. *ret: the manifest. */
struct backup_options {
    const char *data, *file;
    const struct sealed_key *key;
    bool root_key; /* making: with secrets/, where the root key of secrets lies unless another place is configured */
    struct backup_progress progress;
};
int backup_make(const struct backup_options *o, json_t **ret, struct err *err) NODISCARD;

/* When the newest backup of this directory on this machine began, in ms since 1970; 0: none is known. From a file that backup_make() writes last, so that a daemon can tell its age. */
int64_t backup_last_ms(const char *data);

/* Reads it all; the error names what is wrong. */
int backup_verify(const char *file, const struct sealed_key *key, json_t **ret, struct err *err) NODISCARD;

/* Puts it in place in o->data, which must be empty or not there. All is verified before; after an error nothing is in place, and what was there is as it was. *ret: the manifest, with "restored":
 * {"revision": where the store goes on}. A restore that was killed leaves RESTORE_MARK, which keeps sekid away; repeating it starts it over. */
#define RESTORE_MARK ".restoring"
#define RESTORE_DONE ".restored.tmp-" /* what it is called while it is deleted: as file_write()'s own, which no backup takes */
int backup_restore(const struct backup_options *o, json_t **ret, struct err *err) NODISCARD;

#endif
