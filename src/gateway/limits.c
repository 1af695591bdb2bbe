#include "gateway/limits.h"

#include <string.h>

#include "base/mem.h"
#include "gateway/limit_shares.h"
#include "gateway/limits_internal.h"

#define EXPECTED_FIRST 256 /* of an answer, while nothing is known */
#define SAMPLES_MIN 8
#define SAMPLES_MAX 1024 /* then old ones count half */
#define STEPS 40         /* of the histogram of answers: two an octave */
#define ENDPOINTS_MAX 8  /* of a key that are learned at a time */

/* How long the answers of an endpoint were. Written by all loops without a lock: what gets lost now and then is a sample. */
struct learned {
    atomic_ullong endpoint; /* hash of its project and name; 0: free */
    atomic_ushort steps[STEPS];
};

/* ---- counters ---- */

struct limit_counter *limit_counter_ref(struct limit_counter *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void limit_counter_unref(struct limit_counter *c)
{
    if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
        mem_free(atomic_load(&c->learned));
        mem_free(c->name);
        mem_free(c);
    }
}

static void release(void *value)
{
    limit_counter_unref(value);
}

struct limit_set *limit_set_new(void)
{
    struct limit_set *s = XNEW(struct limit_set);
    pthread_mutex_init(&s->lock, NULL);
    s->by_name = map_new(release);
    s->parts = 1;
    return s;
}

void limit_set_free(struct limit_set *s)
{
    if (!s)
        return;
    map_free(s->by_name);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

struct limit_counter *limit_take(struct limit_set *s, const char *name, const int64_t max[LIMIT_UNITS], int64_t born_ms)
{
    pthread_mutex_lock(&s->lock);
    struct limit_counter *c = map_getc(s->by_name, name);
    if (!c) {
        c = XNEW(struct limit_counter);
        c->name = xstrdup(name);
        atomic_store(&c->refs, 1);
        for (int u = 0; u < LIMIT_CONCURRENT; u++)
            atomic_store(&c->parts[u].full_at_ns, born_ms > s->dealt_ms ? 0 : (long long)s->empty_until_ns);
        map_set(s->by_name, str_of(name), c);
    }
    for (int u = 0; u < LIMIT_UNITS; u++)
        limit_part_bound(s, &c->parts[u], max[u]);
    atomic_fetch_add(&c->refs, 1);
    pthread_mutex_unlock(&s->lock);
    return c;
}

/* Whoever deletes a key and makes it anew finds the bucket as it was, and the share; and what the next share is not to exceed is known before it is dealt out. */
static bool holds_back(const struct limit_set *s, const struct limit_counter *c, uint64_t now_ns)
{
    for (int u = 0; u < LIMIT_UNITS; u++) {
        const struct limit_part *p = &c->parts[u];
        if (p->cap || atomic_load(&p->full_at_ns) > (long long)now_ns || atomic_load(&p->running) > 0 || atomic_load(&p->share) != limit_base(p->max, s->parts))
            return true;
    }
    return false;
}

void limit_prune(struct limit_set *s, uint64_t now_ns)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_name, &it)) {
        struct limit_counter *c = it.value;
        if (atomic_load(&c->refs) == 1 && !holds_back(s, c, now_ns))
            map_del(s->by_name, it.key);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- rates ---- */

static int64_t cost_down(int64_t n, int64_t share)
{
    wide cost = (wide)n * PERIOD_NS / share;
    return cost > DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)cost;
}

bool limit_part_take(struct limit_part *p, int64_t n, int64_t now, int64_t *ret_missing, int64_t *ret_share)
{
    long long full_at = atomic_load(&p->full_at_ns);
    for (;;) {
        int64_t share = atomic_load(&p->share), missing = limit_missing_ns(full_at, now);
        int64_t cost = n <= share ? limit_cost_up(n, share) : PERIOD_NS + 1;
        if (missing + cost > PERIOD_NS) {
            *ret_missing = missing;
            *ret_share = share;
            return false;
        }
        if (atomic_compare_exchange_weak(&p->full_at_ns, &full_at, now + missing + cost))
            return true;
    }
}

