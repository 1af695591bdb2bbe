/* What a model's tokens cost, in a snapshot: the Prices that mean it (kinds/price.c says which go before which). Pure; threads: any. */
#ifndef SEKI_GATEWAY_PRICES_H
#define SEKI_GATEWAY_PRICES_H

#include "base/arena.h"
#include "json/json.h"
#include "ledger/price.h"

struct snap_price {
    struct price price;
    int64_t from_ms;
    int rank;
    const char *name;
};
/* The best first. */
struct snap_prices {
    struct snap_price *items;
    size_t count;
};
/* prices: an array of documents; NULL is none. */
void prices_read(const json_t *prices, const char *project, const char *served, struct arena *a, struct snap_prices *ret);
/* The one that holds for a request that begins at a moment; NULL: none does. */
const struct price *prices_at(const struct snap_prices *p, int64_t wall_ms);

#endif
