#include "loop/thread.h"

#include <pthread.h>
#include <signal.h>

#include "base/mem.h"

struct loop_thread {
    pthread_t thread;
    struct loop *loop;
    char name[16]; /* the kernel's limit */
    const struct loop_thread_ops *ops;
    void *arg;

    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool started; /* result and err are set */
    int result;
    struct err err;
};

static void report_started(struct loop_thread *t, int result)
{
    pthread_mutex_lock(&t->lock);
    t->started = true;
    t->result = result;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
}

static void *thread_main(void *arg)
{
    struct loop_thread *t = arg;
    pthread_setname_np(pthread_self(), t->name);
    int rc = loop_new(&t->loop, &t->err);
    if (rc == 0 && t->ops->init)
        rc = t->ops->init(t->loop, t->arg, &t->err);
    report_started(t, rc);
    if (rc == 0) {
        loop_run(t->loop);
        if (t->ops->deinit)
            t->ops->deinit(t->loop, t->arg);
    }
    loop_free(t->loop);
    return NULL;
}

/* Signals are for the main thread; a new thread inherits the mask of its creator. Faults stay the
 * thread's own. */
static int create_without_signals(struct loop_thread *t)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int eno = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return eno;
}

static void thread_free(struct loop_thread *t)
{
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

int loop_thread_start(const char *name, const struct loop_thread_ops *ops, void *arg,
                      struct loop_thread **ret, struct err *err)
{
    struct loop_thread *t = XNEW(struct loop_thread);
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->ops = ops;
    t->arg = arg;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->cond, NULL);
    int eno = create_without_signals(t);
    if (eno) {
        thread_free(t);
        return err_sys(err, eno, "start thread %s", name);
    }
    pthread_mutex_lock(&t->lock);
    while (!t->started)
        pthread_cond_wait(&t->cond, &t->lock);
    int rc = t->result;
    pthread_mutex_unlock(&t->lock);
    if (rc < 0) {
        pthread_join(t->thread, NULL);
        if (err)
            *err = t->err;
        thread_free(t);
        return rc;
    }
    *ret = t;
    return 0;
}

struct loop *loop_thread_loop(struct loop_thread *t)
{
    return t->loop;
}

void loop_thread_stop(struct loop_thread *t)
{
    if (!t)
        return;
    loop_stop(t->loop);
    pthread_join(t->thread, NULL);
    thread_free(t);
}
