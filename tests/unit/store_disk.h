/* A disk for SQLite that lives in memory and fails as disks do: what was written and not synced is lost with the power, or
 * kept in part; it gets full; a sync fails, and then, as Linux does it, what was to be synced is forgotten while a later sync
 * says that all is well. A process that is killed loses nothing that it has written.
 *
 * Each file has two contents: what a reader gets (cached), and what is on the platter; sectors that differ are dirty.
 * The store's writer and the test's thread come here: one lock. Use: disk_reset(); options.vfs = DISK_VFS; and between
 * disk_down() and disk_up() every call fails, so that a store can be closed as if its process had died.
 */
#ifndef SEKI_TESTS_UNIT_STORE_DISK_H
#define SEKI_TESTS_UNIT_STORE_DISK_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define DISK_VFS "seki-disk"
#define DISK_SECTOR 512
#define DISK_FILES 8
#define DISK_FILE_MAX (64u * 1024 * 1024)

struct disk_file {
    char name[128];
    bool used;
    unsigned char *cached, *platter;
    size_t cached_len, platter_len, cap;
    bool *dirty; /* by sector */
};

static struct disk {
    pthread_mutex_t lock;
    struct disk_file files[DISK_FILES];
    bool down;
    size_t capacity;  /* bytes that files may have together; 0: no limit */
    bool sync_fails;  /* from now on */
    int sync_fails_after; /* or after so many more, once; -1: no */
    bool write_fails;  /* an error of the medium */
    bool dies_at_sync; /* the next sync finds the process killed: down, and nothing synced */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .sync_fails_after = -1};

struct disk_handle {
    sqlite3_file base;
    struct disk_file *file;
    bool delete_on_close;
};

static inline size_t disk_used(void)
{
    size_t used = 0;
    for (int i = 0; i < DISK_FILES; i++)
        used += disk.files[i].used ? disk.files[i].cached_len : 0;
    return used;
}

static inline void disk_grow(struct disk_file *f, size_t need)
{
    if (need <= f->cap)
        return;
    size_t cap = f->cap ? f->cap : 65536;
    while (cap < need)
        cap *= 2;
    f->cached = xrealloc(f->cached, cap);
    f->platter = xrealloc(f->platter, cap);
    f->dirty = xrealloc(f->dirty, cap / DISK_SECTOR * sizeof(bool));
    memset(f->cached + f->cap, 0, cap - f->cap);
    memset(f->platter + f->cap, 0, cap - f->cap);
    memset(f->dirty + f->cap / DISK_SECTOR, 0, (cap - f->cap) / DISK_SECTOR * sizeof(bool));
    f->cap = cap;
}

static inline void disk_settle(struct disk_file *f, size_t sector)
{
    memcpy(f->platter + sector * DISK_SECTOR, f->cached + sector * DISK_SECTOR, DISK_SECTOR);
    f->dirty[sector] = false;
}

/* ---- files ---- */

