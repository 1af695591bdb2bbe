/* What lies on disk for nodes and gates: places, settings, credentials. */
#include "kaas/node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "crypto/pki.h"
#include "node/node_gate.h"

#define TEXT_MAX (64 * 1024)
#define OVERHEAD_MIB 256 /* containerd, kubelet, kube-proxy and seki-agent of a node */

/* ---- names ---- */

int node_network_of(const struct cluster *c, struct node_network *ret, struct err *err)
{
    struct node_network n = {.count = NODES_MAX};
    int rc = cluster_node_network(c, &n.nodes, err);
    if (rc == 0)
        rc = cluster_network_parse(c->spec.network.pod_cidr, &n.pods, err);
    if (rc < 0)
        return rc;
    cluster_network_address(&n.nodes, 1, n.gate);
    char first[16];
    cluster_network_address(&n.nodes, 0, first);
    snprintf(n.nodes_text, sizeof(n.nodes_text), "%s/%d", first, n.nodes.bits);
    uint32_t pods = 1u << (24 - n.pods.bits), room = (UINT32_MAX >> n.nodes.bits) - NODE_FIRST;
    n.count = pods < n.count ? pods : n.count;
    n.count = room < n.count ? room : n.count;
    *ret = n;
    return 0;
}

void node_named(const struct site *s, const char *pool, int ordinal, struct arena *a, struct node *ret)
{
    *ret = (struct node){.site = s, .index = -1};
    snprintf(ret->name, sizeof(ret->name), "%.48s-%d", pool, ordinal);
    ret->dir = arena_printf(a, "%s/nodes/%s", s->dir, ret->name);
    snprintf(ret->cgroup, sizeof(ret->cgroup), "seki-node-%.8s-%s", s->uid, ret->name);
}

static int prefix_of(const struct site *s, char text[WORKLOAD_NAME_MAX])
{
    return snprintf(text, WORKLOAD_NAME_MAX, WORKLOAD_PREFIX "%.63s-%.63s-%.8s-", s->ns, s->name, s->uid);
}

void node_workload(const struct node *n, char name[WORKLOAD_NAME_MAX])
{
    int len = prefix_of(n->site, name);
    snprintf(name + len, WORKLOAD_NAME_MAX - (size_t)len, "node-%s", n->name);
}

void gate_workload(const struct site *s, char name[WORKLOAD_NAME_MAX])
{
    int len = prefix_of(s, name);
    snprintf(name + len, WORKLOAD_NAME_MAX - (size_t)len, "gate");
}

bool node_workload_is_of(const struct site *s, const char *workload)
{
    char prefix[WORKLOAD_NAME_MAX];
    int len = prefix_of(s, prefix);
    return !strncmp(workload, prefix, (size_t)len) && (!strncmp(workload + len, "node-", 5) || !strcmp(workload + len, "gate"));
}

/* ---- small helpers ---- */

/* Only when it differs. */
static int put_text(const char *dir, const char *name, struct str text, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, name);
    CLEANUP(mem_freep) char *there = NULL;
    size_t len = 0;
    if (file_read(path, TEXT_MAX, &there, &len, NULL) == 0 && str_eq(str_n(there, len), text))
        return 0;
    return file_write(path, text, 0600, err);
}

/* Takes over doc. all (may be NULL) grows by what was written. */
static int put_json(const char *dir, const char *name, json_t *doc, struct sbuf *all, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, TEXT_MAX);
    json_write_pretty(doc, &text);
    json_decref(doc);
    if (all)
        sbuf_add(all, sbuf_str(&text));
    return put_text(dir, name, sbuf_str(&text), err);
}

static void settings_of(const struct sbuf *all, char ret[17])
{
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    hash_sha256(sbuf_str(all), digest);
    hash_hex(digest, sizeof(digest), hex);
    memcpy(ret, hex, 16);
    ret[16] = 0;
}

/* ---- places ---- */

static int index_of(const char *dir)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/index", dir);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int64_t index;
    if (file_read(path, 16, &text, &len, NULL) < 0 || str_to_i64(str_n(text, len), 0, NODES_MAX - 1, &index) < 0)
        return -1;
    return (int)index;
}

