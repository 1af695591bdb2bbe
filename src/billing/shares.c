#include "billing/shares.h"

#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"

#define MINUTE_MS 60000
#define ASLEEP_MS 5000   /* control did not run: silence of gateways is not theirs */
#define WANTS_MS 3000    /* so long others give back what one could not get */
#define LIMITS_MAX 200000
#define AHEAD 4          /* of what is free here, the part that a gateway gets at a time */
#define NAME_BYTES 1200

struct member {
    char *name, *incarnation;
    uint64_t heard_ms;
    bool heard;                  /* since the start */
    int64_t epoch, parts;        /* as it says */
    bool settled;
};

/* What a gateway has of a limit. */
struct holder {
    const struct member *member;
    int64_t share, given, left, least, lack;
    uint64_t hungry_ms, replied_ms; /* hungry_ms 0: it is not */
};
struct pool {
    char *name, *unit;
    int64_t max, free_milli; /* of what no gateway has: in thousandths */
    uint64_t at_ms;
    bool rate;
    VEC(struct holder) holders;
};

struct shares {
    uint64_t lease_ms, awake_ms, shared_ms, hungry_ms; /* hungry_ms: when one last was */
    int64_t epoch, parts;
    enum { STARTING, SHRINKING, SHARED } phase; /* STARTING: others of before may be there */
    bool changed;
    VEC(struct member *) members;
    struct map *pools; /* "UNIT NAME" → struct pool */
};

static void member_free(struct member *m)
{
    mem_free(m->name);
    mem_free(m->incarnation);
    mem_free(m);
}

static void pool_free(void *value)
{
    struct pool *p = value;
    VEC_DEINIT(&p->holders);
    mem_free(p->name);
    mem_free(p->unit);
    mem_free(p);
}

struct shares *shares_new(uint64_t lease_ms, uint64_t now_ms, int64_t epoch)
{
    struct shares *s = XNEW(struct shares);
    *s = (struct shares){.lease_ms = lease_ms, .awake_ms = now_ms, .epoch = epoch, .pools = map_new(pool_free)};
    return s;
}

void shares_free(struct shares *s)
{
    if (!s)
        return;
    VEC_FOREACH (&s->members, m)
        member_free(*m);
    VEC_DEINIT(&s->members);
    map_free(s->pools);
    mem_free(s);
}

size_t shares_gateways(const struct shares *s)
{
    return s->members.len;
}

/* ---- who there is ---- */

static struct member *add_member(struct shares *s, const char *name, const char *incarnation, uint64_t now_ms)
{
    struct member *m = XNEW(struct member);
    *m = (struct member){.name = xstrdup(name), .incarnation = xstrdup(incarnation), .heard_ms = now_ms};
    *VEC_PUSH(&s->members) = m;
    s->changed = true;
    return m;
}

void shares_expect(struct shares *s, const char *gateway, uint64_t now_ms)
{
    add_member(s, gateway, "", now_ms);
}

static void remove_member(struct shares *s, size_t i)
{
    member_free(s->members.ptr[i]);
    VEC_REMOVE(&s->members, i);
    s->changed = true;
}

void shares_leave(struct shares *s, const char *gateway)
{
    for (size_t i = s->members.len; i-- > 0;)
        if (!strcmp(s->members.ptr[i]->name, gateway)) {
            map_clear(s->pools); /* they point at it */
            remove_member(s, i);
        }
}

void shares_awake(struct shares *s, uint64_t now_ms)
{
    if (now_ms > s->awake_ms + ASLEEP_MS)
        VEC_FOREACH (&s->members, m)
            (*m)->heard_ms = now_ms;
    s->awake_ms = now_ms;
}

static struct member *hear(struct shares *s, const char *gateway, const char *incarnation, const json_t *ask, uint64_t now_ms)
{
    struct member *m = NULL;
    shares_awake(s, now_ms);
    for (size_t i = s->members.len; i-- > 0;) {
        struct member *at = s->members.ptr[i];
        if (!strcmp(at->name, gateway)) {
            m = at;
        } else if (now_ms > at->heard_ms + s->lease_ms) {
            map_clear(s->pools);
            remove_member(s, i);
        }
    }
    if (!m)
        m = add_member(s, gateway, incarnation, now_ms);
    if (strcmp(m->incarnation, incarnation) != 0) {
        s->changed |= m->heard;
        mem_free(m->incarnation);
        m->incarnation = xstrdup(incarnation);
    }
    m->heard = true;
    m->heard_ms = now_ms;
    m->epoch = json_int(ask, "rateEpoch", 0);
    m->parts = json_int(ask, "rateParts", 0);
    m->settled = json_flag(ask, "rateSettled", false);
    return m;
}

/* ---- limits ---- */

static int64_t base_of(const struct shares *s, int64_t max)
{
    return max / MAX((int64_t)s->members.len, (int64_t)1);
}

static struct holder *holder_of(struct shares *s, struct pool *p, const struct member *m)
{
    VEC_FOREACH (&p->holders, h)
        if (h->member == m)
            return h;
    struct holder *h = VEC_PUSH(&p->holders);
    *h = (struct holder){.member = m, .share = base_of(s, p->max)};
    return h;
}

