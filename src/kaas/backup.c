/* The controller of backups: takes them when they are due or asked for, keeps the newest, rehearses restores. A pass may take long; that of cluster.c does not wait for it. */
#include "kaas/recovery.h"
#include "kaas/upgrade.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "kinds/borrowed.h"

#define AGAIN_MS 10000u     /* after one that failed */
#define LOOK_MS 60000u
#define SOON_MS 1000u
#define DRILL_AGAIN_MS ((int64_t)600000) /* after a rehearsal that failed, doubling */
#define UPDATE_TRIES 5
#define OVERDUE_TIMES 3     /* intervals … */
#define OVERDUE_MS 60000    /* … and this */
#define UPGRADE_KEPT_MS ((int64_t)3 * 86400000) /* the backup of before an upgrade, though newer ones have come; while it is not done for as long as it takes */
#define KEY_MEMBER "key"
#define KEY_TEXT_MAX 128

struct backing {
    struct kaas *k;
    struct reconcile *r;
    struct cluster cluster;
    struct site site;
    const char *dir;
    const char *request; /* the annotation; "" */
    struct snapshot *there;
    size_t count;
    int64_t since; /* an upgrade waits for one that is begun from then on; 0 */
};

void backup_metrics(struct kaas *k)
{
    static const double buckets[] = {0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300};
    static const char *const labels[] = {"result", NULL};
    struct metric_family *f = metric_family("seki_cluster_backups_total", "Backups of clusters that were begun, by how they ended.", METRIC_COUNTER, labels, 2, NULL, 0);
    struct str ok = STR("ok"), failed = STR("failed");
    k->backups_ok = metric_series(f, &ok);
    k->backups_failed = metric_series(f, &failed);
    k->overdue = metric_gauge("seki_clusters_backup_overdue", "Clusters whose newest backup is older than three of their intervals.");
    k->oldest = metric_gauge("seki_cluster_backup_age_max_seconds", "How much of what was written would be lost: the age of the newest backup of that cluster where it is the oldest.");
    k->drill_took = metric_series(metric_family("seki_cluster_drill_seconds", "Rehearsed restores: from the file to a store that answered.", METRIC_HISTOGRAM, NULL, 0, buckets, ARRAY_LEN(buckets)), NULL);
    k->drills_failed = metric_gauge("seki_clusters_drill_failed", "Clusters whose newest rehearsal of a restore failed.");
}

static int64_t newest_ms(const json_t *obj)
{
    return status_time(json_array_get(json_at(obj, "status.backups"), 0), "takenAt");
}

static void count_all(struct kaas *k)
{
    JSON_AUTO all = informer_list(k->clusters, NULL);
    int64_t now = clock_wall_ms(), overdue = 0, failed = 0, oldest = 0;
    size_t i;
    json_t *obj;
    json_array_foreach (all, i, obj) {
        const char *drill = obj_condition(obj, "Rehearsed");
        int64_t interval = json_int(obj, "spec.backup.intervalSeconds", 900) * 1000, newest = newest_ms(obj);
        int64_t age = now - (newest ? newest : status_time(obj, "metadata.creationTimestamp"));
        failed += drill && !strcmp(drill, "False");
        if (!interval || !json_at(obj, "status.createMilliseconds") || obj_deleting(obj))
            continue;
        overdue += age > OVERDUE_TIMES * interval + OVERDUE_MS;
        oldest = MAX(oldest, age);
    }
    metric_set(k->overdue, overdue);
    metric_set(k->oldest, oldest / 1000);
    metric_set(k->drills_failed, failed);
}

/* ---- after a failure ---- */

static bool is_held_off(struct backing *b)
{
    pthread_mutex_lock(&b->k->lock);
    const uint64_t *until = map_getc(b->k->backup_later, b->site.uid);
    uint64_t now = clock_mono_ms(), left = until && *until > now ? *until - now : 0;
    pthread_mutex_unlock(&b->k->lock);
    b->r->requeue_ms = left;
    return left > 0;
}

