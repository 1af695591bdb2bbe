/* Sealed secrets from the API to the bytes of the database: what is written, what opens, what does not, rotation of both kinds of keys, and starts without the right root key. */
#include "unit.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apiserver/api.h"
#include "apiserver/sealing.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kinds/borrowed.h"

#define WAIT_MS 30000
#define CANARY "canary-b7e1fe47"
#define CANARY_64 "Y2FuYXJ5LWI3ZTFmZTQ3" /* the same in base64 */
#define SECRETS "/api/v1/namespaces/red/secrets"

static char dir[64];
static struct loop *loop;
static struct store *store;
static struct apiserver *server;
static const char *root_key, *old_root_key;

static const char *in_dir(const char *name)
{
    static char paths[8][128];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
    return p;
}

struct answer {
    int status; /* 0: not yet */
    json_t *body;
};

static void on_done(void *arg, int status, json_t *body)
{
    struct answer *a = arg;
    a->status = status;
    a->body = body;
}

#define AWAIT_LOOP(condition)                                                                                          \
    do {                                                                                                               \
        uint64_t end_ = clock_mono_ms() + WAIT_MS;                                                                     \
        while (!(condition)) {                                                                                         \
            if (clock_mono_ms() > end_)                                                                                \
                fail_msg("waited in vain for %s", #condition);                                                         \
            loop_run_once(loop, 20);                                                                                   \
        }                                                                                                              \
    } while (0)

/* The answer's body; a new reference. want 0: any status. */
static json_t *call_as(const char *user, const char *method, const char *target, json_t *body, int want, int *ret_status)
{
    static const char *const groups[] = {"system:masters", NULL}, *const nobody[] = {NULL};
    struct client_local local = apiserver_local(server);
    struct answer a = {0};
    const char *type = !strcmp(method, "PATCH") ? "application/merge-patch+json" : "application/json";
    struct local_call c = {.method = method, .target = target, .content_type = type, .body = body, .user = user, .groups = strcmp(user, "tester") ? nobody : groups, .arg = &a, .done = on_done};
    local.call(local.ctx, &c);
    AWAIT_LOOP(a.status);
    if (want && a.status != want)
        fail_msg("%s %s: %d %s", method, target, a.status, json_str_or(a.body, "message", ""));
    if (ret_status)
        *ret_status = a.status;
    json_decref(body);
    return a.body;
}

static json_t *call(const char *method, const char *target, json_t *body, int want)
{
    return call_as("tester", method, target, body, want, NULL);
}

static void on_bootstrapped(void *arg, int code, const struct err *err UNUSED)
{
    *(int *)arg = code < 0 ? code : 1;
}

static int try_start(struct err *err)
{
    struct apiserver_options o = {.root_key = root_key, .old_root_key = old_root_key};
    struct store_options so = {.path = in_dir("seki.db")};
    assert_int_equal(loop_new(&loop, err), 0);
    assert_int_equal(store_open_sqlite(loop, &so, &store, err), 0);
    assert_int_equal(net_addr_parse(STR("127.0.0.1:0"), &o.listen, err), 0);
    return apiserver_start(loop, store, &o, &server, err);
}

static void on_durable(void *arg, int code, int64_t rev UNUSED)
{
    *(int *)arg = code ? code : 1;
}

static void settle(void)
{
    struct err err = ERR_INIT;
    struct store_op op = {.type = STORE_PUT, .key = STR("test"), .value = STR("{}"), .expect_rev = -1};
    struct store_stats before, after;
    do { /* until the server has nothing on its way any more */
        int durable = 0;
        store_get_stats(store, &before);
        ASSERT_OK(store_txn(store, &op, 1, on_durable, &durable, &err));
        AWAIT_LOOP(durable);
        for (int i = 0; i < 10; i++)
            loop_run_once(loop, 2);
        store_get_stats(store, &after);
    } while (after.txns != before.txns + 1);
}

static void end(void)
{
    settle();
    apiserver_free(server);
    store_close(store);
    loop_free(loop);
    server = NULL;
}

static void start(void)
{
    struct err err = ERR_INIT;
    int ready = 0;
    ASSERT_OK(try_start(&err));
    apiserver_bootstrap(server, on_bootstrapped, &ready);
    AWAIT_LOOP(ready);
    assert_int_equal(ready, 1);
}

static void again(void)
{
    end();
    start();
}

static void make_namespace(const char *name, const char *tenant)
{
    json_t *ns = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Namespace", "metadata", "name", name);
    if (tenant)
        json_decref(call("POST", "/apis/seki.cloud/v1alpha1/tenants", json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "seki.cloud/v1alpha1", "kind", "Tenant", "metadata", "name", tenant), 201));
    if (tenant)
        json_object_set_new(json_object_get(ns, "metadata"), "labels", json_pack("{s:s}", LABEL_TENANT, tenant));
    json_decref(call("POST", "/api/v1/namespaces", ns, 201));
}

