#include "kaas/addons.h"

#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "json/yaml.h"

#define MANIFEST_MAX 16384
#define LOOK_WAITING_MS 1000u /* until its names are answered … */
#define LOOK_READY_MS 30000u  /* … and then */
#define IMAGE "coredns.tar"
#define APPLIED "seki.cloud/applied"
#define MANAGER "seki"
#define MANAGER_YIELDING "seki-defaults"
#define RBAC "rbac.authorization.k8s.io"
#define SELECTOR "k8s-app=kube-dns"
#define PART_MAX 200 /* of a text of somebody else's that a message has */
#define DNS_INDEX 10 /* of the Services' network: what every kubelet was told */

/* ---- the objects; $ADDRESS and $DOMAIN are put in ---- */

static const char service_account[] =
    "apiVersion: v1\n"
    "kind: ServiceAccount\n"
    "metadata: {name: coredns, namespace: kube-system}\n";

static const char cluster_role[] =
    "apiVersion: rbac.authorization.k8s.io/v1\n"
    "kind: ClusterRole\n"
    "metadata: {name: 'system:coredns'}\n"
    "rules:\n"
    "- {apiGroups: [''], resources: [services, pods, namespaces], verbs: [list, watch]}\n"
    "- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}\n";

static const char cluster_role_binding[] =
    "apiVersion: rbac.authorization.k8s.io/v1\n"
    "kind: ClusterRoleBinding\n"
    "metadata: {name: 'system:coredns'}\n"
    "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:coredns'}\n"
    "subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]\n";

/* Nodes have no way to the outside, so there is nobody to ask for other names: they are refused. */
static const char config[] =
    "apiVersion: v1\n"
    "kind: ConfigMap\n"
    "metadata: {name: coredns, namespace: kube-system}\n"
    "data:\n"
    "  Corefile: |\n"
    "    .:53 {\n"
    "        errors\n"
    "        health {\n"
    "            lameduck 5s\n"
    "        }\n"
    "        ready\n"
    "        kubernetes $DOMAIN in-addr.arpa ip6.arpa {\n"
    "            pods insecure\n"
    "            fallthrough in-addr.arpa ip6.arpa\n"
    "            ttl 30\n"
    "        }\n"
    "        prometheus :9153\n"
    "        cache 30\n"
    "        loop\n"
    "        reload\n"
    "        loadbalance\n"
    "    }\n";

static const char service[] =
    "apiVersion: v1\n"
    "kind: Service\n"
    "metadata:\n"
    "  name: kube-dns\n"
    "  namespace: kube-system\n"
    "  labels: {k8s-app: kube-dns, kubernetes.io/cluster-service: 'true', kubernetes.io/name: CoreDNS}\n"
    "spec:\n"
    "  selector: {k8s-app: kube-dns}\n"
    "  clusterIP: $ADDRESS\n"
    "  ports:\n"
    "  - {name: dns, port: 53, protocol: UDP, targetPort: 53}\n"
    "  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 53}\n"
    "  - {name: metrics, port: 9153, protocol: TCP, targetPort: 9153}\n";

static const char deployment[] =
    "apiVersion: apps/v1\n"
    "kind: Deployment\n"
    "metadata:\n"
    "  name: coredns\n"
    "  namespace: kube-system\n"
    "  labels: {k8s-app: kube-dns, kubernetes.io/name: CoreDNS}\n"
    "spec:\n"
    "  selector: {matchLabels: {k8s-app: kube-dns}}\n"
    "  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1}}\n"
    "  template:\n"
    "    metadata: {labels: {k8s-app: kube-dns}}\n"
    "    spec:\n"
    "      priorityClassName: system-cluster-critical\n"
    "      serviceAccountName: coredns\n"
    "      dnsPolicy: Default\n"
    "      nodeSelector: {kubernetes.io/os: linux}\n"
    "      tolerations:\n"
    "      - {key: CriticalAddonsOnly, operator: Exists}\n"
    "      topologySpreadConstraints:\n"
    "      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {k8s-app: kube-dns}}}\n"
    "      containers:\n"
    "      - name: coredns\n"
    "        image: localhost/coredns:1\n"
    "        imagePullPolicy: Never\n"
    "        args: [-conf, /etc/coredns/Corefile]\n"
    "        resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {memory: 170Mi}}\n"
    "        ports:\n"
    "        - {name: dns, containerPort: 53, protocol: UDP}\n"
    "        - {name: dns-tcp, containerPort: 53, protocol: TCP}\n"
    "        - {name: metrics, containerPort: 9153, protocol: TCP}\n"
    "        volumeMounts: [{name: config, mountPath: /etc/coredns, readOnly: true}]\n"
    "        livenessProbe: {httpGet: {path: /health, port: 8080}, initialDelaySeconds: 30, timeoutSeconds: 5, failureThreshold: 5}\n"
    "        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 2, timeoutSeconds: 2}\n"
    "        securityContext:\n"
    "          allowPrivilegeEscalation: false\n"
    "          readOnlyRootFilesystem: true\n"
    "          capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}\n"
    "      volumes:\n"
    "      - {name: config, configMap: {name: coredns, items: [{key: Corefile, path: Corefile}]}}\n";

