#include "apiserver/limits.h"

#include "base/mem.h"
#include "kinds/borrowed.h"

/* A number, and who says it: an object of sayers; NULL: the server's default, or nobody. */
struct bound {
    int64_t max;
    const struct store_value *by;
};
static const struct bound no_bound = {LIMIT_NONE, NULL};

/* A project, or a tenant: whose only counted objects are its projects, and whose bounds hold in each of them. */
struct scope {
    size_t uses; /* objects in it or that limit it, projects of it, itself as an object: it goes with the last */
    struct scope *tenant; /* of a project */
    VEC(struct store_value *) sayers; /* objects that limit it, as accepted */
    bool stale; /* bounds are to be read from them anew */
    struct bound whole, *by_kind; /* NULL: none */
    size_t counted;
    size_t counts[]; /* by kind */
};

struct limits {
    struct apiserver *server;
    const struct kind *const *kinds;
    size_t kind_count, namespaces; /* the index of that kind */
    struct map *projects, *tenants; /* name → struct scope */
    VEC(char *) sayer_prefixes; /* of keys of what limits */
    struct limits_status *status;
};

/* ---- scopes ---- */

static void free_scope(void *value)
{
    struct scope *sc = value;
    VEC_FOREACH (&sc->sayers, v)
        store_value_unref(*v);
    VEC_DEINIT(&sc->sayers);
    mem_free(sc->by_kind);
    mem_free(sc);
}

static struct scope *use(struct limits *l, struct map *in, struct str name)
{
    struct scope *sc = map_get(in, name);
    if (!sc) {
        sc = xcalloc(1, sizeof(*sc) + l->kind_count * sizeof(sc->counts[0]));
        sc->whole = no_bound;
        map_set(in, name, sc);
    }
    sc->uses++;
    return sc;
}

static void leave(struct map *in, struct str name)
{
    struct scope *sc = map_get(in, name);
    if (sc && --sc->uses == 0)
        map_del(in, name);
}

static size_t index_of(const struct limits *l, const struct kind *k)
{
    size_t i = 0;
    while (l->kinds[i] != k)
        i++;
    return i;
}

/* ---- what is there ---- */

static void count_in(struct limits *l, struct str ns, const struct kind *k, bool made)
{
    struct scope *sc = use(l, l->projects, ns);
    size_t by = made ? 1 : (size_t)-1;
    sc->counts[index_of(l, k)] += by;
    sc->counted += k->uncounted ? 0 : by;
    sc->uses += by;
    if (sc->sayers.len)
        limits_status_mark(l->status, ns, false);
    leave(l->projects, ns);
}

/* Its label is set when it is made and never changed. */
static void count_project(struct limits *l, struct store_value *v, struct str name, bool made)
{
    JSON_AUTO obj = object_of(v);
    struct str tenant = str_of(obj_label(obj, LABEL_TENANT) ? obj_label(obj, LABEL_TENANT) : "");
    struct scope *sc = use(l, l->projects, name);
    sc->tenant = NULL;
    if (tenant.len) {
        struct scope *t = use(l, l->tenants, tenant);
        t->counts[l->namespaces] += made ? 1 : (size_t)-1;
        sc->tenant = made ? t : NULL;
        t->uses += made ? 1 : (size_t)-1;
        leave(l->tenants, tenant);
    }
    sc->uses += made ? 1 : (size_t)-1;
    leave(l->projects, name);
}

static void mark_projects_of(struct limits *l, const struct scope *tenant)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(l->projects, &it)) {
        const struct scope *sc = it.value;
        if (sc->tenant == tenant && sc->sayers.len)
            limits_status_mark(l->status, it.key, true);
    }
}

static void say(struct limits *l, struct store_value *prev, struct store_value *now)
{
    struct str ns, name;
    const struct kind *k = object_kind_of_key((now ? now : prev)->key, &ns, &name);
    struct map *in = k->namespaced ? l->projects : l->tenants;
    struct str whose = k->namespaced ? ns : name;
    struct scope *sc = use(l, in, whose);
    for (size_t i = 0; prev && i < sc->sayers.len; i++)
        if (sc->sayers.ptr[i] == prev) {
            store_value_unref(prev);
            VEC_REMOVE(&sc->sayers, i);
            sc->uses--;
            break;
        }
    if (now) {
        *VEC_PUSH(&sc->sayers) = store_value_ref(now);
        sc->uses++;
    }
    sc->stale = true;
    if (k->namespaced)
        limits_status_mark(l->status, ns, true);
    else
        mark_projects_of(l, sc);
    leave(in, whose);
}

