/* Metrics: a process-wide registry with Prometheus' text exposition (version 0.0.4).
 *
 * A family (name, help, type, label names) is made once at start-up; a series is looked up by its label values and
 * then kept by the caller, so that counting is one atomic add. A family holds at most max_series series (a cap on
 * cardinality); beyond it all new ones share the series whose labels are all "other".
 *
 * Who can make things that series speak of (endpoints, say) could use that cap up for everybody else. So a family's maker may say what is gone, metric_family_sweep(), and a series may have an
 * owner, metric_series_owned(). A series whose subject is gone is kept for a while, so that its last value is scraped. In a family that is full a new series gets the place of the one that is
 * gone for longest; else, when the owner of the most has more than one more than the owner of the new one, the place of the newest of his, whose counts go with it: later ones are `other`.
 *
 * Threads: any. A series is only freed by a sweep, or in a family that was ever swept or has owners; who counts there does so by a memo, which keeps what it points to. All else is never freed.
 */
#ifndef SEKI_BASE_METRICS_H
#define SEKI_BASE_METRICS_H

#include <stdint.h>

#include "base/str.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_family;
struct metric; /* one series */

/* label_names: up to 6, ends in NULL (NULL: no labels). buckets: ascending upper bounds, for histograms, copied. */
struct metric_family *metric_family(const char *name, const char *help, enum metric_type type,
                                    const char *const *label_names, size_t max_series,
                                    const double *buckets, size_t bucket_count);
struct metric *metric_series(struct metric_family *f, const struct str *label_values);
/* The same, for who counts with the same labels again and again: *memo (NULL at first) is what was found the last time, and is looked up anew when its labels are others. */
struct metric *metric_series_again(struct metric **memo, struct metric_family *f, const struct str *label_values);
/* The same, and where a series is made, it is the owner's: with others he shares the room of the family. */
struct metric *metric_series_owned(struct metric **memo, struct metric_family *f, const struct str *label_values, struct str owner);
/* A memo that is used no more; *memo is NULL then. */
void metric_memo_drop(struct metric **memo);
/* Asks of each series of f whether what its labels name is there. What was not for grace_ms is freed; what is there again stays. now_ms: monotonic. `there` must be quick: it runs under the lock. */
void metric_family_sweep(struct metric_family *f, bool (*there)(void *arg, const char *const *label_values), void *arg, uint64_t now_ms, uint64_t grace_ms);
/* A family without labels and its one series. */
struct metric *metric_counter(const char *name, const char *help);
struct metric *metric_gauge(const char *name, const char *help);
/* A gauge whose value is read when scraped; fn must be quick and may run on any thread. */
void metric_gauge_fn(const char *name, const char *help, double (*fn)(void *arg), void *arg);

void metric_add(struct metric *m, uint64_t n);       /* counter */
void metric_set(struct metric *m, int64_t value);    /* gauge */
void metric_move(struct metric *m, int64_t delta);   /* gauge */
void metric_observe(struct metric *m, double value); /* histogram */
uint64_t metric_value(const struct metric *m);       /* tests and status pages */

/* Seconds: 1 ms .. 60 s; for latencies. */
extern const double metric_latency_buckets[];
extern const size_t metric_latency_bucket_count;

/* Appends the whole exposition, process_* metrics (CPU, resident memory, descriptors, start time) included. */
void metrics_write(struct sbuf *out);

#endif