static void hold_off(struct backing *b)
{
    uint64_t *until = XNEW(uint64_t);
    *until = clock_mono_ms() + AGAIN_MS;
    pthread_mutex_lock(&b->k->lock);
    map_set(b->k->backup_later, str_of(b->site.uid), until);
    pthread_mutex_unlock(&b->k->lock);
    b->r->requeue_ms = AGAIN_MS;
}

/* ---- the key ---- */

static int key_read(const json_t *secret, struct sealed_key *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf hex = {0};
    sbuf_init(&hex, KEY_TEXT_MAX);
    bool whole = base64_decode(str_of(json_str_or(secret, "data." KEY_MEMBER, "")), &hex, NULL) == 0 && hash_unhex(sbuf_str(&hex), ret->bytes, sizeof(ret->bytes));
    mem_wipe(hex.ptr, hex.len);
    return whole ? 0 : err_set(err, ERR_CORRUPT, "Secret %s has no key of backups", obj_name(secret));
}

int backup_key(struct kaas *k, const struct site *s, struct sealed_key *ret, struct err *err)
{
    CLEANUP(mem_freep) char *name = xasprintf("%s" CLUSTER_BACKUP_KEY_SUFFIX, s->name);
    JSON_AUTO secret = informer_get(k->secrets, s->ns, name);
    if (!secret)
        return err_set(err, ERR_NOT_FOUND, "there is no Secret %s, and no backup can be read without it", name);
    if (!obj_owned_by(secret, s->uid))
        return err_set(err, ERR_EXISTS, "there is a Secret %s that is not this cluster's", name);
    return key_read(secret, ret, err);
}

static int key_make(struct backing *b, struct sealed_key *ret, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_secret);
    char hex[2 * sizeof(ret->bytes) + 1];
    CLEANUP(sbuf_deinit) struct sbuf coded = {0};
    sbuf_init(&coded, KEY_TEXT_MAX);
    rnd_bytes(ret->bytes, sizeof(ret->bytes));
    hash_hex(ret->bytes, sizeof(ret->bytes), hex);
    base64_encode(str_of(hex), &coded);
    JSON_AUTO secret = obj_new(&kind_secret, b->site.ns, arena_printf(b->r->arena, "%s" CLUSTER_BACKUP_KEY_SUFFIX, b->site.name));
    json_object_set_new(secret, "type", json_string("Opaque"));
    json_object_set_new(secret, "data", json_pack("{s:s%}", KEY_MEMBER, coded.ptr, coded.len));
    obj_add_owner(secret, b->r->obj);
    mem_wipe(hex, sizeof(hex));
    mem_wipe(coded.ptr, coded.len);
    return client_create(b->r->client, &resource, b->site.ns, secret, NULL, err);
}

/* ---- status ---- */

/* Another controller writes to the same status: what is to be said is said of the newest one. */
static int publish(struct backing *b, void (*change)(struct backing *b, json_t *obj, void *arg), void *arg, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_cluster);
    int rc = ERR_CONFLICT;
    for (int i = 0; i < UPDATE_TRIES && rc == ERR_CONFLICT; i++) {
        JSON_AUTO seen = NULL;
        struct err why = ERR_INIT;
        rc = client_get(b->r->client, &resource, b->site.ns, b->site.name, &seen, &why);
        JSON_AUTO obj = json_deep_copy(seen); /* that one is others', too */
        if (rc == 0 && strcmp(obj_uid(obj) ? obj_uid(obj) : "", b->site.uid) != 0)
            return 0; /* another of that name */
        if (rc == 0) {
            JSON_AUTO before = json_deep_copy(json_object_get(obj, "status"));
            change(b, obj, arg);
            if (json_equal(before, json_object_get(obj, "status")))
                return 0;
            rc = client_update_status(b->r->client, &resource, obj, NULL, &why);
        }
        if (rc == ERR_NOT_FOUND)
            return 0;
        if (rc < 0 && rc != ERR_CONFLICT)
            return err_set(err, rc, "%s", why.msg);
    }
    return rc < 0 ? err_set(err, rc, "its status went on changing") : 0;
}

