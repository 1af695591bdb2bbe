/* A connection's life: heads and bodies in, handler called, next request. */
#include "base/clock.h"
#include "base/mem.h"
#include "net/http_server_internal.h"

#define SCRATCH_BYTES (64 * 1024)
#define READS_AT_ONCE 4
#define LINGER_MS 2000
#define LINGER_BYTES_MAX (8 * 1024 * 1024)
#define KEEP_BUFFER_BYTES 8192 /* a waiting connection holds no more than this */
#define RESPONSE_HEAD_MAX (128 * 1024) /* more than a whole head of an upstream */

static void process(struct http_server_conn *c);

/* ---- freeing, with our own calls on the stack ---- */

static void conn_really_free(struct http_server_conn *c)
{
    struct http_server *s = c->server;
    conn_shares_give(s->o.shares, c->share);
    timer_stop(&c->timer);
    conn_free(c->conn);
    http_body_free(c->body);
    server_request_free(s, c->req);
    sbuf_deinit(&c->in);
    sbuf_deinit(&c->body_bytes);
    sbuf_deinit(&c->head);
    sbuf_deinit(&c->out);
    mem_free(c);
    server_conn_gone(s);
}

static void release(struct http_server_conn *c)
{
    if (c->dead)
        return;
    c->dead = true;
    server_hold_off(c->server, &c->hold);
    LIST_REMOVE(c, link);
    server_conn_count(c->server, -1);
    conn_want(c->conn, 0);
    timer_stop(&c->timer);
    if (!c->busy)
        conn_really_free(c);
}

static void enter(struct http_server_conn *c)
{
    c->busy++;
}

/* False: c is gone. */
static bool leave(struct http_server_conn *c)
{
    if (--c->busy == 0 && c->dead) {
        conn_really_free(c);
        return false;
    }
    return !c->dead;
}

void server_conn_abort(struct http_server_conn *c)
{
    enter(c);
    bool heard = c->state == CONN_HANDLING || c->state == CONN_SENDING || (c->state == CONN_BODY && c->server->ops->on_head);
    bool owed = c->req && heard && !c->unheard;
    struct http_request *r = c->req;
    if (owed && !c->dead) {
        c->state = CONN_LINGER; /* the handler may answer in on_abort: it is not heard */
        if (c->server->ops->on_abort)
            c->server->ops->on_abort(c->server->ctx, r);
    }
    release(c);
    leave(c);
}

/* ---- time ---- */

static void set_timer(struct http_server_conn *c, uint64_t ms)
{
    c->since_ms = c->progress_ms = clock_mono_ms();
    timer_start_from(&c->timer, c->since_ms, ms);
}

void server_conn_watch_progress(struct http_server_conn *c)
{
    c->progress_ms = clock_mono_ms();
    if (!timer_armed(&c->timer))
        timer_start(&c->timer, c->server->o.write_timeout_ms);
}

/* A client that sends far ahead of its answers is not read until they are out. */
static bool is_far_ahead(const struct http_server_conn *c)
{
    return (c->state == CONN_HANDLING || c->state == CONN_SENDING) && c->in.len > PIPELINED_MAX;
}

void server_conn_want(struct http_server_conn *c)
{
    conn_want(c->conn, (is_far_ahead(c) ? 0 : FD_READ) | (c->out.len > c->out_off && !c->hold.on ? FD_WRITE : 0));
}

static void on_body_timer(struct http_server_conn *c, uint64_t now)
{
    if (server_body_is_slow(c->server, now, c->since_ms, c->progress_ms, c->body_taken))
        server_conn_error(c, 408, "the body came too slowly");
    else
        timer_start(&c->timer, MIN(c->server->o.body_timeout_ms - (now - c->progress_ms), (uint64_t)BODY_GRACE_MS));
}

static void on_timer(struct timer *t)
{
    struct http_server_conn *c = t->arg;
    uint64_t now = clock_mono_ms();
    if (c->state == CONN_BODY) {
        on_body_timer(c, now);
        return;
    }
    if (c->state == CONN_HANDLING || c->state == CONN_SENDING) {
        if (c->out.len == c->out_off)
            return; /* nothing waits for the client */
        uint64_t quiet = now - c->progress_ms;
        if (quiet < c->server->o.write_timeout_ms) {
            timer_start(&c->timer, c->server->o.write_timeout_ms - quiet);
            return;
        }
    }
    if (c->state == CONN_HEAD && c->in.len)
        server_conn_error(c, 408, "the head came too slowly");
    else
        server_conn_abort(c);
}

