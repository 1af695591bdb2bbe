#include "cmd/credentials.h"

#include "base/file.h"
#include "base/mem.h"
#include "client/client.h"
#include "crypto/pki.h"
#include "json/json.h"

#include <arpa/inet.h>

#define NAMES_MAX 32
#define LEAF_DAYS 365

struct names {
    const char *dns[NAMES_MAX + 1];
    const char *ips[NAMES_MAX + 1];
    size_t dns_count, ip_count;
};

static void add_name(struct names *n, const char *text)
{
    struct in6_addr any;
    bool is_ip = inet_pton(AF_INET, text, &any) == 1 || inet_pton(AF_INET6, text, &any) == 1;
    if (is_ip && n->ip_count < NAMES_MAX)
        n->ips[n->ip_count++] = text;
    else if (!is_ip && n->dns_count < NAMES_MAX)
        n->dns[n->dns_count++] = text;
}

static int server_names(const struct options *o, struct arena *a, struct names *n, struct err *err)
{
    struct net_addr listen;
    char text[NET_ADDR_TEXT_MAX];
    int rc = net_addr_parse(str_of(o->api_listen), &listen, err);
    if (rc < 0)
        return rc;
    static const char *const always[] = {"localhost", "kubernetes", "kubernetes.default",
                                         "kubernetes.default.svc", "127.0.0.1", "::1"};
    for (size_t i = 0; i < ARRAY_LEN(always); i++)
        add_name(n, always[i]);
    if (!net_addr_is_loopback(&listen)) {
        if (listen.sa.sa_family == AF_INET)
            inet_ntop(AF_INET, &listen.in4.sin_addr, text, sizeof(text));
        else
            inet_ntop(AF_INET6, &listen.in6.sin6_addr, text, sizeof(text));
        add_name(n, arena_strdup(a, text));
    }
    struct str rest = str_of(o->api_names), item;
    while (str_cut(&rest, ',', &item))
        if (str_trim(item).len)
            add_name(n, arena_strndup(a, str_trim(item)));
    return 0;
}

int credentials_ensure(const struct options *o, struct arena *a, struct token_pepper *ret_pepper, struct jwt_key **ret_token_key, struct err *err)
{
    const char *dir = options_path(o, a, "pki");
    struct pki_ca *ca = NULL;
    struct names names = {0};
    int rc;
    if ((rc = file_mkdirs(dir, 0700, err)) < 0 || (rc = server_names(o, a, &names, err)) < 0 ||
        (rc = pki_ca_ensure(dir, "ca", "seki", &ca, err)) < 0)
        return rc;
    const struct pki_leaf server = {.common_name = "seki-apiserver",
                                    .dns_names = names.dns,
                                    .ips = names.ips,
                                    .usage = PKI_SERVER,
                                    .days = LEAF_DAYS};
    const struct pki_leaf admin = {.common_name = "admin",
                                   .orgs = (const char *const[]){"system:masters", NULL},
                                   .usage = PKI_CLIENT,
                                   .days = LEAF_DAYS};
    const struct pki_leaf gateway = {.common_name = "system:seki:gateway",
                                     .orgs = (const char *const[]){"system:seki:gateways", NULL},
                                     .usage = PKI_CLIENT,
                                     .days = LEAF_DAYS};
    rc = pki_leaf_ensure(ca, dir, "apiserver", &server, NULL, err);
    if (rc == 0)
        rc = pki_leaf_ensure(ca, dir, "admin", &admin, NULL, err);
    if (rc == 0)
        rc = pki_leaf_ensure(ca, dir, "gateway", &gateway, NULL, err);
    if (rc == 0)
        rc = token_pepper_ensure(options_path(o, a, "pki/pepper"), ret_pepper, err);
    if (rc == 0)
        rc = jwt_key_ensure(options_path(o, a, "pki/service-accounts.key"), ret_token_key, err);
    pki_ca_free(ca);
    return rc;
}

/* The file's bytes in base64, as kubeconfig's *-data members want them. */
static int put_file(json_t *obj, const char *key, const char *path, struct err *err)
{
    CLEANUP(mem_freep) char *pem = NULL;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    size_t len = 0;
    int rc = file_read(path, 64 * 1024, &pem, &len, err);
    if (rc < 0)
        return rc;
    sbuf_init(&text, 128 * 1024);
    base64_encode(str_n(pem, len), &text);
    json_object_set_new(obj, key, json_stringn(text.ptr, text.len));
    mem_wipe(text.ptr, text.len);
    mem_wipe(pem, len);
    return 0;
}

int credentials_write_kubeconfig(const struct options *o, struct arena *a, const struct net_addr *addr,
                                 struct err *err)
{
    char text[NET_ADDR_TEXT_MAX];
    net_addr_format(addr, text);
    JSON_AUTO cluster = json_pack("{s:o}", "server", json_sprintf("https://%s", text));
    JSON_AUTO user = json_object();
    int rc;
    if ((rc = put_file(cluster, "certificate-authority-data", options_path(o, a, "pki/ca.crt"), err)) < 0 ||
        (rc = put_file(user, "client-certificate-data", options_path(o, a, "pki/admin.crt"), err)) < 0 ||
        (rc = put_file(user, "client-key-data", options_path(o, a, "pki/admin.key"), err)) < 0)
        return rc;
    JSON_AUTO config = client_kubeconfig_new("seki", json_incref(cluster), "admin", json_incref(user), "seki", "default");
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 256 * 1024);
    json_write_pretty(config, &out);
    sbuf_add_char(&out, '\n');
    if (!sbuf_ok(&out))
        return err_set(err, ERR_TOO_LARGE, "kubeconfig over its maximum size");
    return file_write(options_path(o, a, "admin.kubeconfig"), sbuf_str(&out), 0600, err);
}