/* What is on disk, with what is known of it. */
static void list_backups(struct backing *b, json_t *obj, const struct snapshot *fresh)
{
    json_t *old = json_at(obj, "status.backups"), *list = json_array(), *o;
    for (size_t i = 0; i < b->count; i++) {
        const struct snapshot *x = &b->there[i];
        json_t *known = NULL;
        size_t j;
        json_array_foreach (old, j, o)
            if (!strcmp(json_str_or(o, "id", ""), x->id))
                known = json_deep_copy(o);
        if (!known) {
            known = json_pack("{s:s, s:I}", "id", x->id, "bytes", (json_int_t)x->bytes);
            status_put_time(known, "takenAt", x->taken_ms);
        }
        if (fresh && !strcmp(fresh->id, x->id)) {
            json_put_int(known, "revision", fresh->revision);
            json_put_int(known, "keys", fresh->keys);
        }
        json_array_append_new(list, known);
    }
    json_put(obj, "status.backups", list);
}

struct outcome {
    const struct snapshot *fresh; /* NULL: it failed */
    const char *reason, *why;
};

static void tell_backup(struct backing *b, json_t *obj, void *arg)
{
    const struct outcome *o = arg;
    list_backups(b, obj, o->fresh);
    if (*b->request)
        json_put_str(obj, "status.backupRequest", b->request);
    obj_set_condition(obj, "BackedUp", o->fresh ? "True" : "False", o->fresh ? "BackedUp" : o->reason, o->fresh ? "its newest backup is the first of status.backups" : o->why, clock_wall_ms());
}

static void tell_list(struct backing *b, json_t *obj, void *arg UNUSED)
{
    list_backups(b, obj, NULL);
}

/* ---- taking ---- */

bool backup_way_back(const char *id, const struct version_record *v, const json_t *obj, int64_t now_ms)
{
    if (v->stage != UPGRADE_NONE && !strcmp(v->backup, id))
        return true;
    return !strcmp(json_str_or(obj, "status.upgrade.backup", ""), id) && now_ms - snapshot_id_ms(id) < UPGRADE_KEPT_MS;
}

int backup_within(const struct snapshot *there, size_t count, int64_t from_ms, int64_t to_ms)
{
    for (size_t i = 0; i < count; i++)
        if (there[i].taken_ms >= from_ms && there[i].taken_ms <= to_ms)
            return (int)i;
    return -1;
}

/* A record that cannot be read may need any of them. */
static void prune(struct backing *b, const char *fresh)
{
    struct version_record v;
    size_t keep = (size_t)b->cluster.spec.backup.keep, kept = 0;
    struct err why = ERR_INIT;
    int rc = version_of(b->r->obj, b->cluster.spec.version, b->site.dir, &v, &why);
    for (size_t i = 0; rc == 0 && i < b->count; i++) {
        struct err err = ERR_INIT;
        if (i < keep || !strcmp(b->there[i].id, fresh) || backup_way_back(b->there[i].id, &v, b->r->obj, clock_wall_ms())) {
            b->there[kept++] = b->there[i];
            continue;
        }
        if (snapshot_remove(b->dir, b->there[i].id, &err) < 0)
            log_warn("a backup of a cluster could not be removed", KV("cluster", b->site.name), KV("namespace", b->site.ns), KV("backup", b->there[i].id), KVE(&err));
    }
    if (rc == 0)
        b->count = kept;
    else
        log_warn("no backup of a cluster is removed", KV("cluster", b->site.name), KV("namespace", b->site.ns), KVE(&why));
}

static int64_t told_revision(const json_t *told, const char *id)
{
    size_t i;
    json_t *o;
    json_array_foreach ((json_t *)(uintptr_t)told, i, o)
        if (!strcmp(json_str_or(o, "id", ""), id))
            return json_int(o, "revision", -1);
    return -1;
}

static bool is_newer(const struct snapshot *a, const struct snapshot *b, int64_t now_ms)
{
    int64_t then = a->taken_ms > now_ms ? 0 : a->taken_ms, other = b->taken_ms > now_ms ? 0 : b->taken_ms;
    if (a->revision > 0 && b->revision > 0 && a->revision != b->revision)
        return a->revision > b->revision;
    return then != other ? then > other : strcmp(a->id, b->id) > 0;
}