/* What no gateway has. */
static int64_t kept_of(const struct shares *s, const struct pool *p)
{
    int64_t kept = p->max - (int64_t)(s->members.len - p->holders.len) * base_of(s, p->max);
    VEC_FOREACH (&p->holders, h)
        kept -= h->share;
    return MAX(kept, (int64_t)0);
}

/* What has flowed into that. */
static void fill(const struct shares *s, struct pool *p, uint64_t now_ms)
{
    int64_t kept = kept_of(s, p);
    if (p->rate)
        p->free_milli = (int64_t)MIN((double)p->free_milli + (double)kept * 1000 / MINUTE_MS * (double)(now_ms - p->at_ms), (double)kept * 1000);
    else
        p->free_milli = kept * 1000;
    p->at_ms = now_ms;
}

static struct pool *pool_of(struct shares *s, const json_t *q, uint64_t now_ms)
{
    char key[NAME_BYTES];
    const char *name = json_str_or(q, "name", ""), *unit = json_str_or(q, "unit", "");
    int64_t max = MAX(json_int(q, "max", 0), (int64_t)0);
    snprintf(key, sizeof(key), "%s %s", unit, name);
    struct pool *p = map_getc(s->pools, key);
    if (!p && map_len(s->pools) >= LIMITS_MAX)
        return NULL;
    if (!p) {
        p = XNEW(struct pool);
        *p = (struct pool){.name = xstrdup(name), .unit = xstrdup(unit), .max = max, .rate = strcmp(unit, "concurrent") != 0, .at_ms = s->shared_ms};
        map_set(s->pools, str_of(key), p);
    }
    if (p->max != max) {
        p->max = max;
        p->free_milli = 0;
    }
    fill(s, p, now_ms);
    return p;
}

/* What it has now is believed: what it has less came back, with what was free in it. */
static struct holder *hear_share(struct shares *s, struct pool *p, const struct member *m, const json_t *q, uint64_t now_ms)
{
    struct holder *h = holder_of(s, p, m);
    int64_t share = MAX(json_int(q, "share", 0), (int64_t)0), given = MAX(json_int(q, "given", 0), (int64_t)0), back = h->share - share;
    if (back > 0)
        p->free_milli += MIN(MAX(given - h->given, (int64_t)0), back) * 1000;
    h->share = share;
    h->given = given;
    h->left = MAX(json_int(q, "left", 0), (int64_t)0);
    h->replied_ms = now_ms;
    fill(s, p, now_ms);
    return h;
}

static bool is_hungry(const struct holder *h, uint64_t now_ms)
{
    return h->hungry_ms && now_ms < h->hungry_ms + WANTS_MS;
}

/* What those want who came before: it is not given to others. */
static int64_t promised(const struct pool *p, const struct holder *me, uint64_t now_ms)
{
    int64_t n = 0;
    VEC_FOREACH (&p->holders, h)
        if (h != me && is_hungry(h, now_ms) && (!me->hungry_ms || h->hungry_ms < me->hungry_ms))
            n += MAX(h->least - h->left, (int64_t)0);
    return n;
}

/* Whether all others have said what they give, since it was wanted. */
static bool all_replied(const struct shares *s, const struct pool *p, const struct holder *me)
{
    size_t replied = 0;
    VEC_FOREACH (&p->holders, h)
        replied += h != me && h->replied_ms > me->hungry_ms;
    return replied + 1 >= s->members.len;
}

static json_t *serve(struct shares *s, struct pool *p, struct holder *h, const json_t *q, uint64_t now_ms)
{
    int64_t need = json_int(q, "need", -1), base = base_of(s, p->max), more = 0, grant = 0, free = 0;
    bool final = true, over = false;
    if (need >= 0) {
        h->least = json_int(q, "needLeast", 0);
        int64_t lack = MAX(need - h->left, (int64_t)1), least = MAX(h->least - h->left, (int64_t)0);
        if (h->hungry_ms && !is_hungry(h, now_ms))
            h->hungry_ms = 0;
        int64_t may = MAX(p->free_milli / 1000 - promised(p, h, now_ms), (int64_t)0);
        free = MIN(may, MAX(lack, may / AHEAD));
        bool enough = free >= least, first = promised(p, h, now_ms) == 0;
        if (!enough && !first)
            free = 0;
        h->lack = MAX(lack - free, (int64_t)0);
        if (!enough && !h->hungry_ms)
            h->hungry_ms = now_ms;
        grant = free + MIN(MAX(base - h->share - free, (int64_t)0), MAX(kept_of(s, p) - free, (int64_t)0));
        over = !enough && all_replied(s, p, h);
        final = enough || over;
        if (final)
            h->hungry_ms = 0;
        else
            s->hungry_ms = now_ms;
        h->share += grant;
        h->left += free;
        p->free_milli -= free * 1000;
        fill(s, p, now_ms);
        more = p->free_milli / 1000;
    }
    return json_pack("{s:s, s:s, s:I, s:I, s:b, s:b, s:I}", "name", p->name, "unit", p->unit, "share", (json_int_t)grant, "content", (json_int_t)free, "final", final, "over", over, "more",
                     (json_int_t)more);
}

