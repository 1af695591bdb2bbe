#include "net/http_server_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"

#define ACCEPTS_AT_ONCE 64
#define ACCEPT_PAUSE_MS 100
#define SHED_AT_ONCE 64
#define SHED_PAUSE_MS 100
#define CODED_HEADERS_MAX 30
#define FLUSHES_A_TURN 8 /* of a TLS record each, about a quarter of a millisecond */
#define REQUEST_ID_RANDOM_BYTES 12 /* so many that no two are ever the same, and nobody can tell one, or how many there were, from others */
#define BODY_BYTES_S 1024 /* a body's slowest pace */
#define REQUEST_ARENA_MAX (64 * 1024 * 1024)
#define REQUEST_ARENA_FIRST (4608 - 64) /* what a request of the gateway needs, and its head */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SPARES_MAX 0 /* who uses a request that has gone is to be seen */
#else
#define SPARES_MAX SPARE_ARENAS
#endif

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

/* ---- who loses idle connections when there is little room ---- */

static size_t connections_of_all(const struct http_server *s)
{
    return s->o.connections ? atomic_load_explicit(s->o.connections, memory_order_relaxed) : s->conn_count;
}

static bool is_crowded(const struct http_server *s)
{
    return s->o.shares && connections_of_all(s) > s->o.max_connections / 4 * 3;
}

struct shedding {
    struct conn_share *most; /* of those that may lose some, it has most idle ones here */
    size_t least;            /* who has no more than so many loses none */
    size_t newer;            /* as many of its idle ones as stay */
};

static bool forget_idle(void *arg UNUSED, struct conn_share *share)
{
    if (share)
        share->idle = 0;
    return false;
}

static bool count_idle(void *arg, struct conn_share *share)
{
    struct shedding *sh = arg;
    if (!share)
        return false;
    share->idle++;
    if (share->count > sh->least && (!sh->most || share->idle > sh->most->idle))
        sh->most = share;
    return false;
}

static bool choose(void *arg, struct conn_share *share)
{
    struct shedding *sh = arg;
    if (share != sh->most)
        return false;
    if (!sh->newer)
        return true;
    sh->newer--;
    return false;
}

/* fn says whether a connection is to be ended; newest first. */
static void each_idle(struct http_server *s, bool (*fn)(void *arg, struct conn_share *share), void *arg)
{
    struct http_server_conn *c = LIST_FIRST(&s->conns), *next;
    for (; c; c = next) {
        next = LIST_NEXT(c, link);
        if (server_conn_is_idle(c) && fn(arg, c->share))
            server_conn_abort(c);
    }
    http2_each_idle(s, fn, arg);
}

/* Of the connections of this loop: the kernel spreads them, so it has of each address what others have. A batch at a time, so that looking at all is not done for each that comes. */
static void shed(struct http_server *s)
{
    struct shedding sh = {.least = MAX(s->o.max_connections / 100, (size_t)2)};
    uint64_t now_ms = clock_mono_ms();
    if (now_ms < s->shed_again_ms)
        return;
    pthread_mutex_lock(&s->o.shares->lock);
    each_idle(s, forget_idle, &sh);
    each_idle(s, count_idle, &sh);
    if (sh.most)
        sh.newer = sh.most->idle - MIN(sh.most->idle, MIN(sh.most->count - sh.least, (size_t)SHED_AT_ONCE));
    pthread_mutex_unlock(&s->o.shares->lock);
    if (sh.most)
        each_idle(s, choose, &sh);
    else
        s->shed_again_ms = now_ms + SHED_PAUSE_MS;
}

