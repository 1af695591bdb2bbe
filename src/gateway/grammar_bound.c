#include "gateway/grammar_bound.h"

#include "base/map.h"
#include "base/vec.h"

#define ENOUGH (GRAMMAR_WAYS_MAX + 1)
#define REPEAT_MAX 100000 /* of more it is known enough */

/* Of something: how many ways it may begin, and how many it may be empty. */
struct ways {
    int64_t begin, empty;
};

enum state { NEW, BEING_COUNTED, COUNTED };

struct rule {
    struct str body;
    struct ways ways;
    enum state state;
};

struct grammar {
    VEC(struct rule) rules;
    struct map *names; /* → its place among rules, and 1 */
    int depth;
    bool is_deep;
    int64_t most; /* of all places that were looked at */
};

/* A reader of one rule's body. Where `all` is false only what may come first is followed. */
struct reader {
    struct grammar *g;
    const char *p, *end;
    bool all, is_pattern;
};

static int64_t up_to_enough(int64_t n)
{
    return MIN(n, (int64_t)ENOUGH);
}

/* ---- words ---- */

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r' || *p == '#')) {
        if (*p == '#')
            while (p < end && *p != '\n')
                p++;
        else
            p++;
    }
    return p;
}

/* In patterns space is a character. */
static void skip(struct reader *r)
{
    if (!r->is_pattern)
        r->p = skip_space(r->p, r->end);
}

/* Behind what begins at p, a literal or a class. */
static const char *skip_quoted(const char *p, const char *end, char close)
{
    for (p++; p < end && *p != close; p++)
        p += *p == '\\' && p + 1 < end;
    return MIN(p + 1, end);
}

static struct str name_at(const char *p, const char *end)
{
    const char *from = p;
    while (p < end && is_name(*p))
        p++;
    return str_n(from, (size_t)(p - from));
}

/* Where the body of a rule begins whose name this is; NULL: it is a reference. */
static const char *body_of(struct str name, const char *end)
{
    const char *p = skip_space(name.ptr + name.len, end);
    return end - p >= 3 && !memcmp(p, "::=", 3) ? p + 3 : NULL;
}

static void find_rules(struct grammar *g, struct str text)
{
    const char *p = text.ptr, *end = p + text.len;
    while ((p = skip_space(p, end)) < end) {
        if (*p == '"' || *p == '[') {
            p = skip_quoted(p, end, *p == '"' ? '"' : ']');
            continue;
        }
        struct str name = name_at(p, end);
        const char *body = name.len ? body_of(name, end) : NULL;
        if (body && g->rules.len)
            g->rules.ptr[g->rules.len - 1].body.len =
                (size_t)(p - g->rules.ptr[g->rules.len - 1].body.ptr);
        if (body) {
            *VEC_PUSH(&g->rules) = (struct rule){.body = str_n(body, (size_t)(end - body))};
            map_set(g->names, name, (void *)g->rules.len); /* of two the last, as engines have it */
        }
        p = body ? body : p + MAX(name.len, (size_t)1);
    }
}

/* ---- what is counted ---- */

static struct ways alternatives(struct reader *r, bool follow);

static struct ways rule_ways(struct grammar *g, struct str name)
{
    size_t at = (size_t)map_get(g->names, name);
    struct rule *rule = at ? &g->rules.ptr[at - 1] : NULL;
    if (!rule || rule->state == BEING_COUNTED)
        return (struct ways){1, 0};
    if (rule->state == NEW) {
        struct reader r = {g, rule->body.ptr, rule->body.ptr + rule->body.len, .all = false};
        rule->state = BEING_COUNTED;
        rule->ways = alternatives(&r, true);
        rule->state = COUNTED;
    }
    return rule->ways;
}

/* least times, and then up to `most` times: each within the one before. */
static struct ways repeated(struct ways w, int64_t least, int64_t most)
{
    struct ways all = {0, 1}, rest = {0, 1};
    if (!w.empty) /* only the first one can begin */
        return (struct ways){most ? w.begin : 0, least == 0};
    for (int64_t i = least; i < MIN(most, (int64_t)REPEAT_MAX) && rest.begin < ENOUGH; i++)
        rest = (struct ways){up_to_enough(w.begin + w.empty * rest.begin),
                             up_to_enough(1 + w.empty * rest.empty)};
    for (int64_t i = 0; i < MIN(least, (int64_t)REPEAT_MAX) && all.begin < ENOUGH; i++)
        all = (struct ways){up_to_enough(all.begin + all.empty * w.begin),
                            up_to_enough(all.empty * w.empty)};
    return (struct ways){up_to_enough(all.begin + all.empty * rest.begin),
                         up_to_enough(all.empty * rest.empty)};
}

static int64_t read_number(const char **p, const char *end)
{
    int64_t n = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; ++*p)
        n = MIN(n * 10 + **p - '0', (int64_t)REPEAT_MAX);
    return n;
}

