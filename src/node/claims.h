/* From PersistentVolumeClaims to volumes, on the node that the scheduler has chosen for them, and back.
 *
 * A claim that begins with a snapshot (snapshots.h) is its node's at once, whatever node was selected: the scheduler follows the volume that is bound to it.
 * A claim that is this node's (StorageClass with our provisioner, annotation selected-node) gets a volume (volume.h), then a PersistentVolume bound to it, with a finalizer of ours. A
 * PersistentVolume that is released, or deleted, has its volume wiped; then it goes. Volumes of which the cluster knows neither claim nor PersistentVolume go, too, when they were never mounted: what was begun and
 * not finished. Others stay, and are logged: a cluster that was restored to a time before may be restored to a later one. What cannot be
 * is said in an Event at the claim, once for each message; a claim that finds no room is given back to the scheduler.
 * Threads: one. Blocks.
 */
#ifndef SEKI_NODE_CLAIMS_H
#define SEKI_NODE_CLAIMS_H

#include "base/map.h"
#include "client/client.h"
#include "node/wiper.h"

#define CLAIM_FINALIZER "seki.cloud/volume"
#define CLAIM_NODE_LABEL "seki.cloud/node"

/* Between claims.c and snapshots.c. */
struct claims {
    struct client *client;
    struct wiper *wiper;
    const char *node, *dir;
    int64_t limit;
    struct map *said; /* uid of a claim → what was last said at it */
};
/* All of the cluster, each list older than the next: a claim is there before its volume, a VolumeSnapshot before its content, and these when the others are gone. */
struct claims_seen {
    json_t *contents, *snapshots; /* NULL: not known yet */
    json_t *volumes, *claims;
};
/* node, dir, w: borrowed. limit: bytes of all volumes together; less than 0: none. */
struct claims *claims_new(struct client *c, struct wiper *w, const char *node, const char *dir, int64_t limit);
void claims_free(struct claims *c);
/* One pass over all claims, PersistentVolumes and snapshots of the cluster. True: nothing is left to be tried again. */
bool claims_pass(struct claims *c, const struct claims_seen *seen);
/* Deletes an object and takes our finalizer off it. */
int claims_release(struct claims *c, const struct client_resource *r, const json_t *obj, const char *finalizer, struct err *err) NODISCARD;

/* ---- pure ---- */

/* "64Mi" → bytes, rounded up. ERR_INVALID. */
int claim_bytes(const char *quantity, int64_t *ret, struct err *err) NODISCARD;
/* The other way round, as Kubernetes writes it: 67108864 → "64Mi". */
#define CLAIM_QUANTITY_MAX 32
void claim_quantity(int64_t bytes, char ret[CLAIM_QUANTITY_MAX]);
/* Whether the node is to make a volume for it. */
bool claim_is_ours(const json_t *claim, const char *node);
/* Whether it begins with a VolumeSnapshot. */
bool claim_has_snapshot(const json_t *claim);
/* Whether a PersistentVolume lies on the node. */
bool volume_is_of(const json_t *volume, const char *node);
/* What we do not make: ERR_INVALID names the field. */
int claim_check(const json_t *claim, int64_t *ret_bytes, struct err *err) NODISCARD;
/* The PersistentVolume for it; a new document. */
json_t *claim_volume(const json_t *claim, const char *node, const char *reclaim);
/* Whether the node is to wipe it. */
bool volume_is_over(const json_t *volume, const char *node);

#endif
