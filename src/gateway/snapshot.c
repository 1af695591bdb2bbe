#include "gateway/snapshot_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/dispatch.h"
#include "gateway/model_route.h"
#include "kinds/inference.h"

#define MEMORY_MAX ((size_t)1 << 30)
#define PROJECT_MAX ((size_t)32 << 20) /* a project's share: what goes beyond is not routed to */
#define OBJECT_ROOM ((size_t)16 << 20) /* more than the largest object takes */

/* ---- what outlives snapshots ---- */

struct snapshot_memory *snapshot_memory_new(void)
{
    struct snapshot_memory *m = XNEW(struct snapshot_memory);
    m->targets = target_set_new();
    m->limits = limit_set_new();
    m->budgets = budget_set_new();
    m->dispatches = dispatch_set_new();
    m->bodies = body_rooms_new();
    return m;
}

void snapshot_memory_free(struct snapshot_memory *m)
{
    if (!m)
        return;
    target_set_free(m->targets);
    limit_set_free(m->limits);
    budget_set_free(m->budgets);
    dispatch_set_free(m->dispatches);
    body_rooms_free(m->bodies);
    mem_free(m);
}

struct limit_set *snapshot_memory_limits(struct snapshot_memory *m)
{
    return m->limits;
}

struct budget_set *snapshot_memory_budgets(struct snapshot_memory *m)
{
    return m->budgets;
}

/* ---- building ---- */

static bool is_of(const json_t *replica, const struct snap_endpoint *e)
{
    return !strcmp(obj_namespace(replica), e->project) && !strcmp(json_str_or(replica, "spec.endpoint", ""), e->name);
}

static bool serves(const json_t *replica)
{
    const char *ready = obj_condition(replica, "Ready");
    return ready && !strcmp(ready, "True") && !obj_deleting(replica);
}

/* The oldest first. */
static void add_in_order(struct snapshot *s, struct snap_endpoint *e)
{
    size_t at = s->endpoints.len;
    *VEC_PUSH(&s->endpoints) = e;
    while (at > 0 && s->endpoints.ptr[at - 1]->created_ms > e->created_ms) {
        s->endpoints.ptr[at] = s->endpoints.ptr[at - 1];
        at--;
    }
    s->endpoints.ptr[at] = e;
}

/* A reason to be Ready at some time: at zero, the first request starts one. Anything else is for people to mend. */
static bool endpoint_comes(const json_t *endpoint)
{
    static const char *const reasons[] = {"ScaledToZero", "Creating", "Starting", "Loading", "Verifying", "EngineExited", "Serving", "Degraded", "Draining"};
    const char *reason = obj_condition_reason(endpoint, "Ready");
    bool off = json_int(endpoint, "spec.replicas", 1) == 0 && json_int(endpoint, "spec.scaling.minReplicas", 1) > 0;
    bool comes = !reason;
    for (size_t i = 0; i < ARRAY_LEN(reasons) && !comes; i++)
        comes = !strcmp(reason, reasons[i]);
    return comes && !off;
}