/* What others want of this one. */
static void recall(struct shares *s, const struct member *m, uint64_t now_ms, json_t *recalls)
{
    struct map_iter it = MAP_ITER_INIT;
    if (!s->hungry_ms || now_ms > s->hungry_ms + WANTS_MS)
        return;
    while (map_next(s->pools, &it)) {
        struct pool *p = it.value;
        const struct holder *first = NULL;
        struct holder *me = NULL;
        VEC_FOREACH (&p->holders, h)
            if (h->member == m)
                me = h;
            else if (is_hungry(h, now_ms) && (!first || h->hungry_ms < first->hungry_ms))
                first = h;
        if (!first || (me && me->replied_ms > first->hungry_ms))
            continue;
        int64_t base = base_of(s, p->max);
        json_array_append_new(recalls, json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", p->name, "unit", p->unit, "max", (json_int_t)p->max, "amount", (json_int_t)MAX(first->lack, base / 2), "restore",
                                                 (json_int_t)MAX(base - first->share, (int64_t)0), "large", first->least > base));
    }
}

/* ---- when their number changes ---- */

static bool all_heard(const struct shares *s)
{
    VEC_FOREACH (&s->members, m)
        if (!(*m)->heard)
            return false;
    return true;
}

static bool all_shrunk(const struct shares *s)
{
    VEC_FOREACH (&s->members, m)
        if ((*m)->parts && (*m)->epoch != s->epoch)
            return false;
    return true;
}

/* Where more of a limit runs than is one's part, the others have less of it, until the number changes again. */
static void cap_others(struct shares *s)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->pools, &it)) {
        struct pool *p = it.value;
        int64_t rest = p->max, others = (int64_t)(s->members.len - p->holders.len);
        VEC_FOREACH (&p->holders, h)
            rest -= h->share;
        VEC_FOREACH (&s->members, m) {
            struct holder *h = holder_of(s, p, *m);
            if (!h->replied_ms)
                h->share = MIN(h->share, MAX(rest, (int64_t)0) / others);
        }
    }
}

static void turn_phase(struct shares *s, uint64_t now_ms)
{
    if (s->changed && all_heard(s)) {
        s->changed = false;
        s->phase = SHRINKING;
        s->epoch++;
        s->parts = (int64_t)s->members.len;
        VEC_FOREACH (&s->members, m)
            s->parts = MAX(s->parts, (*m)->parts);
        map_clear(s->pools);
    }
    if (s->phase == SHRINKING && !s->changed && (s->members.len == 1 || all_shrunk(s))) {
        s->phase = SHARED;
        s->parts = (int64_t)s->members.len;
        s->shared_ms = now_ms;
        cap_others(s);
    }
}

static json_t *caps_of(struct shares *s, const struct member *m)
{
    struct map_iter it = MAP_ITER_INIT;
    json_t *caps = json_array();
    while (map_next(s->pools, &it)) {
        const struct pool *p = it.value;
        VEC_FOREACH (&p->holders, h)
            if (h->member == m)
                json_array_append_new(caps, json_pack("{s:s, s:s, s:I, s:I}", "name", p->name, "unit", p->unit, "max", (json_int_t)p->max, "share", (json_int_t)h->share));
    }
    return caps;
}

/* ---- answers ---- */

void shares_answer(struct shares *s, const char *gateway, const char *incarnation, const json_t *ask, uint64_t now_ms, json_t *status)
{
    struct member *m = hear(s, gateway, incarnation, ask, now_ms);
    json_t *rates = json_object_get(ask, "rates"), *answers = json_array(), *recalls = json_array(), *q;
    size_t i;
    struct pool *p;
    if (s->phase == SHRINKING && !s->changed && m->epoch == s->epoch)
        json_array_foreach (rates, i, q)
            if (!strcmp(json_str_or(q, "unit", ""), "concurrent") && (p = pool_of(s, q, now_ms)))
                (void)hear_share(s, p, m, q, now_ms);
    turn_phase(s, now_ms);
    bool shared = s->phase == SHARED && !s->changed, there = shared && m->epoch == s->epoch && m->settled && m->parts == s->parts;
    json_array_foreach (rates, i, q)
        if (there && (p = pool_of(s, q, now_ms)))
            json_array_append_new(answers, serve(s, p, hear_share(s, p, m, q, now_ms), q, now_ms));
        else
            json_array_append_new(answers, json_object());
    if (there)
        recall(s, m, now_ms, recalls);
    if (s->phase != STARTING && !s->changed) {
        json_object_set_new(status, "rateEpoch", json_integer(s->epoch));
        json_object_set_new(status, "rateParts", json_integer(shared || m->parts ? s->parts : 0));
        json_object_set_new(status, "rateSettled", json_boolean(shared));
        if (shared && !there)
            json_object_set_new(status, "rateCaps", caps_of(s, m));
    }
    json_object_set_new(status, "rates", answers);
    json_object_set_new(status, "recalls", recalls);
}
