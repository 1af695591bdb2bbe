/* Namespaces as scopes: nothing is made in one that is not there or is going, and one that is going is emptied first. */
#include "apiserver/api.h"
#include "apiserver/meta.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

#define LOOK_AGAIN_MS 200

struct namespaces {
    struct apiserver *server;
    struct store_watch *feed;
    struct timer again;
    struct map *going; /* names of namespaces that are being deleted */
};

int namespace_check(struct apiserver *s, const char *ns, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(&kind_namespace, "", ns, &key);
    struct store_value *v = store_get_pending(s->store, sbuf_str(&key));
    if (!v)
        return err_set(err, ERR_NOT_FOUND, "namespaces \"%.64s\" not found", ns);
    JSON_AUTO obj = object_of(v);
    if (obj_deleting(obj))
        return err_set(err, ERR_FORBIDDEN, "unable to create new content in namespace %s because it is being terminated", ns);
    return 0;
}

static json_t *object_at(struct apiserver *s, const struct kind *k, const char *name)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(k, "", name, &key);
    struct store_value *v = store_get_pending(s->store, sbuf_str(&key));
    return v ? object_of(v) : NULL;
}

bool tenant_serves_all(struct api_request *q)
{
    struct rbac_request r = {.user = q->user.name, .groups = q->user.groups, .verb = "use", .group = kind_tenant.group, .resource = kind_tenant.plural, .subresource = "", .namespace = "", .name = ""};
    return authz_allows_as(q->server, &r);
}

int tenant_check(struct api_request *q, struct err *err)
{
    const char *project = q->kind->namespaced ? q->ns : q->kind == &kind_namespace ? q->name : "";
    if (!*project)
        return 0;
    JSON_AUTO ns = object_at(q->server, &kind_namespace, project);
    const char *name = ns ? obj_label(ns, LABEL_TENANT) : NULL;
    JSON_AUTO tenant = name ? object_at(q->server, &kind_tenant, name) : NULL;
    if (!tenant || !strcmp(tenant_state(tenant), "Active") || tenant_serves_all(q))
        return 0;
    bool closing = !strcmp(tenant_state(tenant), "Closing");
    return err_set(err, ERR_FORBIDDEN, "tenant \"%s\" is %s (rule Tenant%s): ask the operator of this cloud", name, closing ? "being closed" : "suspended", tenant_state(tenant));
}

bool namespace_has_history(struct apiserver *s, const char *ns, int64_t rev)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    if (!*ns)
        return true;
    sbuf_init(&key, 1024);
    object_key(&kind_namespace, "", ns, &key);
    const struct store_value *v = store_get(s->store, sbuf_str(&key));
    return !v || rev >= v->created_rev;
}

struct contents {
    struct apiserver *server;
    VEC(struct store_value *) values;
};

static bool gather(void *arg, struct store_value *v)
{
    *VEC_PUSH(&((struct contents *)arg)->values) = store_value_ref(v);
    return true;
}

/* Clients of a tenant that is being closed are shut out, so whoever put a finalizer there cannot take it off: it would hold what the customer is told is deleted. True: one was taken off. */
static bool drop_clients_finalizers(json_t *obj)
{
    static const char *const standard[] = {"orphan", "foregroundDeletion"};
    json_t *list = json_at(obj, "metadata.finalizers"), *f;
    size_t i, had = json_array_size(list);
    for (i = had; i-- > 0;) {
        f = json_array_get(list, i);
        struct str text = str_of(json_string_value(f));
        if (!str_starts(text, STR(SEKI_GROUP "/")) && !str_eqc(text, standard[0]) && !str_eqc(text, standard[1]))
            json_array_remove(list, i);
    }
    return json_array_size(list) < had;
}

static bool is_closing(struct apiserver *s, const json_t *ns)
{
    const char *name = obj_label(ns, LABEL_TENANT);
    JSON_AUTO tenant = name ? object_at(s, &kind_tenant, name) : NULL;
    return tenant && !strcmp(tenant_state(tenant), "Closing");
}

static int delete_inside(struct apiserver *s, struct store_value *v, bool closing, struct err *err)
{
    JSON_AUTO obj = object_copy(v);
    if (!closing || !drop_clients_finalizers(obj))
        return api_delete_quietly(s, v, err);
    api_mark_deleted(obj);
    return api_write_quietly(s, v, obj, err);
}

