/* The last look before a request is sent: what was true when it came may not be any more. It may have waited, for its turn, for a slot, for control's word on a budget, or for an engine
 * that then failed; meanwhile its key was taken back, its tenant suspended, or a rule of the border written. Without a newer snapshot it costs a comparison.
 *
 * Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_RECHECK_H
#define SEKI_GATEWAY_RECHECK_H

#include <stdbool.h>

struct request;

/* By the loop's snapshot. False: the key is of no use any more, and the request is answered. */
bool recheck_key(struct request *q);

/* Of a request whose ticket holds a replica. GO: it may be sent there. OTHER: not there, and the replica is let go; the wish knows what is barred. ANSWERED: it may be sent nowhere. */
enum recheck_result { RECHECK_GO, RECHECK_OTHER, RECHECK_ANSWERED };
enum recheck_result recheck(struct request *q);

#endif
