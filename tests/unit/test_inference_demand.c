/* What gateways tell: sums, silence, and when a replica may go. */
#include "unit.h"

#include "base/clock.h"
#include "inference/demand.h"

static struct demand *d;
static int changes;

static int setup(void **state UNUSED)
{
    clock_test_set(1000000, 1700000000000);
    d = demand_new();
    changes = 0;
    return 0;
}

static int teardown(void **state UNUSED)
{
    demand_free(d);
    clock_test_clear();
    return 0;
}

static void on_change(void *arg UNUSED, const char *ns, const char *name)
{
    assert_string_equal(ns, "lab");
    assert_string_equal(name, "m");
    changes++;
}

/* Returns how many targets are asked about. */
static size_t tell(const char *gateway, int waiting, int running, int idle_ms, const char *target, bool open, int on_target)
{
    struct err err = ERR_INIT;
    JSON_AUTO spec = json_pack("{s:s, s:[{s:s, s:s, s:i, s:i, s:i, s:i, s:i}], s:[]}", "gateway", gateway, "endpoints", "namespace", "lab", "name", "m", "waiting", waiting, "running", running,
                               "waitingTokens", waiting * 100, "slotTokensPerMinute", 600, "idleMilliseconds", idle_ms, "targets");
    JSON_AUTO status = NULL;
    if (target)
        json_array_append_new(json_object_get(spec, "targets"), json_pack("{s:s, s:b, s:i}", "name", target, "open", open, "running", on_target));
    ASSERT_OK(demand_report(d, spec, on_change, NULL, &status, &err));
    return json_array_size(json_object_get(status, "leaving"));
}

static void loads_are_summed_and_silence_is_not_known(void **state UNUSED)
{
    struct demand_load l;
    demand_of(d, "lab", "m", &l);
    assert_int_equal(l.gateways, 0);
    tell("a", 2, 1, 0, NULL, false, 0);
    tell("b", 0, 0, 5000, NULL, false, 0);
    assert_int_equal(changes, 1); /* the idle one says nothing new */
    demand_of(d, "lab", "m", &l);
    assert_int_equal(l.gateways, 2);
    assert_int_equal(l.waiting, 2);
    assert_int_equal(l.waiting_tokens, 200);
    assert_int_equal(l.running, 1);
    assert_int_equal(l.idle_ms, 0);
    assert_true(l.slot_speed > 9.9 && l.slot_speed < 10.1);
    tell("a", 0, 0, 1000, NULL, false, 0);
    assert_int_equal(changes, 2); /* it was busy: its end is news */
    demand_of(d, "lab", "m", &l);
    assert_int_equal(l.idle_ms, 1000);
    demand_of(d, "lab", "other", &l); /* nobody names it: idle since they were first heard of */
    assert_int_equal(l.idle_ms, 0);
    clock_test_advance(DEMAND_SILENT_MS + 1);
    demand_of(d, "lab", "m", &l);
    assert_int_equal(l.gateways, 0);
    assert_int_equal(l.idle_ms, 0);
}

static void a_replica_goes_when_all_gateways_have_let_go(void **state UNUSED)
{
    int64_t running;
    assert_false(demand_may_leave(d, "lab t", &running)); /* just started: gateways may not have spoken yet */
    assert_int_equal(tell("a", 0, 0, 0, NULL, false, 0), 1);
    tell("b", 0, 0, 0, NULL, false, 0);
    assert_false(demand_may_leave(d, "lab t", &running)); /* neither has answered */
    tell("a", 0, 0, 0, "lab t", false, 0);
    assert_false(demand_may_leave(d, "lab t", &running));
    tell("b", 0, 0, 0, "lab t", true, 0);
    assert_false(demand_may_leave(d, "lab t", &running)); /* b may still send something there */
    tell("b", 0, 0, 0, "lab t", false, 3);
    assert_false(demand_may_leave(d, "lab t", &running));
    assert_int_equal(running, 3);
    assert_int_equal(demand_running(d, "lab t"), 3);
    tell("b", 0, 0, 0, "lab t", false, 0);
    assert_true(demand_may_leave(d, "lab t", &running));
    demand_left(d, "lab t");
    assert_int_equal(tell("a", 0, 0, 0, NULL, false, 0), 0);
}

static void a_silent_gateway_holds_nothing_up(void **state UNUSED)
{
    int64_t running;
    tell("a", 0, 1, 0, "lab t", true, 1);
    assert_false(demand_may_leave(d, "lab t", &running));
    clock_test_advance(DEMAND_SILENT_MS + 1);
    assert_true(demand_may_leave(d, "lab t", &running));
}

/* What a gateway is told of engines: how many, and of the first what it has waiting and how old that is. */
static size_t engines_told(int64_t *ret_waiting, int64_t *ret_age_ms)
{
    struct err err = ERR_INIT;
    JSON_AUTO spec = json_pack("{s:s}", "gateway", "a");
    JSON_AUTO status = NULL;
    ASSERT_OK(demand_report(d, spec, on_change, NULL, &status, &err));
    const json_t *list = json_object_get(status, "engines");
    *ret_waiting = json_int(json_array_get(list, 0), "waiting", -1);
    *ret_age_ms = json_int(json_array_get(list, 0), "ageMilliseconds", -1);
    return json_array_size(list);
}

static void gateways_are_told_of_engines_that_are_busy(void **state UNUSED)
{
    int64_t waiting, age_ms;
    demand_engine(d, "lab idle", &(struct demand_engine){.waiting = 0, .running = 5, .kv_used = DEMAND_KV_SCARCE - 1});
    demand_engine(d, "lab silent", &(struct demand_engine){.waiting = -1, .running = -1, .kv_used = -1});
    assert_int_equal(engines_told(&waiting, &age_ms), 0);
    demand_engine(d, "lab t", &(struct demand_engine){.waiting = -1, .running = -1, .kv_used = DEMAND_KV_SCARCE});
    assert_int_equal(engines_told(&waiting, &age_ms), 1);
    assert_true(waiting == 0 && age_ms == 0);
    demand_engine(d, "lab t", &(struct demand_engine){.waiting = 3, .running = 1, .kv_used = -1});
    clock_test_set(1000000 + DEMAND_ENGINE_MS - 1, 1700000000000);
    assert_int_equal(engines_told(&waiting, &age_ms), 1);
    assert_true(waiting == 3 && age_ms == DEMAND_ENGINE_MS - 1);
    clock_test_set(1000000 + DEMAND_ENGINE_MS, 1700000000000); /* its prober is silent */
    assert_int_equal(engines_told(&waiting, &age_ms), 0);
    demand_engine(d, "lab t", &(struct demand_engine){.waiting = 3});
    demand_engine(d, "lab u", &(struct demand_engine){.waiting = 3});
    assert_int_equal(engines_told(&waiting, &age_ms), 2);
    demand_engine(d, "lab t", &(struct demand_engine){.waiting = 0});
    demand_left(d, "lab u");
    assert_int_equal(engines_told(&waiting, &age_ms), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loads_are_summed_and_silence_is_not_known, setup, teardown),
        cmocka_unit_test_setup_teardown(a_replica_goes_when_all_gateways_have_let_go, setup, teardown),
        cmocka_unit_test_setup_teardown(gateways_are_told_of_engines_that_are_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(a_silent_gateway_holds_nothing_up, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
