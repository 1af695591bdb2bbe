/* What leaves a connection of HTTP/2: see http2_internal.h. */
#include "net/http2_internal.h"

#include <ctype.h>

#include "base/clock.h"

#define WRITES_AT_ONCE 4
#define HEADERS_OUT_MAX 120

void http2_fail(struct http2_conn *c)
{
    c->failed = true;
    conn_want(c->conn, 0);
    timer_start(&c->timer, 0);
}

void http2_reset_stream(struct http2_stream *st, uint32_t code)
{
    nghttp2_submit_rst_stream(st->c->session, NGHTTP2_FLAG_NONE, st->id, code);
}

/* ---- bytes ---- */

size_t http2_waiting(const struct http2_stream *st)
{
    return st->out.len - st->out_off;
}

static ssize_t read_answer(nghttp2_session *session UNUSED, int32_t id UNUSED, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source, void *user UNUSED)
{
    struct http2_stream *st = source->ptr;
    size_t n = MIN(len, http2_waiting(st));
    if (n) {
        memcpy(buf, st->out.ptr + st->out_off, n);
        st->out_off += n;
        st->progress_ms = clock_mono_ms();
    }
    if (!http2_waiting(st)) {
        sbuf_reset(&st->out);
        st->out_off = 0;
        if (st->ended)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (st->out_off > st->out.len / 2) {
        sbuf_consume(&st->out, st->out_off);
        st->out_off = 0;
    }
    if (!n && !st->ended) {
        st->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static void write_out(struct http2_conn *c)
{
    for (int i = 0; i < WRITES_AT_ONCE && !c->failed && c->out.len > c->out_off; i++) {
        struct iovec iov = {c->out.ptr + c->out_off, c->out.len - c->out_off};
        ssize_t n = conn_writev(c->conn, &iov, 1);
        if (n == CONN_FAILED) {
            http2_fail(c);
            return;
        }
        if (n == CONN_AGAIN)
            break;
        c->out_off += (size_t)n;
        c->out_progress_ms = clock_mono_ms();
    }
    if (c->out.len == c->out_off) {
        sbuf_reset(&c->out);
        c->out_off = 0;
    }
}

/* Handlers that were told to wait, and may go on. They may end streams: the list is looked at anew. */
static void tell_drained(struct http2_conn *c)
{
    struct http2_stream *st = LIST_FIRST(&c->streams);
    while (st && !c->failed) {
        if (st->over_high && st->heard && !st->ended && http2_waiting(st) <= c->server->o.high_water_bytes / 4) {
            st->over_high = false;
            if (c->server->ops->on_drain)
                c->server->ops->on_drain(c->server->ctx, st->req);
            st = LIST_FIRST(&c->streams);
        } else {
            st = LIST_NEXT(st, link);
        }
    }
}

static bool fill_out(struct http2_conn *c)
{
    bool any = false;
    sbuf_consume(&c->out, c->out_off); /* the cap is on what waits, not on what has left */
    c->out_off = 0;
    while (!c->failed && c->out.len < HTTP2_OUT_MAX) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        if (n < 0) {
            http2_fail(c);
            return false;
        }
        if (n == 0)
            break;
        sbuf_add(&c->out, str_n(data, (size_t)n));
        if (!sbuf_ok(&c->out)) { /* a frame lost is a connection lost */
            http2_fail(c);
            return false;
        }
        any = true;
    }
    return any;
}

void http2_flush(struct http2_conn *c)
{
    if (c->taking_in || c->hold.on || c->sending || c->failed)
        return;
    c->sending = true;
    if (c->out.len == c->out_off)
        c->out_progress_ms = clock_mono_ms();
    do {
        write_out(c);
        bool more = fill_out(c);
        write_out(c);
        tell_drained(c);
        if (!more)
            break;
    } while (!c->failed && c->out.len == c->out_off);
    c->sending = false;
    if (c->failed)
        return;
    if (!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session) && c->out.len == c->out_off) {
        conn_shutdown(c->conn);
        http2_fail(c);
        return;
    }
    conn_want(c->conn, FD_READ | (c->out.len > c->out_off ? FD_WRITE : 0));
}

/* ---- answers ---- */

static bool may_answer(const struct http2_stream *st)
{
    return !st->ended && !st->c->failed;
}

static nghttp2_nv pair(const char *name, struct str value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value.ptr, strlen(name), value.len, NGHTTP2_NV_FLAG_NONE};
}

