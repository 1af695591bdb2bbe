/* Members of a body by which the engine keeps tenants' caches apart. Members that clients send for the same are taken out (body.h), so that these are the only ones.
 *
 * llama.cpp: the slot, and whether what is in it may be used (slots.h). vLLM and SGLang: a salt, which is a keyed hash of the tenant's name under the cloud's pepper, so that all gateways
 * say the same and nobody can guess it. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_ISOLATION_H
#define SEKI_GATEWAY_ISOLATION_H

#include "gateway/request.h"

/* For the replica of the attempt, as "\"name\":value,\"name\":value"; may be empty. In the request's arena. */
struct str isolation_members(const struct request *q);

/* Whether an engine of the request's endpoint can be told whose cache to use: those that know a salt take it by some paths only. */
bool isolation_possible(const struct request *q);

#endif
