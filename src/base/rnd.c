#include "base/rnd.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

void rnd_bytes(void *out, size_t len)
{
    unsigned char *p = out;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            abort(); /* going on with guessable keys would be worse */
        p += n;
        len -= (size_t)n;
    }
}

void rnd_bytes_ahead(void *out, size_t len)
{
    static __thread unsigned char pool[4096];
    static __thread size_t left;
    if (left < len) {
        rnd_bytes(pool, sizeof(pool));
        left = sizeof(pool);
    }
    left -= len;
    memcpy(out, pool + left, len);
}

uint64_t rnd_u64(void)
{
    uint64_t v;
    rnd_bytes(&v, sizeof(v));
    return v;
}

uint64_t rnd_below(uint64_t n)
{
    if (n < 2)
        return 0;
    /* The first (2^64 mod n) values are thrown away: the rest divides evenly. */
    uint64_t uneven = (0 - n) % n;
    uint64_t v;
    do
        v = rnd_u64();
    while (v < uneven);
    return v % n;
}

/* SplitMix64: a counter in steps of the golden ratio, and a hash of it. */
static uint64_t guessable_u64(void)
{
    static __thread uint64_t counter;
    static __thread bool seeded;
    if (!seeded)
        counter = rnd_u64();
    seeded = true;
    uint64_t v = counter += 0x9E3779B97F4A7C15ull;
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9ull;
    v = (v ^ v >> 27) * 0x94D049BB133111EBull;
    return v ^ v >> 31;
}

uint64_t rnd_guessable_below(uint64_t n)
{
    return n < 2 ? 0 : guessable_u64() % n;
}

void rnd_uuid(char text[UUID_TEXT_MAX])
{
    unsigned char b[16];
    rnd_bytes(b, sizeof(b));
    b[6] = (unsigned char)((b[6] & 0x0F) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3F) | 0x80);
    snprintf(text, UUID_TEXT_MAX,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
             b[15]);
}

/* Uniform characters of an alphabet: bytes past the last whole multiple of its size are thrown
 * away. */
static void fill(char *text, size_t n, const char *alphabet, size_t size)
{
    unsigned char pool[64];
    size_t have = 0;
    for (size_t i = 0; i < n;) {
        if (have == 0) {
            rnd_bytes(pool, sizeof(pool));
            have = sizeof(pool);
        }
        unsigned char c = pool[--have];
        if (c < 256 / size * size)
            text[i++] = alphabet[c % size];
    }
    text[n] = '\0';
    explicit_bzero(pool, sizeof(pool));
}

void rnd_name(char *text, size_t n)
{
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    fill(text, n, alphabet, sizeof(alphabet) - 1);
}

void rnd_secret(char *text, size_t n)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    fill(text, n, alphabet, sizeof(alphabet) - 1);
}
