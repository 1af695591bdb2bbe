/* Writing a report: the object of a kind whose status is sums, one a project and period.
 *
 * Threads: one.
 */
#ifndef SEKI_BILLING_REPORT_WRITE_H
#define SEKI_BILLING_REPORT_WRITE_H

#include "client/client.h"
#include "kinds/kind.h"

struct report_place {
    const struct kind *kind;
    const char *project, *name;
    const char *field, *period; /* of its spec: "date", "2026-11-29" */
    const char *tenant;         /* for its label; NULL: it has none */
};

/* Whose the project is now; ERR_NOT_FOUND: it is gone. *ret: the caller's. */
int report_tenant(struct client *c, const char *project, char **ret, struct err *err) NODISCARD;
/* Makes the report when there is none; writes status, and when that was, unless it says the same already. status is changed. */
int report_write(struct client *c, const struct report_place *at, json_t *status, struct err *err) NODISCARD;
/* Whether what came of it is to be tried again: a project that is gone, or going, has no report. */
bool report_failed(int rc);

#endif
