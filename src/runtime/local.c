/* The local runtime: a loop on a thread of its own that starts, watches, ends and starts again.
 *
 * One mutex guards the entries; whoever calls from outside changes what is wanted and wakes the loop, which does the rest. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "loop/spawn.h"
#include "loop/thread.h"
#include "runtime/internal.h"

#define BACKOFF_MIN_MS 500u
#define BACKOFF_MAX_MS 30000u
#define STABLE_MS 60000u   /* after this long a start has worked */
#define CRASHES 5          /* as many ends in a row before that: a crash loop */
#define STOP_MS 10000u
#define LOG_BYTES (16u * 1024 * 1024)
#define LOOK_MS 5000u
#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP_SELF "/proc/self/cgroup"
#define FREE_WAIT_MS 15000u

struct entry {
    struct local *runtime;
    struct run_record record; /* pid 0: nothing runs */
    char **argv, **env, *cwd; /* NULL: adopted, and nobody has asked for it yet */
    char want_hash[65];       /* of argv, env, cwd */
    uint64_t stop_timeout_ms;
    enum workload_state state;
    bool wanted, at_once;     /* at_once: start again without delay when it has ended */
    bool adopted, crash_looping;
    int quick_ends, last_exit;
    uint64_t started_mono_ms, due_ms;
    char message[256], why[128];
    struct spawn_watch *watch;
    struct timer timer; /* the next start, or SIGKILL after SIGTERM */
};

struct local {
    struct runtime base;
    char *state_dir, *log_dir;
    size_t log_max_bytes;
    uint64_t backoff_ms;
    char boot[BOOT_BYTES], cgroup_base[2048], cgroup_owner[9]; /* base: empty when there is none */
    void (*changed)(void *arg, const char *name);
    void *arg;
    struct loop_thread *thread;
    struct loop *loop;
    struct timer look_timer;
    pthread_mutex_t lock;
    pthread_cond_t emptied;
    struct map *entries;
};

/* ---- entries ---- */

static void free_strings(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        mem_free(list[i]);
    mem_free(list);
}

static char **copy_strings(const char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    char **copy = xcalloc(n + 1, sizeof(*copy));
    for (size_t i = 0; i < n; i++)
        copy[i] = xstrdup(list[i]);
    return copy;
}

static void entry_free(void *value)
{
    struct entry *e = value;
    spawn_watch_free(e->watch);
    if (e->timer.loop)
        timer_stop(&e->timer);
    free_strings(e->argv);
    free_strings(e->env);
    mem_free(e->cwd);
    mem_free(e);
}

static struct local *local_of(struct runtime *r)
{
    return CONTAINER_OF(r, struct local, base);
}

static void hash_workload(const struct workload *w, char hex[65])
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    uint8_t digest[SHA256_BYTES];
    sbuf_init(&text, 4 * 1024 * 1024);
    for (const char *const *p = w->argv; p && *p; p++)
        sbuf_add(&text, str_n(*p, strlen(*p) + 1));
    sbuf_add_char(&text, 1);
    for (const char *const *p = w->env; p && *p; p++)
        sbuf_add(&text, str_n(*p, strlen(*p) + 1));
    sbuf_add_char(&text, 1);
    sbuf_addc(&text, w->cwd ? w->cwd : "");
    hash_sha256(sbuf_str(&text), digest);
    hash_hex(digest, sizeof(digest), hex);
}

static void on_timer(struct timer *t);
static void on_exit_of(void *arg, int exit_status);

static struct entry *entry_new(struct local *l, const char *name)
{
    struct entry *e = XNEW(struct entry);
    e->runtime = l;
    e->last_exit = -1;
    e->stop_timeout_ms = STOP_MS;
    e->state = WORKLOAD_STARTING;
    snprintf(e->record.name, sizeof(e->record.name), "%s", name);
    map_set(l->entries, str_of(name), e);
    return e;
}

/* ---- on the loop, under the lock ---- */

/* Somebody has said that it is to end: it has its time for that, and nothing is started anew. */
static bool is_stopped(const struct entry *e)
{
    return !e->wanted && e->argv;
}

