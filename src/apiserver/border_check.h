/* What the border (policy/residency.h) says of an object that is written: for a warning, never for a refusal, as rules and sites may change at any time.
 *
 * Looked up in the store as it is: the Sites, the namespace's ResidencyPolicies, and the residency of its tenant. Where rules for some keys bar requests
 * with those alone, the keys are named. Threads: the
 * server's loop.
 */
#ifndef SEKI_APISERVER_BORDER_CHECK_H
#define SEKI_APISERVER_BORDER_CHECK_H

#include "kinds/kind.h"

/* For kind_server.barred. */
const char *border_check(void *ctx, struct arena *a, const char *ns, const char *model, const char *const *addresses, const char **ret_keys);

#endif
