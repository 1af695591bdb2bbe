/* One place of the warm pool: made like a cluster, by the same parts, but for what belongs to somebody; and its end. */
#include "kaas/warm.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "kaas/people.h"

#define ARENA_MAX (1024 * 1024)
#define PROBE_TIMEOUT_MS 2000u
#define FILES_LOOK_MS 60000u
#define WEIGH_MS 60000u
#define STUCK_SAY_MS 60000u
#define SMAPS_MAX 65536
#define AUDIT_MAX (4 << 20) /* of the smallest 10 MiB, at which another file would be begun */

static const enum component parts[] = {ETCD, KMS, APISERVER, CONTROLLERS, SCHEDULER};

struct warm_place *warm_place_new(struct kaas *k, const struct cluster *spec, const char *uid, struct err *err)
{
    struct node_network w;
    char fresh[UUID_TEXT_MAX];
    if (node_network_of(spec, &w, err) < 0)
        return NULL;
    if (!uid)
        rnd_uuid(fresh);
    struct warm_place *p = XNEW(struct warm_place);
    struct arena *a = arena_new(ARENA_MAX);
    *p = (struct warm_place){.arena = a, .found = uid != NULL, .since_ms = clock_mono_ms()};
    p->site = (struct site){.ns = "", .name = "", .older = "", .uid = arena_strdup(a, uid ? uid : fresh), .warm = true, .members = 1, .with_nodes = true, .self = k->self, .kms = k->o.kms_program};
    p->site.dir = arena_printf(a, "%s/clusters/%s", k->o.data_dir, p->site.uid);
    p->site.minor = arena_strdup(a, spec->spec.version);
    p->site.programs = *k->o.programs_dir ? arena_printf(a, "%s/%s", k->o.programs_dir, p->site.minor) : "";
    p->site.node_network = arena_strdup(a, w.nodes_text);
    memcpy(p->site.gate, w.gate, sizeof(p->site.gate));
    return p;
}

void warm_place_free(struct warm_place *p)
{
    if (!p)
        return;
    json_decref(p->key);
    arena_free(p->arena);
    mem_free(p);
}

/* ---- its processes ---- */

static void plan_all(const struct cluster *spec, const struct warm_place *p, struct arena *a, struct plan plan[COMPONENTS])
{
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        plan_component(parts[i], 0, spec, &p->site, a, &plan[parts[i]]);
}

/* Wanted from now on, and running: 0. */
static int ensure(struct kaas *k, const struct warm_place *p, const struct plan *plan, enum component c, struct err *err)
{
    struct workload_status w;
    char name[WORKLOAD_NAME_MAX];
    component_workload(&p->site, c, 0, name);
    if (access(plan[c].program, X_OK) < 0)
        return err_set(err, ERR_UNAVAILABLE, "this cloud has no %s", plan[c].program);
    const struct workload want = {.name = name, .argv = plan[c].argv, .env = plan[c].env, .stop_timeout_ms = component_stop_ms(&p->site, c)};
    int rc = k->runtime->ops->ensure(k->runtime, &want, err);
    if (rc < 0)
        return rc;
    k->runtime->ops->get(k->runtime, name, &w);
    return w.state == WORKLOAD_RUNNING ? 0 : err_set(err, ERR_UNAVAILABLE, "%s: %s", component_name(c), *w.message ? w.message : "is being started");
}

static int answers(struct kaas *k, const struct warm_place *p, const struct plan *plan, enum component c, struct err *err)
{
    int rc = ensure(k, p, plan, c, err);
    return rc < 0 ? rc : probe(&plan[c], plan[c].health_path, &p->site, PROBE_TIMEOUT_MS, err);
}

/* Whether a process is of the program that lies there now: a place is not older than what would be made today. */
static bool is_current(struct kaas *k, const struct warm_place *p, const struct plan *plan, enum component c)
{
    struct workload_status w;
    struct stat runs, lies;
    char name[WORKLOAD_NAME_MAX], path[64];
    component_workload(&p->site, c, 0, name);
    k->runtime->ops->get(k->runtime, name, &w);
    const struct workload want = {.name = name, .argv = plan[c].argv, .env = plan[c].env, .stop_timeout_ms = component_stop_ms(&p->site, c)};
    if (w.state == WORKLOAD_ABSENT || k->runtime->ops->differs(k->runtime, &want))
        return false;
    if (w.state != WORKLOAD_RUNNING)
        return true; /* the runtime is at it */
    snprintf(path, sizeof(path), "/proc/%d/exe", (int)w.pid);
    return stat(path, &runs) < 0 || (stat(plan[c].program, &lies) == 0 && runs.st_dev == lies.st_dev && runs.st_ino == lies.st_ino);
}

