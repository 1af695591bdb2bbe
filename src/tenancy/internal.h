/* Between the files of this folder. */
#ifndef SEKI_TENANCY_INTERNAL_H
#define SEKI_TENANCY_INTERNAL_H

#include "tenancy/tenancy.h"

void tenancy_condition(json_t *obj, const char *type, bool holds, const char *reason, const char *fmt, ...) PRINTF(5, 6);
/* r->obj's status, when it differs from before. */
int tenancy_save_status(struct reconcile *r, const struct kind *k, const json_t *before, struct err *err) NODISCARD;
int grant_reconcile(void *ctx, struct reconcile *r, struct err *err) NODISCARD;

#endif
