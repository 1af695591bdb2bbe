/* AccessGrant: somebody of a tenant lets somebody who runs the cloud read what is in a project, for a purpose and until a time. The controller of tenants carries it out. */
#include "base/clock.h"
#include "kinds/tenancy.h"

#define LONGEST_MS (30LL * 24 * 3600 * 1000)

static const struct field spec_fields[] = {
    {.name = "user", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .offset = FIELD_NO_MEMBER, .min = 1, .max = 256, .help = "who may read: the name of a user of the operator"},
    {.name = "purpose", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = FIELD_NO_MEMBER, .min = 8, .max = 512, .help = "what for; it is shown to whoever asks later"},
    {.name = "expiresAt", .type = FIELD_TIME, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = FIELD_NO_MEMBER, .help = "until when; at most 30 days from now"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "approvedBy", .type = FIELD_STRING, .flags = FIELD_READ_ONLY, .offset = FIELD_NO_MEMBER, .help = "who of the tenant gave it"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "Open: whether it may be used now"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "the generation that this status is of"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = spec_fields, .help = "who may read what is in the project, what for, how long"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "who gave it, and whether it is open"},
    {0},
};
static const struct kind_column columns[] = {
    {"USER", "string", "", "spec.user", 0, "who may read"},
    {"OPEN", "string", "", "reason:Open", 0, "whether it may be used now"},
    {"EXPIRES", "string", "", "spec.expiresAt", 0, "until when"},
    {"APPROVED BY", "string", "", "status.approvedBy", 0, "who of the tenant gave it"},
    {"PURPOSE", "string", "", "spec.purpose", 1, "what for"},
    {0},
};

static int admit(const struct kind_context *c, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    if (!old_obj)
        json_put_str(obj, "status.approvedBy", c->user->name);
    return 0;
}

static void validate(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    int64_t until;
    const char *text = json_str_or(obj, "spec.expiresAt", "");
    if (old_obj || clock_parse(str_of(text), &until) < 0)
        return;
    if (until <= c->now_ms)
        field_errors_add(errors, "spec.expiresAt", "FieldValueInvalid", "Invalid value: \"%s\": this time is over", text);
    else if (until > c->now_ms + LONGEST_MS)
        field_errors_add(errors, "spec.expiresAt", "FieldValueInvalid", "Invalid value: \"%s\": at most 30 days from now", text);
}

/* It is given by the tenant, and not by him who gets it. */
static int authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    if (old_obj)
        return 0;
    if (c->access->may(c, "use", SEKI_GROUP, "tenants", "", ""))
        sbuf_addf(why, "user \"%s\" runs the cloud: an AccessGrant is given by an admin of the tenant", c->user->name);
    else if (!strcmp(c->user->name, json_str_or(obj, "spec.user", "")))
        sbuf_addf(why, "user \"%s\" cannot give it to himself", c->user->name);
    else
        return 0;
    return err_set(err, ERR_FORBIDDEN, "not the tenant");
}

static const struct kind_ops ops = {.admit = admit, .validate = validate, .authorize = authorize};

const struct kind kind_access_grant = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "AccessGrant", .plural = "accessgrants", .singular = "accessgrant", .categories = "seki", .namespaced = true,
    .has_status = true, .readers = ROLE_VIEW, .writers = ROLE_ADMIN, .fields = fields, .columns = columns, .ops = &ops,
    .help = "AccessGrant lets somebody who runs the cloud read what is in a project: for a purpose, until a time.",
};