static void ensure_timer(struct entry *e)
{
    if (!e->timer.loop)
        timer_init(&e->timer, e->runtime->loop, on_timer, e);
}

static void remove_entry(struct entry *e)
{
    struct local *l = e->runtime;
    record_remove(l->state_dir, e->record.name);
    tree_forget(&e->record);
    map_del(l->entries, str_of(e->record.name));
    if (!map_len(l->entries))
        pthread_cond_broadcast(&l->emptied);
}

static uint64_t backoff_of(const struct entry *e)
{
    int step = e->quick_ends > 1 ? e->quick_ends - 1 : 0;
    uint64_t ms = step < 7 ? e->runtime->backoff_ms << step : BACKOFF_MAX_MS;
    return ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms;
}

static void later(struct entry *e, enum workload_state state)
{
    uint64_t delay = backoff_of(e);
    e->state = state;
    e->due_ms = clock_mono_ms() + delay;
    ensure_timer(e);
    timer_start(&e->timer, delay);
}

static const char **with_marker(const struct entry *e, char *line, size_t size)
{
    size_t n = 0;
    while (e->env[n])
        n++;
    const char **env = xcalloc(n + 2, sizeof(*env));
    for (size_t i = 0; i < n; i++)
        env[i] = e->env[i];
    snprintf(line, size, MARKER_ENV "=%s/%s", e->record.name, e->record.marker);
    env[n] = line;
    return env;
}

static int spawn(struct entry *e, struct err *err)
{
    struct local *l = e->runtime;
    char line[WORKLOAD_NAME_BYTES + MARKER_BYTES + 32];
    CLEANUP(file_closep) int log = -1;
    struct err no_log = ERR_INIT;
    if (log_file_open(l->log_dir, e->record.name, &log, &no_log) < 0)
        log_warn("a workload runs without a log", KV("workload", e->record.name), KVE(&no_log));
    CLEANUP(mem_freep) const char **env = with_marker(e, line, sizeof(line));
    struct spawn_options o = {.argv = (const char *const *)e->argv, .env = env, .cwd = e->cwd, .stdin_fd = -1, .stdout_fd = log, .stderr_fd = log, .new_session = true};
    int rc = spawn_start(&o, &e->record.pid, err);
    if (rc < 0)
        return rc;
    if ((rc = spawn_start_time(e->record.pid, &e->record.start_ticks, err)) < 0) {
        kill(-e->record.pid, SIGKILL); /* our child, and not collected: it is still the one */
        e->record.pid = 0;
        return rc;
    }
    if (*l->cgroup_base)
        tree_join(&e->record, l->cgroup_base, l->cgroup_owner);
    return 0;
}

static void start(struct entry *e)
{
    struct local *l = e->runtime;
    struct err err = ERR_INIT;
    uint8_t random[16];
    rnd_bytes(random, sizeof(random));
    hash_hex(random, sizeof(random), e->record.marker);
    memcpy(e->record.hash, e->want_hash, sizeof(e->record.hash));
    memcpy(e->record.boot, l->boot, sizeof(e->record.boot));
    e->record.cgroup[0] = 0;
    e->record.pid = 0;
    e->record.started_ms = clock_wall_ms();
    e->adopted = e->at_once = false;
    if (e->timer.loop)
        timer_stop(&e->timer);
    int rc = record_write(l->state_dir, &e->record, &err);
    if (rc == 0)
        rc = spawn(e, &err);
    if (rc == 0)
        rc = record_write(l->state_dir, &e->record, &err);
    if (rc == 0)
        rc = spawn_watch_new(l->loop, e->record.pid, on_exit_of, e, &e->watch, &err);
    e->started_mono_ms = clock_mono_ms();
    if (rc == 0) {
        e->state = WORKLOAD_RUNNING;
        log_info("workload started", KV("workload", e->record.name), KVI("pid", e->record.pid));
        return;
    }
    if (e->record.pid > 0) /* it runs and cannot be watched: better none than one that nobody knows */
        tree_signal(&e->record, SIGKILL);
    e->record.pid = 0;
    e->quick_ends++;
    snprintf(e->message, sizeof(e->message), "%s", err.msg);
    log_warn("workload cannot be started", KV("workload", e->record.name), KVE(&err));
    later(e, WORKLOAD_FAILED_TO_START);
}

