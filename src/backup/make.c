/* Taking a backup. */
#include "backup/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/archive.h"
#include "backup/tree.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/audit.h"
#include "ledger/extent.h"
#include "store/copy.h"

#define ATTEMPTS 3

struct making {
    const struct backup_options *o;
    struct archive_writer *writer;
    json_t *manifest;
    char *scratch, *copy; /* where the store's copy lies until it is in the backup: in the data directory, whose disk has its bytes anyway */
};

static void tell(const struct making *m, const char *what, uint64_t done, uint64_t total)
{
    if (m->o->progress.fn)
        m->o->progress.fn(m->o->progress.arg, what, done, total);
}

static int add_file(struct making *m, const char *full, const struct archive_entry *e, struct err *err)
{
    CLEANUP(file_closep) int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_sys(err, errno, "%s", full);
    return archive_add(m->writer, e, fd, err);
}

static void store_progress(void *arg, uint64_t done, uint64_t total)
{
    tell(arg, "the store", done, total);
}

static int add_store(struct making *m, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/seki.db", m->o->data);
    struct store_copy_progress p = {store_progress, m};
    struct store_copy_info info;
    char newest[CLOCK_TEXT_MAX];
    int rc = store_copy(path, m->copy, &p, &info, err);
    if (rc == 0)
        rc = add_file(m, m->copy, &(struct archive_entry){"seki.db", 0600, (uint64_t)info.bytes}, err);
    if (rc < 0)
        return rc;
    clock_format(info.newest_at_ms, newest);
    json_object_set_new(m->manifest, "store",
                        json_pack("{s:i, s:I, s:I, s:s}", "format", info.format, "revision", (json_int_t)info.rev, "objects", (json_int_t)info.objects, "newestWrite", newest));
    return 0;
}

static int add_tree(struct making *m, const struct tree *t, struct err *err)
{
    int rc = 0;
    VEC_FOREACH (&t->files, f) {
        CLEANUP(mem_freep) char *full = xasprintf("%s/%s", m->o->data, f->path);
        tell(m, "files", (uint64_t)(f - t->files.ptr), t->files.len);
        rc = add_file(m, full, &(struct archive_entry){f->path, f->st.st_mode & 0777, (uint64_t)f->st.st_size}, err);
        if (rc < 0)
            break;
    }
    return rc;
}

/* ---- ledgers ---- */

struct names {
    VEC(char *) all;
};

static void names_deinit(struct names *n)
{
    VEC_FOREACH (&n->all, name)
        mem_free(*name);
    VEC_DEINIT(&n->all);
}

/* Ledgers before the journals that they are copied from: those have the name of the process behind a dash. */
static int by_role(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    bool journal_x = strchr(x, '-'), journal_y = strchr(y, '-');
    return journal_x != journal_y ? journal_x - journal_y : strcmp(x, y);
}

static int find_ledgers(const char *dir, struct names *ret, struct err *err)
{
    char name[LEDGER_NAME_MAX];
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        bool known = !ledger_split_name(e->d_name, name);
        VEC_FOREACH (&ret->all, n)
            known = known || !strcmp(*n, name);
        if (!known)
            *VEC_PUSH(&ret->all) = xstrdup(name);
    }
    closedir(d);
    if (ret->all.len)
        qsort(ret->all.ptr, ret->all.len, sizeof(*ret->all.ptr), by_role);
    return 0;
}

static int add_ledger(struct making *m, const char *dir, const char *name, struct err *err)
{
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    char hash[SHA256_HEX_MAX];
    int rc = ledger_extent_find(dir, name, &x, err);
    VEC_FOREACH (&x.files, f) {
        CLEANUP(mem_freep) char *full = xasprintf("%s/%s.%06u", dir, name, f->number);
        CLEANUP(mem_freep) char *path = xasprintf("ledger/%s.%06u", name, f->number);
        tell(m, "ledgers", (uint64_t)(f - x.files.ptr), x.files.len);
        rc = rc < 0 ? rc : add_file(m, full, &(struct archive_entry){path, 0600, f->bytes}, err);
    }
    if (rc < 0)
        return rc;
    hash_hex(x.hash, sizeof(x.hash), hash);
    json_array_append_new(json_object_get(m->manifest, "ledgers"),
                          json_pack("{s:s, s:i, s:s, s:I, s:s}", "name", name, "kind", (int)x.kind, "id", x.id, "sequence", (json_int_t)x.sequence, "hash", hash));
    return 0;
}

