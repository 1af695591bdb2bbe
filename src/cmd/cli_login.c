/* seki login, logout and credential: people log in at an issuer, and kubectl gets their tokens by its exec plugin. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "cmd/kubeconfig_edit.h"
#include "cmd/login_cache.h"
#include "loop/spawn.h"

#include <unistd.h>

#define SECRET_MAX 4096
#define CA_MAX (1024 * 1024)
#define SCOPES "openid profile email groups offline_access"
#define NAME_DEFAULT "seki"
#define EARLY_MS 20000 /* a token that ends so soon is as good as ended */

enum flow { FLOW_ANY, FLOW_DEVICE, FLOW_BROWSER };

struct login {
    struct cli *cli;
    struct oidc_client client;
    const char *ca_file, *secret_file, *server, *name; /* name: of the context, whose tokens are its own; NULL: the default */
    enum flow flow;
    struct login_cache cache;
};

/* ---- what was asked for ---- */

/* The file's text, in the arena. */
static int text_of_file(struct cli *c, const char *flag, const char *path, size_t max, const char **ret)
{
    struct err err = ERR_INIT;
    char *text = NULL;
    size_t len = 0;
    if (!path)
        return 0;
    if (file_read(path, max, &text, &len, &err) < 0) {
        fprintf(stderr, "seki: %s: %s\n", flag, err.msg);
        return 1;
    }
    *ret = arena_strndup(c->arena, str_trim(str_n(text, len)));
    mem_wipe(text, len);
    mem_free(text);
    return 0;
}

static int read_flow(struct login *l, const char *text)
{
    if (text && strcmp(text, "device") != 0 && strcmp(text, "browser") != 0)
        return cli_usage_error("--flow=%s: expected device or browser", text);
    l->flow = !text ? FLOW_ANY : *text == 'd' ? FLOW_DEVICE : FLOW_BROWSER;
    return 0;
}

static const char *named(const char *name)
{
    return name && *name && strcmp(name, NAME_DEFAULT) != 0 ? name : NULL;
}

/* The flags that login, logout and credential share. 0, or an exit status. */
static int read_flags(struct login *l, struct cli *c)
{
    int rc;
    const char *scopes = cli_flag(c, "--scopes");
    l->cli = c;
    l->name = named(cli_flag(c, "--name"));
    l->client = (struct oidc_client){.issuer = cli_flag(c, "--issuer"), .id = cli_flag(c, "--client-id"), .scopes = scopes ? scopes : SCOPES};
    l->ca_file = cli_absolute(c->arena, cli_flag(c, "--issuer-ca"));
    l->secret_file = cli_absolute(c->arena, cli_flag(c, "--client-secret-file"));
    if ((rc = read_flow(l, cli_flag(c, "--flow"))))
        return rc;
    if ((rc = text_of_file(c, "--issuer-ca", l->ca_file, CA_MAX, &l->client.ca_pem)))
        return rc;
    return text_of_file(c, "--client-secret-file", l->secret_file, SECRET_MAX, &l->client.secret);
}

static int need_issuer(const struct login *l)
{
    if (!l->client.issuer || strncmp(l->client.issuer, "https://", 8) != 0)
        return cli_usage_error("--issuer: expected the issuer's URL, https://…");
    if (!l->client.id || !*l->client.id)
        return cli_usage_error("--client-id: expected the name by which the issuer knows this client");
    return 0;
}

static void login_deinit(struct login *l)
{
    oidc_client_close(&l->client);
    login_cache_close(&l->cache);
}

/* ---- asking the person ---- */

static void open_browser(const char *url)
{
    const char *browser = getenv("BROWSER");
    bool screen = getenv("DISPLAY") || getenv("WAYLAND_DISPLAY");
    pid_t pid;
    if (!(browser && *browser) && !screen)
        return;
    const char *const argv[] = {browser && *browser ? browser : "xdg-open", url, NULL};
    struct spawn_options o = {.argv = argv, .env = (const char *const *)environ, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .new_session = true};
    (void)!spawn_start(&o, &pid, NULL); /* the URL is printed too */
}

static void show_url(void *arg UNUSED, const char *url)
{
    fprintf(stderr, "Log in with a browser on this machine:\n\n  %s\n\n", url);
    fflush(stderr);
    open_browser(url);
}

