#include "gateway/slices.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/rnd.h"
#include "base/vec.h"
#include "gateway/rate_lease.h"
#include "kinds/inference.h"

#define ROUND_MS 1000u
#define ROUND_SHARED_MS 250u /* of several gateways: so long others wait for what is free here */
#define HURRY_MS 20u        /* between questions, while requests wait … */
#define AGAIN_MS 100u       /* … and the last answer was not the last word */
#define CALL_MS 5000u
#define CALL_STOPPING_MS 500u
#define WAIT_NS 3000000000ull
#define ALONE_NS 3000000000ull /* a control that has not answered for so long after the start is not waited for */
#define IDLE_NS 60000000000ull
#define VERDICT_NS 1000000000ull
#define ITEMS_MAX 2000 /* of a question */

struct slices {
    struct slices_options o;
    struct client *client; /* o.client, with a short deadline */
    char incarnation[33];
    char journal_id[LEDGER_ID_TEXT];
    int64_t turn;
    atomic_bool stopping;
    pthread_t thread;
    bool started, asked_once; /* asked_once: control has answered */
    bool leaving;             /* the thread has ended */
    atomic_bool failing;
    uint64_t began_ns;
    struct rate_lease *rates; /* the thread's */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    TAILQ_HEAD(, slices_wait) waiting;
    bool hurry;
    struct metric *failures, *waits;
    VEC(struct budget_counter *) asked; /* the thread's: of the question that runs, with references */
};

/* ---- requests that wait ---- */

static void deliver(void *arg)
{
    struct slices_inbox *i = arg;
    for (;;) {
        pthread_mutex_lock(&i->slices->lock);
        struct slices_wait *w = TAILQ_FIRST(&i->woken);
        if (w) {
            TAILQ_REMOVE(&i->woken, w, link);
            w->state = SLICES_IDLE;
        }
        pthread_mutex_unlock(&i->slices->lock);
        if (!w)
            return;
        timer_stop(&w->end);
        w->again(w);
    }
}

/* Under the lock. */
static void wake_all(struct slices *l)
{
    struct slices_wait *w;
    while ((w = TAILQ_FIRST(&l->waiting))) {
        TAILQ_REMOVE(&l->waiting, w, link);
        bool first = TAILQ_EMPTY(&w->inbox->woken);
        TAILQ_INSERT_TAIL(&w->inbox->woken, w, link);
        w->state = SLICES_WOKEN;
        if (first)
            loop_post(w->inbox->loop, deliver, w->inbox);
    }
}

void slices_inbox_init(struct slices_inbox *i, struct slices *l, struct loop *loop)
{
    TAILQ_INIT(&i->woken);
    i->loop = loop;
    i->slices = l;
}

static void on_end(struct timer *t)
{
    struct slices_wait *w = t->arg;
    slices_cancel(w);
    w->is_over = true;
    w->again(w);
}

bool slices_park(struct slices_wait *w, struct slices_inbox *i)
{
    struct slices *l = i->slices;
    uint64_t now = clock_mono_ns();
    if (w->counter && atomic_load(&l->failing) && limit_parts(l->o.limits))
        return false; /* what there is of a rate is here */
    if (!w->since_ns) {
        w->since_ns = now;
        timer_init(&w->end, i->loop, on_end, w);
        metric_add(l->waits, 1);
    } else if (w->is_over || now - w->since_ns >= WAIT_NS) {
        return false;
    }
    pthread_mutex_lock(&l->lock);
    bool may = !atomic_load(&l->stopping);
    if (may) {
        w->inbox = i;
        w->state = SLICES_WAITS;
        TAILQ_INSERT_TAIL(&l->waiting, w, link);
        l->hurry = true;
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&l->lock);
    if (may)
        timer_start(&w->end, (w->since_ns + WAIT_NS - now + 999999) / 1000000);
    return may;
}

