/* What the end of an attempt says: of its engine, to its breaker (target.h), and of the request, to its record, its limits and its client. Decided here and nowhere else, for a request's
 * first attempt, further ones, those beside others (hedge.h) and texts that go on alike. Pure. Threads: any.
 */
#ifndef SEKI_GATEWAY_VERDICT_H
#define SEKI_GATEWAY_VERDICT_H

#include "gateway/target.h"
#include "net/http.h"

/* Of an answer's head. */
struct verdict {
    enum target_outcome target; /* TARGET_OK: nothing speaks against it by now. TARGET_NEITHER: that is to be seen */
    uint64_t busy_ms;           /* with TARGET_BUSY: what it asks for; 0: it does not say */
    enum {
        ANSWER_GOOD,    /* the client's */
        ANSWER_DOUBTED, /* likewise, but another replica may tell whether it or its request is wrong: 500 (attempt.c) */
        ANSWER_LAST,    /* the client's where no other replica takes the request: 429 */
        ANSWER_USELESS  /* nobody's: this replica is overloaded, starting, does not know us, or is no engine at all */
    } use;
};
/* The seconds that its Retry-After asks for; -1: none, a date, or more than a day, which no engine means. */
int64_t verdict_retry_after(const struct http_head *head);
struct verdict verdict_of_head(const struct http_head *head);

/* Of a call that ended without an answer's end. sent: something of the request had left. spoke: its head had come. What was never reached is put aside at once; that descriptors or memory are
 * short here is no engine's fault. */
enum target_outcome verdict_of_error(const struct err *err, bool sent, bool spoke);

/* How a request ends. */
enum outcome {
    OUTCOME_OK,
    OUTCOME_CLIENT_GONE,
    OUTCOME_SHUTDOWN,
    OUTCOME_TIMEOUT,
    OUTCOME_UPSTREAM_ERROR,
    OUTCOME_REFUSED_BY_US,    /* by a rule, a limit, or for what it is; whatever engines did before */
    OUTCOME_REFUSED_BY_ENGINE /* an engine has judged it: it is the request that is wrong, and the engine is well */
};
/* As in usage records (ledger/usage.h): there both refusals are one. */
const char *outcome_text(enum outcome o);
/* What it says of the replica that the request still holds. */
enum target_outcome outcome_of_replica(enum outcome o);

#endif
