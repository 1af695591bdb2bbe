#include "kaas/tell.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kaas/internal.h"

#define FILES_MAX 128
#define PLACE_MAX 48 /* "INODE:OFFSET" */
#define BLOCK 65536
#define TAIL_BYTES_MAX (4 * 1024 * 1024) /* looked through for lines from the end */

struct files {
    char *paths[FILES_MAX]; /* oldest first */
    ino_t inodes[FILES_MAX];
    off_t sizes[FILES_MAX];
    size_t count;
};

static void add(struct files *f, char *path)
{
    struct stat st;
    if (f->count == FILES_MAX || lstat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
        mem_free(path);
        return;
    }
    f->paths[f->count] = path;
    f->inodes[f->count] = st.st_ino;
    f->sizes[f->count++] = st.st_size;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* audit-TIME.log …, and audit.log behind them. */
static void find_audit(const struct tell_ask *ask, int member, struct files *f)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(16384);
    const struct site s = {.dir = arena_printf(a, "%s/clusters/%s", ask->data_dir, obj_uid(ask->cluster))};
    const char *dir = member_audit(&s, member, a);
    struct dirent **list = NULL;
    int n = scandir(dir, &list, NULL, by_name);
    for (int i = 0; i < n; i++) {
        if (str_ends(str_of(list[i]->d_name), STR(".log")))
            add(f, xasprintf("%s/%s", dir, list[i]->d_name));
        free(list[i]); /* scandir's own */
    }
    free(list);
}

static int find_log(const struct tell_ask *ask, struct files *f, struct err *err)
{
    const struct site s = {.ns = obj_namespace(ask->cluster), .name = obj_name(ask->cluster), .uid = obj_uid(ask->cluster), .warm = cluster_is_claimed(ask->cluster), .members = (int)json_int(ask->cluster, "spec.controlPlane.replicas", 1)};
    char workload[WORKLOAD_NAME_MAX], part[PART_NAME_MAX];
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int m = 0; m < component_count(&s, c); m++) {
            part_name(c, m, part);
            if (strcmp(part, ask->component) != 0)
                continue;
            component_workload(&s, c, m, workload);
            add(f, xasprintf("%s/%s.log", ask->log_dir, workload));
            return 0;
        }
    return err_field(err, ERR_BAD_REQUEST, "component", "component: expected apiserver, controllers, scheduler, etcd or kms%s", site_members(&s) > 1 ? "; or relay, or one of the further members: apiserver-1, etcd-2 and so on" : "");
}

/* Where the last `lines` lines of a file begin. */
static off_t tail_start(const char *path, off_t size, uint64_t lines)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    char block[BLOCK];
    uint64_t seen = 0;
    for (off_t end = size; fd >= 0 && end > 0 && size - end < TAIL_BYTES_MAX;) {
        off_t at = end > BLOCK ? end - BLOCK : 0;
        ssize_t n = pread(fd, block, (size_t)(end - at), at);
        if (n < end - at)
            return at;
        for (ssize_t i = n; i-- > 0;)
            if (block[i] == '\n' && at + i + 1 < size && ++seen == lines)
                return at + i + 1;
        end = at;
    }
    return size > TAIL_BYTES_MAX ? size - TAIL_BYTES_MAX : 0;
}

/* "INODE:OFFSET" */
static int place_of(const struct tell_ask *ask, const char *after, const struct files *f, size_t *ret_file, off_t *ret_at, struct err *err)
{
    struct str rest = str_of(after), first;
    uint64_t inode, at;
    *ret_file = 0;
    *ret_at = 0;
    if (!*after) {
        if (ask->tail && f->count) {
            *ret_file = f->count - 1;
            *ret_at = tail_start(f->paths[f->count - 1], f->sizes[f->count - 1], ask->tail);
        }
        return 0;
    }
    if (!str_cut(&rest, ':', &first) || str_to_u64(first, &inode) < 0 || str_to_u64(rest, &at) < 0 || at > INT64_MAX)
        return err_field(err, ERR_BAD_REQUEST, "after", "after: not a place that this server has given out");
    for (size_t i = 0; i < f->count; i++)
        if (f->inodes[i] == (ino_t)inode) {
            *ret_file = i;
            *ret_at = (off_t)at <= f->sizes[i] ? (off_t)at : 0; /* it was cut off: what is there is newer */
        }
    return 0;
}

/* Whole lines; of a line that is longer than there is room for, what fits. True: the file has no more. */
static bool take(const char *path, off_t *at, struct sbuf *ret)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    char block[BLOCK];
    while (fd >= 0) {
        size_t room = MIN(sizeof(block), ret->max - ret->len);
        ssize_t n = room ? pread(fd, block, room, *at) : 0;
        size_t whole = n > 0 ? (size_t)n : 0;
        while (whole && block[whole - 1] != '\n')
            whole--;
        if (n > 0 && !whole && (size_t)n == sizeof(block))
            whole = (size_t)n;
        if (!whole)
            return n < (ssize_t)room || !n;
        sbuf_add(ret, str_n(block, whole));
        *at += (off_t)whole;
        if (ret->len + BLOCK > ret->max)
            return false;
    }
    return true;
}

/* All of one row of files, from where an earlier answer ended. */
static int tell_files(const struct tell_ask *ask, const char *after, struct files *f, struct sbuf *ret, char next[PLACE_MAX], struct err *err)
{
    size_t file = 0;
    off_t at = 0;
    int rc = place_of(ask, after, f, &file, &at, err);
    snprintf(next, PLACE_MAX, "%s", after);
    while (rc == 0 && file < f->count) {
        bool ended = take(f->paths[file], &at, ret);
        if (!ended || file + 1 == f->count)
            break;
        file++;
        at = 0;
    }
    if (rc == 0 && file < f->count)
        snprintf(next, PLACE_MAX, "%llu:%lld", (unsigned long long)f->inodes[file], (long long)at);
    for (size_t i = 0; i < f->count; i++)
        mem_free(f->paths[i]);
    return rc;
}

/* One row of files for each API server; a place in each, with commas between. */
static int tell_audit(const struct tell_ask *ask, struct sbuf *ret, char next[TELL_NEXT_MAX], struct err *err)
{
    struct str rest = str_of(ask->after);
    int members = (int)json_int(ask->cluster, "spec.controlPlane.replicas", 1), rc = 0;
    *next = 0;
    for (int m = 0; rc == 0 && m < MIN(MAX(members, 1), MEMBERS_MAX); m++) {
        struct files f = {0};
        struct str one;
        char after[PLACE_MAX], went_on[PLACE_MAX];
        if (!str_cut(&rest, ',', &one))
            one = STR("");
        if (!str_to_array(one, after, sizeof(after)))
            return err_field(err, ERR_BAD_REQUEST, "after", "after: not a place that this server has given out");
        find_audit(ask, m, &f);
        rc = tell_files(ask, after, &f, ret, went_on, err);
        snprintf(next + strlen(next), TELL_NEXT_MAX - strlen(next), "%s%s", m ? "," : "", went_on);
    }
    return rc;
}

int kaas_tell(const struct tell_ask *ask, struct sbuf *ret, char next[TELL_NEXT_MAX], struct err *err)
{
    struct files f = {0};
    if (!strcmp(ask->part, "audit"))
        return tell_audit(ask, ret, next, err);
    int rc = find_log(ask, &f, err);
    if (rc == 0 && strlen(ask->after) >= PLACE_MAX)
        rc = err_field(err, ERR_BAD_REQUEST, "after", "after: not a place that this server has given out");
    return rc < 0 ? rc : tell_files(ask, ask->after, &f, ret, next, err);
}
