/* The local runtime with real processes: starting, ending, starting again, adopting, and never touching a stranger. */
#include "unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/spawn.h"
#include "runtime/internal.h"

#define WAIT_MS 30000
#define W "job"

static char dir[64], state_dir[80], log_dir[80];
static struct runtime *rt;
static pid_t strangers[4];
static int stranger_fds[4];

static struct runtime_local_options options;

static void open_runtime(void)
{
    struct err err = ERR_INIT;
    ASSERT_OK(runtime_local_new(&options, &rt, &err));
}

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-runtime-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(state_dir, sizeof(state_dir), "%s/state", dir);
    snprintf(log_dir, sizeof(log_dir), "%s/log", dir);
    options = (struct runtime_local_options){.state_dir = state_dir, .log_dir = log_dir, .backoff_ms = 2};
    memset(strangers, 0, sizeof(strangers));
    open_runtime();
    return 0;
}

static int tear_down(void **state UNUSED)
{
    if (rt)
        rt->ops->free(rt, true);
    rt = NULL;
    for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
        if (strangers[i] > 0) {
            kill(strangers[i], SIGKILL);
            waitpid(strangers[i], NULL, 0);
            close(stranger_fds[i]);
        }
    return file_remove_tree(dir, NULL);
}

/* ---- helpers ---- */

static void ensure_env(const char *script, const char *const *env, uint64_t stop_ms)
{
    struct err err = ERR_INIT;
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    const struct workload w = {.name = W, .argv = argv, .env = env, .cwd = dir, .stop_timeout_ms = stop_ms};
    ASSERT_OK(rt->ops->ensure(rt, &w, &err));
}

static void ensure(const char *script)
{
    static const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    ensure_env(script, env, 0);
}

static struct workload_status now(void)
{
    struct workload_status s;
    rt->ops->get(rt, W, &s);
    return s;
}

static void stop(void)
{
    struct err err = ERR_INIT;
    ASSERT_OK(rt->ops->stop(rt, W, &err));
}

