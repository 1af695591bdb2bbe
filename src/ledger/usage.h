/* The body of a usage record: what one request used, counted once. Counts and names, never content.
 *
 * JSON members: id (request id, deterministic and unique), project, tenant, key (APIKey name), endpoint, model, replica, route
 * ("chat.completions" …), stream, status (HTTP status sent), outcome ("ok" | "client_gone" | "upstream_error" | "timeout" | "refused" | "shutdown"),
 * prompt_tokens, cached_tokens, completion_tokens, exact (false: counted by the gateway because the engine gave no usage),
 * replayed_tokens (read again by engines that wrote on for one that failed: beside what is billed; 0 in older records),
 * start_ms, ttft_ms (-1: none), duration_ms; where the model has a price also cost (micro-units, see price.h) and currency.
 */
#ifndef SEKI_LEDGER_USAGE_H
#define SEKI_LEDGER_USAGE_H

#include "base/str.h"

/* No request uses more tokens: a count above this is an engine's lie, and its sums would run over. */
#define USAGE_TOKENS_MAX 1000000000000LL

struct usage {
    struct str id, project, tenant, key, endpoint, model, replica, route, outcome;
    bool stream, exact;
    int status;
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int64_t replayed_tokens; /* not billed */
    int64_t start_ms, ttft_ms, duration_ms;
    struct str currency; /* empty: the model had no price */
    int64_t cost;
};

void usage_encode(const struct usage *u, struct sbuf *out);
/* Slices of *ret point into arena memory. */
struct arena;
int usage_decode(struct str body, struct arena *a, struct usage *ret, struct err *err) NODISCARD;

#endif
