#include "base/arena.h"

#include "base/mem.h"

#define ALIGNMENT _Alignof(max_align_t)
#define FIRST_BLOCK_BYTES 4096
#define LARGEST_BLOCK_BYTES ((size_t)1 << 20)

struct block {
    struct block *next;
    size_t size; /* of data */
    size_t used;
    _Alignas(max_align_t) unsigned char data[];
};

struct cleanup {
    struct cleanup *next;
    void (*fn)(void *arg);
    void *arg;
};

struct arena {
    struct block *first; /* kept by arena_reset */
    struct block *last;  /* the one that allocations come from */
    struct cleanup *cleanups;
    size_t max_bytes;
    size_t first_bytes; /* of the first block */
    size_t total_bytes; /* of all blocks */
    size_t used;
};

static struct block *block_new(size_t size)
{
    if (size > SIZE_MAX - sizeof(struct block))
        return NULL;
    struct block *b = mem_try(sizeof(*b) + size);
    if (b)
        b->size = size;
    return b;
}

static NORETURN void over_maximum(const struct arena *a, size_t size_bytes)
{
    fprintf(stderr, "seki: arena of at most %zu bytes cannot give %zu more (used: %zu)\n",
            a->max_bytes, size_bytes, a->used);
    abort();
}

struct arena *arena_new(size_t max_bytes)
{
    return arena_new_sized(max_bytes, FIRST_BLOCK_BYTES);
}

struct arena *arena_new_sized(size_t max_bytes, size_t first_bytes)
{
    struct arena *a = XNEW(struct arena);
    a->max_bytes = max_bytes;
    a->first_bytes = first_bytes;
    return a;
}

static void run_cleanups(struct arena *a)
{
    /* One may register another: taken one by one. */
    while (a->cleanups) {
        struct cleanup *c = a->cleanups;
        a->cleanups = c->next;
        c->fn(c->arg);
    }
}

static void free_blocks(struct block *b)
{
    while (b) {
        struct block *next = b->next;
        mem_free(b);
        b = next;
    }
}

void arena_reset(struct arena *a)
{
    run_cleanups(a);
    if (!a->first)
        return;
    free_blocks(a->first->next);
    memset(a->first->data, 0, a->first->used);
    a->first->used = 0;
    a->first->next = NULL;
    a->last = a->first;
    a->total_bytes = a->first->size;
    a->used = 0;
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    run_cleanups(a);
    free_blocks(a->first);
    mem_free(a);
}

void arena_freep(struct arena **a)
{
    arena_free(*a);
    *a = NULL;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}

/* A new block with room for size bytes; blocks double so that many small allocations cost few
 * calls. */
static bool grow(struct arena *a, size_t size)
{
    size_t room = a->max_bytes - MIN(a->max_bytes, a->total_bytes);
    if (size > room)
        return false;
    size_t want = a->last ? MIN(a->last->size * 2, LARGEST_BLOCK_BYTES) : a->first_bytes;
    want = MIN(MAX(want, size), room);
    struct block *b = block_new(want);
    if (!b)
        return false;
    if (a->last)
        a->last->next = b;
    else
        a->first = b;
    a->last = b;
    a->total_bytes += want;
    return true;
}

void *arena_try(struct arena *a, size_t size_bytes)
{
    if (size_bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    size_t size = (MAX(size_bytes, (size_t)1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (size > a->max_bytes - MIN(a->max_bytes, a->used))
        return NULL;
    if (!a->last || size > a->last->size - a->last->used)
        if (!grow(a, size))
            return NULL;
    void *p = a->last->data + a->last->used;
    a->last->used += size;
    a->used += size;
    return p;
}

void *arena_alloc(struct arena *a, size_t size_bytes)
{
    void *p = arena_try(a, size_bytes);
    if (!p)
        over_maximum(a, size_bytes);
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, str_of(s));
}

char *arena_strndup(struct arena *a, struct str s)
{
    if (s.len == SIZE_MAX)
        over_maximum(a, s.len);
    char *p = arena_alloc(a, s.len + 1);
    if (s.len)
        memcpy(p, s.ptr, s.len);
    return p;
}

struct str arena_str(struct arena *a, struct str s)
{
    return str_n(arena_strndup(a, s), s.len);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        abort();
    char *p = arena_alloc(a, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void arena_on_free(struct arena *a, void (*fn)(void *arg), void *arg)
{
    struct cleanup *c = ARENA_NEW(a, struct cleanup);
    c->fn = fn;
    c->arg = arg;
    c->next = a->cleanups;
    a->cleanups = c;
}
