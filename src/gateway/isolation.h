/* Members of a body that the gateway puts in: by which the engine keeps tenants' caches apart, and which adapter is meant. Members that clients send for the same are taken out (body.h), so that these are the only ones.
 *
 * llama.cpp: the slot, and whether what is in it may be used (slots.h). vLLM and SGLang: a salt, which is a keyed hash of the tenant's name under the cloud's pepper, so that all gateways
 * say the same and nobody can guess it. llama.cpp is also told which of its adapters is in effect, at each request: where a request says nothing, it uses what another adapter left
 * in the slot. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_ISOLATION_H
#define SEKI_GATEWAY_ISOLATION_H

#include "gateway/request.h"

/* For the replica of the attempt, as "\"name\":value,\"name\":value"; may be empty. In the request's arena. */
struct str isolation_members(const struct request *q);

/* Whether an engine of e can be told what it must be, by the request's path: whose cache to use, where tenants share it and the engine knows a salt; which adapter, where it
 * takes that from the body. */
bool isolation_possible(const struct request *q, const struct snap_endpoint *e, bool shared, bool adapter);

#endif
