/* Upgrades: backup, store, API server, controllers, scheduler, nodes. Each stage is written down, then the passes of cluster.c bring up what the record says, and when all answers the next one comes.
 * So a stage that fails is tried for as long as it takes, and an upgrade goes on after a restart of ours where it was. */
#include "kaas/upgrade.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kaas/recovery.h"

#define CONDITION "Upgraded"
#define LOOK_MS 50u
#define AGAIN_MS 5000u            /* what stood in the way is looked at again */
#define STAGE_DEADLINE_MS 180000  /* then it is said; it goes on all the same */
#define NODE_DEADLINE_MS 180000   /* for each */

struct stepping {
    struct kaas *k;
    struct reconcile *r;
    const struct cluster *cluster;
    const struct site *site;
    struct cluster_memory *memory;
    struct plan (*plans)[COMPONENTS];
    struct version_record v;
    struct upgrade_told *told;
    bool ready;
    bool was_done; /* the status, as it was stored, says so */
};

/* ---- status ---- */

static void put_time(json_t *o, const char *path, int64_t ms)
{
    char text[CLOCK_TEXT_MAX];
    clock_format_micro(ms * 1000, text);
    json_put_str(o, path, text);
}

static void say(struct stepping *x, const char *status, const char *reason, const char *message)
{
    obj_set_condition(x->r->obj, CONDITION, status, reason, message, clock_wall_ms());
}

static void tell(struct stepping *x, const char *type, const char *reason, const char *message)
{
    *x->told = (struct upgrade_told){type, reason, message};
}

/* The status follows the record, whatever could be stored of it before. */
static void show(struct stepping *x)
{
    json_t *obj = x->r->obj;
    const struct version_record *v = &x->v;
    json_put_str(obj, "status.minor", v->stage == UPGRADE_DONE ? v->to : v->minor);
    if (v->stage == UPGRADE_NONE)
        return;
    json_remove(obj, "status.upgrade");
    json_put_str(obj, "status.upgrade.from", v->minor);
    json_put_str(obj, "status.upgrade.to", v->to);
    json_put_str(obj, "status.upgrade.stage", upgrade_stage_name(v->stage));
    put_time(obj, "status.upgrade.startedAt", v->at_ms[UPGRADE_BACKUP]);
    if (*v->backup)
        json_put_str(obj, "status.upgrade.backup", v->backup);
    json_t *list = json_array();
    for (enum upgrade_stage s = UPGRADE_BACKUP; s <= v->stage && s < UPGRADE_DONE; s++) {
        json_t *record = json_pack("{s:s}", "name", upgrade_stage_name(s));
        put_time(record, "startedAt", v->at_ms[s]);
        if (s < v->stage)
            json_put_int(record, "milliseconds", MAX(v->at_ms[s + 1] - v->at_ms[s], (int64_t)1));
        json_array_append_new(list, record);
    }
    json_put(obj, "status.upgrade.stages", list);
    if (v->stage == UPGRADE_DONE)
        json_put_int(obj, "status.upgrade.milliseconds", MAX(v->at_ms[UPGRADE_DONE] - v->at_ms[UPGRADE_BACKUP], (int64_t)1));
}

/* ---- from stage to stage ---- */

static void log_step(struct stepping *x, const char *what)
{
    log_info(what, KV("cluster", x->site->name), KV("namespace", x->site->ns), KV("from", x->v.minor), KV("to", x->v.to), KV("stage", upgrade_stage_name(x->v.stage)));
}

/* It is on disk before anything follows from it. */
static int enter(struct stepping *x, enum upgrade_stage stage, struct err *err)
{
    struct version_record next = x->v;
    next.stage = stage;
    next.at_ms[stage] = clock_wall_ms();
    next.waiting = stage >= UPGRADE_STORE && stage < UPGRADE_NODES && site_members(x->site) > 1 ? (1u << site_members(x->site)) - 1 : 0;
    int rc = version_store(x->site->dir, &next, err);
    if (rc < 0)
        return rc;
    x->v = next;
    x->memory->bound = false; /* what its API server says it is has changed, or will */
    memset(x->memory->failing_ms, 0, sizeof(x->memory->failing_ms));
    show(x);
    x->r->requeue_ms = LOOK_MS;
    log_step(x, stage == UPGRADE_DONE ? "a cluster was upgraded" : "a cluster is being upgraded");
    if (stage != UPGRADE_DONE)
        say(x, "Unknown", upgrade_stage_name(stage), arena_printf(x->r->arena, "from %s to %s: %s is next", next.minor, next.to, upgrade_stage_name(stage)));
    return 0;
}

