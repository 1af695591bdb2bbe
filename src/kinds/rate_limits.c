#include "kinds/rate_limits.h"

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