static const char replicas[] =
    "apiVersion: apps/v1\n"
    "kind: Deployment\n"
    "metadata: {name: coredns, namespace: kube-system}\n"
    "spec: {replicas: 2}\n";

/* In the order of applying. The Deployment carries the digest: it comes when all else is there. */
static const struct {
    struct client_resource resource;
    bool yields, carries_digest;
    const char *text;
} table[] = {
    {{"", "v1", "serviceaccounts", true}, false, false, service_account},
    {{RBAC, "v1", "clusterroles", false}, false, false, cluster_role},
    {{RBAC, "v1", "clusterrolebindings", false}, false, false, cluster_role_binding},
    {{"", "v1", "configmaps", true}, true, false, config},
    {{"", "v1", "services", true}, false, false, service},
    {{"apps", "v1", "deployments", true}, false, true, deployment},
    {{"apps", "v1", "deployments", true}, true, false, replicas},
};
_Static_assert(ARRAY_LEN(table) <= ADDONS_MAX, "room for all");

static const struct client_resource pods = {"", "v1", "pods", true};
static const struct client_resource deployments = {"apps", "v1", "deployments", true};

/* ---- rendering ---- */

static void fill_in(const char *text, const char *address, const char *domain, struct sbuf *out)
{
    const struct {
        const char *mark, *value;
    } marks[] = {{"$ADDRESS", address}, {"$DOMAIN", domain}};
    while (*text) {
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(marks) && !found; i++)
            if (!strncmp(text, marks[i].mark, strlen(marks[i].mark))) {
                sbuf_addc(out, marks[i].value);
                text += strlen(marks[i].mark);
                found = true;
            }
        if (!found)
            sbuf_add_char(out, *text++);
    }
}

int addons_render(const struct cluster *c, struct addon ret[ADDONS_MAX], size_t *ret_count, char ret_digest[17], struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf all = {0};
    struct cluster_network services;
    char address[16] = "", hex[2 * SHA256_BYTES + 1];
    uint8_t digest[SHA256_BYTES];
    size_t n = 0;
    int rc = cluster_network_parse(c->spec.network.service_cidr, &services, err);
    if (rc < 0)
        return rc;
    cluster_network_address(&services, DNS_INDEX, address);
    if (!*address)
        return err_set(err, ERR_INVALID, "the Services' network has no %dth address", DNS_INDEX);
    sbuf_init(&all, ARRAY_LEN(table) * MANIFEST_MAX);
    for (; rc == 0 && n < ARRAY_LEN(table); n += rc == 0) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        sbuf_init(&text, MANIFEST_MAX);
        fill_in(table[n].text, address, c->spec.network.service_domain, &text);
        ret[n] = (struct addon){.resource = table[n].resource, .yields = table[n].yields};
        rc = yaml_parse(sbuf_str(&text), MANIFEST_MAX, &ret[n].obj, err);
        sbuf_add(&all, sbuf_str(&text));
    }
    if (rc < 0) {
        addons_free(ret, n);
        return rc;
    }
    hash_sha256(sbuf_str(&all), digest);
    hash_hex(digest, sizeof(digest), hex);
    memcpy(ret_digest, hex, 16);
    ret_digest[16] = 0;
    for (size_t i = 0; i < n; i++)
        if (table[i].carries_digest)
            json_object_set_new(json_at(ret[i].obj, "metadata"), "annotations", json_pack("{s:s}", APPLIED, ret_digest));
    *ret_count = n;
    return 0;
}

void addons_free(struct addon *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        json_decref(list[i].obj);
}

/* ---- applying ---- */

static int apply_all(struct client *c, const struct addon *list, size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct addon *a = &list[i];
        struct err why = ERR_INIT;
        int rc = client_apply(c, &a->resource, a->obj, a->yields ? MANAGER_YIELDING : MANAGER, !a->yields, NULL, &why);
        if (rc == ERR_CONFLICT && a->yields)
            continue; /* somebody has written it, and that stays */
        if (rc < 0)
            return err_set(err, rc, "%s %s: %s", json_str_or(a->obj, "kind", ""), json_str_or(a->obj, "metadata.name", ""), why.msg);
    }
    return 0;
}