/* All of it runs. The record goes once the status has been stored that says so. */
static int finish(struct stepping *x, struct err *err)
{
    struct version_record now = {.stage = UPGRADE_NONE};
    const char *message = arena_printf(x->r->arena, "from %s to %s in %lld ms; backup %s is of before", x->v.minor, x->v.to, (long long)json_int(x->r->obj, "status.upgrade.milliseconds", 0), x->v.backup);
    if (!x->was_done) {
        say(x, "True", "Upgraded", message);
        tell(x, "Normal", "ClusterUpgraded", message);
        x->r->requeue_ms = LOOK_MS;
        return 0;
    }
    memcpy(now.minor, x->v.to, sizeof(now.minor));
    x->v = now;
    return version_store(x->site->dir, &now, err);
}

static const char *not_ready(struct stepping *x)
{
    const char *ready = obj_condition(x->r->obj, "Ready");
    return arena_strdup(x->r->arena, obj_condition_message(x->r->obj, ready && !strcmp(ready, "True") && obj_condition(x->r->obj, "MembersReady") ? "MembersReady" : "Ready"));
}

/* ---- before it ---- */

/* Whether it is to wait for the cluster's maintenance window; then that is said, with the time. A window that cannot be reckoned is never open: who wants it then says so. */
static bool waits_for_window(struct stepping *x)
{
    const struct maintenance_window *w = x->cluster->spec.maintenance_window;
    const char *now_to = obj_annotation(x->r->obj, CLUSTER_UPGRADE_NOW_ANNOTATION), *wanted = x->cluster->spec.version, *was = obj_condition_reason(x->r->obj, CONDITION);
    CLEANUP(zone_freep) struct zone *z = NULL;
    struct err why = ERR_INIT;
    int64_t now = clock_wall_ms(), begins, ends;
    char from[CLOCK_TEXT_MAX], until[CLOCK_TEXT_MAX];
    if (!w || (now_to && !strcmp(now_to, wanted)))
        return false;
    if (zone_load(w->time_zone, &z, &why) < 0) {
        say(x, "False", "TimeZoneMissing", arena_printf(x->r->arena, "not upgraded to %s: spec.maintenanceWindow.timeZone: %s: %s; `seki cluster upgrade --now` does not wait", wanted, w->time_zone, why.msg));
        return true;
    }
    maintenance_find(w, z, now, &begins, &ends);
    if (begins <= now)
        return false;
    clock_format(begins, from);
    clock_format(ends, until);
    const char *message = arena_printf(x->r->arena, "the upgrade to %s begins in the maintenance window from %s to %s; `seki cluster upgrade --now` does not wait", wanted, from, until);
    if (!was || strcmp(was, "WaitingForWindow") != 0)
        tell(x, "Normal", "UpgradeWaiting", message);
    say(x, "False", "WaitingForWindow", message);
    if (!x->r->requeue_ms || x->r->requeue_ms > (uint64_t)(begins - now))
        x->r->requeue_ms = (uint64_t)(begins - now);
    return true;
}

