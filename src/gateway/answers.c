#include "gateway/answers.h"

#include "gateway/request.h"

static bool asks_for_several(const struct request *q)
{
    return q->endpoint->usage_by_answer && (q->body.several || q->body.prompts > 1);
}

bool answers_can_be_counted(struct request *q)
{
    const char *param = q->body.several ? "n" : "prompt", *why = NULL;
    char message[MODEL_NAME_MAX + 256];
    if (!asks_for_several(q) || q->route->embeddings || q->route->counts_only)
        return true;
    if (q->route->dialect != DIALECT_COMPLETIONS)
        why = "gives one answer on this path: leave out `n`";
    else if (!q->body.answers)
        why = "needs to be told by `n`, and by nothing else, how many answers are wanted: send a whole number";
    else if (!q->body.stream)
        why = q->body.several ? "tells of several answers together only what the first one used: send \"stream\": true, or one request for each answer"
                              : "tells of several prompts together only what the first one used: send \"stream\": true, or one request for each prompt";
    if (!why)
        return true;
    snprintf(message, sizeof(message), "The engine of the model `%s` %s.", q->body.model, why);
    request_refuse(q, 400, OUTCOME_REFUSED_BY_US, "invalid_request_error", "unsupported_value", param, message);
    return false;
}

void answers_scan(struct request *q)
{
    if (!asks_for_several(q) || !q->body.answers)
        return;
    q->scan.usages = q->body.answers * q->body.prompts;
    q->scan.answers = q->body.answers;
}
