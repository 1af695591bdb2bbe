#include "loop/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define STAT_MAX_BYTES 4096
#define START_TIME_FIELD 22

struct spawn_watch {
    struct fd_watch *watch;
    int pidfd;
    void (*fn)(void *arg, int exit_status);
    void *arg;
};

/* A descriptor below 3 would be overwritten before it is its turn to be copied: a copy above takes
 * its place. */
static int lift(int fd, int *ret_copy)
{
    *ret_copy = -1;
    if (fd < 0 || fd > 2)
        return fd;
    *ret_copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return *ret_copy;
}

static int add_standard_fd(posix_spawn_file_actions_t *actions, int from, int to)
{
    if (from >= 0)
        return posix_spawn_file_actions_adddup2(actions, from, to);
    return posix_spawn_file_actions_addopen(actions, to, "/dev/null", to == 0 ? O_RDONLY : O_WRONLY,
                                            0);
}

static int fill_actions(posix_spawn_file_actions_t *actions, const struct spawn_options *o,
                        const int fds[3])
{
    int eno = 0;
    for (int i = 0; i < 3 && !eno; i++)
        eno = add_standard_fd(actions, fds[i], i);
    /* Ours are all O_CLOEXEC; this covers those that libraries opened otherwise. */
    if (!eno)
        eno = posix_spawn_file_actions_addclosefrom_np(actions, 3);
    if (!eno && o->cwd)
        eno = posix_spawn_file_actions_addchdir_np(actions, o->cwd);
    return eno;
}

static int fill_attributes(posix_spawnattr_t *attributes, const struct spawn_options *o)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    if (o->new_session)
        flags = (short)(flags | POSIX_SPAWN_SETSID);
    int eno = posix_spawnattr_setsigmask(attributes, &none);
    if (!eno)
        eno = posix_spawnattr_setsigdefault(attributes, &all);
    if (!eno)
        eno = posix_spawnattr_setflags(attributes, flags);
    return eno;
}

static int spawn(const struct spawn_options *o, const int fds[3], pid_t *ret_pid)
{
    static const char *const no_environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int eno = posix_spawn_file_actions_init(&actions);
    if (eno)
        return eno;
    eno = posix_spawnattr_init(&attributes);
    if (eno) {
        posix_spawn_file_actions_destroy(&actions);
        return eno;
    }
    eno = fill_actions(&actions, o, fds);
    if (!eno)
        eno = fill_attributes(&attributes, o);
    /* The casts drop a const that POSIX forgot; nothing is written. */
    if (!eno)
        eno = posix_spawnp(ret_pid, o->argv[0], &actions, &attributes, (char *const *)o->argv,
                           (char *const *)(o->env ? o->env : no_environment));
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return eno;
}

int spawn_start(const struct spawn_options *o, pid_t *ret_pid, struct err *err)
{
    const int wanted[3] = {o->stdin_fd, o->stdout_fd, o->stderr_fd};
    int fds[3], copies[3] = {-1, -1, -1};
    int eno = 0;
    for (int i = 0; i < 3 && !eno; i++) {
        fds[i] = lift(wanted[i], &copies[i]);
        if (wanted[i] >= 0 && fds[i] < 0)
            eno = errno;
    }
    pid_t pid = -1;
    if (!eno)
        eno = spawn(o, fds, &pid);
    for (int i = 0; i < 3; i++)
        file_closep(&copies[i]);
    if (eno)
        return err_sys(err, eno, "start %s", o->argv[0]);
    *ret_pid = pid;
    return 0;
}

int spawn_start_time(pid_t pid, uint64_t *ret_ticks, struct err *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len;
    int rc = file_read(path, STAT_MAX_BYTES, &text, &len, err);
    if (rc < 0)
        return rc;
    /* Field 2, the command's name in parentheses, may hold anything: count from its end. */
    const char *name_end = strrchr(text, ')');
    struct str rest = str_trim(str_of(name_end ? name_end + 1 : NULL)), item;
    for (int field = 3; str_cut(&rest, ' ', &item); field++)
        if (field == START_TIME_FIELD && str_to_u64(item, ret_ticks) == 0)
            return 0;
    return err_set(err, ERR_PROTOCOL, "%s: no start time", path);
}

/* Collects the child behind pidfd; -1 when it is not a child of ours. By the descriptor, since the
 * number of a stranger could by now be that of a child. */
static int collect(int pidfd)
{
    siginfo_t info = {0};
    int rc;
    do
        rc = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 || info.si_pid == 0)
        return -1;
    if (info.si_code == CLD_EXITED)
        return (info.si_status & 0xFF) << 8;
    return (info.si_status & 0x7F) | (info.si_code == CLD_DUMPED ? 0x80 : 0);
}

static void close_watch(struct spawn_watch *w)
{
    fd_watch_free(w->watch);
    w->watch = NULL;
    file_closep(&w->pidfd);
}

static void on_exit_event(void *arg, int events)
{
    (void)events;
    struct spawn_watch *w = arg;
    int status = collect(w->pidfd);
    close_watch(w); /* before fn, which may free w */
    w->fn(w->arg, status);
}

int spawn_watch_new(struct loop *l, pid_t pid, void (*fn)(void *arg, int exit_status), void *arg,
                    struct spawn_watch **ret, struct err *err)
{
    struct spawn_watch *w = XNEW(struct spawn_watch);
    w->fn = fn;
    w->arg = arg;
    w->pidfd = (int)syscall(SYS_pidfd_open, pid, 0); /* always close-on-exec */
    int rc = 0;
    if (w->pidfd < 0)
        rc = errno == ESRCH ? err_set(err, ERR_NOT_FOUND, "no process %d", (int)pid)
                            : err_sys(err, errno, "watch process %d", (int)pid);
    if (rc == 0)
        rc = fd_watch_new(l, w->pidfd, on_exit_event, w, &w->watch, err);
    if (rc < 0) {
        file_closep(&w->pidfd);
        mem_free(w);
        return rc;
    }
    fd_watch_set(w->watch, FD_READ);
    *ret = w;
    return 0;
}

void spawn_watch_free(struct spawn_watch *w)
{
    if (!w)
        return;
    close_watch(w);
    mem_free(w);
}
