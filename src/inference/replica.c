/* ModelReplica: a verified model → a workload in the runtime → an engine that answers → Ready, and it stays so while tokens come. */
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "inference/internal.h"
#include "kinds/borrowed.h"

#define LOADING_LOOK_MS 200u
#define KILL_AGAIN_MS 10000 /* a process that was killed and is still there is waited for so long */
#define AWAY_LOOK_MAX_MS 10000u /* at a server elsewhere that does not answer */
#define STOPPING_LOOK_MS 100u
#define LEAVING_LOOK_MS 100u
#define WAIT_LOOK_MS 2000u
#define PROBE_TIMEOUT_MS 2000u
#define POKE_TIMEOUT_MS 20000u
#define STOP_TIMEOUT_MS 10000u
#define STEP_S 5 /* "waiting 10 s": in steps, so that a status is not written every second */

struct pass {
    struct inference *i;
    struct reconcile *r;
    struct model_replica mr;
    const struct engine_ops *engine;
    struct engine_plan plan;
    struct workload_status w;
    struct replica_memory memory;
    char workload[WORKLOAD_NAME_MAX];
    uint64_t probe_ms; /* how long the engine was waited for */
};

void replica_workload_name(const json_t *replica, char name[WORKLOAD_NAME_MAX])
{
    const char *uid = obj_uid(replica);
    /* Long names are cut: the uid keeps them apart. */
    snprintf(name, WORKLOAD_NAME_MAX, WORKLOAD_PREFIX "%.63s-%.100s-%.8s", obj_namespace(replica), obj_name(replica), uid ? uid : "");
}

/* ---- memory between passes ---- */

static void load_memory(struct pass *p)
{
    const char *uid = obj_uid(p->r->obj);
    pthread_mutex_lock(&p->i->lock);
    const struct replica_memory *m = map_getc(p->i->memory, uid);
    if (m)
        p->memory = *m;
    if (!map_getc(p->i->workloads, p->workload))
        map_set(p->i->workloads, str_of(p->workload), xasprintf("%s/%s", p->r->ns, p->r->name));
    pthread_mutex_unlock(&p->i->lock);
}

static void save_memory(struct pass *p)
{
    struct replica_memory *m = XNEW(struct replica_memory);
    *m = p->memory;
    pthread_mutex_lock(&p->i->lock);
    map_set(p->i->memory, str_of(obj_uid(p->r->obj)), m);
    pthread_mutex_unlock(&p->i->lock);
}

static void forget(struct pass *p)
{
    pthread_mutex_lock(&p->i->lock);
    map_del(p->i->memory, str_of(obj_uid(p->r->obj)));
    map_del(p->i->workloads, str_of(p->workload));
    pthread_mutex_unlock(&p->i->lock);
}

/* ---- the end ---- */

void replica_remove_files(struct inference *i, const json_t *replica)
{
    const char *uid = obj_uid(replica);
    if (!uid)
        return;
    engine_secret_remove(&i->o.paths, uid);
    CLEANUP(mem_freep) char *socket = xasprintf("%s/%.18s.sock", i->o.paths.socket_dir, uid);
    unlink(socket);
    CLEANUP(mem_freep) char *slots = xasprintf("%s/%.36s.slots", i->o.paths.socket_dir, uid);
    unlink(slots);
}

static void save_memory(struct pass *p);
static void load_memory(struct pass *p);

/* Requests of an engine that goes may end: gateways send no more there, and say so. Says that in the condition. False: it may be stopped. */
static bool requests_may_end(struct pass *p)
{
    struct reconcile *r = p->r;
    const char *target = scaling_target(r->obj, r->arena);
    int64_t running;
    if (p->w.state != WORKLOAD_RUNNING || !target)
        return false;
    p->memory.leaving_ms = p->memory.leaving_ms ? p->memory.leaving_ms : clock_mono_ms();
    if (demand_may_leave(p->i->demand, target, &running) || clock_mono_ms() - p->memory.leaving_ms >= p->i->o.drain_ms)
        return false;
    r->requeue_ms = LEAVING_LOOK_MS;
    set_condition(r->obj, "Ready", "False", "Draining", "requests that run may end, for %llu s at most", (unsigned long long)p->i->o.drain_ms / 1000);
    return true;
}

