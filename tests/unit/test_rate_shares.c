/* Rates over several gateways: both sides of the lease (gateway/rate_lease.h, billing/shares.h) against one bucket that counts what all let through. */
#include "unit.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/clock.h"
#include "billing/shares.h"
#include "gateway/rate_lease.h"

#define MS 1000000ull
#define GATEWAYS 5
#define MAX_TOKENS 100
#define MAX_RUNNING 7
#define LEASE_MS 2000
#define T0_MS 1000000ull

struct gateway {
    struct limit_set *set;
    struct rate_lease *lease;
    struct limit limits[LIMIT_SCOPES];
    char name[16], incarnation[16];
    struct limit_hold holds[MAX_RUNNING + 1];
    bool alive;
};

static struct world {
    struct gateway gateways[GATEWAYS];
    struct shares *shares; /* NULL: control is down */
    uint64_t now_ms;
    double bucket; /* what is in the one bucket … */
    uint64_t bucket_ms;
    double least;
    int64_t running, most_running, passed, lives, epoch;
    unsigned random;
    char dir[32], file[64]; /* where gateways write down what they have; "": nowhere */
} w;

static unsigned dice(unsigned n)
{
    w.random = w.random * 1103515245u + 12345u;
    return (w.random >> 16) % n;
}

static uint64_t now_ns(void)
{
    return w.now_ms * MS;
}

static void flow(void)
{
    w.bucket = fmin(w.bucket + (double)(w.now_ms - w.bucket_ms) * MAX_TOKENS / 60000.0, MAX_TOKENS);
    w.bucket_ms = w.now_ms;
}

static void pass_time(uint64_t ms)
{
    w.now_ms += ms;
    flow();
    if (w.shares)
        shares_awake(w.shares, w.now_ms);
}

static void start_control(void)
{
    w.shares = shares_new(LEASE_MS, w.now_ms, w.epoch += 1000);
}

static void stop_control(void)
{
    shares_free(w.shares);
    w.shares = NULL;
}

static const char *file_of(int i)
{
    snprintf(w.file, sizeof(w.file), "%s/g%d.shares", w.dir, i);
    return w.file;
}

/* other: -1, or whose file the gateway of the other name writes. */
static void start_beside(struct gateway *g, int i, int other)
{
    CLEANUP(mem_freep) char *file = w.dir[0] ? xstrdup(file_of(i)) : NULL;
    *g = (struct gateway){.set = limit_set_new(), .alive = true};
    snprintf(g->name, sizeof(g->name), "g%d", i);
    snprintf(g->incarnation, sizeof(g->incarnation), "%lld", (long long)++w.lives);
    g->lease = rate_lease_new(g->set, file, other < 0 ? NULL : file_of(other));
    g->limits[LIMIT_KEY] = (struct limit){.counter = limit_take(g->set, "key a/k", (int64_t[]){0, MAX_TOKENS, MAX_RUNNING}, 0), .max = {0, MAX_TOKENS, MAX_RUNNING}};
}

static void start(struct gateway *g, int i)
{
    start_beside(g, i, -1);
}

/* As by SIGKILL. */
static void end(struct gateway *g)
{
    if (!g->alive)
        return;
    for (size_t i = 0; i < ARRAY_LEN(g->holds); i++)
        w.running -= g->holds[i].held;
    rate_lease_free(g->lease);
    limit_counter_unref(g->limits[LIMIT_KEY].counter);
    limit_set_free(g->set);
    g->alive = false;
}

/* lost: 1 the question, 2 the answer. */
static bool ask(struct gateway *g, int lost)
{
    JSON_AUTO spec = json_object();
    JSON_AUTO status = json_object();
    rate_lease_ask(g->lease, spec, now_ns());
    if (w.shares && lost != 1)
        shares_answer(w.shares, g->name, g->incarnation, spec, w.now_ms, status);
    return rate_lease_answer(g->lease, w.shares && !lost ? status : NULL, now_ns());
}

