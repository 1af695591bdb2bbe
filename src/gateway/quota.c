/* The answer to who has no budget left: whose it is, how much, when it opens again, and who can change that. */
#include "base/clock.h"
#include "gateway/internal.h"

#define ERROR_MAX (16 * 1024)

static const char *whose(struct arena *a, const struct snap_key *k, const struct budget *b)
{
    if (b->scope == LIMIT_KEY)
        return arena_printf(a, "API key `%s`", k->name);
    return b->scope == LIMIT_PROJECT ? arena_printf(a, "project `%s` (Limit `%s`)", k->project, b->owner) : arena_printf(a, "tenant `%s`", k->tenant);
}

void answer_over_budget(struct http_request *r, const struct snap_key *k, const struct budget *b, int64_t wanted, int exponent)
{
    static const char *const ask[] = {"whoever made the key", "the project's admin", "the operator of this cloud"};
    static const char *const every[BUDGET_PERIODS] = {"in all", "a month", "a day"};
    CLEANUP(sbuf_deinit) struct sbuf body = {0}, message = {0};
    struct http_out_header headers[3];
    char amount[AMOUNT_TEXT_MAX], used[AMOUNT_TEXT_MAX], needs[AMOUNT_TEXT_MAX], when[CLOCK_TEXT_MAX];
    int64_t now = clock_wall_ms(), opens = budget_period_end(b->period, now), left;
    size_t n = 0;
    amount_format(b->amount, exponent, b->currency, amount);
    budget_held(b->counter, budget_period_number(b->period, now), &left);
    amount_format(MAX(b->amount - MAX(left, (int64_t)0) - atomic_load(&b->counter->more), (int64_t)0), exponent, b->currency, used);
    amount_format(wanted, exponent, b->currency, needs);
    sbuf_init(&message, ERROR_MAX / 4);
    sbuf_addf(&message, "You exceeded your current quota: the budget of %s is %s %s, of which %s are used or reserved; this request may cost %s.", whose(r->arena, k, b), amount, every[b->period], used, needs);
    headers[n++] = (struct http_out_header){"x-should-retry", STR("false")};
    if (opens != INT64_MAX) {
        clock_format(opens, when);
        sbuf_addf(&message, " It opens again at %s.", when);
        headers[n++] = (struct http_out_header){"Retry-After", str_of(arena_printf(r->arena, "%lld", (long long)(opens - now + 999) / 1000))};
    }
    sbuf_addf(&message, " %c%s can raise it.", ask[b->scope][0] - 'a' + 'A', ask[b->scope] + 1);
    sbuf_init(&body, ERROR_MAX);
    answer_error_body(&body, route_dialect(r->head.path), 429, "insufficient_quota", "insufficient_quota", NULL, sbuf_str(&message), r->id);
    http_respond(r, 429, JSON_TYPE, headers, n, sbuf_str(&body));
}
