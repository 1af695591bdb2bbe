/* In process: calls are posted to the apiserver's loop, and waited for here. A call that timed out leaves its holder to the late answer: both sides hold a reference. */
#include "client/local.h"

#include <pthread.h>

#include "base/mem.h"
#include "base/vec.h"

#define GROUPS_MAX 16
#define STOP_POLL_MS 200
#define EVENTS_MAX 100000 /* that wait for a slow consumer; then the watch is ended */

struct local {
    struct client_local server;
    char *user;
    const char *groups[GROUPS_MAX + 1];
};

/* ---- round trips ---- */

struct trip {
    struct local *local;
    struct local_call call;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    int refs; /* under lock */
    bool done;
    int status;
    json_t *body;
    char *method, *target, *content_type;
};

static void trip_unref(struct trip *t)
{
    pthread_mutex_lock(&t->lock);
    bool last = --t->refs == 0;
    pthread_mutex_unlock(&t->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->done_cond);
    json_decref(t->body);
    json_decref(t->call.body);
    mem_free(t->method);
    mem_free(t->target);
    mem_free(t->content_type);
    mem_free(t);
}

static void on_done(void *arg, int status, json_t *body)
{
    struct trip *t = arg;
    pthread_mutex_lock(&t->lock);
    t->done = true;
    t->status = status;
    t->body = body;
    pthread_cond_signal(&t->done_cond);
    pthread_mutex_unlock(&t->lock);
    trip_unref(t);
}

static void run_call(void *arg)
{
    struct trip *t = arg;
    t->local->server.call(t->local->server.ctx, &t->call);
}

static void deadline_after(uint64_t ms, struct timespec *ret)
{
    clock_gettime(CLOCK_MONOTONIC, ret);
    ret->tv_sec += (time_t)(ms / 1000);
    ret->tv_nsec += (long)(ms % 1000) * 1000000;
    if (ret->tv_nsec >= 1000000000) {
        ret->tv_sec++;
        ret->tv_nsec -= 1000000000;
    }
}

static void cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

/* False: not in time, or stopped. Once it is done nobody else touches it. */
static bool trip_wait(struct trip *t, const struct client_call *k)
{
    struct timespec until, look;
    deadline_after(k->timeout_ms, &until);
    pthread_mutex_lock(&t->lock);
    while (!t->done && !(k->stop && atomic_load(k->stop))) {
        deadline_after(STOP_POLL_MS, &look);
        bool last = !k->stop || look.tv_sec > until.tv_sec || (look.tv_sec == until.tv_sec && look.tv_nsec >= until.tv_nsec);
        if (pthread_cond_timedwait(&t->done_cond, &t->lock, last ? &until : &look) != 0 && last)
            break;
    }
    bool done = t->done;
    pthread_mutex_unlock(&t->lock);
    return done;
}

static int local_roundtrip(void *transport, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    struct local *l = transport;
    struct trip *t = XNEW(struct trip);
    pthread_mutex_init(&t->lock, NULL);
    cond_init(&t->done_cond);
    t->local = l;
    t->refs = 2;
    t->method = xstrdup(k->method);
    t->target = xstrdup(k->path);
    t->content_type = k->content_type ? xstrdup(k->content_type) : NULL;
    /* The caller may go on changing its document after a timeout: the server gets a copy of its own. */
    t->call = (struct local_call){t->method, t->target, t->content_type, k->body ? json_deep_copy(k->body) : NULL, l->user, l->groups, t, on_done};
    loop_post(l->server.loop, run_call, t);
    bool done = trip_wait(t, k);
    if (done)
        *ret = (struct client_answer){.status = t->status, .body = TAKE(t->body)};
    trip_unref(t);
    if (!done && k->stop && atomic_load(k->stop))
        return err_set(err, ERR_CANCELED, "%s %s: canceled", k->method, k->path);
    return done ? 0 : err_set(err, ERR_TIMEOUT, "%s %s: no answer in %llu ms", k->method, k->path, (unsigned long long)k->timeout_ms);
}

/* ---- watches ---- */

