/* The certificates of a cluster, and the files that name them. */
#include "kaas/internal.h"

#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "json/yaml.h"
#include "kinds/borrowed.h"

#define CONF_MAX (1024 * 1024)
#define KUBECONFIG_MAX 65536
#define NAMES_MAX 32
#define HANDED_OUT "admin" /* the leaf that leaves this machine */

enum authority { CA, FRONT_PROXY_CA, ETCD_CA, AUTHORITIES };
static const struct {
    const char *file, *common_name;
} authorities[AUTHORITIES] = {{"ca", "kubernetes"}, {"front-proxy-ca", "front-proxy-ca"}, {"etcd-ca", "etcd-ca"}};

/* Which names a server's certificate is for. */
enum names { NONE, ADDRESS, API };
static const struct {
    const char *file;
    enum authority by;
    const char *common_name, *org;
    int usage;
    enum names names;
} leaves[] = {
    {"apiserver", CA, "kube-apiserver", NULL, PKI_SERVER, API},
    {"apiserver-kubelet-client", CA, "kube-apiserver-kubelet-client", NULL, PKI_CLIENT, NONE},
    {"controllers", CA, "system:kube-controller-manager", NULL, PKI_SERVER | PKI_CLIENT, ADDRESS},
    {"scheduler", CA, "system:kube-scheduler", NULL, PKI_SERVER | PKI_CLIENT, ADDRESS},
    {"super-admin", CA, "kubernetes-super-admin", "system:masters", PKI_CLIENT, NONE},
    {"admin", CA, "kubernetes-admin", "kubeadm:cluster-admins", PKI_CLIENT, NONE},
    {"front-proxy-client", FRONT_PROXY_CA, "front-proxy-client", NULL, PKI_CLIENT, NONE},
    {"etcd", ETCD_CA, "etcd-0", NULL, PKI_SERVER | PKI_CLIENT, ADDRESS},
    {"apiserver-etcd-client", ETCD_CA, "kube-apiserver-etcd-client", NULL, PKI_CLIENT, NONE},
};

/* ---- names ---- */

struct names_of {
    const char *dns[NAMES_MAX + 1], *ips[NAMES_MAX + 1];
    size_t dns_count, ip_count;
    char full[192], first_service[16];
};

static void add_dns(struct names_of *n, const char *name)
{
    if (n->dns_count < NAMES_MAX)
        n->dns[n->dns_count++] = name;
}

static void add_ip(struct names_of *n, const char *ip)
{
    if (n->ip_count < NAMES_MAX)
        n->ips[n->ip_count++] = ip;
}

static bool is_ip(const char *text)
{
    return strchr(text, ':') || strspn(text, "0123456789.") == strlen(text);
}

static void collect_names(enum names which, const struct cluster *c, const struct site *s, struct names_of *n)
{
    struct cluster_network services;
    if (which == NONE)
        return;
    add_dns(n, "localhost");
    for (int m = 0; m < site_members(s); m++) /* one machine has all of them: they share certificates */
        add_ip(n, member_address(s, m));
    if (which == ADDRESS) {
        add_ip(n, "127.0.0.1");
        return;
    }
    snprintf(n->full, sizeof(n->full), "kubernetes.default.svc.%.128s", c->spec.network.service_domain);
    add_dns(n, "kubernetes");
    add_dns(n, "kubernetes.default");
    add_dns(n, "kubernetes.default.svc");
    add_dns(n, n->full);
    if (cluster_network_parse(c->spec.network.service_cidr, &services, NULL) == 0) {
        cluster_network_address(&services, 1, n->first_service);
        add_ip(n, n->first_service);
    }
    if (s->with_nodes)
        add_ip(n, s->gate);
    for (size_t i = 0; i < c->spec.endpoint_names.count; i++) {
        const char *name = ((const char *const *)c->spec.endpoint_names.items)[i];
        if (is_ip(name))
            add_ip(n, name);
        else
            add_dns(n, name);
    }
}

/* ---- making them ---- */

static int make_leaves(struct pki_ca *const cas[AUTHORITIES], const struct cluster *c, const struct site *s, const char *dir, uint64_t life_ms, bool *made, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(leaves); i++) {
        if (!strcmp(leaves[i].file, HANDED_OUT) && s->warm && !*s->name)
            continue; /* whoever gets the place gets credentials that nobody can have had before */
        struct names_of n = {0};
        collect_names(leaves[i].names, c, s, &n);
        const char *const orgs[] = {leaves[i].org, NULL};
        const struct pki_leaf leaf = {.common_name = leaves[i].common_name, .orgs = leaves[i].org ? orgs : NULL, .dns_names = n.dns, .ips = n.ips, .usage = leaves[i].usage, .anew = s->claiming && leaves[i].names == API,
                                      .days = (int)(life_ms / 86400000u), .seconds = life_ms < 86400000u ? (int)(life_ms / 1000) : 0};
        bool now = false;
        int rc = pki_leaf_ensure(cas[leaves[i].by], dir, leaves[i].file, &leaf, &now, err);
        if (rc < 0)
            return rc;
        *made |= now;
    }
    return 0;
}

