#include "gateway/limits.h"

#include <string.h>

#include "base/mem.h"

#define PERIOD_NS 60000000000LL
#define DEBT_MAX_NS (60 * PERIOD_NS) /* of one request: what an engine says is not believed without bounds */
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

struct limit_counter {
    atomic_uint refs;
    atomic_llong full_at_ns[2]; /* by unit */
    atomic_llong running;
    _Atomic(struct learned *) learned; /* ENDPOINTS_MAX; NULL until there is something */
};

/* ---- counters ---- */

struct limit_set {
    struct map *by_name;
};

void limit_counter_unref(struct limit_counter *c)
{
    if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
        mem_free(atomic_load(&c->learned));
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
    s->by_name = map_new(release);
    return s;
}

void limit_set_free(struct limit_set *s)
{
    if (!s)
        return;
    map_free(s->by_name);
    mem_free(s);
}

struct limit_counter *limit_take(struct limit_set *s, const char *name)
{
    struct limit_counter *c = map_getc(s->by_name, name);
    if (!c) {
        c = XNEW(struct limit_counter);
        atomic_store(&c->refs, 1);
        map_set(s->by_name, str_of(name), c);
    }
    atomic_fetch_add(&c->refs, 1);
    return c;
}

/* Whoever deletes a key and makes it anew finds the bucket as it was. */
static bool holds_back(const struct limit_counter *c, uint64_t now_ns)
{
    for (int u = 0; u < 2; u++)
        if (atomic_load(&c->full_at_ns[u]) > (long long)now_ns)
            return true;
    return atomic_load(&c->running) > 0;
}

void limit_prune(struct limit_set *s, uint64_t now_ns)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->by_name, &it)) {
        struct limit_counter *c = it.value;
        if (atomic_load(&c->refs) == 1 && !holds_back(c, now_ns))
            map_del(s->by_name, it.key);
    }
}

/* ---- rates ---- */

__extension__ typedef __int128 wide;

/* How long a bucket takes to fill by n. */
static int64_t cost_up(int64_t n, int64_t max)
{
    wide cost = ((wide)n * PERIOD_NS + max - 1) / max;
    return cost > DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)cost;
}

static int64_t cost_down(int64_t n, int64_t max)
{
    wide cost = (wide)n * PERIOD_NS / max;
    return cost > DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)cost;
}

static int64_t missing_ns(int64_t full_at, int64_t now)
{
    return full_at > now ? full_at - now : 0;
}

static int64_t left_of(int64_t missing, int64_t max)
{
    return missing >= PERIOD_NS ? 0 : (int64_t)((wide)(PERIOD_NS - missing) * max / PERIOD_NS);
}

static bool take_rate(const struct limit *l, enum limit_unit u, int64_t n, uint64_t now_ns, struct limit_refusal *ret)
{
    int64_t max = l->max[u];
    if (!max || !n)
        return true;
    int64_t cost = cost_up(n, max), now = (int64_t)now_ns;
    long long full_at = atomic_load(&l->counter->full_at_ns[u]);
    for (;;) {
        int64_t missing = missing_ns(full_at, now);
        if (n > max || missing + cost > PERIOD_NS) {
            *ret = (struct limit_refusal){.unit = u, .max = max, .wanted = n, .left = left_of(missing, max), .retry_ns = n > max ? 0 : (uint64_t)(missing + cost - PERIOD_NS)};
            return false;
        }
        if (atomic_compare_exchange_weak(&l->counter->full_at_ns[u], &full_at, now + missing + cost))
            return true;
    }
}

static void give_rate(const struct limit *l, enum limit_unit u, int64_t n)
{
    if (l->max[u] && n)
        atomic_fetch_sub(&l->counter->full_at_ns[u], cost_down(n, l->max[u]));
}

/* What was used without having been reserved is owed: the bucket may go below empty. */
static void owe_rate(const struct limit *l, enum limit_unit u, int64_t n)
{
    if (l->max[u] && n)
        atomic_fetch_add(&l->counter->full_at_ns[u], cost_up(n, l->max[u]));
}

/* ---- concurrency ---- */

static bool take_running(const struct limit *l, struct limit_refusal *ret)
{
    int64_t max = l->max[LIMIT_CONCURRENT], before = atomic_fetch_add(&l->counter->running, 1);
    if (!max || before < max)
        return true;
    atomic_fetch_sub(&l->counter->running, 1);
    *ret = (struct limit_refusal){.unit = LIMIT_CONCURRENT, .max = max, .wanted = 1, .retry_ns = 1000000000};
    return false;
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
        atomic_fetch_sub(&l->counter->running, 1);
}

static bool take(const struct limit *l, int64_t tokens, uint64_t now_ns, struct limit_refusal *ret)
{
    int taken = 0;
    if (!l->counter)
        return true;
    if (take_rate(l, LIMIT_REQUESTS, 1, now_ns, ret)) {
        taken = LIMIT_TOKENS;
        if (take_rate(l, LIMIT_TOKENS, tokens, now_ns, ret)) {
            taken = LIMIT_CONCURRENT;
            if (take_running(l, ret))
                return true;
        }
    }
    give_back(l, tokens, taken);
    return false;
}

bool limit_reserve(struct limit_hold *h, const struct limit *limits, int64_t tokens, uint64_t now_ns, struct limit_refusal *ret)
{
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        if (take(&limits[s], tokens, now_ns, ret))
            continue;
        ret->scope = (enum limit_scope)s;
        while (s-- > 0)
            if (limits[s].counter)
                give_back(&limits[s], tokens, LIMIT_UNITS);
        return false;
    }
    *h = (struct limit_hold){.limits = limits, .tokens = tokens, .held = true};
    return true;
}

void limit_settle(struct limit_hold *h, int64_t tokens, bool free)
{
    if (!h->held)
        return;
    h->held = false;
    int64_t used = free ? 0 : tokens;
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        const struct limit *l = &h->limits[s];
        if (!l->counter)
            continue;
        atomic_fetch_sub(&l->counter->running, 1);
        if (free)
            give_rate(l, LIMIT_REQUESTS, 1);
        if (used < h->tokens)
            give_rate(l, LIMIT_TOKENS, h->tokens - used);
        else
            owe_rate(l, LIMIT_TOKENS, used - h->tokens);
    }
}

bool limit_state(const struct limit *limits, enum limit_unit unit, uint64_t now_ns, struct limit_state *ret)
{
    bool found = false;
    for (int s = 0; s < LIMIT_SCOPES; s++) {
        const struct limit *l = &limits[s];
        if (!l->counter || !l->max[unit])
            continue;
        int64_t missing = missing_ns(atomic_load(&l->counter->full_at_ns[unit]), (int64_t)now_ns), left = left_of(missing, l->max[unit]);
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

int64_t limit_expect(const struct limit *limits, const char *project, const char *endpoint, int64_t prompt_tokens, int64_t max_tokens)
{
    const struct limit_counter *c = learner(limits);
    if (!c)
        return 0;
    int64_t expected = ninth_decile(find_learned(c, hash_of(project, endpoint)));
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