static void add_endpoint(struct snapshot *s, const struct snapshot_source *src, const struct engine_paths *engines, struct snapshot_memory *memory, const json_t *obj)
{
    struct model_endpoint mep;
    struct arena *a = s->arena;
    size_t i;
    json_t *replica;
    if (obj_deleting(obj) || !obj_name(obj) || kind_decode(&kind_model_endpoint, obj, a, &mep, NULL) < 0)
        return;
    struct snap_endpoint *e = ARENA_NEW(a, struct snap_endpoint);
    const char *created = json_str(obj, "metadata.creationTimestamp");
    e->project = arena_strdup(a, obj_namespace(obj));
    e->name = arena_strdup(a, obj_name(obj));
    e->served = mep.spec.served_name && *mep.spec.served_name ? mep.spec.served_name : e->name;
    e->task = engine_task_of(&mep.spec.engine);
    snapshot_set_visibility(e, a, mep.spec.visibility, &mep.spec.tenants);
    (void)!clock_parse(str_of(created ? created : ""), &e->created_ms);
    const char *reason = obj_condition_reason(obj, "Ready");
    e->not_ready = arena_strdup(a, reason ? reason : "Starting");
    const struct engine_ops *ops = e->task == TASK_TEXT ? engine_find(mep.spec.engine.driver) : NULL;
    e->salted = ops && ops->salt_member;
    e->pinned = ops && ops->has_slots;
    e->usage_by_answer = ops && ops->usage_by_answer;
    e->scaled = mep.spec.scaling != NULL;
    e->waits_for_replicas = e->scaled && endpoint_comes(obj);
    e->load_ms = json_int(obj, "status.load.medianMilliseconds", 0);
    e->start_timeout_s = mep.spec.start_timeout_seconds;
    size_t count = 0;
    json_array_foreach (src->replicas, i, replica)
        count += is_of(replica, e) && serves(replica);
    e->replicas = ARENA_ARRAY(a, struct snap_replica, MIN(count, (size_t)SNAPSHOT_REPLICAS_MAX) + 1);
    e->absent = ARENA_ARRAY(a, const struct residency_site *, SNAPSHOT_REPLICAS_MAX);
    json_array_foreach (src->replicas, i, replica)
        if (is_of(replica, e) && serves(replica))
            snapshot_add_replica(s, engines, memory, e, replica);
        else if (is_of(replica, e))
            snapshot_add_absent(s, engines, e, replica);
    if (e->scaled && !e->replica_count && !e->absent_count) /* what will be started stands where engines of this cloud do */
        e->absent[e->absent_count++] = border_site(s->border, "unix:/");
    slo_read(json_object_get(obj, "spec"), &e->slo);
    prices_read(src->prices, e->project, e->served, a, &e->prices);
    *VEC_PUSH(&s->dispatches) = e->dispatch = dispatch_take(memory->dispatches, arena_printf(a, "%s/%s", e->project, e->name));
    if (e->replica_count)
        dispatch_cold_end(e->dispatch);
    add_in_order(s, e);
    for (size_t n = 0; n < mep.spec.adapters.count; n++)
        add_in_order(s, model_route_of_adapter(a, e, ((const struct model_adapter *)mep.spec.adapters.items)[n].name));
}

/* How much of the snapshot's memory a project has. */
struct share {
    size_t used;
    bool told;
};

static struct share *share_of(struct map *shares, const char *project)
{
    struct share *sh = map_getc(shares, project);
    if (!sh) {
        sh = XNEW(struct share);
        map_set(shares, str_of(project), sh);
    }
    return sh;
}

/* The share that one more object of the project is charged to; NULL: there is no room. Nobody may fill what others need: a snapshot that is full ends the process. */
static struct share *with_room(const struct snapshot *s, struct map *shares, const json_t *obj)
{
    struct share *sh = share_of(shares, obj_namespace(obj));
    if (arena_used(s->arena) <= MEMORY_MAX - OBJECT_ROOM && sh->used < PROJECT_MAX)
        return sh;
    if (!sh->told)
        log_warn("a project's keys and endpoints take more room than the gateway has for them: the rest is not served", KV("project", obj_namespace(obj)));
    sh->told = true;
    return NULL;
}

static struct snap_endpoint *find_by_name(void *arg, const char *project, const char *name)
{
    char key[600];
    snprintf(key, sizeof(key), "%s/%s", project, name);
    return map_getc(arg, key);
}

static void add_routes(struct snapshot *s, const struct snapshot_source *src, struct map *shares)
{
    struct map *by_name = map_new(NULL);
    size_t i;
    json_t *obj;
    for (size_t n = 0; json_array_size(src->routes) && n < s->endpoints.len; n++)
        if (!s->endpoints.ptr[n]->is_route)
            map_set(by_name, str_of(arena_printf(s->arena, "%s/%s", s->endpoints.ptr[n]->project, s->endpoints.ptr[n]->name)), s->endpoints.ptr[n]);
    json_array_foreach (src->routes, i, obj) {
        struct share *share = with_room(s, shares, obj);
        size_t before = arena_used(s->arena);
        struct snap_endpoint *e = share ? model_route_make(s->arena, obj, find_by_name, by_name) : NULL;
        if (share)
            share->used += arena_used(s->arena) - before;
        if (e)
            add_in_order(s, e);
    }
    map_free(by_name);
}

