/* The last look before a request is sent: what was true when it came may not be any more. It may have waited, for its turn, for a slot, for control's word on a budget, or for an engine
 * that then failed; meanwhile its key was taken back or may call less, its tenant suspended, or a rule of the border written. Without a newer snapshot it costs a comparison.
 *
 * Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_RECHECK_H
#define SEKI_GATEWAY_RECHECK_H

#include <stdbool.h>
#include <stdint.h>

struct request;
struct snap_endpoint;
struct snap_key;

/* By the loop's snapshot: what its key may call by the model's name; *ret_key: that key as it is now, there as long as that snapshot. NULL: the key is of no use any more, or may call nothing by
 * that name, and the request is answered. */
const struct snap_endpoint *recheck_access(struct request *q, const struct snap_key **ret_key);

/* Of one that runs, whether another attempt may be made beside it; *ret_barred: replicas of its endpoint that this one may not reach. Nobody is answered. */
bool recheck_beside(const struct request *q, uint64_t *ret_barred);

/* Of a request whose ticket holds a replica. GO: it may be sent there. OTHER: not there, and the replica is let go; the wish knows what is barred. ANSWERED: it may be sent nowhere. */
enum recheck_result { RECHECK_GO, RECHECK_OTHER, RECHECK_ANSWERED };
enum recheck_result recheck(struct request *q);

#endif
