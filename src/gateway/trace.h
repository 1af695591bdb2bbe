/* What one request did, as spans for OpenTelemetry: where its time went, never what was in it.
 *
 *   chat tiny (SERVER) ─┬─ queue     (INTERNAL) it waited for a replica with room, or for the first one to start
 *                       ├─ attempt   (CLIENT)   it was at a replica: one span each
 *                       └─ attempt …
 *
 * Names and attributes follow OpenTelemetry's conventions for generative AI (gen_ai.*) and HTTP; what they have no name for is called seki.*. Names of tenants, projects, keys, endpoints,
 * replicas and sites, counts and times are in there; prompts, answers and what a client wrote instead of a model's name are not.
 *
 * Whether a request is recorded is decided once, at its head: as the caller's traceparent says, or else by chance (option tracing.sample-per-million). One that is not has no struct trace, and
 * all functions take NULL. A trace lives in the request's arena; its spans beyond TRACE_SPANS_MAX are left out. trace_end() makes the text of its spans, once, and hands it on:
 * trace_export.h. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_TRACE_H
#define SEKI_GATEWAY_TRACE_H

#include "base/arena.h"
#include "gateway/trace_context.h"
#include "ledger/usage.h"
#include "net/http.h"

#define TRACE_SPANS_MAX 12 /* besides the request's own: three attempts, each after a wait, two more for a text that goes on */

struct trace;
struct trace_export;

/* NULL: not recorded. start_ns: by the monotonic clock, of the request's first byte. */
struct trace *trace_begin(struct trace_export *to, int64_t per_million, const struct http_head *head, struct arena *a, uint64_t start_ns);
/* It waits; why: "queue", "cold start". Harmless when it does already. */
void trace_wait(struct trace *t, const char *why);
void trace_waited(struct trace *t); /* no longer; harmless when it did not */
/* It goes to a replica. Names are copied; site may be NULL. What the request then was waiting for is over. */
void trace_attempt(struct trace *t, const char *replica, const char *site);
/* The traceparent for that replica, in the arena. */
const char *trace_parent(const struct trace *t);
/* The caller's traceparent was heeded: what belongs to it (tracestate) may be passed on. */
bool trace_has_parent(const struct trace *t);
/* Why the attempt failed: a word of ours, of static storage. */
void trace_failed(struct trace *t, const char *reason);
/* It is over. status: of the engine's answer; 0: none came. Harmless when none runs. */
void trace_attempt_end(struct trace *t, int status);

/* What is known at the end, besides the usage record. */
struct trace_facts {
    const char *path, *operation;
    const char *endpoint_project;   /* NULL: no endpoint */
    const char *rule;               /* of the border, or NULL */
    int64_t max_tokens;             /* that were asked for; 0: none */
    uint64_t first_ns, end_ns;      /* first_ns 0: no content came */
};
void trace_end(struct trace *t, const struct usage *u, const struct trace_facts *f);

/* The spans as text: objects of OTLP's JSON encoding, separated by commas. wall_ns: what the wall clock says at f->end_ns. For trace_end() and tests. */
void trace_write(const struct trace *t, const struct usage *u, const struct trace_facts *f, int64_t wall_ns, struct sbuf *out);

#endif
