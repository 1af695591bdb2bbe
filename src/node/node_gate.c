/* The gate of a cluster's nodes: its hub, its two listeners. */
#include "node/gate_balance.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"
#include "kinds/kaas.h"
#include "node/node_init.h"

#define SETTINGS_MAX 65536
#define BACKLOG 256
#define ROUTES_MAX (64 * 1024)

struct gate {
    const char *gate, *api, *hub, *socket;
    struct cluster_network nodes, pods;
    int first, count; /* of nodes: the nth has address first + n, and the nth /24 of the pods' network */
};

static atomic_bool stop;

static void on_stop(int signo UNUSED)
{
    atomic_store(&stop, true);
}

static int load(const char *dir, json_t **doc, struct gate *g, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/gate.json", dir);
    int rc = json_read_file(path, SETTINGS_MAX, doc, err);
    if (rc < 0)
        return rc;
    *g = (struct gate){.gate = json_str(*doc, "gate"), .api = json_str(*doc, "api"), .hub = json_str(*doc, "hub"), .socket = json_str(*doc, "socket"),
                       .first = (int)json_int(*doc, "first", 10), .count = (int)json_int(*doc, "count", 0)};
    if (!g->gate || !g->api || !g->hub || !g->socket)
        return err_set(err, ERR_INVALID, "%s is not complete", path);
    rc = cluster_network_parse(json_str_or(*doc, "nodes", ""), &g->nodes, err);
    return rc < 0 ? rc : cluster_network_parse(json_str_or(*doc, "pods", ""), &g->pods, err);
}

/* ---- the hub ---- */

static bool is_namespace(const char *path)
{
    struct stat st, own;
    return stat(path, &st) == 0 && stat("/proc/self/ns/net", &own) == 0 && st.st_dev == own.st_dev;
}

/* In a child that has just got a network namespace of its own. */
static int furnish(const struct gate *g)
{
    static const char *const batch[] = {"ip", "-batch", "-", NULL};
    static const char *const settings[][2] = {{"/proc/sys/net/ipv4/ip_forward", "1"}, {"/proc/sys/net/ipv4/conf/all/send_redirects", "0"}, {"/proc/sys/net/ipv4/conf/default/send_redirects", "0"}};
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        int fd = open(settings[i][0], O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, settings[i][1], 1) != 1)
            return -1;
        close(fd);
    }
    sbuf_init(&text, ROUTES_MAX);
    sbuf_addf(&text, "link set lo up\nlink add nodes type bridge forward_delay 0\naddr add %s/%d dev nodes\nlink set nodes up\n", g->gate, g->nodes.bits);
    for (int i = 0; i < g->count; i++) {
        char pods[16], node[16];
        cluster_network_address(&g->pods, (uint32_t)i << 8, pods);
        cluster_network_address(&g->nodes, (uint32_t)(g->first + i), node);
        sbuf_addf(&text, "route add %s/24 via %s dev nodes\n", pods, node);
    }
    return node_run(batch, text.ptr, -1);
}

/* Made whole, then shown under its name. */
static int make_hub(const struct gate *g, struct err *err)
{
    int status;
    if (is_namespace(g->hub))
        return 0;
    int fd = open(g->hub, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_INTERNAL, "%s: %s", g->hub, strerror(errno));
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNET) < 0 || furnish(g) < 0 || mount("/proc/self/ns/net", g->hub, NULL, MS_BIND, NULL) < 0) {
            fprintf(stderr, "node-gate: hub: %s\n", strerror(errno));
            _exit(1);
        }
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        return err_set(err, ERR_INTERNAL, "the hub could not be made");
    return 0;
}

/* ---- listeners ---- */

static int listen_in_hub(const struct gate *g, int hub, int outside, struct err *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(GATE_API_PORT)};
    int on = 1;
    if (inet_pton(AF_INET, g->gate, &at.sin_addr) != 1 || setns(hub, CLONE_NEWNET) < 0)
        return err_set(err, ERR_INTERNAL, "the hub: %s", strerror(errno));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (setns(outside, CLONE_NEWNET) < 0)
        _exit(1);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, BACKLOG) < 0) {
        err_set(err, ERR_INTERNAL, "%s:%d in the hub: %s", g->gate, GATE_API_PORT, strerror(errno));
        file_closep(&fd);
        return -1;
    }
    return fd;
}

static int listen_at_socket(const char *path, struct err *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (!str_to_array(str_of(path), at.sun_path, sizeof(at.sun_path))) {
        err_set(err, ERR_INVALID, "%s: too long for a socket", path);
        return -1;
    }
    unlink(path);
    umask(077);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, BACKLOG) < 0) {
        err_set(err, ERR_INTERNAL, "%s: %s", path, strerror(errno));
        file_closep(&fd);
        return -1;
    }
    return fd;
}

static uint32_t mask_of(int bits)
{
    return bits ? UINT32_MAX << (32 - bits) : 0;
}

static int serve(const struct gate *g, const char *dir, struct err *err)
{
    CLEANUP(file_closep) int outside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    CLEANUP(file_closep) int hub = open(g->hub, O_RDONLY | O_CLOEXEC);
    CLEANUP(file_closep) int api = -1;
    CLEANUP(file_closep) int egress = -1;
    struct in_addr at, gate;
    if (outside < 0 || hub < 0 || inet_pton(AF_INET, g->api, &at) != 1 || inet_pton(AF_INET, g->gate, &gate) != 1)
        return err_set(err, ERR_INVALID, "no hub, or no address");
    if ((api = listen_in_hub(g, hub, outside, err)) < 0 || (egress = listen_at_socket(g->socket, err)) < 0)
        return ERR_INTERNAL;
    struct relay_options o = {.api_listener = api, .egress_listener = egress, .hub = hub, .outside = outside, .apis = {{ntohl(at.s_addr)}, 1, GATE_API_PORT, NULL},
                                    .reach = {g->nodes.first, mask_of(g->nodes.bits), g->pods.first, mask_of(g->pods.bits), ntohl(gate.s_addr)}};
    if (!(o.balance = balance_new(dir, &o.reach, err)))
        return ERR_INTERNAL;
    int rc = relay_run(&o, &stop, err);
    balance_free(o.balance);
    return rc;
}

int node_gate_main(char **argv)
{
    struct gate g;
    JSON_AUTO doc = NULL;
    struct err err = ERR_INIT;
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_stop}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_stop}, NULL);
    if (!argv[0] || load(argv[0], &doc, &g, &err) < 0 || make_hub(&g, &err) < 0 || serve(&g, argv[0], &err) < 0) {
        fprintf(stderr, "node-gate: %s\n", err.msg);
        return 1;
    }
    return 0;
}
