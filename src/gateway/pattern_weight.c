#include "gateway/pattern_weight.h"

#define WEIGHT_MAX INT64_C(1000000000000)
#define ANY_NUMBER 4 /* what "*" and "+" weigh: there is one rule for all */
#define AT_END (-1)

static int64_t times(int64_t a, int64_t b)
{
    return b && a > WEIGHT_MAX / b ? WEIGHT_MAX : a * b;
}

static int64_t plus(int64_t a, int64_t b)
{
    return MIN(a + b, WEIGHT_MAX);
}

/* ---- characters ---- */

struct reader {
    const char *p, *end; /* a JSON string's inside */
    bool is_grammar;
};

/* What is not ASCII is 0x80, as it means nothing here. */
static int next_char(struct reader *r)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    if (r->p == r->end)
        return AT_END;
    unsigned char c = (unsigned char)*r->p++;
    if (c != '\\' || r->p == r->end)
        return c >= 0x80 ? 0x80 : c;
    char e = *r->p++;
    if (e != 'u') {
        const char *at = strchr(from, e);
        return at && *at ? to[at - from] : e;
    }
    int v = 0;
    for (int i = 0; i < 4 && r->p < r->end; i++) {
        char h = *r->p++;
        v = v << 4 | (h <= '9' ? h - '0' : (h | 0x20) - 'a' + 10);
    }
    return v >= 0x80 ? 0x80 : v;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_white(int c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Whether c means nothing between the parts of a grammar; a comment is read to its end. */
static bool is_between(struct reader *r, int c)
{
    struct reader ahead = *r;
    if (!r->is_grammar)
        return false;
    if (c != '#' && (c != '/' || next_char(&ahead) != '/'))
        return is_white(c);
    while (c != AT_END && c != '\n')
        c = next_char(r);
    return true;
}

/* ---- repetitions ---- */

/* Behind "{": "m", "m,n" or ",n", and "}"; "m," is as "m" or as "*". -1: it is no repetition. */
static int64_t read_braces(struct reader *r)
{
    struct reader at = *r;
    int64_t most = 0, n = 0;
    bool any = false, is_open = false; /* is_open: a comma came last */
    for (int c; (c = next_char(&at)) != AT_END;) {
        if (is_digit(c)) {
            n = plus(times(n, 10), c - '0');
            any = true;
            is_open = false;
        } else if (c == ',' || c == '}') {
            most = MAX(most, n);
            n = 0;
        } else if (!is_white(c) && !is_between(&at, c)) {
            return -1;
        }
        if (c == '}') {
            *r = at;
            return !any ? -1 : is_open ? MAX(most, (int64_t)ANY_NUMBER) : most;
        }
        is_open |= c == ',';
    }
    return -1;
}

/* Behind Lark's "~": "m" or "m..n". */
static int64_t read_range(struct reader *r)
{
    struct reader at = *r;
    int64_t most = 0, n = 0;
    for (int c; (c = next_char(&at)) != AT_END;) {
        if (is_digit(c))
            n = plus(times(n, 10), c - '0');
        else if (c == '.')
            n = 0;
        else if (!is_between(&at, c))
            break;
        most = MAX(most, n);
        *r = at;
    }
    return most;
}

/* How often the part before c is repeated; -1: c says nothing of that. */
static int64_t read_repetition(struct reader *r, int c)
{
    if (c == '*' || c == '+')
        return ANY_NUMBER;
    if (c == '~' && r->is_grammar)
        return read_range(r);
    return c == '{' ? read_braces(r) : -1;
}

/* ---- groups ---- */

/* One that is open, or the whole. */
struct group {
    int64_t sum, last;     /* weights of its parts, and of the last one among them */
    int depth, last_depth; /* repetitions that are within each other there */
};

struct groups {
    struct group all[PATTERN_GROUPS_MAX];
    int open; /* the last one's index */
    int64_t nested;
};

static void add_part(struct groups *s, int64_t weight, int depth)
{
    struct group *g = &s->all[s->open];
    g->sum = plus(g->sum, weight);
    g->last = weight;
    g->last_depth = depth;
    g->depth = MAX(g->depth, depth);
}

static bool open_group(struct groups *s)
{
    if (++s->open == PATTERN_GROUPS_MAX)
        return false;
    s->all[s->open] = (struct group){0};
    return true;
}

/* It is a part of the one around it, and weighs so much more than its own parts. */
static void close_group(struct groups *s, int64_t more)
{
    const struct group *g = &s->all[s->open--];
    add_part(s, plus(g->sum, more), g->depth);
}

/* The last part, n times. */
static void repeat_last(struct groups *s, int64_t n)
{
    struct group *g = &s->all[s->open];
    int64_t weight = times(g->last, MAX(n, (int64_t)1));
    g->sum = plus(g->sum - g->last, weight);
    g->last = weight;
    if (n <= 1)
        return;
    g->last_depth++;
    g->depth = MAX(g->depth, g->last_depth);
    if (g->last_depth >= 3)
        s->nested = MAX(s->nested, weight);
}

/* ---- texts ---- */

struct text {
    struct reader r;
    struct groups groups;
    bool in_class;
    int quote; /* of a grammar: what is open, " or / */
};

/* Where quotes stand for themselves: false. *ret_ok: false when groups are too deep. */
static bool take_quote(struct text *t, int c, bool *ret_ok)
{
    if (!t->r.is_grammar || (c != '"' && c != '/') || (t->quote && c != t->quote))
        return false;
    if (t->quote) {
        t->quote = 0;
        if (t->groups.open)
            close_group(&t->groups, 0);
    } else {
        t->quote = c;
        *ret_ok = open_group(&t->groups);
    }
    return true;
}

/* False: its groups are nested too deeply. */
static bool take(struct text *t, int c)
{
    bool ok = true;
    int64_t n;
    if (c == '\\') {
        (void)next_char(&t->r);
        if (!t->in_class)
            add_part(&t->groups, 1, 0);
    } else if (t->in_class) {
        t->in_class = c != ']';
    } else if ((!t->quote && is_between(&t->r, c)) || take_quote(t, c, &ok)) {
        return ok;
    } else if (t->quote == '"') {
        add_part(&t->groups, 1, 0);
    } else if (c == '[') {
        t->in_class = true;
        add_part(&t->groups, 1, 0);
    } else if (c == '(') {
        return open_group(&t->groups);
    } else if (c == ')' && t->groups.open) {
        close_group(&t->groups, 1);
    } else if ((n = read_repetition(&t->r, c)) >= 0) {
        repeat_last(&t->groups, n);
    } else {
        add_part(&t->groups, 1, 0);
    }
    return true;
}

static int64_t weigh(struct str json_string, bool is_grammar, int64_t *ret_nested)
{
    const char *p = json_string.ptr;
    struct text t = {.r = {p + 1, p + json_string.len - 1, is_grammar}};
    int64_t sum = 0;
    for (int c; (c = next_char(&t.r)) != AT_END;)
        if (!take(&t, c))
            return -1;
    for (int i = 0; i <= t.groups.open; i++)
        sum = plus(sum, t.groups.all[i].sum);
    *ret_nested = t.groups.nested;
    return sum;
}

int64_t pattern_weight(struct str json_string, int64_t *ret_nested)
{
    return weigh(json_string, false, ret_nested);
}

int64_t grammar_weight(struct str json_string, int64_t *ret_nested)
{
    int64_t nested_as_pattern = 0, as_pattern = weigh(json_string, false, &nested_as_pattern);
    int64_t weight = weigh(json_string, true, ret_nested);
    if (weight < 0 || as_pattern < 0)
        return -1;
    *ret_nested = MAX(*ret_nested, nested_as_pattern);
    return MAX(weight, as_pattern);
}