#define WAIT_FOR(condition)                                                                                                                                                         \
    do {                                                                                                                                                                            \
        uint64_t until_ = clock_mono_ms() + WAIT_MS;                                                                                                                                \
        while (!(condition)) {                                                                                                                                                      \
            if (clock_mono_ms() > until_)                                                                                                                                           \
                fail_msg("waited for %s; state %d, message \"%s\"", #condition, now().state, now().message);                                                                        \
            usleep(2000);                                                                                                                                                           \
        }                                                                                                                                                                           \
    } while (0)

static struct workload_status wait_state(enum workload_state state)
{
    WAIT_FOR(now().state == state);
    return now();
}

/* A process that is there and no zombie. */
static bool lives(pid_t pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool read = fgets(text, sizeof(text), f) != NULL;
    fclose(f);
    const char *name_end = strrchr(text, ')');
    return read && name_end && name_end[2] != 'Z' && name_end[2] != 'X';
}

static char *file_text(const char *name)
{
    char path[256], *text;
    size_t len;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return file_read(path, 1 << 20, &text, &len, NULL) < 0 ? xstrdup("") : text;
}

/* The pid that a script has written to a file, once it is there whole. */
static pid_t pid_in(const char *name)
{
    char *text = file_text(name);
    pid_t pid = strchr(text, '\n') ? (pid_t)strtol(text, NULL, 10) : 0;
    mem_free(text);
    return pid;
}

static bool file_has(const char *name, const char *what)
{
    char *text = file_text(name);
    bool has = strstr(text, what) != NULL;
    mem_free(text);
    return has;
}

static bool is_well(size_t slot)
{
    char byte = 0;
    return send(stranger_fds[slot], "x", 1, MSG_NOSIGNAL) == 1 && read(stranger_fds[slot], &byte, 1) == 1 && byte == 'x';
}

/* Somebody else's process, in a session of its own; it ends with the test. It echoes what it is sent, which a process that has been signalled to death does not. */
static pid_t stranger(size_t slot)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    pid_t pid = fork();
    if (!pid) {
        char byte;
        setsid();
        close(ends[0]);
        while (read(ends[1], &byte, 1) == 1 && write(ends[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    close(ends[1]);
    stranger_fds[slot] = ends[0];
    strangers[slot] = pid;
    assert_true(is_well(slot));
    return pid;
}

static void make_file(const char *path)
{
    char all[512];
    snprintf(all, sizeof(all), "%s/%s", dir, path);
    char *slash = strrchr(all, '/');
    *slash = 0;
    assert_int_equal(file_mkdirs(all, 0700, NULL), 0);
    *slash = '/';
    close(open(all, O_WRONLY | O_CREAT, 0600));
}

/* ---- starting ---- */

static void test_what_a_workload_is_given(void **state)
{
    (void)state;
    static const char *const env[] = {"PATH=/usr/bin:/bin", "A=b", NULL};
    int leak = open("/dev/null", O_RDONLY); /* inheritable, and must not be inherited */
    setenv("SECRET_OF_THE_PARENT", "x", 1);
    ensure_env("tr '\\0' '\\n' </proc/$$/environ >env; pwd; echo to-stderr >&2; echo $$ >pid; sleep 1000 & wait", env, 0);
    WAIT_FOR(pid_in("pid") > 0);
    struct workload_status s = wait_state(WORKLOAD_RUNNING);
    pid_t pid = pid_in("pid");
    assert_int_equal(s.pid, pid);
    assert_int_equal(getsid(pid), pid);
    assert_int_equal(getpgid(pid), pid);
    assert_true(s.started_wall_ms > 0 && !s.adopted && !s.restarts && s.last_exit == -1);
    char *text = file_text("env");
    struct str rest = str_of(text), line;
    while (str_cut(&rest, '\n', &line))
        if (line.len && !str_eqc(line, env[0]) && !str_eqc(line, env[1]) && !str_starts(line, STR("SEKI_WORKLOAD=" W "/")))
            fail_msg("it has %.*s", STR_ARG(line));
    assert_non_null(strstr(text, "A=b\n"));
    mem_free(text);
    char fds[64];
    snprintf(fds, sizeof(fds), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(fds);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && strcmp(e->d_name, "0") && strcmp(e->d_name, "1") && strcmp(e->d_name, "2"))
            fail_msg("it has descriptor %s", e->d_name);
    closedir(d);
    assert_true(file_has("log/" W ".log", dir) && file_has("log/" W ".log", "to-stderr"));
    struct err err = ERR_INIT;
    char *tail;
    ASSERT_OK(rt->ops->log_tail(rt, W, 5, &tail, &err));
    assert_string_equal(tail, "derr\n");
    mem_free(tail);
    unsetenv("SECRET_OF_THE_PARENT");
    close(leak);
}

static void test_bad_names_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "../x", "a/b", ".a", "A", "a b", "a\n"};
    const char *argv[] = {"/bin/true", NULL};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        const struct workload w = {.name = bad[i], .argv = argv};
        char *tail;
        ASSERT_ERR(rt->ops->ensure(rt, &w, &err), ERR_INVALID);
        ASSERT_ERR(rt->ops->log_tail(rt, bad[i], 10, &tail, &err), ERR_INVALID);
    }
}

static void test_missing_executable(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char path[128];
    snprintf(path, sizeof(path), "%s/engine", dir);
    const char *argv[] = {path, NULL};
    const struct workload w = {.name = W, .argv = argv};
    ASSERT_OK(rt->ops->ensure(rt, &w, &err));
    WAIT_FOR(now().state == WORKLOAD_FAILED_TO_START && now().message[0]);
    assert_non_null(strstr(now().message, path));
    assert_int_equal(now().pid, 0);
    int fd = open(path, O_WRONLY | O_CREAT, 0700);
    assert_int_equal(file_write_all(fd, STR("#!/bin/sh\nexec sleep 1000\n"), NULL), 0);
    close(fd);
    wait_state(WORKLOAD_RUNNING); /* it is tried again */
}

static void test_runs_without_a_log_when_there_can_be_none(void **state)
{
    (void)state;
    assert_int_equal(rmdir(log_dir), 0);
    ensure("echo $$ >pid; echo lost; sleep 1000 & wait");
    WAIT_FOR(pid_in("pid") > 0);
    wait_state(WORKLOAD_RUNNING);
}

/* What could not be found again is not started. */
static void test_nothing_starts_unrecorded(void **state)
{
    (void)state;
    assert_int_equal(rmdir(state_dir), 0);
    ensure("echo $$ >pid; exec sleep 1000");
    WAIT_FOR(now().state == WORKLOAD_FAILED_TO_START && now().message[0]);
    assert_int_equal(pid_in("pid"), 0);
    assert_int_equal(now().pid, 0);
}

/* ---- ending and starting again ---- */

static void test_started_again_then_crash_loop(void **state)
{
    (void)state;
    ensure("echo x >>starts; exit 3");
    WAIT_FOR(now().crash_looping);
    struct workload_status s = now();
    assert_true(s.restarts >= 5 - 1);
    assert_int_equal(WEXITSTATUS(s.last_exit), 3);
    assert_string_equal(s.message, "exit code 3");
    ensure("exec sleep 1000"); /* another command: a new beginning */
    s = wait_state(WORKLOAD_RUNNING);
    assert_false(now().crash_looping);
}

static void test_backoff_grows(void **state)
{
    (void)state;
    ensure("date +%s%N >>starts; exit 1");
    WAIT_FOR(now().crash_looping);
    char *text = file_text("starts");
    struct str rest = str_of(text), line;
    uint64_t at[16], n = 0;
    while (n < 5 && str_cut(&rest, '\n', &line) && str_to_u64(line, &at[n]) == 0)
        n++;
    assert_int_equal(n, 5);
    for (unsigned i = 0; i < 4; i++) /* at least 2, 4, 8, 16 ms apart … */
        assert_true(at[i + 1] - at[i] >= (2000000ull << (i ? i - 1 : 0)));
    mem_free(text);
}

static void test_killed_is_started_again(void **state)
{
    (void)state;
    ensure("exec sleep 1000");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    uint64_t generation = now().generation;
    kill(pid, SIGKILL);
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid);
    struct workload_status s = now();
    assert_int_equal(s.restarts, 1);
    assert_true(s.generation != generation);
    assert_string_equal(s.message, "killed by signal 9 (Killed)");
}

