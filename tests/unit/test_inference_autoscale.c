/* How many replicas: scenarios as tables, second by second. */
#include "unit.h"

#include <string.h>

#include "inference/autoscale.h"

static const struct autoscale_policy policy = {.min = 0, .max = 10, .idle_ms = 60000, .target_queue_s = 5, .down_ms = 300000};

/* From `from_s` on, the load is this; at `until_s` so many replicas are wanted, for this reason. Replicas that are wanted serve at once, but for `loading` of them. */
struct phase {
    uint64_t until_s;
    int64_t running, waiting, waiting_tokens, loading;
    int64_t idle_s; /* at the end of the phase; -1: counts from its beginning */
    int64_t want;
    enum autoscale_reason last; /* the last change's */
    const char *why;            /* contained in its text; NULL: anything */
    bool silent;
};

static void play(const char *name, const struct autoscale_policy *p, int64_t start, const struct phase *phases, size_t count)
{
    struct autoscale_memory m;
    struct autoscale_decision d, last = {.reason = AUTOSCALE_STEADY};
    int64_t wanted = start;
    uint64_t s = 0;
    memset(&m, 0, sizeof(m));
    for (size_t i = 0; i < count; i++) {
        const struct phase *ph = &phases[i];
        uint64_t began = s;
        for (; s < ph->until_s; s++) {
            struct autoscale_facts f = {.now_ms = 1000000 + s * 1000, .known = !ph->silent, .wanted = wanted, .loading = MIN(ph->loading, wanted), .slots = 4, .waiting = ph->waiting,
                                        .running = ph->running, .waiting_tokens = ph->waiting_tokens, .speed = 100, .load_ms = 20000};
            f.ready = wanted - f.loading;
            f.idle_ms = ph->idle_s < 0 ? (int64_t)(s - began) * 1000 : ph->idle_s * 1000;
            autoscale_decide(p, &f, &m, &d);
            if (d.replicas != wanted)
                last = d;
            wanted = d.replicas;
        }
        if (wanted != ph->want || (last.reason != ph->last) || (ph->why && !strstr(last.why, ph->why)))
            fail_msg("%s, phase %zu: %lld replicas (%s: %s), expected %lld (%s: %s)", name, i, (long long)wanted, autoscale_reason_text(last.reason), last.why, (long long)ph->want,
                     autoscale_reason_text(ph->last), ph->why ? ph->why : "");
    }
}
#define PLAY(policy_, start, ...) play(__func__, policy_, start, (const struct phase[]){__VA_ARGS__}, sizeof((const struct phase[]){__VA_ARGS__}) / sizeof(struct phase))

static void the_first_request_starts_one_and_idleness_stops_it(void **state)
{
    (void)state;
    PLAY(&policy, 0, {.until_s = 100, .idle_s = 1000, .want = 0, .last = AUTOSCALE_STEADY}, {.until_s = 101, .waiting = 1, .waiting_tokens = 100, .want = 1, .last = AUTOSCALE_FROM_ZERO, .why = "waits"},
         {.until_s = 121, .waiting = 1, .waiting_tokens = 100, .loading = 1, .want = 1, .last = AUTOSCALE_FROM_ZERO}, {.until_s = 130, .running = 1, .want = 1, .last = AUTOSCALE_FROM_ZERO},
         {.until_s = 189, .idle_s = -1, .want = 1, .last = AUTOSCALE_FROM_ZERO}, {.until_s = 192, .idle_s = 60, .want = 0, .last = AUTOSCALE_TO_ZERO, .why = "nothing was asked for 60 s"});
}

static void nothing_stops_while_one_loads_or_anything_waits(void **state)
{
    (void)state;
    PLAY(&policy, 1, {.until_s = 400, .loading = 1, .idle_s = 1000, .want = 1, .last = AUTOSCALE_STEADY});
    PLAY(&policy, 1, {.until_s = 400, .waiting = 1, .waiting_tokens = 10, .idle_s = 1000, .want = 1, .last = AUTOSCALE_STEADY});
    PLAY(&policy, 1, {.until_s = 400, .running = 1, .idle_s = 1000, .want = 1, .last = AUTOSCALE_STEADY});
    PLAY(&policy, 4, {.until_s = 1000, .loading = 1, .running = 1, .want = 4, .last = AUTOSCALE_STEADY});
    PLAY(&policy, 2, {.until_s = 1000, .idle_s = 1000, .silent = true, .want = 2, .last = AUTOSCALE_STEADY});
}

