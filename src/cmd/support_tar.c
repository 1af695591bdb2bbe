/* A tar archive (ustar) in gzip, written in passing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/support.h"

#define BLOCK 512
#define NAME_BYTES 100

struct support_tar {
    char *path, *part;
    gzFile gz;
    int64_t now_s;
    bool failed;
};

int support_tar_new(const char *path, int64_t now_ms, struct support_tar **ret, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) == 0)
        return err_set(err, ERR_EXISTS, "%s exists already; nothing is overwritten", path);
    CLEANUP(mem_freep) char *part = xasprintf("%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, errno, "cannot make %s", part);
    gzFile gz = gzdopen(fd, "wb6");
    if (!gz) {
        close(fd);
        unlink(part);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    struct support_tar *t = XNEW(struct support_tar);
    *t = (struct support_tar){.path = xstrdup(path), .part = TAKE(part), .gz = gz, .now_s = now_ms / 1000};
    *ret = t;
    return 0;
}

static int put(struct support_tar *t, struct str data, struct err *err)
{
    while (data.len) {
        int n = gzwrite(t->gz, data.ptr, (unsigned)MIN(data.len, (size_t)1 << 20));
        if (n <= 0) {
            t->failed = true;
            return err_sys(err, errno ? errno : EIO, "cannot write %s", t->part);
        }
        data = str_skip(data, (size_t)n);
    }
    return 0;
}

int support_tar_add(struct support_tar *t, const char *name, struct str data, struct err *err)
{
    char head[BLOCK] = {0};
    unsigned sum = 0;
    if (strlen(name) >= NAME_BYTES || data.len >= (size_t)1 << 33)
        return err_set(err, ERR_TOO_LARGE, "%s does not fit into the archive", name);
    snprintf(head, NAME_BYTES, "%s", name);
    snprintf(head + 100, 8, "%07o", 0600u);
    snprintf(head + 108, 8, "%07o", 0u);
    snprintf(head + 116, 8, "%07o", 0u);
    snprintf(head + 124, 12, "%011llo", (unsigned long long)data.len);
    snprintf(head + 136, 12, "%011llo", (unsigned long long)t->now_s);
    memset(head + 148, ' ', 8);
    head[156] = '0';
    memcpy(head + 257, "ustar\0" "00", 8);
    for (size_t i = 0; i < BLOCK; i++)
        sum += (unsigned char)head[i];
    snprintf(head + 148, 8, "%06o", sum);
    static const char zeros[BLOCK];
    int rc = put(t, str_n(head, BLOCK), err);
    if (rc == 0)
        rc = put(t, data, err);
    if (rc == 0 && data.len % BLOCK)
        rc = put(t, str_n(zeros, BLOCK - data.len % BLOCK), err);
    return rc;
}

int support_tar_finish(struct support_tar *t, uint64_t *ret_bytes, struct err *err)
{
    static const char zeros[2 * BLOCK];
    struct stat st;
    int rc = put(t, str_n(zeros, sizeof(zeros)), err);
    gzFile gz = TAKE(t->gz);
    if (gzclose(gz) != Z_OK && rc == 0)
        rc = err_sys(err, errno ? errno : EIO, "cannot write %s", t->part);
    if (rc < 0)
        return rc;
    /* A link and not a rename: what has the name by now stays. */
    if (link(t->part, t->path) < 0)
        return err_sys(err, errno, "cannot make %s", t->path);
    unlink(t->part);
    mem_free(TAKE(t->part));
    *ret_bytes = stat(t->path, &st) == 0 ? (uint64_t)st.st_size : 0;
    return 0;
}

void support_tar_free(struct support_tar *t)
{
    if (!t)
        return;
    if (t->gz)
        gzclose(t->gz);
    if (t->part)
        unlink(t->part);
    mem_free(t->part);
    mem_free(t->path);
    mem_free(t);
}
