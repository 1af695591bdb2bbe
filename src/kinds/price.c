/* Price: what a model's tokens cost, from a moment on. The gateway writes the cost of a request into its usage record, with the price that held when it began.
 *
 * Of the prices that mean a model, those of its project go before those of all projects, and those that name it before those of all models; of these, the one that holds since the
 * latest moment, and of two of the same moment the one whose name is the last in the alphabet.
 */
#include "kinds/inference.h"
#include "ledger/price.h"

static const struct field token_fields[] = {
    {.name = "input", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 0, .max = PRICE_MICROS_MAX, .help = "of the prompt"},
    {.name = "cachedInput", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = 0, .max = PRICE_MICROS_MAX, .help = "of the part of the prompt that the engine found in its cache; absent: as input"},
    {.name = "output", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 0, .max = PRICE_MICROS_MAX, .help = "of the answer"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "model", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_SELECTABLE, .offset = FIELD_NO_MEMBER, .min = 1, .max = 255, .help = "the served name, as clients write it; *: all models"},
    {.name = "project", .type = FIELD_STRING, .flags = FIELD_DNS_LABEL, .offset = FIELD_NO_MEMBER, .min = 1, .max = 63, .help = "the project whose ModelEndpoint serves it; absent: any"},
    {.name = "currency", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 3, .max = 3, .help = "three capital letters, as ISO 4217 has them: EUR"},
    {.name = "exponent", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = 0, .max = 6, .def = "2", .help = "decimals of the currency's smallest coin: 2 for EUR, 0 for JPY. Only how amounts are shown"},
    {.name = "microsPerMillionTokens", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = token_fields, .help = "in millionths of the currency's unit for a million tokens: 150000 is 0.15 EUR"},
    {.name = "validFrom", .type = FIELD_TIME, .offset = FIELD_NO_MEMBER, .help = "requests that begin from then on cost this; absent: all"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = spec_fields, .help = "what costs how much"},
    {0},
};
static const struct kind_column columns[] = {
    {"MODEL", "string", "", "spec.model", 0, "the served name"},
    {"PROJECT", "string", "", "spec.project", 1, "whose model"},
    {"INPUT", "integer", "", "spec.microsPerMillionTokens.input", 0, "micro-units for a million tokens of prompts"},
    {"OUTPUT", "integer", "", "spec.microsPerMillionTokens.output", 0, "micro-units for a million tokens of answers"},
    {"CURRENCY", "string", "", "spec.currency", 0, "of these"},
    {"FROM", "string", "", "spec.validFrom", 0, "since when it holds"},
    {0},
};

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    const char *currency = json_str(obj, "spec.currency");
    if (currency && !currency_valid(currency))
        field_errors_add(errors, "spec.currency", "FieldValueInvalid", "Invalid value: \"%s\": expected three capital letters, as ISO 4217 has them, such as EUR", currency);
}
static const struct kind_ops ops = {.validate = validate};

const struct kind kind_price = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Price", .plural = "prices", .singular = "price", .categories = "seki", .fields = fields, .columns = columns, .ops = &ops,
    .help = "Price is what the tokens of a model cost from a moment on.",
};
