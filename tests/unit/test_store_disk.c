/* What a disk keeps, and what the store does when it keeps it badly: reopening, kills, power loss, torn writes, failing
 * syncs, a full disk, files that are no store. */
#include "store_env.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "store_disk.h"

static struct store_env env;
static unsigned seed;

static unsigned next_random(unsigned *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 16;
}

static int setup_file(void **state)
{
    (void)state;
    env_init(&env);
    env.open = store_open_sqlite;
    env_open(&env);
    return 0;
}

static int setup_disk(void **state)
{
    (void)state;
    disk_reset();
    seed = 1;
    env_init(&env);
    env.open = store_open_sqlite;
    env.options.vfs = DISK_VFS;
    env_open(&env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_test_clear();
    env_deinit(&env);
    return 0;
}

static int teardown_disk(void **state)
{
    teardown(state);
    disk_reset();
    return 0;
}

static void reopen(void)
{
    env_close(&env);
    env_open(&env);
}

static void kill_and_reopen(void)
{
    disk_down();
    env_close(&env);
    disk_up_after_kill();
    env_open(&env);
}

static void power_loss_and_reopen(unsigned keep_percent)
{
    disk_down();
    env_close(&env);
    disk_up_after_power_loss(keep_percent, next_random, &seed);
    env_open(&env);
}

static bool count_only(void *arg UNUSED, struct store_value *v UNUSED)
{
    return true;
}
static void on_event_count(void *arg, const struct store_event *e UNUSED)
{
    ++*(int *)arg;
}

/* ---- reopening ---- */

static void created_revisions_and_tombstones_survive(void **state)
{
    (void)state;
    assert_int_equal(env_put(&env, "a", "1", 0), 1);
    assert_int_equal(env_put(&env, "a", "2", 1), 2);
    assert_int_equal(env_put(&env, "b", "", 0), 3);
    assert_int_equal(env_put(&env, "c", "1", 0), 4);
    assert_int_equal(env_delete(&env, "c", 4), 5);
    reopen();
    assert_int_equal(store_get(env.store, STR("a"))->created_rev, 1);
    assert_int_equal(store_get(env.store, STR("a"))->rev, 2);
    assert_value(store_get(env.store, STR("b")), "");
    assert_null(store_get(env.store, STR("c")));
    /* The last revision is a deletion whose rows are forgotten: the count goes on from it all the same. */
    store_compact(env.store, 5);
    assert_int_equal(env_put(&env, "d", "1", 0), 6);
    assert_int_equal(env_delete(&env, "d", 6), 7);
    store_compact(env.store, 7);
    assert_int_equal(env_put(&env, "e", "1", 0), 8);
    reopen();
    assert_int_equal(store_rev(env.store), 8);
    assert_int_equal(store_count(env.store, STR("")), 3);
    assert_null(store_get(env.store, STR("c")));
    assert_null(store_get(env.store, STR("d")));
}

/* Objects that were not written for long have old revisions; their rows are no history, and dropping them as such must
 * not make revisions readable again that are gone. */
static void what_is_compacted_stays_compacted(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    env_close(&env);
    env.options.retain_ms = 1000;
    clock_test_set(1000000, 1700000000000);
    env_open(&env);
    assert_int_equal(env_put(&env, "old", "1", 0), 1);
    assert_int_equal(env_put(&env, "older", "1", 0), 2);
    assert_int_equal(env_put(&env, "gone", "1", 0), 3);
    assert_int_equal(env_delete(&env, "gone", 3), 4);
    assert_int_equal(env_put(&env, "older", "2", 2), 5);
    store_compact(env.store, 5);
    assert_int_equal(env_put(&env, "new", "1", 0), 6); /* behind the rows that are forgotten */
    reopen();
    assert_int_equal(store_first_rev(env.store), 5);
    clock_test_advance(500);
    assert_int_equal(env_put(&env, "new", "2", 6), 7);
    clock_test_advance(700); /* 6 is past its time, 7 is not */
    RUN_UNTIL(env.loop, store_first_rev(env.store) != 5);
    assert_int_equal(store_first_rev(env.store), 6);
    ASSERT_ERR(store_range(env.store, STR(""), STR(""), 3, 0, count_only, NULL, &err), ERR_GONE);
    reopen();
    assert_true(store_first_rev(env.store) >= 5);
    ASSERT_ERR(store_range(env.store, STR(""), STR(""), 3, 0, count_only, NULL, &err), ERR_GONE);
    assert_int_equal(store_count(env.store, STR("")), 3);
    /* And watches start where reads may start: none gets versions that were never news to it. */
    int events = 0;
    struct store_watch *w;
    ASSERT_OK(store_watch(env.store, STR(""), 6, on_event_count, &events, &w, &err));
    assert_int_equal(env_put(&env, "last", "1", 0), 8);
    RUN_UNTIL(env.loop, events >= 2);
    assert_int_equal(events, 2);
    store_watch_stop(w);
}

/* The wall clock may say what it likes, while the store runs and while it does not: history is aged by time that passed. */
static void clock_jumps_take_no_history(void **state)
{
    (void)state;
    const int64_t day_ms = 86400000, began = 1700000000000;
    env_close(&env);
    env.options.retain_ms = 10000;
    clock_test_set(1000000, began);
    env_open(&env);
    assert_int_equal(env_put(&env, "a", "1", 0), 1);
    clock_test_set(1001000, began + 400 * day_ms); /* while it runs: a second later */
    assert_int_equal(env_put(&env, "a", "2", 1), 2);
    env_close(&env);
    clock_test_set(500000, began - 400 * day_ms); /* the machine booted, with a clock that has lost its battery */
    env_open(&env);
    clock_test_advance(1500);
    for (int i = 0; i < 5; i++)
        loop_run_once(env.loop, 0);
    assert_int_equal(store_first_rev(env.store), 0);
    assert_int_equal(env_put(&env, "a", "3", 2), 3);
    clock_test_set(600000, began + 800 * day_ms);
    reopen();
    clock_test_advance(1500);
    for (int i = 0; i < 5; i++)
        loop_run_once(env.loop, 0);
    assert_int_equal(store_first_rev(env.store), 0);
    clock_test_advance(7500); /* 1 and 2 are 10.5 s and more old: 1.5 s before the last write, 9 s since */
    RUN_UNTIL(env.loop, store_first_rev(env.store) > 0);
    assert_true(store_first_rev(env.store) >= 1 && store_first_rev(env.store) <= 2);
    clock_test_advance(2000);
    RUN_UNTIL(env.loop, store_first_rev(env.store) == 3);
}

/* ---- kills and power loss ---- */

static void acknowledged_writes_survive_power_loss(void **state)
{
    (void)state;
    char key[16];
    for (int round = 0; round < 20; round++) {
        snprintf(key, sizeof(key), "k/%d", round);
        int64_t rev = env_put(&env, key, "kept", 0);
        assert_true(rev > 0);
        struct ack lost = {0};
        struct store_op op = op_put("unanswered", key, -1);
        ASSERT_ERR(store_txn(env.store, &op, 1, on_ack, &lost, NULL), 0);
        power_loss_and_reopen((unsigned)round % 5 * 25);
        assert_true(store_rev(env.store) >= rev);
        for (int i = 0; i <= round; i++) {
            snprintf(key, sizeof(key), "k/%d", i);
            assert_value(store_get(env.store, str_of(key)), "kept");
        }
    }
}

/* A killed process leaves writes in the page cache that were never synced. Once somebody has read them they must last. */
static void what_was_read_after_a_kill_survives_power_loss(void **state)
{
    (void)state;
    for (int round = 1; round <= 30; round++) {
        struct ack a = {0};
        struct store_op op = op_put("a", "x", -1);
        assert_int_equal(env_put(&env, "b", "x", -1), 2 * round - 1); /* the log has begun: the next sync is of a transaction */
        DISK_SET(dies_at_sync, true);
        ASSERT_ERR(store_txn(env.store, &op, 1, on_ack, &a, NULL), 0);
        RUN_UNTIL(env.loop, a.done);
        assert_int_equal(a.code, ERR_IO);
        env_close(&env);
        disk_up_after_kill();
        env_open(&env);
        assert_int_equal(store_rev(env.store), 2 * round); /* nobody was told that it failed: its process was dead */
        power_loss_and_reopen(0);
        assert_int_equal(store_rev(env.store), 2 * round);
        assert_int_equal(store_get(env.store, STR("a"))->rev, 2 * round);
    }
}

/* A torn write in the middle of the log: what was acknowledged before it is there, what came with it is not half there. */
static void torn_writes_do_not_tear_transactions(void **state)
{
    (void)state;
    static char big[20000];
    memset(big, 'b', sizeof(big) - 1);
    for (int round = 0; round < 40; round++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", round);
        const struct store_op ops[] = {op_put("first", text, -1), op_put("big", big, -1), op_put("last", text, -1)};
        struct ack a = {0};
        ASSERT_ERR(store_txn(env.store, ops, 3, on_ack, &a, NULL), 0);
        if (round % 2)
            RUN_UNTIL(env.loop, a.done);
        power_loss_and_reopen(50);
        struct store_value *first = store_get(env.store, STR("first")), *last = store_get(env.store, STR("last"));
        assert_int_equal(first != NULL, last != NULL);
        if (round % 2)
            assert_value(first, text);
        if (first)
            assert_true(str_eq(first->value, last->value) && first->rev == last->rev);
    }
}

/* ---- failing syncs ---- */

static void a_failed_sync_is_a_failed_write(void **state)
{
    (void)state;
    assert_int_equal(env_put(&env, "a", "kept", 0), 1);
    DISK_SET(sync_fails_after, 0);
    assert_int_equal(env_put(&env, "a", "lost", 1), ERR_IO);
    assert_value(store_get(env.store, STR("a")), "kept");
    assert_value(store_get_pending(env.store, STR("a")), "kept");
    /* Its frames lay whole in the log: neither a kill nor a power loss brings them back. */
    kill_and_reopen();
    assert_value(store_get(env.store, STR("a")), "kept");
    assert_int_equal(store_rev(env.store), 1);
    DISK_SET(sync_fails_after, 0);
    assert_int_equal(env_put(&env, "a", "lost", 1), ERR_IO);
    assert_int_equal(env_put(&env, "a", "next", 1), 2);
    power_loss_and_reopen(0);
    assert_value(store_get(env.store, STR("a")), "next");
    assert_int_equal(store_get(env.store, STR("a"))->rev, 2);
}

static void syncs_that_keep_failing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ack acks[10] = {0};
    assert_int_equal(env_put(&env, "a", "kept", 0), 1);
    DISK_SET(sync_fails, true);
    for (int i = 0; i < 10; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k/%d", i);
        const struct store_op ops[] = {op_put(key, "x", 0), op_put("a", "lost", -1)};
        ASSERT_OK(store_txn(env.store, ops, 2, on_ack, &acks[i], &err));
    }
    for (int i = 0; i < 10; i++) {
        RUN_UNTIL(env.loop, acks[i].done);
        assert_int_equal(acks[i].code, ERR_IO);
    }
    ASSERT_ERR(store_health(env.store, &err), ERR_IO);
    assert_value(store_get(env.store, STR("a")), "kept");
    assert_int_equal(store_count(env.store, STR("")), 1);
    assert_int_equal(store_rev(env.store), 1);
    disk_down(); /* and there it stays: a store that cannot be made durable does not open */
    env_close(&env);
    disk_up_after_kill();
    ASSERT_ERR(store_open_sqlite(env.loop, &env.options, &env.store, &err), ERR_IO);
    env.store = NULL;
    DISK_SET(sync_fails, false);
    env_open(&env);
    assert_value(store_get(env.store, STR("a")), "kept");
    assert_int_equal(store_count(env.store, STR("")), 1);
    assert_int_equal(env_put(&env, "a", "on", 1), 2);
}

