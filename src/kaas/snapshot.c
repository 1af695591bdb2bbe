/* Backups of a cluster as files: taken of a running store, opened, listed. */
#include "kaas/recovery.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup/archive.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/vec.h"

#define OUT_MAX ((size_t)1024 * 1024)
#define TMP ".tmp-backup" /* as what file_write() leaves: no backup of the whole takes it */
#define APART 1000000000LL
#define STORE "etcd.db"

/* ---- names ---- */

bool snapshot_id_valid(const char *id)
{
    static const char form[] = "dddddddd-dddddd-ddd";
    size_t i = 0;
    for (; id[i] && form[i]; i++)
        if (form[i] == 'd' ? id[i] < '0' || id[i] > '9' : id[i] != '-')
            return false;
    return !id[i] && !form[i];
}

static void id_of(int64_t ms, char id[BACKUP_ID_MAX])
{
    char t[CLOCK_TEXT_MAX];
    clock_format_micro(ms * 1000, t); /* 2026-01-31T23:59:59.123000Z */
    snprintf(id, BACKUP_ID_MAX, "%.4s%.2s%.2s-%.2s%.2s%.2s-%.3s", t, t + 5, t + 8, t + 11, t + 14, t + 17, t + 20);
}

int64_t snapshot_id_ms(const char *id)
{
    char t[CLOCK_TEXT_MAX];
    int64_t ms = 0;
    if (!snapshot_id_valid(id))
        return 0;
    snprintf(t, sizeof(t), "%.4s-%.2s-%.2sT%.2s:%.2s:%.2s.%.3sZ", id, id + 4, id + 6, id + 9, id + 11, id + 13, id + 16);
    return clock_parse(str_of(t), &ms) < 0 ? 0 : ms;
}

const char *snapshot_dir(const char *data_dir, const char *uid, struct arena *a)
{
    return arena_printf(a, "%s/cluster-backups/%s", data_dir, uid);
}

/* ---- programs ---- */

#define STORE_FLAGS(s, a, port)                                                                                                                                                      \
    arena_printf(a, "--endpoints=https://%s:%d", (port) == PORT_ETCD ? store_address(s) : (s)->address, port), arena_printf(a, "--cacert=%s/pki/etcd-ca.crt", (s)->dir), arena_printf(a, "--cert=%s/pki/apiserver-etcd-client.crt", (s)->dir), \
        arena_printf(a, "--key=%s/pki/apiserver-etcd-client.key", (s)->dir), "--dial-timeout=5s", "--command-timeout=50s"

int store_tell(const struct site *s, const char *const *words, bool json, struct arena *a, const char **ret, struct err *err)
{
    const char *argv[16] = {arena_printf(a, "%s/etcdctl", s->programs), json ? "--write-out=json" : "--write-out=simple", STORE_FLAGS(s, a, PORT_ETCD)};
    size_t n = 0;
    while (argv[n])
        n++;
    for (; *words && n + 1 < ARRAY_LEN(argv); words++)
        argv[n++] = *words;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, OUT_MAX);
    int rc = tool_run(argv, TOOL_TIMEOUT_MS, s->pass, &out, err);
    if (rc == 0)
        *ret = arena_strndup(a, sbuf_str(&out));
    return rc;
}

int store_ask(const struct site *s, const char *noun, const char *verb, struct arena *a, const char **ret, struct err *err)
{
    return store_tell(s, (const char *const[]){noun, verb, NULL}, true, a, ret, err);
}

/* One line of several says it. */
bool snapshot_count_parse(struct str text, int64_t *ret)
{
    struct str line;
    while (str_cut(&text, '\n', &line))
        if (str_starts(line, STR("\"Count\" : ")))
            return str_to_i64(str_trim(str_skip(line, sizeof("\"Count\" : ") - 1)), 0, INT64_MAX, ret) == 0;
    return false;
}

int snapshot_revision_parse(struct str text, int64_t *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    if (json_parse(str_trim(text), OUT_MAX, &doc, NULL) < 0)
        return err_set(err, ERR_PROTOCOL, "etcdutl did not answer JSON");
    int64_t revision = json_int(doc, "revision", 0);
    if (revision <= 0)
        return err_set(err, ERR_CORRUPT, "the snapshot has no revision");
    *ret = revision;
    return 0;
}

