#include "node/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/node_init.h"

#define PREFIX "pvc-"
#define UID_BYTES 36
#define SUFFIX ".img"
#define FRESH ".new" /* not a volume yet */
#define BLOCK (1 << 20)
#define MOUNTS_AT (1024 + 0x34) /* s_mnt_count, 16 bits, of ext4's superblock */
#define LOOP_MAJOR 7
#define LOOP_CONTROL_MINOR 237
#define ATTACH_TRIES 8 /* another process may take the free one first */

bool volume_id_valid(struct str id)
{
    if (id.len != sizeof(PREFIX) - 1 + UID_BYTES || !str_starts(id, STR(PREFIX)))
        return false;
    for (size_t i = sizeof(PREFIX) - 1; i < id.len; i++)
        if (!strchr("0123456789abcdef-", id.ptr[i]) || !id.ptr[i])
            return false;
    return true;
}

static int open_image(const char *dir, const char *id, int flags, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, dir, id);
    struct stat st;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? err_set(err, ERR_NOT_FOUND, "there is no volume %s", id) : err_sys(err, errno, "%s", path);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return err_set(err, ERR_CORRUPT, "%s is no file", path);
}

/* ---- making ---- */

struct sum {
    const char *dir;
    int64_t bytes;
};

static void add_up(void *arg, const char *id)
{
    struct sum *s = arg;
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, s->dir, id);
    struct stat st;
    if (lstat(path, &st) == 0)
        s->bytes += st.st_size;
}

static int allot(int fd, const char *path, int64_t bytes, struct err *err)
{
    int rc = posix_fallocate(fd, 0, bytes);
    if (rc)
        return rc == ENOSPC ? err_set(err, ERR_NO_SPACE, "the disk has no room for %lld bytes", (long long)bytes) : err_sys(err, rc, "%s", path);
    return 0;
}

static int make_file(const char *path, int64_t bytes, struct err *err)
{
    const char *const mkfs[] = {"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", path, NULL};
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    int rc = allot(fd, path, bytes, err);
    if (rc < 0)
        return rc;
    if (node_run(mkfs, NULL, -1) < 0)
        return err_set(err, ERR_INTERNAL, "mkfs.ext4 made no file system");
    if ((rc = allot(fd, path, bytes, err)) < 0) /* what mkfs zeroed by giving it back */
        return rc;
    return fsync(fd) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

int volume_make(const char *dir, const char *id, int64_t bytes, int64_t limit, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, dir, id);
    CLEANUP(mem_freep) char *fresh = xasprintf("%s/%s" FRESH, dir, id);
    struct sum sum = {dir, 0};
    if (file_exists(path))
        return 0;
    bytes = MAX(bytes, VOLUME_MIN_BYTES);
    volumes_each(dir, add_up, &sum);
    if (limit >= 0 && bytes > limit - sum.bytes)
        return err_set(err, ERR_NO_SPACE, "this node's volumes may have %lld bytes together, and have %lld", (long long)limit, (long long)sum.bytes);
    int rc = make_file(fresh, bytes, err);
    if (rc == 0 && rename(fresh, path) < 0)
        rc = err_sys(err, errno, "%s", path);
    if (rc < 0)
        (void)unlink(fresh);
    return rc == 0 ? file_sync_dir(dir, err) : rc;
}

bool volume_unused(const char *dir, const char *id)
{
    uint8_t mounts[2] = {1, 1};
    CLEANUP(file_closep) int fd = open_image(dir, id, O_RDONLY, NULL);
    return fd >= 0 && pread(fd, mounts, sizeof(mounts), MOUNTS_AT) == (ssize_t)sizeof(mounts) && !mounts[0] && !mounts[1];
}

/* ---- wiping ---- */

