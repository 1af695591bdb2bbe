#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rnd.h"

#define TREE_DEPTH_MAX 64 /* directories that are open at once */

void file_closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int file_read(const char *path, size_t max_bytes, char **ret, size_t *ret_len, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    /* Sizes in /proc and of growing files lie: read until the end, under the cap. */
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, max_bytes < SIZE_MAX ? max_bytes + 1 : max_bytes);
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        if ((uint64_t)st.st_size > max_bytes)
            return err_set(err, ERR_TOO_LARGE, "%s: larger than %zu bytes", path, max_bytes);
        if (!sbuf_reserve(&b, (size_t)st.st_size))
            return err_set(err, ERR_NO_MEMORY, "%s: out of memory", path);
    }
    for (;;) {
        size_t room =
            MIN(MAX(b.cap > b.len + 1 ? b.cap - b.len - 1 : 0, (size_t)4096), b.max - b.len);
        if (room == 0)
            return err_set(err, ERR_TOO_LARGE, "%s: larger than %zu bytes", path, max_bytes);
        char *to = sbuf_reserve(&b, room);
        if (!to)
            return err_set(err, ERR_NO_MEMORY, "%s: out of memory", path);
        ssize_t n = read(fd, to, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "%s", path);
        if (n == 0)
            break;
        sbuf_commit(&b, (size_t)n);
        if (b.len > max_bytes)
            return err_set(err, ERR_TOO_LARGE, "%s: larger than %zu bytes", path, max_bytes);
    }
    size_t len = b.len;
    char *bytes = sbuf_take(&b);
    if (!bytes)
        return err_set(err, ERR_NO_MEMORY, "%s: out of memory", path);
    *ret = bytes;
    *ret_len = len;
    return 0;
}

int file_write_all(int fd, struct str data, struct err *err)
{
    while (data.len) {
        ssize_t n = write(fd, data.ptr, data.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "write");
        data = str_skip(data, (size_t)n);
    }
    return 0;
}

/* The directory part of path: "." when there is none. */
static char *dir_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return xstrdup(".");
    return xstrndup(path, slash == path ? 1 : (size_t)(slash - path));
}

int file_sync_dir(const char *path, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    if (fsync(fd) < 0)
        return err_sys(err, errno, "fsync %s", path);
    return 0;
}

static int write_and_sync(const char *path, struct str data, mode_t mode, struct err *err)
{
    CLEANUP(file_closep)
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    /* The umask must not decide who may read a key or a certificate. */
    if (fchmod(fd, mode) < 0)
        return err_sys(err, errno, "chmod %s", path);
    int rc = file_write_all(fd, data, err);
    if (rc < 0)
        return err_wrap(err, "%s", path), rc;
    if (fsync(fd) < 0)
        return err_sys(err, errno, "fsync %s", path);
    return 0;
}

int file_write(const char *path, struct str data, mode_t mode, struct err *err)
{
    char suffix[9];
    rnd_name(suffix, sizeof(suffix) - 1);
    CLEANUP(mem_freep) char *temporary = xasprintf("%s.tmp-%s", path, suffix);
    int rc = write_and_sync(temporary, data, mode, err);
    if (rc == 0 && rename(temporary, path) < 0)
        rc = err_sys(err, errno, "rename %s", path);
    if (rc < 0) {
        unlink(temporary);
        return rc;
    }
    CLEANUP(mem_freep) char *dir = dir_of(path);
    return file_sync_dir(dir, err);
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static int make_dir(const char *path, mode_t mode, struct err *err)
{
    struct stat st;
    if (mkdir(path, mode) == 0)
        return 0;
    int eno = errno;
    /* Some filesystems say EROFS or EACCES rather than EEXIST: what is there already is what
     * counts. */
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return 0;
        eno = ENOTDIR;
    }
    return err_sys(err, eno, "mkdir %s", path);
}

int file_mkdirs(const char *path, mode_t mode, struct err *err)
{
    CLEANUP(mem_freep) char *part = xstrdup(path);
    for (char *p = part + 1; part[0] && *p; p++) {
        if (*p != '/' || p[-1] == '/')
            continue;
        *p = '\0';
        int rc = make_dir(part, mode, err);
        if (rc < 0)
            return rc;
        *p = '/';
    }
    return make_dir(path, mode, err);
}

int file_lock(const char *path, int *ret_fd, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    int rc;
    do
        rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == EWOULDBLOCK)
        return err_set(err, ERR_BUSY, "%s is locked by another process", path);
    if (rc < 0)
        return err_sys(err, errno, "lock %s", path);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static void closedirp(DIR **d)
{
    if (*d)
        closedir(*d);
}

struct removal {
    const char *path;
    int top;
    unsigned moved;
    bool again;
};

/* What lies too deep is moved up to the top, where it is met again: so a tree of any depth goes with few descriptors and little stack. */
static int move_up(struct removal *r, int from, const char *name, struct err *err)
{
    char to[32];
    for (;;) {
        snprintf(to, sizeof(to), ".deep-%u", r->moved++);
        if (renameat(from, name, r->top, to) == 0)
            break;
        if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
            return err_sys(err, errno, "%s/%s", r->path, name);
    }
    r->again = true;
    return 0;
}

/* Empties the directory that fd stands for; fd is closed. Every step is relative to an open
 * directory, so that nobody can swap a link in between. */
static int empty_dir(struct removal *r, int fd, int depth, struct err *err)
{
    CLEANUP(closedirp) DIR *d = fdopendir(fd);
    if (!d) {
        int eno = errno;
        close(fd);
        return err_sys(err, eno, "%s", r->path);
    }
    struct dirent *e;
    while ((errno = 0, e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM)
            return err_sys(err, errno, "remove %s/%s", r->path, e->d_name);
        int child = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child < 0)
            return err_sys(err, errno, "%s/%s", r->path, e->d_name);
        if (depth >= TREE_DEPTH_MAX)
            close(child);
        int rc = depth < TREE_DEPTH_MAX ? empty_dir(r, child, depth + 1, err) : move_up(r, dirfd(d), e->d_name, err);
        if (rc < 0)
            return rc;
        if (depth < TREE_DEPTH_MAX && unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
            return err_sys(err, errno, "remove %s/%s", r->path, e->d_name);
    }
    if (errno)
        return err_sys(err, errno, "read %s", r->path);
    return 0;
}

int file_remove_tree(const char *path, struct err *err)
{
    CLEANUP(file_closep) int top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (top < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", path);
    struct removal r = {.path = path, .top = top};
    do {
        r.again = false;
        int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* another place to read on from */
        int rc = fd < 0 ? err_sys(err, errno, "%s", path) : empty_dir(&r, fd, 0, err);
        if (rc < 0)
            return rc;
    } while (r.again);
    if (rmdir(path) < 0 && errno != ENOENT)
        return err_sys(err, errno, "remove %s", path);
    return 0;
}
