#include "kinds/inference.h"

#define SPEC(member) offsetof(struct usage_report, spec.member) - offsetof(struct usage_report, spec)
#define STATUS(member) offsetof(struct usage_report, status.member) - offsetof(struct usage_report, status)
#define ITEM(member) offsetof(struct usage_item, member)

static const struct field cost_fields[] = {
    {.name = "currency", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "three letters, as ISO 4217 has them"},
    {.name = "amountMicros", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "in millionths of the currency's unit"},
    {0},
};
#define COST_ROW(help_) \
    {.name = "cost", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = cost_fields, .list_type = LIST_MAP, .list_key = "currency", .offset = FIELD_NO_MEMBER, .max = 1000, .help = help_}
static const struct field item_fields[] = {
    {.name = "key", .type = FIELD_STRING, .offset = ITEM(key), .help = "the APIKey"},
    {.name = "endpoint", .type = FIELD_STRING, .offset = ITEM(endpoint), .help = "the ModelEndpoint"},
    {.name = "model", .type = FIELD_STRING, .offset = ITEM(model), .help = "the served name"},
    {.name = "requests", .type = FIELD_INT, .offset = ITEM(requests), .help = "requests that were answered"},
    {.name = "failedRequests", .type = FIELD_INT, .offset = ITEM(failed_requests), .help = "requests that failed on our side"},
    {.name = "promptTokens", .type = FIELD_INT, .offset = ITEM(prompt_tokens), .help = "tokens read"},
    {.name = "cachedTokens", .type = FIELD_INT, .offset = ITEM(cached_tokens), .help = "of those, found in the engine's cache"},
    {.name = "completionTokens", .type = FIELD_INT, .offset = ITEM(completion_tokens), .help = "tokens written"},
    {.name = "hedgeLoserTokens", .type = FIELD_INT, .offset = ITEM(hedge_loser_tokens), .help = "beside what is billed: of attempts that ran beside a faster one"},
    {.name = "replayedTokens", .type = FIELD_INT, .offset = ITEM(replayed_tokens), .help = "beside what is billed: read again by engines that went on for one that failed"},
    {.name = "unseenTokens", .type = FIELD_INT, .offset = ITEM(unseen_tokens), .help = "beside what is billed: known to be made, and seen by nobody"},
    {.name = "inexactAttempts", .type = FIELD_INT, .offset = ITEM(inexact_attempts), .help = "attempts whose engine did not say what it made: of them, what came is counted"},
    COST_ROW("what they cost, where the model had a price"),
    {0},
};
static const struct field spec_fields[] = {
    {.name = "date", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_SELECTABLE, .offset = SPEC(date), .min = 10, .max = 10, .help = "the day, in UTC: 2026-11-24"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "items", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = STATUS(items), .sub = item_fields, .sub_size = sizeof(struct usage_item), .max = 100000, .help = "by key and endpoint"},
    {.name = "requests", .type = FIELD_INT, .offset = STATUS(requests), .help = "sum over the items"},
    {.name = "failedRequests", .type = FIELD_INT, .offset = STATUS(failed_requests), .help = "sum over the items"},
    {.name = "promptTokens", .type = FIELD_INT, .offset = STATUS(prompt_tokens), .help = "sum over the items"},
    {.name = "cachedTokens", .type = FIELD_INT, .offset = STATUS(cached_tokens), .help = "sum over the items"},
    {.name = "completionTokens", .type = FIELD_INT, .offset = STATUS(completion_tokens), .help = "sum over the items"},
    {.name = "hedgeLoserTokens", .type = FIELD_INT, .offset = STATUS(hedge_loser_tokens), .help = "sum over the items"},
    {.name = "replayedTokens", .type = FIELD_INT, .offset = STATUS(replayed_tokens), .help = "sum over the items"},
    {.name = "unseenTokens", .type = FIELD_INT, .offset = STATUS(unseen_tokens), .help = "sum over the items"},
    {.name = "inexactAttempts", .type = FIELD_INT, .offset = STATUS(inexact_attempts), .help = "sum over the items"},
    COST_ROW("sum over the items"),
    {.name = "updatedAt", .type = FIELD_TIME, .offset = STATUS(updated_at), .help = "when it last changed"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct usage_report, spec), .sub = spec_fields, .help = "which day"},
    {.name = "status", .type = FIELD_OBJECT, .offset = offsetof(struct usage_report, status), .sub = status_fields, .help = "what was used"},
    {0},
};
static const struct kind_column columns[] = {
    {"REQUESTS", "integer", "", "status.requests", 0, "requests that were answered"},
    {"FAILED", "integer", "", "status.failedRequests", 0, "requests that failed on our side"},
    {"PROMPT", "integer", "", "status.promptTokens", 0, "tokens read"},
    {"COMPLETION", "integer", "", "status.completionTokens", 0, "tokens written"},
    {0},
};

const struct kind kind_usage_report = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "UsageReport", .plural = "usagereports", .singular = "usagereport", .categories = "seki",
    .namespaced = true, .uncounted = true, .has_status = true, .readers = ROLE_VIEW, .fields = fields, .size = sizeof(struct usage_report), .columns = columns,
    .help = "UsageReport is what a project used on one day, derived from the usage ledger.",
};
