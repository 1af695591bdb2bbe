#include "node/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/node_init.h"

#define PREFIX "pvc-"
#define SNAPSHOT_PREFIX "snap-"
#define UID_BYTES 36
#define SUFFIX ".img"
#define BLOCK (1 << 20)
#define MOUNTS_AT (1024 + 0x34) /* s_mnt_count, 16 bits, of ext4's superblock */
#define THIN_BLOCK 4096
#define MAGIC_AT (1024 + 0x38) /* s_magic, then s_state, 16 bits each */
#define STATE_VALID 1          /* unmounted, and no errors were seen */
#define BLOCKS_AT (1024 + 4)   /* s_blocks_count_lo, 32 bits: 64 TiB */
#define LOOP_MAJOR 7
#define LOOP_CONTROL_MINOR 237
#define ATTACH_TRIES 8 /* another process may take the free one first */

static bool is_id(struct str id, struct str prefix)
{
    if (id.len != prefix.len + UID_BYTES || !str_starts(id, prefix))
        return false;
    for (size_t i = prefix.len; i < id.len; i++)
        if (!strchr("0123456789abcdef-", id.ptr[i]) || !id.ptr[i])
            return false;
    return true;
}

bool volume_id_valid(struct str id)
{
    return is_id(id, STR(PREFIX));
}

bool volume_snapshot_id_valid(struct str id)
{
    return is_id(id, STR(SNAPSHOT_PREFIX));
}

char *volume_path(const char *dir, const char *id)
{
    return xasprintf("%s/%s" SUFFIX, dir, id);
}

static int open_file(const char *path, int flags, struct err *err)
{
    struct stat st;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* a pipe would make it wait */
    if (fd < 0)
        return err_sys(err, errno, "%s", path);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return err_set(err, ERR_CORRUPT, "%s is no file", path);
}

int volume_open(const char *dir, const char *id, int flags, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    int fd = open_file(path, flags, err);
    return fd == ERR_NOT_FOUND ? err_set(err, ERR_NOT_FOUND, "there is no volume %s", id) : fd;
}

/* ---- making ---- */

struct sum {
    const char *dir;
    int64_t bytes;
};

static void add_up(void *arg, const char *id)
{
    struct sum *s = arg;
    CLEANUP(mem_freep) char *path = volume_path(s->dir, id);
    struct stat st;
    if (lstat(path, &st) == 0)
        s->bytes += st.st_size;
}

int64_t volumes_bytes(const char *dir)
{
    struct sum sum = {dir, 0};
    volumes_each(dir, add_up, &sum);
    return sum.bytes;
}

int volumes_have_room(const char *dir, int64_t bytes, int64_t limit, struct err *err)
{
    int64_t sum = limit < 0 ? 0 : volumes_bytes(dir);
    if (limit >= 0 && bytes > limit - sum)
        return err_set(err, ERR_NO_SPACE, "this node's volumes may have %lld bytes together, and have %lld", (long long)limit, (long long)sum);
    return 0;
}

int volume_allot(int fd, const char *path, int64_t bytes, struct err *err)
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
    int rc = volume_allot(fd, path, bytes, err);
    if (rc < 0)
        return rc;
    if (node_run(mkfs, NULL, -1) < 0)
        return err_set(err, ERR_INTERNAL, "mkfs.ext4 made no file system");
    if ((rc = volume_allot(fd, path, bytes, err)) < 0) /* what mkfs zeroed by giving it back */
        return rc;
    return fsync(fd) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

