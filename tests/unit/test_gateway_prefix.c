/* Prefix index: matches, tenants, bounds. */
#include "unit.h"

#include <stdlib.h>

#include "gateway/prefix.h"

#define BYTES (64 * 1024)

static char text[PREFIX_BLOCK_BYTES * (PREFIX_BLOCKS_MAX + 3)];
static struct prefix_salt a, b;

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i * 7 % 26 + i / PREFIX_BLOCK_BYTES % 3);
    prefix_salt_of("a", &a);
    prefix_salt_of("b", &b);
    return 0;
}

static void equal_beginnings_match(void **state)
{
    (void)state;
    struct prefix_index *x = prefix_index_new(BYTES);
    uint64_t one[PREFIX_BLOCKS_MAX], two[PREFIX_BLOCKS_MAX];
    size_t n = prefix_hash(&a, str_n(text, 10 * PREFIX_BLOCK_BYTES + 100), one);
    assert_int_equal(n, 10); /* whole blocks only */
    assert_int_equal(prefix_match(x, one, n), 0);
    prefix_add(x, one, n);
    assert_int_equal(prefix_match(x, one, n), 10);
    char other[20 * PREFIX_BLOCK_BYTES];
    memcpy(other, text, sizeof(other));
    other[4 * PREFIX_BLOCK_BYTES + 1] ^= 1;
    n = prefix_hash(&a, str_n(other, sizeof(other)), two);
    assert_int_equal(n, 20);
    assert_int_equal(prefix_match(x, two, n), 4);
    assert_true(two[10] != one[9] && two[5] != one[5]); /* the chain goes on from what differs */
    assert_int_equal(prefix_hash(&a, str_n(text, 10), one), 0);
    assert_int_equal(prefix_hash(&a, str_n(text, sizeof(text)), one), PREFIX_BLOCKS_MAX);
    prefix_index_free(x);
}

static void tenants_never_match(void **state)
{
    (void)state;
    struct prefix_index *x = prefix_index_new(BYTES);
    uint64_t one[PREFIX_BLOCKS_MAX], two[PREFIX_BLOCKS_MAX];
    size_t n = prefix_hash(&a, str_n(text, 50 * PREFIX_BLOCK_BYTES), one);
    prefix_add(x, one, n);
    assert_int_equal(prefix_hash(&b, str_n(text, 50 * PREFIX_BLOCK_BYTES), two), n);
    assert_int_equal(prefix_match(x, two, n), 0);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            assert_true(one[i] != two[k]);
    struct prefix_salt again;
    prefix_salt_of("a", &again);
    assert_memory_equal(again.key, a.key, sizeof(a.key));
    prefix_index_free(x);
}

static void what_is_used_stays_and_memory_does_not_grow(void **state)
{
    (void)state;
    struct prefix_index *x = prefix_index_new(BYTES);
    uint64_t hot[PREFIX_BLOCKS_MAX], cold[PREFIX_BLOCKS_MAX];
    size_t n = prefix_hash(&a, str_n(text, 8 * PREFIX_BLOCK_BYTES), hot), stayed = 0;
    for (int i = 0; i < 20000; i++) {
        char other[PREFIX_BLOCK_BYTES * 8];
        memset(other, 'x', sizeof(other));
        memcpy(other, &i, sizeof(i));
        prefix_add(x, cold, prefix_hash(&a, str_n(other, sizeof(other)), cold));
        if (i % 20 == 0) {
            stayed += i && prefix_match(x, hot, n) == n;
            prefix_add(x, hot, n);
        }
    }
    assert_true(stayed > 900); /* of 999 */
    prefix_index_free(x);
}

static size_t filler(struct prefix_index *x, unsigned seed, size_t blocks)
{
    static uint64_t hashes[PREFIX_BLOCKS_MAX];
    for (size_t i = 0; i < blocks; i++)
        hashes[i] = ((uint64_t)seed << 40) + i * 0x9e3779b97f4a7c15u + 1;
    prefix_add(x, hashes, blocks);
    return blocks;
}

/* An engine keeps `cache` blocks, and says what it found. */
static void what_an_engine_finds_tells_how_far_its_cache_reaches(void **state)
{
    (void)state;
    struct prefix_index *x = prefix_index_new(512 << 10);
    uint64_t hot[16];
    struct prefix_seen seen;
    const size_t cache = 300;
    for (size_t i = 0; i < ARRAY_LEN(hot); i++)
        hot[i] = 0xabcdef0123456789u * (i + 1);
    prefix_add(x, hot, ARRAY_LEN(hot));
    filler(x, 1, 400);
    prefix_look(x, hot, ARRAY_LEN(hot), &seen);
    assert_int_equal(seen.believed, 16); /* nobody has said anything */
    assert_in_range(seen.first_age, 400, 400);
    prefix_learn(x, &seen, 0);
    assert_int_equal(prefix_match(x, hot, ARRAY_LEN(hot)), 0);
    for (unsigned round = 2; round < 40; round++) {
        size_t between = filler(x, round, 50 + round * 37 % 450);
        prefix_look(x, hot, ARRAY_LEN(hot), &seen);
        prefix_add(x, hot, ARRAY_LEN(hot));
        prefix_learn(x, &seen, between < cache ? 16 : 0);
    }
    filler(x, 100, 150);
    assert_int_equal(prefix_match(x, hot, ARRAY_LEN(hot)), 16);
    filler(x, 101, 400);
    assert_int_equal(prefix_match(x, hot, ARRAY_LEN(hot)), 0);
    prefix_look(x, hot, ARRAY_LEN(hot), &seen);
    assert_int_equal(seen.known, 16);
    /* Against belief it was there, again and again: the cache has grown. */
    for (int i = 0; i < 20; i++)
        prefix_learn(x, &seen, 16);
    assert_int_equal(prefix_match(x, hot, ARRAY_LEN(hot)), 16);
    prefix_index_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_beginnings_match),
        cmocka_unit_test(tenants_never_match),
        cmocka_unit_test(what_is_used_stays_and_memory_does_not_grow),
        cmocka_unit_test(what_an_engine_finds_tells_how_far_its_cache_reaches),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
