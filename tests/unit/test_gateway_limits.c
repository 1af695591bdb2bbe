/* Limits: reserve, settle, refund; exact with many threads at once. */
#include "unit.h"

#include <pthread.h>

#include "gateway/limit_shares.h"

#define SECOND 1000000000ull
#define T0 (1000 * SECOND)

static struct limit_set *set;

static int setup(void **state)
{
    (void)state;
    set = limit_set_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    limit_set_free(set);
    return 0;
}

static struct limit of(const char *name, int64_t requests, int64_t tokens, int64_t concurrent)
{
    return (struct limit){.counter = limit_take(set, name, (int64_t[]){requests, tokens, concurrent}, 0), .max = {requests, tokens, concurrent}};
}

static void drop(struct limit *limits)
{
    for (int s = 0; s < LIMIT_SCOPES; s++)
        limit_counter_unref(limits[s].counter);
}

static bool reserve(const struct limit *limits, int64_t tokens, uint64_t now, struct limit_hold *h, struct limit_refusal *why)
{
    struct limit_hold unused = {0};
    struct limit_refusal nobody;
    return limit_reserve(h ? h : &unused, limits, tokens, now, why ? why : &nobody) == LIMIT_HELD;
}

static void a_bucket_fills_evenly(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("a", 0, 100, 0)};
    struct limit_refusal why;
    assert_true(reserve(l, 60, T0, NULL, NULL));
    assert_true(reserve(l, 40, T0, NULL, NULL));
    assert_false(reserve(l, 1, T0, NULL, &why));
    assert_int_equal(why.unit, LIMIT_TOKENS);
    assert_int_equal(why.left, 0);
    assert_int_equal(why.retry_ns, 600000000); /* 1 of 100 a minute */
    assert_false(reserve(l, 1, T0 + why.retry_ns - 1, NULL, NULL));
    assert_true(reserve(l, 1, T0 + why.retry_ns, NULL, NULL));
    assert_false(reserve(l, 50, T0 + 30 * SECOND, NULL, &why));
    assert_int_equal(why.left, 49);
    assert_true(reserve(l, 100, T0 + 120 * SECOND, NULL, NULL)); /* no more than a minute's worth is saved up */
    assert_false(reserve(l, 1, T0 + 120 * SECOND, NULL, NULL));
    drop(l);
}

static void what_is_too_large_is_never_told_to_wait(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("b", 0, 100, 0)};
    struct limit_refusal why;
    assert_false(reserve(l, 101, T0, NULL, &why));
    assert_int_equal(why.retry_ns, 0);
    assert_int_equal(why.wanted, 101);
    assert_true(reserve(l, 100, T0, NULL, NULL));
    drop(l);
}

static void what_is_not_used_comes_back_and_more_is_owed(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("c", 10, 100, 0)};
    struct limit_hold h = {0};
    struct limit_state s;
    assert_true(reserve(l, 90, T0, &h, NULL));
    limit_settle(&h, 30, false);
    limit_settle(&h, 30, false); /* nothing is held any more */
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_int_equal(s.left, 70);
    assert_int_equal(s.max, 100);
    assert_int_equal(s.reset_ns, 18 * SECOND);
    assert_true(reserve(l, 70, T0, &h, NULL));
    limit_settle(&h, 170, false); /* an answer that grew: two minutes' worth are gone */
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_int_equal(s.left, 0);
    assert_int_equal(s.reset_ns, 120 * SECOND);
    assert_false(reserve(l, 1, T0 + 60 * SECOND, NULL, NULL));
    assert_true(reserve(l, 1, T0 + 61 * SECOND, NULL, NULL));
    drop(l);
}

static void what_was_settled_can_be_mended(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("mended", 10, 100, 2)};
    struct limit_hold h = {0};
    struct limit_state s;
    assert_true(reserve(l, 50, T0, &h, NULL));
    limit_settle(&h, 30, false);
    limit_mend(l, -20);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_int_equal(s.left, 90);
    limit_mend(l, 40);
    limit_mend(l, 0);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_int_equal(s.left, 50);
    assert_true(limit_state(l, LIMIT_REQUESTS, T0, &s));
    assert_int_equal(s.left, 9); /* it was one request */
    drop(l);
}

static void failures_are_free(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("d", 1, 100, 1)};
    struct limit_hold h = {0};
    for (int i = 0; i < 5; i++) {
        assert_true(reserve(l, 100, T0, &h, NULL));
        assert_false(reserve(l, 1, T0, NULL, NULL));
        limit_settle(&h, 55, true);
    }
    drop(l);
}

static void an_absurd_count_has_an_end(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("e", 0, 1, 0)};
    struct limit_hold h = {0};
    struct limit_state s;
    assert_true(reserve(l, 1, T0, &h, NULL));
    limit_settle(&h, INT64_MAX, false);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_true(s.reset_ns <= 61 * 60 * SECOND);
    drop(l);
}