static void test_restart_says_why(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    ensure("exec sleep 1000");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    ASSERT_OK(rt->ops->restart(rt, W, "no token came", &err));
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid);
    assert_string_equal(now().message, "no token came");
    assert_int_equal(now().restarts, 1);
    ASSERT_ERR(rt->ops->restart(rt, "other", "", &err), ERR_NOT_FOUND);
}

static void test_same_again_is_nothing_and_changed_restarts(void **state)
{
    (void)state;
    ensure("trap 'exit 0' TERM; sleep 1000 & wait");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    ensure("trap 'exit 0' TERM; sleep 1000 & wait");
    assert_int_equal(now().pid, pid);
    assert_int_equal(now().state, WORKLOAD_RUNNING);
    ensure("trap 'exit 0' TERM; sleep 999 & wait");
    struct workload_status at_once = now(); /* the old one may run still: it is not what is wanted */
    assert_true(at_once.state != WORKLOAD_RUNNING || at_once.pid != pid);
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid);
    pid = now().pid;
    static const char *const env[] = {"PATH=/usr/bin:/bin", "MORE=1", NULL};
    ensure_env("trap 'exit 0' TERM; sleep 999 & wait", env, 0);
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid);
    assert_int_equal(now().restarts, 0); /* as we wanted it */
}

/* ---- stopping ---- */

static void test_stop_is_gentle_first(void **state)
{
    (void)state;
    ensure("trap 'echo bye >said; exit 0' TERM; echo $$ >pid; sleep 1000 & wait");
    WAIT_FOR(pid_in("pid") > 0);
    stop();
    wait_state(WORKLOAD_ABSENT);
    assert_true(file_has("said", "bye"));
    assert_false(lives(pid_in("pid")));
    stop(); /* idempotent */
    assert_true(file_exists(log_dir));
    char record[128];
    snprintf(record, sizeof(record), "%s/" W ".json", state_dir);
    assert_false(file_exists(record));
}

/* A restart kills; what was stopped ends in peace and starts no more. */
static void test_a_restart_does_not_cut_a_stop_short(void **state)
{
    static const char *const argv[] = {"/bin/sleep", "1000", NULL};
    (void)state;
    struct err err = ERR_INIT;
    struct workload_status other = {0};
    ensure("trap 'echo told >told; until [ -e go ]; do sleep 0.01; done; echo bye >said; exit 0' "
           "TERM; echo $$ >pid; sleep 1000 & wait");
    WAIT_FOR(pid_in("pid") > 0);
    stop();
    WAIT_FOR(file_has("told", "told"));
    ASSERT_OK(rt->ops->restart(rt, W, "it was not ready in time", &err));
    ASSERT_OK(rt->ops->ensure(
        rt, &(struct workload){.name = "other", .argv = argv},
        &err)); /* the runtime does one after the other: once this runs, it has seen the restart */
    WAIT_FOR((rt->ops->get(rt, "other", &other), other.state == WORKLOAD_RUNNING));
    assert_true(lives(pid_in("pid")));
    make_file("go");
    wait_state(WORKLOAD_ABSENT);
    assert_true(file_has("said", "bye"));
    ASSERT_OK(rt->ops->stop(rt, "other", &err));
    WAIT_FOR((rt->ops->get(rt, "other", &other), other.state == WORKLOAD_ABSENT));
}

