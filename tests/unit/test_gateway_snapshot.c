/* The routing snapshot: who may call what, which replica is picked, and the file that it starts from. */
#include "unit.h"

#include <netdb.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "gateway/dispatch.h"
#include "gateway/pick.h"

#define READY "\"status\":\"True\",\"type\":\"Ready\",\"reason\":\"Serving\""
#define ENDPOINT(ns, name, created, spec) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelEndpoint\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\",\"creationTimestamp\":\"" created "\"},\"spec\":{" spec "}}"
#define UID "11111111-2222-3333-4444-555555555555"
#define ENGINES "/run/engines"
#define SOCKET "unix:" ENGINES "/11111111-2222-3333.sock"
#define REPLICA_AS(ns, name, uid, endpoint, engine, status) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelReplica\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\",\"uid\":\"" uid "\"}," \
    "\"spec\":{\"endpoint\":\"" endpoint "\",\"servedName\":\"" endpoint "\",\"engine\":{" engine "}},\"status\":{\"conditions\":[{" READY "}]," status "}}"
#define REMOTE(url, more) "\"driver\":\"openai\",\"url\":\"" url "\"" more
/* A server elsewhere, whose status says what its spec says. */
#define REPLICA(ns, name, endpoint, address, path) REPLICA_AS(ns, name, UID, endpoint, REMOTE(address path, ""), "\"address\":\"" address "\"")
#define KEY(ns, name, hash, spec) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"APIKey\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\"},\"spec\":{" spec "},\"status\":{\"hash\":\"" hash "\"}}"
#define NAMESPACE(name, tenant) \
    "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"" name "\",\"labels\":{\"seki.cloud/tenant\":\"" tenant "\"}}}"

static const char whole[] =
    "{\"version\":1,\"keys\":[" KEY("p", "k", "h1", "") "," KEY("q", "k", "h2", "") "," KEY("p", "narrow", "h3", "\"endpoints\":[\"other\"]") ","
    KEY("p", "off", "h4", "\"disabled\":true") "," KEY("p", "old", "h5", "\"expiresAt\":\"2020-01-01T00:00:00Z\"") ","
    KEY("p", "epoch", "h6", "\"expiresAt\":\"1970-01-01T00:00:00Z\"") "," KEY("p", "before", "h7", "\"expiresAt\":\"1969-12-31T23:59:59Z\"") "],"
    "\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") ","
    ENDPOINT("p", "other", "2026-01-02T00:00:00Z", "\"model\":\"x\"") ","
    ENDPOINT("shop", "m", "2026-01-01T00:00:00Z", "\"model\":\"x\",\"visibility\":\"Everyone\"") ","
    ENDPOINT("shop", "vip", "2026-01-03T00:00:00Z", "\"model\":\"x\",\"visibility\":\"Tenants\",\"tenants\":[\"tq\"]") "],"
    "\"replicas\":[" REPLICA_AS("p", "m-0", UID, "m", "\"driver\":\"llamacpp\"", "\"address\":\"" SOCKET "\"") "," REPLICA("p", "m-1", "m", "http://127.0.0.1:9", "/api/v1") "],"
    "\"namespaces\":[" NAMESPACE("p", "tp") "," NAMESPACE("q", "tq") "]}";

static char dir[] = "/tmp/seki-snapshot-XXXXXX";
static char path[64];
static struct reach reach;
static struct engine_paths engines = {.socket_dir = ENGINES, .remote = &reach};

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/s", dir);
    return reach_parse("127.0.0.0/8", &reach, NULL);
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    reach_deinit(&reach);
    return file_remove_tree(dir, &err);
}

static struct snapshot *build(const char *text, struct snapshot_memory *targets)
{
    struct err err = ERR_INIT;
    struct snapshot_source source;
    unlink(path);
    ASSERT_OK(file_write(path, str_of(text), 0600, &err));
    ASSERT_OK(snapshot_load(path, &source, &err));
    struct snapshot *s = snapshot_build(&source, &engines, targets);
    snapshot_source_deinit(&source);
    return s;
}

