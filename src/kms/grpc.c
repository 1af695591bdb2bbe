#include "kms/grpc.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <sys/queue.h>

#include "base/clock.h"
#include "base/mem.h"

#define PATH_MAX_BYTES 128
#define HEAD_MAX 8192u
#define PREFIX_BYTES 5 /* of a message: compressed?, length */
#define WHY_MAX 200

struct call {
    LIST_ENTRY(call) link;
    struct grpc_conn *c;
    int32_t id;
    uint64_t began_ms;
    char path[PATH_MAX_BYTES];
    bool post, grpc, path_long, too_large, answered;
    struct sbuf body, out;
    size_t off;
    enum grpc_status status;
};

struct grpc_conn {
    nghttp2_session *session;
    LIST_HEAD(, call) calls;
    size_t count;
    enum grpc_status (*answer)(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why);
    void *arg;
};

static nghttp2_nv pair(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static void call_free(struct call *k)
{
    LIST_REMOVE(k, link);
    k->c->count--;
    if (k->body.ptr)
        mem_wipe(k->body.ptr, k->body.cap);
    if (k->out.ptr)
        mem_wipe(k->out.ptr, k->out.cap);
    sbuf_deinit(&k->body);
    sbuf_deinit(&k->out);
    mem_free(k);
}

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source, void *user UNUSED)
{
    struct call *k = source->ptr;
    size_t n = MIN(len, k->out.len - k->off);
    memcpy(buf, k->out.ptr + k->off, n);
    k->off += n;
    if (k->off == k->out.len) {
        const nghttp2_nv trailer = pair("grpc-status", "0");
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(session, id, &trailer, 1) != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return (ssize_t)n;
}

/* grpc-message is percent-encoded; what we say is plain but for what was asked. */
static void encode_why(const char *why, char out[WHY_MAX])
{
    size_t n = 0;
    for (const char *p = why; *p && n + 4 < WHY_MAX; p++) {
        if (*p >= ' ' && *p <= '~' && *p != '%')
            out[n++] = *p;
        else
            n += (size_t)snprintf(out + n, 4, "%%%02X", (unsigned char)*p);
    }
    out[n] = 0;
}

static int refuse(struct call *k, enum grpc_status status, const char *why)
{
    char code[8], text[WHY_MAX];
    snprintf(code, sizeof(code), "%d", status);
    encode_why(why, text);
    const nghttp2_nv head[] = {pair(":status", "200"), pair("content-type", "application/grpc"), pair("grpc-status", code), pair("grpc-message", text)};
    k->answered = true;
    return nghttp2_submit_response(k->c->session, k->id, head, ARRAY_LEN(head), NULL);
}

static int give_answer(struct call *k)
{
    struct err why = ERR_INIT;
    char prefix[PREFIX_BYTES] = {0};
    struct str body = sbuf_str(&k->body);
    const unsigned char *b = (const unsigned char *)body.ptr;
    if (k->answered)
        return 0;
    if (!k->post || !k->grpc) {
        const nghttp2_nv head[] = {pair(":status", k->post ? "415" : "405")};
        k->answered = true;
        return nghttp2_submit_response(k->c->session, k->id, head, ARRAY_LEN(head), NULL);
    }
    if (k->too_large)
        return refuse(k, GRPC_EXHAUSTED, "the message is too large");
    if (body.len < PREFIX_BYTES || ((size_t)b[1] << 24 | (size_t)b[2] << 16 | (size_t)b[3] << 8 | b[4]) != body.len - PREFIX_BYTES)
        return refuse(k, GRPC_INVALID_ARGUMENT, "expected one whole message");
    if (b[0])
        return refuse(k, GRPC_UNIMPLEMENTED, "compressed messages are not taken");
    sbuf_add(&k->out, str_n(prefix, sizeof(prefix)));
    enum grpc_status status = k->path_long ? GRPC_UNIMPLEMENTED : k->c->answer(k->c->arg, str_of(k->path), str_skip(body, PREFIX_BYTES), &k->out, &why);
    if (status == GRPC_OK && !sbuf_ok(&k->out)) {
        status = GRPC_INTERNAL;
        (void)!err_set(&why, ERR_TOO_LARGE, "the answer is too large");
    }
    if (status != GRPC_OK)
        return refuse(k, status, why.code ? why.msg : "there is no such method");
    size_t n = k->out.len - PREFIX_BYTES;
    for (int i = 0; i < 4; i++)
        k->out.ptr[1 + i] = (char)(n >> (24 - 8 * i));
    const nghttp2_nv head[] = {pair(":status", "200"), pair("content-type", "application/grpc")};
    nghttp2_data_provider data = {.source.ptr = k, .read_callback = read_out};
    k->answered = true;
    return nghttp2_submit_response(k->c->session, k->id, head, ARRAY_LEN(head), &data);
}

/* ---- callbacks ---- */

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct grpc_conn *c = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct call *k = XNEW(struct call);
    *k = (struct call){.c = c, .id = frame->hd.stream_id, .began_ms = clock_mono_ms()};
    sbuf_init(&k->body, GRPC_MESSAGE_MAX + PREFIX_BYTES);
    sbuf_init(&k->out, GRPC_MESSAGE_MAX);
    LIST_INSERT_HEAD(&c->calls, k, link);
    c->count++;
    nghttp2_session_set_stream_user_data(session, k->id, k);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags UNUSED, void *user UNUSED)
{
    struct call *k = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    struct str n = str_n(name, name_len), v = str_n(value, value_len);
    if (!k)
        return 0;
    if (str_eqc(n, ":path"))
        k->path_long = !str_to_array(v, k->path, sizeof(k->path));
    else if (str_eqc(n, ":method"))
        k->post = str_eqc(v, "POST");
    else if (str_eqc(n, "content-type"))
        k->grpc = str_starts(v, STR("application/grpc"));
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags UNUSED, int32_t id, const uint8_t *data, size_t len, void *user UNUSED)
{
    struct call *k = nghttp2_session_get_stream_user_data(session, id);
    if (!k || k->too_large)
        return 0;
    sbuf_add(&k->body, str_n(data, len));
    k->too_large = !sbuf_ok(&k->body);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user UNUSED)
{
    bool last = (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct call *k = last ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id) : NULL;
    return k && give_answer(k) != 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code UNUSED, void *user UNUSED)
{
    struct call *k = nghttp2_session_get_stream_user_data(session, id);
    if (k)
        call_free(k);
    return 0;
}

