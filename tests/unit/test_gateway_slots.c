/* Whose an engine's slots are: when what is in them may be used, in one gateway and in two, after crashes, and beside requests that nobody can pin. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "gateway/slots.h"

#define NOW 1000000000ull

static char dir[64], path[96];
static struct slots *s, *other; /* two gateways: locks belong to open files, so they meet as two processes do */

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-slots-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/engine.slots", dir);
    s = slots_new(path, NOW);
    other = slots_new(path, NOW);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    slots_free(s);
    slots_free(other);
    return file_remove_tree(dir, NULL);
}

static struct slots_claim claim(struct slots *of, const char *tenant, uint64_t now_ms)
{
    struct slots_claim c;
    slots_claim(of, 2, tenant, true, NULL, 0, now_ms, &c);
    return c;
}

/* One request from its beginning to its end; whether it was warm. */
static bool run(struct slots *of, const char *tenant, uint64_t now_ms)
{
    struct slots_claim c = claim(of, tenant, now_ms);
    assert_true(c.slot >= 0 && c.slot < 2);
    slots_release(of, tenant, &c, SLOTS_DONE, now_ms);
    return c.warm;
}

/* Both slots. */
static void fill(struct slots *of, const char *tenant, uint64_t now_ms)
{
    struct slots_claim a = claim(of, tenant, now_ms), b = claim(of, tenant, now_ms);
    slots_release(of, tenant, &a, SLOTS_DONE, now_ms);
    slots_release(of, tenant, &b, SLOTS_DONE, now_ms);
}

static void run_unpinned(struct slots *of, const char *tenant, uint64_t now_ms)
{
    struct slots_claim c;
    slots_claim(of, 2, tenant, false, NULL, 0, now_ms, &c);
    assert_true(c.unpinned && c.slot < 0 && !c.warm);
    assert_true(slots_unpinned_may_go(of, tenant, now_ms));
    slots_release(of, tenant, &c, SLOTS_DONE, now_ms);
}

static void warm_for_oneself_alone(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    assert_true(run(s, "a", NOW + 1));
    assert_true(run(s, "a", NOW + 2));
    assert_false(run(s, "b", NOW + 3)); /* the one that was idle longest */
    assert_false(run(s, "b", NOW + 4));
    assert_true(run(s, "b", NOW + 5));
    assert_false(run(s, "a", NOW + 6));
}

static void the_slot_that_is_most_alike(void **state)
{
    (void)state;
    static const uint64_t one[] = {1, 2, 3, 4}, longer[] = {1, 2, 3, 4, 5}, two[] = {7, 8};
    struct slots_claim c, d;
    slots_claim(s, 2, "a", true, one, 4, NOW, &c);
    slots_claim(s, 2, "a", true, two, 2, NOW, &d);
    assert_true(c.slot != d.slot);
    int slot_of_one = c.slot;
    slots_release(s, "a", &c, SLOTS_DONE, NOW + 1);
    slots_release(s, "a", &d, SLOTS_DONE, NOW);
    slots_claim(s, 2, "a", true, longer, 5, NOW + 2, &c);
    assert_true(c.warm && c.slot == slot_of_one); /* though the other was idle longer */
    slots_release(s, "a", &c, SLOTS_DONE, NOW + 3);
    slots_claim(s, 2, "b", true, longer, 5, NOW + 4, &c);
    assert_true(!c.warm && c.slot != slot_of_one); /* another's likeness is none */
    slots_release(s, "b", &c, SLOTS_DONE, NOW + 4);
}

static void not_sent_changes_nothing(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    struct slots_claim c = claim(s, "b", NOW + 1);
    slots_release(s, "b", &c, SLOTS_NOT_SENT, NOW + 1);
    assert_true(run(s, "a", NOW + 2) && run(s, "a", NOW + 3));
}