static bool is_sayer(const struct limits *l, struct str key)
{
    VEC_FOREACH (&l->sayer_prefixes, p)
        if (str_starts(key, str_of(*p)))
            return true;
    return false;
}

static void on_accept(void *arg, struct store_value *prev, struct store_value *now)
{
    struct limits *l = arg;
    struct str ns, name;
    struct store_value *v = now ? now : prev;
    if (is_sayer(l, v->key))
        say(l, prev, now);
    const struct kind *k = prev && now ? NULL : object_kind_of_key(v->key, &ns, &name);
    if (k && k->namespaced)
        count_in(l, ns, k, now != NULL);
    if (k == &kind_namespace)
        count_project(l, v, name, now != NULL);
}

/* ---- what holds ---- */

struct reading {
    struct limits *limits;
    struct scope *scope;
    const struct store_value *from;
};

static struct bound tighter(struct bound a, struct bound b)
{
    return b.max < a.max ? b : a;
}

static bool kind_named(const struct limits *l, const char *resource, size_t *ret)
{
    const struct kind *k = kind_by_resource(resource);
    if (k)
        *ret = index_of(l, k);
    return k != NULL;
}

static struct bound *unbounded(size_t count)
{
    struct bound *all = xcalloc(count, sizeof(*all));
    for (size_t i = 0; i < count; i++)
        all[i] = no_bound;
    return all;
}

static void read_number(void *arg, const char *resource, int64_t max)
{
    struct reading *r = arg;
    struct scope *sc = r->scope;
    struct bound b = {max, r->from};
    size_t i;
    if (!*resource) {
        sc->whole = tighter(sc->whole, b);
    } else if (kind_named(r->limits, resource, &i)) {
        if (!sc->by_kind)
            sc->by_kind = unbounded(r->limits->kind_count);
        sc->by_kind[i] = tighter(sc->by_kind[i], b);
    }
}

static void each_number(struct store_value *v, void (*fn)(void *arg, const char *resource, int64_t max), void *arg)
{
    struct str ns, name;
    const struct kind *k = object_kind_of_key(v->key, &ns, &name);
    JSON_AUTO obj = object_of(v);
    k->ops->limits(obj, fn, arg);
}

static void refresh(struct limits *l, struct scope *sc)
{
    if (!sc->stale)
        return;
    mem_free(sc->by_kind);
    sc->by_kind = NULL;
    sc->whole = no_bound;
    VEC_FOREACH (&sc->sayers, v)
        each_number(*v, read_number, &(struct reading){l, sc, *v});
    sc->stale = false;
}

/* kind_count: of the whole. */
static struct bound own_bound(struct limits *l, struct scope *sc, size_t kind)
{
    refresh(l, sc);
    return kind == l->kind_count ? sc->whole : sc->by_kind ? sc->by_kind[kind] : no_bound;
}

/* What a project's own limits may at most say. */
static struct bound ceiling(struct limits *l, struct scope *sc, size_t kind)
{
    struct bound b = sc && sc->tenant ? own_bound(l, sc->tenant, kind) : no_bound;
    if (!b.by && kind == l->kind_count && l->server->o.objects_per_project)
        b.max = l->server->o.objects_per_project;
    return b;
}

/* Of equal ones the upper: to change the lower would be of no use. */
static struct bound holds(struct limits *l, struct scope *sc, size_t kind)
{
    return tighter(ceiling(l, sc, kind), own_bound(l, sc, kind));
}