static bool must_wait_for_requests(struct pass *p)
{
    struct reconcile *r = p->r;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    load_memory(p);
    bool first = !p->memory.leaving_ms, wait = requests_may_end(p);
    if (first && p->memory.leaving_ms)
        save_memory(p);
    return wait && save_status(r, &kind_model_replica, before, NULL) == 0;
}

static int finish(struct pass *p, struct err *err)
{
    struct reconcile *r = p->r;
    struct runtime *rt = p->i->runtime;
    if (!obj_has_finalizer(r->obj, WORKLOAD_FINALIZER))
        return 0;
    rt->ops->get(rt, p->workload, &p->w);
    if (must_wait_for_requests(p))
        return 0;
    int rc = rt->ops->stop(rt, p->workload, err);
    if (rc < 0)
        return rc;
    rt->ops->get(rt, p->workload, &p->w);
    if (p->w.state != WORKLOAD_ABSENT) {
        r->requeue_ms = STOPPING_LOOK_MS;
        return 0;
    }
    forget(p);
    const char *target = scaling_target(r->obj, r->arena);
    if (target)
        demand_left(p->i->demand, target);
    replica_remove_files(p->i, r->obj);
    return reconcile_release(r, &kind_model_replica, WORKLOAD_FINALIZER, err);
}

/* ---- what it needs ---- */

/* Sets ModelVerified; true when an engine may start. *ret_refused: the files are known to be wrong, nothing may go on serving them. */
static bool model_ready(struct pass *p, const char *name, const char **ret_file, bool *ret_refused)
{
    json_t *obj = p->r->obj;
    *ret_file = NULL;
    *ret_refused = false;
    if (!name || !*name) {
        set_condition(obj, "ModelVerified", "True", "NotNeeded", "this driver serves a model of its own");
        return true;
    }
    JSON_AUTO model = informer_get(p->i->models, p->r->ns, name);
    const char *status = model ? obj_condition(model, "Verified") : NULL;
    if (!model) {
        set_condition(obj, "ModelVerified", "False", "ModelNotFound", "there is no Model \"%s\" in namespace %s", name, p->r->ns);
        *ret_refused = true;
        return false;
    }
    const char *reason = obj_condition_reason(model, "Verified");
    set_condition(obj, "ModelVerified", status ? status : "Unknown", reason ? reason : "Verifying", "Model %s", name);
    char path[MODEL_PATH_MAX];
    model_file_path(json_str_or(model, "spec.source", ""), json_str_or(json_array_get(json_at(model, "spec.files"), 0), "name", ""), path);
    *ret_file = arena_strdup(p->r->arena, path);
    *ret_refused = status && !strcmp(status, "False");
    if (!status || strcmp(status, "True") != 0)
        return false;
    if (model_files_proven(p->i, model))
        return true;
    set_condition(obj, "ModelVerified", "Unknown", "Verifying", "files of Model %s changed since they were verified", name);
    manager_enqueue(p->i->manager, CONTROLLER_MODEL, p->r->ns, name);
    return false;
}

/* The same of adapters. */
static bool adapters_ready(struct pass *p, bool *ret_refused)
{
    const struct field_list *l = &p->mr.spec.adapters;
    const char **files = ARENA_ARRAY(p->r->arena, const char *, l->count + 1);
    for (size_t i = 0; i < l->count; i++)
        if (!model_ready(p, ((const struct model_adapter *)l->items)[i].model, &files[i], ret_refused))
            return false;
    p->mr.spec.adapter_files = files;
    return true;
}

