/* Keeps the routing snapshot current: from the file at start, then from informers, rebuilt when one object changes of those that it is made of: APIKey, ModelEndpoint, ModelReplica,
 * ModelRoute, Namespace, Tenant, Limit, Site, ResidencyPolicy, Price.
 *
 * A thread of its own builds; loops compare feed_version() with the version they hold, one atomic load a request, and take the new snapshot when it differs. Threads: start and stop from
 * one, which blocks until the builder has ended; all else from any.
 */
#ifndef SEKI_GATEWAY_FEED_H
#define SEKI_GATEWAY_FEED_H

#include "client/client.h"
#include "gateway/snapshot.h"

struct feed;

/* engines stays the caller's. A file that cannot be read is not an error: the gateway then waits for the API. */
int feed_start(struct client *c, const char *snapshot_file, const struct engine_paths *engines, struct feed **ret, struct err *err) NODISCARD;
void feed_stop(struct feed *f); /* frees */
/* What snapshots take their budgets and limits from. Lives as long as f. */
struct budget_set *feed_budgets(struct feed *f);
struct limit_set *feed_limits(struct feed *f);
/* Changes with each new snapshot; 0 while there is none. */
unsigned long long feed_version(const struct feed *f);
/* The newest snapshot, a reference for the caller, or NULL. */
struct snapshot *feed_take(struct feed *f, unsigned long long *ret_version);
/* The snapshot came from the API, not from the file of an earlier life. */
bool feed_is_live(struct feed *f);
/* Whether a target ("PROJECT ADDRESS") may still be sent requests, and how many run there. Loops that have not run since may be sending one still. */
bool feed_target_open(struct feed *f, const char *name, int *ret_running);
/* What engines say of themselves: see target_tell(). */
void feed_tell_targets(struct feed *f, const json_t *engines);
/* Seconds since the snapshot was last known to be what the API has; -1: there is none. */
double feed_age_seconds(struct feed *f);

#endif