static json_t *secret(const char *name, const char *value)
{
    return json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind", "Secret", "metadata", "name", name, "annotations", "kubectl.kubernetes.io/last-applied-configuration", value,
                     "stringData", "password", value);
}

static void make_secret(const char *ns, const char *name, const char *value)
{
    char path[128];
    snprintf(path, sizeof(path), "/api/v1/namespaces/%s/secrets", ns);
    json_decref(call("POST", path, secret(name, value), 201));
}

static int setup(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-sealing-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    root_key = strdup(in_dir("root.key"));
    old_root_key = NULL;
    start();
    make_namespace("red", "acme");
    make_namespace("blue", NULL);
    return 0;
}

static int teardown(void **state UNUSED)
{
    struct err err = ERR_INIT;
    end();
    free((char *)(uintptr_t)root_key);
    return file_remove_tree(dir, &err);
}

/* ---- what is stored ---- */

static struct store_value *value_of(const char *key)
{
    struct store_value *v = store_get_pending(store, str_of(key));
    if (!v)
        fail_msg("%s is not in the store", key);
    return v;
}

static bool text_has(struct str text, const char *what)
{
    return memmem(text.ptr, text.len, what, strlen(what)) != NULL;
}

static bool file_has(const char *name, const char *what)
{
    struct err err = ERR_INIT;
    char *bytes = NULL;
    size_t len = 0;
    if (file_read(in_dir(name), 1 << 28, &bytes, &len, &err) < 0)
        return false;
    bool has = text_has(str_n(bytes, len), what);
    mem_free(bytes);
    return has;
}

static bool disk_has(const char *what)
{
    return file_has("seki.db", what) || file_has("seki.db-wal", what);
}

static const char *password_of(const json_t *obj)
{
    return json_str_or(obj, "data.password", "");
}

static void secrets_are_whole_outside_and_sealed_inside(void **state UNUSED)
{
    make_secret("red", "db", CANARY);
    struct str text = value_of("secrets/red/db")->value;
    assert_true(sealing_is_sealed(text, NULL));
    assert_false(text_has(text, CANARY) || text_has(text, CANARY_64) || text_has(text, "\"data\"") || text_has(text, "\"annotations\""));
    assert_true(text_has(text, "\"type\":\"Opaque\""));
    for (int round = 0; round < 2; round++) {
        JSON_AUTO got = call("GET", SECRETS "/db", NULL, 200);
        JSON_AUTO list = call("GET", SECRETS, NULL, 200);
        const json_t *item = json_array_get(json_object_get(list, "items"), 0);
        assert_string_equal(password_of(got), CANARY_64);
        assert_string_equal(password_of(item), CANARY_64);
        assert_string_equal(obj_annotation(got, "kubectl.kubernetes.io/last-applied-configuration"), CANARY);
        assert_null(json_object_get(got, SEALED_MEMBER));
        assert_true(json_equal(got, item));
        again();
    }
    assert_true(disk_has("secrets/red/db")); /* we look where it is */
    assert_false(disk_has(CANARY) || disk_has(CANARY_64));
    store_compact(store, store_rev(store));
    again();
    assert_false(disk_has(CANARY) || disk_has(CANARY_64));
}

