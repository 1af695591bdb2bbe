/* How many endpoints and replicas are in which state, for alerts: counted as the informers tell of changes, so that a scrape costs nothing and names no object. */
#include "base/metrics.h"
#include "inference/internal.h"

enum endpoint_state { ENDPOINT_NONE, ENDPOINT_SERVING, ENDPOINT_DEGRADED, ENDPOINT_NOT_READY, ENDPOINT_SCALED_TO_ZERO, ENDPOINT_STATES };
enum replica_state { REPLICA_NONE, REPLICA_READY, REPLICA_NOT_READY, REPLICA_CRASH_LOOPING, REPLICA_STATES };

static const char *const endpoint_states[] = {NULL, "serving", "degraded", "not-ready", "scaled-to-zero"};
static const char *const replica_states[] = {NULL, "ready", "not-ready", "crash-looping"};
static const char *const labels[] = {"state", NULL};

static struct metric *endpoints[ENDPOINT_STATES], *replicas[REPLICA_STATES], *restarts;

static bool is(const char *text, const char *wanted)
{
    return text && !strcmp(text, wanted);
}

static enum endpoint_state endpoint_state(const json_t *obj)
{
    if (!obj || obj_deleting(obj))
        return ENDPOINT_NONE;
    if (json_int(obj, "spec.replicas", 1) == 0)
        return ENDPOINT_SCALED_TO_ZERO;
    if (!is(obj_condition(obj, "Ready"), "True"))
        return ENDPOINT_NOT_READY;
    return is(obj_condition_reason(obj, "Ready"), "Degraded") ? ENDPOINT_DEGRADED : ENDPOINT_SERVING;
}

static enum replica_state replica_state(const json_t *obj)
{
    if (!obj || obj_deleting(obj))
        return REPLICA_NONE;
    if (is(obj_condition_reason(obj, "EngineStarted"), "CrashLoopBackOff"))
        return REPLICA_CRASH_LOOPING;
    return is(obj_condition(obj, "Ready"), "True") ? REPLICA_READY : REPLICA_NOT_READY;
}

static void move(struct metric *const *states, unsigned from, unsigned to)
{
    if (from == to)
        return;
    if (states[from])
        metric_move(states[from], -1);
    if (states[to])
        metric_move(states[to], 1);
}

static void on_endpoint(void *arg, json_t *prev, json_t *now)
{
    (void)arg;
    move(endpoints, endpoint_state(prev), endpoint_state(now));
}

static void on_replica(void *arg, json_t *prev, json_t *now)
{
    (void)arg;
    move(replicas, replica_state(prev), replica_state(now));
    /* What is seen for the first time was counted by whoever ran before. */
    int64_t before = prev ? json_int(prev, "status.restarts", 0) : 0, after = prev && now ? json_int(now, "status.restarts", 0) : 0;
    if (after > before)
        metric_add(restarts, (uint64_t)(after - before));
}

void census_start(struct inference *i)
{
    struct metric_family *e = metric_family("seki_inference_endpoints", "ModelEndpoints by state.", METRIC_GAUGE, labels, ENDPOINT_STATES, NULL, 0);
    struct metric_family *r = metric_family("seki_inference_replicas", "ModelReplicas by state.", METRIC_GAUGE, labels, REPLICA_STATES, NULL, 0);
    for (unsigned s = 1; s < ENDPOINT_STATES; s++)
        endpoints[s] = metric_series(e, (const struct str[]){str_of(endpoint_states[s])});
    for (unsigned s = 1; s < REPLICA_STATES; s++)
        replicas[s] = metric_series(r, (const struct str[]){str_of(replica_states[s])});
    restarts = metric_counter("seki_inference_engine_restarts_total", "Engines that ended, or were ended because they hung, and were started again.");
    informer_add_handler(i->endpoints, &(struct informer_handler){.changed = on_endpoint});
    informer_add_handler(i->replicas, &(struct informer_handler){.changed = on_replica});
}
