/* HTTP/2 connections of the server, on nghttp2: framing, HPACK, flow control and the checks of RFC 9113 are its; requests, caps, times and back-pressure are ours.
 *
 * A stream is a request. nghttp2 never touches the socket: what arrives is fed to it, what it wants to send is taken while little waits for the kernel.
 * nghttp2's callbacks call the handler, which may answer from there; a connection is freed only from its own timer, never under a handler.
 * Hostile peers: at most STREAMS_MAX at once, heads and bodies under the server's caps, all bodies of a connection together under BODIES_MAX times the cap of one,
 * no more than RESETS_MAX cancelled requests a second ("rapid reset"), a stream that is not read for write_timeout_ms is reset.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "net/http2_internal.h"

#define STREAMS_MAX 250
#define BODIES_MAX 4
#define RESETS_MAX 300
#define SCRATCH_BYTES (64 * 1024)
#define READS_AT_ONCE 4
#define TICK_MAX_MS 5000
#define TICK_MIN_MS 100
#define WINDOW_BYTES (1024 * 1024) /* of the connection; streams have the protocol's 64 KiB */

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

static uint64_t tick_ms(const struct http2_conn *c)
{
    const struct http_server_options *o = &c->server->o;
    uint64_t least = MIN(MIN(o->body_timeout_ms, o->write_timeout_ms), o->idle_timeout_ms) / 4;
    return MAX(MIN(least, (uint64_t)TICK_MAX_MS), (uint64_t)TICK_MIN_MS);
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
    st->body_since_ms = clock_mono_ms();
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
    if (c->server->ops->on_body && c->server->ops->on_body(c->server->ctx, st->req, st->body.len + len) < 0)
        return 0; /* answered */
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

/* ---- what has left; the socket ---- */

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
        http2_reset_stream(st, NGHTTP2_NO_ERROR);
    return 0;
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
            http2_fail(c);
            return;
        }
        c->taking_in = true;
        ssize_t used = nghttp2_session_mem_recv(c->session, (const uint8_t *)scratch, (size_t)n);
        c->taking_in = false;
        if (used < 0) {
            http2_fail(c);
            return;
        }
        if ((size_t)n < sizeof(scratch))
            break;
    }
    if (!(events & FD_WRITE) || server_may_flush(c->server))
        http2_flush(c);
}

/* ---- time ---- */

static void check_streams(struct http2_conn *c, uint64_t now)
{
    const struct http_server_options *o = &c->server->o;
    struct http2_stream *st = LIST_FIRST(&c->streams), *next;
    for (; st; st = next) {
        next = LIST_NEXT(st, link);
        uint64_t quiet = now - st->progress_ms;
        if (st->started && http2_waiting(st) && quiet >= o->write_timeout_ms)
            http2_reset_stream(st, NGHTTP2_CANCEL); /* its client does not read; on_abort comes with the close */
        else if (!st->head_ok && !st->started && now - st->since_ms >= o->head_timeout_ms)
            http2_reset_stream(st, NGHTTP2_CANCEL);
        else if (wants_body(st) && !st->body_ended && server_body_is_slow(c->server, now, st->body_since_ms, st->progress_ms, st->body.len))
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
    http2_flush(c);
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
            http2_flush(c);
            http2_fail(c);
        }
    }
}

void http2_accept(struct http_server *s, struct conn *conn, struct conn_share *share)
{
    struct http2_conn *c = XNEW(struct http2_conn);
    uint64_t now = clock_mono_ms();
    *c = (struct http2_conn){.server = s, .conn = conn, .share = share, .idle_since_ms = now, .out_progress_ms = now};
    LIST_INIT(&c->streams);
    sbuf_init(&c->out, HTTP2_OUT_MAX + 64 * 1024);
    timer_init(&c->timer, s->loop, on_timer, c);
    LIST_INSERT_HEAD(&s->conns2, c, link);
    server_conn_count(s, 1);
    conn_set_handler(conn, on_ready2, c);
    if (make_session(c) != 0) {
        http2_fail(c);
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
        http2_flush(c);
    }
}

void http2_abort_all(struct http_server *s)
{
    struct http2_conn *c;
    while ((c = LIST_FIRST(&s->conns2)))
        conn2_free(c);
}