static void what_has_no_secret_is_stored_as_it_is(void **state UNUSED)
{
    json_decref(call("POST", "/api/v1/namespaces/red/configmaps", json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", "c", "annotations", "a",
                                                                            "plain", "data", "key", "x"), 201));
    struct str text = value_of("configmaps/red/c")->value;
    assert_false(sealing_is_sealed(text, NULL));
    assert_true(text_has(text, "\"plain\""));
    json_decref(call("POST", SECRETS, json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Secret", "metadata", "name", "empty"), 201));
    assert_false(sealing_is_sealed(value_of("secrets/red/empty")->value, NULL));
    assert_true(sealing_is_sealed(STR("{\"metadata\":{},\"$sealed\":\"eA==\"}"), NULL));
    assert_false(sealing_is_sealed(STR("{\"metadata\":{},\"data\":{\"a\":\"b\",\"$sealed\":\"eA==\"}}"), NULL));
    assert_false(sealing_is_sealed(STR("{\"metadata\":{},\"data\":\",\\\"$sealed\\\":\\\"eA==\"}"), NULL));
    json_decref(call("POST", SECRETS, json_pack("{s:s, s:s, s:{s:s}, s:s}", "apiVersion", "v1", "kind", "Secret", "metadata", "name", "odd", SEALED_MEMBER, "eA=="), 400));
}

static void an_update_that_changes_nothing_writes_nothing(void **state UNUSED)
{
    make_secret("red", "db", CANARY);
    int64_t rev = value_of("secrets/red/db")->rev;
    JSON_AUTO got = call("GET", SECRETS "/db", NULL, 200);
    json_decref(call("PUT", SECRETS "/db", json_deep_copy(got), 200));
    json_decref(call("PATCH", SECRETS "/db", json_pack("{s:{s:s}}", "data", "password", CANARY_64), 200));
    assert_int_equal(value_of("secrets/red/db")->rev, rev);
    JSON_AUTO changed = call("PATCH", SECRETS "/db", json_pack("{s:{s:s}}", "data", "more", "eA=="), 200);
    assert_string_equal(password_of(changed), CANARY_64);
    assert_true(value_of("secrets/red/db")->rev > rev);
}

static void an_object_may_be_as_large_as_before(void **state UNUSED)
{
    size_t size = 700 * 1024; /* 1 MiB less a little, in base64 */
    char *big = xcalloc(1, size + 1);
    memset(big, 'x', size);
    json_t *obj = json_pack("{s:s, s:s, s:{s:s}, s:{s:s}}", "apiVersion", "v1", "kind", "Secret", "metadata", "name", "big", "stringData", "v", big);
    json_decref(call("POST", SECRETS, obj, 201));
    assert_true(value_of("secrets/red/big")->value.len > 1024 * 1024);
    JSON_AUTO got = call("GET", SECRETS "/big", NULL, 200);
    assert_int_equal(strlen(json_str_or(got, "data.v", "")), (size + 2) / 3 * 4);
    json_t *larger = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s}}", "apiVersion", "v1", "kind", "Secret", "metadata", "name", "larger", "stringData", "v", big, "w", big);
    json_decref(call("POST", SECRETS, larger, 413));
    mem_free(big);
}

/* ---- what does not open ---- */

static void overwrite(const char *key, struct str value)
{
    struct err err = ERR_INIT;
    struct store_op op = {.type = STORE_PUT, .key = str_of(key), .value = value, .expect_rev = -1};
    ASSERT_OK(store_txn(store, &op, 1, NULL, NULL, &err));
    int64_t rev = value_of(key)->rev;
    AWAIT_LOOP(store_rev(store) >= rev);
}

static void is_shut(const char *path, json_t *patch)
{
    JSON_AUTO got = call("GET", path, NULL, 500);
    assert_non_null(strstr(json_str_or(got, "message", ""), "cannot be read"));
    json_decref(call("PATCH", path, patch, 500));
}

