/* seki cluster kubeconfig: the administrator's, which lies in a Secret of the project; one for somebody else, with a certificate of the cluster's own for a user and groups (--user); or one
 * without any secret, for whoever logs in with `seki login` (--oidc).
 *
 * For --user the key is made here and goes nowhere: the request for its certificate is made and approved in the cluster, by its administrator, who is whoever may read that Secret. */
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "cmd/kubeconfig_edit.h"
#include "crypto/csr.h"
#include "crypto/hash.h"
#include "json/yaml.h"
#include "kinds/borrowed.h"
#include "kinds/kaas.h"

#define LOOK_US 100000
#define SIGN_MS 30000
#define KUBECONFIG_MAX 65536
#define GROUPS_MAX 32
#define LIFE_DEFAULT_MS (8 * 3600000ll)
#define LIFE_MIN_MS 600000ll            /* Kubernetes has no shorter ones */
#define LIFE_MAX_MS (30 * 86400000ll)   /* a certificate cannot be taken back */
#define SIGNER "kubernetes.io/kube-apiserver-client"

static const struct client_resource requests = {"certificates.k8s.io", "v1", "certificatesigningrequests", false};

struct wish {
    const char *name; /* the cluster */
    const char *user; /* NULL: the administrator's kubeconfig is wanted */
    const char *groups[GROUPS_MAX + 1];
    const char *file; /* NULL: print it */
    bool people;      /* a kubeconfig that logs in */
    const char *issuer, *client_id, *issuer_ca; /* for that; issuer NULL: as the current context's user */
    int64_t life_ms;
};

/* ---- what was asked for ---- */

/* 0, or 2. */
static int check_name(const char *flag, const char *text)
{
    if (!*text || strlen(text) > CSR_NAME_MAX)
        return cli_usage_error("%s: expected 1 to %d bytes", flag, CSR_NAME_MAX);
    if (!strncmp(text, "system:", 7))
        return cli_usage_error("%s %s: names that begin with system: are Kubernetes' own; nobody gets a certificate for them", flag, text);
    return 0;
}

static int read_wish(struct cli *c, struct wish *w)
{
    const char *life = cli_flag(c, "--life"), *group;
    size_t count = 0;
    w->user = cli_flag(c, "--user");
    w->file = cli_flag(c, "--out");
    w->people = cli_switch(c, "--oidc");
    w->issuer = cli_flag(c, "--issuer");
    w->client_id = cli_flag(c, "--client-id");
    w->issuer_ca = cli_absolute(c->arena, cli_flag(c, "--issuer-ca"));
    w->life_ms = LIFE_DEFAULT_MS;
    while ((group = cli_flag(c, "--group"))) {
        if (check_name("--group", group))
            return 2;
        if (count == GROUPS_MAX)
            return cli_usage_error("--group: %d at most", GROUPS_MAX);
        w->groups[count++] = group;
    }
    if (w->people && w->user)
        return cli_usage_error("--oidc and --user: one of them");
    if (!w->issuer != !w->client_id || (!w->people && (w->issuer || w->issuer_ca)))
        return cli_usage_error("--issuer and --client-id go together, with --oidc");
    if (!w->user && (count || life))
        return cli_usage_error("--group and --life are for --user");
    if (w->user && check_name("--user", w->user))
        return 2;
    if (life && (clock_parse_duration(str_of(life), &w->life_ms) < 0 || w->life_ms < LIFE_MIN_MS || w->life_ms > LIFE_MAX_MS))
        return cli_usage_error("--life=%s: expected a duration from 10m to 720h", life);
    return cli_cluster_name(c, &w->name);
}

/* ---- the administrator's ---- */

