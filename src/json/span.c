#include "json/span.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PATHS_MAX 64
#define FIELD_MAX 64 /* longer names are not told */
#define DEPTH_MAX 64
#define PARTS_MAX 4
#define NUMBER_MAX 512

struct scanner {
    const char *p, *end;
    const char *const *paths;
    size_t path_count;
    struct span *ret;
    struct err *err;
    struct str at[PARTS_MAX]; /* the member that is looked at, by its names from the top on, as far as a path leads */
    int at_count;
};

/* Paths that lead through here, one bit each. */
#define path_set uint64_t

static int fail(struct scanner *s, const char *what)
{
    return err_set(s->err, ERR_BAD_REQUEST, "invalid JSON: %s", what);
}

/* The same, of a member's doing: it is named. */
static int fail_member(struct scanner *s, const char *what)
{
    CLEANUP(sbuf_deinit) struct sbuf field = {0};
    sbuf_init(&field, PARTS_MAX * (FIELD_MAX + 1));
    for (int i = 0; i < s->at_count && s->at[i].len <= FIELD_MAX; i++) {
        sbuf_addc(&field, i ? "." : "");
        sbuf_add(&field, s->at[i]);
    }
    if (!field.len || field.len >= ERR_FIELD_MAX)
        return fail(s, what);
    return err_field(s->err, ERR_BAD_REQUEST, field.ptr, "invalid JSON: %s, at \"%s\"", what, field.ptr);
}

static void skip_space(struct scanner *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
        s->p++;
}

/* ---- strings ---- */

/* A hexadecimal digit's value and 1; 0: it is none. */
static const uint8_t HEX[256] = {['0'] = 1, 2,  3,  4,  5,  6,          7,  8,  9,  10, ['A'] = 11,
                                 12,        13, 14, 15, 16, ['a'] = 11, 12, 13, 14, 15, 16};

static int hex4(const char *p)
{
    const unsigned char *c = (const unsigned char *)p;
    int a = HEX[c[0]], b = HEX[c[1]], d = HEX[c[2]], e = HEX[c[3]];
    return a && b && d && e ? (a - 1) << 12 | (b - 1) << 8 | (d - 1) << 4 | (e - 1) : -1;
}

/* The four digits after "\u"; a high surrogate takes its low one with it. -1: wrong. */
static int read_unicode(const char **p, const char *end)
{
    if (end - *p < 4)
        return -1;
    int v = hex4(*p);
    *p += 4;
    if (v < 0 || v == 0 || (v >= 0xDC00 && v <= 0xDFFF)) /* NUL cannot be in a C string; a lone low surrogate is none */
        return -1;
    if (v < 0xD800 || v > 0xDBFF)
        return v;
    if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
        return -1;
    int low = hex4(*p + 2);
    if (low < 0xDC00 || low > 0xDFFF)
        return -1;
    *p += 6;
    return 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
}

#define ONES 0x0101010101010101ull
#define HIGHS 0x8080808080808080ull
#define HAS_ZERO(v) (((v)-ONES) & ~(v)&HIGHS)

/* The next quote, backslash or control character, or the end; many bytes at a time. *high: there is
 * a byte over 0x7f before it. Long prompts are in any language, and full of escapes where they are
 * source code: neither may cost a call for each character. */
static const char *find_special(const char *p, const char *end, bool *high)
{
#ifdef __SSE2__
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
        unsigned found = (unsigned)_mm_movemask_epi8(
            _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v)));
        unsigned over = (unsigned)_mm_movemask_epi8(v);
        if (found) {
            *high |= (over & ((found & -found) - 1)) != 0;
            return p + __builtin_ctz(found);
        }
        *high |= over != 0;
    }
