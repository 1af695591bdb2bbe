/* The member on SQLite: a log of versions, written by one thread with group commit.
 *
 * The log has a row a version, in the order of acceptance; opening reads it once and rebuilds the index. The writer takes everything that waits, writes it in one transaction with
 * synchronous=FULL in WAL mode, and posts it back: under load one sync serves many writes, without load a write waits for none but its own. After a failed commit the writer
 * holds still until the loop has rolled back what depended on it. Housekeeping (the log's checkpoints, giving space back) comes after the answers.
 *
 * What a failed sync means: the kernel may have dropped the pages and call the next sync a success, so nothing of the failed transaction is counted on. Its frames may yet lie
 * whole in the write-ahead log; the writer overwrites them at once (scrub), or a restart would find a transaction that was called undone. And opening copies the log into the
 * database, synced, before anything is read: what a killed process left in the page cache is durable before anyone sees it.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "store/copy.h"
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#define PROBE_EVERY_MS 1000
#define PROBE_BYTES_MIN (64u * 1024)
#define PROBE_BYTES_MAX (4u * 1024 * 1024)
#define PROBE_ROW 0              /* rows of the log count from 1 */
#define CHECKPOINT_PAGES 4000    /* of the write-ahead log */
#define HELD_PAGES_MAX 256000    /* so far a log grows because somebody copies it */
#define HELD_RETRY_MS 1000
#define AT_MS_MAX (INT64_C(1) << 52)
#define TIDY_PAGES 64            /* given back in one step */
#define TIDY_MIN_PAGES 1024      /* free pages that are kept for what comes */

struct forget_job {
    STAILQ_ENTRY(forget_job) link;
    int64_t compacted_rev;
    size_t count;
    int64_t ids[];
};
STAILQ_HEAD(forget_list, forget_job);

struct sqlite {
    struct store *store;
    const struct store_journal *journal; /* or NULL */
    sqlite3 *db;
    sqlite3_stmt *insert, *forget, *set_meta, *begin, *commit, *rollback, *ballast, *free_pages, *all_pages, *tidy;
    int lock_fd, hold_fd;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct store_pending_list queue; /* under lock */
    struct forget_list forgets;      /* under lock */
    bool stop, failed;               /* under lock; failed: wait for the loop */
    bool scrub_asked;                /* under lock: the log is to lose what was deleted */
    int inflight;                    /* under lock: batches posted and not yet taken by the loop */

    /* The writer's own. */
    struct err trouble;      /* why the disk takes nothing */
    uint64_t probe_at_ms;    /* when to look again */
    size_t probe_bytes;      /* as much as could not be written */
    int wal_pages;
    bool untidy;
    uint64_t house_at_ms;    /* housekeeping waits until then: somebody copies the files */
};

/* A batch on its way back to the loop. */
struct batch {
    struct sqlite *db;
    struct store_pending_list list;
    struct err err;     /* of the list */
    struct err trouble; /* for readyz */
};

static int sql_error(struct sqlite *q, int rc, struct err *err, const char *what)
{
    int code = ERR_IO;
    if ((rc & 0xff) == SQLITE_FULL)
        code = ERR_NO_SPACE;
    else if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB || (rc & 0xff) == SQLITE_ERROR) /* a table is missing */
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
    sqlite3_bind_int64(st, 4, p->at_ms);
    sqlite3_bind_blob64(st, 5, key.ptr, key.len, SQLITE_STATIC);
    if (v)
        sqlite3_bind_blob64(st, 6, v->value.len ? v->value.ptr : "", v->value.len, SQLITE_STATIC);
    else
        sqlite3_bind_null(st, 6);
    return step(st);
}

static void batch_back(void *arg);

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

static int rolled_back(struct sqlite *q, int rc, struct err *err, const char *what)
{
    sql_error(q, rc, err, what);
    if (!sqlite3_get_autocommit(q->db))
        (void)step(q->rollback);
    return err->code;
}

