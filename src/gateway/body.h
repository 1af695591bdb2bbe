/* A request's body: what the gateway must know of it, and the few bytes that it changes on the way to the engine.
 *
 * One span scan finds model, stream, stream_options and the prompt; the body is never parsed into a document. What may be changed: the model's name, where the engine
 * knows it by another; "stream_options.include_usage", which is asked for in every stream so that it can be counted; and members by which engines are told whose cache to use, which
 * request to follow or which adapter to apply (TAKEN_OUT in body.c): those are the gateway's to say, and a client's are taken out. Everything else is forwarded byte for byte, in
 * pieces that point into the body as it came. Pure functions; threads: any.
 */
#ifndef SEKI_GATEWAY_BODY_H
#define SEKI_GATEWAY_BODY_H

#include <sys/uio.h>

#include "base/arena.h"
#include "json/span.h"

#define MODEL_NAME_MAX 256
#define BODY_TAKEN_OUT_MAX 20
#define BODY_PIECES_MAX (2 * (BODY_TAKEN_OUT_MAX + 3) + 1)

struct request_body {
    char model[MODEL_NAME_MAX];
    bool stream;
    bool ask_usage;      /* streams must be asked for it */
    bool usage_wanted;   /* the client asked for usage in its stream */
    int64_t prompt_tokens; /* of the prompt's JSON, and of what templates put beside it (tools, a schema, instructions), estimated: where the engine gives no count, and for what is reserved */
    struct str prompt;   /* its JSON */
    bool batch;          /* it may wait behind all others: "service_tier" is "flex" or "batch" */
    int64_t max_tokens;  /* that all answers together may have, however an engine reads the members that say so; 0: the client does not say */
    int64_t most_answers; /* to all prompts, likewise; 1 or more */
    bool several;        /* it may ask for more answers than one */
    int64_t answers;     /* to each prompt; 0: that is said oddly */
    int64_t prompts;     /* of completions; 1 everywhere else */
    struct str text;
    struct str taken_out[BODY_TAKEN_OUT_MAX]; /* values of members that do not go on; ptr NULL: it has none */
    struct span at_model, at_options, at_usage;
};

#define BODY_MESSAGES_MAX 4096
#define BODY_PROMPTS_MAX 2048 /* inputs and documents, too: as OpenAI has it */
#define BODY_LOGPROBS_MAX 100 /* of each token; OpenAI has 20 */
#define BODY_LAST_N_MAX 1000000 /* tokens that a sampler looks back at */

/* prompt: the member that this route must have ("messages"). ask_usage: its streams tell what they used only when they are asked. ERR_BAD_REQUEST; the field names the member. What would hold an engine up is refused, too (schema_bound.h). The body must outlive *ret. */
int request_body_read(struct str text, const char *prompt, bool ask_usage, struct request_body *ret, struct err *err) NODISCARD;
/* A number as engines take it: also with a fraction, which is rounded up, and as a string. False: it is none. */
bool body_number(const struct span *s, int64_t *ret);
/* About how many tokens a JSON text has: a character of CJK or an emoji is one, of everything else four bytes. */
int64_t body_estimate_tokens(struct str json);
/* The pieces to send. engine_model NULL: the name stays. put_in: members of the gateway's own, "\"id_slot\":1,\"cache_prompt\":true", or empty. */
int request_body_pieces(const struct request_body *b, const char *engine_model, struct str put_in, struct arena *a, struct iovec pieces[BODY_PIECES_MAX]);

#endif
