#include "ledger/piece.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ledger/files.h"

#define FILES_MAX 999999

void ledger_place_write(const struct ledger_place *p, char ret[LEDGER_PLACE_TEXT])
{
    snprintf(ret, LEDGER_PLACE_TEXT, "%u-%llu-%llu", p->file, (unsigned long long)p->offset, (unsigned long long)p->sequence);
}

int ledger_place_parse(struct str text, struct ledger_place *ret, struct err *err)
{
    struct str file, offset;
    uint64_t n[3];
    if (text.len >= LEDGER_PLACE_TEXT || !str_cut(&text, '-', &file) || !str_cut(&text, '-', &offset) || str_to_u64(file, &n[0]) < 0 || str_to_u64(offset, &n[1]) < 0 || str_to_u64(text, &n[2]) < 0 ||
        !n[0] || n[0] > FILES_MAX || n[1] < LEDGER_FILE_HEAD_BYTES || n[1] > INT64_MAX || n[2] == UINT64_MAX)
        return err_set(err, ERR_INVALID, "no place in a ledger");
    *ret = (struct ledger_place){(unsigned)n[0], n[1], n[2]};
    return 0;
}

struct open_file {
    int fd;
    off_t size;
    char path[LEDGER_PATH_MAX];
};

static int open_at(const char *dir, const char *name, unsigned number, struct open_file *f, struct err *err)
{
    struct stat st;
    ledger_path(dir, name, number, f->path);
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0)
        return err_sys(err, errno, "%s", f->path);
    if (fstat(f->fd, &st) < 0) {
        int eno = errno;
        (void)close(f->fd);
        return err_sys(err, eno, "%s", f->path);
    }
    f->size = st.st_size;
    return 0;
}

/* 1: there is a whole record; ret's body points into buf. 0: none yet. */
static int record_at(const struct open_file *f, uint64_t offset, struct sbuf *buf, struct ledger_record *ret, struct err *err)
{
    uint8_t hash[32];
    size_t used;
    if (offset >= (uint64_t)f->size)
        return 0;
    size_t want = MIN((size_t)((uint64_t)f->size - offset), (size_t)LEDGER_PIECE_MIN);
    sbuf_reset(buf);
    char *room = sbuf_reserve(buf, want);
    if (!room)
        return err_set(err, ERR_NO_MEMORY, "no memory to read %s", f->path);
    ssize_t n;
    do
        n = pread(f->fd, room, want, (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_sys(err, errno, "%s", f->path);
    sbuf_commit(buf, (size_t)n);
    int rc = ledger_decode(sbuf_str(buf), ret, &used, hash, err);
    return rc < 0 ? rc : used > 0;
}

static int first_record(const char *dir, const char *name, unsigned number, struct sbuf *buf, struct ledger_record *ret, struct err *err)
{
    struct open_file f;
    int rc = open_at(dir, name, number, &f, err);
    if (rc < 0)
        return rc;
    rc = record_at(&f, LEDGER_FILE_HEAD_BYTES, buf, ret, err);
    (void)close(f.fd);
    return rc;
}

int ledger_place_find(const char *dir, const char *name, uint64_t after, int64_t since_ms, struct ledger_place *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf buf = {0};
    struct ledger_record rec;
    unsigned first, last;
    int rc = ledger_find_files(dir, name, &first, &last, err);
    if (rc < 0)
        return rc;
    if (!first)
        return err_set(err, ERR_NOT_FOUND, "no files of ledger %s in %s", name, dir);
    sbuf_init(&buf, LEDGER_PIECE_MIN);
    if ((rc = first_record(dir, name, first, &buf, &rec, err)) < 0)
        return rc;
    struct ledger_place place = {first, LEDGER_FILE_HEAD_BYTES, rc ? rec.sequence - 1 : 0};
    while (rc && first < last) { /* the last file whose first record is still too early */
        unsigned middle = first + (last - first + 1) / 2;
        if ((rc = first_record(dir, name, middle, &buf, &rec, err)) < 0)
            return rc;
        if (rc && (rec.sequence <= after || rec.time_ms < since_ms)) {
            first = middle;
            place = (struct ledger_place){middle, LEDGER_FILE_HEAD_BYTES, rec.sequence - 1};
        } else {
            last = middle - 1;
            rc = 1;
        }
    }
    *ret = place;
    return 0;
}

static int gone(struct err *err)
{
    return err_set(err, ERR_GONE, "the ledger has no such place any more");
}

/* One file, to *left bytes or its end. *ret_end: what is there of it is read. */
static int read_file(struct open_file *f, struct ledger_place *at, size_t *left, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, bool *ret_stopped, bool *ret_end, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf buf = {0};
    struct ledger_record rec;
    struct ledger_position pos = {0};
    *ret_stopped = false;
    if (at->offset > (uint64_t)f->size)
        return gone(err);
    sbuf_init(&buf, LEDGER_PIECE_MIN);
    int rc = record_at(f, at->offset, &buf, &rec, err);
    if (rc == ERR_CORRUPT || (rc > 0 && rec.sequence != at->sequence + 1))
        return gone(err);
    *ret_end = rc == 0;
    if (rc <= 0)
        return rc;
    if (fdatasync(f->fd) < 0)
        return err_sys(err, errno, "%s", f->path);
    pos.sequence = at->sequence;
    memcpy(pos.hash, rec.prev_hash, sizeof(pos.hash));
    uint64_t rest = (uint64_t)f->size - at->offset, piece = MIN(rest, (uint64_t)*left);
    struct ledger_scan s = {.path = f->path, .fd = f->fd, .offset = (off_t)at->offset, .size = (off_t)(at->offset + piece), .pos = &pos, .fn = fn, .arg = arg};
    rc = ledger_scan(&s, err);
    *left -= (size_t)((uint64_t)s.offset - at->offset);
    at->offset = (uint64_t)s.offset;
    at->sequence = pos.sequence;
    *ret_stopped = s.stopped;
    *ret_end = piece == rest;
    return rc;
}

int ledger_piece_read(const char *dir, const char *name, struct ledger_place *at, size_t max_bytes, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, bool *ret_end, struct err *err)
{
    struct ledger_place place = *at;
    size_t left = MAX(max_bytes, (size_t)LEDGER_PIECE_MIN);
    unsigned first, last;
    bool stopped = false, end = false;
    /* Before any file is measured: one that is not the last is whole. */
    int rc = ledger_find_files(dir, name, &first, &last, err);
    if (rc < 0)
        return rc;
    if (place.file < first || place.file > last)
        return gone(err);
    for (;;) {
        struct open_file f;
        if ((rc = open_at(dir, name, place.file, &f, err)) < 0)
            return rc;
        rc = read_file(&f, &place, &left, fn, arg, &stopped, &end, err);
        (void)close(f.fd);
        if (rc < 0)
            return rc;
        if (stopped || !end || place.file == last)
            break;
        place.file++;
        place.offset = LEDGER_FILE_HEAD_BYTES;
        end = false;
        if (left < LEDGER_PIECE_MIN)
            break;
    }
    *at = place;
    *ret_end = end && !stopped;
    return 0;
}
