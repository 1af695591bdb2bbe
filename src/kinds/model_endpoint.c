#include "kinds/engine_fields.h"
#include "kinds/slo.h"

#define ENGINE(member) offsetof(struct engine_spec, member)

const struct field engine_fields[] = {
    {.name = "driver", .type = FIELD_ENUM, .offset = ENGINE(driver), .values = "llamacpp|openai|vllm|sglang|fake", .def = "\"llamacpp\"",
     .help = "what runs the model: llama.cpp or vLLM on this machine, a remote server (openai: any OpenAI-compatible one; vllm and sglang: one of those), or a fake for tests"},
    {.name = "contextLength", .type = FIELD_INT, .offset = ENGINE(context_length), .min = 64, .max = 1048576, .def = "2048", .help = "tokens of context for each request"},
    {.name = "parallel", .type = FIELD_INT, .offset = ENGINE(parallel), .min = 1, .max = 256, .def = "4", .help = "requests worked on at a time"},
    {.name = "embeddings", .type = FIELD_BOOL, .offset = ENGINE(embeddings), .def = "false", .help = "serve embeddings instead of text"},
    {.name = "rerank", .type = FIELD_BOOL, .offset = ENGINE(rerank), .help = "score documents by a query (/v1/rerank) instead of serving text"},
    {.name = "threads", .type = FIELD_INT, .offset = ENGINE(threads), .min = 0, .max = 1024, .def = "0", .help = "CPU threads; 0: the engine decides"},
    {.name = "url", .type = FIELD_STRING, .offset = ENGINE(url), .max = 2048, .help = "drivers openai, vllm, sglang: base URL of the server, for example https://models.example.com/v1; other than public https needs the operator's option engine-remote-allow"},
    {.name = "remoteModel", .type = FIELD_STRING, .offset = ENGINE(remote_model), .max = 256, .help = "a server elsewhere: the model's name there; default: the served name"},
    {.name = "maxConcurrentRequests", .type = FIELD_INT, .offset = ENGINE(max_concurrent_requests), .min = 1, .max = 100000,
     .help = "a server elsewhere: requests that it is sent at a time; more wait in the gateway, in fair order; default: any number"},
    {.name = "secret", .type = FIELD_STRING, .flags = FIELD_DNS_NAME, .offset = ENGINE(secret), .max = 253, .ref = "Secret", .help = "a server elsewhere: Secret with the server's key under apiKey"},
    {.name = "options", .type = FIELD_MAP, .offset = ENGINE(options), .max = 64, .help = "driver vllm: flags of its command line, for example tensorParallelSize: \"2\"; driver fake: its behaviour"},
    {0},
};

#define OPTION_NAME_MAX 63
#define OPTION_VALUE_MAX 256

/* Each replica has a copy of them. */
static void check_options(const json_t *options, const char *path, struct field_errors *errors)
{
    char field[160];
    const char *key;
    json_t *v;
    snprintf(field, sizeof(field), "%s.engine.options", path);
    json_object_foreach ((json_t *)(uintptr_t)options, key, v)
        if (strlen(key) > OPTION_NAME_MAX || json_string_length(v) > OPTION_VALUE_MAX)
            field_errors_add(errors, field, "FieldValueTooLong", "Too long: \"%.64s\": an option has a name of at most %d bytes, and at most %d bytes", key, OPTION_NAME_MAX, OPTION_VALUE_MAX);
}

static void check_url(const char *url, const char *field, struct field_errors *errors)
{
    if (url && *url && strncmp(url, "http://", 7) && strncmp(url, "https://", 8) && strncmp(url, "unix:/", 6))
        field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%s\": must begin with http://, https:// or unix:/", url);
}