/* A checkpoint whose sync fails: the log is what counts, and it must not be thrown away. */
static void a_failed_checkpoint_loses_nothing(void **state)
{
    (void)state;
    static char big[1024 * 1024];
    char key[16];
    memset(big, 'b', sizeof(big) - 1);
    for (int i = 0; i < 12; i++) { /* 4,000 pages are 16 MB; a commit syncs once, a checkpoint three times */
        snprintf(key, sizeof(key), "k/%d", i);
        assert_int_equal(env_put(&env, key, big, 0), i + 1);
    }
    DISK_SET(sync_fails_after, 6);
    int64_t kept = 12;
    for (int i = 12; i < 24; i++) {
        snprintf(key, sizeof(key), "k/%d", i);
        kept += env_put(&env, key, big, 0) > 0;
    }
    assert_true(kept >= 22);
    power_loss_and_reopen(30);
    assert_int_equal(store_count(env.store, STR("")), kept);
    assert_int_equal(store_rev(env.store), kept);
}

/* ---- a full disk ---- */

static void a_full_disk_refuses_writes_and_recovers(void **state)
{
    (void)state;
    static char big[256 * 1024];
    struct err err = ERR_INIT;
    memset(big, 'b', sizeof(big) - 1);
    DISK_SET(capacity, 3 * 1024 * 1024);
    int64_t written = 0, rc;
    char key[16];
    for (;; written++) {
        snprintf(key, sizeof(key), "k/%d", (int)written);
        if ((rc = env_put(&env, key, big, 0)) < 0)
            break;
        assert_true(written < 20);
    }
    assert_int_equal(rc, ERR_NO_SPACE);
    assert_true(written >= 3);
    ASSERT_ERR(store_health(env.store, &err), ERR_NO_SPACE);
    /* Reads go on, nothing half, and a small write that fits does not make the disk look well. */
    assert_int_equal(store_count(env.store, STR("k/")), written);
    assert_int_equal(store_rev(env.store), written);
    uint64_t until = real_ms() + 2500; /* two looks at the disk */
    while (real_ms() < until) {
        loop_run_once(env.loop, 50);
        ASSERT_ERR(store_health(env.store, &err), ERR_NO_SPACE);
    }
    /* Also after a restart with the disk still full. */
    kill_and_reopen();
    assert_int_equal(store_count(env.store, STR("k/")), written);
    /* Space again: it finds out by itself. */
    if (!store_health(env.store, &err))
        assert_int_equal(env_put(&env, "again", big, -1), ERR_NO_SPACE);
    DISK_SET(capacity, 0);
    RUN_UNTIL(env.loop, store_health(env.store, &err) == 0);
    assert_int_equal(env_put(&env, key, big, 0), written + 1);
    power_loss_and_reopen(0);
    assert_int_equal(store_count(env.store, STR("k/")), written + 1);
}