static const char *found(const struct snapshot *s, const char *hash, const char *name)
{
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, hash), name);
    return e ? e->project : "";
}

static void who_may_call_what(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build(whole, targets);
    assert_int_equal(snapshot_key_count(s), 7);
    assert_null(snapshot_key(s, "h9"));
    assert_string_equal(snapshot_key(s, "h2")->tenant, "tq");
    assert_string_equal(found(s, "h1", "m"), "p"); /* the project's own comes before an older shared one */
    assert_string_equal(found(s, "h2", "m"), "shop");
    assert_string_equal(found(s, "h1", "vip"), "");
    assert_string_equal(found(s, "h2", "vip"), "shop");
    assert_string_equal(found(s, "h3", "other"), "p");
    assert_string_equal(found(s, "h3", "m"), ""); /* named for this key: others are none, shared ones of that name included */
    assert_string_equal(found(s, "h1", "M"), "");
    assert_string_equal(found(s, "h1", ""), "");
    assert_true(snapshot_key(s, "h4")->disabled);
    assert_int_equal(snapshot_key(s, "h1")->expires_ms, INT64_MAX);
    assert_true(snapshot_key(s, "h5")->expires_ms > 0 && snapshot_key(s, "h5")->expires_ms < clock_wall_ms());
    assert_true(snapshot_key(s, "h6")->expires_ms < clock_wall_ms() && snapshot_key(s, "h7")->expires_ms < clock_wall_ms());
    snapshot_unref(s);
    snapshot_memory_free(targets);
}

/* A key that names endpoints: a bare name is its own project's, PROJECT/NAME what that one shares. */
static void keys_mean_endpoints_of_their_own_project(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build("{\"version\":1,\"keys\":[" KEY("p", "own", "h1", "\"endpoints\":[\"writer\",\"m\"]") "," KEY("p", "theirs", "h2", "\"endpoints\":[\"shop/m\",\"shop/hidden\"]") ","
                               KEY("p", "whole", "h3", "\"endpoints\":[\"p/m\"]") "," KEY("p", "parts", "h4", "\"endpoints\":[\"sho/m\",\"shop/\",\"/m\",\"p/writer\"]") "],"
                               "\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") "," ENDPOINT("shop", "m", "2026-01-01T00:00:00Z", "\"model\":\"x\",\"visibility\":\"Everyone\"") ","
                               ENDPOINT("shop", "hidden", "2026-01-01T00:00:00Z", "\"model\":\"x\"") ","
                               ENDPOINT("evil", "writer", "2026-01-01T00:00:00Z", "\"model\":\"x\",\"servedName\":\"evil-writer\",\"visibility\":\"Everyone\"") "],"
                               "\"replicas\":[],\"namespaces\":[]}", targets);
    assert_string_equal(found(s, "h1", "evil-writer"), "");
    assert_string_equal(found(s, "h1", "m"), "p");
    assert_string_equal(found(s, "h2", "m"), "shop"); /* though its own project has one of that name */
    assert_string_equal(found(s, "h2", "hidden"), ""); /* named, but not shared */
    assert_string_equal(found(s, "h3", "m"), "p");
    assert_string_equal(found(s, "h4", "m"), "");
    snapshot_unref(s);
    snapshot_memory_free(targets);
}

/* Index of the replica; 100 + enum when there is none. */
static size_t picked(const struct snap_endpoint *e, uint64_t tried, uint64_t now_ms)
{
    size_t index = 0;
    enum pick_result r = pick_replica(e, &(struct pick_wish){.tried = tried}, now_ms, &index, NULL);
    return r == PICK_ONE ? index : 100 + r;
}