struct snapshot *snapshot_build(const struct snapshot_source *src, const struct engine_paths *engines, struct snapshot_memory *memory)
{
    struct snapshot *s = XNEW(struct snapshot);
    struct map *tenants = map_new(NULL);
    struct map *shares = map_new(mem_free), *allowances = snapshot_read_allowances(src);
    struct share *share;
    size_t i, before;
    json_t *obj;
    atomic_store(&s->refs, 1);
    s->arena = arena_new(MEMORY_MAX);
    s->border = border_new(s->arena, src->sites, src->policies, src->tenants, engines->site);
    s->keys = map_new(NULL);
    s->own = map_new(NULL);
    json_array_foreach (src->keys, i, obj)
        if ((share = with_room(s, shares, obj))) {
            before = arena_used(s->arena);
            snapshot_add_key(s, memory, allowances, src, tenants, obj);
            share->used += arena_used(s->arena) - before;
        }
    json_array_foreach (src->endpoints, i, obj)
        if ((share = with_room(s, shares, obj))) {
            before = arena_used(s->arena);
            add_endpoint(s, src, engines, memory, obj);
            share->used += arena_used(s->arena) - before;
        }
    add_routes(s, src, shares);
    for (int routes = 0; routes < 2; routes++)
        for (size_t n = s->endpoints.len; n > 0; n--) { /* the oldest is set last and wins */
            struct snap_endpoint *e = s->endpoints.ptr[n - 1];
            if (e->is_route == (routes == 1))
                map_set(s->own, str_of(arena_printf(s->arena, "%s/%s", e->project, e->served)), e);
        }
    map_free(tenants);
    map_free(shares);
    map_free(allowances);
    target_prune(memory->targets);
    limit_prune(memory->limits, clock_mono_ns());
    budget_prune(memory->budgets);
    dispatch_prune(memory->dispatches);
    body_rooms_prune(memory->bodies);
    return s;
}

struct snapshot *snapshot_ref(struct snapshot *s)
{
    if (s)
        atomic_fetch_add(&s->refs, 1);
    return s;
}

void snapshot_unref(struct snapshot *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    VEC_FOREACH (&s->targets, t)
        target_unref(*t);
    VEC_FOREACH (&s->counters, c)
        limit_counter_unref(*c);
    VEC_FOREACH (&s->budgets, b)
        budget_counter_unref(*b);
    VEC_FOREACH (&s->dispatches, d)
        dispatch_unref(*d);
    VEC_FOREACH (&s->bodies, b)
        body_room_unref(*b);
    VEC_DEINIT(&s->targets);
    VEC_DEINIT(&s->counters);
    VEC_DEINIT(&s->budgets);
    VEC_DEINIT(&s->dispatches);
    VEC_DEINIT(&s->bodies);
    VEC_DEINIT(&s->endpoints);
    map_free(s->keys);
    map_free(s->own);
    border_free(s->border);
    arena_free(s->arena);
    mem_free(s);
}

/* ---- questions ---- */

const struct border *snapshot_border(const struct snapshot *s)
{
    return s->border;
}

const struct snap_key *snapshot_key(const struct snapshot *s, const char *hash_hex)
{
    return map_getc(s->keys, hash_hex);
}

static bool in_list(const char *const *list, const char *name)
{
    for (; list && *list; list++)
        if (!strcmp(*list, name))
            return true;
    return false;
}

/* A bare name is never another project's: what that calls its endpoints is not for the key's project to know. */
static bool is_named(const struct snap_key *k, const struct snap_endpoint *e)
{
    bool own = !strcmp(e->project, k->project);
    size_t len = strlen(e->project);
    for (const char *const *name = k->endpoints; *name; name++)
        if ((own && !strcmp(*name, e->name)) || (!strncmp(*name, e->project, len) && (*name)[len] == '/' && !strcmp(*name + len + 1, e->name)))
            return true;
    return false;
}

