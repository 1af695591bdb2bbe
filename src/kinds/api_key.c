#include "base/mem.h"
#include "kinds/inference.h"

#define SPEC(member) offsetof(struct api_key, spec.member) - offsetof(struct api_key, spec)
#define STATUS(member) offsetof(struct api_key, status.member) - offsetof(struct api_key, status)

#define KEY_TEXT_MAX 64
#define KEY_HASH_MAX 65
#define PREFIX_CHARS 12
#define ENDPOINT_NAME_MAX 253

static const struct field spec_fields[] = {
    {.name = "displayName", .type = FIELD_STRING, .offset = SPEC(display_name), .max = 256, .help = "what people call it"},
    {.name = "expiresAt", .type = FIELD_TIME, .offset = SPEC(expires_at), .help = "from then on it is refused; absent: never"},
    {.name = "endpoints", .type = FIELD_LIST, .elem = FIELD_STRING, .offset = SPEC(endpoints), .list_type = LIST_SET, .max = 1000, .help = "ModelEndpoints and ModelRoutes it may call: NAME of its own project, PROJECT/NAME of one that shares it; empty: all that the project sees"},
    {.name = "disabled", .type = FIELD_BOOL, .offset = SPEC(disabled), .def = "false", .help = "refuse it for now"},
    {.name = "limits", .type = FIELD_OBJECT, .offset = SPEC(limits), .sub = rate_limit_fields, .help = "what it may use; more than its project or tenant may, it never may"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "hash", .type = FIELD_STRING, .flags = FIELD_READ_ONLY, .offset = STATUS(hash), .help = "keyed hash of the secret"},
    {.name = "prefix", .type = FIELD_STRING, .flags = FIELD_READ_ONLY, .offset = STATUS(prefix), .help = "the secret's first characters, to tell keys apart"},
    {.name = "key", .type = FIELD_STRING, .flags = FIELD_READ_ONLY | FIELD_SECRET, .offset = FIELD_NO_MEMBER, .help = "the secret: in the answer to the creation, this once"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .offset = offsetof(struct api_key, spec), .sub = spec_fields, .def = "{}", .help = "what it may do"},
    {.name = "status", .type = FIELD_OBJECT, .flags = FIELD_READ_ONLY, .offset = offsetof(struct api_key, status), .sub = status_fields, .help = "how it is recognised"},
    {0},
};
static const struct kind_column columns[] = {
    {"KEY", "string", "", "status.prefix", 0, "its first characters"},
    {"EXPIRES", "string", "", "spec.expiresAt", 0, "until when it is accepted"},
    {"RPM", "integer", "", "spec.limits.requestsPerMinute", 1, "requests that it may send a minute"},
    {"TPM", "integer", "", "spec.limits.tokensPerMinute", 1, "tokens that it may use a minute"},
    {"DISABLED", "boolean", "", "spec.disabled", 0, "whether it is refused for now"},
    {0},
};

static int admit(const struct kind_context *c, json_t *obj, const json_t *old_obj, json_t **ret_once, struct err *err)
{
    if (old_obj)
        return 0;
    if (!c->services || !c->services->make_key)
        return err_set(err, ERR_UNAVAILABLE, "this server makes no keys");
    char text[KEY_TEXT_MAX], hash[KEY_HASH_MAX];
    c->services->make_key(c->services->ctx, text, sizeof(text), hash, sizeof(hash));
    json_object_set_new(obj, "status", json_pack("{s:s, s:s#}", "hash", hash, "prefix", text, PREFIX_CHARS));
    *ret_once = json_pack("{s:{s:s}}", "status", "key", text);
    mem_wipe(text, sizeof(text));
    return 0;
}
static bool has_text(const json_t *list, const char *text)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v)
        if (!strcmp(json_string_value(v), text))
            return true;
    return false;
}
/* The gateway holds them all in memory. */
static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    char path[64];
    size_t i;
    json_t *v;
    budget_check(json_at(obj, "spec.limits"), "spec.limits", errors);
    json_array_foreach (json_at(obj, "spec.endpoints"), i, v) {
        snprintf(path, sizeof(path), "spec.endpoints[%zu]", i);
        const char *whole = json_string_value(v), *slash = strchr(whole, '/'), *name = slash ? slash + 1 : whole;
        if (strlen(name) > ENDPOINT_NAME_MAX)
            field_errors_add(errors, path, "FieldValueTooLong", "Too long: may not be more than %d bytes", ENDPOINT_NAME_MAX);
        else if (slash && !has_text(json_at(old_obj, "spec.endpoints"), whole) && (!field_dns_label(str_n(whole, (size_t)(slash - whole))) || !field_dns_name(str_of(name))))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.400s\": expected NAME of this project, or PROJECT/NAME", whole);
    }
}
static const struct kind_ops ops = {.admit = admit, .validate = validate};

const struct kind kind_api_key = {
    .content = true, .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "APIKey", .plural = "apikeys", .singular = "apikey", .categories = "seki", .namespaced = true,
    .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct api_key), .columns = columns, .ops = &ops,
    .help = "APIKey lets a program call models. Its secret is shown once, when it is made.",
};