static void least_in_flight(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build(whole, targets);
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, "h1"), "m");
    assert_int_equal(e->replica_count, 2);
    assert_string_equal(e->replicas[0].base_path, "/v1");
    assert_string_equal(e->replicas[1].base_path, "/api/v1");
    assert_string_equal(e->replicas[1].host, "127.0.0.1:9");
    atomic_store(&e->replicas[0].target->in_flight, 3);
    assert_int_equal(picked(e, 0, 1000), 1);
    assert_int_equal(picked(e, 1u << 1, 1000), 0); /* tried already */
    atomic_store(&e->replicas[1].target->aside_until_ms, 2000);
    assert_int_equal(picked(e, 0, 1000), 0);
    assert_int_equal(picked(e, 1u << 0, 1000), 1); /* better than none */
    assert_int_equal(picked(e, 3, 1000), 100 + PICK_NONE);
    /* The next snapshot remembers, as long as it has that replica. */
    struct snapshot *next = build(whole, targets);
    assert_int_equal(atomic_load(&snapshot_find(next, snapshot_key(next, "h1"), "m")->replicas[0].target->in_flight), 3);
    assert_true(snapshot_has_target(next, "p " SOCKET));
    snapshot_unref(s);
    snapshot_unref(next);
    s = build("{\"version\":1,\"keys\":[],\"endpoints\":[],\"replicas\":[],\"namespaces\":[]}", targets);
    assert_false(snapshot_has_target(s, "p " SOCKET));
    snapshot_unref(s);
    snapshot_memory_free(targets);
}

#define COLD(replicas) \
    "{\"version\":1,\"keys\":[" KEY("p", "k", "h1", "") "],\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") "],\"replicas\":[" replicas "],\"namespaces\":[" NAMESPACE("p", "tp") "]}"

/* Also when whoever was held has left before: how long the next one is to wait is not reckoned from them. */
static void a_cold_start_ends_with_the_first_replica(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *cold = build(COLD(""), targets);
    struct dispatch *d = snapshot_find(cold, snapshot_key(cold, "h1"), "m")->dispatch;
    dispatch_cold_begin(d, 1000);
    struct snapshot *still = build(COLD(""), targets);
    assert_int_equal(dispatch_cold_since(d), 1000);
    struct snapshot *warm = build(COLD(REPLICA("p", "m-0", "m", "http://127.0.0.1:9", "")), targets);
    assert_int_equal(dispatch_cold_since(d), 0);
    snapshot_unref(cold);
    snapshot_unref(still);
    snapshot_unref(warm);
    snapshot_memory_free(targets);
}

/* ---- names of hosts ---- */

static const char *engine_test; /* addresses of engine.test, with a space between them */

/* In place of the C library's. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret)
{
    struct str rest = str_of(strcmp(host, "engine.test") ? host : engine_test), one;
    char text[64];
    (void)hints;
    *ret = NULL;
    for (struct addrinfo **at = ret; str_cut(&rest, ' ', &one); at = &(*at)->ai_next) {
        struct net_addr addr;
        snprintf(text, sizeof(text), "%.*s:%s", (int)one.len, one.ptr, port);
        assert_int_equal(net_addr_parse(str_of(text), &addr, NULL), 0);
        *at = xcalloc(1, sizeof(**at) + sizeof(addr));
        **at = (struct addrinfo){.ai_family = AF_INET, .ai_addrlen = addr.len, .ai_addr = (struct sockaddr *)(*at + 1)};
        memcpy(*at + 1, &addr, sizeof(addr));
    }
    return 0;
}

void freeaddrinfo(struct addrinfo *i)
{
    while (i) {
        struct addrinfo *next = i->ai_next;
        mem_free(i);
        i = next;
    }
}

static void check_address(struct snapshot_memory *targets, const char *addresses, const char *expected)
{
    char text[NET_ADDR_TEXT_MAX];
    engine_test = addresses;
    struct snapshot *s = build(COLD(REPLICA("p", "m-0", "m", "http://engine.test:9", "")), targets);
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, "h1"), "m");
    assert_int_equal(e->replica_count, 1);
    net_addr_format(&e->replicas[0].addr, text);
    assert_string_equal(text, expected);
    snapshot_unref(s);
}

static void an_engine_is_where_its_name_leads(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    check_address(targets, "127.0.0.1 127.0.0.2", "127.0.0.1:9");
    check_address(targets, "127.0.0.2 127.0.0.1", "127.0.0.1:9"); /* in whatever order a name server has them today */
    check_address(targets, "127.0.0.2 127.0.0.3", "127.0.0.2:9");
    check_address(targets, "10.0.0.1 127.0.0.3", "127.0.0.3:9"); /* what may not be reached is not there */
    snapshot_memory_free(targets);
}