static inline int disk_close(sqlite3_file *file)
{
    struct disk_handle *h = (struct disk_handle *)file;
    pthread_mutex_lock(&disk.lock);
    if (h->delete_on_close && !disk.down)
        h->file->used = false;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static inline int disk_read(sqlite3_file *file, void *to, int len, sqlite3_int64 at)
{
    struct disk_file *f = ((struct disk_handle *)file)->file;
    int rc = SQLITE_OK;
    pthread_mutex_lock(&disk.lock);
    size_t have = (size_t)at < f->cached_len ? MIN(f->cached_len - (size_t)at, (size_t)len) : 0;
    if (have)
        memcpy(to, f->cached + at, have);
    if (have < (size_t)len) {
        memset((char *)to + have, 0, (size_t)len - have);
        rc = SQLITE_IOERR_SHORT_READ;
    }
    if (disk.down)
        rc = SQLITE_IOERR_READ;
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static inline int disk_write(sqlite3_file *file, const void *from, int len, sqlite3_int64 at)
{
    struct disk_file *f = ((struct disk_handle *)file)->file;
    int rc = SQLITE_OK;
    size_t end = (size_t)at + (size_t)len;
    pthread_mutex_lock(&disk.lock);
    if (disk.down || disk.write_fails || end > DISK_FILE_MAX) {
        rc = SQLITE_IOERR_WRITE;
    } else if (disk.capacity && end > f->cached_len && disk_used() + (end - f->cached_len) > disk.capacity) {
        rc = SQLITE_FULL;
    } else {
        disk_grow(f, end + DISK_SECTOR);
        memcpy(f->cached + at, from, (size_t)len);
        f->cached_len = MAX(f->cached_len, end);
        for (size_t s = (size_t)at / DISK_SECTOR; s * DISK_SECTOR < end; s++)
            f->dirty[s] = true;
    }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static inline int disk_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct disk_file *f = ((struct disk_handle *)file)->file;
    pthread_mutex_lock(&disk.lock);
    bool down = disk.down;
    if (!down && (size_t)size < f->cached_len) {
        memset(f->cached + size, 0, f->cached_len - (size_t)size);
        f->cached_len = (size_t)size;
    }
    pthread_mutex_unlock(&disk.lock);
    return down ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

static inline int disk_sync(sqlite3_file *file, int flags UNUSED)
{
    struct disk_file *f = ((struct disk_handle *)file)->file;
    pthread_mutex_lock(&disk.lock);
    disk.down = disk.down || disk.dies_at_sync;
    disk.dies_at_sync = false;
    bool fails = disk.sync_fails || disk.sync_fails_after == 0;
    disk.sync_fails_after -= disk.sync_fails_after >= 0;
    for (size_t s = 0; !disk.down && s < f->cap / DISK_SECTOR; s++) {
        if (f->dirty[s] && !fails)
            disk_settle(f, s);
        f->dirty[s] = false; /* a failed sync cleans them too */
    }
    if (!disk.down && !fails)
        f->platter_len = f->cached_len;
    fails = fails || disk.down;
    pthread_mutex_unlock(&disk.lock);
    return fails ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static inline int disk_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    pthread_mutex_lock(&disk.lock);
    *ret = (sqlite3_int64)((struct disk_handle *)file)->file->cached_len;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static inline int disk_lock(sqlite3_file *f UNUSED, int level UNUSED)
{
    return SQLITE_OK;
}
static inline int disk_reserved(sqlite3_file *f UNUSED, int *ret)
{
    *ret = 0;
    return SQLITE_OK;
}
static inline int disk_control(sqlite3_file *f UNUSED, int op UNUSED, void *arg UNUSED)
{
    return SQLITE_NOTFOUND;
}
static inline int disk_sector_size(sqlite3_file *f UNUSED)
{
    return DISK_SECTOR;
}
static inline int disk_traits(sqlite3_file *f UNUSED)
{
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE; /* as SQLite assumes it of every disk on Linux */
}

/* ---- names: made and removed at once and for good ---- */

static inline struct disk_file *disk_find(const char *name)
{
    for (int i = 0; i < DISK_FILES; i++)
        if (disk.files[i].used && strcmp(disk.files[i].name, name) == 0)
            return &disk.files[i];
    return NULL;
}

static inline struct disk_file *disk_create(const char *name)
{
    struct disk_file *f = disk.files;
    while (f->used)
        f++; /* there are never so many */
    mem_free(f->cached);
    mem_free(f->platter);
    mem_free(f->dirty);
    *f = (struct disk_file){.used = true};
    snprintf(f->name, sizeof(f->name), "%s", name);
    return f;
}

static inline int disk_open(sqlite3_vfs *vfs UNUSED, const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
    static const sqlite3_io_methods io = {.iVersion = 1,
                                          .xClose = disk_close,
                                          .xRead = disk_read,
                                          .xWrite = disk_write,
                                          .xTruncate = disk_truncate,
                                          .xSync = disk_sync,
                                          .xFileSize = disk_size,
                                          .xLock = disk_lock,
                                          .xUnlock = disk_lock,
                                          .xCheckReservedLock = disk_reserved,
                                          .xFileControl = disk_control,
                                          .xSectorSize = disk_sector_size,
                                          .xDeviceCharacteristics = disk_traits};
    struct disk_handle *h = (struct disk_handle *)file;
    memset(h, 0, sizeof(*h));
    pthread_mutex_lock(&disk.lock);
    if (!disk.down) {
        h->file = name ? disk_find(name) : NULL;
        if (!h->file && (flags & SQLITE_OPEN_CREATE))
            h->file = disk_create(name ? name : "temporary");
        h->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    }
    pthread_mutex_unlock(&disk.lock);
    if (!h->file)
        return SQLITE_CANTOPEN;
    h->base.pMethods = &io;
    if (ret_flags)
        *ret_flags = flags;
    return SQLITE_OK;
}

static inline int disk_delete(sqlite3_vfs *vfs UNUSED, const char *name, int sync_dir UNUSED)
{
    pthread_mutex_lock(&disk.lock);
    struct disk_file *f = disk_find(name);
    bool down = disk.down;
    if (f && !down)
        f->used = false;
    pthread_mutex_unlock(&disk.lock);
    return down ? SQLITE_IOERR_DELETE : f ? SQLITE_OK : SQLITE_IOERR_DELETE_NOENT;
}

static inline int disk_access(sqlite3_vfs *vfs UNUSED, const char *name, int flags UNUSED, int *ret)
{
    pthread_mutex_lock(&disk.lock);
    *ret = disk_find(name) != NULL;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static inline int disk_full_path(sqlite3_vfs *vfs UNUSED, const char *name, int size, char *out)
{
    snprintf(out, (size_t)size, "%s", name);
    return SQLITE_OK;
}
static inline int disk_random(sqlite3_vfs *vfs UNUSED, int len, char *out)
{
    memset(out, 7, (size_t)len);
    return len;
}
static inline int disk_sleep(sqlite3_vfs *vfs UNUSED, int us)
{
    return us;
}
static inline int disk_time(sqlite3_vfs *vfs UNUSED, double *ret)
{
    *ret = 2460000.5;
    return SQLITE_OK;
}

/* ---- for tests ---- */

static inline void disk_reset(void)
{
    static sqlite3_vfs vfs = {.iVersion = 1,
                              .szOsFile = sizeof(struct disk_handle),
                              .mxPathname = 120,
                              .zName = DISK_VFS,
                              .xOpen = disk_open,
                              .xDelete = disk_delete,
                              .xAccess = disk_access,
                              .xFullPathname = disk_full_path,
                              .xRandomness = disk_random,
                              .xSleep = disk_sleep,
                              .xCurrentTime = disk_time};
    sqlite3_vfs_register(&vfs, 0);
    for (int i = 0; i < DISK_FILES; i++) {
        mem_free(disk.files[i].cached);
        mem_free(disk.files[i].platter);
        mem_free(disk.files[i].dirty);
        disk.files[i] = (struct disk_file){.used = false};
    }
    disk.down = disk.sync_fails = disk.write_fails = disk.dies_at_sync = false;
    disk.sync_fails_after = -1;
    disk.capacity = 0;
}

#define DISK_SET(member, value)                                                                    \
    (pthread_mutex_lock(&disk.lock), disk.member = (value), (void)pthread_mutex_unlock(&disk.lock))

/* Nothing reaches the disk from now on. */
static inline void disk_down(void)
{
    DISK_SET(down, true);
}
/* The process is gone, its writes are not. */
static inline void disk_up_after_kill(void)
{
    DISK_SET(down, false);
}
/* The power was gone: of the dirty sectors about keep_percent stay, for the rest the platter tells. seed moves on. */
static inline void disk_up_after_power_loss(unsigned keep_percent, unsigned (*next_random)(unsigned *seed), unsigned *seed)
{
    pthread_mutex_lock(&disk.lock);
    for (int i = 0; i < DISK_FILES; i++) {
        struct disk_file *f = &disk.files[i];
        size_t len = f->platter_len;
        if (!f->used)
            continue;
        for (size_t s = 0; s < f->cap / DISK_SECTOR; s++) {
            if (!f->dirty[s] || next_random(seed) % 100 >= keep_percent)
                continue;
            disk_settle(f, s);
            len = MAX(len, MIN((s + 1) * DISK_SECTOR, f->cached_len));
        }
        f->platter_len = len;
        f->cached_len = len;
        memset(f->dirty, 0, f->cap / DISK_SECTOR * sizeof(bool));
        if (f->cap) {
            memcpy(f->cached, f->platter, f->cap);
            memset(f->cached + len, 0, f->cap - len);
        }
    }
    disk.down = false;
    pthread_mutex_unlock(&disk.lock);
}

#endif
