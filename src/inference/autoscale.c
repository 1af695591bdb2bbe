#include "inference/autoscale.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"

#define FULL 0.8 /* of a replica's slots: beyond it another one is needed */
#define SHORT_MS 6000
#define STABLE_MS 60000
#define RUSH 2.5
#define TOLERANCE_UP 1.2
#define TOLERANCE_DOWN 0.9
#define UP_MAX 3
#define DOWN_MAX 2

const char *autoscale_reason_text(enum autoscale_reason r)
{
    static const char *const texts[] = {
        [AUTOSCALE_STEADY] = "Steady", [AUTOSCALE_UP] = "ScaledUp", [AUTOSCALE_DOWN] = "ScaledDown", [AUTOSCALE_FROM_ZERO] = "ScaledFromZero", [AUTOSCALE_TO_ZERO] = "ScaledToZero",
        [AUTOSCALE_AT_ZERO] = "AtZero", [AUTOSCALE_BOUNDS] = "OutOfBounds", [AUTOSCALE_LOADING] = "Loading", [AUTOSCALE_OFF] = "SwitchedOff", [AUTOSCALE_UNKNOWN] = "LoadUnknown",
    };
    return texts[r];
}

/* How many replicas would do what is asked just now. */
static double need_of(const struct autoscale_policy *p, const struct autoscale_facts *f)
{
    double slots = (double)MAX(f->slots, (int64_t)1), horizon_s = (double)p->target_queue_s;
    if (f->loading)
        horizon_s += (double)f->load_ms / 1000;
    double running = (double)f->running / (FULL * slots);
    double waiting = f->speed > 0 ? (double)f->waiting_tokens / (f->speed * horizon_s) : (double)f->waiting / slots;
    return running + waiting;
}

static void remember(const struct autoscale_policy *p, struct autoscale_memory *m, uint64_t now_ms, double need)
{
    uint64_t number = now_ms / MAX(p->down_ms / (AUTOSCALE_SPANS - 1), (uint64_t)1);
    __auto_type span = &m->spans[number % AUTOSCALE_SPANS];
    m->samples[m->sample_next].at_ms = now_ms;
    m->samples[m->sample_next].need = need;
    m->sample_next = (m->sample_next + 1) % AUTOSCALE_SAMPLES;
    m->sample_count = MIN(m->sample_count + 1, (size_t)AUTOSCALE_SAMPLES);
    span->most = span->number == number ? MAX(span->most, need) : need;
    span->number = number;
}

static double short_mean(const struct autoscale_memory *m, uint64_t now_ms)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < m->sample_count; i++)
        if (now_ms - m->samples[i].at_ms <= SHORT_MS) {
            sum += m->samples[i].need;
            n++;
        }
    return n ? sum / (double)n : 0;
}

static double most_lately(const struct autoscale_policy *p, const struct autoscale_memory *m, uint64_t now_ms)
{
    uint64_t number = now_ms / MAX(p->down_ms / (AUTOSCALE_SPANS - 1), (uint64_t)1);
    double most = 0;
    for (size_t i = 0; i < AUTOSCALE_SPANS; i++)
        if (m->spans[i].number + AUTOSCALE_SPANS > number)
            most = MAX(most, m->spans[i].most);
    return most;
}

static bool is_idle(const struct autoscale_policy *p, const struct autoscale_facts *f)
{
    return !f->waiting && !f->running && f->idle_ms >= p->idle_ms;
}

static void set(struct autoscale_decision *d, int64_t replicas, enum autoscale_reason reason, const char *why)
{
    d->replicas = replicas;
    d->reason = reason;
    snprintf(d->why, sizeof(d->why), "%s", why);
}

