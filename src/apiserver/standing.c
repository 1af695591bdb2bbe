/* Objects that stand in every namespace (`standing` of their kind): made with it, and made anew when they were deleted. Level-triggered: a namespace is looked at when it changes and
 * when something of such a kind goes; what fails is tried again.
 */
#include "apiserver/api.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/borrowed.h"

#define STEP_NAMESPACES 50 /* in one turn of the loop */
#define RETRY_MS 1000

struct standing {
    int refs; /* the server's, and one a creation on its way */
    struct apiserver *server; /* NULL: stopped */
    struct timer timer;
    struct map *due; /* names of namespaces to look at */
    VEC(struct store_watch *) feeds;
};

static void unref(struct standing *st)
{
    if (--st->refs > 0)
        return;
    map_free(st->due);
    VEC_DEINIT(&st->feeds);
    mem_free(st);
}

static void mark(struct standing *st, struct str ns, uint64_t delay_ms)
{
    map_set(st->due, ns, st);
    if (!delay_ms || !timer_armed(&st->timer))
        timer_start(&st->timer, delay_ms);
}

struct creation {
    struct standing *owner;
    char ns[256];
};

static void created(void *arg, int status, json_t *body)
{
    struct creation *c = arg;
    bool settled = status == 201 || status == 409 || status == 403 || status == 404; /* it is there, or the namespace is not */
    if (!settled)
        log_warn("an object that stands in every namespace cannot be made yet", KV("namespace", c->ns), KV("why", json_str_or(body, "message", "")));
    if (!settled && c->owner->server)
        mark(c->owner, str_of(c->ns), RETRY_MS);
    json_decref(body);
    unref(c->owner);
    mem_free(c);
}

/* As a client would, so that all rules hold. */
static void create(struct standing *st, const struct kind *k, const char *ns)
{
    static const char *const groups[] = {"system:masters", NULL};
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    JSON_AUTO obj = obj_new(k, ns, k->standing);
    struct creation *c = XNEW(struct creation);
    c->owner = st;
    snprintf(c->ns, sizeof(c->ns), "%s", ns);
    st->refs++;
    sbuf_init(&path, 1024);
    kind_path(k, ns, NULL, NULL, &path);
    struct client_local local = apiserver_local(st->server);
    struct local_call call = {.method = "POST", .target = path.ptr, .content_type = "application/json", .body = obj, .user = "system:seki:control", .groups = groups, .arg = c, .done = created};
    local.call(local.ctx, &call);
}

static void look_at(struct standing *st, const char *ns)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    struct kind_server server = api_kind_server(st->server);
    JSON_AUTO namespace = server.get(server.ctx, &kind_namespace, "", ns);
    for (size_t i = 0; namespace && !obj_deleting(namespace) && i < count; i++) {
        JSON_AUTO there = kinds[i]->standing ? server.get(server.ctx, kinds[i], ns, kinds[i]->standing) : NULL;
        if (kinds[i]->standing && !there)
            create(st, kinds[i], ns);
    }
}

static void step(struct timer *t)
{
    struct standing *st = t->arg;
    struct map_iter it = MAP_ITER_INIT;
    VEC(char *) names = VEC_INIT;
    while (names.len < STEP_NAMESPACES && map_next(st->due, &it)) {
        *VEC_PUSH(&names) = xstrndup(it.key.ptr, it.key.len);
        map_del(st->due, it.key);
    }
    VEC_FOREACH (&names, name) {
        look_at(st, *name);
        mem_free(*name);
    }
    VEC_DEINIT(&names);
    if (map_len(st->due) && !timer_armed(t)) /* what failed at once has armed it */
        timer_start(t, 0);
}

static void mark_key(struct standing *st, struct str key)
{
    struct str ns, name;
    const struct kind *k = object_kind_of_key(key, &ns, &name);
    if (k)
        mark(st, k->namespaced ? ns : name, 0);
}

static void on_namespace(void *arg, const struct store_event *e)
{
    if (e->now && !e->prev)
        mark_key(arg, e->now->key);
}

static void on_object(void *arg, const struct store_event *e)
{
    if (!e->now && e->prev)
        mark_key(arg, e->prev->key);
}

static bool on_existing(void *arg, struct store_value *v)
{
    mark_key(arg, v->key);
    return true;
}

static void follow(struct standing *st, const struct kind *k, void (*fn)(void *arg, const struct store_event *e))
{
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    struct store *store = st->server->store;
    struct store_watch *w;
    sbuf_init(&prefix, 256);
    object_prefix(k, NULL, &prefix);
    if (store_watch(store, sbuf_str(&prefix), store_rev(store), fn, st, &w, NULL) == 0)
        *VEC_PUSH(&st->feeds) = w;
    if (k == &kind_namespace)
        (void)!store_range(store, sbuf_str(&prefix), STR_NULL, 0, 0, on_existing, st, NULL);
}

void standing_start(struct apiserver *s)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    struct standing *st = XNEW(struct standing);
    *st = (struct standing){.refs = 1, .server = s, .due = map_new(NULL), .feeds = VEC_INIT};
    s->standing = st;
    timer_init(&st->timer, s->loop, step, st);
    follow(st, &kind_namespace, on_namespace);
    for (size_t i = 0; i < count; i++)
        if (kinds[i]->standing)
            follow(st, kinds[i], on_object);
}

void standing_stop(struct apiserver *s)
{
    struct standing *st = s->standing;
    if (!st)
        return;
    VEC_FOREACH (&st->feeds, w)
        store_watch_stop(*w);
    timer_stop(&st->timer);
    st->server = NULL;
    s->standing = NULL;
    unref(st);
}
