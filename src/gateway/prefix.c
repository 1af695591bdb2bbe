#include "gateway/prefix.h"

#include <pthread.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"

#define WAYS 8
#define REACH_MIN 64u /* some 4,000 tokens: no cache of prefixes is smaller */
#define EVERYTHING UINT32_MAX

static uint8_t secret[16];
static pthread_once_t secret_once = PTHREAD_ONCE_INIT;

static void make_secret(void)
{
    rnd_bytes(secret, sizeof(secret));
}

void prefix_salt_of(const char *tenant, struct prefix_salt *ret)
{
    uint8_t other[16];
    pthread_once(&secret_once, make_secret);
    memcpy(other, secret, sizeof(other));
    other[0] ^= 1;
    uint64_t halves[2] = {siphash13(secret, tenant, strlen(tenant)), siphash13(other, tenant, strlen(tenant))};
    memcpy(ret->key, halves, sizeof(ret->key));
}

size_t prefix_hash(const struct prefix_salt *salt, struct str prompt, uint64_t ret[PREFIX_BLOCKS_MAX])
{
    uint8_t key[16];
    size_t n = MIN(prompt.len / PREFIX_BLOCK_BYTES, (size_t)PREFIX_BLOCKS_MAX);
    memcpy(key, salt->key, sizeof(key));
    for (size_t i = 0; i < n; i++) {
        ret[i] = siphash13(key, prompt.ptr + i * PREFIX_BLOCK_BYTES, PREFIX_BLOCK_BYTES);
        if (!ret[i])
            ret[i] = 1; /* 0 is an empty place */
        for (int b = 0; b < 8; b++) /* the next one continues this one */
            key[b] = salt->key[b] ^ (uint8_t)(ret[i] >> (8 * b));
    }
    return n;
}

struct prefix_index {
    size_t sets; /* a power of two */
    uint32_t now; /* new blocks so far */
    uint32_t reach;
    struct {
        uint64_t hash[WAYS];
        uint32_t used[WAYS];
    } set[];
};

struct prefix_index *prefix_index_new(size_t bytes)
{
    size_t one = sizeof(((struct prefix_index *)0)->set[0]), sets = 1;
    while (sets * 2 * one <= bytes)
        sets *= 2;
    struct prefix_index *x = xcalloc(1, sizeof(*x) + sets * one);
    x->sets = sets;
    x->reach = EVERYTHING;
    return x;
}

void prefix_index_free(struct prefix_index *x)
{
    mem_free(x);
}

static int find(const struct prefix_index *x, uint64_t hash, size_t set)
{
    for (int i = 0; i < WAYS; i++)
        if (x->set[set].hash[i] == hash)
            return i;
    return -1;
}

static size_t set_of(const struct prefix_index *x, uint64_t hash)
{
    return (size_t)(hash >> 20) & (x->sets - 1);
}

void prefix_look(const struct prefix_index *x, const uint64_t *hashes, size_t count, struct prefix_seen *ret)
{
    *ret = (struct prefix_seen){0};
    for (size_t n = 0; n < count; n++) {
        size_t set = set_of(x, hashes[n]);
        int at = find(x, hashes[n], set);
        if (at < 0)
            return;
        uint32_t age = x->now - x->set[set].used[at];
        ret->first_age = n ? ret->first_age : age;
        ret->last_age = age;
        ret->believed += ret->believed == ret->known && age <= x->reach;
        ret->known++;
    }
}

size_t prefix_match(const struct prefix_index *x, const uint64_t *hashes, size_t count)
{
    struct prefix_seen seen;
    prefix_look(x, hashes, count, &seen);
    return seen.believed;
}

void prefix_learn(struct prefix_index *x, const struct prefix_seen *seen, size_t found)
{
    if (seen->known && found * 4 >= (size_t)seen->known * 3) { /* all of it, but for what does not fill a block of the engine's */
        if (x->reach < seen->last_age)
            x->reach += (seen->last_age - x->reach + 1) / 2;
    } else if (seen->believed && found * 4 < seen->believed && seen->first_age > REACH_MIN) { /* what was sent just now may not have been there yet */
        uint32_t most = seen->first_age - 1;
        if (x->reach > most)
            x->reach = x->reach == EVERYTHING ? most : x->reach - (x->reach - most + 1) / 2;
    }
}

void prefix_add(struct prefix_index *x, const uint64_t *hashes, size_t count)
{
    /* From the end: the beginning, which more prompts share, stays the newest. */
    for (size_t n = count; n-- > 0;) {
        size_t set = set_of(x, hashes[n]);
        int at = find(x, hashes[n], set);
        x->now += at < 0 || x->now - x->set[set].used[at] > x->reach;
        for (int i = 0; at < 0 && i < WAYS; i++)
            if (!x->set[set].hash[i])
                at = i;
        if (at < 0) {
            at = 0;
            for (int i = 1; i < WAYS; i++)
                if (x->now - x->set[set].used[i] > x->now - x->set[set].used[at])
                    at = i;
        }
        x->set[set].hash[at] = hashes[n];
        x->set[set].used[at] = x->now;
    }
}
