#include "billing/budget_gauges.h"

#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "ledger/price.h"

#define FORGET_MS (60 * 60 * 1000u)
#define LOOK_MS 10000u

struct gauge {
    struct metric *used, *amount;
    enum budget_period period;
    int64_t number;
    uint64_t seen_ms;
};
struct budget_gauges {
    struct metric_family *used, *amount;
    struct map *by_name; /* of the question → struct gauge */
    uint64_t looked_ms;
};

struct budget_gauges *budget_gauges_new(void)
{
    static const char *const labels[] = {"scope", "project", "owner", "period", "currency", NULL};
    struct budget_gauges *g = XNEW(struct budget_gauges);
    *g = (struct budget_gauges){.by_name = map_new(mem_free)};
    g->used = metric_family("seki_budget_used_micros", "What is used of a budget in its period, in millionths of the currency's unit.", METRIC_GAUGE, labels, BUDGET_GAUGES_MAX, NULL, 0);
    g->amount = metric_family("seki_budget_amount_micros", "The budget; 0: nobody has asked for any of it lately.", METRIC_GAUGE, labels, BUDGET_GAUGES_MAX, NULL, 0);
    return g;
}

void budget_gauges_free(struct budget_gauges *g)
{
    if (!g)
        return;
    map_free(g->by_name);
    mem_free(g);
}

void budget_gauges_see(struct budget_gauges *g, const json_t *q, int64_t used, uint64_t now_ms)
{
    const char *name = json_str_or(q, "name", "");
    struct gauge *at = map_getc(g->by_name, name);
    if (!at && map_len(g->by_name) >= BUDGET_GAUGES_MAX)
        return;
    if (!at) {
        struct str labels[] = {str_of(json_str_or(q, "scope", "")), str_of(json_str_or(q, "project", "")), str_of(json_str_or(q, "owner", "")), str_of(json_str_or(q, "period", "")),
                               str_of(json_str_or(q, "currency", ""))};
        at = XNEW(struct gauge);
        *at = (struct gauge){.used = metric_series(g->used, labels), .amount = metric_series(g->amount, labels), .period = budget_period_of(json_str_or(q, "period", ""))};
        map_set(g->by_name, str_of(name), at);
    }
    at->number = json_int(q, "number", 0);
    at->seen_ms = now_ms;
    metric_set(at->used, used);
    metric_set(at->amount, json_int(q, "amount", 0));
}

void budget_gauges_look(struct budget_gauges *g, int64_t wall_ms, uint64_t now_ms)
{
    struct map_iter it = MAP_ITER_INIT;
    if (now_ms < g->looked_ms + LOOK_MS)
        return;
    g->looked_ms = now_ms;
    while (map_next(g->by_name, &it)) {
        struct gauge *at = it.value;
        bool gone = now_ms > at->seen_ms + FORGET_MS;
        if (gone || at->number != budget_period_number(at->period, wall_ms))
            metric_set(at->used, 0);
        if (gone)
            metric_set(at->amount, 0);
    }
}