/* A remote engine's key, from the Secret into a file that only this user reads: see engine.h. The Secret's version in the status tells whoever follows it that the key is another. */
static int write_token(struct pass *p, struct err *err)
{
    struct reconcile *r = p->r;
    const char *name = p->mr.spec.engine.secret;
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    if (p->plan.argv || !name || !*name) {
        json_remove(r->obj, "status.secretVersion");
        engine_secret_remove(&p->i->o.paths, obj_uid(r->obj));
        return 0;
    }
    JSON_AUTO secret = informer_get(p->i->secrets, r->ns, name);
    if (!secret)
        return err_field(err, ERR_NOT_FOUND, "spec.engine.secret", "spec.engine.secret: there is no Secret \"%s\" in namespace %s", name, r->ns);
    sbuf_init(&key, ENGINE_SECRET_MAX);
    const char *value = json_string_value(json_object_get(json_object_get(secret, "data"), "apiKey"));
    if (!value || base64_decode(str_of(value), &key, err) < 0 || !str_trim(sbuf_str(&key)).len)
        return err_field(err, ERR_INVALID, "spec.engine.secret", "spec.engine.secret: Secret %s has no data.apiKey", name);
    struct str trimmed = str_trim(sbuf_str(&key));
    int rc = engine_secret_write(&p->i->o.paths, obj_uid(r->obj), p->plan.address, trimmed, NULL, err);
    if (rc == 0) {
        p->plan.token = arena_strndup(r->arena, trimmed);
        json_put_str(r->obj, "status.secretVersion", json_str_or(secret, "metadata.resourceVersion", "0"));
    }
    mem_wipe(key.ptr, key.len);
    return rc;
}

static void forget_token(struct pass *p)
{
    if (p->plan.token)
        mem_wipe((char *)(uintptr_t)p->plan.token, strlen(p->plan.token));
    p->plan.token = NULL;
}

static void not_started(struct pass *p, const char *reason, const char *message)
{
    set_condition(p->r->obj, "EngineStarted", "False", reason, "%s", message);
    set_condition(p->r->obj, "Ready", "False", reason, "%s", message);
    p->memory.was_ready = false;
}

/* What serves goes on: a program is gone for a moment while another one is installed. */
static void cannot_be_started(struct pass *p, const char *reason, const char *message)
{
    if (p->w.state == WORKLOAD_RUNNING && p->memory.was_ready)
        manager_event(p->i->manager, p->r->obj, "Warning", reason, arena_printf(p->r->arena, "%s; what runs goes on, and could not be started again", message));
    else
        not_started(p, reason, message);
}

/* ---- the engine's process ---- */

static const char *last_log_line(struct pass *p)
{
    return runtime_last_line(p->i->runtime, p->workload, p->r->arena);
}

static const char *after_colon(struct arena *a, const char *line)
{
    return *line ? arena_printf(a, "; it last said: %s", line) : "";
}

static void note_restarts(struct pass *p)
{
    json_t *obj = p->r->obj;
    int64_t before = json_int(obj, "status.restarts", 0);
    if (p->w.restarts > before && *p->w.message)
        manager_event(p->i->manager, obj, "Warning", "EngineRestarted", arena_printf(p->r->arena, "the engine ended (%s) and is started again", p->w.message));
    json_put_int(obj, "status.restarts", p->w.restarts > before ? p->w.restarts : before);
    if (p->w.pid > 0)
        json_put_int(obj, "status.pid", p->w.pid);
    else
        json_remove(obj, "status.pid");
}

