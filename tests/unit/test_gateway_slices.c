/* Leases at the gateway: who waits is called again when control has answered, and what is said to control. Control is a function. */
#include "fake_api.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/file.h"
#include "gateway/limit_shares.h"
#include "gateway/slices.h"
#include "loop/loop.h"

static char dir[64];
static struct fake_api api;
static struct client *client;
static struct journal *journal;
static struct budget_set *budgets;
static struct limit_set *limits;
static struct slices *slices;
static struct loop *loop;
static struct slices_inbox inbox;
static struct budget budget;

#define HOLD_S 12

/* What control says, and what it was told: under a lock. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t released;
    bool down, held; /* held: it does not answer, for HOLD_S at most */
    int64_t grant, free;
    bool final;
    int questions;
    json_t *last;
    json_t *parts; /* of rates: members of the status */
} control = {.lock = PTHREAD_MUTEX_INITIALIZER, .released = PTHREAD_COND_INITIALIZER};

static int roundtrip(struct fake_api *f UNUSED, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    size_t i;
    json_t *q, *answers = json_array();
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HOLD_S;
    pthread_mutex_lock(&control.lock);
    while (control.held && pthread_cond_timedwait(&control.released, &control.lock, &until) == 0)
        ;
    control.questions++;
    json_decref(control.last);
    control.last = json_deep_copy(json_object_get(k->body, "spec"));
    bool down = control.down;
    json_array_foreach (json_object_get(control.last, "budgets"), i, q) {
        bool waits = json_int(q, "need", -1) >= 0;
        json_array_append_new(answers, json_pack("{s:s, s:I, s:I, s:b}", "name", json_str_or(q, "name", ""), "grant", (json_int_t)(waits ? control.grant : 0), "free", (json_int_t)control.free, "final",
                                                 control.final));
    }
    json_t *status = json_pack("{s:i, s:o}", "leaseMilliseconds", 30000, "budgets", answers);
    json_object_update(status, control.parts);
    pthread_mutex_unlock(&control.lock);
    if (down) {
        json_decref(status);
        return err_set(err, ERR_UNAVAILABLE, "nobody is there");
    }
    *ret = (struct client_answer){.status = 201, .body = json_pack("{s:s, s:o}", "kind", "GatewayLease", "status", status)};
    return 0;
}

static void say(bool down, int64_t grant, int64_t free, bool final)
{
    pthread_mutex_lock(&control.lock);
    control.down = down;
    control.grant = grant;
    control.free = free;
    control.final = final;
    pthread_mutex_unlock(&control.lock);
}

static void say_parts(int64_t epoch, int64_t parts)
{
    pthread_mutex_lock(&control.lock);
    json_decref(control.parts);
    control.parts = json_pack("{s:I, s:I, s:b}", "rateEpoch", (json_int_t)epoch, "rateParts", (json_int_t)parts, "rateSettled", 1);
    pthread_mutex_unlock(&control.lock);
}

static void hold(bool on)
{
    pthread_mutex_lock(&control.lock);
    control.held = on;
    pthread_cond_signal(&control.released);
    pthread_mutex_unlock(&control.lock);
}

static int questions(void)
{
    pthread_mutex_lock(&control.lock);
    int n = control.questions;
    pthread_mutex_unlock(&control.lock);
    return n;
}

static int setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    snprintf(dir, sizeof(dir), "/tmp/seki-slices-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    say(false, 0, 0, true);
    say_parts(1, 1);
    control.questions = 0;
    api = (struct fake_api){.roundtrip = roundtrip};
    client = fake_api_client(&api);
    budgets = budget_set_new();
    limits = limit_set_new();
    budget = (struct budget){.scope = LIMIT_KEY, .project = "demo", .owner = "k", .amount = 100, .period = BUDGET_TOTAL, .currency = "EUR"};
    budget_take(budgets, &budget);
    ASSERT_OK(journal_open(dir, "gateway", &journal, &err));
    ASSERT_OK(loop_new(&loop, &err));
    ASSERT_OK(slices_start(&(struct slices_options){.client = client, .gateway = "gateway", .journal = journal, .budgets = budgets, .limits = limits}, &slices, &err));
    slices_inbox_init(&inbox, slices, loop);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    slices_free(slices);
    loop_free(loop);
    journal_close(journal);
    budget_counter_unref(budget.counter);
    budget_set_free(budgets);
    limit_set_free(limits);
    client_free(client);
    json_decref(control.last);
    json_decref(control.parts);
    control.last = control.parts = NULL;
    return file_remove_tree(dir, &err);
}

/* A request that reserves, waits, and reserves again. */
struct waiter {
    struct slices_wait wait;
    struct limit limits[LIMIT_SCOPES];
    int64_t amount;
    bool done;
    enum budget_result got;
};

static void try_money(struct waiter *w)
{
    const struct budget *why;
    struct budget_hold h;
    w->got = budget_reserve(&h, &budget, 1, w->amount, clock_wall_ms(), clock_mono_ns(), &why);
    w->done = w->got != BUDGET_ASK || !slices_park(&w->wait, &inbox);
    if (w->done)
        loop_stop(loop);
}

