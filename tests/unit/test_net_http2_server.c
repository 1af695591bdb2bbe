/* The HTTP/2 half of the server, in the test's own time: its client is nghttp2 over a pair of
 * sockets, without TLS. */
#include "net_peer.h"

#include <nghttp2/nghttp2.h>
#include <sys/socket.h>

#include "net/http_server_internal.h"

static struct world {
    struct http_server *server;
    nghttp2_session *session;
    struct peer *peer;
    struct sbuf body; /* waits to be sent; more may follow */
    bool deferred;
    int heads, requests, aborts, status;
    size_t body_bytes;
    bool closed; /* the stream */
} w;

static int on_head(void *ctx, struct http_request *r, size_t *body_max)
{
    (void)ctx;
    (void)body_max;
    w.heads++;
    if (!str_eqc(r->head.path, "/refuse"))
        return 0;
    http_skip_body(r);
    http_respond(r, 429, "text/plain", NULL, 0, STR("later"));
    return ERR_TOO_MANY;
}

static int on_body(void *ctx, struct http_request *r, size_t bytes)
{
    (void)ctx;
    w.body_bytes = bytes;
    if (bytes <= 100 || !str_eqc(r->head.path, "/refuse-late"))
        return 0;
    http_respond(r, 503, "text/plain", NULL, 0, STR("full"));
    return ERR_TOO_MANY;
}

static void on_request(void *ctx, struct http_request *r)
{
    (void)ctx;
    w.requests++;
    http_respond(r, 200, "text/plain", NULL, 0, STR("ok"));
}

static void on_abort(void *ctx, struct http_request *r)
{
    (void)ctx;
    (void)r;
    w.aborts++;
}

static const struct http_server_ops ops = {
    .on_head = on_head, .on_body = on_body, .on_request = on_request, .on_abort = on_abort};

/* ---- the client ---- */

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    int64_t status;
    (void)s, (void)f, (void)flags, (void)user;
    if (str_eqc(str_n(name, name_len), ":status") &&
        str_to_i64(str_n(value, value_len), 100, 599, &status) == 0)
        w.status = (int)status;
    return 0;
}

static int on_close(nghttp2_session *s, int32_t id, uint32_t code, void *user)
{
    (void)s, (void)id, (void)code, (void)user;
    w.closed = true;
    return 0;
}

static ssize_t read_body(nghttp2_session *s, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    (void)s, (void)id, (void)flags, (void)source, (void)user;
    size_t n = MIN(len, w.body.len);
    w.deferred = !n;
    if (!n)
        return NGHTTP2_ERR_DEFERRED;
    memcpy(buf, w.body.ptr, n);
    sbuf_consume(&w.body, n);
    return (ssize_t)n;
}

/* Both sides say all that they have to say. */
static void exchange(void)
{
    for (int i = 0; i < 5; i++) {
        const uint8_t *data;
        ssize_t n;
        while ((n = nghttp2_session_mem_send(w.session, &data)) > 0)
            peer_send(w.peer, str_n(data, (size_t)n));
        loop_run_once(loop, 1);
        peer_pump(w.peer);
        assert_true(nghttp2_session_mem_recv(w.session, (const uint8_t *)w.peer->got.ptr,
                                             w.peer->got.len) >= 0);
        peer_forget(w.peer);
    }
}

static nghttp2_nv pair(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                        strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static int32_t post(const char *path)
{
    const nghttp2_nv nv[] = {pair(":method", "POST"), pair(":scheme", "https"),
                             pair(":authority", "x"), pair(":path", path)};
    const nghttp2_data_provider body = {.read_callback = read_body};
    w.closed = false;
    w.status = 0;
    int32_t id = nghttp2_submit_request(w.session, NULL, nv, ARRAY_LEN(nv), &body, NULL);
    assert_true(id > 0);
    exchange();
    return id;
}

static void more(int32_t id, size_t bytes)
{
    static char zeros[100000];
    sbuf_add(&w.body, str_n(zeros, bytes));
    if (w.deferred)
        nghttp2_session_resume_data(w.session, id);
    exchange();
}

static int setup(void **state)
{
    struct err err = ERR_INIT;
    struct http_server_options o = {.body_timeout_ms = 5000};
    nghttp2_session_callbacks *cb;
    int fds[2], rc = peer_loop_setup(state);
    struct conn *conn;
    w = (struct world){0};
    clock_test_set(1000000, 1700000000000);
    sbuf_init(&w.body, 1 << 20);
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(http_server_start(loop, &o, &ops, &w, &w.server, &err));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    ASSERT_OK(conn_new(loop, fds[0], NULL, true, NULL, NULL, NULL, &conn, &err));
    http2_accept(w.server, conn, NULL);
    w.peer = peer_of_fd(fds[1]);
    assert_int_equal(nghttp2_session_callbacks_new(&cb), 0);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    assert_int_equal(nghttp2_session_client_new(&w.session, cb, NULL), 0);
    nghttp2_session_callbacks_del(cb);
    assert_int_equal(nghttp2_submit_settings(w.session, NGHTTP2_FLAG_NONE, NULL, 0), 0);
    exchange();
    return rc;
}

static int teardown(void **state)
{
    nghttp2_session_del(w.session);
    http_server_free(w.server);
    peer_close(w.peer);
    sbuf_deinit(&w.body);
    return peer_loop_teardown(state);
}

/* ---- tests ---- */

static int seconds_until_closed(int32_t id, size_t bytes_a_second)
{
    int seconds = 0;
    while (!w.closed && seconds++ < 60) {
        more(id, bytes_a_second);
        clock_test_advance(1000);
        exchange();
    }
    return seconds;
}

static void slow_body(void **state)
{
    (void)state;
    int32_t id = post("/x");
    assert_int_equal(w.heads, 1);
    assert_in_range(seconds_until_closed(id, 0), 5, 8); /* silence */
    assert_int_equal(w.status, 408);
    assert_int_equal(w.aborts, 1);
    /* A byte a second keeps the silence short, but is too little on the whole. */
    id = post("/x");
    assert_in_range(seconds_until_closed(id, 1), 29, 36);
    assert_int_equal(w.status, 408);
    assert_int_equal(w.aborts, 2);
    /* The slowest pace that is let pass. */
    id = post("/x");
    assert_in_range(seconds_until_closed(id, 1100), 60, 61);
    assert_false(w.closed);
    assert_int_equal(w.aborts, 2);
    assert_int_equal(w.requests, 0);
}

static void bodies_are_refused(void **state)
{
    (void)state;
    int32_t id = post("/refuse");
    assert_int_equal(w.status, 429);
    more(id, 1000);
    assert_true(w.closed);
    assert_int_equal(w.body_bytes, 0);
    sbuf_reset(&w.body);
    id = post("/refuse-late");
    more(id, 100);
    assert_int_equal(w.body_bytes, 100);
    assert_int_equal(w.status, 0);
    more(id, 1);
    assert_int_equal(w.status, 503);
    assert_true(w.closed);
    assert_int_equal(w.requests, 0);
    assert_int_equal(w.aborts, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slow_body, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
