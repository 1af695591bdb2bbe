/* Between the files of this folder. */
#ifndef SEKI_CONTROLLER_INTERNAL_H
#define SEKI_CONTROLLER_INTERNAL_H

#include "controller/controller.h"

#define LEASE_NAMESPACE "kube-system"
#define LEASE_NAME "seki-controllers"

/* Holds the Lease kube-system/seki-controllers: only who holds it reconciles. A holder that could not renew in time stops; another takes the lease when it has seen no
 * renewal for the whole duration by its own clock, so that clocks need not agree. One thread. */
struct lease;
struct lease *lease_start(struct client *c, const char *identity, struct err *err);
bool lease_held(struct lease *l);
void lease_stop(struct lease *l); /* gives it back */

/* See manager_event(). */
void controller_event(struct client *c, const json_t *obj, const char *type, const char *reason, const char *message);

#endif
