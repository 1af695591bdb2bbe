/* What must be so before a cluster is upgraded. Nothing is changed here. */
#include "kaas/upgrade.h"

#include <unistd.h>

#include "base/mem.h"
#include "client/fetch.h"
#include "kaas/recovery.h"

#define KUBELET_BEHIND_MAX 3
#define METRICS_MAX ((size_t)32 * 1024 * 1024)
#define METRICS_TIMEOUT_MS 10000u
#define OUT_MAX 4096
#define VERSION_TIMEOUT_MS 10000u

static const struct client_resource nodes = {"", "v1", "nodes", false};
static const struct client_resource webhooks[] = {{"admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", false},
                                                  {"admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", false}};

struct looking {
    const struct preflight *p;
    struct arena *arena;
    struct client *client;
    const char *reason;
};

static int stop(struct looking *l, const char *reason, struct err *err, const char *fmt, ...) PRINTF(4, 5);
static int stop(struct looking *l, const char *reason, struct err *err, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    l->reason = reason;
    return err_set(err, ERR_CONFLICT, "%s", text);
}

/* ---- pure parts ---- */

/* "A.B…" as A × 1000 + B. */
static int two_numbers(struct str text)
{
    struct str major, minor;
    int64_t a, b;
    size_t n = 0;
    if (!str_cut(&text, '.', &major) || str_to_i64(major, 0, 999, &a) < 0)
        return -1;
    while (n < text.len && text.ptr[n] >= '0' && text.ptr[n] <= '9')
        n++;
    minor = str_n(text.ptr, n);
    return n && str_to_i64(minor, 0, 999, &b) == 0 ? (int)(a * 1000 + b) : -1;
}

int preflight_etcd(const char *version)
{
    return two_numbers(str_of(version));
}

int preflight_etcd_program(struct str said)
{
    struct str line;
    char version[32];
    if (!str_cut(&said, '\n', &line) || !str_starts(line, STR("etcd Version: ")) || !str_to_array(str_trim(str_skip(line, 14)), version, sizeof(version)))
        return -1;
    return preflight_etcd(version);
}

bool preflight_alarm(const char *alarms)
{
    return strstr(alarms, "\"alarms\"") != NULL;
}

const char *preflight_member(const char *status, const char *member, struct arena *a)
{
    const char *at = strstr(status, arena_printf(a, "\"%s\":\"", member));
    if (!at)
        return "";
    at += strlen(member) + 4;
    const char *end = strchr(at, '"');
    return end ? arena_strndup(a, str_n(at, (size_t)(end - at))) : "";
}

int preflight_kubelet(const char *version)
{
    int both = *version == 'v' ? two_numbers(str_of(version + 1)) : -1;
    return both / 1000 == 1 ? both % 1000 : -1;
}

static bool label(struct str line, const char *name, char *to, size_t size)
{
    char want[64];
    int n = snprintf(want, sizeof(want), "%s=\"", name);
    for (size_t i = 0; i + (size_t)n <= line.len; i++) {
        if (memcmp(line.ptr + i, want, (size_t)n) != 0 || !i || (line.ptr[i - 1] != '{' && line.ptr[i - 1] != ','))
            continue;
        struct str rest = str_skip(line, i + (size_t)n), value;
        return str_cut(&rest, '"', &value) && str_to_array(value, to, size);
    }
    return false;
}

const char *preflight_deprecated(struct str metrics, int to, struct arena *a)
{
    struct str line;
    while (str_cut(&metrics, '\n', &line)) {
        char removed[16], group[128] = "", version[32] = "", resource[128] = "";
        if (!str_starts(line, STR("apiserver_requested_deprecated_apis{")) || !str_ends(line, STR("} 1")) || !label(line, "removed_release", removed, sizeof(removed)))
            continue;
        int gone = cluster_minor(removed);
        (void)!label(line, "group", group, sizeof(group));
        (void)!label(line, "version", version, sizeof(version));
        (void)!label(line, "resource", resource, sizeof(resource));
        if (gone >= 0 && gone <= to)
            return arena_printf(a, "%s of %s%s%s", resource, group, *group ? "/" : "", version);
    }
    return NULL;
}

