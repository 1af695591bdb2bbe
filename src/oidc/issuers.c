#include "oidc/issuers.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"

#define VERIFIED_MAX 5000    /* tokens whose signature is remembered */
#define RETRY_MIN_MS 1000    /* after a failure; doubles … */
#define RETRY_MAX_MS 60000   /* … to this */
#define CONFIG_ARENA_MAX (8 * 1024 * 1024)

/* What one reading of the file gave; shared by its issuers, on the loop's thread. */
struct reading {
    unsigned refs;
    struct arena *arena;
    struct oidc_config config;
};

struct issuer {
    struct oidc *owner;
    struct reading *reading;
    const struct oidc_issuer *config;
    TAILQ_ENTRY(issuer) link; /* in owner->issuers, or retired */
    TAILQ_HEAD(, oidc_waiter) waiters;
    size_t waiting;
    struct jwk_set *keys; /* NULL: none yet */
    bool pending;         /* a fetch that somebody may wait for is on its way */
    bool failed;          /* the last one did */
    uint64_t asked_ms;    /* when a token last made it fetch; 0: never */

    pthread_t thread;
    bool started;
    atomic_bool stop;
    uint64_t refresh_ms;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    bool asked, ended, has_result;
    struct jwk_set *result; /* NULL: it failed … */
    struct err result_err;  /* … so */
};

/* A token whose signature was good. */
struct verified {
    json_t *claims;
    struct issuer *issuer;
};

TAILQ_HEAD(issuers, issuer);
struct oidc {
    struct loop *loop;
    struct issuers issuers, retired;
    size_t count;
    int64_t skew_ms;
    struct map *verified; /* hash → struct verified */
};

static void drop_verified(void *value)
{
    struct verified *v = value;
    json_decref(v->claims);
    mem_free(v);
}

/* ---- an issuer's thread ---- */

static int fetch_keys(const struct issuer *i, struct jwk_set **ret, struct err *err)
{
    const struct oidc_issuer *c = i->config;
    JSON_AUTO doc = NULL;
    CLEANUP(mem_freep) char *text = NULL;
    int rc = oidc_discover(c->issuer.url, c->issuer.discovery_url, c->issuer.ca_pem, &i->stop, &doc, err);
    if (rc < 0)
        return rc;
    const char *url = json_string_value(json_object_get(doc, "jwks_uri"));
    if (!url)
        return err_set(err, ERR_PROTOCOL, "the discovery document has no jwks_uri");
    if ((rc = oidc_fetch(url, NULL, c->issuer.ca_pem, &i->stop, NULL, NULL, &text, err)) < 0)
        return rc;
    return jwk_set_parse(str_of(text), ret, err);
}

static void on_result(void *arg);
static void on_ended(void *arg);

/* Until then, or until it is asked for or to end; under the lock. */
static void sleep_until(struct issuer *i, uint64_t until_ms)
{
    while (!i->asked && !atomic_load(&i->stop) && clock_mono_ms() < until_ms) {
        struct timespec at;
        uint64_t now_ms = clock_mono_ms(), left_ms = until_ms - MIN(now_ms, until_ms);
        left_ms = MIN(left_ms, (uint64_t)60000);
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_sec += (time_t)(left_ms / 1000);
        at.tv_nsec += (long)(left_ms % 1000) * 1000000 + 1;
        if (at.tv_nsec >= 1000000000) {
            at.tv_sec++;
            at.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&i->wake, &i->lock, &at);
    }
}

