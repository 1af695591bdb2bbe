/* From VolumeSnapshots to snapshots (volume_copy.h), on the node that has the volume, and back: what upstream's snapshot-controller and csi-snapshotter do, for our driver alone.
 *
 * A VolumeSnapshot of a claim whose volume is this node's gets a VolumeSnapshotContent with a finalizer of ours, then the copy, then says so in both. A content whose VolumeSnapshot is gone (deletion policy
 * Delete), or that is deleted itself, has its copy wiped; then it goes. So a VolumeSnapshot goes at once, as a claim does, and the content stays until nothing is left. What cannot be is said in
 * status.error.
 * Threads: as claims.h.
 */
#ifndef SEKI_NODE_SNAPSHOTS_H
#define SEKI_NODE_SNAPSHOTS_H

#include "node/claims.h"

#define SNAPSHOT_GROUP "snapshot.storage.k8s.io"
#define SNAPSHOT_FINALIZER "seki.cloud/snapshot"

/* One pass over all VolumeSnapshots and contents. True: nothing is left to be tried again. */
bool snapshots_pass(struct claims *c, const struct claims_seen *seen);

/* ---- pure ---- */

/* Whether the node is to wipe its copy. */
bool snapshot_is_over(const json_t *content, const json_t *snapshots, const char *node);
/* The content for it; a new document. */
json_t *snapshot_content(const json_t *snapshot, const json_t *class, const json_t *volume, const char *node);
/* The snapshot that a claim begins with; NULL: there is none, or it is not ready. *ret_content: its content. */
const json_t *snapshot_of_claim(const json_t *claim, const struct claims_seen *seen, const json_t **ret_content);

#endif
