#include "base/zone.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define DIRECTORY "/usr/share/zoneinfo"
#define FILE_MAX 65536
#define HEADER 44
#define TIMES_MAX 4096
#define DAY_S 86400
#define HOUR_S 3600
#define HOURS_MAX 167 /* of a rule's time of day: RFC 9636 lets it be on another day */

/* When, in each year, the clock is put to summer or winter time. */
struct rule {
    char kind; /* M: of a month, the nth (5: last) such weekday; J: day 1 to 365 without a leap day;
                  N: day 0 to 365 */
    int month, nth, day;
    int32_t at_s; /* after that day's midnight, by the time that ends then */
};

struct zone {
    size_t count; /* of changes … */
    int64_t *at_s;
    int32_t *offset_s; /* … and what it is from each on */
    int32_t first_s;   /* before the first */
    bool goes_on;      /* after the last by these: */
    int32_t winter_s, summer_s;
    bool has_summer;
    struct rule begins, ends; /* summer time */
};

/* ---- the rules of the years to come: "CET-1CEST,M3.5.0,M10.5.0/3" ---- */

static bool take_number(struct str *s, int least, int most, int *ret)
{
    int n = 0;
    size_t digits = 0;
    for (; digits < s->len && digits < 4 && s->ptr[digits] >= '0' && s->ptr[digits] <= '9';
         digits++)
        n = n * 10 + (s->ptr[digits] - '0');
    *s = str_skip(*s, digits);
    *ret = n;
    return digits && n >= least && n <= most;
}

static bool take_char(struct str *s, char c)
{
    if (!s->len || *s->ptr != c)
        return false;
    *s = str_skip(*s, 1);
    return true;
}

static bool take_name(struct str *s)
{
    size_t n = 0;
    if (take_char(s, '<')) {
        ssize_t end = str_find(*s, '>');
        if (end < 1)
            return false;
        *s = str_skip(*s, (size_t)end + 1);
        return true;
    }
    while (n < s->len &&
           ((s->ptr[n] >= 'A' && s->ptr[n] <= 'Z') || (s->ptr[n] >= 'a' && s->ptr[n] <= 'z')))
        n++;
    *s = str_skip(*s, n);
    return n >= 3;
}

/* [+-]hh[:mm[:ss]] */
static bool take_time(struct str *s, int32_t *ret)
{
    int h, m = 0, sec = 0;
    bool below = take_char(s, '-');
    if (!below)
        (void)take_char(s, '+');
    if (!take_number(s, 0, HOURS_MAX, &h) ||
        (take_char(s, ':') &&
         (!take_number(s, 0, 59, &m) || (take_char(s, ':') && !take_number(s, 0, 59, &sec)))))
        return false;
    *ret = (h * HOUR_S + m * 60 + sec) * (below ? -1 : 1);
    return true;
}

static bool take_rule(struct str *s, struct rule *r)
{
    *r = (struct rule){.at_s = 2 * HOUR_S};
    bool good = take_char(s, ',');
    if (good && take_char(s, 'M')) {
        r->kind = 'M';
        good = take_number(s, 1, 12, &r->month) && take_char(s, '.') &&
               take_number(s, 1, 5, &r->nth) && take_char(s, '.') && take_number(s, 0, 6, &r->day);
    } else if (good && take_char(s, 'J')) {
        r->kind = 'J';
        good = take_number(s, 1, 365, &r->day);
    } else if (good) {
        r->kind = 'N';
        good = take_number(s, 0, 365, &r->day);
    }
    return good && (!take_char(s, '/') || take_time(s, &r->at_s));
}

static bool take_rules(struct str s, struct zone *z)
{
    int32_t west;
    if (!take_name(&s) || !take_time(&s, &west))
        return false;
    z->goes_on = true;
    z->winter_s = -west;
    if (!s.len)
        return true;
    z->summer_s = z->winter_s + HOUR_S;
    z->has_summer = true;
    if (!take_name(&s))
        return false;
    if (s.len && *s.ptr != ',') {
        if (!take_time(&s, &west))
            return false;
        z->summer_s = -west;
    }
    return take_rule(&s, &z->begins) && take_rule(&s, &z->ends) && !s.len;
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* The day since 1970 on which a rule is in force. */
static int64_t rule_day(const struct rule *r, int64_t year)
{
    int64_t first = clock_days(year, 1, 1);
    if (r->kind == 'N')
        return first + r->day;
    if (r->kind == 'J')
        return first + r->day - 1 + (is_leap(year) && r->day >= 60);
    int64_t month = clock_days(year, r->month, 1),
            next = r->month == 12 ? clock_days(year + 1, 1, 1) : clock_days(year, r->month + 1, 1);
    int64_t day = month + (r->day - clock_weekday(month) + 7) % 7 + 7 * (int64_t)(r->nth - 1);
    return day < next ? day : day - 7;
}

static int32_t by_rules(const struct zone *z, int64_t utc_s)
{
    if (!z->has_summer)
        return z->winter_s;
    int64_t local = utc_s + z->winter_s, year = clock_year(local / DAY_S - (local % DAY_S < 0));
    int64_t begins = rule_day(&z->begins, year) * DAY_S + z->begins.at_s - z->winter_s,
            ends = rule_day(&z->ends, year) * DAY_S + z->ends.at_s - z->summer_s;
    bool summer =
        begins < ends
            ? utc_s >= begins && utc_s < ends
            : utc_s >= begins || utc_s < ends; /* south of the equator it lasts over the new year */
    return summer ? z->summer_s : z->winter_s;
}

/* ---- the file ---- */

static int64_t big_endian(const char *p, size_t bytes)
{
    uint64_t n = (unsigned char)*p & 0x80 ? UINT64_MAX : 0;
    for (size_t i = 0; i < bytes; i++)
        n = n << 8 | (unsigned char)p[i];
    return (int64_t)n;
}

struct block {
    size_t times, types, chars, leaps, walls, utcs; /* counts */
    size_t time_bytes;
};

static bool read_header(struct str bytes, size_t time_bytes, struct block *b)
{
    if (bytes.len < HEADER || !str_starts(bytes, STR("TZif")))
        return false;
    size_t *const counts[] = {&b->utcs, &b->walls, &b->leaps, &b->times, &b->types, &b->chars};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        int64_t n = big_endian(bytes.ptr + 20 + 4 * i, 4);
        if (n < 0 || n > TIMES_MAX)
            return false;
        *counts[i] = (size_t)n;
    }
    b->time_bytes = time_bytes;
    return true;
}

