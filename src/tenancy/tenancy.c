#include "tenancy/tenancy.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"
#include "policy/rules.h"
#include "tenancy/internal.h"

#define CONTROLLER "tenant"
#define MADE_AS_MAX (64 * 1024)
#define LOOK_AGAIN_MS 500 /* while projects are being deleted */

struct tenancy {
    struct manager *manager;
    struct informer *projects;
};

struct pass {
    struct tenancy *t;
    struct reconcile *r;
    json_t *projects; /* namespaces of the tenant, those that are going too */
};

static void on_project(void *arg, json_t *prev, json_t *now)
{
    struct tenancy *t = arg;
    const char *tenant = obj_label(now ? now : prev, LABEL_TENANT);
    if (tenant)
        manager_enqueue(t->manager, CONTROLLER, "", tenant);
}

static json_t *projects_of(const struct tenancy *t, const char *tenant)
{
    JSON_AUTO all = informer_list(t->projects, NULL);
    json_t *own = json_array(), *ns;
    size_t i;
    json_array_foreach (all, i, ns) {
        const char *label = obj_label(ns, LABEL_TENANT);
        if (label && !strcmp(label, tenant))
            json_array_append(own, ns);
    }
    return own;
}

/* ---- access ---- */

/* Makes an object, or gives the one that is there the wanted subjects. Other members are left to whoever changed them; a roleRef cannot be changed. */
static int ensure_binding(const struct pass *p, const struct kind *k, json_t *wanted, struct err *err)
{
    struct client_resource resource = kind_resource(k);
    JSON_AUTO have = NULL;
    JSON_AUTO owned = wanted;
    int rc = client_get(p->r->client, &resource, obj_namespace(owned), obj_name(owned), &have, NULL);
    if (rc == ERR_NOT_FOUND)
        return client_create(p->r->client, &resource, obj_namespace(owned), owned, NULL, err);
    if (rc < 0)
        return err_set(err, rc, "%s %s cannot be read", k->plural, obj_name(owned));
    const char *label = obj_label(have, LABEL_TENANT);
    const json_t *is = json_object_get(have, "subjects"), *wants = json_object_get(owned, "subjects");
    if ((!json_array_size(is) && !json_array_size(wants)) || json_equal(is, wants) || !label || strcmp(label, p->r->name) != 0)
        return 0; /* as it should be, or somebody's own under that name */
    JSON_AUTO obj = json_deep_copy(have);
    json_object_set(obj, "subjects", json_object_get(owned, "subjects"));
    return client_update(p->r->client, &resource, obj, NULL, err);
}

/* The Limit of a project: made, and made to follow the tenant's numbers until somebody has changed it. */
static int ensure_limit(const struct pass *p, const char *project, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_limit);
    JSON_AUTO wanted = tenant_limit(p->r->obj, project);
    JSON_AUTO have = NULL;
    JSON_AUTO made_as = NULL;
    int rc = client_get(p->r->client, &resource, project, LIMIT_DEFAULT, &have, NULL);
    if (rc == ERR_NOT_FOUND) {
        rc = client_create(p->r->client, &resource, project, wanted, NULL, err);
        return rc == ERR_FORBIDDEN ? 0 : rc; /* it has as many Limits as it may have, and the tenant's own hold anyway */
    }
    if (rc < 0)
        return err_set(err, rc, "%s %s of project %s cannot be read", resource.plural, LIMIT_DEFAULT, project);
    const char *text = obj_annotation(have, LIMIT_MADE_AS), *wanted_text = obj_annotation(wanted, LIMIT_MADE_AS);
    if (!text || !strcmp(text, wanted_text) || json_parse(str_of(text), MADE_AS_MAX, &made_as, NULL) < 0 || !json_equal(made_as, json_object_get(have, "spec")))
        return 0; /* as it should be, or somebody's own by now */
    JSON_AUTO obj = json_deep_copy(have);
    json_object_set(obj, "spec", json_object_get(wanted, "spec"));
    json_object_set_new(json_object_get(json_object_get(obj, "metadata"), "annotations"), LIMIT_MADE_AS, json_string(wanted_text));
    return client_update(p->r->client, &resource, obj, NULL, err);
}

static int ensure_project(const struct pass *p, const char *project, struct err *err)
{
    int rc = ensure_binding(p, &kind_role_binding, tenant_binding(p->r->obj, project, TENANT_BINDING, "admin"), err);
    if (rc == 0)
        rc = ensure_binding(p, &kind_role_binding, tenant_binding(p->r->obj, project, TENANT_OWNERS, TENANT_OWNER), err);
    return rc == 0 ? ensure_limit(p, project, err) : rc;
}

/* A ClusterRole of the tenant gets what it lacks: one from an earlier release lacks what was not there then. What somebody added stays. */
static int ensure_role(const struct pass *p, json_t *role, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_cluster_role);
    JSON_AUTO wanted = role;
    JSON_AUTO have = NULL;
    int rc = client_get(p->r->client, &resource, "", obj_name(wanted), &have, NULL);
    if (rc == ERR_NOT_FOUND)
        return client_create(p->r->client, &resource, "", wanted, NULL, err);
    if (rc < 0)
        return err_set(err, rc, "clusterroles %s cannot be read", obj_name(wanted));
    JSON_AUTO missing = rules_missing(json_object_get(have, "rules"), json_object_get(wanted, "rules"));
    const char *label = obj_label(have, LABEL_TENANT);
    if (!json_array_size(missing) || !label || strcmp(label, p->r->name) != 0)
        return 0;
    JSON_AUTO obj = json_deep_copy(have);
    if (!json_is_array(json_object_get(obj, "rules")))
        json_object_set_new(obj, "rules", json_array());
    rules_add(json_object_get(obj, "rules"), missing);
    return client_update(p->r->client, &resource, obj, NULL, err);
}

