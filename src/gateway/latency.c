#include "gateway/latency.h"

static const double queue_buckets[] = {0.05, 0.25, 1, 2.5, 5, 10, 30, 60};
static const double first_buckets[] = {0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
static const double per_token_buckets[] = {0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1};
static const double duration_buckets[] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

static struct metric_family *histogram(const char *name, const char *help, const double *buckets, size_t count)
{
    static const char *const labels[] = {"tenant", "project", "endpoint", NULL};
    return metric_family(name, help, METRIC_HISTOGRAM, labels, LATENCY_SERIES_MAX, buckets, count);
}

void latency_init(struct latency_metrics *m)
{
    m->queue = histogram("seki_gateway_endpoint_queue_seconds", "How long requests waited for a replica that had room, of those that had to.", queue_buckets, ARRAY_LEN(queue_buckets));
    m->first = histogram("seki_gateway_endpoint_time_to_first_token_seconds", "From the first byte of a request to the first of the engine's answer.", first_buckets, ARRAY_LEN(first_buckets));
    m->per_token = histogram("seki_gateway_endpoint_time_per_output_token_seconds", "Of a stream, the mean after its first token.", per_token_buckets, ARRAY_LEN(per_token_buckets));
    m->duration = histogram("seki_gateway_endpoint_request_duration_seconds", "From the first byte of a request to the last of its answer.", duration_buckets, ARRAY_LEN(duration_buckets));
}

static void count(struct metric_family *f, struct metric **memo, const struct latency *l, double value)
{
    if (value >= 0)
        metric_observe(metric_series_owned(memo, f, (struct str[]){l->tenant, l->project, l->endpoint}, l->tenant), value);
}

void latency_count(const struct latency_metrics *m, struct latency_memo *memo, const struct latency *l)
{
    count(m->queue, &memo->queue, l, l->queue);
    count(m->first, &memo->first, l, l->first);
    count(m->per_token, &memo->per_token, l, l->per_token);
    count(m->duration, &memo->duration, l, l->duration);
}
