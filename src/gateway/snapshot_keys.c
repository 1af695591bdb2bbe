#include "gateway/snapshot_internal.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "kinds/tenancy.h"

const char *const *snapshot_copy_list(struct arena *a, const struct field_list *l)
{
    const char **copy = ARENA_ARRAY(a, const char *, l->count + 1);
    for (size_t i = 0; i < l->count; i++)
        copy[i] = arena_strdup(a, ((const char *const *)l->items)[i]);
    return copy;
}

void snapshot_set_visibility(struct snap_endpoint *e, struct arena *a, const char *visibility, const struct field_list *tenants)
{
    bool everyone = visibility && !strcmp(visibility, "Everyone"), some = visibility && !strcmp(visibility, "Tenants");
    e->visibility = everyone ? VISIBLE_EVERYONE : some ? VISIBLE_TENANTS : VISIBLE_PROJECT;
    e->tenants = snapshot_copy_list(a, tenants);
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
struct map *snapshot_read_allowances(const struct snapshot_source *src)
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

void snapshot_add_key(struct snapshot *s, struct snapshot_memory *memory, struct map *allowances, const struct snapshot_source *src, struct map *tenants, const json_t *obj)
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
    *VEC_PUSH(&s->bodies) = key->bodies = body_rooms_take(memory->bodies, key->tenant);
    key->disabled = k.spec.disabled;
    key->suspended = is_suspended(src, key->tenant);
    key->endpoints = k.spec.endpoints.count ? snapshot_copy_list(a, &k.spec.endpoints) : NULL;
    key->expires_ms = INT64_MAX;
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
