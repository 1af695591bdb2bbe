/* Putting a backup in place on an empty machine. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/archive.h"
#include "backup/backup.h"
#include "backup/tree.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/audit_log.h"
#include "ledger/extent.h"
#include "store/copy.h"

#define NAMES_MAX (1024 * 1024)

struct restoring {
    const struct backup_options *o;
    char *mark, *staged; /* DATA/.restoring, and new/ in it: there all is verified before it is moved */
    char *moving;        /* DATA/.restoring/moving: what is moved, names with '/' behind each. What is not in new/ any more is in DATA, and is ours */
    json_t *manifest;
    int out;
    char *path;
    uint64_t done, total;
};

/* ---- taking files ---- */

static int begin(void *ctx, const struct archive_entry *e, struct err *err)
{
    struct restoring *r = ctx;
    mem_free(r->path);
    r->path = xasprintf("%s/%s", r->staged, e->path);
    CLEANUP(mem_freep) char *dir = xstrndup(r->path, (size_t)(strrchr(r->path, '/') - r->path));
    int rc = file_mkdirs(dir, 0700, err);
    if (rc < 0)
        return rc;
    r->out = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return r->out < 0 || fchmod(r->out, e->mode) < 0 ? err_sys(err, errno, "%s", r->path) : 0;
}

static int data(void *ctx, struct str bytes, struct err *err)
{
    struct restoring *r = ctx;
    r->done += bytes.len;
    if (r->o->progress.fn)
        r->o->progress.fn(r->o->progress.arg, "files", r->done, r->total);
    return file_write_all(r->out, bytes, err) < 0 ? err_wrap(err, "%s", r->path) : 0;
}

static int end(void *ctx, struct err *err)
{
    struct restoring *r = ctx;
    int rc = fsync(r->out) < 0 ? err_sys(err, errno, "fsync %s", r->path) : 0;
    file_closep(&r->out);
    return rc;
}

static int extract(struct restoring *r, int fd, struct err *err)
{
    JSON_AUTO again = NULL;
    struct archive_taker t = {r, begin, data, end};
    if (lseek(fd, 0, SEEK_SET) < 0)
        return err_sys(err, errno, "%s", r->o->file);
    int rc = archive_read(fd, r->o->key, &t, &again, err);
    file_closep(&r->out);
    if (rc == 0 && !json_equal(again, r->manifest))
        rc = err_set(err, ERR_CORRUPT, "it was exchanged while it was read");
    return rc < 0 ? err_wrap(err, "%s", r->o->file) : 0;
}

/* ---- checking them ---- */

static int check_ledger(const struct restoring *r, const json_t *l, struct err *err)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/ledger", r->staged);
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    char hash[SHA256_HEX_MAX];
    const char *name = json_str_or(l, "name", "");
    uint64_t records;
    int rc = ledger_extent_find(dir, name, &x, err);
    if (rc == 0)
        rc = ledger_verify(dir, name, &records, err);
    if (rc < 0)
        return rc;
    hash_hex(x.hash, sizeof(x.hash), hash);
    if ((int64_t)x.sequence != json_int(l, "sequence", -1) || strcmp(x.id, json_str_or(l, "id", "")) != 0 || strcmp(hash, json_str_or(l, "hash", "")) != 0)
        return err_set(err, ERR_CORRUPT, "the ledger %s is not the one that the manifest names", name);
    return 0;
}

static const char *user_name(void)
{
    const struct passwd *p = getpwuid(getuid());
    return p ? p->pw_name : "";
}

