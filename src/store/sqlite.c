/* The member on SQLite: a log of versions, written by one thread with group commit.
 *
 * The log has a row a version, in the order of acceptance; opening reads it once and rebuilds the index. The writer takes everything that waits, writes it in one transaction with
 * synchronous=FULL in WAL mode, and posts it back: under load one sync serves many writes, without load a write waits for none but its own. After a failed commit the writer
 * holds still until the loop has rolled back what depended on it.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/internal.h"

#include <sqlite3.h>
#include <unistd.h>

#define FORMAT_VERSION 1
#define PROBE_EVERY_S 1
#define BUSY_MS 0

struct forget_job {
    STAILQ_ENTRY(forget_job) link;
    int64_t compacted_rev;
    size_t count;
    int64_t ids[];
};

struct sqlite {
    struct store *store;
    sqlite3 *db;
    sqlite3_stmt *insert, *forget, *set_meta, *begin, *commit, *rollback;
    int lock_fd;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    struct store_pending_list queue;     /* under lock */
    STAILQ_HEAD(, forget_job) forgets;   /* under lock */
    bool stop, writing, failed;          /* under lock; failed: wait for the loop */
    int inflight;                        /* under lock: batches posted and not yet taken by the loop */
};

/* A batch on its way back to the loop. */
struct batch {
    struct sqlite *db;
    struct store_pending_list list;
    struct err err;
};

static int sql_error(struct sqlite *q, int rc, struct err *err, const char *what)
{
    int code = ERR_IO;
    if ((rc & 0xff) == SQLITE_FULL)
        code = ERR_NO_SPACE;
    else if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
        code = ERR_CORRUPT;
    else if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
        code = ERR_BUSY;
    else if ((rc & 0xff) == SQLITE_NOMEM)
        code = ERR_NO_MEMORY;
    return err_set(err, code, "%s: %s", what, q->db ? sqlite3_errmsg(q->db) : sqlite3_errstr(rc));
}

/* ---- the writer ---- */

static int step(sqlite3_stmt *st)
{
    int rc = sqlite3_step(st);
    sqlite3_reset(st);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int write_row(struct sqlite *q, const struct store_pending *p, const struct store_write *w)
{
    const struct store_value *v = w->version->value;
    sqlite3_stmt *st = q->insert;
    struct str key = w->node->key;
    sqlite3_bind_int64(st, 1, w->row_id);
    sqlite3_bind_int64(st, 2, p->rev);
    sqlite3_bind_int64(st, 3, v ? v->created_rev : 0);
    sqlite3_bind_int64(st, 4, p->wall_ms);
    sqlite3_bind_blob64(st, 5, key.ptr, key.len, SQLITE_STATIC);
    if (v)
        sqlite3_bind_blob64(st, 6, v->value.len ? v->value.ptr : "", v->value.len, SQLITE_STATIC);
    else
        sqlite3_bind_null(st, 6);
    return step(st);
}

static int write_forget(struct sqlite *q, const struct forget_job *f)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; rc == SQLITE_OK && i < f->count; i++) {
        sqlite3_bind_int64(q->forget, 1, f->ids[i]);
        rc = step(q->forget);
    }
    sqlite3_bind_text(q->set_meta, 1, "compacted", -1, SQLITE_STATIC);
    sqlite3_bind_int64(q->set_meta, 2, f->compacted_rev);
    return rc == SQLITE_OK ? step(q->set_meta) : rc;
}

static int write_batch(struct sqlite *q, struct store_pending_list *list, struct forget_job *forgets, struct err *err)
{
    const struct store_pending *p;
    int rc = step(q->begin);
    STAILQ_FOREACH (p, list, link)
        for (size_t i = 0; rc == SQLITE_OK && i < p->count; i++)
            rc = write_row(q, p, &p->writes[i]);
    for (const struct forget_job *f = forgets; rc == SQLITE_OK && f; f = STAILQ_NEXT(f, link))
        rc = write_forget(q, f);
    if (rc == SQLITE_OK)
        rc = step(q->commit);
    if (rc == SQLITE_OK)
        return 0;
    sql_error(q, rc, err, "writing the store");
    if (!sqlite3_get_autocommit(q->db))
        step(q->rollback);
    return err->code;
}