/* ---- requests ---- */

static void shrink(struct sbuf *b)
{
    if (b->cap > KEEP_BUFFER_BYTES) {
        size_t max = b->max;
        sbuf_deinit(b);
        sbuf_init(b, max);
    } else {
        sbuf_reset(b);
    }
}

static void request_free(struct http_server_conn *c)
{
    http_body_free(c->body);
    c->body = NULL;
    server_request_free(c->server, c->req);
    c->req = NULL;
    shrink(&c->body_bytes);
    shrink(&c->out);
    sbuf_reset(&c->head);
    c->out_off = 0;
    c->started = c->ended = c->chunked = c->no_body = c->over_high = c->body_unread = c->unheard = false;
}

static void linger(struct http_server_conn *c)
{
    request_free(c);
    c->state = CONN_LINGER;
    c->body_taken = 0;
    conn_shutdown(c->conn);
    conn_want(c->conn, FD_READ);
    set_timer(c, LINGER_MS);
}

void server_conn_finish(struct http_server_conn *c)
{
    enter(c);
    if (c->server->ops->on_done && c->req && !c->unheard)
        c->server->ops->on_done(c->server->ctx, c->req);
    if (!c->dead) {
        bool close = c->close_after || c->body_unread || c->server->draining;
        if (close) {
            linger(c);
        } else {
            request_free(c);
            c->state = CONN_HEAD;
            c->between = true;
            if (!c->processing)
                process(c);
        }
    }
    leave(c);
}

static void call_handler(struct http_server_conn *c)
{
    c->state = CONN_HANDLING;
    timer_stop(&c->timer);
    if (c->body_bytes.len)
        c->req->body = sbuf_str(&c->body_bytes);
    c->server->ops->on_request(c->server->ctx, c->req);
}


/* A complete head lies in bytes. */
static void begin_request(struct http_server_conn *c, struct str bytes)
{
    struct err err = ERR_INIT;
    struct http_request *r = server_request_new(c->server, &http1_carrier, c);
    c->req = r;
    c->close_after = true;
    struct http_header headers[HTTP_HEADERS_MAX];
    int rc = http_head_parse(arena_str(r->arena, bytes), true, headers, &r->head, &err);
    r->head.headers = ARENA_ARRAY(r->arena, struct http_header, r->head.header_count);
    memcpy(r->head.headers, headers, r->head.header_count * sizeof(*headers));
    if (rc < 0) {
        server_conn_error(c, rc == ERR_HEADER_TOO_LARGE ? 431 : rc == ERR_PROTOCOL ? 505 : 400, err.msg);
        return;
    }
    c->close_after = !r->head.keep_alive;
    c->no_body = str_eqc(r->head.method, "HEAD");
    c->body_max = c->server->o.max_body_bytes;
    c->body_unread = r->head.chunked || r->head.content_length > 0;
    c->state = CONN_BODY;
    if (c->server->ops->on_head && c->server->ops->on_head(c->server->ctx, r, &c->body_max) < 0)
        return; /* answered; what is left of the body is not read */
    if (r->head.content_length > 0 && (uint64_t)r->head.content_length > c->body_max) {
        server_conn_error(c, 413, "the body is larger than this server accepts");
        return;
    }
    if (!c->body_unread) {
        call_handler(c);
        return;
    }
    c->body = http_body_new(&r->head, false, false);
    if (!c->body) {
        server_conn_error(c, 503, "out of memory");
        return;
    }
    c->body_bytes.max = MIN(c->body_max, SIZE_MAX / 4);
    c->body_taken = 0;
    c->untimed = true;
    if (r->head.expect_continue && r->head.minor_version == 1) {
        struct iovec go = {(char *)(uintptr_t) "HTTP/1.1 100 Continue\r\n\r\n", 25};
        if (conn_writev(c->conn, &go, 1) != 25)
            c->close_after = true; /* the kernel's buffer is full before the first answer: not worth queueing */
    }
}