/* The staged directory is a whole one, and goes on where no earlier life of it has been. */
static int check_and_advance(struct restoring *r, struct err *err)
{
    CLEANUP(mem_freep) char *db = xasprintf("%s/seki.db", r->staged), *ledger = xasprintf("%s/ledger", r->staged);
    struct store_copy_info info;
    const json_t *l;
    size_t i;
    int rc = store_copy_check(db, &info, err);
    if (rc == 0 && info.rev != json_int(r->manifest, "store.revision", -1))
        rc = err_set(err, ERR_CORRUPT, "its store is of revision %lld; its manifest says %lld", (long long)info.rev, (long long)json_int(r->manifest, "store.revision", -1));
    json_array_foreach (json_object_get(r->manifest, "ledgers"), i, l)
        rc = rc < 0 ? rc : check_ledger(r, l, err);
    if (rc < 0)
        return rc;
    int64_t next = store_revision_after_restore(&info, clock_wall_ms());
    rc = store_forget_history(db, next, err);
    if (rc == 0)
        rc = audit_log_restored(ledger, info.rev, next, user_name(), json_str_or(r->manifest, "time", ""), err);
    if (rc == 0)
        json_put_int(r->manifest, "restored.revision", next);
    return rc;
}

/* ---- putting them in place ---- */

static int move(const struct restoring *r, const char *name, struct err *err)
{
    CLEANUP(mem_freep) char *from = xasprintf("%s/%s", r->staged, name), *to = xasprintf("%s/%s", r->o->data, name);
    struct stat st;
    if (lstat(to, &st) == 0)
        return err_set(err, ERR_EXISTS, "%s has appeared meanwhile; a restore writes over nothing", to);
    return rename(from, to) < 0 ? err_sys(err, errno, "rename %s", from) : 0;
}

static bool is_entry(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static int note_names(const struct restoring *r, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf names = {0};
    DIR *d = opendir(r->staged);
    if (!d)
        return err_sys(err, errno, "%s", r->staged);
    sbuf_init(&names, NAMES_MAX);
    for (struct dirent *e; (e = readdir(d));)
        if (is_entry(e))
            sbuf_addf(&names, "%s/", e->d_name);
    closedir(d);
    return sbuf_ok(&names) ? file_write(r->moving, sbuf_str(&names), 0600, err) : err_set(err, ERR_TOO_LARGE, "%s has too many names", r->staged);
}

/* The store last: without it there is nothing to start from. */
static int move_all(const struct restoring *r, struct err *err)
{
    int rc = note_names(r, err);
    DIR *d = rc < 0 ? NULL : opendir(r->staged);
    if (!d)
        return rc < 0 ? rc : err_sys(err, errno, "%s", r->staged);
    for (struct dirent *e; rc == 0 && (e = readdir(d));)
        if (is_entry(e) && strcmp(e->d_name, "seki.db") != 0)
            rc = move(r, e->d_name, err);
    closedir(d);
    if (rc == 0)
        rc = move(r, "seki.db", err);
    return rc < 0 ? rc : file_sync_dir(r->o->data, err);
}

/* ---- the place ---- */

static int check_lock(const char *data, const char *name, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", data, name);
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0)
        return err_set(err, ERR_BUSY, "a sekid runs on %s; a restore is for an empty machine", data);
    return 0;
}

static int remove_name(const struct restoring *r, struct str name, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%.*s", r->o->data, STR_ARG(name)), *staged = xasprintf("%s/%.*s", r->staged, STR_ARG(name));
    struct stat st;
    if (!name.len || str_eqc(name, ".") || str_eqc(name, "..") || lstat(staged, &st) == 0 || lstat(path, &st) < 0)
        return 0; /* it was not moved: what is there under its name is somebody else's */
    if (S_ISDIR(st.st_mode))
        return file_remove_tree(path, err);
    return unlink(path) < 0 && errno != ENOENT ? err_sys(err, errno, "remove %s", path) : 0;
}

/* What a restore that came to no end has put there, and nothing else: somebody may have put the root key in place already. */
static int clear(const struct restoring *r, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    struct str rest, name;
    size_t len = 0;
    struct stat st;
    bool any = lstat(r->moving, &st) == 0;
    int rc = any ? file_read(r->moving, NAMES_MAX, &text, &len, err) : 0;
    rest = str_n(text, len);
    while (rc == 0 && any && str_cut(&rest, '/', &name))
        rc = remove_name(r, name, err);
    if (rc == 0 && any && ((rc = file_sync_dir(r->o->data, err)) == 0) && unlink(r->moving) < 0)
        rc = err_sys(err, errno, "remove %s", r->moving);
    return rc < 0 ? rc : file_remove_tree(r->staged, err);
}