#endif
    while (end - p >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        if (HAS_ZERO(v ^ (ONES * '"')) | HAS_ZERO(v ^ (ONES * '\\')) |
            ((v - ONES * 0x20) & ~v & HIGHS))
            break;
        *high |= (v & HIGHS) != 0;
        p += 8;
    }
    for (; p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20; p++)
        *high |= (unsigned char)*p >= 0x80;
    return p;
}

/* After a backslash. */
static int skip_escape(struct scanner *s)
{
    if (s->p >= s->end)
        return fail(s, "a string does not end");
    switch (*s->p++) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return 0;
    case 'u':
        return read_unicode(&s->p, s->end) < 0 ? fail(s, "a wrong \\u escape") : 0;
    default:
        return fail(s, "a wrong escape in a string");
    }
}

/* From after the opening quote to after the closing one. */
static int skip_string(struct scanner *s)
{
    const char *start = s->p;
    bool high = false;
    for (;;) {
        s->p = find_special(s->p, s->end, &high);
        if (s->p >= s->end)
            return fail(s, "a string does not end");
        char c = *s->p++;
        if (c == '"')
            break;
        if (c != '\\')
            return fail(s, "a control character in a string");
        do { /* one is often behind another */
            int rc = skip_escape(s);
            if (rc < 0)
                return rc;
        } while (s->p < s->end && *s->p == '\\' && s->p++);
    }
    if (high && !str_utf8_valid(str_n(start, (size_t)(s->p - 1 - start))))
        return fail(s, "text that is not UTF-8");
    return 0;
}

/* ---- numbers ---- */

static bool digits(struct scanner *s)
{
    const char *from = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    return s->p > from;
}

/* Whether it needs a closer look, which is slow: a few digits and their exponent say of most that
 * they are in range. */
static bool may_be_infinite(const char *text, size_t len)
{
    const char *e = memchr(text, 'e', len);
    e = e ? e : memchr(text, 'E', len);
    if (!e)
        return len > DBL_MAX_10_EXP;
    size_t mantissa = (size_t)(e - text), exponent = (size_t)(text + len - e) - 1, up;
    up = e[1] == '-' ? 0 : exponent < 4 ? (size_t)strtol(e + 1, NULL, 10) : DBL_MAX_10_EXP;
    return mantissa + up > DBL_MAX_10_EXP;
}

static int skip_number(struct scanner *s)
{
    char text[NUMBER_MAX];
    const char *from = s->p;
    bool real = false;
    if (s->p < s->end && *s->p == '-')
        s->p++;
    if (s->p < s->end && *s->p == '0')
        s->p++;
    else if (!digits(s))
        return fail(s, "a value is missing or wrong");
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        real = true;
        if (!digits(s))
            return fail(s, "a wrong number");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        real = true;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
            s->p++;
        if (!digits(s))
            return fail(s, "a wrong number");
    }
    size_t len = (size_t)(s->p - from);
    if (!real && len <= 18) /* fits in 64 bits whatever it is */
        return 0;
    if (len >= sizeof(text))
        return fail_member(s, "a number too long");
    memcpy(text, from, len);
    text[len] = 0;
    errno = 0;
    if (real) {
        if (may_be_infinite(text, len) && !isfinite(strtod(text, NULL)))
            return fail_member(s, "a number out of range");
    } else {
        (void)strtoll(text, NULL, 10);
        if (errno == ERANGE)
            return fail_member(s, "a number out of range");
    }
    return 0;
}

/* ---- values ---- */

static int skip_word(struct scanner *s, const char *word, size_t len)
{
    if ((size_t)(s->end - s->p) < len || memcmp(s->p, word, len) != 0)
        return fail(s, "a value is missing or wrong");
    s->p += len;
    return 0;
}

/* Whether part number `depth` of a path is this key; *ret_last: nothing comes after it. */
static bool part_matches(const char *path, int depth, struct str key, bool *ret_last)
{
    for (int i = 0; i < depth; i++) {
        path = strchr(path, '.');
        if (!path)
            return false;
        path++;
    }
    if ((key.len && *path != *key.ptr) || strncmp(path, key.ptr, key.len) != 0) /* no string of JSON has a NUL inside: path does not end within it */
        return false;
    *ret_last = !path[key.len];
    return (*ret_last || path[key.len] == '.') && !memchr(key.ptr, '.', key.len);
}

