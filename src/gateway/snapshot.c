#include "gateway/dispatch.h"
#include "gateway/model_route.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/vec.h"
#include "kinds/inference.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

#define SNAPSHOT_MAX (256u * 1024 * 1024)
#define SNAPSHOT_VERSION 1
#define MEMORY_MAX ((size_t)1 << 30)
#define PROJECT_MAX ((size_t)32 << 20) /* a project's share: what goes beyond is not routed to */
#define OBJECT_ROOM ((size_t)16 << 20) /* more than the largest object takes */
#define REPLICAS_MAX 64 /* of one endpoint that are looked at: a bit each */

struct snapshot {
    atomic_uint refs;
    struct arena *arena;
    struct border *border;
    struct map *keys;      /* hash → snap_key */
    struct map *own;       /* "PROJECT/SERVED" → snap_endpoint */
    VEC(struct snap_endpoint *) endpoints; /* oldest first */
    VEC(struct target *) targets;
    VEC(struct limit_counter *) counters;
    VEC(struct budget_counter *) budgets;
    VEC(struct dispatch *) dispatches;
};

/* ---- what outlives snapshots ---- */

struct snapshot_memory {
    struct target_set *targets;
    struct limit_set *limits;
    struct budget_set *budgets;
    struct dispatch_set *dispatches;
};

