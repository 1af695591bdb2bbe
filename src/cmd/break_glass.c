#include "cmd/break_glass.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/rnd.h"
#include "base/vec.h"
#include "crypto/hash.h"
#include "crypto/pki.h"

#define LOOK_EVERY_MS 2000
#define RECORD_MAX 8192
#define RECORDS_MAX 1000
#define PEM_MAX 65536

enum recorded { UNRECORDED, RECORDING, RECORDED };

struct access {
    char *id, *by, *reason, *source, *agent;
    int64_t until_ms;
    enum recorded recorded; /* in the audit ledger, on the disk … */
    enum recorded end;      /* … and that it is over: what is not written down yet is tried again */
    const char *over;       /* why it lets nobody in any more; NULL: it does */
    bool told, seen;        /* told: its Event is made; seen: in the directory, this time */
};

struct break_glass {
    unsigned refs; /* the owner's, and one an Event or record on its way */
    struct loop *loop;
    char *dir;
    struct map *all; /* id → struct access */
    struct timer timer;
    struct client_local api;
    struct apiserver *server;
    struct audit_log *audit;
    struct access_waiters waiters;
    bool started, stopped;
};

/* ---- records ---- */

static void access_free(void *value)
{
    struct access *a = value;
    mem_free(a->id);
    mem_free(a->by);
    mem_free(a->reason);
    mem_free(a->source);
    mem_free(a->agent);
    mem_free(a);
}

static bool is_id(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= 'a' && s.ptr[i] <= 'z') || (s.ptr[i] >= '0' && s.ptr[i] <= '9')))
            return false;
    return s.len == BREAK_GLASS_ID_CHARS;
}

static struct access *read_record(const struct break_glass *b, const char *id)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s.json", b->dir, id);
    JSON_AUTO j = NULL;
    struct err err = ERR_INIT;
    int64_t until_ms;
    const char *until = NULL;
    if (json_read_file(path, RECORD_MAX, &j, &err) == 0)
        until = json_str(j, "until");
    if (!until || clock_parse(str_of(until), &until_ms) < 0) {
        log_warn("a record of break-glass access cannot be read, and lets nobody in", KV("file", path), KV("why", err.msg));
        return NULL;
    }
    struct access *a = XNEW(struct access);
    *a = (struct access){.id = xstrdup(id),
                         .by = xstrdup(json_str_or(j, "by", "")),
                         .reason = xstrdup(json_str_or(j, "reason", "")),
                         .source = xstrdup(json_str_or(j, "source", "")),
                         .agent = xstrdup(json_str_or(j, "agent", "")),
                         .until_ms = until_ms};
    return a;
}

static void forget(struct break_glass *b, const struct access *a)
{
    static const char *const endings[] = {"json", "kubeconfig"};
    for (size_t i = 0; i < ARRAY_LEN(endings); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s.%s", b->dir, a->id, endings[i]);
        unlink(path);
    }
}

/* ---- telling ---- */

static void unref(struct break_glass *b)
{
    if (--b->refs > 0)
        return;
    map_free(b->all);
    mem_free(b->dir);
    mem_free(b);
}

struct telling {
    struct break_glass *owner;
    char id[BREAK_GLASS_ID_CHARS + 1];
};

static struct telling *telling_new(struct break_glass *b, const struct access *a)
{
    struct telling *t = XNEW(struct telling);
    t->owner = b;
    snprintf(t->id, sizeof(t->id), "%s", a->id);
    b->refs++;
    return t;
}

static void told(void *arg, int status, json_t *body)
{
    struct telling *t = arg;
    struct access *a = map_getc(t->owner->all, t->id);
    if (a && (status == 201 || status == 409)) /* 409: by an earlier life of this process */
        a->told = true;
    else
        log_warn("the event of a break-glass access is not made yet", KV("id", t->id), KV("why", json_str_or(body, "message", "")));
    json_decref(body);
    unref(t->owner);
    mem_free(t);
}

