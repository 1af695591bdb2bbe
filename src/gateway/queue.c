#include "gateway/queue.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define QUANTUM 32     /* tokens a turn: less than most requests cost, so that turns are short */
#define LOOK_AHEAD 16  /* requests of a turn among which the best cached is chosen */
#define OVERTAKEN_MAX 8
#define DEBT_MAX (1 << 17) /* of a tenant: one absurd answer must not keep it out for ever */

struct queue_flow {
    TAILQ_ENTRY(queue_flow) link; /* in the round, while somebody waits, or it owes */
    TAILQ_HEAD(, queue_entry) waiting;
    char *key;
    uint64_t id;
    enum queue_class class;
    size_t len;
    int64_t deficit; /* what it may still send; below 0: what it owes */
    int64_t lacks;   /* as choose() left it; INT64_MAX: nothing, all rather wait */
    bool has_turn;
};

void queue_init(struct queue *q)
{
    *q = (struct queue){.flows = map_new(NULL)};
    for (int c = 0; c < CLASS_COUNT; c++)
        TAILQ_INIT(&q->active[c]);
}

static void flow_free(struct queue_flow *f)
{
    mem_free(f->key);
    mem_free(f);
}

void queue_deinit(struct queue *q)
{
    struct map_iter it = MAP_ITER_INIT;
    while (q->flows && map_next(q->flows, &it))
        flow_free(it.value);
    map_free(q->flows);
    q->flows = NULL;
}

static struct queue_flow *find(const struct queue *q, enum queue_class class, const char *tenant)
{
    char key[300];
    if (!map_len(q->flows))
        return NULL;
    snprintf(key, sizeof(key), "%d%s", (int)class, tenant);
    return map_getc(q->flows, key);
}

static struct queue_flow *find_or_make(struct queue *q, enum queue_class class, const char *tenant)
{
    struct queue_flow *f = find(q, class, tenant);
    char key[300];
    if (f)
        return f;
    f = XNEW(struct queue_flow);
    snprintf(key, sizeof(key), "%d%s", (int)class, tenant);
    f->key = xstrdup(key);
    f->id = ++q->made;
    f->class = class;
    TAILQ_INIT(&f->waiting);
    TAILQ_INSERT_TAIL(&q->active[class], f, link);
    map_set(q->flows, str_of(key), f);
    return f;
}

static void drop(struct queue *q, struct queue_flow *f)
{
    TAILQ_REMOVE(&q->active[f->class], f, link);
    map_del(q->flows, str_of(f->key));
    flow_free(f);
}

/* Nobody waits: nobody is kept waiting by what others owe. */
static void forgive(struct queue *q, enum queue_class class)
{
    struct queue_flow *f;
    while ((f = TAILQ_FIRST(&q->active[class])))
        drop(q, f);
}

void queue_add(struct queue *q, const char *tenant, struct queue_entry *e, bool first)
{
    struct queue_flow *f = find_or_make(q, e->class, tenant);
    e->flow = f;
    e->overtaken = 0;
    if (first)
        TAILQ_INSERT_HEAD(&f->waiting, e, link);
    else
        TAILQ_INSERT_TAIL(&f->waiting, e, link);
    f->len++;
    q->len_of[f->class]++;
    q->len++;
}

/* Whoever has nothing to send has no turn, and is forgotten: credit is not saved up. Who owes stays while others wait. */
void queue_remove(struct queue *q, struct queue_entry *e)
{
    struct queue_flow *f = e->flow;
    if (!f)
        return;
    TAILQ_REMOVE(&f->waiting, e, link);
    e->flow = NULL;
    q->len--;
    f->len--;
    if (!--q->len_of[f->class])
        forgive(q, f->class);
    else if (!f->len && f->deficit >= 0)
        drop(q, f);
    else if (!f->len)
        f->has_turn = false;
}

size_t queue_len_of(const struct queue *q, const char *tenant)
{
    size_t n = 0;
    for (int c = 0; c < CLASS_COUNT; c++) {
        const struct queue_flow *f = find(q, (enum queue_class)c, tenant);
        n += f ? f->len : 0;
    }
    return n;
}