struct stream {
    struct local *local;
    struct local_watch_call call;
    char *target;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    VEC(json_t *) events; /* under lock, as all below */
    bool ended, overflow, stopped;
    int status;
    json_t *body;
    void *watch; /* loop's thread only */
};

static void on_event(void *arg, json_t *event)
{
    struct stream *s = arg;
    pthread_mutex_lock(&s->lock);
    if (s->events.len >= EVENTS_MAX)
        s->overflow = true;
    else
        *VEC_PUSH(&s->events) = json_incref(event);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void on_ended(void *arg, int status, json_t *body)
{
    struct stream *s = arg;
    s->watch = NULL;
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    s->status = status;
    s->body = body;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void start_watch(void *arg)
{
    struct stream *s = arg;
    void *watch = s->local->server.watch(s->local->server.ctx, &s->call);
    if (!s->ended)
        s->watch = watch;
}

static void stop_watch(void *arg)
{
    struct stream *s = arg;
    if (s->watch)
        s->local->server.watch_stop(s->local->server.ctx, s->watch);
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void stream_free(struct stream *s)
{
    VEC_FOREACH (&s->events, e)
        json_decref(*e);
    VEC_DEINIT(&s->events);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    json_decref(s->body);
    mem_free(s->target);
    mem_free(s);
}

/* Hands over what has come; false when the consumer has had enough. */
static bool drain(struct stream *s, bool (*on_line)(void *arg, json_t *line), void *arg)
{
    bool more = true;
    while (more && s->events.len) {
        json_t **list = s->events.ptr;
        size_t count = s->events.len;
        s->events.ptr = NULL;
        s->events.len = s->events.cap = 0;
        pthread_mutex_unlock(&s->lock);
        for (size_t i = 0; i < count; i++) {
            more = more && on_line(arg, list[i]);
            json_decref(list[i]);
        }
        mem_free(list);
        pthread_mutex_lock(&s->lock);
    }
    return more;
}

static int local_stream(void *transport, const struct client_call *k, bool (*on_line)(void *arg, json_t *line), void *arg, struct client_answer *ret,
                        struct err *err)
{
    struct local *l = transport;
    struct stream *s = XNEW(struct stream);
    pthread_mutex_init(&s->lock, NULL);
    cond_init(&s->wake);
    s->local = l;
    s->target = xstrdup(k->path);
    s->call = (struct local_watch_call){s->target, l->user, l->groups, s, on_event, on_ended};
    loop_post(l->server.loop, start_watch, s);
    pthread_mutex_lock(&s->lock);
    bool more = true;
    while (more && !s->ended && !s->overflow && !atomic_load(k->stop)) {
        struct timespec until;
        deadline_after(STOP_POLL_MS, &until);
        if (!s->events.len)
            pthread_cond_timedwait(&s->wake, &s->lock, &until);
        more = drain(s, on_line, arg);
    }
    if (more && !s->overflow)
        drain(s, on_line, arg);
    *ret = (struct client_answer){.status = s->ended ? s->status : 200, .body = TAKE(s->body)};
    bool overflow = s->overflow;
    pthread_mutex_unlock(&s->lock);
    /* The server's side must have let go before the holder is freed; its loop outlives all clients. */
    loop_post(l->server.loop, stop_watch, s);
    pthread_mutex_lock(&s->lock);
    while (!s->stopped)
        pthread_cond_wait(&s->wake, &s->lock);
    pthread_mutex_unlock(&s->lock);
    stream_free(s);
    return overflow ? err_set(err, ERR_GONE, "too many events wait; list again") : 0;
}

static void local_free(void *transport)
{
    struct local *l = transport;
    mem_free(l->user);
    for (size_t i = 0; l->groups[i]; i++)
        mem_free((void *)(uintptr_t)l->groups[i]);
    mem_free(l);
}

struct client *client_local_new(const struct client_local *server, const char *user, const char *const *groups)
{
    static const struct client_transport ops = {"local", local_roundtrip, local_stream, local_free};
    struct local *l = XNEW(struct local);
    l->server = *server;
    l->user = xstrdup(user);
    for (size_t i = 0; groups && groups[i] && i < GROUPS_MAX; i++)
        l->groups[i] = xstrdup(groups[i]);
    return client_new(&ops, l);
}