/* 0, or 1 with the reason printed. */
static int fetch_admin(struct cli *c, const char *name, struct sbuf *ret)
{
    struct client_resource clusters = kind_resource(&kind_cluster), secrets = kind_resource(&kind_secret);
    struct err err = ERR_INIT;
    JSON_AUTO obj = NULL;
    JSON_AUTO secret = NULL;
    if (client_get(c->client, &clusters, c->ns, name, &obj, &err) < 0)
        return cli_cluster_missing(c, name, &err);
    const char *from = json_str(obj, "status.kubeconfigSecret");
    if (!from || client_get(c->client, &secrets, c->ns, from, &secret, &err) < 0) {
        if (from && err.code != ERR_NOT_FOUND)
            return cli_fail(&err);
        fprintf(stderr, "seki: cluster %s has no kubeconfig yet; `seki -n %s wait cluster/%s` waits for it\n", name, c->ns, name);
        return 1;
    }
    if (base64_decode(str_of(json_str_or(secret, "data." CLUSTER_SECRET_KEY, "")), ret, &err) < 0 || !ret->len) {
        fprintf(stderr, "seki: Secret %s has no kubeconfig\n", cli_plain(c->arena, from));
        return 1;
    }
    return 0;
}

/* ---- somebody else's ---- */

static int ask(struct client *in, const struct wish *w, const char *pem, char name[256], struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf coded = {0};
    JSON_AUTO made = NULL;
    sbuf_init(&coded, 2 * CSR_BYTES_MAX);
    base64_encode(str_of(pem), &coded);
    JSON_AUTO request = json_pack("{s:s, s:s, s:{s:s}, s:{s:s%, s:s, s:I, s:[s]}}", "apiVersion", "certificates.k8s.io/v1", "kind", "CertificateSigningRequest", "metadata", "generateName", "seki-user-",
                                  "spec", "request", coded.ptr, coded.len, "signerName", SIGNER, "expirationSeconds", (json_int_t)(w->life_ms / 1000), "usages", "client auth");
    int rc = client_create(in, &requests, NULL, request, &made, err);
    if (rc == 0 && !str_to_array(str_of(json_str_or(made, "metadata.name", "")), name, 256))
        rc = err_set(err, ERR_PROTOCOL, "the cluster gives the request no name");
    return rc;
}

static int approve(struct client *in, const char *name, struct err *err)
{
    char now[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), now);
    JSON_AUTO patch = json_pack("{s:{s:[{s:s, s:s, s:s, s:s, s:s}]}}", "status", "conditions", "type", "Approved", "status", "True", "reason", "AskedFor", "message",
                                "an administrator asked for it with seki cluster kubeconfig", "lastUpdateTime", now);
    return client_patch(in, &requests, NULL, name, "approval", patch, NULL, err);
}

static int wait_signed(struct client *in, const char *name, json_t **ret, struct err *err)
{
    for (uint64_t until = clock_mono_ms() + SIGN_MS;;) {
        JSON_AUTO request = NULL;
        json_t *list, *condition;
        size_t i;
        int rc = client_get(in, &requests, NULL, name, &request, err);
        if (rc < 0)
            return rc;
        list = json_at(request, "status.conditions");
        json_array_foreach (list, i, condition)
            if (!strcmp(json_str_or(condition, "type", ""), "Failed") || !strcmp(json_str_or(condition, "type", ""), "Denied"))
                return err_set(err, ERR_FORBIDDEN, "the cluster signs no such certificate: %s", json_str_or(condition, "message", ""));
        json_t *certificate = json_at(request, "status.certificate");
        if (json_is_string(certificate)) {
            *ret = json_incref(certificate);
            return 0;
        }
        if (clock_mono_ms() >= until)
            return err_set(err, ERR_TIMEOUT, "the cluster has not signed the certificate within %d s", SIGN_MS / 1000);
        usleep(LOOK_US);
    }
}

/* *ret: the certificate as the cluster gives it, PEM in base64. Nothing of the request stays there. */
static int sign(struct client *in, const struct wish *w, const char *pem, json_t **ret, struct err *err)
{
    char name[256];
    struct err ignored = ERR_INIT;
    int rc = ask(in, w, pem, name, err);
    if (rc < 0)
        return rc;
    rc = approve(in, name, err);
    if (rc == 0)
        rc = wait_signed(in, name, ret, err);
    (void)!client_delete(in, &requests, NULL, name, NULL, &ignored);
    return rc;
}