static int add_ledgers(struct making *m, struct err *err)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/ledger", m->o->data);
    CLEANUP(names_deinit) struct names names = {0};
    json_object_set_new(m->manifest, "ledgers", json_array());
    int rc = find_ledgers(dir, &names, err);
    VEC_FOREACH (&names.all, n)
        rc = rc < 0 ? rc : add_ledger(m, dir, *n, err);
    return rc;
}

/* ---- the whole ---- */

static json_t *new_manifest(void)
{
    char now[CLOCK_TEXT_MAX], host[256] = "";
    clock_format(clock_wall_ms(), now);
    (void)!gethostname(host, sizeof(host) - 1);
    return json_pack("{s:i, s:s, s:s, s:s}", "format", ARCHIVE_FORMAT, "release", SEKI_RELEASE, "time", now, "host", host);
}

/* One attempt. *ret_changed: a file that was changed meanwhile; the caller's. */
static int make_once(struct making *m, int fd, char **ret_changed, struct err *err)
{
    CLEANUP(tree_deinit) struct tree before = {0}, after = {0};
    archive_writer_free(TAKE(m->writer));
    json_decref(m->manifest);
    m->manifest = new_manifest();
    json_put(m->manifest, "rootKey", json_boolean(m->o->root_key));
    if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return err_sys(err, errno, "%s.tmp", m->o->file);
    unlink(m->copy);
    int rc = archive_writer_new(fd, m->o->key, &m->writer, err);
    /* Keys that the store's objects are sealed with must be those of the same moment: files did not change from before the store was copied to after. */
    if (rc < 0 || (rc = tree_read(m->o->data, m->o->root_key, &before, err)) < 0 || (rc = add_store(m, err)) < 0 || (rc = add_tree(m, &before, err)) < 0 || (rc = tree_read(m->o->data, m->o->root_key, &after, err)) < 0)
        return rc;
    const char *changed = tree_difference(&before, &after);
    if (changed) {
        *ret_changed = xstrdup(changed);
        return 0;
    }
    rc = add_ledgers(m, err);
    return rc < 0 ? rc : archive_finish(m->writer, m->manifest, err);
}

static int make_all(struct making *m, int fd, struct err *err)
{
    for (int i = 0;; i++) {
        CLEANUP(mem_freep) char *changed = NULL;
        int rc = make_once(m, fd, &changed, err);
        if (rc < 0 || !changed)
            return rc;
        if (i + 1 == ATTEMPTS)
            return err_set(err, ERR_BUSY, "%s/%s was changed %d times while it was backed up; try again", m->o->data, changed, ATTEMPTS);
    }
}

static char *directory_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    return !slash ? xstrdup(".") : xstrndup(file, slash == file ? 1 : (size_t)(slash - file));
}

/* A backup within what it is a backup of would be in the next one. */
static int check_place(const char *data, const char *dir, struct err *err)
{
    char a[PATH_MAX], b[PATH_MAX];
    if (!realpath(data, a))
        return err_sys(err, errno, "%s", data);
    if (!realpath(dir, b))
        return err_sys(err, errno, "%s", dir);
    size_t len = strlen(a);
    if (!strncmp(a, b, len) && (!b[len] || b[len] == '/'))
        return err_set(err, ERR_INVALID, "the backup must lie elsewhere than in the data directory %s", data);
    return 0;
}

static int check_data(const char *data, struct err *err)
{
    CLEANUP(mem_freep) char *mark = xasprintf("%s/" RESTORE_MARK, data);
    struct stat st;
    if (stat(data, &st) < 0)
        return err_sys(err, errno, "the data directory %s", data);
    if (st.st_uid != geteuid())
        return err_set(err, ERR_FORBIDDEN, "%s belongs to another user: run this as the one that sekid runs as", data);
    if (file_exists(mark))
        return err_set(err, ERR_UNAVAILABLE, "%s holds a restore that was not finished", data);
    return 0;
}

