/* A cluster goes back to one of its backups. Everything that can fail is done while it runs; then its components end in order, the store's directory is replaced by two renames, and it is brought up
 * as ever. Each step is found again from what is on disk:
 *   restore/ready   the new store lies whole in restore/etcd: from now on it goes forward
 *   restore/etcd    is not there any more: it has been moved to etcd/
 *   etcd.before     what was replaced, until the next restore
 */
#include "kaas/recovery.h"
#include "kaas/upgrade.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#define LOOK_MS 50u
#define READY_MAX 4096

struct going_back {
    struct kaas *k;
    struct reconcile *r;
    struct site *site;
    struct cluster_memory *memory;
    const char *request;
    const char *work;  /* DIR/restore */
    json_t *ready;     /* what restore/ready says; NULL */
    const char *reason; /* of a refusal */
};

static const char *request_of(const json_t *obj)
{
    const char *text = obj_annotation(obj, CLUSTER_RESTORE_ANNOTATION);
    return text ? text : "";
}

bool restore_wanted(const json_t *obj)
{
    const char *request = request_of(obj);
    return *request && strcmp(request, json_str_or(obj, "status.restore.request", "")) != 0;
}

static const char *in(struct going_back *g, const char *dir, const char *name)
{
    return arena_printf(g->r->arena, "%s/%s", dir, name);
}

static int move(const char *from, const char *to, struct err *err)
{
    return rename(from, to) < 0 ? err_sys(err, errno, "%s to %s", from, to) : 0;
}

/* ---- before anything is stopped ---- */

/* "latest …" | "ID …" */
static int choose(struct going_back *g, const char *dir, char id[BACKUP_ID_MAX], struct err *err)
{
    struct str rest = str_of(g->request), first;
    struct snapshot *there = ARENA_ARRAY(g->r->arena, struct snapshot, 2 * CLUSTER_BACKUPS_MAX);
    if (!str_cut(&rest, ' ', &first) || !str_to_array(first, id, BACKUP_ID_MAX))
        return err_set(err, ERR_INVALID, "%.40s is no name of a backup, nor latest", g->request);
    if (strcmp(id, "latest") != 0)
        return 0;
    size_t count = snapshot_list(dir, there, 2 * CLUSTER_BACKUPS_MAX, false);
    if (!count)
        return err_set(err, ERR_NOT_FOUND, "there is no backup of this cluster");
    backups_order(there, count, json_at(g->r->obj, "status.backups"), clock_wall_ms());
    memcpy(id, there[0].id, BACKUP_ID_MAX);
    return 0;
}

/* Its directory is gone, with its certificates: they are in the backup, too. */
static int rebuild_place(struct going_back *g, struct err *err)
{
    struct site *s = g->site;
    uint16_t port;
    int rc = 0;
    if (file_exists(in(g, s->dir, "cluster.json")))
        return 0;
    for (int m = 0; m < site_members(s); m++)
        if (place_in_use(member_address(s, m), &port))
            return err_set(err, ERR_BUSY, "its directory is gone, and something listens on its address %s:%d", member_address(s, m), port);
    if (!file_exists(in(g, s->dir, "pki/ca.key"))) {
        rc = file_remove_tree(in(g, s->dir, "pki"), err);
        if (rc == 0)
            rc = move(in(g, g->work, "pki"), in(g, s->dir, "pki"), err);
    }
    g->memory->pki_ms = 0;
    s->replacing = 0;
    return rc < 0 ? rc : place_keep(s, err);
}

static int write_ready(struct going_back *g, const char *id, int64_t revision, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    g->ready = json_pack("{s:s, s:s, s:s, s:I, s:I}", "request", g->request, "backup", id, "version", g->site->minor, "revision", (json_int_t)revision, "startedMs", (json_int_t)clock_wall_ms());
    sbuf_init(&text, READY_MAX);
    json_write(g->ready, &text);
    return file_write(in(g, g->work, "ready"), sbuf_str(&text), 0600, err);
}

