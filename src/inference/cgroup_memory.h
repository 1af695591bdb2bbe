/* What is left of the memory that this process's control groups may have: its own and each above it, of version 2 (memory.max, memory.high) or 1 (memory.limit_in_bytes).
 *
 * A unit's MemoryMax= is such a limit; so is a container's. Whatever of it files' pages take that nobody uses is free, as for the kernel. Where the groups are not to be seen under the path
 * that /proc/self/cgroup says (a container that has its own view) those above it are asked. Source: the kernel's cgroup-v2 and cgroup-v1/memory documents. Threads: any; reads files.
 */
#ifndef SEKI_INFERENCE_CGROUP_MEMORY_H
#define SEKI_INFERENCE_CGROUP_MEMORY_H

#include <stdint.h>

/* Bytes, the least of all; -1: nothing limits it. root: "", or where a test has /proc/self/cgroup and /sys/fs/cgroup. */
int64_t cgroup_memory_free(const char *root);

/* The number behind a word at the beginning of a line of a file; -1: it is not there, or the file is not. */
int64_t number_in_file(const char *path, const char *word);

#endif