/* One tenant's trouble with a server, a wrong key say, is not another's. */
static void projects_share_no_target(void **state)
{
    (void)state;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build("{\"version\":1,\"keys\":[" KEY("p", "k", "h1", "") "," KEY("q", "k", "h2", "") "],\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") ","
                               ENDPOINT("q", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") "],\"replicas\":[" REPLICA("p", "m-0", "m", "http://127.0.0.1:9", "") ","
                               REPLICA("q", "m-0", "m", "http://127.0.0.1:9", "") "],\"namespaces\":[" NAMESPACE("p", "tp") "," NAMESPACE("q", "tq") "]}", targets);
    const struct snap_endpoint *p = snapshot_find(s, snapshot_key(s, "h1"), "m"), *q = snapshot_find(s, snapshot_key(s, "h2"), "m");
    assert_int_equal(p->replica_count, 1);
    assert_int_equal(q->replica_count, 1);
    assert_ptr_not_equal(p->replicas[0].target, q->replicas[0].target);
    snapshot_unref(s);
    snapshot_memory_free(targets);
}

static void the_file_round_trip(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot_source source;
    struct stat st;
    struct snapshot *s = build(whole, targets);
    ASSERT_OK(snapshot_load(path, &source, &err));
    unlink(path);
    mode_t old = umask(0);
    ASSERT_OK(snapshot_save(path, &source, &err));
    umask(old);
    snapshot_source_deinit(&source);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    ASSERT_OK(snapshot_load(path, &source, &err));
    struct snapshot *again = snapshot_build(&source, &engines, targets);
    snapshot_source_deinit(&source);
    assert_int_equal(snapshot_key_count(again), snapshot_key_count(s));
    assert_string_equal(found(again, "h2", "vip"), "shop");
    snapshot_unref(s);
    snapshot_unref(again);
    snapshot_memory_free(targets);
}

static void refused(const char *text, mode_t mode, const char *want)
{
    struct err err = ERR_INIT;
    struct snapshot_source source;
    unlink(path);
    ASSERT_OK(file_write(path, str_of(text), mode, &err));
    assert_int_equal(chmod(path, mode), 0);
    assert_true(snapshot_load(path, &source, &err) < 0);
    if (!strstr(err.msg, want))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, want);
}

static void files_that_are_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct snapshot_source source;
    char link[80];
    refused("", 0600, "");
    refused("{\"version\":1,\"keys\":[", 0600, "");
    refused("[]", 0600, "");
    refused("{\"keys\":[],\"endpoints\":[],\"replicas\":[],\"namespaces\":[]}", 0600, "version 0");
    refused("{\"version\":2,\"keys\":[],\"endpoints\":[],\"replicas\":[],\"namespaces\":[]}", 0600, "version 2");
    refused("{\"version\":1,\"endpoints\":[],\"replicas\":[],\"namespaces\":[]}", 0600, "keys");
    refused("{\"version\":1,\"keys\":[],\"endpoints\":{},\"replicas\":[],\"namespaces\":[]}", 0600, "endpoints");
    refused("{\"version\":1,\"keys\":[],\"endpoints\":[],\"replicas\":[{},7],\"namespaces\":[]}", 0600, "replicas[1]");
    refused(whole, 0640, "0640");
    refused(whole, 0602, "0602");
    for (size_t len = 0; len < sizeof(whole) - 1; len += 7) { /* cut anywhere */
        unlink(path);
        ASSERT_OK(file_write(path, str_n(whole, len), 0600, &err));
        assert_true(snapshot_load(path, &source, NULL) < 0);
    }
    unlink(path);
    ASSERT_OK(file_write(path, str_of(whole), 0600, &err));
    snprintf(link, sizeof(link), "%s/link", dir);
    assert_int_equal(symlink(path, link), 0);
    assert_true(snapshot_load(link, &source, NULL) < 0);
    assert_true(snapshot_load("/nonexistent/x", &source, NULL) < 0);
}