static bool has(const json_t *list, const char *text)
{
    size_t i;
    json_t *v;
    json_array_foreach ((json_t *)(uintptr_t)list, i, v)
        if (json_is_string(v) && !strcmp(json_string_value(v), text))
            return true;
    return false;
}

static bool selects(const json_t *hook, const char *path)
{
    const json_t *s = json_at(hook, path);
    return json_object_size(json_object_get(s, "matchLabels")) || json_array_size(json_object_get(s, "matchExpressions"));
}

bool preflight_webhook_blocks(const json_t *hook)
{
    json_t *rules = json_at(hook, "rules"), *rule;
    size_t i;
    if (!strcmp(json_str_or(hook, "failurePolicy", "Fail"), "Ignore") || !json_at(hook, "clientConfig.service") || selects(hook, "namespaceSelector") || selects(hook, "objectSelector") ||
        json_array_size(json_at(hook, "matchConditions")))
        return false;
    json_array_foreach (rules, i, rule)
        if (has(json_object_get(rule, "apiGroups"), "*") && (has(json_object_get(rule, "resources"), "*") || has(json_object_get(rule, "resources"), "*/*")))
            return true;
    return false;
}

/* ---- what there must be ---- */

static int look_at_programs(struct looking *l, bool with_nodes, struct err *err)
{
    static const char *const needed[] = {"etcd", "etcdctl", "etcdutl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr"};
    for (size_t i = 0; i < (with_nodes ? ARRAY_LEN(needed) : 6); i++)
        if (access(arena_printf(l->arena, "%s/%s", l->p->to_programs, needed[i]), X_OK) < 0)
            return stop(l, "ProgramsMissing", err, "this cloud has no %s of Kubernetes %s", needed[i], l->p->to);
    return 0;
}

static int etcd_of(struct looking *l, const char *folder, int *ret, struct err *err)
{
    const char *argv[] = {arena_printf(l->arena, "%s/etcd", folder), "--version", NULL};
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, OUT_MAX);
    int rc = tool_run(argv, VERSION_TIMEOUT_MS, l->p->site->pass, &out, err);
    if (rc < 0)
        return rc;
    *ret = preflight_etcd_program(sbuf_str(&out));
    return *ret < 0 ? err_set(err, ERR_PROTOCOL, "%s does not say its version", argv[0]) : 0;
}

static int look_at_store(struct looking *l, struct err *err)
{
    const char *status = "", *alarms = "";
    int next = 0, rc = store_ask(l->p->site, "endpoint", "status", l->arena, &status, err);
    if (rc == 0)
        rc = store_ask(l->p->site, "alarm", "list", l->arena, &alarms, err);
    if (rc == 0)
        rc = etcd_of(l, l->p->to_programs, &next, err);
    if (rc < 0) {
        l->reason = "StoreNotAnswering";
        return rc;
    }
    if (preflight_alarm(alarms))
        return stop(l, "StoreAlarm", err, "the store has raised an alarm (no space, or a corrupt member): it would not take what an upgrade writes");
    const char *is = preflight_member(status, "version", l->arena);
    int now = preflight_etcd(is);
    if (now < 0 || next < now || next > now + 1)
        return stop(l, "StoreTooFar", err, "the store is etcd %s, and Kubernetes %s comes with %d.%d: one goes one minor version at a time, and never back", *is ? is : "of no version", l->p->to, next / 1000,
                    next % 1000);
    return 0;
}

