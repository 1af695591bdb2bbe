/* HTTP/2 connections of the server, on nghttp2: framing, HPACK, flow control and the checks of RFC 9113 are its; requests, caps, times and back-pressure are ours.
 *
 * A stream is a request. nghttp2 never touches the socket: what arrives is fed to it, what it wants to send is taken while little waits for the kernel.
 * nghttp2's callbacks call the handler, which may answer from there; a connection is freed only from its own timer, never under a handler.
 * Hostile peers: at most STREAMS_MAX at once, heads and bodies under the server's caps, all bodies of a connection together under BODIES_MAX times the cap of one,
 * no more than RESETS_MAX cancelled requests a second ("rapid reset"), a stream that is not read for write_timeout_ms is reset.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "net/http_server_internal.h"

#include <ctype.h>
#include <nghttp2/nghttp2.h>

#define STREAMS_MAX 250
#define BODIES_MAX 4
#define RESETS_MAX 300
#define OUT_MAX (256 * 1024) /* waits for the kernel; streams keep their own */
#define SCRATCH_BYTES (64 * 1024)
#define READS_AT_ONCE 4
#define WRITES_AT_ONCE 4
#define TICK_MAX_MS 5000
#define TICK_MIN_MS 100
#define WINDOW_BYTES (1024 * 1024) /* of the connection; streams have the protocol's 64 KiB */
#define HEADERS_OUT_MAX 120

struct http2_stream {
    LIST_ENTRY(http2_stream) link;
    struct http2_conn *c;
    int32_t id;
    struct http_request *req;
    size_t head_bytes, body_max, body_taken;
    struct sbuf body, out;
    size_t out_off;
    uint64_t since_ms, progress_ms;
    bool heard;    /* the handler knows of the request, and is owed on_done or on_abort */
    bool head_ok, headers_too_large;
    bool body_ended, handling; /* the handler has it */
    bool started, ended, sent, no_body, deferred, over_high;
    bool closed; /* by the peer or by a reset; the handler does not know yet */
};

struct http2_conn {
    LIST_ENTRY(http2_conn) link;
    struct http_server *server;
    struct conn *conn;
    struct conn_share *share; /* NULL: its address has none */
    nghttp2_session *session;
    LIST_HEAD(, http2_stream) streams;
    size_t stream_count, bodies_bytes;
    struct sbuf out;
    size_t out_off;
    struct timer timer;
    uint64_t idle_since_ms, out_progress_ms;
    uint64_t resets_since_ms;
    unsigned resets;
    bool spoke;     /* a stream has begun, once */
    bool taking_in; /* frames are being taken in: flushing waits */
    bool sending, failed;
    struct server_hold hold;
};

static const struct http_carrier http2_carrier;
static void flush(struct http2_conn *c);

/* ---- life of connections and streams ---- */

static void stream_free(struct http2_stream *st)
{
    struct http2_conn *c = st->c;
    LIST_REMOVE(st, link);
    c->stream_count--;
    c->bodies_bytes -= st->body.len;
    if (!c->stream_count)
        c->idle_since_ms = clock_mono_ms();
    server_request_free(c->server, st->req);
    sbuf_deinit(&st->body);
    sbuf_deinit(&st->out);
    mem_free(st);
}

/* The request ended before its answer did. */
static void stream_lost(struct http2_stream *st)
{
    const struct http_server *s = st->c->server;
    bool owed = st->heard;
    st->heard = false;
    st->ended = true;
    if (owed && s->ops->on_abort)
        s->ops->on_abort(s->ctx, st->req);
}

static void conn2_free(struct http2_conn *c)
{
    struct http_server *s = c->server;
    struct http2_stream *st;
    c->failed = true;
    server_hold_off(s, &c->hold);
    timer_stop(&c->timer);
    conn_want(c->conn, 0);
    while ((st = LIST_FIRST(&c->streams))) {
        stream_lost(st);
        stream_free(st);
    }
    LIST_REMOVE(c, link);
    server_conn_count(s, -1);
    nghttp2_session_del(c->session);
    conn_free(c->conn);
    conn_shares_give(s->o.shares, c->share);
    sbuf_deinit(&c->out);
    mem_free(c);
    server_conn_gone(s);
}

