#include "gateway/answers.h"

#include "gateway/request.h"

static bool asks_for_several(const struct request *q, const struct snap_endpoint *e)
{
    return e->usage_by_answer && (q->body.several || q->body.prompts > 1);
}

const char *answers_uncountable(const struct request *q, const struct snap_endpoint *e)
{
    if (!asks_for_several(q, e) || q->route->embeddings || q->route->counts_only)
        return NULL;
    if (q->route->dialect != DIALECT_COMPLETIONS)
        return "gives one answer on this path: leave out `n`";
    if (!q->body.answers)
        return "needs to be told by `n`, and by nothing else, how many answers are wanted: send a whole number";
    if (!q->body.stream)
        return q->body.several ? "tells of several answers together only what the first one used: send \"stream\": true, or one request for each answer"
                               : "tells of several prompts together only what the first one used: send \"stream\": true, or one request for each prompt";
    return NULL;
}

void answers_refuse(struct request *q)
{
    char message[MODEL_NAME_MAX + 256];
    snprintf(message, sizeof(message), "The engine of the model `%s` %s.", q->body.model, answers_uncountable(q, q->endpoint));
    request_refuse(q, 400, OUTCOME_REFUSED_BY_US, "invalid_request_error", "unsupported_value", q->body.several ? "n" : "prompt", message);
}

void answers_scan(struct request *q)
{
    if (!asks_for_several(q, q->endpoint) || !q->body.answers)
        return;
    q->scan.usages = q->body.answers * q->body.prompts;
    q->scan.answers = q->body.answers;
}
