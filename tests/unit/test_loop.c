#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "loop/loop_internal.h"
#include "loop/thread.h"

#define WAIT_MS 10000

static struct loop *loop;

static int setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return loop_new(&loop, &err);
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    clock_test_clear();
    return 0;
}

/* Runs the loop until *flag, or fails. */
static void run_until(const int *flag, int at_least)
{
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (*flag < at_least) {
        if (clock_mono_ms() > end)
            fail_msg("nothing happened in %d ms", WAIT_MS);
        loop_run_once(loop, 100);
    }
}

static int fired[64], fired_count;

static void on_timer(struct timer *t)
{
    assert_false(timer_armed(t));
    fired[fired_count++] = *(int *)t->arg;
}

static void timers_in_order(void **state)
{
    (void)state;
    static const uint64_t delays[] = {50, 10, 30, 10, 0, 20, 40, 10};
    static int ids[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct timer t[ARRAY_LEN(delays)];
    clock_test_set(1000, 1000);
    fired_count = 0;
    for (size_t i = 0; i < ARRAY_LEN(delays); i++) {
        timer_init(&t[i], loop, on_timer, &ids[i]);
        timer_start(&t[i], delays[i]);
    }
    timer_stop(&t[2]);
    timer_start(&t[5], 45); /* later now */
    loop_run_once(loop, 0);
    assert_int_equal(fired_count, 1);
    clock_test_advance(10);
    loop_run_once(loop, 0);
    assert_int_equal(fired_count, 4);
    clock_test_advance(100);
    loop_run_once(loop, 0);
    static const int want[] = {4, 1, 3, 7, 6, 5, 0};
    assert_int_equal(fired_count, ARRAY_LEN(want));
    assert_memory_equal(fired, want, sizeof(want));
    assert_int_equal(loop_now_ms(loop), 1110);
}

static void on_again(struct timer *t)
{
    ++*(int *)t->arg;
    timer_start(t, 0);
}

static void timer_that_restarts_lets_others_run(void **state)
{
    (void)state;
    int again = 0;
    static int id = 1;
    struct timer a, b;
    clock_test_set(1000, 1000);
    timer_init(&a, loop, on_again, &again);
    timer_init(&b, loop, on_timer, &id);
    fired_count = 0;
    timer_start(&a, 0);
    timer_start(&b, 0);
    for (int i = 0; i < 3; i++)
        loop_run_once(loop, 0);
    assert_int_equal(fired_count, 1);
    assert_in_range(again, 2, 10);
    timer_stop(&a);
}

static void on_stop_other(struct timer *t)
{
    timer_stop(t->arg);
}

static void timer_stopped_by_another(void **state)
{
    (void)state;
    static int id = 1;
    struct timer a, b;
    clock_test_set(1000, 1000);
    timer_init(&a, loop, on_stop_other, &b);
    timer_init(&b, loop, on_timer, &id);
    timer_start(&a, 5);
    timer_start(&b, 5);
    fired_count = 0;
    clock_test_advance(5);
    loop_run_once(loop, 0);
    loop_run_once(loop, 0);
    assert_int_equal(fired_count, 0);
}

static void many_timers(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    struct timer *t = xcalloc(COUNT, sizeof(*t));
    int again = 0;
    clock_test_set(1000, 1000);
    for (int i = 0; i < COUNT; i++) {
        timer_init(&t[i], loop, on_again, &again);
        timer_start(&t[i], (uint64_t)(i * 7919 % 1000) + 1);
    }
    for (int i = 0; i < COUNT; i += 2)
        timer_stop(&t[i]);
    uint64_t last = 0;
    int left = 0;
    for (int i = 0; i < COUNT; i++)
        left += timer_armed(&t[i]);
    assert_int_equal(left, COUNT / 2);
    for (int i = 1; i < COUNT; i += 2) {
        last = MAX(last, t[i].due_ms);
        timer_stop(&t[i]);
    }
    assert_true(last <= 2000);
    clock_test_advance(5000);
    loop_run_once(loop, 0);
    assert_int_equal(again, 0);
    mem_free(t);
}

static void on_stop_loop(struct timer *t)
{
    loop_stop(t->loop);
}

static void timer_in_real_time(void **state)
{
    (void)state;
    struct timer t;
    uint64_t before = clock_mono_ms();
    timer_init(&t, loop, on_stop_loop, NULL);
    timer_start(&t, 30);
    loop_run(loop);
    assert_in_range(clock_mono_ms() - before, 30, WAIT_MS);
    loop_stop(loop); /* before the run: it ends at once */
    loop_run(loop);
}

#define POSTERS 4
#define POSTS 5000

static int posted_count, posted_last[POSTERS];

static void on_post(void *arg)
{
    int *value = arg;
    int poster = *value / POSTS, number = *value % POSTS;
    assert_true(loop_is_own_thread(loop));
    assert_int_equal(number, posted_last[poster]);
    posted_last[poster]++;
    posted_count++;
    mem_free(value);
}

static void *post_many(void *arg)
{
    int poster = *(int *)arg;
    for (int i = 0; i < POSTS; i++) {
        int *value = XNEW(int);
        *value = poster * POSTS + i;
        loop_post(loop, on_post, value);
    }
    return NULL;
}

static void posts_from_threads(void **state)
{
    (void)state;
    pthread_t threads[POSTERS];
    static int ids[POSTERS] = {0, 1, 2, 3};
    posted_count = 0;
    for (int i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &ids[i]), 0);
    run_until(&posted_count, POSTERS * POSTS);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
}

