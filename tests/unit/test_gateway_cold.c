/* Requests that are held for an endpoint's first replica: how long. */
#include "unit.h"

#include "base/clock.h"
#include "gateway/request.h"

#define HOLD_MS 6000

static struct gateway g;
static struct gateway_loop l = {.gateway = &g};

static int setup(void **state)
{
    (void)state;
    g.o.hold_timeout_ms = HOLD_MS;
    g.o.queue_timeout_ms = 1000;
    g.metrics.hold_seconds = metric_series(metric_family("test_hold_seconds", "Test.", METRIC_HISTOGRAM, NULL, 1, (const double[]){1}, 1), NULL);
    return 0;
}

static void hold(struct request *q, uint64_t since_ms)
{
    q->cold.held = true;
    q->cold.since_ms = since_ms;
}

static void replicas_that_come_and_go_hold_nobody_for_ever(void **state)
{
    (void)state;
    struct request q = {.loop = &l};
    uint64_t now_ms = clock_mono_ms() + 1000000;
    hold(&q, now_ms);
    assert_false(cold_is_over(&q, now_ms + HOLD_MS - 1));
    assert_true(cold_is_over(&q, now_ms + HOLD_MS));
    /* One came after four seconds, and had no room for it before it went. */
    hold(&q, clock_mono_ms() - 4000);
    cold_leave(&q);
    assert_false(q.cold.held);
    q.ticket.since_ms = now_ms;
    assert_false(cold_is_over(&q, now_ms + 999)); /* its turn is another wait */
    hold(&q, now_ms);
    assert_false(cold_is_over(&q, now_ms + 1000));
    assert_true(cold_is_over(&q, now_ms + HOLD_MS - 4000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(replicas_that_come_and_go_hold_nobody_for_ever, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
