/* What a request used, read from the answer in passing: from a stream's events, or from a whole body.
 *
 * Three dialects are understood: OpenAI's chat completions and completions, whose streams end in [DONE]; OpenAI's Responses; Anthropic's Messages. Their prompts count alike: with the
 * tokens that were cached, of which Anthropic's input_tokens do not tell.
 *
 * To count a stream exactly the engine is asked for its usage even when the client did not ask; then the event that carries only the usage is taken out again. All other
 * bytes reach the client as they came, once they were looked at. An event is held back only until it is whole, and only when something may have to be taken out; one of more than
 * USAGE_SCAN_EVENT_MAX bytes is passed on unread. Lines end in LF, CRLF or CR; several data lines of an event are joined. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_USAGE_SCAN_H
#define SEKI_GATEWAY_USAGE_SCAN_H

#include "base/str.h"

#define USAGE_SCAN_EVENT_MAX (256 * 1024)
/* More than any request can use: an engine that says so is not believed. */
#define USAGE_SCAN_TOKENS_MAX 1000000000

enum usage_dialect { DIALECT_COMPLETIONS, DIALECT_RESPONSES, DIALECT_MESSAGES };

struct usage_scan {
    enum usage_dialect dialect;
    bool take_out;              /* the client did not ask for usage: drop the event that holds only that */
    bool input_only;            /* embeddings, rerank: a usage without completion_tokens is whole */
    void (*out)(void *arg, struct str bytes);
    void *arg;
    int64_t usages;             /* above 0: so many are to come, one of each answer, and their sum is what was used … */
    int64_t answers;            /* … where so many answers share a prompt, which is read once */
    bool keeps_usage;           /* with take_out: nothing is dropped, but events go out whole or not at all */
    bool (*look)(void *arg, struct str data, bool keep); /* or NULL; needs take_out: told of each whole event's data; false: it is taken out */
    bool shut;                  /* set by look: nothing that follows is read or passed on */
    bool rewrites;              /* look writes to out itself: what came before goes out before */
    /* found */
    bool exact;                 /* the engine said it */
    bool done;                  /* the stream's last event was seen */
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    bool began;                 /* Messages: its first event told of the prompt */
    int64_t content_events;     /* events with content: the count when the engine gives none */
    bool unread;                /* an event was too large to be looked at */
    bool has_content;           /* something that cannot be taken back: more than an answer's role */
    /* its own */
    int64_t usages_seen, prompt_sum, cached_sum, completion_sum;
    struct sbuf carry;          /* the event that has begun */
    bool skipping;              /* in an event too large to hold: passed on unread */
    bool mid_line, after_cr;    /* where the last byte stands */
    bool crlf;                  /* its lines end with both */
    bool kept;                  /* the last whole event was passed on: a LF that comes late to its CR goes the same way */
    bool ended;                 /* the last byte ended an event */
};

void usage_scan_init(struct usage_scan *u, bool take_out, void (*out)(void *arg, struct str bytes), void *arg);
void usage_scan_deinit(struct usage_scan *u);
void usage_scan_feed(struct usage_scan *u, struct str bytes);
/* The stream has ended. True: it is whole, with its last event, and what was held back went out. False: it was cut; half an event that was held back stays so. */
bool usage_scan_end(struct usage_scan *u);
/* Its last event has come with all of its bytes: whatever follows is not of the answer. */
bool usage_scan_over(const struct usage_scan *u);
/* True when whoever receives the bytes has whole events only, so that another one may follow. */
bool usage_scan_between_events(const struct usage_scan *u);
/* A whole JSON body. False: it is no JSON object. */
bool usage_scan_body(struct usage_scan *u, struct str body);

#endif
