#include "gateway/model_route.h"

#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/rnd.h"
#include "gateway/snapshot_internal.h"
#include "kinds/inference.h"

#define ALIKE_BYTES 256 /* of prompts that begin alike */

struct snap_endpoint *model_route_make(struct arena *a, const json_t *obj, struct snap_endpoint *(*find)(void *arg, const char *project, const char *name), void *arg)
{
    struct model_route r;
    if (obj_deleting(obj) || !obj_name(obj) || kind_decode(&kind_model_route, obj, a, &r, NULL) < 0)
        return NULL;
    struct snap_endpoint *e = ARENA_NEW(a, struct snap_endpoint);
    const char *created = json_str(obj, "metadata.creationTimestamp");
    e->is_route = true;
    e->project = arena_strdup(a, obj_namespace(obj));
    e->name = arena_strdup(a, obj_name(obj));
    e->served = r.spec.served_name && *r.spec.served_name ? r.spec.served_name : e->name;
    snapshot_set_visibility(e, a, r.spec.visibility, &r.spec.tenants);
    e->not_ready = "BackendNotFound";
    e->sticky = r.spec.sticky;
    (void)!clock_parse(str_of(created ? created : ""), &e->created_ms);
    e->backends = ARENA_ARRAY(a, struct snap_backend, r.spec.backends.count + 1);
    for (size_t i = 0; i < r.spec.backends.count; i++) {
        const struct model_backend *b = (const struct model_backend *)r.spec.backends.items + i;
        const struct snap_endpoint *one = find(arg, e->project, b->endpoint);
        if (one && b->weight > 0)
            e->backends[e->backend_count++] = (struct snap_backend){one, (uint64_t)b->weight};
    }
    return e;
}

struct snap_endpoint *model_route_of_adapter(struct arena *a, const struct snap_endpoint *e, const char *served)
{
    struct snap_endpoint *r = ARENA_NEW(a, struct snap_endpoint);
    *r = (struct snap_endpoint){.is_route = true, .project = e->project, .name = e->name, .served = served, .visibility = e->visibility, .tenants = e->tenants, .created_ms = e->created_ms,
                                .not_ready = e->not_ready, .is_adapter = true, .backend_count = 1};
    r->backends = ARENA_ARRAY(a, struct snap_backend, 1);
    r->backends[0] = (struct snap_backend){e, 1};
    return r;
}

/* Below n, from what is the same for prompts that begin alike. */
static uint64_t sticky_below(uint64_t n, const struct snap_key *k, struct str prompt)
{
    static const uint8_t key[16] = {0}; /* who finds prompts that meet sends himself to one backend, as he may */
    uint64_t halves[2] = {siphash13(key, k->name, strlen(k->name)), siphash13(key, prompt.ptr, MIN(prompt.len, (size_t)ALIKE_BYTES))};
    return siphash13(key, halves, sizeof(halves)) % n;
}

static bool is_allowed(const struct snap_endpoint *route, const struct snap_endpoint *e, const struct snap_key *k, const struct border *b)
{
    const char *rule;
    return !b || !border_shuts(b, k, e, route->served, &rule);
}

/* What is asked of a route, beside itself. */
struct asked {
    const struct snap_key *k;
    struct str prompt;
    const struct border *b;
    const struct dispatch *const *tried;
    size_t tried_count;
    bool well; /* only where a replica is that is not put aside */
    uint64_t now_ms;
};

static bool is_well(const struct snap_endpoint *e, uint64_t now_ms)
{
    for (size_t i = 0; e->replicas && i < e->replica_count; i++)
        if (!atomic_load(&e->replicas[i].target->closing) && !target_is_aside(e->replicas[i].target, now_ms))
            return true;
    return !e->replicas;
}

static bool may_serve(const struct snap_endpoint *route, const struct snap_endpoint *e, const struct asked *a)
{
    for (size_t i = 0; i < a->tried_count; i++)
        if (e->dispatch == a->tried[i])
            return false;
    return e->replica_count && is_allowed(route, e, a->k, a->b) && (!a->well || is_well(e, a->now_ms));
}

/* Where nothing serves: one that will when it is asked, else the first one that is allowed, which says why not, else the first. */
static const struct snap_endpoint *who_says_why(const struct snap_endpoint *route, const struct snap_key *k, const struct border *b)
{
    const struct snap_endpoint *found = NULL;
    for (size_t i = 0; i < route->backend_count; i++) {
        const struct snap_endpoint *e = route->backends[i].endpoint;
        if (!is_allowed(route, e, k, b))
            continue;
        if (e->waits_for_replicas)
            return e;
        found = found ? found : e;
    }
    return found ? found : route->backend_count ? route->backends[0].endpoint : NULL;
}

static const struct snap_endpoint *by_weight(const struct snap_endpoint *route, const struct asked *a)
{
    uint64_t total = 0;
    for (size_t i = 0; i < route->backend_count; i++)
        total += may_serve(route, route->backends[i].endpoint, a) ? route->backends[i].weight : 0;
    uint64_t at = !total ? 0 : route->sticky ? sticky_below(total, a->k, a->prompt) : rnd_guessable_below(total);
    for (size_t i = 0; total && i < route->backend_count; i++) {
        const struct snap_backend *one = &route->backends[i];
        if (!may_serve(route, one->endpoint, a))
            continue;
        if (at < one->weight)
            return one->endpoint;
        at -= one->weight;
    }
    return NULL; /* or what was well is so no more: the caller looks again */
}

const struct snap_endpoint *model_route_choose_other(const struct snap_endpoint *route, const struct snap_key *k, struct str prompt, const struct border *b, const struct dispatch *const *tried,
                                                     size_t tried_count)
{
    struct asked a = {.k = k, .prompt = prompt, .b = b, .tried = tried, .tried_count = tried_count, .well = true, .now_ms = clock_mono_ms()};
    const struct snap_endpoint *e = by_weight(route, &a);
    a.well = false;
    return e ? e : by_weight(route, &a);
}

const struct snap_endpoint *model_route_choose(const struct snap_endpoint *route, const struct snap_key *k, struct str prompt, const struct border *b)
{
    const struct snap_endpoint *e = model_route_choose_other(route, k, prompt, b, NULL, 0);
    return e ? e : who_says_why(route, k, b);
}

const struct snap_endpoint *model_route_again(const struct snap_endpoint *e, const struct dispatch *d)
{
    if (!e->is_route)
        return e;
    for (size_t i = 0; i < e->backend_count; i++)
        if (e->backends[i].endpoint->dispatch == d)
            return e->backends[i].endpoint;
    return NULL;
}