/* The connection is of no more use; it goes when no handler is on the stack. */
static void fail(struct http2_conn *c)
{
    c->failed = true;
    conn_want(c->conn, 0);
    timer_start(&c->timer, 0);
}

static uint64_t tick_ms(const struct http2_conn *c)
{
    const struct http_server_options *o = &c->server->o;
    uint64_t least = MIN(MIN(o->body_timeout_ms, o->write_timeout_ms), o->idle_timeout_ms) / 4;
    return MAX(MIN(least, (uint64_t)TICK_MAX_MS), (uint64_t)TICK_MIN_MS);
}

static void reset_stream(struct http2_stream *st, uint32_t code)
{
    nghttp2_submit_rst_stream(st->c->session, NGHTTP2_FLAG_NONE, st->id, code);
}

/* ---- errors that the server itself answers ---- */

static void answer_error(struct http2_stream *st, int status, const char *msg)
{
    const struct http_server *s = st->c->server;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    const char *type = "text/plain; charset=utf-8";
    sbuf_init(&body, 16 * 1024);
    stream_lost(st);
    st->ended = false;
    if (s->ops->write_error)
        s->ops->write_error(s->ctx, st->req, status, msg, &body, &type);
    else
        sbuf_addf(&body, "%s\n", msg);
    http2_carrier.respond(st->req, status, type, NULL, 0, sbuf_str(&body));
}

