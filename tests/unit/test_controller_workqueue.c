/* The work queue: by a clock that stands still, and with many threads. */
#include "unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "controller/controller.h"

static struct workqueue *q;

static int setup(void **state)
{
    (void)state;
    clock_test_set(0, 0); /* also the first millisecond is a time */
    q = workqueue_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    workqueue_free(q);
    clock_test_clear();
    return 0;
}

/* The next key must be this one, or none. */
static void takes(const char *want)
{
    char *key = workqueue_take(q, 0);
    if (!want && key)
        fail_msg("took %s", key);
    if (want && (!key || strcmp(key, want) != 0))
        fail_msg("took %s, not %s", key ? key : "nothing", want);
    mem_free(key);
}

static void a_key_waits_once(void **state)
{
    (void)state;
    workqueue_add(q, "a", 0);
    workqueue_add(q, "b", 0);
    workqueue_add(q, "a", 0);
    assert_int_equal(workqueue_len(q), 2);
    takes("a");
    takes("b");
    takes(NULL);
}

static void a_key_that_is_processed_comes_again_once(void **state)
{
    (void)state;
    workqueue_add(q, "a", 0);
    takes("a");
    workqueue_add(q, "a", 0);
    workqueue_add(q, "a", 0);
    takes(NULL); /* never twice at a time */
    workqueue_done(q, "a");
    takes("a");
    workqueue_done(q, "a");
    takes(NULL);
    workqueue_done(q, "a"); /* of nothing: harmless */
    workqueue_done(q, "unknown");
}

static void delays_are_kept_in_order(void **state)
{
    (void)state;
    workqueue_add(q, "c", 300);
    workqueue_add(q, "a", 100);
    workqueue_add(q, "b", 200);
    workqueue_add(q, "a2", 100);
    takes(NULL);
    clock_test_advance(99);
    takes(NULL);
    clock_test_advance(1);
    takes("a");
    takes("a2");
    takes(NULL);
    clock_test_advance(1000);
    takes("b");
    takes("c");
    takes(NULL);
}

static void the_earlier_time_counts(void **state)
{
    (void)state;
    workqueue_add(q, "a", 100);
    workqueue_add(q, "a", 1000);
    workqueue_add(q, "b", 1000);
    workqueue_add(q, "b", 50);
    clock_test_advance(60);
    takes("b");
    clock_test_advance(40);
    takes("a");
    /* While processed, too. */
    workqueue_add(q, "a", 500);
    workqueue_add(q, "a", 20);
    workqueue_add(q, "a", 700);
    workqueue_done(q, "a");
    takes(NULL);
    clock_test_advance(20);
    takes("a");
}

static void who_waits_longest_goes_first(void **state)
{
    (void)state;
    char name[8];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof(name), "k%d", i);
        workqueue_add(q, name, 0);
    }
    /* k0 asks again each time, and the others are not starved. */
    takes("k0");
    workqueue_add(q, "k0", 0);
    workqueue_done(q, "k0");
    takes("k1");
    takes("k2");
    takes("k3");
    takes("k4");
    takes("k0");
}

static void namespaces_take_turns(void **state)
{
    (void)state;
    char name[16];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "many/%d", i);
        workqueue_add(q, name, 0);
    }
    takes("many/0");
    workqueue_add(q, "few/a", 0);
    workqueue_add(q, "few/b", 0);
    takes("few/a"); /* nothing of theirs is at work */
    workqueue_done(q, "many/0");
    takes("many/1");
    takes("few/b");
    takes("many/2");
    takes("many/3");
    for (int i = 1; i < 4; i++) {
        snprintf(name, sizeof(name), "many/%d", i);
        workqueue_done(q, name);
    }
    workqueue_done(q, "few/a");
    workqueue_done(q, "few/b");
    /* One that asks again and again does not come before those who wait. */
    workqueue_add(q, "few/a", 0);
    takes("many/4");
    workqueue_done(q, "many/4");
    takes("few/a");
    workqueue_add(q, "few/a", 0);
    workqueue_done(q, "few/a");
    takes("many/5");
    workqueue_done(q, "many/5");
    takes("few/a");
}

static void a_namespace_has_its_share(void **state)
{
    (void)state;
    workqueue_set_share(q, 2);
    for (const char *const *k = (const char *const[]){"a/1", "a/2", "a/3", "b/1", "/x", "/y", "/z", NULL}; *k; k++)
        workqueue_add(q, *k, 0);
    takes("a/1");
    takes("b/1");
    takes("/x");
    takes("a/2");
    takes("/y");
    takes("/z"); /* in no namespace: no share */
    takes(NULL);
    assert_int_equal(workqueue_len(q), 1);
    workqueue_done(q, "b/1");
    takes(NULL);
    workqueue_done(q, "a/1");
    takes("a/3");
    workqueue_done(q, "a/2");
    workqueue_done(q, "a/3");
    takes(NULL);
}

/* A taker that sleeps because of a share is woken by the end of another's work. */
static void *give_back(void *arg)
{
    (void)arg;
    workqueue_done(q, "a/1");
    return NULL;
}

