/* GET /v1/residency/MODEL: where a request of this key to this model may be worked on now, and by which rule not elsewhere, without sending one. Answered from the snapshot, by the functions
 * that requests obey (border.h):
 *
 *   {"model": "m", "result": "served" | "not_ready" | "refused", "rule": of a refusal,
 *    "places": [{"endpoint": "PROJECT/NAME", "site": or null, "jurisdiction", "replicas": n, "serving": n, "allowed": true, "rule": where not}]}
 *
 * served: an allowed place serves. not_ready: one is allowed, and none serves: such a request waits, or is answered 503. refused: 403. Behind a ModelRoute the places of all its endpoints.
 * Nothing is counted, charged or reserved. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_RESIDENCY_VIEW_H
#define SEKI_GATEWAY_RESIDENCY_VIEW_H

struct gateway_loop;
struct http_request;
struct snap_key;

#define RESIDENCY_VIEW_PATH "/v1/residency/"
void answer_residency(struct gateway_loop *l, struct http_request *r, const struct snap_key *k);

#endif