static size_t block_size(const struct block *b)
{
    return b->times * (b->time_bytes + 1) + b->types * 6 + b->chars +
           b->leaps * (b->time_bytes + 4) + b->walls + b->utcs;
}

static bool read_block(struct str bytes, const struct block *b, struct zone *z)
{
    const char *times = bytes.ptr, *which = times + b->times * b->time_bytes,
               *types = which + b->times;
    if (!b->types)
        return false;
    z->count = b->times;
    z->at_s = xcalloc(b->times + 1, sizeof(*z->at_s));
    z->offset_s = xcalloc(b->times + 1, sizeof(*z->offset_s));
    z->first_s = (int32_t)big_endian(types, 4);
    for (size_t i = 0; i < b->times; i++) {
        size_t type = (unsigned char)which[i];
        if (type >= b->types)
            return false;
        z->at_s[i] = big_endian(times + i * b->time_bytes, b->time_bytes);
        z->offset_s[i] = (int32_t)big_endian(types + type * 6, 4);
        if (i && z->at_s[i] <= z->at_s[i - 1])
            return false;
    }
    return true;
}

static bool offsets_can_be(const struct zone *z)
{
    const int32_t most = 26 * HOUR_S;
    bool good = z->first_s > -most && z->first_s < most && z->winter_s > -most &&
                z->winter_s < most && z->summer_s > -most && z->summer_s < most;
    for (size_t i = 0; good && i < z->count; i++)
        good = z->offset_s[i] > -most && z->offset_s[i] < most;
    return good;
}

/* The first block has times of 32 bits, for readers of long ago: it is passed over. */
static bool read_all(struct str bytes, struct zone *z)
{
    struct block b;
    struct str rules;
    if (!read_header(bytes, 4, &b) || bytes.ptr[4] < '2' || bytes.len < HEADER + block_size(&b))
        return false;
    bytes = str_skip(bytes, HEADER + block_size(&b));
    if (!read_header(bytes, 8, &b) || bytes.len < HEADER + block_size(&b))
        return false;
    if (!read_block(str_skip(bytes, HEADER), &b, z))
        return false;
    bytes = str_skip(bytes, HEADER + block_size(&b));
    if (!take_char(&bytes, '\n') || str_find(bytes, '\n') < 0 || !str_cut(&bytes, '\n', &rules))
        return false;
    return (!rules.len || take_rules(rules, z)) && offsets_can_be(z);
}

int zone_parse(struct str bytes, struct zone **ret, struct err *err)
{
    CLEANUP(zone_freep) struct zone *z = XNEW(struct zone);
    *z = (struct zone){0};
    if (!read_all(bytes, z))
        return err_set(err, ERR_CORRUPT, "not a file of a time zone");
    *ret = TAKE(z);
    return 0;
}

static bool is_name(struct str name)
{
    if (!name.len || name.len > ZONE_NAME_MAX || *name.ptr == '/' || name.ptr[name.len - 1] == '/')
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '/' || c == '_' || c == '-' || c == '+')) /* no dots: it is a part of a path */
            return false;
    }
    return true;
}

int zone_load(const char *name, struct zone **ret, struct err *err)
{
    CLEANUP(mem_freep) char *path = NULL;
    CLEANUP(mem_freep) char *bytes = NULL;
    struct err why = ERR_INIT;
    size_t len = 0;
    if (!strcmp(name, "UTC")) {
        *ret = XNEW(struct zone);
        **ret = (struct zone){0};
        return 0;
    }
    if (!is_name(str_of(name)))
        return err_set(err, ERR_INVALID, "expected UTC or a name such as Asia/Tokyo");
    path = xasprintf(DIRECTORY "/%s", name);
    if (file_read(path, FILE_MAX, &bytes, &len, &why) < 0)
        return err_set(
            err, ERR_NOT_FOUND,
            "this system knows no such time zone: expected UTC or a name such as Asia/Tokyo");
    return zone_parse(str_n(bytes, len), ret, err);
}

void zone_free(struct zone *z)
{
    if (!z)
        return;
    mem_free(z->at_s);
    mem_free(z->offset_s);
    mem_free(z);
}

void zone_freep(struct zone **z)
{
    zone_free(*z);
}

/* ---- asking it ---- */

int32_t zone_offset(const struct zone *z, int64_t utc_s)
{
    size_t low = 0, high = z->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (z->at_s[mid] <= utc_s)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == z->count && z->goes_on)
        return by_rules(z, utc_s);
    return low ? z->offset_s[low - 1] : z->first_s;
}

int64_t zone_to_utc(const struct zone *z, int64_t local_s)
{
    int64_t before = local_s - zone_offset(z, local_s - DAY_S),
            after = local_s - zone_offset(z, local_s + DAY_S);
    if (before + zone_offset(z, before) == local_s)
        return before;
    return after + zone_offset(z, after) == local_s ? after : before;
}