static void who_waits_for_a_share_is_woken(void **state)
{
    (void)state;
    pthread_t other;
    clock_test_clear();
    workqueue_set_share(q, 1);
    workqueue_add(q, "a/1", 0);
    workqueue_add(q, "a/2", 0);
    takes("a/1");
    assert_int_equal(pthread_create(&other, NULL, give_back, NULL), 0);
    uint64_t begun = clock_mono_ms();
    char *key = workqueue_take(q, 20000);
    assert_non_null(key);
    assert_true(clock_mono_ms() - begun < 10000);
    mem_free(key);
    pthread_join(other, NULL);
}

static void failures_back_off(void **state)
{
    (void)state;
    uint64_t base = 50, now = 0;
    for (unsigned n = 0; n < 20; n++) {
        workqueue_add(q, "a", 0);
        takes("a");
        uint64_t delay = workqueue_retry(q, "a");
        assert_in_range(delay, base / 2, base);
        assert_int_equal(workqueue_failures(q, "a"), n + 1);
        workqueue_done(q, "a");
        clock_test_advance(delay - 1);
        takes(NULL);
        clock_test_advance(1);
        takes("a");
        workqueue_done(q, "a");
        now += delay;
        base = MIN(base * 2, 60000u);
    }
    assert_true(now > 60000);
    workqueue_add(q, "a", 0);
    takes("a");
    workqueue_forget(q, "a");
    assert_int_equal(workqueue_failures(q, "a"), 0);
    assert_in_range(workqueue_retry(q, "a"), 25, 50);
    workqueue_done(q, "a");
}

static void another_key_does_not_wait_for_one_that_fails(void **state)
{
    (void)state;
    workqueue_add(q, "bad", 0);
    takes("bad");
    for (int i = 0; i < 8; i++)
        (void)workqueue_retry(q, "bad");
    workqueue_done(q, "bad");
    workqueue_add(q, "good", 0);
    takes("good");
    takes(NULL);
    workqueue_add(q, "bad", 0); /* a change of the object is looked at without delay */
    takes("bad");
}

static void nothing_is_handed_out_after_shutdown(void **state)
{
    (void)state;
    workqueue_add(q, "a", 0);
    workqueue_add(q, "b", 0);
    workqueue_add(q, "c", 10);
    takes("a");
    workqueue_shutdown(q);
    workqueue_add(q, "d", 0);
    clock_test_advance(1000);
    takes(NULL);
    assert_null(workqueue_take(q, 3600000)); /* at once */
    (void)workqueue_retry(q, "a");           /* who was at work may still finish */
    workqueue_done(q, "a");
    takes(NULL);
}

/* ---- threads ---- */

#define KEYS 16
#define WORKERS 4
#define ADDS 4000

static atomic_int busy[KEYS], wanted[KEYS], seen[KEYS], bad, taken;

static void *consume(void *arg)
{
    (void)arg;
    for (char *key; (key = workqueue_take(q, 3600000)); mem_free(key)) {
        int k = key[0] - 'a';
        if (atomic_fetch_add(&busy[k], 1) != 0)
            atomic_fetch_add(&bad, 1);
        atomic_store(&seen[k], atomic_load(&wanted[k]));
        atomic_fetch_add(&taken, 1);
        atomic_fetch_sub(&busy[k], 1);
        if (atomic_load(&taken) % 7 == 0)
            (void)workqueue_retry(q, key);
        else
            workqueue_forget(q, key);
        workqueue_done(q, key);
    }
    return NULL;
}

static void *produce(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < ADDS; i++) {
        int k = rand_r(&seed) % KEYS;
        char key[2] = {(char)('a' + k), 0};
        atomic_fetch_add(&wanted[k], 1);
        workqueue_add(q, key, rand_r(&seed) % 4 == 0);
    }
    return NULL;
}

static bool all_seen(void)
{
    for (int k = 0; k < KEYS; k++)
        if (atomic_load(&seen[k]) != atomic_load(&wanted[k]))
            return false;
    return true;
}

static void many_threads_lose_nothing_and_share_no_key(void **state)
{
    (void)state;
    pthread_t producers[2], consumers[WORKERS];
    clock_test_clear();
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&consumers[i], NULL, consume, NULL), 0);
    for (uintptr_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, produce, (void *)(i + 1)), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(producers[i], NULL);
    for (uint64_t end = clock_mono_ms() + 20000; !all_seen() && clock_mono_ms() < end;)
        sched_yield();
    assert_true(all_seen());
    workqueue_shutdown(q);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(consumers[i], NULL);
    assert_int_equal(bad, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(a_key_waits_once),
                                       T(a_key_that_is_processed_comes_again_once),
                                       T(delays_are_kept_in_order),
                                       T(the_earlier_time_counts),
                                       T(who_waits_longest_goes_first),
                                       T(namespaces_take_turns),
                                       T(a_namespace_has_its_share),
                                       T(who_waits_for_a_share_is_woken),
                                       T(failures_back_off),
                                       T(another_key_does_not_wait_for_one_that_fails),
                                       T(nothing_is_handed_out_after_shutdown),
                                       T(many_threads_lose_nothing_and_share_no_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
