#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "loop/spawn.h"

#define WAIT_MS 10000

static struct loop *loop;

static int setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return loop_new(&loop, &err);
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

struct exit_seen {
    int calls;
    int status;
    struct spawn_watch *watch;
};

static void on_exit_seen(void *arg, int exit_status)
{
    struct exit_seen *e = arg;
    e->calls++;
    e->status = exit_status;
    spawn_watch_free(e->watch);
}

static int wait_exit(pid_t pid)
{
    struct err err = ERR_INIT;
    struct exit_seen e = {0};
    ASSERT_OK(spawn_watch_new(loop, pid, on_exit_seen, &e, &e.watch, &err));
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (!e.calls && clock_mono_ms() < end)
        loop_run_once(loop, 100);
    assert_int_equal(e.calls, 1);
    return e.status;
}

/* Runs a shell script (the test's, not the library's shell) and returns its output. */
static const char *output_of(const char *script, const struct spawn_options *base, int *ret_status)
{
    static char text[4096];
    struct err err = ERR_INIT;
    const char *argv[] = {"sh", "-c", script, NULL};
    struct spawn_options o = *base;
    int fds[2];
    pid_t pid = 0;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    o.argv = argv;
    o.stdout_fd = fds[1];
    ASSERT_OK(spawn_start(&o, &pid, &err));
    close(fds[1]);
    size_t len = 0;
    ssize_t n;
    while ((n = read(fds[0], text + len, sizeof(text) - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(fds[0]);
    *ret_status = wait_exit(pid);
    return text;
}

static const struct spawn_options plain = {.stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};

static void environment_directory_descriptors(void **state)
{
    (void)state;
    int status = 0;
    const char *env[] = {"A=1", "PATH=/usr/bin:/bin", NULL};
    struct spawn_options o = plain;
    o.env = env;
    o.cwd = "/";
    int stray = open("/dev/null", O_RDONLY); /* not close-on-exec, as some library's might be */
    assert_string_equal(
        output_of("echo $A $HOME $PWD; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; exit 3",
                  &o, &status),
        "1 /\n4\n/dev/null\n"); /* the fourth is ls's own */
    close(stray);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

static void signals_are_reset(void **state)
{
    (void)state;
    int status = 0;
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, &before);
    struct spawn_options o = plain;
    const char *env[] = {"PATH=/usr/bin:/bin", NULL};
    o.env = env;
    const char *text =
        output_of("grep -E '^Sig(Blk|Ign)' /proc/self/status; kill -TERM $$", &o, &status);
    sigprocmask(SIG_SETMASK, &before, NULL);
    unsigned long long blocked = 1, ignored = 1;
    assert_int_equal(sscanf(text, "SigBlk: %llx SigIgn: %llx", &blocked, &ignored), 2);
    assert_int_equal(blocked, 0);
    assert_int_equal(ignored & 0x7FFFFFFF, 0); /* libc keeps the two above for itself */
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
}

static void low_descriptors_are_swapped(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int fds[2];
    pid_t pid = 0;
    char text[16] = {0};
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    int saved = dup(STDIN_FILENO);
    /* Standard output of the child is our descriptor 0, which its standard input takes first. */
    assert_int_equal(dup2(fds[1], STDIN_FILENO), STDIN_FILENO);
    const char *argv[] = {"/bin/echo", "hi", NULL};
    struct spawn_options o = {.argv = argv, .stdin_fd = -1, .stdout_fd = 0, .stderr_fd = -1};
    ASSERT_OK(spawn_start(&o, &pid, &err));
    if (saved >= 0) {
        dup2(saved, STDIN_FILENO);
        close(saved);
    } else {
        close(STDIN_FILENO);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], text, sizeof(text)), 3);
    assert_string_equal(text, "hi\n");
    close(fds[0]);
    assert_int_equal(wait_exit(pid), 0);
}

static void session_and_start_time(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const char *argv[] = {"sleep", "100", NULL};
    struct spawn_options o = plain;
    pid_t pid = 0;
    uint64_t a = 0, b = 0, own = 0;
    o.argv = argv;
    o.new_session = true;
    ASSERT_OK(spawn_start(&o, &pid, &err));
    assert_int_equal(getsid(pid), pid);
    ASSERT_OK(spawn_start_time(pid, &a, &err));
    ASSERT_OK(spawn_start_time(pid, &b, &err));
    ASSERT_OK(spawn_start_time(getpid(), &own, &err));
    assert_true(a == b && a >= own && own > 0);
    kill(pid, SIGKILL);
    int status = wait_exit(pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ASSERT_ERR(spawn_start_time(pid, &a, &err), ERR_NOT_FOUND);
    struct spawn_watch *w = NULL;
    ASSERT_ERR(spawn_watch_new(loop, pid, on_exit_seen, NULL, &w, &err), ERR_NOT_FOUND);
}

static void not_our_child(void **state)
{
    (void)state;
    int status = 0;
    struct spawn_options o = plain;
    const char *env[] = {"PATH=/usr/bin:/bin", NULL};
    o.env = env;
    /* The grandchild closes the pipe of the output, else reading it would wait for its end. */
    const char *text = output_of("sleep 100 >/dev/null & echo $!", &o, &status);
    int64_t pid = 0;
    assert_int_equal(str_to_i64(str_trim(str_of(text)), 1, INT32_MAX, &pid), 0);
    kill((pid_t)pid, SIGKILL);
    /* Nobody may have collected it yet, or its new parent already has. */
    struct err err = ERR_INIT;
    struct exit_seen e = {0};
    int rc = spawn_watch_new(loop, (pid_t)pid, on_exit_seen, &e, &e.watch, &err);
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (rc == 0 && !e.calls && clock_mono_ms() < end)
        loop_run_once(loop, 100);
    if (rc == 0)
        assert_int_equal(e.status, -1);
    else
        assert_int_equal(rc, ERR_NOT_FOUND);
}

static void watch_freed_before_exit(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const char *argv[] = {"sleep", "100", NULL};
    struct spawn_options o = plain;
    struct exit_seen e = {0};
    pid_t pid = 0;
    o.argv = argv;
    ASSERT_OK(spawn_start(&o, &pid, &err));
    ASSERT_OK(spawn_watch_new(loop, pid, on_exit_seen, &e, &e.watch, &err));
    spawn_watch_free(e.watch);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    loop_run_once(loop, 0);
    assert_int_equal(e.calls, 0);
}

static void no_such_program(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const char *argv[] = {"/nonexistent/program", NULL};
    struct spawn_options o = plain;
    pid_t pid = 77;
    o.argv = argv;
    ASSERT_ERR(spawn_start(&o, &pid, &err), ERR_NOT_FOUND);
    assert_int_equal(pid, 77);
    assert_string_equal(err.msg, "start /nonexistent/program: No such file or directory");
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(environment_directory_descriptors),
        LOOP_TEST(signals_are_reset),
        LOOP_TEST(low_descriptors_are_swapped),
        LOOP_TEST(session_and_start_time),
        LOOP_TEST(not_our_child),
        LOOP_TEST(watch_freed_before_exit),
        LOOP_TEST(no_such_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