static enum limit_result reserve(struct gateway *g, int64_t tokens, struct limit_refusal *why)
{
    for (size_t i = 0; i < ARRAY_LEN(g->holds); i++) {
        if (g->holds[i].held)
            continue;
        enum limit_result r = limit_reserve(&g->holds[i], g->limits, tokens, now_ns(), why);
        if (r == LIMIT_HELD) {
            w.passed += tokens;
            w.bucket -= (double)tokens;
            w.least = fmin(w.least, w.bucket);
            w.running++;
            w.most_running = MAX(w.most_running, w.running);
        }
        return r;
    }
    return LIMIT_OVER;
}

static void settle(struct gateway *g, size_t i, int64_t used)
{
    struct limit_hold *h = &g->holds[i];
    if (!h->held)
        return;
    w.bucket = fmin(w.bucket + (double)(h->tokens - used), MAX_TOKENS);
    w.passed -= h->tokens - used;
    limit_settle(h, used, false);
    w.running--;
}

static int setup(void **state)
{
    (void)state;
    w = (struct world){.now_ms = T0_MS, .bucket = MAX_TOKENS, .bucket_ms = T0_MS, .least = MAX_TOKENS, .random = 1};
    start_control();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < GATEWAYS; i++)
        end(&w.gateways[i]);
    shares_free(w.shares);
    if (w.dir[0])
        assert_int_equal(file_remove_tree(w.dir, NULL), 0);
    return 0;
}

static void rounds(int n, int count)
{
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < count; i++)
            if (w.gateways[i].alive)
                (void)ask(&w.gateways[i], 0);
        pass_time(50);
    }
}

static void start_all(int count)
{
    for (int i = 0; i < count; i++)
        start(&w.gateways[i], i);
    rounds(4, count);
}

/* Until control has its last word. */
static enum limit_result reserve_waiting(struct gateway *g, int64_t tokens, int count)
{
    struct limit_refusal why;
    enum limit_result r = reserve(g, tokens, &why);
    for (int i = 0; i < 60 && r == LIMIT_ASK; i++) {
        rate_lease_need(g->lease, why.counter, why.unit, why.wanted);
        rounds(1, count);
        r = reserve(g, tokens, &why);
    }
    return r;
}

static void the_only_one_has_all_of_it(void **state)
{
    (void)state;
    struct limit_refusal why;
    struct gateway *g = &w.gateways[0];
    start(g, 0);
    assert_int_equal(reserve(g, 1, &why), LIMIT_ASK); /* nobody knows yet whether it is alone */
    assert_true(ask(g, 0));
    assert_int_equal(reserve(g, MAX_TOKENS, &why), LIMIT_HELD);
    assert_int_equal(reserve(g, 1, &why), LIMIT_OVER);
    assert_int_equal(why.retry_ns, 600 * MS);
}

static void who_joins_finds_nothing_free_and_a_minute_later_his_part(void **state)
{
    (void)state;
    struct limit_refusal why;
    start_all(1);
    assert_int_equal(reserve(&w.gateways[0], MAX_TOKENS, &why), LIMIT_HELD);
    settle(&w.gateways[0], 0, MAX_TOKENS);
    start(&w.gateways[1], 1);
    rounds(4, 2);
    assert_int_equal(reserve_waiting(&w.gateways[1], 10, 2), LIMIT_OVER);
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[1], MAX_TOKENS / 2, &why), LIMIT_HELD);
    assert_int_equal(reserve(&w.gateways[0], MAX_TOKENS / 2, &why), LIMIT_HELD);
    assert_true(w.least >= -0.01);
}

static void what_others_do_not_use_comes_when_it_is_asked_for(void **state)
{
    (void)state;
    start_all(3);
    pass_time(60000);
    assert_int_equal(reserve_waiting(&w.gateways[2], MAX_TOKENS - 1, 3), LIMIT_HELD); /* a third of a hundred is 33 */
    assert_int_equal(reserve_waiting(&w.gateways[0], 30, 3), LIMIT_OVER);
    settle(&w.gateways[2], 0, MAX_TOKENS - 1);
    rounds(1200, 3);
    assert_int_equal(reserve_waiting(&w.gateways[0], MAX_TOKENS - 1, 3), LIMIT_HELD);
    assert_true(w.least >= -0.01);
}

