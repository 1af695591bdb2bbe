/* What a node sees: its cgroup, its cable, its root. */
#include "node/node_init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/agent.h"

#define CGROUPS "/sys/fs/cgroup"
#define KUBELET "/var/lib/kubelet"
#define PERIOD_US 100000LL
#define PIDS_PER_MIB 4 /* half of what a kernel allows by default of the machine's memory: who has a part of that has no more of the processes than of the memory */
#define GONE_TRIES 200
#define GONE_LOOK_MS 25
#define HUB_TRIES 400
#define DEPTH_MAX 12

static int say(const char *what, const char *which)
{
    fprintf(stderr, "node: %s %s: %s\n", what, which, strerror(errno));
    return -1;
}

static void nap(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

int node_run(const char *const *argv, const char *text, int netns)
{
    int in[2], status;
    if (pipe2(in, O_CLOEXEC) < 0)
        return say("pipe for", argv[0]);
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (netns >= 0 && setns(netns, CLONE_NEWNET) < 0)
            _exit(126);
        dup2(in[0], 0);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(in[0]);
    if (pid > 0 && text && file_write_all(in[1], str_of(text), NULL) < 0)
        fprintf(stderr, "node: %s reads nothing\n", argv[0]);
    close(in[1]);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return say("run", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "node: %s failed%s\n", argv[0], WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ": there is no such program" : "");
        return -1;
    }
    return 0;
}

/* ---- cgroups: those of version 1 have a tree for each controller, that of version 2 has one ---- */

static int put(const char *dir, const char *file, const char *text)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n < 0 ? -1 : 0;
}

static bool is_v2(void)
{
    return file_exists(CGROUPS "/cgroup.controllers");
}

/* Calls fn with each tree's root. Links (cpu → cpu,cpuacct) are skipped. */
static int each_tree(int (*fn)(const char *root, const void *arg), const void *arg)
{
    int rc = 0;
    if (is_v2())
        return fn(CGROUPS, arg);
    DIR *d = opendir(CGROUPS);
    if (!d)
        return say("open", CGROUPS);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        char path[512];
        struct stat st;
        snprintf(path, sizeof(path), CGROUPS "/%.255s", e->d_name);
        if (e->d_name[0] != '.' && strcmp(e->d_name, "unified") != 0 && lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
            rc = fn(path, arg);
    }
    closedir(d);
    return rc;
}

static void copy_setting(const char *root, const char *dir, const char *file)
{
    CLEANUP(mem_freep) char *from = xasprintf("%s/%s", root, file);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len;
    if (file_read(from, 4096, &text, &len, NULL) == 0)
        put(dir, file, text);
}

/* One by one: a machine that lacks one of them has the others. */
static void enable_controllers(const char *dir)
{
    static const char *const names[] = {"+cpu", "+cpuset", "+memory", "+pids", "+io"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        put(dir, "cgroup.subtree_control", names[i]);
}

/* In a tree of version 1 the file is there if it is that controller's. */
static void bound(const char *dir, const char *file, const char *text)
{
    if (put(dir, file, text) < 0 && is_v2())
        fprintf(stderr, "node: %s/%s cannot be set to %s: this node is not bounded by it (%s)\n", dir, file, text, strerror(errno));
}

static int make_one(const char *root, const void *arg)
{
    const struct node_settings *s = arg;
    char dir[1024], text[64];
    snprintf(dir, sizeof(dir), "%s/%s", root, s->cgroup);
    if (is_v2())
        enable_controllers(root); /* before anything is bounded: else the files are not there */
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return say("make", dir);
    copy_setting(root, dir, "cpuset.cpus"); /* without these no process can enter a tree of version 1 */
    copy_setting(root, dir, "cpuset.mems");
    snprintf(text, sizeof(text), "%lld", s->memory_mib << 20);
    bound(dir, is_v2() ? "memory.max" : "memory.limit_in_bytes", text);
    snprintf(text, sizeof(text), "%lld", s->memory_mib * PIDS_PER_MIB);
    bound(dir, "pids.max", text);
    snprintf(text, sizeof(text), is_v2() ? "%lld %lld" : "%lld", s->cpus * PERIOD_US, PERIOD_US);
    bound(dir, is_v2() ? "cpu.max" : "cpu.cfs_quota_us", text);
    if (is_v2()) {
        CLEANUP(mem_freep) char *inner = xasprintf("%s/system", dir);
        enable_controllers(dir);
        if (mkdir(inner, 0755) < 0 && errno != EEXIST)
            return say("make", inner);
    }
    return 0;
}

int node_cgroups_make(const struct node_settings *s)
{
    return each_tree(make_one, s);
}

static int join_one(const char *root, const void *arg)
{
    char dir[1024];
    snprintf(dir, sizeof(dir), "%s/%s%s", root, (const char *)arg, is_v2() ? "/system" : "");
    return put(dir, "cgroup.procs", "0") < 0 ? say("enter", dir) : 0;
}

int node_cgroups_join(const struct node_settings *s)
{
    return each_tree(join_one, s->cgroup);
}

static void kill_in(const char *dir)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/cgroup.procs", dir);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (file_read(path, 1 << 20, &text, &len, NULL) < 0)
        return;
    struct str rest = str_n(text, len), line;
    uint64_t pid;
    while (str_cut(&rest, '\n', &line))
        if (str_to_u64(line, &pid) == 0 && pid > 1 && pid < INT32_MAX && (pid_t)pid != getpid())
            kill((pid_t)pid, SIGKILL);
}

