/* For tests of the HTTP server: a site whose handler does what the path says, and counts what it is told. */
#ifndef SEKI_TESTS_UNIT_HTTP_SITE_H
#define SEKI_TESTS_UNIT_HTTP_SITE_H

#include "net_peer.h"

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

#define NET_TEST(f) cmocka_unit_test_setup_teardown(f, peer_loop_setup, teardown)

#endif
