/* What the gateway lets somebody send: members of APIKey's spec.limits, of Limit's spec and of Tenant's spec.limits. */
#ifndef SEKI_KINDS_RATE_LIMITS_H
#define SEKI_KINDS_RATE_LIMITS_H

#include "json/table.h"

/* 0, or absent: any number. */
struct rate_limits {
    int64_t requests_per_minute, tokens_per_minute, concurrent_requests;
};
/* A budget of money, beside them: {amountMicros, currency, period}. It is read from documents, not from structs. */
#define BUDGET_ROW \
    {.name = "budget", .type = FIELD_OBJECT, .sub = budget_fields, .offset = FIELD_NO_MEMBER, .help = "how much money may be spent on models in a period; a model without a price is refused then"}
/* Rows of a table; at: the offset of its struct rate_limits, FIELD_NO_MEMBER when it has none. */
#define RATE_LIMIT_ROW(name_, at, member, max_, help_) \
    {.name = name_, .type = FIELD_INT, .offset = (at) == FIELD_NO_MEMBER ? FIELD_NO_MEMBER : (at) + offsetof(struct rate_limits, member), .min = 1, .max = max_, .help = help_}
#define RATE_LIMIT_ROWS(at) \
    RATE_LIMIT_ROW("requestsPerMinute", at, requests_per_minute, 1000000000, "requests to models a minute; at most so many at once after a pause. Absent: any number"), \
    RATE_LIMIT_ROW("tokensPerMinute", at, tokens_per_minute, 10000000000, "tokens a minute, of prompts and answers together. Absent: any number"), \
    RATE_LIMIT_ROW("concurrentRequests", at, concurrent_requests, 1000000, "requests to models that run or wait at the same time. Absent: any number"), \
    BUDGET_ROW

extern const struct field rate_limit_fields[], budget_fields[];
/* path: of the object that has the budget. */
void budget_check(const json_t *obj, const char *path, struct field_errors *errors);
/* From a document's object that has these members; what is no sound number is none. */
void rate_limits_read(const json_t *obj, struct rate_limits *ret);
/* Of each, the tighter. */
void rate_limits_narrow(struct rate_limits *r, const struct rate_limits *by);

#endif