static int write_batch(struct sqlite *q, const struct store_pending_list *list, const struct forget_list *forgets, struct err *err)
{
    const struct store_pending *p;
    const struct forget_job *f;
    int rc = step(q->begin);
    STAILQ_FOREACH (p, list, link)
        for (size_t i = 0; rc == SQLITE_OK && i < p->count; i++)
            rc = write_row(q, p, &p->writes[i]);
    STAILQ_FOREACH (f, forgets, link)
        if (rc == SQLITE_OK)
            rc = write_forget(q, f);
    if (rc == SQLITE_OK)
        rc = step(q->commit);
    return rc == SQLITE_OK ? 0 : rolled_back(q, rc, err, "writing the store");
}

/* The journal first: whatever is committed stands there. */
static int write_noted(struct sqlite *q, const struct store_pending_list *list, const struct forget_list *forgets, struct err *err)
{
    VEC(struct store_note) notes = VEC_INIT;
    const struct store_pending *p;
    int rc = 0;
    STAILQ_FOREACH (p, list, link)
        if (q->journal && p->note.len)
            *VEC_PUSH(&notes) = (struct store_note){p->rev, p->note};
    if (notes.len)
        rc = q->journal->before(q->journal->ctx, notes.ptr, notes.len, err);
    if (rc == 0 && (rc = write_batch(q, list, forgets, err)) < 0 && notes.len)
        q->journal->undone(q->journal->ctx, notes.ptr, notes.len);
    VEC_DEINIT(&notes);
    return rc;
}

/* ---- trouble ---- */

/* A small transaction in place of one that failed: a write-ahead log that has it ends with it. */
static int scrub(struct sqlite *q)
{
    sqlite3_bind_text(q->set_meta, 1, "scrub", -1, SQLITE_STATIC);
    sqlite3_bind_int64(q->set_meta, 2, clock_wall_ms());
    return step(q->set_meta);
}

static uint64_t real_mono_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void set_trouble(struct sqlite *q, const struct err *err, size_t bytes)
{
    q->trouble = *err;
    q->probe_bytes = MAX(q->probe_bytes, MIN(MAX(bytes, (size_t)PROBE_BYTES_MIN), (size_t)PROBE_BYTES_MAX));
    q->probe_at_ms = real_mono_ms() + PROBE_EVERY_MS;
}

static int checkpoint(struct sqlite *q, int mode, struct err *err)
{
    int rc = sqlite3_wal_checkpoint_v2(q->db, NULL, mode, NULL, NULL);
    if (rc != SQLITE_OK)
        return sql_error(q, rc, err, "writing the store's log back");
    q->wal_pages = 0;
    return 0;
}

/* Whether the disk takes as much again as it did not: a small write often goes through where the next object would not. */
static void probe(struct sqlite *q)
{
    struct err err = ERR_INIT;
    sqlite3_bind_zeroblob64(q->ballast, 1, q->probe_bytes);
    int rc = step(q->ballast);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(q->forget, 1, PROBE_ROW);
        rc = step(q->forget);
    }
    if (rc == SQLITE_OK ? checkpoint(q, SQLITE_CHECKPOINT_PASSIVE, &err) < 0 : rolled_back(q, rc, &err, "writing the store") < 0) {
        set_trouble(q, &err, 0);
        return;
    }
    q->trouble = (struct err){0};
    q->probe_bytes = 0;
}

/* ---- housekeeping ---- */

static int on_wal(void *arg, sqlite3 *db UNUSED, const char *name UNUSED, int pages)
{
    ((struct sqlite *)arg)->wal_pages = pages;
    return SQLITE_OK;
}

static int64_t pages(sqlite3_stmt *st)
{
    int64_t n = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_reset(st);
    return n;
}

static bool many_free(struct sqlite *q)
{
    int64_t free = pages(q->free_pages);
    return free >= TIDY_MIN_PAGES && free >= pages(q->all_pages) / 4;
}

