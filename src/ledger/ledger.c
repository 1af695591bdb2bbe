#include "ledger/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "ledger/checkpoint.h"

#define DEFAULT_FILE_BYTES (64u * 1024 * 1024)

struct ledger {
    char *dir, *name;
    struct ledger_file_head head; /* the same in all files */
    size_t max_file_bytes;
    int fd, lock_fd;
    unsigned first, number; /* of the first file and the last; 0: none yet */
    unsigned verified_from; /* the first that opening has read */
    struct ledger_position before; /* where the file before the last ended */
    off_t size;
    off_t room_end;    /* so far the disk has given what the last file needs; 0: not known */
    size_t room_bytes; /* so much is wished for */
    off_t roll_at;     /* a new file is tried again at this size; 0: at max_file_bytes */
    struct ledger_position pos;
    struct sbuf buf;
    bool dirty, broken;
};

/* The file before the last is verified. */
static void mark(const struct ledger *l)
{
    struct ledger_checkpoint c = {.number = l->number - 1, .end = l->before};
    memcpy(c.id, l->head.id, sizeof(c.id));
    if (l->number > 1 && l->before.sequence)
        ledger_checkpoint_save(l->dir, l->name, l->first, &c);
}

/* ---- room ahead ---- */

#define ROOM_STEP (1024 * 1024) /* tmpfs takes back what it gave before when it cannot give all that is asked for at once */
#define ROLL_AGAIN_BYTES (1024 * 1024)

size_t ledger_room_left(const struct ledger *l)
{
    return l->room_end > l->size ? (size_t)(l->room_end - l->size) : 0;
}

/* Returns errno; *to: so far the disk gave it. */
static int allocate(int fd, off_t from, off_t *to)
{
    off_t end = *to;
    for (*to = from; *to < end;) {
        off_t step = MIN(end - *to, (off_t)ROOM_STEP);
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, *to, step) == 0)
            *to += step;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

struct ledger_room ledger_room_wish(struct ledger *l, size_t bytes)
{
    struct ledger_room r = {.fd = -1, .number = l->number};
    l->room_bytes = bytes;
    if (ledger_room_left(l) < bytes - bytes / 4)
        r.fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 0);
    if (r.fd >= 0) {
        r.from = MAX(l->size, l->room_end);
        r.to = l->size + (off_t)bytes;
    }
    return r;
}

int ledger_room_ask(struct ledger_room *r, struct err *err)
{
    if (r->fd < 0)
        return 0;
    long long wanted = r->to - r->from;
    off_t to = r->to;
    int eno = allocate(r->fd, r->from, &to);
    r->to = to;
    if (!eno)
        return 0;
    err_sys(err, eno, "%lld bytes of the disk ahead", wanted);
    return eno == ENOSPC || eno == EDQUOT ? ERR_NO_SPACE : ERR_IO;
}

void ledger_room_have(struct ledger *l, struct ledger_room *r)
{
    struct stat st;
    if (r->number == l->number && r->to > r->from && r->to > l->room_end)
        l->room_end = r->to;
    if (r->number != l->number && r->fd >= 0 && fstat(r->fd, &st) == 0)
        (void)!ftruncate(r->fd, st.st_size); /* that file has ended meanwhile, and needs nothing more */
    file_closep(&r->fd);
}

int ledger_room(struct ledger *l, size_t bytes, struct err *err)
{
    struct ledger_room r = ledger_room_wish(l, bytes);
    int rc = ledger_room_ask(&r, err);
    ledger_room_have(l, &r);
    return rc;
}

/* Of a new file, before it is the last: where it got less than the one before it has left, that one goes on. */
static int room_of_new(const struct ledger *l, int fd, off_t *ret_end, struct err *err)
{
    off_t to = LEDGER_FILE_HEAD_BYTES + (off_t)l->room_bytes;
    int eno = l->room_end ? allocate(fd, LEDGER_FILE_HEAD_BYTES, &to) : 0;
    if (eno && (size_t)(to - LEDGER_FILE_HEAD_BYTES) < MIN(l->room_bytes, ledger_room_left(l)))
        return err_sys(err, eno, "%zu bytes of the disk ahead", l->room_bytes);
    *ret_end = l->room_end ? to : 0;
    return 0;
}

