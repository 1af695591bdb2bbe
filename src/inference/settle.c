/* What the statuses of an earlier life say, made true before anybody is told that controllers run: an engine that was not adopted does not serve. */
#include "base/mem.h"
#include "inference/internal.h"

#define WHY "sekid was started and found no engine running"

static void mark(json_t *obj)
{
    set_condition(obj, "EngineStarted", "False", "Starting", WHY);
    set_condition(obj, "Ready", "False", "Starting", WHY);
}

static bool is_ready(const json_t *obj)
{
    const char *ready = obj_condition(obj, "Ready");
    return ready && !strcmp(ready, "True");
}

/* Whether a status speaks of a process of this machine that is not there. A server elsewhere has no process. */
static bool is_stale(struct inference *i, const json_t *replica)
{
    char name[WORKLOAD_NAME_MAX];
    struct workload_status w = {0};
    if (!is_ready(replica) || json_int(replica, "status.pid", 0) <= 0)
        return false;
    replica_workload_name(replica, name);
    i->runtime->ops->get(i->runtime, name, &w);
    return w.state != WORKLOAD_RUNNING && w.state != WORKLOAD_STARTING;
}

/* A conflict or a disappearance is somebody else's newer word. */
static int save(struct client *c, const struct kind *k, json_t *obj, struct err *err)
{
    struct client_resource r = kind_resource(k);
    struct err inner = ERR_INIT;
    int rc = client_update_status(c, &r, obj, NULL, &inner);
    if (rc == 0 || rc == ERR_CONFLICT || rc == ERR_NOT_FOUND)
        return 0;
    if (err)
        *err = inner;
    return rc;
}

static int64_t count_ready(json_t *replicas, const json_t *endpoint)
{
    int64_t count = 0;
    size_t n;
    json_t *replica;
    json_array_foreach (replicas, n, replica)
        count += is_ready(replica) && !strcmp(obj_namespace(replica), obj_namespace(endpoint)) && !strcmp(json_str_or(replica, "spec.endpoint", ""), obj_name(endpoint));
    return count;
}

int inference_settle(struct inference *i, struct client *c, struct err *err)
{
    struct client_resource r = kind_resource(&kind_model_replica), e = kind_resource(&kind_model_endpoint);
    JSON_AUTO replicas = NULL;
    JSON_AUTO endpoints = NULL;
    size_t n, stale = 0;
    json_t *obj;
    int rc = client_list(c, &r, NULL, NULL, &replicas, NULL, err);
    if (rc < 0)
        return rc;
    for (n = 0; n < json_array_size(replicas); n++) {
        if (!is_stale(i, json_array_get(replicas, n)))
            continue;
        json_array_set_new(replicas, n, json_deep_copy(json_array_get(replicas, n)));
        obj = json_array_get(replicas, n);
        mark(obj);
        json_remove(obj, "status.pid");
        stale++;
        if ((rc = save(c, &kind_model_replica, obj, err)) < 0)
            return rc;
    }
    if (!stale)
        return 0;
    if ((rc = client_list(c, &e, NULL, NULL, &endpoints, NULL, err)) < 0)
        return rc;
    json_array_foreach (endpoints, n, obj) {
        int64_t ready = count_ready(replicas, obj);
        if (!is_ready(obj) || ready == json_int(obj, "status.readyReplicas", 0))
            continue;
        CLEANUP(json_decrefp) json_t *copy = json_deep_copy(obj);
        json_put_int(copy, "status.readyReplicas", ready);
        if (ready == 0)
            mark(copy);
        if ((rc = save(c, &kind_model_endpoint, copy, err)) < 0)
            return rc;
    }
    return 0;
}
