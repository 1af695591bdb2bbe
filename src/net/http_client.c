/* Upstream calls. A call owns a connection, new or from the pool, until its response is complete; then the connection goes back to the pool or is closed. */
#include "net/http_client.h"

#include <sys/queue.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

#define SCRATCH_BYTES (64 * 1024)
#define READS_AT_ONCE 4
#define LET_GO_MAX 64 /* of a pool; more are closed at once */
#define IOV_AT_ONCE 16
#define USUAL_HEAD_BYTES 511 /* more than most requests' heads have */
#define SKIPPED_HEADS_MAX 8 /* 1xx responses before the real one */

#define DEFAULT(field, value) \
    if (!p->o.field) \
    p->o.field = (value)

struct idle_conn {
    TAILQ_ENTRY(idle_conn) link;
    struct http_pool *pool;
    struct conn *conn;
    uint64_t until_ms;
};

struct http_pool {
    struct loop *loop;
    struct http_pool_options o;
    char *host, *tls_name;
    struct tls_ctx *tls;
    LIST_HEAD(, http_call) let_go;
    int let_go_count;
    TAILQ_HEAD(idle_list, idle_conn) idle; /* the one that was used last first */
    struct timer idle_timer;      /* at the time of the last one, or earlier */
    size_t idle_count, active;
    bool closing;
};

enum call_state { CALL_CONNECTING, CALL_SENDING, CALL_HEAD, CALL_BODY };

struct http_call {
    LIST_ENTRY(http_call) link; /* in let_go */
    struct http_pool *pool;
    const struct http_call_ops *ops;
    void *arg;
    struct http_call_options o;
    struct conn *conn;
    enum call_state state;
    struct sbuf head; /* of the request */
    struct sbuf in;   /* of the response, while its head is incomplete, or paused */
    size_t sent;      /* bytes of head and body that left */
    size_t total;
    struct http_body *body;
    struct timer timer; /* connect, first byte, idle */
    struct timer later; /* fails or resumes from the loop, never inside http_call_start */
    uint64_t progress_ms;
    bool reused, got_any, keep_alive, is_head, paused, dead;
    bool let_go;      /* http_call_let_go(): its time runs from then on, whatever comes */
    bool untimed;     /* the body has begun: its timer is to be set, unless all of it is there already */
    bool send_failed; /* the peer takes no more; what it has said may still be read */
    bool complete; /* the body's last byte was handed over, perhaps while paused */
    int skipped, busy;
    struct err *err; /* why it could not begin: told from the loop, never inside http_call_start */
};

static void call_begin(struct http_call *c);
static void call_release(struct http_call *c);
static void on_idle_timer(struct timer *t);

/* ---- pools ---- */

/* The name in the certificate: without port, without the brackets of an IPv6 address. */
static char *tls_name_of(const char *host)
{
    struct str h = str_of(host);
    const char *colon = strrchr(host, ':'), *bracket = strrchr(host, ']');
    if (colon && (bracket ? colon > bracket : colon == strchr(host, ':')))
        h.len = (size_t)(colon - host);
    if (h.len > 2 && h.ptr[0] == '[' && h.ptr[h.len - 1] == ']')
        h = str_n(h.ptr + 1, h.len - 2);
    return xstrndup(h.ptr, h.len);
}

struct http_pool *http_pool_new(struct loop *l, const struct http_pool_options *o)
{
    struct http_pool *p = XNEW(struct http_pool);
    p->loop = l;
    p->o = *o;
    DEFAULT(max_idle, 64);
    DEFAULT(connect_timeout_ms, 5000);
    DEFAULT(idle_timeout_ms, 60000);
    DEFAULT(max_head_bytes, 64 * 1024);
    p->host = xstrdup(o->host ? o->host : "localhost");
    p->tls_name = tls_name_of(p->host);
    p->tls = tls_ctx_ref(o->tls);
    TAILQ_INIT(&p->idle);
    LIST_INIT(&p->let_go);
    timer_init(&p->idle_timer, l, on_idle_timer, p);
    return p;
}

/* Takes the connection out and frees the holder. */
static struct conn *idle_take(struct idle_conn *i)
{
    struct conn *c = i->conn;
    TAILQ_REMOVE(&i->pool->idle, i, link);
    i->pool->idle_count--;
    mem_free(i);
    return c;
}

static void pool_release(struct http_pool *p)
{
    if (!p->closing || p->active)
        return;
    tls_ctx_unref(p->tls);
    mem_free(p->host);
    mem_free(p->tls_name);
    mem_free(p);
}

