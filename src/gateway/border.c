#include "gateway/border.h"

#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"
#include "gateway/snapshot.h"
#include "kinds/kind.h"

#define PROJECT_MAX ((size_t)1 << 20)  /* of a project's rules */
#define ALL_MAX ((size_t)256 << 20)    /* … and of all: an arena that is full ends the process */

struct rules {
    VEC(struct residency_rule) list;
    size_t used;
    bool full;
};

struct border {
    struct residency_site *sites;
    size_t site_count;
    const struct residency_site *own; /* where this cloud's engines stand; NULL: not known */
    struct map *rules;                /* "project NAME", "tenant NAME" → struct rules */
};

static void rules_free(void *value)
{
    struct rules *r = value;
    VEC_DEINIT(&r->list);
    mem_free(r);
}

static void add_rule(struct border *b, struct arena *a, const char *scope, const char *where, const json_t *spec, const char *name)
{
    char key[600];
    snprintf(key, sizeof(key), "%s %s", scope, where);
    struct rules *r = map_getc(b->rules, key);
    if (!r) {
        r = XNEW(struct rules);
        map_set(b->rules, str_of(key), r);
    }
    /* A rule that finds no room bars everything where it would hold. */
    bool project = !strcmp(scope, "project");
    size_t before = arena_used(a);
    if (r->full)
        return;
    r->full = project && (r->used >= PROJECT_MAX || before >= ALL_MAX);
    if (r->full)
        log_warn("a project's ResidencyPolicies take more room than the gateway has for them: all its requests are refused", KV("project", where));
    residency_rule_read(a, r->full ? NULL : spec, arena_strdup(a, name), VEC_PUSH(&r->list));
    r->used += arena_used(a) - before;
}

struct border *border_new(struct arena *a, const json_t *sites, const json_t *policies, const json_t *tenants, const char *own_site)
{
    struct border *b = ARENA_NEW(a, struct border);
    char name[600];
    size_t i;
    json_t *obj;
    b->rules = map_new(rules_free);
    b->sites = ARENA_ARRAY(a, struct residency_site, json_array_size(sites) + 1);
    json_array_foreach (sites, i, obj)
        b->site_count += residency_site_read(a, obj, &b->sites[b->site_count]);
    for (i = 0; own_site && i < b->site_count; i++)
        if (!strcmp(b->sites[i].name, own_site))
            b->own = &b->sites[i];
    json_array_foreach (policies, i, obj) { /* one that is being deleted holds until it is gone */
        snprintf(name, sizeof(name), "ResidencyPolicy %s/%s", obj_namespace(obj), obj_name(obj) ? obj_name(obj) : "");
        add_rule(b, a, "project", obj_namespace(obj), json_object_get(obj, "spec"), name);
    }
    json_array_foreach (tenants, i, obj)
        if (json_at(obj, "spec.residency")) {
            snprintf(name, sizeof(name), "Tenant %s", obj_name(obj) ? obj_name(obj) : "");
            add_rule(b, a, "tenant", obj_name(obj) ? obj_name(obj) : "", json_at(obj, "spec.residency"), name);
        }
    return b;
}

void border_free(struct border *b)
{
    if (b)
        map_free(b->rules);
}

const struct residency_site *border_site(const struct border *b, const char *address)
{
    const char *host = strstr(address, "://");
    if (!strncmp(address, "unix:", 5))
        return b->own;
    return host ? residency_site_of_server(b->sites, b->site_count, host + 3) : NULL;
}

static const struct rules *rules_of(const struct border *b, const char *scope, const char *where)
{
    char key[600];
    snprintf(key, sizeof(key), "%s %s", scope, where);
    return map_getc(b->rules, key);
}

/* The first rule that bars the site; NULL: all allow it. The name that was asked for may be a route's: rules for either name hold. */
static const char *barring(const struct rules *rules, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const struct residency_site *site)
{
    for (size_t i = 0; rules && i < rules->list.len; i++) {
        const struct residency_rule *r = &rules->list.ptr[i];
        if ((residency_applies(r, asked, k->name) || residency_applies(r, e->served, k->name)) && !residency_allows(r, site))
            return r->name;
    }
    return NULL;
}

static const char *barred_by(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const struct residency_site *site)
{
    const char *rule = barring(rules_of(b, "tenant", k->tenant), k, e, asked, site);
    return rule ? rule : barring(rules_of(b, "project", k->project), k, e, asked, site);
}

const char *border_rule(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const struct residency_site *site)
{
    return map_len(b->rules) ? barred_by(b, k, e, asked, site) : NULL;
}

/* Where it stands by b, whichever snapshot it is of. A target is called "PROJECT ADDRESS". */
static const struct residency_site *site_now(const struct border *b, const struct snap_replica *r)
{
    const char *address = strchr(r->target->name, ' ');
    return address ? border_site(b, address + 1) : NULL;
}

static uint64_t barred_of(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, bool anew, const char **ret_rule)
{
    uint64_t barred = 0;
    if (ret_rule)
        *ret_rule = NULL;
    if (!map_len(b->rules))
        return 0;
    for (size_t i = 0; i < e->replica_count; i++) {
        const char *rule = barred_by(b, k, e, asked, anew ? site_now(b, &e->replicas[i]) : e->replicas[i].site);
        if (rule)
            barred |= 1ull << i;
        if (rule && ret_rule && !*ret_rule)
            *ret_rule = rule;
    }
    return barred;
}

uint64_t border_barred(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule)
{
    return barred_of(b, k, e, asked, false, ret_rule);
}

uint64_t border_barred_now(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule)
{
    return barred_of(b, k, e, asked, true, ret_rule);
}

bool border_shuts(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule)
{
    uint64_t barred = border_barred(b, k, e, asked, ret_rule);
    for (size_t i = 0; i < e->replica_count; i++)
        if (!(barred & 1ull << i))
            return false;
    for (size_t i = 0; i < e->absent_count; i++) {
        const char *rule = barred_by(b, k, e, asked, e->absent[i]);
        if (!rule)
            return false;
        if (!*ret_rule)
            *ret_rule = rule;
    }
    return *ret_rule != NULL;
}
