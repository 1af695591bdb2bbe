/* Where a request belongs: the endpoint that is meant, whether that one can serve it, which of its replicas it may reach, and its moves: to the same endpoint of a newer snapshot while it
 * waits (attempt.c), to another backend of its route (fall_over.h). Asked at first, at each move and before each attempt (recheck.h), by these functions alone.
 *
 * A replica knows the adapters that it was started with, and no others: while an endpoint's list changes, old replicas serve on with the old one. So the adapter that is asked for is looked
 * up by its name at the replica that the request goes to, and replicas that lack it are out of reach like those beyond a border. Threads: the request's loop.
 */
#ifndef SEKI_GATEWAY_HOME_H
#define SEKI_GATEWAY_HOME_H

#include "gateway/request.h"

/* What the request's key, as it is in s, means by the model's name; *ret_key: that key, may be NULL. NULL: the key is gone, or may call nothing by that name. */
const struct snap_endpoint *home_find(const struct request *q, const struct snapshot *s, const struct snap_key **ret_key);

enum home_fit {
    HOME_FITS,
    HOME_OTHER_TASK,
    HOME_NOT_APART,  /* on this path its engine cannot be told what it must be: see isolation.h */
    HOME_NOT_COUNTED /* its engine would not tell of all that it did: see answers.h */
};
/* Whether e can serve the request. asked: what its name means, e itself or a route to it. */
enum home_fit home_fits(const struct request *q, const struct snap_endpoint *asked, const struct snap_endpoint *e);

/* Its home is e of s from now on, and what it knew of the one before is forgotten: the rule, and replicas that were tried, the last among them, unless e has them too. asked: as above. False, and nothing has
 * changed: it waits at another endpoint, or was sent meanwhile. The caller has asked home_fits() and the border. */
bool home_move(struct request *q, struct snapshot *s, const struct snap_endpoint *asked, const struct snap_endpoint *e);

/* Replicas of e that lack the adapter that is asked for, a bit each. */
uint64_t home_lacking(const struct request *q, const struct snap_endpoint *e);

/* The model's name as the replica's engine knows it; NULL: as the client wrote it. */
const char *home_model_at(const struct request *q, const struct snap_replica *r);

#endif
