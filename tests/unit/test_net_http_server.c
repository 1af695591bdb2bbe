/* The HTTP server over loopback: answers, streams, limits in size and time, clients that leave. */
#include "net_peer.h"

#include <fcntl.h>

#include "net/http_server.h"

enum { LATER_MAX = 16 };

/* What the handler does is chosen by the path of the request. */
struct site {
    struct http_server *server;
    struct net_addr addr;
    int heads, requests, aborts, dones, drains;
    struct http_request *later[LATER_MAX]; /* asked for /later: the test answers */
    int later_count;
    char last_body[256];
    size_t last_body_len, body_bytes;
    bool answer_in_abort, break_in_abort;
    int drained;
};

static struct site site;

static bool path_is(const struct http_request *r, const char *path)
{
    return str_eqc(r->head.path, path);
}

static int on_head(void *ctx, struct http_request *r, size_t *body_max)
{
    struct site *s = ctx;
    s->heads++;
    if (path_is(r, "/small"))
        *body_max = 10;
    if (path_is(r, "/large"))
        *body_max = 8 << 20;
    if (path_is(r, "/any"))
        *body_max = SIZE_MAX;
    if (path_is(r, "/refuse")) {
        http_respond(r, 401, "text/plain", NULL, 0, STR("who?"));
        return ERR_UNAUTHENTICATED;
    }
    if (path_is(r, "/skip")) {
        http_skip_body(r);
        http_respond(r, 429, "text/plain", NULL, 0, STR("later"));
        return ERR_TOO_MANY;
    }
    return 0;
}

static int on_body(void *ctx, struct http_request *r, size_t bytes)
{
    struct site *s = ctx;
    s->body_bytes = bytes;
    if (path_is(r, "/refuse-late") && bytes > 100) {
        http_respond(r, 503, "text/plain", NULL, 0, STR("full"));
        return ERR_TOO_MANY;
    }
    return 0;
}

static void on_request(void *ctx, struct http_request *r)
{
    struct site *s = ctx;
    s->requests++;
    s->last_body_len = r->body.len;
    assert_int_equal(r->body.ptr[r->body.len], 0);
    str_to_array(r->body, s->last_body, sizeof(s->last_body));
    if (path_is(r, "/later")) {
        assert_in_range(s->later_count, 0, LATER_MAX - 1);
        s->later[s->later_count++] = r;
    } else if (path_is(r, "/stream")) {
        http_respond_start(r, 200, "text/event-stream", NULL, 0);
        http_write(r, STR("one"));
        http_write(r, STR("")); /* must not look like the last chunk */
        http_write(r, STR("three"));
        http_respond_end(r);
    } else if (path_is(r, "/nothing")) {
        http_respond(r, 204, NULL, NULL, 0, STR("not to be sent"));
    } else if (path_is(r, "/no-stream")) {
        http_respond_start(r, 204, NULL, NULL, 0);
        http_write(r, STR("not to be sent"));
        http_respond_end(r);
    } else if (path_is(r, "/break")) {
        http_respond_start(r, 200, "text/plain", NULL, 0);
        http_write(r, STR("half"));
        http_respond_abort(r);
    } else if (path_is(r, "/injected")) {
        const struct http_out_header h[] = {{"X-Bad", STR("a\r\nX-Injected: 1")}, {"X-Good", STR("2")}};
        http_respond(r, 200, "text/plain", h, ARRAY_LEN(h), STR("ok"));
    } else {
        http_respond(r, 200, "text/plain", NULL, 0, r->head.path);
    }
}

static void on_drain(void *ctx, struct http_request *r)
{
    assert_non_null(r);
    ((struct site *)ctx)->drains++;
}

static void on_abort(void *ctx, struct http_request *r)
{
    struct site *s = ctx;
    s->aborts++;
    if (s->answer_in_abort)
        http_respond(r, 200, "text/plain", NULL, 0, STR("too late"));
    if (s->break_in_abort)
        http_respond_abort(r);
}

static void on_done(void *ctx, struct http_request *r)
{
    assert_non_null(r->id);
    ((struct site *)ctx)->dones++;
}

static const struct http_server_ops ops = {.on_head = on_head, .on_body = on_body, .on_request = on_request, .on_drain = on_drain, .on_abort = on_abort, .on_done = on_done};