/* True when there is a process to talk to. */
static bool process_runs(struct pass *p)
{
    struct arena *a = p->r->arena;
    if (p->w.state == WORKLOAD_FAILED_TO_START)
        not_started(p, "StartFailed", p->w.message);
    else if (p->w.crash_looping)
        not_started(p, "CrashLoopBackOff", arena_printf(a, "%s; %d restarts so far%s", p->w.message, p->w.restarts, after_colon(a, last_log_line(p))));
    else if (p->w.state == WORKLOAD_BACKOFF)
        not_started(p, "EngineExited", arena_printf(a, "%s; it is started again%s", p->w.message, after_colon(a, last_log_line(p))));
    else if (p->w.state == WORKLOAD_STOPPING || p->w.state == WORKLOAD_ABSENT)
        not_started(p, "Starting", "the engine is being started");
    else
        return true;
    p->r->requeue_ms = LOADING_LOOK_MS;
    return false;
}

/* What runs is to run otherwise, and serves: requests may end before. False: it may be changed, or need not be. */
static bool change_waits(struct pass *p, const struct workload *w)
{
    const char *ready = obj_condition(p->r->obj, "Ready"), *reason = obj_condition_reason(p->r->obj, "Ready"), *target = scaling_target(p->r->obj, p->r->arena);
    bool serves = (ready && !strcmp(ready, "True")) || (reason && !strcmp(reason, "Draining"));
    if (serves && p->i->runtime->ops->differs(p->i->runtime, w) && requests_may_end(p))
        return true;
    if (p->memory.leaving_ms && target)
        demand_left(p->i->demand, target);
    p->memory.leaving_ms = 0;
    return false;
}

/* *ret_waits: not yet, as requests still run on what it is now. */
static int ensure_workload(struct pass *p, bool *ret_waits, struct err *err)
{
    const struct workload w = {.name = p->workload, .argv = p->plan.argv, .env = p->plan.env, .stop_timeout_ms = STOP_TIMEOUT_MS};
    *ret_waits = change_waits(p, &w);
    if (*ret_waits)
        return 0;
    int rc = p->i->runtime->ops->ensure(p->i->runtime, &w, err);
    if (rc == 0)
        p->i->runtime->ops->get(p->i->runtime, p->workload, &p->w);
    return rc;
}

/* ---- does it answer ---- */

static void publish(struct pass *p)
{
    json_t *obj = p->r->obj;
    char now[CLOCK_TEXT_MAX];
    json_put_str(obj, "status.address", p->plan.address);
    json_put_str(obj, "status.basePath", p->plan.base_path);
    json_put_str(obj, "status.engineModel", p->plan.engine_model ? p->plan.engine_model : "");
    json_put_int(obj, "status.slots", p->mr.spec.engine.parallel);
    if (p->w.started_wall_ms > 0) {
        clock_format(p->w.started_wall_ms, now);
        json_put_str(obj, "status.startedAt", now);
    }
    if (p->plan.argv && !p->memory.load_counted && !p->w.adopted) {
        json_put_int(obj, "status.loadMilliseconds", (int64_t)MAX(p->w.running_ms, (uint64_t)1));
        scaling_loaded((int64_t)p->w.running_ms);
    }
    p->memory.load_counted = true;
    set_condition(obj, "EngineStarted", "True", "Started", p->plan.argv ? "process %d" : "a server elsewhere", (int)p->w.pid);
    set_condition(obj, "Ready", "True", "Serving", "the engine answers");
    p->memory.was_ready = true;
}

/* What was asked has ended meanwhile: whoever came after it has done nothing wrong yet. */
static bool runs_another(struct pass *p)
{
    struct workload_status now;
    p->i->runtime->ops->get(p->i->runtime, p->workload, &now);
    return now.generation != p->w.generation;
}