/* Takes what belongs to the body; returns the bytes used. */
static size_t take_body(struct http_server_conn *c, struct str bytes)
{
    size_t total = 0;
    while (c->state == CONN_BODY && total < bytes.len) {
        struct str payload;
        size_t used;
        bool done;
        struct err err = ERR_INIT;
        if (http_body_feed(c->body, str_skip(bytes, total), &payload, &used, &done, &err) < 0) {
            server_conn_error(c, 400, err.msg);
            return bytes.len;
        }
        total += used;
        c->body_taken += payload.len;
        if (c->body_bytes.len + payload.len > c->body_max) {
            server_conn_error(c, 413, "the body is larger than this server accepts");
            return bytes.len;
        }
        if (payload.len && c->server->ops->on_body && c->server->ops->on_body(c->server->ctx, c->req, c->body_bytes.len + payload.len) < 0)
            return bytes.len; /* answered */
        if (!c->body_bytes.cap && c->req->head.content_length > 0)
            sbuf_reserve(&c->body_bytes, MIN((size_t)c->req->head.content_length, (size_t)1 << 20));
        sbuf_add(&c->body_bytes, payload);
        if (!sbuf_ok(&c->body_bytes)) {
            server_conn_error(c, 503, "out of memory");
            return bytes.len;
        }
        if (done) {
            c->body_unread = false;
            call_handler(c);
        } else if (!used) {
            break;
        }
    }
    if (c->state == CONN_BODY)
        c->progress_ms = clock_mono_ms();
    return total;
}

/* Leading CRLFs before a request line are allowed (RFC 9112, 2.2). */
static size_t skip_blank(struct str bytes)
{
    size_t n = 0;
    while (n + 1 < bytes.len && n < 8 && bytes.ptr[n] == '\r' && bytes.ptr[n + 1] == '\n')
        n += 2;
    return n;
}

/* What is left of a body that was refused; its end is where the next head may begin. */
static size_t skip_body(struct http_server_conn *c, struct str bytes)
{
    size_t n = MIN(c->skip, bytes.len);
    c->skip -= n;
    if (!c->skip)
        c->between = true;
    return n;
}

/* Takes a head when it is complete; returns the bytes used. */
static size_t take_head(struct http_server_conn *c, struct str bytes)
{
    if (c->skip)
        return skip_body(c, bytes);
    size_t blank = skip_blank(bytes);
    struct str rest = str_skip(bytes, blank);
    size_t end = rest.len ? http_head_end(rest) : 0;
    if (end > c->server->o.max_head_bytes || (!end && rest.len > c->server->o.max_head_bytes)) {
        c->req = server_request_new(c->server, &http1_carrier, c);
        c->close_after = true;
        server_conn_error(c, 431, "the head is larger than this server accepts");
        return bytes.len;
    }
    if (end) {
        begin_request(c, str_n(rest.ptr, end));
        return blank + end;
    }
    return blank;
}

/* Consumes bytes as far as the state lets it; returns how many. */
static size_t consume(struct http_server_conn *c, struct str bytes)
{
    size_t total = 0;
    while (!c->dead && total < bytes.len) {
        size_t used = 0;
        if (c->state == CONN_HEAD)
            used = take_head(c, str_skip(bytes, total));
        else if (c->state == CONN_BODY)
            used = take_body(c, str_skip(bytes, total));
        if (!used)
            break;
        total += used;
    }
    return total;
}

/* After bytes were consumed: what is left decides which time runs, and whether more is read. */
static void settle(struct http_server_conn *c)
{
    if (c->state == CONN_HEAD && c->between) {
        c->between = false;
        c->reading = c->in.len > 0;
        set_timer(c, c->in.len ? c->server->o.head_timeout_ms : c->server->o.idle_timeout_ms);
    } else if (c->untimed && c->state == CONN_HEAD) {
        set_timer(c, c->server->o.head_timeout_ms);
    } else if (c->untimed && c->state == CONN_BODY) {
        set_timer(c, c->server->o.body_timeout_ms);
    }
    c->untimed = false;
    server_conn_want(c);
}

