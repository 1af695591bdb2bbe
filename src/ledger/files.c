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

void ledger_write_head(const struct ledger_file_head *h, uint8_t out[LEDGER_FILE_HEAD_BYTES])
{
    memset(out, 0, LEDGER_FILE_HEAD_BYTES);
    memcpy(out, MAGIC, 8);
    out[8] = LEDGER_FORMAT;
    out[12] = (uint8_t)h->kind;
    memcpy(out + 16, h->id, sizeof(h->id));
}

int ledger_read_head(struct str bytes, struct ledger_file_head *ret, struct err *err)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    if (bytes.len < LEDGER_FILE_HEAD_BYTES || memcmp(p, MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "no ledger file: its first bytes are wrong");
    if (p[8] != LEDGER_FORMAT || p[9] || p[10] || p[11])
        return err_set(err, ERR_INVALID, "a ledger file of format %u; this program reads format %d", p[8], LEDGER_FORMAT);
    ret->kind = p[12];
    memcpy(ret->id, p + 16, sizeof(ret->id));
    return 0;
}

struct scan {
    const char *path;
    struct ledger_position *pos;
    bool (*fn)(void *arg, const struct ledger_record *rec);
    void *arg;
    off_t offset;
    bool stopped;
};

/* Takes whole records off buf. */
static int take_records(struct scan *s, struct sbuf *buf, struct err *err)
{
    size_t used = 0;
    while (!s->stopped) {
        struct ledger_record rec;
        uint8_t hash[32];
        size_t n;
        int rc = ledger_decode(str_skip(sbuf_str(buf), used), &rec, &n, hash, err);
        if (rc < 0)
            return err_set(err, ERR_CORRUPT, "%s, offset %lld, after sequence %llu: %s", s->path, (long long)s->offset, (unsigned long long)s->pos->sequence,
                           err && err->msg[0] ? err->msg : "a bad record");
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

int ledger_scan(const char *path, off_t from, struct ledger_position *pos, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, off_t *ret_offset,
                bool *ret_stopped, struct err *err)
{
    struct scan s = {.path = path, .pos = pos, .fn = fn, .arg = arg, .offset = from};
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    CLEANUP(sbuf_deinit) struct sbuf buf = {0};
    off_t at = from;
    int rc = 0;
    sbuf_init(&buf, CHUNK + LEDGER_HEAD_BYTES + LEDGER_BODY_MAX);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    while (rc == 0 && !s.stopped) {
        char *room = sbuf_reserve(&buf, CHUNK);
        if (!room)
            return err_set(err, ERR_NO_MEMORY, "no memory to read %s", path);
        ssize_t n = pread(fd, room, CHUNK, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "%s", path);
        if (n == 0)
            break;
        sbuf_commit(&buf, (size_t)n);
        at += n;
        rc = take_records(&s, &buf, err);
    }
    *ret_offset = s.offset;
    if (ret_stopped)
        *ret_stopped = s.stopped;
    return rc;
}
