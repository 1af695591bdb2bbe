/* Limit: how many objects a project may have, and how much it may send to models, narrower than its tenant's limits. The apiserver counts objects and refuses (kind_ops.limits), and says in
 * status what is used; the gateway counts requests and tokens (gateway/limits.h).
 *
 * The plural is projectlimits: `limits` is the short name of Kubernetes' LimitRange, and a client that asks for that must not get this.
 */
#include "kinds/rate_limits.h"
#include "kinds/tenancy.h"

const struct field limit_count_fields[] = {
    {.name = "resource", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = 253, .help = "a plural name with its group, such as secrets or modelendpoints.seki.cloud"},
    {.name = "max", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 0, .max = 100000000, .help = "how many objects of it there may be"},
    {0},
};
static const struct field used_count_fields[] = {
    {.name = "resource", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = 253, .help = "a plural name with its group"},
    {.name = "used", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many objects of it there are"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "objects", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = LIMIT_OBJECTS_MIN, .max = 100000000, .help = "how many objects the project may have, of all kinds together but Events, Leases, UsageReports and SLOReports"},
    {.name = "counts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = limit_count_fields, .list_type = LIST_MAP, .list_key = "resource", .offset = FIELD_NO_MEMBER, .max = LIMIT_COUNTS_MAX, .help = "how many objects of single kinds it may have"},
    RATE_LIMIT_ROWS(FIELD_NO_MEMBER),
    {0},
};
static const struct field used_fields[] = {
    {.name = "objects", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many objects the project has"},
    {.name = "counts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = used_count_fields, .list_type = LIST_MAP, .list_key = "resource", .offset = FIELD_NO_MEMBER, .help = "of each kind that something limits"},
    {0},
};
static const struct field effective_fields[] = {
    {.name = "objects", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many objects the project may have"},
    {.name = "counts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = limit_count_fields, .list_type = LIST_MAP, .list_key = "resource", .offset = FIELD_NO_MEMBER, .help = "of each kind that something limits"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "used", .type = FIELD_OBJECT, .sub = used_fields, .offset = FIELD_NO_MEMBER, .help = "what there is, a second ago"},
    {.name = "effective", .type = FIELD_OBJECT, .sub = effective_fields, .offset = FIELD_NO_MEMBER, .help = "what holds: the tightest of this, the project's other Limits, the tenant's and the cloud's"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "the generation that this status is of"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "Effective: whether its numbers hold, or tighter ones"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = spec_fields, .def = "{}", .help = "how much the project may have"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "how much it has, and what holds"},
    {0},
};
static const struct kind_column columns[] = {
    {"OBJECTS", "string", "", "ready:status.used.objects,status.effective.objects", 0, "how many objects the project has, of how many it may have"},
    {"EFFECTIVE", "string", "", "reason:Effective", 0, "whether its numbers hold, or tighter ones"},
    {"RPM", "integer", "", "spec.requestsPerMinute", 1, "requests that the project may send to models a minute"},
    {"TPM", "integer", "", "spec.tokensPerMinute", 1, "tokens that it may use a minute"},
    {"COUNTS", "integer", "", "count:spec.counts", 1, "how many kinds it limits"},
    {0},
};

void limit_each_number(const json_t *numbers, void (*fn)(void *arg, const char *resource, int64_t max), void *arg)
{
    size_t i;
    json_t *c, *objects = json_object_get(numbers, "objects");
    if (json_is_integer(objects))
        fn(arg, "", json_integer_value(objects));
    json_array_foreach (json_object_get(numbers, "counts"), i, c)
        if (json_is_integer(json_object_get(c, "max")))
            fn(arg, json_str_or(c, "resource", "?"), json_int(c, "max", 0));
}

void limit_check_resources(const json_t *numbers, const char *path, struct field_errors *errors)
{
    size_t i;
    json_t *c;
    json_array_foreach (json_object_get(numbers, "counts"), i, c) {
        char field[96];
        const char *resource = json_str_or(c, "resource", "");
        const struct kind *k = kind_by_resource(resource);
        snprintf(field, sizeof(field), "%s.counts[%zu].resource", path, i);
        if (!k || !k->namespaced)
            field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%.253s\": expected what projects have, such as secrets or modelendpoints.seki.cloud", resource);
    }
}

/* ---- no wider than what is above ---- */

static int64_t number_in(const json_t *obj, const char *resource)
{
    size_t i;
    json_t *c;
    const json_t *objects = json_at(obj, "spec.objects");
    if (!*resource)
        return json_is_integer(objects) ? json_integer_value(objects) : -1;
    json_array_foreach (json_at(obj, "spec.counts"), i, c)
        if (!strcmp(json_str_or(c, "resource", ""), resource))
            return json_int(c, "max", -1);
    return -1;
}

/* What stood there before stays, though what is above was lowered meanwhile: the tighter holds, and status says so. */
static void check_width(const struct kind_context *c, const json_t *old_obj, const char *field, const char *resource, int64_t max, struct field_errors *errors)
{
    const char *by = "";
    int64_t most = c->server && c->server->ceiling ? c->server->ceiling(c->server->ctx, c->arena, c->namespace, resource, &by) : INT64_MAX;
    if (max > most && !(old_obj && number_in(old_obj, resource) == max))
        field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: %lld: must be at most %lld, which %s allows a project; a Limit can only narrow that: ask the operator of this cloud", (long long)max,
                         (long long)most, by);
}

static void validate(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    size_t i;
    json_t *count;
    limit_check_resources(json_object_get(obj, "spec"), "spec", errors);
    budget_check(json_object_get(obj, "spec"), "spec", errors);
    if (json_at(obj, "spec.objects"))
        check_width(c, old_obj, "spec.objects", "", number_in(obj, ""), errors);
    json_array_foreach (json_at(obj, "spec.counts"), i, count) {
        char field[64];
        snprintf(field, sizeof(field), "spec.counts[%zu].max", i);
        check_width(c, old_obj, field, json_str_or(count, "resource", ""), json_int(count, "max", 0), errors);
    }
}

static void limits(const json_t *obj, void (*fn)(void *arg, const char *resource, int64_t max), void *arg)
{
    limit_each_number(json_object_get(obj, "spec"), fn, arg);
}

static const struct kind_ops ops = {.validate = validate, .limits = limits};

const struct kind kind_limit = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Limit", .plural = "projectlimits", .singular = "limit", .short_names = "plim", .categories = "seki", .namespaced = true,
    .has_status = true, .uncounted = true, .most = 32, .readers = ROLE_VIEW, .writers = ROLE_ADMIN, .fields = fields, .columns = columns, .ops = &ops,
    .help = "Limit says how much a project may have; the tightest of several holds, and none is wider than the tenant's.",
};