struct snapshot_memory *snapshot_memory_new(void)
{
    struct snapshot_memory *m = XNEW(struct snapshot_memory);
    m->targets = target_set_new();
    m->limits = limit_set_new();
    m->budgets = budget_set_new();
    m->dispatches = dispatch_set_new();
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

static const char *const *copy_list(struct arena *a, const struct field_list *l)
{
    const char **copy = ARENA_ARRAY(a, const char *, l->count + 1);
    for (size_t i = 0; i < l->count; i++)
        copy[i] = arena_strdup(a, ((const char *const *)l->items)[i]);
    return copy;
}

static const char *tenant_of(const struct snapshot_source *src, struct arena *a, const char *project)
{
    size_t i;
    json_t *ns;
    json_array_foreach (src->namespaces, i, ns)
        if (obj_name(ns) && !strcmp(obj_name(ns), project))
            return arena_strdup(a, namespace_tenant(ns, project));
    return arena_strdup(a, project);
}

static bool is_suspended(const struct snapshot_source *src, const char *tenant)
{
    size_t i;
    json_t *t;
    json_array_foreach (src->tenants, i, t)
        if (obj_name(t) && !strcmp(obj_name(t), tenant))
            return strcmp(tenant_state(t), "Active") != 0;
    return false;
}

/* name: of the counter, "key PROJECT/NAME". learns: there is one though nothing may be limited. born_ms: see limit_take(). */
static struct limit limit_of(struct snapshot *s, struct snapshot_memory *m, const struct rate_limits *r, bool learns, const char *name, int64_t born_ms)
{
    struct limit l = {.learns = learns, .max = {[LIMIT_REQUESTS] = r->requests_per_minute, [LIMIT_TOKENS] = r->tokens_per_minute, [LIMIT_CONCURRENT] = r->concurrent_requests}};
    for (int u = 0; u < LIMIT_UNITS && !l.counter; u++)
        if (l.max[u] > 0 || learns)
            *VEC_PUSH(&s->counters) = l.counter = limit_take(m->limits, name, l.max, born_ms);
    return l;
}

/* The limits of a project, or of a tenant, that a snapshot has found. */
struct allowance {
    struct rate_limits rates;
    VEC(struct budget) budgets;
    struct limit limit;
    bool taken;
};

static struct allowance *allowance_of(struct map *all, const char *name)
{
    struct allowance *a = map_getc(all, name);
    if (!a) {
        a = XNEW(struct allowance);
        map_set(all, str_of(name), a);
    }
    return a;
}

static void free_allowance(void *value)
{
    struct allowance *a = value;
    VEC_DEINIT(&a->budgets);
    mem_free(a);
}

static void add_budget(struct allowance *a, const json_t *obj, enum limit_scope scope, const char *project, const char *owner)
{
    struct budget b = {.scope = scope, .project = project, .owner = owner};
    if (owner && budget_read(obj, &b))
        *VEC_PUSH(&a->budgets) = b;
}

/* "project NAME" and "tenant NAME" → what it may send. */
static struct map *read_allowances(const struct snapshot_source *src)
{
    struct map *all = map_new(free_allowance);
    char name[600];
    struct rate_limits r;
    size_t i;
    json_t *obj;
    json_array_foreach (src->limits, i, obj) {
        if (obj_deleting(obj))
            continue;
        snprintf(name, sizeof(name), "project %s", obj_namespace(obj));
        rate_limits_read(json_object_get(obj, "spec"), &r);
        rate_limits_narrow(&allowance_of(all, name)->rates, &r);
        add_budget(allowance_of(all, name), json_object_get(obj, "spec"), LIMIT_PROJECT, obj_namespace(obj), obj_name(obj));
    }
    json_array_foreach (src->tenants, i, obj) {
        snprintf(name, sizeof(name), "tenant %s", obj_name(obj) ? obj_name(obj) : "");
        rate_limits_read(json_at(obj, "spec.limits"), &r);
        rate_limits_narrow(&allowance_of(all, name)->rates, &r);
        add_budget(allowance_of(all, name), json_at(obj, "spec.limits"), LIMIT_TENANT, "", obj_name(obj));
    }
    return all;
}

static struct limit limit_above(struct snapshot *s, struct snapshot_memory *m, struct map *allowances, const char *scope, const char *name)
{
    char key[600];
    snprintf(key, sizeof(key), "%s %s", scope, name);
    struct allowance *a = map_getc(allowances, key);
    if (!a)
        return (struct limit){.counter = NULL};
    if (!a->taken)
        a->limit = limit_of(s, m, &a->rates, false, key, 0);
    a->taken = true;
    return a->limit;
}

/* In the arena: documents go, snapshots stay. */
static void keep_budget(struct snapshot *s, struct snapshot_memory *m, struct snap_key *key, const struct budget *b)
{
    struct budget *mine = &key->budgets[key->budget_count++];
    *mine = *b;
    mine->project = arena_strdup(s->arena, b->project);
    mine->owner = arena_strdup(s->arena, b->owner);
    budget_take(m->budgets, mine);
    *VEC_PUSH(&s->budgets) = mine->counter;
}

static void add_budgets(struct snapshot *s, struct snapshot_memory *m, struct map *allowances, struct snap_key *key, const json_t *limits)
{
    char project[600], tenant[600];
    struct budget own = {.scope = LIMIT_KEY, .project = key->project, .owner = key->name};
    snprintf(project, sizeof(project), "project %s", key->project);
    snprintf(tenant, sizeof(tenant), "tenant %s", key->tenant);
    struct allowance *of[] = {map_getc(allowances, project), map_getc(allowances, tenant)};
    size_t count = 1;
    for (size_t i = 0; i < ARRAY_LEN(of); i++)
        count += of[i] ? of[i]->budgets.len : 0;
    key->budgets = ARENA_ARRAY(s->arena, struct budget, count);
    if (budget_read(limits, &own))
        keep_budget(s, m, key, &own);
    for (size_t i = 0; i < ARRAY_LEN(of); i++)
        for (size_t n = 0; of[i] && n < of[i]->budgets.len; n++)
            keep_budget(s, m, key, &of[i]->budgets.ptr[n]);
}

static void add_key(struct snapshot *s, struct snapshot_memory *memory, struct map *allowances, const struct snapshot_source *src, struct map *tenants, const json_t *obj)
{
    struct api_key k;
    struct arena *a = s->arena;
    const char *project = obj_namespace(obj);
    if (obj_deleting(obj) || kind_decode(&kind_api_key, obj, a, &k, NULL) < 0 || !k.status.hash || !obj_name(obj))
        return;
    struct snap_key *key = ARENA_NEW(a, struct snap_key);
    key->name = arena_strdup(a, obj_name(obj));
    key->hash = k.status.hash;
    key->project = arena_strdup(a, project);
    key->tenant = map_getc(tenants, project);
    if (!key->tenant) {
        key->tenant = tenant_of(src, a, project);
        map_set(tenants, str_of(project), (void *)(uintptr_t)key->tenant);
    }
    key->disabled = k.spec.disabled;
    key->suspended = is_suspended(src, key->tenant);
    key->endpoints = k.spec.endpoints.count ? copy_list(a, &k.spec.endpoints) : NULL;
    if (k.spec.expires_at && clock_parse(str_of(k.spec.expires_at), &key->expires_ms) < 0)
        key->expires_ms = 1; /* unreadable: expired, to be on the safe side */
    add_budgets(s, memory, allowances, key, json_at(obj, "spec.limits"));
    const char *created = json_str(obj, "metadata.creationTimestamp");
    int64_t born_ms = 0;
    (void)!clock_parse(str_of(created ? created : ""), &born_ms);
    key->limits[LIMIT_KEY] = limit_of(s, memory, &k.spec.limits, key->budget_count > 0, arena_printf(a, "key %s/%s", project, key->name), born_ms);
    key->limits[LIMIT_PROJECT] = limit_above(s, memory, allowances, "project", project);
    key->limits[LIMIT_TENANT] = limit_above(s, memory, allowances, "tenant", key->tenant);
    map_set(s->keys, str_of(k.status.hash), key);
}

/* Host names are looked up here, on the builder's thread. What is found is what is connected to, so it is judged here too. */
static bool resolve(const struct engine_paths *engines, const char *host_port, bool tls, struct net_addr *ret)
{
    char host[256], port[8];
    const char *colon = strrchr(host_port, ':');
    bool has_port = colon && !strchr(colon, ']'), good = false;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    snprintf(host, sizeof(host), "%.*s", has_port ? (int)(colon - host_port) : (int)strlen(host_port), host_port);
    snprintf(port, sizeof(port), "%s", has_port ? colon + 1 : tls ? "443" : "80");
    if (host[0] == '[' && strlen(host) > 2) {
        memmove(host, host + 1, strlen(host));
        host[strlen(host) - 1] = 0;
    }
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return false;
    for (const struct addrinfo *f = found; f && !good; f = f->ai_next)
        if ((good = reach_addr(engines->remote, f->ai_addr, tls))) {
            memcpy(&ret->sa, f->ai_addr, f->ai_addrlen);
            ret->len = f->ai_addrlen;
        }
    freeaddrinfo(found);
    return good;
}

/* Goes into a request's head: nothing there may end a line or a word. */
static bool is_plain(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c <= 0x20 || *c >= 0x7f)
            return false;
    return true;
}