static void refused_leaves_what_was_there(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    struct slots_claim x = claim(s, "b", NOW + 1), y = claim(s, "a", NOW + 1);
    slots_release(s, "b", &x, SLOTS_REFUSED, NOW + 2); /* a's prompt is still in it */
    slots_release(s, "a", &y, SLOTS_REFUSED, NOW + 2); /* and in this one, or a's new one */
    x = claim(s, "b", NOW + 3);
    y = claim(s, "b", NOW + 3);
    assert_false(x.warm || y.warm);
    slots_release(s, "b", &x, SLOTS_NOT_SENT, NOW + 4);
    slots_release(s, "b", &y, SLOTS_NOT_SENT, NOW + 4);
    x = claim(s, "a", NOW + 5);
    y = claim(s, "a", NOW + 5);
    assert_true(x.warm != y.warm);
    slots_release(s, "a", &x, SLOTS_DONE, NOW + 6);
    slots_release(s, "a", &y, SLOTS_DONE, NOW + 6);
}

/* A refusal makes nothing newer than it is. */
static void refused_after_an_unpinned_one(void **state)
{
    (void)state;
    assert_false(run(s, "b", NOW));
    fill(s, "a", NOW + 1);
    run_unpinned(s, "b", NOW + 2);
    uint64_t later = NOW + 3 + SLOTS_COLD_MS;
    for (uint64_t t = 0; t < 4; t++) {
        struct slots_claim c = claim(s, "a", later + t);
        assert_false(c.warm);
        slots_release(s, "a", &c, SLOTS_REFUSED, later + t);
    }
}

/* A long answer holds up nobody: once it is being written, its slot is its own. */
static void begun_is_out_of_danger(void **state)
{
    (void)state;
    assert_false(run(s, "b", NOW));
    fill(s, "a", NOW + 1);
    struct slots_claim warm = claim(s, "a", NOW + 2);
    assert_true(warm.warm);
    assert_false(slots_unpinned_may_go(s, "b", NOW + 3) || slots_unpinned_may_go(other, "b", NOW + 3));
    slots_begun(s, &warm);
    slots_begun(s, &warm);
    assert_true(slots_unpinned_may_go(s, "b", NOW + 4) && slots_unpinned_may_go(other, "b", NOW + 4));
    slots_release(s, "a", &warm, SLOTS_DONE, NOW + 5);
    assert_true(slots_unpinned_may_go(s, "b", NOW + 6));
}

/* What was given up may still run, after the next one. */
static void unsure_is_cold_for_a_while(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    struct slots_claim c = claim(s, "a", NOW + 1), held = claim(s, "b", NOW + 1);
    slots_release(s, "a", &c, SLOTS_UNSURE, NOW + 2);
    for (uint64_t t = 3; t < SLOTS_DIRTY_MS; t += SLOTS_DIRTY_MS / 4) {
        assert_false(run(s, "b", NOW + t));
        assert_false(run(s, "b", NOW + t));
    }
    assert_false(run(s, "b", NOW + 2 + SLOTS_DIRTY_MS));
    assert_true(run(s, "b", NOW + 3 + SLOTS_DIRTY_MS));
    slots_release(s, "b", &held, SLOTS_DONE, NOW);
}

static void two_gateways_know_alike(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    assert_true(run(other, "a", NOW + 1));
    struct slots_claim x = claim(s, "a", NOW + 2), y = claim(other, "a", NOW + 2);
    assert_true(x.slot >= 0 && y.slot >= 0 && x.slot != y.slot);
    struct slots_claim none = claim(other, "b", NOW + 2);
    assert_true(none.unpinned && none.slot < 0);                 /* more requests than slots */
    assert_false(slots_unpinned_may_go(other, "b", NOW + 2)); /* nor may the engine choose while x and y are warm */
    slots_release(other, "a", &y, SLOTS_DONE, NOW + 3);
    assert_false(slots_unpinned_may_go(other, "b", NOW + 3)); /* x is the other gateway's */
    slots_release(s, "a", &x, SLOTS_DONE, NOW + 4);
    assert_true(slots_unpinned_may_go(other, "b", NOW + 4));
    slots_release(other, "b", &none, SLOTS_DONE, NOW + 5);
    assert_false(run(s, "a", NOW + 6)); /* it may have been anywhere */
}

