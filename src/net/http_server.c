#include "net/http_server_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rnd.h"

#define ACCEPTS_AT_ONCE 64
#define ACCEPT_PAUSE_MS 100

#define DEFAULT(field, value) \
    if (!o->field) \
    o->field = (value)

static void fill_defaults(struct http_server_options *o)
{
    DEFAULT(max_connections, 10000);
    DEFAULT(max_head_bytes, 32 * 1024);
    DEFAULT(max_body_bytes, 3 * 1024 * 1024);
    DEFAULT(head_timeout_ms, 10000);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 75000);
    DEFAULT(write_timeout_ms, 60000);
    DEFAULT(high_water_bytes, 256 * 1024);
}

/* Too many connections: a word and out. With TLS a word would need a handshake; such a peer is closed. */
static void refuse(struct http_server *s, int fd)
{
    static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
    if (!s->tls)
        (void)!send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void on_accept(void *arg, int events UNUSED)
{
    struct http_server *s = arg;
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) { /* EMFILE, ENFILE, ENOMEM … */
                fd_watch_set(s->watch, 0);
                timer_start(&s->accept_again, ACCEPT_PAUSE_MS);
            }
            return;
        }
        if (s->o.listen.sa.sa_family != AF_UNIX)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (s->conn_count >= s->o.max_connections)
            refuse(s, fd);
        else
            server_conn_accept(s, fd);
    }
}

static void on_accept_again(struct timer *t)
{
    struct http_server *s = t->arg;
    if (!s->draining)
        fd_watch_set(s->watch, FD_READ);
}

static void on_drained(struct timer *t)
{
    struct http_server *s = t->arg;
    s->drained(s->drained_arg);
}

int http_server_start(struct loop *l, const struct http_server_options *o, const struct http_server_ops *ops, void *ctx, struct http_server **ret,
                      struct err *err)
{
    struct http_server *s = XNEW(struct http_server);
    *s = (struct http_server){.loop = l, .o = *o, .ops = ops, .ctx = ctx, .fd = -1};
    fill_defaults(&s->o);
    LIST_INIT(&s->conns);
    timer_init(&s->accept_again, l, on_accept_again, s);
    timer_init(&s->drained_timer, l, on_drained, s);
    rnd_bytes(&s->id_prefix, sizeof(s->id_prefix));
    s->tls = tls_ctx_ref(o->tls);
    int rc = net_listen(&o->listen, o->reuse_port, &s->fd, &s->bound, err);
    if (rc == 0)
        rc = fd_watch_new(l, s->fd, on_accept, s, &s->watch, err);
    if (rc < 0) {
        http_server_free(s);
        return rc;
    }
    fd_watch_set(s->watch, FD_READ);
    *ret = s;
    return 0;
}

void http_server_addr(const struct http_server *s, struct net_addr *ret)
{
    *ret = s->bound;
}

void http_server_set_tls(struct http_server *s, struct tls_ctx *tls)
{
    tls_ctx_unref(s->tls);
    s->tls = tls_ctx_ref(tls);
}

size_t http_server_connections(const struct http_server *s)
{
    return s->conn_count;
}

static void stop_listening(struct http_server *s)
{
    timer_stop(&s->accept_again);
    fd_watch_free(s->watch);
    s->watch = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

void server_conn_gone(struct http_server *s)
{
    if (s->draining && s->conn_count == 0 && s->drained)
        timer_start(&s->drained_timer, 0);
}

void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg)
{
    s->draining = true;
    s->drained = done;
    s->drained_arg = arg;
    stop_listening(s);
    struct http_server_conn *c = LIST_FIRST(&s->conns), *next;
    for (; c; c = next) {
        next = LIST_NEXT(c, link);
        if (c->state == CONN_HEAD && !c->in.len)
            server_conn_abort(c);
    }
    server_conn_gone(s);
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    s->drained = NULL;
    stop_listening(s);
    struct http_server_conn *c;
    while ((c = LIST_FIRST(&s->conns)))
        server_conn_abort(c);
    timer_stop(&s->drained_timer);
    if (s->bound.len && s->o.listen.sa.sa_family == AF_UNIX) /* ours, not that of a server that was there before */
        unlink(s->o.listen.un.sun_path);
    tls_ctx_unref(s->tls);
    mem_free(s);
}
