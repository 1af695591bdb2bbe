/* The store on its own thread, writers and watchers on others, by messages: run under the thread sanitizer too. */
#include "store_env.h"

#include <pthread.h>

#include "base/clock.h"
#include "loop/thread.h"

static struct store_env env;

static int setup_memory(void **state)
{
    (void)state;
    env_init(&env);
    env.open = store_open_memory;
    env_open(&env);
    return 0;
}

static int setup_sqlite(void **state)
{
    (void)state;
    env_init(&env);
    env.open = store_open_sqlite;
    env_open(&env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_test_clear();
    env_deinit(&env);
    return 0;
}

static int value_of(const struct store_value *v)
{
    int64_t n = 0;
    assert_int_equal(str_to_i64(v->value, 0, INT32_MAX, &n), 0);
    return (int)n;
}

enum { WRITERS = 4, INCREMENTS = 150, CONSUMERS = 3, BUFFER = 32 };

struct hall {
    struct store_env *env;
    struct loop_thread *thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static int hall_init(struct loop *l, void *arg, struct err *err)
{
    struct hall *h = arg;
    return h->env->open(l, &h->env->options, &h->env->store, err);
}
static void hall_deinit(struct loop *l, void *arg)
{
    struct hall *h = arg;
    (void)l;
    store_close(h->env->store);
    h->env->store = NULL;
}

struct writer {
    struct hall *hall;
    pthread_t thread;
    int64_t last_rev;
    bool answered;
    int code;
};

static void writer_done(void *arg, int code, int64_t rev)
{
    struct writer *w = arg;
    pthread_mutex_lock(&w->hall->lock);
    w->answered = true;
    w->code = code;
    if (!code) {
        assert_true(rev > w->last_rev);
        w->last_rev = rev;
    }
    pthread_cond_broadcast(&w->hall->changed);
    pthread_mutex_unlock(&w->hall->lock);
}

/* On the loop: adds one to the counter that all share. */
static void increment(void *arg)
{
    struct writer *w = arg;
    struct store *s = w->hall->env->store;
    struct store_value *v = store_get_pending(s, STR("n/counter"));
    char text[24];
    snprintf(text, sizeof(text), "%d", (v ? value_of(v) : 0) + 1);
    struct store_op op = op_put("n/counter", text, v ? v->rev : 0);
    int rc = store_txn(s, &op, 1, writer_done, w, NULL);
    if (rc < 0)
        writer_done(w, rc, 0);
}

static void wait_changed(struct hall *h)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    if (pthread_cond_timedwait(&h->changed, &h->lock, &until) != 0)
        abort(); /* hangs */
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    for (int i = 0; i < INCREMENTS; i++) {
        w->answered = false;
        loop_post(loop_thread_loop(w->hall->thread), increment, w);
        pthread_mutex_lock(&w->hall->lock);
        while (!w->answered)
            wait_changed(w->hall);
        int code = w->code;
        pthread_mutex_unlock(&w->hall->lock);
        if (code)
            abort();
    }
    return NULL;
}

/* A watcher with a buffer: when it is full the watch is ended, and begun again behind what was taken, by a consumer that has caught
 * up. As the API's watches do it. */
struct consumer {
    struct hall *hall;
    pthread_t thread;
    struct store_watch *watch; /* loop's thread */
    struct store_value *buffer[BUFFER];
    size_t count;    /* under lock, as all below */
    bool ended;
    int64_t taken_rev;
    int taken_value, restarts;
};

static void consumer_event(void *arg, const struct store_event *e)
{
    struct consumer *c = arg;
    pthread_mutex_lock(&c->hall->lock);
    if (c->count == BUFFER) {
        c->ended = true;
        store_watch_stop(c->watch);
        c->watch = NULL;
    } else {
        c->buffer[c->count++] = store_value_ref(e->now);
    }
    pthread_cond_broadcast(&c->hall->changed);
    pthread_mutex_unlock(&c->hall->lock);
}

static void consumer_watch(void *arg)
{
    struct consumer *c = arg;
    pthread_mutex_lock(&c->hall->lock);
    int64_t after = c->taken_rev;
    pthread_mutex_unlock(&c->hall->lock);
    if (store_watch(c->hall->env->store, STR("n/"), after, consumer_event, c, &c->watch, NULL) < 0)
        abort();
}

static void consumer_stop(void *arg)
{
    struct consumer *c = arg;
    if (c->watch)
        store_watch_stop(c->watch);
    pthread_mutex_lock(&c->hall->lock);
    c->ended = true;
    pthread_cond_broadcast(&c->hall->changed);
    pthread_mutex_unlock(&c->hall->lock);
}

static void *consumer_main(void *arg)
{
    struct consumer *c = arg;
    loop_post(loop_thread_loop(c->hall->thread), consumer_watch, c);
    pthread_mutex_lock(&c->hall->lock);
    while (c->taken_value < WRITERS * INCREMENTS) {
        while (!c->count && !c->ended)
            wait_changed(c->hall);
        for (size_t i = 0; i < c->count; i++) {
            if (value_of(c->buffer[i]) != c->taken_value + 1) /* each change once and in order */
                abort();
            c->taken_value++;
            c->taken_rev = c->buffer[i]->rev;
            store_value_unref(c->buffer[i]);
        }
        c->count = 0;
        if (c->ended) {
            c->ended = false;
            c->restarts++;
            loop_post(loop_thread_loop(c->hall->thread), consumer_watch, c);
        }
    }
    c->ended = false;
    loop_post(loop_thread_loop(c->hall->thread), consumer_stop, c);
    while (!c->ended)
        wait_changed(c->hall);
    pthread_mutex_unlock(&c->hall->lock);
    return NULL;
}

static void writers_and_watchers_on_many_threads(void **state)
{
    (void)state;
    static const struct loop_thread_ops ops = {hall_init, hall_deinit};
    static struct writer writers[WRITERS];
    static struct consumer consumers[CONSUMERS];
    struct hall h = {.env = &env};
    struct err err = ERR_INIT;
    env_close(&env);
    pthread_mutex_init(&h.lock, NULL);
    pthread_cond_init(&h.changed, NULL);
    ASSERT_OK(loop_thread_start("store", &ops, &h, &h.thread, &err));
    for (int i = 0; i < CONSUMERS; i++) {
        consumers[i] = (struct consumer){.hall = &h};
        assert_int_equal(pthread_create(&consumers[i].thread, NULL, consumer_main, &consumers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.hall = &h};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    for (int i = 0; i < CONSUMERS; i++) {
        pthread_join(consumers[i].thread, NULL);
        assert_int_equal(consumers[i].taken_value, WRITERS * INCREMENTS);
        assert_int_equal(consumers[i].taken_rev, WRITERS * INCREMENTS);
    }
    loop_thread_stop(h.thread);
    pthread_mutex_destroy(&h.lock);
    pthread_cond_destroy(&h.changed);
}

#define WITH(test, member) {#test " (" #member ")", test, setup_##member, teardown, NULL}
#define ALL(test) WITH(test, memory), WITH(test, sqlite)

int main(void)
{
    const struct CMUnitTest tests[] = {ALL(writers_and_watchers_on_many_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
