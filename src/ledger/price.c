#include "ledger/price.h"

#include <stdio.h>

#define MILLION 1000000
#define DAY_MS 86400000LL

__extension__ typedef __int128 wide;

int64_t price_cost(const struct price *p, int64_t prompt_tokens, int64_t cached_tokens, int64_t completion_tokens)
{
    int64_t cached = cached_tokens < prompt_tokens ? cached_tokens : prompt_tokens;
    wide sum = (wide)(prompt_tokens - cached) * p->input + (wide)cached * p->cached_input + (wide)completion_tokens * p->output;
    sum = (sum + MILLION - 1) / MILLION;
    return sum > INT64_MAX ? INT64_MAX : (int64_t)sum;
}

int64_t amount_add(int64_t a, int64_t b)
{
    int64_t sum;
    if (!__builtin_add_overflow(a, b, &sum))
        return sum;
    return a < 0 ? INT64_MIN : INT64_MAX;
}

bool currency_valid(const char *text)
{
    if (!text || strlen(text) != CURRENCY_MAX - 1)
        return false;
    for (const char *c = text; *c; c++)
        if (*c < 'A' || *c > 'Z')
            return false;
    return true;
}

void amount_format(int64_t micros, int exponent, const char *currency, char text[AMOUNT_TEXT_MAX])
{
    char digits[16];
    uint64_t n = micros < 0 ? 0 - (uint64_t)micros : (uint64_t)micros;
    int places = 6;
    snprintf(digits, sizeof(digits), "%06llu", (unsigned long long)(n % MILLION));
    while (places > exponent && places > 0 && digits[places - 1] == '0')
        digits[--places] = 0;
    snprintf(text, AMOUNT_TEXT_MAX, "%s%llu%s%s %s", micros < 0 ? "-" : "", (unsigned long long)(n / MILLION), places ? "." : "", digits, currency);
}

/* ---- periods ---- */

static const char *const texts[BUDGET_PERIODS] = {"Total", "Month", "Day"};

enum budget_period budget_period_of(const char *text)
{
    for (int p = 0; text && p < BUDGET_PERIODS; p++)
        if (!strcmp(text, texts[p]))
            return (enum budget_period)p;
    return BUDGET_TOTAL;
}

const char *budget_period_text(enum budget_period p)
{
    return texts[p];
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int64_t days_in(int64_t month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month % 12] + (month % 12 == 1 && is_leap(1970 + month / 12));
}

/* The month that a day lies in, and the day on which the next one begins. Days before 1970 count as the first. */
static int64_t month_of(int64_t day, int64_t *ret_next)
{
    int64_t month = 0, first = 0;
    while (day >= first + (is_leap(1970 + month / 12) ? 366 : 365)) {
        first += is_leap(1970 + month / 12) ? 366 : 365;
        month += 12;
    }
    while (day >= first + days_in(month))
        first += days_in(month++);
    *ret_next = first + days_in(month);
    return month;
}

int64_t budget_period_number(enum budget_period p, int64_t wall_ms)
{
    int64_t day = floor_div(wall_ms, DAY_MS), next;
    return p == BUDGET_DAY ? day : p == BUDGET_MONTH ? month_of(day, &next) : 0;
}

int64_t budget_period_end(enum budget_period p, int64_t wall_ms)
{
    int64_t day = floor_div(wall_ms, DAY_MS), next = day + 1;
    if (p == BUDGET_TOTAL)
        return INT64_MAX;
    if (p == BUDGET_MONTH)
        month_of(day, &next);
    return next * DAY_MS;
}
