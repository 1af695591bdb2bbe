/* UsageReports: sums over usage records, one report a project and UTC day.
 *
 * A request belongs to the day on which it began. A project is what a tenant has under a name: when it is deleted and another tenant makes one of that name, that one's report
 * counts its own usage only. A report has at most REPORT_ITEMS_MAX items, the largest; the rest is one more item with the key, endpoint and model "" whose numbers are their sum, so
 * that the totals are exact whatever happens. Threads: one.
 */
#ifndef SEKI_BILLING_REPORT_H
#define SEKI_BILLING_REPORT_H

#include "client/client.h"
#include "ledger/usage.h"

#define REPORT_ITEMS_MAX 1000

struct reports;
struct reports *reports_new(void);
void reports_free(struct reports *r);
void reports_count(struct reports *r, const struct usage *u);
/* All of them: [{"project", "date", "tenant", "status"}], by project, date and tenant. */
json_t *reports_list(const struct reports *r);
/* Writes those that changed; what fails is tried again at the next call. A project that is gone has no report: the ledger keeps what it used. */
void reports_write(struct reports *r, struct client *c);
/* The reports of a tenant, as they would be written if its projects were there. An array, new reference. */
json_t *reports_documents(const struct reports *r, const char *tenant);

#endif
