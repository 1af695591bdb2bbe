/* The relay before several API servers, as a whole: that it ends when it is told to. ThreadSanitizer looks at its threads here. */
#include "unit.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/api_relay.h"

#define WAIT_TURNS 1000 /* of 10 ms */

/* A port where nobody listens. */
static uint16_t free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    CLEANUP(file_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    return ntohs(at.sin_port);
}

static bool listens(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CLEANUP(file_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
}

struct running {
    char own[24], member[24];
    int status;
};

static void *run_relay(void *arg)
{
    struct running *r = arg;
    char *argv[] = {(char[]){"/nonexistent/ca.crt"}, r->own, r->member, r->member, r->member, NULL};
    r->status = api_relay_main(argv);
    return NULL;
}

static void test_a_signal_ends_all_of_its_threads(void **state UNUSED)
{
    struct running r = {.status = -1};
    uint16_t own = free_port();
    pthread_t thread;
    snprintf(r.own, sizeof(r.own), "127.0.0.1:%d", own);
    snprintf(r.member, sizeof(r.member), "127.0.0.1:%d", free_port());
    assert_int_equal(pthread_create(&thread, NULL, run_relay, &r), 0);
    int turns = 0;
    while (!listens(own) && ++turns < WAIT_TURNS)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(turns < WAIT_TURNS);
    raise(SIGTERM); /* handled here, read by the others */
    pthread_join(thread, NULL);
    assert_int_equal(r.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_signal_ends_all_of_its_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