int volume_make_thin(const char *dir, const char *id, int64_t bytes, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    CLEANUP(mem_freep) char *fresh = xasprintf("%s/%s" VOLUME_FRESH, dir, id);
    /* A file's holes are zeros: the tables that are not written read as if they were. */
    const char *const mkfs[] = {
        "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096" /* THIN_BLOCK */, "-O", "^has_journal",
        "-E", "nodiscard,lazy_itable_init=1", fresh, NULL};
    CLEANUP(file_closep)
    int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", fresh);
    int rc = ftruncate(fd, bytes) < 0 ? err_sys(err, errno, "%s", fresh) : 0;
    if (rc == 0 && node_run(mkfs, NULL, -1) < 0)
        rc = err_set(err, ERR_INTERNAL, "mkfs.ext4 made no file system");
    if (rc == 0 && rename(fresh, path) < 0)
        rc = err_sys(err, errno, "%s", path);
    if (rc < 0)
        (void)unlink(fresh);
    return rc;
}

int volume_make(const char *dir, const char *id, int64_t bytes, int64_t limit, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    CLEANUP(mem_freep) char *fresh = xasprintf("%s/%s" VOLUME_FRESH, dir, id);
    if (file_exists(path))
        return 0;
    bytes = MAX(bytes, VOLUME_MIN_BYTES);
    int rc = volumes_have_room(dir, bytes, limit, err);
    if (rc < 0)
        return rc;
    rc = make_file(fresh, bytes, err);
    if (rc == 0 && rename(fresh, path) < 0)
        rc = err_sys(err, errno, "%s", path);
    if (rc < 0)
        (void)unlink(fresh);
    return rc == 0 ? file_sync_dir(dir, err) : rc;
}

bool volume_whole(const char *dir, const char *id)
{
    uint8_t at[4] = {0}; /* s_magic, s_state */
    CLEANUP(file_closep) int fd = volume_open(dir, id, O_RDONLY, NULL);
    return fd >= 0 && pread(fd, at, sizeof(at), MAGIC_AT) == (ssize_t)sizeof(at) && at[0] == 0x53 &&
           at[1] == 0xef && at[2] == STATE_VALID && !at[3];
}

int volume_grow_thin(const char *dir, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    const char *const resize[] = {"resize2fs", "-f", path,
                                  NULL}; /* what was unmounted needs no check before */
    uint8_t at[4] = {0};
    struct stat st;
    CLEANUP(file_closep) int fd = volume_open(dir, id, O_RDONLY, err);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0 || pread(fd, at, sizeof(at), BLOCKS_AT) != (ssize_t)sizeof(at))
        return err_sys(err, errno, "%s", path);
    uint32_t blocks = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    if (blocks >= (uint64_t)st.st_size / THIN_BLOCK)
        return 0;
    return node_run(resize, NULL, -1) < 0
               ? err_set(err, ERR_INTERNAL, "the file system of %s does not grow", path)
               : 0;
}

bool volume_unused(const char *dir, const char *id)
{
    uint8_t mounts[2] = {1, 1};
    CLEANUP(file_closep) int fd = volume_open(dir, id, O_RDONLY, NULL);
    return fd >= 0 && pread(fd, mounts, sizeof(mounts), MOUNTS_AT) == (ssize_t)sizeof(mounts) && !mounts[0] && !mounts[1];
}

/* ---- wiping ---- */

/* What of a file was written is overwritten, from *at on, VOLUME_STEP_BYTES of it; *ret_end: nothing is behind. */
static int overwrite(int fd, const char *id, off_t *at, bool *ret_end, struct err *err)
{
    CLEANUP(mem_freep) char *zeros = xcalloc(1, BLOCK);
    off_t room = VOLUME_STEP_BYTES, began = *at;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", id);
    while (room > 0 && *at < st.st_size) {
        off_t from = lseek(fd, *at, SEEK_DATA);
        if (from < 0 && errno == ENXIO)
            *at = st.st_size; /* what was never written has nothing to say */
        if (from < 0 && errno == ENXIO)
            break;
        off_t to = from < 0 ? st.st_size : lseek(fd, from, SEEK_HOLE);
        from = from < 0 ? *at : from;
        to = to < 0 ? st.st_size : to;
        for (*at = from; *at < to && room > 0;) {
            ssize_t n = pwrite(fd, zeros, (size_t)MIN((off_t)BLOCK, to - *at), *at);
            if (n < 0)
                return err_sys(err, errno, "%s", id);
            *at += n;
            room -= n;
        }
    }
    if (fdatasync(fd) < 0)
        return err_sys(err, errno, "%s", id);
    *ret_end = *at >= st.st_size;
    if (!*ret_end) /* where that cannot be, one that is interrupted begins anew */
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, began, *at - began);
    return 0;
}