static bool read_address(const struct engine_paths *engines, struct arena *a, const char *text, struct snap_replica *r)
{
    if (!strncmp(text, "unix:", 5)) {
        r->host = "localhost";
        return net_addr_parse(str_of(text), &r->addr, NULL) == 0;
    }
    r->tls = !strncmp(text, "https://", 8);
    const char *host = strstr(text, "://");
    r->host = arena_strdup(a, host ? host + 3 : text);
    return host && is_plain(host) && !strchr(host + 3, '/') && resolve(engines, host + 3, r->tls, &r->addr);
}

/* False: there should be a key, and there is none that can be sent. */
static bool read_token(const struct engine_paths *engines, struct arena *a, const struct model_replica *mr, const char *uid, const char *address, struct snap_replica *r)
{
    char *token = NULL;
    if (!mr->spec.engine.secret || !*mr->spec.engine.secret)
        return true;
    if (engine_secret_read(engines, uid, address, a, &token, NULL) < 0 || !is_plain(token))
        return false;
    r->token = token;
    return true;
}

/* How its cache is kept apart by tenants. */
static void isolate(const struct engine_paths *engines, struct arena *a, const struct model_replica *mr, const char *uid, struct snap_replica *r)
{
    const struct engine_ops *ops = engine_find(mr->spec.engine.driver);
    r->can_continue = ops->can_continue;
    r->continue_members = ops->continue_members;
    r->salt_member = engine_task_of(&mr->spec.engine) == TASK_TEXT ? ops->salt_member : NULL;
    if (!ops->has_slots || engine_task_of(&mr->spec.engine) != TASK_TEXT) /* what is only read leaves nothing */
        return;
    if (!r->target->slots)
        r->target->slots = slots_new(engine_slots_file(engines, uid, a), clock_mono_ms());
    r->pins = r->target->slots;
}

static void add_replica(struct snapshot *s, const struct engine_paths *engines, struct snapshot_memory *memory, struct snap_endpoint *e, const json_t *obj)
{
    struct model_replica mr;
    struct engine_plan where = {.argv = NULL};
    struct arena *a = s->arena;
    struct snap_replica *r = &e->replicas[e->replica_count];
    if (e->replica_count == REPLICAS_MAX || !obj_name(obj) || kind_decode(&kind_model_replica, obj, a, &mr, NULL) < 0 || !mr.status.address ||
        engine_where(engines, &mr, obj_uid(obj), a, &where, NULL) < 0 || strcmp(where.address, mr.status.address) != 0)
        return;
    *r = (struct snap_replica){.name = arena_strdup(a, obj_name(obj)), .base_path = where.base_path};
    if (!read_address(engines, a, where.address, r) || !is_plain(r->base_path))
        return;
    r->engine_model = where.engine_model && *where.engine_model && strcmp(where.engine_model, e->served) != 0 ? where.engine_model : NULL;
    if (!read_token(engines, a, &mr, obj_uid(obj), where.address, r))
        return;
    r->slots = engine_is_remote(&mr.spec.engine) ? (int)mr.spec.engine.max_concurrent_requests : (int)mr.spec.engine.parallel;
    *VEC_PUSH(&s->targets) = r->target = target_take(memory->targets, arena_printf(a, "%s %s", e->project, where.address));
    isolate(engines, a, &mr, obj_uid(obj), r);
    r->site = border_site(s->border, where.address);
    e->replica_count++;
}

