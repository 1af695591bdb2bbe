/* Command lines of a control plane. The order of flags never changes without need: another command line restarts what runs. */
#include "kaas/internal.h"

#include "base/vec.h"

const uint16_t cluster_ports[] = {PORT_ETCD, PORT_ETCD_PEERS, PORT_ETCD_HEALTH, PORT_ETCD_LEARNER, PORT_APISERVER, PORT_APISERVER_MEMBER, PORT_CONTROLLERS, PORT_SCHEDULER, 0};

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
    [RELAY] = {"relay", NULL, PORT_APISERVER, "/readyz", "/livez?exclude=kms-providers"},
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
#define SHUTDOWN_DELAY "2s" /* for so long an API server that ends says that it does and goes on: the relay looks twice a second */

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

void part_name(enum component c, int member, char name[PART_NAME_MAX])
{
    if (member)
        snprintf(name, PART_NAME_MAX, "%s-%d", components[c].name, member);
    else
        snprintf(name, PART_NAME_MAX, "%s", components[c].name);
}

void component_prefix(const struct site *s, char prefix[WORKLOAD_NAME_MAX])
{
    if (s->warm)
        snprintf(prefix, WORKLOAD_NAME_MAX, WARM_PREFIX "%.8s-", s->uid);
    else
        snprintf(prefix, WORKLOAD_NAME_MAX, WORKLOAD_PREFIX "%.63s-%.63s-%.8s-", s->ns, s->name, s->uid);
}

void component_workload(const struct site *s, enum component c, int member, char name[WORKLOAD_NAME_MAX])
{
    char part[PART_NAME_MAX];
    part_name(c, member, part);
    component_prefix(s, name);
    size_t len = strlen(name);
    snprintf(name + len, WORKLOAD_NAME_MAX - len, "%s", part);
}

/* The uid's digits before it: a pool may be called etcd, and its nodes are numbered. */
bool workload_is_store(const char *name)
{
    for (int m = 0; m < MEMBERS_MAX; m++) {
        char end[PART_NAME_MAX];
        part_name(ETCD, m, end);
        size_t len = strlen(name), behind = strlen(end) + 9;
        if (len <= behind || strcmp(name + len - strlen(end), end) != 0)
            continue;
        const char *uid = name + len - behind;
        if (strspn(uid, "0123456789abcdef") == 8 && uid[8] == '-' && uid[-1] == '-')
            return true;
    }
    return false;
}

int component_count(const struct site *s, enum component c)
{
    return c == KMS ? 1 : c == RELAY ? site_members(s) > 1 : site_members(s);
}

const char *member_address(const struct site *s, int member)
{
    return member ? s->more[member - 1] : s->address;
}

const char *member_store(const struct site *s, int member, struct arena *a)
{
    return member ? arena_printf(a, "%s/etcd-%d", s->dir, member) : arena_printf(a, "%s/etcd", s->dir);
}

const char *member_audit(const struct site *s, int member, struct arena *a)
{
    return member ? arena_printf(a, "%s/audit-%d", s->dir, member) : arena_printf(a, "%s/audit", s->dir);
}

/* Those of a cluster of one. These two stop listening at once and then wait for watches, which do not end: etcd for 7 s, the API server for 60. All that while nobody is answered, so they have what an
 * answer under way takes. Killed, they lose nothing: etcd has on disk what it has acknowledged (its log is synced first, and is read again at the start), and the API server keeps nothing. */
#define STORE_STOP_MS 100u
#define API_STOP_MS 1000u
#define STOP_TIMEOUT_MS 10000u
#define STORE_HAND_OVER_MS 20000u /* an etcd of several: it waits for watches for 5 s and two elections */

uint64_t component_stop_ms(const struct site *s, enum component c)
{
    if (site_members(s) > 1) /* each has the time to hand over what it has: the others answer meanwhile */
        return c == ETCD ? STORE_HAND_OVER_MS : STOP_TIMEOUT_MS;
    return c == ETCD ? STORE_STOP_MS : c == APISERVER ? API_STOP_MS : STOP_TIMEOUT_MS;
}

