/* UserRevocation: what a user had to prove who he is counts no longer. */
#include "base/clock.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

static const struct field spec_fields[] = {
    {.name = "username", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .min = 1, .max = 1024, .help = "the user, with the issuer's prefix"},
    {.name = "tenant", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE | FIELD_SELECTABLE, .max = 253, .help = "only while this user is one of this tenant's; absent: wherever he belongs. Admins of a tenant say theirs"},
    {.name = "issuedBefore", .type = FIELD_TIME, .help = "tokens and certificates made before then are refused; absent at creation: now"},
    {.name = "reason", .type = FIELD_STRING, .max = 1024, .help = "why, for those who read it later"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = spec_fields, .help = "who is refused"},
    {0},
};
static const struct kind_column columns[] = {
    {"USER", "string", "", "spec.username", 0, "who is refused"},
    {"TENANT", "string", "", "spec.tenant", 0, "as whose user; empty: as anybody's"},
    {"ISSUED BEFORE", "string", "", "spec.issuedBefore", 0, "what was made before then is refused"},
    {"REASON", "string", "", "spec.reason", 1, "why"},
    {0},
};

/* The label says whose it is, and so who may see it; it goes with the tenant. */
static void label(const struct kind_context *c, json_t *obj, const char *tenant, bool fresh)
{
    json_t *meta = json_object_get(obj, "metadata"), *labels = json_object_get(meta, "labels");
    JSON_AUTO owner = *tenant && fresh ? c->server->get(c->server->ctx, &kind_tenant, "", tenant) : NULL;
    if (!*tenant) {
        json_object_del(labels, LABEL_TENANT);
        return;
    }
    if (!labels)
        json_object_set_new(meta, "labels", json_pack("{s:s}", LABEL_TENANT, tenant));
    else if (json_is_object(labels))
        json_object_set_new(labels, LABEL_TENANT, json_string(tenant));
    if (owner && !obj_owned_by(obj, obj_uid(owner)))
        obj_add_owner(obj, owner);
}

/* Tokens know whole seconds: one that was made in this second is one of before. */
static int admit(const struct kind_context *c, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    char text[CLOCK_TEXT_MAX];
    const char *before = json_str(old_obj, "spec.issuedBefore");
    if (!json_is_object(json_object_get(obj, "spec")))
        return 0;
    label(c, obj, json_str_or(obj, "spec.tenant", ""), !old_obj);
    if (json_str(obj, "spec.issuedBefore"))
        return 0;
    clock_format((c->now_ms / 1000 + 1) * 1000, text);
    json_put_str(obj, "spec.issuedBefore", before ? before : text);
    return 0;
}

/* Beyond the verb on the object: `revoke` on UserRevocations of that tenant; of everybody, without a name. */
static int authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    const char *tenant = json_str_or(obj, "spec.tenant", "");
    bool may = c->access->may(c, "revoke", SEKI_GROUP, "userrevocations", "", tenant);
    JSON_AUTO found = may && *tenant && !old_obj ? c->server->get(c->server->ctx, &kind_tenant, "", tenant) : NULL;
    if (may && *tenant && !old_obj && !found)
        return err_field(err, ERR_INVALID, "spec.tenant", "Invalid value: \"%s\": there is no such tenant", tenant);
    if (may && !old_obj && *tenant && !tenant_owns_name(tenant, obj_name(obj)) && !c->access->may(c, "revoke", SEKI_GROUP, "userrevocations", "", "")) {
        sbuf_addf(why, "UserRevocations of tenant \"%s\" are called \"%s-\u2026\" (rule RevocationNames): choose such a name, or ask the operator of this cloud", tenant, tenant);
        return err_set(err, ERR_FORBIDDEN, "not a name of this tenant");
    }
    if (may)
        return 0;
    if (*tenant) {
        c->access->about(c, &kind_tenant, tenant);
        sbuf_addf(why, "user \"%s\" may not end access of the people of tenant \"%s\" (spec.tenant): ask its admins", c->user->name, tenant);
    } else {
        sbuf_addf(why, "user \"%s\" may end access of the people of a tenant only: say of which with spec.tenant", c->user->name);
    }
    return err_set(err, ERR_FORBIDDEN, "not this tenant");
}

static const struct kind_ops ops = {.admit = admit, .authorize = authorize};

const struct kind kind_user_revocation = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "UserRevocation", .plural = "userrevocations", .singular = "userrevocation", .categories = "seki", .of_tenants = true, .listed_by_tenant = true,
    .fields = fields, .columns = columns, .ops = &ops, .help = "UserRevocation ends what a user had to prove who he is: tokens and certificates that were made before it, and watches that run on them.",
};
