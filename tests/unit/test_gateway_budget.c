/* Budgets at the gateway: reservations out of a leased slice, exact with many threads, settled in the period that pays. */
#include "unit.h"

#include <pthread.h>

#include "base/mem.h"
#include "gateway/budget.h"

#define DAY_MS 86400000LL
#define WALL (20000 * DAY_MS + 5)
#define NOW 1000000000ull
#define LATER (NOW + 1)
#define THREADS 8

static struct budget_set *set;
static struct budget b[2];

static int setup(void **state)
{
    (void)state;
    set = budget_set_new();
    for (int i = 0; i < 2; i++) {
        b[i] = (struct budget){.scope = i ? LIMIT_TENANT : LIMIT_KEY, .project = i ? "" : "demo", .owner = "k", .amount = 100, .period = BUDGET_DAY, .currency = "EUR"};
        budget_take(set, &b[i]);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        budget_counter_unref(b[i].counter);
    budget_set_free(set);
    return 0;
}

static void lease(int i, int64_t amount)
{
    budget_grant(b[i].counter, budget_period_number(BUDGET_DAY, WALL), amount);
    atomic_store(&b[i].counter->expires_ns, NOW + 1000);
}

static enum budget_result reserve(struct budget_hold *h, size_t count, int64_t amount, uint64_t now)
{
    const struct budget *why;
    struct budget_hold unused;
    return budget_reserve(h ? h : &unused, b, count, amount, WALL, now, &why);
}

static int64_t left(int i)
{
    int64_t n;
    budget_held(b[i].counter, budget_period_number(BUDGET_DAY, WALL), &n);
    return n;
}

static void what_is_leased_is_spent_and_the_rest_asked_for(void **state)
{
    (void)state;
    assert_int_equal(reserve(NULL, 1, 1, NOW), BUDGET_ASK);
    lease(0, 10);
    assert_int_equal(reserve(NULL, 1, 7, NOW), BUDGET_HELD);
    assert_int_equal(reserve(NULL, 1, 4, NOW), BUDGET_ASK);
    assert_int_equal(reserve(NULL, 1, 3, NOW), BUDGET_HELD);
}

static void refused_is_only_what_control_said_there_is_no_more_of(void **state)
{
    (void)state;
    lease(0, 10);
    atomic_store(&b[0].counter->more, 5);
    atomic_store(&b[0].counter->verdict_until_ns, NOW + 500);
    assert_int_equal(reserve(NULL, 1, 15, NOW), BUDGET_ASK);
    assert_int_equal(reserve(NULL, 1, 16, NOW), BUDGET_OVER);
    assert_int_equal(reserve(NULL, 1, 16, NOW + 500), BUDGET_ASK); /* that is no longer true */
    b[0].amount = 200;
    budget_take(set, &b[0]); /* the budget was raised: the word was about another */
    budget_counter_unref(b[0].counter);
    assert_int_equal(reserve(NULL, 1, 16, NOW), BUDGET_ASK);
}

static void nothing_is_spent_past_the_lease(void **state)
{
    (void)state;
    lease(0, 10);
    assert_int_equal(reserve(NULL, 1, 1, NOW + 1000), BUDGET_ASK);
}

static void of_several_budgets_all_or_none(void **state)
{
    (void)state;
    lease(0, 10);
    lease(1, 5);
    assert_int_equal(reserve(NULL, 2, 6, NOW), BUDGET_ASK);
    assert_int_equal(left(0), 10);
    assert_int_equal(reserve(NULL, 2, 5, NOW), BUDGET_HELD);
    assert_int_equal(left(0), 5);
    assert_int_equal(left(1), 0);
}

static void what_was_not_used_comes_back_and_what_was_used_beyond_is_owed(void **state)
{
    (void)state;
    struct budget_hold h = {0};
    int64_t n;
    lease(0, 10);
    assert_int_equal(reserve(&h, 1, 8, NOW), BUDGET_HELD);
    budget_settle(&h, 3, WALL);
    budget_settle(&h, 3, WALL); /* once */
    assert_int_equal(left(0), 7);
    assert_int_equal(budget_held(b[0].counter, budget_period_number(BUDGET_DAY, WALL), &n), 7);
    assert_int_equal(reserve(&h, 1, 7, NOW), BUDGET_HELD);
    budget_settle(&h, 20, WALL);
    assert_int_equal(left(0), -13);
    assert_int_equal(reserve(NULL, 1, 0, NOW), BUDGET_ASK); /* even what costs nothing waits until that is paid */
    lease(0, 13);
    assert_int_equal(reserve(NULL, 1, 0, NOW), BUDGET_HELD);
}

static void who_began_before_midnight_pays_there(void **state)
{
    (void)state;
    struct budget_hold h = {0};
    lease(0, 10);
    assert_int_equal(reserve(&h, 1, 8, NOW), BUDGET_HELD);
    budget_settle(&h, 8, WALL - 1000); /* its record says yesterday */
    assert_int_equal(left(0), 10);
}

static void a_slice_is_of_its_period(void **state)
{
    (void)state;
    struct budget_hold h = {0};
    const struct budget *why;
    int64_t today = budget_period_number(BUDGET_DAY, WALL), n;
    lease(0, 10);
    assert_int_equal(reserve(&h, 1, 4, NOW), BUDGET_HELD);
    assert_int_equal(budget_reserve(&(struct budget_hold){0}, b, 1, 1, WALL + DAY_MS, NOW, &why), BUDGET_ASK);
    budget_grant(b[0].counter, today + 1, 30);
    assert_int_equal(budget_reserve(&(struct budget_hold){0}, b, 1, 1, WALL + DAY_MS, NOW, &why), BUDGET_HELD);
    budget_settle(&h, 4, WALL); /* of yesterday's */
    assert_int_equal(budget_held(b[0].counter, today + 1, &n), 30);
    assert_int_equal(n, 29);
    budget_grant(b[0].counter, today + 2, 1); /* in place of today's */
    assert_int_equal(budget_held(b[0].counter, today, &n), 0);
}

static void what_nobody_reserved_can_be_given_back(void **state)
{
    (void)state;
    struct budget_hold h = {0};
    int64_t n, today = budget_period_number(BUDGET_DAY, WALL);
    lease(0, 10);
    assert_int_equal(reserve(&h, 1, 4, NOW), BUDGET_HELD);
    budget_return(b[0].counter, today);
    assert_int_equal(budget_held(b[0].counter, today, &n), 4);
    assert_int_equal(n, 0);
    budget_settle(&h, 1, WALL);
    assert_int_equal(budget_held(b[0].counter, today, &n), 3);
    assert_int_equal(n, 3);
}

static void counters_outlive_who_uses_them_while_something_is_held(void **state)
{
    (void)state;
    struct budget again = b[0];
    lease(0, 10);
    budget_counter_unref(b[0].counter);
    budget_prune(set);
    budget_take(set, &again);
    assert_ptr_equal(again.counter, b[0].counter);
    assert_int_equal(left(0), 10);
}

static void *spend(void *arg)
{
    int64_t *passed = arg;
    for (int i = 0; i < 5000; i++) {
        struct budget_hold h = {0};
        if (reserve(&h, 2, 3, LATER) != BUDGET_HELD)
            continue;
        budget_settle(&h, i % 4, WALL);
        *passed += i % 4;
    }
    return NULL;
}

static void many_threads_spend_what_there_is(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    int64_t passed[THREADS] = {0}, sum = 0, n;
    lease(0, 9000);
    lease(1, 1000000);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, spend, &passed[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum += passed[i];
    }
    assert_in_range(sum, 9000 - 2, 9000); /* less than a reservation is left */
    assert_int_equal(budget_held(b[0].counter, budget_period_number(BUDGET_DAY, WALL), &n), 9000 - sum);
    assert_int_equal(n, 9000 - sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_leased_is_spent_and_the_rest_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_is_only_what_control_said_there_is_no_more_of, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_spent_past_the_lease, setup, teardown),
        cmocka_unit_test_setup_teardown(of_several_budgets_all_or_none, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_not_used_comes_back_and_what_was_used_beyond_is_owed, setup, teardown),
        cmocka_unit_test_setup_teardown(who_began_before_midnight_pays_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_slice_is_of_its_period, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_reserved_can_be_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(counters_outlive_who_uses_them_while_something_is_held, setup, teardown),
        cmocka_unit_test_setup_teardown(many_threads_spend_what_there_is, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
