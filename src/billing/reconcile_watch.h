/* Compares the usage ledger with engines' counters for as long as billing runs: takes readings from the status of ModelReplicas (`counters`), and tells of differences by Events of the
 * ModelEndpoint and by metrics. The comparing itself: reconcile.h. Threads: billing's.
 */
#ifndef SEKI_BILLING_RECONCILE_WATCH_H
#define SEKI_BILLING_RECONCILE_WATCH_H

#include "controller/controller.h"
#include "ledger/usage.h"

struct reconcile_watch;
/* replicas: of ModelReplica, and m: for Events; both stay the caller's and outlive it. */
struct reconcile_watch *reconcile_watch_new(struct client *c, struct manager *m, struct informer *replicas);
void reconcile_watch_free(struct reconcile_watch *w);
void reconcile_watch_count(struct reconcile_watch *w, const struct usage *u);
/* Once a round. collected: all that journals hold is in the ledger. */
void reconcile_watch_round(struct reconcile_watch *w, bool collected);

#endif