static int check_current(struct kaas *k, const struct warm_place *p, const struct plan *plan, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (!is_current(k, p, plan, parts[i]))
            return err_set(err, ERR_STALE, "%s does not run, or is not what would be started today", component_name(parts[i]));
    return 0;
}

/* ---- its files ---- */

static int people_of_nobody(const struct site *s, struct err *err)
{
    static const struct oidc_config none = {0};
    JSON_AUTO revocations = json_array();
    JSON_AUTO people = NULL;
    const char *left_out;
    return cluster_conf_write(s, "authentication", people_document(&none, NULL, "", revocations, &people, &left_out), err);
}

static int ensure_files(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct err *err)
{
    struct site *s = &p->site;
    uint64_t now = clock_mono_ms(), every = MIN(k->o.certificate_life_ms / 60, (uint64_t)FILES_LOOK_MS);
    if (p->files && now - p->files_ms < every)
        return 0;
    int rc = cluster_pki_ensure(spec, s, k->o.certificate_life_ms, NULL, err);
    if (rc == 0)
        rc = cluster_conf_ensure(s, err);
    if (rc == 0)
        rc = cluster_audit_ensure(spec, s, err);
    if (rc == 0)
        rc = people_of_nobody(s, err);
    if (rc == 0)
        rc = secrets_conf_ensure(s, err);
    if (rc == 0)
        rc = gate_conf_ensure(s, k->o.data_dir, err);
    if (rc < 0)
        return rc;
    p->files = true;
    p->files_ms = now;
    return 0;
}

/* A directory, an address. Of one that was found: what it says. */
static int ensure_place(struct kaas *k, struct warm_place *p, struct err *err)
{
    struct err why = ERR_INIT;
    if (*p->site.address)
        return 0;
    if (!p->found)
        return place_take(k, &p->site, 1, err);
    if (place_load(&p->site, &why) < 0)
        return err_set(err, ERR_STALE, "%s", why.msg);
    struct cluster_memory *m = XNEW(struct cluster_memory);
    place_remember(&p->site, m);
    pthread_mutex_lock(&k->lock);
    map_set(k->memory, str_of(p->site.uid), m);
    pthread_mutex_unlock(&k->lock);
    return 0;
}

/* ---- its key ---- */

/* One that was found has a plugin with a key that died with the sekid that had made it. As nothing lies under it, another takes its place: the API server notices within a minute. */
static int ensure_key(struct warm_place *p, struct err *err)
{
    struct secrets_memory m = {0};
    if (!p->key && p->found) {
        int rc = at_rest_look(&p->site, "", false, &m, err);
        if (rc != 1)
            return rc < 0 ? rc : err_set(err, ERR_STALE, "too much lies in its store");
        if (m.found)
            return err_set(err, ERR_STALE, "%lld Secrets lie in its store under a key that is gone", (long long)m.found);
    }
    if (!p->key)
        p->key = secrets_key_new();
    bool used = false;
    int rc = secrets_key_give(&p->site, p->key, &used, err);
    p->used = p->used || (rc == 0 && used); /* a plugin that was started anew counts anew */
    return rc;
}

/* ---- steps ---- */

static int ensure_inside(struct warm_place *p, struct err *err)
{
    struct client *client = NULL;
    if (p->bound)
        return 0;
    int rc = access_client(&p->site, &client, err);
    if (rc == 0)
        rc = access_controllers_work(client, err);
    if (rc == 0)
        rc = access_bind_admins(client, err);
    client_free(client);
    p->bound = rc == 0;
    return rc;
}

static int step(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct arena *a, struct err *err)
{
    struct plan plan[COMPONENTS] = {0};
    struct err later = ERR_INIT;
    int rc = ensure_place(k, p, err);
    if (rc < 0)
        return rc;
    plan_all(spec, p, a, plan);
    if (p->found && !p->key && (rc = check_current(k, p, plan, err)) < 0)
        return rc;
    rc = ensure_files(k, spec, p, err);
    if (rc < 0)
        return rc;
    /* Both are started before either is waited for; and both of the last. */
    int second = ensure(k, p, plan, KMS, &later);
    rc = answers(k, p, plan, ETCD, err);
    if (rc == 0 && second < 0)
        rc = err_set(err, second, "%s", later.msg);
    if (rc == 0)
        rc = ensure_key(p, err);
    if (rc == 0)
        rc = answers(k, p, plan, APISERVER, err);
    if (rc < 0)
        return rc;
    (void)!ensure(k, p, plan, SCHEDULER, &later);
    rc = answers(k, p, plan, CONTROLLERS, err);
    if (rc == 0)
        rc = answers(k, p, plan, SCHEDULER, err);
    if (rc == 0)
        rc = ensure_inside(p, err);
    if (rc == 0 && !p->used)
        rc = err_set(err, ERR_UNAVAILABLE, "the API server has not sealed with its key yet");
    return rc;
}

