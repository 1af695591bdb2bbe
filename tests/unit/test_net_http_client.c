/* The HTTP client against a raw peer: pools, retries, pausing, time limits, broken answers. */
#include "net_peer.h"

#include "net/http_client.h"

struct call {
    struct http_call *call;
    int heads, ends, errors, status, code;
    char msg[ERR_MSG_MAX];
    struct sbuf body;
    bool pause_in_head, pause_in_body, cancel_in_head, cancel_in_body, cancel_in_end, let_go_in_body;
};

static int listener;
static struct net_addr addr;
static struct http_pool *pool;
static struct call *running; /* the last call begun, not forgotten */

static void on_head(void *arg, const struct http_head *h)
{
    struct call *c = arg;
    c->heads++;
    c->status = h->status;
    if (c->pause_in_head)
        http_call_pause(c->call, true);
    if (c->cancel_in_head)
        http_call_cancel(c->call);
}

static void on_body(void *arg, struct str bytes)
{
    struct call *c = arg;
    sbuf_add(&c->body, bytes);
    if (c->pause_in_body)
        http_call_pause(c->call, true);
    if (c->let_go_in_body)
        http_call_let_go(c->call, 1000);
    if (c->cancel_in_body)
        http_call_cancel(c->call);
}

static void on_end(void *arg)
{
    struct call *c = arg;
    c->ends++;
    if (c->cancel_in_end)
        http_call_cancel(c->call);
}

static void on_error(void *arg, const struct err *err)
{
    struct call *c = arg;
    c->errors++;
    c->code = err->code;
    str_to_array(str_of(err->msg), c->msg, sizeof(c->msg));
}

static const struct http_call_ops ops = {on_head, on_body, on_end, on_error};

static int setup(void **state)
{
    if (peer_loop_setup(state) < 0)
        return -1;
    listener = peer_listen(&addr);
    pool = NULL;
    return 0;
}

static int teardown(void **state)
{
    if (running && http_pool_active(pool))
        http_call_cancel(running->call); /* a failed test has left it: the loop could not end */
    running = NULL;
    http_pool_free(pool);
    close(listener);
    return peer_loop_teardown(state);
}

static void open_pool(struct http_pool_options o)
{
    o.addr = addr;
    o.host = "up.stream";
    pool = http_pool_new(loop, &o);
}

static void begin_with(struct call *c, struct http_call_options o)
{
    sbuf_init(&c->body, PEER_BYTES_MAX);
    if (!o.method)
        o.method = "GET";
    o.target = "/t?q";
    c->call = http_call_start(pool, &o, &ops, c);
    assert_non_null(c->call);
    running = c;
    assert_int_equal(c->heads + c->ends + c->errors, 0);
}

static void begin(struct call *c)
{
    begin_with(c, (struct http_call_options){0});
}

static void forget(struct call *c)
{
    sbuf_deinit(&c->body);
    *c = (struct call){0};
    running = running == c ? NULL : running;
}

/* One exchange on connection p. */
static void exchange(struct call *c, struct peer *p, const char *answer)
{
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    peer_forget(p);
    peer_sendc(p, answer);
    WAIT_UNTIL(c->ends + c->errors == 1);
}

static void body_is(const struct call *c, const char *want)
{
    assert_int_equal(c->body.len, strlen(want));
    if (c->body.len)
        assert_string_equal(c->body.ptr, want);
}

/* ---- pooling ---- */

