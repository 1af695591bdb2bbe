/* The ordered index: a skip list of keys. Chosen over a tree for range scans and for its size; keys are never moved. */
#include "base/mem.h"
#include "base/rnd.h"
#include "store/internal.h"

#include <stdatomic.h>

struct store_value *store_value_new(struct str key, struct str value, int64_t created_rev, int64_t rev)
{
    struct store_value *v = xcalloc(1, sizeof(*v) + key.len + value.len + 2);
    char *bytes = (char *)(v + 1);
    memcpy(bytes, key.ptr, key.len);
    if (value.len)
        memcpy(bytes + key.len + 1, value.ptr, value.len);
    v->refs = 1;
    v->created_rev = created_rev;
    v->rev = rev;
    v->key = str_n(bytes, key.len);
    v->value = str_n(bytes + key.len + 1, value.len);
    return v;
}

struct store_value *store_value_ref(struct store_value *v)
{
    __atomic_add_fetch(&v->refs, 1, __ATOMIC_RELAXED);
    return v;
}

void store_value_unref(struct store_value *v)
{
    if (!v || __atomic_sub_fetch(&v->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (v->cache && v->cache_free)
        v->cache_free(v->cache);
    mem_free(v);
}

struct store_version *version_new(struct index_node *n, int64_t rev, int64_t row_id, struct store_value *value)
{
    struct store_version *v = XNEW(struct store_version);
    *v = (struct store_version){rev, row_id, value, n->newest};
    n->newest = v;
    return v;
}

void version_free(struct store_version *v)
{
    store_value_unref(v->value);
    mem_free(v);
}

static struct index_node *node_new(struct str key, int levels)
{
    size_t size = sizeof(struct index_node) + (size_t)levels * sizeof(struct index_node *);
    struct index_node *n = xcalloc(1, size + key.len + 1);
    char *bytes = (char *)n + size;
    if (key.len)
        memcpy(bytes, key.ptr, key.len);
    n->key = str_n(bytes, key.len);
    n->levels = levels;
    return n;
}

void index_init(struct index *ix)
{
    ix->head = node_new(STR_NULL, INDEX_LEVELS);
    ix->levels = 1;
    ix->nodes = 0;
    ix->random = rnd_u64() | 1; /* unknown outside: nobody can choose keys that make it a list */
}

void index_deinit(struct index *ix)
{
    struct index_node *n = ix->head;
    while (n) {
        struct index_node *next = n->next[0];
        while (n->newest) {
            struct store_version *older = n->newest->older;
            version_free(n->newest);
            n->newest = older;
        }
        mem_free(n);
        n = next;
    }
}

static uint64_t next_random(struct index *ix) /* xorshift64 */
{
    ix->random ^= ix->random << 13;
    ix->random ^= ix->random >> 7;
    ix->random ^= ix->random << 17;
    return ix->random;
}

/* For each level the last node whose key is < key. */
static void path_to(const struct index *ix, struct str key, struct index_node *path[INDEX_LEVELS])
{
    struct index_node *n = ix->head;
    for (int level = ix->levels - 1; level >= 0; level--) {
        while (n->next[level] && str_cmp(n->next[level]->key, key) < 0)
            n = n->next[level];
        path[level] = n;
    }
}

struct index_node *index_seek(const struct index *ix, struct str key)
{
    struct index_node *path[INDEX_LEVELS];
    path_to(ix, key, path);
    return path[0]->next[0];
}

struct index_node *index_find(const struct index *ix, struct str key)
{
    struct index_node *n = index_seek(ix, key);
    return n && str_eq(n->key, key) ? n : NULL;
}

struct index_node *index_ensure(struct index *ix, struct str key)
{
    struct index_node *path[INDEX_LEVELS];
    path_to(ix, key, path);
    struct index_node *n = path[0]->next[0];
    if (n && str_eq(n->key, key))
        return n;
    int levels = 1;
    for (uint64_t bits = next_random(ix); (bits & 3) == 0 && levels < INDEX_LEVELS; bits >>= 2)
        levels++;
    while (ix->levels < levels)
        path[ix->levels++] = ix->head;
    n = node_new(key, levels);
    for (int level = 0; level < levels; level++) {
        n->next[level] = path[level]->next[level];
        path[level]->next[level] = n;
    }
    ix->nodes++;
    return n;
}

void index_remove(struct index *ix, struct index_node *n)
{
    struct index_node *path[INDEX_LEVELS];
    path_to(ix, n->key, path);
    for (int level = 0; level < n->levels; level++)
        if (path[level]->next[level] == n)
            path[level]->next[level] = n->next[level];
    ix->nodes--;
    mem_free(n);
}