/* Takes a few free pages off the end of the file, when they are many. True: the last ones for now. More to do: stays untidy. */
static bool tidy(struct sqlite *q)
{
    int64_t before = pages(q->all_pages);
    q->untidy = false;
    if (!many_free(q))
        return false;
    int rc;
    while ((rc = sqlite3_step(q->tidy)) == SQLITE_ROW)
        ; /* a row a page */
    sqlite3_reset(q->tidy);
    q->untidy = rc == SQLITE_DONE && pages(q->all_pages) < before && many_free(q);
    return !q->untidy;
}

/* SQLite overwrites what is deleted (secure_delete), but older pages stay in the log until it is begun anew. */
static void cut_log(struct sqlite *q)
{
    struct err err = ERR_INIT;
    if (checkpoint(q, SQLITE_CHECKPOINT_TRUNCATE, &err) < 0)
        set_trouble(q, &err, 0);
}

/* While somebody copies the files the log is not written back: then it would be begun anew. */
static bool put_off(struct sqlite *q)
{
    if (q->wal_pages >= HELD_PAGES_MAX || !store_is_held(q->hold_fd))
        return false;
    q->house_at_ms = real_mono_ms() + HELD_RETRY_MS;
    return true;
}

static void keep_house(struct sqlite *q)
{
    struct err err = ERR_INIT;
    if (put_off(q))
        return;
    /* The file shrinks when the log is written back. */
    if ((q->wal_pages >= CHECKPOINT_PAGES || tidy(q)) && checkpoint(q, SQLITE_CHECKPOINT_PASSIVE, &err) < 0)
        set_trouble(q, &err, 0); /* writes still go to the log, but that is not to last */
}

static bool house_waits(const struct sqlite *q)
{
    return !q->trouble.code && (q->scrub_asked || q->untidy || q->wal_pages >= CHECKPOINT_PAGES);
}

static bool house_calls(const struct sqlite *q)
{
    return house_waits(q) && (!q->house_at_ms || real_mono_ms() >= q->house_at_ms);
}

static bool probe_due(const struct sqlite *q)
{
    return q->trouble.code && real_mono_ms() >= q->probe_at_ms;
}

/* What was forgotten while the disk is in trouble waits for its end. */
static bool has_work(const struct sqlite *q)
{
    return !STAILQ_EMPTY(&q->queue) || (!STAILQ_EMPTY(&q->forgets) && !q->trouble.code);
}

static void wait_for_work(struct sqlite *q)
{
    while (!q->stop && (q->failed || (!has_work(q) && !house_calls(q) && !probe_due(q)))) {
        uint64_t at_ms = q->trouble.code ? q->probe_at_ms : house_waits(q) ? q->house_at_ms : 0;
        if (q->failed || !at_ms) {
            pthread_cond_wait(&q->wake, &q->lock);
            continue;
        }
        struct timespec until = {.tv_sec = (time_t)(at_ms / 1000), .tv_nsec = (long)(at_ms % 1000) * 1000000};
        pthread_cond_timedwait(&q->wake, &q->lock, &until);
    }
}

static void free_forgets(struct forget_list *list)
{
    struct forget_job *f, *next;
    STAILQ_FOREACH_SAFE (f, list, link, next)
        mem_free(f);
    STAILQ_INIT(list);
}

static size_t bytes_of(const struct store_pending_list *list)
{
    size_t bytes = 0;
    const struct store_pending *p;
    STAILQ_FOREACH (p, list, link)
        for (size_t i = 0; i < p->count; i++)
            bytes += p->writes[i].version->value ? p->writes[i].version->value->value.len : 0;
    return bytes;
}

static void post_back(struct sqlite *q, struct store_pending_list *list, const struct err *err)
{
    struct batch *b = XNEW(struct batch);
    b->db = q;
    b->err = *err;
    b->trouble = q->trouble;
    STAILQ_INIT(&b->list);
    STAILQ_CONCAT(&b->list, list);
    q->inflight++;
    q->failed = err->code != 0;
    loop_post(q->store->loop, batch_back, b);
}

