#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ledger/files.h"

struct ledger_reader {
    char *dir, *name;
    unsigned number; /* file that is read; 0: none found yet */
    off_t offset;
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
    uint64_t sequence;
    bool (*fn)(void *arg, const struct ledger_record *rec);
    void *arg;
};

static bool pass_on(void *arg, const struct ledger_record *rec)
{
    struct after *a = arg;
    return rec->sequence <= a->sequence || a->fn(a->arg, rec);
}

static void rewind_to(struct ledger_reader *r, unsigned number)
{
    r->number = number;
    r->offset = LEDGER_FILE_HEAD_BYTES;
}

int ledger_read(struct ledger_reader *r, uint64_t after_sequence, bool (*fn)(void *arg, const struct ledger_record *rec), void *arg, struct err *err)
{
    struct after a = {after_sequence, fn, arg};
    unsigned first, last;
    int rc = ledger_find_files(r->dir, r->name, &first, &last, err);
    if (rc < 0 || !last)
        return rc;
    if (r->pos.sequence > after_sequence) { /* asked to go back: from the beginning */
        r->number = 0;
        r->pos = (struct ledger_position){0};
    }
    if (!r->number)
        rewind_to(r, first);
    for (;;) {
        char path[LEDGER_PATH_MAX];
        struct stat st;
        bool stopped = false;
        ledger_path(r->dir, r->name, r->number, path);
        if (stat(path, &st) < 0)
            return err_sys(err, errno, "%s", path);
        if (st.st_size > r->offset) {
            rc = ledger_scan(path, r->offset, &r->pos, pass_on, &a, &r->offset, &stopped, err);
            if (rc < 0 || stopped)
                return rc;
        }
        if (r->number == last)
            return 0;
        rewind_to(r, r->number + 1);
    }
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
    rc = ledger_read(r, 0, count, ret_records, err);
    ledger_reader_close(r);
    return rc;
}