static bool is_behind(const struct site *s, enum component c, int member)
{
    return s->behind & (1u << c) || (s->turning == c && s->waiting & (1u << member));
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

/* "etcd-0=https://…:2380,etcd-1=…"; clients: their URLs for those alone. */
static const char *all_members(struct arena *a, const struct site *s, bool clients)
{
    const char *list = "";
    for (int m = 0; m < site_members(s); m++)
        list = clients ? arena_printf(a, "%s%shttps://%s:%d", list, m ? "," : "", member_address(s, m), PORT_ETCD)
                       : arena_printf(a, "%s%setcd-%d=https://%s:%d", list, m ? "," : "", m, member_address(s, m), PORT_ETCD_PEERS);
    return list;
}

static void etcd_flags(struct flags *f, int m, const struct size *size, const struct site *s)
{
    const char *a = member_address(s, m), *d = s->dir;
    bool learns = s->replacing & (1u << m);
    flag(f, "--name=etcd-%d", m);
    flag(f, "--data-dir=%s", member_store(s, m, f->arena));
    flag(f, "--listen-client-urls=https://%s:%d", a, learns ? PORT_ETCD_LEARNER : PORT_ETCD);
    flag(f, "--advertise-client-urls=https://%s:%d", a, PORT_ETCD);
    flag(f, "--listen-peer-urls=https://%s:%d", a, PORT_ETCD_PEERS);
    flag(f, "--initial-advertise-peer-urls=https://%s:%d", a, PORT_ETCD_PEERS);
    flag(f, "--initial-cluster=%s", all_members(f->arena, s, false));
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
    if (s->joined & (1u << m))
        flag(f, "--initial-cluster-state=existing");
    if (site_members(s) > 1) { /* they share a machine's disk with much else: a sync that takes long is no leader that is gone */
        flag(f, "--heartbeat-interval=250");
        flag(f, "--election-timeout=2500");
    }
}

static void apiserver_flags(struct flags *f, int m, const struct cluster *c, const struct size *size, const struct site *s)
{
    const char *a = member_address(s, m), *d = s->dir;
    bool several = site_members(s) > 1;
    flag(f, "--bind-address=%s", a);
    flag(f, "--advertise-address=%s", s->with_nodes ? s->gate : a);
    flag(f, "--secure-port=%d", several ? PORT_APISERVER_MEMBER : PORT_APISERVER);
    flag(f, "--endpoint-reconciler-type=%s", s->with_nodes && !several ? "lease" : "none"); /* it may not publish a loopback address, and no node could reach it; of several: access_publish() */
    flag(f, "--egress-selector-config-file=%s/conf/" EGRESS_FILE, d);
    if (s->with_nodes)
        flag(f, "--enable-aggregator-routing=true"); /* addresses of Services mean nothing in the hub; those of pods do */
    flag(f, "--etcd-servers=%s", all_members(f->arena, s, true));
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
    flag(f, "--audit-log-path=%s/audit.log", member_audit(s, m, f->arena));
    flag(f, "--audit-log-maxsize=%d", size->audit_mib);
    flag(f, "--audit-log-maxbackup=%d", AUDIT_FILES - 1);
    flag(f, "--audit-log-maxage=%d", AUDIT_DAYS);
    flag(f, "--encryption-provider-config=%s/conf/encryption.json", d);
    flag(f, "--encryption-provider-config-automatic-reload=true");
    if (several) {
        flag(f, "--shutdown-delay-duration=" SHUTDOWN_DELAY);
        flag(f, "--shutdown-send-retry-after=true");
    }
}

/* What the controller manager and the scheduler have in common. */
static void follower_flags(struct flags *f, enum component c, int m, const struct site *s)
{
    const char *d = s->dir, *n = components[c].name;
    flag(f, "--kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--authentication-kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--authorization-kubeconfig=%s/conf/%s.json", d, n);
    flag(f, "--bind-address=%s", member_address(s, m));
    flag(f, "--secure-port=%d", components[c].port);
    flag(f, "--tls-cert-file=%s/pki/%s.crt", d, n);
    flag(f, "--tls-private-key-file=%s/pki/%s.key", d, n);
    flag(f, "--leader-elect=%s", site_members(s) > 1 ? "true" : "false");
    flag(f, "--kube-api-qps=300");   /* with the defaults a fresh cluster waits for seconds on its own client */
    flag(f, "--kube-api-burst=600");
    flag(f, "--profiling=false");
}

static void controllers_flags(struct flags *f, const struct cluster *c, const struct site *s)
{
    const char *d = s->dir;
    flag(f, "--cluster-name=%s", s->warm ? "kubernetes" : s->name);
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

/* Likewise. Whom it asks and whom it hands connections to is all that it knows. */
static void plan_relay(const struct site *s, struct arena *a, struct plan *ret)
{
    struct flags f = {a, VEC_INIT};
    *VEC_PUSH(&f.list) = s->self;
    flag(&f, "api-relay");
    flag(&f, "%s/pki/ca.crt", s->dir);
    flag(&f, "%s:%d", s->address, PORT_APISERVER);
    for (int m = 0; m < site_members(s); m++)
        flag(&f, "%s:%d", member_address(s, m), PORT_APISERVER_MEMBER);
    ret->program = s->self;
    ret->argv = done(&f);
    ret->env = ARENA_ARRAY(a, const char *, 1);
}

void plan_component(enum component c, int m, const struct cluster *spec, const struct site *s, struct arena *a, struct plan *ret)
{
    const struct size *size = size_of(spec->spec.control_plane.size);
    struct flags f = {a, VEC_INIT};
    if (c == KMS) {
        plan_kms(s, a, ret);
        return;
    }
    ret->health = arena_printf(a, "%s://%s:%d", c == ETCD ? "http" : "https", member_address(s, m), c == APISERVER && site_members(s) > 1 ? PORT_APISERVER_MEMBER : components[c].port);
    ret->health_path = components[c].health;
    ret->alive_path = components[c].alive;
    if (c == RELAY) {
        plan_relay(s, a, ret);
        return;
    }
    ret->program = arena_printf(a, "%s/%s", is_behind(s, c, m) ? s->older : s->programs, components[c].program);
    *VEC_PUSH(&f.list) = ret->program;
    if (c == ETCD)
        etcd_flags(&f, m, size, s);
    else if (c == APISERVER)
        apiserver_flags(&f, m, spec, size, s);
    else
        follower_flags(&f, c, m, s);
    if (c == CONTROLLERS)
        controllers_flags(&f, spec, s);
    ret->argv = done(&f);
    const char **env = ARENA_ARRAY(a, const char *, 3);
    env[0] = arena_printf(a, "GOGC=%s", size->gogc);
    env[1] = arena_printf(a, "GOMEMLIMIT=%dMiB", size->limit_mib[c]);
    ret->env = env;
}