static int take_index(struct node *n, uint32_t count, struct err *err)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/nodes", n->site->dir);
    bool taken[NODES_MAX] = {0};
    char text[16];
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));) {
        CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", root, e->d_name);
        int index = e->d_name[0] == '.' ? -1 : index_of(dir);
        if (index >= 0)
            taken[index] = true;
    }
    if (d)
        closedir(d);
    for (uint32_t i = 0; i < count; i++)
        if (!taken[i]) {
            n->index = (int)i;
            snprintf(text, sizeof(text), "%u", i);
            int rc = file_mkdirs(n->dir, 0700, err);
            return rc < 0 ? rc : put_text(n->dir, "index", str_of(text), err);
        }
    return err_set(err, ERR_UNAVAILABLE, "the networks of this cluster have room for %u nodes", count);
}

int node_place(struct node *n, const struct node_network *w, struct err *err)
{
    char pods[16];
    n->network = w;
    n->index = index_of(n->dir);
    int rc = n->index < 0 ? take_index(n, w->count, err) : 0;
    if (rc < 0)
        return rc;
    cluster_network_address(&w->nodes, NODE_FIRST + (uint32_t)n->index, n->address);
    cluster_network_address(&w->pods, (uint32_t)n->index << 8, pods);
    snprintf(n->pod_cidr, sizeof(n->pod_cidr), "%s/24", pods);
    return 0;
}

/* ---- its disk ---- */

static int64_t promised_by(const char *nodes)
{
    int64_t sum = 0;
    DIR *d = opendir(nodes);
    for (struct dirent *e; d && (e = readdir(d));) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s/disk.img", nodes, e->d_name);
        struct stat st;
        if (e->d_name[0] != '.' && lstat(path, &st) == 0)
            sum += st.st_size;
    }
    if (d)
        closedir(d);
    return sum;
}

/* Of all clusters: those of pools that were forced away, too. */
static int64_t promised(const char *data_dir)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", data_dir);
    int64_t sum = 0;
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));) {
        CLEANUP(mem_freep) char *nodes = xasprintf("%s/%s/nodes", root, e->d_name);
        sum += e->d_name[0] == '.' ? 0 : promised_by(nodes);
    }
    if (d)
        closedir(d);
    return sum;
}

int node_disk_promise(const struct node *n, const char *data_dir, int64_t gib, int64_t limit,
                      struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/disk.img", n->dir);
    struct stat st = {0};
    if (lstat(path, &st) == 0 && st.st_size >= gib << 30)
        return 0;
    int64_t more = (gib << 30) - st.st_size, have = limit ? promised(data_dir) : 0;
    if (limit && more > limit - have)
        return err_set(err, ERR_NO_SPACE,
                       "the disks of all nodes may have %lld MiB together (kubernetes-node-disks), "
                       "and have %lld; this one asks for %lld more",
                       (long long)(limit >> 20), (long long)(have >> 20), (long long)(more >> 20));
    CLEANUP(file_closep) int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 || ftruncate(fd, gib << 30) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

/* ---- a node's settings ---- */

static json_t *taints_of(const struct node_pool *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->spec.taints.count; i++) {
        const struct node_taint *t = &((const struct node_taint *)p->spec.taints.items)[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "key", t->key, "value", t->value ? t->value : "", "effect", t->effect));
    }
    return list;
}

