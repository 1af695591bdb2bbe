#include "base/str.h"

#include <errno.h>
#include <limits.h>

bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool str_eqc(struct str a, const char *b)
{
    return str_eq(a, str_of(b));
}

/* The locale's idea of case has no place in protocols. */
static unsigned char lower(char c)
{
    return (unsigned char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
}

bool str_ieq(struct str a, struct str b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.ptr[i]) != lower(b.ptr[i]))
            return false;
    return true;
}

int str_cmp(struct str a, struct str b)
{
    size_t n = MIN(a.len, b.len);
    int c = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (c)
        return c;
    return a.len < b.len ? -1 : a.len > b.len;
}

bool str_starts(struct str s, struct str prefix)
{
    return s.len >= prefix.len && str_eq(str_n(s.ptr, prefix.len), prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.len >= suffix.len && str_eq(str_skip(s, s.len - suffix.len), suffix);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.len && is_blank(s.ptr[0]))
        s = str_skip(s, 1);
    while (s.len && is_blank(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

struct str str_skip(struct str s, size_t n)
{
    n = MIN(n, s.len);
    if (n == 0)
        return s;
    return str_n(s.ptr + n, s.len - n);
}

ssize_t str_find(struct str s, char c)
{
    const char *at = s.len ? memchr(s.ptr, c, s.len) : NULL;
    return at ? at - s.ptr : -1;
}

bool str_cut(struct str *s, char sep, struct str *ret_item)
{
    if (!s->ptr)
        return false;
    ssize_t at = str_find(*s, sep);
    if (at < 0) {
        /* The last item; a NULL pointer marks the end, so that "a," yields "a" and "". */
        *ret_item = *s;
        *s = STR_NULL;
        return true;
    }
    *ret_item = str_n(s->ptr, (size_t)at);
    *s = str_n(s->ptr + at + 1, s->len - (size_t)at - 1);
    return true;
}

int str_to_u64(struct str s, uint64_t *ret)
{
    uint64_t v = 0;
    if (s.len == 0)
        return ERR_BAD_REQUEST;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return ERR_BAD_REQUEST;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.ptr[i] - '0'), &v))
            return ERR_BAD_REQUEST;
    }
    *ret = v;
    return 0;
}

int str_to_i64(struct str s, int64_t min, int64_t max, int64_t *ret)
{
    bool negative = s.len && s.ptr[0] == '-';
    uint64_t magnitude;
    if (str_to_u64(negative ? str_skip(s, 1) : s, &magnitude) < 0)
        return ERR_BAD_REQUEST;
    uint64_t limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    if (magnitude > limit)
        return ERR_BAD_REQUEST;
    int64_t v = (int64_t)(negative ? 0 - magnitude : magnitude);
    if (v < min || v > max)
        return ERR_BAD_REQUEST;
    *ret = v;
    return 0;
}

