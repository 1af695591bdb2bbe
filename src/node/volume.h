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
#include <sys/types.h>

#include "base/str.h"

#define VOLUME_ID_MAX 48
#define VOLUME_MIN_BYTES (4LL << 20) /* smaller ones have no room for a file system; they are made this large */

bool volume_id_valid(struct str id);
/* "snap-" and a uid: a copy of a volume (volume_copy.h). It lies beside the volumes, counts as they do, and is wiped as they are. */
bool volume_snapshot_id_valid(struct str id);
/* Does nothing when it is there. ERR_NO_SPACE: beyond `limit` bytes for all volumes of DIR together (less than 0: no limit), or the disk is full. */
int volume_make(const char *dir, const char *id, int64_t bytes, int64_t limit, struct err *err) NODISCARD;
/* Another sort, for what a node itself writes (node_init.h): it takes room of the disk as it is written, `bytes` at most, and has no journal. Replaces what is there; wiped by nobody. */
int volume_make_thin(const char *dir, const char *id, int64_t bytes, struct err *err) NODISCARD;
/* Whether it has a file system that was unmounted and saw no errors. False while it is mounted. */
bool volume_whole(const char *dir, const char *id);
/* Makes the file system of one that is whole as large as its file has become. Not while it is mounted. */
int volume_grow_thin(const char *dir, const char *id, struct err *err) NODISCARD;
/* DIR/ID.img, to be freed. */
char *volume_path(const char *dir, const char *id);
/* A step of a wipe (wiper.h asks for them): VOLUME_STEP_BYTES from *at on, 0 at first; *ret_done when it is gone, also when there was none. What is overwritten is given back before the next step, so that a
 * wipe that begins anew finds where it was. ERR_BUSY while it is attached, unless attached_too. What lies in its place and is no file was put there by a pod: it is never opened, and taken away. */
#define VOLUME_STEP_BYTES (32 << 20)
int volume_wipe_step(const char *dir, const char *id, bool attached_too, off_t *at, bool *ret_done, struct err *err) NODISCARD;
/* Whether it was never mounted: nothing is in it. */
bool volume_unused(const char *dir, const char *id);
/* Whether a loop device of this machine has it, or may have it: one that cannot be asked and whose file has such a name. */
bool volume_attached(const char *dir, const char *id);
/* Wipes what making was interrupted of, of one or all. While nobody makes it. Blocks: that may be a copy. */
#define VOLUME_FRESH ".new" /* DIR/ID.new is not a volume yet */
void volume_sweep(const char *dir, const char *id);
void volumes_sweep(const char *dir);
/* Bytes of all, snapshots too. */
int64_t volumes_bytes(const char *dir);
/* ERR_NO_SPACE: `bytes` more are beyond `limit` (less than 0: none). */
int volumes_have_room(const char *dir, int64_t bytes, int64_t limit, struct err *err) NODISCARD;
/* Calls fn with the id of each volume and snapshot. */
void volumes_each(const char *dir, void (*fn)(void *arg, const char *id), void *arg);

/* Opens its file. ERR_NOT_FOUND. ERR_CORRUPT: it is no file. */
int volume_open(const char *dir, const char *id, int flags, struct err *err) NODISCARD;
/* Allots all of an open file. ERR_NO_SPACE: the disk is full. */
int volume_allot(int fd, const char *path, int64_t bytes, struct err *err) NODISCARD;
/* A directory of its file system, wherever that is mounted; ERR_NOT_FOUND: no loop device has it. Nothing is mounted beyond the descriptor. */
int volume_root(const char *dir, const char *id, int *ret_fd, struct err *err) NODISCARD;
/* Lets writers go on that a copy has made wait. Does nothing else. A file system that is frozen outlives its last mount, and its loop device with it: so this is also for nodes that have ended. */
void volume_thaw(const char *dir, const char *id);
/* Holds it by a loop device while the descriptor is open, so that nobody else mounts it. ERR_BUSY: somebody does. */
int volume_hold(const char *dir, const char *id, int *ret_fd, struct err *err) NODISCARD;

/* Paths of mounts may be in directories that pods write to: no link in them is followed. Of what they name the last directory is made, not those above. */

/* Mounts it at path. Does nothing when something is mounted there. ERR_NOT_FOUND: no such volume, or no directory above. ERR_BUSY: it is attached elsewhere. */
int volume_mount(const char *dir, const char *id, const char *path, struct err *err) NODISCARD;
/* Mounts one of volume_make_thin() at no path: *ret_fd is for move_mount(), and holds it while it is open. Nothing is written through to the disk: if the machine
 * crashes, volume_whole() says no. Errors as of volume_mount(). */
int volume_mount_apart(const char *dir, const char *id, int *ret_fd, struct err *err) NODISCARD;
/* Shows what is mounted at `from` at `to`. ERR_UNAVAILABLE: nothing is. */
int volume_bind(const char *from, const char *to, bool read_only, struct err *err) NODISCARD;
/* Takes off all that is mounted at path; 0 when nothing is. */
int volume_unmount(const char *path, struct err *err) NODISCARD;

#endif
