/* How many replicas an endpoint should have: one function of what is known and what was, without clocks, locks or the world.
 *
 *   need = running / (0.8 × slots of a replica)  +  tokens that wait / (tokens/s of a replica × targetQueueSeconds)        [replicas]
 *
 * Up without delay, by the mean need of the last 6 s; never to more than three times as many at once. Down by the largest need of scaleDownSeconds, never to fewer than half at once,
 * not while one loads (it is capacity that was asked for), and not for a minute after a rush (a need of 2.5 times what serves). Needs within -10 % and +20 % of what there is change
 * nothing. While one loads, what waits is measured against the time it takes until it serves, so that nothing is ordered twice. The last replica goes only with minReplicas 0, when
 * nothing has run or waited anywhere for idleSeconds; the first one comes with the first request. Where no gateway was heard of, nothing changes.
 * With minReplicas above 0, replicas 0 means that somebody has switched it off: nothing is started until somebody scales it up.
 */
#ifndef SEKI_INFERENCE_AUTOSCALE_H
#define SEKI_INFERENCE_AUTOSCALE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTOSCALE_SAMPLES 64
#define AUTOSCALE_SPANS 16

struct autoscale_policy {
    int64_t min, max, idle_ms, target_queue_s;
    uint64_t down_ms;
};

struct autoscale_facts {
    uint64_t now_ms; /* monotonic */
    bool known;      /* some gateway was heard of */
    int64_t wanted;  /* replicas now */
    int64_t ready, loading; /* of them; what is neither has failed */
    int64_t slots;   /* of a replica */
    int64_t waiting, running, waiting_tokens;
    double speed;    /* tokens/s of a replica; 0: not known */
    int64_t idle_ms; /* since anything ran or waited */
    int64_t load_ms; /* until a new replica serves; 0: not known */
};

/* Of one endpoint, between decisions. All zero at first; when it is lost, scaling down waits its time anew. */
struct autoscale_memory {
    struct {
        uint64_t at_ms;
        double need;
    } samples[AUTOSCALE_SAMPLES];
    size_t sample_count, sample_next;
    struct {
        uint64_t number; /* of the span: one fewer of them make down_ms */
        double most;
    } spans[AUTOSCALE_SPANS];
    uint64_t since_ms;  /* when it was scaled last, or looked at first */
    uint64_t rush_until_ms;
    int64_t wanted;     /* after the last decision: another number is somebody else's */
    bool used;
};

enum autoscale_reason {
    AUTOSCALE_STEADY, AUTOSCALE_UP, AUTOSCALE_DOWN, AUTOSCALE_FROM_ZERO, AUTOSCALE_TO_ZERO, AUTOSCALE_AT_ZERO, AUTOSCALE_BOUNDS, AUTOSCALE_LOADING, AUTOSCALE_OFF, AUTOSCALE_UNKNOWN,
};
const char *autoscale_reason_text(enum autoscale_reason r); /* of the condition ScalingActive */

struct autoscale_decision {
    int64_t replicas;
    enum autoscale_reason reason;
    char why[160]; /* for people */
};

void autoscale_decide(const struct autoscale_policy *p, const struct autoscale_facts *f, struct autoscale_memory *m, struct autoscale_decision *ret);

#endif