/* There is no room in a share: whether others' may have it, and if not, from when on there may be. */
static enum limit_result judge(const struct limit_part *p, uint64_t now_ns, int64_t missing, int64_t share, struct limit_refusal *ret)
{
    bool rate = ret->unit != LIMIT_CONCURRENT, word = now_ns < atomic_load(&p->verdict_until_ns);
    int64_t more = word ? atomic_load(&p->more) : 0, n = ret->wanted;
    ret->left += MIN(more, ret->max);
    if (!rate)
        ret->retry_ns = 1000000000;
    else if (n > ret->max)
        ret->retry_ns = 0;
    else if (share < ret->max && word)
        ret->retry_ns = (uint64_t)limit_cost_up(MAX(n - ret->left, (int64_t)1), ret->max);
    else
        ret->retry_ns = n <= share ? (uint64_t)(missing + limit_cost_up(n, share) - PERIOD_NS) : (uint64_t)PERIOD_NS;
    return n > ret->max || share >= ret->max || (word && ret->left < n) ? LIMIT_OVER : LIMIT_ASK;
}

static enum limit_result take_rate(const struct limit *l, enum limit_unit u, int64_t n, uint64_t now_ns, struct limit_refusal *ret)
{
    struct limit_part *p = &l->counter->parts[u];
    int64_t missing, share;
    if (!l->max[u] || !n)
        return LIMIT_HELD;
    atomic_store_explicit(&p->asked_ns, now_ns, memory_order_relaxed);
    if (limit_part_take(p, n, (int64_t)now_ns, &missing, &share))
        return LIMIT_HELD;
    *ret = (struct limit_refusal){.counter = l->counter, .unit = u, .max = l->max[u], .wanted = n, .left = limit_left_of(missing, share)};
    return judge(p, now_ns, missing, share, ret);
}

static void move_rate(struct limit_part *p, int64_t n, bool refund)
{
    long long full_at = atomic_load(&p->full_at_ns), moved;
    do {
        int64_t share = atomic_load(refund ? &p->most : &p->share);
        if (share <= 0)
            return; /* all of it went to others, and then nothing was missing */
        moved = refund ? full_at - cost_down(n, share) : full_at + limit_cost_up(n, share);
    } while (!atomic_compare_exchange_weak(&p->full_at_ns, &full_at, moved));
}

static void give_rate(const struct limit *l, enum limit_unit u, int64_t n)
{
    if (l->max[u] && n)
        move_rate(&l->counter->parts[u], n, true);
}

/* What was used without having been reserved is owed: the bucket may go below empty. */
static void owe_rate(const struct limit *l, enum limit_unit u, int64_t n)
{
    if (l->max[u] && n)
        move_rate(&l->counter->parts[u], n, false);
}

/* ---- concurrency ---- */

static enum limit_result take_running(const struct limit *l, uint64_t now_ns, struct limit_refusal *ret)
{
    struct limit_part *p = &l->counter->parts[LIMIT_CONCURRENT];
    int64_t max = l->max[LIMIT_CONCURRENT], before = atomic_fetch_add(&p->running, 1);
    if (!max)
        return LIMIT_HELD;
    atomic_store_explicit(&p->asked_ns, now_ns, memory_order_relaxed);
    int64_t share = atomic_load(&p->share); /* after: whoever takes from the share looks at what runs after that */
    if (before < share)
        return LIMIT_HELD;
    atomic_fetch_sub(&p->running, 1);
    *ret = (struct limit_refusal){.counter = l->counter, .unit = LIMIT_CONCURRENT, .max = max, .wanted = 1};
    return judge(p, now_ns, 0, share, ret);
}

static void end_running(const struct limit *l)
{
    atomic_fetch_sub(&l->counter->parts[LIMIT_CONCURRENT].running, 1);
}

/* ---- what requests do ---- */

/* Undoes what take() did of one scope, up to a unit. */
static void give_back(const struct limit *l, int64_t tokens, int units)
{
    if (units > LIMIT_REQUESTS)
        give_rate(l, LIMIT_REQUESTS, 1);
    if (units > LIMIT_TOKENS)
        give_rate(l, LIMIT_TOKENS, tokens);
    if (units > LIMIT_CONCURRENT)
        end_running(l);
}

/* has_place: it runs already. */
static enum limit_result take(const struct limit *l, int64_t tokens, bool has_place, uint64_t now_ns, struct limit_refusal *ret)
{
    int taken = 0;
    enum limit_result r;
    if (!l->counter)
        return LIMIT_HELD;
    if ((r = take_rate(l, LIMIT_REQUESTS, 1, now_ns, ret)) == LIMIT_HELD) {
        taken = LIMIT_TOKENS;
        if ((r = take_rate(l, LIMIT_TOKENS, tokens, now_ns, ret)) == LIMIT_HELD) {
            taken = LIMIT_CONCURRENT;
            if (has_place || (r = take_running(l, now_ns, ret)) == LIMIT_HELD)
                return LIMIT_HELD;
        }
    }
    give_back(l, tokens, taken);
    return r;
}