void http_pool_free(struct http_pool *p)
{
    if (!p)
        return;
    while (!TAILQ_EMPTY(&p->idle))
        conn_free(idle_take(TAILQ_FIRST(&p->idle)));
    timer_stop(&p->idle_timer);
    p->closing = true;
    p->active++; /* it stays until all are let go */
    while (!LIST_EMPTY(&p->let_go))
        call_release(LIST_FIRST(&p->let_go));
    p->active--;
    pool_release(p);
}

const struct net_addr *http_pool_addr(const struct http_pool *p)
{
    return &p->o.addr;
}

size_t http_pool_active(const struct http_pool *p)
{
    return p->active;
}

size_t http_pool_idle(const struct http_pool *p)
{
    return p->idle_count;
}

static void on_idle_timer(struct timer *t)
{
    struct http_pool *p = t->arg;
    struct idle_conn *i;
    uint64_t now_ms = clock_mono_ms();
    while ((i = TAILQ_LAST(&p->idle, idle_list)) && i->until_ms <= now_ms)
        conn_free(idle_take(i));
    if (i)
        timer_start_from(t, now_ms, i->until_ms - now_ms);
}

/* Whatever a kept connection says, nobody asked: it is closed, or broken. */
static void on_idle_ready(void *arg, int events UNUSED)
{
    conn_free(idle_take(arg));
}

static void idle_keep(struct http_pool *p, struct conn *conn)
{
    struct idle_conn *i = p->closing || p->idle_count >= p->o.max_idle ? NULL : mem_try(sizeof(*i));
    if (!i) {
        conn_free(conn);
        return;
    }
    i->pool = p;
    i->conn = conn;
    i->until_ms = loop_now_ms(p->loop) + p->o.idle_timeout_ms;
    if (!timer_armed(&p->idle_timer))
        timer_start(&p->idle_timer, p->o.idle_timeout_ms);
    TAILQ_INSERT_HEAD(&p->idle, i, link);
    p->idle_count++;
    conn_set_handler(conn, on_idle_ready, i);
    conn_want(conn, FD_READ);
}

/* ---- the end of a call ---- */

static void call_really_free(struct http_call *c)
{
    struct http_pool *p = c->pool;
    http_body_free(c->body);
    sbuf_deinit(&c->head);
    sbuf_deinit(&c->in);
    mem_free(c->err);
    mem_free(c);
    p->active--;
    pool_release(p);
}

/* Gives up the connection; frees once no call of ours is on the stack. */
static void call_release(struct http_call *c)
{
    if (c->dead)
        return;
    c->dead = true;
    if (c->let_go) {
        LIST_REMOVE(c, link);
        c->pool->let_go_count--;
    }
    timer_stop(&c->timer);
    timer_stop(&c->later);
    conn_free(c->conn);
    c->conn = NULL;
    if (!c->busy)
        call_really_free(c);
}

static void enter(struct http_call *c)
{
    c->busy++;
}

static void leave(struct http_call *c)
{
    if (--c->busy == 0 && c->dead)
        call_really_free(c);
}

static void call_failed(struct http_call *c, const struct err *err)
{
    if (c->dead)
        return;
    /* A kept connection that the peer closed before it answered anything: once more, on a fresh one. */
    if (c->reused && !c->got_any && !c->o.no_retry && err->code != ERR_TIMEOUT) {
        conn_free(c->conn);
        c->conn = NULL;
        c->reused = c->send_failed = false;
        c->sent = 0;
        while (!TAILQ_EMPTY(&c->pool->idle)) /* its siblings are no younger */
            conn_free(idle_take(TAILQ_FIRST(&c->pool->idle)));
        call_begin(c);
        return;
    }
    enter(c);
    conn_free(c->conn);
    c->conn = NULL;
    c->ops->on_error(c->arg, err);
    call_release(c);
    leave(c);
}

static void call_done(struct http_call *c)
{
    enter(c);
    struct conn *conn = c->conn;
    c->conn = NULL;
    timer_stop(&c->timer);
    if (c->keep_alive && !c->in.len && c->sent == c->total)
        idle_keep(c->pool, conn);
    else
        conn_free(conn);
    c->ops->on_end(c->arg);
    call_release(c);
    leave(c);
}

void http_call_cancel(struct http_call *c)
{
    call_release(c);
}

/* ---- time ---- */

static uint64_t limit_ms(const struct http_call *c)
{
    if (c->state == CALL_CONNECTING)
        return c->pool->o.connect_timeout_ms;
    return c->state == CALL_BODY ? c->o.idle_timeout_ms : c->o.first_byte_timeout_ms;
}