void slices_cancel(struct slices_wait *w)
{
    if (!w->inbox)
        return;
    struct slices *l = w->inbox->slices;
    timer_stop(&w->end);
    pthread_mutex_lock(&l->lock);
    if (w->state == SLICES_WAITS)
        TAILQ_REMOVE(&l->waiting, w, link);
    else if (w->state == SLICES_WOKEN)
        TAILQ_REMOVE(&w->inbox->woken, w, link);
    w->state = SLICES_IDLE;
    pthread_mutex_unlock(&l->lock);
}

/* ---- the question ---- */

static void ask_for(struct slices *l, struct budget_counter *c)
{
    if (c->listed || l->asked.len == ITEMS_MAX)
        return;
    c->listed = true;
    c->need = -1;
    c->need_least = 0;
    atomic_fetch_add(&c->refs, 1);
    *VEC_PUSH(&l->asked) = c;
}

/* What requests wait for. */
static void gather_needs(struct slices *l)
{
    struct slices_wait *w;
    pthread_mutex_lock(&l->lock);
    TAILQ_FOREACH (w, &l->waiting, link)
        if (w->counter)
            rate_lease_need(l->rates, w->counter, w->unit, w->amount);
    TAILQ_FOREACH (w, &l->waiting, link)
        for (size_t i = 0; i < w->count && !w->counter; i++) {
            struct budget_counter *c = w->budgets[i].counter;
            ask_for(l, c);
            if (!c->listed)
                continue;
            c->need_least = c->need < 0 ? w->amount : MIN(c->need_least, w->amount);
            c->need = amount_add(MAX(c->need, (int64_t)0), w->amount);
        }
    pthread_mutex_unlock(&l->lock);
}

static void gather_held(struct slices *l)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&l->o.budgets->lock);
    while (map_next(l->o.budgets->by_name, &it)) {
        struct budget_counter *c = it.value;
        if (atomic_load(&c->slots[0].held) || atomic_load(&c->slots[1].held) || atomic_load(&c->slots[0].left) || atomic_load(&c->slots[1].left))
            ask_for(l, c);
    }
    pthread_mutex_unlock(&l->o.budgets->lock);
}

/* A counter's name says what it is of: "SCOPE|PROJECT|OWNER|PERIOD|CURRENCY". */
static json_t *question_of(struct budget_counter *c, int64_t wall_ms, uint64_t now_ns)
{
    struct str rest = str_of(c->name), part[5] = {STR_NULL};
    char period[16];
    for (size_t i = 0; i < ARRAY_LEN(part) && str_cut(&rest, '|', &part[i]); i++)
        ;
    (void)!str_to_array(part[3], period, sizeof(period));
    int64_t number = budget_period_number(budget_period_of(period), wall_ms), left;
    if (c->need < 0 && now_ns > atomic_load(&c->asked_for_ns) + IDLE_NS)
        budget_return(c, number);
    int64_t held = budget_held(c, number, &left);
    json_t *q = json_pack("{s:s, s:s%, s:s%, s:s%, s:s, s:s%, s:I, s:I, s:I, s:I}", "name", c->name, "scope", part[0].ptr, part[0].len, "project", part[1].ptr, part[1].len, "owner",
                          part[2].ptr, part[2].len, "period", period, "currency", part[4].ptr, part[4].len, "number", (json_int_t)number, "amount",
                          (json_int_t)atomic_load(&c->amount), "held", (json_int_t)held, "left", (json_int_t)left);
    if (c->need >= 0) {
        json_object_set_new(q, "need", json_integer(c->need));
        json_object_set_new(q, "needLeast", json_integer(c->need_least));
    }
    return q;
}

static json_t *new_question(struct slices *l)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I}", "gateway", l->o.gateway, "incarnation", l->incarnation, "turn", (json_int_t)++l->turn, "journal", journal_name(l->o.journal),
                     "journalID", l->journal_id, "sequence", (json_int_t)journal_sequence(l->o.journal));
}

static json_t *wrap(json_t *spec)
{
    char version[128];
    kind_api_version(&kind_gateway_lease, version);
    return json_pack("{s:s, s:s, s:o}", "apiVersion", version, "kind", kind_gateway_lease.name, "spec", spec);
}

