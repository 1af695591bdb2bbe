/* Hash map from byte strings to pointers, keyed with SipHash-1-3 and a per-process secret, so that keys chosen by
 * a peer cannot force collisions. Open addressing. Keys are copied; values belong to the caller unless the map was
 * made with a destructor, which runs on replace, delete and free. Iteration order is unspecified; the map must not
 * be changed during iteration, but for deleting the entry just returned. Threads: no sharing without a lock.
 */
#ifndef SEKI_BASE_MAP_H
#define SEKI_BASE_MAP_H

#include "base/str.h"

struct map;

struct map *map_new(void (*free_value)(void *value)); /* NULL: the map owns no values */
void map_free(struct map *m);
void map_clear(struct map *m);
size_t map_len(const struct map *m);

void *map_get(const struct map *m, struct str key); /* NULL when absent */
static inline void *map_getc(const struct map *m, const char *key)
{
    return map_get(m, str_of(key));
}
void map_set(struct map *m, struct str key, void *value); /* value must not be NULL; aborts without memory */
void *map_take(struct map *m, struct str key);            /* removes without destroying; NULL when absent */
bool map_del(struct map *m, struct str key);

struct map_iter {
    size_t pos; /* this and `end` are the map's own */
    size_t end;
    struct str key;
    void *value;
};
#define MAP_ITER_INIT {0}
bool map_next(const struct map *m, struct map_iter *it);

uint64_t siphash13(const uint8_t key[16], const void *data, size_t len);

#endif
