#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "json/json.h"
#include "loop/spawn.h"
#include "runtime/internal.h"

#define RECORD_MAX (64 * 1024)
#define ENVIRON_MAX (256 * 1024)
#define SUFFIX ".json"

static void path_of(const char *dir, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s" SUFFIX, dir, name);
}

int record_write(const char *dir, const struct run_record *r, struct err *err)
{
    char path[4096];
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:i}", "name", r->name, "marker", r->marker, "hash", r->hash, "pid", (json_int_t)r->pid, "startTicks",
                              (json_int_t)r->start_ticks, "startedMs", (json_int_t)r->started_ms, "restarts", r->restarts);
    path_of(dir, r->name, path, sizeof(path));
    sbuf_init(&text, RECORD_MAX);
    json_write_pretty(doc, &text);
    return file_write(path, sbuf_str(&text), 0600, err);
}

void record_remove(const char *dir, const char *name)
{
    char path[4096];
    path_of(dir, name, path, sizeof(path));
    if (unlink(path) < 0 && errno != ENOENT)
        log_warn("a workload's record cannot be removed", KV("path", path), KV("error", strerror(errno)));
}

static int read_record(const char *path, struct run_record *ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len;
    JSON_AUTO doc = NULL;
    int rc = file_read(path, RECORD_MAX, &text, &len, err);
    if (rc == 0)
        rc = json_parse(str_n(text, len), RECORD_MAX, &doc, err);
    if (rc < 0)
        return rc;
    *ret = (struct run_record){.pid = (pid_t)json_int(doc, "pid", 0), .start_ticks = (uint64_t)json_int(doc, "startTicks", 0), .started_ms = json_int(doc, "startedMs", 0),
                               .restarts = (int)json_int(doc, "restarts", 0)};
    if (!str_to_array(str_of(json_str_or(doc, "name", "")), ret->name, sizeof(ret->name)) || !str_to_array(str_of(json_str_or(doc, "marker", "")), ret->marker, sizeof(ret->marker)) ||
        !str_to_array(str_of(json_str_or(doc, "hash", "")), ret->hash, sizeof(ret->hash)) || !ret->name[0] || !ret->marker[0])
        return err_set(err, ERR_CORRUPT, "%s is no record of a workload", path);
    return 0;
}

int record_each(const char *dir, void (*fn)(void *arg, const struct run_record *r), void *arg, struct err *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return err_sys(err, errno, "%s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        char path[4096];
        struct run_record r;
        struct err why = ERR_INIT;
        if (!str_ends(str_of(e->d_name), STR(SUFFIX)))
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (read_record(path, &r, &why) == 0) {
            fn(arg, &r);
            continue;
        }
        log_warn("a broken record of a workload is removed", KVE(&why));
        unlink(path);
    }
    closedir(d);
    return 0;
}

/* ---- processes ---- */

/* A directory of /proc that is a process; 0: none. */
static pid_t pid_of(const char *name)
{
    uint64_t n;
    return str_to_u64(str_of(name), &n) == 0 && n > 1 && n < INT32_MAX ? (pid_t)n : 0;
}

static bool has_marker(pid_t pid, const char *marker_line)
{
    char path[64];
    CLEANUP(mem_freep) char *env = NULL;
    size_t len = 0;
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    if (file_read(path, ENVIRON_MAX, &env, &len, NULL) < 0)
        return false;
    struct str rest = str_n(env, len), item;
    while (str_cut(&rest, '\0', &item))
        if (str_eqc(item, marker_line))
            return true;
    return false;
}

static bool alive(pid_t pid, uint64_t ticks)
{
    uint64_t now = 0;
    return pid > 0 && kill(pid, 0) == 0 && spawn_start_time(pid, &now, NULL) == 0 && now == ticks;
}

bool record_find_process(struct run_record *r)
{
    char line[WORKLOAD_NAME_BYTES + MARKER_BYTES + 32];
    if (r->pid > 0)
        return alive(r->pid, r->start_ticks);
    /* An intent: it was started and not written down, or never started. The leader of its session carries the marker. */
    snprintf(line, sizeof(line), MARKER_ENV "=%s/%s", r->name, r->marker);
    DIR *d = opendir("/proc");
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        pid_t pid = pid_of(e->d_name);
        if (pid > 0 && getsid(pid) == pid && has_marker(pid, line) && spawn_start_time(pid, &r->start_ticks, NULL) == 0) {
            r->pid = pid;
            found = true;
        }
    }
    if (d)
        closedir(d);
    return found;
}

