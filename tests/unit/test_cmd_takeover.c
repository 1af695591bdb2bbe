/* What a new gateway makes of an old one that ends, or is busy, while it is asked for its sockets. */
#include "unit.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/takeover.h"
#include "net/addr.h"

struct old {
    char *dir, *path;
    int listener;
};

static int setup(void **state)
{
    struct old *o = XNEW(struct old);
    char dir[] = "/tmp/seki-takeover-XXXXXX";
    struct net_addr a;
    assert_non_null(mkdtemp(dir));
    o->dir = xstrdup(dir);
    o->path = xasprintf("%s/socket", dir);
    CLEANUP(mem_freep) char *text = xasprintf("unix:%s", o->path);
    assert_int_equal(net_addr_parse(str_of(text), &a, NULL), 0);
    assert_int_equal(net_listen(&a, false, &o->listener, NULL, NULL), 0);
    *state = o;
    return 0;
}

static int teardown(void **state)
{
    struct old *o = *state;
    file_closep(&o->listener);
    unlink(o->path);
    rmdir(o->dir);
    mem_free(o->path);
    mem_free(o->dir);
    mem_free(o);
    return 0;
}

static int accept_one(struct old *o)
{
    int fd;
    while ((fd = accept4(o->listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        usleep(1000); /* the listener does not block */
    return fd;
}

/* Killed between the connection and its answer. */
static void *end_when_asked(void *arg)
{
    struct old *o = arg;
    int fd = accept_one(o);
    file_closep(&o->listener);
    close(fd);
    return NULL;
}

static void ended_while_asked(void **state)
{
    struct old *o = *state;
    struct takeover t = {.conn = -1};
    struct err err = ERR_INIT;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, end_when_asked, o), 0);
    assert_int_equal(takeover_ask(o->path, &t, &err), ERR_NOT_FOUND);
    assert_int_equal(t.conn, -1);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* Another takes over from it just now: it hangs up on who asks meanwhile, and is gone then. */
static void *hang_up_then_end(void *arg)
{
    struct old *o = arg;
    for (int i = 0; i < 3; i++)
        close(accept_one(o));
    file_closep(&o->listener);
    return NULL;
}

static void asked_again(void **state)
{
    struct old *o = *state;
    struct takeover t = {.conn = -1};
    struct err err = ERR_INIT;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, hang_up_then_end, o), 0);
    assert_int_equal(takeover_ask(o->path, &t, &err), ERR_NOT_FOUND);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void ended_before_it_was_told(void **state)
{
    (void)state;
    struct takeover t = {.conn = -1};
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    t.conn = pair[0];
    close(pair[1]);
    assert_int_equal(takeover_done(&t, &err), 0);
    close(pair[0]);
}

static void ended_after_it_was_told(void **state)
{
    (void)state;
    struct takeover t = {.conn = -1};
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    t.conn = pair[0];
    assert_int_equal(shutdown(pair[1], SHUT_WR), 0);
    assert_int_equal(takeover_done(&t, &err), 0);
    close(pair[0]);
    close(pair[1]);
}

static void it_says_something_else(void **state)
{
    (void)state;
    struct takeover t = {.conn = -1};
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    t.conn = pair[0];
    assert_int_equal(send(pair[1], "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(takeover_done(&t, &err), ERR_PROTOCOL);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ended_while_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(asked_again, setup, teardown),
        cmocka_unit_test(ended_before_it_was_told),
        cmocka_unit_test(ended_after_it_was_told),
        cmocka_unit_test(it_says_something_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