static void on_accept(void *arg, int events UNUSED)
{
    struct http_server *s = arg;
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct net_addr peer = {.len = sizeof(peer.un)};
        struct conn_share *share = NULL;
        int fd = accept4(s->fd, &peer.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
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
        bool crowded = is_crowded(s);
        if (crowded)
            shed(s);
        if (connections_of_all(s) >= s->o.max_connections || (s->o.shares && !conn_shares_take(s->o.shares, &peer, crowded, &share)))
            refuse(s, fd);
        else
            server_conn_accept(s, fd, share);
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
    LIST_INIT(&s->conns2);
    TAILQ_INIT(&s->held);
    timer_init(&s->accept_again, l, on_accept_again, s);
    timer_init(&s->drained_timer, l, on_drained, s);
    s->tls = tls_ctx_ref(o->tls);
    int rc = o->listen_fd > 0 ? net_adopt(o->listen_fd, &s->fd, &s->bound, err) : net_listen(&o->listen, o->reuse_port, &s->fd, &s->bound, err);
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

void server_conn_count(struct http_server *s, int change)
{
    s->conn_count += (size_t)change;
    if (s->o.connections)
        atomic_fetch_add_explicit(s->o.connections, (size_t)change, memory_order_relaxed);
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

static void close_idle(struct http_server *s)
{
    struct http_server_conn *c = LIST_FIRST(&s->conns), *next;
    for (; c; c = next) {
        next = LIST_NEXT(c, link);
        if (c->state == CONN_HEAD && !c->in.len)
            server_conn_abort(c);
    }
}

static void drain(struct http_server *s, void (*done)(void *arg), void *arg)
{
    s->draining = true;
    s->drained = done;
    s->drained_arg = arg;
    stop_listening(s);
    if (!s->handed_over)
        close_idle(s);
    http2_drain_all(s);
    server_conn_gone(s);
}

void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg)
{
    drain(s, done, arg);
}

void http_server_hand_over(struct http_server *s, void (*done)(void *arg), void *arg)
{
    s->handed_over = true;
    drain(s, done, arg);
}

int http_server_fd(const struct http_server *s)
{
    return s->fd;
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
    http2_abort_all(s);
    timer_stop(&s->drained_timer);
    while (s->spare_count)
        arena_free(s->spare[--s->spare_count]);
    if (s->bound.len && s->o.listen.sa.sa_family == AF_UNIX && !s->handed_over) /* ours, not that of a server that was there before */
        unlink(s->o.listen.un.sun_path);
    tls_ctx_unref(s->tls);
    mem_free(s);
}

/* ---- what both protocols use ---- */

bool server_may_flush(struct http_server *s)
{
    uint64_t turn = loop_turn(s->loop);
    if (s->flush_turn != turn) {
        s->flush_turn = turn;
        s->flushes_left = FLUSHES_A_TURN;
    }
    return s->flushes_left-- > 0;
}

static const char *new_id(struct arena *a)
{
    uint8_t random[REQUEST_ID_RANDOM_BYTES];
    char *id = ARENA_ARRAY(a, char, 4 + 2 * sizeof(random) + 1), *to = id + 4;
    rnd_bytes_ahead(random, sizeof(random));
    memcpy(id, "req-", 4);
    for (size_t i = 0; i < sizeof(random); i++) {
        *to++ = "0123456789abcdef"[random[i] >> 4];
        *to++ = "0123456789abcdef"[random[i] & 15];
    }
    return id;
}

struct http_request *server_request_new(struct http_server *s, const struct http_carrier *carrier, void *conn)
{
    struct arena *a = s->spare_count ? s->spare[--s->spare_count] : arena_new_sized(REQUEST_ARENA_MAX, REQUEST_ARENA_FIRST);
    struct http_request *r = ARENA_NEW(a, struct http_request);
    r->arena = a;
    r->server = s;
    r->carrier = carrier;
    r->conn = conn;
    r->id = new_id(a);
    r->started_ns = clock_mono_ns();
    r->body = STR("");
    return r;
}

void server_request_free(struct http_server *s, struct http_request *r)
{
    struct arena *a = r ? r->arena : NULL;
    if (a && s->spare_count < SPARES_MAX) {
        arena_reset(a);
        s->spare[s->spare_count++] = a;
    } else {
        arena_free(a);
    }
}

/* "Tue, 24 Nov 2026 04:00:00 GMT", made once a second a thread. */
const char *http_date_text(void)
{
    static __thread int64_t second;
    static __thread char text[40];
    int64_t now = clock_wall_ms() / 1000;
    if (now != second) {
        time_t t = (time_t)now;
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        second = now;
    }
    return text;
}

bool server_body_is_slow(const struct http_server *s, uint64_t now_ms, uint64_t since_ms, uint64_t progress_ms, uint64_t bytes)
{
    uint64_t total = now_ms - since_ms;
    return now_ms - progress_ms >= s->o.body_timeout_ms || (total >= BODY_GRACE_MS && bytes < total / 1000 * BODY_BYTES_S);
}

bool http_status_has_no_body(int status)
{
    return status < 200 || status == 204 || status == 304;
}

/* ---- answering ---- */

/* An answer that is being compressed on a pool thread. Its request may go away meanwhile. */
struct coding {
    struct http_request *r; /* NULL: gone */
    int status, rc;
    const char *content_type;
    struct http_out_header headers[CODED_HEADERS_MAX + 2]; /* their values, and the type, live in the request's arena */
    size_t header_count;
    struct sbuf plain, coded;
};

static void coding_work(void *arg)
{
    struct coding *c = arg;
    sbuf_init(&c->coded, c->plain.len);
    c->rc = http_gzip(sbuf_str(&c->plain), &c->coded, NULL);
}

static void coding_done(void *arg)
{
    struct coding *c = arg;
    struct http_request *r = c->r;
    if (r && c->rc == 0) {
        c->headers[c->header_count++] = (struct http_out_header){"Content-Encoding", STR("gzip")};
        c->headers[c->header_count++] = (struct http_out_header){"Vary", STR("Accept-Encoding")};
    }
    if (r) {
        r->coding = NULL;
        r->carrier->respond(r, c->status, c->content_type, c->headers, c->header_count, sbuf_str(c->rc == 0 ? &c->coded : &c->plain));
    }
    sbuf_deinit(&c->plain);
    sbuf_deinit(&c->coded);
    mem_free(c);
}

static void coding_forget(void *arg)
{
    struct http_request *r = arg;
    if (r->coding)
        ((struct coding *)r->coding)->r = NULL;
}

/* Whether the client takes a coding, and there is enough to gain by it. */
static bool wants_coding(const struct http_request *r, int status, struct str body, size_t header_count)
{
    size_t min = r->server->o.compress_min_bytes;
    return min && body.len >= min && header_count <= CODED_HEADERS_MAX && !http_status_has_no_body(status) && !str_eqc(r->head.method, "HEAD") &&
           http_accepts_coding(&r->head, "gzip");
}

static void respond_coded(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count, struct str body)
{
    struct coding *c = XNEW(struct coding);
    c->r = r;
    c->status = status;
    c->content_type = content_type ? arena_strdup(r->arena, content_type) : NULL;
    for (size_t i = 0; i < header_count; i++)
        c->headers[c->header_count++] = (struct http_out_header){arena_strdup(r->arena, headers[i].name), arena_str(r->arena, headers[i].value)};
    sbuf_init(&c->plain, body.len);
    sbuf_add(&c->plain, body);
    r->coding = c;
    arena_on_free(r->arena, coding_forget, r);
    loop_work(r->server->loop, coding_work, coding_done, c);
}

void http_respond(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count, struct str body)
{
    if (r->coding)
        return;
    if (wants_coding(r, status, body, header_count))
        respond_coded(r, status, content_type, headers, header_count, body);
    else
        r->carrier->respond(r, status, content_type, headers, header_count, body);
}

void http_skip_body(struct http_request *r)
{
    r->carrier->skip_body(r);
}

void http_respond_start(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count)
{
    r->carrier->respond_start(r, status, content_type, headers, header_count);
}

bool http_write(struct http_request *r, struct str bytes)
{
    return r->carrier->write(r, bytes);
}

void http_flush(struct http_request *r)
{
    r->carrier->write(r, STR_NULL);
}

void http_respond_end(struct http_request *r)
{
    r->carrier->respond_end(r);
}

void http_respond_abort(struct http_request *r)
{
    r->carrier->respond_abort(r);
}

size_t http_queued(const struct http_request *r)
{
    return r->carrier->queued(r);
}

bool http_hold(struct http_request *r)
{
    return r->carrier->hold(r);
}

bool http_server_holds(const struct http_server *s)
{
    return !TAILQ_EMPTY(&s->held);
}

void http_server_release(struct http_server *s)
{
    uint64_t number = s->release_number++;
    struct server_hold *h;
    while ((h = TAILQ_FIRST(&s->held)) && h->number <= number) {
        server_hold_off(s, h);
        h->go(h);
    }
}

void server_hold_on(struct http_server *s, struct server_hold *h, void (*go)(struct server_hold *h))
{
    if (h->on)
        return;
    *h = (struct server_hold){.number = s->release_number, .go = go, .on = true};
    TAILQ_INSERT_TAIL(&s->held, h, link);
}

void server_hold_off(struct http_server *s, struct server_hold *h)
{
    if (h->on)
        TAILQ_REMOVE(&s->held, h, link);
    h->on = false;
}

bool http_request_peer(struct http_request *r, struct conn_peer *ret)
{
    return conn_peer_cert(r->carrier->conn_of(r), ret);
}

void http_request_addr(struct http_request *r, struct net_addr *ret)
{
    conn_peer_addr(r->carrier->conn_of(r), ret);
}
