/* Up to where a ledger was verified, in NAME.checkpoint beside its files: so that opening it reads only what came later. Between the files of this folder.
 *
 * It says at which record a file that is no longer written ended, with the hash of that record, and what all files up to that one looked like then (number, size, inode, time of last change,
 * as the file system has it and nobody can set). What has been changed since, or was put back from elsewhere, or changed so shortly before that the time does not tell, is read again from the
 * beginning, and so is everything when the chain does not go on from there, or the checkpoint is none. It is a help and no proof: `seki usage verify`, `seki audit verify` and whoever reads from
 * the beginning look at every byte. Not synced: a torn one is none.
 */
#ifndef SEKI_LEDGER_CHECKPOINT_H
#define SEKI_LEDGER_CHECKPOINT_H

#include "ledger/files.h"

struct ledger_checkpoint {
    unsigned number;           /* of the last file that it covers */
    uint8_t id[LEDGER_ID_BYTES];
    struct ledger_position end; /* of that file */
};

/* What fails leaves none, or the one before. first: the number of the ledger's first file. */
void ledger_checkpoint_save(const char *dir, const char *name, unsigned first, const struct ledger_checkpoint *c);
/* False: everything is to be read. */
bool ledger_checkpoint_load(const char *dir, const char *name, unsigned first, unsigned last, struct ledger_checkpoint *ret);

#endif