static void *issuer_main(void *arg)
{
    struct issuer *i = arg;
    uint64_t retry_ms = RETRY_MIN_MS;
    pthread_mutex_lock(&i->lock);
    while (!atomic_load(&i->stop)) {
        struct err err = ERR_INIT;
        struct jwk_set *keys = NULL;
        i->asked = false;
        pthread_mutex_unlock(&i->lock);
        int rc = fetch_keys(i, &keys, &err);
        pthread_mutex_lock(&i->lock);
        if (atomic_load(&i->stop)) {
            jwk_set_unref(keys);
            break;
        }
        jwk_set_unref(i->result);
        i->result = keys;
        i->result_err = err;
        i->has_result = true;
        loop_post(i->owner->loop, on_result, i);
        uint64_t pause_ms = rc == 0 ? i->refresh_ms : MIN(retry_ms, i->refresh_ms);
        retry_ms = rc == 0 ? RETRY_MIN_MS : MIN(retry_ms * 2, (uint64_t)RETRY_MAX_MS);
        sleep_until(i, clock_mono_ms() + pause_ms);
    }
    i->ended = true;
    loop_post(i->owner->loop, on_ended, i);
    pthread_mutex_unlock(&i->lock);
    return NULL;
}

/* ---- on the loop's thread ---- */

static void reading_unref(struct reading *r)
{
    if (--r->refs > 0)
        return;
    arena_free(r->arena);
    mem_free(r);
}

/* Those who wait now; who begins to wait meanwhile goes on waiting. */
static void wake_waiters(struct issuer *i)
{
    struct oidc_waiter *w;
    for (size_t n = i->waiting; n > 0 && (w = TAILQ_FIRST(&i->waiters)); n--) {
        oidc_wait_cancel(w);
        w->fn(w->arg);
    }
}

static void on_result(void *arg)
{
    struct issuer *i = arg;
    pthread_mutex_lock(&i->lock);
    bool has = i->has_result;
    struct jwk_set *keys = i->result;
    struct err err = i->result_err;
    i->has_result = false;
    i->result = NULL;
    pthread_mutex_unlock(&i->lock);
    if (!has || atomic_load(&i->stop)) {
        jwk_set_unref(keys);
        return;
    }
    if (!keys && !i->failed)
        log_warn("an issuer of tokens cannot be reached; its last keys stay in use", KV("issuer", i->config->issuer.url), KVI("keys", i->keys ? jwk_set_count(i->keys) : 0), KVE(&err));
    if (keys && i->failed)
        log_info("an issuer of tokens can be reached again", KV("issuer", i->config->issuer.url));
    i->failed = !keys;
    if (keys && i->keys && jwk_set_equal(keys, i->keys)) {
        jwk_set_unref(keys);
    } else if (keys) {
        log_info("keys of an issuer of tokens", KV("issuer", i->config->issuer.url), KVI("keys", jwk_set_count(keys)));
        jwk_set_unref(i->keys);
        i->keys = keys;
        map_clear(i->owner->verified); /* what a key that is gone has signed is good no longer */
    }
    i->pending = false;
    wake_waiters(i);
}

static void issuer_free(struct issuer *i)
{
    if (i->started)
        pthread_join(i->thread, NULL);
    jwk_set_unref(i->keys);
    jwk_set_unref(i->result);
    pthread_mutex_destroy(&i->lock);
    pthread_cond_destroy(&i->wake);
    reading_unref(i->reading);
    mem_free(i);
}

/* The last message of a thread: only those that were told to stop send it. */
static void on_ended(void *arg)
{
    struct issuer *i = arg;
    TAILQ_REMOVE(&i->owner->retired, i, link);
    issuer_free(i);
}

static void issuer_stop(struct issuer *i)
{
    atomic_store(&i->stop, true);
    pthread_mutex_lock(&i->lock);
    pthread_cond_broadcast(&i->wake);
    pthread_mutex_unlock(&i->lock);
}

static struct issuer *issuer_new(struct oidc *o, struct reading *r, size_t index, uint64_t refresh_ms)
{
    struct issuer *i = XNEW(struct issuer);
    pthread_condattr_t attr;
    *i = (struct issuer){.owner = o, .reading = r, .config = oidc_config_at(&r->config, index), .refresh_ms = refresh_ms, .pending = true};
    r->refs++;
    TAILQ_INIT(&i->waiters);
    pthread_mutex_init(&i->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&i->wake, &attr);
    pthread_condattr_destroy(&attr);
    return i;
}

