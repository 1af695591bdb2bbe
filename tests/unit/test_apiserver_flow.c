/* Flow control: who is served next, who waits, who is refused. The cost of a request is made by moving the clock. */
#include "unit.h"

#include "apiserver/api.h"
#include "base/clock.h"

#define COST_MS 1 /* two requests are more than a turn's budget */

static struct apiserver server;
static char order[4096]; /* names of the users served, in order */
static int statuses[1200], answers;
static uint64_t cost_ms;

static void on_answer(void *arg UNUSED, int status, json_t *body)
{
    statuses[answers++] = status;
    json_decref(body);
}

static void serve(struct api_request *q)
{
    size_t len = strlen(order);
    snprintf(order + len, sizeof(order) - len, "%.1s", q->user.name);
    clock_test_advance(cost_ms);
    api_reply(q, 200, json_object());
}

static int setup(void **state UNUSED)
{
    static const char *const request_labels[] = {"verb", "resource", "code", NULL}, *const duration_labels[] = {"verb", NULL};
    struct err err = ERR_INIT;
    clock_test_set(1000000, 0);
    server = (struct apiserver){.o = {.max_in_flight_writes = 20}};
    ASSERT_OK(loop_new(&server.loop, &err));
    server.requests_total = metric_family("test_requests_total", "", METRIC_COUNTER, request_labels, 100, NULL, 0);
    server.duration = metric_family("test_duration", "", METRIC_HISTOGRAM, duration_labels, 10, metric_latency_buckets, metric_latency_bucket_count);
    server.flow = flow_new(&server, serve);
    *order = 0;
    answers = 0;
    cost_ms = COST_MS;
    return 0;
}

static int teardown(void **state UNUSED)
{
    flow_free_all(server.flow);
    loop_free(server.loop);
    clock_test_clear();
    return 0;
}

static struct api_request *ask(const char *user, const char *group)
{
    struct api_request *q = api_request_new(&server);
    q->method = "GET";
    q->path = "/";
    q->user.name = arena_strdup(q->arena, user);
    q->user.groups[0] = group;
    q->local_done = on_answer;
    flow_admit(server.flow, q);
    return q;
}

static void turn_until_served(size_t count)
{
    for (int i = 0; i < 1000 && strlen(order) < count; i++)
        loop_run_once(server.loop, 0);
    assert_int_equal(strlen(order), count);
}

static void without_load_requests_are_served_as_they_come(void **state UNUSED)
{
    cost_ms = 0;
    for (int i = 0; i < 12; i++)
        ask(i % 2 ? "b" : "a", NULL);
    assert_string_equal(order, "abababababab");
}

static void who_asked_little_comes_first(void **state UNUSED)
{
    for (int i = 0; i < 30; i++)
        ask("hostile", NULL);
    assert_string_equal(order, "h"); /* the turn's budget is used up */
    loop_run_once(server.loop, 0);
    assert_string_equal(order, "hh");
    ask("good", NULL);
    turn_until_served(3);
    assert_string_equal(order, "hhg");
    turn_until_served(31);
    assert_int_equal(answers, 31);
    assert_int_equal(statuses[30], 200);
}

static void equals_take_turns(void **state UNUSED)
{
    ask("x", NULL);
    for (int i = 0; i < 4; i++)
        ask("a", NULL);
    for (int i = 0; i < 4; i++)
        ask("b", NULL);
    turn_until_served(9);
    assert_string_equal(order, "xabababab");
}

static void what_was_used_is_forgotten(void **state UNUSED)
{
    for (int i = 0; i < 20; i++)
        ask("a", NULL);
    turn_until_served(20);
    clock_test_advance(60000);
    *order = 0;
    ask("x", NULL);
    ask("a", NULL);
    ask("b", NULL);
    turn_until_served(3);
    assert_string_equal(order, "xab");
}

static void the_privileged_come_before_all(void **state UNUSED)
{
    for (int i = 0; i < 5; i++)
        ask("a", NULL);
    for (int i = 0; i < 3; i++)
        ask("system:seki:gateway", NULL);
    for (int i = 0; i < 2; i++)
        ask("master", "system:masters");
    turn_until_served(10);
    assert_memory_equal(order + 1, "smsms", 5);
    assert_string_equal(order + 6, "aaaa");
}

static void too_many_of_one_user_are_refused_and_others_are_not(void **state UNUSED)
{
    ask("a", NULL); /* uses the budget up */
    for (int i = 0; i < 1000; i++)
        ask("a", NULL);
    assert_int_equal(answers, 1);
    ask("a", NULL);
    assert_int_equal(answers, 2);
    assert_int_equal(statuses[1], 429);
    ask("b", NULL);
    assert_int_equal(answers, 2);
    cost_ms = 0;
    turn_until_served(1002);
}

static void who_waited_too_long_is_told(void **state UNUSED)
{
    ask("a", NULL);
    ask("a", NULL);
    clock_test_advance(6000);
    loop_run_once(server.loop, 0);
    loop_run_once(server.loop, 0);
    assert_int_equal(answers, 2);
    assert_int_equal(statuses[1], 429);
    assert_string_equal(order, "a");
}

static void who_leaves_is_not_served(void **state UNUSED)
{
    ask("a", NULL);
    struct api_request *gone = ask("a", NULL);
    ask("b", NULL);
    flow_leave(server.flow, gone);
    gone->local_done = NULL;
    api_request_unref(gone);
    turn_until_served(2);
    assert_string_equal(order, "ab");
}

static struct api_request *writer(const char *user)
{
    struct api_request *q = api_request_new(&server);
    q->user.name = arena_strdup(q->arena, user);
    q->local_done = on_answer;
    q->method = "POST";
    q->path = "/";
    return q;
}

static void writes_in_flight_are_shared(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct api_request *q[20];
    cost_ms = 0;
    static const char *const users[] = {"a", "b", "c", "d", "system:seki:control"};
    /* A quarter of 20 for one user; a fifth of all is kept for the privileged. */
    for (int i = 0; i < 20; i++) {
        q[i] = writer(users[i < 16 ? i / 5 : 4]);
        q[i]->refs++;
        flow_admit(server.flow, q[i]);
        loop_run_once(server.loop, 0); /* a new turn, with a new budget */
        assert_int_equal(flow_check_write(server.flow, q[i], &err), 0);
        flow_write_begins(server.flow, q[i]);
        if (i == 4 || i == 15)
            assert_int_equal(flow_check_write(server.flow, q[i], &err), ERR_TOO_MANY);
    }
    struct api_request *one_more = writer(users[4]);
    one_more->refs++;
    flow_admit(server.flow, one_more);
    assert_int_equal(flow_check_write(server.flow, one_more, &err), ERR_TOO_MANY);
    api_request_unref(one_more);
    for (int i = 0; i < 20; i++) {
        flow_write_ends(server.flow, q[i]);
        api_request_unref(q[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_load_requests_are_served_as_they_come, setup, teardown),
        cmocka_unit_test_setup_teardown(who_asked_little_comes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(equals_take_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_used_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(the_privileged_come_before_all, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_of_one_user_are_refused_and_others_are_not, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waited_too_long_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(who_leaves_is_not_served, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_in_flight_are_shared, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
