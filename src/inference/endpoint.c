/* ModelEndpoint: as many replicas as wanted, and the sum of what they say. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"
#include "inference/internal.h"
#include "inference/rollout.h"
#include "inference/room.h"

#define ORDINAL_MAX 999
#define MAX_SURGE 1
#define GOING_LOOK_MS 200u /* a name that is wanted is still taken by a replica that goes */

struct pass {
    struct inference *i;
    struct reconcile *r;
    struct model_endpoint e;
    json_t *replicas; /* array of those that this endpoint owns */
    json_t *live;     /* those of them that stay */
    int64_t ready;
    int64_t replacing; /* replicas that serve and are to be replaced by others */
    int64_t need_bytes, free_bytes; /* of an engine more, for which there is no room */
    bool no_room;
};

static int64_t ordinal_of(const json_t *replica)
{
    return json_int(replica, "spec.ordinal", 0);
}

/* Replicas that go keep their names for as long as requests run on them: others take other ordinals. */
static json_t *find_replica(const struct pass *p, int64_t ordinal)
{
    size_t n;
    json_t *obj;
    json_array_foreach (p->replicas, n, obj)
        if (ordinal_of(obj) == ordinal)
            return obj;
    return NULL;
}

/* The engine as the replica has it: with its own server, when there are several. A new reference. */
static json_t *engine_of(const json_t *spec, int64_t ordinal)
{
    json_t *engine = json_object_get(spec, "engine");
    const json_t *servers = json_object_get(spec, "servers");
    size_t n = json_array_size(servers);
    if (!n)
        return json_incref(engine);
    engine = json_copy(engine);
    json_object_set(engine, "url", json_object_get(json_array_get(servers, (size_t)ordinal % n), "url"));
    return engine;
}

static json_t *spec_of(const struct pass *p, int64_t ordinal)
{
    const json_t *spec = json_object_get(p->r->obj, "spec");
    const char *served = p->e.spec.served_name && *p->e.spec.served_name ? p->e.spec.served_name : p->r->name;
    json_t *s = json_pack("{s:s, s:I, s:s, s:o, s:I}", "endpoint", p->r->name, "ordinal", (json_int_t)ordinal, "servedName", served, "engine", engine_of(spec, ordinal),
                          "startTimeoutSeconds", (json_int_t)p->e.spec.start_timeout_seconds);
    if (p->e.spec.model && *p->e.spec.model)
        json_object_set_new(s, "model", json_string(p->e.spec.model));
    if (json_array_size(json_object_get(spec, "adapters")))
        json_object_set(s, "adapters", json_object_get(spec, "adapters"));
    return s;
}

static int ensure_replica(const struct pass *p, int64_t ordinal, struct err *err)
{
    struct reconcile *r = p->r;
    struct client_resource resource = kind_resource(&kind_model_replica);
    JSON_AUTO spec = spec_of(p, ordinal);
    json_t *old = find_replica(p, ordinal);
    if (old && (obj_deleting(old) || json_equal(spec, json_object_get(old, "spec"))))
        return 0;
    if (old) {
        JSON_AUTO obj = json_deep_copy(old);
        json_object_set(obj, "spec", spec);
        return client_update(r->client, &resource, obj, NULL, err);
    }
    JSON_AUTO obj = obj_new(&kind_model_replica, r->ns, arena_printf(r->arena, "%s-%lld", r->name, (long long)ordinal));
    json_object_set_new(json_object_get(obj, "metadata"), "labels", json_pack("{s:s}", LABEL_ENDPOINT, r->name));
    obj_add_finalizer(obj, WORKLOAD_FINALIZER);
    obj_add_owner(obj, r->obj);
    json_object_set(obj, "spec", spec);
    int rc = client_create(r->client, &resource, r->ns, obj, NULL, err);
    return rc == ERR_EXISTS ? err_set(err, ERR_CONFLICT, "replica %s-%lld exists and is not in the cache yet, or belongs to another", r->name, (long long)ordinal) : rc;
}

/* ---- as many as wanted ---- */

static bool is_up(const json_t *replica)
{
    const char *ready = obj_condition(replica, "Ready");
    return ready && !strcmp(ready, "True");
}

static int64_t runs_on(const struct pass *p, const json_t *replica)
{
    const char *target = scaling_target(replica, p->r->arena);
    return target ? demand_running(p->i->demand, target) : 0;
}

