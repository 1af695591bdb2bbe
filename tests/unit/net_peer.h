/* For tests of src/net: one loop a test, conditions with a deadline, and a raw peer that speaks bytes.
 *
 * Deadlines follow the real clock, so that a test may stop the clock of base/clock.h.
 */
#ifndef SEKI_TESTS_UNIT_NET_PEER_H
#define SEKI_TESTS_UNIT_NET_PEER_H

#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "net/addr.h"

#define PEER_WAIT_MS 10000
#define PEER_BYTES_MAX ((size_t)64 << 20)

static struct loop *loop;

static inline int peer_loop_setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return loop_new(&loop, &err);
}

static inline int peer_loop_teardown(void **state)
{
    (void)state;
    clock_test_clear();
    loop_free(loop);
    return 0;
}

static inline uint64_t peer_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Runs the loop until cond holds, or fails. */
#define WAIT_UNTIL(cond)                                                                                               \
    do {                                                                                                               \
        uint64_t until_end_ = peer_now_ms() + PEER_WAIT_MS;                                                            \
        while (!(cond)) {                                                                                              \
            if (peer_now_ms() > until_end_)                                                                            \
                fail_msg("still not: %s", #cond);                                                                      \
            loop_run_once(loop, 2);                                                                                    \
        }                                                                                                              \
    } while (0)

/* Whatever is ready now, and what follows from it. For what must NOT happen. */
static inline void settle(void)
{
    for (int i = 0; i < 20; i++)
        loop_run_once(loop, 1);
}

struct peer {
    int fd;
    struct sbuf got; /* since the last peer_forget */
    bool closed, reset;
};

static inline struct peer *peer_of_fd(int fd)
{
    struct peer *p = XNEW(struct peer);
    p->fd = fd;
    sbuf_init(&p->got, PEER_BYTES_MAX);
    return p;
}

static inline struct peer *peer_connect(const struct net_addr *to)
{
    struct err err = ERR_INIT;
    int fd = -1;
    ASSERT_OK(net_connect(to, &fd, &err));
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    assert_int_equal(poll(&writable, 1, PEER_WAIT_MS), 1);
    ASSERT_OK(net_connect_result(fd, &err));
    return peer_of_fd(fd);
}

/* A listening socket of the test's own, for what the client connects to. */
static inline int peer_listen(struct net_addr *ret)
{
    struct err err = ERR_INIT;
    struct net_addr any;
    int fd = -1;
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &any, &err));
    ASSERT_OK(net_listen(&any, false, &fd, ret, &err));
    return fd;
}

static inline bool peer_waits(int listener)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static inline struct peer *peer_accept(int listener)
{
    WAIT_UNTIL(peer_waits(listener));
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return peer_of_fd(fd);
}

static inline void peer_close(struct peer *p)
{
    if (!p)
        return;
    if (p->fd >= 0)
        close(p->fd);
    sbuf_deinit(&p->got);
    mem_free(p);
}

/* Closes with RST. */
static inline void peer_reset(struct peer *p)
{
    setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    peer_close(p);
}

/* Sends all of it, running the loop where the kernel's buffer is full. */
static inline void peer_send(struct peer *p, struct str bytes)
{
    uint64_t end = peer_now_ms() + PEER_WAIT_MS;
    while (bytes.len) {
        ssize_t n = send(p->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return; /* the other side has heard enough */
        if (n > 0)
            bytes = str_skip(bytes, (size_t)n);
        if (peer_now_ms() > end)
            fail_msg("nobody reads what is sent");
        if (bytes.len)
            loop_run_once(loop, 1);
    }
}

static inline void peer_sendc(struct peer *p, const char *text)
{
    peer_send(p, str_of(text));
}

/* Takes what has arrived; always true, so that it can stand in a condition. */
static inline bool peer_pump(struct peer *p)
{
    static char piece[65536];
    while (!p->closed) {
        ssize_t n = recv(p->fd, piece, sizeof(piece), 0);
        if (n > 0) {
            sbuf_add(&p->got, str_n(piece, (size_t)n));
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        p->reset = n < 0;
        p->closed = true;
    }
    return true;
}

static inline bool peer_has(struct peer *p, const char *text)
{
    peer_pump(p);
    return p->got.len && memmem(p->got.ptr, p->got.len, text, strlen(text));
}

static inline size_t peer_count(struct peer *p, const char *text)
{
    size_t n = 0, len = strlen(text);
    const char *at = p->got.ptr, *end = p->got.ptr + p->got.len;
    while (p->got.len && (at = memmem(at, (size_t)(end - at), text, len))) {
        n++;
        at += len;
    }
    return n;
}

static inline bool peer_closed(struct peer *p)
{
    return peer_pump(p) && p->closed;
}

static inline void peer_forget(struct peer *p)
{
    sbuf_reset(&p->got);
}

/* The status of the first answer among the bytes; 0: none. */
static inline int peer_status(const struct peer *p)
{
    int64_t status;
    if (p->got.len < 12 || memcmp(p->got.ptr, "HTTP/1.1 ", 9))
        return 0;
    return str_to_i64(str_n(p->got.ptr + 9, 3), 100, 599, &status) < 0 ? 0 : (int)status;
}

#endif