/* What is held is read before the sequence: what is settled in between is then counted twice, not left out. */
static json_t *make_question(struct slices *l, int64_t wall_ms)
{
    json_t *budgets = json_array();
    gather_needs(l);
    gather_held(l);
    VEC_FOREACH (&l->asked, c)
        json_array_append_new(budgets, question_of(*c, wall_ms, clock_mono_ns()));
    json_t *spec = new_question(l);
    json_object_set_new(spec, "budgets", budgets);
    rate_lease_ask(l->rates, spec, clock_mono_ns());
    return wrap(spec);
}

/* ---- the answer ---- */

/* False: it is not the last word on what requests wait for. */
static bool take_budget(struct budget_counter *c, const json_t *answer, int64_t wall_ms, uint64_t now_ns, uint64_t expires_ns)
{
    struct str rest = str_of(c->name), part[5] = {STR_NULL};
    char period[16];
    for (size_t i = 0; i < ARRAY_LEN(part) && str_cut(&rest, '|', &part[i]); i++)
        ;
    (void)!str_to_array(part[3], period, sizeof(period));
    int64_t number = budget_period_number(budget_period_of(period), wall_ms), grant = MAX(json_int(answer, "grant", 0), (int64_t)0);
    bool final = json_flag(answer, "final", false);
    budget_grant(c, number, grant);
    if (c->need >= 0)
        atomic_store(&c->told_ns, now_ns);
    atomic_store(&c->expires_ns, expires_ns);
    atomic_store(&c->more, json_int(answer, "free", 0));
    atomic_store(&c->verdict_until_ns, final ? now_ns + VERDICT_NS : 0);
    if (json_flag(answer, "recall", false))
        budget_return(c, number);
    return c->need < 0 || final;
}

static bool take_answer(struct slices *l, const json_t *status, int64_t wall_ms, uint64_t asked_ns)
{
    size_t i;
    json_t *b;
    bool final = true;
    uint64_t expires_ns = asked_ns + (uint64_t)MAX(json_int(status, "leaseMilliseconds", 0), (int64_t)0) * 1000000;
    json_array_foreach (json_object_get(status, "budgets"), i, b)
        if (i < l->asked.len && !strcmp(json_str_or(b, "name", ""), l->asked.ptr[i]->name))
            final &= take_budget(l->asked.ptr[i], b, wall_ms, clock_mono_ns(), expires_ns);
    return final;
}

static void forget_question(struct slices *l)
{
    VEC_FOREACH (&l->asked, c) {
        (*c)->listed = false;
        budget_counter_unref(*c);
    }
    l->asked.len = 0;
}

/* How long until the next question. */
static uint64_t ask(struct slices *l)
{
    struct client_resource r = kind_resource(&kind_gateway_lease);
    struct err err = ERR_INIT;
    JSON_AUTO answer = NULL;
    int64_t wall_ms = clock_wall_ms();
    JSON_AUTO question = make_question(l, wall_ms);
    uint64_t asked_ns = clock_mono_ns(), again_ms = AGAIN_MS;
    int rc = client_create(l->client, &r, NULL, question, &answer, &err);
    const json_t *status = rc == 0 ? json_object_get(answer, "status") : NULL;
    bool final = rate_lease_answer(l->rates, status, clock_mono_ns());
    if (status && take_answer(l, status, wall_ms, asked_ns) && final)
        again_ms = HURRY_MS;
    bool away = clock_mono_ns() > l->began_ns + ALONE_NS; /* one that is slow to answer is waited for; where nobody listens there is nothing to wait for */
    if (!status && (away || rc != ERR_TIMEOUT) && !rate_lease_resume(l->rates, clock_mono_ns()) && away)
        rate_lease_alone(l->rates, clock_mono_ns());
    l->asked_once |= rc == 0;
    if (rc < 0)
        metric_add(l->failures, 1);
    if (rc < 0 && !atomic_load(&l->failing) && !atomic_load(&l->stopping))
        log_warn("control leases no budgets: what is held is spent, then nothing more; rates go on as they are", KVE(&err));
    else if (rc == 0 && atomic_load(&l->failing))
        log_info("control leases budgets again");
    atomic_store(&l->failing, rc < 0);
    forget_question(l);
    return again_ms;
}