static int check_place(const struct restoring *r, struct err *err)
{
    struct stat st;
    if (stat(r->o->data, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", r->o->data);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_EXISTS, "%s is no directory", r->o->data);
    if (st.st_uid != geteuid())
        return err_set(err, ERR_FORBIDDEN, "%s belongs to another user: run this as the one that sekid will run as", r->o->data);
    int rc = check_lock(r->o->data, "run/sekid.lock", err);
    if (rc == 0)
        rc = check_lock(r->o->data, "seki.db.lock", err);
    return rc < 0 || file_exists(r->mark) ? rc : tree_check_empty(r->o->data, err);
}

/* All is there: the mark goes by one rename, as somebody may be killed while he deletes what is in it. */
static int unmark(const struct restoring *r, struct err *err)
{
    CLEANUP(mem_freep) char *done = xasprintf("%s/" RESTORE_DONE, r->o->data);
    if (rename(r->mark, done) < 0)
        return err_sys(err, errno, "rename %s", r->mark);
    int rc = file_sync_dir(r->o->data, err);
    (void)!file_remove_tree(done, NULL); /* what is left of it is in nobody's way, and in no backup */
    return rc;
}

static int fill(struct restoring *r, int fd, struct err *err)
{
    CLEANUP(mem_freep) char *lock = xasprintf("%s/lock", r->mark);
    CLEANUP(file_closep) int lock_fd = -1;
    bool again = file_exists(r->mark);
    int rc = file_mkdirs(r->mark, 0700, err);
    if (rc == 0)
        rc = file_lock(lock, &lock_fd, err);
    if (rc < 0)
        return rc == ERR_BUSY ? err_set(err, ERR_BUSY, "another restore runs in %s", r->o->data) : rc;
    if ((again && ((rc = clear(r, err)) < 0 || (rc = tree_check_empty(r->o->data, err)) < 0)) || (rc = file_sync_dir(r->o->data, err)) < 0)
        return rc;
    if ((rc = file_mkdirs(r->staged, 0700, err)) == 0 && (rc = extract(r, fd, err)) == 0 && (rc = check_and_advance(r, err)) == 0)
        rc = move_all(r, err);
    if (rc == 0)
        return unmark(r, err);
    if (clear(r, NULL) == 0) /* else it is tried again by the next one */
        (void)!file_remove_tree(r->mark, NULL);
    return rc;
}

static uint64_t bytes_of(const json_t *manifest)
{
    uint64_t total = 0;
    size_t i;
    const json_t *f;
    json_array_foreach (json_object_get(manifest, "files"), i, f)
        total += (uint64_t)json_int(f, "bytes", 0);
    return total;
}

int backup_restore(const struct backup_options *o, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *mark = xasprintf("%s/" RESTORE_MARK, o->data), *staged = xasprintf("%s/" RESTORE_MARK "/new", o->data), *moving = xasprintf("%s/" RESTORE_MARK "/moving", o->data);
    JSON_AUTO manifest = NULL;
    struct restoring r = {.o = o, .mark = mark, .staged = staged, .moving = moving, .out = -1};
    int rc = check_place(&r, err);
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int fd = open(o->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "%s", o->file);
    if (archive_read(fd, o->key, NULL, &manifest, err) < 0)
        return err_wrap(err, "%s", o->file);
    bool made = !file_exists(o->data);
    r.manifest = manifest;
    r.total = bytes_of(manifest);
    rc = file_mkdirs(o->data, 0700, err);
    if (rc == 0)
        rc = fill(&r, fd, err);
    mem_free(r.path);
    if (rc < 0 && made)
        rmdir(o->data);
    if (rc == 0)
        *ret = TAKE(manifest);
    return rc;
}