/* The administrator's kubeconfig becomes that of the user: the same cluster, other credentials. */
static int make_config(const struct wish *w, struct str admin, const json_t *certificate, const char *key, struct sbuf *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    CLEANUP(sbuf_deinit) struct sbuf coded = {0};
    int rc = yaml_parse(admin, KUBECONFIG_MAX, &doc, err);
    if (rc < 0)
        return rc;
    char context[CSR_NAME_MAX + 1 + 256];
    snprintf(context, sizeof(context), "%s-%s", w->name, w->user);
    sbuf_init(&coded, KUBECONFIG_MAX);
    base64_encode(str_of(key), &coded);
    const json_t *first = json_array_get(json_object_get(doc, "clusters"), 0);
    JSON_AUTO config = client_kubeconfig_new(json_str_or(first, "name", ""), json_incref(json_object_get(first, "cluster")), context,
                                             json_pack("{s:O, s:s%}", "client-certificate-data", certificate, "client-key-data", coded.ptr, coded.len), context, NULL);
    mem_wipe(coded.ptr, coded.len);
    if (!config)
        return err_set(err, ERR_INVALID, "the administrator's kubeconfig has no cluster");
    yaml_write(config, ret);
    return sbuf_ok(ret) ? 0 : err_set(err, ERR_TOO_LARGE, "the kubeconfig is too large");
}

static int tell_end(const json_t *certificate, char text[CLOCK_TEXT_MAX], struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf pem = {0};
    int64_t end = 0;
    sbuf_init(&pem, KUBECONFIG_MAX);
    int rc = base64_decode(str_of(json_string_value(certificate)), &pem, err);
    if (rc == 0)
        rc = csr_certificate_end(sbuf_str(&pem), &end, err);
    if (rc == 0)
        clock_format(end, text);
    return rc;
}

static int make_user(const struct wish *w, struct str admin, struct sbuf *ret, char end[CLOCK_TEXT_MAX], struct err *err)
{
    CLEANUP(mem_freep) char *pem = NULL, *key = NULL;
    JSON_AUTO certificate = NULL;
    struct client *in = NULL;
    int rc = client_kubeconfig_text(admin, "the administrator's kubeconfig", &in, err);
    if (rc == 0)
        rc = csr_make(w->user, w->groups, &pem, &key, err);
    if (rc == 0)
        rc = sign(in, w, pem, &certificate, err);
    if (rc == 0)
        rc = tell_end(certificate, end, err);
    if (rc == 0)
        rc = make_config(w, admin, certificate, key, ret, err);
    if (key)
        mem_wipe(key, strlen(key));
    client_free(in);
    return rc;
}

/* ---- anybody's ---- */

/* What follows an argument; NULL: it is not there. */
static const char *argument(const json_t *args, const char *name)
{
    for (size_t i = 0; i + 1 < json_array_size(args); i++)
        if (!strcmp(json_string_value(json_array_get(args, i)), name))
            return json_string_value(json_array_get(args, i + 1));
    return NULL;
}

/* The arguments of `seki credential`. */
static int login_args(struct cli *c, const struct wish *w, json_t **ret, struct err *err)
{
    const char **had = NULL;
    JSON_AUTO args = NULL;
    if (w->issuer) {
        args = json_pack("[s, s, s, s, s]", "credential", "--issuer", w->issuer, "--client-id", w->client_id);
        if (w->issuer_ca) {
            json_array_append_new(args, json_string("--issuer-ca"));
            json_array_append_new(args, json_string(w->issuer_ca));
        }
    } else {
        struct err why = ERR_INIT;
        if (kubeconfig_exec_args(c->kubeconfig, c->arena, &had, &why) < 0 || !had[0] || strcmp(had[0], "credential") != 0)
            return err_set(err, ERR_INVALID, "the current context did not come from `seki login`: name the issuer with --issuer and --client-id");
        args = json_array();
        for (size_t i = 0; had[i]; i++)
            json_array_append_new(args, json_string(had[i]));
    }
    *ret = json_incref(args);
    return 0;
}

/* Whether the cluster takes tokens of this issuer for this client. */
static int check_known(const json_t *cluster, const json_t *args, struct err *err)
{
    const char *issuer = argument(args, "--issuer"), *client = argument(args, "--client-id");
    json_t *list = json_at(cluster, "status.people"), *p, *audience;
    size_t i, n;
    json_array_foreach (list, i, p)
        if (issuer && !strcmp(json_str_or(p, "url", ""), issuer))
            json_array_foreach (json_object_get(p, "audiences"), n, audience)
                if (client && !strcmp(json_string_value(audience), client))
                    return 0;
    return err_set(err, ERR_INVALID, "the cluster takes no tokens of issuer %.200s for client %.100s; status.people of the Cluster says whose it takes", issuer ? issuer : "(none)", client ? client : "(none)");
}