static int begin(struct stepping *x, struct err *err)
{
    struct arena *a = x->r->arena;
    const char *wanted = x->cluster->spec.version, *request = obj_annotation(x->r->obj, CLUSTER_UPGRADE_ANNOTATION), *reason = "";
    struct version_record *v = &x->v;
    struct err why = ERR_INIT;
    uint64_t now = clock_mono_ms();
    if (*v->held && !strcmp(v->held, wanted) && !strncmp(v->held_request, request ? request : "", sizeof(v->held_request) - 1)) {
        say(x, "False", "Held", arena_printf(a, "its store was put back to %s: `seki cluster upgrade` begins again, or set spec.version to that", v->minor));
        return 0;
    }
    if (waits_for_window(x))
        return 0;
    if (!x->ready) {
        say(x, "False", "ClusterNotReady", arena_printf(a, "not upgraded to %s: %s", wanted, not_ready(x)));
        return 0;
    }
    if (x->memory->preflight_ms && now - x->memory->preflight_ms < AGAIN_MS) {
        x->r->requeue_ms = AGAIN_MS;
        return 0;
    }
    x->memory->preflight_ms = now;
    const struct preflight p = {.site = x->site, .from = v->minor, .to = wanted, .from_programs = x->site->programs, .to_programs = arena_printf(a, "%s/%s", x->k->o.programs_dir, wanted)};
    if (preflight(&p, a, &reason, &why) < 0) {
        const char *message = arena_printf(a, "not upgraded to %s: %s", wanted, why.msg), *was = obj_condition_reason(x->r->obj, CONDITION);
        if (!was || strcmp(was, reason) != 0)
            tell(x, "Warning", "UpgradeRefused", message);
        say(x, "False", reason, message);
        x->r->requeue_ms = AGAIN_MS;
        return 0;
    }
    *v = (struct version_record){.stage = UPGRADE_NONE};
    (void)!str_to_array(str_of(x->site->minor), v->minor, sizeof(v->minor));
    (void)!str_to_array(str_of(wanted), v->to, sizeof(v->to));
    tell(x, "Normal", "UpgradeBegun", arena_printf(a, "from %s to %s: a backup first", v->minor, v->to));
    return enter(x, UPGRADE_BACKUP, err);
}

/* A backup that was begun after the upgrade was. */
static int wait_for_backup(struct stepping *x, struct err *err)
{
    struct arena *a = x->r->arena;
    struct snapshot *there = ARENA_ARRAY(a, struct snapshot, 2 * CLUSTER_BACKUPS_MAX);
    int64_t now = clock_wall_ms();
    if (!strcmp(x->cluster->spec.version, x->v.minor)) {
        x->v.stage = UPGRADE_NONE;
        *x->v.to = 0;
        json_put_str(x->r->obj, "status.upgrade.stage", "Cancelled");
        say(x, "False", "Cancelled", "spec.version was set back before anything was changed");
        return version_store(x->site->dir, &x->v, err);
    }
    if (x->v.at_ms[UPGRADE_BACKUP] > now) { /* the clock was put back: none would ever be new enough */
        x->v.at_ms[UPGRADE_BACKUP] = now;
        int rc = version_store(x->site->dir, &x->v, err);
        if (rc < 0)
            return rc;
    }
    int newest = backup_within(there, snapshot_list(snapshot_dir(x->k->o.data_dir, x->site->uid, a), there, 2 * CLUSTER_BACKUPS_MAX, false), x->v.at_ms[UPGRADE_BACKUP], now);
    if (newest >= 0) {
        memcpy(x->v.backup, there[newest].id, sizeof(there[newest].id));
        return enter(x, UPGRADE_STORE, err);
    }
    const char *backed_up = obj_condition(x->r->obj, "BackedUp");
    bool failed = backed_up && !strcmp(backed_up, "False");
    say(x, failed ? "False" : "Unknown", failed ? "BackupFailed" : "Backup",
        failed ? arena_printf(a, "nothing is changed before there is a backup: %s", obj_condition_message(x->r->obj, "BackedUp")) : "a backup is taken before anything is changed");
    x->r->requeue_ms = MIN(x->r->requeue_ms, 500u);
    return 0;
}

/* ---- whether a stage is done ---- */

/* What runs is what was asked for, and not what it replaces. */
static bool runs(struct stepping *x, enum component c)
{
    struct runtime *rt = x->k->runtime;
    for (int m = 0; m < component_count(x->site, c); m++) {
        char name[WORKLOAD_NAME_MAX];
        struct workload_status w = {0};
        component_workload(x->site, c, m, name);
        const struct workload want = {.name = name, .argv = x->plans[m][c].argv, .env = x->plans[m][c].env};
        rt->ops->get(rt, name, &w);
        if (w.state != WORKLOAD_RUNNING || rt->ops->differs(rt, &want))
            return false;
    }
    return true;
}

