#include "kinds/engine_fields.h"

#define SPEC(member) offsetof(struct model_route, spec.member) - offsetof(struct model_route, spec)

static const struct field backend_fields[] = {
    {.name = "endpoint", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_DNS_NAME, .offset = offsetof(struct model_backend, endpoint), .max = 253, .ref = "ModelEndpoint", .help = "a ModelEndpoint of this namespace"},
    {.name = "weight", .type = FIELD_INT, .offset = offsetof(struct model_backend, weight), .min = 0, .max = 1000000, .def = "1", .help = "its share of the requests, in proportion to the others'; 0: none"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "servedName", .type = FIELD_STRING, .offset = SPEC(served_name), .min = 1, .max = SERVED_NAME_MAX, .help = "the name in OpenAI requests; default: the object's name. It goes before an endpoint's of this namespace"},
    {.name = "backends", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = backend_fields, .sub_size = sizeof(struct model_backend), .list_type = LIST_MAP, .list_key = "endpoint", .offset = SPEC(backends), .max = 16, .help = "the endpoints behind the name; those that do not serve get nothing"},
    {.name = "sticky", .type = FIELD_BOOL, .offset = SPEC(sticky), .help = "requests of a key whose prompts begin alike go to the same endpoint: a conversation stays where it began"},
    {.name = "visibility", .type = FIELD_ENUM, .offset = SPEC(visibility), .values = "Project|Tenants|Everyone", .def = "\"Project\"", .help = "who may call it besides its own project; beyond its tenant: only by who may `use` those tenants, as operators may; the endpoints need not be visible to them"},
    {.name = "tenants", .type = FIELD_LIST, .elem = FIELD_STRING, .offset = SPEC(tenants), .list_type = LIST_SET, .max = 1000, .help = "the tenants, for visibility Tenants"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "generation that the controller has acted on"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "Ready"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct model_route, spec), .sub = spec_fields, .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "what is"},
    {0},
};
static const struct kind_column columns[] = {
    {"BACKENDS", "integer", "", "count:spec.backends", 0, "how many endpoints are behind the name"},
    {"STATUS", "string", "", "reason:Ready", 0, "whether they serve"},
    {"SERVED", "string", "", "spec.servedName", 1, "the name in OpenAI requests"},
    {"VISIBILITY", "string", "", "spec.visibility", 1, "who may call it"},
    {0},
};

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    const json_t *spec = json_object_get(obj, "spec"), *backends = json_object_get(spec, "backends");
    int64_t total = 0;
    size_t i;
    json_t *b;
    served_names_validate(spec, json_object_get(old_obj, "spec"), errors);
    visibility_validate(spec, errors);
    json_array_foreach (backends, i, b)
        total += json_int(b, "weight", 1);
    if (!total)
        field_errors_add(errors, "spec.backends", "FieldValueInvalid", "Invalid value: at least one backend with a weight above 0 is needed: nothing would be served");
}
static const struct kind_ops ops = {.validate = validate, .authorize = visibility_authorize};

const struct kind kind_model_route = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "ModelRoute", .plural = "modelroutes", .singular = "modelroute",
    .short_names = "mroute", .categories = "seki", .namespaced = true, .has_status = true,
    .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct model_route), .columns = columns, .ops = &ops,
    .help = "ModelRoute serves ModelEndpoints under another name of the OpenAI API: as an alias, or several by weight.",
};
