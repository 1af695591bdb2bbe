/* One name for several endpoints: shares by weight, who is ready, prompts that stay where they began. */
#include "unit.h"

#include <stdio.h>

#include "base/clock.h"
#include "gateway/model_route.h"

static struct snap_key key = {.name = "k"};
static struct snap_endpoint a = {.name = "a", .replica_count = 1}, b = {.name = "b", .replica_count = 1}, c = {.name = "c", .replica_count = 1};
static struct snap_backend backends[3];
static struct snap_endpoint route = {.is_route = true, .backends = backends};

static int set_up(void **state)
{
    (void)state;
    a.replica_count = b.replica_count = c.replica_count = 1;
    backends[0] = (struct snap_backend){&a, 90};
    backends[1] = (struct snap_backend){&b, 10};
    backends[2] = (struct snap_backend){&c, 100};
    route.backend_count = 2;
    route.sticky = false;
    return 0;
}

static int share_of(const struct snap_endpoint *e, int n, bool same_prompt)
{
    int got = 0;
    for (int i = 0; i < n; i++) {
        char prompt[64];
        snprintf(prompt, sizeof(prompt), "prompt %d", same_prompt ? 0 : i);
        got += model_route_choose(&route, &key, str_of(prompt), NULL) == e;
    }
    return got;
}

static void shares_by_weight(void **state)
{
    (void)state;
    int got = share_of(&b, 10000, true);
    assert_true(got > 800 && got < 1200);
    route.backend_count = 3;
    got = share_of(&c, 10000, true);
    assert_true(got > 4700 && got < 5300);
}

static void who_is_not_ready_gets_nothing(void **state)
{
    (void)state;
    a.replica_count = 0;
    assert_int_equal(share_of(&b, 100, true), 100);
    b.replica_count = 0; /* none: the first says why */
    assert_int_equal(share_of(&a, 10, true), 10);
    route.backend_count = 0;
    assert_null(model_route_choose(&route, &key, STR("x"), NULL));
}

/* At zero it is started by the first request: by one to a route, too. */
static void who_can_be_started_goes_before_who_cannot(void **state)
{
    (void)state;
    a.replica_count = b.replica_count = 0;
    b.waits_for_replicas = true;
    assert_int_equal(share_of(&b, 10, true), 10);
    b.waits_for_replicas = false;
    assert_int_equal(share_of(&a, 10, true), 10);
}

static void sticky_by_key_and_beginning(void **state)
{
    (void)state;
    char longer[600];
    route.sticky = true;
    int same = share_of(&b, 100, true), other = share_of(&b, 10000, false);
    assert_true(same == 0 || same == 100);
    assert_true(other > 800 && other < 1200);
    memset(longer, 'x', sizeof(longer));
    const struct snap_endpoint *first = model_route_choose(&route, &key, str_n(longer, 300), NULL);
    for (size_t n = 300; n < sizeof(longer); n += 7) /* a conversation grows */
        assert_ptr_equal(model_route_choose(&route, &key, str_n(longer, n), NULL), first);
}

/* A backend whose every replica fails gets something only when there is no other. */
static void who_is_put_aside_comes_last(void **state)
{
    (void)state;
    static struct target targets[2];
    static struct snap_replica replicas[2] = {{.target = &targets[0]}, {.target = &targets[1]}};
    a.replicas = &replicas[0];
    b.replicas = &replicas[1];
    atomic_store(&targets[0].opened, 1);
    atomic_store(&targets[0].aside_until_ms, clock_mono_ms() + 3600000);
    assert_int_equal(share_of(&b, 100, true), 100);
    atomic_store(&targets[1].closing, true);
    int got = share_of(&b, 1000, true);
    assert_true(got > 20 && got < 300);
    atomic_store(&targets[1].closing, false);
    b.replica_count = 0;
    assert_int_equal(share_of(&a, 10, true), 10);
    a.replicas = b.replicas = NULL;
}

static void others_than_those_that_were_tried(void **state)
{
    (void)state;
    static char queues[3];
    const struct dispatch *tried[] = {(struct dispatch *)&queues[0], (struct dispatch *)&queues[2]};
    a.dispatch = (struct dispatch *)&queues[0];
    b.dispatch = (struct dispatch *)&queues[1];
    c.dispatch = (struct dispatch *)&queues[2];
    route.backend_count = 3;
    for (int i = 0; i < 20; i++)
        assert_ptr_equal(model_route_choose_other(&route, &key, STR("x"), NULL, tried, 2), &b);
    b.replica_count = 0;
    assert_null(model_route_choose_other(&route, &key, STR("x"), NULL, tried, 2));
}

static void found_again(void **state)
{
    (void)state;
    static char queues[2];
    a.dispatch = (struct dispatch *)&queues[0];
    b.dispatch = (struct dispatch *)&queues[1];
    assert_ptr_equal(model_route_again(&route, b.dispatch), &b);
    assert_ptr_equal(model_route_again(&a, b.dispatch), &a);
    route.backend_count = 1;
    assert_null(model_route_again(&route, b.dispatch));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(shares_by_weight, set_up), cmocka_unit_test_setup(who_is_not_ready_gets_nothing, set_up),
                                       cmocka_unit_test_setup(who_can_be_started_goes_before_who_cannot, set_up),
                                       cmocka_unit_test_setup(sticky_by_key_and_beginning, set_up), cmocka_unit_test_setup(found_again, set_up),
                                       cmocka_unit_test_setup(who_is_put_aside_comes_last, set_up), cmocka_unit_test_setup(others_than_those_that_were_tried, set_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
