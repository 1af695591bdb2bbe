/* Garbage collection by owner references: an object whose owners are all gone is deleted; one that has another owner still only forgets those that are gone. What is owned by a
 * kind that is not served here is nobody's business here: such an object is left as it is.
 *
 * An index from owner uid to the keys of what it owns follows the change feed; most objects have no owners and are recognised without parsing. When an owner goes (or asks
 * for foreground or orphan deletion), what it owns is looked at again, in small steps from a timer. After a restart everything that has owners is looked at once.
 */
#include "apiserver/api.h"
#include "apiserver/meta.h"
#include "base/log.h"
#include "base/mem.h"

#define STEP_OBJECTS 200
#define RETRY_MS 500

struct owned {
    struct map *keys; /* store keys, as a set */
};

struct gc {
    struct apiserver *server;
    struct store_watch *feed;
    struct timer timer;
    struct map *by_owner; /* uid → struct owned * */
    struct map *dirty;    /* store keys to look at */
};

static void owned_free(void *value)
{
    struct owned *o = value;
    map_free(o->keys);
    mem_free(o);
}

static bool mentions(struct str text, const char *what)
{
    return memmem(text.ptr, text.len, what, strlen(what)) != NULL;
}

static void mark(struct gc *gc, struct str key)
{
    map_set(gc->dirty, key, gc);
    if (!timer_armed(&gc->timer))
        timer_start(&gc->timer, 0);
}

static void index_owners(struct gc *gc, struct store_value *v, bool add)
{
    if (!mentions(v->value, "\"ownerReferences\""))
        return;
    JSON_AUTO obj = object_of(v);
    size_t i;
    json_t *ref;
    json_array_foreach (json_at(obj, "metadata.ownerReferences"), i, ref) {
        const char *uid = json_string_value(json_object_get(ref, "uid"));
        struct owned *o = uid ? map_getc(gc->by_owner, uid) : NULL;
        if (!uid)
            continue;
        if (!o && add) {
            o = XNEW(struct owned);
            o->keys = map_new(NULL);
            map_set(gc->by_owner, str_of(uid), o);
        }
        if (o && add)
            map_set(o->keys, v->key, gc);
        else if (o) {
            map_del(o->keys, v->key);
            if (!map_len(o->keys))
                map_del(gc->by_owner, str_of(uid));
        }
    }
    if (add)
        mark(gc, v->key);
}

static void mark_owned(struct gc *gc, const char *uid)
{
    struct owned *o = uid ? map_getc(gc->by_owner, uid) : NULL;
    struct map_iter it = MAP_ITER_INIT;
    while (o && map_next(o->keys, &it))
        mark(gc, it.key);
}

/* An owner waits for what it owns: "orphan" lets go of it, "foregroundDeletion" deletes it first. */
static bool waits(struct store_value *v)
{
    return mentions(v->value, "\"foregroundDeletion\"") || mentions(v->value, "\"orphan\"");
}

/* The kind of an owner, whatever its version; NULL: not one of ours. */
static const struct kind *owner_kind(const json_t *ref)
{
    struct str rest = str_of(json_str_or(ref, "apiVersion", "")), group = STR_NULL;
    const char *name = json_str_or(ref, "kind", "");
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    if (memchr(rest.ptr, '/', rest.len))
        (void)!str_cut(&rest, '/', &group);
    for (size_t i = 0; i < count; i++)
        if (!strcmp(kinds[i]->name, name) && str_eqc(group, kinds[i]->group))
            return kinds[i];
    return NULL;
}

enum owner_state { OWNER_GONE, OWNER_ALIVE, OWNER_WAITS, OWNER_UNKNOWN };

