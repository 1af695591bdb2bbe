/* Ledger records: the one on-disk format of usage journals, usage ledger and audit ledger.
 *
 * A file is a header ("SEKILEDG", u32 format version = 1, u32 kind, 12 random bytes that name the ledger and are the same in all its files, u32 crc32c of the 28 bytes
 * before it) and records, little endian:
 *   u32 length      of the body, at most 64 KiB
 *   u32 crc32c      of everything after this field, body included
 *   u16 version     of the body's schema
 *   u16 reserved    0
 *   u64 sequence    1, 2, 3 … within the ledger, across its files
 *   i64 time_ms     wall clock
 *   32 bytes        SHA-256 of the previous record, whole (zeros before the first): the chain
 *   body            JSON object, UTF-8
 * A torn tail (a record cut by power loss) is recognised by length or checksum and is cut off at open, unless a whole record stands behind it: then, and wherever else
 * something is wrong, it is ERR_CORRUPT and is named by file, offset and sequence.
 */
#ifndef SEKI_LEDGER_RECORD_H
#define SEKI_LEDGER_RECORD_H

#include <stdint.h>

#include "base/str.h"

#define LEDGER_BODY_MAX (64 * 1024)
#define LEDGER_HEAD_BYTES 60
#define LEDGER_FILE_HEAD_BYTES 32

enum ledger_kind { LEDGER_USAGE_JOURNAL = 1, LEDGER_USAGE = 2, LEDGER_AUDIT = 3 };

struct ledger_record {
    uint64_t sequence;
    int64_t time_ms;
    uint16_t version;
    uint8_t prev_hash[32];
    struct str body;
};

/* The checksum: Castagnoli's. */
uint32_t ledger_crc32c(struct str bytes);
uint32_t ledger_crc32c_portable(struct str bytes); /* what it is where the processor has no instruction for it */
/* Appends one encoded record to out; ret_hash is its hash, for the next one's prev_hash. */
void ledger_encode(const struct ledger_record *r, struct sbuf *out, uint8_t ret_hash[32]);
/* Decodes the record at the start of bytes. *ret_used 0: incomplete (a torn tail, or still being written). ERR_CORRUPT otherwise. Fuzzed. */
int ledger_decode(struct str bytes, struct ledger_record *ret, size_t *ret_used, uint8_t ret_hash[32], struct err *err) NODISCARD;

#endif
