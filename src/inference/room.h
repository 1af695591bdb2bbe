/* Whether this machine's memory has room for engines more: asked before engines are started beside those that they replace.
 *
 * An engine needs what one of the same endpoint holds that is no file's (RssAnon of its processes), and the files of the model that it is to serve, of which llama.cpp keeps the pages in memory.
 * Free is what the kernel says is available (MemAvailable of /proc/meminfo, or what is left to control's control groups where that is less: cgroup_memory.h). GPUs' memory is not looked at.
 * Threads: any; reads /proc.
 */
#ifndef SEKI_INFERENCE_ROOM_H
#define SEKI_INFERENCE_ROOM_H

#include <stdint.h>

/* -1: not known. */
int64_t room_free_bytes(void);
/* What the processes of the session hold that is no file's; 0: there are none. */
int64_t room_held_bytes(int64_t session);
/* How many of `wanted` fit, when `loading` have been started and have not taken all that they need. Of what needs nothing, or where nothing is known, all. */
int64_t room_for(int64_t wanted, int64_t loading, int64_t need_bytes, int64_t free_bytes, int64_t reserve_bytes);

#endif