/* What lies behind its end goes back to the disk. */
static void end_file(struct ledger *l)
{
    if (l->fd < 0)
        return;
    if (l->room_end)
        (void)!ftruncate(l->fd, l->size);
    close(l->fd);
}

static int open_new_file(struct ledger *l, struct err *err)
{
    char path[LEDGER_PATH_MAX];
    uint8_t head[LEDGER_FILE_HEAD_BYTES];
    off_t room_end = 0;
    ledger_write_head(&l->head, head);
    ledger_path(l->dir, l->name, l->number + 1, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    int rc = file_write_all(fd, str_n(head, sizeof(head)), err);
    if (rc == 0 && fsync(fd) < 0)
        rc = err_sys(err, errno, "%s", path);
    if (rc == 0)
        rc = file_sync_dir(l->dir, err);
    if (rc == 0)
        rc = room_of_new(l, fd, &room_end, err);
    if (rc < 0) {
        close(fd);
        unlink(path);
        return rc;
    }
    end_file(l);
    l->fd = fd;
    l->room_end = room_end;
    l->roll_at = 0;
    mark(l); /* not of the file that has just ended: its time of change tells too little yet */
    l->before = l->pos;
    l->first = MAX(l->first, 1u);
    l->number++;
    l->size = sizeof(head);
    return 0;
}

/* Only the last record can be torn, by power loss: behind the first bad byte of the last file nothing good may follow, or somebody has changed it. */
static int cut_tail(const char *path, int fd, off_t good, off_t size, struct err *err)
{
    log_warn("a torn tail of a ledger is cut off", KV("file", path), KVI("from", good), KVI("bytes", size - good));
    if (ftruncate(fd, good) < 0 || fsync(fd) < 0)
        return err_sys(err, errno, "%s", path);
    return 0;
}

/* What stands behind the last good record was being written when the power went: by its length it ends at the end of the file or behind it, and nothing whole is in it. */
static bool is_torn(const struct ledger_scan *s)
{
    CLEANUP(sbuf_deinit) struct sbuf tail = {0};
    size_t len = (size_t)(s->size - s->offset);
    if (len > LEDGER_HEAD_BYTES + LEDGER_BODY_MAX)
        return false;
    sbuf_init(&tail, LEDGER_HEAD_BYTES + LEDGER_BODY_MAX);
    char *p = sbuf_reserve(&tail, len);
    if (!p || pread(s->fd, p, len, s->offset) != (ssize_t)len)
        return false;
    if (len < 4)
        return true;
    uint32_t body = (uint8_t)p[0] | (uint32_t)(uint8_t)p[1] << 8 | (uint32_t)(uint8_t)p[2] << 16 | (uint32_t)(uint8_t)p[3] << 24;
    /* 0: the size reached the disk, the bytes did not. */
    return (!body || (body <= LEDGER_BODY_MAX && LEDGER_HEAD_BYTES + body >= len)) && !ledger_has_later(str_n(p, len), s->pos->sequence);
}

static int read_head(struct ledger *l, const char *path, int fd, struct err *err)
{
    char text[LEDGER_FILE_HEAD_BYTES];
    struct ledger_file_head h;
    ssize_t n = pread(fd, text, sizeof(text), 0);
    if (n < 0)
        return err_sys(err, errno, "%s", path);
    if (ledger_read_head(str_n(text, (size_t)n), &h, err) < 0)
        return err_wrap(err, "%s", path);
    if (h.kind != l->head.kind)
        return err_set(err, ERR_INVALID, "%s is a ledger of another kind (%d, not %d)", path, h.kind, l->head.kind);
    if (l->number && memcmp(h.id, l->head.id, sizeof(h.id)) != 0)
        return err_set(err, ERR_CORRUPT, "%s belongs to another ledger than the file before it", path);
    l->head = h;
    return 0;
}

/* Opens one file and goes through it; the descriptor stays open as l->fd. */
static int walk_file(struct ledger *l, unsigned number, bool last, struct err *err)
{
    char path[LEDGER_PATH_MAX];
    struct stat st;
    struct ledger_scan s = {.path = path, .offset = LEDGER_FILE_HEAD_BYTES, .pos = &l->pos};
    ledger_path(l->dir, l->name, number, path);
    file_closep(&l->fd);
    l->fd = s.fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (l->fd < 0 || fstat(l->fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    s.size = st.st_size;
    if (last && st.st_size < LEDGER_FILE_HEAD_BYTES) { /* died while it was made: it holds nothing */
        file_closep(&l->fd);
        return unlink(path) < 0 ? err_sys(err, errno, "%s", path) : open_new_file(l, err);
    }
    int rc = read_head(l, path, l->fd, err);
    if (rc < 0)
        return rc;
    l->before = l->pos;
    l->number = number;
    rc = ledger_scan(&s, err);
    l->size = s.offset;
    bool chained = s.offset > LEDGER_FILE_HEAD_BYTES || l->verified_from != number; /* what the checkpoint says has been seen to be so */
    if (rc == ERR_CORRUPT && last && (chained || number == l->first) && is_torn(&s))
        rc = 0;
    if (rc < 0 || s.offset == s.size)
        return rc;
    if (!last)
        return err_set(err, ERR_CORRUPT, "%s, offset %lld, after sequence %llu: the last record is cut off, and the ledger goes on in another file", path, (long long)s.offset,
                       (unsigned long long)l->pos.sequence);
    return cut_tail(path, l->fd, s.offset, s.size, err);
}

static int walk_files(struct ledger *l, unsigned from, unsigned last, struct err *err)
{
    int rc = 0;
    l->verified_from = from;
    for (unsigned n = from; n <= last && rc == 0; n++)
        rc = walk_file(l, n, n == last, err);
    return rc;
}

/* From where they were verified last; from the beginning when that does not hold. */
static int open_files(struct ledger *l, unsigned first, unsigned last, struct err *err)
{
    struct ledger_checkpoint c;
    l->first = first;
    if (ledger_checkpoint_load(l->dir, l->name, first, last, &c)) {
        memcpy(l->head.id, c.id, sizeof(c.id));
        l->number = c.number;
        l->pos = c.end;
        if (walk_files(l, c.number + 1, last, NULL) == 0) {
            if (c.number + 1 < last)
                mark(l);
            return 0;
        }
        l->number = 0;
        l->pos = l->before = (struct ledger_position){0};
        file_closep(&l->fd);
    }
    int rc = walk_files(l, first, last, err);
    if (rc == 0)
        mark(l);
    return rc;
}

int ledger_open(const struct ledger_options *o, struct ledger **ret, struct err *err)
{
    char lock[LEDGER_PATH_MAX];
    unsigned first, last;
    struct ledger *l = XNEW(struct ledger);
    *l = (struct ledger){.dir = xstrdup(o->dir), .name = xstrdup(o->name), .head.kind = o->kind, .fd = -1, .lock_fd = -1,
                         .max_file_bytes = o->max_file_bytes ? o->max_file_bytes : DEFAULT_FILE_BYTES};
    rnd_bytes(l->head.id, sizeof(l->head.id));
    sbuf_init(&l->buf, LEDGER_BATCH_MAX * (LEDGER_HEAD_BYTES + LEDGER_BODY_MAX));
    snprintf(lock, sizeof(lock), "%s/%s.lock", o->dir, o->name);
    int rc = file_mkdirs(o->dir, 0700, err);
    if (rc == 0)
        rc = file_lock(lock, &l->lock_fd, err);
    if (rc == 0)
        rc = ledger_find_files(o->dir, o->name, &first, &last, err);
    if (rc == 0)
        rc = last ? open_files(l, first, last, err) : open_new_file(l, err);
    if (rc < 0) {
        ledger_close(l);
        return rc;
    }
    *ret = l;
    return 0;
}

void ledger_close(struct ledger *l)
{
    if (!l)
        return;
    if (l->fd >= 0) {
        (void)!ledger_sync(l, NULL);
        close(l->fd);
    }
    file_closep(&l->lock_fd);
    sbuf_deinit(&l->buf);
    mem_free(l->dir);
    mem_free(l->name);
    mem_free(l);
}

/* There is room for that many bytes of records, perhaps in a new file. */
static int make_room(struct ledger *l, size_t bytes, struct err *err)
{
    if (l->broken)
        return err_set(err, ERR_IO, "the ledger %s could not be repaired after a failed write; open it anew", l->name);
    struct err why = ERR_INIT;
    size_t most = MAX(l->max_file_bytes, (size_t)l->roll_at);
    if ((size_t)l->size + bytes <= most || l->size <= LEDGER_FILE_HEAD_BYTES)
        return 0;
    int rc = ledger_sync(l, &why);
    if (rc == 0)
        rc = open_new_file(l, &why);
    if (rc == ERR_NO_SPACE && ledger_room_left(l) >= bytes) {
        l->roll_at = l->size + ROLL_AGAIN_BYTES;
        return 0;
    }
    if (rc < 0 && err)
        *err = why;
    return rc;
}

/* The first n of what was encoded are in the file. */
static void advance(struct ledger *l, const struct str *bodies, size_t n, uint8_t hashes[][32])
{
    for (size_t i = 0; i < n; i++)
        l->size += (off_t)(LEDGER_HEAD_BYTES + bodies[i].len);
    if (!n)
        return;
    l->pos.sequence += n;
    memcpy(l->pos.hash, hashes[n - 1], 32);
    l->dirty = true;
}

/* How many are whole after a write that failed: a full disk takes a part. */
static size_t count_whole(const struct ledger *l, const struct str *bodies, size_t count)
{
    struct stat st;
    size_t n = 0;
    off_t end = l->size;
    if (fstat(l->fd, &st) < 0)
        return 0;
    while (n < count && (end += (off_t)(LEDGER_HEAD_BYTES + bodies[n].len)) <= st.st_size)
        n++;
    return n;
}

int ledger_append_many(struct ledger *l, int64_t time_ms, uint16_t version, const struct str *bodies, size_t count, size_t *ret_done, struct err *err)
{
    struct ledger_record rec = {.sequence = l->pos.sequence, .time_ms = time_ms, .version = version};
    uint8_t hashes[LEDGER_BATCH_MAX][32];
    size_t total = 0;
    *ret_done = 0;
    if (count > LEDGER_BATCH_MAX)
        return err_set(err, ERR_TOO_LARGE, "%zu records at once; at most %d", count, LEDGER_BATCH_MAX);
    for (size_t i = 0; i < count; i++) {
        if (bodies[i].len > LEDGER_BODY_MAX)
            return err_set(err, ERR_TOO_LARGE, "a record of %zu bytes; at most %d", bodies[i].len, LEDGER_BODY_MAX);
        total += LEDGER_HEAD_BYTES + bodies[i].len;
    }
    int rc = make_room(l, total, err);
    if (rc < 0)
        return rc;
    sbuf_reset(&l->buf);
    for (size_t i = 0; i < count; i++) {
        rec.sequence++;
        rec.body = bodies[i];
        memcpy(rec.prev_hash, i ? hashes[i - 1] : l->pos.hash, 32);
        ledger_encode(&rec, &l->buf, hashes[i]);
    }
    if (!sbuf_ok(&l->buf))
        return err_set(err, ERR_TOO_LARGE, "%zu records of %zu bytes at once", count, total);
    rc = file_write_all(l->fd, sbuf_str(&l->buf), err);
    *ret_done = rc < 0 ? count_whole(l, bodies, count) : count;
    advance(l, bodies, *ret_done, hashes);
    if (rc < 0) {
        l->broken = ftruncate(l->fd, l->size) < 0; /* behind them is a part of one */
        l->room_end = MIN(l->room_end, l->size);
    }
    return rc;
}

int ledger_append(struct ledger *l, int64_t time_ms, uint16_t version, struct str body, uint64_t *ret_sequence, struct err *err)
{
    size_t done;
    int rc = ledger_append_many(l, time_ms, version, &body, 1, &done, err);
    if (rc == 0 && ret_sequence)
        *ret_sequence = l->pos.sequence;
    return rc;
}

int ledger_sync(struct ledger *l, struct err *err)
{
    if (!l->dirty)
        return 0;
    if (fdatasync(l->fd) < 0)
        return err_sys(err, errno, "%s", l->name);
    l->dirty = false;
    return 0;
}

int ledger_take_unsynced(struct ledger *l)
{
    int fd = l->dirty ? fcntl(l->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd >= 0)
        l->dirty = false;
    return fd;
}

void ledger_id(const struct ledger *l, char ret[LEDGER_ID_TEXT])
{
    hash_hex(l->head.id, sizeof(l->head.id), ret);
}

uint64_t ledger_last_sequence(const struct ledger *l)
{
    return l->pos.sequence;
}

unsigned ledger_verified_from(const struct ledger *l)
{
    return l->verified_from;
}