static void show_code(void *arg UNUSED, const char *uri, const char *full, const char *code)
{
    if (full)
        fprintf(stderr, "Log in with any browser:\n\n  %s\n\nand see that it shows the code %s (or enter it at %s).\n", full, code, uri);
    else
        fprintf(stderr, "Log in with any browser:\n\n  %s\n\nand enter the code %s\n", uri, code);
    fflush(stderr);
}

/* A browser here when there is one, else a code for one elsewhere. */
static enum flow choose_flow(const struct login *l)
{
    bool device = oidc_client_has_device_flow(&l->client), screen = getenv("BROWSER") || getenv("DISPLAY") || getenv("WAYLAND_DISPLAY");
    if (l->flow != FLOW_ANY)
        return l->flow;
    return device && (!screen || getenv("SSH_CONNECTION")) ? FLOW_DEVICE : FLOW_BROWSER;
}

static int ask_person(struct login *l, struct oidc_tokens *ret, struct err *err)
{
    int rc = choose_flow(l) == FLOW_DEVICE ? oidc_login_device(&l->client, show_code, l, ret, err) : oidc_login_browser(&l->client, show_url, l, ret, err);
    return rc < 0 ? rc : login_cache_save(&l->cache, ret, err);
}

/* ---- a token ---- */

static bool is_good(const struct oidc_tokens *t)
{
    return t->id_token && t->expires_ms - EARLY_MS > clock_wall_ms();
}

/* From what is kept, by the refresh token, or (may_ask) by the person. The cache is locked. */
static int get_tokens(struct login *l, bool may_ask, struct oidc_tokens *ret, struct err *err)
{
    CLEANUP(oidc_tokens_deinit) struct oidc_tokens kept = {0};
    int rc;
    login_cache_load(&l->cache, &kept);
    if (is_good(&kept)) {
        *ret = kept;
        kept = (struct oidc_tokens){0};
        return 0;
    }
    if (!kept.refresh_token && !may_ask)
        return err_set(err, ERR_UNAUTHENTICATED, "nobody is logged in at %.200s", l->client.issuer);
    if ((rc = oidc_client_open(&l->client, err)) < 0)
        return rc;
    if (kept.refresh_token) {
        rc = oidc_refresh(&l->client, kept.refresh_token, ret, err);
        /* An issuer that gives a new refresh token takes the old one back: nothing is shown before it is kept. */
        if (rc == 0)
            return login_cache_save(&l->cache, ret, err);
        if (rc != ERR_UNAUTHENTICATED || !may_ask)
            return rc;
    }
    return ask_person(l, ret, err);
}

static int fail(const struct err *err)
{
    bool again = err->code == ERR_UNAUTHENTICATED;
    fprintf(stderr, "seki: %s%s\n", err->msg, again ? "; `seki login` with the same flags logs in" : "");
    return 1;
}

/* Whether kubectl says that there is somebody to ask; by hand, whether there is a terminal. */
static bool may_ask(void)
{
    const char *info = getenv("KUBERNETES_EXEC_INFO");
    JSON_AUTO j = NULL;
    if (!info)
        return isatty(STDIN_FILENO);
    return json_parse(str_of(info), 1024 * 1024, &j, NULL) == 0 && json_flag(j, "spec.interactive", false);
}

int cli_credential(struct cli *c)
{
    struct login l = {0};
    struct err err = ERR_INIT;
    CLEANUP(oidc_tokens_deinit) struct oidc_tokens t = {0};
    char until[CLOCK_TEXT_MAX];
    int rc = read_flags(&l, c);
    if (rc || (rc = need_issuer(&l)) || (rc = cli_no_more(c)))
        return rc;
    if ((rc = login_cache_open(&l.client, l.name, c->arena, &l.cache, &err)) == 0)
        rc = get_tokens(&l, may_ask(), &t, &err);
    login_deinit(&l);
    if (rc < 0)
        return fail(&err);
    clock_format(t.expires_ms - EARLY_MS, until);
    JSON_AUTO j = json_pack("{s:s, s:s, s:{s:s, s:s}}", "apiVersion", "client.authentication.k8s.io/v1", "kind", "ExecCredential", "status", "token", t.id_token, "expirationTimestamp", until);
    cli_print_json(j);
    return 0;
}

/* ---- login and logout ---- */

static void push(json_t *args, const char *flag, const char *value)
{
    if (!value)
        return;
    json_array_append_new(args, json_string(flag));
    json_array_append_new(args, json_string(value));
}

