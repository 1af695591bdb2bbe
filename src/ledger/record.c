#include "ledger/record.h"

#include <pthread.h>
#include <string.h>

#include "crypto/hash.h"

/* CRC-32C (Castagnoli), reflected, polynomial 0x82F63B78; by slices of eight bytes. */
static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 0xFF];
}

#ifdef __x86_64__
/* The processor's own instruction for it. */
__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(const uint8_t *p, size_t len)
{
    uint64_t c = UINT32_MAX;
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        c = __builtin_ia32_crc32di(c, v);
    }
    for (; len; len--, p++)
        c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return ~(uint32_t)c;
}
#endif

uint32_t ledger_crc32c(struct str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    size_t len = bytes.len;
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        return crc_by_instruction(p, len);
#endif
    return ledger_crc32c_portable(str_n(p, len));
}

uint32_t ledger_crc32c_portable(struct str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    size_t len = bytes.len;
    uint32_t c = ~0u;
    pthread_once(&crc_once, make_tables);
    for (; len >= 8; len -= 8, p += 8) {
        uint32_t low = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        c = crc_table[7][low & 0xFF] ^ crc_table[6][low >> 8 & 0xFF] ^ crc_table[5][low >> 16 & 0xFF] ^ crc_table[4][low >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^
            crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    for (; len; len--, p++)
        c = c >> 8 ^ crc_table[0][(c ^ *p) & 0xFF];
    return ~c;
}

static void put(uint8_t *out, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t take(const uint8_t *in, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)in[i] << (8 * i);
    return v;
}

/* Offsets in a record's head, as record.h lists them. */
enum { AT_LENGTH = 0, AT_CRC = 4, AT_VERSION = 8, AT_RESERVED = 10, AT_SEQUENCE = 12, AT_TIME = 20, AT_PREV = 28 };

void ledger_encode(const struct ledger_record *r, struct sbuf *out, uint8_t ret_hash[32])
{
    size_t total = LEDGER_HEAD_BYTES + r->body.len;
    uint8_t *p = (uint8_t *)sbuf_reserve(out, total);
    if (!p)
        return;
    put(p + AT_LENGTH, r->body.len, 4);
    put(p + AT_VERSION, r->version, 2);
    put(p + AT_RESERVED, 0, 2);
    put(p + AT_SEQUENCE, r->sequence, 8);
    put(p + AT_TIME, (uint64_t)r->time_ms, 8);
    memcpy(p + AT_PREV, r->prev_hash, 32);
    memcpy(p + LEDGER_HEAD_BYTES, r->body.ptr, r->body.len);
    put(p + AT_CRC, ledger_crc32c(str_n(p + AT_VERSION, total - AT_VERSION)), 4);
    hash_sha256(str_n(p, total), ret_hash);
    sbuf_commit(out, total);
}

int ledger_decode(struct str bytes, struct ledger_record *ret, size_t *ret_used, uint8_t ret_hash[32], struct err *err)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    *ret_used = 0;
    if (bytes.len < LEDGER_HEAD_BYTES)
        return 0;
    size_t len = (size_t)take(p + AT_LENGTH, 4), total = LEDGER_HEAD_BYTES + len;
    if (len > LEDGER_BODY_MAX)
        return err_set(err, ERR_CORRUPT, "a record of %zu bytes; at most %d are written", len, LEDGER_BODY_MAX);
    if (bytes.len < total)
        return 0;
    if (ledger_crc32c(str_n(p + AT_VERSION, total - AT_VERSION)) != take(p + AT_CRC, 4))
        return err_set(err, ERR_CORRUPT, "a record's checksum is wrong");
    if (take(p + AT_RESERVED, 2) != 0)
        return err_set(err, ERR_CORRUPT, "a record's reserved bytes are not zero");
    ret->version = (uint16_t)take(p + AT_VERSION, 2);
    ret->sequence = take(p + AT_SEQUENCE, 8);
    ret->time_ms = (int64_t)take(p + AT_TIME, 8);
    memcpy(ret->prev_hash, p + AT_PREV, 32);
    ret->body = str_n(p + LEDGER_HEAD_BYTES, len);
    hash_sha256(str_n(p, total), ret_hash);
    *ret_used = total;
    return 0;
}
