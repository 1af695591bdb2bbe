/* What is done inside a cluster, with its own API. */
#include "kaas/internal.h"

#include "base/mem.h"

#define RBAC "rbac.authorization.k8s.io"

static const struct client_resource accounts = {"", "v1", "serviceaccounts", true};
static const struct client_resource endpoints = {"", "v1", "endpoints", true};
static const struct client_resource endpoint_slices = {"discovery.k8s.io", "v1", "endpointslices", true};
static const struct client_resource cluster_role_bindings = {RBAC, "v1", "clusterrolebindings", false};

/* What lies in a cluster is its tenant's, up to its store's gigabytes; of what is listed of it (nodes, requests for certificates, Services) 64 nodes need a hundredth of that. */
#define CLUSTER_LIST_BYTES_MAX ((size_t)32 << 20)

static int create(struct client *c, const struct client_resource *r, const char *ns, json_t *obj, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = client_create(c, r, ns, obj, NULL, &why);
    return rc == 0 || rc == ERR_EXISTS ? 0 : err_set(err, rc, "%s", why.msg);
}

int access_client(const struct site *s, struct client **ret, struct err *err)
{
    CLEANUP(mem_freep) char *server = xasprintf("https://%s:%d", s->address, PORT_APISERVER);
    CLEANUP(mem_freep) char *ca = xasprintf("%s/pki/ca.crt", s->dir);
    CLEANUP(mem_freep) char *cert = xasprintf("%s/pki/super-admin.crt", s->dir);
    CLEANUP(mem_freep) char *key = xasprintf("%s/pki/super-admin.key", s->dir);
    int rc = client_http(&(struct client_http_options){.server = server, .ca_file = ca, .cert_file = cert, .key_file = key}, ret, err);
    if (rc == 0)
        client_bound_lists(*ret, CLUSTER_LIST_BYTES_MAX);
    return rc;
}

int access_controllers_work(struct client *c, struct err *err)
{
    return client_get(c, &accounts, "default", "default", NULL, err);
}

int access_bind_admins(struct client *c, struct err *err)
{
    JSON_AUTO obj = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s}, s:[{s:s, s:s, s:s}]}", "apiVersion", RBAC "/v1", "kind", "ClusterRoleBinding", "metadata", "name", "kubeadm:cluster-admins",
                              "roleRef", "apiGroup", RBAC, "kind", "ClusterRole", "name", "cluster-admin", "subjects", "apiGroup", RBAC, "kind", "Group", "name", "kubeadm:cluster-admins");
    return create(c, &cluster_role_bindings, NULL, obj, err); /* there: as its administrators have it */
}

int access_publish(struct client *c, const struct site *s, struct err *err)
{
    if (site_members(s) < 2 || !s->with_nodes)
        return 0;
    JSON_AUTO both = json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:[{s:[{s:s}], s:[{s:s, s:i, s:s}]}]}", "apiVersion", "v1", "kind", "Endpoints", "metadata", "name", "kubernetes", "labels",
                               "endpointslice.kubernetes.io/skip-mirror", "true", "subsets", "addresses", "ip", s->gate, "ports", "name", "https", "port", PORT_APISERVER, "protocol", "TCP");
    JSON_AUTO slice = json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:s, s:[{s:[s], s:{s:b}}], s:[{s:s, s:i, s:s}]}", "apiVersion", "discovery.k8s.io/v1", "kind", "EndpointSlice", "metadata", "name", "kubernetes",
                                "labels", "kubernetes.io/service-name", "kubernetes", "addressType", "IPv4", "endpoints", "addresses", s->gate, "conditions", "ready", 1, "ports", "name", "https", "port",
                                PORT_APISERVER, "protocol", "TCP");
    int rc = create(c, &endpoints, "default", both, err);
    return rc < 0 ? rc : create(c, &endpoint_slices, "default", slice, err);
}

int access_version(struct client *c, char ret[32], struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = client_get_path(c, "/version", &doc, err);
    if (rc == 0 && !str_to_array(str_of(json_str_or(doc, "gitVersion", "")), ret, 32))
        rc = err_set(err, ERR_PROTOCOL, "the API server says no version");
    return rc;
}