/* ---- what arrives ---- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct http2_conn *c = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct http2_stream *st = XNEW(struct http2_stream);
    *st = (struct http2_stream){.c = c, .id = frame->hd.stream_id, .body_max = c->server->o.max_body_bytes, .since_ms = clock_mono_ms()};
    st->progress_ms = st->since_ms;
    st->req = server_request_new(c->server, &http2_carrier, st);
    st->req->head = (struct http_head){.is_request = true, .minor_version = 1, .keep_alive = true, .content_length = -1, .headers = ARENA_ARRAY(st->req->arena, struct http_header, HTTP_HEADERS_MAX)};
    sbuf_init(&st->body, c->server->o.max_body_bytes);
    sbuf_init(&st->out, SIZE_MAX / 4);
    LIST_INSERT_HEAD(&c->streams, st, link);
    c->stream_count++;
    c->spoke = true;
    nghttp2_session_set_stream_user_data(session, st->id, st);
    return 0;
}

static void add_header(struct http2_stream *st, struct str name, struct str value)
{
    struct http_head *h = &st->req->head;
    if (h->header_count == HTTP_HEADERS_MAX) {
        st->headers_too_large = true;
        return;
    }
    h->headers[h->header_count++] = (struct http_header){arena_str(st->req->arena, name), arena_str(st->req->arena, str_trim(value))};
}

/* nghttp2 has checked names, values, pseudo-headers and their order (RFC 9113, 8.2 and 8.3). */
static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name_bytes, size_t name_len, const uint8_t *value_bytes, size_t value_len,
                     uint8_t flags UNUSED, void *user)
{
    struct http2_conn *c = user;
    struct http2_stream *st = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    struct str name = str_n(name_bytes, name_len), value = str_n(value_bytes, value_len);
    if (!st || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0; /* trailers are dropped */
    struct http_head *h = &st->req->head;
    st->head_bytes += name.len + value.len + 32; /* as RFC 9113 counts SETTINGS_MAX_HEADER_LIST_SIZE */
    if (st->head_bytes > c->server->o.max_head_bytes)
        st->headers_too_large = true;
    if (st->headers_too_large)
        return 0;
    if (str_eqc(name, ":method"))
        h->method = arena_str(st->req->arena, value);
    else if (str_eqc(name, ":path"))
        h->target = arena_str(st->req->arena, value);
    else if (str_eqc(name, ":authority"))
        add_header(st, STR("host"), value);
    else if (str_eqc(name, "host"))
        (void)(http_header_get(h, "host").ptr ? (void)0 : add_header(st, name, value));
    else if (str_eqc(name, "content-length"))
        st->headers_too_large |= str_to_i64(value, 0, INT64_MAX, &h->content_length) < 0;
    else if (name.ptr[0] != ':')
        add_header(st, name, value);
    return 0;
}

static void call_handler(struct http2_stream *st)
{
    st->handling = st->heard = true;
    if (st->body.len)
        st->req->body = sbuf_str(&st->body);
    st->c->server->ops->on_request(st->c->server->ctx, st->req);
}

static void say_continue(struct http2_stream *st)
{
    static uint8_t name[] = ":status", value[] = "100";
    const nghttp2_nv nv = {name, value, sizeof(name) - 1, sizeof(value) - 1, NGHTTP2_NV_FLAG_NONE};
    if (str_ieq(http_header_get(&st->req->head, "expect"), STR("100-continue")))
        nghttp2_submit_headers(st->c->session, NGHTTP2_FLAG_NONE, st->id, NULL, &nv, 1, NULL);
}

static void begin_request(struct http2_stream *st, bool ended)
{
    struct http_server *s = st->c->server;
    struct err err = ERR_INIT;
    st->body_ended = ended;
    st->no_body = str_eqc(st->req->head.method, "HEAD");
    if (st->headers_too_large) {
        answer_error(st, 431, "the head is larger than this server accepts");
    } else if (http_target_split(&st->req->head, &err) < 0) {
        answer_error(st, 400, err.msg);
    } else {
        st->head_ok = true;
        st->heard = s->ops->on_head != NULL;
        if (s->ops->on_head && s->ops->on_head(s->ctx, st->req, &st->body_max) < 0)
            return; /* answered */
        st->body.max = MIN(st->body_max, SIZE_MAX / 4);
        if (st->req->head.content_length > 0 && (uint64_t)st->req->head.content_length > st->body_max)
            answer_error(st, 413, "the body is larger than this server accepts");
        else if (ended)
            call_handler(st);
        else
            say_continue(st);
    }
}

/* A stream whose answer is on its way, or that waits for nothing more, hears no more of its body. */
static bool wants_body(const struct http2_stream *st)
{
    return st && st->head_ok && !st->handling && !st->started && !st->ended;
}

static int on_data(nghttp2_session *session, uint8_t flags UNUSED, int32_t id, const uint8_t *data, size_t len, void *user)
{
    struct http2_conn *c = user;
    struct http2_stream *st = nghttp2_session_get_stream_user_data(session, id);
    if (!wants_body(st))
        return 0;
    st->progress_ms = clock_mono_ms();
    if (st->body.len + len > st->body_max) {
        answer_error(st, 413, "the body is larger than this server accepts");
        return 0;
    }
    c->bodies_bytes -= st->body.len;
    sbuf_add(&st->body, str_n(data, len));
    c->bodies_bytes += st->body.len;
    if (!sbuf_ok(&st->body) || c->bodies_bytes > BODIES_MAX * MAX(st->body_max, c->server->o.max_body_bytes))
        answer_error(st, 503, "too much is being sent on this connection at once");
    return 0;
}

/* Clients may cancel; one that does little else makes us work for nothing. */
static bool resets_too_often(struct http2_conn *c)
{
    uint64_t now = clock_mono_ms();
    if (now - c->resets_since_ms > 1000) {
        c->resets_since_ms = now;
        c->resets = 0;
    }
    return ++c->resets > RESETS_MAX;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct http2_conn *c = user;
    bool ended = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct http2_stream *st = frame->hd.stream_id ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id) : NULL;
    if (!st) /* gone: a client may reset it once more for each frame that was on its way */
        return 0;
    if (frame->hd.type == NGHTTP2_RST_STREAM && resets_too_often(c)) {
        nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
        return 0;
    }
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        begin_request(st, ended);
    } else if (ended && (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS)) {
        st->body_ended = true;
        if (wants_body(st))
            call_handler(st);
    }
    return 0;
}

/* The handler may be on the stack, in the middle of an answer: it hears of the loss from the loop. */
static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code UNUSED, void *user)
{
    struct http2_conn *c = user;
    struct http2_stream *st = nghttp2_session_get_stream_user_data(session, id);
    if (!st)
        return 0;
    if (!st->heard) {
        stream_free(st);
        return 0;
    }
    st->closed = st->ended = true;
    timer_start(&c->timer, 0);
    return 0;
}

static void reap(struct http2_conn *c)
{
    struct http2_stream *st = LIST_FIRST(&c->streams);
    while (st) {
        if (st->closed) {
            stream_lost(st);
            stream_free(st);
            st = LIST_FIRST(&c->streams); /* the handler may have ended others */
        } else {
            st = LIST_NEXT(st, link);
        }
    }
}