/* WAITS: it goes once what it owns has gone. ret: the owner's value unless it is gone or unknown; borrowed. */
static enum owner_state owner_state(struct apiserver *s, const json_t *obj, const json_t *ref, struct store_value **ret)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    const struct kind *k = owner_kind(ref);
    sbuf_init(&key, 1024);
    if (!k)
        return OWNER_UNKNOWN;
    object_key(k, obj_namespace(obj), json_str_or(ref, "name", ""), &key);
    struct store_value *v = store_get_pending(s->store, sbuf_str(&key));
    JSON_AUTO owner = v ? object_of(v) : NULL;
    if (!owner || strcmp(obj_uid(owner), json_str_or(ref, "uid", "")) != 0)
        return OWNER_GONE;
    *ret = v;
    return obj_deleting(owner) && obj_has_finalizer(owner, "foregroundDeletion") ? OWNER_WAITS : OWNER_ALIVE;
}

/* v has changed or gone: an owner in foreground deletion may have waited for it. */
static void mark_waiting_owners(struct gc *gc, struct store_value *v)
{
    if (!mentions(v->value, "\"ownerReferences\""))
        return;
    JSON_AUTO obj = object_of(v);
    size_t i;
    json_t *ref;
    json_array_foreach (json_at(obj, "metadata.ownerReferences"), i, ref) {
        struct store_value *owner = NULL;
        if (owner_state(gc->server, obj, ref, &owner) == OWNER_WAITS)
            mark(gc, owner->key);
    }
}

static void on_change(void *arg, const struct store_event *e)
{
    struct gc *gc = arg;
    if (e->prev) {
        index_owners(gc, e->prev, false);
        mark_waiting_owners(gc, e->prev);
    }
    if (e->now) {
        index_owners(gc, e->now, true);
        if (waits(e->now))
            mark(gc, e->now->key);
        return;
    }
    map_del(gc->dirty, e->prev->key);
    if (!map_len(gc->by_owner))
        return;
    JSON_AUTO obj = object_of(e->prev);
    mark_owned(gc, obj_uid(obj));
}

/* Anybody may write down any uid: an owner is what the reference names where the object lies, and has that uid. */
static bool is_of(const struct gc *gc, const json_t *obj, const json_t *ref, const struct store_value *owner)
{
    struct store_value *found = NULL;
    enum owner_state state = owner_state(gc->server, obj, ref, &found);
    return (state == OWNER_ALIVE || state == OWNER_WAITS) && str_eq(found->key, owner->key);
}