/* Objects of the right shape that say wrong things are left out; nothing of theirs gets into a request's head. */
static void hostile_objects(void **state)
{
    (void)state;
    static const char text[] =
        "{\"version\":1,\"keys\":[{},{\"metadata\":5},{\"metadata\":{\"name\":7,\"namespace\":[]}},{\"metadata\":{\"name\":\"x\"},\"status\":{\"hash\":{}}},"
        KEY("p", "k", "h1", "") "," KEY("p", "odd", "h2", "\"expiresAt\":\"soon\"") "],"
        "\"endpoints\":[{},{\"metadata\":{\"name\":[]}},{\"metadata\":{\"name\":\"m\",\"namespace\":\"p\"},\"spec\":[]}," ENDPOINT("p", "m", "yesterday", "\"model\":\"x\"") "],"
        "\"replicas\":[{},{\"spec\":9},"
        REPLICA("p", "a", "m", "http://127.0.0.1:9", "/v1 HTTP/1.1\\r\\nX: y\\r\\n") ","
        REPLICA("p", "b", "m", "http://127.0.0.1:9", "?v1") ","
        REPLICA("p", "c", "m", "http://127.0.0.1:9\\r\\nX: y", "") ","
        REPLICA("p", "e", "m", "unix:relative", "") ","
        REPLICA("p", "f", "m", "nonsense", "") ","
        REPLICA("p", "g", "m", "http://", "") ","
        REPLICA_AS("p", "h", UID, "m", REMOTE("http://127.0.0.1:9", ""), "\"address\":7") ","
        REPLICA("p", "good", "m", "http://127.0.0.1:9", "") "],"
        "\"namespaces\":[{},{\"metadata\":{\"name\":\"p\",\"labels\":[]}}]}";
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build(text, targets);
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, "h1"), "m");
    assert_non_null(e);
    assert_int_equal(e->replica_count, 1);
    assert_string_equal(e->replicas[0].name, "good");
    const struct snap_key *odd = snapshot_key(s, "h2"); /* an end that cannot be read is behind us */
    assert_true(!odd || (odd->expires_ms > 0 && odd->expires_ms < clock_wall_ms()));
    snapshot_unref(s);
    snapshot_memory_free(targets);
}

static size_t replicas_of(const char *replica)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 65536);
    sbuf_addf(&text, "{\"version\":1,\"keys\":[" KEY("p", "k", "h1", "") "],\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") "],\"replicas\":[%s],\"namespaces\":[]}",
              replica);
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = build(text.ptr, targets);
    size_t count = snapshot_find(s, snapshot_key(s, "h1"), "m")->replica_count;
    snapshot_unref(s);
    snapshot_memory_free(targets);
    return count;
}

