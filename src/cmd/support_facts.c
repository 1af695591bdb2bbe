/* What the machine, its file system and the ledgers' files say. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/support.h"
#include "ledger/files.h"
#include "loop/spawn.h"

#define FILE_MAX (64 * 1024)
#define LEDGER_READ_MAX ((size_t)96 << 20)
#define WALK_ENTRIES 100000
#define RUN_MS 30000

/* ---- the machine ---- */

static void add_file(struct sbuf *out, const char *path, int lines)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (file_read(path, FILE_MAX, &text, &len, NULL) < 0)
        return;
    sbuf_addf(out, "# %s\n", path);
    struct str rest = str_n(text, len), line;
    for (int i = 0; i < lines && str_cut(&rest, '\n', &line) && (line.len || rest.len); i++)
        sbuf_addf(out, "%.*s\n", STR_ARG(line));
}

/* "PRETTY_NAME=…" */
static void add_release(struct sbuf *out)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (file_read("/etc/os-release", FILE_MAX, &text, &len, NULL) < 0)
        return;
    struct str rest = str_n(text, len), line;
    while (str_cut(&rest, '\n', &line))
        if (str_starts(line, STR("PRETTY_NAME=")) || str_starts(line, STR("VERSION_ID=")))
            sbuf_addf(out, "%.*s\n", STR_ARG(line));
}

void support_system(struct sbuf *out)
{
    struct utsname u;
    char now[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), now);
    sbuf_addf(out, "seki %s\ntime %s\n", SEKI_RELEASE, now);
    if (uname(&u) == 0)
        sbuf_addf(out, "kernel %s %s %s\n", u.sysname, u.release, u.machine);
    sbuf_addf(out, "processors %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    add_release(out);
    add_file(out, "/proc/uptime", 1);
    add_file(out, "/proc/loadavg", 1);
    add_file(out, "/proc/meminfo", 60);
    add_file(out, "/proc/pressure/cpu", 2);
    add_file(out, "/proc/pressure/memory", 2);
    add_file(out, "/proc/pressure/io", 2);
    add_file(out, "/proc/sys/fs/file-nr", 1);
}

void support_cgroups(struct sbuf *out)
{
    static const char *const roots[] = {"/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/memory/system.slice", "/sys/fs/cgroup/pids/system.slice", "/sys/fs/cgroup/cpu/system.slice"};
    static const char *const units[] = {"seki-control.service", "seki-gateway.service"};
    static const char *const files[] = {"memory.current", "memory.max", "memory.high", "memory.peak", "memory.events", "memory.pressure", "memory.usage_in_bytes", "memory.limit_in_bytes",
                                        "pids.current", "pids.max", "cpu.max", "cpu.stat", "cpu.pressure", "io.pressure"};
    for (size_t r = 0; r < ARRAY_LEN(roots); r++)
        for (size_t u = 0; u < ARRAY_LEN(units); u++)
            for (size_t f = 0; f < ARRAY_LEN(files); f++) {
                CLEANUP(mem_freep) char *path = xasprintf("%s/%s/%s", roots[r], units[u], files[f]);
                add_file(out, path, 20);
            }
    if (!out->len)
        sbuf_addc(out, "no control groups of seki-control.service and seki-gateway.service here\n");
}

struct walk {
    uint64_t bytes, files;
    size_t left; /* entries that may still be looked at */
};

static void walk_dir(int parent, const char *name, int depth, struct walk *w)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        file_closep(&fd);
        return;
    }
    for (struct dirent *e; w->left && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        w->left--;
        w->files++;
        w->bytes += (uint64_t)st.st_blocks * 512;
        if (S_ISDIR(st.st_mode) && depth > 0)
            walk_dir(fd, e->d_name, depth - 1, w);
    }
    closedir(d);
}

