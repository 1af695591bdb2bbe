/* A lease that is safe whatever the network does: the holder counts from before it asked to renew, and stops early; others count from when they have seen the renewal, and wait
 * long. What lies between (10 s and 15 s) is room for clocks that run at different rates. */
#include "controller/lease.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/borrowed.h"

#define DURATION_S 15
#define DURATION_MAX_S 150 /* of another's lease: nobody is locked out for a day by a typing error */
#define HOLD_MS 10000u
#define RENEW_MS 4000u
#define RETRY_MS 1000u
#define CALL_MS 3000u /* a slow call must not eat the time in which another would renew */

struct lease {
    struct client *client; /* fenced: CALL_MS */
    char *identity;
    uint64_t (*now_ms)(void *arg);
    void *now_arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool started, stop;            /* stop: under lock */
    _Atomic uint64_t valid_until_ms; /* 0: not held */
    bool held;                     /* as the last round saw it, for the log */
    char seen_rv[32];              /* another's lease as last seen, and since when */
    uint64_t seen_ms;
};

static uint64_t real_now(void *arg UNUSED)
{
    return clock_mono_ms();
}

static int allow(void *arg UNUSED, uint64_t *timeout_ms, struct err *err UNUSED)
{
    *timeout_ms = MIN(*timeout_ms, CALL_MS);
    return 0;
}

static uint64_t now_ms(struct lease *l)
{
    return l->now_ms(l->now_arg);
}

static void stamp(json_t *obj, const char *path)
{
    char now[CLOCK_TEXT_MAX];
    clock_format_micro(clock_wall_ms() * 1000, now);
    json_put_str(obj, path, now);
}

static int create(struct lease *l, struct client_resource *r, struct err *err)
{
    JSON_AUTO obj = obj_new(&kind_lease, LEASE_NAMESPACE, LEASE_NAME);
    json_put_str(obj, "spec.holderIdentity", l->identity);
    json_put_int(obj, "spec.leaseDurationSeconds", DURATION_S);
    json_put_int(obj, "spec.leaseTransitions", 0);
    stamp(obj, "spec.acquireTime");
    stamp(obj, "spec.renewTime");
    return client_create(l->client, r, LEASE_NAMESPACE, obj, NULL, err);
}

/* Whether another's lease has run out: unchanged for its duration, by our clock. */
static bool expired(struct lease *l, const json_t *obj)
{
    const char *rv = json_str_or(obj, "metadata.resourceVersion", "");
    int64_t said_s = json_int(obj, "spec.leaseDurationSeconds", DURATION_S);
    uint64_t duration_s = said_s < DURATION_S ? DURATION_S : (uint64_t)MIN(said_s, DURATION_MAX_S);
    if (strcmp(rv, l->seen_rv) != 0) {
        snprintf(l->seen_rv, sizeof(l->seen_rv), "%s", rv);
        l->seen_ms = now_ms(l);
        return false;
    }
    return now_ms(l) - l->seen_ms > duration_s * 1000;
}

static int try_once(struct lease *l, bool give_back, struct err *err)
{
    struct client_resource r = kind_resource(&kind_lease);
    JSON_AUTO old = NULL;
    int rc = client_get(l->client, &r, LEASE_NAMESPACE, LEASE_NAME, &old, err);
    if (rc == ERR_NOT_FOUND && !give_back)
        return create(l, &r, err);
    if (rc < 0)
        return rc;
    const char *holder = json_str_or(old, "spec.holderIdentity", "");
    bool ours = !strcmp(holder, l->identity);
    if (!ours && *holder && !expired(l, old))
        return err_set(err, ERR_BUSY, "held by %s", holder);
    if (give_back && !ours)
        return 0;
    JSON_AUTO obj = json_deep_copy(old);
    json_put_str(obj, "spec.holderIdentity", give_back ? "" : l->identity);
    json_put_int(obj, "spec.leaseDurationSeconds", DURATION_S);
    if (!ours) {
        json_put_int(obj, "spec.leaseTransitions", json_int(old, "spec.leaseTransitions", 0) + 1);
        stamp(obj, "spec.acquireTime");
    }
    stamp(obj, "spec.renewTime");
    return client_update(l->client, &r, obj, NULL, err);
}

uint64_t lease_round(struct lease *l)
{
    struct err err = ERR_INIT;
    /* Others may see the renewal from this instant on, however late we hear of it. */
    uint64_t began = now_ms(l);
    int rc = try_once(l, false, &err);
    if (rc == 0)
        atomic_store(&l->valid_until_ms, began + HOLD_MS);
    else if (rc == ERR_BUSY)
        atomic_store(&l->valid_until_ms, 0);
    bool held = lease_held(l);
    if (held != l->held)
        log_info(held ? "lease taken: controllers work" : "lease lost: controllers pause", KV("identity", l->identity), KV("reason", rc < 0 ? err.msg : ""));
    l->held = held;
    return rc == 0 ? RENEW_MS : RETRY_MS;
}

static void *run(void *arg)
{
    struct lease *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        pthread_mutex_unlock(&l->lock);
        uint64_t until = clock_mono_ms() + lease_round(l);
        struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&l->lock);
        while (!l->stop && pthread_cond_timedwait(&l->wake, &l->lock, &t) == 0)
            ;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

struct lease *lease_new(const struct lease_options *o)
{
    struct lease *l = XNEW(struct lease);
    pthread_condattr_t attr;
    *l = (struct lease){.identity = xstrdup(o->identity), .now_ms = o->now_ms ? o->now_ms : real_now, .now_arg = o->now_arg};
    l->client = client_fenced(o->client, allow, NULL);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    return l;
}

int lease_start(struct lease *l, struct err *err)
{
    int eno = pthread_create(&l->thread, NULL, run, l);
    l->started = !eno;
    return eno ? err_sys(err, eno, "cannot start a thread") : 0;
}

bool lease_held(struct lease *l)
{
    return now_ms(l) < atomic_load(&l->valid_until_ms);
}

void lease_free(struct lease *l)
{
    struct err err = ERR_INIT;
    if (!l)
        return;
    if (l->started) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->wake);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    bool held = lease_held(l);
    atomic_store(&l->valid_until_ms, 0);
    if (held && try_once(l, true, &err) < 0)
        log_debug("lease not given back", KVE(&err));
    client_free(l->client);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    mem_free(l->identity);
    mem_free(l);
}
