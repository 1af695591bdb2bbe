/* `sekid node DIR`: one node of a cluster, as a process of its own on this machine. Run by the runtime, never by people.
 *
 * The outer process makes the node's cgroup and its first process, waits for it, and removes the cgroup. The first process has namespaces of its own (network, mounts, processes, host name,
 * IPC), a root of its own that shows of this machine /usr, cgroups and a few devices, and a cable to the cluster's hub; it starts seki-agent (agent.h), and again when that ends, and once the second process.
 * The second has namespaces of its own once more, of mounts and processes: there the directory of volumes is an empty one of the node's root, and neither the agent is seen nor what leads to its
 * files. It starts containerd, kubelet and kube-proxy, and starts again what ends; all paths of pods are resolved there.
 * What belongs to the node dies with it: the kernel ends a process namespace with its first process, those below along with it, and a network namespace with its last. What its programs and pods write
 * lies in DIR/disk.img, a file system of its own (node_disk.c), which is mounted in the node alone.
 * What DIR holds: docs/internals/kaas-nodes.md. Needs root; `ip` of iproute2, runc, and CNI's plugins. */
#ifndef SEKI_NODE_INIT_H
#define SEKI_NODE_INIT_H

#include <stdbool.h>

/* Never returns before the node has ended. An exit status. argv: DIR and what is only there to tell command lines apart. */
int node_main(char **argv);

/* node_root.c: on the way into the node; each prints what fails to stderr, and returns -1. */
struct node_settings {
    const char *dir, *name, *address, *gate, *hub, *link, *programs, *cgroup, *labels;
    int bits;
    int disk; /* what node_disk_open() has given */
    long long cpus, memory_mib;
};
int node_cgroups_make(const struct node_settings *s);
/* Kills who is still in it, then removes it. */
int node_cgroups_remove(const char *cgroup);
int node_cgroups_join(const struct node_settings *s);
/* In a network namespace of its own: a cable to the hub, address and route. */
int node_network_make(const struct node_settings *s);
/* Replaces the root of a mount namespace that is not shared. Of its mounts /var/lib/kubelet alone is: what is mounted below it is so in copies of the namespace, too, whoever does that. */
int node_root_make(const struct node_settings *s);
/* In a copy of that, and a namespace of processes below: takes away what is the agent's alone. Mounts are shared with those who have copies from then on, as pods' are to be. */
int node_root_part(void);
/* node_disk.c: in the outer process. *ret_fd is a mount that is nowhere yet, with the directories of show_own(); while it is open the outer process sees what is in it. What cannot be trusted any more is made anew. */
int node_disk_open(const char *dir, int *ret_fd);
/* Has it written that the disk is mounted, so that a machine that crashes leaves it so. Blocks as the machine's disk does. */
void node_disk_mark(const char *dir);
/* What control asks for and cannot see: DIR/joined and DIR/serving are there when the kubelet has its certificates, as a client and as a server. anew: as it is; else only what has come is told. Whether both are there. */
bool node_disk_tell(const char *dir, int fd, bool anew);
/* Runs a program and waits for it; text (may be NULL) is its standard input; netns >= 0: there. 0 when it left with 0. */
int node_run(const char *const *argv, const char *text, int netns);

#endif
