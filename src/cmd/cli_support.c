/* seki support-bundle: what somebody far away needs to understand a case, and nothing of a customer. Runs on the machine; what cannot be had is named and left out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "client/fetch.h"
#include "cmd/cli.h"
#include "cmd/options.h"
#include "cmd/support.h"

#define PART_MAX ((size_t)8 << 20)
#define BUNDLE_MAX ((size_t)64 << 20)
#define OBJECTS_MAX 20000
#define LOG_FILES_MAX 64
#define LOG_TAIL ((size_t)1 << 20)
#define ENGINE_TAIL ((size_t)256 << 10)
#define FETCH_MS 10000
#define RAW_MAX ((size_t)32 << 20)
#define CONFIG_FILE "/etc/seki/seki.conf"

static const char read_me[] =
    "A support bundle of Seki, made by `seki support-bundle`.\n\n"
    "  manifest.json        the parts, their sizes, what was cut, what could not be had\n"
    "  system.txt           release, kernel, memory, load\n"
    "  config.txt           options in force; secrets are files, and only their paths are here\n"
    "  disk.txt             file system and parts of the data directory\n"
    "  cgroups.txt          limits and use of the services\n"
    "  ledgers.jsonl        where each ledger stands; no record of it\n"
    "  control/, gateway/   readiness and metrics\n"
    "  objects/             metadata and status; no Secret, no annotation, no free text\n"
    "  logs/                lines of sekid and engines about themselves\n\n"
    "Everything passed a list of what is allowed. Prompts, answers, keys, tokens, Secrets and private keys are on none.\n";

struct bundle {
    struct cli *c;
    struct support_tar *tar;
    const char *data;
    bool texts; /* --texts */
    size_t total;
    json_t *manifest; /* array */
};

/* Adds a part, tells of it, and notes it. why: NULL, or what is missing from it. */
static int add(struct bundle *b, const char *name, const struct sbuf *part, const char *why, struct err *err)
{
    struct str data = sbuf_str(part);
    bool cut = part->failed || b->total + data.len > BUNDLE_MAX;
    if (b->total + data.len > BUNDLE_MAX)
        data.len = 0;
    int rc = data.len ? support_tar_add(b->tar, name, data, err) : 0;
    if (rc < 0)
        return rc;
    b->total += data.len;
    json_t *entry = json_pack("{s:s, s:I}", "name", name, "bytes", (json_int_t)data.len);
    if (cut)
        json_object_set_new(entry, "cut", json_true());
    if (why)
        json_object_set_new(entry, "missing", json_string(why));
    json_array_append_new(b->manifest, entry);
    fprintf(stderr, "    %-56s %5zu KiB%s%s%s\n", name, (data.len + 1023) / 1024,
            cut ? ", cut" : "", why ? ", not whole: " : "", why ? why : "");
    return 0;
}

/* ---- what the daemon says ---- */

/* The address that a role's monitoring listener has bound. */
static const char *monitor_address(struct bundle *b, const char *name, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    if (file_read(arena_printf(b->c->arena, "%s/run/%s.addr", b->data, name), 256, &text, &len, err) < 0)
        return NULL;
    struct net_addr addr;
    char written[NET_ADDR_TEXT_MAX];
    if (net_addr_parse(str_trim(str_n(text, len)), &addr, err) < 0)
        return NULL;
    /* Monitoring listens nowhere else; root asks nobody else for what goes into the bundle. */
    if (!net_addr_is_loopback(&addr)) {
        err_set(err, ERR_INVALID, "run/%s.addr has no loopback address", name);
        return NULL;
    }
    net_addr_format(&addr, written);
    return arena_printf(b->c->arena, "http://%s", written);
}