static int ensure_access(const struct pass *p, struct err *err)
{
    size_t i;
    json_t *ns;
    const char *role = arena_printf(p->r->arena, TENANT_GROUP "%s", p->r->name), *auditor = arena_printf(p->r->arena, "%s" TENANT_AUDITOR, role);
    int rc = ensure_binding(p, &kind_cluster_role_binding, tenant_wide_binding(p->r->obj, role, tenant_admins(p->r->obj)), err);
    if (rc == 0)
        rc = ensure_role(p, tenant_role(p->r->obj), err);
    if (rc == 0)
        rc = ensure_role(p, tenant_audit_role(p->r->obj), err);
    if (rc == 0)
        rc = ensure_binding(p, &kind_cluster_role_binding, tenant_wide_binding(p->r->obj, auditor, tenant_auditors(p->r->obj)), err);
    json_array_foreach (p->projects, i, ns) {
        int project_rc = obj_deleting(ns) ? 0 : ensure_project(p, obj_name(ns), rc < 0 ? NULL : err); /* one that is full does not hold up the others */
        rc = rc < 0 ? rc : project_rc;
    }
    return rc;
}

/* ---- the end ---- */

static int delete_projects(const struct pass *p, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_namespace);
    size_t i;
    json_t *ns;
    json_array_foreach (p->projects, i, ns) {
        int rc = obj_deleting(ns) ? 0 : client_delete(p->r->client, &resource, "", obj_name(ns), obj_uid(ns), err);
        if (rc < 0 && rc != ERR_NOT_FOUND && rc != ERR_CONFLICT)
            return rc;
    }
    return 0;
}

/* ---- status ---- */

void tenancy_condition(json_t *obj, const char *type, bool holds, const char *reason, const char *fmt, ...)
{
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    obj_set_condition(obj, type, holds ? "True" : "False", reason, message, clock_wall_ms());
}

int tenancy_save_status(struct reconcile *r, const struct kind *k, const json_t *before, struct err *err)
{
    struct client_resource resource = kind_resource(k);
    json_put_int(r->obj, "status.observedGeneration", obj_generation(r->obj));
    if (json_equal(before, json_object_get(r->obj, "status")))
        return 0;
    int rc = client_update_status(r->client, &resource, r->obj, NULL, err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static void set_status(const struct pass *p)
{
    json_t *obj = p->r->obj, *names = json_array(), *ns;
    const char *state = tenant_state(obj);
    size_t i, left = json_array_size(p->projects);
    json_array_foreach (p->projects, i, ns)
        json_array_append_new(names, json_string(obj_name(ns)));
    json_put(obj, "status.projects", names);
    if (obj_deleting(obj) && left)
        tenancy_condition(obj, "Ready", false, "ProjectsLeft", "it is deleted when its %zu projects are gone: seki tenant close deletes them", left);
    else if (!strcmp(state, "Closing"))
        tenancy_condition(obj, "Ready", false, "Closing", "its projects are being deleted; %zu are left", left);
    else if (!strcmp(state, "Suspended"))
        tenancy_condition(obj, "Ready", false, "Suspended", "new requests are refused, by the API and by the gateway; nothing is lost");
    else
        tenancy_condition(obj, "Ready", true, "Active", "%zu projects", left);
    if (!strcmp(state, "Closing"))
        tenancy_condition(obj, "Closed", !left, left ? "Emptying" : "Empty", "%zu projects are left; its usage and audit records stay", left);
}

static int reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct pass p = {.t = ctx, .r = r};
    if (!r->obj)
        return 0;
    JSON_AUTO projects = projects_of(p.t, r->name);
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    p.projects = projects;
    bool closing = !strcmp(tenant_state(r->obj), "Closing");
    int rc = obj_deleting(r->obj) ? 0 : closing ? delete_projects(&p, err) : ensure_access(&p, err);
    set_status(&p);
    int status_rc = tenancy_save_status(r, &kind_tenant, before, rc < 0 ? NULL : err);
    if (rc == 0 && status_rc == 0 && obj_deleting(r->obj) && !json_array_size(projects))
        return reconcile_release(p.r, &kind_tenant, TENANT_FINALIZER, err);
    if (closing && json_array_size(projects))
        r->requeue_ms = LOOK_AGAIN_MS;
    return rc < 0 ? rc : status_rc;
}

struct tenancy *tenancy_new(struct manager *m)
{
    static const struct controller_ops ops = {.name = CONTROLLER, .primary = &kind_tenant, .reconcile = reconcile};
    static const struct kind *const grant_owns[] = {&kind_role_binding, NULL};
    static const struct controller_ops grants = {.name = "access-grant", .primary = &kind_access_grant, .owned = grant_owns, .reconcile = grant_reconcile};
    struct tenancy *t = XNEW(struct tenancy);
    t->manager = m;
    t->projects = manager_informer(m, &kind_namespace);
    informer_add_handler(t->projects, &(struct informer_handler){.changed = on_project, .arg = t});
    manager_add(m, &ops, t);
    manager_add(m, &grants, t);
    return t;
}

void tenancy_free(struct tenancy *t)
{
    mem_free(t);
}