static int scan_value(struct scanner *s, int depth, path_set here, struct span *ret);

static path_set paths_below(struct scanner *s, int depth, path_set here, struct str key, path_set *ret_ends)
{
    path_set below = 0;
    *ret_ends = 0;
    for (size_t i = 0; i < s->path_count; i++) {
        bool last;
        if (!(here & ((path_set)1 << i)) || depth >= PARTS_MAX || !part_matches(s->paths[i], depth, key, &last))
            continue;
        if (last)
            *ret_ends |= (path_set)1 << i;
        else
            below |= (path_set)1 << i;
    }
    return below;
}

#define MEMBERS_MAX 128

/* Of an object that a path leads through: names are compared as they are written, so none may hold escapes. */
static int note_key(struct scanner *s, int depth, struct str key, struct str *keys, size_t *count)
{
    if (depth < PARTS_MAX) {
        s->at[depth] = key;
        s->at_count = depth + 1;
    }
    if (memchr(key.ptr, '\\', key.len))
        return fail(s, "a member's name with escapes");
    if (*count == MEMBERS_MAX)
        return fail(s, "too many members");
    for (size_t i = 0; i < *count; i++)
        if (str_eq(keys[i], key))
            return fail_member(s, "a member is there twice");
    keys[(*count)++] = key;
    return 0;
}

static int scan_member(struct scanner *s, int depth, path_set here, struct str *keys, size_t *count)
{
    path_set ends = 0, below = 0;
    struct span value;
    int rc;
    skip_space(s);
    const char *from = s->p;
    if (s->p >= s->end || *s->p++ != '"')
        return fail(s, "a member's name is missing");
    if ((rc = skip_string(s)) < 0)
        return rc;
    struct str key = str_n(from + 1, (size_t)(s->p - from) - 2);
    if (here && (rc = note_key(s, depth, key, keys, count)) < 0)
        return rc;
    if (here)
        below = paths_below(s, depth, here, key, &ends);
    skip_space(s);
    if (s->p >= s->end || *s->p++ != ':')
        return fail(s, "a colon is missing");
    skip_space(s);
    if ((rc = scan_value(s, depth + 1, below, &value)) < 0)
        return rc;
    for (size_t i = 0; i < s->path_count && ends; i++)
        if (ends & ((path_set)1 << i))
            s->ret[i] = value;
    return 0;
}

static int scan_object(struct scanner *s, int depth, path_set here, size_t *ret_count)
{
    struct str keys[MEMBERS_MAX];
    size_t count = 0;
    *ret_count = 0;
    skip_space(s);
    if (s->p < s->end && *s->p == '}') {
        s->p++;
        return 0;
    }
    for (;;) {
        int rc = scan_member(s, depth, here, keys, &count);
        if (rc < 0)
            return rc;
        ++*ret_count;
        skip_space(s);
        if (s->p >= s->end)
            return fail(s, "an object does not end");
        char c = *s->p++;
        if (c == '}')
            return 0;
        if (c != ',')
            return fail(s, "a comma is missing");
    }
}

static int scan_array(struct scanner *s, int depth, size_t *ret_count)
{
    *ret_count = 0;
    skip_space(s);
    if (s->p < s->end && *s->p == ']') {
        s->p++;
        return 0;
    }
    for (;;) {
        skip_space(s);
        int rc = scan_value(s, depth + 1, 0, NULL);
        if (rc < 0)
            return rc;
        ++*ret_count;
        skip_space(s);
        if (s->p >= s->end)
            return fail(s, "an array does not end");
        char c = *s->p++;
        if (c == ']')
            return 0;
        if (c != ',')
            return fail(s, "a comma is missing");
    }
}

