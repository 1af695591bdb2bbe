#include "loop/loop_internal.h"

#include <signal.h>

#include "base/clock.h"

struct signal_handler {
    struct signal_handler *next;
    uv_signal_t handle;
    void (*fn)(void *arg, int signo);
    void *arg;
};

struct fd_watch {
    uv_poll_t poll;
    struct loop *loop;
    void (*fn)(void *arg, int events);
    void *arg;
    int events;
    bool freed;
};

struct work {
    uv_work_t request;
    struct loop *loop;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static pthread_once_t sigpipe_once = PTHREAD_ONCE_INIT;

/* A peer that went away shows as EPIPE where it is written to, not as the end of the process. */
static void ignore_sigpipe(void)
{
    struct sigaction sa = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &sa, NULL);
}

static void run_turn_end(struct loop *l)
{
    l->turn_over = false;
    if (l->turn_end)
        l->turn_end(l->turn_end_arg);
}

static void on_prepare(uv_prepare_t *handle)
{
    struct loop *l = handle->data;
    run_turn_end(l);
    l->turn++;
    loop_arm_timer(handle->data);
}

static void on_limit(uv_timer_t *handle)
{
    uv_stop(handle->loop); /* ends the wait, also one that has not begun: libuv runs what is due before it waits, and would then wait for ever */
}

static void on_wake(uv_async_t *handle)
{
    struct loop *l = handle->data;
    l->now_ms = clock_mono_ms();
    /* The queue is taken as a whole: what these messages post comes in the next round. */
    pthread_mutex_lock(&l->lock);
    struct message_queue batch = l->posted;
    l->posted = (struct message_queue)VEC_INIT;
    pthread_mutex_unlock(&l->lock);
    VEC_FOREACH (&batch, m)
        m->fn(m->arg);
    VEC_DEINIT(&batch);
    if (__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE))
        uv_stop(&l->uv);
}

static void set_owner(struct loop *l)
{
    __atomic_store_n(&l->owner, pthread_self(), __ATOMIC_RELAXED);
}

static int init_handles(struct loop *l)
{
    int rc = uv_async_init(&l->uv, &l->wake, on_wake);
    if (rc < 0)
        return rc;
    uv_timer_init(&l->uv, &l->heap_timer);
    uv_timer_init(&l->uv, &l->limit);
    uv_prepare_init(&l->uv, &l->prepare);
    uv_prepare_start(&l->prepare, on_prepare);
    l->wake.data = l->heap_timer.data = l->prepare.data = l;
    return 0;
}

int loop_new(struct loop **ret, struct err *err)
{
    pthread_once(&sigpipe_once, ignore_sigpipe);
    struct loop *l = XNEW(struct loop);
    int rc = uv_loop_init(&l->uv);
    if (rc < 0) {
        mem_free(l);
        return err_sys(err, -rc, "event loop");
    }
    rc = init_handles(l);
    if (rc < 0) {
        uv_loop_close(&l->uv);
        mem_free(l);
        return err_sys(err, -rc, "event loop");
    }
    pthread_mutex_init(&l->lock, NULL);
    set_owner(l);
    l->now_ms = clock_mono_ms();
    *ret = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_close((uv_handle_t *)&l->heap_timer, NULL);
    uv_close((uv_handle_t *)&l->limit, NULL);
    uv_close((uv_handle_t *)&l->prepare, NULL);
    for (struct signal_handler *s = l->signals; s; s = s->next)
        uv_close((uv_handle_t *)&s->handle, NULL);
    /* Runs the close callbacks, and waits for the pool's work. A watch that is still open would
     * keep this from ending: that is a bug of its owner, and better seen here than as a use after
     * free. */
    uv_run(&l->uv, UV_RUN_DEFAULT);
    uv_loop_close(&l->uv);
    while (l->signals) {
        struct signal_handler *s = l->signals;
        l->signals = s->next;
        mem_free(s);
    }
    pthread_mutex_destroy(&l->lock);
    VEC_DEINIT(&l->posted);
    VEC_DEINIT(&l->heap);
    mem_free(l);
}

void loop_run(struct loop *l)
{
    set_owner(l);
    /* Once even when it is stopped already: what was posted before the stop runs. */
    do
        uv_run(&l->uv,
               __atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE) ? UV_RUN_NOWAIT : UV_RUN_DEFAULT);
    while (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE));
    __atomic_store_n(&l->stopping, false, __ATOMIC_RELEASE);
}

