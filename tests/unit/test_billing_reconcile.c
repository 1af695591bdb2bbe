/* The usage ledger against engines' counters: what is the same, what was made for attempts that were cut off, what nothing explains; restarts, busy engines, late records. */
#include "unit.h"

#include "billing/reconcile.h"

#define T0 1800000000000LL
#define R "demo/chat-0"

static struct reconcile *r;
static int64_t now;

static int set_up(void **state UNUSED)
{
    r = reconcile_new();
    now = T0;
    return 0;
}

static int tear_down(void **state UNUSED)
{
    reconcile_free(r);
    return 0;
}

static void attempt(int64_t start, int64_t end, int64_t read, int64_t cached, int64_t written, bool exact)
{
    const struct usage_work w = {.replica = STR(R), .start_ms = T0 + start, .end_ms = T0 + end, .read = read, .cached = cached, .written = written, .exact = exact};
    reconcile_count(r, &(struct usage){.work = &w, .work_count = 1, .has_work = true}, now);
}

static void reading_of(int64_t at, int64_t number, int64_t running, int64_t read, int64_t written, bool counts_cached)
{
    now = T0 + at + 5;
    reconcile_reading(r, &(struct engine_reading){.replica = R, .from_ms = T0 + at - 2, .at_ms = T0 + at, .started_ms = number, .running = running, .read = read, .written = written,
                                                  .counts_cached = counts_cached}, now);
}

static void reading(int64_t at, int64_t read, int64_t written)
{
    reading_of(at, 1, 0, read, written, false);
}

/* What is told when the records of then are there. */
static struct reconcile_result told(void)
{
    struct reconcile_result ret;
    now += RECONCILE_SETTLE_MS + 1;
    assert_true(reconcile_step(r, now, &ret));
    assert_string_equal(ret.replica, R);
    return ret;
}

static void expect(enum reconcile_outcome outcome, int64_t read, int64_t written)
{
    struct reconcile_result got = told();
    if (got.outcome != outcome || (outcome != RECONCILE_BEGUN && outcome != RECONCILE_SKIPPED && (got.read != read || got.written != written)))
        fail_msg("told: %d, %lld read, %lld written, %zu inexact", got.outcome, (long long)got.read, (long long)got.written, got.inexact);
}

static void test_what_is_the_same(void **state UNUSED)
{
    reading(0, 100, 50);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 4, 7, true); /* of those read 4 were in its cache */
    reading(10000, 106, 57);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(20000, 106, 57);
    expect(RECONCILE_EQUAL, 0, 0);
    for (int i = 0; i < 100; i++)
        attempt(21000 + i * 100, 21050 + i * 100, 3, 0, 2, true);
    reading(40000, 406, 257);
    expect(RECONCILE_EQUAL, 0, 0);
}

static void test_counts_with_what_was_cached(void **state UNUSED)
{
    reading_of(0, 1, 0, 0, 0, true);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 4, 7, true);
    reading_of(10000, 1, 0, 10, 7, true);
    expect(RECONCILE_EQUAL, 0, 0);
}

static void test_a_difference_is_told_once(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 0, 7, true);
    reading(10000, 15, 9);
    expect(RECONCILE_EQUAL, 0, 0); /* perhaps a record is late */
    reading(20000, 15, 9);
    expect(RECONCILE_DIFFERS, 5, 2);
    for (int i = 3; i < 6; i++) {
        reading(i * 10000, 15, 9);
        expect(RECONCILE_EQUAL, 0, 0);
    }
    reading(60000, 15, 12);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(70000, 15, 13);
    expect(RECONCILE_DIFFERS, 0, 3); /* what both had */
    reading(80000, 15, 13);
    expect(RECONCILE_DIFFERS, 0, 1);
}

static void test_more_was_billed_than_made(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 0, 7, true);
    reading(10000, 10, 6);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(20000, 10, 6);
    expect(RECONCILE_DIFFERS, 0, -1);
    attempt(21000, 22000, 5, 0, 5, false); /* no estimate explains that */
    reading(40000, 15, 9);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(50000, 15, 9);
    expect(RECONCILE_DIFFERS, 0, -2);
}

static void test_attempts_that_were_cut(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 8, 0, 3, false);
    attempt(1500, 2500, 0, 0, 0, false);
    reading(5000, 20, 10);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(8000, 20, 10); /* the engine may not have noticed all of it */
    struct reconcile_result got = told();
    assert_true(got.outcome == RECONCILE_UNSEEN && got.read == 12 && got.written == 7 && got.inexact == 2);
    reading(20000, 26, 14);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(30000, 26, 14);
    expect(RECONCILE_UNSEEN, 6, 4);
    reading(40000, 26, 15); /* and that has nothing to do with them */
    expect(RECONCILE_EQUAL, 0, 0);
    reading(50000, 26, 15);
    expect(RECONCILE_DIFFERS, 0, 1);
}