static json_t *a_change(void)
{
    return json_pack("{s:{s:{s:s}}}", "metadata", "labels", "a", "b");
}

static void sealed_texts_do_not_move(void **state UNUSED)
{
    make_secret("red", "one", CANARY);
    make_secret("red", "two", "another");
    make_secret("blue", "one", "another tenant's");
    CLEANUP(mem_freep) char *one = xstrndup(value_of("secrets/red/one")->value.ptr, value_of("secrets/red/one")->value.len);
    CLEANUP(mem_freep) char *two = xstrndup(value_of("secrets/red/two")->value.ptr, value_of("secrets/red/two")->value.len);
    /* The whole of one object as another, here and at another tenant. */
    overwrite("secrets/red/two", str_of(one));
    is_shut(SECRETS "/two", a_change());
    overwrite("secrets/blue/one", str_of(one));
    is_shut("/api/v1/namespaces/blue/secrets/one", a_change());
    /* The sealed part alone. */
    CLEANUP(mem_freep) char *mixed = xasprintf("%.*s%s", (int)(strstr(two, ",\"" SEALED_MEMBER) - two), two, strstr(one, ",\"" SEALED_MEMBER));
    overwrite("secrets/red/two", str_of(mixed));
    is_shut(SECRETS "/two", a_change());
    /* A list says so too, and names it; what is whole is still there, and what is not can be deleted. */
    JSON_AUTO list = call("GET", SECRETS, NULL, 500);
    assert_non_null(strstr(json_str_or(list, "message", ""), "secrets/red/two"));
    JSON_AUTO whole = call("GET", SECRETS "/one", NULL, 200);
    assert_string_equal(password_of(whole), CANARY_64);
    json_decref(call("DELETE", SECRETS "/two", NULL, 200));
    json_decref(call("GET", SECRETS, NULL, 200));
}

static void an_earlier_sealed_part_does_not_come_back(void **state UNUSED)
{
    make_secret("red", "db", "first");
    CLEANUP(mem_freep) char *first = xstrndup(value_of("secrets/red/db")->value.ptr, value_of("secrets/red/db")->value.len);
    json_decref(call("PATCH", SECRETS "/db", json_pack("{s:{s:s}, s:{s:{s:s}}}", "stringData", "password", "second", "metadata", "labels", "round", "two"), 200));
    CLEANUP(mem_freep) char *second = xstrndup(value_of("secrets/red/db")->value.ptr, value_of("secrets/red/db")->value.len);
    CLEANUP(mem_freep) char *mixed = xasprintf("%.*s%s", (int)(strstr(second, ",\"" SEALED_MEMBER) - second), second, strstr(first, ",\"" SEALED_MEMBER));
    overwrite("secrets/red/db", str_of(mixed));
    is_shut(SECRETS "/db", a_change());
}

static void no_byte_of_a_sealed_object_can_be_changed(void **state UNUSED)
{
    make_secret("red", "db", CANARY);
    struct str key = STR("secrets/red/db"), value = value_of("secrets/red/db")->value;
    CLEANUP(mem_freep) char *text = xstrndup(value.ptr, value.len);
    JSON_AUTO whole = sealing_open(key, value);
    assert_null(sealing_shut(whole));
    size_t opened = 0;
    for (size_t i = 0; i < value.len; i++) {
        text[i] ^= 1;
        JSON_AUTO other = sealing_open(key, str_n(text, value.len));
        CLEANUP(sbuf_deinit) struct sbuf shown = {0};
        sbuf_init(&shown, 1 << 20);
        json_write(other, &shown);
        bool secret_shown = text_has(sbuf_str(&shown), CANARY_64);
        /* Unused bits of base64 are no part of the text. */
        opened += secret_shown;
        assert_true(!secret_shown || json_equal(other, whole));
        text[i] ^= 1;
    }
    assert_true(opened <= 1);
    for (size_t len = 0; len < value.len; len++) {
        JSON_AUTO cut = sealing_open(key, str_n(text, len));
        assert_null(json_object_get(cut, "data"));
    }
}