/* An empty write: whether the disk takes something again. */
static bool probe(struct sqlite *q)
{
    sqlite3_bind_text(q->set_meta, 1, "probe", -1, SQLITE_STATIC);
    sqlite3_bind_int64(q->set_meta, 2, clock_wall_ms());
    return step(q->set_meta) == SQLITE_OK;
}

static void batch_back(void *arg);

static void wait_for_work(struct sqlite *q, bool sick)
{
    struct timespec until;
    while (!q->stop && (q->failed || (STAILQ_EMPTY(&q->queue) && STAILQ_EMPTY(&q->forgets)))) {
        if (!sick || q->failed) {
            pthread_cond_wait(&q->wake, &q->lock);
            continue;
        }
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += PROBE_EVERY_S;
        if (pthread_cond_timedwait(&q->wake, &q->lock, &until) != 0)
            return;
    }
}

static void free_forgets(struct forget_job *f)
{
    while (f) {
        struct forget_job *next = STAILQ_NEXT(f, link);
        mem_free(f);
        f = next;
    }
}

static void give_back_forgets(struct sqlite *q, struct forget_job *first)
{
    if (!first)
        return;
    struct forget_job *last = first;
    while (STAILQ_NEXT(last, link))
        last = STAILQ_NEXT(last, link);
    struct forget_job *rest = STAILQ_FIRST(&q->forgets);
    q->forgets.stqh_first = first;
    STAILQ_NEXT(last, link) = rest;
    if (!rest)
        q->forgets.stqh_last = &STAILQ_NEXT(last, link);
}

static void post_back(struct sqlite *q, struct store_pending_list *list, const struct err *err)
{
    struct batch *b = XNEW(struct batch);
    b->db = q;
    b->err = *err;
    STAILQ_INIT(&b->list);
    STAILQ_CONCAT(&b->list, list);
    q->inflight++;
    q->failed = err->code != 0;
    loop_post(q->store->loop, batch_back, b);
}