static int look_at_nodes(struct looking *l, bool *ret_there, struct err *err)
{
    JSON_AUTO list = NULL;
    size_t i, k;
    json_t *node, *c;
    int to = cluster_minor(l->p->to), rc = client_list(l->client, &nodes, NULL, NULL, &list, NULL, err);
    if (rc < 0) {
        l->reason = "APIServerNotAnswering";
        return rc;
    }
    *ret_there = json_array_size(list) > 0;
    json_array_foreach (list, i, node) {
        const char *version = json_str_or(node, "status.nodeInfo.kubeletVersion", "");
        int minor = preflight_kubelet(version);
        bool ready = false;
        json_array_foreach (json_at(node, "status.conditions"), k, c)
            ready |= !strcmp(json_str_or(c, "type", ""), "Ready") && !strcmp(json_str_or(c, "status", ""), "True");
        if (minor < to - KUBELET_BEHIND_MAX || minor > to)
            return stop(l, minor > to ? "NodeTooNew" : "NodeTooOld", err, "node %.63s has kubelet %.32s: an API server of %s takes those from 1.%d on, and no newer ones than itself", obj_name(node),
                        *version ? version : "of no version", l->p->to, to - KUBELET_BEHIND_MAX);
        if (!ready)
            return stop(l, "NodeNotReady", err, "node %.63s is not ready", obj_name(node));
    }
    return 0;
}

static int look_at_deprecated(struct looking *l, struct err *err)
{
    const struct site *s = l->p->site;
    CLEANUP(mem_freep) char *body = NULL;
    size_t len = 0;
    int status = 0;
    struct fetch_options o = {.address = arena_printf(l->arena, "https://%s:%d", s->address, PORT_APISERVER), .path = "/metrics", .ca_file = arena_printf(l->arena, "%s/pki/ca.crt", s->dir),
                              .cert_file = arena_printf(l->arena, "%s/pki/super-admin.crt", s->dir), .key_file = arena_printf(l->arena, "%s/pki/super-admin.key", s->dir),
                              .timeout_ms = METRICS_TIMEOUT_MS, .max_body_bytes = METRICS_MAX};
    int rc = fetch(&o, &status, &body, &len, err);
    if (rc == 0 && status != 200)
        rc = err_set(err, ERR_UNAVAILABLE, "/metrics answers %d", status);
    if (rc < 0) {
        l->reason = "APIServerNotAnswering";
        return rc;
    }
    const char *what = preflight_deprecated(str_n(body, len), cluster_minor(l->p->to), l->arena);
    return what ? stop(l, "DeprecatedAPI", err, "somebody asks for %s, which Kubernetes %s does not have any more; asked again after the API server was started anew", what, l->p->to) : 0;
}

static int look_at_webhooks(struct looking *l, struct err *err)
{
    for (size_t k = 0; k < ARRAY_LEN(webhooks); k++) {
        JSON_AUTO list = NULL;
        size_t i, j;
        json_t *conf, *hook;
        int rc = client_list(l->client, &webhooks[k], NULL, NULL, &list, NULL, err);
        if (rc < 0) {
            l->reason = "APIServerNotAnswering";
            return rc;
        }
        json_array_foreach (list, i, conf)
            json_array_foreach (json_at(conf, "webhooks"), j, hook)
                if (preflight_webhook_blocks(hook))
                    return stop(l, "WebhookBlocks", err, "webhook %.100s of %.100s is asked about everything and runs in the cluster: while it does not answer nothing can be written; give it a namespaceSelector",
                                json_str_or(hook, "name", ""), obj_name(conf));
    }
    return 0;
}

int preflight(const struct preflight *p, struct arena *a, const char **ret_reason, struct err *err)
{
    struct looking l = {.p = p, .arena = a, .reason = "PreflightFailed"};
    bool with_nodes = false;
    char what[160];
    int rc = cluster_may_become(p->from, p->to, what) ? 0 : stop(&l, "VersionSkipped", err, "%s", what);
    if (rc == 0)
        rc = look_at_programs(&l, false, err);
    if (rc == 0 && (rc = access_client(p->site, &l.client, err)) < 0)
        l.reason = "APIServerNotAnswering";
    if (rc == 0)
        rc = look_at_nodes(&l, &with_nodes, err);
    if (rc == 0 && with_nodes)
        rc = look_at_programs(&l, true, err);
    if (rc == 0)
        rc = look_at_store(&l, err);
    if (rc == 0)
        rc = look_at_deprecated(&l, err);
    if (rc == 0)
        rc = look_at_webhooks(&l, err);
    client_free(l.client);
    *ret_reason = l.reason;
    return rc;
}