static void process(struct http_server_conn *c)
{
    if (c->processing)
        return;
    enter(c);
    c->processing = true;
    size_t used = consume(c, sbuf_str(&c->in));
    c->processing = false;
    if (!c->dead) {
        sbuf_consume(&c->in, used);
        settle(c);
    }
    leave(c);
}

/* New bytes: used in place when none wait before them. */
static void arrive(struct http_server_conn *c, struct str bytes)
{
    if (c->state == CONN_LINGER) {
        c->body_taken += bytes.len;
        if (c->body_taken > LINGER_BYTES_MAX)
            release(c);
        return;
    }
    if (c->state == CONN_HEAD && !c->reading) {
        c->reading = true;
        c->untimed = true;
    }
    if (c->in.len) {
        sbuf_add(&c->in, bytes);
        process(c);
    } else {
        c->processing = true;
        size_t used = consume(c, bytes);
        c->processing = false;
        if (c->dead)
            return;
        if (used < bytes.len && c->state != CONN_LINGER)
            sbuf_add(&c->in, str_skip(bytes, used));
        settle(c);
    }
    if (!c->dead && !sbuf_ok(&c->in))
        server_conn_abort(c);
}

static void on_readable(struct http_server_conn *c)
{
    static __thread char scratch[SCRATCH_BYTES];
    for (int i = 0; i < READS_AT_ONCE && !c->dead && !is_far_ahead(c); i++) {
        ssize_t n = conn_read(c->conn, scratch, sizeof(scratch));
        if (n == CONN_AGAIN)
            return;
        if (n <= 0) {
            server_conn_abort(c);
            return;
        }
        arrive(c, str_n(scratch, (size_t)n));
        if ((size_t)n < sizeof(scratch))
            return; /* level-triggered: no read only to hear EAGAIN */
    }
}

/* The handshake is over, and chose HTTP/2: nothing was read yet. */
static void hand_over(struct http_server_conn *c)
{
    struct http_server *s = c->server;
    struct conn *conn = c->conn;
    struct conn_share *share = c->share;
    timer_stop(&c->timer);
    LIST_REMOVE(c, link);
    server_conn_count(s, -1);
    sbuf_deinit(&c->in);
    sbuf_deinit(&c->body_bytes);
    sbuf_deinit(&c->head);
    sbuf_deinit(&c->out);
    mem_free(c);
    http2_accept(s, conn, share);
}

static void on_ready(void *arg, int events)
{
    struct http_server_conn *c = arg;
    if (!c->known) {
        c->known = true;
        if (conn_chose(c->conn, "h2")) {
            hand_over(c);
            return;
        }
    }
    enter(c);
    if ((events & FD_WRITE) && server_may_flush(c->server))
        server_conn_flush(c);
    if (!c->dead && (events & FD_READ))
        on_readable(c);
    leave(c);
}

void server_conn_release(struct http_server_conn *c)
{
    enter(c);
    server_conn_flush(c);
    if (!c->dead && c->out.len > c->out_off) {
        server_conn_watch_progress(c);
        server_conn_want(c);
    }
    leave(c);
}

bool server_conn_is_idle(const struct http_server_conn *c)
{
    return c->state == CONN_HEAD && !c->in.len && !c->reading;
}

void server_conn_accept(struct http_server *s, int fd, struct conn_share *share)
{
    struct http_server_conn *c = XNEW(struct http_server_conn);
    c->server = s;
    c->share = share;
    sbuf_init(&c->in, s->o.max_head_bytes + PIPELINED_MAX + SCRATCH_BYTES);
    sbuf_init(&c->body_bytes, s->o.max_body_bytes);
    sbuf_init(&c->head, RESPONSE_HEAD_MAX);
    sbuf_init(&c->out, SIZE_MAX / 4);
    timer_init(&c->timer, s->loop, on_timer, c);
    if (conn_new(s->loop, fd, s->tls, true, NULL, on_ready, c, &c->conn, NULL) < 0) {
        conn_shares_give(s->o.shares, share);
        mem_free(c);
        return;
    }
    LIST_INSERT_HEAD(&s->conns, c, link);
    server_conn_count(s, 1);
    set_timer(c, MIN(s->o.head_timeout_ms, s->o.idle_timeout_ms)); /* the first byte, with TLS of the first head: who says nothing is no client that may come back */
    conn_want(c->conn, FD_READ);
}
