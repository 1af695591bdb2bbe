/* The HTTP server over loopback: answers, streams, bodies and their bounds. Its connections: test_net_http_server_conns.c. */
#include "http_site.h"

static void keep_alive(void **state)
{
    (void)state;
    start((struct http_server_options){.server_name = "seki"});
    struct peer *p = peer_connect(&site.addr);
    for (int i = 1; i <= 3; i++) {
        peer_sendc(p, "GET /a?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        WAIT_UNTIL(peer_has(p, "\r\n\r\n/a"));
        assert_int_equal(peer_status(p), 200);
        assert_true(peer_has(p, "Content-Length: 2\r\n"));
        assert_true(peer_has(p, "Server: seki\r\n"));
        assert_true(peer_has(p, "X-Request-Id: req-"));
        assert_false(peer_has(p, "Connection:"));
        assert_int_equal(site.requests, i);
        assert_int_equal(site.dones, i);
        peer_forget(p);
    }
    assert_int_equal(http_server_connections(site.server), 1);
    peer_sendc(p, "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_true(peer_has(p, "Connection: close\r\n"));
    assert_true(peer_has(p, "/last"));
    assert_false(p->reset);
    peer_close(p);
    WAIT_UNTIL(http_server_connections(site.server) == 0);
    assert_int_equal(site.aborts, 0);
}

/* Who asks twice cannot tell from that how much others asked in between, nor what anybody's is called. */
static void ids_tell_nothing(void **state)
{
    (void)state;
    char ids[20][25];
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        peer_sendc(p, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
        WAIT_UNTIL(peer_has(p, "\r\n\r\n/a"));
        const char *id = strstr(p->got.ptr, "X-Request-Id: req-");
        assert_non_null(id);
        id += strlen("X-Request-Id: req-");
        assert_int_equal(strspn(id, "0123456789abcdef"), 24);
        memcpy(ids[i], id, 24);
        ids[i][24] = 0;
        for (size_t k = 0; k < i; k++)
            assert_true(strncmp(ids[i], ids[k], 10) != 0 && strcmp(ids[i] + 14, ids[k] + 14) != 0);
        peer_forget(p);
    }
    peer_close(p);
}

static void bytes_one_at_a_time(void **state)
{
    (void)state;
    static const char text[] = "\r\nPOST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n";
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof(text) - 1; i++) {
            peer_send(p, str_n(text + i, 1));
            loop_run_once(loop, 0);
        }
        WAIT_UNTIL(peer_has(p, "\r\n\r\n/b"));
        assert_string_equal(site.last_body, "abcde");
        peer_forget(p);
    }
    assert_int_equal(site.requests, 2);
    peer_close(p);
}

static void pipelining(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
                  "GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /4 HTTP/1.1\r\nHost: x\r\n\r\nGET /5 HT");
    WAIT_UNTIL(site.later_count == 1);
    settle();
    assert_int_equal(site.requests, 3); /* /4 waits for the answer before it */
    http_respond(site.later[0], 202, NULL, NULL, 0, STR("third"));
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/4"));
    peer_sendc(p, "TP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/5"));
    const char *first = strstr(p->got.ptr, "/1"), *second = strstr(p->got.ptr, "/2"), *third = strstr(p->got.ptr, "third"),
               *fourth = strstr(p->got.ptr, "/4");
    assert_true(first && first < second && second < third && third < fourth);
    assert_int_equal(site.dones, 5);
    peer_close(p);
}