static void retry_after_is_true(void **state)
{
    (void)state;
    struct limit_refusal why;
    start_all(2);
    pass_time(60000);
    assert_int_equal(reserve_waiting(&w.gateways[0], MAX_TOKENS - 1, 2), LIMIT_HELD);
    settle(&w.gateways[0], 0, MAX_TOKENS - 1);
    assert_int_equal(reserve_waiting(&w.gateways[0], 30, 2), LIMIT_OVER);
    assert_int_equal(reserve(&w.gateways[0], 30, &why), LIMIT_OVER);
    assert_in_range(why.retry_ns / MS, 14000, 18500);
    pass_time(why.retry_ns / MS + 1);
    assert_int_equal(reserve_waiting(&w.gateways[0], 30, 2), LIMIT_HELD);
}

static void requests_at_once_stay_below_the_limit_when_another_joins(void **state)
{
    (void)state;
    struct limit_refusal why;
    start_all(1);
    for (int i = 0; i < MAX_RUNNING; i++)
        assert_int_equal(reserve(&w.gateways[0], 0, &why), LIMIT_HELD);
    start(&w.gateways[1], 1);
    rounds(4, 2);
    assert_int_equal(reserve_waiting(&w.gateways[1], 0, 2), LIMIT_OVER);
    settle(&w.gateways[0], 0, 0);
    rounds(30, 2);
    assert_int_equal(reserve_waiting(&w.gateways[1], 0, 2), LIMIT_HELD);
    assert_int_equal(w.most_running, MAX_RUNNING);
}

static void control_that_is_gone_changes_nothing(void **state)
{
    (void)state;
    struct limit_refusal why;
    start_all(2);
    pass_time(60000);
    stop_control();
    rounds(20, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reserve(&w.gateways[i], 50, &why), LIMIT_HELD);
        assert_int_equal(reserve(&w.gateways[i], 50, &why), LIMIT_ASK); /* nobody is there who could say */
    }
    start_control();
    shares_expect(w.shares, "g0", w.now_ms);
    shares_expect(w.shares, "g1", w.now_ms);
    assert_false(ask(&w.gateways[0], 0) && limit_parts(w.gateways[0].set) != 2);
    rounds(4, 2);
    assert_int_equal(limit_parts(w.gateways[0].set), 2);
    assert_true(w.least >= -0.01);
}

static void silence_while_control_sleeps_is_nobodys(void **state)
{
    (void)state;
    start_all(2);
    w.now_ms += 600000; /* it was stopped */
    flow();
    (void)ask(&w.gateways[0], 0);
    assert_int_equal(shares_gateways(w.shares), 2);
    rounds(4 * LEASE_MS / 50, 1);
    assert_int_equal(shares_gateways(w.shares), 1);
    assert_int_equal(limit_parts(w.gateways[0].set), 1);
}

static void write_down(void)
{
    snprintf(w.dir, sizeof(w.dir), "/tmp/seki-shares-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
}

static void who_starts_while_control_is_away_goes_on_with_what_it_had(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(2);
    pass_time(60000);
    rounds(2, 2);
    assert_int_equal(reserve_waiting(&w.gateways[0], 80, 2), LIMIT_HELD); /* 30 of them are the other's */
    settle(&w.gateways[0], 0, 80);
    end(&w.gateways[1]);
    stop_control();
    start(&w.gateways[1], 1);
    assert_int_equal(reserve(&w.gateways[1], 1, &why), LIMIT_ASK);
    assert_false(ask(&w.gateways[1], 0) && limit_parts(w.gateways[1].set));
    assert_true(rate_lease_resume(w.gateways[1].lease, now_ns()));
    assert_int_equal(limit_parts(w.gateways[1].set), 2);
    assert_int_equal(reserve(&w.gateways[1], 1, &why), LIMIT_ASK); /* what was free is not known any more */
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[0], 80, &why), LIMIT_HELD);
    assert_int_equal(reserve(&w.gateways[1], 21, &why), LIMIT_ASK);
    assert_int_equal(reserve(&w.gateways[1], 20, &why), LIMIT_HELD);
    assert_true(w.least >= -0.01);
    start_control(); /* it comes back: nothing is more than one bucket, whatever was said before */
    for (int i = 0; i < 2; i++)
        shares_expect(w.shares, i ? "g1" : "g0", w.now_ms);
    rounds(8, 2);
    assert_int_equal(limit_parts(w.gateways[1].set), 2);
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[1], 50, &why), LIMIT_HELD);
    assert_int_equal(reserve(&w.gateways[0], 50, &why), LIMIT_HELD);
    assert_true(w.least >= -0.01);
}

