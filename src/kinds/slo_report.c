#include "kinds/inference.h"

static const struct field item_fields[] = {
    {.name = "endpoint", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .max = 600, .help = "the ModelEndpoint, as PROJECT/NAME: a shared one is another project's"},
    {.name = "objective", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .values = "availability|ttft", .help = "what is promised"},
    {.name = "target", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 16, .help = "percent that is promised; where it changed within the month, of the last request"},
    {.name = "achieved", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 16, .help = "percent that was kept, rounded down"},
    {.name = "budgetLeft", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 16, .help = "percent of the requests that may be bad which are not yet; below 0: the promise is broken"},
    {.name = "requests", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "that count"},
    {.name = "budgetMillionths", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many of those may be bad, in millionths of a request: budgets of several reports may be added up"},
    {.name = "bad", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "of those, that missed it"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "month", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .offset = FIELD_NO_MEMBER, .min = 7, .max = 7, .help = "the month, in UTC: 2026-11"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "items", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = item_fields, .max = 10000, .help = "by endpoint and objective"},
    {.name = "updatedAt", .type = FIELD_TIME, .offset = FIELD_NO_MEMBER, .help = "when it last changed"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = spec_fields, .help = "which month"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "how far promises were kept"},
    {0},
};
static const struct kind_column columns[] = {
    {"MONTH", "string", "", "spec.month", 0, "the month"},
    {0},
};

const struct kind kind_slo_report = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "SLOReport", .plural = "sloreports", .singular = "sloreport", .categories = "seki",
    .namespaced = true, .uncounted = true, .has_status = true, .readers = ROLE_VIEW, .fields = fields, .columns = columns,
    .help = "SLOReport says how far the service levels that endpoints promise were kept for a project in one month, derived from the usage ledger.",
};
