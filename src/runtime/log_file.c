#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/internal.h"

#define COPY_BYTES (64 * 1024)

static void path_of(const char *dir, const char *name, const char *suffix, char *path, size_t size)
{
    snprintf(path, size, "%s/%s.log%s", dir, name, suffix);
}

int log_file_open(const char *dir, const char *name, int *ret_fd, struct err *err)
{
    char path[4096];
    path_of(dir, name, "", path, sizeof(path));
    *ret_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    return *ret_fd < 0 ? err_sys(err, errno, "%s", path) : 0;
}

void log_file_rotate(const char *dir, const char *name, size_t max_bytes)
{
    char path[4096], old[4096], part[4096], *buf;
    struct stat st;
    path_of(dir, name, "", path, sizeof(path));
    path_of(dir, name, ".1", old, sizeof(old));
    path_of(dir, name, ".1.part", part, sizeof(part));
    CLEANUP(file_closep) int in = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0 || fstat(in, &st) < 0 || (size_t)st.st_size <= max_bytes)
        return;
    CLEANUP(file_closep) int out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct err err = ERR_INIT;
    ssize_t n = -1;
    buf = xcalloc(1, COPY_BYTES);
    (void)!lseek(in, st.st_size - (off_t)max_bytes, SEEK_SET); /* whoever writes faster than we look keeps no more than others */
    while (out >= 0 && (n = read(in, buf, COPY_BYTES)) > 0 && file_write_all(out, str_n(buf, (size_t)n), &err) == 0)
        ;
    mem_free(buf);
    /* A disk that is full must not keep the log growing: it is emptied even when the copy failed. */
    if (n == 0 && rename(part, old) < 0)
        log_warn("a log cannot be rotated", KV("path", path));
    if (n != 0)
        unlink(part);
    if (ftruncate(in, 0) < 0)
        log_warn("a log cannot be emptied", KV("path", path));
}

int log_file_tail(const char *dir, const char *name, size_t max_bytes, char **ret, struct err *err)
{
    char path[4096];
    struct stat st;
    path_of(dir, name, "", path, sizeof(path));
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    size_t want = (size_t)st.st_size < max_bytes ? (size_t)st.st_size : max_bytes;
    char *text = xcalloc(1, want + 1);
    ssize_t n = pread(fd, text, want, st.st_size - (off_t)want);
    if (n < 0) {
        mem_free(text);
        return err_sys(err, errno, "%s", path);
    }
    text[n] = 0;
    *ret = text;
    return 0;
}