static void *writer_main(void *arg)
{
    struct sqlite *q = arg;
    bool sick = false;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        wait_for_work(q, sick);
        if (q->stop && (q->failed || STAILQ_EMPTY(&q->queue)))
            break;
        struct store_pending_list list = STAILQ_HEAD_INITIALIZER(list);
        STAILQ_CONCAT(&list, &q->queue);
        struct forget_job *forgets = STAILQ_FIRST(&q->forgets);
        STAILQ_INIT(&q->forgets);
        q->writing = true;
        pthread_mutex_unlock(&q->lock);

        struct err err = ERR_INIT;
        bool idle = STAILQ_EMPTY(&list) && !forgets;
        if (idle ? !probe(q) : write_batch(q, &list, forgets, &err) < 0)
            sick = true;
        else if (sick && idle) { /* the probe went through: tell readyz by an empty success */
            sick = false;
            idle = false;
        } else
            sick = false;
        pthread_mutex_lock(&q->lock);
        if (err.code) /* in order, before later ones: a tombstone must not go before what it hides */
            give_back_forgets(q, forgets);
        else
            free_forgets(forgets);
        q->writing = false;
        if (!STAILQ_EMPTY(&list) || (!idle && !err.code && !forgets))
            post_back(q, &list, &err);
        pthread_cond_broadcast(&q->idle);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

/* ---- on the loop's thread ---- */

static void batch_finish(struct batch *b)
{
    struct sqlite *q = b->db;
    pthread_mutex_lock(&q->lock);
    q->inflight--;
    if (b->err.code) /* what was accepted since stands on what was lost */
        STAILQ_CONCAT(&b->list, &q->queue);
    pthread_mutex_unlock(&q->lock);
    if (b->err.code)
        store_failed(q->store, &b->list, &b->err);
    else
        store_committed(q->store, &b->list);
    pthread_mutex_lock(&q->lock);
    if (b->err.code)
        q->failed = false;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
    mem_free(b);
}

static void batch_back(void *arg)
{
    batch_finish(arg);
}

static void sqlite_submit(struct store *s, struct store_pending *p)
{
    struct sqlite *q = s->member_state;
    pthread_mutex_lock(&q->lock);
    STAILQ_INSERT_TAIL(&q->queue, p, link);
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
    for (size_t i = 0; i < p->count; i++)
        s->stats.bytes_written += p->writes[i].version->value ? p->writes[i].version->value->value.len : 0;
}

static void sqlite_forget(struct store *s, const int64_t *row_ids, size_t count, int64_t compacted_rev)
{
    struct sqlite *q = s->member_state;
    struct forget_job *f = xcalloc(1, sizeof(*f) + count * sizeof(f->ids[0]));
    f->compacted_rev = compacted_rev;
    f->count = count;
    memcpy(f->ids, row_ids, count * sizeof(f->ids[0]));
    pthread_mutex_lock(&q->lock);
    STAILQ_INSERT_TAIL(&q->forgets, f, link);
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

static void db_close(struct sqlite *q)
{
    sqlite3_stmt *all[] = {q->insert, q->forget, q->set_meta, q->begin, q->commit, q->rollback};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        sqlite3_finalize(all[i]);
    sqlite3_close(q->db);
    file_closep(&q->lock_fd);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    pthread_cond_destroy(&q->idle);
    mem_free(q);
}

static void sqlite_close(struct store *s)
{
    struct sqlite *q = s->member_state;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    /* Batches that are on their way back arrive through the loop. */
    while (q->inflight > 0)
        loop_run_once(s->loop, 100);
    free_forgets(STAILQ_FIRST(&q->forgets));
    db_close(q);
}

static const struct store_member sqlite_member = {.submit = sqlite_submit, .forget = sqlite_forget, .close = sqlite_close};

/* ---- opening ---- */

static int exec(struct sqlite *q, const char *sql, struct err *err)
{
    int rc = sqlite3_exec(q->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : sql_error(q, rc, err, "opening the store");
}

static int query_int(struct sqlite *q, const char *sql, int64_t *ret, struct err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(q->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW)
        *ret = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : sql_error(q, rc, err, "reading the store");
}

/* Steps from one format to the next; the number of steps done is the file's user_version. */
static const char *const migrations[FORMAT_VERSION] = {
    "CREATE TABLE log (id INTEGER PRIMARY KEY, rev INTEGER NOT NULL, created INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
    " key BLOB NOT NULL, value BLOB) STRICT;"
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
};

static int migrate(struct sqlite *q, const char *path, struct err *err)
{
    int64_t version = 0;
    int rc = query_int(q, "PRAGMA user_version", &version, err);
    if (rc < 0)
        return rc;
    if (version > FORMAT_VERSION)
        return err_set(err, ERR_INVALID, "%s was written by a newer release (format %lld, this one knows %d)", path, (long long)version, FORMAT_VERSION);
    for (; version < FORMAT_VERSION; version++) {
        CLEANUP(mem_freep) char *sql = xasprintf("BEGIN; %s PRAGMA user_version = %lld; COMMIT;", migrations[version], (long long)version + 1);
        if ((rc = exec(q, sql, err)) < 0)
            return rc;
    }
    return 0;
}

static int prepare(struct sqlite *q, struct err *err)
{
    const struct {
        sqlite3_stmt **st;
        const char *sql;
    } all[] = {
        {&q->insert, "INSERT INTO log (id, rev, created, at_ms, key, value) VALUES (?, ?, ?, ?, ?, ?)"},
        {&q->forget, "DELETE FROM log WHERE id = ?"},
        {&q->set_meta, "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"},
        {&q->begin, "BEGIN IMMEDIATE"},
        {&q->commit, "COMMIT"},
        {&q->rollback, "ROLLBACK"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        int rc = sqlite3_prepare_v3(q->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].st, NULL);
        if (rc != SQLITE_OK)
            return sql_error(q, rc, err, "opening the store");
    }
    return 0;
}

static int load(struct sqlite *q, struct err *err)
{
    struct store *s = q->store;
    sqlite3_stmt *st = NULL;
    int64_t now = clock_wall_ms(), compacted = 0;
    int rc = query_int(q, "SELECT value FROM meta WHERE name = 'compacted'", &compacted, err);
    if (rc < 0)
        return rc;
    s->visible_rev = s->accepted_rev = s->announced_rev = s->first_rev = compacted;
    rc = sqlite3_prepare_v2(q->db, "SELECT id, rev, created, at_ms, key, value FROM log ORDER BY id", -1, &st, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        if ((rc = sqlite3_step(st)) != SQLITE_ROW)
            break;
        int64_t at_ms = sqlite3_column_int64(st, 3);
        struct str key = str_n(sqlite3_column_blob(st, 4), (size_t)sqlite3_column_bytes(st, 4));
        struct str value = str_n(sqlite3_column_blob(st, 5), (size_t)sqlite3_column_bytes(st, 5));
        bool deleted = sqlite3_column_type(st, 5) == SQLITE_NULL;
        store_load(s, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1), key, sqlite3_column_int64(st, 2), deleted, value,
                   now > at_ms ? (uint64_t)(now - at_ms) : 0);
    }
    if (rc != SQLITE_DONE)
        sql_error(q, rc, err, "reading the store");
    sqlite3_finalize(st);
    if (s->visible_rev < compacted)
        s->visible_rev = s->accepted_rev = s->announced_rev = compacted;
    return rc == SQLITE_DONE ? 0 : err->code;
}

static int open_db(struct sqlite *q, const struct store_options *o, struct err *err)
{
    CLEANUP(mem_freep) char *lock_path = xasprintf("%s.lock", o->path);
    struct err inner = ERR_INIT;
    int rc = file_lock(lock_path, &q->lock_fd, &inner);
    if (rc == ERR_BUSY)
        return err_set(err, ERR_BUSY, "%s is in use by another process", o->path);
    if (rc < 0) {
        if (err)
            *err = inner;
        return rc;
    }
    rc = sqlite3_open_v2(o->path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, o->vfs);
    if (rc != SQLITE_OK)
        return sql_error(q, rc, err, o->path);
    sqlite3_busy_timeout(q->db, BUSY_MS);
    /* EXCLUSIVE: one process, no shared memory file. A small page cache: reads come from the index. */
    if ((rc = exec(q, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;"
                      "PRAGMA wal_autocheckpoint = 4000; PRAGMA temp_store = MEMORY;", err)) < 0 ||
        (rc = migrate(q, o->path, err)) < 0 || (rc = prepare(q, err)) < 0)
        return rc;
    return 0;
}

static struct sqlite *sqlite_new(void)
{
    struct sqlite *q = XNEW(struct sqlite);
    q->lock_fd = -1;
    STAILQ_INIT(&q->queue);
    STAILQ_INIT(&q->forgets);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->wake, NULL);
    pthread_cond_init(&q->idle, NULL);
    return q;
}

/* Closes a store whose writer never ran. */
static void close_unstarted(struct store *s)
{
    db_close(s->member_state);
}
static const struct store_member unstarted_member = {.close = close_unstarted};

int store_open_sqlite(struct loop *l, const struct store_options *o, struct store **ret, struct err *err)
{
    struct sqlite *q = sqlite_new();
    struct err local = ERR_INIT;
    if (!err)
        err = &local;
    int rc = open_db(q, o, err);
    if (rc < 0) {
        db_close(q);
        return rc;
    }
    struct store *s = q->store = store_new(l, o, &unstarted_member, q);
    rc = load(q, err);
    if (rc == 0 && pthread_create(&q->thread, NULL, writer_main, q) != 0)
        rc = err_set(err, ERR_NO_MEMORY, "cannot start the store's writer");
    if (rc < 0) {
        store_close(s);
        return rc;
    }
    s->member = &sqlite_member;
    *ret = s;
    return 0;
}