static void start(struct http_server_options o)
{
    struct err err = ERR_INIT;
    site = (struct site){0};
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(http_server_start(loop, &o, &ops, &site, &site.server, &err));
    http_server_addr(site.server, &site.addr);
    assert_int_not_equal(net_addr_port(&site.addr), 0);
}

static int teardown(void **state)
{
    http_server_free(site.server);
    site.server = NULL;
    return peer_loop_teardown(state);
}

/* ---- answers ---- */

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

static void too_many_connections(void **state)
{
    (void)state;
    start((struct http_server_options){.max_connections = 2});
    struct peer *a = peer_connect(&site.addr), *b = peer_connect(&site.addr);
    WAIT_UNTIL(http_server_connections(site.server) == 2);
    struct peer *c = peer_connect(&site.addr);
    WAIT_UNTIL(peer_closed(c));
    assert_int_equal(peer_status(c), 503);
    assert_true(peer_has(c, "Retry-After"));
    peer_close(a);
    WAIT_UNTIL(http_server_connections(site.server) == 1);
    struct peer *d = peer_connect(&site.addr);
    peer_sendc(d, "GET /in HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(d, "/in"));
    peer_close(b);
    peer_close(c);
    peer_close(d);
}

/* ---- time: the test's clock stands still unless it is moved ---- */

static void tick(uint64_t ms)
{
    clock_test_advance(ms);
    settle();
}

static void slow_head(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET / HT");
    settle();
    for (int i = 0; i < 9; i++) {
        tick(1000);
        peer_sendc(p, "x"); /* a byte now and then buys no time */
    }
    assert_false(peer_closed(p));
    tick(1001);
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(peer_status(p), 408);
    assert_int_equal(site.heads, 0);
    peer_close(p);
}

/* Nor do blank lines before a head, which are skipped. */
static void slow_blank_lines(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *p = peer_connect(&site.addr);
    for (int i = 0; i < 10; i++) {
        peer_sendc(p, "\r\n");
        settle();
        assert_false(peer_closed(p));
        tick(1001);
    }
    WAIT_UNTIL(peer_closed(p));
    peer_close(p);
}

/* The second head on a connection is timed like the first, also when its start came with the first. */
static void slow_second_head(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/1"));
    peer_forget(p);
    tick(9000);
    assert_false(peer_closed(p));
    tick(1001);
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(peer_status(p), 408);
    peer_close(p);
}

static void silent_connection(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *silent = peer_connect(&site.addr), *spoke = peer_connect(&site.addr);
    WAIT_UNTIL(http_server_connections(site.server) == 2);
    tick(9000);
    peer_sendc(spoke, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(spoke, "\r\n\r\n/1"));
    assert_false(peer_closed(silent));
    tick(1001);
    WAIT_UNTIL(peer_closed(silent));
    assert_int_equal(silent->got.len, 0); /* closed without a word */
    tick(60000);
    assert_false(peer_closed(spoke));
    peer_close(silent);
    peer_close(spoke);
}

/* ---- shares of addresses ---- */

static struct conn_shares shares;

static struct peer *connect_from(const char *source)
{
    struct err err = ERR_INIT;
    struct net_addr from;
    ASSERT_OK(net_addr_parse(str_of(source), &from, &err));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, &from.sa, from.len), 0);
    assert_int_equal(connect(fd, &site.addr.sa, site.addr.len), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return peer_of_fd(fd);
}

static void connect_many(struct peer **to, size_t count, const char *source, const char *say)
{
    for (size_t i = 0; i < count; i++) {
        to[i] = connect_from(source);
        peer_sendc(to[i], say);
        settle();
    }
}

static size_t closed_of(struct peer **of, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += peer_closed(of[i]);
    return n;
}

static void close_many(struct peer **of, size_t count)
{
    for (size_t i = 0; i < count; i++)
        peer_close(of[i]);
}

static bool is_served(struct peer *p)
{
    peer_forget(p);
    peer_sendc(p, "GET /s HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/s") || peer_closed(p));
    return peer_has(p, "\r\n\r\n/s");
}

