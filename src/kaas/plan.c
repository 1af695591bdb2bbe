/* Command lines of a control plane. The order of flags never changes without need: another command line restarts what runs. */
#include "kaas/internal.h"

#include "base/vec.h"

const uint16_t cluster_ports[] = {PORT_ETCD, PORT_ETCD_PEERS, PORT_ETCD_HEALTH, PORT_APISERVER, PORT_CONTROLLERS, PORT_SCHEDULER, 0};

static const struct {
    const char *name, *program;
    uint16_t port;
    const char *health, *alive;
} components[COMPONENTS] = {
    [ETCD] = {"etcd", "etcd", PORT_ETCD_HEALTH, "/readyz", "/livez"},
    [APISERVER] = {"apiserver", "kube-apiserver", PORT_APISERVER, "/readyz", "/livez?exclude=kms-providers"}, /* the plugin mends itself; a restart would lose what it needs it for */
    [CONTROLLERS] = {"controllers", "kube-controller-manager", PORT_CONTROLLERS, "/healthz", "/healthz"},
    [SCHEDULER] = {"scheduler", "kube-scheduler", PORT_SCHEDULER, "/healthz", "/healthz"},
    [KMS] = {"kms", NULL, 0, "", ""},
};

/* What a size gives: Go's soft limits of memory (the garbage collector works harder near them), the store's quota, requests at a time. */
static const struct size {
    const char *name, *gogc;
    int limit_mib[COMPONENTS];
    long long store_bytes;
    int reads, writes;
    int audit_mib; /* of one of AUDIT_FILES */
} sizes[] = {
    {"Small", "75", {96, 256, 128, 80}, 2LL << 30, 400, 200, 10},
    {"Medium", "100", {512, 1024, 512, 256}, 4LL << 30, 800, 400, 25},
    {"Large", "100", {2048, 4096, 2048, 1024}, 8LL << 30, 1600, 800, 100},
};

#define AUDIT_FILES 10
#define AUDIT_DAYS 31

static const struct size *size_of(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        if (name && !strcmp(sizes[i].name, name))
            return &sizes[i];
    return &sizes[0];
}

const char *component_name(enum component c)
{
    return components[c].name;
}

void component_workload(const struct site *s, enum component c, char name[WORKLOAD_NAME_MAX])
{
    snprintf(name, WORKLOAD_NAME_MAX, WORKLOAD_PREFIX "%.63s-%.63s-%.8s-%s", s->ns, s->name, s->uid, components[c].name);
}

/* ---- building a list of flags ---- */

struct flags {
    struct arena *arena;
    VEC(const char *) list;
};

static void flag(struct flags *f, const char *fmt, ...) PRINTF(2, 3);
static void flag(struct flags *f, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    *VEC_PUSH(&f->list) = arena_strdup(f->arena, text);
}

static const char *const *done(struct flags *f)
{
    const char **list = ARENA_ARRAY(f->arena, const char *, f->list.len + 1);
    for (size_t i = 0; i < f->list.len; i++)
        list[i] = f->list.ptr[i];
    VEC_DEINIT(&f->list);
    return list;
}

static void etcd_flags(struct flags *f, const struct size *size, const struct site *s)
{
    const char *a = s->address, *d = s->dir;
    flag(f, "--name=etcd-0");
    flag(f, "--data-dir=%s/etcd", d);
    flag(f, "--listen-client-urls=https://%s:%d", a, PORT_ETCD);
    flag(f, "--advertise-client-urls=https://%s:%d", a, PORT_ETCD);
    flag(f, "--listen-peer-urls=https://%s:%d", a, PORT_ETCD_PEERS);
    flag(f, "--initial-advertise-peer-urls=https://%s:%d", a, PORT_ETCD_PEERS);
    flag(f, "--initial-cluster=etcd-0=https://%s:%d", a, PORT_ETCD_PEERS);
    flag(f, "--initial-cluster-token=%s", s->uid); /* members of two clusters never take each other for their own */
    flag(f, "--cert-file=%s/pki/etcd.crt", d);
    flag(f, "--key-file=%s/pki/etcd.key", d);
    flag(f, "--trusted-ca-file=%s/pki/etcd-ca.crt", d);
    flag(f, "--client-cert-auth=true");
    flag(f, "--peer-cert-file=%s/pki/etcd.crt", d);
    flag(f, "--peer-key-file=%s/pki/etcd.key", d);
    flag(f, "--peer-trusted-ca-file=%s/pki/etcd-ca.crt", d);
    flag(f, "--peer-client-cert-auth=true");
    flag(f, "--listen-metrics-urls=http://%s:%d", a, PORT_ETCD_HEALTH);
    flag(f, "--snapshot-count=10000");
    flag(f, "--feature-gates=InitialCorruptCheck=true");
    flag(f, "--watch-progress-notify-interval=5s");
    flag(f, "--quota-backend-bytes=%lld", size->store_bytes);
}