/* A client may send ahead as much as it likes: it is held back, not cut off. */
static void pipelining_far_ahead(void **state)
{
    (void)state;
    enum { COUNT = 150000 };
    start((struct http_server_options){.high_water_bytes = 1024});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    CLEANUP(sbuf_deinit) struct sbuf ahead = {0};
    sbuf_init(&ahead, PEER_BYTES_MAX);
    for (int i = 0; i < COUNT; i++)
        sbuf_addc(&ahead, "GET /x HTTP/1.1\r\nHost: x\r\nX: 12345678901234567890123456789012345678901234567890\r\n\r\n");
    size_t sent = 0, quiet = 0;
    http_respond_start(site.later[0], 200, "text/plain", NULL, 0);
    static char block[4 << 20];
    while (quiet < 20) {
        ssize_t n = send(p->fd, ahead.ptr + sent, ahead.len - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        quiet = n > 0 ? 0 : quiet + 1;
        if (!http_queued(site.later[0]))
            http_write(site.later[0], str_n(block, sizeof(block))); /* each queueing asks for readiness anew */
        peer_pump(p);
        loop_run_once(loop, 1);
        assert_int_equal(site.aborts, 0);
    }
    assert_true(sent < ahead.len);
    http_respond_end(site.later[0]);
    WAIT_UNTIL(peer_pump(p) && site.dones > 0);
    while (sent < ahead.len) {
        peer_pump(p);
        ssize_t n = send(p->fd, ahead.ptr + sent, ahead.len - sent, MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
        loop_run_once(loop, 1);
    }
    WAIT_UNTIL(peer_pump(p) && site.requests == COUNT + 1);
    assert_int_equal(site.aborts, 0);
    peer_close(p);
}

static void streams(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n0\r\n\r\n"));
    assert_true(peer_has(p, "Transfer-Encoding: chunked\r\n"));
    assert_false(peer_has(p, "Content-Length"));
    assert_true(peer_has(p, "\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"));
    peer_forget(p);
    peer_sendc(p, "HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\nGET /after HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "/after"));
    assert_false(peer_has(p, "three"));
    assert_int_equal(peer_count(p, "HTTP/1.1 200"), 2);
    peer_close(p);
    /* HTTP/1.0 knows no chunks: the end of the connection is the end of the body. */
    p = peer_connect(&site.addr);
    peer_sendc(p, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_true(peer_has(p, "\r\n\r\nonethree"));
    assert_true(peer_has(p, "Connection: close\r\n"));
    assert_false(peer_has(p, "chunked"));
    peer_close(p);
}

static void http_1_0(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /kept HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "/kept"));
    assert_true(peer_has(p, "Connection: keep-alive\r\n"));
    peer_sendc(p, "POST /closed HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx");
    WAIT_UNTIL(peer_closed(p));
    assert_true(peer_has(p, "/closed"));
    assert_false(peer_has(p, "100 Continue"));
    peer_close(p);
}

static void answers_without_body(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /no-stream HTTP/1.1\r\nHost: x\r\n\r\n"
                  "HEAD /head HTTP/1.1\r\nHost: x\r\n\r\nGET /end HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "/end"));
    assert_int_equal(peer_count(p, "HTTP/1.1 204"), 2);
    assert_false(peer_has(p, "not to be sent"));
    assert_false(peer_has(p, "chunked"));
    assert_true(peer_has(p, "Content-Length: 5\r\n"));
    assert_false(peer_has(p, "\r\n\r\n/head"));
    peer_close(p);
}

static void header_injection(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /injected HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\nok"));
    assert_false(peer_has(p, "Injected"));
    assert_true(peer_has(p, "X-Good: 2\r\n"));
    peer_close(p);
}

/* An answer whose head does not fit is broken off; a head without its end would swallow the body. */
static void answer_head_too_large(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    CLEANUP(sbuf_deinit) struct sbuf big = {0};
    sbuf_init(&big, 1 << 20);
    for (int i = 0; i < 300000; i++)
        sbuf_add_char(&big, 'h');
    const struct http_out_header h[] = {{"X-Big", sbuf_str(&big)}};
    http_respond(site.later[0], 200, "text/plain", h, 1, STR("body"));
    WAIT_UNTIL(peer_closed(p));
    assert_false(peer_has(p, "200"));
    assert_int_equal(site.aborts, 1);
    assert_int_equal(site.dones, 0);
    peer_close(p);
}

/* ---- limits ---- */

static int ask(const char *text, struct str more)
{
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, text);
    peer_send(p, more);
    WAIT_UNTIL(peer_closed(p));
    int status = peer_status(p);
    assert_int_equal(peer_count(p, "HTTP/1.1 "), 1);
    assert_true(peer_has(p, "Connection: close\r\n"));
    peer_close(p);
    return status;
}

static void body_limits(void **state)
{
    (void)state;
    start((struct http_server_options){.max_body_bytes = 1000});
    static char bytes[3000];
    memset(bytes, 'b', sizeof(bytes));
    assert_int_equal(ask("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", STR("")), 413);
    assert_int_equal(ask("POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", STR("")), 413);
    assert_int_equal(ask("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n", str_n(bytes, 2000)), 413);
    assert_int_equal(ask("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n", str_n(bytes, 3000)), 401);
    assert_int_equal(site.requests, 0);
    assert_int_equal(site.heads, 4);
    assert_int_equal(site.aborts, 3); /* the refused one is done instead */
    assert_int_equal(site.dones, 1);
    assert_int_equal(ask("POST /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n", str_n(bytes, 3000)), 200);
    assert_int_equal(site.last_body_len, 3000);
    /* A refusal to HEAD has no body either. */
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "HEAD /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(peer_status(p), 413);
    assert_true(str_ends(sbuf_str(&p->got), STR("\r\n\r\n")));
    peer_close(p);
}

/* One that is refused at its head does not end the connection: what follows the body is the next request. */
static void a_refused_body_is_skipped(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "POST /skip HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\n\r\nGET /no HTTP/1.1\r\nHost: x\r\n\r\nGET /yes HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/yes"));
    assert_int_equal(peer_status(p), 429);
    assert_int_equal(peer_count(p, "HTTP/1.1 "), 2);
    assert_false(peer_has(p, "Connection: close"));
    peer_forget(p);
    /* In pieces, and idle for long behind it. */
    peer_sendc(p, "POST /skip HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
    WAIT_UNTIL(peer_has(p, "later"));
    peer_sendc(p, "defg");
    settle();
    peer_sendc(p, "hij");
    settle();
    clock_test_advance(74000);
    settle();
    peer_forget(p);
    peer_sendc(p, "GET /still HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/still"));
    /* A rest that does not come is waited for as long as a head. */
    peer_sendc(p, "POST /skip HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "later"));
    for (int i = 0; i < 4; i++) {
        assert_false(peer_closed(p));
        peer_sendc(p, "k");
        settle();
        clock_test_advance(3000);
        settle();
    }
    WAIT_UNTIL(peer_closed(p));
    peer_close(p);
    /* What is long, of unknown length, or may not come at all ends the connection. */
    assert_int_equal(ask("POST /skip HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", STR("")), 429);
    assert_int_equal(ask("POST /skip HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", STR("")), 429);
    assert_int_equal(ask("POST /skip HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", STR("")), 429);
    assert_int_equal(site.aborts, 0);
}