struct peer {
    struct fd_watch *watch, *other;
    int fd;
    int calls;
    int events;
};

static void on_events(void *arg, int events)
{
    struct peer *p = arg;
    p->calls++;
    p->events |= events;
}

static void on_events_free_both(void *arg, int events)
{
    struct peer *p = arg;
    on_events(arg, events);
    fd_watch_free(p->watch);
    fd_watch_free(p->other);
    p->watch = p->other = NULL;
}

static void descriptor_readiness(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct peer p = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ASSERT_OK(fd_watch_new(loop, fds[0], on_events, &p, &p.watch, &err));
    loop_run_once(loop, 0);
    assert_int_equal(p.calls, 0);
    fd_watch_set(p.watch, FD_READ | FD_WRITE);
    run_until(&p.calls, 1);
    assert_int_equal(p.events, FD_WRITE);
    fd_watch_set(p.watch, FD_READ);
    assert_int_equal(write(fds[1], "x", 1), 1);
    p.calls = p.events = 0;
    run_until(&p.calls, 1);
    assert_int_equal(p.events, FD_READ);
    fd_watch_set(p.watch, 0);
    p.calls = 0;
    loop_run_once(loop, 0);
    assert_int_equal(p.calls, 0);
    /* The end of the peer shows as readable. */
    char c;
    assert_int_equal(read(fds[0], &c, 1), 1);
    close(fds[1]);
    fd_watch_set(p.watch, FD_READ);
    run_until(&p.calls, 1);
    assert_int_equal(read(fds[0], &c, 1), 0);
    fd_watch_free(p.watch);
    close(fds[0]);
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ASSERT_ERR(fd_watch_new(loop, file, on_events, &p, &p.watch, &err),
               ERR_FORBIDDEN); /* epoll's EPERM */
    close(file);
}

static void error_on_descriptor_is_told(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct peer p = {0};
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(fds[1], "0123456789abcdef", 16) > 0) {
    }
    ASSERT_OK(fd_watch_new(loop, fds[1], on_events, &p, &p.watch, &err));
    fd_watch_set(p.watch, FD_WRITE);
    loop_run_once(loop, 0);
    assert_int_equal(p.calls, 0);
    close(fds[0]);
    run_until(&p.calls, 1);
    run_until(&p.calls, 3);                      /* and again, as long as it is waited for */
    assert_int_equal(write(fds[1], "x", 1), -1); /* SIGPIPE is ignored */
    fd_watch_free(p.watch);
    close(fds[1]);
}

/* Both are ready in one iteration; whichever comes first frees both. */
static void free_inside_callback(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    for (int round = 0; round < 50; round++) {
        struct peer p = {0};
        int a[2], b[2];
        assert_int_equal(pipe2(a, O_CLOEXEC), 0);
        assert_int_equal(pipe2(b, O_CLOEXEC), 0);
        ASSERT_OK(fd_watch_new(loop, a[0], on_events_free_both, &p, &p.watch, &err));
        ASSERT_OK(fd_watch_new(loop, b[0], on_events_free_both, &p, &p.other, &err));
        fd_watch_set(p.watch, FD_READ);
        fd_watch_set(p.other, FD_READ);
        assert_int_equal(write(a[1], "x", 1), 1);
        assert_int_equal(write(b[1], "x", 1), 1);
        run_until(&p.calls, 1);
        loop_run_once(loop, 0);
        assert_int_equal(p.calls, 1);
        for (int i = 0; i < 2; i++) {
            close(a[i]);
            close(b[i]);
        }
    }
}

struct turns {
    struct peer peers[4];
    int ends, ends_then[4]; /* when each was called */
    int called;
    bool hurry;
};

static void on_turn_end(void *arg)
{
    ((struct turns *)arg)->ends++;
}

static struct turns turns;

static void on_events_in_turn(void *arg, int events UNUSED)
{
    struct peer *p = arg;
    turns.ends_then[turns.called++] = turns.ends;
    fd_watch_set(p->watch, 0);
    if (turns.hurry)
        loop_end_turn(loop);
}

