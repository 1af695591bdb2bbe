/* Who counts what is accepted is told of each change at once, and of its way back when the disk refuses. */
#include "store_env.h"

#include "store_disk.h"

static struct store_env env;
static long objects; /* as told */
static int last_code, done;

static void on_accept(void *arg, struct store_value *prev, struct store_value *now)
{
    assert_ptr_equal(arg, &env);
    assert_true(prev || now);
    if (prev && now)
        assert_true(str_eq(prev->key, now->key));
    objects += (now != NULL) - (prev != NULL);
}

static int setup(void **state UNUSED)
{
    disk_reset();
    objects = 0;
    env_init(&env);
    env.open = store_open_sqlite;
    env.options.vfs = DISK_VFS;
    env_open(&env);
    store_on_accept(env.store, on_accept, &env);
    return 0;
}

static int teardown(void **state UNUSED)
{
    env_deinit(&env);
    disk_reset();
    return 0;
}

static void on_done(void *arg UNUSED, int code, int64_t rev UNUSED)
{
    last_code = code;
    done++;
}

static void submit(const struct store_op *ops, size_t count)
{
    struct err err = ERR_INIT;
    ASSERT_OK(store_txn(env.store, ops, count, on_done, NULL, &err));
}

static void settle(int count)
{
    RUN_UNTIL(env.loop, done == count);
    done = 0;
}

static void told_at_once_and_once(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct store_op two[] = {{STORE_PUT, STR("a"), STR("1"), 0}, {STORE_PUT, STR("b"), STR("1"), 0}};
    struct store_op put_a = {STORE_PUT, STR("a"), STR("2"), -1}, del_b = {STORE_DELETE, STR("b"), STR(""), -1};
    submit(two, 2);
    assert_int_equal(objects, 2);
    submit(&put_a, 1);
    submit(&del_b, 1);
    assert_int_equal(objects, 1);
    ASSERT_ERR(store_txn(env.store, two, 2, on_done, NULL, &err), ERR_EXISTS);
    assert_int_equal(objects, 1);
    settle(3);
    assert_int_equal(last_code, 0);
    assert_int_equal(objects, 1);
}

static void what_is_there_is_told_first(void **state UNUSED)
{
    struct store_op ops[] = {{STORE_PUT, STR("a"), STR("1"), 0}, {STORE_PUT, STR("b"), STR("1"), 0}, {STORE_PUT, STR("c"), STR("1"), 0}};
    struct store_op del = {STORE_DELETE, STR("b"), STR(""), -1};
    submit(ops, 3);
    settle(1);
    submit(&del, 1);
    objects = 0;
    store_on_accept(env.store, on_accept, &env); /* while a deletion is on its way */
    assert_int_equal(objects, 2);
    settle(1);
    env_close(&env);
    objects = 0;
    env_open(&env);
    store_on_accept(env.store, on_accept, &env);
    assert_int_equal(objects, 2);
}

static void what_the_disk_refuses_is_told_back(void **state UNUSED)
{
    struct store_op first[] = {{STORE_PUT, STR("a"), STR("1"), 0}, {STORE_PUT, STR("b"), STR("1"), 0}};
    struct store_op more[] = {{STORE_PUT, STR("c"), STR("1"), 0}, {STORE_DELETE, STR("a"), STR(""), -1}, {STORE_PUT, STR("b"), STR("2"), -1}};
    struct store_op again = {STORE_PUT, STR("a"), STR("3"), 0};
    submit(first, 2);
    settle(1);
    pthread_mutex_lock(&disk.lock);
    disk.write_fails = true;
    pthread_mutex_unlock(&disk.lock);
    submit(more, 3);
    assert_int_equal(objects, 2);
    submit(&again, 1);
    assert_int_equal(objects, 3);
    settle(2);
    assert_true(last_code < 0);
    assert_int_equal(objects, 2);
    pthread_mutex_lock(&disk.lock);
    disk.write_fails = false;
    pthread_mutex_unlock(&disk.lock);
    RUN_UNTIL(env.loop, store_health(env.store, NULL) == 0);
    submit(more, 3);
    settle(1);
    assert_int_equal(last_code, 0);
    assert_int_equal(objects, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(told_at_once_and_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_there_is_told_first, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_disk_refuses_is_told_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
