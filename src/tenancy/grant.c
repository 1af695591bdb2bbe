/* AccessGrant: a RoleBinding while it is open, none afterwards. */
#include "base/clock.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"
#include "policy/rbac.h"
#include "tenancy/internal.h"

#define BINDING_PREFIX "access-grant-"

static json_t *binding_of(const struct reconcile *r)
{
    json_t *b = obj_new(&kind_role_binding, r->ns, arena_printf(r->arena, BINDING_PREFIX "%s", r->name));
    json_object_set_new(b, "subjects", json_pack("[{s:s, s:s, s:s}]", "kind", "User", "apiGroup", "rbac.authorization.k8s.io", "name", json_str_or(r->obj, "spec.user", "")));
    json_object_set_new(b, "roleRef", json_pack("{s:s, s:s, s:s}", "apiGroup", "rbac.authorization.k8s.io", "kind", "ClusterRole", "name", CONTENT_READER));
    /* From then on it grants nothing, whether or not somebody has taken it away. */
    json_object_set_new(json_object_get(b, "metadata"), "annotations", json_pack("{s:s}", RBAC_EXPIRES_AT, json_str_or(r->obj, "spec.expiresAt", "")));
    obj_add_owner(b, r->obj); /* revoked by deleting the grant */
    return b;
}

static int open_it(const struct reconcile *r, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_role_binding);
    JSON_AUTO wanted = binding_of(r);
    JSON_AUTO have = NULL;
    int rc = client_create(r->client, &resource, r->ns, wanted, NULL, err);
    if (rc != ERR_EXISTS)
        return rc;
    rc = client_get(r->client, &resource, r->ns, obj_name(wanted), &have, err);
    if (rc == 0 && !obj_owned_by(have, obj_uid(r->obj)))
        return err_set(err, ERR_CONFLICT, "rolebindings \"%s\" is there and is not of this grant: delete it", obj_name(wanted));
    const char *until = rc == 0 ? obj_annotation(have, RBAC_EXPIRES_AT) : NULL;
    if (rc < 0 || (until && !strcmp(until, obj_annotation(wanted, RBAC_EXPIRES_AT))))
        return rc;
    JSON_AUTO obj = json_deep_copy(have); /* of a release that did not write down when it ends */
    json_object_set(json_object_get(obj, "metadata"), "annotations", json_at(wanted, "metadata.annotations"));
    return client_update(r->client, &resource, obj, NULL, err);
}

static int close_it(const struct reconcile *r, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_role_binding);
    JSON_AUTO wanted = binding_of(r);
    JSON_AUTO have = NULL;
    int rc = client_get(r->client, &resource, r->ns, obj_name(wanted), &have, err);
    if (rc == 0 && obj_owned_by(have, obj_uid(r->obj)))
        rc = client_delete(r->client, &resource, r->ns, obj_name(have), obj_uid(have), err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

int grant_reconcile(void *ctx UNUSED, struct reconcile *r, struct err *err)
{
    int64_t until = 0, now = clock_wall_ms();
    if (!r->obj || obj_deleting(r->obj))
        return 0; /* its binding goes by garbage collection */
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    (void)!clock_parse(str_of(json_str_or(r->obj, "spec.expiresAt", "")), &until); /* unreadable: over, to be on the safe side */
    bool open = now < until;
    int rc = open ? open_it(r, err) : close_it(r, err);
    if (rc < 0)
        return rc;
    tenancy_condition(r->obj, "Open", open, open ? "Approved" : "Expired", open ? "by %s, until %s" : "given by %s, it ended at %s", json_str_or(r->obj, "status.approvedBy", "?"),
                      json_str_or(r->obj, "spec.expiresAt", "?"));
    if (open)
        r->requeue_ms = (uint64_t)(until - now) + 1;
    return tenancy_save_status(r, &kind_access_grant, before, err);
}
