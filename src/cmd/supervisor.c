/* The parent of the roles, or of the gateway alone: starts them, restarts them with back-off, passes signals on, leaves when both have left. Control stops the engines; those that it could not, because
 * it was down or was killed, are ended here. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/roles.h"
#include "loop/spawn.h"
#include "runtime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESTART_MIN_MS 100
#define RESTART_MAX_MS 5000
#define STEADY_MS 10000 /* a role that ran this long starts again without delay */
#define STOP_MS 660000  /* beyond the gateway's drain; then SIGKILL */
#define STOP_NOW_MS 30000 /* after SIGINT, which drains nothing */
#define LEAVING_MS 10000 /* for control to leave, whose supervisor was killed */

enum { ROLE_CONTROL, ROLE_GATEWAY, ROLE_COUNT };
static const char *const role_names[ROLE_COUNT] = {"control", "gateway"};

struct role {
    struct supervisor *sup;
    const char *name;
    const char **argv;
    pid_t pid; /* 0: not running */
    struct spawn_watch *watch;
    struct timer restart;
    uint64_t started_ms;
    uint64_t delay_ms;
    bool leaving; /* another has been started in its place: see takeover.h */
};

struct supervisor {
    const struct command_line *cl;
    struct options *options;
    struct arena *held; /* texts of reloaded options */
    struct loop *loop;
    struct role *roles[ROLE_COUNT]; /* NULL: not this one's business */
    struct role *leaving; /* the gateway whose place another takes or has taken, until it has ended what it has begun; there is one at a time, as there are two names (takeover.h) */
    struct timer kill_timer;
    bool stopping, stop_engines, replace_again; /* the last: once more when that one has left */
};

static void role_start(struct role *r);
static void replace_gateway(struct supervisor *s);
static void on_restart(struct timer *t);

static void leave_if_done(struct supervisor *s)
{
    for (int i = 0; i < ROLE_COUNT; i++)
        if (s->roles[i] && s->roles[i]->pid)
            return;
    if (s->stopping && !s->leaving)
        loop_stop(s->loop);
}

static void has_left(struct role *r)
{
    struct supervisor *s = r->sup;
    s->leaving = NULL;
    mem_free(r);
    leave_if_done(s);
    if (s->replace_again && !s->stopping)
        replace_gateway(s);
}