/* Whether a should go rather than b: what has failed first, then what loads, then the idlest; of equals the last. */
static bool goes_first(const struct pass *p, const json_t *a, const json_t *b)
{
    bool up_a = is_up(a), up_b = is_up(b);
    if (up_a != up_b)
        return up_b;
    bool loads_a = !up_a && reason_is_progress(obj_condition_reason(a, "Ready")), loads_b = !up_b && reason_is_progress(obj_condition_reason(b, "Ready"));
    if (loads_a != loads_b)
        return loads_b;
    int64_t runs_a = runs_on(p, a), runs_b = runs_on(p, b);
    return runs_a != runs_b ? runs_a < runs_b : ordinal_of(a) > ordinal_of(b);
}

static void take_from(json_t *list, const json_t *obj)
{
    for (size_t n = json_array_size(list); n-- > 0;)
        if (json_array_get(list, n) == obj)
            json_array_remove(list, n);
}

/* list: of some that stay, or of all. */
static int remove_one_of(const struct pass *p, json_t *list, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_model_replica);
    json_t *obj, *first = NULL;
    size_t n;
    json_array_foreach (list, n, obj)
        if (!first || goes_first(p, obj, first))
            first = obj;
    JSON_AUTO gone = json_incref(first);
    int rc = client_delete(p->r->client, &resource, p->r->ns, obj_name(gone), obj_uid(gone), err);
    take_from(list, gone);
    take_from(p->live, gone);
    return rc == ERR_NOT_FOUND || rc == ERR_CONFLICT ? 0 : rc;
}

/* The lowest name that is free. One that is going is waited for, unless requests keep it. -1: none now. */
static int64_t free_ordinal(const struct pass *p, int64_t from)
{
    for (int64_t o = from; o <= ORDINAL_MAX; o++) {
        const json_t *there = find_replica(p, o);
        if (!there)
            return o;
        if (obj_deleting(there) && !runs_on(p, there))
            return -1;
    }
    return -1;
}

static int make_some(const struct pass *p, int64_t count, struct err *err)
{
    struct reconcile *r = p->r;
    int rc = 0;
    for (int64_t next = 0; count > 0 && rc == 0; count--) {
        next = free_ordinal(p, next);
        if (next < 0) {
            r->requeue_ms = r->requeue_ms ? MIN(r->requeue_ms, (uint64_t)GOING_LOOK_MS) : GOING_LOOK_MS;
            return 0;
        }
        rc = ensure_replica(p, next++, err);
    }
    return rc;
}

/* ---- engines that are to run otherwise (rollout.h) ---- */

static bool is_elsewhere(const json_t *replica_spec)
{
    const struct engine_spec e = {.driver = json_str_or(replica_spec, "engine.driver", ""), .url = json_str(replica_spec, "engine.url")};
    return engine_is_remote(&e);
}

/* It serves, and as its spec says now: not as it said before. */
static bool is_up_to_date(const json_t *replica)
{
    return is_up(replica) && json_int(replica, "status.observedGeneration", 0) == json_int(replica, "metadata.generation", 0);
}

/* It serves, and what is wanted of it now needs another process. */
static bool is_old(const struct pass *p, const json_t *replica)
{
    const json_t *spec = json_object_get(replica, "spec");
    JSON_AUTO wanted = spec_of(p, ordinal_of(replica));
    bool has_its_server = json_array_size(json_at(p->r->obj, "spec.servers")) > 0; /* by its ordinal */
    if (!is_up(replica) || json_equal(spec, wanted) || (is_elsewhere(wanted) && (is_elsewhere(spec) || has_its_server)))
        return false;
    json_object_set(wanted, "startTimeoutSeconds", json_object_get(spec, "startTimeoutSeconds"));
    return !json_equal(spec, wanted);
}

/* A part of p->live, whose elements these are. */
static void gather_old(const struct pass *p, json_t *old, struct rollout_facts *f)
{
    size_t n;
    json_t *obj;
    *f = (struct rollout_facts){.wanted = p->e.spec.replicas, .surge = json_int(p->r->obj, "spec.maxSurge", MAX_SURGE),
                                .leaving = (int64_t)(json_array_size(p->replicas) - json_array_size(p->live))};
    json_array_foreach (p->live, n, obj) {
        if (is_old(p, obj)) {
            json_array_append(old, obj);
            continue;
        }
        f->fresh++;
        f->fresh_up += is_up_to_date(obj);
    }
    f->old = (int64_t)json_array_size(old);
}

static bool is_among(const json_t *list, const json_t *obj)
{
    size_t n;
    json_t *one;
    json_array_foreach (list, n, one)
        if (one == obj)
            return true;
    return false;
}