int64_t limits_ceiling(void *ctx, struct arena *a, const char *ns, const char *resource, const char **ret_by)
{
    struct apiserver *s = ctx;
    struct limits *l = s->limits;
    struct str in, name;
    size_t i = l->kind_count;
    struct scope *sc = map_getc(l->projects, ns);
    if (*resource && !kind_named(l, resource, &i))
        return LIMIT_NONE;
    struct bound b = ceiling(l, sc, i);
    const struct kind *k = b.by ? object_kind_of_key(b.by->key, &in, &name) : NULL;
    *ret_by = k ? arena_printf(a, "%s \"%.*s\"", k->singular, STR_ARG(name)) : "this cloud (option limits-objects-per-project)";
    return b.max;
}

/* ---- refusals ---- */

/* One object that is to be made. */
struct wish {
    const struct kind *kind;
    const char *ns, *name;
    const json_t *obj;
};

static struct wish wish_at(const struct api_write *w, size_t i)
{
    const json_t *doc = i ? json_array_get(w->also, i - 1) : w->obj;
    return i ? (struct wish){kind_of_document(doc), obj_namespace(doc), obj_name(doc), doc} : (struct wish){kind_stored(w->q->kind), w->q->ns, w->q->name, doc};
}

/* How many of the first `count` objects count like the last of them. */
static size_t wanted(const struct api_write *w, size_t count, bool whole)
{
    struct wish last = wish_at(w, count - 1);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        struct wish x = wish_at(w, i);
        n += x.kind->namespaced == last.kind->namespaced && !strcmp(x.ns, last.ns) && (whole ? !x.kind->uncounted : x.kind == last.kind);
    }
    return n;
}

static const char *resource_of(struct arena *a, const struct kind *k)
{
    return k ? arena_printf(a, "%s%s%s", k->plural, *k->group ? "." : "", k->group) : "objects";
}

/* What is full; kind NULL: the whole. */
struct full {
    const struct kind *kind;
    struct bound bound;
    size_t used, wanted;
};

static const char *whom_to_ask(struct api_request *q, const struct wish *x, const struct full *f)
{
    char tenant[OBJECT_TENANT_MAX];
    struct str ns, name;
    const struct kind *k = f->bound.by ? object_kind_of_key(f->bound.by->key, &ns, &name) : NULL;
    if (!k || !k->namespaced)
        return "the operator of this cloud";
    return arena_printf(q->arena, "an admin of tenant \"%s\"", object_tenant(q->server, x->ns, tenant));
}

/* Sets q->rule. */
static const char *refusal(struct api_request *q, const struct wish *x, const struct full *f)
{
    struct arena *a = q->arena;
    struct str ns, name;
    const struct kind *k = f->bound.by ? object_kind_of_key(f->bound.by->key, &ns, &name) : NULL;
    const char *resource = resource_of(a, f->kind);
    const char *who = k ? arena_printf(a, "%s \"%.*s\"", k->name, STR_ARG(name)) : "this cloud";
    const char *where = f->kind == &kind_namespace ? "" : arena_printf(a, " in project \"%s\"", x->ns);
    q->rule = k ? arena_printf(a, "%s/%.*s", k->name, STR_ARG(name)) : f->kind ? "MostInAProject" : "limits-objects-per-project";
    return arena_printf(a, "limit reached: %s allows %lld %s%s; requested: %s=%zu, used: %s=%zu, limited: %s=%lld (rule %s): ask %s", who, (long long)f->bound.max, resource, where, resource, f->wanted,
                        resource, f->used, resource, (long long)f->bound.max, q->rule, whom_to_ask(q, x, f));
}

static bool fits(const struct full *f)
{
    return f->bound.max == LIMIT_NONE || f->used + f->wanted <= (size_t)f->bound.max;
}

/* The scope whose room an object takes; NULL: nobody limits it. */
static struct scope *scope_of(struct limits *l, const struct wish *x)
{
    const char *tenant = x->kind == &kind_namespace ? obj_label(x->obj, LABEL_TENANT) : NULL;
    return x->kind->namespaced ? map_getc(l->projects, x->ns) : tenant ? map_getc(l->tenants, tenant) : NULL;
}

