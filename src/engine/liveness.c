#include "engine/engine.h"

#define FAILED_PROBES 3

enum engine_verdict engine_liveness_feed(struct engine_liveness *l, uint64_t now_ms, int probe_code, const struct engine_health *h, uint64_t stall_ms, uint64_t idle_ms)
{
    if (probe_code < 0)
        return ++l->failed_probes >= FAILED_PROBES ? ENGINE_HUNG : ENGINE_OK;
    l->failed_probes = 0;
    bool counted = h->tokens_total >= 0;
    if (counted && h->tokens_total != l->tokens_total) {
        l->tokens_total = h->tokens_total;
        l->last_progress_ms = now_ms;
    }
    if (h->requests_running > 0) {
        /* Work began at the latest when it was first seen; without counters nothing can be said. */
        if (!l->busy_since_ms)
            l->busy_since_ms = now_ms;
        uint64_t since = l->busy_since_ms > l->last_progress_ms ? l->busy_since_ms : l->last_progress_ms;
        return counted && now_ms - since >= stall_ms ? ENGINE_HUNG : ENGINE_OK;
    }
    l->busy_since_ms = 0;
    uint64_t last = l->last_progress_ms > l->last_poke_ms ? l->last_progress_ms : l->last_poke_ms;
    if (now_ms - last < idle_ms)
        return ENGINE_OK;
    l->last_poke_ms = now_ms;
    return ENGINE_NEEDS_POKE;
}
