/* Programs that are run to their end. */
#include "kaas/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/spawn.h"

#define PIECE_BYTES 4096
#define SAID_MAX ((size_t)64 * 1024)
#define LINE_MAX_SHOWN 240
#define LOOK_MS 200 /* whether it must end */

/* Reads what there is; closes at the end. Beyond its maximum a buffer takes nothing more, and the writer is not held up. */
static void take(int *fd, struct sbuf *into)
{
    char piece[PIECE_BYTES];
    ssize_t n = read(*fd, piece, sizeof(piece));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        file_closep(fd);
        *fd = -1;
        return;
    }
    if (into->len + (size_t)n <= into->max)
        sbuf_add(into, str_n(piece, (size_t)n));
}

struct str tool_last_line(struct str said)
{
    struct str line, last = STR("");
    while (str_cut(&said, '\n', &line))
        if (str_trim(line).len)
            last = str_trim(line);
    if (last.len > LINE_MAX_SHOWN)
        last = str_skip(last, last.len - LINE_MAX_SHOWN);
    return last;
}

static int judge(const char *name, int status, bool timely, const struct sbuf *said, struct err *err)
{
    struct str last = tool_last_line(sbuf_str(said));
    if (!timely)
        return err_set(err, ERR_TIMEOUT, "%s was not done in time%s%.*s", name, last.len ? ": " : "", STR_ARG(last));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return err_set(err, ERR_IO, "%s: %.*s", name, STR_ARG(last.len ? last : STR("it failed and said nothing")));
}

int tool_run(const char *const *argv, uint64_t timeout_ms, const struct reconcile *r, struct sbuf *ret_out, struct err *err)
{
    static const char *const env[] = {"PATH=/usr/bin:/bin", "GOMAXPROCS=2", "GOMEMLIMIT=256MiB", NULL};
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    CLEANUP(sbuf_deinit) struct sbuf said = {0}, dropped = {0};
    int out[2], errors[2], status = 0;
    pid_t pid;
    if (access(argv[0], X_OK) < 0)
        return err_set(err, ERR_UNAVAILABLE, "this cloud has no %s of Kubernetes", name);
    if (pipe2(out, O_CLOEXEC) < 0)
        return err_sys(err, errno, "cannot make a pipe");
    CLEANUP(file_closep) int from_out = out[0], to_out = out[1];
    if (pipe2(errors, O_CLOEXEC) < 0)
        return err_sys(err, errno, "cannot make a pipe");
    CLEANUP(file_closep) int from_errors = errors[0], to_errors = errors[1];
    sbuf_init(&said, SAID_MAX);
    sbuf_init(&dropped, 0);
    int rc = spawn_start(&(struct spawn_options){.argv = argv, .env = env, .stdin_fd = -1, .stdout_fd = to_out, .stderr_fd = to_errors, .new_session = true}, &pid, err);
    if (rc < 0)
        return rc;
    file_closep(&to_out);
    file_closep(&to_errors);
    to_out = to_errors = -1;
    uint64_t until = clock_mono_ms() + timeout_ms, now;
    bool must_end = false;
    while ((from_out >= 0 || from_errors >= 0) && (now = clock_mono_ms()) < until && !(must_end = r && reconcile_must_end(r))) {
        struct pollfd p[] = {{.fd = from_out, .events = POLLIN}, {.fd = from_errors, .events = POLLIN}};
        if (poll(p, 2, (int)MIN(until - now, (uint64_t)LOOK_MS)) < 0 && errno != EINTR)
            break;
        if (p[0].revents)
            take(&from_out, ret_out ? ret_out : &dropped);
        if (p[1].revents)
            take(&from_errors, &said);
    }
    bool timely = from_out < 0 && from_errors < 0;
    if (!timely)
        kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (must_end)
        return err_set(err, ERR_CANCELED, "%s was ended: this program stops", name);
    return judge(name, status, timely, &said, err);
}
