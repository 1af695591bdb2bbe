/* What is used of budgets, as metrics: seki_budget_used_micros and seki_budget_amount_micros, by scope, project, owner, period and currency.
 *
 * A budget is shown from when a gateway first asks about it; after an hour in which none did, or in another period, nothing is used of it until one asks again. Series are never
 * freed: BUDGET_GAUGES_MAX budgets are shown, the first ones that were asked about. Threads: one at a time.
 */
#ifndef SEKI_BILLING_BUDGET_GAUGES_H
#define SEKI_BILLING_BUDGET_GAUGES_H

#include "json/json.h"

#define BUDGET_GAUGES_MAX 2000

struct budget_gauges;

struct budget_gauges *budget_gauges_new(void);
void budget_gauges_free(struct budget_gauges *g);
/* question: of a GatewayLease about one budget. */
void budget_gauges_see(struct budget_gauges *g, const json_t *question, int64_t used, uint64_t now_ms);
/* Every now and then. */
void budget_gauges_look(struct budget_gauges *g, int64_t wall_ms, uint64_t now_ms);

#endif
