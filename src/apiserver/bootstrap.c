/* What must exist before anybody asks: namespaces, and the roles that clients expect. Written once; an operator's changes stay. */
#include "apiserver/api.h"
#include "apiserver/meta.h"
#include "base/mem.h"

static const char *const objects[] = {
    "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"default\"}}",
    "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"kube-system\"}}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"cluster-admin\"},\"rules\":["
    "{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]},{\"nonResourceURLs\":[\"*\"],\"verbs\":[\"*\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"cluster-admin\"},\"roleRef\":{"
    "\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"cluster-admin\"},\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:masters\"}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"admin\"},\"rules\":["
    "{\"apiGroups\":[\"seki.cloud\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"configmaps\",\"secrets\",\"events\",\"serviceaccounts\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"coordination.k8s.io\"],\"resources\":[\"leases\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"rbac.authorization.k8s.io\"],\"resources\":[\"roles\",\"rolebindings\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"namespaces\"],\"verbs\":[\"get\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"edit\"},\"rules\":["
    "{\"apiGroups\":[\"seki.cloud\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"configmaps\",\"secrets\",\"events\",\"serviceaccounts\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"coordination.k8s.io\"],\"resources\":[\"leases\"],\"verbs\":[\"*\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"namespaces\"],\"verbs\":[\"get\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"view\"},\"rules\":["
    "{\"apiGroups\":[\"seki.cloud\"],\"resources\":[\"*\"],\"verbs\":[\"get\",\"list\",\"watch\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"configmaps\",\"events\",\"serviceaccounts\"],\"verbs\":[\"get\",\"list\",\"watch\"]},"
    "{\"apiGroups\":[\"\"],\"resources\":[\"namespaces\"],\"verbs\":[\"get\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"system:discovery\"},\"rules\":["
    "{\"nonResourceURLs\":[\"/\",\"/api\",\"/api/*\",\"/apis\",\"/apis/*\",\"/openapi\",\"/openapi/*\",\"/version\",\"/version/\"],\"verbs\":[\"get\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"system:discovery\"},\"roleRef\":{"
    "\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"system:discovery\"},\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:authenticated\"}]}",
    /* Whoever is somebody may ask who they are and what they may do. */
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"system:basic-user\"},\"rules\":["
    "{\"apiGroups\":[\"authorization.k8s.io\"],\"resources\":[\"selfsubjectaccessreviews\",\"selfsubjectrulesreviews\"],\"verbs\":[\"create\"]},"
    "{\"apiGroups\":[\"authentication.k8s.io\"],\"resources\":[\"selfsubjectreviews\"],\"verbs\":[\"create\"]}]}",
    "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"system:basic-user\"},\"roleRef\":{"
    "\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"system:basic-user\"},\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:authenticated\"}]}",
};

struct bootstrap {
    struct apiserver *server;
    size_t next;
    void (*done)(void *arg, int code, const struct err *err);
    void *arg;
};

static void create_next(void *arg);

static void created(void *arg, int status, json_t *body)
{
    struct bootstrap *b = arg;
    if (status == 201 || status == 409) {
        b->next++;
        loop_post(b->server->loop, create_next, b);
    } else {
        struct err err = ERR_INIT;
        err_set(&err, ERR_INTERNAL, "first objects cannot be made: %s", json_str_or(body, "message", "no answer"));
        b->done(b->arg, err.code, &err);
        mem_free(b);
    }
    json_decref(body);
}

/* As a client would, so that all rules hold. */
static void create_next(void *arg)
{
    static const char *const groups[] = {"system:masters", NULL};
    struct bootstrap *b = arg;
    if (b->next == ARRAY_LEN(objects)) {
        b->done(b->arg, 0, NULL);
        mem_free(b);
        return;
    }
    JSON_AUTO obj = json_loads(objects[b->next], 0, NULL);
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    sbuf_init(&path, 1024);
    kind_path(kind_by_name(json_str_or(obj, "kind", "")), NULL, NULL, NULL, &path);
    struct client_local local = apiserver_local(b->server);
    struct local_call call = {.method = "POST", .target = path.ptr, .content_type = "application/json", .body = obj, .user = "system:bootstrap", .groups = groups, .arg = b, .done = created};
    local.call(local.ctx, &call);
}

void apiserver_bootstrap(struct apiserver *a, void (*done)(void *arg, int code, const struct err *err), void *arg)
{
    struct bootstrap *b = XNEW(struct bootstrap);
    *b = (struct bootstrap){.server = a, .done = done, .arg = arg};
    create_next(b);
}
