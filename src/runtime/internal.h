/* Between the files of this folder: what is recorded about a process, its descendants, its log. All are called on the runtime's thread, or before it starts. */
#ifndef SEKI_RUNTIME_INTERNAL_H
#define SEKI_RUNTIME_INTERNAL_H

#include "base/str.h"
#include "runtime/runtime.h"

#define WORKLOAD_NAME_BYTES 201
#define MARKER_BYTES 33
#define MARKER_ENV "SEKI_WORKLOAD"

/* What survives this program: NAME.json in the state directory. It is written before the start, with pid 0 (an intent), and after it. A process is recognised by pid and
 * start time, or, when this program died between the two, by the marker in its environment. */
struct run_record {
    char name[WORKLOAD_NAME_BYTES];
    char marker[MARKER_BYTES]; /* random; the child has SEKI_WORKLOAD=NAME/MARKER */
    char hash[65];             /* of what was asked for: argv, environment, directory */
    pid_t pid;
    uint64_t start_ticks;
    int64_t started_ms; /* wall clock */
    int restarts;
};
int record_write(const char *dir, const struct run_record *r, struct err *err) NODISCARD;
void record_remove(const char *dir, const char *name);
/* Calls fn for each readable record; broken ones are removed with a log line. */
int record_each(const char *dir, void (*fn)(void *arg, const struct run_record *r), void *arg, struct err *err) NODISCARD;

/* The process of a record, when it still runs: 0 and its pid filled in; else false. */
bool record_find_process(struct run_record *r);

/* Everything that a workload has started: its session, its cgroup, and whoever carries its marker. */
void tree_joined(const char *name, pid_t pid);            /* into a cgroup of its own, where that can be had */
void tree_signal(const struct run_record *r, int signo);  /* the leader's process group; SIGKILL: everything */
void tree_forget(const char *name);                       /* the cgroup, when it is empty */

int log_file_open(const char *dir, const char *name, int *ret_fd, struct err *err) NODISCARD;
/* Over max_bytes: copied to NAME.log.1 and emptied. The writer appends to the same file, so this works whether or not it is our child. */
void log_file_rotate(const char *dir, const char *name, size_t max_bytes);
int log_file_tail(const char *dir, const char *name, size_t max_bytes, char **ret, struct err *err) NODISCARD;

#endif