static void pooled(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    assert_int_equal(http_pool_active(pool), 1);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    assert_true(peer_has(p, "GET /t?q HTTP/1.1\r\nHost: up.stream\r\n\r\n"));
    exchange(&c, p, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_int_equal(c.status, 200);
    assert_int_equal(c.heads, 1);
    body_is(&c, "hello");
    assert_int_equal(http_pool_active(pool), 0);
    assert_int_equal(http_pool_idle(pool), 1);
    forget(&c);
    begin(&c); /* the same connection */
    exchange(&c, p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
    body_is(&c, "hello");
    assert_int_equal(http_pool_idle(pool), 1);
    assert_false(peer_waits(listener));
    forget(&c);
    begin(&c);
    exchange(&c, p, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_int_equal(c.ends, 1);
    assert_int_equal(http_pool_idle(pool), 1);
    forget(&c);
    begin(&c); /* closed by agreement */
    exchange(&c, p, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
    assert_int_equal(http_pool_idle(pool), 0);
    WAIT_UNTIL(peer_closed(p));
    forget(&c);
    peer_close(p);
}

static void not_kept_after_surplus_bytes(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    exchange(&c, p, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n");
    body_is(&c, "ok");
    assert_int_equal(http_pool_idle(pool), 0);
    forget(&c);
    peer_close(p);
    begin(&c); /* what comes unasked on a kept connection ends it */
    p = peer_accept(listener);
    exchange(&c, p, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(http_pool_idle(pool), 1);
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_UNTIL(http_pool_idle(pool) == 0);
    forget(&c);
    peer_close(p);
}

/* Bytes that lie on a kept connection before the next call begins are not its answer, though the loop has not seen them yet. */
static void stray_answer_is_nobody_s(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    exchange(&c, p, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    forget(&c);
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother");
    assert_int_equal(http_pool_idle(pool), 1);
    begin(&c);
    struct peer *q = peer_accept(listener);
    exchange(&c, q, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nours");
    body_is(&c, "ours");
    forget(&c);
    peer_close(p);
    peer_close(q);
}

static void kept_for_a_time(void **state)
{
    (void)state;
    struct call c[3] = {0};
    clock_test_set(1000000, 1700000000000);
    open_pool((struct http_pool_options){.max_idle = 2, .idle_timeout_ms = 500});
    struct peer *p[3];
    for (int i = 0; i < 3; i++) {
        begin(&c[i]);
        p[i] = peer_accept(listener);
    }
    for (int i = 0; i < 3; i++) {
        exchange(&c[i], p[i], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        forget(&c[i]);
    }
    assert_int_equal(http_pool_idle(pool), 2);
    clock_test_advance(499);
    settle();
    assert_int_equal(http_pool_idle(pool), 2);
    clock_test_advance(2);
    WAIT_UNTIL(http_pool_idle(pool) == 0);
    for (int i = 0; i < 3; i++) {
        WAIT_UNTIL(peer_closed(p[i]));
        peer_close(p[i]);
    }
}

static void pool_goes_with_its_last_call(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    http_pool_free(pool);
    pool = NULL;
    exchange(&c, p, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    assert_int_equal(c.ends, 1);
    WAIT_UNTIL(peer_closed(p));
    forget(&c);
    peer_close(p);
}

/* ---- retries ---- */

/* A kept connection whose peer closes as the next request arrives. */
static struct peer *stale(struct call *c)
{
    begin(c);
    struct peer *p = peer_accept(listener);
    exchange(c, p, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(http_pool_idle(pool), 1);
    forget(c);
    return p;
}

static void retried_once(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    struct peer *p = stale(&c);
    struct iovec body[2] = {{(char *)(uintptr_t) "he", 2}, {(char *)(uintptr_t) "llo", 3}};
    begin_with(&c, (struct http_call_options){.method = "POST", .body = body, .body_count = 2});
    WAIT_UNTIL(peer_has(p, "hello"));
    peer_close(p);
    p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "Content-Length: 5\r\n\r\nhello"));
    assert_int_equal(peer_count(p, "POST"), 1);
    peer_close(p); /* again: told this time */
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_CLOSED);
    assert_false(peer_waits(listener));
    forget(&c);
}

static void retry_forbidden(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    struct peer *p = stale(&c);
    begin_with(&c, (struct http_call_options){.no_retry = true});
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    peer_close(p);
    WAIT_UNTIL(c.errors == 1);
    assert_false(peer_waits(listener));
    forget(&c);
}

static void no_retry_after_a_byte(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    struct peer *p = stale(&c);
    begin(&c);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    peer_sendc(p, "HTTP/1.1 2");
    settle();
    peer_close(p);
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_CLOSED);
    assert_false(peer_waits(listener));
    forget(&c);
}

static void refused_connection(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    close(listener);
    begin(&c);
    WAIT_UNTIL(c.errors == 1);
    assert_non_null(strstr(c.msg, "refused"));
    forget(&c);
    listener = peer_listen(&addr);
}

/* ---- cancelling ---- */

static void cancelled(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    http_call_cancel(c.call); /* before it was sent */
    assert_int_equal(http_pool_active(pool), 0);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_closed(p));
    forget(&c);
    peer_close(p);
    begin(&c);
    p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    assert_true(http_call_sent_any(c.call));
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nsome");
    WAIT_UNTIL(c.body.len == 4);
    http_call_cancel(c.call);
    /* At once: the peer can see it without the loop running. */
    struct pollfd ready = {.fd = p->fd, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, PEER_WAIT_MS), 1);
    assert_true(peer_closed(p));
    settle();
    assert_int_equal(c.ends + c.errors, 0);
    assert_int_equal(http_pool_active(pool), 0);
    assert_int_equal(http_pool_idle(pool), 0);
    forget(&c);
    peer_close(p);
}

static void cancelled_inside_callbacks(void **state)
{
    (void)state;
    static const char answer[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    open_pool((struct http_pool_options){0});
    for (int i = 0; i < 3; i++) {
        struct call c = {.cancel_in_head = i == 0, .cancel_in_body = i == 1, .cancel_in_end = i == 2};
        begin(&c);
        struct peer *p = peer_accept(listener);
        WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
        peer_sendc(p, answer);
        WAIT_UNTIL(http_pool_active(pool) == 0);
        settle();
        assert_int_equal(c.heads, 1);
        assert_int_equal(c.body.len, i == 0 ? 0 : i == 1 ? 2 : 5);
        assert_int_equal(c.ends, i == 2);
        assert_int_equal(c.errors, 0);
        forget(&c);
        peer_close(p);
        WAIT_UNTIL(http_pool_idle(pool) == 0);
    }
}

/* ---- pausing ---- */

static void pause_holds_the_peer(void **state)
{
    (void)state;
    enum { TOTAL = 32 << 20 };
    static char block[65536];
    struct call c = {.pause_in_head = true};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    char head[128];
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", TOTAL);
    peer_sendc(p, head);
    size_t sent = 0;
    for (int quiet = 0; quiet < 30;) {
        ssize_t n = send(p->fd, block, MIN(sizeof(block), TOTAL - sent), MSG_NOSIGNAL);
        quiet = n > 0 ? 0 : quiet + 1;
        sent += n > 0 ? (size_t)n : 0;
        loop_run_once(loop, 1);
    }
    assert_int_equal(c.heads, 1);
    assert_int_equal(c.body.len, 0);
    assert_in_range(sent, 1, 16 << 20); /* the kernel's buffers, no more */
    http_call_pause(c.call, false);
    while (sent < TOTAL) {
        ssize_t n = send(p->fd, block, MIN(sizeof(block), TOTAL - sent), MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
        loop_run_once(loop, 1);
    }
    WAIT_UNTIL(c.ends == 1);
    assert_int_equal(c.body.len, TOTAL);
    assert_int_equal(http_pool_idle(pool), 1);
    forget(&c);
    peer_close(p);
}

/* Everything has come and the peer has closed before the caller goes on: nothing may be lost. */
static void pause_and_the_peer_closes(void **state)
{
    (void)state;
    static const char *const heads[] = {"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"};
    open_pool((struct http_pool_options){0});
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        struct call c = {.pause_in_head = true};
        begin(&c);
        struct peer *p = peer_accept(listener);
        WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
        char answer[128];
        snprintf(answer, sizeof(answer), "%shello", heads[i]);
        peer_sendc(p, answer);
        WAIT_UNTIL(c.heads == 1);
        peer_close(p);
        settle();
        assert_int_equal(c.body.len, 0);
        http_call_pause(c.call, false);
        WAIT_UNTIL(c.ends + c.errors == 1);
        body_is(&c, "hello");
        assert_int_equal(c.ends, 1);
        forget(&c);
    }
}

static void pause_at_every_piece(void **state)
{
    (void)state;
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    };
    open_pool((struct http_pool_options){0});
    struct peer *p = NULL;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct call c = {.pause_in_head = true, .pause_in_body = true};
        begin(&c);
        if (!p)
            p = peer_accept(listener);
        WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
        peer_forget(p);
        peer_sendc(p, answers[i]);
        WAIT_UNTIL(c.heads == 1);
        uint64_t end = peer_now_ms() + PEER_WAIT_MS;
        while (!c.ends && !c.errors && peer_now_ms() < end) {
            http_call_pause(c.call, false);
            loop_run_once(loop, 2);
        }
        assert_int_equal(c.ends, 1);
        body_is(&c, i < 2 ? "hello" : "");
        assert_int_equal(http_pool_idle(pool), 1);
        forget(&c);
    }
    peer_close(p);
}

/* Paused before the head: a large answer is held back, not refused, and the loop does not spin. */
static void pause_before_the_head(void **state)
{
    (void)state;
    enum { TOTAL = 1 << 20 };
    static char block[TOTAL];
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    http_call_pause(c.call, true);
    char head[128];
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", TOTAL);
    peer_sendc(p, head);
    uint64_t before = peer_now_ms();
    for (int i = 0; i < 5; i++)
        loop_run_once(loop, 20);
    assert_true(peer_now_ms() - before >= 60); /* it slept */
    assert_int_equal(c.heads + c.errors, 0);
    http_call_pause(c.call, false);
    peer_send(p, str_n(block, TOTAL));
    WAIT_UNTIL(c.ends == 1);
    assert_int_equal(c.body.len, TOTAL);
    forget(&c);
    peer_close(p);
}

/* ---- an answer before the request is out ---- */

static void early_answer(void **state)
{
    (void)state;
    enum { TOTAL = 32 << 20 };
    char *bytes = xcalloc(1, TOTAL);
    struct iovec body = {bytes, TOTAL};
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin_with(&c, (struct http_call_options){.method = "POST", .body = &body, .body_count = 1});
    struct peer *p = peer_accept(listener);
    settle();
    peer_sendc(p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n");
    WAIT_UNTIL(c.body.len == 5);
    /* The rest of the request still goes out, as the peer takes it; waiting costs no time of the processor. */
    uint64_t before = peer_now_ms();
    for (int i = 0; i < 5; i++)
        loop_run_once(loop, 20);
    assert_true(peer_now_ms() - before >= 60);
    WAIT_UNTIL(peer_pump(p) && p->got.len > TOTAL);
    peer_sendc(p, "0\r\n\r\n");
    WAIT_UNTIL(c.ends == 1);
    assert_int_equal(http_pool_idle(pool), 1);
    forget(&c);
    peer_close(p);
    WAIT_UNTIL(http_pool_idle(pool) == 0);
    /* A refusal with the body unread: it is heard, though the peer has closed. */
    begin_with(&c, (struct http_call_options){.method = "POST", .body = &body, .body_count = 1});
    p = peer_accept(listener);
    settle();
    peer_sendc(p, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    peer_close(p);
    WAIT_UNTIL(c.ends + c.errors == 1);
    assert_int_equal(c.status, 413);
    body_is(&c, "big");
    assert_int_equal(http_pool_idle(pool), 0);
    forget(&c);
    mem_free(bytes);
}

/* ---- time ---- */

static void tick(uint64_t ms)
{
    clock_test_advance(ms);
    settle();
}

/* Its reader has all that he wants: the message may end in the same bytes, soon, or not at all. */
static void let_go(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    open_pool((struct http_pool_options){0});
    struct peer *p = NULL;
    static const char *const rests[] = {"0\r\n\r\n", "", "3\r\nany\r\n0\r\n\r\n"};
    for (size_t i = 0; i < 2 * ARRAY_LEN(rests); i++) { /* told inside the callback, and later; while it is paused, too */
        struct call c = {.let_go_in_body = i % 2 == 0, .pause_in_body = i != 0};
        const char *rest = rests[i / 2];
        char answer[256];
        begin(&c);
        p = p ? p : peer_accept(listener);
        WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
        peer_forget(p);
        snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlast\r\n%s", rest);
        peer_sendc(p, answer);
        WAIT_UNTIL(c.body.len == 4);
        if (!c.let_go_in_body)
            http_call_let_go(c.call, 1000);
        if (!*rest) {
            settle();
            assert_int_equal(http_pool_idle(pool), 0);
            tick(900);
            peer_sendc(p, "0\r\n\r\n");
        }
        WAIT_UNTIL(http_pool_active(pool) == 0);
        assert_int_equal(http_pool_idle(pool), 1); /* one connection is enough for all of them */
        assert_int_equal(c.ends + c.errors, 0);
        body_is(&c, "last");
        forget(&c);
    }
    assert_false(peer_waits(listener));
    struct call c = {.let_go_in_body = true};
    begin(&c);
    peer_sendc(p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlast\r\n");
    WAIT_UNTIL(c.body.len == 4);
    for (int i = 0; i < 3; i++) {
        assert_false(peer_closed(p));
        tick(300);
        peer_sendc(p, "1\r\nx\r\n"); /* buys no time */
    }
    tick(101);
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(http_pool_active(pool) + http_pool_idle(pool), 0);
    assert_int_equal(c.ends + c.errors, 0);
    forget(&c);
    peer_close(p);
}

static void let_go_and_the_pool_goes(void **state)
{
    (void)state;
    struct call c = {.let_go_in_body = true};
    open_pool((struct http_pool_options){0});
    begin(&c);
    struct peer *p = peer_accept(listener);
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nlast");
    WAIT_UNTIL(c.body.len == 4);
    assert_int_equal(http_pool_active(pool), 1);
    http_pool_free(pool);
    pool = NULL;
    WAIT_UNTIL(peer_closed(p));
    assert_int_equal(c.ends + c.errors, 0);
    forget(&c);
    peer_close(p);
}

static void timeouts(void **state)
{
    (void)state;
    struct call c = {0};
    clock_test_set(1000000, 1700000000000);
    open_pool((struct http_pool_options){0});
    const struct http_call_options o = {.first_byte_timeout_ms = 1000, .idle_timeout_ms = 300};
    begin_with(&c, o);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    settle();
    tick(600);
    peer_sendc(p, "HTTP/1.1 "); /* a piece of a head is no head */
    tick(399);
    assert_int_equal(c.errors, 0);
    tick(2);
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_TIMEOUT);
    WAIT_UNTIL(peer_closed(p));
    forget(&c);
    peer_close(p);

    begin_with(&c, o);
    p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\na");
    WAIT_UNTIL(c.body.len == 1);
    for (int i = 2; i < 6; i++) {
        tick(250);
        peer_sendc(p, "b");
        WAIT_UNTIL(c.body.len == (size_t)i);
    }
    http_call_pause(c.call, true); /* the caller's own waiting does not count */
    tick(5000);
    http_call_pause(c.call, false);
    tick(299);
    assert_int_equal(c.errors, 0);
    tick(302);
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_TIMEOUT);
    forget(&c);
    peer_close(p);
}

/* A large request that goes out slowly, but goes out, is no silence. */
static void slow_sending_is_progress(void **state)
{
    (void)state;
    enum { TOTAL = 32 << 20 };
    char *bytes = xcalloc(1, TOTAL);
    struct iovec body = {bytes, TOTAL};
    struct call c = {0};
    clock_test_set(1000000, 1700000000000);
    open_pool((struct http_pool_options){0});
    begin_with(&c, (struct http_call_options){.method = "POST", .body = &body, .body_count = 1, .first_byte_timeout_ms = 1000});
    struct peer *p = peer_accept(listener);
    settle();
    while (p->got.len < TOTAL) {
        size_t before = p->got.len;
        WAIT_UNTIL(c.errors || (peer_pump(p) && p->got.len > before));
        assert_int_equal(c.errors, 0);
        settle();
        clock_test_advance(p->got.len < TOTAL ? 600 : 0);
    }
    peer_sendc(p, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_UNTIL(c.ends + c.errors == 1);
    assert_int_equal(c.ends, 1);
    forget(&c);
    peer_close(p);
    mem_free(bytes);
}

/* ---- broken answers ---- */

static void broken_answers(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        int code;
        const char *body; /* what may have been handed over before */
    } all[] = {
        {"", ERR_CLOSED, ""},
        {"HTTP/1.1 200", ERR_CLOSED, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ERR_CLOSED, "hel"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ERR_CLOSED, "hello"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", ERR_CLOSED, "hello"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello", ERR_PROTOCOL, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ERR_PROTOCOL, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", ERR_PROTOCOL, ""},
        {"HTTP/2.0 200 OK\r\n\r\n", ERR_PROTOCOL, ""},
        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", ERR_PROTOCOL, ""},
        {"SSH-2.0-OpenSSH\r\n\r\n", ERR_PROTOCOL, ""},
    };
    open_pool((struct http_pool_options){0});
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct call c = {0};
        begin(&c);
        struct peer *p = peer_accept(listener);
        WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
        peer_sendc(p, all[i].answer);
        peer_close(p);
        WAIT_UNTIL(c.ends + c.errors == 1);
        if (c.code != all[i].code)
            fail_msg("case %zu: code %d, want %d (%s)", i, c.code, all[i].code, c.msg);
        body_is(&c, all[i].body);
        assert_int_equal(http_pool_idle(pool), 0);
        forget(&c);
    }
}

static void endless_heads(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){.max_head_bytes = 1000});
    begin(&c);
    struct peer *p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    peer_sendc(p, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 50; i++)
        peer_sendc(p, "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_PROTOCOL);
    forget(&c);
    peer_close(p);
    begin(&c);
    p = peer_accept(listener);
    WAIT_UNTIL(peer_has(p, "\r\n\r\n"));
    for (int i = 0; i < 20; i++)
        peer_sendc(p, "HTTP/1.1 102 Processing\r\n\r\n");
    WAIT_UNTIL(c.errors == 1);
    assert_int_equal(c.code, ERR_PROTOCOL);
    assert_int_equal(c.heads, 0);
    forget(&c);
    peer_close(p);
}

static void head_has_no_body(void **state)
{
    (void)state;
    struct call c = {0};
    open_pool((struct http_pool_options){0});
    begin_with(&c, (struct http_call_options){.method = "HEAD"});
    struct peer *p = peer_accept(listener);
    exchange(&c, p, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    assert_int_equal(c.ends, 1);
    assert_int_equal(http_pool_idle(pool), 1);
    forget(&c);
    peer_close(p);
}

#define NET_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(pooled),
        NET_TEST(not_kept_after_surplus_bytes),
        NET_TEST(stray_answer_is_nobody_s),
        NET_TEST(kept_for_a_time),
        NET_TEST(pool_goes_with_its_last_call),
        NET_TEST(retried_once),
        NET_TEST(retry_forbidden),
        NET_TEST(no_retry_after_a_byte),
        NET_TEST(refused_connection),
        NET_TEST(cancelled),
        NET_TEST(cancelled_inside_callbacks),
        NET_TEST(pause_holds_the_peer),
        NET_TEST(pause_and_the_peer_closes),
        NET_TEST(pause_at_every_piece),
        NET_TEST(pause_before_the_head),
        NET_TEST(early_answer),
        NET_TEST(timeouts),
        NET_TEST(let_go),
        NET_TEST(let_go_and_the_pool_goes),
        NET_TEST(slow_sending_is_progress),
        NET_TEST(broken_answers),
        NET_TEST(endless_heads),
        NET_TEST(head_has_no_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
