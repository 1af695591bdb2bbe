/* The way back from an upgrade: what is kept, when, and what undoing it leaves. */
#include "unit.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/rollback.h"
#include "base/mem.h"
#include "ledger/ledger.h"
#include "store_env.h"

#define SPARE 1024

static bool is_there(const struct store_env *e, const char *name)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", e->dir, name);
    return file_exists(path);
}

/* As an earlier release would leave it. */
static void set_format(const struct store_env *e, const char *name, int format)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", e->dir, name), *sql = xasprintf("PRAGMA user_version = %d", format);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static int format_of(const struct store_env *e, const char *name)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", e->dir, name);
    struct err err = ERR_INIT;
    int format;
    ASSERT_OK(store_format(path, &format, &err));
    return format;
}

/* A store of format 1 with revision 1. */
static void begin(struct store_env *e)
{
    struct err err = ERR_INIT;
    env_init(e);
    e->open = store_open_sqlite;
    CLEANUP(mem_freep) char *ledger = xasprintf("%s/ledger", e->dir);
    ASSERT_OK(file_mkdirs(ledger, 0700, &err));
    env_open(e);
    assert_int_equal(env_put(e, "k/old", "v", 0), 1);
    env_close(e);
    set_format(e, "seki.db", 1);
}

static struct rollback keep(struct store_env *e)
{
    struct rollback r;
    struct err err = ERR_INIT;
    ASSERT_OK(rollback_keep(e->dir, SPARE, &r, &err));
    return r;
}

static void a_copy_is_kept_of_an_older_format_alone(void **state)
{
    (void)state;
    struct store_env e;
    struct err err = ERR_INIT;
    struct rollback r;
    env_init(&e);
    e.open = store_open_sqlite;
    assert_int_equal(keep(&e).kept_ms, 0); /* there is no store */
    env_open(&e);
    env_close(&e);
    assert_int_equal(keep(&e).kept_ms, 0);
    assert_false(is_there(&e, ROLLBACK_DIR));
    assert_int_equal(rollback_look(e.dir, &r, &err), ERR_NOT_FOUND);
    set_format(&e, "seki.db", 1);
    r = keep(&e);
    assert_true(r.kept_ms > 0);
    assert_int_equal(r.copy.format, 1);
    assert_int_equal(format_of(&e, "rollback/seki.db"), 1);
    env_open(&e); /* upgrades it */
    env_close(&e);
    assert_int_equal(format_of(&e, "seki.db"), STORE_FORMAT_VERSION);
    assert_int_equal(keep(&e).kept_ms, 0);
    assert_int_equal(format_of(&e, "rollback/seki.db"), 1);
    env_deinit(&e);
}

/* Whoever repeats it, or comes after a colleague, is not sent to the backups. */
static void once_done_it_says_so(void **state)
{
    (void)state;
    struct store_env e;
    struct rollback_done d;
    struct rollback r;
    struct err err = ERR_INIT;
    begin(&e);
    keep(&e);
    env_open(&e);
    env_close(&e);
    ASSERT_OK(rollback_undo(e.dir, "me", &d, &err));
    assert_int_equal(rollback_undo(e.dir, "me", &d, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "rolled back already"));
    assert_int_equal(rollback_look(e.dir, &r, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "rolled back already"));
    env_open(&e);
    env_close(&e);
    assert_int_equal(rollback_look(e.dir, &r, &err), ERR_NOT_FOUND); /* upgraded again, without keeping */
    assert_null(strstr(err.msg, "rolled back already"));
    env_deinit(&e);
}

/* An upgrade that was given up, and a second one later: what is kept is of the second. */
static void a_later_upgrade_replaces_it(void **state)
{
    (void)state;
    struct store_env e;
    begin(&e);
    assert_int_equal(keep(&e).copy.rev, 1);
    env_open(&e);
    assert_int_equal(env_put(&e, "k/two", "v", 0), 2);
    env_close(&e);
    set_format(&e, "seki.db", 1);
    assert_int_equal(keep(&e).copy.rev, 2);
    env_deinit(&e);
}

/* What a killed program left stands in its log: that belongs to the copy, and may even be a later format. */
static void the_log_counts(void **state)
{
    (void)state;
    struct store_env e;
    struct err err = ERR_INIT;
    struct rollback r;
    char *log = NULL;
    size_t len;
    begin(&e);
    CLEANUP(mem_freep) char *wal = xasprintf("%s-wal", e.path), *saved = xasprintf("%s/saved", e.dir), *db = NULL;
    ASSERT_OK(file_read(e.path, 1 << 20, &db, &len, &err));
    CLEANUP(sbuf_deinit) struct sbuf before = {0};
    sbuf_init(&before, 1 << 20);
    sbuf_add(&before, str_n(db, len));
    env_open(&e);
    assert_int_equal(env_put(&e, "k/two", "v", 0), 2);
    ASSERT_OK(file_read(wal, 1 << 20, &log, &len, &err));
    ASSERT_OK(file_write(saved, str_n(log, len), 0600, &err));
    mem_free(log);
    env_close(&e);
    ASSERT_OK(file_write(e.path, sbuf_str(&before), 0600, &err));
    assert_int_equal(rename(saved, wal), 0);
    ASSERT_OK(rollback_keep(e.dir, SPARE, &r, &err));
    assert_true(r.kept_ms == 0 || r.copy.rev == 2);
    env_open(&e);
    assert_int_equal(store_rev(e.store), 2);
    env_deinit(&e);
}