void backups_order(struct snapshot *there, size_t count, const json_t *told, int64_t now_ms)
{
    struct snapshot *ordered = xcalloc(MAX(count, (size_t)1), sizeof(*ordered));
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        if (there[i].revision <= 0)
            there[i].revision = told_revision(told, there[i].id);
    for (int known = 1; known >= 0; known--) /* those of known revisions first: their order is what the others are put into */
        for (size_t i = 0; i < count; i++) {
            size_t at = 0;
            if ((there[i].revision > 0) != known)
                continue;
            while (at < n && !is_newer(&there[i], &ordered[at], now_ms))
                at++;
            memmove(&ordered[at + 1], &ordered[at], (n++ - at) * sizeof(*ordered));
            ordered[at] = there[i];
        }
    for (size_t i = 0; i < count; i++)
        there[i] = ordered[i];
    mem_free(ordered);
}

/* fresh: was taken just now, and no status tells of it yet; or NULL. */
static void look_at_disk(struct backing *b, bool clean, const struct snapshot *fresh)
{
    b->count = snapshot_list(b->dir, b->there, 2 * CLUSTER_BACKUPS_MAX, clean);
    for (size_t i = 0; fresh && i < b->count; i++)
        if (!strcmp(b->there[i].id, fresh->id))
            b->there[i].revision = fresh->revision;
    backups_order(b->there, b->count, json_at(b->r->obj, "status.backups"), clock_wall_ms());
}

static int take(struct backing *b, struct err *err)
{
    struct sealed_key key;
    struct snapshot fresh = {.id = ""};
    struct err why = ERR_INIT;
    int rc = backup_key(b->k, &b->site, &key, &why);
    if (rc == ERR_NOT_FOUND)
        rc = key_make(b, &key, &why);
    if (rc == 0)
        rc = snapshot_take(&b->site, b->dir, &key, b->r->arena, &fresh, &why);
    mem_wipe(&key, sizeof(key));
    if (rc == ERR_CANCELED)
        return err_set(err, rc, "%s", why.msg); /* that is no failure of it */
    metric_add(rc == 0 ? b->k->backups_ok : b->k->backups_failed, 1);
    look_at_disk(b, false, rc == 0 ? &fresh : NULL);
    if (rc == 0)
        prune(b, fresh.id);
    if (rc < 0 || fresh.taken_ms < b->since) /* a clock that was put back: upgrade.c mends its time */
        hold_off(b);
    struct outcome o = {rc == 0 ? &fresh : NULL, rc == ERR_UNAVAILABLE ? "ProgramsMissing" : rc == ERR_NO_SPACE ? "NoSpace" : "BackupFailed", why.msg};
    if (rc < 0)
        manager_event(b->k->manager, b->r->obj, "Warning", "BackupFailed", why.msg);
    else
        log_debug("a cluster was backed up", KV("cluster", b->site.name), KV("namespace", b->site.ns), KV("backup", fresh.id));
    return publish(b, tell_backup, &o, err);
}

/* ---- rehearsing ---- */

struct rehearsal {
    int rc;
    struct drill drill;
    const char *id, *why;
};

static void tell_drill(struct backing *b, json_t *obj, void *arg)
{
    const struct rehearsal *x = arg;
    int64_t now = clock_wall_ms(), age = (now - snapshot_id_ms(x->id)) / 1000;
    JSON_AUTO said = json_pack("{s:s}", "backup", x->id);
    status_put_time(said, "at", now);
    if (x->rc == 0) {
        json_put_int(said, "milliseconds", x->drill.milliseconds);
        json_put_int(said, "keys", x->drill.keys);
        json_put_int(said, "ageSeconds", age);
    } else
        json_put_int(said, "failures", json_int(obj, "status.drill.failures", 0) + 1);
    json_put(obj, "status.drill", json_incref(said));
    const char *message = x->rc < 0 ? x->why : arena_printf(b->r->arena, "backup %s was restored for trial in %lld ms, %lld keys; it was %lld s old", x->id, (long long)x->drill.milliseconds,
                                                            (long long)x->drill.keys, (long long)age);
    obj_set_condition(obj, "Rehearsed", x->rc < 0 ? "False" : "True", x->rc < 0 ? "RestoreFailed" : "RestoreWorks", message, now);
}