static void the_only_one_has_all_of_it_again(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(1);
    end(&w.gateways[0]);
    stop_control();
    start(&w.gateways[0], 0);
    assert_true(rate_lease_resume(w.gateways[0].lease, now_ns()));
    assert_int_equal(reserve(&w.gateways[0], MAX_TOKENS, &why), LIMIT_HELD);
}

/* As by SIGTERM. */
static void leave(int i, bool succeeded)
{
    rate_lease_leave(w.gateways[i].lease, succeeded);
    shares_leave(w.shares, w.gateways[i].name);
    end(&w.gateways[i]);
}

static void who_gave_its_share_back_does_not_take_it_again_while_control_is_away(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(2);
    leave(1, false);
    rounds(8, 1);
    pass_time(60000);
    stop_control();
    start(&w.gateways[1], 1);
    assert_true(rate_lease_resume(w.gateways[1].lease, now_ns()));
    rate_lease_alone(w.gateways[1].lease, now_ns());
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[0], MAX_TOKENS, &why), LIMIT_HELD); /* has all of it */
    assert_int_equal(reserve(&w.gateways[1], 1, &why), LIMIT_ASK);
    assert_true(w.least >= -0.01);
    settle(&w.gateways[0], 0, MAX_TOKENS);
    start_control();
    shares_expect(w.shares, "g0", w.now_ms);
    rounds(8, 2);
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[1], MAX_TOKENS / 2, &why), LIMIT_HELD);
    assert_true(w.least >= -0.01);
}

static void the_only_one_gives_its_share_to_nobody(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(1);
    leave(0, false);
    stop_control();
    start(&w.gateways[0], 0);
    assert_true(rate_lease_resume(w.gateways[0].lease, now_ns()));
    assert_int_equal(reserve(&w.gateways[0], 1, &why), LIMIT_HELD);
}

static void one_that_drains_does_not_write_over_what_its_successor_has(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(1);
    start_beside(&w.gateways[1], 1, 0); /* takes over from it */
    rounds(8, 2);
    pass_time(60000);
    assert_int_equal(reserve_waiting(&w.gateways[0], 80, 2), LIMIT_HELD); /* a connection that is still open: 30 of them are the successor's */
    (void)ask(&w.gateways[0], 0);
    end(&w.gateways[1]);
    stop_control();
    start_beside(&w.gateways[1], 1, 0);
    assert_true(rate_lease_resume(w.gateways[1].lease, now_ns()));
    pass_time(60000);
    assert_int_equal(reserve(&w.gateways[1], 21, &why), LIMIT_ASK);
    assert_int_equal(reserve(&w.gateways[1], 20, &why), LIMIT_HELD);
}

static void a_successor_goes_on_with_what_the_one_before_had_until_it_has_its_own(void **state)
{
    (void)state;
    write_down();
    start_all(2);
    leave(1, true);
    assert_false(file_exists(file_of(1)));
    end(&w.gateways[0]);
    stop_control();
    start_beside(&w.gateways[1], 1, 0);
    assert_true(rate_lease_resume(w.gateways[1].lease, now_ns()));
    assert_int_equal(limit_parts(w.gateways[1].set), 2);
}

