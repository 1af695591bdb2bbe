#include "gateway/budget.h"

#include <stdio.h>

#include "base/mem.h"

bool budget_read(const json_t *obj, struct budget *ret)
{
    const json_t *b = json_object_get(obj, "budget");
    const char *currency = json_str(b, "currency");
    int64_t amount = json_int(b, "amountMicros", -1);
    if (!json_is_object(b) || !currency_valid(currency) || amount < 0)
        return false;
    ret->amount = MIN(amount, AMOUNT_MICROS_MAX);
    ret->period = budget_period_of(json_str_or(b, "period", "Month"));
    memcpy(ret->currency, currency, CURRENCY_MAX);
    return true;
}

/* ---- the set ---- */

void budget_counter_unref(struct budget_counter *c)
{
    if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
        mem_free(c->name);
        mem_free(c);
    }
}

static void release(void *value)
{
    budget_counter_unref(value);
}

struct budget_set *budget_set_new(void)
{
    struct budget_set *s = XNEW(struct budget_set);
    pthread_mutex_init(&s->lock, NULL);
    s->by_name = map_new(release);
    return s;
}

void budget_set_free(struct budget_set *s)
{
    if (!s)
        return;
    map_free(s->by_name);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

void budget_take(struct budget_set *s, struct budget *b)
{
    char name[640];
    snprintf(name, sizeof(name), "%s|%s|%s|%s|%s", limit_scope_text(b->scope), b->project, b->owner, budget_period_text(b->period), b->currency);
    pthread_mutex_lock(&s->lock);
    struct budget_counter *c = map_getc(s->by_name, name);
    if (!c) {
        c = XNEW(struct budget_counter);
        atomic_store(&c->refs, 1);
        c->name = xstrdup(name);
        map_set(s->by_name, str_of(name), c);
    }
    if (atomic_exchange(&c->amount, b->amount) != b->amount)
        atomic_store(&c->verdict_until_ns, 0); /* it was about another amount */
    atomic_fetch_add(&c->refs, 1);
    b->counter = c;
    pthread_mutex_unlock(&s->lock);
}

void budget_prune(struct budget_set *s)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&s->lock);
    while (map_next(s->by_name, &it)) {
        const struct budget_counter *c = it.value;
        if (atomic_load(&c->refs) == 1 && !atomic_load(&c->slots[0].held) && !atomic_load(&c->slots[1].held))
            map_del(s->by_name, it.key);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- requests ---- */

static struct budget_slot *slot_of(const struct budget_counter *c, int64_t period)
{
    struct budget_slot *s = (struct budget_slot *)(uintptr_t)&c->slots[period & 1];
    return atomic_load(&s->period) == period + 1 ? s : NULL;
}

static enum budget_result take(const struct budget *b, int64_t amount, int64_t wall_ms, uint64_t now_ns)
{
    struct budget_counter *c = b->counter;
    struct budget_slot *s = slot_of(c, budget_period_number(b->period, wall_ms));
    atomic_store_explicit(&c->asked_for_ns, now_ns, memory_order_relaxed);
    if (!s || now_ns >= atomic_load(&c->expires_ns))
        return BUDGET_ASK;
    long long left = atomic_load(&s->left);
    do {
        if (left < amount || left < 0)
            return now_ns < atomic_load(&c->verdict_until_ns) && amount_add(left, atomic_load(&c->more)) < MAX(amount, 1) ? BUDGET_OVER : BUDGET_ASK;
    } while (!atomic_compare_exchange_weak(&s->left, &left, left - amount));
    return BUDGET_HELD;
}

static void give(const struct budget *b, int64_t amount, int64_t wall_ms)
{
    struct budget_slot *s = slot_of(b->counter, budget_period_number(b->period, wall_ms));
    if (s)
        atomic_fetch_add(&s->left, amount);
}

enum budget_result budget_reserve(struct budget_hold *h, const struct budget *budgets, size_t count, int64_t amount, int64_t wall_ms, uint64_t now_ns, const struct budget **ret_why)
{
    for (size_t i = 0; i < count; i++) {
        enum budget_result r = take(&budgets[i], amount, wall_ms, now_ns);
        if (r == BUDGET_HELD)
            continue;
        *ret_why = &budgets[i];
        while (i-- > 0)
            give(&budgets[i], amount, wall_ms);
        return r;
    }
    *h = (struct budget_hold){.budgets = budgets, .count = count, .amount = amount, .wall_ms = wall_ms, .held = true};
    return BUDGET_HELD;
}

void budget_settle(struct budget_hold *h, int64_t cost, int64_t started_ms)
{
    if (!h->held)
        return;
    h->held = false;
    for (size_t i = 0; i < h->count; i++) {
        const struct budget *b = &h->budgets[i];
        int64_t period = budget_period_number(b->period, h->wall_ms);
        struct budget_slot *s = slot_of(b->counter, period);
        if (!s)
            continue;
        int64_t pays = budget_period_number(b->period, started_ms) == period ? MIN(cost, AMOUNT_MICROS_MAX) : 0; /* else its record counts in the period before */
        atomic_fetch_sub(&s->held, pays);
        atomic_fetch_add(&s->left, h->amount - pays);
    }
}

/* ---- leases ---- */

int64_t budget_held(const struct budget_counter *c, int64_t period, int64_t *ret_left)
{
    const struct budget_slot *s = slot_of(c, period);
    int64_t held = s ? atomic_load(&s->held) : 0, left = s ? atomic_load(&s->left) : 0;
    *ret_left = left;
    return MAX(left < 0 ? held - left : held, 0);
}

void budget_grant(struct budget_counter *c, int64_t period, int64_t amount)
{
    struct budget_slot *s = &c->slots[period & 1];
    if (atomic_load(&s->period) != period + 1) {
        atomic_store(&s->period, 0);
        atomic_store(&s->left, 0);
        atomic_store(&s->held, 0);
        atomic_store(&s->period, period + 1);
    }
    atomic_fetch_add(&s->held, amount);
    atomic_fetch_add(&s->left, amount);
}

void budget_return(struct budget_counter *c, int64_t period)
{
    struct budget_slot *s = slot_of(c, period);
    long long left = s ? atomic_load(&s->left) : 0;
    while (left > 0 && !atomic_compare_exchange_weak(&s->left, &left, 0))
        ;
    if (left > 0)
        atomic_fetch_sub(&s->held, left);
}