static void start_shared(const struct reach *trusted)
{
    conn_shares_init(&shares, 8, trusted);
    start((struct http_server_options){.max_connections = 16, .shares = &shares});
}

static int shared_teardown(void **state)
{
    int rc = teardown(state);
    assert_int_equal(map_len(shares.by_address), 0); /* all were given back */
    conn_shares_deinit(&shares);
    return rc;
}

static void who_has_most_idle_connections_loses_them(void **state)
{
    (void)state;
    struct peer *many[11], *few[2];
    start_shared(NULL);
    connect_many(few, 2, "127.0.0.3:0", "");
    connect_many(many, 11, "127.0.0.2:0", "");
    assert_true(is_served(many[10]));
    assert_int_equal(http_server_connections(site.server), 13);
    assert_int_equal(closed_of(many, 11), 0); /* there was room */
    struct peer *other = connect_from("127.0.0.4:0");
    assert_true(is_served(other));
    WAIT_UNTIL(closed_of(many, 11) == 9); /* a few are everybody's */
    assert_false(peer_closed(many[10]));  /* the newest ones */
    assert_true(is_served(few[0]) && is_served(few[1]));
    assert_int_equal(http_server_connections(site.server), 5);
    close_many(many, 11);
    close_many(few, 2);
    peer_close(other);
}

static void beyond_its_share_an_address_gets_no_new_ones(void **state)
{
    (void)state;
    struct peer *many[13];
    start_shared(NULL);
    connect_many(many, 13, "127.0.0.2:0", "GET / HT"); /* none is idle */
    assert_int_equal(closed_of(many, 13), 0);
    struct peer *more = connect_from("127.0.0.2:0"), *other = connect_from("127.0.0.4:0");
    WAIT_UNTIL(peer_closed(more));
    assert_int_equal(peer_status(more), 503);
    assert_true(is_served(other));
    assert_int_equal(closed_of(many, 13), 0);
    close_many(many, 13);
    peer_close(more);
    WAIT_UNTIL(http_server_connections(site.server) == 1);
    more = connect_from("127.0.0.2:0"); /* there is room again */
    assert_true(is_served(more));
    peer_close(more);
    peer_close(other);
}

static void proxies_that_are_trusted_have_no_share(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct reach proxies;
    struct peer *many[16];
    ASSERT_OK(reach_parse("127.0.0.2", &proxies, &err));
    start_shared(&proxies);
    connect_many(many, 16, "127.0.0.2:0", "");
    WAIT_UNTIL(http_server_connections(site.server) == 16);
    assert_int_equal(closed_of(many, 16), 0);
    assert_true(is_served(many[0]) && is_served(many[15]));
    close_many(many, 16);
    WAIT_UNTIL(http_server_connections(site.server) == 0);
    reach_deinit(&proxies);
}

static bool takes(const char *text, bool crowded)
{
    struct err err = ERR_INIT;
    struct net_addr a;
    struct conn_share *share;
    ASSERT_OK(net_addr_parse(str_of(text), &a, &err));
    return conn_shares_take(&shares, &a, crowded, &share);
}

static void an_address_is_a_network_of_ipv6(void **state)
{
    (void)state;
    conn_shares_init(&shares, 2, NULL);
    assert_true(takes("[2001:db8:1:2::1]:1", true) && takes("[2001:db8:1:2:3::9]:1", true));
    assert_false(takes("[2001:db8:1:2::4]:1", true));
    assert_true(takes("[2001:db8:1:3::4]:1", true));
    assert_true(takes("[2001:db8:1:2::4]:1", false));
    assert_true(takes("10.0.0.1:1", true) && takes("[::ffff:10.0.0.1]:1", true));
    assert_false(takes("10.0.0.1:1", true));
    assert_true(takes("10.0.0.2:1", true));
    assert_true(takes("unix:/tmp/x", true) && takes("unix:/tmp/x", true) && takes("unix:/tmp/x", true));
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(shares.by_address, &it)) {
        struct conn_share *share = it.value;
        while (share->count > 1)
            conn_shares_give(&shares, share);
        conn_shares_give(&shares, share);
    }
    assert_int_equal(map_len(shares.by_address), 0);
    conn_shares_deinit(&shares);
}

