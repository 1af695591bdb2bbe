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
    JSON_AUTO doc = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:i}", "name", r->name, "marker", r->marker, "hash", r->hash, "boot", r->boot, "cgroup", r->cgroup, "pid",
                              (json_int_t)r->pid, "startTicks", (json_int_t)r->start_ticks, "startedMs", (json_int_t)r->started_ms, "restarts", r->restarts);
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
    JSON_AUTO doc = NULL;
    int rc = json_read_file(path, RECORD_MAX, &doc, err);
    if (rc < 0)
        return rc;
    *ret = (struct run_record){.pid = (pid_t)json_int(doc, "pid", 0), .start_ticks = (uint64_t)json_int(doc, "startTicks", 0), .started_ms = json_int(doc, "startedMs", 0),
                               .restarts = (int)json_int(doc, "restarts", 0)};
    if (!str_to_array(str_of(json_str_or(doc, "name", "")), ret->name, sizeof(ret->name)) || !str_to_array(str_of(json_str_or(doc, "marker", "")), ret->marker, sizeof(ret->marker)) ||
        !str_to_array(str_of(json_str_or(doc, "hash", "")), ret->hash, sizeof(ret->hash)) || !str_to_array(str_of(json_str_or(doc, "boot", "")), ret->boot, sizeof(ret->boot)) ||
        !str_to_array(str_of(json_str_or(doc, "cgroup", "")), ret->cgroup, sizeof(ret->cgroup)) || !ret->name[0] || strlen(ret->marker) != MARKER_BYTES - 1)
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

pid_t record_pid_of(const char *name)
{
    uint64_t n;
    return str_to_u64(str_of(name), &n) == 0 && n > 1 && n < INT32_MAX ? (pid_t)n : 0;
}

void record_boot(char boot[BOOT_BYTES])
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    boot[0] = 0;
    if (file_read("/proc/sys/kernel/random/boot_id", 256, &text, &len, NULL) == 0)
        (void)!str_to_array(str_trim(str_n(text, len)), boot, BOOT_BYTES);
}

bool record_has_marker(const struct run_record *r, pid_t pid)
{
    char path[64], line[WORKLOAD_NAME_BYTES + MARKER_BYTES + 32];
    CLEANUP(mem_freep) char *env = NULL;
    size_t len = 0;
    snprintf(line, sizeof(line), MARKER_ENV "=%s/%s", r->name, r->marker);
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    if (file_read(path, ENVIRON_MAX, &env, &len, NULL) < 0)
        return false;
    struct str rest = str_n(env, len), item;
    while (str_cut(&rest, '\0', &item))
        if (str_eqc(item, line))
            return true;
    return false;
}

bool record_find_process(struct run_record *r)
{
    char boot[BOOT_BYTES];
    uint64_t ticks = 0;
    record_boot(boot);
    if (strcmp(boot, r->boot) != 0)
        return false; /* from before the machine was started: its numbers mean nothing now */
    if (r->pid > 0)
        return spawn_start_time(r->pid, &ticks, NULL) == 0 && ticks == r->start_ticks;
    /* An intent: it was started and not written down, or never started. The leader of its session carries the marker. */
    DIR *d = opendir("/proc");
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        pid_t pid = record_pid_of(e->d_name);
        if (pid > 0 && getsid(pid) == pid && record_has_marker(r, pid) && spawn_start_time(pid, &r->start_ticks, NULL) == 0) {
            r->pid = pid;
            found = true;
        }
    }
    if (d)
        closedir(d);
    return found;
}