static json_t *kubelet_config(const struct node *n, const struct cluster *c, const struct node_pool *p)
{
    struct cluster_network services;
    char dns[16] = "", cgroup[112], provider[160], cpus[32], memory[32];
    long have_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    long long have_mib = (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) >> 20, less_mib = have_mib - p->spec.machine.memory_mib + OVERHEAD_MIB;
    if (cluster_network_parse(c->spec.network.service_cidr, &services, NULL) == 0)
        cluster_network_address(&services, 10, dns);
    snprintf(cgroup, sizeof(cgroup), "/%s", n->cgroup);
    snprintf(provider, sizeof(provider), "seki://%s/%s", n->site->uid, n->name);
    /* A kubelet counts what the machine has; what is not the node's is kept for the system. */
    snprintf(cpus, sizeof(cpus), "%lld", have_cpus > p->spec.machine.cpus ? have_cpus - (long long)p->spec.machine.cpus : 0LL);
    snprintf(memory, sizeof(memory), "%lldMi", less_mib > OVERHEAD_MIB ? less_mib : (long long)OVERHEAD_MIB);
    json_t *doc = json_pack("{s:s, s:s, s:s, s:{s:{s:b}, s:{s:b}, s:{s:s}}, s:{s:s}}", "apiVersion", "kubelet.config.k8s.io/v1beta1", "kind", "KubeletConfiguration", "address", n->address,
                            "authentication", "anonymous", "enabled", 0, "webhook", "enabled", 1, "x509", "clientCAFile", "/etc/seki-node/ca.crt", "authorization", "mode", "Webhook");
    json_t *rest = json_pack("{s:s, s:s, s:[s], s:s, s:s, s:b, s:b, s:b, s:b, s:i, s:s, s:s, s:I, s:I, s:s}", "cgroupDriver", "cgroupfs", "cgroupRoot", cgroup, "clusterDNS", dns, "clusterDomain",
                             c->spec.network.service_domain, "containerRuntimeEndpoint", "unix:///run/containerd/containerd.sock", "failCgroupV1", 0, "failSwapOn", 0, "serverTLSBootstrap", 1,
                             "rotateCertificates", 1, "readOnlyPort", 0, "healthzBindAddress", "127.0.0.1", "resolvConf", "/etc/seki-node/resolv.conf", "maxPods",
                             (json_int_t)p->spec.kubelet.max_pods, "podPidsLimit", (json_int_t)p->spec.kubelet.pod_pids, "providerID", provider);
    json_t *memory_part = json_pack("{s:{s:s, s:s, s:s, s:s}, s:{s:s, s:s}, s:o, s:[s]}", "evictionHard", "memory.available", "64Mi", "nodefs.available", "1%", "imagefs.available", "1%",
                                    "nodefs.inodesFree", "1%", "systemReserved", "cpu", cpus, "memory", memory, "registerWithTaints", taints_of(p), "enforceNodeAllocatable", "pods");
    json_object_update(doc, rest);
    json_object_update(doc, memory_part);
    json_decref(rest);
    json_decref(memory_part);
    return doc;
}

static json_t *proxy_config(const struct node *n, const struct cluster *c)
{
    return json_pack("{s:s, s:s, s:s, s:{s:s}, s:s, s:s, s:s, s:s, s:{s:i, s:i, s:s, s:s}}", "apiVersion", "kubeproxy.config.k8s.io/v1alpha1", "kind", "KubeProxyConfiguration", "mode", "nftables",
                     "clientConnection", "kubeconfig", "/etc/seki-node/kube-proxy-kubeconfig.json", "clusterCIDR", c->spec.network.pod_cidr, "hostnameOverride", n->name, "metricsBindAddress",
                     "127.0.0.1:10249", "healthzBindAddress", "127.0.0.1:10256", "conntrack", "maxPerCore", 0, "min", 0, "tcpEstablishedTimeout", "0s", "tcpCloseWaitTimeout", "0s");
}

static json_t *kubeconfig_in_node(const struct node *n, json_t *user)
{
    char server[64];
    snprintf(server, sizeof(server), "https://%s:%d", n->network->gate, GATE_API_PORT);
    return client_kubeconfig_new("cluster", json_pack("{s:s, s:s}", "server", server, "certificate-authority", "/etc/seki-node/ca.crt"), "node", user, "node", NULL);
}

static const char containerd_config[] =
    "version = 2\n"
    "root = \"/var/lib/containerd\"\n"
    "state = \"/run/containerd\"\n"
    "[grpc]\n"
    "  address = \"/run/containerd/containerd.sock\"\n"
    "[plugins.\"io.containerd.grpc.v1.cri\"]\n"
    "  sandbox_image = \"localhost/pause:1\"\n"
    "  disable_apparmor = true\n"
    "  restrict_oom_score_adj = true\n"
    "  [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n"
    "    snapshotter = \"overlayfs\"\n"
    "    default_runtime_name = \"runc\"\n"
    "    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n"
    "      runtime_type = \"io.containerd.runc.v2\"\n"
    "  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n"
    "    bin_dir = \"/usr/lib/cni\"\n"
    "    conf_dir = \"/etc/cni/net.d\"\n";

static json_t *cni_config(const struct node *n)
{
    return json_pack("{s:s, s:s, s:[{s:s, s:s, s:b, s:b, s:{s:s, s:s, s:[[{s:s}]], s:[{s:s}]}}, {s:s, s:{s:b}}]}", "cniVersion", "1.0.0", "name", "pods", "plugins", "type", "bridge", "bridge", "pods",
                     "isGateway", 1, "hairpinMode", 1, "ipam", "type", "host-local", "dataDir", "/run/ipam", "ranges", "subnet", n->pod_cidr, "routes", "dst", "0.0.0.0/0", "type", "portmap",
                     "capabilities", "portMappings", 1);
}