/* ---- life ---- */

struct grpc_conn *grpc_conn_new(enum grpc_status (*answer)(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why), void *arg)
{
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, GRPC_STREAMS_MAX}, {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEAD_MAX}};
    nghttp2_session_callbacks *cb = NULL;
    struct grpc_conn *c = XNEW(struct grpc_conn);
    *c = (struct grpc_conn){.answer = answer, .arg = arg};
    LIST_INIT(&c->calls);
    if (nghttp2_session_callbacks_new(&cb) == 0) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin);
        nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
        nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
        nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
        if (nghttp2_session_server_new(&c->session, cb, c) == 0 && nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) == 0) {
            nghttp2_session_callbacks_del(cb);
            return c;
        }
        nghttp2_session_callbacks_del(cb);
    }
    grpc_conn_free(c);
    return NULL;
}

void grpc_conn_free(struct grpc_conn *c)
{
    if (!c)
        return;
    struct call *k;
    while ((k = LIST_FIRST(&c->calls)))
        call_free(k);
    nghttp2_session_del(c->session);
    mem_free(c);
}

int grpc_feed(struct grpc_conn *c, struct str bytes, struct err *err)
{
    ssize_t n = nghttp2_session_mem_recv(c->session, (const uint8_t *)bytes.ptr, bytes.len);
    return n < 0 ? err_set(err, ERR_PROTOCOL, "%s", nghttp2_strerror((int)n)) : 0;
}

bool grpc_take(struct grpc_conn *c, struct sbuf *out, size_t max)
{
    while (out->len < max) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        if (n < 0)
            return false;
        if (n == 0)
            return true;
        sbuf_add(out, str_n(data, (size_t)n));
        if (!sbuf_ok(out))
            return false;
    }
    return true;
}

bool grpc_over(const struct grpc_conn *c)
{
    return !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
}

size_t grpc_expire(struct grpc_conn *c, uint64_t began_before_ms)
{
    struct call *k;
    LIST_FOREACH (k, &c->calls, link)
        if (!k->answered && k->began_ms < began_before_ms)
            (void)!refuse(k, GRPC_DEADLINE, "the call came too slowly");
    return c->count;
}