static void test_an_estimate_that_was_too_high(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 12, 0, 3, false);
    reading(20000, 8, 3);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(30000, 8, 3);
    expect(RECONCILE_UNSEEN, -4, 0);
}

static void test_a_record_that_comes_late(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    reading(10000, 10, 7); /* the engine has done with it; the client reads slowly */
    expect(RECONCILE_EQUAL, 0, 0);
    attempt(1000, 15000, 10, 0, 7, true);
    reading(20000, 10, 7);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(30000, 10, 7);
    expect(RECONCILE_EQUAL, 0, 0);
}

static void test_engines_that_begin_anew(void **state UNUSED)
{
    reading(0, 100, 50);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 0, 7, true);
    reading_of(5000, 2, 0, 0, 0, false);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(6000, 7000, 10, 0, 7, true);
    reading_of(15000, 2, 0, 10, 7, false);
    expect(RECONCILE_EQUAL, 0, 0);
    reading_of(25000, 2, 0, 3, 7, false); /* a counter fell: it is another process of a server elsewhere */
    expect(RECONCILE_BEGUN, 0, 0);
    reading_of(35000, 2, 0, 3, 7, false);
    expect(RECONCILE_EQUAL, 0, 0);
}

static void test_engines_at_work(void **state UNUSED)
{
    struct reconcile_result ret;
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 10, 0, 7, true);
    reading_of(10000, 1, 2, 25, 12, false); /* two run: parts of them are counted */
    now += RECONCILE_SETTLE_MS + 1;
    assert_false(reconcile_step(r, now, &ret));
    now = T0 + 20000;
    attempt(9000, 19000, 10, 0, 9, true);
    assert_false(reconcile_step(r, now, &ret));
    now = T0 + 30000;
    attempt(11000, 12000, 100, 0, 100, true); /* of after it */
    assert_false(reconcile_step(r, now, &ret));
    attempt(9500, 29000, 6, 0, 20, true);
    assert_true(reconcile_step(r, now, &ret) && ret.outcome == RECONCILE_EQUAL);
    reading(50000, 126, 136);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(60000, 126, 136);
    expect(RECONCILE_EQUAL, 0, 0);
}

static void test_what_runs_for_very_long(void **state UNUSED)
{
    struct reconcile_result ret;
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    reading_of(10000, 1, 1, 25, 12, false);
    now += RECONCILE_GIVE_UP_MS + 1;
    assert_true(reconcile_step(r, now, &ret) && ret.outcome == RECONCILE_SKIPPED);
    now += 1000000;
    attempt(9000, now - T0, 25, 0, 1000, true);
    reading(now - T0 + 20000, 25, 1000);
    expect(RECONCILE_EQUAL, 0, 0); /* it may have been counted before, in part */
}

static bool known(void *arg, const char *replica)
{
    return arg && !strcmp(arg, replica);
}

static void test_what_is_gone_is_forgotten(void **state UNUSED)
{
    struct reconcile_result ret;
    char name[] = R;
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    reconcile_forget(r, known, name);
    reading(10000, 0, 0);
    expect(RECONCILE_EQUAL, 0, 0);
    reconcile_forget(r, known, NULL);
    reading(20000, 9, 9);
    expect(RECONCILE_BEGUN, 0, 0);
    now = T0 + 100000;
    reading_of(30000, 1, 0, 9, 9, false);
    now = T0 + 200000;
    reconcile_reading(r, &(struct engine_reading){.replica = R, .from_ms = T0 + 40000, .at_ms = T0 + 40001}, now); /* of long ago: attempts since then are not held */
    assert_true(reconcile_step(r, now, &ret) && ret.outcome == RECONCILE_EQUAL);
    assert_false(reconcile_step(r, now, &ret));
}

/* The engine counts what it made for who had left in two steps. */
static void test_what_was_cut_explains_all_that_comes_of_it(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 11, 0, 1, false);
    reading(15000, 11, 3);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(18000, 11, 9);
    expect(RECONCILE_UNSEEN, 0, 2);
    reading(21000, 11, 9);
    expect(RECONCILE_UNSEEN, 0, 6);
    reading(24000, 11, 12); /* and nothing else does */
    expect(RECONCILE_EQUAL, 0, 0);
    reading(27000, 11, 12);
    expect(RECONCILE_DIFFERS, 0, 3);
}

/* It had hardly begun when the baseline was made, and runs on. */
static void test_who_ran_at_the_beginning_holds_nothing_up(void **state UNUSED)
{
    reading(1000, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1100, 9000, 11, 0, 1, false);
    reading_of(4000, 1, 1, 11, 1, false);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(21000, 11, 7);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(24000, 11, 7);
    expect(RECONCILE_UNSEEN, 0, 6);
}

