/* Between the files of this folder: what is recorded about a process, its descendants, its log. All are called on the runtime's thread, or before it starts. */
#ifndef SEKI_RUNTIME_INTERNAL_H
#define SEKI_RUNTIME_INTERNAL_H

#include "base/str.h"
#include "runtime/runtime.h"

#define WORKLOAD_NAME_BYTES 201
#define MARKER_BYTES 33
#define BOOT_BYTES 40
#define CGROUP_PATH_BYTES 1024
#define MARKER_ENV "SEKI_WORKLOAD"

/* What survives this program: NAME.json in the state directory. It is written before the start, with pid 0 (an intent), and after it. A process is recognised by pid and
 * start time, or, when this program died between the two, by the marker in its environment. */
struct run_record {
    char name[WORKLOAD_NAME_BYTES];
    char marker[MARKER_BYTES]; /* random; the child has SEKI_WORKLOAD=NAME/MARKER */
    char hash[65];             /* of what was asked for: argv, environment, directory */
    char boot[BOOT_BYTES];     /* which start of the machine the numbers below are from */
    char cgroup[CGROUP_PATH_BYTES]; /* its own, or empty */
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

void record_boot(char boot[BOOT_BYTES]); /* empty when the machine does not say */
bool record_has_marker(const struct run_record *r, pid_t pid);
/* The process that a directory of /proc is about; 0: none. */
pid_t record_pid_of(const char *name);

/* Where cgroups for workloads can be made: below our own, in the hierarchy that knows all processes: v2, v2 beside v1, or v1's pids. self: the text of /proc/self/cgroup; root:
 * /sys/fs/cgroup. False: there is none that we may write to. */
bool cgroup_find_base(struct str self, const char *root, char *base, size_t size);
bool cgroup_base(const char *self_file, const char *root, char *base, size_t size);

/* Everything that a workload has started: its session, its cgroup (but for what it started in its first instant, before it was moved there), and whoever carries its marker.
 * Nobody else is touched, whatever the record says. */
void tree_join(struct run_record *r, const char *base, const char *owner); /* into a cgroup of its own, named after owner (which runtime) and workload; noted in the record */
void tree_signal(const struct run_record *r, int signo);                   /* the leader's process group; SIGKILL: everything */
void tree_forget(const struct run_record *r);                              /* the cgroup, when it is empty: the dead may be in it for a moment yet */
void tree_sweep(const char *base, const char *owner, bool (*known)(void *arg, const char *name), void *arg); /* the empty ones of workloads that are not known any more */

int log_file_open(const char *dir, const char *name, int *ret_fd, struct err *err) NODISCARD;
/* Over max_bytes: its last max_bytes are copied to NAME.log.1, and it is emptied. The writer appends to the same file, so this works whether or not it is our child. */
void log_file_rotate(const char *dir, const char *name, size_t max_bytes);
int log_file_tail(const char *dir, const char *name, size_t max_bytes, char **ret, struct err *err) NODISCARD;

#endif
