/* The processes of a node: the outer one, the first one within, and what that starts. */
#include "node/node_init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"
#include "node/agent.h"

#define SETTINGS_MAX 65536
#define PROGRAMS "/opt/seki"
#define SOCKET "/run/containerd/containerd.sock"
#define RUNTIME_WAIT_MS 20000u
#define RUNTIME_LOOK_MS 20u
#define AGAIN_MIN_MS 250u
#define AGAIN_MAX_MS 10000u
#define STABLE_MS 30000u
#define IDLE_MS 1000u
#define TELL_MS 25u

/* ---- what runs in a node ---- */

static const char *const containerd_argv[] = {PROGRAMS "/containerd", "--config", "/etc/seki-node/containerd.toml", NULL};
static const char *const kubelet_argv[] = {PROGRAMS "/kubelet", "--config=/etc/seki-node/kubelet.json", "--bootstrap-kubeconfig=/etc/seki-node/bootstrap.json", "--kubeconfig=/var/lib/kubelet/kubeconfig",
                                           "--cert-dir=/var/lib/kubelet/pki", NULL};
static const char *const proxy_argv[] = {PROGRAMS "/kube-proxy", "--config=/etc/seki-node/kube-proxy.json", NULL};
static const char *const env[] = {"PATH=" PROGRAMS ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run", "GOGC=75", NULL};

enum { CONTAINERD, KUBELET, KUBE_PROXY, AGENT, SERVICES };
static struct service {
    const char *name;
    const char *argv[12]; /* none: our own agent */
    pid_t pid;
    uint64_t started_ms, due_ms, again_ms;
} services[SERVICES] = {{.name = "containerd"}, {.name = "kubelet"}, {.name = "kube-proxy"}, {.name = "seki-agent"}};
static const struct node_settings *settings;


static void fill(struct service *v, const char *const *base, const char *const *more)
{
    size_t n = 0;
    while (*base)
        v->argv[n++] = *base++;
    while (more && *more && n < ARRAY_LEN(v->argv) - 1)
        v->argv[n++] = *more++;
    v->argv[n] = NULL;
}

static pid_t spawn_agent(void)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    _exit(agent_main(settings));
}

