/* What limits say of themselves: used, effective, and whether something above is tighter. Written a moment after a limit changed, and a second after what it counts did; derived, and so
 * in no audit record. */
#include "apiserver/limits.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define DELAY_MS 1000
#define STEP_PROJECTS 50 /* in one turn of the loop … */
#define STEP_MS 50       /* … and then others have theirs: it writes no more than what it counts is written */

struct limits_status {
    struct apiserver *server;
    struct timer timer;
    struct map *due; /* names of projects */
    bool writing; /* what changes now is a status */
};

void limits_status_mark(struct limits_status *ls, struct str ns, bool soon)
{
    if (ls->writing)
        return;
    if (!map_get(ls->due, ns))
        map_set(ls->due, ns, ls);
    if (soon || !timer_armed(&ls->timer))
        timer_start(&ls->timer, soon ? 0 : DELAY_MS);
}

/* ---- the status of one limit ---- */

struct status_of {
    const json_t *obj;
    json_t *used, *used_counts, *effective, *effective_counts;
    struct sbuf narrower;
};

struct named {
    const char *resource;
    int64_t max;
};

static void find_named(void *arg, const char *resource, int64_t max)
{
    struct named *n = arg;
    if (!strcmp(n->resource, resource))
        n->max = MIN(n->max, max);
}

static int64_t own_number(const json_t *obj, const char *resource)
{
    struct named n = {resource, LIMIT_NONE};
    kind_of_document(obj)->ops->limits(obj, find_named, &n);
    return n.max;
}

static void add_figure(void *arg, const struct limits_figure *f)
{
    struct status_of *s = arg;
    int64_t own = own_number(s->obj, f->resource);
    if (!*f->resource) {
        json_object_set_new(s->used, "objects", json_integer(f->used));
        if (f->max != LIMIT_NONE)
            json_object_set_new(s->effective, "objects", json_integer(f->max));
    } else {
        json_array_append_new(s->used_counts, json_pack("{s:s, s:I}", "resource", f->resource, "used", (json_int_t)f->used));
        json_array_append_new(s->effective_counts, json_pack("{s:s, s:I}", "resource", f->resource, "max", (json_int_t)f->max));
    }
    if (own != LIMIT_NONE && own > f->max)
        sbuf_addf(&s->narrower, "%s%s: %lld here, %lld holds", s->narrower.len ? "; " : "", *f->resource ? f->resource : "objects", (long long)own, (long long)f->max);
}

static void put_counts(json_t *in, json_t *counts)
{
    if (json_array_size(counts))
        json_object_set(in, "counts", counts);
    json_decref(counts);
}

/* The same numbers at the same time give the same status. */
static void set_status(struct apiserver *server, const char *ns, json_t *obj)
{
    struct status_of s = {obj, json_object(), json_array(), json_object(), json_array(), {0}};
    sbuf_init(&s.narrower, 1024);
    limits_figures(server, ns, add_figure, &s);
    put_counts(s.used, s.used_counts);
    put_counts(s.effective, s.effective_counts);
    json_put(obj, "status.used", s.used);
    json_put(obj, "status.effective", s.effective);
    json_put_int(obj, "status.observedGeneration", obj_generation(obj));
    if (s.narrower.len)
        obj_set_condition(obj, "Effective", "False", "Narrowed", sbuf_ok(&s.narrower) ? s.narrower.ptr : "see status.effective for what holds", clock_wall_ms());
    else
        obj_set_condition(obj, "Effective", "True", "Holds", "nothing else is tighter", clock_wall_ms());
    sbuf_deinit(&s.narrower);
}

static int write_status(struct limits_status *ls, const char *ns, struct store_value *v, struct err *err)
{
    JSON_AUTO before = object_of(v);
    JSON_AUTO obj = object_copy(v);
    set_status(ls->server, ns, obj);
    if (json_equal(json_object_get(before, "status"), json_object_get(obj, "status")))
        return 0;
    ls->writing = true;
    int rc = api_write_derived(ls->server, v, obj, err);
    ls->writing = false;
    return rc;
}

/* ---- when ---- */

static void look_at(struct limits_status *ls, const char *ns)
{
    size_t count;
    VEC(struct store_value *) all = VEC_INIT;
    struct store_value *const *sayers = limits_sayers(ls->server, ns, &count);
    for (size_t i = 0; i < count; i++)
        *VEC_PUSH(&all) = store_value_ref(sayers[i]); /* a write changes the list */
    VEC_FOREACH (&all, v) {
        struct err err = ERR_INIT;
        if (write_status(ls, ns, *v, &err) < 0) {
            log_warn("what a limit counts cannot be written yet", KVS("key", (*v)->key), KVE(&err));
            limits_status_mark(ls, str_of(ns), false);
        }
        store_value_unref(*v);
    }
    VEC_DEINIT(&all);
}

static void step(struct timer *t)
{
    struct limits_status *ls = t->arg;
    struct map_iter it = MAP_ITER_INIT;
    VEC(char *) names = VEC_INIT;
    while (names.len < STEP_PROJECTS && map_next(ls->due, &it)) {
        *VEC_PUSH(&names) = xstrndup(it.key.ptr, it.key.len);
        map_del(ls->due, it.key);
    }
    bool more = map_len(ls->due) > 0;
    VEC_FOREACH (&names, name) {
        look_at(ls, *name);
        mem_free(*name);
    }
    VEC_DEINIT(&names);
    if (more)
        timer_start(t, STEP_MS);
}

struct limits_status *limits_status_new(struct apiserver *s)
{
    struct limits_status *ls = XNEW(struct limits_status);
    *ls = (struct limits_status){.server = s, .due = map_new(NULL)};
    timer_init(&ls->timer, s->loop, step, ls);
    return ls;
}

void limits_status_free(struct limits_status *ls)
{
    timer_stop(&ls->timer);
    map_free(ls->due);
    mem_free(ls);
}
