/* What a workload has started: its session, its cgroup, and whoever carries its marker. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "loop/spawn.h"
#include "runtime/internal.h"

#define CGROUP_TEXT_MAX (64 * 1024)
#define CGROUP_PREFIX "seki-"

/* ---- cgroups ---- */

bool cgroup_find_base(struct str self, const char *root, char *base, size_t size)
{
    char unified[1024] = "", pids[1024] = "", path[2048];
    struct str line, id, controllers, one;
    while (str_cut(&self, '\n', &line)) {
        if (!str_cut(&line, ':', &id) || !str_cut(&line, ':', &controllers) || !line.len || line.ptr[0] != '/')
            continue;
        if (line.len == 1)
            line.len = 0; /* "/": the root, without a slash of its own */
        if (!controllers.len)
            snprintf(unified, sizeof(unified), "/%.*s", STR_ARG(line));
        while (str_cut(&controllers, ',', &one))
            if (str_eqc(one, "pids"))
                snprintf(pids, sizeof(pids), "/%.*s", STR_ARG(line));
    }
    static const char *const places[] = {"", "/unified", "/pids"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        const char *own = i == 2 ? pids : unified;
        snprintf(path, sizeof(path), "%s%s/cgroup.%s", root, places[i], i == 2 ? "procs" : "controllers");
        if (!*own || !file_exists(path))
            continue;
        snprintf(base, size, "%s%s%s", root, places[i], own + 1);
        if (access(base, W_OK) == 0)
            return true;
    }
    return false;
}

bool cgroup_base(const char *self_file, const char *root, char *base, size_t size)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    return file_read(self_file, CGROUP_TEXT_MAX, &text, &len, NULL) == 0 && cgroup_find_base(str_n(text, len), root, base, size);
}

static bool write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return false;
    bool ok = fputs(text, f) >= 0;
    return fclose(f) == 0 && ok;
}

/* A record that says otherwise was not written by us: no other cgroup is touched. */
static bool has_cgroup(const struct run_record *r)
{
    const char *last = strrchr(r->cgroup, '/');
    return last && !strncmp(last + 1, CGROUP_PREFIX, sizeof(CGROUP_PREFIX) - 1) && !strstr(r->cgroup, "/../");
}

void tree_join(struct run_record *r, const char *base, const char *owner)
{
    char procs[CGROUP_PATH_BYTES + 32], text[16];
    int n = snprintf(r->cgroup, sizeof(r->cgroup), "%s/" CGROUP_PREFIX "%s-%s", base, owner, r->name);
    snprintf(procs, sizeof(procs), "%s/cgroup.procs", r->cgroup);
    snprintf(text, sizeof(text), "%d", (int)r->pid);
    if (n >= (int)sizeof(r->cgroup) || file_mkdirs(r->cgroup, 0755, NULL) < 0 || !write_text(procs, text)) {
        tree_forget(r);
        r->cgroup[0] = 0;
    }
}

static void cgroup_kill(const struct run_record *r)
{
    char path[CGROUP_PATH_BYTES + 32];
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (!has_cgroup(r))
        return;
    snprintf(path, sizeof(path), "%s/cgroup.kill", r->cgroup);
    if (file_exists(path) && write_text(path, "1"))
        return;
    snprintf(path, sizeof(path), "%s/cgroup.procs", r->cgroup);
    if (file_read(path, 1024 * 1024, &text, &len, NULL) < 0)
        return;
    struct str rest = str_n(text, len), line;
    uint64_t pid;
    while (str_cut(&rest, '\n', &line))
        if (str_to_u64(line, &pid) == 0 && pid > 1 && pid < INT32_MAX && (pid_t)pid != getpid())
            kill((pid_t)pid, SIGKILL);
}

void tree_forget(const struct run_record *r)
{
    if (has_cgroup(r))
        rmdir(r->cgroup);
}

void tree_sweep(const char *base, const char *owner, bool (*known)(void *arg, const char *name), void *arg)
{
    char prefix[64], path[CGROUP_PATH_BYTES + 300];
    int len = snprintf(prefix, sizeof(prefix), CGROUP_PREFIX "%s-", owner);
    DIR *d = opendir(base);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof(path), "%s/%s", base, e->d_name);
        if (!strncmp(e->d_name, prefix, (size_t)len) && !known(arg, e->d_name + len))
            rmdir(path);
    }
    if (d)
        closedir(d);
}

/* ---- sessions and markers ---- */

/* The number of a leader that has ended stays with its session as long as that has members; but a session without members is gone, and its number may be a stranger's. */
static bool owns_session(const struct run_record *r)
{
    uint64_t ticks;
    if (r->pid <= 1)
        return false;
    return spawn_start_time(r->pid, &ticks, NULL) < 0 || ticks == r->start_ticks;
}

static void kill_members(const struct run_record *r, bool session)
{
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        pid_t pid = record_pid_of(e->d_name);
        if (pid > 1 && pid != getpid() && ((session && getsid(pid) == r->pid) || record_has_marker(r, pid)))
            kill(pid, SIGKILL);
    }
    if (d)
        closedir(d);
}

void tree_signal(const struct run_record *r, int signo)
{
    bool session = owns_session(r);
    if (session)
        kill(-r->pid, signo);
    if (signo != SIGKILL)
        return;
    cgroup_kill(r);
    kill_members(r, session);
}
