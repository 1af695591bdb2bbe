/* GatewayLoad of seki.cloud: a gateway tells how much is asked of the endpoints that it serves, and control answers which replicas are to be left alone. A virtual kind: nothing of it is
 * stored. What it means: inference/demand.h. Only gateways may tell (system:seki:gateway), as what one says is believed.
 */
#include "kinds/borrowed.h"
#include "kinds/inference.h"

#define ITEMS_MAX 4000

static const struct field endpoint_fields[] = {
    {.name = "namespace", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 253, .help = "of the ModelEndpoint"},
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 253, .help = "of the ModelEndpoint"},
    {.name = "held", .type = FIELD_INT, .min = 0, .help = "requests that wait because nothing serves"},
    {.name = "waiting", .type = FIELD_INT, .min = 0, .help = "requests that wait, held ones among them"},
    {.name = "running", .type = FIELD_INT, .min = 0, .help = "requests that engines work on"},
    {.name = "waitingTokens", .type = FIELD_INT, .min = 0, .help = "that are expected of those that wait"},
    {.name = "runningTokens", .type = FIELD_INT, .min = 0, .help = "that are expected of those that run"},
    {.name = "slotTokensPerMinute", .type = FIELD_INT, .min = 0, .help = "what one slot of an engine makes and reads, as measured; 0: not known"},
    {.name = "idleMilliseconds", .type = FIELD_INT, .min = 0, .help = "since the last request came or ended"},
    {0},
};
static const struct field target_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 2048, .help = "namespace and address, as asked"},
    {.name = "open", .type = FIELD_BOOL, .help = "it may still be sent requests"},
    {.name = "running", .type = FIELD_INT, .min = 0, .help = "requests that it works on"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "gateway", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .min = 1, .max = 64, .help = "of its process"},
    {.name = "endpoints", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = endpoint_fields, .max = ITEMS_MAX, .help = "those with scaling"},
    {.name = "targets", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = target_fields, .max = ITEMS_MAX, .help = "those that were asked about"},
    {0},
};
static const struct field engine_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "of the target"},
    {.name = "waiting", .type = FIELD_INT, .help = "requests in the engine's own queue"},
    {.name = "running", .type = FIELD_INT, .help = "requests that it works on, whoever sent them"},
    {.name = "kvThousandths", .type = FIELD_INT, .help = "of its memory for keys and values that are in use"},
    {.name = "ageMilliseconds", .type = FIELD_INT, .help = "since it was asked"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "leaving", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "targets that are to end: the next report says whether they are done"},
    {.name = "engines", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = engine_fields, .help = "targets where requests wait, or where memory for keys and values is scarce"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = spec_fields, .help = "what a gateway has to do"},
    {.name = "status", .type = FIELD_OBJECT, .flags = FIELD_READ_ONLY, .sub = status_fields, .help = "what it is asked"},
    {0},
};

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, false, errors);
}

static int answer(const struct kind_context *c, json_t *obj, struct err *err)
{
    json_t *status = NULL;
    if (!c->services || !c->services->load)
        return err_set(err, ERR_UNAVAILABLE, "this server scales nothing");
    int rc = c->services->load(c->services->ctx, json_object_get(obj, "spec"), &status, err);
    if (rc == 0)
        json_put(obj, "status", status);
    return rc;
}

static const struct kind_ops ops = {.validate = validate, .answer = answer};

const struct kind kind_gateway_load = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "GatewayLoad", .plural = "gatewayloads", .singular = "gatewayload", .unaudited = true, .fields = fields, .ops = &ops,
    .help = "GatewayLoad tells how much is asked of endpoints, so that engines are started and stopped as needed.",
};
