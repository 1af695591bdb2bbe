/* A tenant that is suspended reaches none of its clusters: their API servers and controllers are ended, the stores go on. Nothing is lost, and when it is active again they are started as they were. */
#include "base/mem.h"
#include "kaas/internal.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

static bool is_suspended(const json_t *tenant)
{
    return tenant && strcmp(tenant_state(tenant), "Active") != 0; /* or is being closed: its clusters go soon */
}

const char *suspended_tenant(const struct kaas *k, const char *ns, struct arena *a)
{
    JSON_AUTO project = informer_get(k->namespaces, NULL, ns);
    const char *name = namespace_tenant(project, ns);
    JSON_AUTO tenant = informer_get(k->tenants, NULL, name);
    return is_suspended(tenant) ? arena_strdup(a, name) : "";
}

void on_tenant(void *arg, json_t *prev, json_t *now)
{
    struct kaas *k = arg;
    if (is_suspended(prev) == is_suspended(now))
        return;
    JSON_AUTO all = informer_list(k->clusters, NULL);
    size_t i;
    json_t *c;
    json_array_foreach (all, i, c) {
        JSON_AUTO project = informer_get(k->namespaces, NULL, obj_namespace(c));
        if (!strcmp(namespace_tenant(project, obj_namespace(c)), obj_name(now ? now : prev)))
            manager_enqueue(k->manager, CONTROLLER_CLUSTER, obj_namespace(c), obj_name(c));
    }
}