static int let_go(struct gc *gc, const struct store_value *owner, const char *uid, struct err *err)
{
    struct owned *o = map_getc(gc->by_owner, uid);
    struct map_iter it = MAP_ITER_INIT;
    while (o && map_next(o->keys, &it)) {
        struct store_value *v = store_get_pending(gc->server->store, it.key);
        if (!v)
            continue;
        JSON_AUTO obj = object_copy(v);
        json_t *refs = json_at(obj, "metadata.ownerReferences"), *ref;
        size_t i, before = json_array_size(refs);
        json_array_foreach (refs, i, ref)
            if (!strcmp(json_str_or(ref, "uid", ""), uid) && is_of(gc, obj, ref, owner)) {
                json_array_remove(refs, i);
                break;
            }
        if (json_array_size(refs) == before)
            continue;
        if (!json_array_size(refs))
            json_remove(obj, "metadata.ownerReferences");
        int rc = api_write_quietly(gc->server, v, obj, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Whether one of those that it owns says that it is to be waited for. */
static bool is_blocked(struct gc *gc, const struct store_value *owner, const char *uid)
{
    struct owned *o = map_getc(gc->by_owner, uid);
    struct map_iter it = MAP_ITER_INIT;
    while (o && map_next(o->keys, &it)) {
        struct store_value *v = store_get_pending(gc->server->store, it.key);
        JSON_AUTO obj = v ? object_of(v) : NULL;
        size_t i;
        json_t *ref;
        json_array_foreach (json_at(obj, "metadata.ownerReferences"), i, ref)
            if (!strcmp(json_str_or(ref, "uid", ""), uid) && json_flag(ref, "blockOwnerDeletion", false) && is_of(gc, obj, ref, owner))
                return true;
    }
    return false;
}

/* An object that is being deleted and whose finalizers name the collector. */
static int finish_owner(struct gc *gc, struct store_value *v, json_t *obj, struct err *err)
{
    bool orphan = obj_has_finalizer(obj, "orphan"), foreground = obj_has_finalizer(obj, "foregroundDeletion");
    int rc = 0;
    if (!obj_deleting(obj) || (!orphan && !foreground))
        return 0;
    if (orphan) {
        rc = let_go(gc, v, obj_uid(obj), err);
    } else {
        mark_owned(gc, obj_uid(obj)); /* they go; then we are looked at again */
        if (is_blocked(gc, v, obj_uid(obj)))
            return 0;
    }
    if (rc < 0)
        return rc;
    obj_drop_finalizer(obj, orphan ? "orphan" : "foregroundDeletion");
    return api_write_quietly(gc->server, v, obj, err);
}

static int consider(struct gc *gc, struct str key, struct err *err)
{
    struct store_value *v = store_get_pending(gc->server->store, key);
    if (!v)
        return 0;
    JSON_AUTO obj = object_copy(v);
    json_t *refs = json_at(obj, "metadata.ownerReferences"), *ref;
    size_t i, count[OWNER_UNKNOWN + 1] = {0};
    JSON_AUTO kept = json_array();
    json_array_foreach (refs, i, ref) {
        struct store_value *owner = NULL;
        enum owner_state state = owner_state(gc->server, obj, ref, &owner);
        count[state]++;
        if (state == OWNER_ALIVE)
            json_array_append(kept, ref);
    }
    if (!json_array_size(refs) || count[OWNER_UNKNOWN] || obj_deleting(obj))
        return finish_owner(gc, v, obj, err);
    if (!count[OWNER_ALIVE])
        return api_delete_quietly(gc->server, v, err);
    if (count[OWNER_ALIVE] == json_array_size(refs))
        return 0;
    json_put(obj, "metadata.ownerReferences", json_incref(kept));
    return api_write_quietly(gc->server, v, obj, err);
}

static void step(struct timer *t)
{
    struct gc *gc = t->arg;
    struct map_iter it = MAP_ITER_INIT;
    VEC(char *) keys = VEC_INIT;
    bool failed = false;
    while (keys.len < STEP_OBJECTS && map_next(gc->dirty, &it)) {
        *VEC_PUSH(&keys) = xstrndup(it.key.ptr, it.key.len);
        map_del(gc->dirty, it.key);
    }
    VEC_FOREACH (&keys, key) {
        struct err err = ERR_INIT;
        if (consider(gc, str_of(*key), &err) < 0) {
            log_warn("garbage collection of an object failed", KV("key", *key), KVE(&err));
            map_set(gc->dirty, str_of(*key), gc);
            failed = true;
        }
        mem_free(*key);
    }
    VEC_DEINIT(&keys);
    if (map_len(gc->dirty))
        timer_start(t, failed ? RETRY_MS : 0);
}

static bool on_existing(void *arg, struct store_value *v)
{
    struct gc *gc = arg;
    index_owners(gc, v, true);
    if (waits(v))
        mark(gc, v->key);
    return true;
}

void gc_start(struct apiserver *s)
{
    struct gc *gc = XNEW(struct gc);
    *gc = (struct gc){.server = s, .by_owner = map_new(owned_free), .dirty = map_new(NULL)};
    s->gc = gc;
    timer_init(&gc->timer, s->loop, step, gc);
    (void)!store_range(s->store, STR(""), STR_NULL, 0, 0, on_existing, gc, NULL);
    (void)!store_watch(s->store, STR(""), store_rev(s->store), on_change, gc, &gc->feed, NULL);
}

void gc_stop(struct apiserver *s)
{
    struct gc *gc = s->gc;
    if (!gc)
        return;
    if (gc->feed)
        store_watch_stop(gc->feed);
    timer_stop(&gc->timer);
    map_free(gc->by_owner);
    map_free(gc->dirty);
    mem_free(gc);
    s->gc = NULL;
}
