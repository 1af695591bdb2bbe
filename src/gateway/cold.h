/* Requests for an endpoint that has no replica, but will have one: they are held until it serves.
 *
 *   resolve ─► no replica, but spec.scaling ─► may it be held? (count, bytes, control within reach) ─► it waits in the endpoint's queue, as others wait for room (dispatch.h)
 *                                                └ no: 503 with the time until one is expected        │ control is told at once, and again every second (load_report.h)
 *                                                                                                      ├ a replica serves ─► sent in fair order
 *                                                                                                      ├ loading has failed ─► 503 with the reason, at once
 *                                                                                                      └ hold-timeout, of all holds together ─► 503
 *
 * What is expected: how long engines of this endpoint took to load (the median that its status has) less what has passed since the first request was held, and the turns of those who
 * wait before. Threads: a request's loop.
 */
#ifndef SEKI_GATEWAY_COLD_H
#define SEKI_GATEWAY_COLD_H

#include "gateway/internal.h"

struct request;

/* Of one request. */
struct cold_hold {
    bool held;
    size_t bytes;
    uint64_t since_ms;
    uint64_t before_ms; /* so long it was held before, when replicas came and went */
    char expected[24]; /* seconds, when it began to wait; empty: not known */
};

/* Of a request whose endpoint has no replica. False: answered. */
bool cold_admit(struct request *q);
/* It is in the queue now: control is told. (Not before, as it would be told that nobody waits.) */
void cold_waits(struct request *q);
/* Looked at now and then while it waits: it is held or not by what its endpoint has now. False: answered, as no replica will come. */
bool cold_look(struct request *q);
/* It waits no more. */
void cold_leave(struct request *q);
/* The moment of the wait's end, after which it is answered 503. */
bool cold_is_over(const struct request *q, uint64_t now_ms);
void cold_refuse_late(struct request *q);
/* A newer snapshot than the request's has other replicas of its endpoint: from now on it is that. False: there is none. */
bool cold_look_anew(struct request *q);
/* For whoever waits at the other end of a stream: a comment. */
struct str cold_comment(const struct request *q, char text[128]);
/* Of a head: "x-seki-expected-wait". 0 or 1. */
size_t cold_headers(const struct request *q, struct http_out_header *ret);

double cold_held(void *arg); /* for the gauge */

#endif
