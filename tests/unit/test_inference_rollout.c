/* Replacing engines: whole replacements, played against an endpoint whose engines come up and leave when the case says so. */
#include "unit.h"

#include "base/compiler.h"
#include "inference/rollout.h"
#include "inference/room.h"

#include <unistd.h>

static void what_is_done_next(void **state)
{
    (void)state;
    static const struct {
        struct rollout_facts f;
        struct rollout_step want;
    } cases[] = {
        {{.wanted = 2, .surge = 1, .old = 2}, {.make = 1}},
        {{.wanted = 2, .surge = 1, .old = 2, .fresh = 1}, {0}}, /* it loads */
        {{.wanted = 2, .surge = 1, .old = 2, .fresh = 1, .fresh_up = 1}, {.remove = 1}},
        {{.wanted = 2, .surge = 1, .old = 1, .fresh = 1, .fresh_up = 1, .leaving = 1}, {0}}, /* the room is not free yet */
        {{.wanted = 2, .surge = 1, .old = 1, .fresh = 1, .fresh_up = 1}, {.make = 1}},
        {{.wanted = 2, .surge = 1, .old = 1, .fresh = 2, .fresh_up = 2}, {.remove = 1}},
        {{.wanted = 3, .surge = 3, .old = 3}, {.make = 3}},
        {{.wanted = 1, .surge = 5, .old = 1}, {.make = 1}}, /* no more than are wanted */
        {{.wanted = 1, .surge = 1, .old = 3, .fresh = 1}, {.remove = 2}}, /* scaled down meanwhile */
        {{.wanted = 4, .surge = 1, .old = 2, .fresh = 1}, {.make = 1}}, /* … or up */
        {{.wanted = 2, .surge = 0, .old = 2}, {.change = 1}},
        {{.wanted = 2, .surge = 0, .old = 1, .fresh = 1}, {0}},
        {{.wanted = 2, .surge = 0, .old = 1, .fresh = 1, .fresh_up = 1}, {.change = 1}},
        {{.wanted = 1, .surge = 0, .old = 2, .fresh = 1, .fresh_up = 1}, {.remove = 2}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rollout_step got;
        rollout_decide(&cases[i].f, &got);
        if (got.make != cases[i].want.make || got.remove != cases[i].want.remove || got.change != cases[i].want.change)
            fail_msg("case %zu: make %lld, remove %lld, change %lld", i, (long long)got.make, (long long)got.remove, (long long)got.change);
    }
}

/* From any number to any other: never fewer serve than are wanted, never more engines than those and the surge, and it ends. */
static void it_ends_and_as_many_serve_all_the_while(void **state)
{
    (void)state;
    for (int64_t wanted = 1; wanted <= 5; wanted++)
        for (int64_t surge = 0; surge <= 3; surge++) {
            struct rollout_facts f = {.wanted = wanted, .surge = surge, .old = wanted};
            int rounds = 0;
            for (; f.old || f.leaving || f.fresh_up < wanted; rounds++) {
                struct rollout_step s;
                assert_true(rounds < 100);
                rollout_decide(&f, &s);
                f.old -= s.remove + s.change;
                f.leaving += s.remove;
                f.fresh += s.make + s.change;
                assert_true(surge ? f.old + f.fresh_up >= wanted : f.old + f.fresh_up >= wanted - 1);
                assert_true(f.old + f.fresh + f.leaving <= wanted + surge);
                if (rounds % 3 == 1)
                    f.fresh_up = f.fresh;
                else if (rounds % 3 == 2)
                    f.leaving = 0;
            }
            assert_true(f.fresh == wanted);
        }
}

static void room_is_what_is_free_and_not_reserved_or_promised(void **state)
{
    (void)state;
    const int64_t gib = 1 << 30;
    assert_int_equal(room_for(1, 0, 2 * gib, 5 * gib, gib), 1);
    assert_int_equal(room_for(3, 0, 2 * gib, 5 * gib, gib), 2);
    assert_int_equal(room_for(3, 1, 2 * gib, 5 * gib, gib), 1); /* one that loads has not taken its own yet */
    assert_int_equal(room_for(1, 2, 2 * gib, 5 * gib, gib), 0);
    assert_int_equal(room_for(1, 0, 2 * gib, 2 * gib, gib), 0);
    assert_int_equal(room_for(1, 0, 1, gib / 2, gib), 0);
    assert_int_equal(room_for(2, 0, 0, 0, gib), 2); /* nothing is known */
    assert_int_equal(room_for(2, 0, gib, -1, gib), 2);
    assert_true(room_free_bytes() > 0);
    assert_true(room_held_bytes(getsid(0)) > 0);
    assert_int_equal(room_held_bytes(-7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_done_next),
        cmocka_unit_test(room_is_what_is_free_and_not_reserved_or_promised),
        cmocka_unit_test(it_ends_and_as_many_serve_all_the_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
