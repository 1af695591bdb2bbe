/* Connections of the HTTP server over loopback: how many, how slow, whose, and how they end. */
#include "http_site.h"

#include <fcntl.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
