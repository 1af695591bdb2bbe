#include "gateway/prices.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kinds/kind.h"

#define PRICES_MAX 1000 /* of one model */

/* How closely a price means a model; 0: it does not. */
static int rank_of(const json_t *obj, const char *project, const char *served)
{
    const char *model = json_str_or(obj, "spec.model", ""), *of = json_str_or(obj, "spec.project", "");
    bool all = !strcmp(model, "*"), named = !strcmp(model, served), own = !strcmp(of, project);
    if (!(all || named) || (*of && !own) || obj_deleting(obj) || !obj_name(obj))
        return 0;
    return 1 + named + 2 * own;
}

static int64_t amount_of(const json_t *obj, const char *path, int64_t def)
{
    int64_t n = json_int(obj, path, def);
    return n < 0 ? 0 : MIN(n, PRICE_MICROS_MAX);
}

static int best_first(const void *a, const void *b)
{
    const struct snap_price *x = a, *y = b;
    if (x->rank != y->rank)
        return y->rank - x->rank;
    if (x->from_ms != y->from_ms)
        return x->from_ms < y->from_ms ? 1 : -1;
    return strcmp(y->name, x->name);
}

void prices_read(const json_t *prices, const char *project, const char *served, struct arena *a, struct snap_prices *ret)
{
    size_t i, count = 0;
    json_t *obj;
    *ret = (struct snap_prices){NULL, 0};
    json_array_foreach (prices, i, obj)
        count += rank_of(obj, project, served) > 0;
    count = MIN(count, (size_t)PRICES_MAX);
    if (!count)
        return;
    ret->items = ARENA_ARRAY(a, struct snap_price, count);
    json_array_foreach (prices, i, obj) {
        struct snap_price p = {.rank = rank_of(obj, project, served), .name = obj_name(obj)};
        const char *currency = json_str_or(obj, "spec.currency", ""), *from = json_str(obj, "spec.validFrom");
        if (!p.rank || ret->count == count || !currency_valid(currency) || (from && clock_parse(str_of(from), &p.from_ms) < 0))
            continue;
        memcpy(p.price.currency, currency, CURRENCY_MAX);
        p.name = arena_strdup(a, p.name);
        p.price.exponent = (int)MIN(MAX(json_int(obj, "spec.exponent", 2), (int64_t)0), (int64_t)6);
        p.price.input = amount_of(obj, "spec.microsPerMillionTokens.input", 0);
        p.price.cached_input = amount_of(obj, "spec.microsPerMillionTokens.cachedInput", p.price.input);
        p.price.output = amount_of(obj, "spec.microsPerMillionTokens.output", 0);
        ret->items[ret->count++] = p;
    }
    qsort(ret->items, ret->count, sizeof(*ret->items), best_first);
}

const struct price *prices_at(const struct snap_prices *p, int64_t wall_ms)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->items[i].from_ms <= wall_ms)
            return &p->items[i].price;
    return NULL;
}
