/* A ledger read piece by piece, by somebody who remembers between two pieces no more than where the first one ended: for those who may read for as long as they like and must hold up
 * nobody. Also while another writes. What is read is synced before, and checked as a reader does it, but for the chain between pieces. Threads: any.
 */
#ifndef SEKI_LEDGER_PIECE_H
#define SEKI_LEDGER_PIECE_H

#include "ledger/ledger.h"

#define LEDGER_PLACE_TEXT 64
#define LEDGER_PIECE_MIN (LEDGER_HEAD_BYTES + LEDGER_BODY_MAX) /* a piece is at least that, so that each brings one on */

/* Behind a record. */
struct ledger_place {
    unsigned file;
    uint64_t offset;
    uint64_t sequence; /* of the record before it; 0: none */
};

/* A place at or before the first record that comes after `after` and is not older than since_ms: the beginning of a file. ERR_NOT_FOUND: there are no files. */
int ledger_place_find(const char *dir, const char *name, uint64_t after, int64_t since_ms, struct ledger_place *ret, struct err *err) NODISCARD;
/* As text without any sign that URLs would mind, and back: from strangers. ERR_INVALID. */
void ledger_place_write(const struct ledger_place *p, char ret[LEDGER_PLACE_TEXT]);
int ledger_place_parse(struct str text, struct ledger_place *ret, struct err *err) NODISCARD;

/* Whole records from *at on, until fn returns false, max_bytes are read, or *ret_end: the ledger ends there. *at moves on. ERR_GONE: there is no such place in this ledger. */
int ledger_piece_read(const char *dir, const char *name, struct ledger_place *at, size_t max_bytes, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, bool *ret_end,
                      struct err *err) NODISCARD;

#endif
