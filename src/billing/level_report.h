/* SLOReports: how far the endpoints' service levels were kept, one report a project and UTC month; a tenant's are those with its label seki.cloud/tenant.
 *
 * As UsageReports (report.h) they are derived from usage records, and are rebuilt from the ledger on start: a request belongs to the month in which it began, to the project and tenant of its
 * caller, and was judged by the gateway with the promise of that moment. So an error budget is a sum over requests, exact also where a promise was changed within the month:
 *
 *   budget = Σ (1 - target)      left = 1 - bad / budget
 *
 * A report has at most LEVEL_ITEMS_MAX items; what comes later is not in it. Threads: one.
 */
#ifndef SEKI_BILLING_LEVEL_REPORT_H
#define SEKI_BILLING_LEVEL_REPORT_H

#include "client/client.h"
#include "ledger/usage.h"

#define LEVEL_ITEMS_MAX 2000

struct level_reports;
struct level_reports *level_reports_new(void);
void level_reports_free(struct level_reports *r);
void level_reports_count(struct level_reports *r, const struct usage *u);
/* Writes those that changed; what fails is tried again at the next call. */
void level_reports_write(struct level_reports *r, struct client *c);

#endif
