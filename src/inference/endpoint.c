/* ModelEndpoint: as many replicas as wanted, and the sum of what they say. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"
#include "inference/internal.h"

struct pass {
    struct inference *i;
    struct reconcile *r;
    struct model_endpoint e;
    json_t *replicas; /* array of those that this endpoint owns */
    int64_t exist, ready;
};

static int64_t ordinal_of(const json_t *replica)
{
    return json_int(replica, "spec.ordinal", 0);
}

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
    json_object_set_new(json_object_get(obj, "metadata"), "finalizers", json_pack("[s]", WORKLOAD_FINALIZER));
    obj_add_owner(obj, r->obj);
    json_object_set(obj, "spec", spec);
    int rc = client_create(r->client, &resource, r->ns, obj, NULL, err);
    return rc == ERR_EXISTS ? err_set(err, ERR_CONFLICT, "replica %s-%lld exists and is not in the cache yet, or belongs to another", r->name, (long long)ordinal) : rc;
}

/* Makes what lacks, removes what is too much, the highest first. */
static int scale(const struct pass *p, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_model_replica);
    int rc = 0;
    for (int64_t o = 0; o < p->e.spec.replicas && rc == 0; o++)
        rc = ensure_replica(p, o, err);
    size_t n;
    json_t *obj;
    json_array_foreach (p->replicas, n, obj)
        if (rc == 0 && ordinal_of(obj) >= p->e.spec.replicas && !obj_deleting(obj)) {
            rc = client_delete(p->r->client, &resource, p->r->ns, obj_name(obj), obj_uid(obj), err);
            rc = rc == ERR_NOT_FOUND || rc == ERR_CONFLICT ? 0 : rc;
        }
    return rc;
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

/* The first wanted replica of which a condition is not True; NULL when all are. *ret_missing: the ordinal of one that does not exist yet. */
static json_t *first_not(const struct pass *p, const char *type, int64_t *ret_missing)
{
    *ret_missing = -1;
    for (int64_t o = 0; o < p->e.spec.replicas; o++) {
        json_t *obj = find_replica(p, o);
        const char *status = obj ? obj_condition(obj, type) : NULL;
        if (!obj) {
            *ret_missing = o;
            return NULL;
        }
        if (!status || strcmp(status, "True") != 0)
            return obj;
    }
    return NULL;
}

static void sum_up(struct pass *p, const char *type, const char *good_reason, const char *good_message)
{
    json_t *obj = p->r->obj;
    int64_t missing;
    json_t *bad = first_not(p, type, &missing);
    const char *model = obj_condition(obj, "ModelVerified");
    if (p->e.spec.replicas == 0)
        set_condition(obj, type, "False", "ScaledToZero", "no replicas are wanted");
    else if (model && strcmp(model, "True") != 0 && p->ready == 0)
        set_condition(obj, type, "False", obj_condition_reason(obj, "ModelVerified"), "waiting for the model: %s", obj_condition_message(obj, "ModelVerified"));
    else if (missing >= 0)
        set_condition(obj, type, "False", "Creating", "replica %s-%lld is being made", p->r->name, (long long)missing);
    else if (!bad)
        set_condition(obj, type, "True", good_reason, "%s", good_message);
    else
        set_condition(obj, type, "False", obj_condition_reason(bad, type) ? obj_condition_reason(bad, type) : "Starting", "replica %s: %s", obj_name(bad),
                      *obj_condition_message(bad, type) ? obj_condition_message(bad, type) : "not looked at yet");
}

static void set_ready(struct pass *p)
{
    char message[128];
    int64_t missing;
    snprintf(message, sizeof(message), "%lld of %lld replicas serve", (long long)p->ready, (long long)p->e.spec.replicas);
    json_t *bad = first_not(p, "Ready", &missing);
    if (p->ready > 0 && (bad || missing >= 0) && p->e.spec.replicas > 0)
        set_condition(p->r->obj, "Ready", "True", "Degraded", "%s; %s%s%s", message, bad ? obj_name(bad) : "another", bad ? ": " : " is being made", bad ? obj_condition_message(bad, "Ready") : "");
    else
        sum_up(p, "Ready", "Serving", message);
}

static void set_status(struct pass *p)
{
    json_t *obj = p->r->obj;
    size_t n;
    json_t *replica;
    json_array_foreach (p->replicas, n, replica) {
        const char *ready = obj_condition(replica, "Ready");
        p->exist++;
        p->ready += ready && !strcmp(ready, "True") && !obj_deleting(replica) && ordinal_of(replica) < p->e.spec.replicas;
    }
    json_put_int(obj, "status.replicas", p->exist);
    json_put_int(obj, "status.readyReplicas", p->ready);
    json_put_str(obj, "status.selector", arena_printf(p->r->arena, LABEL_ENDPOINT "=%s", p->r->name));
    set_model_condition(p);
    sum_up(p, "EngineStarted", "Started", "all engines run");
    set_ready(p);
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
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    JSON_AUTO all = informer_list(i->replicas, r->ns);
    JSON_AUTO owned = json_array();
    size_t n;
    json_t *obj;
    json_array_foreach (all, n, obj)
        if (obj_owned_by(obj, obj_uid(r->obj)))
            json_array_append(owned, obj);
    p.replicas = owned;
    rc = scale(&p, err);
    set_status(&p);
    int status_rc = save_status(r, &kind_model_endpoint, before, rc < 0 ? NULL : err);
    return rc < 0 ? rc : status_rc;
}