static int rehearse(struct backing *b, struct err *err)
{
    struct sealed_key key;
    struct err why = ERR_INIT;
    struct rehearsal x = {.id = b->there[0].id};
    x.rc = backup_key(b->k, &b->site, &key, &why);
    if (x.rc == 0)
        x.rc = drill_run(b->k, &b->site, b->dir, x.id, &key, b->r->arena, &x.drill, &why);
    mem_wipe(&key, sizeof(key));
    if (x.rc == ERR_CANCELED)
        return err_set(err, x.rc, "%s", why.msg);
    x.why = why.msg;
    if (x.rc == 0)
        metric_observe(b->k->drill_took, (double)x.drill.milliseconds / 1000);
    else
        manager_event(b->k->manager, b->r->obj, "Warning", "RestoreDrillFailed", why.msg);
    if (x.rc < 0)
        hold_off(b);
    return publish(b, tell_drill, &x, err);
}

/* ---- beside the end of a cluster ---- */

static bool is_at_work(struct kaas *k, const char *uid)
{
    pthread_mutex_lock(&k->lock);
    bool is = map_getc(k->backing_up, uid) != NULL;
    pthread_mutex_unlock(&k->lock);
    return is;
}

/* Whoever removes a cluster has seen it being deleted in the same cache, and asks is_at_work() then: either it sees us, or we see that. */
static bool begin_work(struct backing *b)
{
    pthread_mutex_lock(&b->k->lock);
    map_set(b->k->backing_up, str_of(b->site.uid), b->k);
    pthread_mutex_unlock(&b->k->lock);
    JSON_AUTO now = informer_get(b->k->clusters, b->site.ns, b->site.name);
    return now && obj_uid(now) && !strcmp(obj_uid(now), b->site.uid) && !obj_deleting(now);
}

static void end_work(struct backing *b)
{
    pthread_mutex_lock(&b->k->lock);
    map_del(b->k->backing_up, str_of(b->site.uid));
    pthread_mutex_unlock(&b->k->lock);
}

/* ---- one pass ---- */

/* What a killed one has left: a store in the clear, and one that was restored for trial. One pass for a cluster at a time, so nobody is at work on them. */
static void leave_nothing(struct backing *b)
{
    struct err err = ERR_INIT;
    drill_clean(b->k, &b->site);
    if (file_remove_tree(arena_printf(b->r->arena, "%s/backup", b->site.dir), &err) < 0)
        log_warn("what a backup has left could not be removed", KV("cluster", b->site.name), KV("namespace", b->site.ns), KVE(&err));
}

bool backups_are(const json_t *told, const struct snapshot *there, size_t count)
{
    bool same = json_array_size(told) == count;
    for (size_t i = 0; same && i < count; i++)
        same = !strcmp(json_str_or(json_array_get(told, i), "id", ""), there[i].id);
    return same;
}

int64_t drill_due_ms(const json_t *obj, int64_t every)
{
    /* The first after a while too: a cluster that is being made has enough to do. */
    int64_t last = MAX(status_time(obj, "status.drill.at"), status_time(obj, "metadata.creationTimestamp")), failures = json_int(obj, "status.drill.failures", 0);
    int64_t wait = every;
    if (failures > 0 && failures < 16)
        wait = MIN(every, DRILL_AGAIN_MS << (failures - 1));
    return last + wait;
}

static int64_t until(int64_t due)
{
    int64_t left = due - clock_wall_ms();
    return MAX(left, (int64_t)0);
}

/* The cache may be of before the last pass told of its backup: then one request would be two backups. What the API server has is not. */
static bool is_asked(struct backing *b)
{
    struct client_resource resource = kind_resource(&kind_cluster);
    JSON_AUTO now = NULL;
    if (!*b->request || !strcmp(b->request, json_str_or(b->r->obj, "status.backupRequest", "")))
        return false;
    return client_get(b->r->client, &resource, b->site.ns, b->site.name, &now, NULL) < 0 || strcmp(b->request, json_str_or(now, "status.backupRequest", "")) != 0;
}