int snapshot_count(const struct site *s, uint16_t port, int64_t revision, struct arena *a, int64_t *ret, struct err *err)
{
    const char *argv[] = {arena_printf(a, "%s/etcdctl", s->programs), STORE_FLAGS(s, a, port), "get", "", "--from-key", "--count-only", "--write-out=fields",
                          revision ? arena_printf(a, "--rev=%lld", (long long)revision) : NULL, NULL};
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, OUT_MAX);
    int rc = tool_run(argv, TOOL_TIMEOUT_MS, s->pass, &out, err);
    if (rc == 0 && !snapshot_count_parse(sbuf_str(&out), ret))
        rc = err_set(err, ERR_PROTOCOL, "etcdctl did not say how many keys there are");
    return rc;
}

static int save(const struct site *s, const char *file, struct arena *a, struct err *err)
{
    const char *argv[] = {arena_printf(a, "%s/etcdctl", s->programs), STORE_FLAGS(s, a, PORT_ETCD), "snapshot", "save", file, NULL};
    return tool_run(argv, TOOL_TIMEOUT_MS, s->pass, NULL, err);
}

static int look_at(const struct site *s, const char *file, struct arena *a, int64_t *ret_revision, struct err *err)
{
    const char *argv[] = {arena_printf(a, "%s/etcdutl", s->programs), "snapshot", "status", file, "--write-out=json", NULL};
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, OUT_MAX);
    int rc = tool_run(argv, TOOL_TIMEOUT_MS, s->pass, &out, err);
    return rc < 0 ? rc : snapshot_revision_parse(sbuf_str(&out), ret_revision, err);
}

/* The data directory of one member of a store of so many. */
static int restore_member(const struct site *s, const char *into, int member, int members, int64_t bump, uint16_t peers, struct arena *a, struct err *err)
{
    const char *all = "";
    for (int m = 0; m < members; m++)
        all = arena_printf(a, "%s%setcd-%d=https://%s:%d", all, m ? "," : "", m, member_address(s, m), peers);
    struct site place = *s;
    place.dir = into;
    const char *argv[] = {arena_printf(a, "%s/etcdutl", s->programs),
                          "snapshot",
                          "restore",
                          arena_printf(a, "%s/" STORE, into),
                          arena_printf(a, "--data-dir=%s", member_store(&place, member, a)),
                          arena_printf(a, "--name=etcd-%d", member),
                          arena_printf(a, "--initial-cluster=%s", all),
                          arena_printf(a, "--initial-cluster-token=%s", s->uid),
                          arena_printf(a, "--initial-advertise-peer-urls=https://%s:%d", member_address(s, member), peers),
                          arena_printf(a, "--bump-revision=%lld", (long long)bump),
                          "--mark-compacted",
                          NULL};
    return tool_run(argv, TOOL_TIMEOUT_MS, s->pass, NULL, err);
}

int snapshot_restore(const struct site *s, const char *into, int members, int64_t revision, int64_t least, uint16_t peers, struct arena *a, int64_t *ret_revision, struct err *err)
{
    int64_t next = MAX(MAX(clock_wall_ms() * 1000, revision + APART), least + APART);
    int rc = 0;
    for (int m = 0; rc == 0 && m < members; m++)
        rc = restore_member(s, into, m, members, next - revision, peers, a, err);
    if (rc == 0 && unlink(arena_printf(a, "%s/" STORE, into)) < 0)
        rc = err_sys(err, errno, "%s/" STORE, into);
    *ret_revision = next;
    return rc;
}

/* ---- taking ---- */

static int add(struct archive_writer *w, const char *path, const char *from, struct err *err)
{
    struct stat st;
    CLEANUP(file_closep) int fd = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", from);
    return archive_add(w, &(struct archive_entry){path, st.st_mode & 0777, (uint64_t)st.st_size}, fd, err);
}

