/* Streams that survive their engine: the text so far is kept, and when the replica fails in the middle another one of the same model writes on.
 *
 *   head of a stream ─► attach: events reach the client whole or not at all, and the text in them is kept
 *   the replica fails ─► next: may it go on? the body for another replica: the client's, with the text so far as the answer that has begun, and max_tokens less what was made
 *   … its head ─► attach: events get the first one's id and time, a second role is left out, the usage is that of one answer
 *
 * For one answer of text alone, from engines whose driver says can_continue; who asks for tools, a schema, log probabilities or more (UNFIT in continuation.c), or sends an answer that has
 * begun himself, gets an error event as before, and so does a text of more than CONTINUATION_TEXT_MAX bytes. Twice a request at most, and within the retry budget of targets.
 * What is kept is in memory of its own, is written nowhere and is wiped with the request. No JSON is parsed for an event that differs from the one before only in its text.
 * Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_CONTINUATION_H
#define SEKI_GATEWAY_CONTINUATION_H

#include "gateway/request.h"
#include "ledger/usage.h"

#define CONTINUATION_TEXT_MAX ((size_t)256 << 10) /* as JSON */
#define CONTINUATIONS_MAX 2

/* A stream of this attempt begins; q->scan has just been begun for it. */
void continuation_attach(struct request *q);
/* The engine said in its stream that it failed: the attempt is over. */
bool continuation_broken(const struct request *q);

enum continuation_step { CONTINUATION_NONE, CONTINUATION_WHOLE, CONTINUATION_SEND };
/* The attempt has failed after its first content. NONE: it cannot go on. WHOLE: all of the text is there, but for the stream's end, which was written. SEND: continuation_body() goes on. */
enum continuation_step continuation_next(struct request *q);
/* What to send: the client's body, or that of a continuation. */
const struct request_body *continuation_body(const struct request *q);
/* The text that the client has, as the inside of a JSON string: the caller's to wipe and to mem_free(). False: there is none, or it is not all that was passed on. */
bool continuation_take_text(struct request *q, char **ret, size_t *ret_len);
/* Of a request that was continued: u's counts, which are those of the last attempt alone, become those of the whole. */
void continuation_counts(const struct request *q, struct usage *u, int64_t prompt_estimate);

#endif
