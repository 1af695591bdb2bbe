#include "inference/demand.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#define FIRST_MS 3000 /* after a start, so long is waited for the first gateway before it is believed that there is none */
#define GATEWAYS_MAX 64
#define LEAVING_MAX 1000
#define ENGINES_MAX 1000 /* that are busy; of more nothing is told */

struct load {
    int64_t held, waiting, running, waiting_tokens, running_tokens, slot_per_minute, idle_ms;
};

struct target_said {
    bool open;
    int64_t running;
};

struct gateway {
    uint64_t first_ms, seen_ms;
    struct map *loads;   /* "NS/NAME" → struct load */
    struct map *targets; /* → struct target_said */
};

struct busy_engine {
    struct demand_engine is;
    uint64_t found_ms;
};

struct demand {
    pthread_mutex_t lock;
    uint64_t began_ms;
    struct map *gateways; /* by name */
    struct map *leaving;  /* target → d: asked about */
    struct map *engines;  /* target → struct busy_engine */
};

static void gateway_free(void *value)
{
    struct gateway *g = value;
    map_free(g->loads);
    map_free(g->targets);
    mem_free(g);
}

struct demand *demand_new(void)
{
    struct demand *d = XNEW(struct demand);
    pthread_mutex_init(&d->lock, NULL);
    d->began_ms = clock_mono_ms();
    d->gateways = map_new(gateway_free);
    d->leaving = map_new(NULL);
    d->engines = map_new(mem_free);
    return d;
}

void demand_free(struct demand *d)
{
    if (!d)
        return;
    map_free(d->gateways);
    map_free(d->leaving);
    map_free(d->engines);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

static void forget_silent(struct demand *d, uint64_t now_ms)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->gateways, &it))
        if (now_ms - ((struct gateway *)it.value)->seen_ms > DEMAND_SILENT_MS)
            map_del(d->gateways, it.key);
}

void demand_of(struct demand *d, const char *ns, const char *name, struct demand_load *ret)
{
    char key[600];
    uint64_t now_ms = clock_mono_ms();
    double weight = 0, sum = 0;
    snprintf(key, sizeof(key), "%s/%s", ns, name);
    *ret = (struct demand_load){.idle_ms = INT64_MAX};
    pthread_mutex_lock(&d->lock);
    forget_silent(d, now_ms);
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->gateways, &it)) {
        const struct gateway *g = it.value;
        const struct load *l = map_getc(g->loads, key);
        int64_t idle_ms = l ? l->idle_ms : (int64_t)(now_ms - g->first_ms);
        ret->gateways++;
        ret->idle_ms = MIN(ret->idle_ms, idle_ms);
        if (!l)
            continue;
        ret->held += l->held;
        ret->waiting += l->waiting;
        ret->running += l->running;
        ret->waiting_tokens += l->waiting_tokens;
        ret->running_tokens += l->running_tokens;
        double w = l->slot_per_minute ? (double)l->running + 0.1 : 0;
        weight += w;
        sum += w * (double)l->slot_per_minute / 60;
    }
    pthread_mutex_unlock(&d->lock);
    ret->slot_speed = weight > 0 ? sum / weight : 0;
    if (!ret->gateways)
        ret->idle_ms = 0;
}

static struct gateway *gateway_of(struct demand *d, const char *name, uint64_t now_ms)
{
    struct gateway *g = map_getc(d->gateways, name);
    if (g || map_len(d->gateways) >= GATEWAYS_MAX)
        return g;
    g = XNEW(struct gateway);
    g->first_ms = now_ms;
    g->loads = map_new(mem_free);
    g->targets = map_new(mem_free);
    map_set(d->gateways, str_of(name), g);
    return g;
}

static void read_loads(struct gateway *g, const json_t *list, void (*changed)(void *arg, const char *ns, const char *name), void *arg)
{
    struct map *before = g->loads;
    size_t i;
    json_t *e;
    g->loads = map_new(mem_free);
    json_array_foreach (list, i, e) {
        char key[600];
        const char *ns = json_str_or(e, "namespace", ""), *name = json_str_or(e, "name", "");
        struct load *l = XNEW(struct load);
        *l = (struct load){json_int(e, "held", 0), json_int(e, "waiting", 0), json_int(e, "running", 0), json_int(e, "waitingTokens", 0), json_int(e, "runningTokens", 0),
                           json_int(e, "slotTokensPerMinute", 0), json_int(e, "idleMilliseconds", 0)};
        snprintf(key, sizeof(key), "%.253s/%.253s", ns, name);
        const struct load *old = map_getc(before, key);
        bool busy = l->waiting || l->running, was = old && (old->waiting || old->running);
        map_set(g->loads, str_of(key), l);
        if (busy || was)
            changed(arg, ns, name);
    }
    map_free(before);
}

