/* KeyRotation of seki.cloud: gives tenants new keys for what is sealed in the store, or only tells which they have. A virtual kind: nothing of it is stored. */
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

static const struct field spec_fields[] = {
    {.name = "tenant", .type = FIELD_STRING, .max = 253, .help = "whose keys; empty: everybody's"},
    {.name = "reportOnly", .type = FIELD_BOOL, .def = "false", .help = "make no keys, only tell"},
    {0},
};
static const struct field key_fields[] = {
    {.name = "tenant", .type = FIELD_STRING, .help = "whose it is"},
    {.name = "version", .type = FIELD_INT, .help = "counts the tenant's keys"},
    {.name = "created", .type = FIELD_TIME, .help = "when it was made"},
    {.name = "state", .type = FIELD_ENUM, .values = "Pending|Current|Retired|Unusable", .help = "whether it seals (Pending: it is not on the disk yet), only opens, or is not opened by the root key"},
    {.name = "objects", .type = FIELD_INT, .help = "objects that were sealed with it at the last look"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "keys", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = key_fields, .sub_size = sizeof(void *), .help = "by tenant and version"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .sub = spec_fields, .def = "{}", .help = "the wish"},
    {.name = "status", .type = FIELD_OBJECT, .flags = FIELD_READ_ONLY, .sub = status_fields, .help = "the keys, when it is done"},
    {0},
};

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, false, errors);
}

/* Beyond `create`: the verb `rotate`, or to be told `get`, on a KeyRotation named as the tenant. */
static int answer(const struct kind_context *c, json_t *obj, struct err *err)
{
    const char *tenant = json_str_or(obj, "spec.tenant", "");
    bool rotate = !json_flag(obj, "spec.reportOnly", false);
    struct kind_action a = {.verb = rotate ? "rotate" : "get", .group = SEKI_GROUP, .resource = "keyrotations", .subresource = "", .namespace = "", .name = tenant};
    json_t *keys = NULL;
    if (!c->server->allows(c->server->ctx, c->user, &a)) {
        c->access->about(c, &kind_tenant, tenant);
        return err_set(err, ERR_FORBIDDEN, "keyrotations.seki.cloud is forbidden: User \"%s\" cannot %s the keys of %s%s%s", c->user->name, a.verb, *tenant ? "tenant \"" : "all tenants", tenant,
                       *tenant ? "\"" : "");
    }
    int rc = c->server->keys(c->server->ctx, c->asker, tenant, rotate, &keys, err);
    if (rc == 0)
        json_put(obj, "status", json_pack("{s:o}", "keys", keys));
    return rc;
}

static const struct kind_ops ops = {.validate = validate, .answer = answer};

const struct kind kind_key_rotation = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "KeyRotation", .plural = "keyrotations", .singular = "keyrotation", .fields = fields, .ops = &ops,
    .help = "KeyRotation gives tenants new keys for secrets in the store; what older keys sealed is sealed anew in the background.",
};
