#include "kinds/rate_limits.h"

#include "ledger/price.h"

const struct field budget_fields[] = {
    {.name = "amountMicros", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 0, .max = AMOUNT_MICROS_MAX, .help = "in millionths of the currency's unit: 50000000 is 50 EUR"},
    {.name = "currency", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 3, .max = 3, .help = "three capital letters, as ISO 4217 has them: EUR"},
    {.name = "period", .type = FIELD_ENUM, .offset = FIELD_NO_MEMBER, .values = "Month|Day|Total", .def = "\"Month\"", .help = "what the amount is for: a calendar month or day in UTC, or all that is ever spent"},
    {0},
};

void budget_check(const json_t *obj, const char *path, struct field_errors *errors)
{
    char field[96];
    const char *currency = json_str(obj, "budget.currency");
    if (!currency || currency_valid(currency))
        return;
    snprintf(field, sizeof(field), "%s.budget.currency", path);
    field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%s\": expected three capital letters, as ISO 4217 has them, such as EUR", currency);
}

const struct field rate_limit_fields[] = {RATE_LIMIT_ROWS(0), {0}};

static int64_t number(const json_t *obj, const char *name)
{
    int64_t n = json_int(obj, name, 0);
    return n > 0 ? n : 0;
}

void rate_limits_read(const json_t *obj, struct rate_limits *ret)
{
    *ret = (struct rate_limits){number(obj, "requestsPerMinute"), number(obj, "tokensPerMinute"), number(obj, "concurrentRequests")};
}

static int64_t tighter(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

void rate_limits_narrow(struct rate_limits *r, const struct rate_limits *by)
{
    r->requests_per_minute = tighter(r->requests_per_minute, by->requests_per_minute);
    r->tokens_per_minute = tighter(r->tokens_per_minute, by->tokens_per_minute);
    r->concurrent_requests = tighter(r->concurrent_requests, by->concurrent_requests);
}