/* How many of so many engines memory has room for, beside those that run. */
static int64_t room_for_more(struct pass *p, const json_t *old, int64_t wanted, int64_t loading)
{
    const char *name = p->e.spec.model;
    JSON_AUTO model = name && *name ? informer_get(p->i->models, p->r->ns, name) : NULL;
    JSON_AUTO spec = spec_of(p, 0);
    int64_t held = 0, files = 0;
    size_t n;
    json_t *item;
    if (is_elsewhere(spec))
        return wanted;
    json_array_foreach (old, n, item) {
        int64_t pid = json_int(item, "status.pid", 0);
        held = MAX(held, pid > 0 ? room_held_bytes(pid) : 0);
    }
    json_array_foreach (json_at(model, "spec.files"), n, item)
        if (__builtin_add_overflow(files, json_int(item, "sizeBytes", 0), &files))
            return wanted;
    p->need_bytes = held + files;
    p->free_bytes = room_free_bytes();
    int64_t fit = room_for(wanted, loading, p->need_bytes, p->free_bytes, p->i->o.memory_reserve_bytes);
    p->no_room = fit == 0;
    return fit;
}

static int replace(struct pass *p, json_t *old, const struct rollout_facts *f, struct err *err)
{
    struct rollout_step step;
    size_t n;
    json_t *obj;
    int rc = 0;
    rollout_decide(f, &step);
    if (step.make > 0) {
        struct rollout_facts in_place = *f;
        step.make = room_for_more(p, old, step.make, f->fresh - f->fresh_up);
        in_place.surge = 0;
        if (p->no_room && !step.remove && f->fresh == f->fresh_up) /* those that load are waited for */
            rollout_decide(&in_place, &step);
    }
    p->replacing = f->old;
    json_array_foreach (p->live, n, obj)
        if (rc == 0 && !is_among(old, obj))
            rc = ensure_replica(p, ordinal_of(obj), err);
    for (; step.change > 0 && rc == 0; step.change--)
        rc = ensure_replica(p, ordinal_of(json_array_get(old, (size_t)step.change - 1)), err);
    if (rc == 0)
        rc = make_some(p, step.make, err);
    for (; step.remove > 0 && rc == 0; step.remove--)
        rc = remove_one_of(p, old, err);
    return rc;
}

/* Makes what lacks, removes what is too much, replaces what is to be otherwise. */
static int scale(struct pass *p, struct err *err)
{
    struct rollout_facts f;
    size_t n;
    json_t *obj;
    int rc = 0;
    int64_t have = (int64_t)json_array_size(p->live);
    JSON_AUTO old = json_array();
    gather_old(p, old, &f);
    if (f.wanted && f.old)
        return replace(p, old, &f, err);
    for (; have > f.wanted && rc == 0; have--)
        rc = remove_one_of(p, p->live, err);
    json_array_foreach (p->live, n, obj)
        if (rc == 0)
            rc = ensure_replica(p, ordinal_of(obj), err);
    return rc == 0 ? make_some(p, f.wanted - have, err) : rc;
}

static void set_model_condition(struct pass *p)
{
    json_t *obj = p->r->obj;
    const char *name = p->e.spec.model;
    if (!name || !*name) {
        set_condition(obj, "ModelVerified", "True", "NotNeeded", "this driver serves a model of its own");
        return;
    }
    JSON_AUTO model = informer_get(p->i->models, p->r->ns, name);
    const char *status = model ? obj_condition(model, "Verified") : NULL;
    if (!model)
        set_condition(obj, "ModelVerified", "False", "ModelNotFound", "there is no Model \"%s\" in namespace %s; create it", name, p->r->ns);
    else if (!status)
        set_condition(obj, "ModelVerified", "Unknown", "Verifying", "Model \"%s\" is about to be verified", name);
    else {
        const char *reason = obj_condition_reason(model, "Verified");
        set_condition(obj, "ModelVerified", status, reason ? reason : "Unknown", "%s", obj_condition_message(model, "Verified"));
    }
}

/* The first replica of which a condition is not True; NULL when all are. *ret_missing: one does not exist yet. */
static json_t *first_not(const struct pass *p, const char *type, bool *ret_missing)
{
    size_t n;
    json_t *obj;
    *ret_missing = false;
    json_array_foreach (p->live, n, obj) {
        const char *status = obj_condition(obj, type);
        if (!status || strcmp(status, "True") != 0)
            return obj;
    }
    *ret_missing = (int64_t)json_array_size(p->live) < p->e.spec.replicas;
    return NULL;
}

