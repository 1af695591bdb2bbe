#include "gateway/load_report.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "gateway/internal.h"
#include "gateway/series.h"
#include "kinds/inference.h"

#define EVERY_MS 1000
#define GAP_MS 100     /* between two */
#define CALL_MS 3000   /* control has so long to answer */
#define ITEMS_MAX 4000  /* GatewayLoad takes so many */
#define TARGETS_MAX 3000 /* besides those that are asked about */
#define HEARD_MS 15000
#define LOOPS_MS 2000  /* loops have so long to run once */

struct load_report {
    struct gateway *gateway;
    struct client *client;
    char id[UUID_TEXT_MAX];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken, stop; /* under lock */
    atomic_bool stopping;
    atomic_ullong heard_ms;
    struct metric *told;
    json_t *asked;    /* the thread's: names of targets */
    bool complained, started;
};

static int allow(void *arg, uint64_t *timeout_ms, struct err *err)
{
    struct load_report *r = arg;
    *timeout_ms = CALL_MS;
    return atomic_load(&r->stopping) ? err_set(err, ERR_CANCELED, "the gateway stops") : 0;
}

/* ---- every loop has run once ---- */

struct round {
    atomic_int refs;
    pthread_mutex_t lock;
    pthread_cond_t done;
    int left;
};

struct visit {
    struct round *round;
    struct gateway_loop *loop;
};

static void round_unref(struct round *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->done);
    mem_free(r);
}

static void visit_loop(void *arg)
{
    struct visit *v = arg;
    gateway_loop_refresh(v->loop); /* one that nobody calls should not keep an old snapshot */
    pthread_mutex_lock(&v->round->lock);
    v->round->left--;
    pthread_cond_signal(&v->round->done);
    pthread_mutex_unlock(&v->round->lock);
    round_unref(v->round);
    mem_free(v);
}

static struct timespec time_of(uint64_t ms)
{
    return (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000L};
}

static void init_cond(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

static bool loops_have_run(struct gateway *g)
{
    struct round *r = XNEW(struct round);
    struct timespec until = time_of(clock_mono_ms() + LOOPS_MS);
    pthread_mutex_init(&r->lock, NULL);
    init_cond(&r->done);
    r->left = g->loop_count;
    atomic_store(&r->refs, g->loop_count + 1);
    for (int i = 0; i < g->loop_count; i++) {
        struct visit *v = XNEW(struct visit);
        *v = (struct visit){r, &g->loops[i]};
        loop_post(g->loops[i].loop, visit_loop, v);
    }
    pthread_mutex_lock(&r->lock);
    while (r->left && pthread_cond_timedwait(&r->done, &r->lock, &until) != ETIMEDOUT)
        ;
    bool all = r->left == 0;
    pthread_mutex_unlock(&r->lock);
    round_unref(r);
    return all;
}

/* ---- one report ---- */

struct lists {
    struct load_report *r;
    json_t *endpoints, *targets;
};

static void add_endpoint(void *arg, const struct snap_endpoint *e)
{
    struct lists *l = arg;
    struct dispatch_load d;
    dispatch_load(e->dispatch, &d);
    if (json_array_size(l->endpoints) >= ITEMS_MAX || (!d.waiting && !strcmp(e->not_ready, "ScaledToZero")))
        return; /* of those that are at zero, and that nobody asks for, there may be many */
    json_array_append_new(l->endpoints, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "namespace", e->project, "name", e->name, "held", (json_int_t)(e->replica_count ? 0 : d.waiting),
                                                  "waiting", (json_int_t)d.waiting, "running", (json_int_t)d.running, "waitingTokens", (json_int_t)d.waiting_tokens, "runningTokens",
                                                  (json_int_t)d.running_tokens, "slotTokensPerMinute", (json_int_t)d.slot_per_minute, "idleMilliseconds", (json_int_t)d.idle_ms));
    for (size_t i = 0; i < e->replica_count && json_array_size(l->targets) < TARGETS_MAX; i++)
        json_array_append_new(l->targets, json_pack("{s:s, s:b, s:i}", "name", e->replicas[i].target->name, "open", 1, "running", atomic_load(&e->replicas[i].target->in_flight)));
}

/* Of those that control asked about and that no snapshot has: a target is closed first, then loops run, then it is counted. */
static void add_asked(struct lists *l)
{
    struct feed *f = l->r->gateway->feed;
    size_t n;
    json_t *name;
    int running;
    JSON_AUTO closed = json_array();
    json_array_foreach (l->r->asked, n, name) {
        if (feed_target_open(f, json_string_value(name), &running))
            json_array_append_new(l->targets, json_pack("{s:O, s:b, s:i}", "name", name, "open", 1, "running", running));
        else
            json_array_append(closed, name);
    }
    if (!json_array_size(closed) || !loops_have_run(l->r->gateway))
        return;
    json_array_foreach (closed, n, name) {
        bool open = feed_target_open(f, json_string_value(name), &running);
        json_array_append_new(l->targets, json_pack("{s:O, s:b, s:i}", "name", name, "open", open, "running", running));
    }
}