/* ---- what leaves ---- */

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct http2_conn *c = user;
    struct http2_stream *st = frame->hd.stream_id ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id) : NULL;
    /* Resets that a client makes the server send cost as much as its own. */
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR && resets_too_often(c))
        nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
    bool data_or_head = frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS;
    if (!st || !data_or_head || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) || st->sent)
        return 0;
    bool heard = st->heard;
    st->sent = true;
    st->heard = false;
    if (heard && c->server->ops->on_done)
        c->server->ops->on_done(c->server->ctx, st->req);
    if (!st->body_ended) /* the rest of what it asked is of no interest */
        reset_stream(st, NGHTTP2_NO_ERROR);
    return 0;
}

static size_t waiting(const struct http2_stream *st)
{
    return st->out.len - st->out_off;
}

static ssize_t read_answer(nghttp2_session *session UNUSED, int32_t id UNUSED, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source, void *user UNUSED)
{
    struct http2_stream *st = source->ptr;
    size_t n = MIN(len, waiting(st));
    if (n) {
        memcpy(buf, st->out.ptr + st->out_off, n);
        st->out_off += n;
        st->progress_ms = clock_mono_ms();
    }
    if (!waiting(st)) {
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
            fail(c);
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
        if (st->over_high && st->heard && !st->ended && waiting(st) <= c->server->o.high_water_bytes / 4) {
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
    while (!c->failed && c->out.len < OUT_MAX) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        if (n < 0) {
            fail(c);
            return false;
        }
        if (n == 0)
            break;
        sbuf_add(&c->out, str_n(data, (size_t)n));
        if (!sbuf_ok(&c->out)) { /* a frame lost is a connection lost */
            fail(c);
            return false;
        }
        any = true;
    }
    return any;
}

static void flush(struct http2_conn *c)
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
        fail(c);
        return;
    }
    conn_want(c->conn, FD_READ | (c->out.len > c->out_off ? FD_WRITE : 0));
}

static void on_ready2(void *arg, int events)
{
    static __thread char scratch[SCRATCH_BYTES];
    struct http2_conn *c = arg;
    for (int i = 0; (events & FD_READ) && i < READS_AT_ONCE && !c->failed; i++) {
        ssize_t n = conn_read(c->conn, scratch, sizeof(scratch));
        if (n == CONN_AGAIN)
            break;
        if (n <= 0) {
            fail(c);
            return;
        }
        c->taking_in = true;
        ssize_t used = nghttp2_session_mem_recv(c->session, (const uint8_t *)scratch, (size_t)n);
        c->taking_in = false;
        if (used < 0) {
            fail(c);
            return;
        }
        if ((size_t)n < sizeof(scratch))
            break;
    }
    if (!(events & FD_WRITE) || server_may_flush(c->server))
        flush(c);
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
        fail(st->c);
}

static void resume(struct http2_stream *st)
{
    if (st->deferred && !st->no_body) {
        st->deferred = false;
        nghttp2_session_resume_data(st->c->session, st->id);
    }
    flush(st->c);
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
    flush(st->c);
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
        if (!waiting(st))
            st->progress_ms = clock_mono_ms();
        sbuf_add(&st->out, bytes);
    }
    st->over_high = st->over_high || waiting(st) > st->c->server->o.high_water_bytes;
    bool fits = !st->over_high;
    struct http2_conn *c = st->c;
    if (bytes.len && st->deferred && !st->no_body) {
        st->deferred = false;
        nghttp2_session_resume_data(c->session, st->id);
    }
    flush(c);
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
    reset_stream(st, NGHTTP2_INTERNAL_ERROR);
    flush(st->c);
}

static size_t queued_bytes(const struct http_request *r)
{
    return waiting((const struct http2_stream *)r->conn);
}

static struct conn *conn_of(struct http_request *r)
{
    return ((struct http2_stream *)r->conn)->c->conn;
}

