/* Child processes that are ours for a moment or for their life: posix_spawn with everything said explicitly.
 *
 * spawn_start never uses a shell, gives the child its own session when asked, exactly the environment passed, and only the
 * three standard descriptors. spawn_watch reports the exit by a pidfd on the loop, without SIGCHLD; it also watches
 * processes that are not our children (then the exit status is unknown: -1).
 */
#ifndef SEKI_LOOP_SPAWN_H
#define SEKI_LOOP_SPAWN_H

#include "loop/loop.h"

struct spawn_options {
    const char *const *argv; /* argv[0]: a path, or a name searched in PATH; ends in NULL */
    const char *const *env;  /* ends in NULL; NULL: an empty environment */
    const char *cwd;         /* NULL: unchanged */
    int stdin_fd;            /* -1: /dev/null; likewise the two below */
    int stdout_fd;
    int stderr_fd;
    bool new_session;
};

int spawn_start(const struct spawn_options *o, pid_t *ret_pid, struct err *err) NODISCARD;
/* Start time of a process in clock ticks since boot (/proc/PID/stat field 22): with the pid, its identity. */
int spawn_start_time(pid_t pid, uint64_t *ret_ticks, struct err *err) NODISCARD;

struct spawn_watch;
/* exit_status: as from waitpid, or -1 when the process was not our child. fn is called once. */
int spawn_watch_new(struct loop *l, pid_t pid, void (*fn)(void *arg, int exit_status), void *arg,
                    struct spawn_watch **ret, struct err *err) NODISCARD;
void spawn_watch_free(struct spawn_watch *w);

#endif