static pid_t spawn(const char *const *argv)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    execve(argv[0], (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)env);
    fprintf(stderr, "node: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static void start(struct service *v)
{
    v->started_ms = clock_mono_ms();
    v->due_ms = 0;
    v->pid = v->argv[0] ? spawn(v->argv) : spawn_agent();
    if (v->pid < 0)
        v->due_ms = v->started_ms + AGAIN_MAX_MS;
}

static void ended(pid_t pid, int status)
{
    for (int i = 0; i < SERVICES; i++) {
        struct service *v = &services[i];
        uint64_t now = clock_mono_ms();
        if (v->pid != pid)
            continue;
        v->again_ms = now - v->started_ms >= STABLE_MS || !v->again_ms ? AGAIN_MIN_MS : v->again_ms * 2 > AGAIN_MAX_MS ? AGAIN_MAX_MS : v->again_ms * 2;
        v->due_ms = now + v->again_ms;
        v->pid = 0;
        fprintf(stderr, "node: %s ended (%s %d) and is started again in %llu ms\n", v->name, WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
                (unsigned long long)v->again_ms);
    }
}

static uint64_t start_due(void)
{
    uint64_t now = clock_mono_ms(), next = IDLE_MS;
    for (int i = 0; i < SERVICES; i++)
        if (services[i].due_ms && services[i].due_ms <= now)
            start(&services[i]);
        else if (services[i].due_ms && services[i].due_ms - now < next)
            next = services[i].due_ms - now;
    return next;
}

static bool runtime_answers(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    CLEANUP(file_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
}

static void wait_for_runtime(void)
{
    for (uint64_t until = clock_mono_ms() + RUNTIME_WAIT_MS; !runtime_answers() && clock_mono_ms() < until;)
        nanosleep(&(struct timespec){.tv_nsec = RUNTIME_LOOK_MS * 1000000L}, NULL);
}

/* In a process of its own: the kubelet does not wait for it. */
static void import_images(void)
{
    pid_t pid = fork();
    if (pid)
        return;
    DIR *d = opendir(PROGRAMS "/images");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[512];
        size_t len = strlen(e->d_name);
        int status;
        snprintf(path, sizeof(path), PROGRAMS "/images/%.255s", e->d_name);
        const char *const argv[] = {PROGRAMS "/ctr", "--namespace", "k8s.io", "images", "import", "--local", path, NULL};
        if (len < 5 || strcmp(e->d_name + len - 4, ".tar") != 0)
            continue;
        pid_t one = spawn(argv);
        if (one > 0)
            waitpid(one, &status, 0);
    }
    _exit(0);
}

/* ---- the first process of a node, and the second ---- */

/* None reaches beyond the node, and no file is left that cannot be removed when it ends (CAP_LINUX_IMMUTABLE). */
static void drop_capabilities(void)
{
    static const int none[] = {CAP_LINUX_IMMUTABLE, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_MAC_ADMIN, CAP_MAC_OVERRIDE, CAP_WAKE_ALARM, CAP_AUDIT_CONTROL, CAP_AUDIT_READ, CAP_BLOCK_SUSPEND,
                               CAP_SYSLOG, CAP_SYS_PACCT};
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        prctl(PR_CAPBSET_DROP, none[i], 0, 0, 0);
}

static void put_sysctl(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1", 1) < 0)
        fprintf(stderr, "node: %s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

/* Of what this process has started. `last`: whose end is the node's; 0: nobody's. */
static NORETURN void keep(pid_t last)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    for (;;) {
        int status;
        pid_t pid;
        uint64_t next = start_due();
        int got = sigtimedwait(&set, NULL, &(struct timespec){(time_t)(next / 1000), (long)(next % 1000) * 1000000L});
        if (got == SIGTERM)
            _exit(0);
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid == last)
                _exit(1);
            ended(pid, status);
        }
    }
}

/* started_fd: gets a byte when all of these have been. */
static NORETURN void second_process(const struct node_settings *s, int started_fd)
{
    char ip[64], name[128];
    CLEANUP(mem_freep) char *labels = xasprintf("--node-labels=%s", s->labels);
    if (node_root_part() < 0)
        _exit(1);
    snprintf(ip, sizeof(ip), "--node-ip=%s", s->address);
    snprintf(name, sizeof(name), "--hostname-override=%s", s->name);
    fill(&services[CONTAINERD], containerd_argv, NULL);
    fill(&services[KUBELET], kubelet_argv, (const char *const[]){ip, name, labels, NULL});
    fill(&services[KUBE_PROXY], proxy_argv, NULL);
    start(&services[CONTAINERD]);
    wait_for_runtime();
    import_images();
    start(&services[KUBELET]);
    start(&services[KUBE_PROXY]);
    (void)!write(started_fd, "", 1); /* whoever imports images has it open, too */
    close(started_fd);
    keep(0);
}

/* Namespaces that are the child's alone: an agent that is started again is in ours. */
static pid_t fork_apart(void)
{
    return (pid_t)syscall(SYS_clone, (unsigned long)(CLONE_NEWNS | CLONE_NEWPID | SIGCHLD), 0UL,
                          0UL, 0UL, 0UL);
}