static int add_pki(struct archive_writer *w, const struct site *s, struct arena *a, struct err *err)
{
    const char *dir = arena_printf(a, "%s/pki", s->dir);
    DIR *d = opendir(dir);
    int rc = 0;
    if (!d)
        return err_sys(err, errno, "%s", dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        struct stat st;
        const char *full = arena_printf(a, "%s/%s", dir, e->d_name);
        if (lstat(full, &st) == 0 && S_ISREG(st.st_mode) && !strstr(e->d_name, ".tmp-"))
            rc = add(w, arena_printf(a, "pki/%s", e->d_name), full, err);
    }
    closedir(d);
    return rc;
}

static int write_archive(const struct site *s, int fd, const char *store, const struct sealed_key *k, const struct snapshot *x, struct arena *a, struct err *err)
{
    struct archive_writer *w = NULL;
    JSON_AUTO manifest = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "what", "cluster", "version", s->minor, "namespace", s->ns, "name", s->name, "uid", s->uid, "id", x->id, "revision", (json_int_t)x->revision, "keys",
                                   (json_int_t)x->keys);
    int rc = archive_writer_new(fd, k, &w, err);
    if (rc == 0)
        rc = add(w, STORE, store, err);
    if (rc == 0)
        rc = add_pki(w, s, a, err);
    if (rc == 0)
        rc = archive_finish(w, manifest, err);
    archive_writer_free(w);
    if (rc == 0 && fsync(fd) < 0)
        rc = err_sys(err, errno, "a backup of %s", s->name);
    return rc;
}

static int take_into(const struct site *s, const char *dir, const char *work, const struct sealed_key *k, struct arena *a, struct snapshot *x, struct err *err)
{
    const char *store = arena_printf(a, "%s/" STORE, work), *tmp = arena_printf(a, "%s/%s" TMP, dir, x->id), *file = arena_printf(a, "%s/%s", dir, x->id);
    struct stat st = {0};
    int rc = save(s, store, a, err);
    if (rc == 0)
        rc = look_at(s, store, a, &x->revision, err);
    if (rc == 0)
        rc = snapshot_count(s, PORT_ETCD, x->revision, a, &x->keys, err);
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", tmp);
    rc = write_archive(s, fd, store, k, x, a, err);
    if (rc == 0 && (fstat(fd, &st) < 0 || rename(tmp, file) < 0))
        rc = err_sys(err, errno, "%s", file);
    if (rc == 0)
        rc = file_sync_dir(dir, err);
    if (rc < 0)
        (void)unlink(tmp);
    x->bytes = st.st_size;
    return rc;
}

int snapshot_take(const struct site *s, const char *dir, const struct sealed_key *k, struct arena *a, struct snapshot *ret, struct err *err)
{
    const char *work = arena_printf(a, "%s/backup", s->dir);
    *ret = (struct snapshot){.taken_ms = clock_wall_ms()};
    id_of(ret->taken_ms, ret->id);
    int rc = file_remove_tree(work, err);
    if (rc == 0)
        rc = file_mkdirs(work, 0700, err);
    if (rc == 0)
        rc = file_mkdirs(dir, 0700, err);
    if (rc == 0)
        rc = take_into(s, dir, work, k, a, ret, err);
    (void)!file_remove_tree(work, NULL);
    return rc;
}

/* ---- opening ---- */

struct taker {
    const char *into;
    int fd;
    int stores;
};

/* Nothing but what a backup of a cluster has, whatever the archive allows. */
static bool expected(const char *path)
{
    return !strcmp(path, STORE) || (!strncmp(path, "pki/", 4) && !strchr(path + 4, '/'));
}

static int begin_file(void *ctx, const struct archive_entry *e, struct err *err)
{
    struct taker *t = ctx;
    if (!expected(e->path))
        return err_set(err, ERR_CORRUPT, "has a file %.80s that is not of a cluster", e->path);
    t->stores += !strcmp(e->path, STORE);
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", t->into, e->path);
    t->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return t->fd < 0 ? err_sys(err, errno, "%s", path) : 0;
}

static int file_data(void *ctx, struct str bytes, struct err *err)
{
    return file_write_all(((struct taker *)ctx)->fd, bytes, err);
}