/* Forgetting history fails on a full disk too: that is tried again, not all the time, and is nobody's failed write. */
static void forgetting_waits_for_space(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct store_stats st;
    static char big[256 * 1024];
    memset(big, 'b', sizeof(big) - 1);
    for (int i = 1; i <= 8; i++)
        assert_int_equal(env_put(&env, "a", big, -1), i);
    DISK_SET(write_fails, true);
    store_compact(env.store, 8);
    RUN_UNTIL(env.loop, store_health(env.store, &err) == ERR_IO);
    assert_int_equal(store_rev(env.store), 8);
    DISK_SET(write_fails, false);
    RUN_UNTIL(env.loop, store_health(env.store, &err) == 0);
    assert_int_equal(env_put(&env, "b", "x", 0), 9);
    reopen();
    store_get_stats(env.store, &st);
    assert_int_equal(st.history_versions, 1); /* 9; the rest is forgotten on disk */
    assert_int_equal(store_first_rev(env.store), 8);
}

/* ---- size ---- */

/* Space of what is gone is used again, and given back when it is much. */
static void the_file_shrinks(void **state)
{
    (void)state;
    static char big[64 * 1024];
    struct stat st;
    char key[16];
    memset(big, 'b', sizeof(big) - 1);
    for (int i = 1; i <= 400; i++) {
        struct ack a = {0};
        snprintf(key, sizeof(key), "k/%d", i % 40);
        struct store_op op = op_put(key, big, -1);
        ASSERT_ERR(store_txn(env.store, &op, 1, on_ack, &a, NULL), 0);
        RUN_UNTIL(env.loop, a.done);
        if (i == 200)
            store_compact(env.store, 200);
    }
    env_close(&env);
    assert_int_equal(stat(env.path, &st), 0);
    off_t grown = st.st_size;
    assert_true(grown < 30 * 1024 * 1024); /* 400 would be 26 MB, and what 200 left was used again */
    env_open(&env);
    store_compact(env.store, 400);
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof(key), "k/%d", i);
        assert_true(env_delete(&env, key, -1) > 0);
    }
    store_compact(env.store, 440);
    assert_int_equal(env_put(&env, "last", "x", 0), 441);
    RUN_UNTIL(env.loop, (stat(env.path, &st), st.st_size < 8 * 1024 * 1024));
    assert_int_equal(store_count(env.store, STR("")), 1);
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", env.path);
    assert_int_equal(stat(wal, &st), 0);
    assert_true(st.st_size <= 70 * 1024 * 1024);
    assert_int_equal(st.st_mode & 077, 0); /* secrets are in there */
}

