/* Answers: heads, whole bodies, streams; queueing what the kernel does not take. */
#include "base/clock.h"
#include "base/mem.h"
#include "net/http_server_internal.h"

#define LOW_WATER_DIVISOR 4
#define SKIPPED_BODY_MAX (64 * 1024)
#define USUAL_HEAD_BYTES 511 /* more than most heads have */

static void build_head(struct http_server_conn *c, int status, const char *type, const struct http_out_header *headers, size_t count, int64_t length)
{
    struct sbuf *h = &c->head;
    if (c->server->draining)
        c->close_after = true;
    sbuf_reserve(h, USUAL_HEAD_BYTES);
    sbuf_add(h, STR("HTTP/1.1 "));
    sbuf_add_u64(h, (uint64_t)status);
    sbuf_add_char(h, ' ');
    sbuf_addc(h, http_status_text(status));
    sbuf_add(h, STR("\r\n"));
    http_add_field(h, STR("Date"), str_of(http_date_text()));
    if (c->server->o.server_name)
        http_add_field(h, STR("Server"), str_of(c->server->o.server_name));
    if (type)
        http_add_field(h, STR("Content-Type"), str_of(type));
    if (c->req->id[0])
        http_add_field(h, STR("X-Request-Id"), str_of(c->req->id));
    for (size_t i = 0; i < count; i++) {
        /* A value that would break out of its line is not sent. */
        if (memchr(headers[i].value.ptr, '\n', headers[i].value.len) || memchr(headers[i].value.ptr, '\r', headers[i].value.len))
            continue;
        http_add_field(h, str_of(headers[i].name), headers[i].value);
    }
    if (length >= 0 && !http_status_has_no_body(status))
        http_add_length(h, (uint64_t)length);
    else if (c->chunked)
        sbuf_addc(h, "Transfer-Encoding: chunked\r\n");
    if (c->close_after || c->body_unread)
        sbuf_addc(h, "Connection: close\r\n");
    else if (c->req->head.minor_version == 0)
        sbuf_addc(h, "Connection: keep-alive\r\n");
    sbuf_addc(h, "\r\n");
}

static size_t queued(const struct http_server_conn *c)
{
    return c->out.len - c->out_off;
}

/* Sends iov, behind what is queued; what the kernel does not take is queued. False: the connection has failed, or the
 * answer cannot be sent. */
static bool send_iov(struct http_server_conn *c, struct iovec *iov, int count)
{
    if (!sbuf_ok(&c->head))
        return false; /* without its end the head would swallow the body */
    if (!queued(c) && !c->hold.on) {
        ssize_t n = conn_writev(c->conn, iov, count);
        if (n == CONN_FAILED)
            return false;
        while (n > 0 && count > 0) {
            size_t step = MIN((size_t)n, iov->iov_len);
            iov->iov_base = (char *)iov->iov_base + step;
            iov->iov_len -= step;
            n -= (ssize_t)step;
            if (!iov->iov_len)
                iov++, count--;
        }
    }
    bool was_empty = !queued(c);
    for (; count > 0; iov++, count--)
        sbuf_add(&c->out, str_n(iov->iov_base, iov->iov_len));
    if (!sbuf_ok(&c->out))
        return false;
    if (was_empty && queued(c) && !c->hold.on) {
        server_conn_watch_progress(c);
        server_conn_want(c);
    }
    return true;
}

static void failed(struct http_server_conn *c)
{
    /* Not from inside the handler's own call: it hears of it from the loop, as of any other loss. */
    conn_set_abort(c->conn);
    server_hold_off(c->server, &c->hold);
    sbuf_reset(&c->out);
    c->out_off = 0;
    timer_start(&c->timer, 0);
    c->progress_ms = 0;
    c->out.failed = false;
    sbuf_add_char(&c->out, 0); /* something is owed: the timer sees no progress and aborts */
}

void server_conn_flush(struct http_server_conn *c)
{
    if (c->hold.on)
        return;
    if (queued(c)) {
        struct iovec iov = {c->out.ptr + c->out_off, queued(c)};
        ssize_t n = conn_writev(c->conn, &iov, 1);
        if (n == CONN_AGAIN)
            return;
        if (n == CONN_FAILED) {
            server_conn_abort(c);
            return;
        }
        c->out_off += (size_t)n;
        c->progress_ms = clock_mono_ms();
    }
    if (queued(c)) {
        if (c->out_off > c->out.len / 2) {
            sbuf_consume(&c->out, c->out_off);
            c->out_off = 0;
        }
    } else {
        sbuf_reset(&c->out);
        c->out_off = 0;
        if (c->state == CONN_SENDING) {
            server_conn_finish(c);
            return;
        }
        server_conn_want(c);
    }
    if (c->over_high && queued(c) <= c->server->o.high_water_bytes / LOW_WATER_DIVISOR && c->state == CONN_HANDLING) {
        c->over_high = false;
        if (c->server->ops->on_drain)
            c->server->ops->on_drain(c->server->ctx, c->req);
    }
}

static bool may_answer(const struct http_request *r)
{
    const struct http_server_conn *c = r->conn;
    return !c->dead && c->state != CONN_LINGER && c->state != CONN_SENDING && !c->ended;
}

/* Everything is handed over; finishes at once when nothing is queued. */
static void complete(struct http_server_conn *c)
{
    c->ended = true;
    c->state = CONN_SENDING;
    if (!queued(c) && !c->hold.on)
        server_conn_finish(c);
}

