/* A ModelRoute falls over: when no replica of the backend that was chosen can be reached, or all of them failed before the client has seen anything, another backend gets the request.
 *
 *   attempt: no replica is left ─► the old queue and price are let go ─► another backend by weight, of those that are ready, allowed and not tried ─► attempt
 *
 * The border judges each backend as it judged the first; keys' limits stay reserved once, as they are the caller's and not a backend's; money is reserved anew at the other backend's price, and
 * a backend that a budget cannot pay, or that has no price under one, is left out. Two further backends at most, one attempt at each more than the request had left. An engine that has begun to
 * answer, one that has timed out and a tenant's full queue are no reason. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_FALL_OVER_H
#define SEKI_GATEWAY_FALL_OVER_H

#include <stdbool.h>

struct request;

/* Whether there is a backend that could take it. */
bool fall_over_possible(const struct request *q);
/* True: another backend has it, now or in its turn, or it was answered. False: nothing has changed but what was let go, and the request is to be refused. */
bool fall_over(struct request *q);

#endif
