/* seki backup, seki restore: on the machine of the data directory, as its owner; no daemon is asked. */
#include "backup/backup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"
#include "cmd/cli.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_PREFIX "seki-"
#define NAME_SUFFIX ".backup"
#define NAME_LEN (sizeof(NAME_PREFIX "20260101T000000Z" NAME_SUFFIX) - 1)

/* 0, or the exit status with the reason printed. */
static int load_key(struct cli *c, struct sealed_key *ret)
{
    const char *path = cli_flag(c, "--key");
    struct err err = ERR_INIT;
    if (!path)
        return cli_usage_error("--key FILE is needed; `seki backup keygen FILE` makes one");
    if (sealed_key_load(path, ret, &err) < 0) {
        fprintf(stderr, "seki: %s\n", err.msg);
        return 1;
    }
    return 0;
}

static int failed(const char *what, const struct err *err)
{
    fprintf(stderr, "seki: %s: %s\n", what, err->msg);
    return 1;
}

/* ---- progress, on a terminal ---- */

struct shown {
    bool terminal, any;
    const char *what;
    int percent;
};

static void show(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct shown *s = arg;
    int percent = total ? (int)(100.0 * (double)done / (double)total) : 100;
    if (!s->terminal || (s->what && !strcmp(s->what, what) && s->percent == percent))
        return;
    s->what = what;
    s->percent = percent;
    s->any = true;
    fprintf(stderr, "\r%s: %d %%\033[K", what, percent);
}

static void end_shown(struct shown *s)
{
    if (s->any)
        fputs("\r\033[K", stderr);
}

/* ---- results ---- */

static void print_result(struct cli *c, const char *what, const char *file, json_t *manifest)
{
    const json_t *files = json_object_get(manifest, "files"), *l;
    int64_t bytes = 0, audit = 0;
    size_t i;
    json_t *f;
    json_array_foreach (files, i, f)
        bytes += json_int(f, "bytes", 0);
    json_array_foreach (json_object_get(manifest, "ledgers"), i, l)
        if (!strcmp(json_str_or(l, "name", ""), "audit"))
            audit = json_int(l, "sequence", 0);
    if (c->json) {
        cli_print_json(manifest);
        return;
    }
    printf("%s %s: taken %s on %s by release %s; %zu files, %lld bytes\n", file, what, json_str_or(manifest, "time", "?"), json_str_or(manifest, "host", "?"), json_str_or(manifest, "release", "?"),
           json_array_size(files), (long long)bytes);
    printf("the store is as of revision %lld (%lld objects, last write %s), the audit ledger up to record %lld\n", (long long)json_int(manifest, "store.revision", 0),
           (long long)json_int(manifest, "store.objects", 0), json_str_or(manifest, "store.newestWrite", "?"), (long long)audit);
}

/* ---- a directory of backups ---- */

static bool is_backup_name(const char *name)
{
    struct str s = str_of(name);
    return s.len == NAME_LEN && str_starts(s, STR(NAME_PREFIX)) && str_ends(s, STR(NAME_SUFFIX));
}

/* seki-20261128T151200Z.backup: they sort by age. */
static char *name_in(struct cli *c, const char *dir)
{
    char time[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), time);
    return arena_printf(c->arena, "%s/" NAME_PREFIX "%.4s%.2s%.2sT%.2s%.2s%.2sZ" NAME_SUFFIX, dir, time, time + 5, time + 8, time + 11, time + 14, time + 17);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Removes all but the newest `keep` that have names as ours. */
static int remove_old(struct cli *c, const char *dir, size_t keep)
{
    VEC(const char *) names = VEC_INIT;
    int rc = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (is_backup_name(e->d_name))
            *VEC_PUSH(&names) = arena_strdup(c->arena, e->d_name);
    if (d)
        closedir(d);
    if (names.len)
        qsort(names.ptr, names.len, sizeof(*names.ptr), by_text);
    for (size_t i = 0; i + keep < names.len; i++) {
        const char *path = arena_printf(c->arena, "%s/%s", dir, names.ptr[i]);
        if (unlink(path) < 0) {
            fprintf(stderr, "seki: the old backup %s cannot be removed: %m\n", path);
            rc = 1;
        }
    }
    VEC_DEINIT(&names);
    return rc;
}