/* Of those that the flow can pay, and that do not rather wait: the best cached, unless somebody has been overtaken too often. NULL: there is none, and `lacks` says what it would need. */
static struct queue_entry *choose(struct queue_flow *f, queue_cached_fn cached, void *arg)
{
    struct queue_entry *e = TAILQ_FIRST(&f->waiting), *best = NULL;
    int64_t most = -1;
    f->lacks = INT64_MAX;
    for (int i = 0; e && i < (cached ? LOOK_AHEAD : 1); e = TAILQ_NEXT(e, link), i++) {
        bool is_due = !i && e->overtaken >= OVERTAKEN_MAX;
        if (e->cost > f->deficit) {
            f->lacks = MIN(f->lacks, e->cost - f->deficit);
            if (is_due)
                return NULL;
            continue;
        }
        int64_t n = cached ? cached(arg, e) : 0;
        if (n > most) {
            best = e;
            most = n;
            if (is_due)
                return e;
        }
    }
    return best;
}

/* Nobody could pay in a whole round: so many rounds are given at once that somebody can. False: nobody lacks anything, all rather wait. */
static bool skip_rounds(struct queue *q, int class)
{
    struct queue_flow *f;
    int64_t least = INT64_MAX;
    TAILQ_FOREACH (f, &q->active[class], link)
        least = f->len ? MIN(least, f->lacks) : least;
    if (least == INT64_MAX)
        return false;
    int64_t rounds = (least + QUANTUM - 1) / QUANTUM - 1;
    TAILQ_FOREACH (f, &q->active[class], link)
        f->deficit += !f->len || f->lacks != INT64_MAX ? rounds * QUANTUM : 0;
    return true;
}

struct queue_entry *queue_peek(const struct queue *q)
{
    struct queue_flow *f;
    for (int c = 0; c < CLASS_COUNT; c++)
        TAILQ_FOREACH (f, &q->active[c], link)
            if (f->len)
                return TAILQ_FIRST(&f->waiting);
    return NULL;
}

/* Its turn passes; paid off, it goes. */
static void pass_debtor(struct queue *q, struct queue_flow *f, struct queue_flow **began)
{
    f->deficit += QUANTUM;
    if (f->deficit >= 0) {
        *began = *began == f ? NULL : *began;
        drop(q, f);
        return;
    }
    TAILQ_REMOVE(&q->active[f->class], f, link);
    TAILQ_INSERT_TAIL(&q->active[f->class], f, link);
}

struct queue_entry *queue_next(struct queue *q, queue_cached_fn cached, void *arg)
{
    for (int c = 0; c < CLASS_COUNT; c++) {
        struct queue_flow *f, *began = NULL;
        while ((f = TAILQ_FIRST(&q->active[c]))) {
            if (f == began && !skip_rounds(q, c))
                break; /* to the next class: who could go, and rather waits, holds up nobody */
            began = began ? began : f;
            if (!f->len) {
                pass_debtor(q, f, &began);
                continue;
            }
            int64_t earned = f->has_turn ? 0 : QUANTUM;
            f->deficit += earned;
            f->has_turn = true;
            struct queue_entry *e = choose(f, cached, arg);
            if (e)
                return e;
            if (f->lacks == INT64_MAX)
                f->deficit -= earned;
            f->has_turn = false;
            TAILQ_REMOVE(&q->active[c], f, link);
            TAILQ_INSERT_TAIL(&q->active[c], f, link);
        }
    }
    return NULL;
}

void queue_take(struct queue *q, struct queue_entry *e)
{
    for (struct queue_entry *before = TAILQ_FIRST(&e->flow->waiting); before && before != e; before = TAILQ_NEXT(before, link))
        before->overtaken++;
    e->flow->deficit -= e->cost;
    e->paid_by = e->flow->id;
    queue_remove(q, e);
}

void queue_settle(struct queue *q, const char *tenant, enum queue_class class, uint64_t paid_by, int64_t more)
{
    struct queue_flow *f = find(q, class, tenant);
    if (!f && more > 0 && q->len_of[class])
        f = find_or_make(q, class, tenant);
    if (!f || (more < 0 && f->id != paid_by))
        return;
    f->deficit -= more;
    if (f->deficit < -DEBT_MAX)
        f->deficit = -DEBT_MAX;
}