static json_t *exec_stanza(const struct login *l)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    json_t *args = json_pack("[s]", "credential");
    push(args, "--issuer", l->client.issuer);
    push(args, "--client-id", l->client.id);
    push(args, "--issuer-ca", l->ca_file);
    push(args, "--client-secret-file", l->secret_file);
    push(args, "--scopes", strcmp(l->client.scopes, SCOPES) != 0 ? l->client.scopes : NULL);
    push(args, "--name", l->name);
    push(args, "--flow", l->flow == FLOW_DEVICE ? "device" : l->flow == FLOW_BROWSER ? "browser" : NULL);
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:b}", "apiVersion", "client.authentication.k8s.io/v1", "command", n > 0 ? self : "seki", "args", args, "interactiveMode", "IfAvailable",
                     "installHint", "seki is needed to log in to this cloud", "provideClusterInfo", 0);
}

static int write_entry(const struct login *l, const char *server_ca, struct err *err)
{
    JSON_AUTO exec = exec_stanza(l);
    const struct kubeconfig_entry e = {.name = l->name ? l->name : NAME_DEFAULT, .server = l->server, .ca_pem = server_ca, .ns = l->cli->ns, .exec = exec};
    return kubeconfig_put(l->cli->kubeconfig, &e, l->cli->arena, err);
}

int cli_login(struct cli *c)
{
    struct login l = {0};
    struct err err = ERR_INIT;
    CLEANUP(oidc_tokens_deinit) struct oidc_tokens t = {0};
    const char *ca_file = cli_flag(c, "--ca"), *ca = NULL;
    int rc = read_flags(&l, c);
    l.server = cli_flag(c, "--server");
    if (rc || (rc = need_issuer(&l)) || (rc = cli_no_more(c)) || (rc = text_of_file(c, "--ca", ca_file, CA_MAX, &ca)))
        return rc;
    if (!l.server || strncmp(l.server, "https://", 8) != 0)
        return cli_usage_error("--server: expected the API's URL, https://…");
    rc = login_cache_open(&l.client, l.name, c->arena, &l.cache, &err);
    if (rc == 0)
        rc = oidc_client_open(&l.client, &err);
    if (rc == 0)
        rc = ask_person(&l, &t, &err);
    if (rc == 0)
        rc = write_entry(&l, ca, &err);
    login_deinit(&l);
    if (rc < 0)
        return fail(&err);
    fprintf(stderr, "Logged in; kubectl and seki use context %s from now on.\n", l.name ? l.name : NAME_DEFAULT);
    return 0;
}

int cli_logout(struct cli *c)
{
    struct login l = {0};
    struct err err = ERR_INIT;
    CLEANUP(oidc_tokens_deinit) struct oidc_tokens t = {0};
    int rc = read_flags(&l, c);
    if (!rc && !l.client.issuer) { /* the one of the current context */
        const char **args = NULL;
        if (kubeconfig_exec_args(c->kubeconfig, c->arena, &args, &err) < 0)
            return fail(&err);
        for (size_t i = 0; args[i] && args[i + 1]; i++) {
            const char **to = !strcmp(args[i], "--issuer") ? &l.client.issuer : !strcmp(args[i], "--client-id") ? &l.client.id : !strcmp(args[i], "--scopes") ? &l.client.scopes : NULL;
            if (!strcmp(args[i], "--issuer-ca"))
                rc = text_of_file(c, "--issuer-ca", args[i + 1], CA_MAX, &l.client.ca_pem);
            if (!strcmp(args[i], "--client-secret-file"))
                rc = text_of_file(c, "--client-secret-file", args[i + 1], SECRET_MAX, &l.client.secret);
            if (!strcmp(args[i], "--name"))
                l.name = named(args[i + 1]);
            if (to)
                *to = args[i + 1];
        }
    }
    if (rc || (rc = need_issuer(&l)) || (rc = cli_no_more(c)))
        return rc;
    if ((rc = login_cache_open(&l.client, l.name, c->arena, &l.cache, &err)) < 0)
        return fail(&err);
    login_cache_load(&l.cache, &t);
    rc = login_cache_drop(&l.cache, &err);
    if (rc == 0 && t.refresh_token && (oidc_client_open(&l.client, &err) < 0 || oidc_revoke(&l.client, t.refresh_token, &err) < 0))
        fprintf(stderr, "seki: the tokens are gone from here, but the issuer was not told: %s\n", err.msg);
    login_deinit(&l);
    if (rc < 0)
        return fail(&err);
    puts("Logged out.");
    return 0;
}