/* ---- what it waits for ---- */

/* "REASON: MESSAGE", as far as either is there. */
static void add_reason(const json_t *from, struct sbuf *ret)
{
    struct str reason = str_utf8_head(str_of(json_str_or(from, "reason", "")), PART_MAX),
               message = str_utf8_head(str_of(json_str_or(from, "message", "")), PART_MAX);
    sbuf_add(ret, reason);
    sbuf_addc(ret, reason.len && message.len ? ": " : "");
    sbuf_add(ret, message);
}

int64_t addons_nodes(const json_t *pools, const char *cluster, int64_t *ret_ready, struct sbuf *ret)
{
    const json_t *first = NULL; /* that has not what it wants, else that is there at all */
    int64_t wanted = 0, ready = 0, first_count = 0;
    size_t i;
    json_t *pool;
    json_array_foreach (pools, i, pool) {
        int64_t count = json_int(pool, "spec.count", 0);
        if (strcmp(json_str_or(pool, "spec.clusterName", ""), cluster) != 0 || obj_deleting(pool))
            continue;
        wanted += count;
        ready += json_int(pool, "status.readyCount", 0);
        if (first && (first_count || !count))
            continue;
        first = pool;
        first_count = count;
    }
    const char *message =
        first ? json_str_or(obj_find_condition(first, "Ready"), "message", "") : "";
    *ret_ready = ready;
    if (ready > 0)
        return wanted;
    if (!first)
        sbuf_addf(ret, "make a NodePool with spec.clusterName %s", cluster);
    else if (!first_count)
        sbuf_addf(ret, "NodePool %s wants none: set its spec.count", obj_name(first));
    else if (!*message)
        sbuf_addf(ret, "NodePool %s has none of %lld ready", obj_name(first),
                  (long long)first_count);
    else
        sbuf_addf(ret, "NodePool %s: %.*s", obj_name(first),
                  STR_ARG(str_utf8_head(str_of(message), PART_MAX)));
    return wanted;
}

static void add_end(const json_t *ended, struct sbuf *ret)
{
    sbuf_addf(ret, "it ended with %lld (", (long long)json_int(ended, "exitCode", 0));
    add_reason(ended, ret);
    sbuf_add_char(ret, ')');
}

/* Of the first container that does not run. False: all of them do. */
static bool add_container(const json_t *pod, struct sbuf *ret)
{
    size_t i;
    json_t *c;
    json_array_foreach (json_at(pod, "status.containerStatuses"), i, c) {
        const json_t *waiting = json_at(c, "state.waiting"),
                     *ended = json_at(c, "state.terminated"),
                     *before = json_at(c, "lastState.terminated");
        if (!waiting && !ended)
            continue;
        if (waiting)
            add_reason(waiting, ret);
        if (waiting && before)
            sbuf_addc(ret, "; ");
        if (ended || before)
            add_end(ended ? ended : before, ret);
        return true;
    }
    return false;
}

static void add_pod(const json_t *pod, struct sbuf *ret)
{
    const json_t *scheduled = obj_find_condition(pod, "PodScheduled"),
                 *ready = obj_find_condition(pod, "Ready"), *status = json_at(pod, "status");
    sbuf_addf(ret, "pod %.*s: ",
              STR_ARG(str_utf8_head(str_of(json_str_or(pod, "metadata.name", "?")), PART_MAX)));
    size_t at = ret->len;
    if (scheduled && strcmp(json_str_or(scheduled, "status", ""), "False") == 0)
        add_reason(scheduled, ret);
    else if (json_str(status, "reason"))
        add_reason(status, ret);
    else if (!add_container(pod, ret) && ready)
        add_reason(ready, ret);
    if (ret->len == at)
        sbuf_add(ret,
                 str_utf8_head(str_of(json_str_or(status, "phase", "its status says nothing yet")),
                               PART_MAX));
}

void addons_pods(const json_t *of, const json_t *list, struct sbuf *ret)
{
    const json_t *failure = of ? obj_find_condition(of, "ReplicaFailure") : NULL;
    bool any = false;
    size_t i;
    json_t *pod;
    json_array_foreach (list, i, pod) {
        const char *ready = obj_condition(pod, "Ready");
        if (!json_is_object(pod) || obj_deleting(pod))
            continue;
        any = true;
        if (ready && !strcmp(ready, "True"))
            continue;
        add_pod(pod, ret);
        return;
    }
    if (any)
        return;
    if (failure) {
        sbuf_addc(ret, "no pod is made: ");
        add_reason(failure, ret);
    } else {
        sbuf_addc(ret, "none of its pods has been made yet");
    }
}