int warm_place_step(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct err *err)
{
    struct arena *a = arena_new(ARENA_MAX);
    int rc = step(k, spec, p, a, err);
    arena_free(a);
    return rc;
}

/* Proportional: programs that many clusters run are in memory once. 0: it is gone, or cannot be asked. */
static int64_t memory_of(int pid)
{
    char path[64];
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int64_t kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    if (file_read(path, SMAPS_MAX, &text, &len, NULL) < 0)
        return 0;
    struct str rest = str_n(text, len), line;
    while (str_cut(&rest, '\n', &line)) {
        struct str number = str_skip(line, MIN(line.len, sizeof("Pss:") - 1)), unit;
        if (!str_starts(line, STR("Pss:")))
            continue;
        number = str_trim(number);
        unit = number;
        if (str_cut(&unit, ' ', &number))
            (void)!str_to_i64(number, 0, INT64_MAX >> 10, &kib);
    }
    return kib << 10;
}

static void weigh(struct kaas *k, struct warm_place *p)
{
    uint64_t now = clock_mono_ms();
    if (p->weighed_ms && now - p->weighed_ms < WEIGH_MS)
        return;
    p->weighed_ms = now;
    p->memory_bytes = 0;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct workload_status w;
        char name[WORKLOAD_NAME_MAX];
        component_workload(&p->site, parts[i], 0, name);
        k->runtime->ops->get(k->runtime, name, &w);
        p->memory_bytes += w.state == WORKLOAD_RUNNING ? memory_of((int)w.pid) : 0;
    }
}

static int look(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct arena *a, struct err *err)
{
    struct plan plan[COMPONENTS] = {0};
    int files = 0;
    plan_all(spec, p, a, plan);
    int rc = check_current(k, p, plan, err);
    if (rc < 0)
        return rc;
    if (!place_is_warm(p->site.dir))
        return err_set(err, ERR_STALE, "its files are gone");
    if (cluster_audit_size(&p->site, &files) > AUDIT_MAX || files > 1)
        return err_set(err, ERR_STALE, "it has stood for so long that its audit log could not be emptied any more");
    weigh(k, p);
    return step(k, spec, p, a, err);
}

int warm_place_look(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct err *err)
{
    struct arena *a = arena_new(ARENA_MAX);
    int rc = look(k, spec, p, a, err);
    arena_free(a);
    return rc;
}

/* ---- the end ---- */

void warm_remove_rests(const char *root, const char *name)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", root, name);
    struct err err = ERR_INIT;
    if (file_exists(path) && file_remove_tree(path, &err) < 0)
        log_warn("files of a warm control plane could not be removed", KV("directory", path), KVE(&err));
}

/* Under another name first: what a kill leaves is known to be nobody's. */
static void set_aside(const struct kaas *k, const struct warm_place *p)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", k->o.data_dir);
    CLEANUP(mem_freep) char *name = xasprintf(WARM_RESTS "%s", p->site.uid);
    CLEANUP(mem_freep) char *to = xasprintf("%s/%s", root, name);
    if (rename(p->site.dir, to) == 0)
        warm_remove_rests(root, name);
    else if (errno != ENOENT)
        log_warn("the directory of a warm control plane cannot be set aside", KV("directory", p->site.dir), KVI("errno", errno));
}

bool warm_place_end(struct kaas *k, struct warm_place *p)
{
    unsigned ended = 0;
    int files = 0;
    bool done = false;
    struct err err = ERR_INIT;
    struct site there = p->site;
    if (place_load(&there, NULL) == 0 && !place_is_warm(p->site.dir)) {
        log_error("a place of the warm pool is a cluster's, and is left to it", KV("directory", p->site.dir));
        return true;
    }
    if (!cluster_end(k, &p->site, ETCD, &ended))
        return false;
    if (place_is_warm(p->site.dir))
        set_aside(k, p);
    int rc = control_plane_remove(k, &p->site, &ended, &files, &done, &err); /* logs; and that nothing listens */
    if (rc < 0 && (!p->stuck_ms || clock_mono_ms() - p->stuck_ms > STUCK_SAY_MS)) {
        p->stuck_ms = clock_mono_ms();
        log_warn("a place of the warm pool cannot be removed, and no other is made meanwhile", KV("directory", p->site.dir), KVE(&err));
    }
    if (rc < 0 || !done)
        return false;
    pthread_mutex_lock(&k->lock);
    map_del(k->memory, str_of(p->site.uid));
    pthread_mutex_unlock(&k->lock);
    return true;
}