static void watches_end_where_a_secret_does_not_open(void **state UNUSED);

/* ---- keys ---- */

static json_t *rotation(const char *tenant, bool report)
{
    return json_pack("{s:s, s:s, s:{s:s, s:b}}", "apiVersion", "seki.cloud/v1alpha1", "kind", "KeyRotation", "spec", "tenant", tenant, "reportOnly", report);
}

#define ROTATIONS "/apis/seki.cloud/v1alpha1/keyrotations"

/* "acme 1 Retired 0, acme 2 Current 3" */
static const char *keys_of(const char *tenant)
{
    static char text[1024];
    JSON_AUTO body = call("POST", ROTATIONS, rotation(tenant, true), 201);
    size_t i;
    json_t *k;
    text[0] = 0;
    json_array_foreach (json_at(body, "status.keys"), i, k)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s %lld %s %lld", i ? ", " : "", json_str_or(k, "tenant", ""), (long long)json_int(k, "version", 0), json_str_or(k, "state", ""),
                 (long long)json_int(k, "objects", -1));
    return text;
}

static void tenants_have_keys_of_their_own_and_rotate_alone(void **state UNUSED)
{
    for (int i = 0; i < 100; i++) { /* more than a step */
        char name[16];
        snprintf(name, sizeof(name), "s%d", i);
        make_secret("red", name, CANARY);
    }
    make_secret("blue", "one", "x");
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 1 Current 100, blue 1 Current 1"));
    CLEANUP(mem_freep) char *before = xstrndup(value_of("secrets/red/s7")->value.ptr, value_of("secrets/red/s7")->value.len);
    int64_t blue_rev = value_of("secrets/blue/one")->rev;
    json_decref(call("POST", ROTATIONS, rotation("acme", false), 201));
    make_secret("red", "later", CANARY);
    AWAIT_LOOP(!strcmp(keys_of("acme"), "acme 1 Retired 0, acme 2 Current 101"));
    assert_string_not_equal(before, value_of("secrets/red/s7")->value.ptr);
    assert_int_equal(value_of("secrets/blue/one")->rev, blue_rev);
    JSON_AUTO got = call("GET", SECRETS "/s7", NULL, 200);
    assert_string_equal(password_of(got), CANARY_64);
    /* The old key opens history; with that it goes, off the disk too. */
    assert_true(disk_has("seki:keys/acme/0000000001"));
    store_compact(store, store_rev(store));
    AWAIT_LOOP(!strcmp(keys_of("acme"), "acme 2 Current 101"));
    assert_null(store_get_pending(store, STR("seki:keys/acme/0000000001")));
    AWAIT_LOOP((store_compact(store, store_rev(store)), !disk_has("seki:keys/acme/0000000001")));
    again();
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 2 Current 101, blue 1 Current 1"));
    json_decref(call("GET", SECRETS "/s7", NULL, 200));
    json_decref(call("POST", ROTATIONS, rotation("", false), 201));
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 2 Retired 0, acme 3 Current 101, blue 1 Retired 0, blue 2 Current 1"));
    json_decref(call("POST", ROTATIONS, rotation("nobody", false), 404));
}

