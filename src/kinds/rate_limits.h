/* What the gateway lets somebody send: members of APIKey, and of whatever else limits those who call models. */
#ifndef SEKI_KINDS_RATE_LIMITS_H
#define SEKI_KINDS_RATE_LIMITS_H

#include "json/table.h"

/* 0, or absent: any number. */
struct rate_limits {
    int64_t requests_per_minute, tokens_per_minute, concurrent_requests;
};
extern const struct field rate_limit_fields[];

#endif
