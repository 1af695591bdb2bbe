#include "store/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "store/internal.h"

#define ATTEMPTS 5
#define PIECE_BYTES ((size_t)1024 * 1024)
#define WAL_HEAD_BYTES 32

/* ---- holding the log ---- */

int store_hold_open(const char *path)
{
    CLEANUP(mem_freep) char *hold = xasprintf("%s" STORE_HOLD_SUFFIX, path);
    return open(hold, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

bool store_is_held(int fd)
{
    if (fd < 0)
        return false;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK;
    flock(fd, LOCK_UN);
    return false;
}

/* ---- copying bytes ---- */

struct piece_copy {
    const struct store_copy_progress *progress;
    uint64_t done, total;
    char *buf;
};

/* From fd, up to where it ends now, to a new file: a log may grow faster than it is copied. */
static int copy_bytes(int fd, const char *from, const char *to, struct piece_copy *p, struct err *err)
{
    CLEANUP(file_closep) int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (out < 0)
        return err_sys(err, errno, "%s", to);
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", from);
    for (off_t at = 0; at < st.st_size;) {
        ssize_t n = pread(fd, p->buf, MIN(PIECE_BYTES, (size_t)(st.st_size - at)), at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "%s", from);
        if (n == 0)
            break;
        int rc = file_write_all(out, str_n(p->buf, (size_t)n), err);
        if (rc < 0)
            return err_wrap(err, "%s", to);
        at += n;
        p->done += (uint64_t)n;
        if (p->progress && p->progress->fn)
            p->progress->fn(p->progress->arg, MIN(p->done, p->total), p->total);
    }
    return 0;
}

/* What must be the same before and after. */
struct state {
    struct stat db, wal;
    uint8_t head[WAL_HEAD_BYTES];
    size_t head_len; /* 0: no log */
    bool replaced;   /* what is open is not what lies under the path */
};

static int look(const char *path, const char *wal_path, int db, int wal, struct state *ret, struct err *err)
{
    struct stat st;
    memset(ret, 0, sizeof(*ret));
    if (stat(path, &ret->db) < 0 || fstat(db, &st) < 0)
        return err_sys(err, errno, "%s", path);
    ret->replaced = st.st_ino != ret->db.st_ino;
    if (stat(wal_path, &ret->wal) < 0 && errno != ENOENT)
        return err_sys(err, errno, "%s", wal_path);
    if (wal >= 0 && fstat(wal, &st) < 0)
        return err_sys(err, errno, "%s", wal_path);
    ret->replaced = ret->replaced || (wal >= 0 ? st.st_ino : 0) != ret->wal.st_ino;
    ssize_t n = wal >= 0 ? pread(wal, ret->head, sizeof(ret->head), 0) : 0;
    if (n < 0)
        return err_sys(err, errno, "%s", wal_path);
    ret->head_len = n == WAL_HEAD_BYTES ? (size_t)n : 0;
    return 0;
}

/* With a log that is the same log, the database may change. Without one it may not. */
static bool is_steady(const struct state *a, const struct state *b)
{
    if (a->replaced || b->replaced || a->db.st_ino != b->db.st_ino || a->wal.st_ino != b->wal.st_ino || a->head_len != b->head_len)
        return false;
    if (a->head_len)
        return memcmp(a->head, b->head, a->head_len) == 0;
    return a->db.st_size == b->db.st_size && a->db.st_mtim.tv_sec == b->db.st_mtim.tv_sec && a->db.st_mtim.tv_nsec == b->db.st_mtim.tv_nsec;
}

static int copy_once(const char *path, const char *to, const char *to_wal, struct piece_copy *p, bool *ret_steady, struct err *err)
{
    CLEANUP(mem_freep) char *wal_path = xasprintf("%s-wal", path);
    CLEANUP(file_closep) int db = open(path, O_RDONLY | O_CLOEXEC);
    struct state before, after;
    if (db < 0)
        return err_sys(err, errno, "%s", path);
    CLEANUP(file_closep) int wal = open(wal_path, O_RDONLY | O_CLOEXEC);
    if (wal < 0 && errno != ENOENT)
        return err_sys(err, errno, "%s", wal_path);
    int rc = look(path, wal_path, db, wal, &before, err);
    p->done = 0;
    p->total = (uint64_t)before.db.st_size + (uint64_t)before.wal.st_size;
    if (rc == 0)
        rc = copy_bytes(db, path, to, p, err);
    if (rc == 0 && wal >= 0)
        rc = copy_bytes(wal, wal_path, to_wal, p, err);
    if (rc == 0)
        rc = look(path, wal_path, db, wal, &after, err);
    if (rc == 0)
        *ret_steady = is_steady(&before, &after);
    return rc;
}

/* ---- opening a copy ---- */

static int refuse(sqlite3 *db, const char *path, int rc, struct err *err)
{
    bool damaged = (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB || (rc & 0xff) == SQLITE_ERROR;
    int code = damaged ? ERR_CORRUPT : (rc & 0xff) == SQLITE_FULL ? ERR_NO_SPACE : (rc & 0xff) == SQLITE_BUSY ? ERR_BUSY : ERR_IO;
    return err_set(err, code, "%s: %s", path, db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

static int open_copy(const char *path, sqlite3 **ret, struct err *err)
{
    int rc = sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*ret, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;", NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : refuse(*ret, path, rc, err);
}

static int ask_int(sqlite3 *db, const char *path, const char *sql, int64_t *ret, struct err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW)
        *ret = sqlite3_column_int64(st, 0);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        (void)refuse(db, path, rc, err);
    sqlite3_finalize(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : err ? err->code : ERR_IO;
}

static int check_pages(sqlite3 *db, const char *path, struct err *err)
{
    sqlite3_stmt *st = NULL;
    int code = 0, rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        code = refuse(db, path, rc, err);
    else if (!said || strcmp(said, "ok") != 0)
        code = err_set(err, ERR_CORRUPT, "%s is damaged: %s", path, said ? said : "nothing can be read");
    sqlite3_finalize(st);
    return code;
}

static int read_info(sqlite3 *db, const char *path, struct store_copy_info *ret, struct err *err)
{
    int64_t format = 0, compacted = 0;
    struct store_copy_info info = {0};
    int rc = ask_int(db, path, "PRAGMA user_version", &format, err);
    if (rc < 0)
        return rc;
    if (format > STORE_FORMAT_VERSION)
        return err_set(err, ERR_INVALID, "%s was written by a newer release (format %lld, this one knows %d)", path, (long long)format, STORE_FORMAT_VERSION);
    if (format < 1)
        return err_set(err, ERR_CORRUPT, "%s is no store of Seki", path);
    if ((rc = check_pages(db, path, err)) < 0 || (rc = ask_int(db, path, "SELECT value FROM meta WHERE name = 'compacted'", &compacted, err)) < 0 ||
        (rc = ask_int(db, path, "SELECT rev FROM log ORDER BY id DESC LIMIT 1", &info.rev, err)) < 0 ||
        (rc = ask_int(db, path, "SELECT at_ms FROM log WHERE id != 0 ORDER BY id DESC LIMIT 1", &info.newest_at_ms, err)) < 0 ||
        (rc = ask_int(db, path, "SELECT count(*) FROM (SELECT max(id), value IS NULL AS gone FROM log WHERE id != 0 GROUP BY key) WHERE NOT gone", &info.objects, err)) < 0)
        return rc;
    info.rev = MAX(info.rev, compacted);
    info.format = (int)format;
    *ret = info;
    return 0;
}

static int check_copy(const char *path, bool finish, struct store_copy_info *ret, struct err *err)
{
    sqlite3 *db = NULL;
    struct stat st;
    int rc = open_copy(path, &db, err);
    /* Writes the log back into the database and takes it away. */
    if (rc == 0 && finish) {
        int sql = sqlite3_exec(db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
        rc = sql == SQLITE_OK ? 0 : refuse(db, path, sql, err);
    }
    if (rc == 0)
        rc = read_info(db, path, ret, err);
    sqlite3_close(db);
    if (rc == 0 && stat(path, &st) == 0)
        ret->bytes = st.st_size;
    return rc;
}

int store_copy_check(const char *path, struct store_copy_info *ret, struct err *err)
{
    return check_copy(path, false, ret, err);
}

int store_settle(const char *path, struct store_copy_info *ret, struct err *err)
{
    return check_copy(path, true, ret, err);
}

int store_format(const char *path, int *ret, struct err *err)
{
    enum { AT = 60 }; /* "user version" of SQLite's file format */
    uint8_t b[4];
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return err_sys(err, errno, "%s", path);
    ssize_t n = fd < 0 ? 0 : pread(fd, b, sizeof(b), AT);
    if (n < 0)
        return err_sys(err, errno, "%s", path);
    *ret = n == sizeof(b) ? (int)((uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]) : 0;
    return 0;
}

int store_copy(const char *path, const char *to, const struct store_copy_progress *progress, struct store_copy_info *ret, struct err *err)
{
    CLEANUP(mem_freep) char *to_wal = xasprintf("%s-wal", to);
    CLEANUP(mem_freep) char *buf = xcalloc(1, PIECE_BYTES);
    struct piece_copy p = {.progress = progress, .buf = buf};
    bool steady = false;
    int rc = 0;
    if (!file_exists(path))
        return err_set(err, ERR_NOT_FOUND, "there is no store %s", path);
    CLEANUP(file_closep) int hold = store_hold_open(path);
    if (hold < 0 || flock(hold, LOCK_SH) < 0)
        return err_sys(err, errno, "%s" STORE_HOLD_SUFFIX, path);
    for (int i = 0; rc == 0 && !steady && i < ATTEMPTS; i++) {
        unlink(to_wal);
        rc = copy_once(path, to, to_wal, &p, &steady, err);
    }
    if (rc == 0 && !steady)
        rc = err_set(err, ERR_BUSY, "%s was written back or opened anew %d times while it was copied; try again", path, ATTEMPTS);
    if (rc == 0)
        rc = check_copy(to, true, ret, err);
    if (rc < 0) {
        unlink(to);
        unlink(to_wal);
    }
    return rc;
}

/* ---- going on behind a restore ---- */

#define REVISIONS_A_MS 1000
#define REVISIONS_APART 1000000000

int64_t store_revision_after_restore(const struct store_copy_info *copy, int64_t now_ms)
{
    int64_t ms = MAX(now_ms, copy->newest_at_ms) + 1;
    return MAX(copy->rev + REVISIONS_APART, ms * REVISIONS_A_MS);
}

int store_forget_history(const char *path, int64_t rev, struct err *err)
{
    sqlite3 *db = NULL;
    char sql[160];
    int rc = open_copy(path, &db, err);
    if (rc == 0) {
        snprintf(sql, sizeof(sql), "INSERT OR REPLACE INTO meta (name, value) VALUES ('compacted', %lld)", (long long)rev);
        int done = sqlite3_exec(db, sql, NULL, NULL, NULL);
        rc = done == SQLITE_OK ? 0 : refuse(db, path, done, err);
    }
    sqlite3_close(db);
    return rc;
}