/* A tenant that is closed: what copies of the disk hold of it nobody opens. One that goes on has another key. */
static void the_last_key_goes_with_the_last_secret(void **state UNUSED)
{
    make_secret("red", "one", CANARY);
    make_secret("blue", "one", "x");
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 1 Current 1, blue 1 Current 1"));
    CLEANUP(mem_freep) char *record = xstrndup(value_of("seki:keys/acme/0000000001")->value.ptr, value_of("seki:keys/acme/0000000001")->value.len);
    json_decref(call("DELETE", SECRETS "/one", NULL, 200));
    AWAIT_LOOP(!strcmp(keys_of("acme"), "acme 1 Current 0"));
    make_secret("red", "two", CANARY); /* history has the first, and the key seals again */
    AWAIT_LOOP(!strcmp(keys_of("acme"), "acme 1 Current 1"));
    assert_true(disk_has("seki:keys/acme/0000000001"));
    json_decref(call("DELETE", SECRETS "/two", NULL, 200));
    AWAIT_LOOP((store_compact(store, store_rev(store)), !strcmp(keys_of(""), "blue 1 Current 1")));
    AWAIT_LOOP((store_compact(store, store_rev(store)), !disk_has("seki:keys/acme/0000000001") && !disk_has("secrets/red/one")));
    make_secret("red", "three", CANARY);
    again();
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 1 Current 1, blue 1 Current 1"));
    assert_false(str_eqc(value_of("seki:keys/acme/0000000001")->value, record));
    JSON_AUTO got = call("GET", SECRETS "/three", NULL, 200);
    assert_string_equal(password_of(got), CANARY_64);
}

/* Also where nothing was sealed, so that no key goes. */
static void a_deleted_namespace_leaves_no_trace(void **state UNUSED)
{
    make_secret("blue", "one", "x");
    AWAIT_LOOP((store_compact(store, store_rev(store)), !strcmp(keys_of(""), "blue 1 Current 1")));
    json_decref(call("POST", "/api/v1/namespaces/red/configmaps", json_pack("{s:s, s:s, s:{s:s}, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", "c", "data", "a", CANARY), 201));
    assert_true(disk_has(CANARY));
    json_decref(call("DELETE", "/api/v1/namespaces/red", NULL, 200));
    AWAIT_LOOP((store_compact(store, store_rev(store)), keys_of(""), !disk_has(CANARY)));
}

/* A stop in the middle of sealing anew: the next start goes on. */
static void a_rotation_goes_on_after_a_stop(void **state UNUSED)
{
    for (int i = 0; i < 60; i++) {
        char name[16];
        snprintf(name, sizeof(name), "s%d", i);
        make_secret("red", name, CANARY);
    }
    json_decref(call("POST", ROTATIONS, rotation("acme", false), 201));
    again();
    AWAIT_LOOP(!strcmp(keys_of("acme"), "acme 1 Retired 0, acme 2 Current 60"));
}

static void rotation_needs_its_verb(void **state UNUSED)
{
    int status = 0;
    make_secret("red", "db", CANARY);
    json_t *role = json_pack("{s:s, s:s, s:{s:s}, s:[{s:[s], s:[s], s:[s]}, {s:[s,s], s:[s], s:[s], s:[s]}]}", "apiVersion", "rbac.authorization.k8s.io/v1", "kind", "ClusterRole", "metadata", "name",
                             "rotator", "rules", "verbs", "create", "apiGroups", "seki.cloud", "resources", "keyrotations", "verbs", "rotate", "get", "apiGroups", "seki.cloud", "resources", "keyrotations",
                             "resourceNames", "acme");
    json_t *binding = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s}, s:[{s:s, s:s, s:s}]}", "apiVersion", "rbac.authorization.k8s.io/v1", "kind", "ClusterRoleBinding", "metadata", "name", "rotator",
                                "roleRef", "apiGroup", "rbac.authorization.k8s.io", "kind", "ClusterRole", "name", "rotator", "subjects", "apiGroup", "rbac.authorization.k8s.io", "kind", "User", "name",
                                "rita");
    json_decref(call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role, 201));
    json_decref(call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding, 201));
    json_decref(call_as("rita", "POST", ROTATIONS, rotation("acme", false), 201, &status));
    json_decref(call_as("rita", "POST", ROTATIONS, rotation("acme", true), 201, &status));
    json_decref(call_as("rita", "POST", ROTATIONS, rotation("blue", false), 403, &status));
    json_decref(call_as("rita", "POST", ROTATIONS, rotation("", true), 403, &status));
    json_decref(call_as("otto", "POST", ROTATIONS, rotation("acme", false), 403, &status));
}

/* ---- an older store ---- */

