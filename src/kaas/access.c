/* What is done inside a cluster, with its own API. */
#include "kaas/internal.h"

#include "base/mem.h"

#define RBAC "rbac.authorization.k8s.io"

static const struct client_resource accounts = {"", "v1", "serviceaccounts", true};
static const struct client_resource cluster_role_bindings = {RBAC, "v1", "clusterrolebindings", false};

int access_client(const struct site *s, struct client **ret, struct err *err)
{
    CLEANUP(mem_freep) char *server = xasprintf("https://%s:%d", s->address, PORT_APISERVER);
    CLEANUP(mem_freep) char *ca = xasprintf("%s/pki/ca.crt", s->dir);
    CLEANUP(mem_freep) char *cert = xasprintf("%s/pki/super-admin.crt", s->dir);
    CLEANUP(mem_freep) char *key = xasprintf("%s/pki/super-admin.key", s->dir);
    return client_http(&(struct client_http_options){.server = server, .ca_file = ca, .cert_file = cert, .key_file = key}, ret, err);
}

int access_controllers_work(struct client *c, struct err *err)
{
    return client_get(c, &accounts, "default", "default", NULL, err);
}

int access_bind_admins(struct client *c, struct err *err)
{
    JSON_AUTO obj = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s}, s:[{s:s, s:s, s:s}]}", "apiVersion", RBAC "/v1", "kind", "ClusterRoleBinding", "metadata", "name", "kubeadm:cluster-admins",
                              "roleRef", "apiGroup", RBAC, "kind", "ClusterRole", "name", "cluster-admin", "subjects", "apiGroup", RBAC, "kind", "Group", "name", "kubeadm:cluster-admins");
    struct err why = ERR_INIT;
    int rc = client_create(c, &cluster_role_bindings, NULL, obj, NULL, &why);
    if (rc == 0 || rc == ERR_EXISTS) /* as its administrators have it */
        return 0;
    return err_set(err, rc, "%s", why.msg);
}

int access_version(struct client *c, char ret[32], struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = client_get_path(c, "/version", &doc, err);
    if (rc == 0 && !str_to_array(str_of(json_str_or(doc, "gitVersion", "")), ret, 32))
        rc = err_set(err, ERR_PROTOCOL, "the API server says no version");
    return rc;
}
