/* Snapshots of volumes (volume.h), and volumes from snapshots: copies within a node's directory.
 *
 * A copy shares the blocks where the file system below can (reflink); else what was written is copied, and what was not stays a hole. A volume that is mounted is frozen meanwhile: writers wait, and what they
 * were told is on disk is in the copy. One that is not is held, so that nobody mounts it. A snapshot has no room of its own allotted, as a volume has: it is never written to.
 * Threads: as volume.h. Blocks as long as the disk does. Needs root.
 */
#ifndef SEKI_NODE_VOLUME_COPY_H
#define SEKI_NODE_VOLUME_COPY_H

#include <stdint.h>

#include "base/err.h"

/* id: of the snapshot, of which nothing may be there. *ret_bytes: the volume's size. ERR_NO_SPACE: as volume_make(). What an interrupted one leaves has the snapshot's name and is no snapshot: whoever asked for it
 * wipes it before the next. */
int volume_snapshot(const char *dir, const char *volume, const char *id, int64_t limit, int64_t *ret_bytes, struct err *err) NODISCARD;
/* Makes a volume of a snapshot; does nothing when it is there. The size is the snapshot's. */
int volume_restore(const char *dir, const char *id, const char *volume, int64_t limit, struct err *err) NODISCARD;
/* At a start: what was frozen when a kill came goes on. */
void volumes_thaw(const char *dir);

#endif
