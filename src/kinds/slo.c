#include "kinds/slo.h"

#include <stdio.h>

static const struct field ttft_fields[] = {
    {.name = "percent", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = 6, .help = "of streams, with at most three decimals: \"95\""},
    {.name = "milliseconds", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = 3600000, .help = "from a request's first byte to the first of the engine's answer"},
    {0},
};
const struct field slo_fields[] = {
    {.name = "availability", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .min = 1, .max = 6, .help = "percent of requests that do not fail on the cloud's side, with at most three decimals: \"99.9\""},
    {.name = "ttft", .type = FIELD_OBJECT, .sub = ttft_fields, .offset = FIELD_NO_MEMBER, .help = "time to first token: how many streams begin how soon"},
    {0},
};

bool slo_percent_read(struct str text, int64_t *ret_millionths)
{
    struct str rest = text, whole, part = STR("0");
    int64_t w, p;
    for (size_t i = 0; i < text.len; i++)
        if (text.ptr[i] != '.' && (text.ptr[i] < '0' || text.ptr[i] > '9'))
            return false;
    if (!str_cut(&rest, '.', &whole))
        return false;
    bool has_point = whole.len < text.len;
    if (has_point)
        part = rest;
    if (!whole.len || whole.len > 2 || !part.len || part.len > 3 || str_to_i64(whole, 0, 99, &w) < 0 || str_to_i64(part, 0, 999, &p) < 0)
        return false;
    for (size_t i = part.len; i < 3; i++)
        p *= 10;
    if (!w && !p)
        return false;
    *ret_millionths = w * 10000 + p * 10;
    return true;
}

void slo_percent_format(int64_t millionths, char text[SLO_PERCENT_MAX])
{
    int64_t thousandths = millionths / 10 - (millionths % 10 < 0);
    bool below = thousandths < 0;
    uint64_t n = below ? 0 - (uint64_t)thousandths : (uint64_t)thousandths;
    int len = snprintf(text, SLO_PERCENT_MAX, "%s%llu.%03llu", below ? "-" : "", (unsigned long long)(n / 1000 > 999999999 ? 999999999 : n / 1000), (unsigned long long)n % 1000);
    while (text[len - 1] == '0')
        text[--len] = 0;
    if (text[len - 1] == '.')
        text[len - 1] = 0;
}

int64_t slo_achieved(int64_t requests, int64_t bad)
{
    return (int64_t)((__int128)(requests - bad) * SLO_WHOLE / requests);
}

int64_t slo_budget_left(int64_t budget, int64_t bad)
{
    __int128 left = ((__int128)budget - (__int128)bad * SLO_WHOLE) * SLO_WHOLE / budget;
    return left < INT64_MIN / 2 ? INT64_MIN / 2 : (int64_t)left;
}

void slo_read(const json_t *spec, struct slo *ret)
{
    *ret = (struct slo){.ttft_ms = json_int(spec, "slo.ttft.milliseconds", 0)};
    if (!slo_percent_read(str_of(json_str_or(spec, "slo.availability", "")), &ret->availability))
        ret->availability = 0;
    if (ret->ttft_ms < 1 || !slo_percent_read(str_of(json_str_or(spec, "slo.ttft.percent", "")), &ret->ttft))
        ret->ttft = ret->ttft_ms = 0;
}

static void check_percent(const json_t *spec, const char *path, const char *field, struct field_errors *errors)
{
    int64_t n;
    const char *text = json_str(spec, path);
    if (text && !slo_percent_read(str_of(text), &n))
        field_errors_add(errors, field, "FieldValueInvalid", "Invalid value: \"%.20s\": expected a percentage above 0 and below 100 with at most three decimals, such as \"99.9\"", text);
}

void slo_validate(const json_t *spec, struct field_errors *errors)
{
    const json_t *slo = json_object_get(spec, "slo");
    if (!json_is_object(slo))
        return;
    check_percent(spec, "slo.availability", "spec.slo.availability", errors);
    check_percent(spec, "slo.ttft.percent", "spec.slo.ttft.percent", errors);
    if (!json_object_get(slo, "availability") && !json_object_get(slo, "ttft"))
        field_errors_add(errors, "spec.slo", "FieldValueRequired", "Required value: promise availability or ttft, or leave slo out");
    if (json_object_get(slo, "ttft") && (json_flag(spec, "engine.embeddings", false) || json_flag(spec, "engine.rerank", false)))
        field_errors_add(errors, "spec.slo.ttft", "FieldValueForbidden", "Forbidden: only where text is served, as nothing else is a stream");
}