static int first_process(const struct node_settings *s)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    umask(022);
    if (node_cgroups_join(s) < 0)
        return 1;
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC) < 0) {
        fprintf(stderr, "node: namespaces: %s\n", strerror(errno));
        return 1;
    }
    if (node_network_make(s) < 0 || node_root_make(s) < 0)
        return 1;
    if (sethostname(s->name, strlen(s->name)) < 0)
        fprintf(stderr, "node: host name: %s\n", strerror(errno));
    put_sysctl("/proc/sys/net/ipv4/ip_forward");
    put_sysctl("/proc/sys/net/bridge/bridge-nf-call-iptables");
    drop_capabilities();
    if (agent_before_pods() < 0)
        return 1;
    int started[2];
    pid_t second = pipe2(started, O_CLOEXEC) < 0 ? -1 : fork_apart();
    if (second < 0) {
        fprintf(stderr, "node: namespaces of pods: %s\n", strerror(errno));
        return 1;
    }
    if (second == 0)
        second_process(s, started[1]);
    /* Not before the kubelet: whose CSI driver is there when it makes its Node has a Node that is not ready for seconds. It also ends so when the second process does. */
    char none;
    close(started[1]);
    (void)!read(started[0], &none, 1);
    close(started[0]);
    settings = s;
    start(&services[AGENT]);
    keep(second);
}

/* ---- the outer process ---- */

static int load(const char *dir, json_t **doc, struct node_settings *s)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/node.json", dir);
    struct err err = ERR_INIT;
    if (json_read_file(path, SETTINGS_MAX, doc, &err) < 0) {
        fprintf(stderr, "node: %s\n", err.msg);
        return -1;
    }
    *s = (struct node_settings){.dir = dir, .name = json_str(*doc, "name"), .address = json_str(*doc, "address"), .gate = json_str(*doc, "gate"), .hub = json_str(*doc, "hub"),
                                .link = json_str(*doc, "link"), .programs = json_str(*doc, "programs"), .cgroup = json_str(*doc, "cgroup"), .labels = json_str_or(*doc, "labels", ""), .bits = (int)json_int(*doc, "bits", 24),
                                .cpus = json_int(*doc, "cpus", 1), .memory_mib = json_int(*doc, "memoryMiB", 2048)};
    if (s->name && s->address && s->gate && s->hub && s->link && s->programs && s->cgroup && !strchr(s->cgroup, '/'))
        return 0;
    fprintf(stderr, "node: %s is not complete\n", path);
    return -1;
}

static int wait_for_end(pid_t child, const struct node_settings *s)
{
    sigset_t set;
    int status = 0;
    bool told = node_disk_tell(s->dir, s->disk, true);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    for (;;) {
        int got = told
                      ? sigwaitinfo(&set, NULL)
                      : sigtimedwait(&set, NULL, &(struct timespec){.tv_nsec = TELL_MS * 1000000L});
        told = told || node_disk_tell(s->dir, s->disk, false);
        if (got == SIGTERM || got == SIGINT)
            kill(child, SIGKILL); /* its process namespace ends with it */
        if (waitpid(child, &status, got == SIGTERM || got == SIGINT ? 0 : WNOHANG) == child)
            return got == SIGTERM || got == SIGINT ? 0 : 1;
    }
}

int node_main(char **argv)
{
    struct node_settings s;
    JSON_AUTO doc = NULL;
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    if (!argv[0] || load(argv[0], &doc, &s) < 0)
        return 2;
    if (geteuid() != 0) {
        fputs("node: a node on this machine takes root\n", stderr);
        return 2;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (node_cgroups_remove(s.cgroup) < 0 || node_disk_open(s.dir, &s.disk) < 0 ||
        node_cgroups_make(&s) < 0)
        return 1;
    if (unshare(CLONE_NEWPID) < 0) {
        fprintf(stderr, "node: a namespace for processes: %s\n", strerror(errno));
        return 1;
    }
    pid_t child = fork();
    if (child == 0)
        _exit(first_process(&s));
    node_disk_mark(s.dir); /* meanwhile the node begins */
    int rc = child < 0 ? 1 : wait_for_end(child, &s);
    close(s.disk);
    if (node_cgroups_remove(s.cgroup) < 0)
        rc = 1;
    fflush(NULL);
    return rc;
}