void loop_run_once(struct loop *l, uint64_t timeout_ms)
{
    set_owner(l);
    l->now_ms = clock_mono_ms();
    loop_arm_timer(l); /* a timer that is due already runs before the wait */
    if (timeout_ms) {
        uv_update_time(&l->uv);
        uv_timer_start(&l->limit, on_limit, timeout_ms, 0);
    }
    uv_run(&l->uv, timeout_ms ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    uv_timer_stop(&l->limit);
}

void loop_stop(struct loop *l)
{
    __atomic_store_n(&l->stopping, true, __ATOMIC_RELEASE);
    uv_async_send(&l->wake);
}

bool loop_is_own_thread(const struct loop *l)
{
    return pthread_equal(__atomic_load_n(&l->owner, __ATOMIC_RELAXED), pthread_self());
}

void loop_at_turn_end(struct loop *l, void (*fn)(void *arg), void *arg)
{
    l->turn_end = fn;
    l->turn_end_arg = arg;
}

void loop_end_turn(struct loop *l)
{
    l->turn_over = true;
}

uint64_t loop_turn(const struct loop *l)
{
    return l->turn;
}

uint64_t loop_now_ms(const struct loop *l)
{
    return l->now_ms;
}

void loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&l->lock);
    *VEC_PUSH(&l->posted) = (struct message){fn, arg};
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->wake);
}

static void on_poll(uv_poll_t *handle, int status, int events);

static void start_poll(struct fd_watch *w)
{
    if (w->events)
        uv_poll_start(&w->poll,
                      ((w->events & FD_READ) ? UV_READABLE : 0) |
                          ((w->events & FD_WRITE) ? UV_WRITABLE : 0),
                      on_poll);
    else
        uv_poll_stop(&w->poll);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct fd_watch *w = CONTAINER_OF(handle, struct fd_watch, poll);
    if (w->freed)
        return;
    w->loop->now_ms = clock_mono_ms();
    /* An error on the descriptor is for its owner to find, by the read or write it waits for. */
    int got = status < 0 ? w->events
                         : ((events & UV_READABLE) ? FD_READ : 0) |
                               ((events & UV_WRITABLE) ? FD_WRITE : 0);
    got &= w->events;
    struct loop *l = w->loop;
    if (got)
        w->fn(w->arg, got);
    /* libuv has stopped watching then; the owner, if it still waits, has not. */
    if (status < 0 && !w->freed && w->events)
        start_poll(w);
    if (l->turn_over)
        run_turn_end(l);
}

int fd_watch_new(struct loop *l, int fd, void (*fn)(void *arg, int events), void *arg,
                 struct fd_watch **ret, struct err *err)
{
    struct fd_watch *w = XNEW(struct fd_watch);
    w->loop = l;
    w->fn = fn;
    w->arg = arg;
    int rc = uv_poll_init(&l->uv, &w->poll, fd);
    if (rc < 0) {
        mem_free(w);
        return err_sys(err, -rc, "watch descriptor %d", fd);
    }
    *ret = w;
    return 0;
}

void fd_watch_set(struct fd_watch *w, int events)
{
    if (w->events == events)
        return;
    w->events = events;
    start_poll(w);
}

static void on_watch_closed(uv_handle_t *handle)
{
    mem_free(CONTAINER_OF(handle, struct fd_watch, poll));
}

void fd_watch_free(struct fd_watch *w)
{
    if (!w || w->freed)
        return;
    /* Closing forgets the events already gathered; the memory goes once libuv has let go of the
     * handle. */
    w->freed = true;
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

static void on_work(uv_work_t *request)
{
    struct work *w = CONTAINER_OF(request, struct work, request);
    w->work(w->arg);
}

static void on_work_done(uv_work_t *request, int status)
{
    (void)status; /* nothing here cancels */
    struct work *w = CONTAINER_OF(request, struct work, request);
    void (*done)(void *arg) = w->done;
    void *arg = w->arg;
    w->loop->now_ms = clock_mono_ms();
    mem_free(w);
    done(arg);
}

void loop_work(struct loop *l, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct work *w = XNEW(struct work);
    w->loop = l;
    w->work = work;
    w->done = done;
    w->arg = arg;
    uv_queue_work(&l->uv, &w->request, on_work, on_work_done);
}

static void on_signal(uv_signal_t *handle, int signo)
{
    struct signal_handler *s = CONTAINER_OF(handle, struct signal_handler, handle);
    s->fn(s->arg, signo);
}

int loop_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg,
                struct err *err)
{
    struct signal_handler *s = XNEW(struct signal_handler);
    s->fn = fn;
    s->arg = arg;
    uv_signal_init(&l->uv, &s->handle);
    /* In the list even when it fails: the handle must be closed before its memory goes. */
    s->next = l->signals;
    l->signals = s;
    int rc = uv_signal_start(&s->handle, on_signal, signo);
    return rc < 0 ? err_sys(err, -rc, "handler for signal %d", signo) : 0;
}
