#include "gateway/patience.h"

#define BLOCK_TOKENS (PREFIX_BLOCK_BYTES / 4)
#define READ_WEIGHT 2 /* of what is read elsewhere */

void patience_learn(struct patience *p, int64_t tokens, uint64_t ms)
{
    if (tokens < PATIENCE_LEARN_TOKENS)
        return;
    double speed = (double)tokens / (double)MAX(ms, (uint64_t)1);
    p->read_speed = p->read_speed > 0 ? (p->read_speed * 15 + speed) / 16 : speed;
}

static void find_home(const struct snap_endpoint *e, const struct pick_wish *w, struct patience_home *home, uint64_t now_ms)
{
    size_t old = home->index;
    home->index = SIZE_MAX;
    home->cached = 0;
    home->found_ms = now_ms;
    for (size_t i = 0; i < e->replica_count; i++) {
        struct target *t = e->replicas[i].target;
        if ((w->tried | w->barred) & (1ull << i) || atomic_load(&t->closing) || target_is_aside(t, now_ms))
            continue;
        size_t n = target_cached(t, w->hashes, w->hash_count);
        if (n > home->cached || (n && n == home->cached && pick_has_room(&e->replicas[i]))) {
            home->index = i;
            home->cached = n;
        }
    }
    home->line = home->index == old ? home->line : 0;
}

bool patience_waits(const struct patience *p, const struct snap_endpoint *e, const struct pick_wish *w, struct patience_home *home, struct patience_line *line, size_t cached, uint64_t service_ms, uint64_t now_ms)
{
    if (p->read_speed <= 0 || !w->hash_count || w->policy != PICK_BY_PREFIX)
        return false;
    if (!home->found_ms || now_ms - home->found_ms >= PATIENCE_LOOK_MS)
        find_home(e, w, home, now_ms);
    if (home->index >= MIN(e->replica_count, (size_t)SNAPSHOT_REPLICAS_MAX) || home->cached <= cached)
        return false;
    const struct snap_replica *r = &e->replicas[home->index];
    if (pick_has_room(r) || atomic_load(&r->target->closing) || target_is_aside(r->target, now_ms))
        return false;
    if (home->line != line->id) {
        home->line = line->id;
        home->place = ++line->ahead[home->index];
    }
    double wait_ms = (double)home->place * (double)service_ms / (double)r->slots;
    return wait_ms <= READ_WEIGHT * (double)((home->cached - cached) * BLOCK_TOKENS) / p->read_speed;
}