static void restart(struct pass *p, const char *reason, const char *why)
{
    struct err err = ERR_INIT;
    struct runtime *rt = p->i->runtime;
    struct replica_memory fresh = {.away = p->memory.away};
    if (p->plan.argv && runs_another(p)) {
        p->memory = fresh;
        p->r->requeue_ms = LOADING_LOOK_MS;
        return;
    }
    set_condition(p->r->obj, "Ready", "False", reason, "%s", why);
    manager_event(p->i->manager, p->r->obj, "Warning", reason, why);
    log_warn(p->plan.argv ? "engine is restarted" : "engine elsewhere does not serve", KV("replica", p->r->name), KV("namespace", p->r->ns), KV("reason", reason), KV("why", why));
    if (p->plan.argv && rt->ops->restart(rt, p->workload, why, &err) < 0) {
        log_warn("it could not be restarted", KV("replica", p->r->name), KVE(&err));
    } else if (p->plan.argv) {
        fresh.ended = p->w.generation;
        fresh.ended_ms = clock_mono_ms();
    }
    p->memory = fresh;
}

/* The server elsewhere answers, and does not have the model: what to wait for is somebody's doing. */
static void model_is_missing(struct pass *p, const char *what)
{
    const char *before = obj_condition_reason(p->r->obj, "Ready");
    if (!before || strcmp(before, "ModelNotServed") != 0) {
        manager_event(p->i->manager, p->r->obj, "Warning", "ModelNotServed", what);
        log_warn("a server elsewhere does not have the model", KV("replica", p->r->name), KV("namespace", p->r->ns), KV("why", what));
    }
    p->r->requeue_ms = p->i->o.probe_interval_ms;
    set_condition(p->r->obj, "EngineStarted", "True", "Started", "a server elsewhere");
    set_condition(p->r->obj, "Ready", "False", "ModelNotServed", "%s", what);
    p->memory = (struct replica_memory){0};
}

uint64_t away_pause_ms(unsigned looks)
{
    uint64_t pause = MIN((uint64_t)LOADING_LOOK_MS << MIN(looks, 16u), (uint64_t)AWAY_LOOK_MAX_MS);
    return pause / 2 + rnd_guessable_below(pause / 2 + 1);
}

/* Whether a server elsewhere that did not answer is left alone for now: a status that was written wakes us, too. When the replica's spec or its key is another one, it is asked at once. */
static bool is_left_alone(struct pass *p)
{
    struct away *a = &p->memory.away;
    uint64_t now = clock_mono_ms();
    char secret[sizeof(a->secret)];
    if (p->plan.argv)
        return false;
    snprintf(secret, sizeof(secret), "%s", json_str_or(p->r->obj, "status.secretVersion", ""));
    if (a->generation != obj_generation(p->r->obj) || strcmp(a->secret, secret) != 0) {
        *a = (struct away){.generation = obj_generation(p->r->obj)};
        memcpy(a->secret, secret, sizeof(secret));
    }
    if (a->look_ms <= now)
        return false;
    p->r->requeue_ms = a->look_ms - now;
    return true;
}

/* Until the next look. Who does not answer is waited for half of the time at most; a program that loads answers soon, a server elsewhere may be gone for days. */
static uint64_t pause_ms(struct pass *p, uint64_t waited_ms, uint64_t limit_ms)
{
    if (p->plan.argv)
        return MAX(p->probe_ms, (uint64_t)LOADING_LOOK_MS);
    uint64_t away = away_pause_ms(p->memory.away.looks++), pause = MAX(p->probe_ms, away);
    if (waited_ms < limit_ms)
        pause = MIN(pause, limit_ms - waited_ms);
    p->memory.away.look_ms = clock_mono_ms() + pause;
    return pause;
}

