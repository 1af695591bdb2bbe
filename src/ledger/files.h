/* The files of a ledger: names, headers, scanning. Between the files of this folder. */
#ifndef SEKI_LEDGER_FILES_H
#define SEKI_LEDGER_FILES_H

#include "ledger/ledger.h"

#define LEDGER_FORMAT 1
#define LEDGER_PATH_MAX 4096
#define LEDGER_ID_BYTES 12

struct ledger_file_head {
    enum ledger_kind kind;
    uint8_t id[LEDGER_ID_BYTES];
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
/* One pass over an open file, from *offset to size: checks sequence and chain against *pos, and moves both behind the last good record. fn may be NULL; false stops after that
 * record. ERR_CORRUPT names offset and sequence. Bytes at the end that are a part of a record are no error, when no whole record stands among them. */
struct ledger_scan {
    const char *path; /* for errors */
    int fd;
    off_t offset, size;
    struct ledger_position *pos;
    bool (*fn)(void *arg, const struct ledger_record *rec);
    void *arg;
    bool stopped;
};
int ledger_scan(struct ledger_scan *s, struct err *err) NODISCARD;
/* Whether some record that comes later than the sequence stands whole in the bytes: then what is before it was written long ago, and is damaged. */
bool ledger_has_later(struct str bytes, uint64_t sequence);

#endif
