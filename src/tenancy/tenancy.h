/* Tenants: carries out AccessGrants; keeps their admins' access to each of their projects, says which projects they have, and empties those that are being closed.
 *
 * The Tenant's own objects (first project, roles, account) are made with it, in one transaction, by its kind. What may be used is decided elsewhere: by the apiserver and by
 * the gateway, from the Tenant's state.
 */
#ifndef SEKI_TENANCY_TENANCY_H
#define SEKI_TENANCY_TENANCY_H

#include "controller/controller.h"

struct tenancy;

/* Adds the controller to m, before it is started. Free after manager_stop(). */
struct tenancy *tenancy_new(struct manager *m);
void tenancy_free(struct tenancy *t); /* NULL is fine */

#endif