static const char *labels_of(const struct node_pool *p, const char *pool, struct sbuf *text)
{
    sbuf_addf(text, "seki.cloud/nodepool=%s", pool);
    for (size_t i = 0; i < p->spec.labels.count; i++)
        sbuf_addf(text, ",%s=%s", p->spec.labels.keys[i], p->spec.labels.values[i]);
    return text->ptr;
}

static int node_settings_put(const struct node *n, const struct node_pool *p, const char *pool, struct sbuf *all, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf labels = {0};
    char hub[4096], link[16];
    snprintf(hub, sizeof(hub), "%s/net/hub", n->site->dir);
    snprintf(link, sizeof(link), "n%d", n->index);
    sbuf_init(&labels, TEXT_MAX);
    return put_json(
        n->dir, "node.json",
        json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "name", n->name,
                  "address", n->address, "bits", n->network->nodes.bits, "gate", n->network->gate,
                  "hub", hub, "link", link, "programs", n->site->programs, "cgroup", n->cgroup,
                  "cpus", (json_int_t)p->spec.machine.cpus, "memoryMiB",
                  (json_int_t)p->spec.machine.memory_mib, "diskGiB",
                  (json_int_t)p->spec.machine.disk_gib, "labels", labels_of(p, pool, &labels)),
        all, err);
}

/* The authority, and kube-proxy's credentials. */
static int node_credentials(const struct node *n, const char *etc, uint64_t life_ms, struct err *err)
{
    CLEANUP(mem_freep) char *pki = xasprintf("%s/pki", n->site->dir);
    struct pki_ca *ca = NULL;
    int rc = pki_ca_ensure(pki, "ca", "kubernetes", &ca, err);
    if (rc < 0)
        return rc;
    const struct pki_leaf leaf = {.common_name = "system:kube-proxy", .usage = PKI_CLIENT, .days = (int)(life_ms / 86400000u), .seconds = life_ms < 86400000u ? (int)(life_ms / 1000) : 0};
    rc = put_text(etc, "ca.crt", str_of(pki_ca_pem(ca)), err);
    if (rc == 0)
        rc = pki_leaf_ensure(ca, etc, "kube-proxy", &leaf, NULL, err);
    pki_ca_free(ca);
    return rc;
}

int node_files_ensure(const struct node *n, const struct cluster *c, const struct node_pool *p, const char *pool, uint64_t life_ms, char ret_settings[17], struct err *err)
{
    CLEANUP(mem_freep) char *etc = xasprintf("%s/etc", n->dir);
    CLEANUP(mem_freep) char *cni = xasprintf("%s/cni", n->dir);
    CLEANUP(mem_freep) char *root = xasprintf("%s/root", n->dir);
    CLEANUP(sbuf_deinit) struct sbuf all = {0};
    sbuf_init(&all, 8 * TEXT_MAX);
    int rc = file_mkdirs(etc, 0700, err);
    rc = rc == 0 ? file_mkdirs(cni, 0700, err) : rc;
    rc = rc == 0 ? file_mkdirs(root, 0700, err) : rc;
    rc = rc == 0 ? node_settings_put(n, p, pool, &all, err) : rc;
    rc = rc == 0 ? put_json(etc, "kubelet.json", kubelet_config(n, c, p), &all, err) : rc;
    rc = rc == 0 ? put_json(etc, "kube-proxy.json", proxy_config(n, c), &all, err) : rc;
    rc = rc == 0 ? put_json(etc, "kube-proxy-kubeconfig.json",
                            kubeconfig_in_node(n, json_pack("{s:s, s:s}", "client-certificate", "/etc/seki-node/kube-proxy.crt", "client-key", "/etc/seki-node/kube-proxy.key")), &all, err)
                 : rc;
    rc = rc == 0 ? put_text(etc, "containerd.toml", str_of(containerd_config), err) : rc;
    rc = rc == 0 ? put_text(etc, "resolv.conf", STR("# the machine below has nothing to say about names\n"), err) : rc;
    rc = rc == 0 ? put_json(cni, "10-pods.conflist", cni_config(n), &all, err) : rc;
    rc = rc == 0 ? node_credentials(n, etc, life_ms, err) : rc;
    sbuf_addc(&all, containerd_config);
    if (rc == 0)
        settings_of(&all, ret_settings);
    return rc;
}