static void a_file_that_is_none_is_no_share(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "{", "[]", "{\"version\":2,\"parts\":1,\"less\":[]}", "{\"version\":1,\"parts\":0,\"less\":[]}", "{\"version\":1,\"parts\":-3,\"less\":[]}",
                                      "{\"version\":1,\"parts\":2}", "{\"version\":1,\"parts\":2,\"less\":[{\"name\":\"key a/k\",\"unit\":\"tokens\",\"max\":100,\"share\":101}]}",
                                      "{\"version\":1,\"parts\":2,\"less\":[{\"name\":\"key a/k\",\"unit\":\"hours\",\"max\":100,\"share\":1}]}"};
    struct limit_refusal why;
    struct err err = ERR_INIT;
    write_down();
    stop_control();
    start(&w.gateways[0], 0);
    assert_false(rate_lease_resume(w.gateways[0].lease, now_ns()));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ASSERT_OK(file_write(file_of(0), str_of(bad[i]), 0600, &err));
        assert_false(rate_lease_resume(w.gateways[0].lease, now_ns()));
        assert_int_equal(reserve(&w.gateways[0], 1, &why), LIMIT_ASK);
    }
    rate_lease_alone(w.gateways[0].lease, now_ns());
    assert_int_equal(reserve(&w.gateways[0], 1, &why), LIMIT_HELD);
}

/* Everything at random. A gateway that is restarted has lost its count: the only one then begins with all, so there are always two. */
static void never_more_than_one_bucket_would(void **state)
{
    (void)state;
    struct limit_refusal why;
    write_down();
    start_all(2);
    for (int step = 0; step < 60000; step++) {
        int i = (int)dice(GATEWAYS);
        struct gateway *g = &w.gateways[i];
        unsigned what = dice(1000);
        pass_time(dice(40));
        if (!g->alive && i > 1 && what < 30) {
            start(g, i);
        } else if (!g->alive) {
            continue;
        } else if (what < 300) {
            int64_t n = dice(20) ? dice(12) : dice(MAX_TOKENS);
            if (reserve(g, n, &why) == LIMIT_ASK)
                rate_lease_need(g->lease, why.counter, why.unit, why.wanted);
        } else if (what < 600) {
            size_t h = dice(ARRAY_LEN(g->holds));
            settle(g, h, g->holds[h].tokens ? (int64_t)dice((unsigned)g->holds[h].tokens + 1) : 0);
        } else if (what < 990) {
            int chance = (int)dice(30);
            (void)ask(g, chance < 3 ? chance : 0);
        } else if (what < 994 && i > 1) {
            end(g); /* gone for good, or for less than its lease */
        } else if (what == 994) {
            stop_control();
            pass_time(dice(500));
            for (int k = 0; k < GATEWAYS; k++)
                if (w.gateways[k].alive && !dice(3)) { /* while control is away */
                    end(&w.gateways[k]);
                    start(&w.gateways[k], k);
                    assert_true(rate_lease_resume(w.gateways[k].lease, now_ns()));
                }
            for (int k = 0; k < 40; k++) {
                pass_time(dice(40));
                g = &w.gateways[dice(GATEWAYS)];
                if (g->alive)
                    (void)reserve(g, dice(12), &why);
                assert_true(w.least >= -0.01);
            }
            start_control();
            for (int k = 0; k < GATEWAYS; k++)
                shares_expect(w.shares, (char[]){'g', (char)('0' + k), 0}, w.now_ms);
        } else if (what == 995) {
            w.now_ms += 20000; /* all sleep */
            flow();
        }
        assert_true(w.least >= -0.01);
        assert_in_range(w.running, 0, MAX_RUNNING);
    }
    double most = MAX_TOKENS + (double)(w.now_ms - T0_MS) * MAX_TOKENS / 60000;
    print_message("%lld of %.0f tokens, %lld at once\n", (long long)w.passed, most, (long long)w.most_running);
    assert_true((double)w.passed > most / 4);
    assert_int_equal(w.most_running, MAX_RUNNING);
}

/* ---- threads ---- */

#define THREADS 3
#define MANY 1000000

static struct {
    struct limit limits[2][LIMIT_SCOPES];
    struct limit_set *sets[2];
    atomic_bool stop;
    atomic_llong running, most, passed;
} race;