static void go_up(const struct autoscale_policy *p, const struct autoscale_facts *f, double need, struct autoscale_decision *d)
{
    int64_t n = (int64_t)ceil(MIN(need, 1e6));
    n = MIN(n, MIN(MAX(UP_MAX * f->wanted, f->wanted + 1), p->max));
    if (n <= f->wanted)
        return;
    set(d, n, AUTOSCALE_UP, "");
    if (f->speed > 0 && f->waiting_tokens)
        snprintf(d->why, sizeof(d->why), "queue would take %.0f s", ceil((double)f->waiting_tokens / (f->speed * (double)MAX(f->ready, (int64_t)1))));
    else
        snprintf(d->why, sizeof(d->why), "%lld requests run and %lld wait, %lld at a time are served by one", (long long)f->running, (long long)f->waiting, (long long)f->slots);
}

static void go_down(const struct autoscale_policy *p, const struct autoscale_facts *f, const struct autoscale_memory *m, struct autoscale_decision *d)
{
    double most = most_lately(p, m, f->now_ms);
    int64_t n = MAX((int64_t)ceil(most), MAX(p->min, (int64_t)1));
    n = MAX(n, (f->wanted + DOWN_MAX - 1) / DOWN_MAX);
    if (n >= f->wanted || most > TOLERANCE_DOWN * (double)f->wanted || f->now_ms - m->since_ms < p->down_ms || f->now_ms < m->rush_until_ms)
        return;
    if (f->loading) {
        set(d, f->wanted, AUTOSCALE_LOADING, "a replica loads: nothing is stopped before it serves");
        return;
    }
    set(d, n, AUTOSCALE_DOWN, "");
    snprintf(d->why, sizeof(d->why), "at most %.1f were needed in the last %llu s", most, (unsigned long long)p->down_ms / 1000);
}

static void decide_by_load(const struct autoscale_policy *p, const struct autoscale_facts *f, struct autoscale_memory *m, struct autoscale_decision *d)
{
    remember(p, m, f->now_ms, need_of(p, f));
    double need = short_mean(m, f->now_ms);
    if (f->ready && need >= RUSH * (double)f->ready)
        m->rush_until_ms = f->now_ms + STABLE_MS;
    if (need > TOLERANCE_UP * (double)f->wanted)
        go_up(p, f, need, d);
    else if (p->min == 0 && is_idle(p, f) && f->loading)
        set(d, f->wanted, AUTOSCALE_LOADING, "a replica loads: nothing is stopped before it serves");
    else if (p->min == 0 && is_idle(p, f)) {
        set(d, 0, AUTOSCALE_TO_ZERO, "");
        snprintf(d->why, sizeof(d->why), "nothing was asked for %lld s", (long long)f->idle_ms / 1000);
    } else
        go_down(p, f, m, d);
}

void autoscale_decide(const struct autoscale_policy *p, const struct autoscale_facts *f, struct autoscale_memory *m, struct autoscale_decision *ret)
{
    set(ret, f->wanted, AUTOSCALE_STEADY, "as many as are needed");
    if (!m->used || m->wanted != f->wanted)
        m->since_ms = f->now_ms;
    m->used = true;
    if (f->wanted == 0 && p->min > 0)
        set(ret, 0, AUTOSCALE_OFF, "replicas is 0 and minReplicas is not: it is switched off until somebody scales it up");
    else if (f->wanted > p->max || f->wanted < p->min)
        set(ret, f->wanted > p->max ? p->max : p->min, AUTOSCALE_BOUNDS, f->wanted > p->max ? "more than maxReplicas" : "fewer than minReplicas");
    else if (!f->known)
        set(ret, f->wanted, AUTOSCALE_UNKNOWN, "no gateway was heard of in the last seconds: nothing is changed");
    else if (f->wanted == 0 && f->waiting)
        set(ret, 1, AUTOSCALE_FROM_ZERO, "a request waits");
    else if (f->wanted == 0)
        set(ret, 0, AUTOSCALE_AT_ZERO, "the next request starts one");
    else
        decide_by_load(p, f, m, ret);
    if (ret->replicas != f->wanted)
        m->since_ms = f->now_ms;
    m->wanted = ret->replicas;
}