/* One turn; under lock, which it gives back while it works. */
static void turn(struct sqlite *q)
{
    struct store_pending_list list = STAILQ_HEAD_INITIALIZER(list);
    struct forget_list forgets = STAILQ_HEAD_INITIALIZER(forgets);
    struct err err = ERR_INIT;
    int told = q->trouble.code;
    bool overdue = !told && q->wal_pages >= CHECKPOINT_PAGES && house_calls(q); /* after the answers of the last turn, before the next */
    bool work = !overdue && has_work(q);
    bool cut = q->scrub_asked && !overdue && !work && !told && house_calls(q) && !put_off(q);
    q->scrub_asked = q->scrub_asked && !cut;
    if (work) {
        STAILQ_CONCAT(&list, &q->queue);
        if (!told)
            STAILQ_CONCAT(&forgets, &q->forgets);
    }
    pthread_mutex_unlock(&q->lock);
    if (work && write_noted(q, &list, &forgets, &err) < 0) {
        (void)scrub(q);
        set_trouble(q, &err, bytes_of(&list));
    } else if (probe_due(q)) {
        probe(q);
    } else if (cut) {
        cut_log(q);
    } else if (!work && !told) {
        keep_house(q);
    }
    q->untidy = q->untidy || !STAILQ_EMPTY(&forgets);
    pthread_mutex_lock(&q->lock);
    if (err.code) { /* in order, before later ones: a tombstone must not go before what it hides */
        STAILQ_CONCAT(&forgets, &q->forgets);
        STAILQ_CONCAT(&q->forgets, &forgets);
    }
    free_forgets(&forgets);
    if (STAILQ_EMPTY(&list)) /* nobody's transaction failed */
        err = (struct err){0};
    if (!STAILQ_EMPTY(&list) || told != q->trouble.code)
        post_back(q, &list, &err);
}