/* Pods may have put anything in its place. */
static int take_away(const char *path, const struct stat *st, struct err *err)
{
    if (S_ISDIR(st->st_mode))
        return file_remove_tree(path, err);
    return unlink(path) < 0 && errno != ENOENT ? err_sys(err, errno, "%s", path) : 0;
}

/* With the file's name: what is not a volume yet is wiped in the same way. */
static int wipe_step(const char *dir, const char *path, off_t *at, bool *ret_done, struct err *err)
{
    struct stat st;
    bool end = true;
    int rc = 0;
    *ret_done = false;
    if (lstat(path, &st) < 0) {
        *ret_done = errno == ENOENT;
        return *ret_done ? 0 : err_sys(err, errno, "%s", path);
    }
    if (S_ISREG(st.st_mode)) {
        CLEANUP(file_closep) int fd = open_file(path, O_RDWR, err);
        rc = fd < 0 ? fd : overwrite(fd, path, at, &end, err);
    }
    if (rc == 0 && end)
        rc = take_away(path, &st, err);
    if (rc == 0 && end)
        rc = file_sync_dir(dir, err);
    *ret_done = rc == 0 && end;
    return rc;
}

int volume_wipe_step(const char *dir, const char *id, bool attached_too, off_t *at, bool *ret_done, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    *ret_done = false;
    if (!attached_too && volume_attached(dir, id))
        return err_set(err, ERR_BUSY, "volume %s is still mounted", id);
    return wipe_step(dir, path, at, ret_done, err);
}

void volume_sweep(const char *dir, const char *id)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s" VOLUME_FRESH, dir, id);
    struct err err = ERR_INIT;
    off_t at = 0;
    for (bool done = false; !done && wipe_step(dir, path, &at, &done, &err) == 0;)
        ;
    if (err.code)
        log_warn("what is left of a volume that was being made could not be wiped", KVE(&err));
}

void volumes_sweep(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct str name = str_of(e->d_name), said = str_ends(name, STR(VOLUME_FRESH)) ? str_n(name.ptr, name.len - sizeof(VOLUME_FRESH) + 1) : STR_NULL;
        char id[VOLUME_ID_MAX];
        if (volume_id_valid(said) && str_to_array(said, id, sizeof(id)))
            volume_sweep(dir, id);
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
        struct str said = str_ends(name, STR(SUFFIX)) ? str_n(name.ptr, name.len - sizeof(SUFFIX) + 1) : STR_NULL;
        if ((volume_id_valid(said) || volume_snapshot_id_valid(said)) && str_to_array(said, id, sizeof(id)))
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

/* The loop device that has it, or may have it; -1: none. */
static int loop_of(const char *dir, const char *id)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    struct stat st;
    int found = -1;
    DIR *d = lstat(path, &st) == 0 ? opendir("/sys/block") : NULL;
    for (struct dirent *e; d && found < 0 && (e = readdir(d));) {
        CLEANUP(mem_freep) char *in_use = xasprintf("/sys/block/%s/loop", e->d_name);
        struct str name = str_of(e->d_name);
        int64_t number;
        if (str_starts(name, STR("loop")) && file_exists(in_use) && str_to_i64(str_skip(name, 4), 0, INT_MAX, &number) == 0 && holds((unsigned)number, &st, id))
            found = (int)number;
    }
    if (d)
        closedir(d);
    return found;
}