static void idle_connection(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.head_timeout_ms = 10000, .idle_timeout_ms = 75000});
    struct peer *p = peer_connect(&site.addr), *q = peer_connect(&site.addr);
    peer_sendc(p, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "\r\n\r\n/1"));
    /* This one's head came in two pieces. */
    peer_sendc(q, "GET /1 HT");
    settle();
    peer_sendc(q, "TP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(q, "\r\n\r\n/1"));
    tick(74000);
    assert_false(peer_closed(p));
    assert_false(peer_closed(q));
    tick(1001);
    WAIT_UNTIL(peer_closed(p) && peer_closed(q));
    assert_int_equal(peer_count(p, "HTTP/1.1"), 1); /* closed without a word */
    peer_close(p);
    peer_close(q);
}

static void slow_body(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.body_timeout_ms = 5000});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx");
    WAIT_UNTIL(site.heads == 1);
    settle();
    tick(5001);
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(peer_status(p), 408);
    assert_int_equal(site.aborts, 1);
    peer_close(p);
    /* A byte a second keeps the silence short, but is too little on the whole. */
    p = peer_connect(&site.addr);
    peer_sendc(p, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    WAIT_UNTIL(site.heads == 2);
    int seconds = 0;
    while (!peer_closed(p) && seconds++ < 60) {
        peer_sendc(p, "y");
        tick(1000);
    }
    assert_in_range(seconds, 29, 36);
    assert_int_equal(peer_status(p), 408);
    peer_close(p);
}

static void client_that_takes_nothing(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    start((struct http_server_options){.write_timeout_ms = 7000});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    tick(100000); /* thinking time of the handler is not the client's fault */
    assert_int_equal(site.aborts, 0);
    static char block[8 << 20];
    http_respond_start(site.later[0], 200, "text/plain", NULL, 0);
    http_write(site.later[0], str_n(block, sizeof(block)));
    assert_true(http_queued(site.later[0]) > 0);
    settle();
    tick(6000);
    assert_int_equal(site.aborts, 0);
    tick(1001);
    assert_int_equal(site.aborts, 1);
    assert_int_equal(http_server_connections(site.server), 0);
    peer_close(p);
}

/* ---- back-pressure, leaving, draining ---- */

static void back_pressure(void **state)
{
    (void)state;
    enum { PIECES = 64 };
    static char block[256 << 10];
    memset(block, 'z', sizeof(block));
    start((struct http_server_options){.high_water_bytes = 1 << 20});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    struct http_request *r = site.later[0];
    http_respond_start(r, 200, "text/plain", NULL, 0);
    int sent = 0, stops = 0;
    while (sent < PIECES) {
        sent++;
        if (!http_write(r, str_n(block, sizeof(block)))) {
            assert_true(http_queued(r) > 1 << 20);
            settle();
            assert_int_equal(site.drains, stops); /* nobody has read: nothing drains */
            stops++;
            WAIT_UNTIL(peer_pump(p) && site.drains == stops);
            assert_true(http_queued(r) <= 1 << 18);
        }
        assert_true(http_queued(r) < 2 << 20);
    }
    assert_true(stops > 0);
    http_respond_end(r);
    WAIT_UNTIL(peer_has(p, "\r\n0\r\n\r\n"));
    assert_int_equal(site.dones, 1);
    size_t payload = 0;
    for (size_t i = 0; i < p->got.len; i++)
        payload += p->got.ptr[i] == 'z';
    assert_int_equal(payload, (size_t)PIECES * sizeof(block));
    peer_close(p);
}

static void client_leaves(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr), *q = peer_connect(&site.addr), *half = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    http_respond_start(site.later[0], 200, "text/plain", NULL, 0);
    http_write(site.later[0], STR("some"));
    peer_sendc(q, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 2);
    peer_sendc(half, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    WAIT_UNTIL(site.heads == 3);
    peer_close(p);
    peer_reset(q);
    peer_close(half);
    WAIT_UNTIL(site.aborts == 3);
    assert_int_equal(site.dones, 0);
    WAIT_UNTIL(http_server_connections(site.server) == 0);
}