int cluster_pki_ensure(const struct cluster *c, const struct site *s, uint64_t life_ms, bool *ret_made, struct err *err)
{
    struct pki_ca *cas[AUTHORITIES] = {0};
    CLEANUP(mem_freep) char *dir = xasprintf("%s/pki", s->dir);
    bool made = false;
    int rc = file_mkdirs(dir, 0700, err);
    for (size_t i = 0; rc == 0 && i < AUTHORITIES; i++)
        rc = pki_ca_ensure(dir, authorities[i].file, authorities[i].common_name, &cas[i], err);
    if (rc == 0)
        rc = pki_key_pair_ensure(dir, "sa", err);
    if (rc == 0)
        rc = make_leaves(cas, c, s, dir, life_ms, &made, err);
    for (size_t i = 0; i < AUTHORITIES; i++)
        pki_ca_free(cas[i]);
    if (rc == 0 && ret_made)
        *ret_made = made;
    return rc;
}

int cluster_pki_pin(const struct site *s, char ret[PKI_PIN_MAX], struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/pki/apiserver.crt", s->dir);
    return pki_certificate_pin(path, ret, err);
}

/* ---- kubeconfigs and the rest of conf/ ---- */

static json_t *kubeconfig(const struct site *s, const char *name, const char *context, json_t *cluster, json_t *user)
{
    char server[64];
    snprintf(server, sizeof(server), "https://%s:%d", s->address, PORT_APISERVER);
    json_object_set_new(cluster, "server", json_string(server));
    return client_kubeconfig_new(name, cluster, context, user, context, NULL);
}

json_t *kubeconfig_by_path(const struct site *s, const char *leaf)
{
    char ca[1024], cert[1024], key[1024];
    snprintf(ca, sizeof(ca), "%s/pki/ca.crt", s->dir);
    snprintf(cert, sizeof(cert), "%s/pki/%s.crt", s->dir, leaf);
    snprintf(key, sizeof(key), "%s/pki/%s.key", s->dir, leaf);
    return kubeconfig(s, s->warm ? "kubernetes" : s->name, leaf, json_pack("{s:s}", "certificate-authority", ca), json_pack("{s:s, s:s}", "client-certificate", cert, "client-key", key));
}

/* A file's bytes in base64. */
static int encoded(const struct site *s, const char *file, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/pki/%s", s->dir, file);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    char *bytes = NULL;
    size_t len = 0;
    int rc = file_read(path, CONF_MAX, &bytes, &len, err);
    if (rc < 0)
        return rc;
    sbuf_init(&text, 2 * CONF_MAX);
    base64_encode(str_n(bytes, len), &text);
    mem_wipe(bytes, len);
    mem_free(bytes);
    *ret = json_stringn(text.ptr, text.len);
    mem_wipe(text.ptr, text.len);
    return 0;
}

int kubeconfig_embedded(const struct site *s, const char *leaf, const char *context, json_t **ret, struct err *err)
{
    JSON_AUTO ca = NULL;
    JSON_AUTO cert = NULL;
    JSON_AUTO key = NULL;
    char cert_file[64], key_file[64];
    snprintf(cert_file, sizeof(cert_file), "%s.crt", leaf);
    snprintf(key_file, sizeof(key_file), "%s.key", leaf);
    int rc = encoded(s, "ca.crt", &ca, err);
    if (rc == 0)
        rc = encoded(s, cert_file, &cert, err);
    if (rc == 0)
        rc = encoded(s, key_file, &key, err);
    if (rc == 0)
        *ret = kubeconfig(s, s->name, context, json_pack("{s:O}", "certificate-authority-data", ca), json_pack("{s:O, s:O}", "client-certificate-data", cert, "client-key-data", key));
    return rc;
}

int kubeconfig_secret(const struct site *s, const json_t *owner, const char *name, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *context = xasprintf("%s-admin", s->name);
    CLEANUP(sbuf_deinit) struct sbuf text = {0}, coded = {0};
    JSON_AUTO config = NULL;
    int rc = kubeconfig_embedded(s, "admin", context, &config, err);
    if (rc < 0)
        return rc;
    sbuf_init(&text, KUBECONFIG_MAX);
    sbuf_init(&coded, 2 * KUBECONFIG_MAX);
    yaml_write(config, &text);
    base64_encode(sbuf_str(&text), &coded);
    json_t *secret = obj_new(&kind_secret, s->ns, name);
    json_object_set_new(secret, "type", json_string("Opaque"));
    json_object_set_new(secret, "data", json_pack("{s:s%}", CLUSTER_SECRET_KEY, coded.ptr, coded.len));
    obj_add_owner(secret, owner);
    mem_wipe(text.ptr, text.len);
    mem_wipe(coded.ptr, coded.len);
    *ret = secret;
    return 0;
}

int cluster_conf_write(const struct site *s, const char *name, json_t *doc, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/conf/%s.json", s->dir, name);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    CLEANUP(mem_freep) char *there = NULL;
    size_t len = 0;
    sbuf_init(&text, CONF_MAX);
    json_write_pretty(doc, &text);
    json_decref(doc);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "conf/%s.json would be larger than %d bytes", name, CONF_MAX);
    if (file_read(path, CONF_MAX, &there, &len, NULL) == 0 && str_eq(str_n(there, len), sbuf_str(&text)))
        return 0;
    return file_write(path, sbuf_str(&text), 0600, err);
}

int cluster_conf_ensure(const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/conf", s->dir);
    int rc = file_mkdirs(dir, 0700, err);
    if (rc == 0)
        rc = cluster_conf_write(s, "controllers", kubeconfig_by_path(s, "controllers"), err);
    if (rc == 0)
        rc = cluster_conf_write(s, "scheduler", kubeconfig_by_path(s, "scheduler"), err);
    return rc;
}