static void a_gateway_that_dies_leaves_doubt(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    struct slots_claim x = claim(s, "a", NOW + 1);
    assert_true(x.warm);
    slots_free(s); /* its locks go, its mark stays */
    s = slots_new(path, NOW + 2);
    struct slots_claim y = claim(other, "a", NOW + 3), z = claim(other, "a", NOW + 3);
    assert_true(y.warm != z.warm && (y.warm ? z.slot : y.slot) == x.slot);
    slots_release(other, "a", &y, SLOTS_DONE, NOW + 4);
    slots_release(other, "a", &z, SLOTS_DONE, NOW + 4);
    struct slots_claim again = claim(s, "a", NOW + 5), both = claim(s, "a", NOW + 5);
    assert_true(again.warm != both.warm); /* what the dead one had sent may have come after it */
    slots_release(s, "a", &again, SLOTS_DONE, NOW + 6);
    slots_release(s, "a", &both, SLOTS_DONE, NOW + 6);
}

static void unpinned_of_a_tenant_alone(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    struct slots_claim warm = claim(s, "a", NOW + 1);
    assert_true(warm.warm);
    run_unpinned(s, "a", NOW + 2);
    run_unpinned(other, "a", NOW + 2);
    slots_release(s, "a", &warm, SLOTS_DONE, NOW + 3);
    assert_true(run(s, "a", NOW + 4) && run(other, "a", NOW + 5));
    /* Then somebody else comes: what went before may be in any slot. */
    for (uint64_t t = 6; t < 10; t++)
        assert_false(run(s, "b", NOW + t));
    assert_false(run(s, "a", NOW + 10));
}

static void unpinned_among_several(void **state)
{
    (void)state;
    fill(s, "a", NOW);
    assert_false(run(s, "b", NOW + 1));
    struct slots_claim warm = claim(s, "a", NOW + 2), c;
    assert_true(warm.warm);
    slots_claim(s, 2, "b", false, NULL, 0, NOW + 3, &c);
    assert_false(slots_unpinned_may_go(s, "b", NOW + 3));
    assert_false(run(s, "b", NOW + 4)); /* nobody begins warm while it waits */
    slots_release(s, "a", &warm, SLOTS_DONE, NOW + 5);
    assert_true(slots_unpinned_may_go(s, "b", NOW + 6));
    slots_release(s, "b", &c, SLOTS_DONE, NOW + 7);
    for (uint64_t t = 8; t < SLOTS_COLD_MS; t += SLOTS_COLD_MS / 5)
        assert_false(run(s, "a", NOW + t));
    uint64_t later = NOW + 7 + SLOTS_COLD_MS;
    assert_false(run(s, "a", later + 1)); /* what was left before that is not used either */
    fill(s, "a", later + 2);
    assert_true(run(s, "a", later + 3));
}

static void after_the_machine_has_started_anew(void **state)
{
    (void)state;
    assert_false(run(s, "b", NOW));
    fill(s, "a", NOW);
    run_unpinned(s, "a", NOW);
    slots_free(s);
    slots_free(other);
    s = slots_new(path, 5000);
    other = slots_new(path, 5000);
    assert_false(run(s, "a", 6000));
    fill(s, "a", 6001);
    assert_true(run(s, "a", 6002) && run(other, "a", 6003));
}

/* A file that cannot be used, or that others may write: cold. */
static void without_the_file_all_is_cold(void **state)
{
    (void)state;
    char bad[128];
    snprintf(bad, sizeof(bad), "%s/none/engine.slots", dir);
    struct slots *none = slots_new(bad, NOW);
    assert_int_equal(chmod(path, 0666), 0);
    struct slots *open_to_all = slots_new(path, NOW);
    for (int i = 0; i < 2; i++) {
        struct slots_claim c = claim(none, "a", NOW);
        assert_true(c.slot < 0 && !c.warm);
        slots_release(none, "a", &c, SLOTS_DONE, NOW);
        c = claim(open_to_all, "a", NOW);
        assert_true(c.slot < 0 && !c.warm);
        slots_release(open_to_all, "a", &c, SLOTS_DONE, NOW);
    }
    slots_free(none);
    slots_free(open_to_all);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(warm_for_oneself_alone),       TEST(the_slot_that_is_most_alike), TEST(not_sent_changes_nothing),
        TEST(refused_leaves_what_was_there), TEST(refused_after_an_unpinned_one), TEST(begun_is_out_of_danger),
        TEST(unsure_is_cold_for_a_while),   TEST(two_gateways_know_alike),     TEST(a_gateway_that_dies_leaves_doubt),
        TEST(unpinned_of_a_tenant_alone),   TEST(unpinned_among_several),      TEST(after_the_machine_has_started_anew),
        TEST(without_the_file_all_is_cold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