static void restart_timer(struct http_call *c)
{
    c->progress_ms = clock_mono_ms();
    uint64_t ms = limit_ms(c);
    if (ms)
        timer_start_from(&c->timer, c->progress_ms, ms);
    else
        timer_stop(&c->timer);
}

static void on_timer(struct timer *t)
{
    struct http_call *c = t->arg;
    static const char *const what[] = {"connecting to the server took too long", "the server took too long to read the request",
                                       "the server took too long to answer", "the server stopped in the middle of its answer"};
    uint64_t quiet = clock_mono_ms() - c->progress_ms, ms = limit_ms(c);
    if (!ms || c->paused) {
        if (ms)
            timer_start(&c->timer, ms);
        c->progress_ms = clock_mono_ms();
    } else if (quiet < ms) {
        timer_start(&c->timer, ms - quiet); /* bytes came since: re-armed lazily, not a heap operation a chunk */
    } else {
        struct err err = ERR_INIT;
        err_set(&err, ERR_TIMEOUT, "%s (%llu ms)", what[c->state], (unsigned long long)ms);
        call_failed(c, &err);
    }
}

/* ---- sending ---- */

static int fill_iov(const struct http_call *c, struct iovec *iov)
{
    size_t skip = c->sent;
    int n = 0;
    for (int i = -1; i < c->o.body_count && n < IOV_AT_ONCE; i++) {
        struct iovec v = i < 0 ? (struct iovec){c->head.ptr, c->head.len} : c->o.body[i];
        if (skip >= v.iov_len) {
            skip -= v.iov_len;
            continue;
        }
        iov[n++] = (struct iovec){(char *)v.iov_base + skip, v.iov_len - skip};
        skip = 0;
    }
    return n;
}

/* Asks for the readiness that the state calls for. */
static void call_want(struct http_call *c)
{
    bool sends = c->state == CALL_CONNECTING || (c->sent < c->total && !c->send_failed);
    conn_want(c->conn, (c->paused ? 0 : FD_READ) | (sends ? FD_WRITE : 0));
}

static void call_send(struct http_call *c)
{
    while (c->sent < c->total) {
        struct iovec iov[IOV_AT_ONCE];
        int n = fill_iov(c, iov);
        ssize_t took = conn_writev(c->conn, iov, n);
        if (took == CONN_AGAIN) {
            call_want(c);
            return;
        }
        if (took == CONN_FAILED) {
            /* The peer may have answered before it closed (413, say): read that first. */
            c->send_failed = true;
            break;
        }
        c->sent += (size_t)took;
        c->progress_ms = clock_mono_ms();
    }
    if (c->state == CALL_SENDING) {
        c->state = CALL_HEAD;
        restart_timer(c);
    }
    call_want(c);
}

/* ---- receiving ---- */

static size_t take_head(struct http_call *c, struct str bytes, struct err *err)
{
    size_t end = http_head_end(bytes);
    if (!end) {
        if (bytes.len > c->pool->o.max_head_bytes)
            err_set(err, ERR_PROTOCOL, "the response head is over %zu bytes", c->pool->o.max_head_bytes);
        return 0;
    }
    struct http_head h;
    struct http_header headers[HTTP_HEADERS_MAX];
    if (end > c->pool->o.max_head_bytes) {
        err_set(err, ERR_PROTOCOL, "the response head is over %zu bytes", c->pool->o.max_head_bytes);
        return 0;
    }
    if (http_head_parse(str_n(bytes.ptr, end), false, headers, &h, err) < 0) {
        err->code = ERR_PROTOCOL;
        return 0;
    }
    if (h.status < 200) {
        if (h.status == 101 || ++c->skipped > SKIPPED_HEADS_MAX)
            err_set(err, ERR_PROTOCOL, "unexpected status %d", h.status);
        return end;
    }
    c->body = http_body_new(&h, true, c->is_head);
    if (!c->body) {
        err_set(err, ERR_NO_MEMORY, "out of memory");
        return 0;
    }
    bool framed = h.chunked || h.content_length >= 0 || h.status == 204 || h.status == 304 || c->is_head;
    c->keep_alive = h.keep_alive && framed;
    c->state = CALL_BODY;
    c->untimed = true;
    if (c->sent == c->total)
        sbuf_deinit(&c->head); /* streams are long */
    c->ops->on_head(c->arg, &h);
    return end;
}

