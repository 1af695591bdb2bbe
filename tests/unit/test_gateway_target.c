/* Targets: the breaker's three outcomes. */
#include "unit.h"

#include "gateway/target.h"

static struct prefix_seen seen; /* nobody looks at it */
static struct target_set *set;

static int setup(void **state)
{
    (void)state;
    set = target_set_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    target_set_free(set);
    return 0;
}

static bool goes(struct target *t, enum target_outcome outcome, uint64_t busy_ms, uint64_t now)
{
    return target_end(t, target_begin(t, now), outcome, busy_ms, now);
}

static void three_failures_in_a_row(void **state)
{
    (void)state;
    struct target *t = target_take(set, "a");
    assert_false(goes(t, TARGET_FAILED, 0, 1000));
    assert_false(goes(t, TARGET_FAILED, 0, 1000));
    assert_false(goes(t, TARGET_OK, 0, 1000)); /* not in a row */
    assert_false(goes(t, TARGET_FAILED, 0, 1000));
    assert_false(goes(t, TARGET_FAILED, 0, 1000));
    assert_false(target_is_aside(t, 1000));
    assert_true(goes(t, TARGET_FAILED, 0, 1000));
    assert_true(target_is_aside(t, 1999));
    assert_false(target_is_aside(t, 2000));
    assert_int_equal(atomic_load(&t->in_flight), 0);
    target_unref(t);
}

static void blame_that_comes_later_counts_as_well(void **state)
{
    (void)state;
    struct target *t = target_take(set, "blamed");
    for (int i = 0; i < 3; i++)
        assert_false(goes(t, TARGET_NEITHER, 0, 1000));
    assert_false(target_blame(t, 1000));
    assert_false(target_blame(t, 1000));
    assert_false(goes(t, TARGET_OK, 0, 1000)); /* not in a row */
    assert_false(target_blame(t, 1000));
    assert_false(goes(t, TARGET_FAILED, 0, 1000));
    assert_true(target_blame(t, 1000));
    assert_true(target_is_aside(t, 1999));
    assert_false(target_blame(t, 1000)); /* what was under way then says nothing new */
    bool tries = target_begin(t, 2000);
    assert_true(tries);
    assert_false(target_end(t, tries, TARGET_NEITHER, 0, 2000)); /* a 500, again */
    assert_true(target_blame(t, 2000));
    assert_true(target_is_aside(t, 3999)); /* twice as long */
    assert_int_equal(atomic_load(&t->in_flight), 0);
    target_unref(t);
}

static void one_request_tries_it(void **state)
{
    (void)state;
    struct target *t = target_take(set, "b");
    assert_true(goes(t, TARGET_UNREACHABLE, 0, 1000));
    bool tries = target_begin(t, 2000);
    assert_true(tries);
    assert_true(target_is_aside(t, 2000)); /* for all others */
    assert_false(target_begin(t, 2000));
    assert_false(target_end(t, false, TARGET_FAILED, 0, 2000)); /* who was not to tell says nothing new */
    assert_true(target_end(t, tries, TARGET_FAILED, 0, 2000));
    assert_true(target_is_aside(t, 3999)); /* twice as long */
    assert_false(target_is_aside(t, 4000));
    tries = target_begin(t, 4000);
    assert_true(tries);
    assert_false(target_end(t, tries, TARGET_NEITHER, 0, 4000)); /* the client left: somebody else tries */
    assert_false(target_is_aside(t, 4000));
    tries = target_begin(t, 4000);
    assert_true(tries);
    assert_false(target_end(t, tries, TARGET_OK, 0, 4000));
    assert_false(target_is_aside(t, 4000));
    assert_false(target_begin(t, 4000));
    target_end(t, false, TARGET_OK, 0, 4000);
    assert_true(goes(t, TARGET_UNREACHABLE, 0, 5000)); /* from the beginning */
    assert_false(target_is_aside(t, 6000));
    target_unref(t);
}

