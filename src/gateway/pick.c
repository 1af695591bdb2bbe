#include "gateway/pick.h"

#include "base/rnd.h"

#define BLOCK_TOKENS (PREFIX_BLOCK_BYTES / 4)
#define READ_WEIGHT 2.0   /* of a token that has to be read */
#define RUNS_TOKENS 128.0 /* what a request in flight weighs … */
#define FULL_TOKENS 512.0 /* … and all slots of a replica besides */
#define QUEUED_TOKENS 512.0 /* … and one that waits in the engine's own queue */
#define KV_TOKENS 2048.0 /* … and all of its memory for keys and values, beyond … */
#define KV_SCARCE 800 /* … so many thousandths */
#define SLOTS_GUESS 8 /* of a server that does not say: only to weigh load against cache */

bool pick_has_room(const struct snap_replica *r)
{
    return !r->slots || atomic_load(&r->target->in_flight) < r->slots;
}

static double load_of(const struct snap_replica *r)
{
    return atomic_load(&r->target->in_flight);
}

/* What the engine tells beyond what this gateway knows by itself: the requests of others. */
struct told {
    int others, waiting, kv_used;
};

static struct told told_of(const struct snap_replica *r, uint64_t now_ms)
{
    const struct target *t = r->target;
    if (atomic_load(&t->told_until_ms) <= now_ms)
        return (struct told){0};
    int others = MAX(atomic_load(&t->told_requests) - atomic_load(&t->in_flight), 0);
    return (struct told){.others = others, .waiting = MIN(others, atomic_load(&t->told_waiting)), .kv_used = atomic_load(&t->told_kv)};
}

static double score(const struct snap_replica *r, const struct pick_wish *w, uint64_t now_ms, size_t *ret_cached)
{
    const struct told told = told_of(r, now_ms);
    double load = load_of(r) + told.others;
    if (w->policy == PICK_BY_TURNS) {
        *ret_cached = 0;
        return -(double)atomic_load(&r->target->turn);
    }
    *ret_cached = w->hash_count ? target_cached(r->target, w->hashes, w->hash_count) : 0;
    double full = load / (double)(r->slots ? r->slots : SLOTS_GUESS);
    if (w->policy == PICK_BY_LOAD)
        return -full;
    int64_t tokens = MAX(w->tokens, (int64_t)(w->hash_count * BLOCK_TOKENS));
    double scarce = (double)MAX(told.kv_used - KV_SCARCE, 0) / (1000 - KV_SCARCE);
    return -(READ_WEIGHT * (double)(tokens - (int64_t)(*ret_cached * BLOCK_TOKENS)) + (double)atomic_load(&r->target->unread) + RUNS_TOKENS * load + FULL_TOKENS * full +
             QUEUED_TOKENS * told.waiting + KV_TOKENS * scarce);
}

/* Of the replicas that no score is computed for. */
static void report_fates(const struct snap_endpoint *e, const struct pick_wish *w, uint64_t now_ms)
{
    w->report->count = MIN(e->replica_count, (size_t)SNAPSHOT_REPLICAS_MAX);
    for (size_t i = 0; i < w->report->count; i++) {
        const struct snap_replica *r = &e->replicas[i];
        const struct told told = told_of(r, now_ms);
        w->report->of[i] = (struct pick_candidate){.running = (int64_t)load_of(r), .others = told.others, .waiting = told.waiting, .kv_used = told.kv_used,
                                                   .fate = w->barred & (1ull << i)                ? PICK_BARRED
                                                           : w->tried & (1ull << i)               ? PICK_TRIED
                                                           : atomic_load(&r->target->closing)     ? PICK_CLOSING
                                                           : target_is_aside(r->target, now_ms)   ? PICK_ASIDE
                                                           : !pick_has_room(r)                         ? PICK_NO_ROOM
                                                                                                  : PICK_UNSEEN};
    }
}

static void report_score(struct pick_report *report, size_t i, double score, size_t cached)
{
    if (i >= report->count)
        return;
    report->of[i].fate = PICK_WEIGHED;
    report->of[i].score = score;
    report->of[i].cached = cached;
}

enum pick_result pick_replica(const struct snap_endpoint *e, const struct pick_wish *w, uint64_t now_ms, size_t *ret_index, size_t *ret_cached)
{
    enum pick_result result = PICK_NONE;
    double best = 0;
    size_t ties = 0, cached;
    if (w->report)
        report_fates(e, w, now_ms);
    for (int aside = 0; aside < 2 && result == PICK_NONE; aside++)
        for (size_t i = 0; i < e->replica_count; i++) {
            const struct snap_replica *r = &e->replicas[i];
            if ((w->tried | w->barred) & (1ull << i) || atomic_load(&r->target->closing) || target_is_aside(r->target, now_ms) != (aside == 1))
                continue;
            if (!pick_has_room(r)) {
                result = ties ? result : PICK_FULL;
                continue;
            }
            double s = score(r, w, now_ms, &cached);
            if (w->report)
                report_score(w->report, i, s, cached);
            if (ties && s < best)
                continue;
            ties = ties && s == best ? ties + 1 : 1;
            best = s;
            result = PICK_ONE;
            if (ties == 1 || rnd_guessable_below(ties) == 0) {
                *ret_index = i;
                if (ret_cached)
                    *ret_cached = cached;
            }
        }
    /* Nothing is there that was not tried, but something will be. */
    return result == PICK_NONE && e->waits_for_replicas && !w->tried ? PICK_FULL : result;
}
