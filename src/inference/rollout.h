/* Replacing the engines of an endpoint whose model or settings have changed, so that requests lose nothing: pure decisions.
 *
 *   new ones come up beside the old ones (maxSurge at a time) ─► as many serve as are wanted ─► old ones leave, one for each new one that serves: they end what they have begun
 *   maxSurge 0 (no room for one more) ─► one old engine at a time ends what it has begun, and is started anew
 *
 * Only engines that serve are treated so: what does not serve anybody is changed at once. New engines that do not come up stop the replacement, and the old ones serve on.
 * Source: as Deployments of Kubernetes do it, but for this: an engine that still ends its requests takes up room, and counts.
 */
#ifndef SEKI_INFERENCE_ROLLOUT_H
#define SEKI_INFERENCE_ROLLOUT_H

#include <stdint.h>

struct rollout_facts {
    int64_t wanted, surge; /* replicas; how many more for the while */
    int64_t old;           /* that serve, and are to be replaced */
    int64_t fresh;         /* that are as they should be, those that load or fail among them */
    int64_t fresh_up;      /* of those, that serve */
    int64_t leaving;       /* that end their last requests */
};

struct rollout_step {
    int64_t make;   /* new ones */
    int64_t remove; /* old ones that leave now */
    int64_t change; /* old ones that are started anew in place, when they have ended their requests */
};

void rollout_decide(const struct rollout_facts *f, struct rollout_step *ret);

#endif