void support_disk(const char *data, struct sbuf *out)
{
    static const char *const parts[] = {"ledger", "log", "models", "pki", "run", "clusters", "keys"}, *const files[] = {"seki.db", "seki.db-wal"};
    struct statvfs v;
    struct stat st;
    if (statvfs(data, &v) == 0)
        sbuf_addf(out, "size %llu\nfree %llu\ninodes %llu\nfreeInodes %llu\nreadOnly %s\n", (unsigned long long)v.f_blocks * v.f_frsize, (unsigned long long)v.f_bavail * v.f_frsize,
                  (unsigned long long)v.f_files, (unsigned long long)v.f_favail, v.f_flag & ST_RDONLY ? "yes" : "no");
    if (stat(data, &st) == 0)
        sbuf_addf(out, "mode %04o owner %u\n", st.st_mode & 07777u, st.st_uid);
    CLEANUP(file_closep) int fd = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; fd >= 0 && i < ARRAY_LEN(files); i++)
        if (fstatat(fd, files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            sbuf_addf(out, "%s bytes %llu\n", files[i], (unsigned long long)st.st_size);
    for (size_t i = 0; fd >= 0 && i < ARRAY_LEN(parts); i++) {
        struct walk w = {.left = WALK_ENTRIES};
        walk_dir(fd, parts[i], 8, &w);
        sbuf_addf(out, "%s/ files %llu bytes %llu%s\n", parts[i], (unsigned long long)w.files, (unsigned long long)w.bytes, w.left ? "" : " or more");
    }
}

/* ---- ledgers ---- */

/* The last whole record of a file; false when there is none. */
static bool last_record(struct str bytes, struct ledger_record *ret, uint8_t hash[32], bool *ret_damaged)
{
    bool found = false;
    *ret_damaged = false;
    for (struct str rest = str_skip(bytes, LEDGER_FILE_HEAD_BYTES); rest.len;) {
        struct ledger_record rec;
        size_t used = 0;
        uint8_t h[32];
        if (ledger_decode(rest, &rec, &used, h, NULL) < 0) {
            *ret_damaged = true;
            break;
        }
        if (!used)
            break;
        *ret = rec;
        memcpy(hash, h, sizeof(h));
        found = true;
        rest = str_skip(rest, used);
    }
    return found;
}

static void add_ledger(const char *dir, const char *name, struct sbuf *out)
{
    unsigned first, last;
    uint64_t bytes = 0;
    char path[LEDGER_PATH_MAX], time_text[CLOCK_TEXT_MAX];
    struct stat st;
    if (ledger_find_files(dir, name, &first, &last, NULL) < 0 || !last)
        return;
    for (unsigned n = first; n <= last; n++) {
        ledger_path(dir, name, n, path);
        bytes += stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    sbuf_addf(out, "{\"ledger\":\"%s\",\"firstFile\":%u,\"lastFile\":%u,\"bytes\":%llu", name, first, last, (unsigned long long)bytes);
    /* A file that was just begun has no record yet. */
    for (unsigned n = last; n >= first && n + 1 >= last; n--) {
        CLEANUP(mem_freep) char *text = NULL;
        size_t len = 0;
        struct ledger_file_head head;
        struct ledger_record rec;
        uint8_t hash[32];
        bool damaged;
        ledger_path(dir, name, n, path);
        if (file_read(path, LEDGER_READ_MAX, &text, &len, NULL) < 0 || ledger_read_head(str_n(text, len), &head, NULL) < 0) {
            sbuf_addf(out, ",\"unreadableFile\":%u", n);
            break;
        }
        bool found = last_record(str_n(text, len), &rec, hash, &damaged);
        if (damaged)
            sbuf_addf(out, ",\"damagedFile\":%u", n);
        if (!found)
            continue;
        clock_format(rec.time_ms, time_text);
        sbuf_addc(out, ",\"id\":\"");
        sbuf_add_hex(out, head.id, sizeof(head.id));
        sbuf_addf(out, "\",\"lastSequence\":%llu,\"lastTime\":\"%s\",\"lastHash\":\"", (unsigned long long)rec.sequence, time_text);
        sbuf_add_hex(out, hash, sizeof(hash));
        sbuf_add_char(out, '"');
        break;
    }
    sbuf_addc(out, "}\n");
}

static bool is_ledger_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= 'a' && s.ptr[i] <= 'z') || (s.ptr[i] >= '0' && s.ptr[i] <= '9') || s.ptr[i] == '-'))
            return false;
    return s.len > 0 && s.len < 64;
}

int support_ledgers(const char *dir, struct sbuf *out, struct err *err)
{
    struct dirent **list = NULL;
    int count = scandir(dir, &list, NULL, alphasort);
    if (count < 0)
        return err_sys(err, errno, "%s", dir);
    char last[64] = "";
    for (int i = 0; i < count; i++) {
        const char *dot = strrchr(list[i]->d_name, '.');
        uint64_t n;
        char name[64];
        /* Files of a ledger stand beside each other: NAME.000001, NAME.000002 … */
        if (dot && str_to_u64(str_of(dot + 1), &n) == 0 && is_ledger_name(str_n(list[i]->d_name, (size_t)(dot - list[i]->d_name))) &&
            str_to_array(str_n(list[i]->d_name, (size_t)(dot - list[i]->d_name)), name, sizeof(name)) && strcmp(name, last) != 0) {
            add_ledger(dir, name, out);
            memcpy(last, name, sizeof(last));
        }
        mem_free(list[i]);
    }
    mem_free(list);
    return 0;
}

/* ---- a program's output ---- */

int support_run(const char *const *argv, struct sbuf *out, struct err *err)
{
    int fds[2];
    static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_sys(err, errno, "cannot make a pipe");
    CLEANUP(file_closep) int from = fds[0], to = fds[1];
    struct spawn_options o = {.argv = argv, .env = env, .stdin_fd = -1, .stdout_fd = to, .stderr_fd = -1};
    pid_t pid;
    int rc = spawn_start(&o, &pid, err), status = 0;
    if (rc < 0)
        return rc;
    file_closep(&to);
    uint64_t deadline = clock_mono_ms() + RUN_MS;
    bool ended = false;
    while (!ended && clock_mono_ms() < deadline && out->len + FILE_MAX < out->max) {
        struct pollfd p = {.fd = from, .events = POLLIN};
        char *room = sbuf_reserve(out, FILE_MAX);
        if (!room || poll(&p, 1, (int)(deadline - MIN(clock_mono_ms(), deadline))) <= 0)
            break;
        ssize_t n = read(from, room, FILE_MAX);
        ended = n <= 0;
        sbuf_commit(out, n > 0 ? (size_t)n : 0);
    }
    if (!ended)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (ended && (!WIFEXITED(status) || WEXITSTATUS(status)))
        return err_set(err, ERR_IO, "%s ended with %d", argv[0], WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return 0;
}
