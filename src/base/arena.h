/* Arena: memory for one request, one reconcile pass or one config load, freed at once.
 *
 * Blocks grow from a small first one up to max_bytes in total. arena_alloc() aborts when that is passed (a bug
 * or a missing cap in the caller); arena_try() returns NULL instead and is what the gateway uses. All memory is
 * zeroed and aligned for any type. Cleanups run newest first when the arena is reset or freed.
 * Threads: one owner at a time.
 */
#ifndef SEKI_BASE_ARENA_H
#define SEKI_BASE_ARENA_H

#include "base/str.h"

struct arena;

struct arena *arena_new(size_t max_bytes);
struct arena *arena_new_sized(size_t max_bytes, size_t first_bytes); /* whose first block has room for what is mostly needed */
void arena_free(struct arena *a); /* NULL is fine */
void arena_freep(struct arena **a);
void arena_reset(struct arena *a); /* runs cleanups, keeps the first block */
size_t arena_used(const struct arena *a);

void *arena_alloc(struct arena *a, size_t size_bytes) NODISCARD;
void *arena_try(struct arena *a, size_t size_bytes) NODISCARD;
#define ARENA_NEW(a, type) ((type *)arena_alloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (n)))

/* NUL-terminated copies. */
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, struct str s);
struct str arena_str(struct arena *a, struct str s);
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF(2, 3);

void arena_on_free(struct arena *a, void (*fn)(void *arg), void *arg);

#endif