enum limit_result limit_enter(struct limit_hold *h, const struct limit *limits, uint64_t now_ns, struct limit_refusal *ret)
{
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        enum limit_result r = limits[s].counter ? take_running(&limits[s], now_ns, ret) : LIMIT_HELD;
        if (r == LIMIT_HELD)
            continue;
        ret->scope = (enum limit_scope)s;
        while (s-- > 0)
            if (limits[s].counter)
                end_running(&limits[s]);
        return r;
    }
    *h = (struct limit_hold){.limits = limits, .entered = true};
    return LIMIT_HELD;
}

enum limit_result limit_reserve(struct limit_hold *h, const struct limit *limits, int64_t tokens, uint64_t now_ns, struct limit_refusal *ret)
{
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        enum limit_result r = take(&limits[s], tokens, h->entered, now_ns, ret);
        if (r == LIMIT_HELD)
            continue;
        ret->scope = (enum limit_scope)s;
        while (s-- > 0)
            if (limits[s].counter)
                give_back(&limits[s], tokens, h->entered ? LIMIT_CONCURRENT : LIMIT_UNITS);
        return r;
    }
    *h = (struct limit_hold){.limits = limits, .tokens = tokens, .entered = true, .held = true};
    return LIMIT_HELD;
}

void limit_return(struct limit_hold *h)
{
    for (int s = 0; h->held && s < LIMIT_SCOPES; s++)
        if (h->limits[s].counter)
            give_back(&h->limits[s], h->tokens, LIMIT_CONCURRENT);
    h->held = false;
    h->tokens = 0;
}

enum limit_result limit_take_refused(const struct limit *limits, uint64_t now_ns, struct limit_refusal *ret)
{
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        enum limit_result r = limits[s].counter ? take_rate(&limits[s], LIMIT_REQUESTS, 1, now_ns, ret) : LIMIT_HELD;
        if (r == LIMIT_HELD)
            continue;
        ret->scope = (enum limit_scope)s;
        while (s-- > 0)
            if (limits[s].counter)
                give_rate(&limits[s], LIMIT_REQUESTS, 1);
        return r;
    }
    return LIMIT_HELD;
}

void limit_settle(struct limit_hold *h, int64_t tokens, bool free)
{
    bool held = h->held;
    if (!h->entered)
        return;
    h->entered = h->held = false;
    int64_t used = free ? 0 : tokens;
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        const struct limit *l = &h->limits[s];
        if (!l->counter)
            continue;
        end_running(l);
        if (!held)
            continue;
        if (free)
            give_rate(l, LIMIT_REQUESTS, 1);
        if (used < h->tokens)
            give_rate(l, LIMIT_TOKENS, h->tokens - used);
        else
            owe_rate(l, LIMIT_TOKENS, used - h->tokens);
    }
}

void limit_mend(const struct limit *limits, int64_t more)
{
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        if (!limits[s].counter)
            continue;
        if (more > 0)
            owe_rate(&limits[s], LIMIT_TOKENS, more);
        else
            give_rate(&limits[s], LIMIT_TOKENS, -more);
    }
}

bool limit_state(const struct limit *limits, enum limit_unit unit, uint64_t now_ns, struct limit_state *ret)
{
    bool found = false;
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        const struct limit *l = &limits[s];
        if (!l->counter || !l->max[unit])
            continue;
        const struct limit_part *p = &l->counter->parts[unit];
        int64_t missing = limit_missing_ns(atomic_load(&p->full_at_ns), (int64_t)now_ns), left = limit_left_of(missing, atomic_load(&p->share));
        if (!found || left < ret->left)
            *ret = (struct limit_state){l->max[unit], left, (uint64_t)missing};
        found = true;
    }
    return found;
}

/* ---- how long answers are ---- */

/* Two steps an octave: 1, 2, 3, 4, 6, 8, 12, … */
static int64_t step_top(int i)
{
    int64_t base = (int64_t)1 << (i / 2);
    return i % 2 ? base + (base + 1) / 2 : base;
}

static int step_of(int64_t n)
{
    int i = 0;
    while (i < STEPS - 1 && step_top(i) < n)
        i++;
    return i;
}