void engine_validate(const json_t *spec, const char *path, struct field_errors *errors)
{
    const char *driver = json_str_or(spec, "engine.driver", "llamacpp"), *url = json_str(spec, "engine.url");
    const char *model = json_str(spec, "model");
    char field[160];
    check_options(json_at(spec, "engine.options"), path, errors);
    if (json_flag(spec, "engine.embeddings", false) && json_flag(spec, "engine.rerank", false)) {
        snprintf(field, sizeof(field), "%s.engine.rerank", path);
        field_errors_add(errors, field, "FieldValueForbidden", "Forbidden: an engine serves embeddings or scores documents, not both; make an endpoint for each");
    }
    bool elsewhere = (url && *url) || json_array_size(json_object_get(spec, "servers"));
    if ((!strcmp(driver, "llamacpp") || (!strcmp(driver, "vllm") && !elsewhere)) && (!model || !*model)) {
        snprintf(field, sizeof(field), "%s.model", path);
        field_errors_add(errors, field, "FieldValueRequired", "Required value: driver %s runs a Model", driver);
    }
    snprintf(field, sizeof(field), "%s.engine.url", path);
    if ((!strcmp(driver, "openai") || !strcmp(driver, "sglang")) && !elsewhere)
        field_errors_add(errors, field, "FieldValueRequired", "Required value: driver %s needs the server's base URL", driver);
    check_url(url, field, errors);
}

#define SPEC(member) offsetof(struct model_endpoint, spec.member) - offsetof(struct model_endpoint, spec)
#define STATUS(member) offsetof(struct model_endpoint, status.member) - offsetof(struct model_endpoint, status)

const struct field adapter_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = offsetof(struct model_adapter, name), .min = 1, .max = 200, .help = "the name in OpenAI requests"},
    {.name = "model", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_DNS_NAME, .offset = offsetof(struct model_adapter, model), .max = 253, .ref = "Model", .help = "a Model of this namespace that is the adapter"},
    {0},
};

void adapters_validate(const json_t *spec, const char *path, struct field_errors *errors)
{
    const char *driver = json_str_or(spec, "engine.driver", "llamacpp"), *url = json_str_or(spec, "engine.url", "");
    char field[64];
    if (!json_array_size(json_object_get(spec, "adapters")))
        return;
    snprintf(field, sizeof(field), "%s.adapters", path);
    if ((strcmp(driver, "llamacpp") && strcmp(driver, "vllm")) || *url)
        field_errors_add(errors, field, "FieldValueForbidden", "Forbidden: only with drivers llamacpp and vllm, on this machine; an adapter that a server elsewhere has is an endpoint with its name as engine.remoteModel");
    else if (json_flag(spec, "engine.embeddings", false) || json_flag(spec, "engine.rerank", false))
        field_errors_add(errors, field, "FieldValueForbidden", "Forbidden: only where text is served");
}