static int scan_value(struct scanner *s, int depth, path_set here, struct span *ret)
{
    const char *from = s->p;
    enum span_type type;
    size_t count = 0;
    int rc;
    if (s->p >= s->end)
        return fail(s, "it ends too early");
    if (depth >= DEPTH_MAX && (*s->p == '{' || *s->p == '['))
        return fail(s, "nested too deeply");
    switch (*s->p) {
    case '{':
        s->p++;
        type = SPAN_OBJECT;
        rc = scan_object(s, depth, here, &count);
        break;
    case '[':
        s->p++;
        type = SPAN_ARRAY;
        rc = scan_array(s, depth, &count);
        break;
    case '"':
        s->p++;
        type = SPAN_STRING;
        rc = skip_string(s);
        break;
    case 't':
        type = SPAN_TRUE;
        rc = skip_word(s, "true", 4);
        break;
    case 'f':
        type = SPAN_FALSE;
        rc = skip_word(s, "false", 5);
        break;
    case 'n':
        type = SPAN_NULL;
        rc = skip_word(s, "null", 4);
        break;
    default:
        type = SPAN_NUMBER;
        rc = skip_number(s);
    }
    if (rc == 0 && ret)
        *ret = (struct span){type, str_n(from, (size_t)(s->p - from)), count};
    return rc;
}

int span_scan(struct str json, const char *const *paths, size_t path_count, struct span *ret, struct err *err)
{
    struct scanner s = {.p = json.ptr, .end = json.ptr + json.len, .paths = paths, .path_count = path_count, .ret = ret, .err = err};
    if (path_count > PATHS_MAX)
        return err_set(err, ERR_INTERNAL, "more than %d paths", PATHS_MAX);
    if (path_count)
        memset(ret, 0, path_count * sizeof(*ret));
    skip_space(&s);
    if (s.p >= s.end || *s.p != '{')
        return fail(&s, "it is no object");
    s.p++;
    size_t count;
    /* The root counts as watched even without paths: its duplicates are refused. */
    int rc = scan_object(&s, 0, path_count == PATHS_MAX ? ~(path_set)0 : path_count ? ((path_set)1 << path_count) - 1 : 1u, &count);
    if (rc < 0)
        return rc;
    skip_space(&s);
    return s.p == s.end ? 0 : fail(&s, "something follows the object");
}

/* ---- values of spans ---- */

static size_t put_utf8(int c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | (c >> 6));
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | (c >> 12));
        out[1] = (char)(0x80 | ((c >> 6) & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (c >> 18));
    out[1] = (char)(0x80 | ((c >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((c >> 6) & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool span_string(const struct span *s, char *array, size_t size)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t n = 0;
    if (size)
        array[0] = 0;
    if (s->type != SPAN_STRING || !size)
        return false;
    const char *p = s->text.ptr + 1, *end = s->text.ptr + s->text.len - 1;
    while (p < end) {
        char bytes[4] = {*p};
        size_t len = 1;
        if (*p++ == '\\') {
            char c = *p++;
            if (c == 'u') {
                int v = read_unicode(&p, end);
                if (v < 0)
                    return false;
                len = put_utf8(v, bytes);
            } else {
                const char *at = strchr(from, c);
                bytes[0] = at ? to[at - from] : c;
            }
        }
        if (n + len >= size) {
            array[0] = 0;
            return false;
        }
        memcpy(array + n, bytes, len);
        n += len;
    }
    array[n] = 0;
    return true;
}

bool span_int(const struct span *s, int64_t *ret)
{
    return s->type == SPAN_NUMBER && str_to_i64(s->text, INT64_MIN, INT64_MAX, ret) == 0;
}

bool span_bool(const struct span *s, bool def)
{
    return s->type == SPAN_TRUE ? true : s->type == SPAN_FALSE ? false : def;
}