static void the_tightest_wins_and_refusals_take_nothing(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("key", 100, 1000, 0), of("project", 0, 500, 2), of("tenant", 3, 0, 0)};
    struct limit_hold h[3] = {0};
    struct limit_refusal why;
    struct limit_state s;
    assert_false(reserve(l, 501, T0, NULL, &why));
    assert_int_equal(why.scope, LIMIT_PROJECT);
    assert_true(reserve(l, 10, T0, &h[0], NULL));
    assert_true(reserve(l, 10, T0, &h[1], NULL));
    assert_false(reserve(l, 10, T0, NULL, &why));
    assert_int_equal(why.scope, LIMIT_PROJECT);
    assert_int_equal(why.unit, LIMIT_CONCURRENT);
    limit_settle(&h[0], 10, false);
    assert_true(reserve(l, 10, T0, &h[2], NULL));
    limit_settle(&h[1], 10, false);
    limit_settle(&h[2], 10, false);
    assert_false(reserve(l, 10, T0, NULL, &why));
    assert_int_equal(why.scope, LIMIT_TENANT);
    assert_int_equal(why.unit, LIMIT_REQUESTS);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s));
    assert_int_equal(s.left, 470);
    assert_true(limit_state(l, LIMIT_REQUESTS, T0, &s));
    assert_int_equal(s.max, 3);
    assert_false(limit_state((struct limit[LIMIT_SCOPES]){{0}}, LIMIT_REQUESTS, T0, &s));
    drop(l);
}

/* A place is taken at the head of a request, all else with its body. */
static void a_place_is_taken_first(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("place", 2, 100, 2), of("place above", 0, 0, 1)};
    struct limit_hold a = {0}, b = {0};
    struct limit_refusal why;
    struct limit_state s;
    assert_int_equal(limit_enter(&a, l, T0, &why), LIMIT_HELD);
    assert_int_equal(limit_enter(&b, l, T0, &why), LIMIT_OVER);
    assert_int_equal(why.scope, LIMIT_PROJECT);
    assert_int_equal(why.unit, LIMIT_CONCURRENT);
    assert_true(limit_state(l, LIMIT_REQUESTS, T0, &s) && s.left == 2); /* nothing of the rates */
    limit_settle(&b, 0, true);                                         /* nothing happens */
    assert_true(reserve(l, 60, T0, &a, NULL));
    limit_return(&a);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s) && s.left == 100);
    assert_int_equal(limit_enter(&b, l, T0, &why), LIMIT_OVER); /* its place stays its own */
    assert_false(reserve(l, 101, T0, &a, NULL));
    assert_true(a.entered);
    assert_true(reserve(l, 60, T0, &a, NULL));
    limit_settle(&a, 10, false);
    assert_true(limit_state(l, LIMIT_TOKENS, T0, &s) && s.left == 90);
    assert_int_equal(limit_enter(&b, l, T0, &why), LIMIT_HELD);
    limit_settle(&b, 0, true); /* its body never came */
    assert_true(limit_state(l, LIMIT_REQUESTS, T0, &s) && s.left == 1);
    assert_int_equal(limit_enter(&b, l, T0, &why), LIMIT_HELD);
    limit_settle(&b, 0, true);
    drop(l);
}

static void counters_are_not_forgotten_while_they_hold_back(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("f", 0, 100, 0)};
    struct limit_counter *before = l[0].counter;
    assert_true(reserve(l, 100, T0, NULL, NULL));
    l[0].counter = before;
    drop(l);
    limit_prune(set, T0 + SECOND); /* the request still runs, and the bucket is empty */
    l[0] = of("f", 0, 100, 0);
    assert_ptr_equal(l[0].counter, before);
    assert_false(reserve(l, 100, T0 + SECOND, NULL, NULL));
    drop(l);
}

/* ---- learning ---- */

/* Between who says it and the dealing out a snapshot may be built, which forgets what nobody refers to. */
static void what_the_next_share_is_not_to_exceed_is_not_forgotten(void **state)
{
    (void)state;
    struct limit_set *s = limit_set_new();
    limit_cap(s, STR("capped"), LIMIT_REQUESTS, 100, 30);
    limit_prune(s, T0);
    limit_set_parts(s, 2, false, T0);
    struct limit_counter *c = limit_take(s, "capped", (int64_t[]){100, 0, 0}, 0);
    assert_int_equal(limit_report(s, c, LIMIT_REQUESTS, T0).share, 30);
    limit_counter_unref(c);
    limit_set_parts(s, 1, false, T0);
    limit_prune(s, T0 + 120 * SECOND);
    assert_null(limit_find(s, STR("capped"))); /* once it is dealt out, it may be */
    limit_set_free(s);
}