/* ---- credentials that come and go ---- */

static bool there(const struct node *n, const char *what)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", n->dir, what);
    struct stat st;
    return lstat(path, &st) == 0;
}

bool node_has_joined(const struct node *n)
{
    return there(n, "joined");
}

bool node_has_serving(const struct node *n)
{
    return there(n, "serving");
}

int node_write_token(const struct node *n, const char *token, struct err *err)
{
    CLEANUP(mem_freep) char *etc = xasprintf("%s/etc", n->dir);
    return put_json(etc, "bootstrap.json", kubeconfig_in_node(n, json_pack("{s:s}", "token", token)), NULL, err);
}

int64_t node_token_written_ms(const struct node *n)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/etc/bootstrap.json", n->dir);
    struct stat st;
    return stat(path, &st) < 0 ? 0 : (int64_t)st.st_mtim.tv_sec * 1000;
}

void node_forget_token(const struct node *n)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/etc/bootstrap.json", n->dir);
    unlink(path);
}

/* ---- the gate ---- */

const char *gate_socket(const struct site *s, const char *data_dir, struct arena *a)
{
    return arena_printf(a, "%s/run/gates/%s.sock", data_dir, s->uid);
}

int gate_files_ensure(const struct site *s, const struct node_network *w, const char *data_dir, char ret_settings[17], struct err *err)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/net", s->dir);
    CLEANUP(mem_freep) char *run = xasprintf("%s/run/gates", data_dir);
    CLEANUP(mem_freep) char *socket = xasprintf("%s/%s.sock", run, s->uid);
    CLEANUP(mem_freep) char *hub = xasprintf("%s/hub", dir);
    CLEANUP(sbuf_deinit) struct sbuf all = {0};
    char pods[16], network[24];
    sbuf_init(&all, TEXT_MAX);
    cluster_network_address(&w->pods, 0, pods);
    snprintf(network, sizeof(network), "%s/%d", pods, w->pods.bits);
    int rc = file_mkdirs(dir, 0700, err);
    if (rc == 0)
        rc = file_mkdirs(run, 0700, err);
    if (rc == 0)
        rc = put_json(dir, "gate.json",
                      json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:i}", "gate", w->gate, "nodes", w->nodes_text, "pods", network, "api", s->address, "hub", hub, "socket", socket, "balances", 1, "first",
                                (int)NODE_FIRST, "count", (int)w->count),
                      &all, err);
    if (rc == 0)
        settings_of(&all, ret_settings);
    return rc;
}

/* Whatever a tenant has its API server call, it calls from this machine: so all of that goes through the gate, which dials pods and nodes of the cluster alone. "cluster" are kubelets, and webhooks and APIs
 * that are named by a Service; "controlplane" are webhooks that are named by a URL. Where there is no gate nothing is reached. */
int gate_conf_ensure(const struct site *s, const char *data_dir, struct err *err)
{
    static const char *const ways[] = {"cluster", "controlplane"};
    CLEANUP(mem_freep) char *dir = xasprintf("%s/conf", s->dir);
    CLEANUP(mem_freep) char *socket = xasprintf("%s/run/gates/%s.sock", data_dir, s->uid);
    json_t *all = json_array();
    for (size_t i = 0; i < ARRAY_LEN(ways); i++)
        json_array_append_new(all, json_pack("{s:s, s:{s:s, s:{s:{s:s}}}}", "name", ways[i], "connection", "proxyProtocol", "HTTPConnect", "transport", "uds", "udsName", socket));
    return put_json(dir, EGRESS_FILE, json_pack("{s:s, s:s, s:o}", "apiVersion", "apiserver.k8s.io/v1beta1", "kind", "EgressSelectorConfiguration", "egressSelections", all), NULL, err);
}

bool gate_is_there(const struct site *s, const char *data_dir)
{
    CLEANUP(mem_freep) char *socket = xasprintf("%s/run/gates/%s.sock", data_dir, s->uid);
    struct stat st;
    return stat(socket, &st) == 0 && S_ISSOCK(st.st_mode);
}
