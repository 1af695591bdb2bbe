#include "backup/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/archive.h"
#include "base/mem.h"
#include "ledger/extent.h"

#define DEPTH_MAX 16

/* BACKUP_LEFT_OUT: at the top of the data directory. The store is copied in its own way. */
static const char *const left_out[] = {
    "run",              /* addresses, sockets, tokens, workloads of this machine; the gateway's snapshot is made anew */
    "log",              /* of engines */
    "rollback",         /* the way back from an upgrade: may hold secrets that the store has sealed since */
    "models",           /* large, and elsewhere, too */
    "admin.kubeconfig", /* written at each start */
    "clusters",         /* stores that run: a copy of their files is none */
    "break-glass",      /* an access that was ended meanwhile must not come back */
    "lost+found",
};

#define ROOT_KEY "secrets" /* kept apart, unless it is asked for: whoever has backup and key would have every secret */

static bool is_left_out(const char *name, bool top, bool root_key)
{
    for (size_t i = 0; top && i < ARRAY_LEN(left_out); i++)
        if (!strcmp(name, left_out[i]))
            return true;
    struct str s = str_of(name);
    if (top && !root_key && !strcmp(name, ROOT_KEY))
        return true;
    return (top && str_starts(s, STR("seki.db"))) || str_ends(s, STR(".lock")) || memmem(name, s.len, ".tmp-", 5); /* file_write()'s */
}

static int walk(struct tree *t, const char *dir, const char *below, bool root_key, int depth, struct err *err);

static int look_at(struct tree *t, const char *dir, const char *path, const char *name, bool root_key, int depth, struct err *err)
{
    char ledger[LEDGER_NAME_MAX];
    struct stat st;
    CLEANUP(mem_freep) char *full = xasprintf("%s/%s", dir, path);
    if (is_left_out(name, depth == 0, root_key) || (str_starts(str_of(path), STR("ledger/")) && ledger_split_name(name, ledger)))
        return 0;
    if (lstat(full, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", full);
    if (S_ISDIR(st.st_mode))
        return walk(t, dir, path, root_key, depth + 1, err);
    if (S_ISLNK(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is a link: it would not be in the backup; put the file itself there", full);
    if (!S_ISREG(st.st_mode))
        return 0;
    if (t->files.len >= ARCHIVE_FILES_MAX)
        return err_set(err, ERR_TOO_LARGE, "%s holds more than %d files", dir, ARCHIVE_FILES_MAX);
    *VEC_PUSH(&t->files) = (struct tree_file){.path = xstrdup(path), .st = st};
    return 0;
}

static int walk(struct tree *t, const char *dir, const char *below, bool root_key, int depth, struct err *err)
{
    CLEANUP(mem_freep) char *full = xasprintf("%s/%s", dir, below);
    int rc = 0;
    if (depth > DEPTH_MAX)
        return err_set(err, ERR_INVALID, "%s: deeper than %d directories", full, DEPTH_MAX);
    DIR *d = opendir(full);
    if (!d)
        return err_sys(err, errno, "%s", full);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        CLEANUP(mem_freep) char *path = *below ? xasprintf("%s/%s", below, e->d_name) : xstrdup(e->d_name);
        rc = look_at(t, dir, path, e->d_name, root_key, depth, err);
    }
    closedir(d);
    return rc;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct tree_file *)a)->path, ((const struct tree_file *)b)->path);
}

int tree_read(const char *dir, bool root_key, struct tree *ret, struct err *err)
{
    struct tree t = {0};
    int rc = walk(&t, dir, "", root_key, 0, err);
    if (rc < 0) {
        tree_deinit(&t);
        return rc;
    }
    if (t.files.len)
        qsort(t.files.ptr, t.files.len, sizeof(*t.files.ptr), by_path);
    *ret = t;
    return 0;
}

void tree_deinit(struct tree *t)
{
    VEC_FOREACH (&t->files, f)
        mem_free(f->path);
    VEC_DEINIT(&t->files);
}

static bool is_same(const struct tree_file *a, const struct tree_file *b)
{
    return !strcmp(a->path, b->path) && a->st.st_ino == b->st.st_ino && a->st.st_size == b->st.st_size && a->st.st_mode == b->st.st_mode &&
           a->st.st_mtim.tv_sec == b->st.st_mtim.tv_sec && a->st.st_mtim.tv_nsec == b->st.st_mtim.tv_nsec;
}

const char *tree_difference(const struct tree *a, const struct tree *b)
{
    for (size_t i = 0; i < a->files.len || i < b->files.len; i++) {
        const struct tree_file *x = i < a->files.len ? &a->files.ptr[i] : NULL, *y = i < b->files.len ? &b->files.ptr[i] : NULL;
        if (!x || !y || !is_same(x, y))
            return x ? x->path : y->path;
    }
    return NULL;
}

int tree_check_empty(const char *dir, struct err *err)
{
    int rc = 0;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "lost+found") && strcmp(e->d_name, RESTORE_MARK))
            rc = err_set(err, ERR_EXISTS, "%s is not empty: %s is there; a restore writes over nothing", dir, e->d_name);
    closedir(d);
    return rc;
}
