/* Wipes volumes (volume.h) in the background: one thread, a step of each in turn, so that a large one holds up neither who asks nor a small one.
 *
 * Who wants a volume to be gone asks for it again and again until it is; nothing else is remembered of a wish. How far a wipe is lies in the file itself, so one that a kill has interrupted goes on
 * where it was when it is asked for anew.
 * Threads: any. Nothing here blocks but wiper_free(), for a step.
 */
#ifndef SEKI_NODE_WIPER_H
#define SEKI_NODE_WIPER_H

#include <stdint.h>

#include "base/err.h"

struct wiper;
/* changed (may be NULL): one is gone, or could not be wiped; on the thread of the wiper. */
struct wiper *wiper_new(void (*changed)(void *arg), void *arg);
/* What is not done stays as it is. */
void wiper_free(struct wiper *w);
/* *ret_done: it is gone, and the directory says so on disk. ERR_BUSY: it is attached. Another error is that of the attempt before, told once; the next has begun then. */
int wiper_volume(struct wiper *w, const char *dir, const char *id, bool *ret_done, struct err *err) NODISCARD;
/* All of a directory, after some seconds attached ones too, as a node's last act. *ret_left: bytes that are to be looked at still. */
int wiper_all(struct wiper *w, const char *dir, bool *ret_done, int64_t *ret_left, struct err *err) NODISCARD;

#endif