static void apiserver_flags(struct flags *f, const struct cluster *c, const struct size *size, const struct site *s)
{
    const char *a = s->address, *d = s->dir;
    flag(f, "--bind-address=%s", a);
    flag(f, "--advertise-address=%s", s->with_nodes ? s->gate : a);
    flag(f, "--secure-port=%d", PORT_APISERVER);
    flag(f, "--endpoint-reconciler-type=%s", s->with_nodes ? "lease" : "none"); /* it may not publish a loopback address, and no node could reach it */
    if (s->with_nodes) {
        flag(f, "--egress-selector-config-file=%s/conf/egress.json", d);
        flag(f, "--enable-aggregator-routing=true"); /* addresses of Services mean nothing in the hub; those of pods do */
    }
    flag(f, "--etcd-servers=https://%s:%d", a, PORT_ETCD);
    flag(f, "--etcd-cafile=%s/pki/etcd-ca.crt", d);
    flag(f, "--etcd-certfile=%s/pki/apiserver-etcd-client.crt", d);
    flag(f, "--etcd-keyfile=%s/pki/apiserver-etcd-client.key", d);
    flag(f, "--tls-cert-file=%s/pki/apiserver.crt", d);
    flag(f, "--tls-private-key-file=%s/pki/apiserver.key", d);
    flag(f, "--tls-min-version=VersionTLS12");
    flag(f, "--client-ca-file=%s/pki/ca.crt", d);
    flag(f, "--authentication-config=%s/conf/authentication.json", d);
    flag(f, "--authorization-mode=Node,RBAC");
    flag(f, "--enable-admission-plugins=NodeRestriction");
    flag(f, "--enable-bootstrap-token-auth=true");
    flag(f, "--allow-privileged=true");
    flag(f, "--kubelet-client-certificate=%s/pki/apiserver-kubelet-client.crt", d);
    flag(f, "--kubelet-client-key=%s/pki/apiserver-kubelet-client.key", d);
    flag(f, "--kubelet-certificate-authority=%s/pki/ca.crt", d);
    flag(f, "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname");
    flag(f, "--requestheader-client-ca-file=%s/pki/front-proxy-ca.crt", d);
    flag(f, "--requestheader-allowed-names=front-proxy-client");
    flag(f, "--requestheader-username-headers=X-Remote-User");
    flag(f, "--requestheader-group-headers=X-Remote-Group");
    flag(f, "--requestheader-extra-headers-prefix=X-Remote-Extra-");
    flag(f, "--proxy-client-cert-file=%s/pki/front-proxy-client.crt", d);
    flag(f, "--proxy-client-key-file=%s/pki/front-proxy-client.key", d);
    flag(f, "--service-account-issuer=https://kubernetes.default.svc.%s", c->spec.network.service_domain);
    flag(f, "--service-account-key-file=%s/pki/sa.pub", d);
    flag(f, "--service-account-signing-key-file=%s/pki/sa.key", d);
    flag(f, "--service-cluster-ip-range=%s", c->spec.network.service_cidr);
    flag(f, "--max-requests-inflight=%d", size->reads);
    flag(f, "--max-mutating-requests-inflight=%d", size->writes);
    flag(f, "--profiling=false");
    flag(f, "--audit-policy-file=%s/conf/audit-%s.json", d, cluster_audit_policy(c)); /* it is read at the start only: another level is another file, and so another command line */
    flag(f, "--audit-log-path=%s/audit/audit.log", d);
    flag(f, "--audit-log-maxsize=%d", size->audit_mib);
    flag(f, "--audit-log-maxbackup=%d", AUDIT_FILES - 1);
    flag(f, "--audit-log-maxage=%d", AUDIT_DAYS);
    flag(f, "--encryption-provider-config=%s/conf/encryption.json", d);
    flag(f, "--encryption-provider-config-automatic-reload=true");
}

