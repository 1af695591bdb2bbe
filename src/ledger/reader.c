#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/checkpoint.h"

/* How often and after what time a record at the end that is not whole is looked at again: a writer gives it to the kernel with one call. */
#define WRITING_LOOKS 5
#define WRITING_LOOK_US 10000

struct ledger_reader {
    char *dir, *name;
    unsigned number; /* file that is read; 0: none found yet */
    unsigned began;  /* with this one */
    off_t offset;    /* 0: its head was not read yet */
    uint8_t id[LEDGER_ID_BYTES];
    struct ledger_position pos;
};

int ledger_reader_open(const char *dir, const char *name, struct ledger_reader **ret, struct err *err UNUSED)
{
    struct ledger_reader *r = XNEW(struct ledger_reader);
    *r = (struct ledger_reader){.dir = xstrdup(dir), .name = xstrdup(name)};
    *ret = r;
    return 0;
}

void ledger_reader_close(struct ledger_reader *r)
{
    if (!r)
        return;
    mem_free(r->dir);
    mem_free(r->name);
    mem_free(r);
}

struct after {
    uint64_t sequence, seen;
    bool (*fn)(void *arg, const struct ledger_record *rec);
    void *arg;
};

static bool pass_on(void *arg, const struct ledger_record *rec)
{
    struct after *a = arg;
    a->seen++;
    return rec->sequence <= a->sequence || a->fn(a->arg, rec);
}

