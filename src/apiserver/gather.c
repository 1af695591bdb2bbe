/* ClusterRoles that gather others by an aggregationRule show what they gather: their `rules` are written here, after each change of a ClusterRole. For the eye, and for clients that
 * compare; what is allowed does not wait for it (policy/rbac.c reads the selectors itself). */
#include "apiserver/api.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/vec.h"
#include "kinds/borrowed.h"

struct gather {
    struct apiserver *server;
    struct store_watch *feed;
    struct timer timer;
};

struct found {
    VEC(struct store_value *) roles;
};

static bool collect(void *arg, struct store_value *v)
{
    struct found *f = arg;
    JSON_AUTO obj = object_of(v);
    if (json_at(obj, "aggregationRule.clusterRoleSelectors"))
        *VEC_PUSH(&f->roles) = store_value_ref(v);
    return true;
}

/* What cannot be written now is looked at again with the event of whoever was faster. */
static void refresh(struct apiserver *s, struct store_value *v)
{
    struct err err = ERR_INIT;
    JSON_AUTO obj = object_copy(v);
    const json_t *rules = rbac_role_rules(authz_current(s), kind_cluster_role.name, "", obj_name(obj));
    if (!rules || json_equal(rules, json_object_get(obj, "rules")))
        return;
    json_object_set_new(obj, "rules", json_deep_copy(rules));
    json_put_int(obj, "metadata.generation", obj_generation(obj) + 1);
    if (api_write_quietly(s, v, obj, &err) < 0 && err.code != ERR_CONFLICT && err.code != ERR_NOT_FOUND)
        log_warn("the rules of a gathering ClusterRole cannot be written", KV("name", obj_name(obj)), KVE(&err));
}

static void step(struct timer *t)
{
    struct gather *g = t->arg;
    struct found f = {.roles = VEC_INIT};
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    sbuf_init(&prefix, 256);
    object_prefix(&kind_cluster_role, NULL, &prefix);
    (void)!store_range(g->server->store, sbuf_str(&prefix), STR_NULL, 0, 0, collect, &f, NULL);
    VEC_FOREACH (&f.roles, v) {
        refresh(g->server, *v);
        store_value_unref(*v);
    }
    VEC_DEINIT(&f.roles);
}

static void on_change(void *arg, const struct store_event *e UNUSED)
{
    struct gather *g = arg;
    if (!timer_armed(&g->timer))
        timer_start(&g->timer, 0);
}

void gather_start(struct apiserver *s)
{
    struct gather *g = XNEW(struct gather);
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    *g = (struct gather){.server = s};
    s->gather = g;
    timer_init(&g->timer, s->loop, step, g);
    sbuf_init(&prefix, 256);
    object_prefix(&kind_cluster_role, NULL, &prefix);
    (void)!store_watch(s->store, sbuf_str(&prefix), store_rev(s->store), on_change, g, &g->feed, NULL);
    timer_start(&g->timer, 0);
}

void gather_stop(struct apiserver *s)
{
    struct gather *g = s->gather;
    if (!g)
        return;
    if (g->feed)
        store_watch_stop(g->feed);
    timer_stop(&g->timer);
    mem_free(g);
    s->gather = NULL;
}