/* What the controller manager and the scheduler have in common. */
static void follower_flags(struct flags *f, enum component c, const struct site *s)
{
    const char *d = s->dir, *n = components[c].name;
    flag(f, "--kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--authentication-kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--authorization-kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--bind-address=%s", s->address);
    flag(f, "--secure-port=%d", components[c].port);
    flag(f, "--tls-cert-file=%s/pki/%s.crt", d, n);
    flag(f, "--tls-private-key-file=%s/pki/%s.key", d, n);
    flag(f, "--leader-elect=false"); /* there is one */
    flag(f, "--kube-api-qps=300");   /* with the defaults a fresh cluster waits for seconds on its own client */
    flag(f, "--kube-api-burst=600");
    flag(f, "--profiling=false");
}

static void controllers_flags(struct flags *f, const struct cluster *c, const struct site *s)
{
    const char *d = s->dir;
    flag(f, "--cluster-name=%s", s->name);
    flag(f, "--root-ca-file=%s/pki/ca.crt", d);
    flag(f, "--client-ca-file=%s/pki/ca.crt", d);
    flag(f, "--cluster-signing-cert-file=%s/pki/ca.crt", d);
    flag(f, "--cluster-signing-key-file=%s/pki/ca.key", d);
    flag(f, "--service-account-private-key-file=%s/pki/sa.key", d);
    flag(f, "--use-service-account-credentials=true");
    if (s->with_nodes) { /* where a node's pods are follows from the node's place, before it has joined */
        flag(f, "--controllers=*,bootstrapsigner,tokencleaner,-node-ipam-controller");
    } else {
        flag(f, "--controllers=*,bootstrapsigner,tokencleaner");
        flag(f, "--allocate-node-cidrs=true");
        flag(f, "--cluster-cidr=%s", c->spec.network.pod_cidr);
    }
    flag(f, "--service-cluster-ip-range=%s", c->spec.network.service_cidr);
}

/* Not a program of Kubernetes: the same for all sizes and versions. */
static void plan_kms(const struct site *s, struct arena *a, struct plan *ret)
{
    struct flags f = {a, VEC_INIT};
    *VEC_PUSH(&f.list) = s->kms;
    flag(&f, "%s/kms.sock", s->dir);
    flag(&f, "%s/kctl.sock", s->dir);
    flag(&f, "%s", s->uid);
    *ret = (struct plan){.program = s->kms, .argv = done(&f), .env = ARENA_ARRAY(a, const char *, 1), .health = arena_printf(a, "unix:%s/kctl.sock", s->dir), .health_path = "", .alive_path = ""};
}

void plan_component(enum component c, const struct cluster *spec, const struct site *s, struct arena *a, struct plan *ret)
{
    const struct size *size = size_of(spec->spec.control_plane.size);
    struct flags f = {a, VEC_INIT};
    if (c == KMS) {
        plan_kms(s, a, ret);
        return;
    }
    ret->program = arena_printf(a, "%s/%s", s->behind & (1u << c) ? s->older : s->programs, components[c].program);
    *VEC_PUSH(&f.list) = ret->program;
    if (c == ETCD)
        etcd_flags(&f, size, s);
    else if (c == APISERVER)
        apiserver_flags(&f, spec, size, s);
    else
        follower_flags(&f, c, s);
    if (c == CONTROLLERS)
        controllers_flags(&f, spec, s);
    ret->argv = done(&f);
    const char **env = ARENA_ARRAY(a, const char *, 3);
    env[0] = arena_printf(a, "GOGC=%s", size->gogc);
    env[1] = arena_printf(a, "GOMEMLIMIT=%dMiB", size->limit_mib[c]);
    ret->env = env;
    ret->health = arena_printf(a, "%s://%s:%d", c == ETCD ? "http" : "https", s->address, components[c].port);
    ret->health_path = components[c].health;
    ret->alive_path = components[c].alive;
}