static int overwrite(int fd, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *zeros = xcalloc(1, BLOCK);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", id);
    for (off_t at = 0; at < st.st_size;) {
        off_t from = lseek(fd, at, SEEK_DATA);
        if (from < 0 && errno == ENXIO)
            break; /* what was never written has nothing to say */
        off_t to = from < 0 ? st.st_size : lseek(fd, from, SEEK_HOLE);
        from = from < 0 ? at : from;
        to = to < 0 ? st.st_size : to;
        for (at = from; at < to;) {
            ssize_t n = pwrite(fd, zeros, (size_t)MIN((off_t)BLOCK, to - at), at);
            if (n < 0)
                return err_sys(err, errno, "%s", id);
            at += n;
        }
    }
    return fdatasync(fd) < 0 ? err_sys(err, errno, "%s", id) : 0;
}

static int wipe_now(const char *dir, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, dir, id);
    CLEANUP(file_closep) int fd = open_image(dir, id, O_RDWR, err);
    int rc = fd < 0 ? fd : overwrite(fd, id, err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = err_sys(err, errno, "%s", path);
    return rc;
}

int volume_wipe(const char *dir, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, dir, id);
    if (!file_exists(path))
        return 0;
    if (volume_attached(dir, id))
        return err_set(err, ERR_BUSY, "volume %s is still mounted", id);
    int rc = wipe_now(dir, id, err);
    return rc == 0 ? file_sync_dir(dir, err) : rc;
}

struct wiping {
    const char *dir;
    int rc;
    struct err *err;
};

static void wipe_one(void *arg, const char *id)
{
    struct wiping *w = arg;
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, w->dir, id);
    struct stat st;
    if (w->rc < 0 || (lstat(path, &st) < 0 && errno == ENOENT))
        return;
    /* Pods may have put anything there: what is no file is never opened, and is in nobody's way. A directory goes with the node's. */
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        if (!S_ISDIR(st.st_mode) && unlink(path) < 0 && errno != ENOENT)
            w->rc = err_sys(w->err, errno, "%s", path);
        return;
    }
    w->rc = wipe_now(w->dir, id, w->err);
}

int volumes_wipe(const char *dir, struct err *err)
{
    struct wiping w = {dir, 0, err};
    volumes_each(dir, wipe_one, &w);
    return w.rc;
}

void volumes_sweep(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct str name = str_of(e->d_name);
        if (str_ends(name, STR(FRESH)) && volume_id_valid(str_n(name.ptr, name.len - sizeof(FRESH) + 1)))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}

void volumes_each(const char *dir, void (*fn)(void *arg, const char *id), void *arg)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct str name = str_of(e->d_name);
        char id[VOLUME_ID_MAX];
        if (str_ends(name, STR(SUFFIX)) && volume_id_valid(str_n(name.ptr, name.len - sizeof(SUFFIX) + 1)) && str_to_array(str_n(name.ptr, name.len - sizeof(SUFFIX) + 1), id, sizeof(id)))
            fn(arg, id);
    }
    if (d)
        closedir(d);
}

/* ---- loop devices ---- */

/* Opened by a name that is there for that moment only: a node's /dev has none. */
static int open_device(mode_t type, unsigned major_number, unsigned minor_number)
{
    char path[64];
    snprintf(path, sizeof(path), "/dev/.seki-%d-%d-%u-%u", (int)getpid(), (int)gettid(), major_number, minor_number); /* no other thread's */
    (void)unlink(path);
    if (mknod(path, type | 0600, makedev(major_number, minor_number)) < 0)
        return -1;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), why = errno;
    (void)unlink(path);
    errno = why;
    return fd;
}

static int open_loop(unsigned number)
{
    return open_device(S_IFBLK, LOOP_MAJOR, number);
}

/* By the name of what it has, as the system tells everybody: for devices that cannot be asked. A name that cannot be read may be any. */
static bool may_hold(unsigned number, const char *id)
{
    CLEANUP(mem_freep) char *from = xasprintf("/sys/block/loop%u/loop/backing_file", number);
    CLEANUP(mem_freep) char *name = NULL;
    size_t len = 0;
    int rc = file_read(from, PATH_MAX + 64, &name, &len, NULL);
    return rc == 0 ? strstr(name, id) != NULL : rc != ERR_NOT_FOUND; /* let go meanwhile */
}

