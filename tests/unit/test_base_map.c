#include "unit.h"

#include "base/arena.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"

#define KEYS 100000

static char mark; /* something to point at */
static int order[8], calls;

static void note(void *arg)
{
    order[calls++] = *(int *)arg;
}

static void arena_zeroes_aligns_and_resets(void **state)
{
    (void)state;
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    for (int round = 0; round < 3; round++) {
        for (size_t n = 1; n < 300; n++) {
            unsigned char *p = arena_alloc(a, n);
            assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
            for (size_t i = 0; i < n; i++)
                assert_int_equal(p[i], 0);
            memset(p, 0xAA, n);
        }
        assert_true(arena_used(a) > 300 * 299 / 2);
        arena_reset(a);
        assert_int_equal(arena_used(a), 0);
    }
    assert_string_equal(arena_printf(a, "%s/%d", "x", 5), "x/5");
    assert_string_equal(arena_strndup(a, STR_NULL), "");
    assert_true(str_eqc(arena_str(a, STR("abc")), "abc"));
}

static void arena_keeps_its_maximum(void **state)
{
    (void)state;
    CLEANUP(arena_freep) struct arena *a = arena_new(10000);
    assert_null(arena_try(a, 10001));
    assert_null(arena_try(a, SIZE_MAX));
    assert_null(arena_try(a, SIZE_MAX - 15));
    size_t got = 0;
    while (arena_try(a, 100))
        got++;
    assert_in_range(got, 80, 100);
    assert_true(arena_used(a) <= 10000);
    arena_reset(a);
    assert_non_null(arena_try(a, 100));
}

static void arena_cleanups_newest_first(void **state)
{
    (void)state;
    static int one = 1, two = 2;
    struct arena *a = arena_new(10000);
    calls = 0;
    arena_on_free(a, note, &one);
    arena_on_free(a, note, &two);
    arena_reset(a);
    assert_int_equal(calls, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 1);
    arena_on_free(a, note, &one);
    arena_free(a);
    assert_int_equal(calls, 3);
}

static struct str key_of(char text[32], int i)
{
    return str_n(text, (size_t)snprintf(text, 32, "key-%d", i));
}

static void map_many_keys_and_deletes(void **state)
{
    (void)state;
    static int values[KEYS];
    char text[32];
    struct map *m = map_new(NULL);
    for (int i = 0; i < KEYS; i++)
        map_set(m, key_of(text, i), &values[i]);
    assert_int_equal(map_len(m), KEYS);
    for (int i = 0; i < KEYS; i += 3)
        assert_true(map_del(m, key_of(text, i)));
    for (int i = 1; i < KEYS; i += 3)
        assert_ptr_equal(map_take(m, key_of(text, i)), &values[i]);
    for (int i = 0; i < KEYS; i++)
        assert_ptr_equal(map_get(m, key_of(text, i)), i % 3 == 2 ? &values[i] : NULL);
    assert_false(map_del(m, key_of(text, 0)));
    assert_int_equal(map_len(m), KEYS / 3);
    map_free(m);
}

static void map_against_a_model(void **state)
{
    (void)state;
    static int values[64];
    bool there[64] = {false};
    char text[32];
    struct map *m = map_new(NULL);
    for (int step = 0; step < 200000; step++) {
        int i = (int)rnd_below(64);
        if (rnd_below(2)) {
            map_set(m, key_of(text, i), &values[i]);
            there[i] = true;
        } else {
            assert_int_equal(map_del(m, key_of(text, i)), there[i]);
            there[i] = false;
        }
        int j = (int)rnd_below(64);
        assert_ptr_equal(map_get(m, key_of(text, j)), there[j] ? &values[j] : NULL);
        if (step % 20000 == 0)
            map_clear(m), memset(there, 0, sizeof(there));
    }
    map_free(m);
}

/* Each entry comes exactly once although half of them are deleted on the way. */
static void map_delete_while_iterating(void **state)
{
    (void)state;
    char text[32];
    for (int round = 0; round < 200; round++) {
        static unsigned seen[200];
        memset(seen, 0, sizeof(seen));
        int count = 1 + (int)rnd_below(200), left = count;
        struct map *m = map_new(NULL);
        for (int i = 0; i < count; i++)
            map_set(m, key_of(text, i), &seen[i]);
        struct map_iter it = MAP_ITER_INIT;
        while (map_next(m, &it)) {
            unsigned *value = it.value;
            ++*value;
            if (rnd_below(2)) {
                snprintf(text, sizeof(text), "%.*s", STR_ARG(it.key));
                assert_true(map_del(m, str_of(text)));
                left--;
            }
        }
        for (int i = 0; i < count; i++)
            assert_int_equal(seen[i], 1);
        assert_int_equal(map_len(m), left);
        map_free(m);
    }
}

static void count_free(void *value)
{
    (void)value;
    calls++;
}

static void map_destructor(void **state)
{
    (void)state;
    char other;
    calls = 0;
    struct map *m = map_new(count_free);
    map_set(m, STR("a"), &mark);
    map_set(m, STR("a"), &other);
    assert_int_equal(calls, 1);
    map_set(m, STR("b"), &mark);
    assert_ptr_equal(map_take(m, STR("a")), &other);
    assert_int_equal(calls, 1);
    map_set(m, STR_NULL, &mark); /* the empty key is a key */
    assert_ptr_equal(map_getc(m, ""), &mark);
    map_free(m);
    assert_int_equal(calls, 3);
}

static void siphash_vectors(void **state)
{
    (void)state;
    /* SipHash-1-3 with key 00..0f over 00, 01, ..: the first outputs of the reference
     * implementation. */
    uint8_t key[16], data[16];
    for (size_t i = 0; i < 16; i++)
        key[i] = data[i] = (uint8_t)i;
    assert_true(siphash13(key, data, 0) == 0xABAC0158050FC4DCULL);
    assert_true(siphash13(key, data, 1) == 0xC9F49BF37D57CA93ULL);
    assert_true(siphash13(key, data, 15) != siphash13(key, data, 14));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_zeroes_aligns_and_resets),
        cmocka_unit_test(arena_keeps_its_maximum),
        cmocka_unit_test(arena_cleanups_newest_first),
        cmocka_unit_test(map_many_keys_and_deletes),
        cmocka_unit_test(map_against_a_model),
        cmocka_unit_test(map_delete_while_iterating),
        cmocka_unit_test(map_destructor),
        cmocka_unit_test(siphash_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