/* Another request, which the engine may have counted or not, hides a part at first. */
static void test_what_was_cut_explains_what_others_have_hidden(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 11, 0, 1, false);
    attempt(14000, 17000, 4, 0, 3, true);
    reading(15000, 11, 8);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(16000, 11, 8);
    expect(RECONCILE_UNSEEN, 0, 4);
    reading(21000, 15, 11);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(24000, 15, 11);
    expect(RECONCILE_UNSEEN, 0, 3);
    reading(27000, 15, 12);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(30000, 15, 12);
    expect(RECONCILE_DIFFERS, 0, 1);
}

/* One attempt that was cut does not hide an engine that makes more than is recorded at each reading. */
static void test_what_was_cut_does_not_explain_for_ever(void **state UNUSED)
{
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(1000, 2000, 11, 0, 1, false);
    reading(15000, 11, 4);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(18000, 11, 7);
    expect(RECONCILE_UNSEEN, 0, 3);
    reading(21000, 11, 10);
    expect(RECONCILE_UNSEEN, 0, 3);
    reading(24000, 11, 13);
    expect(RECONCILE_DIFFERS, 0, 3);
    attempt(25000, 26000, 5, 0, 1, false); /* another one does anew */
    reading(40000, 16, 17);
    expect(RECONCILE_UNSEEN, 0, 3);
}

/* However many there are: a reading of before them has none of them. */
static void test_very_many_that_a_reading_does_not_have(void **state UNUSED)
{
    const int64_t many = 1000100;
    struct reconcile_result ret;
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    now = T0 + 15000;
    for (int64_t i = 0; i < many; i++)
        attempt(12000, 15000, 2, 0, 1, true);
    assert_false(reconcile_step(r, now, &ret));
    reading(10000, 0, 0);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(11000, 0, 0);
    expect(RECONCILE_EQUAL, 0, 0);
    reading(30000, 2 * many, many);
    expect(RECONCILE_EQUAL, 0, 0);
}

/* One of many requests runs for minutes: what comes meanwhile belongs to the next reading, whether
 * the one that waits is compared or given up. */
static void while_a_reading_waits(bool given_up, int64_t unseen)
{
    struct reconcile_result ret;
    const int64_t length = given_up ? RECONCILE_GIVE_UP_MS / 1000 + 30 : 600;
    reading(0, 0, 0);
    expect(RECONCILE_BEGUN, 0, 0);
    attempt(2000, 4000, 100, 0, 50, true);
    reading_of(10000, 1, 1, 100, 50, false);
    int64_t n = 0;
    bool skipped = false;
    for (int64_t t = 11; t < length; t++, n++) {
        now = T0 + t * 1000;
        attempt(t * 1000 - 500, t * 1000, 2, 0, 1, !unseen || t != 300);
        if (reconcile_step(r, now, &ret)) {
            assert_true(given_up && !skipped && ret.outcome == RECONCILE_SKIPPED);
            skipped = true;
        }
    }
    assert_int_equal(skipped, given_up);
    now = T0 + length * 1000;
    attempt(5000, length * 1000, 30, 0, 500, true);
    if (!given_up)
        expect(RECONCILE_EQUAL, 0, 0);
    for (int i = 1; i <= 2; i++) {
        reading((length + 15 * i) * 1000, 130 + 2 * n, 550 + n + unseen);
        expect(i == 2 && unseen ? RECONCILE_UNSEEN : RECONCILE_EQUAL, 0, i == 2 ? unseen : 0);
    }
}

static void test_what_comes_while_a_reading_waits(void **state UNUSED)
{
    while_a_reading_waits(false, 0);
}

static void test_what_comes_while_a_reading_is_given_up(void **state UNUSED)
{
    while_a_reading_waits(true, 0);
}

static void test_what_was_cut_while_a_reading_waits(void **state UNUSED)
{
    while_a_reading_waits(false, 7);
}

static void test_what_was_cut_while_a_reading_is_given_up(void **state UNUSED)
{
    while_a_reading_waits(true, 7);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_the_same),
        TEST(test_counts_with_what_was_cached),
        TEST(test_a_difference_is_told_once),
        TEST(test_more_was_billed_than_made),
        TEST(test_attempts_that_were_cut),
        TEST(test_an_estimate_that_was_too_high),
        TEST(test_a_record_that_comes_late),
        TEST(test_engines_that_begin_anew),
        TEST(test_engines_at_work),
        TEST(test_what_runs_for_very_long),
        TEST(test_what_is_gone_is_forgotten),
        TEST(test_what_was_cut_explains_all_that_comes_of_it),
        TEST(test_who_ran_at_the_beginning_holds_nothing_up),
        TEST(test_what_was_cut_explains_what_others_have_hidden),
        TEST(test_what_was_cut_does_not_explain_for_ever),
        TEST(test_very_many_that_a_reading_does_not_have),
        TEST(test_what_comes_while_a_reading_waits),
        TEST(test_what_comes_while_a_reading_is_given_up),
        TEST(test_what_was_cut_while_a_reading_waits),
        TEST(test_what_was_cut_while_a_reading_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
