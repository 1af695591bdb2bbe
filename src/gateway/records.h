/* The usage records of one turn of a loop, written together: one write(2) for all of them, and only then do their answers' last bytes leave.
 *
 *   settled ─► its record is encoded and waits │ what is answered from here on is held: http_hold() ─► the turn ends ─► one write ─► places, budgets ─► answers leave
 *
 * So what a client has seen to its end is with the kernel, as it is where each record is written at once; who is alone in his turn waits for nobody. A turn ends before the loop waits, and at
 * the latest behind the callback in which RECORDS_MAX records have gathered. Whose answer cannot be held, or is large, has his record written at once, with those that wait. Killed in between, places are taken still and no
 * answer has ended: open_requests.h counts what was passed on. Threads: the loop's; the journal is locked once for all of them.
 */
#ifndef SEKI_GATEWAY_RECORDS_H
#define SEKI_GATEWAY_RECORDS_H

#include <sys/queue.h>

#include "ledger/usage.h"

struct budget_hold;
struct gateway;
struct gateway_loop;
struct open_request;
struct request;

#define RECORDS_MAX 32

/* In a request. */
struct record_entry {
    STAILQ_ENTRY(request) link;
    size_t bytes;
    int64_t cost; /* of its money */
    bool waits;
};

/* Of a loop. */
struct records {
    STAILQ_HEAD(, request) waiting;
    size_t count;
    struct sbuf bodies;
};

void records_init(struct gateway_loop *l);
void records_deinit(struct gateway_loop *l); /* none wait any more */
/* q has been settled as u: its record, its place, its budgets, and that it is no longer active. */
void records_add(struct request *q, const struct usage *u);
/* A request's record is with the kernel: what must not be before that. */
void records_end(struct gateway *g, struct open_request **place, struct budget_hold *money, int64_t cost, int64_t start_ms);
/* Those that wait are written; answers stay held. */
void records_write(struct gateway_loop *l);
/* The turn ends. */
void records_flush(struct gateway_loop *l);

#endif