/* Header names are lower case in HTTP/2; those of HTTP/1.1's connections have no place there. */
static const char *lower_name(struct arena *a, const char *name)
{
    static const char *const hop[] = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length"};
    char *lower = arena_strdup(a, name);
    for (char *p = lower; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    for (size_t i = 0; i < ARRAY_LEN(hop); i++)
        if (!strcmp(lower, hop[i]))
            return NULL;
    return lower;
}

static void submit_head(struct http2_stream *st, int status, const char *type, const struct http_out_header *headers, size_t count, int64_t length)
{
    nghttp2_nv nv[HEADERS_OUT_MAX];
    struct arena *a = st->req->arena;
    size_t n = 0;
    nv[n++] = pair(":status", str_of(arena_printf(a, "%d", status)));
    nv[n++] = pair("date", str_of(http_date_text()));
    if (st->c->server->o.server_name)
        nv[n++] = pair("server", str_of(st->c->server->o.server_name));
    if (type)
        nv[n++] = pair("content-type", str_of(type));
    nv[n++] = pair("x-request-id", str_of(st->req->id));
    if (length >= 0 && !http_status_has_no_body(status))
        nv[n++] = pair("content-length", str_of(arena_printf(a, "%lld", (long long)length)));
    for (size_t i = 0; i < count && n < HEADERS_OUT_MAX; i++) {
        const char *name = lower_name(a, headers[i].name);
        if (name && nghttp2_check_header_value((const uint8_t *)headers[i].value.ptr, headers[i].value.len))
            nv[n++] = pair(name, headers[i].value);
    }
    nghttp2_data_provider body = {.source.ptr = st, .read_callback = read_answer};
    st->started = true;
    if (nghttp2_submit_response(st->c->session, st->id, nv, n, st->no_body ? NULL : &body) != 0)
        http2_fail(st->c);
}

static void resume(struct http2_stream *st)
{
    if (st->deferred && !st->no_body) {
        st->deferred = false;
        nghttp2_session_resume_data(st->c->session, st->id);
    }
    http2_flush(st->c);
}

static void respond(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t count, struct str body)
{
    struct http2_stream *st = r->conn;
    if (!may_answer(st) || st->started)
        return;
    st->no_body = st->no_body || http_status_has_no_body(status);
    if (!st->no_body)
        sbuf_add(&st->out, body);
    st->progress_ms = clock_mono_ms();
    submit_head(st, status, content_type, headers, count, (int64_t)body.len);
    st->ended = true;
    http2_flush(st->c);
}

static void respond_start(struct http_request *r, int status, const char *content_type, const struct http_out_header *headers, size_t count)
{
    struct http2_stream *st = r->conn;
    if (!may_answer(st) || st->started)
        return;
    st->no_body = st->no_body || http_status_has_no_body(status);
    submit_head(st, status, content_type, headers, count, -1); /* leaves with the next flush */
}

static bool write_answer(struct http_request *r, struct str bytes)
{
    struct http2_stream *st = r->conn;
    if (!may_answer(st) || !st->started)
        return true;
    if (bytes.len && !st->no_body) {
        if (!http2_waiting(st))
            st->progress_ms = clock_mono_ms();
        sbuf_add(&st->out, bytes);
    }
    st->over_high = st->over_high || http2_waiting(st) > st->c->server->o.high_water_bytes;
    bool fits = !st->over_high;
    struct http2_conn *c = st->c;
    if (bytes.len && st->deferred && !st->no_body) {
        st->deferred = false;
        nghttp2_session_resume_data(c->session, st->id);
    }
    http2_flush(c);
    return fits;
}

static void respond_end(struct http_request *r)
{
    struct http2_stream *st = r->conn;
    if (!may_answer(st) || !st->started)
        return;
    st->ended = true;
    resume(st);
}

static void respond_abort(struct http_request *r)
{
    struct http2_stream *st = r->conn;
    if (st->c->failed || st->sent)
        return;
    st->heard = false;
    st->ended = true;
    r->user = NULL;
    http2_reset_stream(st, NGHTTP2_INTERNAL_ERROR);
    http2_flush(st->c);
}

static size_t queued_bytes(const struct http_request *r)
{
    return http2_waiting((const struct http2_stream *)r->conn);
}

static struct conn *conn_of(struct http_request *r)
{
    return ((struct http2_stream *)r->conn)->c->conn;
}

static void let_go(struct server_hold *h)
{
    http2_flush(CONTAINER_OF(h, struct http2_conn, hold));
}

/* The whole connection: the bytes of its streams leave in one order. */
static bool hold(struct http_request *r)
{
    struct http2_stream *st = r->conn;
    if (!may_answer(st))
        return false;
    server_hold_on(st->c->server, &st->c->hold, let_go);
    return true;
}

/* Other streams do not mind. */
static void skip_body(struct http_request *r UNUSED)
{
}

const struct http_carrier http2_carrier = {respond, respond_start, write_answer, respond_end, respond_abort, queued_bytes, conn_of, hold, skip_body};