/* The kernel says so at a write, inside the handler's own call: the handler hears of it later. */
static void client_leaves_during_a_write(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    peer_reset(p);
    struct http_request *r = site.later[0];
    http_respond_start(r, 200, "text/plain", NULL, 0);
    for (int i = 0; i < 10; i++)
        http_write(r, STR("piece"));
    assert_int_equal(site.aborts, 0);
    http_respond_end(r);
    assert_int_equal(site.aborts, 0);
    WAIT_UNTIL(site.aborts == 1);
    WAIT_UNTIL(http_server_connections(site.server) == 0);
    assert_int_equal(site.dones, 0);
}

static void broken_off(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p = peer_connect(&site.addr), *q = peer_connect(&site.addr);
    peer_sendc(p, "GET /break HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_true(p->reset);
    assert_false(peer_has(p, "\r\n0\r\n\r\n"));
    peer_sendc(q, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1);
    http_respond_abort(site.later[0]); /* not from inside a call of the server */
    WAIT_UNTIL(peer_closed(q));
    assert_int_equal(site.aborts, 0);
    assert_int_equal(site.dones, 0);
    assert_int_equal(http_server_connections(site.server), 0);
    peer_close(p);
    peer_close(q);
}

/* ---- answers that are held ---- */

static void ask_later(struct peer *p, const char *behind)
{
    int before = site.later_count;
    peer_sendc(p, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_sendc(p, behind);
    WAIT_UNTIL(site.later_count == before + 1);
}

/* Nothing leaves until they are let go, also when their clients can take bytes; what left before has left. */
static void held_answers(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *whole = peer_connect(&site.addr), *stream = peer_connect(&site.addr);
    ask_later(whole, "GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
    ask_later(stream, "");
    struct http_request *a = site.later[0], *b = site.later[1];
    http_respond_start(b, 200, "text/plain", NULL, 0);
    http_write(b, STR("begun"));
    WAIT_UNTIL(peer_has(stream, "begun"));
    assert_false(http_server_holds(site.server));
    assert_true(http_hold(a) && http_hold(b) && http_hold(b) && http_server_holds(site.server));
    http_respond(a, 200, "text/plain", NULL, 0, STR("whole"));
    http_write(b, STR("more"));
    http_respond_end(b);
    settle();
    assert_true(!peer_has(whole, "HTTP") && !peer_has(stream, "more") && !site.dones && site.requests == 2);
    assert_false(http_hold(a)); /* it is over */
    http_server_release(site.server);
    assert_true(site.dones >= 2 && !http_server_holds(site.server));
    WAIT_UNTIL(peer_has(whole, "whole") && peer_has(whole, "/next") && peer_has(stream, "more\r\n0\r\n\r\n"));
    ask_later(stream, ""); /* the connection goes on, and is held no more */
    http_respond(site.later[2], 200, "text/plain", NULL, 0, STR("again"));
    WAIT_UNTIL(peer_has(stream, "again"));
    peer_close(whole);
    peer_close(stream);
}

/* More than the kernel takes at once, clients that leave, answers that are broken off, and the end of the server. */
static void held_answers_that_come_to_nothing(void **state)
{
    (void)state;
    static char block[8 << 20];
    memset(block, 'z', sizeof(block));
    start((struct http_server_options){0});
    struct peer *large = peer_connect(&site.addr), *leaves = peer_connect(&site.addr), *broken = peer_connect(&site.addr), *left = peer_connect(&site.addr);
    ask_later(large, "");
    ask_later(leaves, "");
    ask_later(broken, "");
    ask_later(left, "");
    for (int i = 0; i < 4; i++)
        assert_true(http_hold(site.later[i]));
    http_respond(site.later[0], 200, "text/plain", NULL, 0, str_n(block, sizeof(block)));
    http_respond(site.later[1], 200, "text/plain", NULL, 0, STR("x"));
    peer_reset(leaves);
    WAIT_UNTIL(site.aborts == 1);
    http_respond_abort(site.later[2]);
    WAIT_UNTIL(peer_closed(broken));
    http_server_release(site.server);
    assert_int_equal(site.dones, 0);
    WAIT_UNTIL(peer_pump(large) && site.dones == 1);
    assert_true(http_hold(site.later[3]));
    http_server_free(site.server);
    site.server = NULL;
    assert_int_equal(site.aborts, 2);
    peer_close(large);
    peer_close(broken);
    peer_close(left);
}

static void on_drained(void *arg)
{
    ((struct site *)arg)->drained++;
}

static void drain(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *idle = peer_connect(&site.addr), *busy = peer_connect(&site.addr);
    peer_sendc(busy, "GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(site.later_count == 1 && http_server_connections(site.server) == 2);
    http_server_drain(site.server, on_drained, &site);
    WAIT_UNTIL(peer_closed(idle));
    settle();
    assert_int_equal(site.drained, 0);
    assert_false(peer_closed(busy));
    int fd = -1;
    struct err err = ERR_INIT;
    int rc = net_connect(&site.addr, &fd, &err);
    if (rc == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        poll(&ready, 1, PEER_WAIT_MS);
        rc = net_connect_result(fd, &err);
        close(fd);
    }
    assert_int_not_equal(rc, 0); /* nobody listens */
    http_respond(site.later[0], 200, "text/plain", NULL, 0, STR("finished"));
    WAIT_UNTIL(peer_closed(busy));
    assert_true(peer_has(busy, "finished"));
    assert_true(peer_has(busy, "Connection: close\r\n"));
    assert_false(peer_has(busy, "/next"));
    peer_close(busy);
    peer_close(idle);
    WAIT_UNTIL(site.drained == 1);
}

static void free_with_everything_open(void **state)
{
    (void)state;
    start((struct http_server_options){0});
    struct peer *p[4];
    static const char *const text[] = {"", "GET /half", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
                                       "GET /later HTTP/1.1\r\nHost: x\r\n\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = peer_connect(&site.addr);
        peer_sendc(p[i], text[i]);
    }
    WAIT_UNTIL(site.later_count == 1 && site.heads == 2 && http_server_connections(site.server) == 4);
    http_server_free(site.server);
    site.server = NULL;
    assert_int_equal(site.aborts, 2);
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        WAIT_UNTIL(peer_closed(p[i]));
        peer_close(p[i]);
    }
}

static void unix_socket(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char dir[] = "/tmp/seki-net-XXXXXX", text[64];
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    struct http_server_options o = {0};
    ASSERT_OK(net_addr_parse(str_of(text), &o.listen, &err));
    site = (struct site){0};
    ASSERT_OK(http_server_start(loop, &o, &ops, &site, &site.server, &err));
    http_server_addr(site.server, &site.addr);
    /* A second server is told that the place is taken, and leaves the first alone. */
    struct http_server *second = NULL;
    ASSERT_ERR(http_server_start(loop, &o, &ops, &site, &second, &err), ERR_BUSY);
    struct peer *p = peer_connect(&site.addr);
    peer_sendc(p, "GET /unix HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_has(p, "/unix"));
    peer_close(p);
    http_server_free(site.server);
    site.server = NULL;
    assert_int_equal(access(text + 5, F_OK), -1);
    ASSERT_OK(file_remove_tree(dir, &err));
}

#define NET_TEST(f) cmocka_unit_test_setup_teardown(f, peer_loop_setup, teardown)

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
        NET_TEST(too_many_connections),
        NET_TEST(slow_head),
        NET_TEST(slow_blank_lines),
        NET_TEST(slow_second_head),
        NET_TEST(silent_connection),
        NET_TEST(idle_connection),
        cmocka_unit_test_setup_teardown(who_has_most_idle_connections_loses_them, peer_loop_setup, shared_teardown),
        cmocka_unit_test_setup_teardown(beyond_its_share_an_address_gets_no_new_ones, peer_loop_setup, shared_teardown),
        cmocka_unit_test_setup_teardown(proxies_that_are_trusted_have_no_share, peer_loop_setup, shared_teardown),
        cmocka_unit_test(an_address_is_a_network_of_ipv6),
        NET_TEST(slow_body),
        NET_TEST(client_that_takes_nothing),
        NET_TEST(back_pressure),
        NET_TEST(client_leaves),
        NET_TEST(client_leaves_during_a_write),
        NET_TEST(broken_off),
        NET_TEST(held_answers),
        NET_TEST(held_answers_that_come_to_nothing),
        NET_TEST(drain),
        NET_TEST(free_with_everything_open),
        NET_TEST(unix_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