/* False: *ret_full is. i: which of w's objects. */
static bool has_room(struct limits *l, const struct api_write *w, size_t i, struct full *ret_full)
{
    struct wish x = wish_at(w, i);
    struct scope *sc = scope_of(l, &x);
    size_t k;
    if (!sc)
        return true;
    k = index_of(l, x.kind);
    struct bound b = x.kind->namespaced ? holds(l, sc, k) : own_bound(l, sc, k);
    if (x.kind->most && (int64_t)x.kind->most < b.max)
        b = (struct bound){(int64_t)x.kind->most, NULL};
    *ret_full = (struct full){x.kind, b, sc->counts[k], wanted(w, i + 1, false)};
    if (!fits(ret_full))
        return false;
    if (!x.kind->namespaced || x.kind->uncounted)
        return true;
    *ret_full = (struct full){NULL, holds(l, sc, l->kind_count), sc->counted, wanted(w, i + 1, true)};
    return fits(ret_full);
}

/* Then the store says so. */
static bool is_there(struct apiserver *s, const struct wish *x)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(x->kind, x->ns, x->name, &key);
    return store_get_pending(s->store, sbuf_str(&key)) != NULL;
}

int limits_check(struct api_request *q, const struct api_write *w, const char **ret_why)
{
    struct full f;
    for (size_t i = 0; i <= json_array_size(w->also); i++) {
        struct wish x = wish_at(w, i);
        if (has_room(q->server->limits, w, i, &f) || is_there(q->server, &x))
            continue;
        *ret_why = refusal(q, &x, &f);
        metric_add(q->server->limited_total, 1);
        return ERR_FORBIDDEN;
    }
    return 0;
}

/* ---- figures ---- */

void limits_figures(struct apiserver *s, const char *ns, void (*fn)(void *arg, const struct limits_figure *f), void *arg)
{
    struct limits *l = s->limits;
    struct scope *sc = map_getc(l->projects, ns);
    if (!sc)
        return;
    struct bound whole = holds(l, sc, l->kind_count);
    fn(arg, &(struct limits_figure){"", (int64_t)sc->counted, whole.max, whole.by});
    for (size_t i = 0; i < l->kind_count; i++) {
        char resource[400];
        struct bound b = holds(l, sc, i);
        snprintf(resource, sizeof(resource), "%s%s%s", l->kinds[i]->plural, *l->kinds[i]->group ? "." : "", l->kinds[i]->group);
        if (l->kinds[i]->namespaced && b.by)
            fn(arg, &(struct limits_figure){resource, (int64_t)sc->counts[i], b.max, b.by});
    }
}

struct store_value *const *limits_sayers(struct apiserver *s, const char *ns, size_t *ret_count)
{
    struct scope *sc = map_getc(s->limits->projects, ns);
    *ret_count = sc ? sc->sayers.len : 0;
    return sc ? sc->sayers.ptr : NULL;
}

/* ---- life ---- */

void limits_changed(struct apiserver *s)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->limits->projects, &it))
        if (((struct scope *)it.value)->sayers.len)
            limits_status_mark(s->limits->status, it.key, true);
}

void limits_start(struct apiserver *s)
{
    struct limits *l = XNEW(struct limits);
    *l = (struct limits){.server = s, .projects = map_new(free_scope), .tenants = map_new(free_scope), .sayer_prefixes = VEC_INIT};
    s->limits = l;
    l->kinds = kind_all(&l->kind_count);
    l->namespaces = index_of(l, &kind_namespace);
    for (size_t i = 0; i < l->kind_count; i++) {
        CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
        sbuf_init(&prefix, 256);
        object_prefix(l->kinds[i], NULL, &prefix);
        if (l->kinds[i]->ops && l->kinds[i]->ops->limits)
            *VEC_PUSH(&l->sayer_prefixes) = xstrndup(prefix.ptr, prefix.len);
    }
    l->status = limits_status_new(s);
    store_on_accept(s->store, on_accept, l);
}

void limits_stop(struct apiserver *s)
{
    struct limits *l = s->limits;
    if (!l)
        return;
    store_on_accept(s->store, NULL, NULL);
    limits_status_free(l->status);
    map_free(l->projects);
    map_free(l->tenants);
    VEC_FOREACH (&l->sayer_prefixes, p)
        mem_free(*p);
    VEC_DEINIT(&l->sayer_prefixes);
    mem_free(l);
    s->limits = NULL;
}