bool volume_attached(const char *dir, const char *id)
{
    return loop_of(dir, id) >= 0;
}

static pthread_mutex_t attaching = PTHREAD_MUTEX_INITIALIZER; /* from looking to attaching: a pod's mount and a snapshot may come at once */

/* Its descriptor; it lets go by itself after its last mount, or with the descriptor. */
static int attach(int image, struct err *err)
{
    const struct loop_config config = {.fd = (uint32_t)image, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    CLEANUP(file_closep) int control = open_device(S_IFCHR, 10, LOOP_CONTROL_MINOR);
    if (control < 0)
        return err_sys(err, errno, "this machine has no loop devices");
    for (int i = 0; i < ATTACH_TRIES; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        int fd = number < 0 ? -1 : open_loop((unsigned)number);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0)
            return fd;
        int why = errno;
        if (fd >= 0)
            close(fd);
        if (why != EBUSY)
            return err_sys(err, why, "a loop device");
    }
    return err_set(err, ERR_BUSY, "no loop device is free");
}

/* ---- mounts ---- */

/* Where something is mounted, or is to be: below directories that pods may reach, too. What they
 * have planted there must lead an agent nowhere, so no link is followed. */
struct place {
    int up; /* the directory above */
    const char *name;
    bool mounted;
};

static void place_deinit(struct place *p)
{
    file_closep(&p->up);
}

/* Borrows path. ERR_NOT_FOUND: nor is there a directory above it. */
static int place_find(struct place *p, const char *path, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS};
    const char *slash = strrchr(path, '/');
    if (!slash || !slash[1])
        return err_set(err, ERR_INVALID, "%s names no place", path);
    CLEANUP(mem_freep) char *up = xasprintf("%.*s/", (int)(slash - path), path);
    struct stat here, above;
    p->name = slash + 1;
    p->up = (int)syscall(SYS_openat2, AT_FDCWD, up, &how, sizeof(how));
    if (p->up < 0 || fstat(p->up, &above) < 0)
        return err_sys(err, errno, "%s", up);
    p->mounted =
        fstatat(p->up, p->name, &here, AT_SYMLINK_NOFOLLOW) == 0 && here.st_dev != above.st_dev;
    return 0;
}