static void make_event(struct break_glass *b, const struct access *a)
{
    static const char *const groups[] = {"system:masters", NULL};
    char now[CLOCK_TEXT_MAX], until[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), now);
    clock_format(a->until_ms, until);
    CLEANUP(mem_freep) char *message = xasprintf("%.64s took access to everything until %s: %.500s", a->by, until, a->reason);
    CLEANUP(mem_freep) char *name = xasprintf("break-glass-%s", a->id), *user = xasprintf(BREAK_GLASS_USER "%s", a->id);
    JSON_AUTO event = json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:s, s:s, s:s, s:i, s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Event", "metadata", "name", name,
                                "namespace", "default", "involvedObject", "apiVersion", "rbac.authorization.k8s.io/v1", "kind", "User", "name", user, "reason", "BreakGlass", "message",
                                message, "type", "Warning", "count", 1, "firstTimestamp", now, "lastTimestamp", now, "source", "component", "sekid");
    struct telling *t = telling_new(b, a);
    struct local_call call = {.method = "POST", .target = "/api/v1/namespaces/default/events", .content_type = "application/json", .body = event, .user = "system:seki:control",
                              .groups = groups, .arg = t, .done = told};
    b->api.call(b->api.ctx, &call);
}

/* ---- the audit ledger ---- */

static void add_record(struct break_glass *b, const struct access *a, const char *why_over, const struct audit_wait *w)
{
    static const char *const groups[] = {"system:masters", NULL};
    char until[CLOCK_TEXT_MAX];
    CLEANUP(mem_freep) char *user = xasprintf(BREAK_GLASS_USER "%s", a->id);
    clock_format(a->until_ms, until);
    struct audit_event e = {.type = AUDIT_BREAK_GLASS,
                            .user = str_of(user),
                            .sender = str_of(a->by),
                            .groups = groups,
                            .source = str_of(a->source),
                            .agent = str_of(a->agent),
                            .verb = str_of(why_over ? "delete" : "create"),
                            .reason = str_of(why_over ? why_over : a->reason),
                            .until = str_of(until)};
    audit_log_add_then(b->audit, &e, w);
}

/* All are called, and wait anew if it was not theirs. */
static void wake(struct break_glass *b)
{
    struct access_waiters all = TAILQ_HEAD_INITIALIZER(all);
    struct access_waiter *w;
    TAILQ_CONCAT(&all, &b->waiters, link);
    TAILQ_FOREACH (w, &all, link)
        w->list = &all;
    while ((w = TAILQ_FIRST(&all))) {
        TAILQ_REMOVE(&all, w, link);
        w->list = NULL;
        w->fn(w->arg);
    }
}

static void recorded(void *arg, int code)
{
    struct telling *t = arg;
    struct access *a = map_getc(t->owner->all, t->id);
    if (a)
        a->recorded = code < 0 ? UNRECORDED : RECORDED;
    if (code < 0)
        log_warn("a break-glass access could not be recorded, and lets nobody in yet", KV("id", t->id), KVI("code", code));
    if (!t->owner->stopped)
        wake(t->owner);
    unref(t->owner);
    mem_free(t);
}

static void record(struct break_glass *b, struct access *a)
{
    if (!b->audit || a->recorded != UNRECORDED)
        return;
    a->recorded = RECORDING;
    add_record(b, a, NULL, &(struct audit_wait){b->loop, recorded, telling_new(b, a)});
}

static void end_recorded(void *arg, int code)
{
    struct telling *t = arg;
    struct access *a = map_getc(t->owner->all, t->id);
    if (a)
        a->end = code < 0 ? UNRECORDED : RECORDED;
    if (code < 0)
        log_warn("the end of a break-glass access is not recorded yet", KV("id", t->id), KVI("code", code));
    unref(t->owner);
    mem_free(t);
}

/* Its beginning first, whatever has become of it. */
static void record_end(struct break_glass *b, struct access *a)
{
    record(b, a);
    if (a->recorded != RECORDED || a->end != UNRECORDED)
        return;
    a->end = RECORDING;
    add_record(b, a, a->over, &(struct audit_wait){b->loop, end_recorded, telling_new(b, a)});
}

/* ---- looking ---- */

static void take_up(struct break_glass *b, const char *id)
{
    struct access *a = map_getc(b->all, id);
    if (!a) {
        char until[CLOCK_TEXT_MAX];
        a = map_len(b->all) < RECORDS_MAX ? read_record(b, id) : NULL;
        if (!a)
            return;
        clock_format(a->until_ms, until);
        log_warn("break-glass access to everything", KV("id", id), KV("by", a->by), KV("reason", a->reason), KV("until", until));
        map_set(b->all, str_of(id), a);
    }
    a->seen = true;
    record(b, a);
}