static void remove_below(const char *dir, int depth)
{
    DIR *d = depth < DEPTH_MAX ? opendir(dir) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_type != DT_DIR || e->d_name[0] == '.')
            continue;
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, e->d_name);
        remove_below(path, depth + 1);
    }
    if (d)
        closedir(d);
    if (rmdir(dir) < 0 && errno == EBUSY)
        kill_in(dir);
}

static int remove_one(const char *root, const void *arg)
{
    char dir[1024];
    snprintf(dir, sizeof(dir), "%s/%s", root, (const char *)arg);
    for (int i = 0; i < GONE_TRIES && file_exists(dir); i++) {
        remove_below(dir, 0);
        if (file_exists(dir))
            nap(GONE_LOOK_MS);
    }
    errno = EBUSY;
    return file_exists(dir) ? say("remove", dir) : 0;
}

int node_cgroups_remove(const char *cgroup)
{
    int rc = each_tree(remove_one, cgroup);
    /* Beside trees of version 1 containerd makes one in that of version 2, too. */
    return rc == 0 && file_exists(CGROUPS "/unified") ? remove_one(CGROUPS "/unified", cgroup) : rc;
}

/* ---- the cable ---- */

int node_network_make(const struct node_settings *s)
{
    static const char *const ip_batch[] = {"ip", "-batch", "-", NULL};
    const char *const drop[] = {"ip", "link", "del", s->link, NULL};
    CLEANUP(file_closep) int hub = -1;
    char text[1024], path[64];
    for (int i = 0; hub < 0 && i < HUB_TRIES; i++) {
        hub = open(s->hub, O_RDONLY | O_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", hub);
        char target[64] = "";
        ssize_t n = hub < 0 ? 0 : readlink(path, target, sizeof(target) - 1);
        struct stat st, own;
        /* A file that is no namespace yet: its maker is at it. */
        if (hub >= 0 && (n < 0 || fstat(hub, &st) < 0 || stat("/proc/self/ns/net", &own) < 0 || st.st_dev != own.st_dev)) {
            close(hub);
            hub = -1;
        }
        if (hub < 0)
            nap(GONE_LOOK_MS);
    }
    if (hub < 0)
        return say("there is no hub at", s->hub);
    /* The other end of the last one may be on its way out. */
    int devnull = open("/dev/null", O_WRONLY | O_CLOEXEC), old = dup(2);
    dup2(devnull, 2);
    (void)!node_run(drop, NULL, hub);
    dup2(old, 2);
    close(old);
    close(devnull);
    snprintf(text, sizeof(text), "link add %s type veth peer name eth0 netns %d\nlink set %s master nodes up\n", s->link, (int)getpid(), s->link);
    if (node_run(ip_batch, text, hub) < 0)
        return -1;
    snprintf(text, sizeof(text), "link set lo up\naddr add %s/%d dev eth0\nlink set eth0 up\nroute add default via %s\n", s->address, s->bits, s->gate);
    return node_run(ip_batch, text, -1);
}

/* ---- the root ---- */

static int bind_at(const char *from, const char *root, const char *to, bool read_only)
{
    CLEANUP(mem_freep) char *at = xasprintf("%s%s", root, to);
    CLEANUP(mem_freep) char *up = xstrdup(at);
    struct stat st;
    if (stat(from, &st) < 0)
        return say("find", from);
    *strrchr(up, '/') = 0;
    if (file_mkdirs(S_ISDIR(st.st_mode) ? at : up, 0755, NULL) < 0)
        return say("make", at);
    if (!S_ISDIR(st.st_mode)) {
        int fd = open(at, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return say("make", at);
        close(fd);
    }
    if (mount(from, at, NULL, MS_BIND | MS_REC, NULL) < 0)
        return say("show", from);
    if (read_only && mount(NULL, at, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
        return say("protect", from);
    return 0;
}

static int fresh(const char *type, const char *root, const char *to, unsigned long flags, const char *options)
{
    CLEANUP(mem_freep) char *at = xasprintf("%s%s", root, to);
    if (file_mkdirs(at, 0755, NULL) < 0)
        return say("make", at);
    return mount(type, at, type, flags, options) < 0 ? say("mount", at) : 0;
}

static int write_file(const char *root, const char *to, const char *text)
{
    CLEANUP(mem_freep) char *at = xasprintf("%s%s", root, to);
    struct err err = ERR_INIT;
    if (file_write(at, str_of(text), 0644, &err) == 0)
        return 0;
    fprintf(stderr, "node: %s\n", err.msg);
    return -1;
}

/* Of this machine: programs and libraries, nothing of anybody's. */
static int show_system(const char *root)
{
    static const char *const links[] = {"/bin", "/sbin", "/lib", "/lib32", "/lib64"};
    static const char *const files[] = {"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/etc/services", "/etc/alternatives", "/etc/ssl/certs", "/etc/ld.so.cache"};
    int rc = bind_at("/usr", root, "/usr", true);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(links); i++) {
        CLEANUP(mem_freep) char *at = xasprintf("%s%s", root, links[i]);
        char target[256];
        ssize_t n = readlink(links[i], target, sizeof(target) - 1);
        if (n > 0) {
            target[n] = 0;
            if (symlink(target, at) < 0)
                rc = say("link", at);
        } else if (file_exists(links[i])) {
            rc = bind_at(links[i], root, links[i], true);
        }
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(files); i++)
        if (file_exists(files[i]))
            rc = bind_at(files[i], root, files[i], true);
    return rc;
}

static int show_devices(const char *root)
{
    static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    int rc = fresh("tmpfs", root, "/dev", MS_NOSUID, "mode=755,size=64k");
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(devices); i++) {
        char path[32];
        snprintf(path, sizeof(path), "/dev/%s", devices[i]);
        rc = bind_at(path, root, path, false);
    }
    if (rc == 0)
        rc = bind_at("/dev/null", root, "/dev/kmsg", false); /* a kubelet wants one; this machine's log is not its business */
    if (rc == 0)
        rc = fresh("devpts", root, "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620");
    if (rc == 0)
        rc = fresh("tmpfs", root, "/dev/shm", MS_NOSUID | MS_NODEV, NULL);
    CLEANUP(mem_freep) char *ptmx = xasprintf("%s/dev/ptmx", root);
    if (rc == 0 && symlink("pts/ptmx", ptmx) < 0)
        rc = say("link", ptmx);
    static const char *const names[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *at = xasprintf("%s/dev/%s", root, names[i][1]);
        if (symlink(names[i][0], at) < 0)
            rc = say("link", at);
    }
    return rc;
}

/* The node's own directories, by where its programs look for them. */
static int show_own(const struct node_settings *s, const char *root)
{
    static const struct {
        const char *from, *to;
        bool read_only;
    } own[] = {{"etc", "/etc/seki-node", true},
               {"cni", "/etc/cni/net.d", true},
               {"disk/kubelet", KUBELET, false},
               {"disk/containerd", "/var/lib/containerd", false},
               {"disk/ipam", "/var/lib/cni", false},
               {"disk/log", "/var/log", false},
               {"volumes", AGENT_VOLUMES, false}};
    CLEANUP(mem_freep) char *disk = xasprintf("%s/disk", s->dir);
    int rc = file_mkdirs(disk, 0700, NULL) < 0 ||
                     move_mount(s->disk, "", AT_FDCWD, disk, MOVE_MOUNT_F_EMPTY_PATH) < 0
                 ? say("mount", disk)
                 : 0;
    close(s->disk); /* the outer process has it, too; no program of the node does */
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(own); i++) {
        CLEANUP(mem_freep) char *from = xasprintf("%s/%s", s->dir, own[i].from);
        if (file_mkdirs(from, 0700, NULL) < 0)
            return say("make", from);
        rc = bind_at(from, root, own[i].to, own[i].read_only);
    }
    return rc;
}

static int show_programs(const struct node_settings *s, const char *root)
{
    static const char *const programs[] = {"containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "images"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(programs); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", s->programs, programs[i]);
        CLEANUP(mem_freep) char *to = xasprintf("/opt/seki/%s", programs[i]);
        char *real = realpath(path, NULL);
        if (!real && !strcmp(programs[i], "images"))
            continue;
        rc = real ? bind_at(real, root, to, true) : say("find", path);
        free(real); // NOLINT: realpath's
    }
    return rc;
}

