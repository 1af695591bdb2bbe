/* The files of a ledger: names, headers, scanning. Between the files of this folder. */
#ifndef SEKI_LEDGER_FILES_H
#define SEKI_LEDGER_FILES_H

#include "ledger/ledger.h"

#define LEDGER_FORMAT 1
#define LEDGER_PATH_MAX 4096

struct ledger_file_head {
    enum ledger_kind kind;
    uint8_t id[16];
};

void ledger_path(const char *dir, const char *name, unsigned number, char path[LEDGER_PATH_MAX]);
/* Lowest and highest file number; both 0 when there is no file. */
int ledger_find_files(const char *dir, const char *name, unsigned *ret_first, unsigned *ret_last, struct err *err) NODISCARD;
void ledger_write_head(const struct ledger_file_head *h, uint8_t out[LEDGER_FILE_HEAD_BYTES]);
int ledger_read_head(struct str bytes, struct ledger_file_head *ret, struct err *err) NODISCARD;

/* Where a scan stands: the next record must follow on this. */
struct ledger_position {
    uint64_t sequence; /* of the last record */
    uint8_t hash[32];  /* its hash */
};
/* One pass over a file from an offset: checks sequence and chain against *pos and moves it. fn may be NULL; false stops after that record. *ret_offset: behind the last good
 * record. ERR_CORRUPT names offset and sequence; incomplete bytes at the end are no error. */
int ledger_scan(const char *path, off_t from, struct ledger_position *pos, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, off_t *ret_offset,
                bool *ret_stopped, struct err *err) NODISCARD;

#endif