static void look(struct break_glass *b)
{
    struct map_iter it = MAP_ITER_INIT;
    DIR *d = opendir(b->dir);
    const struct dirent *e;
    if (!d && errno != ENOENT) { /* nothing is known: nobody's record was taken away */
        log_warn("records of break-glass accesses cannot be looked at", KV("dir", b->dir), KV("why", strerror(errno)));
        return;
    }
    while (map_next(b->all, &it))
        ((struct access *)it.value)->seen = false;
    while (d && (e = readdir(d))) {
        struct str name = str_of(e->d_name);
        char id[BREAK_GLASS_ID_CHARS + 1];
        if (str_ends(name, STR(".json")) && str_to_array(str_n(name.ptr, name.len - 5), id, sizeof(id)) && is_id(str_of(id)))
            take_up(b, id);
    }
    if (d)
        closedir(d);
}

/* Tells of new ones; ends those whose time is over, or whose record somebody took away, and removes them once they were told of and their end is recorded. */
static void settle(struct break_glass *b)
{
    struct map_iter it = MAP_ITER_INIT;
    VEC(struct access *) untold = VEC_INIT;
    bool ended = false;
    while (map_next(b->all, &it)) {
        struct access *a = it.value;
        bool late = a->until_ms <= clock_wall_ms();
        if (!a->told && b->started)
            *VEC_PUSH(&untold) = a;
        if (!a->over && (late || !a->seen)) {
            a->over = late ? "its time is over" : "its record was removed";
            log_warn("break-glass access is over", KV("id", a->id), KV("by", a->by), KV("why", a->over));
            ended = true;
        }
        if (a->over)
            record_end(b, a);
        if (a->told && a->end == RECORDED) {
            forget(b, a);
            map_del(b->all, it.key);
        }
    }
    if (ended && b->server)
        apiserver_access_over(b->server);
    VEC_FOREACH (&untold, a)
        make_event(b, *a);
    VEC_DEINIT(&untold);
}

static void on_timer(struct timer *t)
{
    struct break_glass *b = t->arg;
    look(b);
    settle(b);
    timer_start(t, LOOK_EVERY_MS);
}

int break_glass_check(void *arg, const char *id)
{
    struct break_glass *b = arg;
    const struct access *a = map_getc(b->all, id);
    if (!a && is_id(str_of(id))) { /* who comes here has a certificate of ours */
        look(b);
        settle(b);
        a = map_getc(b->all, id);
    }
    if (!a || a->over || !a->seen || a->until_ms <= clock_wall_ms() || a->recorded == UNRECORDED)
        return ERR_UNAUTHENTICATED;
    return a->recorded == RECORDED ? 0 : ERR_BUSY;
}

void break_glass_wait(void *arg, struct access_waiter *w)
{
    struct break_glass *b = arg;
    w->list = &b->waiters;
    TAILQ_INSERT_TAIL(&b->waiters, w, link);
}

/* ---- life ---- */

static double active(void *arg)
{
    const struct break_glass *b = arg;
    struct map_iter it = MAP_ITER_INIT;
    double n = 0;
    while (map_next(b->all, &it))
        n += !((struct access *)it.value)->over && ((struct access *)it.value)->until_ms > clock_wall_ms();
    return n;
}

struct break_glass *break_glass_new(struct loop *l, const char *dir)
{
    struct break_glass *b = XNEW(struct break_glass);
    *b = (struct break_glass){.refs = 1, .loop = l, .dir = xstrdup(dir), .all = map_new(access_free)};
    TAILQ_INIT(&b->waiters);
    timer_init(&b->timer, l, on_timer, b);
    metric_gauge_fn("seki_break_glass_active", "Break-glass accesses that are good now.", active, b);
    return b;
}

void break_glass_record_in(struct break_glass *b, struct audit_log *audit)
{
    b->audit = audit;
}

void break_glass_start(struct break_glass *b, const struct client_local *api, struct apiserver *server)
{
    b->api = *api;
    b->server = server;
    b->started = true;
    timer_start(&b->timer, 0);
}

void break_glass_free(struct break_glass *b)
{
    if (!b)
        return;
    timer_stop(&b->timer);
    b->stopped = true;
    unref(b);
}

/* ---- the command's side ---- */

/* Root becomes who runs control: so that he can read what is made, and so that nothing he has put there, such as a link, has root write elsewhere. */
static int become_owner(const char *data, struct err *err)
{
    struct stat st;
    if (geteuid() != 0)
        return 0;
    if (stat(data, &st) < 0)
        return err_sys(err, errno, "%s", data);
    if (st.st_uid == 0)
        return 0;
    return setgroups(0, NULL) < 0 || setgid(st.st_gid) < 0 || setuid(st.st_uid) < 0 ? err_sys(err, errno, "becoming the owner of %s", data) : 0;
}