/* ---- descendants: tree_*, see internal.h ---- */

static void each_member(const struct run_record *r, int signo)
{
    char line[WORKLOAD_NAME_BYTES + MARKER_BYTES + 32];
    snprintf(line, sizeof(line), MARKER_ENV "=%s/%s", r->name, r->marker);
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        pid_t pid = pid_of(e->d_name);
        if (pid > 1 && pid != getpid() && ((r->pid > 0 && getsid(pid) == r->pid) || has_marker(pid, line)))
            kill(pid, signo);
    }
    if (d)
        closedir(d);
}

/* Where our own cgroup is, in the hierarchy that can kill: v2, or v1's pids. Empty: none that we may write to. */
static bool cgroup_base(char *base, size_t size)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    char unified[1024] = "", pids[1024] = "";
    if (file_read("/proc/self/cgroup", 64 * 1024, &text, &len, NULL) < 0)
        return false;
    struct str rest = str_n(text, len), line;
    while (str_cut(&rest, '\n', &line)) {
        struct str id, controllers;
        if (!str_cut(&line, ':', &id) || !str_cut(&line, ':', &controllers))
            continue;
        if (!controllers.len)
            snprintf(unified, sizeof(unified), "%.*s", STR_ARG(line));
        else if (str_eqc(controllers, "pids"))
            snprintf(pids, sizeof(pids), "%.*s", STR_ARG(line));
    }
    if (*unified && file_exists("/sys/fs/cgroup/cgroup.controllers"))
        snprintf(base, size, "/sys/fs/cgroup%s", unified);
    else if (*unified && file_exists("/sys/fs/cgroup/unified"))
        snprintf(base, size, "/sys/fs/cgroup/unified%s", unified);
    else if (*pids && file_exists("/sys/fs/cgroup/pids"))
        snprintf(base, size, "/sys/fs/cgroup/pids%s", pids);
    else
        return false;
    return access(base, W_OK) == 0;
}

static bool cgroup_path(const char *name, const char *file, char *path, size_t size)
{
    char base[2048];
    if (!cgroup_base(base, sizeof(base)))
        return false;
    snprintf(path, size, "%s/seki-%s%s%s", base, name, file ? "/" : "", file ? file : "");
    return true;
}

static bool write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return false;
    bool ok = fputs(text, f) >= 0;
    return fclose(f) == 0 && ok;
}

void tree_joined(const char *name, pid_t pid)
{
    char dir[4096], procs[4200], text[16];
    if (!cgroup_path(name, NULL, dir, sizeof(dir)) || file_mkdirs(dir, 0755, NULL) < 0)
        return;
    snprintf(procs, sizeof(procs), "%s/cgroup.procs", dir);
    snprintf(text, sizeof(text), "%d", (int)pid);
    if (!write_text(procs, text))
        rmdir(dir);
}

static void cgroup_kill(const char *name)
{
    char path[4096];
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (!cgroup_path(name, "cgroup.kill", path, sizeof(path)))
        return;
    if (file_exists(path) && write_text(path, "1"))
        return;
    cgroup_path(name, "cgroup.procs", path, sizeof(path));
    if (file_read(path, 1024 * 1024, &text, &len, NULL) < 0)
        return;
    struct str rest = str_n(text, len), line;
    uint64_t pid;
    while (str_cut(&rest, '\n', &line))
        if (str_to_u64(line, &pid) == 0 && pid > 1 && (pid_t)pid != getpid())
            kill((pid_t)pid, SIGKILL);
}

void tree_signal(const struct run_record *r, int signo)
{
    if (r->pid > 0)
        kill(-r->pid, signo);
    if (signo != SIGKILL)
        return;
    cgroup_kill(r->name);
    each_member(r, SIGKILL);
}

void tree_forget(const char *name)
{
    char path[4096];
    if (cgroup_path(name, NULL, path, sizeof(path)))
        rmdir(path);
}
