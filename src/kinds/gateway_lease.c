/* GatewayLease of seki.cloud: a gateway tells what it holds of budgets and limits, and what it wants; control answers with its share. A virtual kind: nothing of it is stored. What it means:
 * billing/bank.h, billing/shares.h. Only gateways may ask (system:seki:gateway), as what one says of itself is believed.
 */
#include "kinds/borrowed.h"

#define ITEMS_MAX 4000 /* of one question: what a gateway has more of waits for the next */

static const struct field budget_ask_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 640, .help = "what tells this budget from others"},
    {.name = "scope", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .values = "key|project|tenant", .help = "whose spending it bounds"},
    {.name = "project", .type = FIELD_STRING, .max = 253, .help = "of a key, or the project itself"},
    {.name = "owner", .type = FIELD_STRING, .max = 253, .help = "the key's, Limit's or tenant's name"},
    {.name = "currency", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 8, .help = "of all amounts"},
    {.name = "period", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .values = "Month|Day|Total", .help = "what the amount is for"},
    {.name = "number", .type = FIELD_INT, .help = "which period: months or days since 1970"},
    {.name = "amount", .type = FIELD_INT, .help = "of the whole budget"},
    {.name = "held", .type = FIELD_INT, .help = "granted to this gateway, and in no usage record yet"},
    {.name = "left", .type = FIELD_INT, .help = "of that, what no request has reserved"},
    {.name = "need", .type = FIELD_INT, .help = "what requests wait for, together"},
    {.name = "needLeast", .type = FIELD_INT, .help = "the smallest of them"},
    {0},
};
static const struct field budget_answer_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "as asked"},
    {.name = "grant", .type = FIELD_INT, .help = "what it may spend beside what it holds"},
    {.name = "free", .type = FIELD_INT, .help = "what nobody holds after that"},
    {.name = "used", .type = FIELD_INT, .help = "of the whole budget, as far as records are known"},
    {.name = "final", .type = FIELD_BOOL, .help = "no other gateway has any to give back"},
    {.name = "recall", .type = FIELD_BOOL, .help = "others need what no request here has reserved"},
    {0},
};
static const struct field rate_ask_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .max = 640, .help = "whose limit"},
    {.name = "unit", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .values = "requests|tokens|concurrent", .help = "of what"},
    {.name = "max", .type = FIELD_INT, .help = "the whole limit"},
    {.name = "share", .type = FIELD_INT, .help = "what this gateway has of it"},
    {.name = "given", .type = FIELD_INT, .help = "what was free of shares that it gave back, since they were dealt out"},
    {.name = "left", .type = FIELD_INT, .help = "what is free"},
    {.name = "need", .type = FIELD_INT, .help = "what requests wait for, together"},
    {.name = "needLeast", .type = FIELD_INT, .help = "the smallest of them"},
    {0},
};
static const struct field rate_answer_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "as asked"},
    {.name = "unit", .type = FIELD_STRING, .help = "as asked"},
    {.name = "share", .type = FIELD_INT, .help = "what it has more"},
    {.name = "content", .type = FIELD_INT, .help = "of that, what may be used at once"},
    {.name = "final", .type = FIELD_BOOL, .help = "that is all for now"},
    {.name = "over", .type = FIELD_BOOL, .help = "it is not enough, and no other gateway has any to give"},
    {.name = "more", .type = FIELD_INT, .help = "what is left then"},
    {0},
};
static const struct field recall_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "whose limit"},
    {.name = "unit", .type = FIELD_STRING, .help = "of what"},
    {.name = "max", .type = FIELD_INT, .help = "the whole limit"},
    {.name = "amount", .type = FIELD_INT, .help = "what another gateway lacks"},
    {.name = "restore", .type = FIELD_INT, .help = "of that, what is its part"},
    {.name = "large", .type = FIELD_BOOL, .help = "it is for a request that no gateway's part has room for"},
    {0},
};
static const struct field cap_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "whose limit"},
    {.name = "unit", .type = FIELD_STRING, .help = "of what"},
    {.name = "max", .type = FIELD_INT, .help = "the whole limit"},
    {.name = "share", .type = FIELD_INT, .help = "the most that this gateway has of it"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "gateway", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .min = 1, .max = 63, .help = "its name"},
    {.name = "incarnation", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .min = 1, .max = 64, .help = "of its process"},
    {.name = "turn", .type = FIELD_INT, .help = "counts its questions"},
    {.name = "journal", .type = FIELD_STRING, .max = 128, .help = "where its usage records are"},
    {.name = "journalID", .type = FIELD_STRING, .max = 64, .help = "which journal that is"},
    {.name = "sequence", .type = FIELD_INT, .help = "the last record of what it no longer holds; -1: some wait for the disk"},
    {.name = "leaving", .type = FIELD_BOOL, .help = "it has ended all requests, and gives back all that it has"},
    {.name = "budgets", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = budget_ask_fields, .max = ITEMS_MAX, .help = "those it holds something of, or wants to"},
    {.name = "rateEpoch", .type = FIELD_INT, .help = "which dealing out of shares it has heard of"},
    {.name = "rateParts", .type = FIELD_INT, .help = "its part of each limit is one of so many; 0: it has none yet"},
    {.name = "rateSettled", .type = FIELD_BOOL, .help = "it has that part, and not only no more"},
    {.name = "rates", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = rate_ask_fields, .max = ITEMS_MAX, .help = "limits of which it wants more, or has another share than it had"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "leaseMilliseconds", .type = FIELD_INT, .help = "how long the answer holds, from before the question was sent"},
    {.name = "budgets", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = budget_answer_fields, .help = "as asked"},
    {.name = "rateEpoch", .type = FIELD_INT, .help = "the dealing out that this is about; absent: all stays as it is"},
    {.name = "rateParts", .type = FIELD_INT, .help = "its part of each limit is one of so many"},
    {.name = "rateSettled", .type = FIELD_BOOL, .help = "it has that part now; else it has no more than that"},
    {.name = "rateCaps", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = cap_fields, .help = "limits of which it has less"},
    {.name = "rates", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = rate_answer_fields, .help = "as asked"},
    {.name = "recalls", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = recall_fields, .help = "what others lack"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = spec_fields, .help = "what a gateway has, and wants"},
    {.name = "status", .type = FIELD_OBJECT, .flags = FIELD_READ_ONLY, .sub = status_fields, .help = "what it may use"},
    {0},
};

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, false, errors);
}

static int answer(const struct kind_context *c, json_t *obj, struct err *err)
{
    json_t *status = NULL;
    if (!c->services || !c->services->lease)
        return err_set(err, ERR_UNAVAILABLE, "this server leases no budgets");
    int rc = c->services->lease(c->services->ctx, json_object_get(obj, "spec"), &status, err);
    if (rc == 0)
        json_put(obj, "status", status);
    return rc;
}

static const struct kind_ops ops = {.validate = validate, .answer = answer};

const struct kind kind_gateway_lease = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "GatewayLease", .plural = "gatewayleases", .singular = "gatewaylease", .unaudited = true, .fields = fields, .ops = &ops,
    .help = "GatewayLease gives a gateway its share of budgets and limits, for a while.",
};