static void terminate(struct entry *e, int signo)
{
    tree_signal(&e->record, signo);
    if (signo == SIGKILL)
        return;
    ensure_timer(e);
    timer_start(&e->timer, e->stop_timeout_ms);
}

/* Brings what is closer to what is wanted; called after every change. */
static void step(struct entry *e)
{
    bool runs = e->record.pid > 0;
    if (!e->wanted && !e->argv && e->state == WORKLOAD_RUNNING)
        return; /* adopted, and nobody has said anything about it */
    if (!e->wanted && !runs) {
        remove_entry(e);
    } else if (!e->wanted) {
        if (e->state != WORKLOAD_STOPPING) {
            e->state = WORKLOAD_STOPPING;
            terminate(e, SIGTERM);
        }
    } else if (!runs && (e->state == WORKLOAD_STARTING || e->at_once)) {
        start(e);
    } else if (runs && strcmp(e->record.hash, e->want_hash) != 0 && e->state != WORKLOAD_STOPPING) {
        log_info("workload is changed", KV("workload", e->record.name));
        e->at_once = true;
        e->state = WORKLOAD_STOPPING;
        terminate(e, SIGTERM);
    }
}

static void describe_end(struct entry *e, int status)
{
    if (e->why[0])
        snprintf(e->message, sizeof(e->message), "%s", e->why);
    else if (status < 0)
        snprintf(e->message, sizeof(e->message), "ended; how is not known");
    else if (WIFSIGNALED(status))
        snprintf(e->message, sizeof(e->message), "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(e->message, sizeof(e->message), "exit code %d", WEXITSTATUS(status));
    e->why[0] = 0;
}

static void tell(struct local *l, const char *name)
{
    if (l->changed)
        l->changed(l->arg, name);
}

static void on_exit_of(void *arg, int exit_status)
{
    struct entry *e = arg;
    struct local *l = e->runtime;
    char name[WORKLOAD_NAME_BYTES];
    pthread_mutex_lock(&l->lock);
    snprintf(name, sizeof(name), "%s", e->record.name);
    bool quick = clock_mono_ms() - e->started_mono_ms < STABLE_MS;
    spawn_watch_free(e->watch);
    e->watch = NULL;
    if (e->timer.loop)
        timer_stop(&e->timer);
    tree_signal(&e->record, SIGKILL); /* what it left behind */
    bool asked_for = e->why[0] != 0;
    describe_end(e, exit_status);
    e->last_exit = exit_status;
    log_info("workload ended", KV("workload", name), KVI("pid", e->record.pid), KV("how", e->message));
    e->record.pid = 0;
    if (!e->wanted) {
        remove_entry(e);
    } else if (e->at_once) {
        e->record.restarts += asked_for;
        e->state = WORKLOAD_STARTING;
        start(e);
    } else {
        e->record.restarts++;
        e->quick_ends = quick ? e->quick_ends + 1 : 1;
        e->crash_looping = e->quick_ends >= CRASHES;
        later(e, WORKLOAD_BACKOFF);
    }
    pthread_mutex_unlock(&l->lock);
    tell(l, name);
}

static void on_timer(struct timer *t)
{
    struct entry *e = t->arg;
    struct local *l = e->runtime;
    char name[WORKLOAD_NAME_BYTES];
    pthread_mutex_lock(&l->lock);
    snprintf(name, sizeof(name), "%s", e->record.name);
    if (e->record.pid > 0) {
        /* Who gave it less than usual expects that. */
        LOG_AT(e->stop_timeout_ms < STOP_MS ? LOG_INFO : LOG_WARN, "workload does not end and is killed", KV("workload", name), KVI("pid", e->record.pid));
        terminate(e, SIGKILL);
    } else {
        start(e);
    }
    pthread_mutex_unlock(&l->lock);
    tell(l, name);
}

/* Names of all entries, to be freed by the caller: what takes long is done without the lock. */
static char **names_of(struct local *l)
{
    struct map_iter it = MAP_ITER_INIT;
    size_t n = 0;
    pthread_mutex_lock(&l->lock);
    char **names = xcalloc(map_len(l->entries) + 1, sizeof(*names));
    while (map_next(l->entries, &it))
        names[n++] = xstrndup(it.key.ptr, it.key.len);
    pthread_mutex_unlock(&l->lock);
    return names;
}

static bool is_known(void *arg, const char *name)
{
    struct local *l = arg;
    return map_getc(l->entries, name) != NULL;
}

static void sweep(struct local *l)
{
    pthread_mutex_lock(&l->lock);
    if (*l->cgroup_base)
        tree_sweep(l->cgroup_base, l->cgroup_owner, is_known, l);
    pthread_mutex_unlock(&l->lock);
}

static void on_look_timer(struct timer *t)
{
    struct local *l = t->arg;
    sweep(l);
    char **names = names_of(l);
    for (size_t i = 0; names[i]; i++)
        log_file_rotate(l->log_dir, names[i], l->log_max_bytes);
    free_strings(names);
    timer_start(t, LOOK_MS);
}

/* ---- from outside ---- */

struct wake {
    struct local *runtime;
    char name[WORKLOAD_NAME_BYTES];
    bool kill;
};

static void on_wake(void *arg)
{
    struct wake *w = arg;
    struct local *l = w->runtime;
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_getc(l->entries, w->name);
    if (e && w->kill && e->record.pid > 0 && !is_stopped(e)) {
        e->at_once = e->wanted;
        terminate(e, SIGKILL);
    } else if (e) {
        step(e);
    }
    pthread_mutex_unlock(&l->lock);
    tell(l, w->name);
    mem_free(w);
}

static void wake(struct local *l, const char *name, bool kill_it)
{
    struct wake *w = XNEW(struct wake);
    *w = (struct wake){.runtime = l, .kill = kill_it};
    snprintf(w->name, sizeof(w->name), "%s", name);
    loop_post(l->loop, on_wake, w);
}

static bool good_name(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len < WORKLOAD_NAME_BYTES && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len && name[0] != '.';
}

static int local_ensure(struct runtime *r, const struct workload *w, struct err *err)
{
    struct local *l = local_of(r);
    char hash[65];
    if (!good_name(w->name) || !w->argv || !w->argv[0])
        return err_set(err, ERR_INVALID, "a workload has a name of lower-case letters, digits, '.' and '-', at most %d, and a command", WORKLOAD_NAME_BYTES - 1);
    hash_workload(w, hash);
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_getc(l->entries, w->name);
    bool news = !e || !e->wanted || strcmp(e->want_hash, hash) != 0;
    if (!e)
        e = entry_new(l, w->name);
    if (news) {
        free_strings(e->argv);
        free_strings(e->env);
        mem_free(e->cwd);
        e->argv = copy_strings(w->argv);
        e->env = copy_strings(w->env);
        e->cwd = w->cwd ? xstrdup(w->cwd) : NULL;
        e->stop_timeout_ms = w->stop_timeout_ms ? w->stop_timeout_ms : STOP_MS;
        memcpy(e->want_hash, hash, sizeof(hash));
        /* Being ended, and wanted again: it ends, then starts. */
        e->at_once = e->state == WORKLOAD_STOPPING || e->state == WORKLOAD_BACKOFF || e->state == WORKLOAD_FAILED_TO_START;
        e->wanted = true;
        e->quick_ends = 0;
        e->crash_looping = false;
    }
    pthread_mutex_unlock(&l->lock);
    if (news)
        wake(l, w->name, false);
    return 0;
}

static bool local_differs(struct runtime *r, const struct workload *w)
{
    struct local *l = local_of(r);
    char hash[65];
    hash_workload(w, hash);
    pthread_mutex_lock(&l->lock);
    const struct entry *e = map_getc(l->entries, w->name);
    bool differs = e && e->state == WORKLOAD_RUNNING && strcmp(e->record.hash, hash) != 0;
    pthread_mutex_unlock(&l->lock);
    return differs;
}

static int local_stop(struct runtime *r, const char *name, struct err *err UNUSED)
{
    struct local *l = local_of(r);
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_getc(l->entries, name);
    bool act = e && !is_stopped(e) && e->state != WORKLOAD_STOPPING;
    if (e) {
        e->wanted = e->at_once = false;
        if (!e->argv)
            e->argv = xcalloc(1, sizeof(*e->argv)); /* somebody has said something about it */
    }
    pthread_mutex_unlock(&l->lock);
    if (act)
        wake(l, name, false);
    return 0;
}

static int local_restart(struct runtime *r, const char *name, const char *why, struct err *err)
{
    struct local *l = local_of(r);
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_getc(l->entries, name);
    if (e && !is_stopped(e))
        snprintf(e->why, sizeof(e->why), "%s", why);
    pthread_mutex_unlock(&l->lock);
    if (!e)
        return err_set(err, ERR_NOT_FOUND, "no workload \"%.100s\"", name);
    wake(l, name, true);
    return 0;
}

/* Whether what runs is not what is wanted: it is ended, or about to be, and whoever asks it now asks one that goes. */
static bool goes(const struct entry *e)
{
    return e->state == WORKLOAD_RUNNING && (e->wanted ? strcmp(e->record.hash, e->want_hash) != 0 : e->argv != NULL);
}

static void fill(const struct entry *e, struct workload_status *ret)
{
    uint64_t now = clock_mono_ms();
    *ret = (struct workload_status){.state = goes(e) ? WORKLOAD_STOPPING : e->state, .pid = e->record.pid, .generation = (uint64_t)e->record.started_ms, .started_wall_ms = e->record.started_ms,
                                    .restarts = e->record.restarts, .last_exit = e->last_exit, .crash_looping = e->crash_looping, .adopted = e->adopted};
    ret->running_ms = e->record.pid > 0 ? now - e->started_mono_ms : 0;
    if (e->crash_looping && ret->running_ms > STABLE_MS)
        ret->crash_looping = false;
    snprintf(ret->message, sizeof(ret->message), "%s", e->message);
}

static void local_get(struct runtime *r, const char *name, struct workload_status *ret)
{
    struct local *l = local_of(r);
    pthread_mutex_lock(&l->lock);
    const struct entry *e = map_getc(l->entries, name);
    *ret = (struct workload_status){.state = WORKLOAD_ABSENT, .last_exit = -1};
    if (e)
        fill(e, ret);
    pthread_mutex_unlock(&l->lock);
}

static void local_each(struct runtime *r, void (*fn)(void *arg, const char *name, const struct workload_status *s), void *arg)
{
    char **names = names_of(local_of(r));
    for (size_t i = 0; names[i]; i++) {
        struct workload_status s;
        local_get(r, names[i], &s);
        if (s.state != WORKLOAD_ABSENT)
            fn(arg, names[i], &s);
    }
    free_strings(names);
}

static int local_log_tail(struct runtime *r, const char *name, size_t max_bytes, char **ret, struct err *err)
{
    if (!good_name(name))
        return err_set(err, ERR_INVALID, "no name of a workload");
    return log_file_tail(local_of(r)->log_dir, name, max_bytes, ret, err);
}

/* ---- life ---- */

static void adopt(void *arg, const struct run_record *recorded)
{
    struct local *l = arg;
    struct run_record r = *recorded;
    struct err err = ERR_INIT;
    if (!good_name(r.name))
        return;
    if (!record_find_process(&r)) {
        r.pid = 0; /* perhaps another's by now */
        tree_signal(&r, SIGKILL); /* its children may still be there: by their marker */
        tree_forget(&r);
        record_remove(l->state_dir, r.name);
        return;
    }
    struct entry *e = entry_new(l, r.name);
    e->record = r;
    e->state = WORKLOAD_RUNNING;
    e->adopted = true;
    int64_t age = clock_wall_ms() - r.started_ms;
    e->started_mono_ms = clock_mono_ms() - (age > 0 ? (uint64_t)age : 0);
    int rc = record_write(l->state_dir, &e->record, &err);
    if (rc == 0)
        rc = spawn_watch_new(l->loop, r.pid, on_exit_of, e, &e->watch, &err);
    if (rc == 0) {
        log_info("workload adopted", KV("workload", r.name), KVI("pid", r.pid));
        return;
    }
    log_warn("a workload cannot be adopted and is killed", KV("workload", r.name), KVE(&err));
    tree_signal(&r, SIGKILL);
    remove_entry(e);
}

static int on_thread_start(struct loop *loop, void *arg, struct err *err)
{
    struct local *l = arg;
    l->loop = loop;
    timer_init(&l->look_timer, loop, on_look_timer, l);
    timer_start(&l->look_timer, LOOK_MS);
    pthread_mutex_lock(&l->lock);
    int rc = record_each(l->state_dir, adopt, l, err);
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static void on_thread_end(struct loop *loop UNUSED, void *arg)
{
    struct local *l = arg;
    timer_stop(&l->look_timer);
    sweep(l);
    map_free(l->entries);
    l->entries = NULL;
}

static void stop_all(struct local *l)
{
    uint64_t until = clock_mono_ms() + FREE_WAIT_MS;
    struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    char **names = names_of(l);
    for (size_t i = 0; names[i]; i++)
        (void)!local_stop(&l->base, names[i], NULL);
    free_strings(names);
    pthread_mutex_lock(&l->lock);
    while (map_len(l->entries) && pthread_cond_timedwait(&l->emptied, &l->lock, &t) == 0)
        ;
    pthread_mutex_unlock(&l->lock);
}

static void local_free(struct runtime *r, bool stop_workloads)
{
    struct local *l = local_of(r);
    if (stop_workloads && l->thread)
        stop_all(l);
    if (l->thread)
        loop_thread_stop(l->thread);
    map_free(l->entries);
    pthread_cond_destroy(&l->emptied);
    pthread_mutex_destroy(&l->lock);
    mem_free(l->state_dir);
    mem_free(l->log_dir);
    mem_free(l);
}

/* Where this runtime's cgroups go. Several on one machine keep apart by their state directories. */
static void find_cgroups(struct local *l, const struct runtime_local_options *o)
{
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_MAX];
    hash_sha256(str_of(l->state_dir), digest);
    hash_hex(digest, sizeof(digest), hex);
    snprintf(l->cgroup_owner, sizeof(l->cgroup_owner), "%.8s", hex);
    if (!cgroup_base(o->cgroup_self ? o->cgroup_self : CGROUP_SELF, o->cgroup_root ? o->cgroup_root : CGROUP_ROOT, l->cgroup_base, sizeof(l->cgroup_base)))
        l->cgroup_base[0] = 0;
}

static const struct runtime_ops local_ops = {
    .name = "local", .ensure = local_ensure, .differs = local_differs, .stop = local_stop, .restart = local_restart, .get = local_get, .each = local_each, .log_tail = local_log_tail, .free = local_free,
};

int runtime_local_new(const struct runtime_local_options *o, struct runtime **ret, struct err *err)
{
    static const struct loop_thread_ops thread_ops = {.init = on_thread_start, .deinit = on_thread_end};
    struct local *l = XNEW(struct local);
    pthread_condattr_t attr;
    *l = (struct local){.base = {&local_ops}, .state_dir = xstrdup(o->state_dir), .log_dir = xstrdup(o->log_dir), .log_max_bytes = o->log_max_bytes ? o->log_max_bytes : LOG_BYTES,
                        .backoff_ms = o->backoff_ms ? o->backoff_ms : BACKOFF_MIN_MS, .changed = o->changed, .arg = o->arg, .entries = map_new(entry_free)};
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->emptied, &attr);
    pthread_condattr_destroy(&attr);
    record_boot(l->boot);
    find_cgroups(l, o);
    int rc = file_mkdirs(o->state_dir, 0700, err);
    if (rc == 0)
        rc = file_mkdirs(o->log_dir, 0700, err);
    if (rc == 0)
        rc = loop_thread_start("runtime", &thread_ops, l, &l->thread, err);
    if (rc < 0) {
        local_free(&l->base, false);
        return rc;
    }
    *ret = &l->base;
    return 0;
}
