/* What a gateway last had of limits, in a file: one that starts while control is away goes on with that at once, and with no more.
 *
 * The file says of how many gateways this is one, and of which limits it has less than its part, as others were given what was free here. More than its part it does not say: that
 * was filled with what is lost with a gateway's memory. It is written before control hears of the change, so that nobody has what the file still claims; it is not synced, as whoever loses
 * the machine loses all its gateways. {"version": 1, "parts": 3, "less": [{"name", "unit", "max", "share"}]}, or {"version": 1, "left": true}. Threads: one (the leases').
 *
 * Each of a gateway's two names (cmd/takeover.h) has a file of its own, so that the one that drains and the one that took over never write the same. What was written last is what there is.
 */
#ifndef SEKI_GATEWAY_SHARE_FILE_H
#define SEKI_GATEWAY_SHARE_FILE_H

#include "gateway/limit_shares.h"

/* Atomically, mode 0600. */
int share_file_save(const char *path, struct limit_set *s, int64_t parts, struct err *err) NODISCARD;
/* There are others, and all is given back to them. */
int share_file_save_left(const char *path, struct err *err) NODISCARD;
/* Whichever was written last; NULL: neither is there. */
const char *share_file_newest(const char *a, const char *b);

#define SHARE_FILE_LEFT (-1)
/* Caps the shares that limit_set_parts() will deal out, and says of how many parts; SHARE_FILE_LEFT: others have them. 0 when there is no such file, or none that can be read: then nothing is changed, and *err says why. */
int64_t share_file_load(const char *path, struct limit_set *s, struct err *err);

#endif