/* One that does not serve: all that matters is where it stands. */
static void add_absent(struct snapshot *s, const struct engine_paths *engines, struct snap_endpoint *e, const json_t *obj)
{
    struct model_replica mr;
    struct engine_plan where = {.argv = NULL};
    if (obj_deleting(obj) || e->absent_count == REPLICAS_MAX || kind_decode(&kind_model_replica, obj, s->arena, &mr, NULL) < 0 ||
        engine_where(engines, &mr, obj_uid(obj), s->arena, &where, NULL) < 0)
        return;
    e->absent[e->absent_count++] = border_site(s->border, where.address);
}

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
    *VEC_PUSH(&s->endpoints) = e;    while (at > 0 && s->endpoints.ptr[at - 1]->created_ms > e->created_ms) {
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
    const char *visibility = mep.spec.visibility ? mep.spec.visibility : "Project", *created = json_str(obj, "metadata.creationTimestamp");
    e->project = arena_strdup(a, obj_namespace(obj));
    e->name = arena_strdup(a, obj_name(obj));
    e->served = mep.spec.served_name && *mep.spec.served_name ? mep.spec.served_name : e->name;
    e->task = engine_task_of(&mep.spec.engine);
    e->visibility = !strcmp(visibility, "Everyone") ? VISIBLE_EVERYONE : !strcmp(visibility, "Tenants") ? VISIBLE_TENANTS : VISIBLE_PROJECT;
    e->tenants = copy_list(a, &mep.spec.tenants);
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
    e->replicas = ARENA_ARRAY(a, struct snap_replica, MIN(count, (size_t)REPLICAS_MAX) + 1);
    e->absent = ARENA_ARRAY(a, const struct residency_site *, REPLICAS_MAX);
    json_array_foreach (src->replicas, i, replica)
        if (is_of(replica, e) && serves(replica))
            add_replica(s, engines, memory, e, replica);
        else if (is_of(replica, e))
            add_absent(s, engines, e, replica);
    if (e->scaled && !e->replica_count && !e->absent_count) /* what will be started stands where engines of this cloud do */
        e->absent[e->absent_count++] = border_site(s->border, "unix:/");
    slo_read(json_object_get(obj, "spec"), &e->slo);
    prices_read(src->prices, e->project, e->served, a, &e->prices);
    *VEC_PUSH(&s->dispatches) = e->dispatch = dispatch_take(memory->dispatches, arena_printf(a, "%s/%s", e->project, e->name));
    add_in_order(s, e);
    e->adapter_count = mep.spec.adapters.count;
    for (size_t n = 0; n < e->adapter_count; n++)
        add_in_order(s, model_route_of_adapter(a, e, (int)n + 1, ((const struct model_adapter *)mep.spec.adapters.items)[n].name));
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
    struct map *shares = map_new(mem_free), *allowances = read_allowances(src);
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
            add_key(s, memory, allowances, src, tenants, obj);
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
    VEC_DEINIT(&s->targets);
    VEC_DEINIT(&s->counters);
    VEC_DEINIT(&s->budgets);
    VEC_DEINIT(&s->dispatches);
    VEC_DEINIT(&s->endpoints);
    map_free(s->keys);
    map_free(s->own);
    border_free(s->border);
    arena_free(s->arena);
    mem_free(s);
}

/* ---- the file ---- */

int snapshot_save(const char *path, const struct snapshot_source *s, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:i, s:O, s:O, s:O, s:O, s:O, s:O, s:O}", "version", SNAPSHOT_VERSION, "keys", s->keys, "endpoints", s->endpoints, "replicas", s->replicas, "namespaces",
                              s->namespaces, "tenants", s->tenants, "limits", s->limits, "prices", s->prices);
    sbuf_init(&text, SNAPSHOT_MAX);
    if (s->routes)
        json_object_set(doc, "routes", s->routes);
    if (s->sites)
        json_object_set(doc, "sites", s->sites);
    if (s->policies)
        json_object_set(doc, "policies", s->policies);
    json_write(doc, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "the snapshot has more than %u MiB", SNAPSHOT_MAX >> 20);
    return file_write(path, sbuf_str(&text), 0600, err);
}