static int make_login(struct cli *c, const struct wish *w, const json_t *cluster, struct sbuf *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf ca = {0};
    JSON_AUTO args = NULL;
    const char *server = json_str(cluster, "status.endpoint"), *pem = json_str(cluster, "status.certificateAuthority");
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    if (!server || !pem)
        return err_set(err, ERR_UNAVAILABLE, "cluster %s is not made yet; `seki -n %s wait cluster/%s` waits for it", w->name, c->ns, w->name);
    int rc = login_args(c, w, &args, err);
    if (rc == 0)
        rc = check_known(cluster, args, err);
    if (rc < 0)
        return rc;
    sbuf_init(&ca, KUBECONFIG_MAX);
    base64_encode(str_of(pem), &ca);
    json_t *user = json_pack("{s:{s:s, s:s, s:O, s:s, s:s, s:b}}", "exec", "apiVersion", "client.authentication.k8s.io/v1", "command", n > 0 ? self : "seki", "args", args, "interactiveMode",
                             "IfAvailable", "installHint", "seki is needed to log in to this cluster", "provideClusterInfo", 0);
    JSON_AUTO config = client_kubeconfig_new(w->name, json_pack("{s:s, s:s%}", "server", server, "certificate-authority-data", ca.ptr, ca.len), w->name, user, w->name, NULL);
    yaml_write(config, ret);
    return sbuf_ok(ret) ? 0 : err_set(err, ERR_TOO_LARGE, "the kubeconfig is too large");
}

static int login_config(struct cli *c, const struct wish *w, struct sbuf *ret)
{
    struct client_resource clusters = kind_resource(&kind_cluster);
    struct err err = ERR_INIT;
    JSON_AUTO obj = NULL;
    if (client_get(c->client, &clusters, c->ns, w->name, &obj, &err) < 0)
        return cli_cluster_missing(c, w->name, &err);
    return make_login(c, w, obj, ret, &err) < 0 ? cli_fail(&err) : 0;
}

/* ---- the verb ---- */

/* whose: in words; until: or NULL. */
static int print_kubeconfig(struct str text, const char *file, const char *whose, const char *until)
{
    struct err err = ERR_INIT;
    if (!file)
        return fwrite(text.ptr, 1, text.len, stdout) == text.len && fflush(stdout) == 0 ? 0 : 1;
    if (file_write(file, text, 0600, &err) < 0)
        return cli_fail(&err);
    fprintf(stderr, "%s are in %s%s%s\n", whose, file, until ? ", good until " : "", until ? until : "");
    return 0;
}

int cli_cluster_kubeconfig(struct cli *c)
{
    CLEANUP(sbuf_deinit) struct sbuf admin = {0}, user = {0};
    struct wish w = {0};
    struct err err = ERR_INIT;
    char until[CLOCK_TEXT_MAX];
    int rc = read_wish(c, &w);
    if (rc)
        return rc;
    if (cli_connect(c))
        return 1;
    sbuf_init(&admin, KUBECONFIG_MAX);
    sbuf_init(&user, 2 * KUBECONFIG_MAX);
    if (w.people) {
        rc = login_config(c, &w, &user);
        return rc ? rc : print_kubeconfig(sbuf_str(&user), w.file, arena_printf(c->arena, "address and login of cluster %s", w.name), NULL);
    }
    rc = fetch_admin(c, w.name, &admin);
    if (rc == 0 && w.user)
        rc = make_user(&w, sbuf_str(&admin), &user, until, &err) < 0 ? cli_fail(&err) : 0;
    if (rc == 0 && w.user)
        rc = print_kubeconfig(sbuf_str(&user), w.file, arena_printf(c->arena, "credentials of user %s of cluster %s", w.user, w.name), until);
    else if (rc == 0)
        rc = print_kubeconfig(sbuf_str(&admin), w.file, arena_printf(c->arena, "credentials of the administrator of cluster %s", w.name), NULL);
    mem_wipe(admin.ptr, admin.len);
    mem_wipe(user.ptr, user.len);
    return rc;
}
