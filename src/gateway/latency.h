/* How long requests take, by whose they are and which endpoint served them: what an operator looks at when one tenant complains.
 *
 * Four histograms with the labels tenant (the caller's), project and endpoint: seki_gateway_endpoint_queue_seconds (of those that had to wait), …_time_to_first_token_seconds,
 * …_time_per_output_token_seconds (of a stream, the mean after its first), …_request_duration_seconds. Each has LATENCY_SERIES_MAX series, which tenants share (base/metrics.h); those for which
 * there is no room share one whose labels are "other". Threads: any.
 */
#ifndef SEKI_GATEWAY_LATENCY_H
#define SEKI_GATEWAY_LATENCY_H

#include "base/metrics.h"

#define LATENCY_SERIES_MAX 200

struct latency_metrics {
    struct metric_family *queue, *first, *per_token, *duration;
};

/* Of one request; negative: it has none. Seconds. */
struct latency {
    struct str tenant, project, endpoint;
    double queue, first, per_token, duration;
};

/* The series that were counted last, on one thread. */
struct latency_memo {
    struct metric *queue, *first, *per_token, *duration;
};

void latency_init(struct latency_metrics *m);
void latency_count(const struct latency_metrics *m, struct latency_memo *memo, const struct latency *l);

#endif