static void test_whoever_ignores_sigterm_is_killed(void **state)
{
    (void)state;
    static const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    ensure_env("trap '' TERM; echo $$ >pid; while :; do sleep 1000; done", env, 50);
    WAIT_FOR(pid_in("pid") > 0);
    stop();
    wait_state(WORKLOAD_ABSENT);
    assert_false(lives(pid_in("pid")));
}

/* Children in the group, in a session of their own, and two generations away. */
#define FAMILY "sleep 1000 & echo $! >a; setsid sh -c 'echo $$ >b; exec sleep 1000' & (setsid sh -c '(echo $(sh -c \"echo \\$PPID\") >c; exec sleep 1000)' &) ; "

static void check_family(bool stopped)
{
    ensure(FAMILY "echo $$ >pid; wait");
    WAIT_FOR(pid_in("pid") > 0 && pid_in("a") > 0 && pid_in("b") > 0 && pid_in("c") > 0);
    pid_t a = pid_in("a"), b = pid_in("b"), c = pid_in("c");
    assert_true(lives(a) && lives(b) && lives(c));
    if (stopped)
        stop();
    else
        kill(pid_in("pid"), SIGKILL);
    WAIT_FOR(!lives(a) && !lives(b) && !lives(c));
}

static void test_stopped_the_whole_family_ends(void **state)
{
    (void)state;
    check_family(true);
    wait_state(WORKLOAD_ABSENT);
}

static void test_when_the_leader_dies_the_whole_family_ends(void **state)
{
    (void)state;
    check_family(false);
}

static void test_stopped_and_wanted_again(void **state)
{
    (void)state;
    const char *script = "trap 'echo told >told; until [ -e go ]; do sleep 0.01; done; exit 0' TERM; echo $$ >pid; sleep 1000 & wait";
    ensure(script);
    WAIT_FOR(pid_in("pid") > 0);
    pid_t pid = now().pid;
    stop();
    WAIT_FOR(file_has("told", "told")); /* sooner it would have been taken back */
    ensure(script);
    make_file("go");
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid);
    assert_false(lives(pid));
}

/* ---- adoption ---- */

static void reopen(void)
{
    rt->ops->free(rt, false);
    rt = NULL;
    open_runtime();
}

static void test_adopted_after_a_restart(void **state)
{
    (void)state;
    ensure("exec sleep 1000");
    struct workload_status before = wait_state(WORKLOAD_RUNNING);
    reopen();
    struct workload_status s = now();
    assert_int_equal(s.state, WORKLOAD_RUNNING);
    assert_int_equal(s.pid, before.pid);
    assert_true(s.adopted && s.generation == before.generation);
    ensure("exec sleep 1000");
    reopen();
    ensure("exec sleep 1000");
    assert_int_equal(now().pid, before.pid);
    kill(before.pid, SIGKILL); /* its end is noticed though it is no longer our child */
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != before.pid);
    reopen();
    pid_t pid = now().pid;
    stop(); /* adopted, and wanted by nobody */
    wait_state(WORKLOAD_ABSENT);
    assert_false(lives(pid));
}

static void test_adopted_with_another_command_is_restarted(void **state)
{
    (void)state;
    ensure("exec sleep 1000");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    reopen();
    ensure("exec sleep 999");
    WAIT_FOR(now().state == WORKLOAD_RUNNING && now().pid != pid && now().pid > 0);
    assert_false(lives(pid));
}

static void test_ended_while_nobody_looked(void **state)
{
    (void)state;
    ensure("(sleep 1000 & echo $! >child); exec sleep 1000");
    WAIT_FOR(pid_in("child") > 0);
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid, child = pid_in("child");
    rt->ops->free(rt, false);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(lives(child));
    open_runtime();
    assert_int_equal(now().state, WORKLOAD_ABSENT);
    WAIT_FOR(!lives(child)); /* what it left is known by its marker */
}

