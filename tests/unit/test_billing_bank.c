/* The bank: grants never exceed what there is, through lost answers, restarts, gateways that go and records that come late. Time stands still but where a test moves it. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/metrics.h"
#include "billing/bank.h"

#define LEASE_MS 30000
#define LINGER_MS (15 * 60 * 1000)
#define NOW 1790000000000 /* 2026-09-21 */
#define NAME "key|demo|k|Total|EUR"

static char dir[64], file[96];
static struct bank *bank;

/* What a gateway says of itself. */
struct teller {
    const char *name, *incarnation;
    int64_t turn, sequence, held, left;
    int64_t granted; /* by the last answer */
    bool final, recalled;
};

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-bank-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(file, sizeof(file), "%s/leases", dir);
    clock_test_set(1000000, NOW);
    bank = bank_new(file, LEASE_MS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bank_free(bank);
    clock_test_clear();
    (void)unlink(file);
    return rmdir(dir);
}

static void restart(void)
{
    bank_free(bank);
    bank = bank_new(file, LEASE_MS);
}

static int question(struct teller *t, int64_t amount, int64_t need, int64_t least, json_t **ret, bool *ret_behind)
{
    struct err err = ERR_INIT;
    json_t *q = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I}", "name", NAME, "scope", "key", "project", "demo", "owner", "k", "period", "Total", "currency", "EUR", "number", 0, "amount",
                          (json_int_t)amount, "held", (json_int_t)t->held, "left", (json_int_t)t->left);
    if (need >= 0) {
        json_object_set_new(q, "need", json_integer(need));
        json_object_set_new(q, "needLeast", json_integer(least));
    }
    JSON_AUTO ask = json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:[o]}", "gateway", t->name, "incarnation", t->incarnation, "turn", (json_int_t)++t->turn, "journal", t->name, "journalID", "id", "sequence",
                              (json_int_t)t->sequence, "budgets", q);
    return bank_lease(bank, ask, ret, ret_behind, &err);
}

/* Asks, and takes what is answered. */
static int64_t asks(struct teller *t, int64_t amount, int64_t need, int64_t least)
{
    JSON_AUTO answer = NULL;
    bool behind;
    assert_int_equal(question(t, amount, need, least, &answer, &behind), 0);
    const json_t *b = json_array_get(json_object_get(answer, "budgets"), 0);
    t->granted = json_int(b, "grant", -1);
    t->final = json_flag(b, "final", false);
    t->recalled = json_flag(b, "recall", false);
    t->held += t->granted;
    t->left += t->granted;
    return t->granted;
}

/* A request has reserved, run and been recorded; the record is in the journal, not yet in the ledger. */
static void spends(struct teller *t, int64_t cost)
{
    t->held -= cost;
    t->left -= cost;
    t->sequence++;
}

static void collect(struct teller *t, int64_t cost)
{
    if (cost)
        bank_count(bank, &(struct usage){.project = STR("demo"), .key = STR("k"), .tenant = STR("t"), .currency = STR("EUR"), .cost = cost, .start_ms = NOW});
    bank_collected(bank, t->name, "id", (uint64_t)t->sequence);
}

static void all_that_there_is_and_no_more(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"}, b = {.name = "b", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 60, 1), 60);
    assert_int_equal(asks(&b, 100, 60, 1), 40);
    assert_int_equal(asks(&b, 100, 90, 90), 0);
    assert_false(b.final); /* a may have some to give back */
    a.left = 0;
    assert_int_equal(asks(&a, 100, -1, 0), 0);
    assert_int_equal(asks(&b, 100, 90, 90), 0);
    assert_true(b.final);
}

static void a_quarter_of_what_is_free_is_given_ahead(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"};
    assert_int_equal(asks(&a, 1000, 10, 10), 250);
}

static void what_others_need_is_called_back(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"}, b = {.name = "b", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 100, 1), 100);
    assert_int_equal(asks(&b, 100, 30, 30), 0);
    asks(&a, 100, -1, 0);
    assert_true(a.recalled);
    a.held = a.left = 0;
    asks(&a, 100, -1, 0);
    assert_int_equal(asks(&b, 100, 30, 30), 30);
}

static void what_is_used_is_counted_until_its_record_has_come(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 100, 1), 100);
    spends(&a, 70);
    assert_int_equal(asks(&a, 100, 100, 100), 0); /* it holds 30, and 70 are nobody knows where */
    assert_int_equal(asks(&a, 200, 200, 200), 0); /* nothing is granted before the record has come, though there would be 100 */
    collect(&a, 70);
    assert_int_equal(asks(&a, 200, 130, 130), 100);
    assert_int_equal(a.held, 130);
}

static void what_was_granted_is_not_given_twice_after_a_restart(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"}, b = {.name = "b", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 60, 1), 60);
    restart();
    assert_int_equal(asks(&b, 100, 100, 1), 40);
    restart();
    assert_int_equal(asks(&a, 100, -1, 0), 0); /* says that it has 60 */
    assert_int_equal(asks(&b, 100, 100, 100), 0);
}