static void put64(json_t *j, const char *key, const char *pem)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 2 * PEM_MAX);
    base64_encode(str_of(pem), &text);
    json_object_set_new(j, key, json_stringn(text.ptr, text.len));
    mem_wipe(text.ptr, text.len);
}

static int write_kubeconfig(const struct break_glass_wish *w, const char *path, const char *ca_pem, const char *cert_pem, const char *key_pem, struct err *err)
{
    CLEANUP(mem_freep) char *addr_path = xasprintf("%s/run/api.addr", w->data), *addr = NULL;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    size_t len = 0;
    int rc = file_read(addr_path, 256, &addr, &len, err);
    if (rc < 0)
        return err_wrap(err, "the API's address is not known: sekid has never run here");
    json_t *cluster = json_pack("{s:o}", "server", json_sprintf("https://%.*s", STR_ARG(str_trim(str_n(addr, len))))), *user = json_object();
    put64(cluster, "certificate-authority-data", ca_pem);
    put64(user, "client-certificate-data", cert_pem);
    put64(user, "client-key-data", key_pem);
    JSON_AUTO config = client_kubeconfig_new("seki", cluster, "break-glass", user, "break-glass", NULL);
    sbuf_init(&out, 4 * PEM_MAX);
    json_write_pretty(config, &out);
    sbuf_add_char(&out, '\n');
    rc = sbuf_ok(&out) ? file_write(path, sbuf_str(&out), 0600, err) : err_set(err, ERR_TOO_LARGE, "kubeconfig over its maximum size");
    if (out.ptr)
        mem_wipe(out.ptr, out.len);
    return rc;
}

static int write_record(const struct break_glass_wish *w, const char *path, int64_t until_ms, struct err *err)
{
    char since[CLOCK_TEXT_MAX], until[CLOCK_TEXT_MAX];
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    clock_format(clock_wall_ms(), since);
    clock_format(until_ms, until);
    JSON_AUTO record =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "by", w->by, "reason", w->reason, "since", since, "until", until, "source", w->source, "agent", w->agent);
    if (!record)
        return err_set(err, ERR_INVALID, "the reason is no UTF-8");
    sbuf_init(&out, RECORD_MAX);
    json_write(record, &out);
    return file_write(path, sbuf_str(&out), 0600, err);
}

/* What is missing is not made: an authority of this moment would be nobody's. */
static int open_ca(const char *pki, struct pki_ca **ret, struct err *err)
{
    static const char *const parts[] = {"crt", "key"};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/ca.%s", pki, parts[i]);
        if (access(path, R_OK) < 0)
            return err_sys(err, errno, "%s", path);
    }
    return pki_ca_ensure(pki, "ca", "seki", ret, err);
}

int break_glass_make(const struct break_glass_wish *w, struct arena *a, const char **ret_path, int64_t *ret_until_ms, struct err *err)
{
    char id[BREAK_GLASS_ID_CHARS + 1];
    const char *dir = arena_printf(a, "%s/break-glass", w->data);
    struct pki_ca *ca = NULL;
    CLEANUP(mem_freep) char *cert = NULL, *key = NULL;
    int64_t until_ms = (clock_wall_ms() + w->life_ms) / 1000 * 1000;
    rnd_name(id, BREAK_GLASS_ID_CHARS);
    const char *record = arena_printf(a, "%s/%s.json", dir, id), *path = arena_printf(a, "%s/%s.kubeconfig", dir, id);
    const struct pki_leaf leaf = {.common_name = arena_printf(a, BREAK_GLASS_USER "%s", id), .orgs = (const char *const[]){"system:masters", NULL}, .usage = PKI_CLIENT,
                                  .seconds = (int)(w->life_ms / 1000)};
    int rc = become_owner(w->data, err);
    if (rc == 0)
        rc = open_ca(arena_printf(a, "%s/pki", w->data), &ca, err);
    if (rc == 0)
        rc = pki_leaf_make(ca, &leaf, &cert, &key, err);
    if (rc == 0 && (rc = file_mkdirs(dir, 0700, err)) == 0 && (rc = write_kubeconfig(w, path, pki_ca_pem(ca), cert, key, err)) == 0)
        rc = write_record(w, record, until_ms, err);
    if (key)
        mem_wipe(key, strlen(key));
    pki_ca_free(ca);
    if (rc < 0)
        return rc;
    *ret_path = path;
    *ret_until_ms = until_ms;
    return 0;
}
