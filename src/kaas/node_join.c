/* What is done inside a cluster for its nodes: roles, tokens, certificates, Node objects. */
#include "kaas/node.h"

#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/csr.h"
#include "crypto/hash.h"

#define RBAC "rbac.authorization.k8s.io"
#define CERTIFICATES "certificates.k8s.io"
#define SERVING "kubernetes.io/kubelet-serving"
#define TOKEN_LIFE_MS 3600000
#define TOKEN_LABEL "seki.cloud/node"
#define POOL_LABEL "seki.cloud/nodepool" /* a selector, too: what has it */

static const struct client_resource cluster_role_bindings = {RBAC, "v1", "clusterrolebindings", false};
static const struct client_resource secrets = {"", "v1", "secrets", true};
static const struct client_resource nodes = {"", "v1", "nodes", false};
static const struct client_resource requests = {CERTIFICATES, "v1", "certificatesigningrequests", false};

static int made(int rc, const struct err *why, struct err *err)
{
    return rc == 0 || rc == ERR_EXISTS ? 0 : err_set(err, rc, "%s", why->msg);
}

int join_roles(struct client *c, struct err *err)
{
    static const struct {
        const char *name, *role, *group, *user;
    } bindings[] = {
        {"seki:node-bootstrap", "system:node-bootstrapper", NODE_BOOT_GROUP, NULL},
        {"seki:node-approve-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", NODE_BOOT_GROUP, NULL},
        {"seki:node-approve-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes", NULL},
        {"seki:apiserver-kubelet-client", "system:kubelet-api-admin", NULL, "kube-apiserver-kubelet-client"},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(bindings); i++) {
        JSON_AUTO obj = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s}, s:[{s:s, s:s, s:s}]}", "apiVersion", RBAC "/v1", "kind", "ClusterRoleBinding", "metadata", "name", bindings[i].name, "roleRef",
                                  "apiGroup", RBAC, "kind", "ClusterRole", "name", bindings[i].role, "subjects", "apiGroup", RBAC, "kind", bindings[i].user ? "User" : "Group", "name", bindings[i].user ? bindings[i].user : bindings[i].group);
        struct err why = ERR_INIT;
        rc = client_create(c, &cluster_role_bindings, NULL, obj, NULL, &why);
        rc = made(rc, &why, err);
    }
    return rc;
}

/* ---- tokens ---- */

static void random_text(char *to, size_t len)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    for (size_t i = 0; i < len;) {
        uint8_t b;
        rnd_bytes(&b, 1);
        if (b < 252) /* 7 × 36: all letters are as likely */
            to[i++] = letters[b % 36];
    }
    to[len] = 0;
}

int join_token(struct client *c, const char *node, char ret[24], struct err *err)
{
    char id[7], secret[17], name[32], until[CLOCK_TEXT_MAX];
    random_text(id, 6);
    random_text(secret, 16);
    snprintf(name, sizeof(name), "bootstrap-token-%s", id);
    clock_format(clock_wall_ms() + TOKEN_LIFE_MS, until);
    JSON_AUTO obj = json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s, s:s, s:s, s:s, s:s, s:s}}", "apiVersion", "v1", "kind", "Secret", "type", "bootstrap.kubernetes.io/token", "metadata",
                              "name", name, "namespace", "kube-system", "labels", TOKEN_LABEL, node, "stringData", "token-id", id, "token-secret", secret, "expiration", until,
                              "usage-bootstrap-authentication", "true", "auth-extra-groups", NODE_BOOT_GROUP, "description", "one node joins with it");
    int rc = client_create(c, &secrets, "kube-system", obj, NULL, err);
    if (rc == 0)
        snprintf(ret, 24, "%s.%s", id, secret);
    mem_wipe(secret, sizeof(secret));
    return rc;
}

int join_token_drop(struct client *c, const char *node, struct err *err)
{
    JSON_AUTO list = NULL;
    char selector[128];
    size_t i;
    json_t *s;
    snprintf(selector, sizeof(selector), TOKEN_LABEL "=%s", node);
    int rc = client_list(c, &secrets, "kube-system", selector, &list, NULL, err);
    if (rc < 0)
        return rc;
    json_array_foreach (list, i, s) {
        struct err why = ERR_INIT;
        rc = client_delete(c, &secrets, "kube-system", json_str_or(s, "metadata.name", ""), NULL, &why);
        if (rc < 0 && rc != ERR_NOT_FOUND)
            return err_set(err, rc, "%s", why.msg);
    }
    return 0;
}

/* ---- serving certificates of kubelets ---- */

static bool is_decided(const json_t *request)
{
    return json_array_size(json_at(request, "status.conditions")) > 0;
}

static bool usages_good(const json_t *request)
{
    static const char *const good[] = {"digital signature", "key encipherment", "server auth"};
    json_t *list = json_at(request, "spec.usages"), *u;
    size_t i;
    bool server = false;
    json_array_foreach (list, i, u) {
        const char *text = json_string_value(u);
        bool known = false;
        for (size_t k = 0; k < ARRAY_LEN(good); k++)
            known |= text && !strcmp(text, good[k]);
        if (!known)
            return false;
        server |= !strcmp(text, "server auth");
    }
    return server;
}

