/* fetch(): one request, under a deadline and a cap, over TCP, TLS and unix sockets. */
#include "tls_peer.h"

#include "client/fetch.h"

static void answer_by_path(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    char body[512];
    if (str_eqc(r->head.path, "/never"))
        return;
    if (str_eqc(r->head.path, "/large")) {
        memset(body, 'x', sizeof(body));
        http_respond(r, 200, "text/plain", NULL, 0, str_n(body, sizeof(body)));
        return;
    }
    snprintf(body, sizeof(body), "%.*s %.*s %.*s %.*s", STR_ARG(r->head.method), STR_ARG(r->head.target), STR_ARG(http_header_get(&r->head, "authorization")), STR_ARG(r->body));
    http_respond(r, str_eqc(r->head.path, "/missing") ? 404 : 200, "text/plain", NULL, 0, str_of(body));
}

static void get(const struct fetch_options *o, int want_status, const char *want)
{
    struct err err = ERR_INIT;
    int status = 0;
    char *body = NULL;
    size_t len = 0;
    ASSERT_OK(fetch(o, &status, &body, &len, &err));
    assert_int_equal(status, want_status);
    assert_string_equal(body, want);
    assert_int_equal(len, strlen(want));
    mem_free(body);
}

static void over_tcp_tls_and_unix(void **state)
{
    (void)state;
    struct tls_peer plain = {.handle = answer_by_path}, tls = {.cert = "server", .handle = answer_by_path}, local = {.unix_path = peer_path("s"), .handle = answer_by_path};
    char address[200];
    tls_peer_start(&plain);
    tls_peer_start(&tls);
    tls_peer_start(&local);
    get(&(struct fetch_options){.address = plain.address, .path = "/a/../b", .timeout_ms = 20000}, 200, "GET /a/../b  ");
    get(&(struct fetch_options){.address = plain.address, .path = "/missing", .timeout_ms = 20000}, 404, "GET /missing  ");
    get(&(struct fetch_options){.address = tls.address, .path = "/", .ca_file = peer_path("ca.crt"), .bearer = "secret", .timeout_ms = 20000}, 200, "GET / Bearer secret ");
    snprintf(address, sizeof(address), "unix:%s", local.unix_path);
    get(&(struct fetch_options){.address = address, .path = "/x", .body_json = "{}", .timeout_ms = 20000}, 200, "POST /x  {}");
    struct err err = ERR_INIT;
    ASSERT_ERR(fetch(&(struct fetch_options){.address = tls.address, .path = "/", .ca_file = peer_path("other-ca.crt"), .timeout_ms = 20000}, NULL, NULL, NULL, &err),
               ERR_UNAUTHENTICATED);
    tls_peer_stop(&plain);
    tls_peer_stop(&tls);
    tls_peer_stop(&local);
    ASSERT_ERR(fetch(&(struct fetch_options){.address = plain.address, .path = "/", .timeout_ms = 20000}, NULL, NULL, NULL, &err), ERR_CLOSED);
}

static void deadline_and_cap(void **state)
{
    (void)state;
    struct tls_peer p = {.handle = answer_by_path};
    struct err err = ERR_INIT;
    char *body = NULL;
    tls_peer_start(&p);
    ASSERT_ERR(fetch(&(struct fetch_options){.address = p.address, .path = "/never", .timeout_ms = 200}, NULL, &body, NULL, &err), ERR_TIMEOUT);
    ASSERT_ERR(fetch(&(struct fetch_options){.address = p.address, .path = "/large", .timeout_ms = 20000, .max_body_bytes = 511}, NULL, &body, NULL, &err), ERR_TOO_LARGE);
    assert_null(body);
    int status = 0;
    ASSERT_ERR(fetch(&(struct fetch_options){.address = p.address, .path = "/large", .timeout_ms = 20000, .max_body_bytes = 511}, &status, NULL, NULL, &err), ERR_TOO_LARGE);
    assert_int_equal(status, 200);
    ASSERT_OK(fetch(&(struct fetch_options){.address = p.address, .path = "/large", .timeout_ms = 20000, .max_body_bytes = 512}, NULL, &body, NULL, &err));
    mem_free(body);
    tls_peer_stop(&p);
}

/* A name is judged by where it leads, at the moment of the connect. */
static void guarded(void **state)
{
    (void)state;
    struct tls_peer p = {.handle = answer_by_path}, local = {.unix_path = peer_path("g"), .handle = answer_by_path};
    struct err err = ERR_INIT;
    struct reach reach;
    char by_name[64], address[200];
    int status = 0;
    tls_peer_start(&p);
    tls_peer_start(&local);
    snprintf(by_name, sizeof(by_name), "http://localhost%s", strrchr(p.address, ':'));
    snprintf(address, sizeof(address), "unix:%s", local.unix_path);
    struct fetch_options o = {.path = "/", .timeout_ms = 20000, .guarded = true};
    const char *const addresses[] = {p.address, by_name, address};
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        o.address = addresses[i];
        ASSERT_ERR(fetch(&o, &status, NULL, NULL, &err), ERR_FORBIDDEN);
    }
    ASSERT_OK(reach_parse("10.0.0.0/8, unix:/elsewhere", &reach, &err));
    o.reach = &reach;
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        o.address = addresses[i];
        ASSERT_ERR(fetch(&o, &status, NULL, NULL, &err), ERR_FORBIDDEN);
    }
    reach_deinit(&reach);
    CLEANUP(mem_freep) char *list = xasprintf("127.0.0.0/8, ::1, %s", address);
    ASSERT_OK(reach_parse(list, &reach, &err));
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        o.address = addresses[i];
        ASSERT_OK(fetch(&o, &status, NULL, NULL, &err));
        assert_int_equal(status, 200);
    }
    reach_deinit(&reach);
    tls_peer_stop(&p);
    tls_peer_stop(&local);
}

static void bad_options(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char *path = xcalloc(1, 9001);
    memset(path, '/', 9000);
    const struct {
        struct fetch_options o;
        int code;
        const char *field;
    } rows[] = {{{.address = "http://127.0.0.1:1", .path = "/"}, ERR_INVALID, "timeout_ms"},
                {{.address = "http://127.0.0.1:1", .path = "/ x", .timeout_ms = 1000}, ERR_INVALID, "url"},
                {{.address = "http://127.0.0.1:1", .path = "/\r\nX: y", .timeout_ms = 1000}, ERR_INVALID, "url"},
                {{.address = "http://127.0.0.1:1", .path = path, .timeout_ms = 1000}, ERR_INVALID, "url"},
                {{.address = "http://127.0.0.1:1", .path = "/", .bearer = "canary\r\nX: y", .timeout_ms = 1000}, ERR_INVALID, "token"},
                {{.address = "file:///etc", .path = "/passwd", .timeout_ms = 1000}, ERR_PROTOCOL, ""}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err = (struct err){0};
        int rc = fetch(&rows[i].o, NULL, NULL, NULL, &err);
        if (rc != rows[i].code || strcmp(err.field, rows[i].field) || strstr(err.msg, "canary"))
            fail_msg("row %zu: %d %s: %s", i, rc, err.field, err.msg);
    }
    mem_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(over_tcp_tls_and_unix), cmocka_unit_test(deadline_and_cap), cmocka_unit_test(guarded), cmocka_unit_test(bad_options)};
    return cmocka_run_group_tests(tests, tls_peer_setup, tls_peer_teardown);
}
