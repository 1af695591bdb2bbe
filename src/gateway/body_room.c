#include "gateway/body_room.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "base/mem.h"

static atomic_size_t all;

struct body_room {
    atomic_uint refs;
    atomic_size_t bytes;
};

struct body_rooms {
    pthread_mutex_t lock;
    struct map *by_tenant;
};

void body_room_unref(struct body_room *r)
{
    if (atomic_fetch_sub(&r->refs, 1) == 1)
        mem_free(r);
}

static void release(void *value)
{
    body_room_unref(value);
}

struct body_rooms *body_rooms_new(void)
{
    struct body_rooms *s = XNEW(struct body_rooms);
    pthread_mutex_init(&s->lock, NULL);
    s->by_tenant = map_new(release);
    return s;
}

void body_rooms_free(struct body_rooms *s)
{
    if (!s)
        return;
    map_free(s->by_tenant);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

struct body_room *body_rooms_take(struct body_rooms *s, const char *tenant)
{
    pthread_mutex_lock(&s->lock);
    struct body_room *r = map_getc(s->by_tenant, tenant);
    if (!r) {
        r = XNEW(struct body_room);
        atomic_store(&r->refs, 1);
        map_set(s->by_tenant, str_of(tenant), r);
    }
    atomic_fetch_add(&r->refs, 1);
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* Who holds bytes has a snapshot, and that a reference. */
void body_rooms_prune(struct body_rooms *s)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_tenant, &it))
        if (atomic_load(&((struct body_room *)it.value)->refs) == 1)
            map_del(s->by_tenant, it.key);
    pthread_mutex_unlock(&s->lock);
}

static bool add(atomic_size_t *to, size_t n, size_t max)
{
    if (atomic_fetch_add_explicit(to, n, memory_order_relaxed) + n <= max)
        return true;
    atomic_fetch_sub_explicit(to, n, memory_order_relaxed);
    return false;
}

enum body_room_result body_hold_grow(struct body_hold *h, struct body_room *r, size_t bytes,
                                     const struct body_room_max *max)
{
    if (bytes <= BODY_ROOM_FREE || bytes <= h->bytes)
        return BODY_ROOM_HELD;
    size_t more = bytes - h->bytes;
    if (!add(&r->bytes, more, max->tenant_bytes))
        return BODY_ROOM_TENANT_FULL;
    if (!add(&all, more, max->all_bytes)) {
        atomic_fetch_sub_explicit(&r->bytes, more, memory_order_relaxed);
        return BODY_ROOM_FULL;
    }
    *h = (struct body_hold){r, bytes};
    return BODY_ROOM_HELD;
}

void body_hold_shrink(struct body_hold *h, size_t bytes)
{
    if (bytes >= h->bytes)
        return;
    atomic_fetch_sub_explicit(&h->room->bytes, h->bytes - bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&all, h->bytes - bytes, memory_order_relaxed);
    h->bytes = bytes;
}

void body_hold_end(struct body_hold *h)
{
    body_hold_shrink(h, 0);
}

double body_room_bytes(void *arg UNUSED)
{
    return (double)atomic_load(&all);
}
