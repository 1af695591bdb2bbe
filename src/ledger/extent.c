#include "ledger/extent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "crypto/hash.h"
#include "ledger/files.h"

#define DIGITS 6

bool ledger_split_name(const char *file, char ret_name[LEDGER_NAME_MAX])
{
    size_t len = strlen(file);
    uint64_t n;
    if (len < DIGITS + 2 || file[len - DIGITS - 1] != '.' || str_to_u64(str_of(file + len - DIGITS), &n) < 0 || !n)
        return false;
    return str_to_array(str_n(file, len - DIGITS - 1), ret_name, LEDGER_NAME_MAX);
}

void ledger_extent_deinit(struct ledger_extent *e)
{
    VEC_DEINIT(&e->files);
}

/* One file. Its bytes are 0 when it is being made just now. */
static int measure(const char *path, bool first, struct ledger_extent *e, struct ledger_position *pos, struct ledger_extent_file *ret, off_t *ret_behind, struct err *err)
{
    char text[LEDGER_FILE_HEAD_BYTES], id[LEDGER_ID_TEXT];
    struct ledger_file_head h;
    struct stat st;
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fdatasync(fd) < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    *ret_behind = 0;
    if (st.st_size < LEDGER_FILE_HEAD_BYTES)
        return 0;
    if (pread(fd, text, sizeof(text), 0) != (ssize_t)sizeof(text))
        return err_set(err, ERR_IO, "%s cannot be read", path);
    int rc = ledger_read_head(str_n(text, sizeof(text)), &h, err);
    if (rc < 0)
        return err_wrap(err, "%s", path);
    hash_hex(h.id, sizeof(h.id), id);
    if (!first && strcmp(id, e->id) != 0)
        return err_set(err, ERR_CORRUPT, "%s belongs to another ledger than the file before it", path);
    memcpy(e->id, id, sizeof(id));
    e->kind = h.kind;
    struct ledger_scan s = {.path = path, .fd = fd, .offset = LEDGER_FILE_HEAD_BYTES, .size = st.st_size, .pos = pos};
    rc = ledger_scan(&s, err);
    ret->bytes = (uint64_t)s.offset;
    *ret_behind = s.size - s.offset;
    return rc;
}

int ledger_extent_find(const char *dir, const char *name, struct ledger_extent *ret, struct err *err)
{
    CLEANUP(ledger_extent_deinit) struct ledger_extent e = {0};
    struct ledger_position pos = {0};
    unsigned first, last;
    int rc = ledger_find_files(dir, name, &first, &last, err);
    if (rc == 0 && !last)
        rc = err_set(err, ERR_NOT_FOUND, "no files of ledger %s in %s", name, dir);
    if (rc == 0 && !str_to_array(str_of(name), e.name, sizeof(e.name)))
        rc = err_set(err, ERR_INVALID, "a ledger of this name cannot be: %s", name);
    for (unsigned n = first; rc == 0 && n <= last; n++) {
        char path[LEDGER_PATH_MAX];
        struct ledger_extent_file f = {.number = n};
        off_t behind = 0;
        ledger_path(dir, name, n, path);
        rc = measure(path, n == first, &e, &pos, &f, &behind, err);
        if (rc == 0 && n < last && (behind || !f.bytes))
            rc = err_set(err, ERR_CORRUPT, "%s, after sequence %llu: cut off, and the ledger goes on in another file", path, (unsigned long long)pos.sequence);
        if (rc == 0 && f.bytes)
            *VEC_PUSH(&e.files) = f;
    }
    if (rc < 0)
        return rc;
    e.sequence = pos.sequence;
    memcpy(e.hash, pos.hash, sizeof(e.hash));
    *ret = e;
    e = (struct ledger_extent){0};
    return 0;
}
