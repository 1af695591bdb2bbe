/* Streams that ended without their engine's usage: its tokenizer is asked how many tokens the prompt and the text have that was passed on, and the usage record waits for that.
 *
 *   request_settle(): counts by what went by, not exact ─► recount_new(): worth asking? ─► all else is settled at once, the client has its end
 *   recount_start(): the text's tokens ─► the prompt's (of a chat: its template's text first) ─► record, money, limits as counted │ failure, RECOUNT_MS, the gateway's end: as estimated
 *
 * The request may be gone by then: what is needed of it is copied, and its place in open_requests.h goes along, so that a gateway that is killed meanwhile leaves it to be counted as any
 * other. It counts as active until its record is written. Of text there is one answer's (continuation.h keeps it anyway) and the prompt, both bounded, in memory only, and wiped. Asked is
 * the replica that wrote it, or, where that one failed, another of its endpoint that the border allows now; the question takes no slot and is no request of anybody's.
 *
 * At most RECOUNTS_MAX at once in the process, and RECOUNTS_OF_TENANT of a tenant, whose engine may be its own and never answer; who comes when there are as many is estimated. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_RECOUNT_H
#define SEKI_GATEWAY_RECOUNT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct gateway_loop;
struct recount;
struct request;
struct usage;

#define RECOUNTS_MAX 32
#define RECOUNTS_OF_TENANT 8
#define RECOUNT_MS 3000 /* all questions together */
#define RECOUNT_PROMPT_MAX (1024 * 1024) /* as JSON: a longer one is estimated */

TAILQ_HEAD(recounts, recount);

/* u: what the request will be recorded as. NULL: the engine told, or nobody can be asked. Else recount_start() must follow, with the same u when all of it is there. */
struct recount *recount_new(struct request *q, const struct usage *u);
/* Takes q's place and its money; the record is written and counted here from now on. charged: what limits were charged of tokens; below 0: nothing, whatever it was. */
void recount_start(struct recount *r, struct request *q, const struct usage *u, int64_t charged);
/* The loop ends: those that wait are recorded as estimated. */
void recounts_stop(struct gateway_loop *l);

#endif