static void what_was_stored_in_clear_is_sealed_and_leaves_the_disk(void **state UNUSED)
{
    const char *key = root_key;
    root_key = NULL; /* as a release before did it */
    end();
    assert_int_equal(unlink(in_dir("seki.db")), 0);
    start();
    make_namespace("red", "acme");
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof(name), "old%d", i);
        make_secret("red", name, CANARY);
    }
    make_secret("red", "gone", CANARY);
    json_decref(call("DELETE", SECRETS "/gone", NULL, 200));
    end();
    assert_true(disk_has(CANARY_64));
    root_key = key;
    start();
    JSON_AUTO got = call("GET", SECRETS "/old7", NULL, 200); /* at once */
    assert_string_equal(password_of(got), CANARY_64);
    AWAIT_LOOP(!strcmp(keys_of(""), "acme 1 Current 40"));
    JSON_AUTO after = call("GET", SECRETS "/old7", NULL, 200);
    assert_string_equal(password_of(after), CANARY_64);
    assert_string_equal(obj_uid(after), obj_uid(got));
    AWAIT_LOOP((store_compact(store, store_rev(store)), keys_of(""), !disk_has(CANARY) && !disk_has(CANARY_64)));
}

/* ---- root keys ---- */

static void refuses_to_start(int want, const char *says)
{
    struct err err = ERR_INIT;
    struct store_stats stats;
    int rc = try_start(&err);
    if (rc != want || !strstr(err.msg, says))
        fail_msg("%d %s; expected %d %s", rc, err.msg, want, says);
    store_get_stats(store, &stats);
    assert_int_equal(stats.txns, 0);
    store_close(store);
    loop_free(loop);
}

static void without_its_root_key_nothing_starts_and_nothing_changes(void **state UNUSED)
{
    struct err err = ERR_INIT;
    make_secret("red", "db", CANARY);
    end();
    CLEANUP(mem_freep) char *aside = xstrdup(in_dir("aside.key"));
    assert_int_equal(rename(root_key, aside), 0);
    refuses_to_start(ERR_NOT_FOUND, root_key);
    assert_false(file_exists(root_key)); /* no other was made */
    ASSERT_OK(file_write(root_key, STR("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"), 0600, &err));
    refuses_to_start(ERR_CORRUPT, "not the root key of this store");
    refuses_to_start(ERR_CORRUPT, root_key);
    ASSERT_OK(file_write(root_key, STR("0011\n"), 0600, &err));
    refuses_to_start(ERR_CORRUPT, "hexadecimal");
    assert_int_equal(rename(aside, root_key), 0);
    assert_int_equal(chmod(root_key, 0644), 0);
    refuses_to_start(ERR_FORBIDDEN, "chmod 600");
    assert_int_equal(chmod(root_key, 0600), 0);
    start();
    JSON_AUTO got = call("GET", SECRETS "/db", NULL, 200);
    assert_string_equal(password_of(got), CANARY_64);
}

/* Somebody has deleted the keys, or a backup lacks them. */
static void sealed_objects_without_keys_are_no_new_store(void **state UNUSED)
{
    struct err err = ERR_INIT;
    make_secret("red", "db", CANARY);
    struct store_op ops[] = {{.type = STORE_DELETE, .key = STR("seki:root"), .expect_rev = -1}, {.type = STORE_DELETE, .key = STR("seki:keys/acme/0000000001"), .expect_rev = -1}};
    ASSERT_OK(store_txn(store, ops, 2, NULL, NULL, &err));
    end();
    CLEANUP(mem_freep) char *aside = xstrdup(in_dir("aside.key"));
    assert_int_equal(rename(root_key, aside), 0);
    refuses_to_start(ERR_CORRUPT, "record of their root key is missing");
    assert_false(file_exists(root_key));
    const char *key = root_key; /* for the teardown */
    root_key = NULL;
    start();
    root_key = key;
}