/* Another member has its turn: all that had theirs are ready, as the others are. Who leads the store is the last, and leads no more when its turn comes. */
static int give_turn(struct stepping *x, struct err *err)
{
    int leader = x->v.stage == UPGRADE_STORE ? store_leader(x->site, x->r->arena) : -1, next = -1;
    for (int m = site_members(x->site) - 1; m >= 0; m--)
        if (x->v.waiting & (1u << m) && (next < 0 || m != leader))
            next = m;
    x->r->requeue_ms = LOOK_MS;
    struct err why = ERR_INIT;
    if (next == leader && store_move_leader(x->site, leader, leader ? 0 : 1, x->r->arena, &why) < 0) {
        say(x, "Unknown", upgrade_stage_name(x->v.stage), arena_printf(x->r->arena, "from %s to %s: another member shall lead the store first: %s", x->v.minor, x->v.to, why.msg));
        x->r->requeue_ms = 250;
        return 0;
    }
    struct version_record now = x->v;
    now.waiting &= ~(1u << next);
    int rc = version_store(x->site->dir, &now, err);
    if (rc == 0)
        x->v = now;
    return rc;
}

static const char *store_behind(struct stepping *x)
{
    struct arena *a = x->r->arena;
    struct err why = ERR_INIT;
    const char *status = "";
    for (int m = 0; m < site_members(x->site); m++) {
        const struct site one = site_of_member(x->site, m);
        if (store_ask(&one, "endpoint", "status", a, &status, &why) < 0)
            return arena_strdup(a, why.msg);
        const char *program = preflight_member(status, "version", a), *stored = preflight_member(status, "storageVersion", a);
        if (preflight_etcd(program) < 0 || preflight_etcd(program) != preflight_etcd(stored))
            return arena_printf(a, "etcd %s has not gone over to its own format yet: it is %s", program, stored);
    }
    return NULL;
}

static const char *apiserver_behind(struct stepping *x)
{
    struct arena *a = x->r->arena;
    struct err why = ERR_INIT;
    struct client *client = NULL;
    char version[32] = "";
    int rc = access_client(x->site, &client, &why);
    if (rc == 0)
        rc = access_version(client, version, &why);
    client_free(client);
    if (rc < 0)
        return arena_strdup(a, why.msg);
    return preflight_kubelet(version) == cluster_minor(x->v.to) ? NULL : arena_printf(a, "the API server is %s", version);
}

static const char *nodes_behind(struct stepping *x)
{
    struct arena *a = x->r->arena;
    struct err why = ERR_INIT;
    struct client *client = NULL;
    const char *said = NULL;
    int rc = access_client(x->site, &client, &why);
    if (rc == 0)
        rc = nodes_run(x->k, x->site, client, x->v.to, a, &said, &why);
    client_free(client);
    return rc < 0 ? arena_strdup(a, why.msg) : said;
}

static const enum component of[] = {[UPGRADE_STORE] = ETCD, [UPGRADE_APISERVER] = APISERVER, [UPGRADE_CONTROLLERS] = CONTROLLERS, [UPGRADE_SCHEDULER] = SCHEDULER};

/* NULL: it is done. */
static const char *behind(struct stepping *x)
{
    if (!x->ready)
        return not_ready(x);
    if (x->v.stage < UPGRADE_NODES && !runs(x, of[x->v.stage]))
        return "it is being started anew";
    if (x->v.waiting)
        return "its members come one after the other";
    switch (x->v.stage) {
    case UPGRADE_STORE:
        return store_behind(x);
    case UPGRADE_APISERVER:
        return apiserver_behind(x);
    case UPGRADE_NODES:
        return nodes_behind(x);
    default:
        return NULL;
    }
}