int node_root_make(const struct node_settings *s)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/root", s->dir);
    CLEANUP(mem_freep) char *old = xasprintf("%s/.old", root);
    char hosts[256];
    snprintf(hosts, sizeof(hosts), "127.0.0.1 localhost\n%s %s\n", s->address, s->name);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return say("unshare", "/");
    int rc = fresh("tmpfs", root, "", MS_NOSUID, "mode=755,size=16m");
    rc = rc == 0 ? show_system(root) : rc;
    rc = rc == 0 ? fresh("proc", root, "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) : rc;
    rc = rc == 0 ? fresh("sysfs", root, "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) : rc;
    rc = rc == 0 ? bind_at(CGROUPS, root, CGROUPS, false) : rc;
    rc = rc == 0 ? show_devices(root) : rc;
    rc = rc == 0 ? fresh("tmpfs", root, "/run", MS_NOSUID | MS_NODEV, "mode=755") : rc;
    rc = rc == 0 ? fresh("tmpfs", root, "/tmp", MS_NOSUID | MS_NODEV, "mode=1777") : rc;
    rc = rc == 0 ? show_own(s, root) : rc;
    rc = rc == 0 ? show_programs(s, root) : rc;
    rc = rc == 0 ? write_file(root, "/etc/hosts", hosts) : rc;
    rc = rc == 0 ? write_file(root, "/etc/hostname", s->name) : rc;
    if (rc < 0 || file_mkdirs(old, 0700, NULL) < 0)
        return -1;
    CLEANUP(mem_freep) char *run = xasprintf("%s/var/run", root);
    if (symlink("/run", run) < 0 || chdir(root) < 0 || syscall(SYS_pivot_root, ".", ".old") < 0 || chdir("/") < 0 || umount2("/.old", MNT_DETACH) < 0 || rmdir("/.old") < 0)
        return say("change to", root);
    return mount(NULL, KUBELET, NULL, MS_SHARED, NULL) < 0 ? say("share", KUBELET) : 0;
}

int node_root_part(void)
{
    if (umount2(AGENT_VOLUMES, UMOUNT_NOFOLLOW) < 0 || umount2("/proc", UMOUNT_NOFOLLOW) < 0)
        return say("hide", AGENT_VOLUMES);
    int rc = fresh("proc", "", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    return rc == 0 && mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0 ? say("share", "/") : rc;
}
