/* The part of a GatewayLease that is about rates: what is asked for of shares, and what becomes of the answer. slices.h has the thread that asks, and the requests that wait.
 *
 * While this is the only gateway nothing is asked and nothing is held back. With others the question has what requests wait for, and what was given away since the last answer; the
 * answer what is granted, and what others want. A question that got no answer is asked again as a whole: control takes what a gateway says that it has for what it has. Threads: one.
 */
#ifndef SEKI_GATEWAY_RATE_LEASE_H
#define SEKI_GATEWAY_RATE_LEASE_H

#include "gateway/limit_shares.h"
#include "json/json.h"

struct rate_lease;

/* Nothing passes a limit until the first answer, or until one of the two below. set stays the caller's. file: where what one has is kept (share_file.h), other: where the gateway of the other name
 * keeps it; NULL: nowhere. */
struct rate_lease *rate_lease_new(struct limit_set *set, const char *file, const char *other);
void rate_lease_free(struct rate_lease *r);
/* Requests wait for so much. */
void rate_lease_need(struct rate_lease *r, struct limit_counter *c, enum limit_unit u, int64_t n);
/* Adds to a question's spec. */
void rate_lease_ask(struct rate_lease *r, json_t *spec, uint64_t now_ns);
/* status NULL: there was none. False: it is not the last word on what requests wait for. */
bool rate_lease_answer(struct rate_lease *r, const json_t *status, uint64_t now_ns);
/* Others want something back: the next question should not wait. */
bool rate_lease_hurries(const struct rate_lease *r);
/* Control does not answer, and never has: this gateway goes on with what the file says that it had, its buckets empty where it is one of several; with nothing, when that was given back.
 * False: there is none. */
bool rate_lease_resume(struct rate_lease *r, uint64_t now_ns);
/* Control is about to be told that this gateway leaves, and gives all to the others. succeeded: another one has taken over, which has a file of its own. */
void rate_lease_leave(struct rate_lease *r, bool succeeded);
/* As little has it, and there is no file: limits hold for this gateway by itself. */
void rate_lease_alone(struct rate_lease *r, uint64_t now_ns);
/* There are others. */
bool rate_lease_shares(const struct rate_lease *r);

#endif
