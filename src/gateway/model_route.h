/* One name for several endpoints, by weight (kinds/model_route.c).
 *
 * In a snapshot a ModelRoute is an endpoint without replicas of its own: it is found, listed and seen by the same rules. A request to it is served by one of its backends, and by that one
 * it is limited, queued and billed; its usage shows the name that was asked for. What it cannot serve another backend gets: fall_over.h. Threads: any.
 */
#ifndef SEKI_GATEWAY_MODEL_ROUTE_H
#define SEKI_GATEWAY_MODEL_ROUTE_H

#include "gateway/snapshot.h"

/* From a ModelRoute. find: an endpoint of the project by its object's name; NULL: there is none. NULL: it cannot be read, or goes. */
struct snap_endpoint *model_route_make(struct arena *a, const json_t *obj, struct snap_endpoint *(*find)(void *arg, const char *project, const char *name), void *arg);

/* A LoRA adapter of an endpoint: a route to it, with its object's name and visibility. */
struct snap_endpoint *model_route_of_adapter(struct arena *a, const struct snap_endpoint *e, const char *served);

/* The backend that serves a request, among those that are ready, and allowed (border.h; b may be NULL), in proportion to their weights; one of which all replicas are put aside (target.h) only when there is no other; the same for prompts of a key that begin alike when the route is sticky. When none is
 * ready, the first one, which says why. NULL: there is none. */
const struct snap_endpoint *model_route_choose(const struct snap_endpoint *route, const struct snap_key *k, struct str prompt, const struct border *b);
/* Likewise, but for the backends with these queues. NULL: no other is ready. */
const struct snap_endpoint *model_route_choose_other(const struct snap_endpoint *route, const struct snap_key *k, struct str prompt, const struct border *b, const struct dispatch *const *tried,
                                                     size_t tried_count);
/* The backend with this queue in a newer snapshot's route; NULL: it is gone. An endpoint is its own. */
const struct snap_endpoint *model_route_again(const struct snap_endpoint *e, const struct dispatch *d);

#endif
