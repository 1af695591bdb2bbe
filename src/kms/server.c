#include "kms/server.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kms/control.h"
#include "kms/grpc.h"

#define OUT_MAX (256 * 1024)
#define SCRATCH 16384
#define LOOK_MS 1000 /* how often deadlines and paths are looked at */

struct peer {
    int fd; /* -1: free */
    struct grpc_conn *grpc; /* NULL: of the control socket */
    struct sbuf in, out;
    uint64_t since_ms, moved_ms; /* when it came; when it was last read from or written to */
};

struct server {
    const struct kms_server_options *o;
    struct kms_keys keys;
    int listen[2]; /* gRPC, control */
    ino_t inode[2];
    struct peer peers[KMS_CONNS_MAX];
};

static const char *path_of(const struct server *s, int i)
{
    return i ? s->o->control : s->o->socket;
}

static int listen_at(const char *path, int *ret_fd, ino_t *ret_inode, struct err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct stat st;
    if (!str_to_array(str_of(path), un.sun_path, sizeof(un.sun_path)))
        return err_set(err, ERR_INVALID, "%s: a socket's path has %zu bytes at most", path, sizeof(un.sun_path) - 1);
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)!unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177); /* 0600 from its first moment on */
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0;
    umask(mask);
    *ret_fd = fd;
    if (!bound || listen(fd, KMS_CONNS_MAX) < 0 || stat(path, &st) < 0)
        return err_sys(err, errno, "%s", path);
    *ret_inode = st.st_ino;
    return 0;
}

static void peer_close(struct peer *p)
{
    grpc_conn_free(p->grpc);
    close(p->fd);
    if (p->in.ptr)
        mem_wipe(p->in.ptr, p->in.cap);
    if (p->out.ptr)
        mem_wipe(p->out.ptr, p->out.cap);
    sbuf_deinit(&p->in);
    sbuf_deinit(&p->out);
    *p = (struct peer){.fd = -1};
}

static enum grpc_status on_call(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    struct server *s = arg;
    return kms_answer(&s->keys, path, message, out, why);
}

/* A free place; else that of the gRPC connection that has been idle for longest. */
static struct peer *place_for(struct server *s)
{
    struct peer *oldest = NULL;
    for (size_t i = 0; i < KMS_CONNS_MAX; i++) {
        struct peer *p = &s->peers[i];
        if (p->fd < 0)
            return p;
        if (p->grpc && !p->out.len && grpc_expire(p->grpc, 0) == 0 && (!oldest || p->moved_ms < oldest->moved_ms))
            oldest = p;
    }
    if (oldest)
        peer_close(oldest);
    return oldest;
}

