/* What a gateway that was killed left under the other of its two names (cmd/takeover.h): one that took over writes NAME-next, and when both are killed one of the two names is that of the next.
 *
 * Its requests that ran (open_requests.h) are settled into its journal by the gateway that runs, as soon as nobody holds that journal. Its lock is held meanwhile: a gateway that takes over in
 * that instant fails and is started again. The file is then gone, so that looking again, every 2 s, costs a look at a directory. What cannot be settled (a journal that is damaged, a full disk) is
 * tried again after twice the time, five minutes at most, and seki_gateway_left_requests_failing says so meanwhile. Threads: any, one at a time.
 */
#ifndef SEKI_GATEWAY_LEFT_REQUESTS_H
#define SEKI_GATEWAY_LEFT_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

#define LEFT_LOOK_MS 2000u
#define LEFT_LOOK_MAX_MS 300000u

struct left_requests {
    const char *dir, *gateway, *path; /* dir: of journals; gateway: whose; path: of the file with its requests */
    uint64_t pause_ms;                /* LEFT_LOOK_MS at first */
};
/* Looks, and settles what is there; nothing happens while that gateway runs. In how many milliseconds to look again. */
uint64_t left_requests_look(struct left_requests *l);
/* A gateway of that name writes its journal now. */
bool left_requests_held(const char *dir, const char *gateway);

#endif
