#include "node/volume_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/volume.h"

#define BLOCK (1 << 20)

static int copy_range(int from, int to, off_t at, off_t end, char *buffer)
{
    while (at < end) {
        ssize_t n = pread(from, buffer, (size_t)MIN((off_t)BLOCK, end - at), at);
        if (n <= 0)
            return n < 0 ? errno : EIO;
        for (ssize_t done = 0, w; done < n; done += w)
            if ((w = pwrite(to, buffer + done, (size_t)(n - done), at + done)) <= 0)
                return w < 0 ? errno : EIO;
        at += n;
    }
    return 0;
}

/* Into an empty file. */
static int copy(int from, int to, const char *what, int64_t *ret_bytes, struct err *err)
{
    CLEANUP(mem_freep) char *buffer = NULL;
    struct stat st;
    int eno = fstat(from, &st) < 0 || fsync(from) < 0 ? errno : 0;
    *ret_bytes = eno ? 0 : st.st_size;
    if (!eno && ioctl(to, FICLONE, from) == 0)
        return fsync(to) < 0 ? err_sys(err, errno, "%s", what) : 0;
    eno = eno ? eno : ftruncate(to, st.st_size) < 0 ? errno : 0;
    buffer = xcalloc(1, BLOCK);
    for (off_t at = 0; !eno && at < st.st_size;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        data = data < 0 ? at : data;
        off_t hole = lseek(from, data, SEEK_HOLE);
        at = hole < 0 ? st.st_size : hole;
        eno = copy_range(from, to, data, at, buffer);
    }
    if (!eno && fsync(to) < 0)
        eno = errno;
    if (eno == ENOSPC)
        return err_set(err, ERR_NO_SPACE, "the disk has no room for a copy of it");
    return eno ? err_sys(err, eno, "%s", what) : 0;
}

static int copy_to(int from, const char *path, int64_t *ret_bytes, struct err *err)
{
    CLEANUP(file_closep) int to = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return to < 0 ? err_sys(err, errno, "%s", path) : copy(from, to, path, ret_bytes, err);
}

/* *ret_fd is what keeps it still: its frozen file system, or a loop device that nobody has mounted. */
static int still(const char *dir, const char *volume, int *ret_fd, bool *ret_frozen, struct err *err)
{
    if (!volume_attached(dir, volume))
        return volume_hold(dir, volume, ret_fd, err);
    int rc = volume_root(dir, volume, ret_fd, err);
    if (rc == 0 && ioctl(*ret_fd, FIFREEZE, 0) < 0)
        rc = err_sys(err, errno, "freeze volume %s", volume);
    *ret_frozen = rc == 0;
    return rc;
}

int volume_snapshot(const char *dir, const char *volume, const char *id, int64_t limit, int64_t *ret_bytes, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    CLEANUP(file_closep) int image = volume_open(dir, volume, O_RDONLY, err);
    CLEANUP(file_closep) int kept = -1;
    struct stat st;
    bool frozen = false;
    if (image < 0)
        return image;
    int rc = fstat(image, &st) < 0 ? err_sys(err, errno, "%s", volume) : volumes_have_room(dir, st.st_size, limit, err);
    if (rc == 0)
        rc = still(dir, volume, &kept, &frozen, err);
    if (rc < 0)
        return rc;
    rc = copy_to(image, path, ret_bytes, err);
    if (frozen && ioctl(kept, FITHAW, 0) < 0 && errno != EINVAL)
        rc = err_sys(err, errno, "thaw volume %s", volume);
    return rc == 0 ? file_sync_dir(dir, err) : rc;
}

int volume_restore(const char *dir, const char *id, const char *volume, int64_t limit, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, volume);
    CLEANUP(mem_freep) char *fresh = xasprintf("%s/%s" VOLUME_FRESH, dir, volume);
    struct stat st;
    int64_t bytes;
    if (file_exists(path))
        return 0;
    CLEANUP(file_closep) int from = volume_open(dir, id, O_RDONLY, err);
    if (from < 0)
        return from;
    int rc = fstat(from, &st) < 0 ? err_sys(err, errno, "%s", id) : volumes_have_room(dir, st.st_size, limit, err);
    if (rc < 0)
        return rc;
    volume_sweep(dir, volume);
    rc = copy_to(from, fresh, &bytes, err);
    CLEANUP(file_closep) int to = rc == 0 ? open(fresh, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (rc == 0)
        rc = to < 0 ? err_sys(err, errno, "%s", fresh) : volume_allot(to, fresh, bytes, err);
    if (rc == 0 && (fsync(to) < 0 || rename(fresh, path) < 0))
        rc = err_sys(err, errno, "%s", path);
    if (rc < 0)
        volume_sweep(dir, volume);
    return rc == 0 ? file_sync_dir(dir, err) : rc;
}

static void thaw(void *arg, const char *id)
{
    if (volume_attached(arg, id))
        volume_thaw(arg, id);
}

void volumes_thaw(const char *dir)
{
    volumes_each(dir, thaw, (void *)(uintptr_t)dir);
}
