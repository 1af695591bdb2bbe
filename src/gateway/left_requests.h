/* What a gateway that was killed left under the other of its two names (cmd/takeover.h): one that took over writes NAME-next, and whoever starts after its end is NAME again.
 *
 * Its requests that ran (open_requests.h) are settled into its journal by the gateway that runs, as soon as nobody holds that journal. Its lock is held meanwhile: a gateway that takes over in
 * that instant fails and is started again. The file is then gone, so that looking again costs a look at a directory. Threads: any, one at a time.
 */
#ifndef SEKI_GATEWAY_LEFT_REQUESTS_H
#define SEKI_GATEWAY_LEFT_REQUESTS_H

#include <stdbool.h>

/* dir: of journals. gateway: whose; path: of the file with its requests. Nothing happens while it runs. */
void left_requests_settle(const char *dir, const char *gateway, const char *path);
/* A gateway of that name writes its journal now. */
bool left_requests_held(const char *dir, const char *gateway);

#endif