static void a_new_root_key_takes_over_from_the_old_one(void **state UNUSED)
{
    struct err err = ERR_INIT;
    make_secret("red", "db", CANARY);
    make_secret("blue", "db", CANARY);
    end();
    const char *first = root_key;
    CLEANUP(mem_freep) char *second = xasprintf("file:%s", in_dir("second.key"));
    ASSERT_OK(file_write(in_dir("second.key"), STR("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"), 0600, &err));
    root_key = second;
    refuses_to_start(ERR_CORRUPT, "not the root key of this store");
    old_root_key = in_dir("third.key");
    refuses_to_start(ERR_NOT_FOUND, "old-root-key");
    old_root_key = first;
    start();
    JSON_AUTO got = call("GET", SECRETS "/db", NULL, 200);
    assert_string_equal(password_of(got), CANARY_64);
    again(); /* both are named still: harmless */
    old_root_key = NULL;
    again();
    JSON_AUTO after = call("GET", "/api/v1/namespaces/blue/secrets/db", NULL, 200);
    assert_string_equal(password_of(after), CANARY_64);
    end();
    root_key = first; /* it opens nothing now */
    refuses_to_start(ERR_CORRUPT, "second.key");
    root_key = second;
    start();
    root_key = first;
}

/* ---- watches ---- */

struct seen {
    int count, ended;
    char last[16];
    json_t *object;
};

static void on_event(void *arg, json_t *event)
{
    struct seen *s = arg;
    s->count++;
    snprintf(s->last, sizeof(s->last), "%s", json_str_or(event, "type", ""));
    json_decref(s->object);
    s->object = json_incref(json_object_get(event, "object"));
}

static void on_ended(void *arg, int status, json_t *body)
{
    struct seen *s = arg;
    s->ended = status;
    json_decref(body);
}

static void watches_end_where_a_secret_does_not_open(void **state UNUSED)
{
    static const char *const groups[] = {"system:masters", NULL};
    struct client_local local = apiserver_local(server);
    struct seen seen = {0};
    struct local_watch_call c = {.target = SECRETS "?watch=true&resourceVersion=0", .user = "tester", .groups = groups, .arg = &seen, .event = on_event, .ended = on_ended};
    make_secret("red", "db", CANARY);
    assert_non_null(local.watch(local.ctx, &c));
    AWAIT_LOOP(seen.count == 1);
    assert_string_equal(password_of(seen.object), CANARY_64);
    json_decref(call("PATCH", SECRETS "/db", json_pack("{s:{s:s}}", "data", "more", "eA=="), 200));
    AWAIT_LOOP(seen.count == 2);
    assert_string_equal(seen.last, "MODIFIED");
    CLEANUP(mem_freep) char *text = xstrndup(value_of("secrets/red/db")->value.ptr, value_of("secrets/red/db")->value.len);
    char *part = strstr(text, SEALED_MEMBER) + strlen(SEALED_MEMBER) + 100;
    *part = *part == 'A' ? 'B' : 'A';
    overwrite("secrets/red/db", str_of(text));
    AWAIT_LOOP(seen.ended);
    assert_string_equal(seen.last, "ERROR");
    assert_int_equal(json_int(seen.object, "code", 0), 500);
    json_decref(seen.object);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)


int main(void)
{
    const struct CMUnitTest tests[] = {
        T(secrets_are_whole_outside_and_sealed_inside), T(what_has_no_secret_is_stored_as_it_is), T(an_update_that_changes_nothing_writes_nothing), T(an_object_may_be_as_large_as_before),
        T(sealed_texts_do_not_move), T(an_earlier_sealed_part_does_not_come_back), T(no_byte_of_a_sealed_object_can_be_changed), T(watches_end_where_a_secret_does_not_open),
        T(tenants_have_keys_of_their_own_and_rotate_alone), T(the_last_key_goes_with_the_last_secret), T(a_deleted_namespace_leaves_no_trace), T(a_rotation_goes_on_after_a_stop), T(rotation_needs_its_verb), T(what_was_stored_in_clear_is_sealed_and_leaves_the_disk),
        T(without_its_root_key_nothing_starts_and_nothing_changes), T(sealed_objects_without_keys_are_no_new_store), T(a_new_root_key_takes_over_from_the_old_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
