/* A loop's pools of connections: one a replica, where it is now. */
#include "unit.h"

#include "base/map.h"
#include "gateway/internal.h"

static void release(void *value)
{
    http_pool_free(value);
}

static void a_pool_is_where_its_replica_is(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct gateway g = {.o.connect_timeout_ms = 1000};
    struct gateway_loop l = {.gateway = &g, .pools = map_new(release)};
    struct target_set *targets = target_set_new();
    struct snap_replica r = {.target = target_take(targets, "p http://engine.test:9"), .host = "engine.test:9"};
    ASSERT_OK(loop_new(&l.loop, &err));
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:9"), &r.addr, &err));
    struct http_pool *first = gateway_loop_pool(&l, &r);
    assert_ptr_equal(gateway_loop_pool(&l, &r), first);
    ASSERT_OK(net_addr_parse(STR("127.0.0.2:9"), &r.addr, &err)); /* its name leads elsewhere */
    struct http_pool *second = gateway_loop_pool(&l, &r);
    assert_true(net_addr_equal(http_pool_addr(second), &r.addr));
    assert_ptr_equal(gateway_loop_pool(&l, &r), second);
    map_free(l.pools);
    loop_free(l.loop);
    target_unref(r.target);
    target_set_free(targets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_pool_is_where_its_replica_is)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