/* Asks for the deletion of everything inside; the number of objects that are still there. */
static size_t empty(struct apiserver *s, const char *ns, bool closing)
{
    size_t count, left = 0;
    const struct kind *const *kinds = kind_all(&count);
    struct contents c = {s, VEC_INIT};
    for (size_t i = 0; i < count; i++) {
        CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
        sbuf_init(&prefix, 1024);
        object_prefix(kinds[i], ns, &prefix);
        if (kinds[i]->namespaced && !kinds[i]->view_of && !kind_is_virtual(kinds[i]))
            (void)!store_range(s->store, sbuf_str(&prefix), STR_NULL, 0, 0, gather, &c, NULL);
    }
    VEC_FOREACH (&c.values, v) {
        struct err err = ERR_INIT;
        struct store_value *latest = store_get_pending(s->store, (*v)->key);
        left++;
        if (latest && delete_inside(s, latest, closing, &err) < 0)
            log_warn("an object of a namespace that is being deleted cannot be deleted yet", KV("namespace", ns), KVS("key", latest->key), KVE(&err));
        store_value_unref(*v);
    }
    VEC_DEINIT(&c.values);
    return left;
}

/* One step; true when the namespace needs no more of them. */
static bool step(struct apiserver *s, const char *ns)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    struct err err = ERR_INIT;
    sbuf_init(&key, 1024);
    object_key(&kind_namespace, "", ns, &key);
    struct store_value *v = store_get_pending(s->store, sbuf_str(&key));
    if (!v)
        return true;
    JSON_AUTO obj = object_copy(v);
    if (!obj_deleting(obj))
        return true;
    bool closing = is_closing(s, obj);
    if (!obj_has_finalizer(obj, NAMESPACE_FINALIZER)) { /* it is empty, and a client's finalizer holds it */
        if (closing && drop_clients_finalizers(obj) && api_write_quietly(s, v, obj, &err) < 0)
            log_warn("a namespace of a tenant that is being closed cannot be let go yet", KV("namespace", ns), KVE(&err));
        return false;
    }
    size_t left = empty(s, ns, closing);
    if (left && !strcmp(json_str_or(obj, "status.phase", ""), "Terminating"))
        return false;
    json_put_str(obj, "status.phase", "Terminating");
    if (!left && closing)
        (void)drop_clients_finalizers(obj);
    if (!left)
        obj_drop_finalizer(obj, NAMESPACE_FINALIZER);
    if (api_write_quietly(s, v, obj, &err) < 0)
        log_warn("a namespace that is being deleted cannot be written yet", KV("namespace", ns), KVE(&err));
    return false;
}

static void look(struct timer *t)
{
    struct namespaces *n = t->arg;
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(n->going, &it)) {
        char name[256];
        if (str_to_array(it.key, name, sizeof(name)) && step(n->server, name))
            map_del(n->going, it.key);
    }
    if (map_len(n->going))
        timer_start(t, LOOK_AGAIN_MS);
}

static void consider(struct namespaces *n, struct store_value *v)
{
    JSON_AUTO obj = object_of(v);
    if (!obj_deleting(obj) || map_getc(n->going, obj_name(obj)))
        return;
    map_set(n->going, str_of(obj_name(obj)), n);
    timer_start(&n->again, 0);
}

static void on_change(void *arg, const struct store_event *e)
{
    if (e->now)
        consider(arg, e->now);
    else
        reseal_forget(((struct namespaces *)arg)->server);
}

static bool on_existing(void *arg, struct store_value *v)
{
    consider(arg, v);
    return true;
}

void namespaces_start(struct apiserver *s)
{
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    struct namespaces *n = XNEW(struct namespaces);
    *n = (struct namespaces){.server = s, .going = map_new(NULL)};
    s->namespaces = n;
    timer_init(&n->again, s->loop, look, n);
    sbuf_init(&prefix, 256);
    object_prefix(&kind_namespace, NULL, &prefix);
    (void)!store_range(s->store, sbuf_str(&prefix), STR_NULL, 0, 0, on_existing, n, NULL);
    (void)!store_watch(s->store, sbuf_str(&prefix), store_rev(s->store), on_change, n, &n->feed, NULL);
}

void namespaces_stop(struct apiserver *s)
{
    struct namespaces *n = s->namespaces;
    if (!n)
        return;
    if (n->feed)
        store_watch_stop(n->feed);
    timer_stop(&n->again);
    map_free(n->going);
    mem_free(n);
    s->namespaces = NULL;
}
