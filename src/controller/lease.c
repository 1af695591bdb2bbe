#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "controller/internal.h"
#include "kinds/borrowed.h"

#define DURATION_S 15
#define RENEW_MS 5000u
#define RETRY_MS 1000u

struct lease {
    struct client *client;
    char *identity;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    atomic_bool held;
    uint64_t renewed_ms; /* when we last succeeded */
    char seen_rv[32];    /* another's lease as last seen, and since when */
    uint64_t seen_ms;
};

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
    if (strcmp(rv, l->seen_rv) != 0) {
        snprintf(l->seen_rv, sizeof(l->seen_rv), "%s", rv);
        l->seen_ms = clock_mono_ms();
        return false;
    }
    return clock_mono_ms() - l->seen_ms > (uint64_t)json_int(obj, "spec.leaseDurationSeconds", DURATION_S) * 1000;
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

static void round_of(struct lease *l)
{
    struct err err = ERR_INIT;
    bool was = atomic_load(&l->held);
    int rc = try_once(l, false, &err);
    uint64_t now = clock_mono_ms();
    if (rc == 0)
        l->renewed_ms = now;
    bool held = rc == 0 || (was && rc != ERR_BUSY && now - l->renewed_ms < DURATION_S * 1000u * 2 / 3);
    if (held != was)
        log_info(held ? "lease taken: controllers work" : "lease lost: controllers pause", KV("identity", l->identity), KV("reason", rc < 0 ? err.msg : ""));
    atomic_store(&l->held, held);
}

static void *run(void *arg)
{
    struct lease *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        pthread_mutex_unlock(&l->lock);
        round_of(l);
        uint64_t until = clock_mono_ms() + (atomic_load(&l->held) ? RENEW_MS : RETRY_MS);
        struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&l->lock);
        while (!l->stop && pthread_cond_timedwait(&l->wake, &l->lock, &t) == 0)
            ;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

struct lease *lease_start(struct client *c, const char *identity, struct err *err)
{
    struct lease *l = XNEW(struct lease);
    pthread_condattr_t attr;
    *l = (struct lease){.client = c, .identity = xstrdup(identity)};
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    int eno = pthread_create(&l->thread, NULL, run, l);
    if (!eno)
        return l;
    err_sys(err, eno, "cannot start a thread");
    mem_free(l->identity);
    mem_free(l);
    return NULL;
}

bool lease_held(struct lease *l)
{
    return atomic_load(&l->held);
}

void lease_stop(struct lease *l)
{
    struct err err = ERR_INIT;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    if (atomic_load(&l->held) && try_once(l, true, &err) < 0)
        log_debug("lease not given back", KVE(&err));
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    mem_free(l->identity);
    mem_free(l);
}