static int add_monitor(struct bundle *b, const char *role, const char *addr_name, struct err *err)
{
    static const struct {
        const char *path, *file;
    } parts[] = {{"/readyz?verbose", "readyz.txt"}, {"/metrics", "metrics.txt"}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        CLEANUP(mem_freep) char *body = NULL;
        struct err why = ERR_INIT;
        size_t len = 0;
        int status = 0;
        sbuf_init(&out, PART_MAX);
        const char *address = monitor_address(b, addr_name, &why);
        struct fetch_options f = {.address = address, .path = parts[i].path, .timeout_ms = FETCH_MS, .max_body_bytes = PART_MAX};
        if (address && fetch(&f, &status, &body, &len, &why) == 0) {
            if (i == 0)
                support_ready(str_n(body, len), b->texts, &out);
            else
                support_metrics(str_n(body, len), &out);
        }
        int rc = add(b, arena_printf(b->c->arena, "%s/%s", role, parts[i].file), &out, why.code ? why.msg : NULL, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_objects(struct bundle *b, struct err *err)
{
    struct cli *c = b->c;
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    struct err why = ERR_INIT;
    char ns[256];
    const char *file = c->kubeconfig ? c->kubeconfig : arena_printf(c->arena, "%s/admin.kubeconfig", b->data);
    if (client_kubeconfig(file, &c->client, ns, sizeof(ns), &why) < 0)
        c->client = NULL;
    for (size_t i = 0; i < count; i++) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        JSON_AUTO items = NULL;
        struct err problem = why;
        struct client_resource r = kind_resource(kinds[i]);
        if (!support_has_kind(kinds[i]))
            continue;
        sbuf_init(&out, PART_MAX);
        /* One that does not answer is not asked again and again. */
        if (c->client && !why.code && client_list(c->client, &r, NULL, NULL, &items, NULL, &problem) < 0 && (problem.code == ERR_CLOSED || problem.code == ERR_TIMEOUT || problem.code == ERR_IO))
            why = problem;
        size_t n;
        json_t *obj;
        json_array_foreach (items, n, obj) {
            JSON_AUTO kept = n < OBJECTS_MAX && !out.failed ? support_object(kinds[i], obj, b->texts) : NULL;
            if (!kept)
                break;
            json_write(kept, &out);
            sbuf_add_char(&out, '\n');
        }
        int rc = add(b, arena_printf(c->arena, "objects/%s.jsonl", kinds[i]->plural), &out, problem.code ? problem.msg : json_array_size(items) > OBJECTS_MAX ? "too many objects" : NULL, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- what lies on the machine ---- */

static int add_config(struct bundle *b, const char *file, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct err why = ERR_INIT;
    struct options values = {0};
    size_t count;
    const struct conf_option *schema = options_schema(&count);
    sbuf_init(&out, PART_MAX);
    if (conf_load(schema, count, file, NULL, 0, b->c->arena, &values, &why) == 0)
        support_options(schema, count, &values, &out);
    /* The message may quote what is wrong. */
    return add(b, "config.txt", &out, why.code ? "the file is not accepted: sekid --check-config says why" : NULL, err);
}

static int add_facts(struct bundle *b, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf system = {0}, disk = {0}, groups = {0}, ledgers = {0};
    struct err why = ERR_INIT;
    struct sbuf *all[] = {&system, &disk, &groups, &ledgers};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        sbuf_init(all[i], PART_MAX);
    support_system(&system);
    support_disk(b->data, &disk);
    support_cgroups(&groups);
    (void)!support_ledgers(arena_printf(b->c->arena, "%s/ledger", b->data), &ledgers, &why);
    int rc = add(b, "system.txt", &system, NULL, err);
    if (rc == 0)
        rc = add(b, "disk.txt", &disk, NULL, err);
    if (rc == 0)
        rc = add(b, "cgroups.txt", &groups, NULL, err);
    return rc < 0 ? rc : add(b, "ledgers.jsonl", &ledgers, why.code ? why.msg : NULL, err);
}

/* The last bytes of a file, from the beginning of a line on. */
static int read_tail(const char *path, size_t max, struct sbuf *out, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is no file", path);
    off_t at = st.st_size > (off_t)max ? st.st_size - (off_t)max : 0;
    char *room = sbuf_reserve(out, max);
    ssize_t n = room ? pread(fd, room, max, at) : 0;
    if (n < 0)
        return err_sys(err, errno, "%s", path);
    sbuf_commit(out, (size_t)n);
    char *first = at && out->len ? memchr(out->ptr, '\n', out->len) : NULL;
    if (first)
        sbuf_consume(out, (size_t)(first - out->ptr) + 1);
    return 0;
}

static int add_daemon_log(struct bundle *b, const char *file, struct err *err)
{
    static const char *const journal[] = {"journalctl", "--unit=seki-control", "--unit=seki-gateway", "--output=cat", "--no-pager", "--since=-48h", "--lines=20000", NULL};
    CLEANUP(sbuf_deinit) struct sbuf raw = {0}, out = {0};
    struct err why = ERR_INIT;
    sbuf_init(&raw, RAW_MAX);
    sbuf_init(&out, RAW_MAX);
    (void)!(file ? read_tail(file, LOG_TAIL * 8, &raw, &why) : support_run(journal, &raw, &why));
    struct str rest = sbuf_str(&raw), line;
    while (str_cut(&rest, '\n', &line) && !out.failed)
        support_log_line(line, b->texts, &out);
    if (out.len > PART_MAX) { /* what happened last matters most */
        const char *from = memchr(out.ptr + (out.len - PART_MAX), '\n', PART_MAX);
        sbuf_consume(&out, from ? (size_t)(from + 1 - out.ptr) : out.len);
        err_set(&why, ERR_TOO_LARGE, "older lines are left out");
    }
    if (!out.len && !why.code)
        err_set(&why, ERR_NOT_FOUND, "no lines of sekid; --log names a file that has them");
    return add(b, "logs/sekid.jsonl", &out, why.code ? why.msg : NULL, err);
}

static int is_log(const struct dirent *e)
{
    return str_ends(str_of(e->d_name), STR(".log")) && strlen(e->d_name) < 80;
}

static int add_engine_logs(struct bundle *b, struct err *err)
{
    const char *dir = arena_printf(b->c->arena, "%s/log", b->data);
    struct dirent **list = NULL;
    int count = scandir(dir, &list, is_log, alphasort), rc = 0;
    for (int i = 0; i < count; i++) {
        CLEANUP(sbuf_deinit) struct sbuf raw = {0}, out = {0};
        struct err why = ERR_INIT;
        size_t lines = 0, kept = 0;
        sbuf_init(&raw, ENGINE_TAIL);
        sbuf_init(&out, PART_MAX);
        if (rc == 0 && i < LOG_FILES_MAX) {
            (void)!read_tail(arena_printf(b->c->arena, "%s/%s", dir, list[i]->d_name), ENGINE_TAIL, &raw, &why);
            struct str rest = sbuf_str(&raw), line;
            for (; str_cut(&rest, '\n', &line); lines += line.len > 0)
                kept += support_engine_line(line, &out);
            sbuf_addf(&out, "# %zu of the last %zu lines\n", kept, lines);
            rc = add(b, arena_printf(b->c->arena, "logs/%s", list[i]->d_name), &out, why.code ? why.msg : NULL, err);
        }
        mem_free(list[i]);
    }
    mem_free(list);
    return rc;
}

static int add_manifest(struct bundle *b, int64_t now_ms, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    char now[CLOCK_TEXT_MAX];
    clock_format(now_ms, now);
    JSON_AUTO doc = json_pack("{s:s, s:s, s:b, s:O}", "seki", SEKI_RELEASE, "made", now, "texts", b->texts, "parts", b->manifest);
    sbuf_init(&out, PART_MAX);
    json_write_pretty(doc, &out);
    sbuf_add_char(&out, '\n');
    int rc = support_tar_add(b->tar, "manifest.json", sbuf_str(&out), err);
    return rc < 0 ? rc : support_tar_add(b->tar, "README.txt", str_of(read_me), err);
}

static int fill(struct bundle *b, const char *config, const char *log, int64_t now_ms, struct err *err)
{
    int rc = add_facts(b, err);
    if (rc == 0)
        rc = add_config(b, config, err);
    if (rc == 0)
        rc = add_monitor(b, "control", "metrics", err);
    if (rc == 0)
        rc = add_monitor(b, "gateway", "metrics-gateway", err);
    if (rc == 0)
        rc = add_objects(b, err);
    if (rc == 0)
        rc = add_daemon_log(b, log, err);
    if (rc == 0)
        rc = add_engine_logs(b, err);
    return rc < 0 ? rc : add_manifest(b, now_ms, err);
}

int cli_support_bundle(struct cli *c)
{
    const char *config = cli_flag(c, "--config"), *data = cli_flag(c, "--data"), *log = cli_flag(c, "--log"), *file = cli_word(c);
    int64_t now_ms = clock_wall_ms();
    char now[CLOCK_TEXT_MAX];
    uint64_t bytes = 0;
    struct err err = ERR_INIT;
    if (cli_no_more(c))
        return 2;
    clock_format(now_ms, now);
    if (!file)
        file = arena_printf(c->arena, "seki-support-%.4s%.2s%.2s-%.2s%.2s%.2s.tar.gz", now, now + 5, now + 8, now + 11, now + 14, now + 17);
    if (!config && file_exists(CONFIG_FILE))
        config = CONFIG_FILE;
    struct bundle b = {.c = c, .data = data, .texts = cli_switch(c, "--texts")};
    if (!b.data) { /* where the configuration says */
        struct options values = {0};
        size_t count;
        const struct conf_option *schema = options_schema(&count);
        b.data = conf_load(schema, count, config, NULL, 0, c->arena, &values, NULL) == 0 ? values.data : "/var/lib/seki";
    }
    if (access(b.data, R_OK | X_OK) < 0) {
        fprintf(stderr, "seki: cannot read %s: %s; run this as root on the machine, or name the data directory with --data\n", b.data, strerror(errno));
        return 1;
    }
    if (support_tar_new(file, now_ms, &b.tar, &err) < 0)
        return cli_fail(&err);
    b.manifest = json_array();
    int rc = fill(&b, config, log, now_ms, &err);
    if (rc == 0)
        rc = support_tar_finish(b.tar, &bytes, &err);
    support_tar_free(b.tar);
    json_decref(b.manifest);
    if (rc < 0)
        return cli_fail(&err);
    JSON_AUTO made = json_pack("{s:s, s:I}", "file", file, "bytes", (json_int_t)bytes);
    if (c->json)
        cli_print_json(made);
    else
        puts(file);
    fprintf(stderr, "seki: %llu KiB; look through it before you send it: tar -xzf %s\n",
            (unsigned long long)(bytes + 1023) / 1024, file);
    return 0;
}