/* Whoever can write a status sends requests nowhere by it. */
static void an_address_that_the_system_did_not_make(void **state)
{
    (void)state;
    assert_int_equal(replicas_of(REPLICA_AS("p", "r", UID, "m", "\"driver\":\"llamacpp\"", "\"address\":\"" SOCKET "\"")), 1);
    static const char *const none[] = {
        REPLICA_AS("p", "r", UID, "m", "\"driver\":\"llamacpp\"", "\"address\":\"unix:" ENGINES "/99999999-2222-3333.sock\""), /* another's engine */
        REPLICA_AS("p", "r", UID, "m", "\"driver\":\"llamacpp\"", "\"address\":\"unix:/run/docker.sock\""),
        REPLICA_AS("p", "r", UID, "m", "\"driver\":\"llamacpp\"", "\"address\":\"http://127.0.0.1:9\""),
        REPLICA_AS("p", "r", "../../../etc/passwd", "m", "\"driver\":\"llamacpp\"", "\"address\":\"" SOCKET "\""),
        REPLICA_AS("p", "r", "", "m", "\"driver\":\"llamacpp\"", "\"address\":\"" SOCKET "\""),
        REPLICA_AS("p", "r", UID, "m", REMOTE("http://127.0.0.1:9", ""), "\"address\":\"http://127.0.0.1:10\""),
        REPLICA_AS("p", "r", UID, "m", REMOTE("http://127.0.0.1:9", ""), "\"address\":\"" SOCKET "\""),
        REPLICA("p", "r", "m", "http://10.0.0.1:9", ""),   /* what the operator does not allow */
        REPLICA("p", "r", "m", "https://[::1]:9", ""),
        REPLICA("p", "r", "m", "http://[::1]:9", ""),
        REPLICA("p", "r", "m", "unix:/run/docker.sock", ""),
        REPLICA("p", "r", "m", SOCKET, ""),
    };
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        if (replicas_of(none[i]))
            fail_msg("%s", none[i]);
}

/* Not the file that the status names, and not a key that is for another address. */
static void keys_of_engines_elsewhere(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct engine_paths before = engines;
    static const char with_key[] = REPLICA_AS("p", "r", UID, "m", REMOTE("http://127.0.0.1:9", ",\"secret\":\"s\""), "\"address\":\"http://127.0.0.1:9\",\"tokenFile\":\"/etc/passwd\"");
    engines.socket_dir = dir;
    assert_int_equal(replicas_of(with_key), 0); /* there is none yet */
    ASSERT_OK(engine_secret_write(&engines, UID, "http://127.0.0.1:8", STR("k"), NULL, &err));
    assert_int_equal(replicas_of(with_key), 0);
    ASSERT_OK(engine_secret_write(&engines, UID, "http://127.0.0.1:9", STR("k"), NULL, &err));
    assert_int_equal(replicas_of(with_key), 1);
    ASSERT_OK(engine_secret_write(&engines, UID, "http://127.0.0.1:9", STR("k\r\nX: y"), NULL, &err));
    assert_int_equal(replicas_of(with_key), 0);
    engines = before;
}

/* Endpoints whose lists of tenants are a megabyte each; the lists are one document here, and a copy each in the snapshot. */
static void one_project_does_not_fill_the_snapshot(void **state)
{
    (void)state;
    struct snapshot_source source = {.keys = json_array(), .endpoints = json_array(), .replicas = json_array(), .namespaces = json_array()};
    JSON_AUTO tenants = json_array();
    char text[1001];
    memset(text, 't', 1000);
    text[1000] = 0;
    for (int i = 0; i < 1000; i++)
        json_array_append_new(tenants, json_string(text));
    for (int i = 0; i < 700; i++) {
        snprintf(text, sizeof(text), "e%d", i);
        json_array_append_new(source.endpoints, json_pack("{s:s, s:s, s:{s:s, s:s, s:s}, s:{s:{}, s:s, s:O}}", "apiVersion", "seki.cloud/v1alpha1", "kind", "ModelEndpoint", "metadata",
                                                          "name", text, "namespace", "greedy", "creationTimestamp", "2026-01-01T00:00:00Z", "spec", "engine", "visibility", "Tenants",
                                                          "tenants", tenants));
    }
    json_array_append_new(source.endpoints, json_loads(ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"engine\":{},\"model\":\"x\""), 0, NULL));
    json_array_append_new(source.keys, json_loads(KEY("p", "k", "h1", ""), 0, NULL));
    json_array_append_new(source.keys, json_loads(KEY("greedy", "k", "h2", ""), 0, NULL));
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = snapshot_build(&source, &engines, targets);
    assert_string_equal(found(s, "h1", "m"), "p");
    assert_string_equal(found(s, "h2", "e0"), "greedy");
    assert_string_equal(found(s, "h2", "e699"), ""); /* beyond its share */
    snapshot_unref(s);
    snapshot_memory_free(targets);
    snapshot_source_deinit(&source);
}