static void *take_and_give(void *arg)
{
    struct limit *limits = arg;
    while (!atomic_load(&race.stop)) {
        struct limit_hold h = {0};
        struct limit_refusal why;
        if (limit_reserve(&h, limits, 3, now_ns(), &why) != LIMIT_HELD)
            continue;
        long long running = atomic_fetch_add(&race.running, 1) + 1, most = atomic_load(&race.most);
        while (running > most && !atomic_compare_exchange_weak(&race.most, &most, running))
            ;
        atomic_fetch_add(&race.passed, 2);
        atomic_fetch_sub(&race.running, 1);
        limit_settle(&h, 2, false);
    }
    return NULL;
}

/* Time stands still: what two gateways let through while shares go to and fro between them is at most one bucket. */
static void shares_that_move_while_they_are_used(void **state)
{
    (void)state;
    pthread_t threads[2 * THREADS];
    memset(&race, 0, sizeof(race));
    for (int i = 0; i < 2; i++) {
        race.sets[i] = limit_set_new();
        race.limits[i][LIMIT_KEY] = (struct limit){.counter = limit_take(race.sets[i], "key a/k", (int64_t[]){0, MANY, 4}, 0), .max = {0, MANY, 4}};
        limit_set_parts(race.sets[i], 2, false, now_ns() - 120000 * MS);
        for (int k = 0; k < THREADS; k++)
            assert_int_equal(pthread_create(&threads[i * THREADS + k], NULL, take_and_give, race.limits[i]), 0);
    }
    uint64_t begun_ms = clock_mono_ms();
    for (int round = 0; round < 20000 || (atomic_load(&race.passed) < MANY / 100 && clock_mono_ms() < begun_ms + 60000); round++) { /* all of it while they run */
        enum limit_unit u = round % 3 ? LIMIT_TOKENS : LIMIT_CONCURRENT;
        int from = round / 7 % 2;
        struct limit_counter *a = race.limits[from][LIMIT_KEY].counter, *b = race.limits[!from][LIMIT_KEY].counter;
        struct limit_report before = limit_report(race.sets[from], a, u, now_ns()), after;
        limit_give(race.sets[from], a, u, &(struct limit_recall){.amount = round % 5 ? 1 : MANY / 8, .restore = round % 4 ? 0 : MANY, .large = true}, now_ns());
        after = limit_report(race.sets[from], a, u, now_ns());
        limit_grow(race.sets[!from], b, u, before.share - after.share, after.given - before.given, now_ns());
    }
    atomic_store(&race.stop, true);
    for (int i = 0; i < 2 * THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_in_range(atomic_load(&race.most), 1, 4); /* counted after it was let in, and no longer before it is let go */
    assert_in_range(atomic_load(&race.passed), MANY / 100, MANY);
    for (int i = 0; i < 2; i++) {
        limit_counter_unref(race.limits[i][LIMIT_KEY].counter);
        limit_set_free(race.sets[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_only_one_has_all_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(who_joins_finds_nothing_free_and_a_minute_later_his_part, setup, teardown),
        cmocka_unit_test_setup_teardown(what_others_do_not_use_comes_when_it_is_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(retry_after_is_true, setup, teardown),
        cmocka_unit_test_setup_teardown(requests_at_once_stay_below_the_limit_when_another_joins, setup, teardown),
        cmocka_unit_test_setup_teardown(control_that_is_gone_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(who_starts_while_control_is_away_goes_on_with_what_it_had, setup, teardown),
        cmocka_unit_test_setup_teardown(the_only_one_has_all_of_it_again, setup, teardown),
        cmocka_unit_test_setup_teardown(who_gave_its_share_back_does_not_take_it_again_while_control_is_away, setup, teardown),
        cmocka_unit_test_setup_teardown(the_only_one_gives_its_share_to_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_drains_does_not_write_over_what_its_successor_has, setup, teardown),
        cmocka_unit_test_setup_teardown(a_successor_goes_on_with_what_the_one_before_had_until_it_has_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_none_is_no_share, setup, teardown),
        cmocka_unit_test_setup_teardown(silence_while_control_sleeps_is_nobodys, setup, teardown),
        cmocka_unit_test_setup_teardown(shares_that_move_while_they_are_used, setup, teardown),
        cmocka_unit_test_setup_teardown(never_more_than_one_bucket_would, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