/* ---- verbs ---- */

int cli_backup(struct cli *c)
{
    const char *file = cli_word(c), *dir = NULL, *keep_text = cli_flag(c, "--keep");
    struct shown shown = {.terminal = isatty(STDERR_FILENO)};
    struct backup_options o = {.data = cli_data_directory(c), .progress = {show, &shown}};
    struct sealed_key key;
    struct err err = ERR_INIT;
    struct stat st;
    int64_t keep = 0;
    JSON_AUTO manifest = NULL;
    if (!file)
        return cli_usage_error("backup needs the FILE to write, or a directory");
    if (keep_text && str_to_i64(str_of(keep_text), 1, 100000, &keep) < 0)
        return cli_usage_error("--keep %s: expected how many backups, for example 14", keep_text);
    int rc = cli_no_more(c);
    if (stat(file, &st) == 0 && S_ISDIR(st.st_mode)) {
        dir = file;
        file = name_in(c, dir);
    }
    if (!rc && keep && !dir)
        rc = cli_usage_error("--keep is for a directory of backups");
    if (rc || (rc = load_key(c, &key)))
        return rc;
    o.file = file;
    o.key = &key;
    o.root_key = cli_switch(c, "--with-root-key");
    rc = backup_make(&o, &manifest, &err);
    mem_wipe(&key, sizeof(key));
    end_shown(&shown);
    if (rc < 0)
        return failed("no backup was made", &err);
    print_result(c, "is whole", file, manifest);
    return keep ? remove_old(c, dir, (size_t)keep) : 0;
}

int cli_backup_keygen(struct cli *c)
{
    const char *file = cli_word(c);
    struct err err = ERR_INIT;
    if (!file)
        return cli_usage_error("backup keygen needs the FILE to write");
    int rc = cli_no_more(c);
    if (rc)
        return rc;
    if (sealed_key_make(file, &err) < 0)
        return failed("no key was made", &err);
    fprintf(stderr, "%s is the key; keep a copy of it where the backups are not: without it they are worth nothing\n", file);
    return 0;
}

int cli_backup_verify(struct cli *c)
{
    const char *file = cli_word(c);
    struct sealed_key key;
    struct err err = ERR_INIT;
    JSON_AUTO manifest = NULL;
    if (!file)
        return cli_usage_error("backup verify needs the FILE to read");
    int rc = cli_no_more(c);
    if (rc || (rc = load_key(c, &key)))
        return rc;
    rc = backup_verify(file, &key, &manifest, &err);
    mem_wipe(&key, sizeof(key));
    if (rc < 0)
        return failed("the backup is not good", &err);
    print_result(c, "is whole", file, manifest);
    return 0;
}

int cli_restore(struct cli *c)
{
    const char *file = cli_word(c);
    struct shown shown = {.terminal = isatty(STDERR_FILENO)};
    struct backup_options o = {.data = cli_data_directory(c), .file = file, .progress = {show, &shown}};
    struct sealed_key key;
    struct err err = ERR_INIT;
    JSON_AUTO manifest = NULL;
    if (!file)
        return cli_usage_error("restore needs the FILE to read");
    int rc = cli_no_more(c);
    if (rc || (rc = load_key(c, &key)))
        return rc;
    o.key = &key;
    rc = backup_restore(&o, &manifest, &err);
    mem_wipe(&key, sizeof(key));
    end_shown(&shown);
    if (rc < 0)
        return failed("nothing was restored", &err);
    print_result(c, "is restored", file, manifest);
    if (!c->json)
        printf("it lies in %s and goes on behind revision %lld; %s\n", o.data, (long long)json_int(manifest, "restored.revision", 0),
               json_flag(manifest, "rootKey", false) ? "start sekid" : "put your copy of the root key back (secrets/root.key in there, or where seki.conf says), then start sekid");
    return 0;
}