static void accept_one(struct server *s, int which)
{
    struct ucred who;
    socklen_t len = sizeof(who);
    int fd = accept4(s->listen[which], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    bool ours = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.uid == geteuid();
    struct peer *p = ours ? place_for(s) : NULL;
    struct grpc_conn *grpc = p && !which ? grpc_conn_new(on_call, s) : NULL;
    if (!p || (!which && !grpc)) {
        close(fd);
        return;
    }
    *p = (struct peer){.fd = fd, .grpc = grpc, .since_ms = clock_mono_ms(), .moved_ms = clock_mono_ms()};
    sbuf_init(&p->in, CONTROL_QUESTION_MAX);
    sbuf_init(&p->out, OUT_MAX);
}

static void take_keys(struct server *s, struct kms_keys *k)
{
    bool same_first = s->keys.count && k->count && !memcmp(s->keys.key[0].id, k->key[0].id, ENVELOPE_ID_BYTES);
    if (k->count) {
        uint64_t sealed = same_first ? s->keys.sealed : 0;
        for (size_t i = 0; i < KMS_KEYS_MAX; i++)
            s->keys.key[i] = k->key[i];
        s->keys.count = k->count;
        s->keys.sealed = sealed;
    }
    mem_wipe(k, sizeof(*k));
}

/* False: it is to be closed. */
static bool on_control(struct server *s, struct peer *p, struct str bytes)
{
    struct kms_keys k = {0};
    sbuf_add(&p->in, bytes);
    if (!sbuf_ok(&p->in))
        return false;
    int rc = kms_question(sbuf_str(&p->in), &k, NULL);
    if (rc <= 0)
        return rc == 0;
    take_keys(s, &k);
    mem_wipe(p->in.ptr, p->in.len);
    sbuf_reset(&p->in);
    control_answer(&s->keys, &p->out);
    return true;
}

static bool peer_read(struct server *s, struct peer *p)
{
    static char scratch[SCRATCH];
    ssize_t n = recv(p->fd, scratch, sizeof(scratch), 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0)
        return false;
    p->moved_ms = clock_mono_ms();
    bool good = p->grpc ? grpc_feed(p->grpc, str_n(scratch, (size_t)n), NULL) == 0 : on_control(s, p, str_n(scratch, (size_t)n));
    mem_wipe(scratch, (size_t)n);
    return good;
}

static bool peer_write(struct peer *p)
{
    if (p->grpc && !grpc_take(p->grpc, &p->out, OUT_MAX / 2))
        return false;
    if (!p->out.len)
        return !p->grpc || !grpc_over(p->grpc);
    ssize_t n = send(p->fd, p->out.ptr, p->out.len, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    p->moved_ms = clock_mono_ms();
    sbuf_consume(&p->out, (size_t)n);
    return true;
}

static void look_at_deadlines(struct server *s, uint64_t now)
{
    uint64_t before = now > KMS_CALL_MS ? now - KMS_CALL_MS : 0;
    for (size_t i = 0; i < KMS_CONNS_MAX; i++) {
        struct peer *p = &s->peers[i];
        if (p->fd < 0)
            continue;
        if (p->grpc)
            (void)grpc_expire(p->grpc, before);
        bool stuck = p->grpc ? p->out.len && p->moved_ms < before : p->since_ms < before;
        if (stuck || !peer_write(p))
            peer_close(p);
    }
}

/* Whether the paths are ours still: another process that was started in our place has its own there. */
static bool replaced(const struct server *s)
{
    struct stat st;
    for (int i = 0; i < 2; i++)
        if (stat(path_of(s, i), &st) < 0 || st.st_ino != s->inode[i])
            return true;
    return false;
}

static void on_events(struct server *s, const struct pollfd *fds, const int *which, nfds_t n)
{
    for (nfds_t i = 3; i < n; i++) {
        struct peer *p = &s->peers[which[i]];
        bool good = true;
        if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
            good = peer_read(s, p);
        if (good && fds[i].revents)
            good = peer_write(p);
        if (!good)
            peer_close(p);
    }
    for (int i = 0; i < 2; i++)
        if (fds[1 + i].revents & POLLIN)
            accept_one(s, i);
}

static int loop(struct server *s, struct err *err)
{
    uint64_t looked = clock_mono_ms();
    for (;;) {
        struct pollfd fds[3 + KMS_CONNS_MAX] = {{.fd = s->o->stop_fd, .events = POLLIN}, {.fd = s->listen[0], .events = POLLIN}, {.fd = s->listen[1], .events = POLLIN}};
        int which[3 + KMS_CONNS_MAX] = {0};
        nfds_t n = 3;
        for (int i = 0; i < KMS_CONNS_MAX; i++)
            if (s->peers[i].fd >= 0) {
                which[n] = i;
                fds[n++] = (struct pollfd){.fd = s->peers[i].fd, .events = (short)(POLLIN | (s->peers[i].out.len ? POLLOUT : 0))};
            }
        if (poll(fds, n, LOOK_MS) < 0 && errno != EINTR)
            return err_sys(err, errno, "poll");
        if (fds[0].revents)
            return 0;
        on_events(s, fds, which, n);
        uint64_t now = clock_mono_ms();
        if (now - looked < LOOK_MS)
            continue;
        looked = now;
        look_at_deadlines(s, now);
        if (replaced(s))
            return 0;
    }
}

int kms_serve(const struct kms_server_options *o, struct err *err)
{
    struct server *s = XNEW(struct server);
    *s = (struct server){.o = o, .listen = {-1, -1}};
    for (size_t i = 0; i < KMS_CONNS_MAX; i++)
        s->peers[i].fd = -1;
    int rc = str_to_array(str_of(o->scope), s->keys.scope, sizeof(s->keys.scope)) && *o->scope ? 0 : err_set(err, ERR_INVALID, "the scope has 1 to %d bytes", KMS_SCOPE_MAX - 1);
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = listen_at(path_of(s, i), &s->listen[i], &s->inode[i], err);
    if (rc == 0)
        rc = loop(s, err);
    for (size_t i = 0; i < KMS_CONNS_MAX; i++)
        if (s->peers[i].fd >= 0)
            peer_close(&s->peers[i]);
    for (int i = 0; i < 2; i++)
        file_closep(&s->listen[i]);
    mem_wipe(&s->keys, sizeof(s->keys));
    mem_free(s);
    return rc;
}
