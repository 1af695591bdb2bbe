#include "cmd/takeover.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/addr.h"

#define MAGIC 0x31544b53u /* "SKT1" */
#define WAIT_MS 10000
#define AGAIN_MS 20
#define READY 'R'
#define LEFT 'L'

struct hello {
    uint32_t magic, count;
    char writer[TAKEOVER_NAME_MAX];
};

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * TAKEOVER_FDS_MAX)];
};

static int unix_addr(const char *path, struct net_addr *ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = xasprintf("unix:%s", path);
    return net_addr_parse(str_of(text), ret, err);
}

/* ---- the new one ---- */

static int wait_readable(int fd, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n;
    while ((n = poll(&p, 1, WAIT_MS)) < 0 && errno == EINTR)
        ;
    return n > 0 ? 0 : err_set(err, ERR_TIMEOUT, "the running gateway did not answer within %d s", WAIT_MS / 1000);
}

static void take_fds(struct takeover *t, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        t->count = MIN((c->cmsg_len - CMSG_LEN(0)) / sizeof(int), (size_t)TAKEOVER_FDS_MAX);
        memcpy(t->fds, CMSG_DATA(c), t->count * sizeof(int));
    }
}

static int receive(struct takeover *t, struct err *err)
{
    struct hello h;
    union control control;
    struct iovec iov = {&h, sizeof(h)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    int rc = wait_readable(t->conn, err);
    if (rc < 0)
        return rc;
    ssize_t n = recvmsg(t->conn, &m, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return err_set(err, ERR_CLOSED, "the running gateway hung up");
    if (n < 0)
        return err_sys(err, errno, "receiving sockets");
    take_fds(t, &m);
    if (n != (ssize_t)sizeof(h) || h.magic != MAGIC || h.count != t->count || !t->count || (m.msg_flags & MSG_CTRUNC) || !memchr(h.writer, 0, sizeof(h.writer)))
        return err_set(err, ERR_PROTOCOL, "the running gateway does not hand its sockets over as this one expects");
    memcpy(t->writer, h.writer, sizeof(h.writer));
    return 0;
}

static int ask(const char *path, const struct net_addr *a, struct takeover *ret, struct err *err)
{
    struct takeover t = {.conn = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (t.conn < 0)
        return err_sys(err, errno, "making a socket");
    int rc = 0;
    if (connect(t.conn, &a->sa, a->len) < 0)
        rc = err_set(err, errno == ENOENT || errno == ECONNREFUSED ? ERR_NOT_FOUND : ERR_IO, "nobody listens at %s", path);
    if (rc == 0)
        rc = receive(&t, err);
    if (rc < 0) {
        takeover_close(&t, 0);
        return rc;
    }
    *ret = t;
    return 0;
}

/* One that hangs up is about to end, or another takes over from it right now: who asks again sees which. */
int takeover_ask(const char *path, struct takeover *ret, struct err *err)
{
    struct net_addr a;
    int rc = unix_addr(path, &a, err);
    if (rc < 0)
        return rc;
    uint64_t deadline = clock_mono_ms() + WAIT_MS;
    while ((rc = ask(path, &a, ret, err)) == ERR_CLOSED && clock_mono_ms() < deadline)
        usleep(AGAIN_MS * 1000);
    return rc;
}

int takeover_done(struct takeover *t, struct err *err)
{
    char word = READY;
    if (send(t->conn, &word, 1, MSG_NOSIGNAL) != 1)
        return errno == EPIPE || errno == ECONNRESET ? 0 : err_sys(err, errno, "telling the old gateway to leave");
    int rc = wait_readable(t->conn, err);
    if (rc < 0)
        return rc;
    ssize_t n = recv(t->conn, &word, 1, 0);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) /* it has ended by itself, which is all that is wanted of it */
        return 0;
    return n == 1 && word == LEFT ? 0 : err_set(err, ERR_PROTOCOL, "the old gateway does not say that it leaves");
}

void takeover_close(struct takeover *t, size_t first)
{
    for (size_t i = first; i < t->count; i++)
        close(t->fds[i]);
    t->count = MIN(t->count, first);
    file_closep(&t->conn);
}

/* ---- the old one ---- */

struct takeover_offer {
    struct loop *loop;
    struct net_addr addr;
    int fd, peer; /* peer: who has asked last; -1: nobody */
    struct fd_watch *watch, *peer_watch;
    void (*what)(void *arg, struct takeover *ret);
    void (*on_taken)(void *arg);
    void *arg;
};

static void forget_peer(struct takeover_offer *o)
{
    fd_watch_free(o->peer_watch);
    o->peer_watch = NULL;
    file_closep(&o->peer);
}

static void stop_listening(struct takeover_offer *o)
{
    fd_watch_free(o->watch);
    o->watch = NULL;
    if (o->fd >= 0)
        unlink(o->addr.un.sun_path);
    file_closep(&o->fd);
}

static void on_peer(void *arg, int events UNUSED)
{
    struct takeover_offer *o = arg;
    char word = 0;
    ssize_t n = recv(o->peer, &word, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != 1 || word != READY) { /* it has failed: nothing has changed */
        log_warn("a gateway that was to take over has gone; this one goes on");
        forget_peer(o);
        return;
    }
    stop_listening(o);
    o->on_taken(o->arg);
    word = LEFT;
    (void)!send(o->peer, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    forget_peer(o);
}

static bool is_our_user(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid();
}

static bool hand_out(struct takeover_offer *o, int fd)
{
    struct takeover t = {.conn = -1};
    struct hello h = {.magic = MAGIC};
    union control control = {0};
    o->what(o->arg, &t);
    h.count = (uint32_t)t.count;
    memcpy(h.writer, t.writer, sizeof(h.writer));
    struct iovec iov = {&h, sizeof(h)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(sizeof(int) * t.count)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * t.count);
    memcpy(CMSG_DATA(c), t.fds, sizeof(int) * t.count);
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(h);
}

static void on_ask(void *arg, int events UNUSED)
{
    struct takeover_offer *o = arg;
    int fd = accept4(o->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (o->peer >= 0 || !is_our_user(fd) || !hand_out(o, fd) || fd_watch_new(o->loop, fd, on_peer, o, &o->peer_watch, NULL) < 0) {
        close(fd);
        return;
    }
    o->peer = fd;
    fd_watch_set(o->peer_watch, FD_READ);
    log_info("another gateway is about to take over");
}

int takeover_offer(struct loop *l, const char *path, void (*what)(void *arg, struct takeover *ret), void (*on_taken)(void *arg), void *arg, struct takeover_offer **ret,
                   struct err *err)
{
    struct takeover_offer *o = XNEW(struct takeover_offer);
    *o = (struct takeover_offer){.loop = l, .fd = -1, .peer = -1, .what = what, .on_taken = on_taken, .arg = arg};
    int rc = unix_addr(path, &o->addr, err);
    if (rc == 0)
        rc = net_listen(&o->addr, false, &o->fd, NULL, err);
    if (rc == 0)
        rc = fd_watch_new(l, o->fd, on_ask, o, &o->watch, err);
    if (rc < 0) {
        takeover_offer_free(o);
        return rc;
    }
    fd_watch_set(o->watch, FD_READ);
    *ret = o;
    return 0;
}

void takeover_offer_free(struct takeover_offer *o)
{
    if (!o)
        return;
    stop_listening(o);
    forget_peer(o);
    mem_free(o);
}
