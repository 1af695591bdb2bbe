#include "gateway/pick.h"

#include "base/rnd.h"

#define CACHE_WEIGHT 2.0
#define CROWD_FACTOR 1.5 /* times the mean of the others … */
#define CROWD_FREE 2     /* … and so many more */
#define SLOTS_GUESS 8 /* of a server that does not say: only to weigh load against cache */

static bool has_room(const struct snap_replica *r)
{
    return !r->slots || atomic_load(&r->target->in_flight) < r->slots;
}

static double load_of(const struct snap_replica *r)
{
    return atomic_load(&r->target->in_flight);
}

static double total_load(const struct snap_endpoint *e)
{
    double sum = 0;
    for (size_t i = 0; i < e->replica_count; i++)
        sum += load_of(&e->replicas[i]);
    return sum;
}

/* Clearly busier than its sisters. Not by standard deviations: of two replicas, neither can be far from the mean. */
static bool is_crowded(const struct snap_endpoint *e, double load, double total)
{
    return e->replica_count > 1 && load > CROWD_FACTOR * (total - load) / (double)(e->replica_count - 1) + CROWD_FREE;
}

static double score(const struct snap_endpoint *e, const struct snap_replica *r, const struct pick_wish *w, double total, size_t *ret_cached)
{
    double load = load_of(r);
    if (w->policy == PICK_BY_TURNS) {
        *ret_cached = 0;
        return -(double)atomic_load(&r->target->turn);
    }
    *ret_cached = w->hash_count ? target_cached(r->target, w->hashes, w->hash_count) : 0;
    double cached = !w->hash_count || is_crowded(e, load, total) ? 0 : (double)*ret_cached / (double)w->hash_count;
    return CACHE_WEIGHT * cached - load / (double)(r->slots ? r->slots : SLOTS_GUESS);
}

/* Of the replicas that no score is computed for. */
static void report_fates(const struct snap_endpoint *e, const struct pick_wish *w, uint64_t now_ms)
{
    w->report->count = MIN(e->replica_count, (size_t)PICK_REPORT_MAX);
    for (size_t i = 0; i < w->report->count; i++) {
        const struct snap_replica *r = &e->replicas[i];
        w->report->of[i] = (struct pick_candidate){.running = (int64_t)load_of(r),
                                                   .fate = w->barred & (1ull << i)                ? PICK_BARRED
                                                           : w->tried & (1ull << i)               ? PICK_TRIED
                                                           : atomic_load(&r->target->closing)     ? PICK_CLOSING
                                                           : target_is_aside(r->target, now_ms)   ? PICK_ASIDE
                                                           : !has_room(r)                         ? PICK_NO_ROOM
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
    double total = total_load(e), best = 0;
    size_t ties = 0, cached;
    if (w->report)
        report_fates(e, w, now_ms);
    for (int aside = 0; aside < 2 && result == PICK_NONE; aside++)
        for (size_t i = 0; i < e->replica_count; i++) {
            const struct snap_replica *r = &e->replicas[i];
            if ((w->tried | w->barred) & (1ull << i) || atomic_load(&r->target->closing) || target_is_aside(r->target, now_ms) != (aside == 1))
                continue;
            if (!has_room(r)) {
                result = ties ? result : PICK_FULL;
                continue;
            }
            double s = score(e, r, w, total, &cached);
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