/* Consumes bytes; true when the response is complete. */
static bool consume(struct http_call *c, struct str bytes, size_t *ret_used, struct err *err)
{
    size_t total = 0;
    bool done = false;
    while (!c->dead && !c->paused && !err->code && !done) {
        size_t used = 0;
        struct str rest = str_skip(bytes, total), payload = STR_NULL;
        if (c->state != CALL_BODY) {
            used = take_head(c, rest, err);
            total += used;
            if (!used)
                break;
            continue;
        }
        if (http_body_feed(c->body, rest, &payload, &used, &done, err) < 0)
            break;
        total += used;
        if (payload.len)
            c->ops->on_body(c->arg, payload);
        if (!used && !done)
            break;
    }
    *ret_used = total;
    c->complete = c->complete || done;
    return done && !c->dead;
}

static void arrive(struct http_call *c, struct str bytes)
{
    struct err err = ERR_INIT;
    size_t used = 0;
    bool done;
    if (c->state == CALL_BODY && !c->let_go)
        c->progress_ms = clock_mono_ms(); /* a piece of a head is no head */
    if (c->in.len) {
        sbuf_add(&c->in, bytes);
        done = consume(c, sbuf_str(&c->in), &used, &err);
        if (!c->dead)
            sbuf_consume(&c->in, used);
    } else {
        done = consume(c, bytes, &used, &err);
        if (!c->dead && used < bytes.len)
            sbuf_add(&c->in, str_skip(bytes, used));
    }
    if (c->dead)
        return;
    if (err.code || !sbuf_ok(&c->in)) {
        c->got_any = true;
        call_failed(c, err.code ? &err : &(struct err){.code = ERR_PROTOCOL, .msg = "the response head is too large"});
    } else if (done && !c->paused) {
        call_done(c);
    } else if (c->untimed) {
        c->untimed = false;
        restart_timer(c);
    }
}

static void on_eof(struct http_call *c, const struct err *why)
{
    struct err err = ERR_INIT;
    if (why)
        err = *why;
    else if (c->state == CALL_BODY && http_body_eof(c->body, &err) == 0)
        err.code = 0;
    else if (c->state != CALL_BODY)
        err_set(&err, ERR_CLOSED, c->got_any ? "the server closed in the middle of its answer" : "the server closed without an answer");
    else
        err.code = ERR_CLOSED;
    if (err.code) {
        call_failed(c, &err);
    } else {
        c->keep_alive = false;
        call_done(c);
    }
}

/* Goes on after a pause. */
static void resume(struct http_call *c)
{
    if (c->complete)
        call_done(c);
    else
        arrive(c, STR(""));
}

static void on_readable(struct http_call *c)
{
    static __thread char scratch[SCRATCH_BYTES];
    if (!c->paused && c->state == CALL_BODY && (c->in.len || c->complete))
        resume(c); /* what came while paused comes before what the socket has, its end above all */
    for (int i = 0; i < READS_AT_ONCE && !c->dead && c->conn && !c->paused; i++) {
        ssize_t n = conn_read(c->conn, scratch, sizeof(scratch));
        if (n == CONN_AGAIN)
            return;
        if (n <= 0) {
            on_eof(c, n == CONN_FAILED ? conn_error(c->conn) : NULL);
            return;
        }
        c->got_any = true;
        arrive(c, str_n(scratch, (size_t)n));
        if ((size_t)n < sizeof(scratch))
            return;
    }
}

static void on_ready(void *arg, int events)
{
    struct http_call *c = arg;
    enter(c);
    if (c->state == CALL_CONNECTING) {
        c->state = CALL_SENDING;
        restart_timer(c);
    }
    if (c->sent < c->total && !c->send_failed && (events & FD_WRITE))
        call_send(c);
    if (!c->dead && c->conn && (events & FD_READ))
        on_readable(c);
    leave(c);
}

/* ---- starting ---- */

static void on_later(struct timer *t)
{
    struct http_call *c = t->arg;
    enter(c);
    if (c->err)
        call_failed(c, c->err);
    else if (c->paused)
        ;
    else if (c->state == CALL_BODY)
        resume(c); /* even without bytes: a body may have none */
    leave(c);
}

static void fail_later(struct http_call *c, const struct err *err)
{
    c->err = XNEW(struct err);
    *c->err = *err;
    timer_start(&c->later, 0);
}

/* A kept connection on which nothing waits: what came unasked, the loop may not have seen it yet, must not become the answer to this call. */
static struct conn *take_quiet(struct http_pool *p)
{
    while (!TAILQ_EMPTY(&p->idle)) {
        struct conn *c = idle_take(TAILQ_FIRST(&p->idle));
        if (conn_is_quiet(c))
            return c;
        conn_free(c);
    }
    return NULL;
}