/* Rules that are a megabyte each: they bar all of the project that wrote them, and take nobody's room. */
static void rules_of_projects_do_not_fill_the_snapshot(void **state)
{
    (void)state;
    struct snapshot_source source = {.keys = json_array(), .endpoints = json_array(), .replicas = json_array(), .namespaces = json_array(), .sites = json_array(), .policies = json_array()};
    JSON_AUTO models = json_array();
    char text[1001];
    const char *rule;
    memset(text, 'm', 1000);
    text[1000] = 0;
    for (int i = 0; i < 1000; i++)
        json_array_append_new(models, json_string(text));
    for (int i = 0; i < 1200; i++) {
        snprintf(text, sizeof(text), "greedy-%d", i / 100);
        json_array_append_new(source.policies, json_pack("{s:{s:s, s:s}, s:{s:[s], s:O}}", "metadata", "name", "x", "namespace", text, "spec", "jurisdictions", "JP", "models", models));
    }
    json_array_append_new(source.sites, json_loads("{\"metadata\":{\"name\":\"s\"},\"spec\":{\"jurisdiction\":\"FR\",\"servers\":[\"127.0.0.1\"]}}", 0, NULL));
    json_array_append_new(source.policies, json_loads("{\"metadata\":{\"name\":\"only\",\"namespace\":\"p\"},\"spec\":{\"jurisdictions\":[\"FR\"]}}", 0, NULL));
    static const char *const projects[] = {"p", "greedy-0"};
    for (size_t i = 0; i < ARRAY_LEN(projects); i++) {
        json_t *k = json_loads(KEY("p", "k", "h1", ""), 0, NULL), *e = json_loads(ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"engine\":{},\"model\":\"x\""), 0, NULL);
        json_t *r = json_loads(REPLICA("p", "m-0", "m", "http://127.0.0.1:9", ""), 0, NULL), *all[] = {k, e, r};
        for (size_t n = 0; n < ARRAY_LEN(all); n++)
            json_object_set_new(json_object_get(all[n], "metadata"), "namespace", json_string(projects[i]));
        json_object_set_new(json_object_get(k, "status"), "hash", json_string(projects[i]));
        json_array_append_new(source.keys, k);
        json_array_append_new(source.endpoints, e);
        json_array_append_new(source.replicas, r);
    }
    struct snapshot_memory *targets = snapshot_memory_new();
    struct snapshot *s = snapshot_build(&source, &engines, targets);
    const struct snap_key *k = snapshot_key(s, "p"), *greedy = snapshot_key(s, "greedy-0");
    assert_int_equal(snapshot_find(s, k, "m")->replica_count, 1);
    assert_false(border_shuts(snapshot_border(s), k, snapshot_find(s, k, "m"), "m", &rule));
    assert_true(border_shuts(snapshot_border(s), greedy, snapshot_find(s, greedy, "m"), "m", &rule));
    snapshot_unref(s);
    snapshot_memory_free(targets);
    snapshot_source_deinit(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_may_call_what), cmocka_unit_test(keys_mean_endpoints_of_their_own_project), cmocka_unit_test(one_project_does_not_fill_the_snapshot), cmocka_unit_test(rules_of_projects_do_not_fill_the_snapshot), cmocka_unit_test(least_in_flight), cmocka_unit_test(a_cold_start_ends_with_the_first_replica), cmocka_unit_test(an_engine_is_where_its_name_leads), cmocka_unit_test(projects_share_no_target), cmocka_unit_test(the_file_round_trip),
                                       cmocka_unit_test(files_that_are_refused), cmocka_unit_test(hostile_objects),
                                       cmocka_unit_test(an_address_that_the_system_did_not_make), cmocka_unit_test(keys_of_engines_elsewhere)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