static int judge(const json_t *request, const struct node *known, size_t count, struct err *err)
{
    const char *user = json_str_or(request, "spec.username", "");
    const struct node *n = NULL;
    for (size_t i = 0; i < count; i++)
        if (!strncmp(user, "system:node:", 12) && !strcmp(user + 12, known[i].name))
            n = &known[i];
    if (!n)
        return err_set(err, ERR_NOT_FOUND, "%s is no node of this pool", user);
    CLEANUP(sbuf_deinit) struct sbuf pem = {0};
    sbuf_init(&pem, CSR_BYTES_MAX);
    if (base64_decode(str_of(json_str_or(request, "spec.request", "")), &pem, NULL) < 0)
        return err_set(err, ERR_INVALID, "its request is not in base64, or too long");
    if (!usages_good(request))
        return err_set(err, ERR_FORBIDDEN, "it asks for other uses than those of a server");
    const char *const names[] = {n->name, NULL}, *const ips[] = {n->address, NULL};
    return csr_check(sbuf_str(&pem), &(struct csr_allowed){.common_name = user, .org = "system:nodes", .dns_names = names, .ips = ips}, err);
}

static int decide(struct client *c, const json_t *request, bool good, const char *why, struct err *err)
{
    char now[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), now);
    JSON_AUTO patch = json_pack("{s:{s:[{s:s, s:s, s:s, s:s, s:s}]}}", "status", "conditions", "type", good ? "Approved" : "Denied", "status", "True", "reason", good ? "NodeOfThisCluster" : "NotItsOwn",
                                "message", why, "lastUpdateTime", now);
    return client_patch(c, &requests, NULL, json_str_or(request, "metadata.name", ""), "approval", patch, NULL, err);
}

int join_approve(struct client *c, const struct node *known, size_t count, struct arena *a, const char **ret_denied, struct err *err)
{
    JSON_AUTO list = NULL;
    size_t i;
    json_t *request;
    int rc = client_list(c, &requests, NULL, NULL, &list, NULL, err);
    if (rc < 0)
        return rc;
    json_array_foreach (list, i, request) {
        struct err why = ERR_INIT;
        if (strcmp(json_str_or(request, "spec.signerName", ""), SERVING) != 0 || is_decided(request))
            continue;
        int verdict = judge(request, known, count, &why);
        if (verdict == ERR_NOT_FOUND)
            continue; /* another pool's */
        rc = decide(c, request, verdict == 0, verdict == 0 ? "it asks for its own names" : why.msg, err);
        if (rc < 0)
            return rc;
        if (verdict < 0)
            *ret_denied = arena_printf(a, "%s: %s", json_str_or(request, "spec.username", ""), why.msg);
    }
    return 0;
}

/* ---- Node objects ---- */

int join_ready(struct client *c, const struct node *n, struct arena *a, bool *ret_ready, const char **ret_why, struct err *err)
{
    JSON_AUTO obj = NULL;
    *ret_ready = false;
    *ret_why = "its kubelet has not joined yet";
    int rc = client_get(c, &nodes, NULL, n->name, &obj, err);
    if (rc < 0)
        return rc;
    if (!json_str(obj, "spec.podCIDR")) {
        struct err why = ERR_INIT;
        JSON_AUTO patch = json_pack("{s:{s:s, s:[s]}}", "spec", "podCIDR", n->pod_cidr, "podCIDRs", n->pod_cidr);
        if (client_patch(c, &nodes, NULL, n->name, NULL, patch, NULL, &why) < 0)
            *ret_why = arena_printf(a, "it takes no network of pods: %s", why.msg);
    }
    json_t *list = json_at(obj, "status.conditions"), *condition;
    size_t i;
    json_array_foreach (list, i, condition)
        if (!strcmp(json_str_or(condition, "type", ""), "Ready")) {
            *ret_ready = !strcmp(json_str_or(condition, "status", ""), "True");
            *ret_why = arena_strdup(a, json_str_or(condition, "message", ""));
        }
    return 0;
}

int join_forget(struct client *c, const char *node, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = client_delete(c, &nodes, NULL, node, NULL, &why);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return err_set(err, rc, "%s", why.msg);
    return join_token_drop(c, node, err);
}

int join_forget_strangers(struct client *c, const struct site *s, struct err *err)
{
    JSON_AUTO list = NULL;
    size_t i;
    json_t *node;
    int rc = client_list(c, &nodes, NULL, POOL_LABEL, &list, NULL, err);
    if (rc < 0)
        return rc;
    json_array_foreach (list, i, node) {
        const char *name = json_str_or(node, "metadata.name", "");
        CLEANUP(mem_freep) char *dir = xasprintf("%s/nodes/%s", s->dir, name);
        if (file_exists(dir))
            continue;
        rc = join_forget(c, name, err);
        if (rc < 0)
            return rc;
        log_info("a node that is no more is forgotten by its cluster", KV("namespace", s->ns), KV("cluster", s->name), KV("node", name));
    }
    return 0;
}