static int step(struct backing *b, struct err *err)
{
    json_t *obj = b->r->obj;
    int64_t interval = b->cluster.spec.backup.interval_seconds * 1000, every = (int64_t)b->k->o.drill_ms, next = LOOK_MS;
    bool asked = is_asked(b);
    look_at_disk(b, true, NULL);
    leave_nothing(b);
    int64_t now = clock_wall_ms();
    if (version_wants_backup(b->site.dir, &b->since))
        asked |= backup_within(b->there, b->count, b->since, now) < 0;
    int newest = backup_within(b->there, b->count, 0, now); /* not of a time that has not come yet */
    int64_t due = newest >= 0 ? b->there[newest].taken_ms + interval : 0;
    if (asked || (interval && !until(due)))
        return take(b, err);
    if (interval)
        next = MIN(next, until(due));
    if (b->count && every) {
        int64_t drill = drill_due_ms(obj, every);
        if (!until(drill))
            return rehearse(b, err);
        next = MIN(next, until(drill));
    }
    b->r->requeue_ms = (uint64_t)MAX(next, (int64_t)1);
    return backups_are(json_at(obj, "status.backups"), b->there, b->count) ? 0 : publish(b, tell_list, NULL, err);
}

int backup_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct backing b = {.k = ctx, .r = r};
    struct arena *a = r->arena;
    count_all(b.k);
    if (!r->obj || !obj_uid(r->obj) || obj_deleting(r->obj))
        return 0;
    const char *store = obj_condition(r->obj, "StoreReady"), *request = obj_annotation(r->obj, CLUSTER_BACKUP_ANNOTATION);
    if (!store || strcmp(store, "True") != 0 || !json_at(r->obj, "status.createMilliseconds"))
        return 0; /* that changes, and then we are asked again */
    if (restore_wanted(r->obj)) {
        r->requeue_ms = SOON_MS;
        return 0;
    }
    int rc = kind_decode(&kind_cluster, r->obj, a, &b.cluster, err);
    if (rc < 0)
        return rc;
    b.site = (struct site){.ns = r->ns, .name = r->name, .uid = obj_uid(r->obj), .pass = r};
    b.site.dir = arena_printf(a, "%s/clusters/%s", b.k->o.data_dir, b.site.uid);
    struct version_record version;
    if ((rc = version_of(r->obj, b.cluster.spec.version, b.site.dir, &version, err)) < 0)
        return rc;
    version_apply(&version, b.k->o.programs_dir, &b.site, a);
    b.dir = snapshot_dir(b.k->o.data_dir, b.site.uid, a);
    b.request = request ? request : "";
    b.there = ARENA_ARRAY(a, struct snapshot, 2 * CLUSTER_BACKUPS_MAX);
    if (place_load(&b.site, NULL) < 0 || is_held_off(&b))
        return 0; /* cluster.c tells of that */
    rc = begin_work(&b) ? step(&b, err) : 0;
    end_work(&b);
    return rc;
}

int recovery_remove(struct kaas *k, const struct site *s, int *files, struct err *err)
{
    char name[WORKLOAD_NAME_MAX];
    CLEANUP(mem_freep) char *dir = xasprintf("%s/cluster-backups/%s", k->o.data_dir, s->uid);
    if (is_at_work(k, s->uid))
        return err_set(err, ERR_BUSY, "a backup or rehearsal of it is at its end");
    drill_workload(s, name);
    int rc = k->runtime->ops->stop(k->runtime, name, err);
    pthread_mutex_lock(&k->lock);
    map_del(k->backup_later, str_of(s->uid));
    pthread_mutex_unlock(&k->lock);
    struct workload_status w = {0};
    k->runtime->ops->get(k->runtime, name, &w);
    if (rc == 0 && w.state != WORKLOAD_ABSENT)
        rc = err_set(err, ERR_BUSY, "a rehearsal of its restore is being ended");
    CLEANUP(mem_freep) char *log = xasprintf("%s/%s.log", k->o.log_dir, name);
    CLEANUP(mem_freep) char *rotated = xasprintf("%s.1", log);
    if (rc == 0)
        *files += (unlink(log) == 0) + (unlink(rotated) == 0);
    return rc < 0 ? rc : snapshot_remove_all(dir, files, err);
}
