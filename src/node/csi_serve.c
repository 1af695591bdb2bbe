/* The sockets of csi.h. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kms/grpc.h"
#include "node/csi.h"

#define OUT_MAX (256 * 1024)
#define SCRATCH 16384
#define LOOK_MS 1000
#define STUCK_MS 30000u
#define LISTENERS 2

struct peer {
    int fd; /* -1: free */
    struct grpc_conn *grpc;
    struct sbuf out;
    uint64_t moved_ms;
};

struct server {
    struct csi_driver *driver;
    int listen[LISTENERS];
    struct peer peers[CSI_CONNS_MAX];
};

static int listen_at(const char *path, int *ret_fd, struct err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    CLEANUP(mem_freep) char *up = xstrdup(path);
    *strrchr(up, '/') = 0;
    if (!str_to_array(str_of(path), un.sun_path, sizeof(un.sun_path)))
        return err_set(err, ERR_INVALID, "%s is too long for a socket", path);
    int rc = file_mkdirs(up, 0750, err);
    if (rc < 0)
        return rc;
    (void)unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    *ret_fd = fd;
    if (fd < 0 || bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || chmod(path, 0600) < 0 || listen(fd, CSI_CONNS_MAX) < 0)
        return err_sys(err, errno, "%s", path);
    return 0;
}

static void peer_close(struct peer *p)
{
    grpc_conn_free(p->grpc);
    close(p->fd);
    sbuf_deinit(&p->out);
    *p = (struct peer){.fd = -1};
}

/* The place that was idle for longest is given to a newcomer when all are taken. */
static struct peer *place_for(struct server *s)
{
    struct peer *oldest = &s->peers[0];
    for (size_t i = 0; i < CSI_CONNS_MAX; i++) {
        if (s->peers[i].fd < 0)
            return &s->peers[i];
        if (s->peers[i].moved_ms < oldest->moved_ms)
            oldest = &s->peers[i];
    }
    peer_close(oldest);
    return oldest;
}

static void accept_one(struct server *s, int listener)
{
    struct ucred who;
    socklen_t len = sizeof(who);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    bool ours = fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.uid == geteuid();
    struct grpc_conn *grpc = ours ? grpc_conn_new(csi_answer, s->driver) : NULL;
    if (!grpc) {
        file_closep(&fd);
        return;
    }
    struct peer *p = place_for(s);
    *p = (struct peer){.fd = fd, .grpc = grpc, .moved_ms = clock_mono_ms()};
    sbuf_init(&p->out, OUT_MAX);
}

static bool peer_write(struct peer *p)
{
    if (!grpc_take(p->grpc, &p->out, OUT_MAX / 2))
        return false;
    if (!p->out.len)
        return !grpc_over(p->grpc);
    ssize_t n = send(p->fd, p->out.ptr, p->out.len, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    p->moved_ms = clock_mono_ms();
    sbuf_consume(&p->out, (size_t)n);
    return true;
}

static bool peer_read(struct peer *p)
{
    char bytes[SCRATCH];
    ssize_t n = recv(p->fd, bytes, sizeof(bytes), 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    p->moved_ms = clock_mono_ms();
    return n > 0 && grpc_feed(p->grpc, str_n(bytes, (size_t)n), NULL) == 0;
}

static void look_at_stuck(struct server *s)
{
    uint64_t now = clock_mono_ms(), before = now > STUCK_MS ? now - STUCK_MS : 0;
    for (size_t i = 0; i < CSI_CONNS_MAX; i++) {
        struct peer *p = &s->peers[i];
        if (p->fd < 0)
            continue;
        (void)grpc_expire(p->grpc, before);
        if ((p->out.len && p->moved_ms < before) || !peer_write(p))
            peer_close(p);
    }
}

static int turn(struct server *s, struct err *err)
{
    struct pollfd fds[LISTENERS + CSI_CONNS_MAX];
    struct peer *which[LISTENERS + CSI_CONNS_MAX];
    nfds_t n = 0;
    for (int i = 0; i < LISTENERS; i++)
        fds[n++] = (struct pollfd){.fd = s->listen[i], .events = POLLIN};
    for (size_t i = 0; i < CSI_CONNS_MAX; i++)
        if (s->peers[i].fd >= 0) {
            which[n] = &s->peers[i];
            fds[n++] = (struct pollfd){.fd = s->peers[i].fd, .events = (short)(POLLIN | (s->peers[i].out.len ? POLLOUT : 0))};
        }
    if (poll(fds, n, LOOK_MS) < 0 && errno != EINTR)
        return err_sys(err, errno, "poll");
    for (nfds_t i = LISTENERS; i < n; i++) {
        bool good = !(fds[i].revents & (POLLIN | POLLHUP | POLLERR)) || peer_read(which[i]);
        if (fds[i].revents && !(good && peer_write(which[i])))
            peer_close(which[i]);
    }
    for (int i = 0; i < LISTENERS; i++)
        if (fds[i].revents & POLLIN)
            accept_one(s, fds[i].fd);
    return 0;
}

int csi_serve(struct csi_driver *d, struct err *err)
{
    struct server *s = XNEW(struct server);
    uint64_t looked = clock_mono_ms();
    *s = (struct server){.driver = d, .listen = {-1, -1}};
    for (size_t i = 0; i < CSI_CONNS_MAX; i++)
        s->peers[i].fd = -1;
    /* First that which the other tells of. */
    int rc = listen_at(CSI_SOCKET, &s->listen[0], err);
    if (rc == 0)
        rc = listen_at(CSI_REGISTRATION, &s->listen[1], err);
    while (rc == 0) {
        rc = turn(s, err);
        if (rc == 0 && clock_mono_ms() - looked >= LOOK_MS) {
            looked = clock_mono_ms();
            look_at_stuck(s);
        }
    }
    for (size_t i = 0; i < CSI_CONNS_MAX; i++)
        if (s->peers[i].fd >= 0)
            peer_close(&s->peers[i]);
    for (int i = 0; i < LISTENERS; i++)
        file_closep(&s->listen[i]);
    mem_free(s);
    return rc;
}