static void on_exit_of_role(void *arg, int status)
{
    struct role *r = arg;
    spawn_watch_free(r->watch);
    r->watch = NULL;
    r->pid = 0;
    if (r->leaving) {
        has_left(r);
        return;
    }
    if (r->sup->stopping) {
        leave_if_done(r->sup);
        return;
    }
    bool steady = clock_mono_ms() - r->started_ms >= STEADY_MS;
    r->delay_ms = steady ? RESTART_MIN_MS : MIN(r->delay_ms * 2, (uint64_t)RESTART_MAX_MS);
    log_error("role ended; it is started again", KV("role", r->name),
              KVI("exit_code", WIFEXITED(status) ? WEXITSTATUS(status) : -1),
              KVI("signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0), KVI("delay_ms", r->delay_ms));
    timer_start(&r->restart, r->delay_ms);
}

static void on_restart(struct timer *t)
{
    role_start(t->arg);
}

static void role_start(struct role *r)
{
    struct spawn_options o = {.argv = r->argv,
                              .env = (const char *const *)environ,
                              .stdin_fd = -1,
                              .stdout_fd = STDOUT_FILENO,
                              .stderr_fd = STDERR_FILENO};
    struct err err = ERR_INIT;
    r->started_ms = clock_mono_ms();
    if (spawn_start(&o, &r->pid, &err) == 0 &&
        spawn_watch_new(r->sup->loop, r->pid, on_exit_of_role, r, &r->watch, &err) == 0)
        return;
    if (r->pid)
        kill(r->pid, SIGKILL);
    r->pid = 0;
    log_error("role could not be started; trying again", KV("role", r->name), KVE(&err));
    timer_start(&r->restart, RESTART_MAX_MS);
}

static void signal_roles(struct supervisor *s, int signo)
{
    for (int i = 0; i < ROLE_COUNT; i++)
        if (s->roles[i] && s->roles[i]->pid)
            kill(s->roles[i]->pid, signo);
    if (s->leaving)
        kill(s->leaving->pid, signo);
}

static struct role *role_new(struct supervisor *s, const char *name, const char **argv)
{
    struct role *r = XNEW(struct role);
    *r = (struct role){.sup = s, .name = name, .argv = argv, .delay_ms = RESTART_MIN_MS};
    timer_init(&r->restart, s->loop, on_restart, r);
    return r;
}

/* A new gateway beside the one that runs: it takes over, and the old one leaves when what it has begun has ended. One that fails is started again, while the old one serves. */
static void replace_gateway(struct supervisor *s)
{
    struct role *old = s->roles[ROLE_GATEWAY];
    s->replace_again = s->leaving && !s->stopping;
    if (s->replace_again) {
        log_info("the gateway is replaced when the one before has ended what it has begun", KVI("pid", s->leaving->pid), KVI("timeout_ms", s->options->gateway_drain_ms));
        return;
    }
    if (s->stopping || !old->pid) {
        log_warn("the gateway is not replaced now", KV("because", s->stopping ? "it stops" : "none runs"));
        return;
    }
    log_info("the gateway is being replaced", KVI("old_pid", old->pid));
    old->leaving = true;
    s->leaving = old;
    s->roles[ROLE_GATEWAY] = role_new(s, old->name, old->argv);
    role_start(s->roles[ROLE_GATEWAY]);
}

static void on_kill_timer(struct timer *t)
{
    log_error("roles did not stop in time and are killed");
    signal_roles(t->arg, SIGKILL);
}

static void on_signal(void *arg, int signo)
{
    struct supervisor *s = arg;
    if (signo == SIGHUP) {
        if (options_reload_logged(s->cl, s->options, &s->held) == 0)
            signal_roles(s, SIGHUP);
        return;
    }
    if (signo == SIGUSR2) {
        replace_gateway(s);
        return;
    }
    bool now = signo == SIGINT;
    if (!s->stopping || (now && !s->stop_engines))
        timer_start(&s->kill_timer, now ? STOP_NOW_MS : STOP_MS);
    s->stopping = true;
    s->stop_engines = s->stop_engines || now;
    for (int i = 0; i < ROLE_COUNT; i++)
        if (s->roles[i])
            timer_stop(&s->roles[i]->restart);
    signal_roles(s, signo);
    leave_if_done(s);
}

/* This program's file; after an upgrade the new one of that name. */
static const char *program(struct arena *a)
{
    const struct str gone = STR(" (deleted)");
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
    struct str p = str_n(path, n > 0 ? (size_t)n : 0);
    if (str_ends(p, gone))
        p.len -= gone.len;
    const char *file = arena_strndup(a, p);
    return p.len && p.len < sizeof(path) && access(file, X_OK) == 0 ? file : "/proc/self/exe";
}

/* The role's command line: ours, with --role added, and not a supervisor's. */
static const char **role_argv(char **argv, const char *role, struct arena *a)
{
    size_t count = 0, n = 1;
    while (argv[count])
        count++;
    const char **out = ARENA_ARRAY(a, const char *, count + 2);
    out[0] = program(a);
    for (size_t i = 1; i < count; i++)
        if (strcmp(argv[i], SUPERVISE_FLAG) != 0)
            out[n++] = argv[i];
    out[n] = arena_printf(a, "--role=%s", role);
    return out;
}

static int end_engines(const struct options *o, struct arena *a, int *ret_ended)
{
    struct err err = ERR_INIT;
    int rc = runtime_local_end_left(options_path(o, a, "run/workloads"), ret_ended, &err);
    if (rc < 0)
        log_error("engines that were left running cannot be stopped", KVE(&err));
    return rc;
}

/* Control holds the store's lock, whoever started it. */
static int lock_store(const char *path, int *ret_fd, struct err *err)
{
    uint64_t until = clock_mono_ms() + LEAVING_MS;
    int rc;
    while ((rc = file_lock(path, ret_fd, err)) == ERR_BUSY && clock_mono_ms() < until)
        usleep(20000);
    return rc;
}

int supervisor_stop_engines(const struct options *o, struct arena *a)
{
    CLEANUP(file_closep) int lock_fd = -1, store_fd = -1;
    struct err err = ERR_INIT;
    int ended = 0, rc = 0;
    if (file_exists(options_path(o, a, "run")) && (rc = file_lock(options_path(o, a, "run/sekid.lock"), &lock_fd, &err)) == 0)
        rc = lock_store(options_path(o, a, "seki.db.lock"), &store_fd, &err);
    if (rc == ERR_BUSY)
        log_error("a sekid runs on this data directory: end it with SIGINT, which stops its engines too", KV("data", o->data));
    else if (rc < 0)
        log_error("cannot use the data directory", KV("data", o->data), KVE(&err));
    if (rc < 0 || end_engines(o, a, &ended) < 0)
        return 1;
    if (ended)
        printf("%d engine%s stopped\n", ended, ended == 1 ? "" : "s");
    else
        puts("no engine runs");
    return 0;
}

int supervisor_run(const struct command_line *cl, struct options *o, char **argv, struct arena *a)
{
    struct err err = ERR_INIT;
    struct supervisor s = {.cl = cl, .options = o};
    CLEANUP(file_closep) int lock_fd = -1, gateway_fd = -1;
    const char *gateway_lock = arena_printf(a, "run/%s.supervisor.lock", role_gateway_name(o, a)); /* two would take over from each other for ever */
    if (file_mkdirs(options_path(o, a, "run"), 0700, &err) < 0 || (!cl->supervise && file_lock(options_path(o, a, "run/sekid.lock"), &lock_fd, &err) < 0) ||
        file_lock(options_path(o, a, gateway_lock), &gateway_fd, &err) < 0) {
        if (err.code == ERR_BUSY)
            log_error(cl->supervise ? "another gateway of this name already runs on this data directory" : "another sekid already runs on this data directory", KV("data", o->data));
        else
            log_error("cannot use the data directory", KV("data", o->data), KVE(&err));
        return 1;
    }
    if (loop_new(&s.loop, &err) < 0) {
        log_error("cannot make an event loop", KVE(&err));
        return 1;
    }
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2};
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (loop_signal(s.loop, signals[i], on_signal, &s, &err) < 0) {
            log_error("cannot handle signals", KVE(&err));
            return 1;
        }
    /* Roles follow this process when it is killed: see follow_parent(). */
    setenv("SEKI_SUPERVISOR", arena_printf(a, "%d", (int)getpid()), 1);
    timer_init(&s.kill_timer, s.loop, on_kill_timer, &s);
    for (int i = cl->supervise ? ROLE_GATEWAY : 0; i < ROLE_COUNT; i++) {
        s.roles[i] = role_new(&s, role_names[i], role_argv(argv, role_names[i], a));
        role_start(s.roles[i]);
    }
    loop_run(s.loop);
    int ended;
    if (s.stop_engines && s.roles[ROLE_CONTROL])
        (void)!end_engines(o, a, &ended);
    timer_stop(&s.kill_timer);
    for (int i = 0; i < ROLE_COUNT; i++)
        mem_free(s.roles[i]);
    loop_free(s.loop);
    arena_free(s.held);
    return 0;
}