static void respond(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count,
                  struct str body)
{
    struct http_server_conn *c = r->conn;
    if (!may_answer(r) || c->started)
        return;
    c->started = true;
    c->no_body = c->no_body || http_status_has_no_body(status);
    build_head(c, status, content_type, headers, header_count, (int64_t)body.len);
    struct iovec iov[2] = {{c->head.ptr, c->head.len}, {(char *)(uintptr_t)body.ptr, body.len}};
    bool ok = send_iov(c, iov, c->no_body || !body.len ? 1 : 2);
    sbuf_reset(&c->head);
    if (!ok)
        failed(c);
    complete(c);
}

static void respond_start(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t header_count)
{
    struct http_server_conn *c = r->conn;
    if (!may_answer(r) || c->started)
        return;
    c->started = true;
    c->no_body = c->no_body || http_status_has_no_body(status);
    c->chunked = r->head.minor_version == 1 && !c->no_body;
    if (!c->chunked && !c->no_body)
        c->close_after = true;
    build_head(c, status, content_type, headers, header_count, -1);
}

static bool write_bytes(struct http_request *r, struct str bytes)
{
    struct http_server_conn *c = r->conn;
    if (!may_answer(r) || !c->started)
        return true;
    struct iovec iov[4];
    char size[24];
    int n = 0;
    if (c->head.len)
        iov[n++] = (struct iovec){c->head.ptr, c->head.len};
    if (bytes.len && !c->no_body) {
        if (c->chunked)
            iov[n++] = (struct iovec){size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", bytes.len)};
        iov[n++] = (struct iovec){(char *)(uintptr_t)bytes.ptr, bytes.len};
        if (c->chunked)
            iov[n++] = (struct iovec){(char *)(uintptr_t) "\r\n", 2};
    }
    if (n && !send_iov(c, iov, n))
        failed(c);
    sbuf_reset(&c->head);
    c->over_high = c->over_high || queued(c) > c->server->o.high_water_bytes;
    return !c->over_high;
}

static void respond_end(struct http_request *r)
{
    struct http_server_conn *c = r->conn;
    if (!may_answer(r) || !c->started)
        return;
    struct iovec iov[2];
    int n = 0;
    if (c->head.len)
        iov[n++] = (struct iovec){c->head.ptr, c->head.len};
    if (c->chunked)
        iov[n++] = (struct iovec){(char *)(uintptr_t) "0\r\n\r\n", 5};
    if (n && !send_iov(c, iov, n))
        failed(c);
    sbuf_reset(&c->head);
    complete(c);
}

static void respond_abort(struct http_request *r)
{
    struct http_server_conn *c = r->conn;
    if (c->dead || c->state == CONN_LINGER)
        return;
    c->req->user = NULL;
    c->state = CONN_LINGER; /* no more calls to the handler */
    conn_set_abort(c->conn);
    server_conn_abort(c);
}

static size_t queued_bytes(const struct http_request *r)
{
    return queued((const struct http_server_conn *)r->conn);
}

static struct conn *conn_of(struct http_request *r)
{
    return ((struct http_server_conn *)r->conn)->conn;
}

static void let_go(struct server_hold *h)
{
    server_conn_release(CONTAINER_OF(h, struct http_server_conn, hold));
}

static bool hold(struct http_request *r)
{
    struct http_server_conn *c = r->conn;
    if (!may_answer(r))
        return false;
    server_hold_on(c->server, &c->hold, let_go);
    return true;
}

/* Who waits for "100 Continue" may send the body or not (RFC 9110, 10.1.1): nobody knows where the next head begins. */
static void skip_body(struct http_request *r)
{
    struct http_server_conn *c = r->conn;
    bool is_short = r->head.content_length > 0 && r->head.content_length <= SKIPPED_BODY_MAX;
    if (c->state != CONN_BODY || c->body || c->started || !is_short || r->head.expect_continue)
        return;
    c->skip = (size_t)r->head.content_length;
    c->body_unread = false;
}

const struct http_carrier http1_carrier = {respond, respond_start, write_bytes, respond_end, respond_abort, queued_bytes, conn_of, hold, skip_body};

/* An answer of the server's own; the handler never sees the request, or sees it end by on_abort. */
void server_conn_error(struct http_server_conn *c, int status, const char *msg)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    const char *type = "text/plain; charset=utf-8";
    sbuf_init(&body, 16 * 1024);
    if (!c->req) { /* the head timed out half-way */
        c->req = server_request_new(c->server, &http1_carrier, c);
        c->req->id = "";
    }
    bool handler_knows = c->state == CONN_BODY && c->server->ops->on_head;
    c->close_after = true;
    if (c->server->ops->write_error)
        c->server->ops->write_error(c->server->ctx, c->req, status, msg, &body, &type);
    else
        sbuf_addf(&body, "%s\n", msg);
    if (handler_knows) {
        c->state = CONN_LINGER; /* the handler may answer in on_abort: it is not heard */
        if (c->server->ops->on_abort)
            c->server->ops->on_abort(c->server->ctx, c->req);
    }
    c->unheard = c->started = true;
    build_head(c, status, type, NULL, 0, (int64_t)body.len);
    struct iovec iov[2] = {{c->head.ptr, c->head.len}, {body.ptr, body.len}};
    bool ok = send_iov(c, iov, c->no_body ? 1 : 2);
    sbuf_reset(&c->head);
    c->ended = true;
    if (!ok) {
        c->state = CONN_LINGER;
        server_conn_abort(c);
        return;
    }
    c->state = CONN_SENDING;
    if (!queued(c))
        server_conn_finish(c);
}