static void an_answer_that_was_lost_comes_back_with_the_next_question(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"};
    JSON_AUTO lost = NULL;
    bool behind;
    assert_int_equal(question(&a, 100, 60, 1, &lost, &behind), 0);
    assert_int_equal(asks(&a, 100, 100, 1), 100);
}

static void an_older_question_is_refused(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1", .turn = 7}, late = {.name = "a", .incarnation = "1", .turn = 3};
    JSON_AUTO answer = NULL;
    bool behind;
    asks(&a, 100, 10, 1);
    assert_int_equal(question(&late, 100, 10, 1, &answer, &behind), ERR_CONFLICT);
    struct teller anew = {.name = "a", .incarnation = "2"};
    asks(&anew, 100, 100, 1); /* another process of that name counts from the beginning */
    assert_int_equal(anew.granted, 100);
}

static void who_is_silent_loses_it_long_after_his_lease(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"}, b = {.name = "b", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 100, 1), 100);
    clock_test_advance(LEASE_MS + LINGER_MS - 1000);
    assert_int_equal(asks(&b, 100, 50, 50), 0);
    clock_test_advance(2000);
    assert_int_equal(asks(&b, 100, 50, 50), 50);
}

static void who_leaves_gives_it_back_when_its_last_record_has_come(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct teller a = {.name = "a", .incarnation = "1"}, b = {.name = "b", .incarnation = "1"};
    JSON_AUTO answer = NULL;
    bool behind = false;
    assert_int_equal(asks(&a, 100, 100, 1), 100);
    spends(&a, 30);
    JSON_AUTO leave = json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:b}", "gateway", "a", "incarnation", "1", "turn", (json_int_t)++a.turn, "journal", "a", "journalID", "id", "sequence",
                                (json_int_t)a.sequence, "leaving", 1);
    ASSERT_OK(bank_lease(bank, leave, &answer, &behind, &err));
    assert_true(behind);
    assert_int_equal(asks(&b, 100, 100, 70), 0);
    collect(&a, 30);
    assert_int_equal(asks(&b, 100, 100, 70), 70);
    restart(); /* the file knows it too */
    assert_int_equal(asks(&b, 200, 200, 1), 130);
}

static void with_a_file_that_cannot_be_read_nothing_is_granted_until_all_leases_are_over(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct teller a = {.name = "a", .incarnation = "1"};
    bank_free(bank);
    ASSERT_OK(file_write(file, STR("{\"version\":9}"), 0600, &err));
    bank = bank_new(file, LEASE_MS);
    assert_int_equal(asks(&a, 100, 50, 1), 0);
    assert_false(a.final); /* it may come */
    clock_test_advance(LEASE_MS + LINGER_MS + 1);
    assert_int_equal(asks(&a, 100, 50, 50), 50);
}

static void a_file_that_cannot_be_written_grants_nothing(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"};
    JSON_AUTO answer = NULL;
    bool behind;
    char away[112];
    snprintf(away, sizeof(away), "%s.away", dir);
    assert_int_equal(rename(dir, away), 0);
    assert_true(question(&a, 100, 50, 1, &answer, &behind) < 0);
    assert_int_equal(rename(away, dir), 0);
    assert_int_equal(asks(&a, 100, 100, 1), 100); /* and what it refused to say is not lost */
}

static bool shows(const char *name, int64_t value)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    char line[256];
    sbuf_init(&text, 1 << 20);
    metrics_write(&text);
    sbuf_add_char(&text, 0);
    snprintf(line, sizeof(line), "%s{scope=\"key\",project=\"demo\",owner=\"k\",period=\"Total\",currency=\"EUR\"} %lld\n", name, (long long)value);
    return strstr(text.ptr, line) != NULL;
}

static void what_is_used_is_shown_while_somebody_asks(void **state)
{
    (void)state;
    struct teller a = {.name = "a", .incarnation = "1"};
    assert_int_equal(asks(&a, 100, 100, 1), 100);
    spends(&a, 70);
    collect(&a, 70);
    asks(&a, 100, -1, 0);
    assert_true(shows("seki_budget_used_micros", 70) && shows("seki_budget_amount_micros", 100));
    clock_test_advance(59 * 60 * 1000);
    bank_awake(bank);
    assert_true(shows("seki_budget_used_micros", 70));
    clock_test_advance(2 * 60 * 1000);
    bank_awake(bank);
    assert_true(shows("seki_budget_used_micros", 0) && shows("seki_budget_amount_micros", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_that_there_is_and_no_more, setup, teardown),
        cmocka_unit_test_setup_teardown(a_quarter_of_what_is_free_is_given_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(what_others_need_is_called_back, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_used_is_counted_until_its_record_has_come, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_granted_is_not_given_twice_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_that_was_lost_comes_back_with_the_next_question, setup, teardown),
        cmocka_unit_test_setup_teardown(an_older_question_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_silent_loses_it_long_after_his_lease, setup, teardown),
        cmocka_unit_test_setup_teardown(who_leaves_gives_it_back_when_its_last_record_has_come, setup, teardown),
        cmocka_unit_test_setup_teardown(with_a_file_that_cannot_be_read_nothing_is_granted_until_all_leases_are_over, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_used_is_shown_while_somebody_asks, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_written_grants_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