/* ---- configuration ---- */

struct oidc *oidc_new(struct loop *l)
{
    struct oidc *o = XNEW(struct oidc);
    o->loop = l;
    o->verified = map_new(drop_verified);
    TAILQ_INIT(&o->issuers);
    TAILQ_INIT(&o->retired);
    return o;
}

static void free_all(struct issuers *list)
{
    struct issuer *i;
    TAILQ_FOREACH (i, list, link)
        issuer_stop(i);
    while ((i = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, i, link);
        issuer_free(i);
    }
}

void oidc_free(struct oidc *o)
{
    if (!o)
        return;
    free_all(&o->issuers);
    free_all(&o->retired);
    map_free(o->verified);
    mem_free(o);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

/* Keys of an issuer that stays are good until new ones come. */
static void inherit(struct issuer *i, const struct issuers *old)
{
    const struct issuer *was;
    TAILQ_FOREACH (was, old, link)
        if (was->keys && same_text(was->config->issuer.url, i->config->issuer.url) && same_text(was->config->issuer.discovery_url, i->config->issuer.discovery_url) &&
            same_text(was->config->issuer.ca_pem, i->config->issuer.ca_pem))
            i->keys = jwk_set_ref(was->keys);
}

static int start_thread(struct issuer *i, struct err *err)
{
    int eno = pthread_create(&i->thread, NULL, issuer_main, i);
    if (eno)
        return err_sys(err, eno, "a thread for an issuer");
    i->started = true;
    return 0;
}

/* Those of before end by themselves; whoever waits for them asks again. */
static void retire(struct oidc *o, struct issuers *old)
{
    struct issuer *i;
    while ((i = TAILQ_FIRST(old))) {
        TAILQ_REMOVE(old, i, link);
        TAILQ_INSERT_TAIL(&o->retired, i, link);
        wake_waiters(i);
        issuer_stop(i);
    }
}

int oidc_configure(struct oidc *o, const struct oidc_options *opt, struct err *err)
{
    struct reading *r = XNEW(struct reading);
    *r = (struct reading){.refs = 1, .arena = arena_new(CONFIG_ARENA_MAX)};
    struct issuers fresh = TAILQ_HEAD_INITIALIZER(fresh), old = TAILQ_HEAD_INITIALIZER(old);
    int rc = opt->file && *opt->file ? oidc_config_load(opt->file, r->arena, &r->config, err) : 0;
    for (size_t n = 0; rc == 0 && n < r->config.issuers.count; n++) {
        struct issuer *i = issuer_new(o, r, n, opt->refresh_ms);
        TAILQ_INSERT_TAIL(&fresh, i, link);
        inherit(i, &o->issuers);
        rc = start_thread(i, err);
    }
    size_t count = r->config.issuers.count;
    reading_unref(r);
    if (rc < 0) {
        retire(o, &fresh); /* the thread that could not be started is none that ends: it goes with the others */
        return rc;
    }
    TAILQ_CONCAT(&old, &o->issuers, link);
    TAILQ_CONCAT(&o->issuers, &fresh, link);
    o->count = count;
    o->skew_ms = opt->skew_ms;
    map_clear(o->verified);
    retire(o, &old);
    return 0;
}

size_t oidc_issuers(const struct oidc *o)
{
    return o->count;
}

size_t oidc_unreachable(const struct oidc *o)
{
    const struct issuer *i;
    size_t n = 0;
    TAILQ_FOREACH (i, &o->issuers, link)
        n += i->failed;
    return n;
}

int oidc_check(void *arg, struct err *err)
{
    const struct oidc *o = arg;
    size_t n = oidc_unreachable(o);
    if (n)
        err_set(err, 0, "%zu of %zu issuers of tokens cannot be reached; keys that are known stay in use", n, o->count);
    return 0;
}

/* ---- tokens ---- */

static struct issuer *find(const struct oidc *o, const char *url)
{
    struct issuer *i;
    TAILQ_FOREACH (i, &o->issuers, link)
        if (url && !strcmp(i->config->issuer.url, url))
            return i;
    return NULL;
}

bool oidc_knows(const struct oidc *o, const char *issuer)
{
    return o && find(o, issuer);
}

/* Has the keys fetched, unless that was lately done for the same reason. */
static bool ask(struct issuer *i)
{
    uint64_t now = clock_mono_ms();
    if (i->asked_ms && now - i->asked_ms < OIDC_ASK_EVERY_MS)
        return false;
    i->asked_ms = MAX(now, (uint64_t)1);
    i->pending = true;
    pthread_mutex_lock(&i->lock);
    i->asked = true;
    pthread_cond_broadcast(&i->wake);
    pthread_mutex_unlock(&i->lock);
    return true;
}

/* Forgets those that have expired; all, when that is not enough. */
static void make_room(struct oidc *o)
{
    struct map_iter it = MAP_ITER_INIT;
    if (map_len(o->verified) < VERIFIED_MAX)
        return;
    while (map_next(o->verified, &it))
        if (json_number_value(json_object_get(((struct verified *)it.value)->claims, "exp")) * 1000 < (double)clock_wall_ms())
            map_del(o->verified, it.key);
    if (map_len(o->verified) >= VERIFIED_MAX)
        map_clear(o->verified);
}

static int verify(struct oidc *o, struct issuer *i, const char *hash, const struct jwt *t, struct err *err)
{
    if (!i->keys || !jwk_set_has(i->keys, t->key_id)) {
        if (i->pending || ask(i))
            return err_set(err, ERR_BUSY, "the issuer's keys are being fetched");
        return err_set(err, ERR_UNAUTHENTICATED, "the token names a key that its issuer does not show");
    }
    int rc = jwk_set_verify(i->keys, t, err);
    if (rc < 0)
        return rc;
    struct verified *v = XNEW(struct verified);
    *v = (struct verified){json_incref(t->claims), i};
    make_room(o);
    map_set(o->verified, str_of(hash), v);
    return 0;
}

int oidc_identify(struct oidc *o, const char *hash, const struct jwt *t, struct arena *a, struct oidc_person *ret, struct err *err)
{
    const struct verified *known = map_getc(o->verified, hash);
    int rc;
    if (!known && !t)
        return err_set(err, ERR_NOT_FOUND, "the token was not seen before");
    struct issuer *i = known ? known->issuer : find(o, json_string_value(json_object_get(t->claims, "iss")));
    const json_t *claims = known ? known->claims : t->claims;
    if (!i)
        return err_set(err, ERR_UNAUTHENTICATED, "the token is of an issuer that is not known here");
    /* What costs little comes first: who cannot say for whom the token is has no signature checked. */
    if ((rc = oidc_claims_check(i->config, claims, clock_wall_ms(), o->skew_ms, err)) < 0 || (!known && (rc = verify(o, i, hash, t, err)) < 0))
        return rc;
    return oidc_claims_person(i->config, claims, a, ret, err);
}

bool oidc_wait(struct oidc *o, const char *issuer, struct oidc_waiter *w, void (*fn)(void *arg), void *arg)
{
    struct issuer *i = find(o, issuer);
    if (!i || !i->pending || i->waiting == OIDC_WAITERS_MAX)
        return false;
    *w = (struct oidc_waiter){.fn = fn, .arg = arg, .issuer = i};
    TAILQ_INSERT_TAIL(&i->waiters, w, link);
    i->waiting++;
    return true;
}

void oidc_wait_cancel(struct oidc_waiter *w)
{
    struct issuer *i = w->issuer;
    if (!i)
        return;
    TAILQ_REMOVE(&i->waiters, w, link);
    i->waiting--;
    w->issuer = NULL;
}
