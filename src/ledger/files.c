#include "ledger/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define MAGIC "SEKILEDG"
#define CHUNK (256 * 1024)

void ledger_path(const char *dir, const char *name, unsigned number, char path[LEDGER_PATH_MAX])
{
    snprintf(path, LEDGER_PATH_MAX, "%s/%s.%06u", dir, name, number);
}

int ledger_find_files(const char *dir, const char *name, unsigned *ret_first, unsigned *ret_last, struct err *err)
{
    size_t len = strlen(name);
    *ret_first = *ret_last = 0;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        uint64_t n;
        if (strncmp(e->d_name, name, len) != 0 || e->d_name[len] != '.' || str_to_u64(str_of(e->d_name + len + 1), &n) < 0 || !n || n > 999999)
            continue;
        *ret_first = !*ret_first || n < *ret_first ? (unsigned)n : *ret_first;
        *ret_last = n > *ret_last ? (unsigned)n : *ret_last;
    }
    closedir(d);
    return 0;
}

#define AT_KIND 12
#define AT_ID 16
#define AT_CHECK 28

void ledger_write_head(const struct ledger_file_head *h, uint8_t out[LEDGER_FILE_HEAD_BYTES])
{
    memset(out, 0, LEDGER_FILE_HEAD_BYTES);
    memcpy(out, MAGIC, 8);
    out[8] = LEDGER_FORMAT;
    out[AT_KIND] = (uint8_t)h->kind;
    memcpy(out + AT_ID, h->id, sizeof(h->id));
    uint32_t check = ledger_crc32c(str_n(out, AT_CHECK));
    for (int i = 0; i < 4; i++)
        out[AT_CHECK + i] = (uint8_t)(check >> (8 * i));
}

int ledger_read_head(struct str bytes, struct ledger_file_head *ret, struct err *err)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    uint32_t check = 0;
    if (bytes.len < LEDGER_FILE_HEAD_BYTES || memcmp(p, MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "no ledger file: its first bytes are wrong");
    for (int i = 0; i < 4; i++)
        check |= (uint32_t)p[AT_CHECK + i] << (8 * i);
    if (ledger_crc32c(str_n(p, AT_CHECK)) != check)
        return err_set(err, ERR_CORRUPT, "the file's header was changed: its checksum is wrong");
    if (p[8] != LEDGER_FORMAT || p[9] || p[10] || p[11])
        return err_set(err, ERR_INVALID, "a ledger file of format %u; this program reads format %d", p[8], LEDGER_FORMAT);
    if (p[13] || p[14] || p[15])
        return err_set(err, ERR_INVALID, "a ledger file of an unknown kind");
    ret->kind = p[AT_KIND];
    memcpy(ret->id, p + AT_ID, sizeof(ret->id));
    return 0;
}

/* Takes whole records off buf. */
static int take_records(struct ledger_scan *s, struct sbuf *buf, struct err *err)
{
    size_t used = 0;
    while (!s->stopped) {
        struct ledger_record rec;
        struct err why = ERR_INIT;
        uint8_t hash[32];
        size_t n;
        if (ledger_decode(str_skip(sbuf_str(buf), used), &rec, &n, hash, &why) < 0)
            return err_set(err, ERR_CORRUPT, "%s, offset %lld, after sequence %llu: %s", s->path, (long long)s->offset, (unsigned long long)s->pos->sequence, why.msg);
        if (!n)
            break;
        if (rec.sequence != s->pos->sequence + 1)
            return err_set(err, ERR_CORRUPT, "%s, offset %lld: sequence %llu where %llu was expected", s->path, (long long)s->offset, (unsigned long long)rec.sequence,
                           (unsigned long long)s->pos->sequence + 1);
        if (memcmp(rec.prev_hash, s->pos->hash, 32) != 0)
            return err_set(err, ERR_CORRUPT, "%s, offset %lld, sequence %llu: the chain is broken: the record before it was changed or removed", s->path, (long long)s->offset,
                           (unsigned long long)rec.sequence);
        s->pos->sequence = rec.sequence;
        memcpy(s->pos->hash, hash, 32);
        s->offset += (off_t)n;
        used += n;
        if (s->fn && !s->fn(s->arg, &rec))
            s->stopped = true;
    }
    sbuf_consume(buf, used);
    return 0;
}

bool ledger_has_later(struct str bytes, uint64_t sequence)
{
    for (size_t i = 1; i + LEDGER_HEAD_BYTES <= bytes.len; i++) {
        struct ledger_record rec;
        uint8_t hash[32];
        size_t n;
        if (ledger_decode(str_skip(bytes, i), &rec, &n, hash, NULL) == 0 && n && rec.sequence > sequence && rec.sequence - sequence <= bytes.len)
            return true;
    }
    return false;
}

int ledger_scan(struct ledger_scan *s, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf buf = {0};
    off_t at = s->offset;
    int rc = 0;
    sbuf_init(&buf, CHUNK + LEDGER_HEAD_BYTES + LEDGER_BODY_MAX);
    while (rc == 0 && !s->stopped && at < s->size) {
        size_t want = s->size - at < CHUNK ? (size_t)(s->size - at) : CHUNK;
        char *room = sbuf_reserve(&buf, want);
        if (!room)
            return err_set(err, ERR_NO_MEMORY, "no memory to read %s", s->path);
        ssize_t n = pread(s->fd, room, want, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "%s", s->path);
        if (n == 0)
            break;
        sbuf_commit(&buf, (size_t)n);
        at += n;
        rc = take_records(s, &buf, err);
    }
    if (rc == 0 && !s->stopped && ledger_has_later(sbuf_str(&buf), s->pos->sequence))
        rc = err_set(err, ERR_CORRUPT, "%s, offset %lld, after sequence %llu: a record's length is wrong: whole records stand behind it", s->path, (long long)s->offset,
                     (unsigned long long)s->pos->sequence);
    return rc;
}
