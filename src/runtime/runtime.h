/* Runtimes: where workloads run. local.c supervises processes on this machine; there is no other yet.
 *
 * A workload is wanted under a name by ensure() and stays until stop(). The runtime restarts it when it ends (back-off 0.5 s doubling to 30 s; reset after 60 s of
 * running; five ends within 60 s of their starts show as crash_looping), writes its output to a log file with rotation, and survives its own restart: what runs is
 * adopted by recorded identity (boot, pid and start time), never by name or port. A workload has a session of its own, a cgroup of its own where one can be made, exactly the
 * environment it is given and SEKI_WORKLOAD=NAME/RANDOM, and no descriptors but its log; when its log cannot be opened it runs without. Threads: any; calls are quick, work happens on the runtime's own thread.
 */
#ifndef SEKI_RUNTIME_RUNTIME_H
#define SEKI_RUNTIME_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct arena;
struct runtime;

struct workload {
    const char *name;        /* unique, [a-z0-9.-]{1,200} */
    const char *const *argv; /* ends in NULL */
    const char *const *env;  /* "K=V", ends in NULL */
    const char *cwd;         /* may be NULL */
    uint64_t stop_timeout_ms; /* SIGTERM, then SIGKILL of the whole session; default 10 s */
};

/* STOPPING: what runs is not what is wanted (any more), and is ended; from the moment of that ensure() or stop(). */
enum workload_state { WORKLOAD_ABSENT, WORKLOAD_STARTING, WORKLOAD_RUNNING, WORKLOAD_BACKOFF, WORKLOAD_STOPPING, WORKLOAD_FAILED_TO_START };

struct workload_status {
    enum workload_state state;
    pid_t pid;
    uint64_t generation;      /* of starts: changes whenever a new process runs */
    int64_t started_wall_ms;
    uint64_t running_ms;
    int restarts;
    int last_exit;            /* waitpid status, or -1 unknown */
    bool crash_looping;
    bool adopted;
    char message[256];        /* why it could not start, or how it ended: "exit code 1", "killed by signal 9" */
};

struct runtime_ops {
    const char *name;
    /* Idempotent: the same workload again is a no-op; a changed argv or env restarts it. */
    int (*ensure)(struct runtime *r, const struct workload *w, struct err *err);
    /* Whether ensure() would restart what runs. */
    bool (*differs)(struct runtime *r, const struct workload *w);
    /* Ends and forgets it; idempotent. Gone once get() says WORKLOAD_ABSENT. */
    int (*stop)(struct runtime *r, const char *name, struct err *err);
    /* Kills the process (SIGKILL), which is then restarted without delay: for hung engines. One
     * that was stopped goes on ending in its own time. */
    int (*restart)(struct runtime *r, const char *name, const char *why, struct err *err);
    void (*get)(struct runtime *r, const char *name, struct workload_status *ret);
    /* Names of all workloads known, adopted ones included; fn on the calling thread. */
    void (*each)(struct runtime *r, void (*fn)(void *arg, const char *name, const struct workload_status *s), void *arg);
    /* Last bytes of the log. */
    int (*log_tail)(struct runtime *r, const char *name, size_t max_bytes, char **ret, struct err *err);
    /* stop_workloads: else they are left running, to be adopted by the next. */
    void (*free)(struct runtime *r, bool stop_workloads);
};
struct runtime {
    const struct runtime_ops *ops;
};

/* The last line of a workload's log that says something, as long as a message may be; "": there is none. In a. */
const char *runtime_last_line(struct runtime *r, const char *name, struct arena *a);

struct runtime_local_options {
    const char *state_dir; /* records of what runs */
    const char *log_dir;   /* NAME.log, NAME.log.1 */
    size_t log_max_bytes;  /* default 16 MiB, then rotated */
    uint64_t backoff_ms;   /* the first; default 0.5 s */
    const char *cgroup_root, *cgroup_self; /* for tests: in place of /sys/fs/cgroup and /proc/self/cgroup */
    /* A workload changed state; runtime's thread. May be NULL. */
    void (*changed)(void *arg, const char *name);
    void *arg;
};
int runtime_local_new(const struct runtime_local_options *o, struct runtime **ret, struct err *err) NODISCARD;

/* Kills and forgets what a runtime on state_dir has left running; *ret_ended: how many workloads that were. Only while there is no runtime on it: the caller holds whatever
 * keeps others away. */
int runtime_local_end_left(const char *state_dir, int *ret_ended, struct err *err) NODISCARD;

#endif