/* True: control asks about targets that it did not ask about before. */
static bool take_answer(struct load_report *r, const json_t *answer)
{
    json_t *leaving = json_at(answer, "status.leaving");
    feed_tell_targets(r->gateway->feed, json_at(answer, "status.engines"));
    bool more = json_array_size(leaving) > 0 && !json_equal(leaving, r->asked);
    json_decref(r->asked);
    r->asked = json_is_array(leaving) ? json_incref(leaving) : json_array();
    return more;
}

static void report(struct load_report *r)
{
    struct client_resource resource = kind_resource(&kind_gateway_load);
    struct err err = ERR_INIT;
    unsigned long long version;
    struct lists l = {.r = r, .endpoints = json_array(), .targets = json_array()};
    struct snapshot *s = feed_take(r->gateway->feed, &version);
    if (s)
        snapshot_each_scaled(s, add_endpoint, &l);
    snapshot_unref(s);
    add_asked(&l);
    JSON_AUTO obj = obj_new(&kind_gateway_load, NULL, "");
    JSON_AUTO answer = NULL;
    json_object_del(obj, "metadata");
    json_object_set_new(obj, "spec", json_pack("{s:s, s:o, s:o}", "gateway", r->id, "endpoints", l.endpoints, "targets", l.targets));
    if (client_create(r->client, &resource, NULL, obj, &answer, &err) == 0) {
        atomic_store(&r->heard_ms, clock_mono_ms());
        metric_add(r->told, 1);
        r->complained = false;
        if (take_answer(r, answer))
            load_report_wake(r);
    } else if (!r->complained && !atomic_load(&r->stopping)) {
        log_warn("control was not told how much there is to do: it starts and stops no engines", KVE(&err));
        r->complained = true;
    }
}

/* Here, as this thread may take its time. */
static void look_at_series(struct gateway *g, uint64_t *at_ms)
{
    unsigned long long version;
    uint64_t now_ms = clock_mono_ms();
    if (now_ms < *at_ms)
        return;
    struct snapshot *s = feed_take(g->feed, &version);
    if (s)
        series_sweep(&g->metrics, s, now_ms);
    snapshot_unref(s);
    *at_ms = now_ms + SERIES_LOOK_MS;
}

static void *run(void *arg)
{
    struct load_report *r = arg;
    uint64_t next_ms = clock_mono_ms(), series_ms = 0;
    for (;;) {
        pthread_mutex_lock(&r->lock);
        for (;;) {
            struct timespec until = time_of(r->woken ? next_ms - EVERY_MS + GAP_MS : next_ms);
            if (r->stop || clock_mono_ms() >= (r->woken ? next_ms - EVERY_MS + GAP_MS : next_ms))
                break;
            pthread_cond_timedwait(&r->wake, &r->lock, &until);
        }
        bool stop = r->stop;
        r->woken = false;
        pthread_mutex_unlock(&r->lock);
        if (stop)
            return NULL;
        report(r);
        look_at_series(r->gateway, &series_ms);
        next_ms = clock_mono_ms() + EVERY_MS;
    }
}

struct load_report *load_report_new(struct gateway *g)
{
    struct load_report *r = XNEW(struct load_report);
    r->gateway = g;
    r->asked = json_array();
    r->told = metric_counter("seki_gateway_load_reports_total", "Times that control was told how much there is to do.");
    r->client = client_fenced(g->o.client, allow, r);
    rnd_uuid(r->id);
    atomic_store(&r->heard_ms, clock_mono_ms());
    pthread_mutex_init(&r->lock, NULL);
    init_cond(&r->wake);
    return r;
}

int load_report_start(struct load_report *r, struct err *err)
{
    int eno = pthread_create(&r->thread, NULL, run, r);
    r->started = eno == 0;
    return eno ? err_sys(err, eno, "start the thread that reports loads") : 0;
}

void load_report_stop(struct load_report *r)
{
    if (!r)
        return;
    atomic_store(&r->stopping, true);
    if (r->started) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->wake);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    r->started = false;
}

void load_report_free(struct load_report *r)
{
    if (!r)
        return;
    load_report_stop(r);
    client_free(r->client);
    json_decref(r->asked);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

void load_report_wake(struct load_report *r)
{
    pthread_mutex_lock(&r->lock);
    if (!r->woken)
        pthread_cond_signal(&r->wake);
    r->woken = true;
    pthread_mutex_unlock(&r->lock);
}

bool load_report_heard(struct load_report *r)
{
    return clock_mono_ms() - atomic_load(&r->heard_ms) < HEARD_MS;
}