static void test_stop_with_the_runtime(void **state)
{
    (void)state;
    ensure("exec sleep 1000");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    rt->ops->free(rt, true);
    rt = NULL;
    assert_false(lives(pid));
}

/* ---- records that lie ---- */

static struct run_record record_of(pid_t pid)
{
    struct run_record r = {.name = W, .marker = "0123456789abcdef0123456789abcdef", .hash = "x", .pid = pid, .started_ms = clock_wall_ms()};
    record_boot(r.boot);
    assert_true(r.boot[0] != 0);
    if (pid)
        assert_int_equal(spawn_start_time(pid, &r.start_ticks, NULL), 0);
    return r;
}

static void put_record(const struct run_record *r)
{
    struct err err = ERR_INIT;
    rt->ops->free(rt, false);
    rt = NULL;
    ASSERT_OK(record_write(state_dir, r, &err));
    open_runtime();
}

/* Nothing was adopted; stopping it, the whole program with its workloads, and wanting something of that name touches no stranger. */
static void expect_untouched(pid_t pid)
{
    assert_int_equal(now().state, WORKLOAD_ABSENT);
    stop();
    ensure("exec sleep 1000");
    wait_state(WORKLOAD_RUNNING);
    assert_true(now().pid != pid);
    rt->ops->free(rt, true);
    rt = NULL;
    assert_true(is_well(0));
    open_runtime();
}

static void test_a_recycled_pid_is_a_stranger(void **state)
{
    (void)state;
    pid_t pid = stranger(0);
    struct run_record r = record_of(pid);
    r.start_ticks--; /* the number was another's before */
    put_record(&r);
    expect_untouched(pid);
}

static void test_records_from_before_a_reboot(void **state)
{
    (void)state;
    pid_t pid = stranger(0);
    struct run_record r = record_of(pid);
    r.boot[0] = r.boot[0] == '0' ? '1' : '0';
    put_record(&r);
    expect_untouched(pid);
}

/* The number of an adopted workload that has ended meanwhile is another's now: its signals go to nobody. */
static void test_signals_go_to_no_stranger(void **state)
{
    (void)state;
    pid_t pid = stranger(0);
    struct run_record r = record_of(pid);
    r.start_ticks--;
    tree_signal(&r, SIGTERM);
    tree_signal(&r, SIGKILL);
    assert_true(is_well(0));
    r.pid = 1;
    tree_signal(&r, 0);
    r.start_ticks++;
    r.pid = pid;
    tree_signal(&r, SIGKILL);
    WAIT_FOR(!lives(pid));
}

static void test_a_foreign_cgroup_is_not_killed(void **state)
{
    (void)state;
    char path[256], text[32];
    pid_t pid = stranger(0);
    struct run_record r = record_of(0);
    snprintf(path, sizeof(path), "%s/procs", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/procs/cgroup.procs", dir);
    snprintf(text, sizeof(text), "%d\n", (int)pid);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(file_write_all(fd, str_of(text), NULL), 0);
    close(fd);
    snprintf(r.cgroup, sizeof(r.cgroup), "%s/procs", dir);
    put_record(&r);
    assert_true(is_well(0));
    snprintf(r.cgroup, sizeof(r.cgroup), "%s/seki-x/../procs", dir);
    put_record(&r);
    assert_true(is_well(0));
}

static void test_broken_records_are_removed(void **state)
{
    (void)state;
    static const char *const broken[] = {"", "{", "[]", "{}", "{\"name\":\"../../x\",\"marker\":\"m\"}", "{\"name\":\"job\",\"marker\":\"\",\"pid\":1}",
                                         "{\"name\":\"job\",\"marker\":\"0123456789abcdef0123456789abcdef\",\"pid\":-1,\"startTicks\":-5}",
                                         "{\"name\":\"job\",\"marker\":\"0123456789abcdef0123456789abcdef\",\"pid\":1e99}"};
    char path[128];
    snprintf(path, sizeof(path), "%s/" W ".json", state_dir);
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        rt->ops->free(rt, false);
        rt = NULL;
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(file_write_all(fd, str_of(broken[i]), NULL), 0);
        close(fd);
        open_runtime();
        assert_int_equal(now().state, WORKLOAD_ABSENT);
        assert_false(file_exists(path));
    }
}