/* hurry: until somebody is in one. */
static void wait_ms(struct slices *l, uint64_t ms, bool hurry)
{
    uint64_t until_ms = clock_mono_ms() + ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000L};
    while (!atomic_load(&l->stopping) && !(hurry && l->hurry) && pthread_cond_timedwait(&l->wake, &l->lock, &until) != ETIMEDOUT)
        ;
}

static void *run(void *arg)
{
    struct slices *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!atomic_load(&l->stopping)) {
        l->hurry = false;
        pthread_mutex_unlock(&l->lock);
        uint64_t pause_ms = ask(l);
        pthread_mutex_lock(&l->lock);
        wake_all(l);
        wait_ms(l, pause_ms, false); /* requests that come meanwhile share one question */
        if (!rate_lease_hurries(l->rates) || atomic_load(&l->failing))
            wait_ms(l, (rate_lease_shares(l->rates) ? ROUND_SHARED_MS : ROUND_MS) - pause_ms, true);
    }
    wake_all(l);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- the whole ---- */

static int hasten(void *arg, uint64_t *timeout_ms, struct err *err)
{
    struct slices *l = arg;
    if (atomic_load(&l->stopping) && !l->leaving)
        return err_set(err, ERR_CANCELED, "stopping");
    *timeout_ms = MIN(*timeout_ms, (uint64_t)(l->leaving ? CALL_STOPPING_MS : CALL_MS));
    return 0;
}

int slices_start(const struct slices_options *o, struct slices **ret, struct err *err)
{
    struct slices *l = XNEW(struct slices);
    uint8_t random[16];
    pthread_condattr_t attr;
    l->o = *o;
    l->client = client_fenced(o->client, hasten, l);
    rnd_bytes(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(l->incarnation + 2 * i, 3, "%02x", random[i]);
    journal_id(o->journal, l->journal_id);
    TAILQ_INIT(&l->waiting);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    l->rates = rate_lease_new(o->limits, o->shares_file, o->other_shares_file);
    l->began_ns = clock_mono_ns();
    l->failures = metric_counter("seki_gateway_lease_failures_total", "Questions about budgets and rates that control did not answer.");
    l->waits = metric_counter("seki_gateway_lease_waits_total", "Requests that waited until control had answered about a budget or a rate.");
    l->started = true; /* before: the thread reads it */
    int eno = pthread_create(&l->thread, NULL, run, l);
    if (eno) {
        l->started = false;
        slices_free(l);
        return err_sys(err, eno, "start the leases' thread");
    }
    *ret = l;
    return 0;
}

void slices_stop(struct slices *l)
{
    if (!l || !l->started)
        return;
    pthread_mutex_lock(&l->lock);
    atomic_store(&l->stopping, true);
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->started = false;
}

void slices_leave(struct slices *l, bool succeeded)
{
    struct client_resource r = kind_resource(&kind_gateway_lease);
    struct err err = ERR_INIT;
    JSON_AUTO answer = NULL;
    slices_stop(l);
    if (!l || !l->asked_once)
        return;
    l->leaving = true;
    json_t *spec = new_question(l);
    json_object_set_new(spec, "leaving", json_true());
    JSON_AUTO question = wrap(spec);
    bool told_first = atomic_load(&l->failing) && !succeeded; /* one that is away takes nothing back */
    if (!told_first) /* so that nobody has what the file still claims */
        rate_lease_leave(l->rates, succeeded);
    if (client_create(l->client, &r, NULL, question, &answer, &err) < 0)
        log_info("control was not told that this gateway leaves: it finds out when the lease is over", KVE(&err));
    else if (told_first)
        rate_lease_leave(l->rates, succeeded);
}

void slices_free(struct slices *l)
{
    if (!l)
        return;
    slices_stop(l);
    client_free(l->client);
    rate_lease_free(l->rates);
    VEC_DEINIT(&l->asked);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}
