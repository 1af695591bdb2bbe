/* How far a ledger reaches at one moment: for copies of its files while it is written. Files are appended to and never changed, so that the bytes of an extent stay what they are. */
#ifndef SEKI_LEDGER_EXTENT_H
#define SEKI_LEDGER_EXTENT_H

#include "base/vec.h"
#include "ledger/ledger.h"

#define LEDGER_NAME_MAX 64

struct ledger_extent_file {
    unsigned number;
    uint64_t bytes; /* up to the end of a record */
};
struct ledger_extent {
    char name[LEDGER_NAME_MAX];
    char id[LEDGER_ID_TEXT];
    enum ledger_kind kind;
    uint64_t sequence; /* of the last record; 0: none */
    uint8_t hash[32];  /* of the last record */
    VEC(struct ledger_extent_file) files;
};

/* Reads and checks it all, syncs what it found. ERR_CORRUPT names the first bad record; ERR_NOT_FOUND: no such ledger. */
int ledger_extent_find(const char *dir, const char *name, struct ledger_extent *ret, struct err *err) NODISCARD;
void ledger_extent_deinit(struct ledger_extent *e); /* also for CLEANUP */
/* Whether a file's name is that of a ledger's file: NAME.000001. */
bool ledger_split_name(const char *file, char ret_name[LEDGER_NAME_MAX]);

#endif