/* ---- files that are no store ---- */

static void damage(off_t at, const void *bytes, size_t len)
{
    FILE *f = fopen(env.path, "r+e");
    assert_non_null(f);
    assert_int_equal(fseeko(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void assert_opens(int want)
{
    struct err err = ERR_INIT;
    struct store *s = NULL;
    int rc = store_open_sqlite(env.loop, &env.options, &s, &err);
    if (rc != want)
        fail_msg("%d instead of %d: %s", rc, want, err.msg);
    assert_true(rc == 0 || strstr(err.msg, "store") || strstr(err.msg, env.path));
    if (s)
        store_close(s);
}

static void run_sql(const char *sql)
{
    sqlite3 *db;
    char *message = NULL;
    assert_int_equal(sqlite3_open(env.path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_close(db);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    char rows[4096 * 4];
    memset(rows, 'z', sizeof(rows));
    for (int i = 0; i < 300; i++)
        assert_true(env_put(&env, "k", "some value of some length, so that there are a few pages of them", -1) > 0);
    env_close(&env);
    assert_opens(0);
    /* A newer one: refused, and left as it is. */
    run_sql("PRAGMA user_version = 3");
    char *before, *after;
    size_t before_len, after_len;
    struct err err = ERR_INIT;
    ASSERT_OK(file_read(env.path, 1 << 24, &before, &before_len, &err));
    assert_opens(ERR_INVALID);
    ASSERT_OK(file_read(env.path, 1 << 24, &after, &after_len, &err));
    assert_true(str_eq(str_n(before, before_len), str_n(after, after_len)));
    run_sql("PRAGMA user_version = -7");
    assert_opens(ERR_CORRUPT);
    run_sql("PRAGMA user_version = 1");
    assert_opens(0);
    mem_free(before);
    mem_free(after);
    /* Rows that make no sense. */
    static const char *const rows_sql[] = {
        "INSERT INTO log VALUES (1000, 5, 5, 0, x'6b', x'76')",      /* the revision goes back */
        "INSERT INTO log VALUES (1000, 5000, 6000, 0, x'6b', x'76')", /* made after it was written */
        "INSERT INTO log VALUES (1000, 5000, 5000, 0, x'', x'76')",
        "INSERT INTO log VALUES (1000, 5000, 5000, -5, x'6b', x'76')",
        "INSERT INTO log VALUES (1000, -1, 1, 0, x'6b', x'76')",
        "INSERT INTO log VALUES (1000, 5000, 5000, 0, x'6b', x'76'), (1001, 5000, 5000, 0, x'6b', x'76')",
        "INSERT OR REPLACE INTO meta VALUES ('compacted', -4)",
    };
    for (size_t i = 0; i < ARRAY_LEN(rows_sql); i++) {
        run_sql(rows_sql[i]);
        assert_opens(ERR_CORRUPT);
        run_sql("DELETE FROM log WHERE id >= 1000; DELETE FROM meta WHERE name = 'compacted'");
        assert_opens(0);
    }
    run_sql("ALTER TABLE log RENAME TO gol");
    assert_opens(ERR_CORRUPT);
    run_sql("ALTER TABLE gol RENAME TO log");
    assert_opens(0);
    /* Bytes that make no sense. */
    damage(8192, rows, sizeof(rows));
    assert_opens(ERR_CORRUPT);
    assert_int_equal(truncate(env.path, 5000), 0);
    assert_opens(ERR_CORRUPT);
    damage(0, "not a database at all", 21);
    assert_opens(ERR_CORRUPT);
}

static void one_process_at_a_time(void **state)
{
    (void)state;
    assert_opens(ERR_BUSY);
    assert_int_equal(env_put(&env, "a", "1", 0), 1);
    env_close(&env);
    assert_opens(0);
}

#define DISK(test) {#test, test, setup_disk, teardown_disk, NULL}
#define FILES(test) {#test, test, setup_file, teardown, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILES(created_revisions_and_tombstones_survive),
        FILES(what_is_compacted_stays_compacted),
        FILES(clock_jumps_take_no_history),
        DISK(acknowledged_writes_survive_power_loss),
        DISK(what_was_read_after_a_kill_survives_power_loss),
        DISK(torn_writes_do_not_tear_transactions),
        DISK(a_failed_sync_is_a_failed_write),
        DISK(syncs_that_keep_failing),
        DISK(a_failed_checkpoint_loses_nothing),
        DISK(a_full_disk_refuses_writes_and_recovers),
        DISK(forgetting_waits_for_space),
        FILES(the_file_shrinks),
        FILES(other_files_are_refused),
        FILES(one_process_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