static void *writer_main(void *arg)
{
    struct sqlite *q = arg;
    pthread_setname_np(pthread_self(), "store");
    pthread_mutex_lock(&q->lock);
    for (;;) {
        wait_for_work(q);
        if (q->stop && (q->failed || STAILQ_EMPTY(&q->queue)))
            break;
        turn(q);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

/* ---- on the loop's thread ---- */

static void batch_back(void *arg)
{
    struct batch *b = arg;
    struct sqlite *q = b->db;
    pthread_mutex_lock(&q->lock);
    q->inflight--;
    if (b->err.code) /* what was accepted since stands on what was lost */
        STAILQ_CONCAT(&b->list, &q->queue);
    pthread_mutex_unlock(&q->lock);
    q->store->health = b->trouble;
    if (b->err.code)
        store_failed(q->store, &b->list, b->err.code);
    else if (!STAILQ_EMPTY(&b->list))
        store_committed(q->store, &b->list);
    if (b->err.code) {
        pthread_mutex_lock(&q->lock);
        q->failed = false;
        pthread_cond_signal(&q->wake);
        pthread_mutex_unlock(&q->lock);
    }
    mem_free(b);
}

static void sqlite_submit(struct store *s, struct store_pending *p)
{
    struct sqlite *q = s->member_state;
    pthread_mutex_lock(&q->lock);
    if (STAILQ_EMPTY(&q->queue))
        pthread_cond_signal(&q->wake);
    STAILQ_INSERT_TAIL(&q->queue, p, link);
    pthread_mutex_unlock(&q->lock);
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

static void sqlite_scrub(struct store *s)
{
    struct sqlite *q = s->member_state;
    pthread_mutex_lock(&q->lock);
    q->scrub_asked = true;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

static void db_close(struct sqlite *q)
{
    sqlite3_stmt *all[] = {q->insert, q->forget, q->set_meta, q->begin, q->commit, q->rollback, q->ballast, q->free_pages, q->all_pages, q->tidy};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        sqlite3_finalize(all[i]);
    sqlite3_close(q->db); /* writes the log back; if that fails, opening does */
    file_closep(&q->hold_fd);
    file_closep(&q->lock_fd);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    mem_free(q);
}

static void sqlite_close(struct store *s)
{
    struct sqlite *q = s->member_state;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    /* Batches that are on their way back arrive through the loop. */
    while (q->inflight > 0)
        loop_run_once(s->loop, 100);
    free_forgets(&q->forgets); /* best effort: loading finds them again */
    db_close(q);
}

static const struct store_member sqlite_member = {.submit = sqlite_submit, .forget = sqlite_forget, .scrub = sqlite_scrub, .close = sqlite_close};

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
static const char *const migrations[STORE_FORMAT_VERSION] = {
    "CREATE TABLE log (id INTEGER PRIMARY KEY, rev INTEGER NOT NULL, created INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
    " key BLOB NOT NULL, value BLOB) STRICT;"
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
    "", /* the same tables; but values may be sealed, which earlier programs would not notice */
};

static int check_version(struct sqlite *q, const char *path, struct err *err)
{
    int64_t version = 0;
    int rc = query_int(q, "PRAGMA user_version", &version, err);
    if (rc < 0)
        return rc;
    if (version < 0)
        return err_set(err, ERR_CORRUPT, "%s: format %lld", path, (long long)version);
    if (version > STORE_FORMAT_VERSION)
        return err_set(err, ERR_INVALID, "%s was written by a newer release (format %lld, this one knows %d)", path, (long long)version, STORE_FORMAT_VERSION);
    return 0;
}

static int migrate(struct sqlite *q, struct err *err)
{
    int64_t version = 0;
    int rc = query_int(q, "PRAGMA user_version", &version, err);
    for (; rc == 0 && version < STORE_FORMAT_VERSION; version++) {
        CLEANUP(mem_freep) char *sql = xasprintf("BEGIN; %s PRAGMA user_version = %lld; COMMIT;", migrations[version], (long long)version + 1);
        rc = exec(q, sql, err);
    }
    return rc;
}

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

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
        {&q->ballast, "INSERT OR REPLACE INTO log (id, rev, created, at_ms, key, value) VALUES (" STRINGIFY(PROBE_ROW) ", 0, 0, 0, x'', ?)"},
        {&q->free_pages, "PRAGMA freelist_count"},
        {&q->all_pages, "PRAGMA page_count"},
        {&q->tidy, "PRAGMA incremental_vacuum(" STRINGIFY(TIDY_PAGES) ")"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        int rc = sqlite3_prepare_v3(q->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].st, NULL);
        if (rc != SQLITE_OK)
            return sql_error(q, rc, err, "opening the store");
    }
    return 0;
}

static struct str column_str(sqlite3_stmt *st, int i)
{
    const void *bytes = sqlite3_column_blob(st, i);
    return bytes ? str_n(bytes, (size_t)sqlite3_column_bytes(st, i)) : STR("");
}

static int load_rows(struct sqlite *q, sqlite3_stmt *st, struct err *err)
{
    int rc, loaded = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && loaded == 0) {
        struct store_row r = {.id = sqlite3_column_int64(st, 0),
                              .rev = sqlite3_column_int64(st, 1),
                              .created_rev = sqlite3_column_int64(st, 2),
                              .at_ms = sqlite3_column_int64(st, 3),
                              .deleted = sqlite3_column_type(st, 5) == SQLITE_NULL,
                              .key = column_str(st, 4),
                              .value = column_str(st, 5)};
        loaded = store_load(q->store, &r, err);
    }
    if (loaded < 0)
        return loaded;
    return rc == SQLITE_DONE ? 0 : sql_error(q, rc, err, "reading the store");
}

static int load(struct sqlite *q, struct err *err)
{
    sqlite3_stmt *st = NULL;
    int64_t compacted = 0, newest_at_ms = 0;
    int rc;
    if ((rc = query_int(q, "SELECT value FROM meta WHERE name = 'compacted'", &compacted, err)) < 0 ||
        (rc = query_int(q, "SELECT at_ms FROM log ORDER BY id DESC LIMIT 1", &newest_at_ms, err)) < 0)
        return rc;
    if (compacted < 0 || newest_at_ms < 0 || newest_at_ms > AT_MS_MAX)
        return err_set(err, ERR_CORRUPT, "reading the store: impossible revision or time");
    store_load_begin(q->store, compacted, newest_at_ms);
    rc = sqlite3_prepare_v2(q->db, "SELECT id, rev, created, at_ms, key, value FROM log WHERE id != " STRINGIFY(PROBE_ROW) " ORDER BY id", -1, &st, NULL);
    rc = rc == SQLITE_OK ? load_rows(q, st, err) : sql_error(q, rc, err, "reading the store");
    sqlite3_finalize(st);
    return rc;
}

/* SQLite would let everybody read what it makes. */
static int make_private(const char *path, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? err_sys(err, errno, "%s", path) : 0;
}

/* What is in the log becomes durable before it is read; see above. Then a new log is begun: of the old one less may be on disk than was copied from it, and
 * replaying that after a power loss would undo a part. A full disk is no reason not to serve reads: the log is synced by then. */
static int settle_log(struct sqlite *q, struct err *err)
{
    struct err inner = ERR_INIT;
    sqlite3_wal_hook(q->db, on_wal, q);
    int rc = checkpoint(q, SQLITE_CHECKPOINT_TRUNCATE, &inner);
    int sql = rc == 0 ? scrub(q) : SQLITE_OK;
    if (sql != SQLITE_OK)
        rc = sql_error(q, sql, &inner, "beginning the store's log");
    if (rc == ERR_NO_SPACE) {
        set_trouble(q, &inner, 0);
        return 0;
    }
    if (rc < 0)
        *err = inner;
    return rc;
}

/* What a file must be told before it has its first page, and what would be a write to one that has. */
static int start_new(struct sqlite *q, struct err *err)
{
    int64_t count = 0;
    int rc = query_int(q, "PRAGMA page_count", &count, err);
    return rc < 0 || count > 0 ? rc : exec(q, "PRAGMA auto_vacuum = INCREMENTAL", err);
}

static int open_db(struct sqlite *q, const struct store_options *o, struct err *err)
{
    CLEANUP(mem_freep) char *lock_path = xasprintf("%s.lock", o->path);
    int rc = file_lock(lock_path, &q->lock_fd, err);
    if (rc == ERR_BUSY)
        return err_set(err, ERR_BUSY, "%s is in use by another process", o->path);
    if (rc < 0 || (rc = make_private(o->path, err)) < 0)
        return rc;
    q->hold_fd = store_hold_open(o->path); /* without it nothing is put off, and a copier notices that */
    rc = sqlite3_open_v2(o->path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, o->vfs);
    if (rc != SQLITE_OK)
        return sql_error(q, rc, err, o->path);
    /* EXCLUSIVE: one process, no shared memory file. A small page cache: reads come from the index. */
    if ((rc = exec(q, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -1024; PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON;", err)) < 0 ||
        (rc = check_version(q, o->path, err)) < 0 || (rc = start_new(q, err)) < 0 ||
        (rc = exec(q, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;", err)) < 0 ||
        (rc = migrate(q, err)) < 0 || (rc = prepare(q, err)) < 0)
        return rc;
    return settle_log(q, err);
}

static struct sqlite *sqlite_new(void)
{
    struct sqlite *q = XNEW(struct sqlite);
    q->lock_fd = q->hold_fd = -1;
    STAILQ_INIT(&q->queue);
    STAILQ_INIT(&q->forgets);
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
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
    q->journal = o->journal;
    struct store *s = q->store = store_new(l, o, &unstarted_member, q);
    struct err started_with = q->trouble; /* the writer's, from its start */
    rc = load(q, err);
    if (rc == 0 && pthread_create(&q->thread, NULL, writer_main, q) != 0)
        rc = err_set(err, ERR_NO_MEMORY, "cannot start the store's writer");
    if (rc < 0) {
        store_close(s);
        return rc;
    }
    s->member = &sqlite_member;
    s->health = started_with;
    store_load_end(s);
    *ret = s;
    return 0;
}
