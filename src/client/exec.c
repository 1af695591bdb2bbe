/* A kubeconfig's user who has a program for credentials (client.authentication.k8s.io/v1), as kubectl runs it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "client/http_internal.h"
#include "loop/spawn.h"

#define OUTPUT_MAX (1024 * 1024)
#define TIMEOUT_MS (11 * 60 * 1000) /* a person may be logging in */
#define API_VERSION "client.authentication.k8s.io/v1"

static const char **list_of(const json_t *texts, size_t before, struct arena *a)
{
    const char **list = ARENA_ARRAY(a, const char *, json_array_size(texts) + before + 1);
    for (size_t i = 0; i < json_array_size(texts); i++)
        list[before + i] = json_string_value(json_array_get(texts, i)) ? json_string_value(json_array_get(texts, i)) : "";
    return list;
}

static const char **environment(const json_t *exec, bool interactive, struct arena *a)
{
    const json_t *own = json_object_get(exec, "env");
    size_t count = 0, n = 0;
    while (environ[count])
        count++;
    const char **env = ARENA_ARRAY(a, const char *, count + json_array_size(own) + 2);
    /* Of two with one name programs see the first. */
    env[n++] = arena_printf(a, "KUBERNETES_EXEC_INFO={\"apiVersion\":\"" API_VERSION "\",\"kind\":\"ExecCredential\",\"spec\":{\"interactive\":%s}}", interactive ? "true" : "false");
    for (size_t i = 0; i < json_array_size(own); i++)
        env[n++] = arena_printf(a, "%s=%s", json_str_or(json_array_get(own, i), "name", ""), json_str_or(json_array_get(own, i), "value", ""));
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "KUBERNETES_EXEC_INFO=", 21) != 0)
            env[n++] = environ[i];
    return env;
}

/* All that it writes, until its end or the deadline. */
static int read_all(int fd, struct sbuf *out, struct err *err)
{
    uint64_t end_ms = clock_mono_ms() + TIMEOUT_MS;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = clock_mono_ms();
        char *to = sbuf_reserve(out, 4096);
        if (now >= end_ms)
            return err_set(err, ERR_TIMEOUT, "it gave no credentials in time");
        if (!to)
            return err_set(err, ERR_TOO_LARGE, "it wrote more than %d bytes", OUTPUT_MAX);
        if (poll(&p, 1, (int)(end_ms - now)) < 0 && errno != EINTR)
            return err_sys(err, errno, "poll");
        if (!p.revents)
            continue;
        ssize_t n = read(fd, to, 4096);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_sys(err, errno, "read");
        sbuf_commit(out, n > 0 ? (size_t)n : 0);
    }
}

static int run(const json_t *exec, const char *command, struct sbuf *out, struct err *err)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(4 * 1024 * 1024);
    CLEANUP(file_closep) int from = -1, to = -1;
    const char *mode = json_str_or(exec, "interactiveMode", "IfAvailable");
    bool terminal = isatty(0) && strcmp(mode, "Never") != 0;
    const char **argv = list_of(json_object_get(exec, "args"), 1, a);
    int fds[2], status = 0;
    pid_t pid = 0;
    argv[0] = command;
    if (!terminal && !strcmp(mode, "Always"))
        return err_set(err, ERR_UNAUTHENTICATED, "it must ask somebody, and there is no terminal");
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_sys(err, errno, "pipe");
    from = fds[0];
    to = fds[1];
    struct spawn_options o = {.argv = argv, .env = environment(exec, terminal, a), .stdin_fd = terminal ? 0 : -1, .stdout_fd = to, .stderr_fd = 2};
    int rc = spawn_start(&o, &pid, err);
    if (rc < 0)
        return rc;
    file_closep(&to);
    rc = read_all(from, out, err);
    if (rc < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (rc == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        rc = err_set(err, ERR_UNAUTHENTICATED, "it gave no credentials");
    return rc;
}

static int take(struct str text, struct client_credentials *c, struct err *err)
{
    JSON_AUTO j = NULL;
    int rc = json_parse(text, OUTPUT_MAX, &j, err);
    if (rc < 0)
        return rc;
    const char *token = json_str(j, "status.token"), *cert = json_str(j, "status.clientCertificateData"), *key = json_str(j, "status.clientKeyData");
    if (strcmp(json_str_or(j, "apiVersion", ""), API_VERSION) != 0 || strcmp(json_str_or(j, "kind", ""), "ExecCredential") != 0)
        return err_set(err, ERR_INVALID, "expected an ExecCredential of " API_VERSION);
    if ((!token && !cert) || !cert != !key)
        return err_set(err, ERR_INVALID, "expected a token, or a certificate and its key");
    if (token && (rc = client_check_token(token, err)) < 0)
        return rc;
    c->token = token ? xstrdup(token) : NULL;
    c->cert_pem = cert ? xstrdup(cert) : NULL;
    c->key_pem = key ? xstrdup(key) : NULL;
    return 0;
}

int client_exec(const json_t *exec, const char *dir, struct client_credentials *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    const char *command = json_str_or(exec, "command", "");
    if (!*command)
        return err_field(err, ERR_INVALID, "exec.command", "exec names no command");
    if (strcmp(json_str_or(exec, "apiVersion", ""), API_VERSION) != 0)
        return err_field(err, ERR_INVALID, "exec.apiVersion", "exec.apiVersion: expected " API_VERSION);
    /* As kubectl: with a slash, relative to the kubeconfig. */
    CLEANUP(mem_freep) char *path = *command != '/' && strchr(command, '/') ? xasprintf("%s/%s", dir, command) : xstrdup(command);
    sbuf_init(&out, OUTPUT_MAX);
    int rc = run(exec, path, &out, err);
    if (rc == 0)
        rc = take(sbuf_str(&out), ret, err);
    if (out.ptr)
        mem_wipe(out.ptr, out.len);
    return rc < 0 ? err_wrap(err, "%s", command) : 0;
}