static void a_queue_brings_more_at_once_but_not_everything(void **state)
{
    (void)state;
    /* 1,200 tokens at 100 a second: 12 s. Running 4 of 4 slots: 1.25; waiting 1,200 / (100 × 5): 2.4 → 3.65, capped at 3. */
    PLAY(&policy, 1, {.until_s = 1, .running = 4, .waiting = 12, .waiting_tokens = 1200, .want = 3, .last = AUTOSCALE_UP, .why = "queue would take 12 s"});
    PLAY(&policy, 2, {.until_s = 1, .running = 8, .waiting = 1000, .waiting_tokens = 1000000, .want = 6, .last = AUTOSCALE_UP}, {.until_s = 2, .running = 8, .waiting = 1000, .waiting_tokens = 1000000, .want = 10, .last = AUTOSCALE_UP});
    /* What waits while they load is not ordered twice: 2,500 tokens in 25 s need one more than what runs. */
    PLAY(&policy, 3, {.until_s = 20, .running = 4, .waiting = 25, .waiting_tokens = 2500, .loading = 2, .want = 3, .last = AUTOSCALE_STEADY});
    /* Within a fifth nothing changes: 15 of 16 slots are 4.7. */
    PLAY(&policy, 4, {.until_s = 60, .running = 15, .want = 4, .last = AUTOSCALE_STEADY});
}

static void down_is_slow_and_by_half(void **state)
{
    (void)state;
    PLAY(&policy, 8, {.until_s = 100, .running = 24, .want = 8, .last = AUTOSCALE_STEADY}, {.until_s = 390, .running = 3, .want = 8, .last = AUTOSCALE_STEADY},
         {.until_s = 430, .running = 3, .want = 4, .last = AUTOSCALE_DOWN, .why = "needed in the last 300 s"}, {.until_s = 695, .running = 3, .want = 4, .last = AUTOSCALE_DOWN},
         {.until_s = 760, .running = 3, .want = 2, .last = AUTOSCALE_DOWN}, {.until_s = 2000, .running = 3, .want = 1, .last = AUTOSCALE_DOWN});
    /* A short peak in the window keeps them. */
    PLAY(&policy, 8, {.until_s = 290, .running = 3, .want = 8, .last = AUTOSCALE_STEADY}, {.until_s = 295, .running = 26, .want = 8, .last = AUTOSCALE_STEADY}, {.until_s = 570, .running = 3, .want = 8, .last = AUTOSCALE_STEADY});
}

static void somebody_s_own_number_stands_for_its_time(void **state)
{
    (void)state;
    struct autoscale_memory m;
    struct autoscale_decision d;
    memset(&m, 0, sizeof(m));
    struct autoscale_facts f = {.known = true, .wanted = 1, .ready = 1, .slots = 4, .running = 1, .speed = 100};
    for (uint64_t s = 0; s < 500; s++) {
        f.now_ms = 1000 + s * 1000;
        autoscale_decide(&policy, &f, &m, &d);
        assert_int_equal(d.replicas, 1);
    }
    f.wanted = f.ready = 4; /* kubectl scale */
    for (uint64_t s = 500; s < 799; s++) {
        f.now_ms = 1000 + s * 1000;
        autoscale_decide(&policy, &f, &m, &d);
        assert_int_equal(d.replicas, 4);
    }
    f.now_ms = 1000 + 801 * 1000;
    autoscale_decide(&policy, &f, &m, &d);
    assert_int_equal(d.replicas, 2);
}

static void bounds_and_switched_off(void **state)
{
    (void)state;
    struct autoscale_policy p = {.min = 2, .max = 4, .idle_ms = 1000, .target_queue_s = 5, .down_ms = 1000};
    PLAY(&p, 9, {.until_s = 1, .idle_s = 100, .want = 4, .last = AUTOSCALE_BOUNDS, .why = "more than maxReplicas"});
    PLAY(&p, 1, {.until_s = 1, .idle_s = 100, .want = 2, .last = AUTOSCALE_BOUNDS, .why = "fewer than minReplicas"});
    PLAY(&p, 0, {.until_s = 50, .waiting = 5, .waiting_tokens = 5, .want = 0, .last = AUTOSCALE_STEADY});
    PLAY(&p, 4, {.until_s = 100, .idle_s = 1000, .want = 2, .last = AUTOSCALE_DOWN});
    PLAY(&p, 4, {.until_s = 100, .running = 16, .waiting = 900, .waiting_tokens = 90000, .want = 4, .last = AUTOSCALE_STEADY});
}

static void without_a_measured_speed_slots_count(void **state)
{
    (void)state;
    struct autoscale_memory m;
    struct autoscale_decision d;
    memset(&m, 0, sizeof(m));
    struct autoscale_facts f = {.known = true, .now_ms = 1000, .wanted = 1, .ready = 1, .slots = 4, .running = 4, .waiting = 4, .waiting_tokens = 100};
    autoscale_decide(&policy, &f, &m, &d);
    assert_int_equal(d.replicas, 3);
    assert_string_equal(d.why, "4 requests run and 4 wait, 4 at a time are served by one");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_request_starts_one_and_idleness_stops_it),
        cmocka_unit_test(nothing_stops_while_one_loads_or_anything_waits),
        cmocka_unit_test(a_queue_brings_more_at_once_but_not_everything),
        cmocka_unit_test(down_is_slow_and_by_half),
        cmocka_unit_test(somebody_s_own_number_stands_for_its_time),
        cmocka_unit_test(bounds_and_switched_off),
        cmocka_unit_test(without_a_measured_speed_slots_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