/* Killed between the start and writing it down: the marker finds it. */
static void test_an_intent_is_found_by_its_marker(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct run_record r = record_of(0);
    static const char *const env[] = {"SEKI_WORKLOAD=" W "/0123456789abcdef0123456789abcdef", NULL};
    const char *argv[] = {"/bin/sleep", "1000", NULL};
    const struct spawn_options o = {.argv = argv, .env = env, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .new_session = true};
    ASSERT_OK(spawn_start(&o, &strangers[0], &err));
    stranger_fds[0] = -1;
    put_record(&r);
    assert_int_equal(now().pid, strangers[0]);
    assert_true(now().adopted);
    stop();
    wait_state(WORKLOAD_ABSENT);
    assert_false(lives(strangers[0]));
}

/* ---- cgroups ---- */

static void test_where_cgroups_are_made(void **state)
{
    (void)state;
    static const struct {
        const char *self, *root, *want; /* want NULL: nowhere */
    } cases[] = {
        {"0::/a/b\n", "v2", "v2/a/b"},
        {"0::/\n", "v2", "v2"},
        {"12:pids:/p\n5:cpu,cpuacct:/c\n0::/a/b\n", "hybrid", "hybrid/unified/a/b"},
        {"12:pids:/p\n1:name=systemd:/s\n", "v1", "v1/pids/p"},
        {"12:pids:/p\n0::/a/b\n", "v1", "v1/pids/p"},
        {"12:cpu,pids:/p\n", "v1", "v1/pids/p"},
        {"12:memory:/p\n", "v1", NULL},
        {"0::/not/there\n", "v2", NULL},
        {"0::/a/b\n", "none", NULL},
        {"", "v2", NULL},
        {"0:\n:\n::\n\n0::relative\n", "v2", NULL},
    };
    static const char *const files[] = {"v2/cgroup.controllers", "v2/a/b/cgroup.procs", "hybrid/unified/cgroup.controllers", "hybrid/unified/a/b/cgroup.procs", "hybrid/pids/cgroup.procs",
                                        "v1/pids/cgroup.procs", "v1/pids/p/cgroup.procs"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        make_file(files[i]);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char root[128], want[256], base[2048];
        snprintf(root, sizeof(root), "%s/%s", dir, cases[i].root);
        snprintf(want, sizeof(want), "%s/%s", dir, cases[i].want ? cases[i].want : "");
        bool found = cgroup_find_base(str_of(cases[i].self), root, base, sizeof(base));
        if (found != !!cases[i].want || (found && strcmp(base, want) != 0))
            fail_msg("case %zu: %s", i, found ? base : "nowhere");
    }
}

static struct str only_entry(const char *path, char name[256])
{
    DIR *d = opendir(path);
    name[0] = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, "seki-", 5))
            snprintf(name, 256, "%s", e->d_name);
    if (d)
        closedir(d);
    return str_of(name);
}

/* Neither session nor marker finds it; the cgroup does. A directory plays the part of the kernel. */
static void test_a_runaway_is_found_in_the_cgroup(void **state)
{
    (void)state;
    char self[128], root[128], path[512], name[256], text[32];
    snprintf(self, sizeof(self), "%s/self", dir);
    snprintf(root, sizeof(root), "%s/v2", dir);
    make_file("v2/cgroup.controllers");
    int fd = open(self, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(file_write_all(fd, STR("0::/\n"), NULL), 0);
    close(fd);
    options.cgroup_root = root;
    options.cgroup_self = self;
    reopen();
    ensure("exec sleep 1000");
    pid_t pid = wait_state(WORKLOAD_RUNNING).pid;
    assert_true(str_ends(only_entry(root, name), STR("-" W)));
    snprintf(path, sizeof(path), "v2/%s/cgroup.procs", name);
    snprintf(text, sizeof(text), "%d", (int)pid);
    assert_true(file_has(path, text));
    pid_t runaway = stranger(0);
    snprintf(path, sizeof(path), "%s/v2/%s/cgroup.procs", dir, name);
    snprintf(text, sizeof(text), "%d\n%d\n", (int)pid, (int)runaway);
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(file_write_all(fd, str_of(text), NULL), 0);
    close(fd);
    reopen(); /* the adopted one has it still */
    stop();
    WAIT_FOR(!lives(runaway));
    wait_state(WORKLOAD_ABSENT);
}

/* The machine's own, where this user may make one. */
static void test_a_real_cgroup_is_made_and_removed(void **state)
{
    (void)state;
    char base[2048], name[256];
    if (!cgroup_base("/proc/self/cgroup", "/sys/fs/cgroup", base, sizeof(base)))
        skip();
    ensure("until [ -e go ]; do sleep 0.01; done; (env -i setsid sh -c 'echo $$ >runaway; exec sleep 1000' &); exec sleep 1000");
    wait_state(WORKLOAD_RUNNING);
    make_file("go");
    WAIT_FOR(pid_in("runaway") > 0);
    pid_t runaway = pid_in("runaway");
    struct run_record r;
    char *text = file_text("state/" W ".json");
    const char *at = strstr(text, "seki-");
    assert_non_null(at);
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(at, "\""), at);
    mem_free(text);
    snprintf(r.cgroup, sizeof(r.cgroup), "%s/%s", base, name);
    assert_true(file_exists(r.cgroup));
    stop();
    wait_state(WORKLOAD_ABSENT);
    WAIT_FOR(!lives(runaway));
    WAIT_FOR(!file_exists(r.cgroup));
}

