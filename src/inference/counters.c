/* An engine's own counters of tokens, in its replica's status: billing compares them with the usage ledger. */
#include "base/clock.h"
#include "inference/internal.h"

#define COUNTERS_MS 3600000u

/* At rest is best: then nothing is half counted. Who is never at rest is not waited for very long. */
static bool is_due(const struct inference *i, const struct replica_memory *m, const struct engine_health *h)
{
    uint64_t every_ms = i->o.counters_ms ? i->o.counters_ms : COUNTERS_MS, since_ms = clock_mono_ms() - m->counters_ms;
    return !m->counters_ms || since_ms >= every_ms + every_ms / 2 || (since_ms >= every_ms && h->requests_running <= 0);
}

void counters_show(struct inference *i, json_t *replica, struct replica_memory *m, const struct engine_ops *ops, const struct engine_health *h, int64_t from_ms)
{
    if (h->tokens_read < 0 || h->tokens_written < 0 || !is_due(i, m, h))
        return;
    int64_t now_ms = clock_wall_ms();
    bool first = !m->counters_ms;
    int64_t number = json_int(replica, "status.counters.engineNumber", 0) + first; /* one that is new, or new to us */
    m->counters_ms = clock_mono_ms();
    json_t *status = json_object_get(replica, "status");
    if (!json_is_object(status)) {
        status = json_object();
        json_object_set_new(replica, "status", status);
    }
    json_object_set_new(status, "counters",
                        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "atMilliseconds", (json_int_t)now_ms, "tookMilliseconds", (json_int_t)(now_ms - from_ms), "engineNumber", (json_int_t)number,
                                  "requestsRunning", (json_int_t)h->requests_running, "tokensRead", (json_int_t)MAX(h->tokens_read - m->own.read, (int64_t)0), "tokensWritten",
                                  (json_int_t)MAX(h->tokens_written - m->own.written, (int64_t)0), "countsCached", ops->counts_cached));
}