static int put_in_place(const char *temporary, const char *file, int fd, const char *dir, struct err *err)
{
    if (fsync(fd) < 0)
        return err_sys(err, errno, "fsync %s", temporary);
    int rc = renameat2(AT_FDCWD, temporary, AT_FDCWD, file, RENAME_NOREPLACE);
    if (rc < 0 && (errno == EINVAL || errno == ENOSYS)) /* a filesystem that knows no such thing */
        rc = file_exists(file) ? (errno = EEXIST, -1) : rename(temporary, file);
    if (rc < 0)
        return errno == EEXIST ? err_set(err, ERR_EXISTS, "%s is there already; a backup writes over nothing", file) : err_sys(err, errno, "rename %s", temporary);
    return file_sync_dir(dir, err);
}

/* What a backup that was killed has left may be written over, and nothing else. */
static int check_begun(const char *temporary, int fd, struct err *err)
{
    char head[8];
    ssize_t n = pread(fd, head, sizeof(head), 0);
    if (n < 0)
        return err_sys(err, errno, "%s", temporary);
    return sealed_file_begins(str_n(head, (size_t)n)) ? 0 : err_set(err, ERR_EXISTS, "%s is there, and is no backup that was cut off; it is not written over", temporary);
}

static int make_file(struct making *m, struct err *err)
{
    CLEANUP(mem_freep) char *dir = directory_of(m->o->file), *temporary = xasprintf("%s.tmp", m->o->file);
    struct stat st;
    int rc = check_place(m->o->data, dir, err);
    if (rc < 0)
        return rc;
    if (lstat(m->o->file, &st) == 0)
        return err_set(err, ERR_EXISTS, "%s is there already; a backup writes over nothing", m->o->file);
    CLEANUP(file_closep) int fd = open(temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0 || fstat(fd, &st) < 0 || fchmod(fd, 0600) < 0)
        return err_sys(err, errno, "%s", temporary);
    if (!S_ISREG(st.st_mode) || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, ERR_BUSY, "%s is in use by another backup", temporary);
    if ((rc = check_begun(temporary, fd, err)) < 0)
        return rc;
    rc = make_all(m, fd, err);
    if (rc == 0)
        rc = put_in_place(temporary, m->o->file, fd, dir, err);
    if (rc < 0)
        unlink(temporary);
    return rc;
}

/* ---- the newest one ---- */

#define LAST "run/last-backup.json"
#define LAST_MAX (64 * 1024)

/* That this cannot be written is no reason to call the backup none: whoever watches its age will ask. */
static void remember(const struct backup_options *o, const json_t *manifest)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/" LAST, o->data);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:s, s:s}", "time", json_str_or(manifest, "time", ""), "file", o->file);
    sbuf_init(&text, LAST_MAX);
    json_write(doc, &text);
    (void)!file_write(path, sbuf_str(&text), 0600, NULL);
}

int64_t backup_last_ms(const char *data)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/" LAST, data);
    int64_t ms = 0;
    JSON_AUTO doc = NULL;
    if (json_read_file(path, LAST_MAX, &doc, NULL) < 0)
        return 0;
    return clock_parse(str_of(json_str_or(doc, "time", "")), &ms) < 0 ? 0 : ms;
}

int backup_make(const struct backup_options *o, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *run = xasprintf("%s/run", o->data), *lock = xasprintf("%s/run/backup.lock", o->data);
    CLEANUP(mem_freep) char *scratch = xasprintf("%s/run/backup", o->data), *copy = xasprintf("%s/run/backup/seki.db", o->data);
    CLEANUP(file_closep) int lock_fd = -1;
    struct making m = {.o = o, .scratch = scratch, .copy = copy};
    int rc = check_data(o->data, err);
    if (rc < 0 || (rc = file_mkdirs(run, 0700, err)) < 0)
        return rc;
    if ((rc = file_lock(lock, &lock_fd, err)) < 0)
        return rc == ERR_BUSY ? err_set(err, ERR_BUSY, "another backup of %s is being taken", o->data) : rc;
    if ((rc = file_remove_tree(scratch, err)) < 0 || (rc = file_mkdirs(scratch, 0700, err)) < 0)
        return rc;
    rc = make_file(&m, err);
    archive_writer_free(m.writer);
    (void)!file_remove_tree(scratch, NULL);
    if (rc < 0) {
        json_decref(m.manifest);
        return rc;
    }
    remember(o, m.manifest);
    *ret = m.manifest;
    return 0;
}

int backup_verify(const char *file, const struct sealed_key *key, json_t **ret, struct err *err)
{
    CLEANUP(file_closep) int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "%s", file);
    return archive_read(fd, key, NULL, ret, err) < 0 ? err_wrap(err, "%s", file) : 0;
}