static void what_others_lack_has_a_counter_though_nobody_used_it_here(void **state)
{
    (void)state;
    struct limit_set *s = limit_set_new();
    limit_set_parts(s, 2, false, T0);
    struct limit_counter *c = limit_bound(s, STR("wanted"), LIMIT_REQUESTS, 100);
    limit_prune(s, T0 + 120 * SECOND); /* it is in use */
    assert_int_equal(limit_report(s, c, LIMIT_REQUESTS, T0).share, 50);
    assert_ptr_equal(limit_find(s, STR("wanted")), c);
    limit_counter_unref(c);
    limit_counter_unref(c);
    limit_prune(s, T0 + 120 * SECOND);
    assert_null(limit_find(s, STR("wanted")));
    c = limit_bound(s, STR("absurd"), LIMIT_REQUESTS, -7);
    assert_int_equal(limit_report(s, c, LIMIT_REQUESTS, T0).share, 0);
    limit_counter_unref(c);
    limit_set_free(s);
}

static void answers_are_expected_as_long_as_they_were(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("g", 0, 10000, 0)};
    assert_int_equal(limit_expect(l, "p", "m", 10, 0), 256);
    assert_int_equal(limit_expect(l, "p", "m", 10, 33), 33);
    assert_int_equal(limit_expect(l, "p", "m", 10, 900000), 9990);  /* not more than a full bucket has */
    assert_int_equal(limit_expect(l, "p", "m", 20000, 900000), 0);
    assert_int_equal(limit_learned(l, "p", "m"), 0);
    for (int i = 0; i < 100; i++)
        limit_learn(l, "p", "m", i < 95 ? 24 : 5000);
    assert_int_equal(limit_expect(l, "p", "m", 10, 0), 24);
    assert_int_equal(limit_learned(l, "p", "m"), 24);
    assert_int_equal(limit_expect(l, "p", "m", 10, 8), 8);
    assert_int_equal(limit_expect(l, "p", "m", 10, 4000), 24);
    assert_int_equal(limit_expect(l, "p", "other", 10, 0), 256);
    for (int i = 0; i < 20; i++) { /* more models than are kept */
        char name[16];
        snprintf(name, sizeof(name), "m%d", i);
        for (int n = 0; n < 10; n++)
            limit_learn(l, "p", name, 100);
    }
    assert_int_equal(limit_expect(l, "p", "m19", 10, 0), 128);
    for (int i = 0; i < 5000; i++) /* old answers are forgotten */
        limit_learn(l, "p", "m19", 3);
    assert_int_equal(limit_expect(l, "p", "m19", 10, 0), 3);
    drop(l);
    assert_int_equal(limit_expect((struct limit[LIMIT_SCOPES]){{0}}, "p", "m", 10, 500), 0);
    assert_int_equal(limit_learned((struct limit[LIMIT_SCOPES]){{0}}, "p", "m"), 0);
}

/* ---- threads ---- */

#define THREADS 8
#define TRIES 5000

static atomic_llong admitted, running, most;

static void *hammer(void *arg)
{
    const struct limit *l = arg;
    for (int i = 0; i < TRIES; i++) {
        struct limit_hold h = {0};
        struct limit_refusal why;
        if (!limit_reserve(&h, l, 7, T0, &why))
            continue;
        long long now = atomic_fetch_add(&running, 1) + 1, seen = atomic_load(&most);
        while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
            ;
        atomic_fetch_add(&admitted, 7);
        atomic_fetch_sub(&running, 1);
        limit_settle(&h, 7, false);
    }
    return NULL;
}

static void many_threads_get_what_there_is(void **state)
{
    (void)state;
    struct limit l[LIMIT_SCOPES] = {of("h", 0, 10000, 3), of("i", 5000, 9999, 0)};
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, l), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_true(atomic_load(&admitted) <= 9999);
    assert_true(atomic_load(&admitted) > 9999 - 7 - 7); /* and nothing got lost: a cost is rounded by less than a token in all */
    assert_true(atomic_load(&most) <= 3);
    drop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_fills_evenly),
        cmocka_unit_test(what_is_too_large_is_never_told_to_wait),
        cmocka_unit_test(what_is_not_used_comes_back_and_more_is_owed),
        cmocka_unit_test(what_was_settled_can_be_mended),
        cmocka_unit_test(failures_are_free),
        cmocka_unit_test(an_absurd_count_has_an_end),
        cmocka_unit_test(the_tightest_wins_and_refusals_take_nothing),
        cmocka_unit_test(a_place_is_taken_first),
        cmocka_unit_test(counters_are_not_forgotten_while_they_hold_back),
        cmocka_unit_test(what_the_next_share_is_not_to_exceed_is_not_forgotten),
        cmocka_unit_test(what_others_lack_has_a_counter_though_nobody_used_it_here),
        cmocka_unit_test(answers_are_expected_as_long_as_they_were),
        cmocka_unit_test(many_threads_get_what_there_is),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