/* The directory there, with what is mounted at it. */
static int place_open(const struct place *p, const char *path, struct err *err)
{
    int fd = openat(p->up, p->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? err_sys(err, errno, "%s", path) : fd;
}

/* Mounts a mount that is nowhere yet. */
static int place_mount(const struct place *p, int mounted, const char *path, struct err *err)
{
    if (mkdirat(p->up, p->name, 0750) < 0 && errno != EEXIST)
        return err_sys(err, errno, "%s", path);
    CLEANUP(file_closep) int at = place_open(p, path, err);
    if (at < 0)
        return at;
    return move_mount(mounted, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0
               ? err_sys(err, errno, "mount at %s", path)
               : 0;
}

/* A mount that is nowhere yet; -1: errno. flags: options of ext4's without a value, NULL or NULL at
 * the end. */
static int mount_of(int loop, const char *const *flags, unsigned attributes)
{
    char device[64];
    snprintf(device, sizeof(device), "/proc/self/fd/%d", loop);
    CLEANUP(file_closep) int how = fsopen("ext4", FSOPEN_CLOEXEC);
    if (how < 0 || fsconfig(how, FSCONFIG_SET_STRING, "source", device, 0) < 0)
        return -1;
    for (; flags && *flags; flags++)
        if (fsconfig(how, FSCONFIG_SET_FLAG, *flags, NULL, 0) < 0)
            return -1;
    return fsconfig(how, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0
               ? -1
               : fsmount(how, FSMOUNT_CLOEXEC, attributes);
}

int volume_root(const char *dir, const char *id, int *ret_fd, struct err *err)
{
    int number = loop_of(dir, id);
    CLEANUP(file_closep) int loop = number < 0 ? -1 : open_loop((unsigned)number);
    if (loop < 0)
        return err_set(err, ERR_NOT_FOUND, "no loop device has volume %s", id);
    /* The kernel gives what is mounted of a device already. */
    CLEANUP(file_closep)
    int mounted = mount_of(loop, NULL, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    *ret_fd = mounted < 0 ? -1 : openat(mounted, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? err_sys(err, errno, "the file system of volume %s", id) : 0;
}

void volume_thaw(const char *dir, const char *id)
{
    CLEANUP(file_closep) int root = -1;
    if (volume_root(dir, id, &root, NULL) == 0)
        (void)ioctl(root, FITHAW, 0);
}

int volume_hold(const char *dir, const char *id, int *ret_fd, struct err *err)
{
    CLEANUP(file_closep) int image = volume_open(dir, id, O_RDWR, err);
    if (image < 0)
        return image;
    pthread_mutex_lock(&attaching);
    /* Two file systems on one file would ruin it. */
    *ret_fd = volume_attached(dir, id) ? err_set(err, ERR_BUSY, "volume %s is still mounted elsewhere", id) : attach(image, err);
    pthread_mutex_unlock(&attaching);
    return MIN(*ret_fd, 0);
}

int volume_mount(const char *dir, const char *id, const char *path, struct err *err)
{
    CLEANUP(place_deinit) struct place at = {.up = -1};
    CLEANUP(file_closep) int loop = -1;
    int rc = place_find(&at, path, err);
    if (rc < 0 || at.mounted)
        return rc;
    rc = volume_hold(dir, id, &loop, err);
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int mounted = mount_of(loop, NULL, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID);
    return mounted < 0 ? err_sys(err, errno, "mount volume %s", id)
                       : place_mount(&at, mounted, path, err);
}

int volume_mount_apart(const char *dir, const char *id, int *ret_fd, struct err *err)
{
    static const char *const flags[] = {"nobarrier", "noinit_itable", NULL};
    CLEANUP(file_closep) int loop = -1;
    int rc = volume_hold(dir, id, &loop, err);
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int mounted = mount_of(loop, flags, MOUNT_ATTR_NODEV);
    if (mounted < 0)
        return err_sys(err, errno, "the file system of %s", id);
    *ret_fd = mounted;
    mounted = -1;
    return 0;
}

int volume_bind(const char *from, const char *to, bool read_only, struct err *err)
{
    CLEANUP(place_deinit) struct place have = {.up = -1}, at = {.up = -1};
    int rc = place_find(&have, from, err);
    rc = rc == 0 ? place_find(&at, to, err) : rc;
    if (rc < 0)
        return rc;
    if (!have.mounted)
        return err_set(err, ERR_UNAVAILABLE, "nothing is mounted at %s", from);
    if (at.mounted)
        return 0;
    CLEANUP(file_closep)
    int tree =
        open_tree(have.up, have.name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    struct mount_attr protect = {.attr_set = MOUNT_ATTR_RDONLY};
    if (tree < 0 ||
        (read_only && mount_setattr(tree, "", AT_EMPTY_PATH, &protect, sizeof(protect)) < 0))
        return err_sys(err, errno, "show what is mounted at %s", from);
    return place_mount(&at, tree, to, err);
}

int volume_unmount(const char *path, struct err *err)
{
    for (;;) {
        CLEANUP(place_deinit) struct place at = {.up = -1};
        int rc = place_find(&at, path, err);
        if (rc < 0 || !at.mounted)
            return rc == ERR_NOT_FOUND ? 0 : rc;
        CLEANUP(mem_freep) char *there = xasprintf("/proc/self/fd/%d/%s", at.up, at.name);
        if (umount2(there, UMOUNT_NOFOLLOW) < 0)
            return err_sys(err, errno, "unmount %s", path);
    }
}