static void sum_up(struct pass *p, const char *type, const char *good_reason, const char *good_message)
{
    json_t *obj = p->r->obj;
    bool missing;
    json_t *bad = first_not(p, type, &missing);
    const char *model = obj_condition(obj, "ModelVerified");
    if (p->e.spec.replicas == 0)
        set_condition(obj, type, "False", "ScaledToZero", "no replicas are wanted");
    else if (model && strcmp(model, "True") != 0 && p->ready == 0)
        set_condition(obj, type, "False", obj_condition_reason(obj, "ModelVerified"), "waiting for the model: %s", obj_condition_message(obj, "ModelVerified"));
    else if (missing)
        set_condition(obj, type, "False", "Creating", "%s", json_array_size(p->live) ? "another replica is being made" : "the first replica is being made");
    else if (!bad)
        set_condition(obj, type, "True", good_reason, "%s", good_message);
    else
        set_condition(obj, type, "False", obj_condition_reason(bad, type) ? obj_condition_reason(bad, type) : "Starting", "replica %s: %s", obj_name(bad),
                      *obj_condition_message(bad, type) ? obj_condition_message(bad, type) : "not looked at yet");
}

static void set_ready(struct pass *p)
{
    char message[128];
    bool missing;
    snprintf(message, sizeof(message), "%lld of %lld replicas serve", (long long)MIN(p->ready, p->e.spec.replicas), (long long)p->e.spec.replicas);
    json_t *bad = first_not(p, "Ready", &missing);
    if (p->replacing && p->ready >= p->e.spec.replicas && (!bad || reason_is_progress(obj_condition_reason(bad, "Ready"))))
        set_condition(p->r->obj, "Ready", "True", "Replacing", "%s; %lld of them as they were set before, until others take their place", message, (long long)p->replacing);
    else if (p->ready > 0 && (bad || missing) && p->e.spec.replicas > 0)
        set_condition(p->r->obj, "Ready", "True", "Degraded", "%s; %s%s%s", message, bad ? obj_name(bad) : "another", bad ? ": " : " is being made", bad ? obj_condition_message(bad, "Ready") : "");
    else
        sum_up(p, "Ready", "Serving", message);
}

/* While engines are replaced, and what was said then until they are. */
static void set_room(struct pass *p)
{
    json_t *obj = p->r->obj, *replica;
    size_t n, late = 0;
    json_array_foreach (p->live, n, replica)
        late += !is_up_to_date(replica);
    if (p->no_room)
        set_condition(obj, "RoomToReplace", "False", "NoRoom", "one engine more needs %lld MiB, and %lld MiB of memory are free, %lld of them kept so: engines are replaced one at a time, in their places",
                      (long long)(p->need_bytes >> 20), (long long)(p->free_bytes >> 20), (long long)(p->i->o.memory_reserve_bytes >> 20));
    else if (!p->replacing && !late && obj_condition(obj, "RoomToReplace"))
        set_condition(obj, "RoomToReplace", "True", "Replaced", "engines are as they are to be");
}

static void set_status(struct pass *p)
{
    json_t *obj = p->r->obj;
    size_t n;
    json_t *replica;
    json_array_foreach (p->live, n, replica) {
        p->ready += is_up(replica);
        scaling_learn(obj, replica, p->r->arena);
    }
    json_put_int(obj, "status.replicas", (int64_t)json_array_size(p->replicas));
    json_put_int(obj, "status.readyReplicas", p->ready);
    json_put_str(obj, "status.selector", arena_printf(p->r->arena, LABEL_ENDPOINT "=%s", p->r->name));
    set_model_condition(p);
    sum_up(p, "EngineStarted", "Started", "all engines run");
    set_ready(p);
    set_room(p);
    scaling_show(p->i, p->r, &p->e);
}

int endpoint_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct inference *i = ctx;
    struct pass p = {.i = i, .r = r};
    if (!r->obj || obj_deleting(r->obj))
        return 0; /* its replicas go by garbage collection */
    int rc = kind_decode(&kind_model_endpoint, r->obj, r->arena, &p.e, err);
    if (rc < 0)
        return rc;
    JSON_AUTO all = informer_list(i->replicas, r->ns);
    JSON_AUTO owned = json_array();
    JSON_AUTO live = json_array();
    size_t n;
    json_t *obj;
    json_array_foreach (all, n, obj)
        if (obj_owned_by(obj, obj_uid(r->obj))) {
            json_array_append(owned, obj);
            if (!obj_deleting(obj))
                json_array_append(live, obj);
        }
    p.replicas = owned;
    p.live = live;
    if ((rc = scaling_step(i, r, &p.e, live, err)) < 0)
        return rc;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    rc = scale(&p, err);
    set_status(&p);
    int status_rc = save_status(r, &kind_model_endpoint, before, rc < 0 ? NULL : err);
    return rc < 0 ? rc : status_rc;
}