static void without_space_nothing_is_changed(void **state)
{
    (void)state;
    struct store_env e;
    struct rollback r;
    struct err err = ERR_INIT;
    begin(&e);
    assert_int_equal(rollback_keep(e.dir, UINT64_MAX / 4, &r, &err), ERR_NO_SPACE);
    assert_non_null(strstr(err.msg, "nothing was changed"));
    assert_false(is_there(&e, "rollback/seki.db"));
    assert_false(is_there(&e, "rollback/part.db"));
    assert_int_equal(format_of(&e, "seki.db"), 1);
    env_deinit(&e);
}

static void a_store_in_use_is_left_alone(void **state)
{
    (void)state;
    struct store_env e;
    struct rollback r;
    struct rollback_done d;
    struct err err = ERR_INIT;
    begin(&e);
    keep(&e);
    env_open(&e);
    assert_int_equal(rollback_undo(e.dir, "me", &d, &err), ERR_BUSY);
    env_close(&e);
    set_format(&e, "seki.db", 1);
    int lock;
    CLEANUP(mem_freep) char *path = xasprintf("%s.lock", e.path);
    ASSERT_OK(file_lock(path, &lock, &err));
    assert_int_equal(rollback_keep(e.dir, SPARE, &r, &err), ERR_BUSY);
    file_closep(&lock);
    assert_int_equal(rollback_undo(e.dir, "me", &d, &err), ERR_CONFLICT); /* it has the copy's format */
    env_deinit(&e);
}

static void undoing_goes_on_behind_both_lives(void **state)
{
    (void)state;
    struct store_env e;
    struct rollback_done d;
    struct err err = ERR_INIT;
    uint64_t records;
    begin(&e);
    keep(&e);
    env_open(&e);
    assert_int_equal(env_put(&e, "k/new", "v", 0), 2);
    env_close(&e);
    CLEANUP(mem_freep) char *ledger = xasprintf("%s/ledger", e.dir), *replaced = xasprintf("%s/rollback/replaced.db", e.dir);
    ASSERT_OK(rollback_undo(e.dir, "me", &d, &err));
    assert_int_equal(d.lost, 1);
    assert_int_equal(format_of(&e, "seki.db"), 1);
    assert_int_equal(format_of(&e, "rollback/replaced.db"), STORE_FORMAT_VERSION);
    assert_false(is_there(&e, "rollback/seki.db"));
    ASSERT_OK(ledger_verify(ledger, "audit", &records, &err));
    assert_int_equal(records, 1);
    env_open(&e);
    assert_true(store_rev(e.store) >= d.next_rev && d.next_rev > 1000000000);
    assert_non_null(store_get(e.store, STR("k/old")));
    assert_null(store_get(e.store, STR("k/new")));
    env_close(&e);
    /* A store that cannot be read is a reason to go back. */
    set_format(&e, "seki.db", 1);
    keep(&e);
    ASSERT_OK(file_write(e.path, STR("SQLite format 3"), 0600, &err));
    ASSERT_OK(rollback_undo(e.dir, "me", &d, &err));
    assert_int_equal(d.lost, -1);
    env_open(&e);
    assert_non_null(store_get(e.store, STR("k/old")));
    env_deinit(&e);
}

static void what_was_kept_is_overwritten(void **state)
{
    (void)state;
    struct store_env e;
    struct err err = ERR_INIT;
    bool gone;
    begin(&e);
    keep(&e);
    CLEANUP(mem_freep) char *kept = xasprintf("%s/rollback/seki.db", e.dir), *second = xasprintf("%s/second", e.dir), *text = NULL, *other = xasprintf("%s/rollback/replaced.db", e.dir);
    size_t len;
    ASSERT_OK(rollback_expire(e.dir, 3600 * 1000, &gone, &err));
    assert_false(gone);
    FILE *f = fopen(kept, "rb"); /* a hand on what is deleted */
    assert_non_null(f);
    assert_int_equal(link(e.path, other), 0); /* a rollback that was killed: this is the store */
    ASSERT_OK(rollback_finish(e.dir, &err));
    assert_false(is_there(&e, ROLLBACK_DIR));
    for (int c; (c = fgetc(f)) != EOF;)
        assert_int_equal(c, 0);
    fclose(f);
    ASSERT_OK(file_read(e.path, 1 << 20, &text, &len, &err));
    assert_memory_equal(text, "SQLite format 3", 15);
    ASSERT_OK(rollback_finish(e.dir, &err));
    ASSERT_OK(rollback_expire(e.dir, 0, &gone, &err));
    assert_false(gone);
    keep(&e);
    ASSERT_OK(rollback_expire(e.dir, 0, &gone, &err));
    assert_true(gone);
    env_deinit(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_is_kept_of_an_older_format_alone),
        cmocka_unit_test(once_done_it_says_so),
        cmocka_unit_test(a_later_upgrade_replaces_it),
        cmocka_unit_test(the_log_counts),
        cmocka_unit_test(without_space_nothing_is_changed),
        cmocka_unit_test(a_store_in_use_is_left_alone),
        cmocka_unit_test(undoing_goes_on_behind_both_lives),
        cmocka_unit_test(what_was_kept_is_overwritten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