/* A member of the file: a list of objects. */
static int check_list(const json_t *doc, const char *name, struct err *err)
{
    const json_t *list = json_object_get(doc, name), *item;
    size_t i;
    if (!json_is_array(list))
        return err_field(err, ERR_INVALID, name, "%s: expected a list of objects", name);
    json_array_foreach (list, i, item)
        if (!json_is_object(item))
            return err_field(err, ERR_INVALID, name, "%s[%zu]: expected an object", name, i);
    return 0;
}

/* Whoever can write this file says which keys are good. */
static int check_owner(const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is no regular file", path);
    if (st.st_uid != geteuid() || st.st_mode & 077)
        return err_set(err, ERR_INVALID, "%s belongs to user %u with mode %04o; expected user %u and mode 0600", path, st.st_uid, st.st_mode & 07777, geteuid());
    return 0;
}

static int read_file(const char *path, json_t **ret, struct err *err)
{
    static const char *const lists[] = {"keys", "endpoints", "replicas", "namespaces", "tenants", "limits", "routes", "sites", "policies", "prices"};
    CLEANUP(mem_freep) char *text = NULL;
    JSON_AUTO doc = NULL;
    size_t len = 0;
    int rc = check_owner(path, err);
    if (rc == 0)
        rc = file_read(path, SNAPSHOT_MAX, &text, &len, err);
    if (rc == 0)
        rc = json_parse(str_n(text, len), SNAPSHOT_MAX, &doc, err);
    if (rc < 0)
        return rc;
    int64_t version = json_int(doc, "version", 0);
    if (version != SNAPSHOT_VERSION)
        return err_field(err, ERR_INVALID, "version", "version %lld of the file's format; this program reads version %d", (long long)version, SNAPSHOT_VERSION);
    static const char *const later[] = {"tenants", "limits", "routes", "sites", "policies", "prices"}; /* files that were written before there were any lack them */
    for (size_t i = 0; i < ARRAY_LEN(later); i++)
        if (!json_object_get(doc, later[i]))
            json_object_set_new(doc, later[i], json_array());
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if ((rc = check_list(doc, lists[i], err)) < 0)
            return rc;
    *ret = json_incref(doc);
    return 0;
}

int snapshot_load(const char *path, struct snapshot_source *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = read_file(path, &doc, err);
    if (rc < 0)
        return rc;
    *ret = (struct snapshot_source){json_incref(json_object_get(doc, "keys")), json_incref(json_object_get(doc, "endpoints")), json_incref(json_object_get(doc, "replicas")),
                                    json_incref(json_object_get(doc, "namespaces")), json_incref(json_object_get(doc, "tenants")), json_incref(json_object_get(doc, "limits")),
                                    json_incref(json_object_get(doc, "routes")), json_incref(json_object_get(doc, "sites")), json_incref(json_object_get(doc, "policies")), json_incref(json_object_get(doc, "prices"))};
    return 0;
}

void snapshot_source_deinit(struct snapshot_source *s)
{
    json_decref(s->keys);
    json_decref(s->endpoints);
    json_decref(s->replicas);
    json_decref(s->namespaces);
    json_decref(s->tenants);
    json_decref(s->limits);
    json_decref(s->routes);
    json_decref(s->sites);
    json_decref(s->policies);
    json_decref(s->prices);
    *s = (struct snapshot_source){.keys = NULL};
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

static bool may_call(const struct snap_key *k, const struct snap_endpoint *e)
{
    bool visible = !strcmp(e->project, k->project) || e->visibility == VISIBLE_EVERYONE || (e->visibility == VISIBLE_TENANTS && in_list(e->tenants, k->tenant));
    return visible && (!k->endpoints || in_list(k->endpoints, e->name));
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
    if (e)
        return may_call(k, e) ? e : NULL;
    for (size_t i = 0; i < s->endpoints.len; i++) {
        e = s->endpoints.ptr[i];
        if (e->visibility != VISIBLE_PROJECT && !strcmp(e->served, served) && may_call(k, e))
            return e->is_route ? e : route_before(s, k, e);
    }
    return NULL;
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