static void let_go(struct server_hold *h)
{
    flush(CONTAINER_OF(h, struct http2_conn, hold));
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

static const struct http_carrier http2_carrier = {respond, respond_start, write_answer, respond_end, respond_abort, queued_bytes, conn_of, hold};

/* ---- time ---- */

static void check_streams(struct http2_conn *c, uint64_t now)
{
    const struct http_server_options *o = &c->server->o;
    struct http2_stream *st = LIST_FIRST(&c->streams), *next;
    for (; st; st = next) {
        next = LIST_NEXT(st, link);
        uint64_t quiet = now - st->progress_ms;
        if (st->started && waiting(st) && quiet >= o->write_timeout_ms)
            reset_stream(st, NGHTTP2_CANCEL); /* its client does not read; on_abort comes with the close */
        else if (!st->head_ok && !st->started && now - st->since_ms >= o->head_timeout_ms)
            reset_stream(st, NGHTTP2_CANCEL);
        else if (wants_body(st) && !st->body_ended && quiet >= o->body_timeout_ms)
            answer_error(st, 408, "the body came too slowly");
    }
}

static void on_timer(struct timer *t)
{
    struct http2_conn *c = t->arg;
    const struct http_server_options *o = &c->server->o;
    c->taking_in = true;
    reap(c);
    c->taking_in = false;
    uint64_t now = clock_mono_ms(); /* after reap: a stream that went just now began the idle time just now */
    bool stuck = c->out.len > c->out_off && now - c->out_progress_ms >= o->write_timeout_ms;
    uint64_t quiet_ms = c->spoke ? o->idle_timeout_ms : MIN(o->head_timeout_ms, o->idle_timeout_ms);
    bool idle = !c->stream_count && now - c->idle_since_ms >= quiet_ms;
    if (c->failed || stuck) {
        conn2_free(c);
        return;
    }
    timer_start(t, tick_ms(c));
    if (idle)
        nghttp2_session_terminate_session(c->session, NGHTTP2_NO_ERROR);
    c->taking_in = true;
    check_streams(c, now);
    c->taking_in = false;
    flush(c);
}

/* ---- connections ---- */

static int make_session(struct http2_conn *c)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX},
                                         {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)MIN(c->server->o.max_head_bytes, (size_t)UINT32_MAX)}};
    if (nghttp2_session_callbacks_new(&cb) != 0)
        return -1;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    int rc = nghttp2_session_server_new(&c->session, cb, c);
    nghttp2_session_callbacks_del(cb);
    if (rc == 0)
        rc = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings));
    if (rc == 0)
        rc = nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
    return rc;
}

void http2_each_idle(struct http_server *s, bool (*fn)(void *arg, struct conn_share *share), void *arg)
{
    struct http2_conn *c = LIST_FIRST(&s->conns2), *next;
    for (; c; c = next) {
        next = LIST_NEXT(c, link);
        if (!c->stream_count && !c->failed && fn(arg, c->share)) {
            nghttp2_session_terminate_session(c->session, NGHTTP2_NO_ERROR);
            flush(c);
            fail(c);
        }
    }
}

void http2_accept(struct http_server *s, struct conn *conn, struct conn_share *share)
{
    struct http2_conn *c = XNEW(struct http2_conn);
    uint64_t now = clock_mono_ms();
    *c = (struct http2_conn){.server = s, .conn = conn, .share = share, .idle_since_ms = now, .out_progress_ms = now};
    LIST_INIT(&c->streams);
    sbuf_init(&c->out, OUT_MAX + 64 * 1024);
    timer_init(&c->timer, s->loop, on_timer, c);
    LIST_INSERT_HEAD(&s->conns2, c, link);
    server_conn_count(s, 1);
    conn_set_handler(conn, on_ready2, c);
    if (make_session(c) != 0) {
        fail(c);
        return;
    }
    timer_start(&c->timer, tick_ms(c));
    if (s->draining)
        nghttp2_session_terminate_session(c->session, NGHTTP2_NO_ERROR);
    conn_want(conn, FD_READ);
    on_ready2(c, FD_READ);
}

/* New streams are refused, those that run go on; the connection ends with the last. */
void http2_drain_all(struct http_server *s)
{
    struct http2_conn *c = LIST_FIRST(&s->conns2), *next;
    for (; c; c = next) {
        next = LIST_NEXT(c, link);
        nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR, NULL, 0);
        flush(c);
    }
}

void http2_abort_all(struct http_server *s)
{
    struct http2_conn *c;
    while ((c = LIST_FIRST(&s->conns2)))
        conn2_free(c);
}
