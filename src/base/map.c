#include "base/map.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "base/rnd.h"

/* Open addressing with linear probing, at most 7/8 full. Deletion shifts what follows back, so
 * there are no tombstones and a map that churns never degrades. */

#define FIRST_SLOTS 16

struct slot {
    char *key; /* NULL: free */
    size_t len;
    uint64_t hash;
    void *value;
};

struct map {
    struct slot *slots;
    size_t mask; /* slots - 1; 0 = none yet */
    size_t len;
    void (*free_value)(void *value);
};

static uint8_t secret[16];
static pthread_once_t secret_once = PTHREAD_ONCE_INIT;

static void make_secret(void)
{
    rnd_bytes(secret, sizeof(secret));
}

static inline uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline uint64_t little_endian(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint64_t siphash13(const uint8_t key[16], const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t k0 = little_endian(key, 8), k1 = little_endian(key + 8, 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL,
                     k0 ^ 0x6c7967656e657261ULL, k1 ^ 0x7465646279746573ULL};
    size_t whole = len / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m;
        memcpy(&m, p + i, 8);
        m = le64toh(m);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)(len & 0xFF) << 56;
    if (len > whole)
        last |= little_endian(p + whole, len - whole);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct map *map_new(void (*free_value)(void *value))
{
    pthread_once(&secret_once, make_secret);
    struct map *m = XNEW(struct map);
    m->free_value = free_value;
    return m;
}

static void drop_value(struct map *m, void *value)
{
    if (m->free_value)
        m->free_value(value);
}

void map_clear(struct map *m)
{
    struct slot *slots = TAKE(m->slots);
    size_t count = slots ? m->mask + 1 : 0;
    m->mask = m->len = 0;
    /* The map is empty and sound already, should a destructor look at it. */
    for (size_t i = 0; i < count; i++) {
        if (!slots[i].key)
            continue;
        mem_free(slots[i].key);
        drop_value(m, slots[i].value);
    }
    mem_free(slots);
}

void map_free(struct map *m)
{
    if (!m)
        return;
    map_clear(m);
    mem_free(m);
}

size_t map_len(const struct map *m)
{
    return m->len;
}

/* The slot of key, or the free slot where it belongs. The map must have slots. */
static struct slot *find(const struct map *m, struct str key, uint64_t hash)
{
    size_t i = hash & m->mask;
    for (;; i = (i + 1) & m->mask) {
        struct slot *s = &m->slots[i];
        if (!s->key || (s->hash == hash && str_eq(str_n(s->key, s->len), key)))
            return s;
    }
}

static struct slot *lookup(const struct map *m, struct str key)
{
    if (m->len == 0)
        return NULL;
    struct slot *s = find(m, key, siphash13(secret, key.ptr, key.len));
    return s->key ? s : NULL;
}

void *map_get(const struct map *m, struct str key)
{
    struct slot *s = lookup(m, key);
    return s ? s->value : NULL;
}

static void grow(struct map *m)
{
    struct slot *old = m->slots;
    size_t count = old ? m->mask + 1 : 0;
    if (count && (m->len + 1) * 8 <= count * 7)
        return;
    size_t next = count ? count * 2 : FIRST_SLOTS;
    m->slots = xcalloc(next, sizeof(*m->slots));
    m->mask = next - 1;
    for (size_t i = 0; i < count; i++)
        if (old[i].key)
            *find(m, str_n(old[i].key, old[i].len), old[i].hash) = old[i];
    mem_free(old);
}

void map_set(struct map *m, struct str key, void *value)
{
    if (!value)
        abort(); /* NULL means absent */
    grow(m);
    uint64_t hash = siphash13(secret, key.ptr, key.len);
    struct slot *s = find(m, key, hash);
    if (s->key) {
        void *before = s->value;
        s->value = value;
        if (before != value)
            drop_value(m, before);
        return;
    }
    *s = (struct slot){xstrndup(key.ptr, key.len), key.len, hash, value};
    m->len++;
}

/* Frees the slot and moves back those behind it that would no longer be found. */
static void remove_slot(struct map *m, struct slot *s)
{
    size_t hole = (size_t)(s - m->slots);
    mem_free(s->key);
    for (size_t i = (hole + 1) & m->mask; m->slots[i].key; i = (i + 1) & m->mask) {
        size_t home = m->slots[i].hash & m->mask;
        /* Its home lies cyclically in (hole, i]: it is found where it is. */
        if (((i - home) & m->mask) < ((i - hole) & m->mask))
            continue;
        m->slots[hole] = m->slots[i];
        hole = i;
    }
    m->slots[hole] = (struct slot){0};
    m->len--;
}

void *map_take(struct map *m, struct str key)
{
    struct slot *s = lookup(m, key);
    if (!s)
        return NULL;
    void *value = s->value;
    remove_slot(m, s);
    return value;
}

bool map_del(struct map *m, struct str key)
{
    void *value = map_take(m, key);
    if (!value)
        return false;
    drop_value(m, value);
    return true;
}

bool map_next(const struct map *m, struct map_iter *it)
{
    if (m->len == 0)
        return false;
    /* Downwards from a free slot: deleting the entry just returned moves back only entries between
     * it and that free slot, all of which were returned before. */
    size_t i;
    if (it->pos == 0) {
        it->end = 0;
        while (m->slots[it->end].key)
            it->end++;
        i = it->end;
    } else {
        i = it->pos - 1;
    }
    for (i = (i - 1) & m->mask; i != it->end; i = (i - 1) & m->mask) {
        const struct slot *s = &m->slots[i];
        if (!s->key)
            continue;
        it->pos = i + 1;
        it->key = str_n(s->key, s->len);
        it->value = s->value;
        return true;
    }
    return false;
}
