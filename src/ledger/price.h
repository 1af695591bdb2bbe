/* Money: what tokens cost, and the periods that a budget is of. Integers only: an amount is a number of micro-units, millionths of the currency's unit (1 EUR is 1,000,000), and a
 * price is so many micro-units for a million tokens. A request's charge is rounded up, once, to the next micro-unit. Pure functions; threads: any.
 */
#ifndef SEKI_LEDGER_PRICE_H
#define SEKI_LEDGER_PRICE_H

#include "base/str.h"

#define PRICE_MICROS_MAX 1000000000000LL      /* of a million tokens: a million units of the currency */
#define AMOUNT_MICROS_MAX 1000000000000000LL  /* of a budget: 10^9 units */
#define CURRENCY_MAX 4                        /* three letters as ISO 4217 has them, and the NUL */

struct price {
    char currency[CURRENCY_MAX];
    int exponent; /* decimals of the currency's smallest coin: only how amounts are shown */
    int64_t input, cached_input, output;
};
/* What so many tokens cost; cached ones are among the prompt's. Stays at INT64_MAX. */
int64_t price_cost(const struct price *p, int64_t prompt_tokens, int64_t cached_tokens, int64_t completion_tokens);
/* a + b, at most INT64_MAX and at least INT64_MIN. */
int64_t amount_add(int64_t a, int64_t b);
bool currency_valid(const char *text);
/* "12.50 EUR", "0.000150 EUR": with all of its micro-units, but no zeros behind the exponent. */
#define AMOUNT_TEXT_MAX 40
void amount_format(int64_t micros, int exponent, const char *currency, char text[AMOUNT_TEXT_MAX]);

/* Calendar days and months are those of UTC. */
enum budget_period { BUDGET_TOTAL, BUDGET_MONTH, BUDGET_DAY, BUDGET_PERIODS };
/* "Total", "Month", "Day"; what is none of them is Total. */
enum budget_period budget_period_of(const char *text);
const char *budget_period_text(enum budget_period p);
/* The number of the period that a moment lies in: days since 1970, months since 1970, 0. */
int64_t budget_period_number(enum budget_period p, int64_t wall_ms);
/* When the next one begins; INT64_MAX: never. */
int64_t budget_period_end(enum budget_period p, int64_t wall_ms);

#endif