/* ---- logs ---- */

static void test_logs_are_rotated(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char path[128];
    int fd;
    ASSERT_OK(log_file_open(log_dir, W, &fd, &err));
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(dprintf(fd, "line %04u\n", i), 10);
    log_file_rotate(log_dir, W, 20000); /* not yet */
    snprintf(path, sizeof(path), "%s/" W ".log.1", log_dir);
    assert_false(file_exists(path));
    log_file_rotate(log_dir, W, 5000);
    char *old = file_text("log/" W ".log.1"), *fresh = file_text("log/" W ".log");
    assert_int_equal(strlen(old), 5000); /* the newest of it */
    assert_true(str_starts(str_of(old), STR("line 0500\n")) && str_ends(str_of(old), STR("line 0999\n")));
    assert_string_equal(fresh, "");
    mem_free(old);
    mem_free(fresh);
    dprintf(fd, "after\n"); /* the same descriptor goes on at the beginning */
    assert_true(file_has("log/" W ".log", "after"));
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 6);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
}

static void test_logs_follow_no_links(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char path[128], target[128], *tail;
    int fd = -1;
    make_file("target");
    snprintf(target, sizeof(target), "%s/target", dir);
    snprintf(path, sizeof(path), "%s/" W ".log", log_dir);
    assert_int_equal(symlink(target, path), 0);
    assert_true(log_file_open(log_dir, W, &fd, &err) < 0);
    assert_true(log_file_tail(log_dir, W, 10, &tail, &err) < 0);
    log_file_rotate(log_dir, W, 0);
    assert_true(file_exists(target));
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_a_workload_is_given),
        TEST(test_bad_names_are_refused),
        TEST(test_missing_executable),
        TEST(test_runs_without_a_log_when_there_can_be_none),
        TEST(test_nothing_starts_unrecorded),
        TEST(test_started_again_then_crash_loop),
        TEST(test_backoff_grows),
        TEST(test_killed_is_started_again),
        TEST(test_restart_says_why),
        TEST(test_same_again_is_nothing_and_changed_restarts),
        TEST(test_stop_is_gentle_first),
        TEST(test_a_restart_does_not_cut_a_stop_short),
        TEST(test_whoever_ignores_sigterm_is_killed),
        TEST(test_stopped_the_whole_family_ends),
        TEST(test_when_the_leader_dies_the_whole_family_ends),
        TEST(test_stopped_and_wanted_again),
        TEST(test_adopted_after_a_restart),
        TEST(test_adopted_with_another_command_is_restarted),
        TEST(test_ended_while_nobody_looked),
        TEST(test_stop_with_the_runtime),
        TEST(test_a_recycled_pid_is_a_stranger),
        TEST(test_records_from_before_a_reboot),
        TEST(test_signals_go_to_no_stranger),
        TEST(test_a_foreign_cgroup_is_not_killed),
        TEST(test_broken_records_are_removed),
        TEST(test_an_intent_is_found_by_its_marker),
        TEST(test_where_cgroups_are_made),
        TEST(test_a_runaway_is_found_in_the_cgroup),
        TEST(test_a_real_cgroup_is_made_and_removed),
        TEST(test_logs_are_rotated),
        TEST(test_logs_follow_no_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
