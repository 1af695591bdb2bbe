/* ModelRoute: says whether the endpoints behind a name serve. Requests are routed by the gateway, which looks for itself. */
#include "inference/internal.h"

static const char *state_of(const struct inference *i, const char *ns, const char *endpoint)
{
    JSON_AUTO obj = informer_get(i->endpoints, ns, endpoint);
    const char *ready = obj ? obj_condition(obj, "Ready") : NULL;
    return !obj ? "BackendNotFound" : ready && !strcmp(ready, "True") ? NULL : "BackendNotReady";
}

int route_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct inference *i = ctx;
    const char *first = NULL, *why = NULL, *name;
    size_t n, serving = 0, wanted = 0;
    json_t *b;
    if (!r->obj || obj_deleting(r->obj))
        return 0;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    json_array_foreach (json_at(r->obj, "spec.backends"), n, b) {
        if (!json_int(b, "weight", 1))
            continue;
        name = json_str_or(b, "endpoint", "");
        const char *state = state_of(i, r->ns, name);
        wanted++;
        serving += !state;
        if (state && !first) {
            first = name;
            why = state;
        }
    }
    const char *what = why && !strcmp(why, "BackendNotFound") ? "there is no such ModelEndpoint in this namespace" : "it does not serve";
    if (!first)
        set_condition(r->obj, "Ready", "True", "Serving", "%zu of %zu backends serve", serving, wanted);
    else
        set_condition(r->obj, "Ready", serving ? "True" : "False", serving ? "Degraded" : why, "%zu of %zu backends serve; %s: %s", serving, wanted, first, what);
    return save_status(r, &kind_model_route, before, err);
}

void route_on_endpoint(void *arg, json_t *prev, json_t *now)
{
    struct inference *i = arg;
    const json_t *endpoint = now ? now : prev;
    JSON_AUTO all = informer_list(i->routes, obj_namespace(endpoint));
    size_t n, k;
    json_t *obj, *b;
    json_array_foreach (all, n, obj)
        json_array_foreach (json_at(obj, "spec.backends"), k, b)
            if (!strcmp(json_str_or(b, "endpoint", ""), obj_name(endpoint)))
                manager_enqueue(i->manager, CONTROLLER_ROUTE, obj_namespace(obj), obj_name(obj));
}
