/* The operator's log of decisions: why a request went to the replica that it went to. One line of JSON a request, in log/decisions-NAME.jsonl; off by default, and of some requests only
 * (option gateway.decision-log-per-million).
 *
 *   request_new ─► by chance: struct decision ─► each send: who was weighed, with what score (pick.h) ─► request_settle ─► a line ─► bounded queue ─► a thread writes, once a second
 *
 * In it are ids and names (request, tenant, project, endpoint, replicas, sites), the rule of the border that held, classes, scores and counts. Not in it: prompts, answers, keys and their
 * names, and what a client wrote for a model's name where there is none of that name.
 *
 * The file is opened anew for each write, so whoever moves it away has it; when it would grow beyond its size it is renamed to NAME.jsonl.1, which replaces the one before. Nothing here
 * ever holds up a request: what finds no room in the queue, or cannot be written, is dropped and counted (seki_gateway_decisions_dropped_total).
 *
 * All functions take NULL for a decision that is not logged. Threads: a decision is its loop's; decision_log_add() any; the rest, who made the log.
 */
#ifndef SEKI_GATEWAY_DECISIONS_H
#define SEKI_GATEWAY_DECISIONS_H

#include "base/arena.h"
#include "gateway/pick.h"
#include "ledger/usage.h"

#define DECISION_QUEUE_BYTES ((size_t)4 << 20)
#define DECISION_LINE_MAX ((size_t)96 << 10)
#define DECISION_SENT_MAX (DECISION_LINE_MAX / 2) /* of it: who was weighed at each send. Candidates beyond are left out */

struct decision_log;
struct decision;

struct decision_log_options {
    const char *file;
    size_t max_bytes; /* of that file; the one before it may be as large */
};
/* The counters, which are there with and without a log. */
void decision_log_init(void);
int decision_log_start(const struct decision_log_options *o, struct decision_log **ret, struct err *err) NODISCARD;
/* A line, without its end; copied. */
void decision_log_add(struct decision_log *l, struct str line);
/* Once nobody adds any more: what waits is written. NULL is fine. */
void decision_log_stop(struct decision_log *l);

/* NULL: this request is none of those. to: NULL: there is no log. It lives in the arena. */
struct decision *decision_begin(struct decision_log *to, int64_t per_million, struct arena *a, uint64_t start_ns);
/* Where pick_replica() writes what it weighs; NULL: nowhere. */
struct pick_report *decision_report(struct decision *d);
/* The request goes to replica `chosen` of e, as the report says that was filled last. why: "first", "again", "hedge"; by: "prefix", "load", "turns". */
void decision_sent(struct decision *d, const struct snap_endpoint *e, size_t chosen, const char *why, const char *by);
/* No replica is allowed, by this rule. */
void decision_refused(struct decision *d, const char *rule);

struct decision_facts {
    const char *endpoint_project; /* NULL: no endpoint */
    const char *rule;             /* of the border; or NULL */
    bool batch;
    int64_t waited_ms;            /* -1: it had not to */
    size_t blocks;                /* of the prompt, that could be looked for in caches */
};
/* Over: its line is made and handed on. */
void decision_end(struct decision *d, const struct usage *u, const struct decision_facts *f);

#endif
