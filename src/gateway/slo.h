/* Service levels, judged by request: whether it kept what its endpoint promises (kinds/slo.h).
 *
 *   availability   bad: our failure: a 5xx, whoever's; an answer that broke off; a timeout; a cut at the gateway's end.  good: it was answered.
 *   ttft           of streams.  bad: its first byte came later than promised, or the client left later than that without one.  good: it came in time.
 *
 * What is the client's does not count: a 4xx, a limit, a border, a client that leaves. A stream without a first byte that failed counts as not available only: nothing counts twice.
 * The verdict goes into the usage record (ledger/levels.h), from which control makes the months' SLOReports, and into metrics here, for alerts:
 * seki_gateway_slo_requests_total by tenant, project, endpoint, objective and result (good, bad), and seki_gateway_slo_error_budget_millionths. Threads: any.
 */
#ifndef SEKI_GATEWAY_SLO_H
#define SEKI_GATEWAY_SLO_H

#include "base/metrics.h"
#include "kinds/slo.h"
#include "ledger/usage.h"

#define SLO_SERIES_MAX 1000

struct slo_metrics {
    struct metric_family *requests, *budget;
};

/* The series that were counted last, on one thread. */
struct slo_memo {
    struct metric *results[LEVEL_KINDS][2], *budgets[LEVEL_KINDS];
};

void slo_init(struct slo_metrics *m);
/* Sets u->levels by the rest of u. project: the endpoint's. */
void slo_judge(const struct slo *slo, const char *project, struct usage *u);
void slo_count(const struct slo_metrics *m, struct slo_memo *memo, const struct usage *u);

/* Our failure, not the client's. */
bool slo_is_failure(const struct usage *u);

#endif