/* Whether what begins with "{" is a repetition; in patterns it may be a character. */
static bool is_repetition(const struct reader *r)
{
    return !r->is_pattern ||
           (r->end - r->p > 1 && ((r->p[1] >= '0' && r->p[1] <= '9') || r->p[1] == ','));
}

/* "m", "m,", ",n" or "m,n", and "}", behind "{". */
static struct ways read_braces(struct reader *r, struct ways w)
{
    const char *p = skip_space(r->p + 1, r->end);
    int64_t least = read_number(&p, r->end), most = least;
    p = skip_space(p, r->end);
    if (p < r->end && *p == ',') {
        p = skip_space(p + 1, r->end);
        most = p < r->end && *p == '}' ? least + 1 : read_number(&p, r->end);
    }
    while (p < r->end && *p != '}')
        p++;
    r->p = MIN(p + 1, r->end);
    return repeated(w, least, MAX(most, least));
}

static struct ways with_repetition(struct reader *r, struct ways w)
{
    for (;;) {
        skip(r);
        char c = r->p < r->end ? *r->p : 0;
        if (c == '{' && is_repetition(r)) {
            w = read_braces(r, w);
            continue;
        }
        if (c != '*' && c != '+' && c != '?')
            return w;
        w = repeated(w, c == '+', 1);
        r->p++;
    }
}

/* follow: what it refers to matters. */
static struct ways element(struct reader *r, bool follow)
{
    char c = *r->p;
    struct ways w = {1, 0};
    if (c == '[' || (c == '"' && !r->is_pattern)) {
        const char *from = r->p;
        r->p = skip_quoted(from, r->end, c == '"' ? '"' : ']');
        if (c == '"' && r->p - from == 2)
            w = (struct ways){0, 1};
    } else if (c == '(') {
        r->p++;
        if (r->is_pattern && r->p < r->end && *r->p == '?') /* "(?:" and the like */
            r->p += MIN((ptrdiff_t)2, r->end - r->p);
        w = alternatives(r, follow);
        r->p += r->p < r->end;
    } else if (r->is_pattern) {
        r->p += MIN((ptrdiff_t)(c == '\\' ? 2 : 1), r->end - r->p);
        if (c == '^' || c == '$')
            w = (struct ways){0, 1};
    } else if (is_name(c)) {
        struct str name = name_at(r->p, r->end);
        r->p += name.len;
        if (follow)
            w = rule_ways(r->g, name);
    } else {
        r->p++; /* "." and what is none of ours */
    }
    return with_repetition(r, w);
}

/* Elements in a row. After one that cannot be empty something begins anew, of which only `most` is
 * told. */
static struct ways row(struct reader *r, bool follow)
{
    struct ways run = {0, 1}, first = {0, 1};
    bool in_first = true;
    for (skip(r); r->p < r->end && *r->p != '|' && *r->p != ')'; skip(r)) {
        struct ways w = element(r, r->all || (follow && in_first));
        run = (struct ways){up_to_enough(run.begin + run.empty * w.begin),
                            up_to_enough(run.empty * w.empty)};
        if (in_first)
            first = run;
        r->g->most = MAX(r->g->most, run.begin);
        if (run.empty)
            continue;
        in_first = false;
        run = (struct ways){0, 1};
    }
    return first;
}

static struct ways alternatives(struct reader *r, bool follow)
{
    struct ways sum = {0, 0};
    if (++r->g->depth > GRAMMAR_DEPTH_MAX) {
        r->g->is_deep = true;
        r->p = r->end;
    }
    for (bool more = true; more; r->p += more) {
        struct ways w = row(r, follow);
        sum = (struct ways){up_to_enough(sum.begin + w.begin), up_to_enough(sum.empty + w.empty)};
        more = r->p < r->end && *r->p == '|';
    }
    r->g->depth--;
    r->g->most = MAX(r->g->most, sum.begin);
    return sum;
}

/* Each place in it where something begins. */
static void look_through(struct grammar *g, struct str text, bool is_pattern)
{
    struct reader r = {g, text.ptr, text.ptr + text.len, true, is_pattern};
    while (r.p < r.end) {
        (void)alternatives(&r, true);
        r.p += r.p < r.end; /* a ")" without its "(" */
    }
}

int64_t grammar_ways(struct str text)
{
    struct grammar g = {.names = map_new(NULL)};
    find_rules(&g, text);
    for (size_t i = 0; i < g.rules.len && g.most < ENOUGH && !g.is_deep; i++)
        look_through(&g, g.rules.ptr[i].body, false);
    map_free(g.names);
    VEC_DEINIT(&g.rules);
    return g.is_deep ? -1 : g.most;
}

int64_t pattern_ways(struct str text)
{
    struct grammar g = {0};
    look_through(&g, text, true);
    return g.is_deep ? -1 : g.most;
}