static void wait_for_answer(struct pass *p, const char *what)
{
    uint64_t waited_ms = clock_mono_ms() - p->memory.begun_ms, waited_s = waited_ms / 1000, limit_s = (uint64_t)p->mr.spec.start_timeout_seconds;
    json_t *obj = p->r->obj;
    p->r->requeue_ms = pause_ms(p, waited_ms, limit_s * 1000);
    set_condition(obj, "EngineStarted", "True", "Started", p->plan.argv ? "process %d" : "a server elsewhere", (int)p->w.pid);
    if (waited_s >= limit_s) {
        const char *why = arena_printf(p->r->arena, "not ready within %llu s: %s", (unsigned long long)limit_s, what);
        restart(p, "DeadlineExceeded", why);
        return;
    }
    const char *reason = obj_condition_reason(obj, "Ready");
    if (reason && !strcmp(reason, "DeadlineExceeded") && waited_s < limit_s / 2)
        return; /* a second try: until it works, the first one's failure is what matters */
    set_condition(obj, "Ready", "False", p->plan.argv ? "Loading" : "ServerUnavailable", "waiting %llu s of at most %llu s: %s", (unsigned long long)(waited_s / STEP_S * STEP_S), (unsigned long long)limit_s, what);
}

static void judge(struct pass *p, int probe_rc, const struct engine_health *h, const char *probe_error)
{
    uint64_t now = clock_mono_ms();
    enum engine_verdict v = engine_liveness_feed(&p->memory.liveness, now, probe_rc, h, p->i->o.stall_ms, p->i->o.idle_ms);
    p->r->requeue_ms = p->i->o.probe_interval_ms;
    if (v == ENGINE_NEEDS_POKE && probe_rc == 0) {
        struct err err = ERR_INIT;
        struct engine_tokens own = {0};
        int rc = p->engine->poke ? p->engine->poke(&p->plan, engine_task_of(&p->mr.spec.engine), POKE_TIMEOUT_MS, &own, &err) : 0;
        p->memory.own.read += own.read;
        p->memory.own.written += own.written;
        if (rc == ERR_TIMEOUT)
            v = ENGINE_HUNG;
        if (rc == ERR_TIMEOUT)
            probe_error = "an idle engine did not make one token";
    }
    if (v == ENGINE_HUNG && !p->plan.argv)
        restart(p, "ServerUnavailable", probe_error);
    else if (v == ENGINE_HUNG)
        restart(p, "EngineHung", arena_printf(p->r->arena, "no progress: %s", *probe_error ? probe_error : "requests run and no token comes"));
    else if (probe_rc == 0)
        publish(p);
}

/* A process that was killed, and is there for a moment more: it is no new one that loads, and what its age says is nothing against the one that comes. */
static bool is_ending(struct pass *p)
{
    if (!p->plan.argv || !p->memory.ended || p->memory.ended != p->w.generation || clock_mono_ms() - p->memory.ended_ms >= KILL_AGAIN_MS)
        return false;
    p->r->requeue_ms = LOADING_LOOK_MS;
    return true;
}

static void look_at_engine(struct pass *p)
{
    struct engine_health h = ENGINE_HEALTH_UNKNOWN;
    struct err err = ERR_INIT;
    int64_t from_ms = clock_wall_ms();
    if (is_left_alone(p) || is_ending(p))
        return;
    if (p->memory.generation != p->w.generation || !p->memory.begun_ms) {
        p->memory = (struct replica_memory){.generation = p->w.generation, .begun_ms = clock_mono_ms() - p->w.running_ms, .away = p->memory.away};
        p->memory.liveness.last_progress_ms = p->memory.liveness.last_poke_ms = clock_mono_ms();
    }
    uint64_t begun_ms = clock_mono_ms();
    int rc = p->engine->probe(&p->plan, PROBE_TIMEOUT_MS, &h, &err);
    p->probe_ms = clock_mono_ms() - begun_ms;
    if (rc == 0 && h.serving) {
        p->memory.away.looks = 0;
        p->memory.away.look_ms = 0;
    }
    if (rc == 0 && !h.serving)
        rc = err_set(&err, ERR_UNAVAILABLE, "loading the model");
    if (rc == 0 && engine_task_of(&p->mr.spec.engine) == TASK_TEXT)
        counters_show(p->i, p->r->obj, &p->memory, p->engine, &h, from_ms);
    const char *target = rc == 0 ? scaling_target(p->r->obj, p->r->arena) : NULL;
    if (target)
        demand_engine(p->i->demand, target, &(struct demand_engine){.waiting = h.requests_waiting, .running = h.requests_running, .kv_used = h.kv_used});
    if (rc == ERR_NOT_FOUND)
        model_is_missing(p, err.msg);
    else if (p->memory.was_ready || rc == 0)
        judge(p, rc, &h, err.msg);
    else
        wait_for_answer(p, rc == ERR_UNAVAILABLE || !p->plan.argv ? err.msg : "the engine does not listen yet");
}

