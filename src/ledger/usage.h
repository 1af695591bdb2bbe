/* The body of a usage record: what one request used, counted once. Counts and names, never content.
 *
 * JSON members: id (request id, deterministic and unique), project, tenant, key (APIKey name), endpoint, model, replica, route
 * ("chat.completions" …), stream, status (HTTP status sent), outcome ("ok" | "client_gone" | "upstream_error" | "timeout" | "refused" | "shutdown" | "killed": the gateway was),
 * prompt_tokens, cached_tokens, completion_tokens, exact (false: counted by the gateway because the engine gave no usage),
 * tokenized (true: not exact, but an engine's tokenizer has counted the prompt and the text that was passed on; else not there),
 * count (how many requests this record is of, which were refused alike before an engine was asked: gateway/refused.h; id is the last one's, start_ms the first one's, and duration_ms from there to the
 * last one's end; not there: one),
 * hedge_loser_tokens, replayed_tokens, unseen_tokens (below; beside what is billed; 0 in older records), engines (below; not in older records), start_ms, ttft_ms (-1: none), duration_ms; where the model has a price also cost (micro-units, see price.h) and currency.
 *
 * What engines did for it, and where that went:
 *
 *   Σ engines (read + written) = prompt_tokens + completion_tokens + hedge_loser_tokens + replayed_tokens + unseen_tokens
 *
 * hedge_loser: of an attempt that ran beside another one and was not the first; replayed: read again by an engine that wrote on for one that failed; unseen: what was made and reached
 * nobody. An attempt that is not `exact` was not counted by its engine: what stands there is what came by here (a token for each event with text) and an estimate of the prompt, and
 * the engine may have made more, which only its own counters know (billing/reconcile.h).
 */
#ifndef SEKI_LEDGER_USAGE_H
#define SEKI_LEDGER_USAGE_H

#include "base/str.h"
#include "ledger/levels.h"

/* No request uses more tokens: a count above this is an engine's lie, and its sums would run over. */
#define USAGE_TOKENS_MAX 1000000000000LL

/* Requests of one record. */
#define USAGE_COUNT_MAX 1000000000LL

/* What one engine did for a request, in one attempt. */
struct usage_work {
    struct str replica; /* "PROJECT/REPLICA", of the endpoint's project */
    int64_t start_ms, end_ms;
    int64_t read, cached, written; /* cached: of those read, found in its cache */
    bool exact;         /* it said so itself, or did nothing for certain */
    bool loser;         /* another one was faster */
};
#define USAGE_WORK_MAX 8

struct usage {
    struct levels levels; /* of what its endpoint promises: levels.h */
    struct str id, project, tenant, key, endpoint, model, replica, route, outcome;
    bool stream, exact, tokenized;
    int status;
    int64_t count; /* 0 and 1: one request; of more, nothing was used */
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int64_t hedge_loser_tokens, replayed_tokens, unseen_tokens; /* not billed */
    const struct usage_work *work; /* `engines`; NULL: an older record, or no engine was asked */
    size_t work_count;
    bool has_work;      /* the record has `engines` */
    int64_t start_ms, ttft_ms, duration_ms;
    struct str currency; /* empty: the model had no price */
    int64_t cost;
};

/* What engines did: the left side of the equation. */
int64_t usage_made(const struct usage *u);
/* How many requests it is of. */
int64_t usage_requests(const struct usage *u);
/* Attempts that are not exact. */
size_t usage_inexact(const struct usage *u);
/* Whether the equation holds; true of older records, which do not tell. */
bool usage_adds_up(const struct usage *u);

void usage_encode(const struct usage *u, struct sbuf *out);
/* Slices of *ret point into arena memory. */
struct arena;
int usage_decode(struct str body, struct arena *a, struct usage *ret, struct err *err) NODISCARD;

#endif
