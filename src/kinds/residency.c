#include "kinds/residency.h"

#include <ctype.h>

/* The rows that a Tenant and a ResidencyPolicy share. */
#define ALLOWED_ROWS \
    {.name = "jurisdictions", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 256, .help = "countries whose law may hold where it is worked on, as in ISO 3166-1: JP; absent: any"}, \
    {.name = "sites", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 1000, .help = "Sites where it may be worked on; absent: any"}, \
    {.name = "clearances", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 64, .help = "what the site must be cleared for, all of it"}

const struct field residency_fields[] = {ALLOWED_ROWS, {0}};

static void check_country(const char *code, const char *field, struct field_errors *errors)
{
    if (code && !(isupper((unsigned char)code[0]) && isupper((unsigned char)code[1]) && !code[2]))
        field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%.64s\": expected two capital letters, as in ISO 3166-1: JP", code);
}

void residency_validate(const json_t *obj, const char *path, struct field_errors *errors)
{
    static const char *const lists[] = {"jurisdictions", "sites", "clearances"};
    char field[128];
    size_t i, said = 0;
    json_t *item;
    for (i = 0; i < ARRAY_LEN(lists); i++)
        said += json_array_size(json_object_get(obj, lists[i])) > 0;
    if (!said)
        field_errors_add(errors, path, "FieldValueRequired", "Required value: at least one of jurisdictions, sites and clearances must name something");
    json_array_foreach (json_object_get(obj, "jurisdictions"), i, item) {
        snprintf(field, sizeof(field), "%s.jurisdictions[%zu]", path, i);
        check_country(json_string_value(item), field, errors);
    }
}

/* ---- Site ---- */

static const struct field site_spec_fields[] = {
    {.name = "jurisdiction", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 2, .max = 2, .help = "the country whose law holds there, as in ISO 3166-1: JP"},
    {.name = "operator", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 128, .help = "the company that runs it"},
    {.name = "displayName", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 128, .help = "its name, for people"},
    {.name = "clearances", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 64, .help = "what it is cleared for, for example medical"},
    {.name = "servers", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 1000, .help = "servers that stand there, HOST or HOST:PORT as in the URLs of endpoints with driver openai"},
    {0},
};
static const struct field site_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = site_spec_fields, .help = "where it is"},
    {0},
};
static const struct kind_column site_columns[] = {
    {"JURISDICTION", "string", "", "spec.jurisdiction", 0, "the country whose law holds there"},
    {"OPERATOR", "string", "", "spec.operator", 0, "the company that runs it"},
    {"SERVERS", "integer", "", "count:spec.servers", 1, "how many servers elsewhere stand there"},
    {0},
};

static void site_validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    char field[64];
    size_t i;
    json_t *item;
    check_country(json_str(obj, "spec.jurisdiction"), "spec.jurisdiction", errors);
    json_array_foreach (json_at(obj, "spec.servers"), i, item) {
        const char *text = json_string_value(item);
        snprintf(field, sizeof(field), "spec.servers[%zu]", i);
        if (text && (!*text || strlen(text) > 260 || strpbrk(text, "/ @?#")))
            field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%.100s\": expected HOST or HOST:PORT", text);
    }
}
static const struct kind_ops site_ops = {.validate = site_validate};

const struct kind kind_site = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Site", .plural = "sites", .singular = "site", .categories = "seki", .fields = site_fields, .columns = site_columns, .ops = &site_ops,
    .help = "Site is a place where machines stand, under one law.",
};

/* ---- ResidencyPolicy ---- */

static const struct field policy_spec_fields[] = {
    ALLOWED_ROWS,
    {.name = "models", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 1000, .help = "names of models it is for, as requests call them; absent: all"},
    {.name = "keys", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 1000, .help = "APIKeys whose requests it is for; absent: all of the project"},
    {0},
};
static const struct field policy_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = policy_spec_fields, .help = "where the project's requests may be worked on"},
    {0},
};
static const struct kind_column policy_columns[] = {
    {"JURISDICTIONS", "string", "", "spec.jurisdictions", 0, "countries that are allowed"},
    {"SITES", "string", "", "spec.sites", 0, "sites that are allowed"},
    {"CLEARANCES", "string", "", "spec.clearances", 0, "what the site must be cleared for"},
    {"MODELS", "string", "", "spec.models", 1, "models it is for"},
    {"KEYS", "string", "", "spec.keys", 1, "keys it is for"},
    {0},
};

static void policy_validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    residency_validate(json_object_get(obj, "spec"), "spec", errors);
}
static const struct kind_ops policy_ops = {.validate = policy_validate};

const struct kind kind_residency_policy = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "ResidencyPolicy", .plural = "residencypolicies", .singular = "residencypolicy", .short_names = "rpol", .categories = "seki",
    .namespaced = true, .uncounted = true, .most = 100, .readers = ROLE_VIEW, .writers = ROLE_ADMIN, .fields = policy_fields, .columns = policy_columns, .ops = &policy_ops,
    .help = "ResidencyPolicy says at which sites a project's requests may be worked on; several, and the tenant's own, hold together.",
};