/* ---- one pass ---- */

static int bring_up(struct pass *p, struct err *err)
{
    const char *file = NULL;
    bool refused = false;
    struct err why = ERR_INIT;
    struct runtime *rt = p->i->runtime;
    rt->ops->get(rt, p->workload, &p->w);
    bool may_start = model_ready(p, p->mr.spec.model, &file, &refused) && adapters_ready(p, &refused);
    if (!may_start && (refused || p->w.state == WORKLOAD_ABSENT)) {
        p->r->requeue_ms = WAIT_LOOK_MS;
        not_started(p, obj_condition_reason(p->r->obj, "ModelVerified"), refused ? "the model is not what it should be" : "waiting for the model to be verified");
        return p->w.state == WORKLOAD_ABSENT ? 0 : rt->ops->stop(rt, p->workload, err);
    }
    p->engine = engine_find(p->mr.spec.engine.driver);
    if (!p->engine) {
        not_started(p, "UnknownDriver", "there is no such engine driver");
        return 0;
    }
    if (p->engine->plan(&p->i->o.paths, &p->mr, obj_uid(p->r->obj), file, p->r->arena, &p->plan, &why) < 0) {
        p->r->requeue_ms = WAIT_LOOK_MS;
        cannot_be_started(p, why.code == ERR_UNAVAILABLE ? "EngineMissing" : "EngineInvalid", why.msg);
        return 0;
    }
    if (write_token(p, &why) < 0) {
        p->r->requeue_ms = WAIT_LOOK_MS;
        not_started(p, "SecretMissing", why.msg);
        return 0;
    }
    if (p->plan.argv) {
        bool waits;
        int rc = ensure_workload(p, &waits, err);
        if (rc < 0 || waits)
            return rc;
        note_restarts(p);
        if (!process_runs(p))
            return 0;
    }
    if (!p->plan.argv && p->w.state != WORKLOAD_ABSENT) { /* what ran here before the engine was moved elsewhere */
        json_remove(p->r->obj, "status.pid");
        int rc = rt->ops->stop(rt, p->workload, err);
        if (rc < 0)
            return rc;
    }
    look_at_engine(p);
    forget_token(p);
    return 0;
}

static int add_finalizer(struct pass *p, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_model_replica);
    json_t *fresh = NULL;
    obj_add_finalizer(p->r->obj, WORKLOAD_FINALIZER);
    int rc = client_update(p->r->client, &resource, p->r->obj, &fresh, err);
    if (rc < 0)
        return rc;
    json_decref(p->r->obj);
    p->r->obj = json_deep_copy(fresh);
    json_decref(fresh);
    return 0;
}

int replica_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct pass p = {.i = ctx, .r = r};
    int rc;
    if (!r->obj)
        return 0;
    replica_workload_name(r->obj, p.workload);
    if (obj_deleting(r->obj))
        return finish(&p, err);
    if (!obj_has_finalizer(r->obj, WORKLOAD_FINALIZER) && (rc = add_finalizer(&p, err)) < 0)
        return rc;
    if ((rc = kind_decode(&kind_model_replica, r->obj, r->arena, &p.mr, err)) < 0)
        return rc;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    load_memory(&p);
    rc = bring_up(&p, err);
    save_memory(&p);
    int status_rc = save_status(r, &kind_model_replica, before, rc < 0 ? NULL : err);
    return rc < 0 ? rc : status_rc;
}