static int go_on(struct stepping *x, struct err *err)
{
    struct arena *a = x->r->arena;
    enum upgrade_stage stage = x->v.stage;
    const char *why = behind(x), *name = upgrade_stage_name(stage);
    if (!why)
        return enter(x, stage + 1, err);
    if (x->v.waiting && x->ready && runs(x, of[stage]))
        return give_turn(x, err);
    int64_t limit = stage == UPGRADE_NODES ? NODE_DEADLINE_MS * (int64_t)MAX(nodes_count(x->k, x->site), 1) : STAGE_DEADLINE_MS;
    bool late = clock_wall_ms() - x->v.at_ms[stage] > limit;
    const char *was = obj_condition(x->r->obj, CONDITION);
    const char *message = arena_printf(a, "from %s to %s, stage %s: %s%s%s", x->v.minor, x->v.to, name, why, late ? "; it goes on when that is mended, or goes back with backup " : "", late ? x->v.backup : "");
    if (late && (!was || strcmp(was, "False") != 0)) {
        tell(x, "Warning", "UpgradeStuck", message);
        log_warn("an upgrade of a cluster does not go on", KV("cluster", x->site->name), KV("namespace", x->site->ns), KV("stage", name), KV("why", why));
    }
    say(x, late ? "False" : "Unknown", late ? "DeadlineExceeded" : name, message);
    x->r->requeue_ms = MIN(x->r->requeue_ms, 250u);
    return 0;
}

const char *upgrade_ended_as(const char *stage, const char *to, const char *minor)
{
    if (!strcmp(stage, "Done") || !strcmp(stage, "Cancelled") || !strcmp(stage, "RolledBack"))
        return stage;
    if (!strcmp(stage, "Backup"))
        return "Cancelled"; /* it was given up */
    return strcmp(to, minor) != 0 ? "RolledBack" : "Done"; /* a restore has ended it */
}

int upgrade_step(struct kaas *k, struct reconcile *r, const struct cluster *c, const struct site *s, struct cluster_memory *m, struct plan (*plans)[COMPONENTS], bool ready, struct upgrade_told *told,
                 struct err *err)
{
    struct stepping x = {.k = k, .r = r, .cluster = c, .site = s, .memory = m, .plans = plans, .ready = ready, .told = told};
    struct err why = ERR_INIT;
    int rc = version_load(s->dir, &x.v, &why);
    if (rc == ERR_NOT_FOUND) {
        rc = version_of(r->obj, c->spec.version, s->dir, &x.v, err);
        if (rc == 0)
            rc = version_store(s->dir, &x.v, err);
    } else if (rc < 0) {
        return err_set(err, rc, "%s", why.msg);
    }
    if (rc < 0)
        return rc;
    x.was_done = !strcmp(json_str_or(r->obj, "status.upgrade.stage", ""), "Done") && obj_condition(r->obj, CONDITION) && !strcmp(obj_condition(r->obj, CONDITION), "True");
    show(&x);
    if (x.v.stage == UPGRADE_DONE)
        return finish(&x, err);
    if (x.v.stage == UPGRADE_BACKUP)
        return wait_for_backup(&x, err);
    if (x.v.stage != UPGRADE_NONE)
        return go_on(&x, err);
    const char *stage = json_str(r->obj, "status.upgrade.stage");
    if (stage)
        json_put_str(r->obj, "status.upgrade.stage", upgrade_ended_as(arena_strdup(r->arena, stage), json_str_or(r->obj, "status.upgrade.to", ""), x.v.minor));
    if (strcmp(c->spec.version, x.v.minor) != 0)
        return json_at(r->obj, "status.createMilliseconds") ? begin(&x, err) : 0;
    if (*x.v.held) {
        *x.v.held = *x.v.held_request = 0;
        rc = version_store(s->dir, &x.v, err);
    }
    if (obj_condition(r->obj, CONDITION) && strcmp(obj_condition(r->obj, CONDITION), "True") != 0 && strcmp(obj_condition_reason(r->obj, CONDITION), "Cancelled") != 0)
        say(&x, "False", "NotWanted", arena_printf(r->arena, "it runs %s, as spec.version says", x.v.minor));
    return rc;
}
