/* The routing snapshot: who may call what, which replica is picked, and the file that it starts from. */
#include "unit.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "gateway/snapshot.h"

#define READY "\"status\":\"True\",\"type\":\"Ready\",\"reason\":\"Serving\""
#define ENDPOINT(ns, name, created, spec) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelEndpoint\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\",\"creationTimestamp\":\"" created "\"},\"spec\":{" spec "}}"
#define REPLICA(ns, name, endpoint, status) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelReplica\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\"},\"spec\":{\"endpoint\":\"" endpoint \
    "\"},\"status\":{\"conditions\":[{" READY "}]," status "}}"
#define KEY(ns, name, hash, spec) \
    "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"APIKey\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\"},\"spec\":{" spec "},\"status\":{\"hash\":\"" hash "\"}}"
#define NAMESPACE(name, tenant) \
    "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"" name "\",\"labels\":{\"seki.cloud/tenant\":\"" tenant "\"}}}"

static const char whole[] =
    "{\"version\":1,\"keys\":[" KEY("p", "k", "h1", "") "," KEY("q", "k", "h2", "") "," KEY("p", "narrow", "h3", "\"endpoints\":[\"other\"]") ","
    KEY("p", "off", "h4", "\"disabled\":true") "," KEY("p", "old", "h5", "\"expiresAt\":\"2020-01-01T00:00:00Z\"") "],"
    "\"endpoints\":[" ENDPOINT("p", "m", "2026-01-02T00:00:00Z", "\"model\":\"x\"") ","
    ENDPOINT("p", "other", "2026-01-02T00:00:00Z", "\"model\":\"x\"") ","
    ENDPOINT("shop", "m", "2026-01-01T00:00:00Z", "\"model\":\"x\",\"visibility\":\"Everyone\"") ","
    ENDPOINT("shop", "vip", "2026-01-03T00:00:00Z", "\"model\":\"x\",\"visibility\":\"Tenants\",\"tenants\":[\"tq\"]") "],"
    "\"replicas\":[" REPLICA("p", "m-0", "m", "\"address\":\"unix:/x/0\"") "," REPLICA("p", "m-1", "m", "\"address\":\"http://127.0.0.1:9\",\"basePath\":\"/api/v1\"") "],"
    "\"namespaces\":[" NAMESPACE("p", "tp") "," NAMESPACE("q", "tq") "]}";

static char dir[] = "/tmp/seki-snapshot-XXXXXX";
static char path[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/s", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

static struct snapshot *build(const char *text, struct target_set *targets)
{
    struct err err = ERR_INIT;
    struct snapshot_source source;
    unlink(path);
    ASSERT_OK(file_write(path, str_of(text), 0600, &err));
    ASSERT_OK(snapshot_load(path, &source, &err));
    struct snapshot *s = snapshot_build(&source, targets);
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
    struct target_set *targets = target_set_new();
    struct snapshot *s = build(whole, targets);
    assert_int_equal(snapshot_key_count(s), 5);
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
    assert_true(snapshot_key(s, "h5")->expires_ms > 0 && snapshot_key(s, "h5")->expires_ms < clock_wall_ms());
    snapshot_unref(s);
    target_set_free(targets);
}

static void least_in_flight(void **state)
{
    (void)state;
    struct target_set *targets = target_set_new();
    struct snapshot *s = build(whole, targets);
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, "h1"), "m");
    size_t index;
    assert_int_equal(e->replica_count, 2);
    assert_string_equal(e->replicas[0].base_path, "/v1");
    assert_string_equal(e->replicas[1].base_path, "/api/v1");
    assert_string_equal(e->replicas[1].host, "127.0.0.1:9");
    atomic_store(&e->replicas[0].target->in_flight, 3);
    assert_ptr_equal(snapshot_pick(e, 0, 1000, &index), &e->replicas[1]);
    assert_ptr_equal(snapshot_pick(e, 1u << 1, 1000, &index), &e->replicas[0]); /* tried already */
    atomic_store(&e->replicas[1].target->cool_until_ms, 2000);
    assert_ptr_equal(snapshot_pick(e, 0, 1000, &index), &e->replicas[0]);
    assert_ptr_equal(snapshot_pick(e, 1u << 0, 1000, &index), &e->replicas[1]); /* better than none */
    assert_null(snapshot_pick(e, 3, 1000, &index));
    /* The next snapshot remembers, as long as it has that replica. */
    struct snapshot *next = build(whole, targets);
    assert_int_equal(atomic_load(&snapshot_find(next, snapshot_key(next, "h1"), "m")->replicas[0].target->in_flight), 3);
    assert_true(snapshot_has_target(next, "unix:/x/0"));
    snapshot_unref(s);
    snapshot_unref(next);
    s = build("{\"version\":1,\"keys\":[],\"endpoints\":[],\"replicas\":[],\"namespaces\":[]}", targets);
    assert_false(snapshot_has_target(s, "unix:/x/0"));
    snapshot_unref(s);
    target_set_free(targets);
}

static void the_file_round_trip(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct target_set *targets = target_set_new();
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
    struct snapshot *again = snapshot_build(&source, targets);
    snapshot_source_deinit(&source);
    assert_int_equal(snapshot_key_count(again), snapshot_key_count(s));
    assert_string_equal(found(again, "h2", "vip"), "shop");
    snapshot_unref(s);
    snapshot_unref(again);
    target_set_free(targets);
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
        REPLICA("p", "a", "m", "\"address\":\"http://127.0.0.1:9\",\"basePath\":\"/v1 HTTP/1.1\\r\\nX: y\\r\\n\"") ","
        REPLICA("p", "b", "m", "\"address\":\"http://127.0.0.1:9\",\"basePath\":\"v1\"") ","
        REPLICA("p", "c", "m", "\"address\":\"http://127.0.0.1:9\\r\\nX: y\"") ","
        REPLICA("p", "d", "m", "\"address\":\"http://127.0.0.1:9/evil\"") ","
        REPLICA("p", "e", "m", "\"address\":\"unix:relative\"") ","
        REPLICA("p", "f", "m", "\"address\":\"nonsense\"") ","
        REPLICA("p", "g", "m", "\"address\":\"http://\"") ","
        REPLICA("p", "h", "m", "\"address\":7") ","
        REPLICA("p", "good", "m", "\"address\":\"http://127.0.0.1:9\"") "],"
        "\"namespaces\":[{},{\"metadata\":{\"name\":\"p\",\"labels\":[]}}]}";
    struct target_set *targets = target_set_new();
    struct snapshot *s = build(text, targets);
    const struct snap_endpoint *e = snapshot_find(s, snapshot_key(s, "h1"), "m");
    assert_non_null(e);
    assert_int_equal(e->replica_count, 1);
    assert_string_equal(e->replicas[0].name, "good");
    const struct snap_key *odd = snapshot_key(s, "h2"); /* an end that cannot be read is behind us */
    assert_true(!odd || (odd->expires_ms > 0 && odd->expires_ms < clock_wall_ms()));
    snapshot_unref(s);
    target_set_free(targets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_may_call_what), cmocka_unit_test(least_in_flight), cmocka_unit_test(the_file_round_trip),
                                       cmocka_unit_test(files_that_are_refused), cmocka_unit_test(hostile_objects)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