/* What the store is of, runs it from now on; its own programs read it. */
static int use_version(struct going_back *g, const struct snapshot *x, struct err *err)
{
    struct site *s = g->site;
    if (!*x->version || !strcmp(x->version, s->minor))
        return 0;
    s->minor = arena_strdup(g->r->arena, x->version);
    s->programs = arena_printf(g->r->arena, "%s/%s", g->k->o.programs_dir, s->minor);
    return access(in(g, s->programs, "kube-apiserver"), X_OK) < 0 ? err_set(err, ERR_UNAVAILABLE, "backup %s is of Kubernetes %s, which this cloud does not have", x->id, s->minor) : 0;
}

static int prepare(struct going_back *g, char id[BACKUP_ID_MAX], struct err *err)
{
    struct site *s = g->site;
    struct arena *a = g->r->arena;
    struct sealed_key key;
    struct snapshot x = {.id = ""};
    int64_t revision = 0;
    const char *dir = snapshot_dir(g->k->o.data_dir, s->uid, a);
    int rc = choose(g, dir, id, err);
    /* One that was asked for before, and was between its two renames. */
    for (int m = 0; rc == 0 && m < site_members(s); m++) {
        const char *now = member_store(s, m, a), *before = arena_printf(a, "%s.before", now);
        if (!file_exists(now) && file_exists(before))
            rc = move(before, now, err);
    }
    if (rc == 0)
        rc = backup_key(g->k, s, &key, err);
    if (rc < 0)
        return rc;
    rc = snapshot_open(s, dir, id, &key, g->work, a, &x, err);
    mem_wipe(&key, sizeof(key));
    if (rc == 0)
        rc = use_version(g, &x, err);
    if (rc == 0)
        rc = snapshot_restore(s, g->work, site_members(s), x.revision, json_int(g->r->obj, "status.restore.revision", 0), PORT_ETCD_PEERS, a, &revision, err);
    if (rc == 0)
        rc = rebuild_place(g, err);
    if (rc == 0)
        rc = file_remove_tree(in(g, g->work, "pki"), err);
    if (rc == 0)
        rc = write_ready(g, id, revision, err);
    return rc;
}

static void refuse(struct going_back *g, const char *id, const struct err *why)
{
    json_t *obj = g->r->obj;
    (void)!file_remove_tree(g->work, NULL);
    json_put_str(obj, "status.restore.request", g->request);
    json_put_str(obj, "status.restore.backup", id);
    json_remove(obj, "status.restore.startedAt");
    json_remove(obj, "status.restore.milliseconds");
    const char *message = arena_printf(g->r->arena, "nothing was changed: %s", why->msg);
    obj_set_condition(obj, "Restored", "False", "RestoreRefused", message, clock_wall_ms());
    manager_event(g->k->manager, obj, "Warning", "RestoreRefused", message);
    log_warn("a restore of a cluster was refused", KV("cluster", g->site->name), KV("namespace", g->site->ns), KVE(why));
}

/* ---- forward ---- */

static int replace(struct going_back *g, int member, struct err *err)
{
    struct site work = *g->site;
    work.dir = g->work;
    const char *d = g->site->dir, *fresh = member_store(&work, member, g->r->arena), *now = member_store(g->site, member, g->r->arena), *before = arena_printf(g->r->arena, "%s.before", now);
    int rc = 0;
    if (!file_exists(fresh))
        return 0; /* that is done */
    if (file_exists(now)) {
        rc = file_remove_tree(before, err);
        if (rc == 0)
            rc = move(now, before, err);
    }
    if (rc == 0)
        rc = move(fresh, now, err);
    return rc < 0 ? rc : file_sync_dir(d, err);
}

static void say_busy(struct going_back *g, const char *message)
{
    json_t *obj = g->r->obj;
    int64_t now = clock_wall_ms();
    obj_set_condition(obj, "Restored", "Unknown", "Restoring", message, now);
    obj_set_condition(obj, "StoreReady", "False", "Restoring", message, now);
    obj_set_condition(obj, "Ready", "False", "Restoring", message, now);
    g->r->requeue_ms = LOOK_MS;
}

