#include "base/clock.h"

#include <limits.h>

#define NS_PER_MS 1000000
#define MS_PER_DAY ((int64_t)86400 * 1000)
#define US_PER_DAY (MS_PER_DAY * 1000)

/* Overrides of tests. Atomic only to keep the readers in other threads defined. */
static bool frozen;
static uint64_t frozen_mono_ms;
static int64_t frozen_wall_ms;

static bool is_frozen(void)
{
    return __atomic_load_n(&frozen, __ATOMIC_ACQUIRE);
}

uint64_t clock_mono_ns(void)
{
    if (UNLIKELY(is_frozen()))
        return __atomic_load_n(&frozen_mono_ms, __ATOMIC_RELAXED) * NS_PER_MS;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t clock_mono_ms(void)
{
    return clock_mono_ns() / NS_PER_MS;
}

int64_t clock_wall_ms(void)
{
    if (UNLIKELY(is_frozen()))
        return __atomic_load_n(&frozen_wall_ms, __ATOMIC_RELAXED);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / NS_PER_MS;
}

int64_t clock_wall_ns(void)
{
    if (UNLIKELY(is_frozen()))
        return __atomic_load_n(&frozen_wall_ms, __ATOMIC_RELAXED) * NS_PER_MS;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void clock_test_set(uint64_t mono_ms, int64_t wall_ms)
{
    __atomic_store_n(&frozen_mono_ms, mono_ms, __ATOMIC_RELAXED);
    __atomic_store_n(&frozen_wall_ms, wall_ms, __ATOMIC_RELAXED);
    __atomic_store_n(&frozen, true, __ATOMIC_RELEASE);
}

void clock_test_advance(uint64_t ms)
{
    __atomic_fetch_add(&frozen_mono_ms, ms, __ATOMIC_RELAXED);
    __atomic_fetch_add(&frozen_wall_ms, (int64_t)ms, __ATOMIC_RELAXED);
}

void clock_test_clear(void)
{
    __atomic_store_n(&frozen, false, __ATOMIC_RELEASE);
}

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar, and back. Years are counted
 * from March, so that the leap day is the last of its year; an era is 400 years, 146097 days. */
int64_t clock_days(int64_t year, int64_t month, int64_t day)
{
    if (month <= 2)
        year--;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static void civil_from_days(int64_t days, int *year, int *month, int *day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t from_march = (5 * day_of_year + 2) / 153;
    *day = (int)(day_of_year - (153 * from_march + 2) / 5 + 1);
    *month = (int)(from_march < 10 ? from_march + 3 : from_march - 9);
    *year = (int)(year_of_era + era * 400 + (*month <= 2));
}

int clock_weekday(int64_t days)
{
    return (int)(((days + 4) % 7 + 7) % 7); /* 1970 began on a Thursday */
}

int64_t clock_year(int64_t days)
{
    int year, month, day;
    civil_from_days(days, &year, &month, &day);
    return year;
}

static void format(int64_t wall_us, bool micro, char text[CLOCK_TEXT_MAX])
{
    /* RFC 3339 has four digits of year; what lies outside shows as the nearest that can be said. */
    int64_t first = clock_days(0, 1, 1) * US_PER_DAY;
    int64_t last = clock_days(10000, 1, 1) * US_PER_DAY - 1;
    wall_us = MIN(MAX(wall_us, first), last);
    int64_t days = wall_us / US_PER_DAY - (wall_us % US_PER_DAY < 0);
    int64_t us = wall_us - days * US_PER_DAY;
    int year, month, day;
    civil_from_days(days, &year, &month, &day);
    int s = (int)(us / 1000000);
    int n = snprintf(text, CLOCK_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", year, month, day,
                     s / 3600, s / 60 % 60, s % 60);
    if (micro)
        snprintf(text + n, CLOCK_TEXT_MAX - (size_t)n, ".%06dZ", (int)(us % 1000000));
    else
        snprintf(text + n, CLOCK_TEXT_MAX - (size_t)n, "Z");
}

void clock_format(int64_t wall_ms, char text[CLOCK_TEXT_MAX])
{
    int64_t wall_us;
    if (__builtin_mul_overflow(wall_ms, (int64_t)1000, &wall_us))
        wall_us = wall_ms < 0 ? INT64_MIN : INT64_MAX;
    format(wall_us, false, text);
}

void clock_format_micro(int64_t wall_us, char text[CLOCK_TEXT_MAX])
{
    format(wall_us, true, text);
}

/* Exactly `digits` digits from the front of s. */
static bool take_number(struct str *s, size_t digits, int64_t min, int64_t max, int64_t *ret)
{
    if (s->len < digits || !(s->ptr[0] >= '0' && s->ptr[0] <= '9'))
        return false;
    if (str_to_i64(str_n(s->ptr, digits), min, max, ret) < 0)
        return false;
    *s = str_skip(*s, digits);
    return true;
}

static bool take_char(struct str *s, char a, char b)
{
    if (s->len == 0 || (s->ptr[0] != a && s->ptr[0] != b))
        return false;
    *s = str_skip(*s, 1);
    return true;
}

static bool take_offset(struct str *s, int64_t *ret_minutes)
{
    if (take_char(s, 'Z', 'z')) {
        *ret_minutes = 0;
        return true;
    }
    bool west = s->len && s->ptr[0] == '-';
    int64_t hours, minutes;
    if (!take_char(s, '+', '-') || !take_number(s, 2, 0, 23, &hours) || !take_char(s, ':', ':') ||
        !take_number(s, 2, 0, 59, &minutes))
        return false;
    *ret_minutes = (west ? -1 : 1) * (hours * 60 + minutes);
    return true;
}

static int days_in_month(int64_t year, int64_t month)
{
    if (month == 2)
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/* ".123456": any number of digits; what is finer than a millisecond is dropped. */
static bool take_fraction(struct str *s, int64_t *ret_ms)
{
    int64_t scale = 100;
    size_t digits = 0;
    *ret_ms = 0;
    if (!take_char(s, '.', '.'))
        return true;
    for (; s->len && s->ptr[0] >= '0' && s->ptr[0] <= '9'; *s = str_skip(*s, 1), digits++) {
        *ret_ms += (s->ptr[0] - '0') * scale;
        scale /= 10;
    }
    return digits > 0;
}

int clock_parse(struct str text, int64_t *ret_wall_ms)
{
    int64_t year, month, day, hour, minute, second, ms, offset;
    struct str s = text;
    if (!take_number(&s, 4, 0, 9999, &year) || !take_char(&s, '-', '-') ||
        !take_number(&s, 2, 1, 12, &month) || !take_char(&s, '-', '-') ||
        !take_number(&s, 2, 1, days_in_month(year, month), &day) || !take_char(&s, 'T', 't') ||
        !take_number(&s, 2, 0, 23, &hour) || !take_char(&s, ':', ':') ||
        !take_number(&s, 2, 0, 59, &minute) || !take_char(&s, ':', ':') ||
        !take_number(&s, 2, 0, 59, &second) || !take_fraction(&s, &ms) || !take_offset(&s, &offset))
        return ERR_BAD_REQUEST;
    if (s.len)
        return ERR_BAD_REQUEST;
    *ret_wall_ms = clock_days(year, month, day) * MS_PER_DAY +
                   ((hour * 60 + minute - offset) * 60 + second) * 1000 + ms;
    return 0;
}

static const struct {
    const char *name;
    int64_t ns;
} units[] = {
    {"ns", 1},           {"us", 1000},      {"\xC2\xB5s", 1000}, /* U+00B5, micro sign */
    {"\xCE\xBCs", 1000},                                         /* U+03BC, Greek mu */
    {"ms", 1000000},     {"s", 1000000000}, {"m", 60000000000},  {"h", 3600000000000},
};

static int64_t take_unit(struct str *s)
{
    size_t n = 0;
    while (n < s->len && s->ptr[n] != '.' && !(s->ptr[n] >= '0' && s->ptr[n] <= '9'))
        n++;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (str_eqc(str_n(s->ptr, n), units[i].name)) {
            *s = str_skip(*s, n);
            return units[i].ns;
        }
    }
    return 0;
}

/* One "1.5h" off the front of s, added to *ns. */
static bool take_duration_part(struct str *s, int64_t *ns)
{
    int64_t whole = 0, fraction = 0, scale = 1, value;
    size_t digits = 0;
    for (; s->len && s->ptr[0] >= '0' && s->ptr[0] <= '9'; *s = str_skip(*s, 1), digits++)
        if (__builtin_mul_overflow(whole, (int64_t)10, &whole) ||
            __builtin_add_overflow(whole, (int64_t)(s->ptr[0] - '0'), &whole))
            return false;
    if (take_char(s, '.', '.')) {
        for (; s->len && s->ptr[0] >= '0' && s->ptr[0] <= '9'; *s = str_skip(*s, 1), digits++) {
            if (scale < 1000000) { /* six digits: an hour's last one is 3.6 ms; keeps unit *
                                      fraction in range */
                fraction = fraction * 10 + (s->ptr[0] - '0');
                scale *= 10;
            }
        }
    }
    int64_t unit = digits ? take_unit(s) : 0;
    return unit && !__builtin_mul_overflow(whole, unit, &value) &&
           !__builtin_add_overflow(value, unit / scale * fraction + unit % scale * fraction / scale,
                                   &value) &&
           !__builtin_add_overflow(*ns, value, ns);
}

int clock_parse_duration(struct str text, int64_t *ret_ms)
{
    struct str s = text;
    bool negative = s.len && s.ptr[0] == '-';
    take_char(&s, '-', '+');
    if (str_eqc(s, "0")) {
        *ret_ms = 0;
        return 0;
    }
    if (s.len == 0)
        return ERR_BAD_REQUEST;
    int64_t ns = 0;
    while (s.len)
        if (!take_duration_part(&s, &ns))
            return ERR_BAD_REQUEST;
    *ret_ms = (negative ? -ns : ns) / NS_PER_MS;
    return 0;
}

/* Two units while the first is small, else one: the steps of apimachinery's HumanDuration, which kubectl's users know. */
void clock_format_age(int64_t age_ms, char text[CLOCK_AGE_MAX])
{
    static const struct {
        int64_t below_s, unit_s, rest_s; /* rest_s 0: one unit only */
        char unit, rest;
    } steps[] = {{120, 1, 0, 's', 0},           {600, 60, 1, 'm', 's'},         {3 * 3600, 60, 0, 'm', 0},          {8 * 3600, 3600, 60, 'h', 'm'},
                 {48 * 3600, 3600, 0, 'h', 0},  {8 * 86400, 86400, 3600, 'd', 'h'}, {730 * 86400LL, 86400, 0, 'd', 0}, {2920 * 86400LL, 365 * 86400LL, 86400, 'y', 'd'},
                 {INT64_MAX, 365 * 86400LL, 0, 'y', 0}};
    int64_t s = age_ms > 0 ? age_ms / 1000 : 0;
    size_t i = 0;
    while (s >= steps[i].below_s && i + 1 < ARRAY_LEN(steps))
        i++;
    long long first = s / steps[i].unit_s, rest = steps[i].rest_s ? s % steps[i].unit_s / steps[i].rest_s : 0;
    if (rest)
        snprintf(text, CLOCK_AGE_MAX, "%lld%c%lld%c", first, steps[i].unit, rest, steps[i].rest);
    else
        snprintf(text, CLOCK_AGE_MAX, "%lld%c", first, steps[i].unit);
}

void clock_format_duration(int64_t ms, char text[CLOCK_AGE_MAX])
{
    static const struct {
        int64_t ms;
        const char *unit;
    } steps[] = {{3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    size_t i = 0;
    while (ms == 0 ? i < 2 : ms % steps[i].ms != 0)
        i++;
    snprintf(text, CLOCK_AGE_MAX, "%lld%s", (long long)(ms / steps[i].ms), steps[i].unit);
}
