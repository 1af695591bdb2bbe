/* Copies of a store that is written meanwhile: whole, as of one revision, with all that was answered before; and what becomes of revisions when one is put back. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "store/copy.h"
#include "store_env.h"

struct copy {
    char to[128];
    struct store_copy_info info;
};

static void take(struct store_env *e, struct copy *c, const struct store_copy_progress *progress)
{
    struct err err = ERR_INIT;
    snprintf(c->to, sizeof(c->to), "%s/copy.db", e->dir);
    ASSERT_OK(store_copy(e->path, c->to, progress, &c->info, &err));
}

/* Opens the copy in place of the store. */
static void open_copy(struct store_env *e, const struct copy *c)
{
    env_close(e);
    e->options.path = c->to;
    env_open(e);
}

static void start(struct store_env *e)
{
    env_init(e);
    e->open = store_open_sqlite;
    env_open(e);
}

static void test_a_running_store_is_copied(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    struct stat st;
    start(&e);
    for (int i = 0; i < 50; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k/%d", i);
        assert_int_equal(env_put(&e, key, "v", 0), i + 1);
    }
    assert_int_equal(env_delete(&e, "k/0", -1), 51);
    take(&e, &c, NULL);
    assert_int_equal(env_put(&e, "k/later", "v", 0), 52);
    assert_int_equal(c.info.rev, 51);
    assert_int_equal(c.info.objects, 49);
    assert_int_equal(stat(c.to, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    open_copy(&e, &c);
    assert_int_equal(store_rev(e.store), 51);
    assert_int_equal(store_count(e.store, STR("k/")), 49);
    assert_null(store_get(e.store, STR("k/later")));
    env_deinit(&e);
}

/* Between two pieces of the database the store goes on writing, far beyond what makes it write its log back. */
struct busy {
    struct store_env *e;
    int rounds, pieces, attempts;
    uint64_t done;
    const char *big;
    int64_t last_rev;
};
static void write_meanwhile(void *arg, uint64_t done, uint64_t total)
{
    struct busy *b = arg;
    char key[32];
    assert_true(done <= total);
    b->pieces++;
    b->attempts += done < b->done || b->pieces == 1;
    b->done = done;
    for (int i = 0; i < b->rounds; i++) {
        snprintf(key, sizeof(key), "busy/%d/%d", b->pieces, i);
        b->last_rev = env_put(b->e, key, b->big, 0);
        assert_true(b->last_rev > 0);
    }
}

static void test_a_copy_is_whole_while_the_store_is_written(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    static char big[256 * 1024];
    memset(big, 'b', sizeof(big) - 1);
    start(&e);
    for (int i = 0; i < 12; i++) { /* several pieces */
        char key[32];
        snprintf(key, sizeof(key), "base/%d", i);
        assert_true(env_put(&e, key, big, 0) > 0);
    }
    env_close(&e); /* all is in the database */
    env_open(&e);
    struct busy b = {.e = &e, .rounds = 50, .big = big};
    take(&e, &c, &(struct store_copy_progress){write_meanwhile, &b});
    assert_true(b.pieces >= 4 && b.pieces < 200);
    assert_int_equal(b.attempts, 1); /* the store held its log */
    assert_true(c.info.rev >= 12 + 50); /* what was answered before the log was read is in it */
    int64_t rev = c.info.rev;
    open_copy(&e, &c);
    assert_int_equal(store_rev(e.store), rev);
    assert_int_equal(store_count(e.store, STR("base/")), 12);
    assert_int_equal(store_count(e.store, STR("busy/")), rev - 12);
    env_deinit(&e);
}

/* Without the hold the log is begun anew: noticed, and copied again. */
static void reopen(void *arg, uint64_t done UNUSED, uint64_t total UNUSED)
{
    struct busy *b = arg;
    if (b->pieces++ >= b->rounds)
        return;
    env_close(b->e);
    env_open(b->e);
    b->last_rev = env_put(b->e, "reopened", "v", -1);
}

static void test_a_store_that_is_opened_anew_meanwhile(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    struct err err = ERR_INIT;
    start(&e);
    assert_int_equal(env_put(&e, "a", "1", 0), 1);
    struct busy b = {.e = &e, .rounds = 3};
    take(&e, &c, &(struct store_copy_progress){reopen, &b});
    assert_int_equal(c.info.rev, b.last_rev);
    unlink(c.to);
    b = (struct busy){.e = &e, .rounds = 1000};
    ASSERT_ERR(store_copy(e.path, c.to, &(struct store_copy_progress){reopen, &b}, &c.info, &err), ERR_BUSY);
    assert_false(file_exists(c.to));
    assert_true(b.pieces < 20);
    env_deinit(&e);
}

static void test_a_store_at_rest_and_none(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    struct err err = ERR_INIT;
    start(&e);
    assert_int_equal(env_put(&e, "a", "1", 0), 1);
    env_close(&e);
    take(&e, &c, NULL);
    assert_int_equal(c.info.rev, 1);
    ASSERT_ERR(store_copy("/nonexistent/seki.db", c.to, NULL, &c.info, &err), ERR_NOT_FOUND);
    ASSERT_OK(file_write(e.path, STR("this is no database, and long enough to be seen as one: ........................................................"), 0600, &err));
    unlink(c.to);
    ASSERT_ERR(store_copy(e.path, c.to, NULL, &c.info, &err), ERR_CORRUPT);
    assert_false(file_exists(c.to));
    env_deinit(&e);
}

static void test_a_damaged_copy_is_found(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    struct err err = ERR_INIT;
    char zeros[4096] = {0};
    start(&e);
    for (int i = 0; i < 200; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k/%d", i);
        assert_true(env_put(&e, key, "a value of some length, so that there are several pages", 0) > 0);
    }
    take(&e, &c, NULL);
    int fd = open(c.to, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, zeros, sizeof(zeros), 4096 * 3), sizeof(zeros));
    close(fd);
    ASSERT_ERR(store_copy_check(c.to, &c.info, &err), ERR_CORRUPT);
    env_deinit(&e);
}

static void nothing(void *arg UNUSED, const struct store_event *ev UNUSED)
{
}

static void test_nobody_goes_back_in_time(void **state)
{
    (void)state;
    struct store_env e;
    struct copy c;
    struct err err = ERR_INIT;
    struct store_watch *w;
    start(&e);
    assert_int_equal(env_put(&e, "a", "1", 0), 1);
    assert_int_equal(env_put(&e, "b", "1", 0), 2);
    take(&e, &c, NULL);
    int64_t lost = env_put(&e, "a", "lost", -1);
    int64_t rev = store_revision_after_restore(&c.info, clock_wall_ms());
    ASSERT_OK(store_forget_history(c.to, rev, &err));
    ASSERT_OK(store_copy_check(c.to, &c.info, &err));
    assert_int_equal(c.info.rev, rev);
    open_copy(&e, &c);
    assert_int_equal(store_rev(e.store), rev);
    assert_value(store_get(e.store, STR("a")), "1");
    assert_int_equal(store_get(e.store, STR("b"))->rev, 2);
    const int64_t known[] = {1, 2, lost, lost + 1000, rev - 1};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        ASSERT_ERR(store_watch(e.store, STR(""), known[i], nothing, NULL, &w, &err), ERR_GONE);
    ASSERT_OK(store_watch(e.store, STR(""), rev, nothing, NULL, &w, &err));
    store_watch_stop(w);
    assert_int_equal(env_put(&e, "a", "from the lost time", lost), ERR_CONFLICT);
    assert_int_equal(env_put(&e, "a", "2", 1), rev + 1);
    env_close(&e);
    env_open(&e);
    assert_int_equal(store_rev(e.store), rev + 1);
    env_deinit(&e);
}

static void test_the_same_copy_put_back_twice_has_new_revisions_each_time(void **state)
{
    (void)state;
    struct store_copy_info i = {.rev = 1000, .newest_at_ms = INT64_C(1800000000000)};
    int64_t first = store_revision_after_restore(&i, INT64_C(1800000100000));
    int64_t second = store_revision_after_restore(&i, INT64_C(1800000101000));
    assert_true(second - first >= 1000000);
    assert_true(store_revision_after_restore(&i, 0) >= INT64_C(1800000000) * 1000000); /* a clock that was not set */
    i.rev = INT64_C(1) << 52;
    assert_true(store_revision_after_restore(&i, 0) > i.rev);
    assert_true(first < INT64_C(1) << 53); /* whole in programs that know floating point numbers alone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_running_store_is_copied),
        cmocka_unit_test(test_a_copy_is_whole_while_the_store_is_written),
        cmocka_unit_test(test_a_store_that_is_opened_anew_meanwhile),
        cmocka_unit_test(test_a_store_at_rest_and_none),
        cmocka_unit_test(test_a_damaged_copy_is_found),
        cmocka_unit_test(test_nobody_goes_back_in_time),
        cmocka_unit_test(test_the_same_copy_put_back_twice_has_new_revisions_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