/* ---- the condition ---- */

static void say(json_t *obj, bool good, const char *reason, const char *message)
{
    obj_set_condition(obj, DNS_CONDITION, good ? "True" : "False", reason, message,
                      clock_wall_ms());
}

/* nodes: "" when one is ready, else what is waited for. */
static int look(const struct cluster *c, const struct site *s, json_t *obj, struct str nodes,
                struct err *err)
{
    struct addon list[ADDONS_MAX];
    struct client *client = NULL;
    JSON_AUTO there = NULL;
    JSON_AUTO of_it = NULL;
    CLEANUP(sbuf_deinit) struct sbuf said = {0};
    struct err why = ERR_INIT;
    char digest[17];
    size_t count = 0;
    int rc = addons_render(c, list, &count, digest, err);
    if (rc < 0)
        return rc;
    rc = access_client(s, &client, err);
    if (rc < 0) { /* ERR_NOT_FOUND, too: of a certificate, not of the Deployment */
        addons_free(list, count);
        return rc;
    }
    rc = client_get(client, &deployments, "kube-system", "coredns", &there, &why);
    if (rc == ERR_NOT_FOUND || (rc == 0 && strcmp(obj_annotation(there, APPLIED) ? obj_annotation(there, APPLIED) : "", digest) != 0)) {
        rc = apply_all(client, list, count, err);
        if (rc == 0)
            log_info("objects of a cluster's DNS were applied", KV("namespace", s->ns), KV("cluster", s->name), KV("digest", digest));
    } else if (rc < 0) {
        err_set(err, rc, "%s", why.msg);
    }
    addons_free(list, count);
    int64_t wanted = json_int(there, "spec.replicas", 0),
            available = json_int(there, "status.availableReplicas", 0);
    bool waits = rc == 0 && there && wanted && available <= 0 && !nodes.len;
    if (waits && client_list(client, &pods, "kube-system", SELECTOR, &of_it, NULL, &why) < 0)
        waits = false; /* the numbers alone are told */
    client_free(client);
    if (rc < 0)
        return rc;
    sbuf_init(&said, 2 * ADDONS_TEXT_MAX);
    sbuf_addf(&said, "%lld of %lld are available", (long long)available, (long long)wanted);
    if (waits) {
        sbuf_addc(&said, ": ");
        addons_pods(there, of_it, &said);
    }
    if (available > 0) {
        say(obj, true, "Running", said.ptr);
    } else if (nodes.len) {
        sbuf_reset(&said);
        sbuf_addf(&said, "no node is ready yet that it could run on: %.*s", STR_ARG(nodes));
        say(obj, false, "Pending", said.ptr);
    } else {
        say(obj, false, there && !wanted ? "ScaledToZero" : "Waiting",
            there ? said.ptr : "its objects were applied");
    }
    return 0;
}

void addons_look(struct kaas *k, json_t *obj, const struct cluster *c, const struct site *s, struct addons_memory *m)
{
    CLEANUP(mem_freep) char *image = xasprintf("%s/images/" IMAGE, s->programs);
    CLEANUP(sbuf_deinit) struct sbuf nodes = {0}, said = {0};
    JSON_AUTO pools = informer_list(k->node_pools, s->ns);
    struct err err = ERR_INIT;
    int64_t ready = 0;
    uint64_t now = clock_mono_ms();
    const char *status = obj_condition(obj, DNS_CONDITION);
    sbuf_init(&nodes, ADDONS_TEXT_MAX);
    sbuf_init(&said, 2 * ADDONS_TEXT_MAX);
    if (!addons_nodes(pools, s->name, &ready, &nodes)) {
        sbuf_addf(&said, "this cluster has no nodes, so nothing runs in it that could ask: %s",
                  nodes.len ? nodes.ptr : "");
        say(obj, false, "Pending", said.ptr);
        return;
    }
    if (!file_exists(image)) {
        say(obj, false, "ProgramsMissing", "this cloud has no image of CoreDNS for this version");
        return;
    }
    if (m->look_ms && now - m->look_ms < (status && !strcmp(status, "True") ? LOOK_READY_MS : LOOK_WAITING_MS))
        return;
    m->look_ms = now;
    if (look(c, s, obj, sbuf_str(&nodes), &err) < 0)
        say(obj, false, "NotApplied", err.msg);
}