/* The handler is asked before each piece of a body is kept. */
static void a_body_is_refused_while_it_comes(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    static char bytes[100];
    memset(bytes, 'b', sizeof(bytes));
    peer_sendc(p, "POST /refuse-late HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n");
    peer_send(p, str_n(bytes, sizeof(bytes)));
    WAIT_UNTIL(site.body_bytes == 100);
    settle();
    assert_false(peer_has(p, "HTTP"));
    peer_sendc(p, "\r\n1\r\nc\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(peer_status(p), 503);
    assert_true(peer_has(p, "Connection: close"));
    assert_int_equal(site.requests, 0);
    assert_int_equal(site.dones, 1);
    assert_int_equal(site.aborts, 0);
    peer_close(p);
}

static void handler_answers_while_it_is_told_of_the_end(void **state)
{
    (void)state;
    start((struct http_server_options){.max_body_bytes = 10});
    static const char too_long[] = "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n123456789012345\r\n";
    site.answer_in_abort = true;
    assert_int_equal(ask(too_long, STR("")), 413);
    assert_int_equal(site.aborts, 1);
    site.answer_in_abort = false;
    site.break_in_abort = true;
    assert_int_equal(ask(too_long, STR("")), 413);
    assert_int_equal(site.aborts, 2);
    assert_int_equal(site.dones, 0);
    /* And the same when the client leaves. */
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    peer_close(p);
    WAIT_UNTIL(site.aborts == 3);
    WAIT_UNTIL(http_server_connections(site.server) == 0);
}

static void expect_continue(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "HTTP/1.1 100 Continue\r\n\r\n"));
    assert_int_equal(site.requests, 0);
    peer_sendc(p, "body");
    WAIT_UNTIL(peer_has(p, "HTTP/1.1 200 OK"));
    assert_string_equal(site.last_body, "body");
    peer_close(p);
    /* Refused before the body: no invitation. */
    assert_int_equal(ask("POST /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", STR("")), 401);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(keep_alive),
        NET_TEST(ids_tell_nothing),
        NET_TEST(bytes_one_at_a_time),
        NET_TEST(pipelining),
        NET_TEST(pipelining_far_ahead),
        NET_TEST(streams),
        NET_TEST(http_1_0),
        NET_TEST(answers_without_body),
        NET_TEST(header_injection),
        NET_TEST(answer_head_too_large),
        NET_TEST(body_limits),
        NET_TEST(a_refused_body_is_skipped),
        NET_TEST(a_body_is_refused_while_it_comes),
        NET_TEST(handler_answers_while_it_is_told_of_the_end),
        NET_TEST(expect_continue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