static void busy_is_no_failure(void **state)
{
    (void)state;
    struct target *t = target_take(set, "c");
    for (int i = 0; i < 10; i++)
        assert_false(goes(t, TARGET_BUSY, 0, 1000));
    assert_true(target_is_aside(t, 1999));
    assert_false(target_is_aside(t, 2000));
    assert_false(target_begin(t, 2000)); /* nobody has to try it */
    target_end(t, false, TARGET_BUSY, 5000, 2000);
    assert_true(target_is_aside(t, 6999));
    assert_false(target_is_aside(t, 7000));
    goes(t, TARGET_BUSY, 86400000, 7000);
    assert_false(target_is_aside(t, 7000 + 30000)); /* no longer than that, whatever it asks */
    goes(t, TARGET_BUSY, 5000, 8000);
    assert_true(goes(t, TARGET_UNREACHABLE, 0, 8000)); /* but a failure is one also while it is busy */
    target_unref(t);
}

static void the_wait_has_an_end(void **state)
{
    (void)state;
    struct target *t = target_take(set, "d");
    uint64_t now = 1000;
    for (int i = 0; i < 100; i++) {
        assert_true(goes(t, TARGET_UNREACHABLE, 0, now));
        now += 30000;
        assert_false(target_is_aside(t, now));
    }
    target_unref(t);
}

static void retries_have_a_budget(void **state)
{
    (void)state;
    struct target *t = target_take(set, "e");
    int burst = 0, more = 0;
    while (target_may_retry(t))
        burst++;
    assert_int_equal(burst, 100);
    for (int i = 0; i < 200; i++) {
        target_end(t, target_begin(t, 1000), TARGET_OK, 0, 1000);
        more += target_may_retry(t);
    }
    assert_int_equal(more, 20);
    target_unref(t);
}

static void indexes_have_an_end(void **state)
{
    (void)state;
    struct target *t[TARGET_INDEXES_MAX + 2];
    uint64_t hashes[] = {1, 2, 3};
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        char name[16];
        snprintf(name, sizeof(name), "i%zu", i);
        t[i] = target_take(set, name);
        target_cache(t[i], hashes, 3, &seen);
        assert_int_equal(target_cached(t[i], hashes, 3), i < TARGET_INDEXES_MAX ? 3 : 0);
    }
    target_forget(t[0]); /* makes room for another */
    target_cache(t[TARGET_INDEXES_MAX], hashes, 3, &seen);
    assert_int_equal(target_cached(t[TARGET_INDEXES_MAX], hashes, 3), 3);
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        target_unref(t[i]);
    target_prune(set);
    t[0] = target_take(set, "i0");
    target_cache(t[0], hashes, 3, &seen);
    assert_int_equal(target_cached(t[0], hashes, 3), 3);
    target_unref(t[0]);
}

static void they_outlive_who_forgets_them(void **state)
{
    (void)state;
    struct target *t = target_take(set, "f");
    assert_ptr_equal(target_take(set, "f"), t);
    target_unref(t);
    target_prune(set);
    assert_ptr_equal(target_take(set, "f"), t);
    target_unref(t);
    target_unref(t);
    target_prune(set); /* the sanitizer would tell */
}

static bool has_none(void *arg, const char *name)
{
    (void)arg;
    (void)name;
    return false;
}

/* An engine that was replaced by one at the same address: the new one pays for nothing. */
static void comes_back_unblamed(void **state)
{
    (void)state;
    struct target *t = target_take(set, "back");
    for (int i = 0; i < 5; i++)
        goes(t, TARGET_UNREACHABLE, 0, 1000);
    assert_true(target_is_aside(t, 1001));
    target_unref(target_take(set, "back")); /* a snapshot that has it still */
    assert_true(target_is_aside(t, 1001));
    target_close(set, has_none, NULL);
    target_unref(target_take(set, "back"));
    assert_false(target_is_aside(t, 1001));
    assert_false(goes(t, TARGET_FAILED, 0, 1002)); /* one failure is none of many */
    assert_false(target_is_aside(t, 1003));
    target_unref(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_failures_in_a_row), cmocka_unit_test(blame_that_comes_later_counts_as_well), cmocka_unit_test(one_request_tries_it), cmocka_unit_test(busy_is_no_failure),
        cmocka_unit_test(the_wait_has_an_end),     cmocka_unit_test(retries_have_a_budget), cmocka_unit_test(they_outlive_who_forgets_them),
        cmocka_unit_test(indexes_have_an_end),       cmocka_unit_test(comes_back_unblamed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
