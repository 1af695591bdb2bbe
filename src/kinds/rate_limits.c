#include "kinds/rate_limits.h"

const struct field rate_limit_fields[] = {
    {.name = "requestsPerMinute", .type = FIELD_INT, .offset = offsetof(struct rate_limits, requests_per_minute), .min = 1, .max = 1000000000, .help = "requests a minute; at most so many at once after a pause. Absent: any number"},
    {.name = "tokensPerMinute", .type = FIELD_INT, .offset = offsetof(struct rate_limits, tokens_per_minute), .min = 1, .max = 10000000000, .help = "tokens a minute, of prompts and answers together. Absent: any number"},
    {.name = "concurrentRequests", .type = FIELD_INT, .offset = offsetof(struct rate_limits, concurrent_requests), .min = 1, .max = 1000000, .help = "requests that run at the same time. Absent: any number"},
    {0},
};
