/* Hedges: when a first token is late, and how many may be hedged. */
#include "unit.h"

#include <pthread.h>
#include <string.h>

#include "gateway/request.h"

static struct hedge_stats stats;

static int setup(void **state)
{
    (void)state;
    memset(&stats, 0, sizeof(stats));
    return 0;
}

static void learn(int count, uint64_t ms)
{
    for (int i = 0; i < count; i++)
        hedge_learn(&stats, ms);
}

static void nothing_is_late_before_it_is_known_what_is_usual(void **state)
{
    (void)state;
    learn(HEDGE_LEARN - 1, 100);
    assert_int_equal(hedge_after_ms(&stats), 0);
    learn(1, 100);
    assert_in_range(hedge_after_ms(&stats), 100, 125);
}

static void late_is_what_one_of_twenty_is(void **state)
{
    (void)state;
    learn(950, 200);
    learn(50, 9000);
    assert_in_range(hedge_after_ms(&stats), 200, 250);
    setup(state);
    learn(900, 200);
    learn(100, 9000);
    assert_in_range(hedge_after_ms(&stats), 9000, 11250);
}

static void what_is_quick_is_never_late(void **state)
{
    (void)state;
    learn(100, 1);
    assert_int_equal(hedge_after_ms(&stats), HEDGE_LEAST_MS);
}

static void what_was_usual_is_forgotten(void **state)
{
    (void)state;
    learn(1000, 10000);
    learn(20000, 100);
    assert_in_range(hedge_after_ms(&stats), 100, 125);
}

static void what_takes_longer_than_a_minute_is_not_hedged(void **state)
{
    (void)state;
    learn(100, UINT64_MAX);
    assert_int_equal(hedge_after_ms(&stats), 0);
}

static void one_of_twenty_and_ten_at_most_are_saved_up(void **state)
{
    (void)state;
    int spent = 0;
    for (int i = 0; i < 19; i++)
        hedge_earn(&stats);
    assert_false(hedge_spend(&stats));
    hedge_earn(&stats);
    assert_true(hedge_spend(&stats));
    assert_false(hedge_spend(&stats));
    for (int i = 0; i < 10000; i++)
        hedge_earn(&stats);
    while (hedge_spend(&stats))
        spent++;
    assert_int_equal(spent, 10);
}

static void *earn_and_spend(void *arg)
{
    int *spent = arg;
    for (int i = 0; i < 20000; i++) {
        hedge_earn(&stats);
        *spent += hedge_spend(&stats);
        hedge_learn(&stats, (uint64_t)i % 300);
    }
    return NULL;
}

static void many_threads_spend_no_more(void **state)
{
    (void)state;
    pthread_t threads[4];
    int spent[4] = {0}, sum = 0;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, earn_and_spend, &spent[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        sum += spent[i];
    }
    assert_in_range(sum, 1, 80000 / 20);
}

/* What comes after a failed attempt has waited for that one, too, and perhaps for a turn, or at another endpoint. */
static void what_a_second_attempt_took_is_not_learned(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct dispatch_set *dispatches = dispatch_set_new();
    static const struct gateway_route chat = {0};
    struct snap_endpoint e = {.replica_count = 2, .dispatch = dispatch_take(dispatches, "p/m")};
    struct http_request http = {.arena = arena_new(1 << 20)};
    struct gateway g = {0};
    struct gateway_loop l = {.gateway = &g};
    ASSERT_OK(loop_new(&l.loop, &err));
    for (int fails = 0; fails < 2; fails++)
        for (int i = 0; i < HEDGE_LEARN; i++) {
            struct request q = {.http = &http, .loop = &l, .route = &chat, .endpoint = &e, .attempts = 1, .body = {.stream = true}};
            assert_int_equal(hedge_after_ms(dispatch_hedges(e.dispatch)), 0);
            hedge_watch(&q);
            assert_true(!fails || !hedge_take_over(&q));
            q.first_ns = 1;
            q.scan.has_content = true;
            hedge_over(&q);
            if (!fails && i == HEDGE_LEARN - 2)
                break; /* one less than is enough */
        }
    assert_int_equal(hedge_after_ms(dispatch_hedges(e.dispatch)), 0);
    loop_free(l.loop);
    arena_free(http.arena);
    dispatch_unref(e.dispatch);
    dispatch_set_free(dispatches);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_late_before_it_is_known_what_is_usual, setup, NULL),
        cmocka_unit_test_setup_teardown(late_is_what_one_of_twenty_is, setup, NULL),
        cmocka_unit_test_setup_teardown(what_is_quick_is_never_late, setup, NULL),
        cmocka_unit_test_setup_teardown(what_was_usual_is_forgotten, setup, NULL),
        cmocka_unit_test_setup_teardown(what_takes_longer_than_a_minute_is_not_hedged, setup, NULL),
        cmocka_unit_test_setup_teardown(one_of_twenty_and_ten_at_most_are_saved_up, setup, NULL),
        cmocka_unit_test_setup_teardown(many_threads_spend_no_more, setup, NULL),
        cmocka_unit_test_setup_teardown(what_a_second_attempt_took_is_not_learned, setup, NULL),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