static const struct field server_fields[] = {
    {.name = "url", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = 0, .min = 1, .max = 2048, .help = "its base URL, as engine.url"},
    {0},
};
static const struct field scaling_fields[] = {
    {.name = "minReplicas", .type = FIELD_INT, .offset = offsetof(struct endpoint_scaling, min_replicas), .min = 0, .max = 1000, .def = "1", .help = "never fewer; 0: none while nobody asks, and the next request starts one"},
    {.name = "maxReplicas", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = offsetof(struct endpoint_scaling, max_replicas), .min = 1, .max = 1000, .help = "never more"},
    {.name = "idleSeconds", .type = FIELD_INT, .offset = offsetof(struct endpoint_scaling, idle_seconds), .min = 1, .max = 604800, .def = "300", .help = "with minReplicas 0: how long after the last request the engines stop"},
    {.name = "targetQueueSeconds", .type = FIELD_INT, .offset = offsetof(struct endpoint_scaling, target_queue_seconds), .min = 1, .max = 3600, .def = "5", .help = "how long what waits may take; more engines are started when it would take longer"},
    {.name = "scaleDownSeconds", .type = FIELD_INT, .offset = offsetof(struct endpoint_scaling, scale_down_seconds), .min = 1, .max = 86400, .def = "300", .help = "engines are stopped when they were not needed for so long"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "model", .type = FIELD_STRING, .flags = FIELD_DNS_NAME, .offset = SPEC(model), .max = 253, .ref = "Model", .help = "the Model of this namespace that is served"},
    {.name = "servedName", .type = FIELD_STRING, .offset = SPEC(served_name), .min = 1, .max = SERVED_NAME_MAX, .help = "the name in OpenAI requests; default: the object's name"},
    {.name = "replicas", .type = FIELD_INT, .offset = SPEC(replicas), .min = 0, .max = 1000, .def = "1", .help = "engines that should run; with scaling, the scaler sets it"},
    {.name = "scaling", .type = FIELD_OBJECT, .flags = FIELD_POINTER, .offset = SPEC(scaling), .sub = scaling_fields, .sub_size = sizeof(struct endpoint_scaling), .help = "sets replicas by what is asked of the endpoint; absent: whoever writes replicas decides"},
    {.name = "engine", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = SPEC(engine), .sub = engine_fields, .sub_size = sizeof(struct engine_spec), .def = "{}", .help = "how each engine runs"},
    {.name = "servers", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = SPEC(servers), .sub = server_fields, .sub_size = sizeof(const char *), .list_type = LIST_MAP, .list_key = "url", .max = 1000,
     .help = "a server elsewhere: several servers of the same model instead of engine.url; replica N is the Nth of them, so as many replicas as servers use all"},
    {.name = "adapters", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = SPEC(adapters), .sub = adapter_fields, .sub_size = sizeof(struct model_adapter), .list_type = LIST_MAP, .list_key = "name", .max = 16,
     .help = "LoRA adapters of the model that are served beside it, each under its own name"},
    {.name = "maxSurge", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = 0, .max = 1000,
     .help = "when model or settings change: how many engines may run beside those that they replace; 0: each ends its requests, then starts anew in its place; default: 1"},
    {.name = "visibility", .type = FIELD_ENUM, .offset = SPEC(visibility), .values = "Project|Tenants|Everyone", .def = "\"Project\"", .help = "who may call it besides its own project; beyond its tenant: only by who may `use` those tenants, as operators may"},
    {.name = "tenants", .type = FIELD_LIST, .elem = FIELD_STRING, .offset = SPEC(tenants), .list_type = LIST_SET, .max = 1000, .help = "the tenants, for visibility Tenants"},
    {.name = "startTimeoutSeconds", .type = FIELD_INT, .offset = SPEC(start_timeout_seconds), .min = 1, .max = 86400, .def = "300", .help = "longest time until a replica must be ready"},
    {.name = "slo", .type = FIELD_OBJECT, .sub = slo_fields, .offset = FIELD_NO_MEMBER, .help = "service levels that are promised to callers: measured, and reported each month in SLOReports"},
    {0},
};
static const struct field load_sample_fields[] = {
    {.name = "replica", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 128, .offset = FIELD_NO_MEMBER, .help = "which one, and when it was started"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from its start until it served"},
    {0},
};
static const struct field load_fields[] = {
    {.name = "lastMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "of the last engine that was started"},
    {.name = "medianMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "of the last nine: what held requests are told"},
    {.name = "samples", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = load_sample_fields, .list_type = LIST_MAP, .list_key = "replica", .offset = FIELD_NO_MEMBER, .max = 16, .help = "the last nine"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "replicas", .type = FIELD_INT, .offset = STATUS(replicas), .help = "replicas that exist"},
    {.name = "readyReplicas", .type = FIELD_INT, .offset = STATUS(ready_replicas), .help = "replicas that serve"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = STATUS(observed_generation), .help = "generation that the controller has acted on"},
    {.name = "load", .type = FIELD_OBJECT, .sub = load_fields, .offset = FIELD_NO_MEMBER, .help = "how long its engines take until they serve, as measured"},
    {.name = "selector", .type = FIELD_STRING, .offset = STATUS(selector), .help = "labels of its replicas, for autoscalers"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = 0, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "ModelVerified, EngineStarted, Ready, and with scaling ScalingActive"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct model_endpoint, spec), .sub = spec_fields, .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = offsetof(struct model_endpoint, status), .sub = status_fields, .help = "what is"},
    {0},
};
static const struct kind_column columns[] = {
    {"MODEL", "string", "", "spec.model", 0, "the Model"},
    {"READY", "string", "", "ready:status.readyReplicas,spec.replicas", 0, "replicas that serve, of those wanted"},
    {"STATUS", "string", "", "reason:Ready", 0, "why it is ready or not"},
    {"DRIVER", "string", "", "spec.engine.driver", 1, "what runs it"},
    {"VISIBILITY", "string", "", "spec.visibility", 1, "who may call it"},
    {0},
};

static void check_scaling(const json_t *spec, struct field_errors *errors)
{
    int64_t least = json_int(spec, "scaling.minReplicas", 1), most = json_int(spec, "scaling.maxReplicas", INT64_MAX);
    if (!json_object_get(spec, "scaling"))
        return;
    if (least > most)
        field_errors_add(errors, "spec.scaling.minReplicas", "FieldValueInvalid", "Invalid value: %lld: must not be more than maxReplicas, which is %lld", (long long)least, (long long)most);
    const char *driver = json_str_or(spec, "engine.driver", "llamacpp");
    if (strcmp(driver, "llamacpp") != 0 && strcmp(driver, "fake") != 0)
        field_errors_add(errors, "spec.scaling", "FieldValueForbidden", "Forbidden: driver %s starts no engines: there is nothing to scale", driver);
}

static void check_servers(const json_t *spec, struct field_errors *errors)
{
    const char *url = json_str(spec, "engine.url");
    char path[64];
    size_t i;
    json_t *server;
    if (!json_array_size(json_object_get(spec, "servers")))
        return;
    const char *driver = json_str_or(spec, "engine.driver", "llamacpp");
    if (!strcmp(driver, "llamacpp") || !strcmp(driver, "fake"))
        field_errors_add(errors, "spec.servers", "FieldValueForbidden", "Forbidden: only with drivers openai, vllm and sglang");
    if (url && *url)
        field_errors_add(errors, "spec.servers", "FieldValueForbidden", "Forbidden: beside spec.engine.url; put that one into the list");
    json_array_foreach (json_object_get(spec, "servers"), i, server) {
        snprintf(path, sizeof(path), "spec.servers[%zu].url", i);
        check_url(json_str(server, "url"), path, errors);
    }
}

static void check_adapter_names(const json_t *obj, struct field_errors *errors)
{
    const char *served = json_str(obj, "spec.servedName"), *name = served && *served ? served : obj_name(obj);
    char path[64];
    size_t i;
    json_t *adapter;
    json_array_foreach (json_at(obj, "spec.adapters"), i, adapter) {
        snprintf(path, sizeof(path), "spec.adapters[%zu].name", i);
        if (name && !strcmp(json_str_or(adapter, "name", ""), name))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%s\": is the endpoint's own name", name);
    }
}

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    const json_t *spec = json_object_get(obj, "spec");
    served_names_validate(spec, json_object_get(old_obj, "spec"), errors);
    engine_validate(spec, "spec", errors);
    check_servers(spec, errors);
    adapters_validate(spec, "spec", errors);
    check_adapter_names(obj, errors);
    check_scaling(spec, errors);
    slo_validate(spec, errors);
    visibility_validate(spec, errors);
}
/* Where its engines will stand: its servers, or this cloud. */
static void warn(const struct kind_context *c, const json_t *obj, struct field_errors *warnings)
{
    const json_t *servers = json_at(obj, "spec.servers"), *server;
    const char *url = json_str_or(obj, "spec.engine.url", ""), *served = json_str(obj, "spec.servedName");
    const char **addresses = ARENA_ARRAY(c->arena, const char *, json_array_size(servers) + 2);
    size_t i;
    addresses[0] = strncmp(url, "unix:", 5) ? url : "";
    json_array_foreach (servers, i, server)
        addresses[i] = json_str_or(server, "url", "");
    const char *keys = NULL, *rule = c->server->barred(c->server->ctx, c->arena, c->namespace, served && *served ? served : obj_name(obj), addresses, &keys);
    if (rule && keys)
        field_errors_add(warnings, "spec", "Residency", "no request of project %s with the API keys %s can reach this endpoint: it stands at no site that %s allows", c->namespace, keys, rule);
    else if (rule)
        field_errors_add(warnings, "spec", "Residency", "no request of project %s can reach this endpoint: it stands at no site that %s allows", c->namespace, rule);
}
static const struct kind_ops ops = {.validate = validate, .authorize = visibility_authorize, .warn = warn};

const struct kind kind_model_endpoint = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "ModelEndpoint", .plural = "modelendpoints", .singular = "modelendpoint",
    .short_names = "mep", .categories = "seki", .namespaced = true, .has_status = true, .has_scale = true,
    .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct model_endpoint), .columns = columns, .ops = &ops,
    .help = "ModelEndpoint serves a Model under a name of the OpenAI API, on as many engines as wanted.",
};
