/* ModelEndpoints with spec.scaling: what gateways tell (demand.h) → how many replicas (autoscale.h) → spec.replicas, with an event and a condition that say why. And how long loading takes. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "inference/autoscale.h"
#include "inference/internal.h"

#define LOOK_MS 1000u /* while something is asked, or replicas run */
#define CONFLICT_LOOK_MS 200u
#define SAMPLES 9

static struct metric_family *scalings;
static struct metric *load_seconds;

void scaling_start(struct inference *i)
{
    static const char *const labels[] = {"reason", NULL};
    static const double buckets[] = {0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280};
    i->demand = demand_new();
    i->scales = map_new(mem_free);
    scalings = metric_family("seki_inference_scalings_total", "Times that an endpoint's replicas were set by what is asked of it.", METRIC_COUNTER, labels, 8, NULL, 0);
    load_seconds = metric_series(metric_family("seki_inference_load_seconds", "How long engines took from their start until they served.", METRIC_HISTOGRAM, NULL, 1, buckets, ARRAY_LEN(buckets)), NULL);
}

void scaling_stop(struct inference *i)
{
    demand_free(i->demand);
    map_free(i->scales);
}

void scaling_loaded(int64_t milliseconds)
{
    metric_observe(load_seconds, (double)milliseconds / 1000);
}

bool reason_is_progress(const char *reason)
{
    static const char *const all[] = {"Creating", "Starting", "Loading", "Verifying", "EngineExited", "ScaledToZero"};
    for (size_t n = 0; n < ARRAY_LEN(all); n++)
        if (!reason || !strcmp(reason, all[n]))
            return true;
    return false;
}

/* ---- how long loading takes ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool has_sample(const json_t *samples, const char *name)
{
    size_t n;
    json_t *s;
    json_array_foreach (samples, n, s)
        if (!strcmp(json_str_or(s, "replica", ""), name))
            return true;
    return false;
}

void scaling_learn(json_t *endpoint, const json_t *replica, struct arena *a)
{
    int64_t ms = json_int(replica, "status.loadMilliseconds", 0), sorted[SAMPLES + 1];
    const char *name = arena_printf(a, "%.36s %.32s", obj_uid(replica) ? obj_uid(replica) : "", json_str_or(replica, "status.startedAt", ""));
    json_t *samples = json_at(endpoint, "status.load.samples");
    if (ms <= 0 || has_sample(samples, name))
        return;
    if (!samples) {
        json_put(endpoint, "status.load.samples", json_array());
        samples = json_at(endpoint, "status.load.samples");
    }
    json_array_append_new(samples, json_pack("{s:s, s:I}", "replica", name, "milliseconds", (json_int_t)ms));
    while (json_array_size(samples) > SAMPLES)
        json_array_remove(samples, 0);
    size_t n, count = json_array_size(samples);
    json_t *s;
    json_array_foreach (samples, n, s)
        sorted[n] = json_int(s, "milliseconds", 0);
    qsort(sorted, count, sizeof(sorted[0]), compare);
    json_put_int(endpoint, "status.load.lastMilliseconds", ms);
    json_put_int(endpoint, "status.load.medianMilliseconds", sorted[count / 2]);
}

/* ---- the decision, applied ---- */

static void gather(struct inference *i, const struct reconcile *r, const struct model_endpoint *e, const json_t *replicas, struct autoscale_facts *f)
{
    struct demand_load load;
    size_t n;
    json_t *obj;
    demand_of(i->demand, r->ns, r->name, &load);
    *f = (struct autoscale_facts){.now_ms = clock_mono_ms(), .known = load.gateways > 0, .wanted = e->spec.replicas, .slots = e->spec.engine.parallel, .waiting = load.waiting,
                                  .running = load.running, .waiting_tokens = load.waiting_tokens, .speed = load.slot_speed * (double)e->spec.engine.parallel, .idle_ms = load.idle_ms,
                                  .load_ms = json_int(r->obj, "status.load.medianMilliseconds", 0)};
    json_array_foreach (replicas, n, obj) {
        const char *ready = obj_condition(obj, "Ready");
        if (obj_deleting(obj))
            continue;
        if (ready && !strcmp(ready, "True"))
            f->ready++;
        else if (reason_is_progress(obj_condition_reason(obj, "Ready")))
            f->loading++;
    }
    f->loading += MAX(f->wanted - (int64_t)json_array_size(replicas), (int64_t)0); /* those that are not made yet */
}