static int open_file(const struct ledger_reader *r, unsigned number, char path[LEDGER_PATH_MAX], off_t *ret_size, int *ret_fd, struct err *err)
{
    struct stat st;
    ledger_path(r->dir, r->name, number, path);
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*ret_fd < 0 || fstat(*ret_fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    *ret_size = st.st_size;
    return 0;
}

static int read_head(int fd, const char *path, struct ledger_file_head *ret, struct err *err)
{
    char text[LEDGER_FILE_HEAD_BYTES];
    ssize_t n = pread(fd, text, sizeof(text), 0);
    if (n < 0)
        return err_sys(err, errno, "%s", path);
    return ledger_read_head(str_n(text, (size_t)n), ret, err) < 0 ? err_wrap(err, "%s", path) : 0;
}

int ledger_reader_id(struct ledger_reader *r, char ret[LEDGER_ID_TEXT], struct err *err)
{
    char path[LEDGER_PATH_MAX];
    CLEANUP(file_closep) int fd = -1;
    struct ledger_file_head h;
    unsigned first, last;
    off_t size = 0;
    int rc = ledger_find_files(r->dir, r->name, &first, &last, err);
    if (rc == 0 && !first)
        rc = err_set(err, ERR_NOT_FOUND, "no files of ledger %s in %s", r->name, r->dir);
    if (rc == 0)
        rc = open_file(r, first, path, &size, &fd, err);
    if (rc == 0 && size < LEDGER_FILE_HEAD_BYTES)
        rc = err_set(err, ERR_NOT_FOUND, "%s is being made", path);
    if (rc == 0)
        rc = read_head(fd, path, &h, err);
    if (rc == 0)
        hash_hex(h.id, sizeof(h.id), ret);
    return rc;
}

/* Reads one file to its present end. *ret_behind: bytes there that are no whole record yet. */
static int read_file(struct ledger_reader *r, struct after *a, bool *ret_stopped, off_t *ret_behind, struct err *err)
{
    char path[LEDGER_PATH_MAX];
    CLEANUP(file_closep) int fd = -1;
    struct ledger_scan s = {.path = path, .pos = &r->pos, .fn = pass_on, .arg = a};
    int rc = open_file(r, r->number, path, &s.size, &fd, err);
    *ret_behind = s.size - r->offset;
    if (rc < 0 || s.size == r->offset || s.size < LEDGER_FILE_HEAD_BYTES)
        return rc;
    if (s.size < r->offset)
        return err_set(err, ERR_CORRUPT, "%s has %lld bytes; it had %lld", path, (long long)s.size, (long long)r->offset);
    if (!r->offset) {
        struct ledger_file_head h;
        if ((rc = read_head(fd, path, &h, err)) < 0)
            return rc;
        if (r->pos.sequence && memcmp(h.id, r->id, sizeof(r->id)) != 0)
            return err_set(err, ERR_CORRUPT, "%s belongs to another ledger than the file before it", path);
        memcpy(r->id, h.id, sizeof(r->id));
        r->offset = LEDGER_FILE_HEAD_BYTES;
    }
    if (fdatasync(fd) < 0)
        return err_sys(err, errno, "%s", path);
    s.fd = fd;
    s.offset = r->offset;
    rc = ledger_scan(&s, err);
    r->offset = s.offset;
    *ret_behind = s.size - s.offset;
    *ret_stopped = s.stopped;
    return rc;
}

static void rewind_to(struct ledger_reader *r, unsigned number)
{
    r->number = r->began = number;
    r->offset = 0;
    r->pos = (struct ledger_position){0};
}

/* Whoever wants only what comes late does not read what was verified before. */
static void begin(struct ledger_reader *r, const struct after *a, unsigned first, unsigned last)
{
    struct ledger_checkpoint c;
    rewind_to(r, first);
    if (!a->sequence || !ledger_checkpoint_load(r->dir, r->name, first, last, &c) || c.end.sequence > a->sequence)
        return;
    r->number = r->began = c.number + 1;
    r->pos = c.end;
    memcpy(r->id, c.id, sizeof(r->id));
}

static int read_files(struct ledger_reader *r, struct after *a, off_t *ret_behind, struct err *err)
{
    unsigned first, last;
    bool stopped = false;
    int rc = ledger_find_files(r->dir, r->name, &first, &last, err);
    *ret_behind = 0;
    if (rc < 0 || !last)
        return rc;
    if (!r->number)
        begin(r, a, first, last);
    for (;;) {
        rc = read_file(r, a, &stopped, ret_behind, err);
        if (rc == ERR_CORRUPT && !a->seen && r->number == r->began && r->began != first) { /* the checkpoint is wrong, or that file: who reads all sees which */
            if (err)
                *err = (struct err)ERR_INIT;
            rewind_to(r, first);
            continue;
        }
        if (rc < 0 || stopped || r->number >= last)
            return rc;
        if (*ret_behind)
            return err_set(err, ERR_CORRUPT, "%s/%s.%06u, offset %lld, after sequence %llu: the last record is cut off, and the ledger goes on in another file", r->dir, r->name,
                           r->number, (long long)r->offset, (unsigned long long)r->pos.sequence);
        r->number++;
        r->offset = 0;
    }
}

int ledger_read(struct ledger_reader *r, uint64_t after_sequence, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, struct err *err)
{
    struct after a = {.sequence = after_sequence, .fn = fn, .arg = arg};
    off_t behind;
    if (r->pos.sequence > after_sequence) { /* asked to go back: from the beginning */
        rewind_to(r, 0);
    }
    return read_files(r, &a, &behind, err);
}

void ledger_reader_end(const struct ledger_reader *r, uint64_t *ret_sequence, uint8_t ret_hash[32])
{
    *ret_sequence = r->pos.sequence;
    memcpy(ret_hash, r->pos.hash, sizeof(r->pos.hash));
}

unsigned ledger_reader_began(const struct ledger_reader *r)
{
    return r->began;
}

static bool count(void *arg, const struct ledger_record *rec UNUSED)
{
    (*(uint64_t *)arg)++;
    return true;
}

int ledger_verify(const char *dir, const char *name, uint64_t *ret_records, struct err *err)
{
    struct ledger_reader *r;
    *ret_records = 0;
    int rc = ledger_reader_open(dir, name, &r, err);
    if (rc < 0)
        return rc;
    off_t behind;
    rc = read_files(r, &(struct after){.fn = count, .arg = ret_records}, &behind, err);
    for (int i = 0; rc == 0 && behind && i < WRITING_LOOKS; i++) {
        usleep(WRITING_LOOK_US);
        rc = read_files(r, &(struct after){.fn = count, .arg = ret_records}, &behind, err);
    }
    if (rc == 0 && behind)
        rc = err_set(err, ERR_CORRUPT, "%s/%s.%06u, offset %lld, after sequence %llu: %lld bytes that are no whole record", dir, name, r->number, (long long)r->offset,
                     (unsigned long long)r->pos.sequence, (long long)behind);
    ledger_reader_close(r);
    return rc;
}