static int go_forward(struct going_back *g, struct err *err)
{
    json_t *obj = g->r->obj;
    unsigned ended = 0;
    const char *id = json_str_or(g->ready, "backup", "");
    if (!cluster_end(g->k, g->site, ETCD, &ended)) {
        say_busy(g, arena_printf(g->r->arena, "its components end, to go back to backup %s", id));
        return 0;
    }
    int rc = 0;
    for (int m = 0; rc == 0 && m < site_members(g->site); m++)
        rc = replace(g, m, err);
    if (rc == 0 && g->site->replacing) { /* all members are voters again */
        g->site->replacing = 0;
        rc = place_keep(g->site, err);
    }
    if (rc == 0 && *json_str_or(g->ready, "version", ""))
        rc = version_restored(obj, json_str(g->ready, "version"), json_str_or(obj, "spec.version", ""), g->site->dir, err);
    if (rc < 0)
        return rc;
    /* What lies in it may be in clear, or under older keys: that is looked at from the beginning. */
    if (unlink(in(g, g->site->dir, "conf/encryption.json")) < 0 && errno != ENOENT)
        return err_sys(err, errno, "%s/conf/encryption.json", g->site->dir);
    g->memory->pki_ms = 0;
    g->memory->secrets.look_ms = 0;
    *g->memory->secrets.cursor = 0;
    g->memory->bound = false;
    memset(g->memory->failing_ms, 0, sizeof(g->memory->failing_ms));
    say_busy(g, arena_printf(g->r->arena, "its store is that of backup %s, and is started", id));
    json_put_str(obj, "status.restore.request", g->request);
    json_put_str(obj, "status.restore.backup", id);
    json_put_int(obj, "status.restore.revision", json_int(g->ready, "revision", 0));
    status_put_time(obj, "status.restore.startedAt", json_int(g->ready, "startedMs", 0));
    json_remove(obj, "status.restore.milliseconds");
    log_info("a cluster goes back to a backup", KV("cluster", g->site->name), KV("namespace", g->site->ns), KV("backup", id));
    return 0;
}

static json_t *read_ready(struct going_back *g)
{
    json_t *doc = NULL;
    if (json_read_file(in(g, g->work, "ready"), READY_MAX, &doc, NULL) < 0)
        return NULL;
    if (!strcmp(json_str_or(doc, "request", ""), g->request))
        return doc;
    json_decref(doc);
    return NULL;
}

int restore_step(struct kaas *k, struct reconcile *r, struct site *s, struct cluster_memory *m, bool *ret_busy, struct err *err)
{
    struct going_back g = {.k = k, .r = r, .site = s, .memory = m, .request = request_of(r->obj)};
    char id[BACKUP_ID_MAX] = "";
    struct err why = ERR_INIT;
    g.work = in(&g, s->dir, "restore");
    *ret_busy = false;
    if (!restore_wanted(r->obj))
        return file_exists(g.work) ? file_remove_tree(g.work, err) : 0;
    if (place_load(s, NULL) < 0 && !place_from_status(s, r->obj))
        return 0;
    const char *minor = s->minor, *programs = s->programs;
    g.ready = read_ready(&g);
    int rc = g.ready ? 0 : prepare(&g, id, &why);
    if (rc < 0) {
        s->minor = minor; /* the same pass looks after what runs on: that is of the version that it was */
        s->programs = programs;
        json_decref(g.ready);
        if (rc == ERR_CANCELED)
            return err_set(err, rc, "%s", why.msg); /* who comes after us begins it again */
        refuse(&g, id, &why);
        return 0;
    }
    *ret_busy = true;
    rc = go_forward(&g, err);
    json_decref(g.ready);
    return rc;
}

bool restore_ended(json_t *obj, int64_t now_ms)
{
    int64_t began = 0;
    const char *text = json_str(obj, "status.restore.startedAt");
    if (!text || json_at(obj, "status.restore.milliseconds") || clock_parse(str_of(text), &began) < 0)
        return false;
    json_put_int(obj, "status.restore.milliseconds", MAX(now_ms - began, (int64_t)1));
    obj_set_condition(obj, "Restored", "True", "Restored", "it is as its backup status.restore.backup was", now_ms);
    return true;
}