static void decide(struct inference *i, const struct reconcile *r, const struct autoscale_policy *p, const struct autoscale_facts *f, struct autoscale_decision *d)
{
    const char *uid = obj_uid(r->obj) ? obj_uid(r->obj) : "";
    pthread_mutex_lock(&i->lock);
    struct autoscale_memory *m = map_getc(i->scales, uid);
    if (!m) {
        m = XNEW(struct autoscale_memory);
        map_set(i->scales, str_of(uid), m);
    }
    autoscale_decide(p, f, m, d);
    pthread_mutex_unlock(&i->lock);
}

/* r->obj becomes what is stored then. */
static int write_replicas(struct reconcile *r, int64_t replicas, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_model_endpoint);
    JSON_AUTO patch = json_pack("{s:{s:s}, s:{s:I}}", "metadata", "resourceVersion", json_str_or(r->obj, "metadata.resourceVersion", ""), "spec", "replicas", (json_int_t)replicas);
    JSON_AUTO fresh = NULL;
    int rc = client_patch(r->client, &resource, r->ns, r->name, NULL, patch, &fresh, err);
    if (rc < 0)
        return rc;
    json_decref(r->obj);
    r->obj = json_deep_copy(fresh);
    return 0;
}

int scaling_step(struct inference *i, struct reconcile *r, struct model_endpoint *e, const json_t *replicas, struct err *err)
{
    const struct endpoint_scaling *s = e->spec.scaling;
    struct autoscale_decision d;
    struct autoscale_facts f;
    if (!s)
        return 0;
    struct autoscale_policy p = {.min = s->min_replicas, .max = s->max_replicas, .idle_ms = s->idle_seconds * 1000, .target_queue_s = s->target_queue_seconds,
                                 .down_ms = (uint64_t)s->scale_down_seconds * 1000};
    gather(i, r, e, replicas, &f);
    decide(i, r, &p, &f, &d);
    r->requeue_ms = e->spec.replicas || d.replicas ? LOOK_MS : 0; /* at zero, the next report of a request wakes it */
    if (d.replicas == f.wanted)
        return 0;
    int rc = write_replicas(r, d.replicas, err);
    if (rc == ERR_CONFLICT) { /* somebody else has just written: looked at again with what he wrote */
        r->requeue_ms = CONFLICT_LOOK_MS;
        return 0;
    }
    if (rc < 0)
        return rc;
    e->spec.replicas = d.replicas;
    metric_add(metric_series(scalings, (struct str[]){str_of(autoscale_reason_text(d.reason))}), 1);
    manager_event(i->manager, r->obj, "Normal", autoscale_reason_text(d.reason), arena_printf(r->arena, "scaled %lld→%lld: %s", (long long)f.wanted, (long long)d.replicas, d.why));
    return 0;
}

/* What was done last stays to be read; what is said of now is said in words that do not change by the second. */
void scaling_show(struct inference *i, struct reconcile *r, const struct model_endpoint *e)
{
    struct demand_load load;
    json_t *list = json_at(r->obj, "status.conditions"), *c;
    size_t n;
    if (e->spec.scaling) {
        demand_of(i->demand, r->ns, r->name, &load);
        bool off = e->spec.replicas == 0 && e->spec.scaling->min_replicas > 0;
        if (off)
            set_condition(r->obj, "ScalingActive", "False", "SwitchedOff", "replicas is 0 and minReplicas is not: it is switched off until somebody scales it up");
        else if (!load.gateways)
            set_condition(r->obj, "ScalingActive", "False", "LoadUnknown", "no gateway was heard of in the last seconds: nothing is changed");
        else
            set_condition(r->obj, "ScalingActive", "True", "ByDemand", "between %lld and %lld replicas, by what is asked; events tell of each change", (long long)e->spec.scaling->min_replicas,
                          (long long)e->spec.scaling->max_replicas);
        return;
    }
    json_array_foreach (list, n, c)
        if (!strcmp(json_str_or(c, "type", ""), "ScalingActive")) {
            json_array_remove(list, n);
            break;
        }
}

static void look_at(void *arg, const char *ns, const char *name)
{
    manager_enqueue(((struct inference *)arg)->manager, CONTROLLER_ENDPOINT, ns, name);
}

int inference_load(struct inference *i, const json_t *told, json_t **ret, struct err *err)
{
    return demand_report(i->demand, told, look_at, i, ret, err);
}

/* ---- replicas that go ---- */

const char *scaling_target(const json_t *replica, struct arena *a)
{
    const char *address = json_str_or(replica, "status.address", "");
    return *address ? arena_printf(a, "%s %s", obj_namespace(replica), address) : NULL;
}