static int end_file(void *ctx, struct err *err)
{
    struct taker *t = ctx;
    int rc = fsync(t->fd) < 0 ? err_sys(err, errno, "%s", t->into) : 0;
    file_closep(&t->fd);
    return rc;
}

static int extract(const struct site *s, int fd, const char *id, const struct sealed_key *k, const char *into, struct snapshot *ret, struct err *err)
{
    struct taker t = {.into = into, .fd = -1};
    JSON_AUTO manifest = NULL;
    int rc = archive_read(fd, k, &(struct archive_taker){&t, begin_file, file_data, end_file}, &manifest, err);
    file_closep(&t.fd);
    if (rc < 0)
        return rc;
    if (t.stores != 1 || strcmp(json_str_or(manifest, "what", ""), "cluster") != 0)
        return err_set(err, ERR_INVALID, "is no backup of a cluster");
    if (strcmp(json_str_or(manifest, "uid", ""), s->uid) != 0)
        return err_set(err, ERR_INVALID, "is of another cluster, %.63s", json_str_or(manifest, "name", ""));
    *ret = (struct snapshot){.taken_ms = snapshot_id_ms(id), .revision = json_int(manifest, "revision", 0), .keys = json_int(manifest, "keys", -1)};
    (void)!str_to_array(str_of(id), ret->id, sizeof(ret->id));
    (void)!str_to_array(str_of(json_str_or(manifest, "version", "")), ret->version, sizeof(ret->version));
    return strcmp(json_str_or(manifest, "id", ""), id) ? err_set(err, ERR_INVALID, "was renamed: it is %.24s", json_str_or(manifest, "id", "")) : 0;
}

int snapshot_open(const struct site *s, const char *dir, const char *id, const struct sealed_key *k, const char *into, struct arena *a, struct snapshot *ret, struct err *err)
{
    struct err why = ERR_INIT;
    if (!snapshot_id_valid(id))
        return err_set(err, ERR_INVALID, "%.40s is no name of a backup, such as 20260131-235959-123", id);
    CLEANUP(file_closep) int fd = open(arena_printf(a, "%s/%s", dir, id), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? err_set(err, ERR_NOT_FOUND, "there is no backup %s of this cluster", id) : err_sys(err, errno, "backup %s", id);
    int rc = file_remove_tree(into, err);
    if (rc == 0)
        rc = file_mkdirs(arena_printf(a, "%s/pki", into), 0700, err);
    if (rc < 0)
        return rc;
    rc = extract(s, fd, id, k, into, ret, &why);
    return rc < 0 ? err_set(err, rc, "backup %s: %s", id, why.msg) : 0;
}

/* ---- those that are there ---- */

static int newest_first(const void *a, const void *b)
{
    return strcmp(((const struct snapshot *)b)->id, ((const struct snapshot *)a)->id);
}

size_t snapshot_list(const char *dir, struct snapshot *ret, size_t max, bool clean)
{
    VEC(struct snapshot) all = VEC_INIT;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct snapshot x = {.revision = -1, .keys = -1};
        struct stat st;
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, e->d_name);
        if (clean && strstr(e->d_name, TMP))
            (void)unlink(path);
        if (!snapshot_id_valid(e->d_name) || lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
            continue;
        (void)!str_to_array(str_of(e->d_name), x.id, sizeof(x.id));
        x.taken_ms = snapshot_id_ms(x.id);
        x.bytes = st.st_size;
        *VEC_PUSH(&all) = x;
    }
    if (d)
        closedir(d);
    if (all.len)
        qsort(all.ptr, all.len, sizeof(*all.ptr), newest_first);
    size_t n = MIN(all.len, max);
    for (size_t i = 0; i < n; i++)
        ret[i] = all.ptr[i];
    VEC_DEINIT(&all);
    return n;
}

int snapshot_remove(const char *dir, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, id);
    return unlink(path) < 0 && errno != ENOENT ? err_sys(err, errno, "%s", path) : 0;
}

int snapshot_remove_all(const char *dir, int *ret_files, struct err *err)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        *ret_files += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return file_remove_tree(dir, err);
}