/* On a kept connection, else on a new one. Failures are told from the loop. */
static void call_begin(struct http_call *c)
{
    struct http_pool *p = c->pool;
    c->conn = take_quiet(p);
    if (c->conn) {
        c->reused = true;
        c->state = CALL_SENDING;
        conn_set_handler(c->conn, on_ready, c);
        call_send(c); /* calls nobody back: what fails is found when the answer is read */
        if (c->state == CALL_SENDING)
            restart_timer(c);
        return;
    }
    int fd = -1;
    c->state = CALL_CONNECTING;
    struct err err = ERR_INIT;
    int rc = net_connect(&p->o.addr, &fd, &err);
    if (rc == 0)
        rc = conn_new(p->loop, fd, p->tls, false, p->tls_name, on_ready, c, &c->conn, &err);
    if (rc < 0) {
        fail_later(c, &err);
        return;
    }
    restart_timer(c);
    call_want(c);
}

static void build_head(struct http_call *c)
{
    const struct http_call_options *o = &c->o;
    size_t body = 0;
    for (int i = 0; i < o->body_count; i++)
        body += o->body[i].iov_len;
    sbuf_reserve(&c->head, USUAL_HEAD_BYTES);
    sbuf_addc(&c->head, o->method);
    sbuf_add_char(&c->head, ' ');
    sbuf_addc(&c->head, o->target);
    sbuf_add(&c->head, STR(" HTTP/1.1\r\n"));
    http_add_field(&c->head, STR("Host"), str_of(c->pool->host));
    for (size_t i = 0; i < o->header_count; i++)
        http_add_field(&c->head, o->headers[i].name, o->headers[i].value);
    if (o->body_count || str_eqc(str_of(o->method), "POST"))
        http_add_length(&c->head, body);
    sbuf_addc(&c->head, "\r\n");
    c->total = c->head.len + body;
}

struct http_call *http_call_start(struct http_pool *p, const struct http_call_options *o, const struct http_call_ops *ops, void *arg)
{
    struct http_call *c = mem_try(sizeof(*c));
    if (!c)
        return NULL;
    *c = (struct http_call){.pool = p, .ops = ops, .arg = arg, .o = *o};
    c->is_head = !strcmp(o->method, "HEAD");
    sbuf_init(&c->head, 64 * 1024);
    sbuf_init(&c->in, p->o.max_head_bytes + SCRATCH_BYTES);
    timer_init(&c->timer, p->loop, on_timer, c);
    timer_init(&c->later, p->loop, on_later, c);
    build_head(c);
    p->active++;
    if (sbuf_ok(&c->head)) {
        call_begin(c);
    } else {
        struct err err = ERR_INIT;
        err_set(&err, ERR_TOO_LARGE, "the request head is too large");
        fail_later(c, &err);
    }
    return c;
}

void http_call_pause(struct http_call *c, bool paused)
{
    if (c->paused == paused || c->dead)
        return;
    c->paused = paused;
    if (!c->conn)
        return;
    call_want(c);
    if (!paused && c->state == CALL_BODY) {
        c->progress_ms = clock_mono_ms();
        timer_start(&c->later, 0);
    }
}

static void nobody_reads(void *arg UNUSED, struct str bytes UNUSED)
{
}

static void nobody_hears_the_end(void *arg UNUSED)
{
}

static void nobody_hears_errors(void *arg UNUSED, const struct err *err UNUSED)
{
}

void http_call_let_go(struct http_call *c, uint64_t drain_ms)
{
    static const struct http_call_ops nobody = {.on_body = nobody_reads, .on_end = nobody_hears_the_end, .on_error = nobody_hears_errors};
    struct http_pool *p = c->pool;
    if (c->dead)
        return;
    if (c->state != CALL_BODY || !c->conn || c->sent < c->total || p->closing || p->let_go_count == LET_GO_MAX) {
        call_release(c);
        return;
    }
    c->ops = &nobody;
    c->arg = NULL;
    c->o = (struct http_call_options){.idle_timeout_ms = MAX(drain_ms, (uint64_t)1)};
    c->let_go = true;
    LIST_INSERT_HEAD(&p->let_go, c, link);
    p->let_go_count++;
    http_call_pause(c, false);
    if (c->busy)
        c->untimed = true; /* most end in the bytes that are looked at now */
    else
        restart_timer(c);
}

bool http_call_sent_any(const struct http_call *c)
{
    return c->sent > 0;
}