static void money_again(struct slices_wait *wait)
{
    try_money(CONTAINER_OF(wait, struct waiter, wait));
}

static void run_money(struct waiter *w, int64_t amount)
{
    *w = (struct waiter){.wait = {.budgets = &budget, .count = 1, .amount = amount, .again = money_again}, .amount = amount};
    try_money(w);
    if (!w->done)
        loop_run(loop);
}

static void who_waits_gets_what_is_granted(void **state)
{
    (void)state;
    struct waiter w;
    say(false, 60, 40, true);
    run_money(&w, 50);
    assert_int_equal(w.got, BUDGET_HELD);
    run_money(&w, 10); /* of what came with it */
    assert_int_equal(w.got, BUDGET_HELD);
}

static void who_cannot_get_it_is_told_so_once_control_has_said_it(void **state)
{
    (void)state;
    struct waiter w;
    say(false, 0, 7, true);
    run_money(&w, 50);
    assert_int_equal(w.got, BUDGET_OVER);
    int before = questions();
    run_money(&w, 50); /* within a second nobody is asked again */
    assert_int_equal(w.got, BUDGET_OVER);
    assert_in_range(questions(), before, before + 1);
}

static void who_waits_is_not_called_when_it_left(void **state)
{
    (void)state;
    struct waiter w = {.wait = {.budgets = &budget, .count = 1, .amount = 5, .again = money_again}, .amount = 5};
    assert_true(slices_park(&w.wait, &inbox));
    slices_cancel(&w.wait);
    int before = questions();
    for (int i = 0; i < 500 && questions() < before + 2; i++)
        loop_run_once(loop, 10);
    assert_false(w.done);
}

static void who_waits_is_called_in_time_though_control_is_slow(void **state)
{
    (void)state;
    struct waiter w;
    for (int i = 0; i < 500 && !questions(); i++)
        loop_run_once(loop, 10);
    hold(true);
    uint64_t begun_ms = clock_mono_ms();
    run_money(&w, 50);
    uint64_t waited_ms = clock_mono_ms() - begun_ms;
    hold(false);
    assert_int_equal(w.got, BUDGET_ASK);
    assert_in_range(waited_ms, 2990, 3000 + HOLD_S * 1000 / 2);
}

static void who_has_waited_is_not_called_at_the_end(void **state)
{
    (void)state;
    struct waiter w;
    say(false, 60, 40, true);
    run_money(&w, 50);
    assert_int_equal(w.got, BUDGET_HELD);
    assert_false(timer_armed(&w.wait.end));
    w = (struct waiter){.wait = {.budgets = &budget, .count = 1, .amount = 500, .again = money_again}, .amount = 500};
    assert_true(slices_park(&w.wait, &inbox));
    assert_true(timer_armed(&w.wait.end));
    slices_cancel(&w.wait);
    assert_false(timer_armed(&w.wait.end));
}

static void without_control_who_waits_for_a_rate_is_not_held_up(void **state)
{
    (void)state;
    struct waiter w = {.limits = {{.counter = limit_take(limits, "key demo/k", (int64_t[]){0, 0, 3}, 0), .max = {0, 0, 3}}}};
    say_parts(2, 2); /* one of two gateways */
    for (int i = 0; i < 500 && limit_parts(limits) != 2; i++)
        loop_run_once(loop, 10);
    say(true, 0, 0, true);
    struct limit_hold h[2] = {0};
    struct limit_refusal why;
    assert_int_equal(limit_reserve(&h[0], w.limits, 0, clock_mono_ns(), &why), LIMIT_HELD);
    assert_int_equal(limit_reserve(&h[1], w.limits, 0, clock_mono_ns(), &why), LIMIT_ASK);
    w.wait = (struct slices_wait){.counter = why.counter, .unit = why.unit, .amount = 1, .again = money_again};
    bool parked = true;
    for (int i = 0; i < 500 && parked; i++) {
        if ((parked = slices_park(&w.wait, &inbox)))
            slices_cancel(&w.wait);
        loop_run_once(loop, 10);
    }
    assert_false(parked);
    limit_settle(&h[0], 0, false);
    limit_counter_unref(w.limits[0].counter);
}

static void who_leaves_says_so_and_up_to_which_record(void **state)
{
    (void)state;
    for (int i = 0; i < 500 && !questions(); i++)
        loop_run_once(loop, 10);
    journal_add(journal, &(struct usage){.id = STR("r"), .project = STR("demo"), .outcome = STR("ok"), .status = 200, .exact = true});
    slices_leave(slices, false);
    assert_true(json_flag(control.last, "leaving", false));
    assert_int_equal(json_int(control.last, "sequence", 0), journal_sequence(journal));
    assert_string_equal(json_str_or(control.last, "journal", ""), journal_name(journal));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_waits_gets_what_is_granted, setup, teardown),
        cmocka_unit_test_setup_teardown(who_cannot_get_it_is_told_so_once_control_has_said_it, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_is_not_called_when_it_left, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_is_called_in_time_though_control_is_slow, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_waited_is_not_called_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(without_control_who_waits_for_a_rate_is_not_held_up, setup, teardown),
        cmocka_unit_test_setup_teardown(who_leaves_says_so_and_up_to_which_record, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