static bool may_call(const struct snap_key *k, const struct snap_endpoint *e)
{
    bool visible = !strcmp(e->project, k->project) || e->visibility == VISIBLE_EVERYONE || (e->visibility == VISIBLE_TENANTS && in_list(e->tenants, k->tenant));
    return visible && (!k->endpoints || is_named(k, e));
}

/* Its project's route of the same name, which goes before it for whoever may call that too. */
static const struct snap_endpoint *route_before(const struct snapshot *s, const struct snap_key *k, const struct snap_endpoint *e)
{
    char key[600];
    snprintf(key, sizeof(key), "%s/%s", e->project, e->served);
    const struct snap_endpoint *r = map_getc(s->own, key);
    return r && r->is_route && r->visibility != VISIBLE_PROJECT && may_call(k, r) ? r : e;
}

const struct snap_endpoint *snapshot_find(const struct snapshot *s, const struct snap_key *k, const char *served)
{
    CLEANUP(sbuf_deinit) struct sbuf own = {0};
    sbuf_init(&own, 1024);
    sbuf_addc(&own, k->project);
    sbuf_add_char(&own, '/');
    sbuf_addc(&own, served);
    const struct snap_endpoint *e = map_get(s->own, sbuf_str(&own));
    if (e && may_call(k, e))
        return e;
    for (size_t i = 0; i < s->endpoints.len; i++) {
        e = s->endpoints.ptr[i];
        if (e->visibility != VISIBLE_PROJECT && strcmp(e->project, k->project) != 0 && !strcmp(e->served, served) && may_call(k, e))
            return e->is_route ? e : route_before(s, k, e);
    }
    return NULL;
}

int snapshot_adapter(const struct snap_replica *r, const char *name)
{
    for (int i = 0; r->adapters[i]; i++)
        if (!strcmp(r->adapters[i], name))
            return i + 1;
    return 0;
}

void snapshot_each(const struct snapshot *s, const struct snap_key *k, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg)
{
    for (size_t i = 0; i < s->endpoints.len; i++) {
        const struct snap_endpoint *e = s->endpoints.ptr[i];
        if (may_call(k, e) && snapshot_find(s, k, e->served) == e)
            fn(arg, e);
    }
}

void snapshot_each_scaled(const struct snapshot *s, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg)
{
    for (size_t i = 0; i < s->endpoints.len; i++)
        if (s->endpoints.ptr[i]->scaled)
            fn(arg, s->endpoints.ptr[i]);
}

void snapshot_each_endpoint(const struct snapshot *s, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg)
{
    for (size_t i = 0; i < s->endpoints.len; i++)
        fn(arg, s->endpoints.ptr[i]);
}

void snapshot_each_key(const struct snapshot *s, void (*fn)(void *arg, const struct snap_key *k), void *arg)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->keys, &it))
        fn(arg, it.value);
}

static bool has_name(void *arg, const char *name)
{
    return map_getc(arg, name) != NULL;
}

void snapshot_close_targets(const struct snapshot *s, struct snapshot_memory *m)
{
    struct map *names = map_new(NULL);
    for (size_t i = 0; i < s->targets.len; i++)
        map_set(names, str_of(s->targets.ptr[i]->name), s->targets.ptr[i]);
    target_close(m->targets, has_name, names);
    map_free(names);
}

void snapshot_tell_targets(struct snapshot_memory *m, const json_t *engines, uint64_t now_ms)
{
    target_tell(m->targets, engines, now_ms);
}

bool snapshot_target_open(struct snapshot_memory *m, const char *name, int *ret_running)
{
    return target_open(m->targets, name, ret_running);
}

bool snapshot_has_target(const struct snapshot *s, const char *name)
{
    for (size_t i = 0; s && i < s->targets.len; i++)
        if (!strcmp(s->targets.ptr[i]->name, name))
            return true;
    return false;
}

size_t snapshot_key_count(const struct snapshot *s)
{
    return map_len(s->keys);
}