/* Length of the well-formed UTF-8 sequence at p (1..4), or 0. Table 3-7 of the Unicode standard. */
static size_t utf8_sequence(const unsigned char *p, size_t len)
{
    unsigned char c = p[0];
    if (c < 0x80)
        return 1;
    size_t n = c >= 0xC2 && c <= 0xDF   ? 2
               : c >= 0xE0 && c <= 0xEF ? 3
               : c >= 0xF0 && c <= 0xF4 ? 4
                                        : 0;
    if (n == 0 || n > len)
        return 0;
    unsigned char low = 0x80, high = 0xBF;
    if (c == 0xE0)
        low = 0xA0; /* overlong */
    else if (c == 0xED)
        high = 0x9F; /* surrogates */
    else if (c == 0xF0)
        low = 0x90; /* overlong */
    else if (c == 0xF4)
        high = 0x8F; /* above U+10FFFF */
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

static bool follows(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

/* Length of the sequence at p, of at least 3 bytes, where its first byte alone says what may
 * follow: nearly all that is not ASCII. 0: look closer. */
static size_t utf8_plain_sequence(const unsigned char *p)
{
    unsigned char c = p[0];
    if (c >= 0xC2 && c <= 0xDF && follows(p[1]))
        return 2;
    if (c > 0xE0 && c <= 0xEF && c != 0xED && follows(p[1]) && follows(p[2]))
        return 3;
    return 0;
}

/* How many bytes from p, whose first is ASCII, may be passed over: eight at a time. */
static size_t ascii_run(const unsigned char *p, size_t len)
{
    size_t n = 1;
    for (uint64_t eight; len - n >= 8; n += 8) {
        memcpy(&eight, p + n, 8);
        if (eight & 0x8080808080808080u)
            break;
    }
    return n;
}

bool str_utf8_valid(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    for (size_t i = 0; i < s.len;) {
        if (p[i] < 0x80) {
            i += ascii_run(p + i, s.len - i);
            continue;
        }
        size_t n = s.len - i >= 3 ? utf8_plain_sequence(p + i) : 0;
        if (n == 0)
            n = utf8_sequence(p + i, s.len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

struct str str_utf8_head(struct str s, size_t max)
{
    size_t len = max;
    if (s.len <= max)
        return s;
    while (len && max - len < 4 && ((unsigned char)s.ptr[len] & 0xc0) == 0x80)
        len--;
    s.len = max - len < 4 ? len : max; /* a longer run is of no character */
    return s;
}

bool str_eq_secret(struct str a, struct str b)
{
    if (a.len != b.len)
        return false;
    volatile unsigned char diff = 0;
    for (size_t i = 0; i < a.len; i++)
        diff = (unsigned char)(diff | (a.ptr[i] ^ b.ptr[i]));
    return diff == 0;
}

bool str_to_array(struct str s, char *array, size_t size)
{
    if (size == 0)
        return false;
    bool fits = s.len < size;
    size_t n = fits ? s.len : 0;
    if (n)
        memcpy(array, s.ptr, n);
    array[n] = '\0';
    return fits;
}

void sbuf_init(struct sbuf *b, size_t max_bytes)
{
    *b = (struct sbuf){.max = MIN(max_bytes, SIZE_MAX / 4)};
}

void sbuf_deinit(struct sbuf *b)
{
    free(b->ptr);
    sbuf_init(b, b->max);
}

void sbuf_reset(struct sbuf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->ptr)
        b->ptr[0] = '\0';
}

bool sbuf_ok(const struct sbuf *b)
{
    return !b->failed;
}

struct str sbuf_str(const struct sbuf *b)
{
    return str_n(b->ptr, b->len);
}

char *sbuf_take(struct sbuf *b)
{
    char *p = NULL;
    if (!b->failed && sbuf_reserve(b, 0))
        p = TAKE(b->ptr);
    sbuf_deinit(b);
    return p;
}

char *sbuf_reserve(struct sbuf *b, size_t n)
{
    if (b->failed)
        return NULL;
    if (n > b->max - b->len) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + n + 1;
    if (need > b->cap) {
        size_t cap = MIN(MAX(need, MAX(b->cap * 2, (size_t)64)), b->max + 1);
        char *p = realloc(b->ptr, cap);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->ptr = p;
        b->cap = cap;
        p[b->len] = '\0';
    }
    return b->ptr + b->len;
}

void sbuf_commit(struct sbuf *b, size_t n)
{
    b->len += n;
    b->ptr[b->len] = '\0';
}

void sbuf_consume(struct sbuf *b, size_t n)
{
    n = MIN(n, b->len);
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->ptr, b->ptr + n, b->len);
    b->ptr[b->len] = '\0';
}

void sbuf_add(struct sbuf *b, struct str s)
{
    if (s.len && s.len < b->cap - b->len && !b->failed) { /* room is there, also for the NUL */
        memcpy(b->ptr + b->len, s.ptr, s.len);
        sbuf_commit(b, s.len);
        return;
    }
    char *to = sbuf_reserve(b, s.len);
    if (!to || s.len == 0)
        return;
    memcpy(to, s.ptr, s.len);
    sbuf_commit(b, s.len);
}

void sbuf_addc(struct sbuf *b, const char *s)
{
    sbuf_add(b, str_of(s));
}

void sbuf_add_char(struct sbuf *b, char c)
{
    sbuf_add(b, str_n(&c, 1));
}

void sbuf_addf(struct sbuf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    sbuf_addv(b, fmt, ap);
    va_end(ap);
}

void sbuf_addv(struct sbuf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    char small[256];
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof(small)) {
        sbuf_add(b, str_n(small, (size_t)n));
    } else if (sbuf_reserve(b, (size_t)n)) {
        vsnprintf(b->ptr + b->len, (size_t)n + 1, fmt, again);
        sbuf_commit(b, (size_t)n);
    }
    va_end(again);
}

void sbuf_add_u64(struct sbuf *b, uint64_t v)
{
    char text[20];
    size_t at = sizeof(text);
    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    sbuf_add(b, str_n(text + at, sizeof(text) - at));
}

void sbuf_add_i64(struct sbuf *b, int64_t v)
{
    if (v < 0)
        sbuf_add_char(b, '-');
    sbuf_add_u64(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void sbuf_add_hex(struct sbuf *b, const void *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = bytes;
    if (len > SIZE_MAX / 4) {
        b->failed = true;
        return;
    }
    char *to = sbuf_reserve(b, 2 * len);
    if (!to)
        return;
    for (size_t i = 0; i < len; i++) {
        to[2 * i] = digits[p[i] >> 4];
        to[2 * i + 1] = digits[p[i] & 15];
    }
    sbuf_commit(b, 2 * len);
}

static void add_json_escape(struct sbuf *b, unsigned char c)
{
    switch (c) {
    case '"':
        sbuf_add(b, STR("\\\""));
        break;
    case '\\':
        sbuf_add(b, STR("\\\\"));
        break;
    case '\n':
        sbuf_add(b, STR("\\n"));
        break;
    case '\r':
        sbuf_add(b, STR("\\r"));
        break;
    case '\t':
        sbuf_add(b, STR("\\t"));
        break;
    case '\b':
        sbuf_add(b, STR("\\b"));
        break;
    case '\f':
        sbuf_add(b, STR("\\f"));
        break;
    default:
        sbuf_addf(b, "\\u%04x", c);
    }
}

void sbuf_add_json(struct sbuf *b, struct str s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    sbuf_add_char(b, '"');
    size_t plain = 0; /* start of what needs no escape and is not yet written */
    for (size_t i = 0; i < s.len && !b->failed;) {
        if (p[i] >= 0x20 && p[i] < 0x7F && p[i] != '"' && p[i] != '\\') {
            i++;
            continue;
        }
        size_t n = utf8_sequence(p + i, s.len - i);
        if (n > 1) {
            i += n;
            continue;
        }
        sbuf_add(b, str_n(p + plain, i - plain));
        if (n == 0)
            sbuf_add(b, STR("\xEF\xBF\xBD"));
        else
            add_json_escape(b, p[i]);
        plain = ++i;
    }
    if (s.len > plain)
        sbuf_add(b, str_n(p + plain, s.len - plain));
    sbuf_add_char(b, '"');
}
