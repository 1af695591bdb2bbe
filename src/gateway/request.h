/* One inference request, from its head to its last line. Inside the gateway: request.c (what is asked, limits, the last line) and attempt.c (engines and what they answer).
 *
 *   admit ─► (body) ─► begin ─► reserve ─► attempt ─► (wait) ─► head ─► body … ─► end    a stream passes through from its first content on; any other answer is gathered and sent whole
 *                          ▲                   │ another replica, while nothing of an engine's was passed on
 *                          └───────────────────┘
 * At its head it takes a place among its key's requests at once, and room for its body: who has neither is refused before the body is read.
 * Whatever happens to one that has begun, request_settle() runs once: it releases the replica and what was reserved of limits, makes the usage record (records.h; recount.h where a tokenizer is asked first), counts, logs. It runs before the client gets the last
 * byte, so that whoever has seen the end of an answer has been counted. struct request lives in the HTTP request's arena. A request that never came whole (the client left, was too
 * slow or sent too much) is none: nothing was used, nothing is written, and its place is free; the server's refusal is counted as one. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_REQUEST_H
#define SEKI_GATEWAY_REQUEST_H

#include "gateway/body_room.h"
#include "gateway/cold.h"
#include "gateway/dispatch.h"
#include "gateway/hedge.h"
#include "gateway/internal.h"
#include "gateway/tally.h"
#include "gateway/trace.h"
#include "gateway/verdict.h"

#define REQUEST_TYPE_MAX 128
#define REQUEST_RETRY_AFTER_MAX 24
#define REQUEST_HEADERS_MAX 8
#define ATTEMPTS_MAX 3 /* replicas that one request may try: what kills engines must not kill all of them */
#define FALL_OVERS_MAX 2 /* further backends of a route */

struct request {
    struct http_request *http;
    struct gateway_loop *loop;
    struct snapshot *snapshot; /* keeps the key alive … */
    struct snapshot *routing;  /* … and this one endpoint and replica: newer, when it had to wait */
    unsigned long long looked; /* the version of the snapshot that recheck() has looked at */
    const struct gateway_route *route;
    const struct snap_key *key;
    const struct snap_endpoint *endpoint; /* NULL: not resolved */
    const char *served;                   /* the name asked for: the endpoint's, or a route's to it */
    bool adapter;                         /* that is a LoRA adapter's: see home.h */
    const struct snap_replica *replica;   /* of the last attempt */
    const char *rule; /* of the border, which bars some of its replicas; or NULL */
    struct request_body body;
    struct iovec pieces[BODY_PIECES_MAX];
    struct http_header headers[REQUEST_HEADERS_MAX];
    struct limit_hold hold;
    struct body_hold room, answer_room; /* of its body; of an answer that is held whole */
    struct budget_hold money;
    struct price own_price;    /* snapshots may go while it waits */
    const struct price *price; /* that; NULL: the model has none */
    struct slices_wait wait;    /* for control's word on a budget */
    bool paid;                 /* its refusal was counted as a request of its key */
    bool kept_away;            /* a limit or a budget refused it: no record is written, as it must not fill the disk */

    /* the attempt that runs, or the last one */
    struct http_call *call; /* NULL: none runs */
    struct ticket ticket;
    struct timer tick; /* while it waits */
    struct cold_hold cold; /* likewise, where nothing serves yet */
    int attempts;
    struct target *doubted; /* it answered 500, and what another makes of the request is awaited; a reference, or NULL */
    struct {
        const struct dispatch *tried[FALL_OVERS_MAX + 1]; /* of backends that could not serve it: to be compared, and no more */
        size_t count;
        int extra; /* attempts beyond ATTEMPTS_MAX */
    } fell; /* fall_over.h */
    int status;             /* of the engine's answer */
    char type[REQUEST_TYPE_MAX]; /* its content type */
    char retry_after[REQUEST_RETRY_AFTER_MAX]; /* seconds; "": none */
    bool streaming;         /* its answer is a stream */
    struct usage_scan scan;
    struct continuation *continuation; /* continuation.h; NULL: it is no stream that can be continued */
    struct hedge *hedge; /* NULL: nobody watches for a slow first token */
    struct tally tally; /* what engines did for it */
    struct record_entry record;
    struct sbuf answer; /* gathered: a whole answer, or a stream's beginning until it has content */

    struct trace *trace; /* NULL: it is not recorded */
    struct decision *decision; /* decisions.h; NULL: it is not logged */
    struct timer keepalive;
    bool committed; /* the client has the head of a stream: comments may have followed */
    bool passed;    /* the client has bytes of the engine's: no other one can take over */

    int64_t start_ms;
    uint64_t start_ns, first_ns; /* first_ns 0: no content yet */
    int64_t waited_ms; /* for a replica with room; -1: it had not to */
    bool begun, settled;
    enum outcome outcome; /* once it is settled */
};

/* The answer is read from its beginning. */
void request_scan(struct request *q, bool take_out, void (*out)(void *arg, struct str bytes));
/* u's names and its beginning. */
void request_usage(const struct request *q, struct usage *u);
/* The most that it may cost there, at q's price: what is reserved of budgets. Its prompt as estimated, and the whole of the answers that it lets the engine make; where it does not say, what is
 * expected of them, and not less than a floor. */
int64_t request_most(const struct request *q, const struct snap_endpoint *e, int64_t prompt);
/* u's tokens, into the metrics. memo: of the loop's; NULL: any. */
void request_count_tokens(struct gateway_loop *l, struct gateway_series *memo, const struct usage *u);
/* The last line: see above. */
void request_settle(struct request *q, int status, enum outcome outcome);
/* Settles, and answers in place of an engine: as a response, or as an event of the stream that has begun. */
void request_refuse(struct request *q, int status, enum outcome outcome, const char *type, const char *code, const char *param, const char *message);

/* Its key may call nothing by that name: 404, and an audit record. */
void request_refuse_unknown(struct request *q);
/* No replica may have it: 403 with the rule's name, and an audit record. */
void request_refuse_border(struct request *q, const char *rule);

/* ---- attempt.c, for hedge.c ---- */
extern const struct http_call_ops attempt_ops; /* arg: the request */
/* What a call borrows. */
struct attempt_room {
    struct iovec pieces[BODY_PIECES_MAX];
    struct http_header headers[REQUEST_HEADERS_MAX];
};
/* The same request to another replica, at which t holds a place, beside the attempt that runs. NULL: it could not even be begun. */
struct http_call *attempt_beside(struct request *q, const struct ticket *t, const struct snap_replica *replica, struct attempt_room *room, const struct http_call_ops *ops, void *arg);
/* t answered 500 to it, which may be the fault of either: what another replica answers will tell. */
void attempt_doubt(struct request *q, struct target *t);
/* Of a call that is over, before it goes: where nothing of it had left, its engine did nothing. */
void attempt_note_reach(struct request *q);
/* The attempt that runs is given up for another that was quicker. */
void attempt_lose(struct request *q);
/* Another one is the request's attempt from now on; its ticket is there already. replay: the head of its stream had come, and these bytes. */
void attempt_adopt(struct request *q, struct http_call *call, const struct snap_replica *replica, int64_t start_ms);
void attempt_replay(struct request *q, struct str bytes);

/* ---- attempt.c ---- */
/* Sends the request to the best replica that was not tried, now or in its turn. False: none is left. */
bool attempt_begin(struct request *q);
/* The replica is let go, and what came of it is told to its breaker. busy_ms: with TARGET_BUSY. */
void attempt_release(struct request *q, enum target_outcome outcome, uint64_t busy_ms);

#endif
