/* Volumes of a node: each a file with an ext4 file system in it, attached by a loop device while a pod uses it.
 *
 * DIR/ID.img has its whole size allotted when it is made, so that a volume that was promised does not find the disk full, and no volume grows over its size. Before a file is removed every block
 * that was written is overwritten with zeros and synced: what lay in it is not read back from the disk's blocks (copies that a disk keeps beneath are its own business). Loop devices let go with
 * their last mount, so that a node that ends leaves none. Ids are "pvc-" and a uid, nothing else.
 * Threads: any, but one at a time for one volume. Blocks: making and wiping take as long as the disk does. Needs root to attach; mkfs.ext4 of e2fsprogs to make.
 */
#ifndef SEKI_NODE_VOLUME_H
#define SEKI_NODE_VOLUME_H

#include <stdint.h>

#include "base/str.h"

#define VOLUME_ID_MAX 48
#define VOLUME_MIN_BYTES (4LL << 20) /* smaller ones have no room for a file system; they are made this large */

bool volume_id_valid(struct str id);
/* Does nothing when it is there. ERR_NO_SPACE: beyond `limit` bytes for all volumes of DIR together (less than 0: no limit), or the disk is full. */
int volume_make(const char *dir, const char *id, int64_t bytes, int64_t limit, struct err *err) NODISCARD;
/* ERR_BUSY while it is attached. 0 when there is none. */
int volume_wipe(const char *dir, const char *id, struct err *err) NODISCARD;
/* Whether it was never mounted: nothing is in it. */
bool volume_unused(const char *dir, const char *id);
/* Whether a loop device of this machine has it, or may have it: one that cannot be asked and whose file has such a name. */
bool volume_attached(const char *dir, const char *id);
/* Wipes all of a directory, attached ones too, as a node's last act. What is no file is not opened: links and the like are taken away. */
int volumes_wipe(const char *dir, struct err *err) NODISCARD;
/* Takes away what making was interrupted of. While nobody makes any. */
void volumes_sweep(const char *dir);
/* Calls fn with each volume's id. */
void volumes_each(const char *dir, void (*fn)(void *arg, const char *id), void *arg);

/* Mounts it at path, which is made. Does nothing when something is mounted there. ERR_NOT_FOUND: no such volume. ERR_BUSY: it is attached elsewhere. */
int volume_mount(const char *dir, const char *id, const char *path, struct err *err) NODISCARD;
/* Shows what is mounted at `from` at `to`, which is made. */
int volume_bind(const char *from, const char *to, bool read_only, struct err *err) NODISCARD;
/* Takes off all that is mounted at path; 0 when nothing is. */
int volume_unmount(const char *path, struct err *err) NODISCARD;

#endif
