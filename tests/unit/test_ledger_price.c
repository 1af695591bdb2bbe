/* Prices, amounts and periods. */
#include "unit.h"

#include "base/clock.h"
#include "ledger/price.h"

static const struct price P = {.currency = "EUR", .exponent = 2, .input = 150000, .cached_input = 30000, .output = 600000};

static void charges_are_rounded_up_once(void **state)
{
    (void)state;
    assert_int_equal(price_cost(&P, 1000, 0, 1000), 750);
    assert_int_equal(price_cost(&P, 1, 0, 0), 1); /* 0.15 */
    assert_int_equal(price_cost(&P, 1, 0, 1), 1); /* 0.75, not 1 + 1 */
    assert_int_equal(price_cost(&P, 3, 0, 1), 2); /* 1.05 */
    assert_int_equal(price_cost(&P, 0, 0, 0), 0);
}

static void what_is_cached_costs_its_own_price_and_is_never_more_than_the_prompt(void **state)
{
    (void)state;
    assert_int_equal(price_cost(&P, 1000, 400, 0), 90 + 12);
    assert_int_equal(price_cost(&P, 1000, 5000, 0), 30);
}

static void sums_stay_at_the_ends(void **state)
{
    (void)state;
    struct price dear = {.input = PRICE_MICROS_MAX, .output = PRICE_MICROS_MAX};
    assert_true(price_cost(&dear, INT64_MAX, 0, INT64_MAX) == INT64_MAX);
    assert_true(amount_add(INT64_MAX, 1) == INT64_MAX);
    assert_true(amount_add(INT64_MIN, -1) == INT64_MIN);
    assert_true(amount_add(INT64_MAX, -1) == INT64_MAX - 1);
    assert_int_equal(amount_add(3, -5), -2);
}

static void currencies_are_three_capital_letters(void **state)
{
    (void)state;
    assert_true(currency_valid("EUR"));
    assert_true(currency_valid("JPY"));
    const char *const bad[] = {NULL, "", "EU", "EURO", "eur", "E1R", "EU "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(currency_valid(bad[i]));
}

static void shows(int64_t micros, int exponent, const char *want)
{
    char text[AMOUNT_TEXT_MAX];
    amount_format(micros, exponent, "EUR", text);
    assert_string_equal(text, want);
}

static void amounts_are_shown_with_all_that_there_is(void **state)
{
    (void)state;
    shows(12500000, 2, "12.50 EUR");
    shows(150, 2, "0.00015 EUR");
    shows(0, 2, "0.00 EUR");
    shows(-1500000, 2, "-1.50 EUR");
    shows(7000000, 0, "7 EUR");
    shows(7000001, 0, "7.000001 EUR");
    shows(INT64_MIN, 6, "-9223372036854.775808 EUR");
}

static int64_t at(const char *text)
{
    int64_t ms = 0;
    assert_int_equal(clock_parse(str_of(text), &ms), 0);
    return ms;
}

static void periods_are_calendar_days_and_months_of_utc(void **state)
{
    (void)state;
    assert_int_equal(budget_period_number(BUDGET_MONTH, at("1970-01-31T23:59:59Z")), 0);
    assert_int_equal(budget_period_number(BUDGET_MONTH, at("1970-02-01T00:00:00Z")), 1);
    assert_int_equal(budget_period_number(BUDGET_MONTH, at("2028-02-29T12:00:00Z")), 58 * 12 + 1);
    assert_int_equal(budget_period_number(BUDGET_MONTH, at("2028-03-01T00:00:00Z")), 58 * 12 + 2);
    assert_true(budget_period_end(BUDGET_MONTH, at("2028-02-01T00:00:00Z")) == at("2028-03-01T00:00:00Z"));
    assert_true(budget_period_end(BUDGET_MONTH, at("2100-02-10T00:00:00Z")) == at("2100-03-01T00:00:00Z")); /* no leap year */
    assert_true(budget_period_end(BUDGET_MONTH, at("2026-12-31T23:59:59Z")) == at("2027-01-01T00:00:00Z"));
    assert_true(budget_period_end(BUDGET_DAY, at("2026-12-31T23:59:59Z")) == at("2027-01-01T00:00:00Z"));
    assert_int_equal(budget_period_number(BUDGET_DAY, at("1970-01-03T00:00:00Z")), 2);
    assert_int_equal(budget_period_number(BUDGET_DAY, -1), -1);
    assert_int_equal(budget_period_number(BUDGET_TOTAL, at("2026-12-31T23:59:59Z")), 0);
    assert_true(budget_period_end(BUDGET_TOTAL, 0) == INT64_MAX);
}

static void words_for_periods_go_both_ways(void **state)
{
    (void)state;
    for (int p = 0; p < BUDGET_PERIODS; p++)
        assert_int_equal(budget_period_of(budget_period_text((enum budget_period)p)), p);
    assert_int_equal(budget_period_of("Year"), BUDGET_TOTAL);
    assert_int_equal(budget_period_of(NULL), BUDGET_TOTAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(charges_are_rounded_up_once),
        cmocka_unit_test(what_is_cached_costs_its_own_price_and_is_never_more_than_the_prompt),
        cmocka_unit_test(sums_stay_at_the_ends),
        cmocka_unit_test(currencies_are_three_capital_letters),
        cmocka_unit_test(amounts_are_shown_with_all_that_there_is),
        cmocka_unit_test(periods_are_calendar_days_and_months_of_utc),
        cmocka_unit_test(words_for_periods_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
