#include "kinds/engine_fields.h"

#define SPEC(member) offsetof(struct model_replica, spec.member) - offsetof(struct model_replica, spec)
#define STATUS(member) offsetof(struct model_replica, status.member) - offsetof(struct model_replica, status)

static const struct field spec_fields[] = {
    {.name = "endpoint", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .offset = SPEC(endpoint), .ref = "ModelEndpoint", .help = "the endpoint it belongs to"},
    {.name = "ordinal", .type = FIELD_INT, .flags = FIELD_IMMUTABLE, .offset = SPEC(ordinal), .min = 0, .max = 999, .help = "which of the endpoint's replicas"},
    {.name = "model", .type = FIELD_STRING, .offset = SPEC(model), .ref = "Model", .help = "the Model it runs"},
    {.name = "servedName", .type = FIELD_STRING, .offset = SPEC(served_name), .help = "the name in OpenAI requests"},
    {.name = "adapters", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = SPEC(adapters), .sub = adapter_fields, .sub_size = sizeof(struct model_adapter), .list_type = LIST_MAP, .list_key = "name", .max = 16, .help = "LoRA adapters that are loaded besides"},
    {.name = "engine", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = SPEC(engine), .sub = engine_fields, .sub_size = sizeof(struct engine_spec), .def = "{}", .help = "how the engine runs"},
    {.name = "startTimeoutSeconds", .type = FIELD_INT, .offset = SPEC(start_timeout_seconds), .min = 1, .max = 86400, .def = "300", .help = "longest time until it must be ready"},
    {0},
};
static const struct field counters_fields[] = {
    {.name = "atMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "when it was asked, since 1970-01-01 UTC"},
    {.name = "tookMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how long that took"},
    {.name = "engineNumber", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "another one: counters began anew, or are compared anew"},
    {.name = "requestsRunning", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "requests that it worked on; -1: it does not say"},
    {.name = "tokensRead", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "tokens of prompts, without those of our own probes"},
    {.name = "tokensWritten", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "tokens of answers, likewise"},
    {.name = "countsCached", .type = FIELD_BOOL, .offset = FIELD_NO_MEMBER, .help = "tokens read have those that were found in its cache"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "address", .type = FIELD_STRING, .offset = STATUS(address), .help = "where the engine listens, once it serves; another than follows from the spec is not believed"},
    {.name = "basePath", .type = FIELD_STRING, .offset = STATUS(base_path), .help = "prefix of the OpenAI paths there"},
    {.name = "engineModel", .type = FIELD_STRING, .offset = STATUS(engine_model), .help = "the model's name there"},
    {.name = "secretVersion", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "driver openai: version of the Secret whose key is in use"},
    {.name = "pid", .type = FIELD_INT, .offset = STATUS(pid), .help = "the engine's process"},
    {.name = "restarts", .type = FIELD_INT, .offset = STATUS(restarts), .help = "how often it was started again"},
    {.name = "slots", .type = FIELD_INT, .offset = STATUS(slots), .help = "requests it works on at a time"},
    {.name = "loadMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from its start until it served"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_NULLABLE, .offset = FIELD_NO_MEMBER, .help = "when the engine's process was started"},
    {.name = "counters", .type = FIELD_OBJECT, .sub = counters_fields, .offset = FIELD_NO_MEMBER, .help = "what the engine itself says it has done, at times; usage is compared with it"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "generation that the controller has acted on"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "ModelVerified, EngineStarted, Ready"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct model_replica, spec), .sub = spec_fields, .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = offsetof(struct model_replica, status), .sub = status_fields, .help = "what is"},
    {0},
};
static const struct kind_column columns[] = {
    {"ENDPOINT", "string", "", "spec.endpoint", 0, "the endpoint it belongs to"},
    {"READY", "string", "", "condition:Ready", 0, "whether it serves"},
    {"STATUS", "string", "", "reason:Ready", 0, "why it is ready or not"},
    {"RESTARTS", "integer", "", "status.restarts", 0, "how often it was started again"},
    {"PID", "integer", "", "status.pid", 1, "the engine's process"},
    {"ADDRESS", "string", "", "status.address", 1, "where it listens"},
    {0},
};
static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    engine_validate(json_object_get(obj, "spec"), "spec", errors);
    adapters_validate(json_object_get(obj, "spec"), "spec", errors);
}
static const struct kind_ops ops = {.validate = validate};

const struct kind kind_model_replica = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "ModelReplica", .plural = "modelreplicas", .singular = "modelreplica",
    .short_names = "mr", .categories = "seki", .namespaced = true, .has_status = true,
    .readers = ROLE_VIEW, .fields = fields, .size = sizeof(struct model_replica), .columns = columns, .ops = &ops,
    .help = "ModelReplica is one running engine of a ModelEndpoint; its controller makes and removes it.",
};