static uint64_t hash_of(const char *project, const char *name)
{
    uint8_t key[16] = {0}; /* whoever makes names collide spoils his own estimate */
    uint64_t h = siphash13(key, project, strlen(project));
    memcpy(key, &h, sizeof(h));
    h = siphash13(key, name, strlen(name));
    return h ? h : 1;
}

static struct learned *find_learned(const struct limit_counter *c, uint64_t h)
{
    struct learned *all = atomic_load(&c->learned);
    for (int i = 0; all && i < ENDPOINTS_MAX; i++)
        if (atomic_load(&all[i].endpoint) == h)
            return &all[i];
    return NULL;
}

static struct learned *take_learned(struct limit_counter *c, uint64_t h)
{
    struct learned *l = find_learned(c, h), *all = atomic_load(&c->learned), *none = NULL;
    if (l)
        return l;
    if (!all) {
        struct learned *fresh = xcalloc(ENDPOINTS_MAX, sizeof(*fresh));
        if (atomic_compare_exchange_strong(&c->learned, &none, fresh)) {
            all = fresh;
        } else {
            mem_free(fresh);
            all = none;
        }
    }
    for (int i = 0; i < ENDPOINTS_MAX; i++) {
        unsigned long long unused = 0;
        if (atomic_compare_exchange_strong(&all[i].endpoint, &unused, h))
            return &all[i];
    }
    l = &all[h % ENDPOINTS_MAX]; /* in place of another */
    for (int i = 0; i < STEPS; i++)
        atomic_store(&l->steps[i], 0);
    atomic_store(&l->endpoint, h);
    return l;
}

/* The first scope that counts tokens or money: the key's, when it does. */
static struct limit_counter *learner(const struct limit *limits)
{
    for (int s = 0; s < LIMIT_SCOPES; s++)
        if (limits[s].counter && (limits[s].learns || limits[s].max[LIMIT_TOKENS]))
            return limits[s].counter;
    return NULL;
}

void limit_learn(const struct limit *limits, const char *project, const char *endpoint, int64_t completion_tokens)
{
    struct limit_counter *c = learner(limits);
    if (!c)
        return;
    struct learned *l = take_learned(c, hash_of(project, endpoint));
    unsigned total = 0;
    atomic_fetch_add(&l->steps[step_of(completion_tokens)], 1);
    for (int i = 0; i < STEPS; i++)
        total += atomic_load(&l->steps[i]);
    for (int i = 0; total >= SAMPLES_MAX && i < STEPS; i++)
        atomic_store(&l->steps[i], (unsigned short)(atomic_load(&l->steps[i]) / 2));
}

/* 0: not enough is known. */
static int64_t ninth_decile(const struct learned *l)
{
    unsigned total = 0, seen = 0;
    for (int i = 0; l && i < STEPS; i++)
        total += atomic_load(&l->steps[i]);
    if (total < SAMPLES_MIN)
        return 0;
    for (int i = 0; i < STEPS; i++) {
        seen += atomic_load(&l->steps[i]);
        if (seen * 10 >= total * 9)
            return step_top(i);
    }
    return 0;
}

int64_t limit_learned(const struct limit *limits, const char *project, const char *endpoint)
{
    const struct limit_counter *c = learner(limits);
    return c ? ninth_decile(find_learned(c, hash_of(project, endpoint))) : 0;
}

int64_t limit_expect(const struct limit *limits, const char *project, const char *endpoint, int64_t prompt_tokens, int64_t max_tokens)
{
    if (!learner(limits))
        return 0;
    int64_t expected = limit_learned(limits, project, endpoint);
    if (!expected)
        expected = max_tokens ? max_tokens : EXPECTED_FIRST;
    if (max_tokens && max_tokens < expected)
        expected = max_tokens;
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        int64_t max = limits[s].counter ? limits[s].max[LIMIT_TOKENS] : 0;
        if (max && expected > max - prompt_tokens)
            expected = max > prompt_tokens ? max - prompt_tokens : 0;
    }
    return expected;
}

/* ---- words ---- */

const char *limit_scope_text(enum limit_scope s)
{
    static const char *const texts[] = {"key", "project", "tenant"};
    return texts[s];
}

const char *limit_unit_text(enum limit_unit u)
{
    static const char *const texts[] = {"requests", "tokens", "concurrent"};
    return texts[u];
}

bool limit_unit_parse(const char *text, enum limit_unit *ret)
{
    for (int u = 0; u < LIMIT_UNITS; u++)
        if (!strcmp(text, limit_unit_text((enum limit_unit)u))) {
            *ret = (enum limit_unit)u;
            return true;
        }
    return false;
}