static bool holds(unsigned number, const struct stat *image, const char *id)
{
    CLEANUP(file_closep) int fd = open_loop(number);
    struct loop_info64 info;
    if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0)
        return info.lo_inode == image->st_ino && info.lo_device == image->st_dev;
    return errno != ENXIO && errno != ENODEV && may_hold(number, id);
}

bool volume_attached(const char *dir, const char *id)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" SUFFIX, dir, id);
    struct stat st;
    bool found = false;
    DIR *d = lstat(path, &st) == 0 ? opendir("/sys/block") : NULL;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        CLEANUP(mem_freep) char *in_use = xasprintf("/sys/block/%s/loop", e->d_name);
        struct str name = str_of(e->d_name);
        uint64_t number;
        if (str_starts(name, STR("loop")) && file_exists(in_use) && str_to_u64(str_skip(name, 4), &number) == 0)
            found = holds((unsigned)number, &st, id);
    }
    if (d)
        closedir(d);
    return found;
}

/* Its descriptor; it lets go by itself after its last mount, or with the descriptor. */
static int attach(int image, unsigned *ret_number, struct err *err)
{
    const struct loop_config config = {.fd = (uint32_t)image, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    CLEANUP(file_closep) int control = open_device(S_IFCHR, 10, LOOP_CONTROL_MINOR);
    if (control < 0)
        return err_sys(err, errno, "this machine has no loop devices");
    for (int i = 0; i < ATTACH_TRIES; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        int fd = number < 0 ? -1 : open_loop((unsigned)number);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            *ret_number = (unsigned)number;
            return fd;
        }
        int why = errno;
        if (fd >= 0)
            close(fd);
        if (why != EBUSY)
            return err_sys(err, why, "a loop device");
    }
    return err_set(err, ERR_BUSY, "no loop device is free");
}

/* ---- mounts ---- */

static bool is_mounted(const char *path)
{
    CLEANUP(mem_freep) char *up = xasprintf("%s/..", path);
    struct stat here, above;
    return lstat(path, &here) == 0 && stat(up, &above) == 0 && here.st_dev != above.st_dev;
}

int volume_mount(const char *dir, const char *id, const char *path, struct err *err)
{
    char device[64];
    unsigned number = 0;
    if (is_mounted(path))
        return 0;
    int rc = file_mkdirs(path, 0750, err);
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int image = open_image(dir, id, O_RDWR, err);
    if (image < 0)
        return image;
    if (volume_attached(dir, id)) /* two file systems on one file would ruin it */
        return err_set(err, ERR_BUSY, "volume %s is still mounted elsewhere", id);
    CLEANUP(file_closep) int loop = attach(image, &number, err);
    if (loop < 0)
        return loop;
    snprintf(device, sizeof(device), "/proc/self/fd/%d", loop);
    return mount(device, path, "ext4", MS_NODEV | MS_NOSUID, NULL) < 0 ? err_sys(err, errno, "mount volume %s", id) : 0;
}

int volume_bind(const char *from, const char *to, bool read_only, struct err *err)
{
    if (!is_mounted(from))
        return err_set(err, ERR_UNAVAILABLE, "nothing is mounted at %s", from);
    if (is_mounted(to))
        return 0;
    int rc = file_mkdirs(to, 0750, err);
    if (rc < 0)
        return rc;
    if (mount(from, to, NULL, MS_BIND, NULL) < 0)
        return err_sys(err, errno, "show a volume at %s", to);
    if (read_only && mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID, NULL) < 0) {
        rc = err_sys(err, errno, "protect a volume at %s", to);
        (void)umount2(to, UMOUNT_NOFOLLOW);
        return rc;
    }
    return 0;
}

int volume_unmount(const char *path, struct err *err)
{
    while (is_mounted(path))
        if (umount2(path, UMOUNT_NOFOLLOW) < 0)
            return err_sys(err, errno, "unmount %s", path);
    return 0;
}