static void read_targets(struct gateway *g, const json_t *list)
{
    size_t i;
    json_t *t;
    map_clear(g->targets);
    json_array_foreach (list, i, t) {
        struct target_said *said = XNEW(struct target_said);
        *said = (struct target_said){json_flag(t, "open", true), json_int(t, "running", 0)};
        map_set(g->targets, str_of(json_str_or(t, "name", "")), said);
    }
}

void demand_engine(struct demand *d, const char *target, const struct demand_engine *found)
{
    bool busy = found->waiting > 0 || found->kv_used >= DEMAND_KV_SCARCE;
    pthread_mutex_lock(&d->lock);
    if (!busy) {
        map_del(d->engines, str_of(target));
    } else if (map_len(d->engines) < ENGINES_MAX || map_getc(d->engines, target)) {
        struct busy_engine *e = XNEW(struct busy_engine);
        *e = (struct busy_engine){*found, clock_mono_ms()};
        map_set(d->engines, str_of(target), e);
    }
    pthread_mutex_unlock(&d->lock);
}

/* Under the lock. */
static json_t *tell_engines(struct demand *d, uint64_t now_ms)
{
    json_t *list = json_array();
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->engines, &it)) {
        const struct busy_engine *e = it.value;
        uint64_t age_ms = now_ms - MIN(e->found_ms, now_ms);
        if (age_ms >= DEMAND_ENGINE_MS)
            map_del(d->engines, it.key);
        else
            json_array_append_new(list, json_pack("{s:o, s:I, s:I, s:I, s:I}", "name", json_stringn(it.key.ptr, it.key.len), "waiting", (json_int_t)MAX(e->is.waiting, (int64_t)0), "running",
                                                  (json_int_t)MAX(e->is.running, (int64_t)0), "kvThousandths", (json_int_t)MAX(e->is.kv_used, (int64_t)0), "ageMilliseconds", (json_int_t)age_ms));
    }
    return list;
}

int demand_report(struct demand *d, const json_t *spec, void (*changed)(void *arg, const char *ns, const char *name), void *arg, json_t **ret_status, struct err *err)
{
    uint64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&d->lock);
    forget_silent(d, now_ms);
    struct gateway *g = gateway_of(d, json_str_or(spec, "gateway", ""), now_ms);
    if (!g) {
        pthread_mutex_unlock(&d->lock);
        return err_set(err, ERR_TOO_MANY, "more than %d gateways report", GATEWAYS_MAX);
    }
    g->seen_ms = now_ms;
    read_loads(g, json_object_get(spec, "endpoints"), changed, arg);
    read_targets(g, json_object_get(spec, "targets"));
    json_t *leaving = json_array();
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->leaving, &it))
        json_array_append_new(leaving, json_stringn(it.key.ptr, it.key.len));
    json_t *engines = tell_engines(d, now_ms);
    pthread_mutex_unlock(&d->lock);
    *ret_status = json_pack("{s:o, s:o}", "leaving", leaving, "engines", engines);
    return 0;
}

bool demand_may_leave(struct demand *d, const char *target, int64_t *ret_running)
{
    uint64_t now_ms = clock_mono_ms();
    *ret_running = 0;
    pthread_mutex_lock(&d->lock);
    forget_silent(d, now_ms);
    if (map_len(d->leaving) < LEAVING_MAX)
        map_set(d->leaving, str_of(target), d);
    bool may = map_len(d->gateways) > 0 || now_ms - d->began_ms > FIRST_MS;
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->gateways, &it)) {
        const struct target_said *said = map_getc(((struct gateway *)it.value)->targets, target);
        may = may && said && !said->open && !said->running;
        *ret_running += said ? said->running : 0;
    }
    pthread_mutex_unlock(&d->lock);
    return may;
}

int64_t demand_running(struct demand *d, const char *target)
{
    int64_t n = 0;
    pthread_mutex_lock(&d->lock);
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(d->gateways, &it)) {
        const struct target_said *said = map_getc(((struct gateway *)it.value)->targets, target);
        n += said ? said->running : 0;
    }
    pthread_mutex_unlock(&d->lock);
    return n;
}

void demand_left(struct demand *d, const char *target)
{
    pthread_mutex_lock(&d->lock);
    map_del(d->leaving, str_of(target));
    map_del(d->engines, str_of(target));
    pthread_mutex_unlock(&d->lock);
}
