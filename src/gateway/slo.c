#include "gateway/slo.h"

bool slo_is_failure(const struct usage *u)
{
    if (str_eqc(u->outcome, "client_gone"))
        return false;
    return u->status >= 500 || str_eqc(u->outcome, "upstream_error") || str_eqc(u->outcome, "timeout") || str_eqc(u->outcome, "shutdown");
}

void slo_init(struct slo_metrics *m)
{
    static const char *const requests[] = {"tenant", "project", "endpoint", "objective", "result", NULL};
    static const char *const budget[] = {"project", "endpoint", "objective", NULL};
    m->requests = metric_family("seki_gateway_slo_requests_total", "Requests that count for a service level of their endpoint, by whether they kept it.", METRIC_COUNTER, requests, SLO_SERIES_MAX, NULL, 0);
    m->budget = metric_family("seki_gateway_slo_error_budget_millionths", "Of a million requests, how many may miss the service level.", METRIC_GAUGE, budget, SLO_SERIES_MAX, NULL, 0);
}

static struct level availability(const struct slo *slo, const struct usage *u)
{
    bool failed = slo_is_failure(u), counts = failed || str_eqc(u->outcome, "ok");
    return (struct level){.target = counts ? slo->availability : 0, .good = !failed};
}

static struct level ttft(const struct slo *slo, const struct usage *u)
{
    bool began = u->ttft_ms >= 0 && u->status < 400; /* an error is no beginning */
    bool gave_up = u->ttft_ms < 0 && str_eqc(u->outcome, "client_gone") && u->duration_ms > slo->ttft_ms;
    return (struct level){.target = u->stream && (began || gave_up) ? slo->ttft : 0, .good = began && u->ttft_ms <= slo->ttft_ms};
}

void slo_judge(const struct slo *slo, const char *project, struct usage *u)
{
    u->levels = (struct levels){.of = {[LEVEL_AVAILABILITY] = availability(slo, u), [LEVEL_TTFT] = ttft(slo, u)}};
    if (u->levels.of[LEVEL_AVAILABILITY].target || u->levels.of[LEVEL_TTFT].target)
        u->levels.project = str_of(project);
}

void slo_count(const struct slo_metrics *m, struct slo_memo *memo, const struct usage *u)
{
    for (int k = 0; k < LEVEL_KINDS && u->levels.project.len; k++) {
        const struct level *l = &u->levels.of[k];
        struct str objective = str_of(level_name((enum level_kind)k));
        if (!l->target)
            continue;
        for (int good = 0; good < 2; good++) { /* both are there from the first one on: a rate needs a zero to grow from */
            struct str labels[] = {u->tenant, u->levels.project, u->endpoint, objective, good ? STR("good") : STR("bad")};
            metric_add(metric_series_owned(&memo->results[k][good], m->requests, labels, u->tenant), l->good == good);
        }
        metric_set(metric_series_owned(&memo->budgets[k], m->budget, (struct str[]){u->levels.project, u->endpoint, objective}, u->tenant), SLO_WHOLE - l->target);
    }
}
