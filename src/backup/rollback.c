#include "backup/rollback.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/audit_log.h"

#define WIPE_PIECE ((size_t)1024 * 1024)

struct places {
    char *store, *lock, *dir;
    char *kept;     /* the store as it was before the upgrade */
    char *part;     /* that, while it is being made */
    char *digest;   /* SHA-256 of `kept`, in hexadecimal: SQLite finds no bit that has turned in what objects say */
    char *replaced; /* the store that a rollback replaced */
};

static void places_deinit(struct places *p)
{
    char *all[] = {p->store, p->lock, p->dir, p->kept, p->part, p->digest, p->replaced};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

static struct places places_in(const char *data)
{
    return (struct places){.store = xasprintf("%s/seki.db", data),
                           .lock = xasprintf("%s/seki.db.lock", data),
                           .dir = xasprintf("%s/" ROLLBACK_DIR, data),
                           .kept = xasprintf("%s/" ROLLBACK_DIR "/seki.db", data),
                           .part = xasprintf("%s/" ROLLBACK_DIR "/part.db", data),
                           .digest = xasprintf("%s/" ROLLBACK_DIR "/seki.db.sha256", data),
                           .replaced = xasprintf("%s/" ROLLBACK_DIR "/replaced.db", data)};
}

static int sync_file(const char *path, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 || fsync(fd) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

/* A copy under the name part, durable. */
static int make_part(const struct places *p, const char *from, struct store_copy_info *ret, struct err *err)
{
    CLEANUP(mem_freep) char *hold = xasprintf("%s" STORE_HOLD_SUFFIX, from);
    bool had_hold = file_exists(hold);
    (void)!unlink(p->part);
    int rc = store_copy(from, p->part, NULL, ret, err);
    if (rc == 0)
        rc = sync_file(p->part, err);
    if (!had_hold)
        (void)!unlink(hold);
    return rc;
}

/* ---- keeping ---- */

static int note_digest(const struct places *p, struct err *err)
{
    char hex[SHA256_HEX_MAX];
    uint64_t size;
    int rc = hash_file_sha256(p->part, NULL, NULL, hex, &size, err);
    return rc < 0 ? rc : file_write(p->digest, str_of(hex), 0600, err);
}

/* What an earlier release has kept has no digest. */
static int check_digest(const struct places *p, struct err *err)
{
    CLEANUP(mem_freep) char *was = NULL;
    char hex[SHA256_HEX_MAX];
    uint64_t size;
    size_t len;
    if (!file_exists(p->digest))
        return 0;
    int rc = file_read(p->digest, SHA256_HEX_MAX, &was, &len, err);
    if (rc == 0)
        rc = hash_file_sha256(p->kept, NULL, NULL, hex, &size, err);
    if (rc == 0 && strcmp(was, hex) != 0)
        rc = err_set(err, ERR_CORRUPT, "%s is not what was kept: it was changed or damaged since", p->kept);
    return rc;
}

static uint64_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* The database, and its log twice: it is copied, and then written into the copy. */
static int check_space(const struct places *p, uint64_t spare_bytes, struct err *err)
{
    CLEANUP(mem_freep) char *wal = xasprintf("%s-wal", p->store);
    uint64_t need = size_of(p->store) + 2 * size_of(wal) + spare_bytes;
    struct statvfs s;
    if (statvfs(p->dir, &s) < 0)
        return err_sys(err, errno, "%s", p->dir);
    uint64_t free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
    if (free_bytes < need)
        return err_set(err, ERR_NO_SPACE,
                       "this release changes the format of %s and keeps a copy for the way back: that needs %llu MB of free space, %llu are there; nothing was changed", p->store,
                       (unsigned long long)(need / 1000000 + 1), (unsigned long long)(free_bytes / 1000000));
    return 0;
}

static int keep(const struct places *p, const char *data, uint64_t spare_bytes, struct rollback *ret, struct err *err)
{
    struct rollback r = {.format = STORE_FORMAT_VERSION};
    int rc = file_mkdirs(p->dir, 0700, err);
    if (rc == 0)
        rc = check_space(p, spare_bytes, err);
    if (rc == 0)
        rc = make_part(p, p->store, &r.copy, err);
    if (rc < 0)
        return rc;
    if (r.copy.format >= STORE_FORMAT_VERSION) { /* its log has the change already */
        (void)!unlink(p->part);
        return 0;
    }
    if ((rc = note_digest(p, err)) < 0)
        return rc;
    if (rename(p->part, p->kept) < 0)
        return err_sys(err, errno, "%s", p->kept);
    if ((rc = file_sync_dir(p->dir, err)) < 0 || (rc = file_sync_dir(data, err)) < 0)
        return rc;
    r.kept_ms = clock_wall_ms();
    *ret = r;
    return 0;
}

int rollback_keep(const char *data, uint64_t spare_bytes, struct rollback *ret, struct err *err)
{
    CLEANUP(places_deinit) struct places p = places_in(data);
    CLEANUP(mem_freep) char *wal = xasprintf("%s-wal", p.store);
    CLEANUP(file_closep) int lock = -1;
    int format;
    *ret = (struct rollback){0};
    int rc = store_format(p.store, &format, err);
    if (rc < 0 || format >= STORE_FORMAT_VERSION || (!size_of(p.store) && !size_of(wal)))
        return rc;
    if ((rc = file_lock(p.lock, &lock, err)) < 0)
        return rc == ERR_BUSY ? err_set(err, ERR_BUSY, "%s is in use by another process", p.store) : rc;
    rc = keep(&p, data, spare_bytes, ret, err);
    return rc < 0 ? err_wrap(err, "keeping what a rollback needs") : 0;
}

/* ---- looking ---- */

static int nothing_kept(const struct places *p, struct err *err)
{
    int format;
    if (!file_exists(p->store))
        return err_set(err, ERR_NOT_FOUND, "there is no Seki in this directory: no %s; --data names another", p->store);
    if (file_exists(p->replaced) && store_format(p->store, &format, NULL) == 0 && format && format < STORE_FORMAT_VERSION)
        return err_set(err, ERR_NOT_FOUND, "it was rolled back already, the store has format %d: install the earlier release, and start it", format);
    return err_set(err, ERR_NOT_FOUND, "nothing is kept in %s: no upgrade has changed the store's format, or it is finished", p->dir);
}

int rollback_look(const char *data, struct rollback *ret, struct err *err)
{
    CLEANUP(places_deinit) struct places p = places_in(data);
    struct rollback r = {0};
    struct stat st;
    if (stat(p.kept, &st) < 0)
        return errno == ENOENT ? nothing_kept(&p, err) : err_sys(err, errno, "%s", p.kept);
    int rc = store_format(p.store, &r.format, err);
    if (rc == 0)
        rc = check_digest(&p, err);
    if (rc == 0)
        rc = store_copy_check(p.kept, &r.copy, err);
    r.kept_ms = (int64_t)st.st_mtim.tv_sec * 1000;
    if (rc == 0)
        *ret = r;
    return rc;
}

/* ---- undoing ---- */

/* The copy, made to go on behind all that was given out, and the audit ledger's word on it. */
static int prepare(const struct places *p, const char *data, const char *user, const struct store_copy_info *live, struct rollback_done *d, struct err *err)
{
    CLEANUP(mem_freep) char *ledger = xasprintf("%s/ledger", data);
    struct store_copy_info kept, newest;
    char time[CLOCK_TEXT_MAX], text[CLOCK_TEXT_MAX + 16];
    int rc = make_part(p, p->kept, &kept, err);
    if (rc < 0)
        return rc;
    newest = kept;
    newest.rev = MAX(kept.rev, live->rev);
    newest.newest_at_ms = MAX(kept.newest_at_ms, live->newest_at_ms);
    d->next_rev = store_revision_after_restore(&newest, clock_wall_ms());
    clock_format(d->was.kept_ms, time);
    snprintf(text, sizeof(text), "rollback %s", time);
    if ((rc = store_forget_history(p->part, d->next_rev, err)) < 0 || (rc = sync_file(p->part, err)) < 0)
        return rc;
    return audit_log_rolled_back(ledger, kept.rev, user, text, err);
}

/* One rename is the change; what it replaces has another name by then. */
static int replace(const struct places *p, const char *data, struct err *err)
{
    CLEANUP(mem_freep) char *wal = xasprintf("%s-wal", p->store);
    (void)!unlink(p->replaced);
    if (link(p->store, p->replaced) < 0)
        return err_sys(err, errno, "%s", p->replaced);
    int rc = file_sync_dir(p->dir, err);
    if (rc < 0)
        return rc;
    if (unlink(wal) < 0 && errno != ENOENT) /* of a store that could not be read: a log is of no use to another */
        return err_sys(err, errno, "%s", wal);
    if (rename(p->part, p->store) < 0)
        return err_sys(err, errno, "%s", p->store);
    if ((rc = file_sync_dir(data, err)) < 0)
        return rc;
    (void)!unlink(p->kept); /* it is the store now */
    (void)!unlink(p->digest);
    return file_sync_dir(p->dir, err);
}

static int check_supervisor(const char *data, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/run/sekid.lock", data);
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0)
        return err_set(err, ERR_BUSY, "a sekid runs on %s: stop it first", data);
    return 0;
}

int rollback_undo(const char *data, const char *user, struct rollback_done *ret, struct err *err)
{
    CLEANUP(places_deinit) struct places p = places_in(data);
    CLEANUP(file_closep) int lock = -1;
    struct rollback_done d = {0};
    struct store_copy_info live = {0};
    struct stat st;
    if (stat(data, &st) < 0)
        return err_sys(err, errno, "the data directory %s", data);
    if (st.st_uid != geteuid())
        return err_set(err, ERR_FORBIDDEN, "%s belongs to another user: run this as the one that sekid runs as", data);
    int rc = check_supervisor(data, err);
    if (rc == 0 && (rc = file_lock(p.lock, &lock, err)) == ERR_BUSY)
        err_set(err, ERR_BUSY, "a sekid runs on %s: stop it first", data);
    if (rc < 0 || (rc = rollback_look(data, &d.was, err)) < 0)
        return rc;
    if (d.was.format && d.was.format <= d.was.copy.format)
        return err_set(err, ERR_CONFLICT, "%s has format %d, as the copy that is kept: install the earlier release, and start it", p.store, d.was.format);
    rc = store_settle(p.store, &live, err);
    bool readable = rc == 0;
    if (rc < 0 && rc != ERR_CORRUPT) /* a damaged one is a reason to go back */
        return rc;
    if ((rc = prepare(&p, data, user, &live, &d, err)) < 0 || (rc = replace(&p, data, err)) < 0) {
        (void)!unlink(p.part);
        return rc;
    }
    d.lost = readable ? MAX(live.rev - d.was.copy.rev, (int64_t)0) : -1;
    *ret = d;
    return 0;
}

/* ---- the end ---- */

/* What deletes on the disk, as far as the file system writes in place. */
static int wipe(const char *path, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    CLEANUP(mem_freep) char *zeros = xcalloc(1, WIPE_PIECE);
    int rc = 0;
    if (!S_ISREG(st.st_mode) || st.st_nlink > 1) /* a rollback that was killed: it is the store */
        return 0;
    for (off_t left = st.st_size; rc == 0 && left > 0; left -= (off_t)WIPE_PIECE)
        rc = file_write_all(fd, str_n(zeros, MIN(WIPE_PIECE, (size_t)left)), err);
    return rc < 0 ? err_wrap(err, "%s", path) : fsync(fd) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

int rollback_finish(const char *data, struct err *err)
{
    CLEANUP(places_deinit) struct places p = places_in(data);
    int rc = 0;
    DIR *d = opendir(p.dir);
    if (!d)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", p.dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", p.dir, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            rc = wipe(path, err);
    }
    closedir(d);
    if (rc == 0)
        rc = file_remove_tree(p.dir, err);
    return rc < 0 ? rc : file_sync_dir(data, err);
}

int rollback_expire(const char *data, int64_t keep_ms, bool *ret_gone, struct err *err)
{
    CLEANUP(places_deinit) struct places p = places_in(data);
    struct stat st;
    *ret_gone = false;
    if (stat(p.dir, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", p.dir);
    if (clock_wall_ms() - (int64_t)st.st_mtim.tv_sec * 1000 < keep_ms) /* when a file in it was made, or renamed */
        return 0;
    int rc = rollback_finish(data, err);
    *ret_gone = rc == 0;
    return rc;
}