/* Once for all that are ready, before the wait; or after each that asks for it. */
static void the_end_of_a_turn(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int fds[4][2];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pipe2(fds[i], O_CLOEXEC), 0);
    for (int hurry = 0; hurry < 2; hurry++) {
        turns = (struct turns){.hurry = hurry};
        for (size_t i = 0; i < 4; i++) {
            struct peer *p = &turns.peers[i];
            ASSERT_OK(fd_watch_new(loop, fds[i][0], on_events_in_turn, p, &p->watch, &err));
            fd_watch_set(p->watch, FD_READ);
            assert_int_equal(write(fds[i][1], "x", 1), 1);
        }
        loop_at_turn_end(loop, on_turn_end, &turns);
        run_until(&turns.called, 4);
        int before = turns.ends;
        for (int i = 0; i < 4; i++)
            assert_int_equal(turns.ends_then[i] - turns.ends_then[0], hurry ? i : 0);
        loop_run_once(loop, 0);
        assert_int_equal(turns.ends, before + 1);
        loop_at_turn_end(loop, NULL, NULL);
        loop_run_once(loop, 0);
        assert_int_equal(turns.ends, before + 1);
        for (size_t i = 0; i < 4; i++)
            fd_watch_free(turns.peers[i].watch);
    }
    for (size_t i = 0; i < 4; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

struct job {
    int worked, done;
};

static void do_work(void *arg)
{
    assert_false(loop_is_own_thread(loop));
    ((struct job *)arg)->worked = 1;
}

static void work_done(void *arg)
{
    struct job *job = arg;
    assert_true(loop_is_own_thread(loop));
    assert_int_equal(job->worked, 1);
    job->done = 1;
}

static void work_on_the_pool(void **state)
{
    (void)state;
    struct job jobs[20] = {0};
    for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
        loop_work(loop, do_work, work_done, &jobs[i]);
    for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
        run_until(&jobs[i].done, 1);
}

static void on_signal(void *arg, int signo)
{
    *(int *)arg = signo;
}

static void signals(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int got = 0;
    ASSERT_OK(loop_signal(loop, SIGUSR1, on_signal, &got, &err));
    ASSERT_ERR(loop_signal(loop, SIGKILL, on_signal, &got, &err), ERR_IO);
    kill(getpid(), SIGUSR1);
    run_until(&got, SIGUSR1);
}

struct remote {
    int inits, deinits, posts;
    int fail;
};

static int remote_init(struct loop *l, void *arg, struct err *err)
{
    struct remote *r = arg;
    r->inits++;
    if (!loop_is_own_thread(l))
        return ERR_INTERNAL;
    return r->fail ? err_set(err, ERR_BUSY, "no") : 0;
}

static void remote_deinit(struct loop *l, void *arg)
{
    (void)l;
    ((struct remote *)arg)->deinits++;
}

static void remote_post(void *arg)
{
    ((struct remote *)arg)->posts++;
}

static void loop_threads(void **state)
{
    (void)state;
    static const struct loop_thread_ops ops = {remote_init, remote_deinit};
    struct err err = ERR_INIT;
    struct remote r = {0};
    struct loop_thread *t = NULL;
    for (int i = 0; i < 20; i++) {
        ASSERT_OK(loop_thread_start("gateway-with-a-long-name", &ops, &r, &t, &err));
        assert_false(loop_is_own_thread(loop_thread_loop(t)));
        loop_post(loop_thread_loop(t), remote_post, &r);
        loop_thread_stop(t);
    }
    assert_int_equal(r.inits, 20);
    assert_int_equal(r.deinits, 20);
    assert_int_equal(r.posts, 20); /* what came before the stop was run */
    r.fail = 1;
    ASSERT_ERR(loop_thread_start("x", &ops, &r, &t, &err), ERR_BUSY);
    assert_string_equal(err.msg, "no");
    assert_int_equal(r.deinits, 20);
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* What a busy machine does between the start of the limit and the wait: time passes, and libuv runs the limit before it waits. */
static void late(struct timer *t UNUSED)
{
    uint64_t end = clock_mono_ms() + 5;
    while (clock_mono_ms() < end)
        ;
    uv_update_time(&loop->uv);
}

static void a_limit_that_is_over_before_the_wait(void **state)
{
    (void)state;
    struct timer t;
    timer_init(&t, loop, late, NULL);
    timer_start(&t, 0);
    alarm(10); /* without an end the wait is for ever */
    loop_run_once(loop, 1);
    loop_run_once(loop, 1);
    alarm(0);
    assert_false(timer_armed(&t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(timers_in_order),
        LOOP_TEST(a_limit_that_is_over_before_the_wait),
        LOOP_TEST(timer_that_restarts_lets_others_run),
        LOOP_TEST(timer_stopped_by_another),
        LOOP_TEST(many_timers),
        LOOP_TEST(timer_in_real_time),
        LOOP_TEST(posts_from_threads),
        LOOP_TEST(descriptor_readiness),
        LOOP_TEST(error_on_descriptor_is_told),
        LOOP_TEST(free_inside_callback),
        LOOP_TEST(the_end_of_a_turn),
        LOOP_TEST(work_on_the_pool),
        LOOP_TEST(signals),
        LOOP_TEST(loop_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
