/* TLS over loopback: our client against our server, who may speak, what a certificate says of its owner. */
#include "net_peer.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "net/http_client.h"
#include "net/http_server.h"

static char dir[] = "/tmp/seki-tls-XXXXXX";

static const char *in_dir(const char *name, const char *suffix)
{
    static char paths[8][128];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof(paths[0]), "%s/%s%s", dir, name, suffix);
    return p;
}

/* ---- certificates: this layer is below the one that issues them ---- */

struct authority {
    X509 *cert;
    EVP_PKEY *key;
};

static void add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(e);
    assert_int_equal(X509_add_ext(cert, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* Writes NAME.crt and NAME.key. by NULL: self-signed, an authority. */
static struct authority issue(const char *name, const struct authority *by, const char *cn, const char *const *orgs, const char *usage,
                              long begins_s, long ends_s)
{
    static long serial;
    struct authority a = {X509_new(), EVP_EC_gen("P-256")};
    X509_NAME *subject = X509_get_subject_name(a.cert);
    X509_set_version(a.cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(a.cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(a.cert), begins_s);
    X509_gmtime_adj(X509_getm_notAfter(a.cert), ends_s);
    X509_set_pubkey(a.cert, a.key);
    for (; orgs && *orgs; orgs++)
        X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, (const unsigned char *)*orgs, -1, -1, 0);
    if (cn)
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0);
    X509 *issuer = by ? by->cert : a.cert;
    X509_set_issuer_name(a.cert, X509_get_subject_name(issuer));
    add_ext(a.cert, issuer, NID_basic_constraints, by ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (by) {
        add_ext(a.cert, issuer, NID_ext_key_usage, usage);
        add_ext(a.cert, issuer, NID_subject_alt_name, "DNS:seki.test,IP:127.0.0.1");
    }
    assert_int_not_equal(X509_sign(a.cert, by ? by->key : a.key, EVP_sha256()), 0);
    FILE *f = fopen(in_dir(name, ".crt"), "we");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, a.cert), 1);
    fclose(f);
    f = fopen(in_dir(name, ".key"), "we");
    assert_non_null(f);
    assert_int_equal(PEM_write_PrivateKey(f, a.key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
    assert_int_equal(chmod(in_dir(name, ".key"), 0600), 0);
    return a;
}

static void drop(struct authority a)
{
    X509_free(a.cert);
    EVP_PKEY_free(a.key);
}

#define YEAR_S 31536000L

static int make_all(void **state)
{
    (void)state;
    static const char *const orgs[] = {"system:masters", "ops", NULL};
    char long_name[65];
    memset(long_name, 'n', 64);
    long_name[64] = 0;
    if (!mkdtemp(dir))
        return -1;
    struct authority ca = issue("ca", NULL, "ca", NULL, NULL, 0, YEAR_S), other = issue("other", NULL, "other", NULL, NULL, 0, YEAR_S);
    drop(issue("server", &ca, "server", NULL, "serverAuth", 0, YEAR_S));
    drop(issue("admin", &ca, "admin", orgs, "clientAuth", 0, YEAR_S));
    drop(issue("nameless", &ca, NULL, orgs, "clientAuth", 0, YEAR_S));
    drop(issue("longest", &ca, long_name, NULL, "clientAuth", 0, YEAR_S));
    drop(issue("expired", &ca, "expired", NULL, "clientAuth", -2 * YEAR_S, -YEAR_S));
    drop(issue("stranger", &other, "admin", orgs, "clientAuth", 0, YEAR_S));
    drop(ca);
    drop(other);
    return 0;
}

static int remove_all(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

/* ---- contexts ---- */

static void contexts(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct tls_ctx *c = NULL;
    ASSERT_OK(tls_server_ctx(in_dir("server", ".crt"), in_dir("server", ".key"), in_dir("ca", ".crt"), &c, &err));
    assert_ptr_equal(tls_ctx_ref(c), c);
    tls_ctx_unref(c);
    tls_ctx_unref(c);
    tls_ctx_unref(NULL);
    c = NULL;
    ASSERT_ERR(tls_server_ctx(in_dir("server", ".crt"), in_dir("admin", ".key"), NULL, &c, &err), ERR_INVALID);
    ASSERT_ERR(tls_server_ctx(in_dir("server", ".crt"), in_dir("none", ".key"), NULL, &c, &err), ERR_NOT_FOUND);
    ASSERT_ERR(tls_server_ctx(in_dir("none", ".crt"), in_dir("server", ".key"), NULL, &c, &err), ERR_INVALID);
    ASSERT_ERR(tls_server_ctx(in_dir("server", ".crt"), in_dir("server", ".key"), in_dir("server", ".key"), &c, &err), ERR_INVALID);
    ASSERT_ERR(tls_client_ctx(in_dir("none", ".crt"), NULL, NULL, &c, &err), ERR_INVALID);
    assert_null(c);
}

static void readable_key_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct tls_ctx *c = NULL;
    const char *key = in_dir("admin", ".key");
    assert_int_equal(chmod(key, 0644), 0);
    ASSERT_ERR(tls_server_ctx(in_dir("admin", ".crt"), key, NULL, &c, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, key));
    ASSERT_ERR(tls_client_ctx(in_dir("ca", ".crt"), in_dir("admin", ".crt"), key, &c, &err), ERR_INVALID);
    assert_int_equal(chmod(key, 0600), 0);
    ASSERT_OK(tls_client_ctx(in_dir("ca", ".crt"), in_dir("admin", ".crt"), key, &c, &err));
    tls_ctx_unref(c);
}

/* ---- server and client ---- */

struct world {
    struct http_server *server;
    struct http_pool *pool;
    struct http_call *call;
    bool has_peer;
    struct conn_peer peer;
    int requests, heads, ends, errors, status;
    size_t received;
    char msg[ERR_MSG_MAX];
};

static struct world world;
static char large[8 << 20];

static void on_request(void *ctx, struct http_request *r)
{
    struct world *w = ctx;
    w->requests++;
    w->has_peer = http_request_peer(r, &w->peer);
    bool all = str_eqc(r->head.path, "/large");
    http_respond(r, 200, "text/plain", NULL, 0, all ? str_n(large, sizeof(large)) : STR("hello"));
}

static void on_abort(void *ctx, struct http_request *r)
{
    (void)ctx;
    (void)r;
}

static const struct http_server_ops server_ops = {.on_request = on_request, .on_abort = on_abort};

static void on_head(void *arg, const struct http_head *h)
{
    ((struct world *)arg)->heads++;
    ((struct world *)arg)->status = h->status;
}

static void on_body(void *arg, struct str bytes)
{
    struct world *w = arg;
    w->received += bytes.len;
    if (w->received < 1 << 20)
        http_call_pause(w->call, true);
}

static void on_end(void *arg)
{
    ((struct world *)arg)->ends++;
}

static void on_error(void *arg, const struct err *err)
{
    struct world *w = arg;
    w->errors++;
    str_to_array(str_of(err->msg), w->msg, sizeof(w->msg));
}

static const struct http_call_ops call_ops = {on_head, on_body, on_end, on_error};

static void serve(void)
{
    struct err err = ERR_INIT;
    struct http_server_options o = {0};
    world = (struct world){0};
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(tls_server_ctx(in_dir("server", ".crt"), in_dir("server", ".key"), in_dir("ca", ".crt"), &o.tls, &err));
    ASSERT_OK(http_server_start(loop, &o, &server_ops, &world, &world.server, &err));
    tls_ctx_unref(o.tls);
}

static void connect_as(const char *ca, const char *name, const char *host)
{
    struct err err = ERR_INIT;
    struct http_pool_options o = {.host = host};
    ASSERT_OK(tls_client_ctx(in_dir(ca, ".crt"), name ? in_dir(name, ".crt") : NULL, name ? in_dir(name, ".key") : NULL, &o.tls, &err));
    http_server_addr(world.server, &o.addr);
    http_pool_free(world.pool);
    world.pool = http_pool_new(loop, &o);
    tls_ctx_unref(o.tls);
}

static void ask(const char *target, struct iovec *body)
{
    const struct http_call_options o = {.method = body ? "POST" : "GET", .target = target, .body = body, .body_count = body ? 1 : 0};
    world.heads = world.ends = world.errors = world.status = 0;
    world.received = 0;
    world.has_peer = false;
    world.call = http_call_start(world.pool, &o, &call_ops, &world);
    uint64_t end = peer_now_ms() + PEER_WAIT_MS;
    while (!world.ends && !world.errors && peer_now_ms() < end) {
        if (world.heads)
            http_call_pause(world.call, false); /* it pauses itself at each piece at first */
        loop_run_once(loop, 2);
    }
    if (!world.ends && !world.errors) {
        http_call_cancel(world.call);
        fail_msg("no answer and no error");
    }
}

static int teardown(void **state)
{
    http_pool_free(world.pool);
    world.pool = NULL;
    http_server_free(world.server);
    world.server = NULL;
    return peer_loop_teardown(state);
}

static void hello(void **state)
{
    (void)state;
    serve();
    connect_as("ca", NULL, "seki.test");
    for (int i = 1; i <= 3; i++) {
        ask("/", NULL);
        assert_int_equal(world.ends, 1);
        assert_int_equal(world.status, 200);
        assert_int_equal(world.received, 5);
        assert_false(world.has_peer);
        assert_int_equal(http_pool_idle(world.pool), 1);
    }
    assert_int_equal(http_server_connections(world.server), 1); /* kept */
    connect_as("ca", NULL, "127.0.0.1");
    ask("/", NULL);
    assert_int_equal(world.ends, 1);
}

static void client_certificates(void **state)
{
    (void)state;
    serve();
    connect_as("ca", "admin", "seki.test");
    ask("/", NULL);
    assert_int_equal(world.ends, 1);
    assert_true(world.has_peer);
    assert_string_equal(world.peer.common_name, "admin");
    assert_int_equal(world.peer.org_count, 2);
    assert_string_equal(world.peer.orgs[0], "system:masters");
    assert_string_equal(world.peer.orgs[1], "ops");
    connect_as("ca", "longest", "seki.test");
    ask("/", NULL);
    assert_true(world.has_peer);
    assert_int_equal(strlen(world.peer.common_name), 64);
    assert_int_equal(world.peer.org_count, 0);
    /* Groups without a user are nobody. */
    connect_as("ca", "nameless", "seki.test");
    ask("/", NULL);
    assert_int_equal(world.ends, 1);
    assert_false(world.has_peer);
}

static void refused_certificates(void **state)
{
    (void)state;
    serve();
    static const char *const clients[] = {"stranger", "expired", "server" /* not for clients */};
    for (size_t i = 0; i < ARRAY_LEN(clients); i++) {
        connect_as("ca", clients[i], "seki.test");
        ask("/", NULL);
        assert_int_equal(world.errors, 1);
    }
    assert_int_equal(world.requests, 0);
    connect_as("other", NULL, "seki.test"); /* the client does not trust this server */
    ask("/", NULL);
    assert_int_equal(world.errors, 1);
    assert_non_null(strstr(world.msg, "certificate"));
    connect_as("ca", NULL, "else.test");
    ask("/", NULL);
    assert_int_equal(world.errors, 1);
    assert_non_null(strstr(world.msg, "mismatch"));
    connect_as("ca", NULL, "127.0.0.2");
    ask("/", NULL);
    assert_int_equal(world.errors, 1);
    assert_int_equal(world.requests, 0);
    WAIT_UNTIL(http_server_connections(world.server) == 0);
}

/* Many records each way, partial writes, pauses with bytes inside OpenSSL. */
static void large_bodies(void **state)
{
    (void)state;
    struct iovec body = {large, 2 << 20};
    serve();
    connect_as("ca", "admin", "seki.test");
    for (int i = 0; i < 2; i++) {
        ask("/large", &body);
        assert_int_equal(world.errors, 0);
        assert_int_equal(world.received, sizeof(large));
    }
    assert_int_equal(http_server_connections(world.server), 1);
}

static void no_tls_spoken(void **state)
{
    (void)state;
    struct net_addr addr;
    serve();
    http_server_addr(world.server, &addr);
    struct peer *p = peer_connect(&addr);
    peer_sendc(p, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_UNTIL(peer_closed(p));
    assert_false(peer_has(p, "200"));
    peer_close(p);
    WAIT_UNTIL(http_server_connections(world.server) == 0);
    assert_int_equal(world.requests, 0);
    /* A peer that says nothing is not waited for longer than for a head. */
    clock_test_set(1000000, 1700000000000);
    p = peer_connect(&addr);
    WAIT_UNTIL(http_server_connections(world.server) == 1);
    clock_test_advance(10001);
    WAIT_UNTIL(http_server_connections(world.server) == 0);
    peer_close(p);
}

/* And a server that says nothing is not waited for longer than for a connection. */
static void silent_server(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct http_pool_options o = {.host = "seki.test", .connect_timeout_ms = 700};
    world = (struct world){0};
    int fd = peer_listen(&o.addr);
    ASSERT_OK(tls_client_ctx(in_dir("ca", ".crt"), NULL, NULL, &o.tls, &err));
    world.pool = http_pool_new(loop, &o);
    tls_ctx_unref(o.tls);
    clock_test_set(1000000, 1700000000000);
    const struct http_call_options call = {.method = "GET", .target = "/"};
    world.call = http_call_start(world.pool, &call, &call_ops, &world);
    struct peer *p = peer_accept(fd);
    WAIT_UNTIL(peer_pump(p) && p->got.len > 0); /* the client speaks first */
    assert_int_equal(p->got.ptr[0], 22);
    clock_test_advance(699);
    settle();
    assert_int_equal(world.errors, 0);
    clock_test_advance(2);
    WAIT_UNTIL(world.errors == 1);
    peer_close(p);
    close(fd);
}

static void new_certificates(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct tls_ctx *next = NULL;
    serve();
    connect_as("ca", NULL, "seki.test");
    ask("/", NULL);
    ASSERT_OK(tls_server_ctx(in_dir("other", ".crt"), in_dir("other", ".key"), NULL, &next, &err));
    http_server_set_tls(world.server, next);
    tls_ctx_unref(next);
    ask("/", NULL); /* the kept connection goes on */
    assert_int_equal(world.ends, 1);
    connect_as("ca", NULL, "seki.test");
    ask("/", NULL);
    assert_int_equal(world.errors, 1);
}

#define NET_TEST(f) cmocka_unit_test_setup_teardown(f, peer_loop_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts),
        cmocka_unit_test(readable_key_is_refused),
        NET_TEST(hello),
        NET_TEST(client_certificates),
        NET_TEST(refused_certificates),
        NET_TEST(large_bodies),
        NET_TEST(no_tls_spoken),
        NET_TEST(silent_server),
        NET_TEST(new_certificates),
    };
    return cmocka_run_group_tests(tests, make_all, remove_all);
}
