/* UserRevocation: what a user had to prove who he is counts no longer. */
#include "base/clock.h"
#include "kinds/borrowed.h"

static const struct field spec_fields[] = {
    {.name = "username", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .min = 1, .max = 1024, .help = "the user, with the issuer's prefix"},
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
    {"ISSUED BEFORE", "string", "", "spec.issuedBefore", 0, "what was made before then is refused"},
    {"REASON", "string", "", "spec.reason", 1, "why"},
    {0},
};

/* Tokens know whole seconds: one that was made in this second is one of before. */
static int admit(const struct kind_context *c, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    char text[CLOCK_TEXT_MAX];
    const char *before = json_str(old_obj, "spec.issuedBefore");
    if (json_str(obj, "spec.issuedBefore") || !json_is_object(json_object_get(obj, "spec")))
        return 0;
    clock_format((c->now_ms / 1000 + 1) * 1000, text);
    json_put_str(obj, "spec.issuedBefore", before ? before : text);
    return 0;
}
static const struct kind_ops ops = {.admit = admit};

const struct kind kind_user_revocation = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "UserRevocation", .plural = "userrevocations", .singular = "userrevocation", .categories = "seki",
    .fields = fields, .columns = columns, .ops = &ops, .help = "UserRevocation ends what a user had to prove who he is: tokens and certificates that were made before it, and watches that run on them.",
};
