/* Informers against a real API server, over HTTPS and in process: the same conformance for both clients. What a real server does not do is in test_controller_informer_fake.c. */
#include "api_peer.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/map.h"
#include "controller/informer.h"

static const struct client_resource configmaps = {"", "v1", "configmaps", true};

struct env {
    struct api_peer p;
    struct client *writer, *reader;
    bool http;
    struct informer *i;
    /* What the handlers heard. */
    pthread_mutex_t lock;
    struct map *known; /* name → resourceVersion, as text */
    int added, modified, deleted;
    atomic_int synced, heard, back_in_time;
    atomic_bool hold;  /* the handler waits while this is set */
    atomic_bool held;
};

static int64_t rev(const json_t *obj)
{
    return strtoll(json_str_or(obj, "metadata.resourceVersion", "0"), NULL, 10);
}

/* Handlers must hear a consistent story: added once, then newer and newer, then gone. */
static void changed(void *arg, json_t *prev, json_t *now)
{
    struct env *e = arg;
    const char *name = json_str_or(now ? now : prev, "metadata.name", "");
    pthread_mutex_lock(&e->lock);
    const char *known = map_getc(e->known, name);
    if ((prev == NULL) != (known == NULL) || (known && strtoll(known, NULL, 10) != rev(prev)) || (prev && now && rev(now) <= rev(prev)))
        atomic_fetch_add(&e->back_in_time, 1);
    if (now)
        map_set(e->known, str_of(name), xasprintf("%lld", (long long)rev(now)));
    else
        map_del(e->known, str_of(name));
    e->added += !prev;
    e->deleted += !now;
    e->modified += prev && now;
    pthread_mutex_unlock(&e->lock);
    atomic_fetch_add(&e->heard, 1);
    while (atomic_load(&e->hold)) {
        atomic_store(&e->held, true);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    atomic_store(&e->held, false);
}

static void synced(void *arg)
{
    struct env *e = arg;
    atomic_fetch_add(&e->synced, 1);
}

static void put(struct env *e, const char *name, const char *value, bool create)
{
    struct err err = ERR_INIT;
    JSON_AUTO obj = json_pack("{s:s, s:s, s:{s:s}, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", name, "data", "v", value);
    if (create)
        ASSERT_OK(client_create(e->writer, &configmaps, "default", obj, NULL, &err));
    else
        ASSERT_OK(client_patch(e->writer, &configmaps, "default", name, NULL, obj, NULL, &err));
}

static void del(struct env *e, const char *name)
{
    struct err err = ERR_INIT;
    ASSERT_OK(client_delete(e->writer, &configmaps, "default", name, NULL, &err));
}

static void prepare(struct env *e, bool http)
{
    *e = (struct env){.http = http, .known = map_new(mem_free)};
    pthread_mutex_init(&e->lock, NULL);
}

static void go(struct env *e)
{
    api_peer_start(&e->p);
    e->writer = api_peer_local(&e->p);
    e->reader = e->http ? api_peer_http(&e->p) : api_peer_local(&e->p);
    e->i = informer_new(e->reader, &kind_config_map);
    informer_add_handler(e->i, &(struct informer_handler){.changed = changed, .synced = synced, .arg = e});
}

static void watch(struct env *e)
{
    struct err err = ERR_INIT;
    ASSERT_OK(informer_start(e->i, &err));
    ASSERT_OK(informer_wait(e->i, TLS_PEER_WAIT_MS, &err));
}

static void done(struct env *e)
{
    informer_free(e->i);
    client_free(e->reader);
    client_free(e->writer);
    api_peer_stop(&e->p);
    assert_int_equal(e->back_in_time, 0);
    map_free(e->known);
    pthread_mutex_destroy(&e->lock);
}

static char *value_of(struct env *e, const char *name)
{
    JSON_AUTO obj = informer_get(e->i, "default", name);
    const char *v = json_str(obj, "data.v");
    return v ? xstrdup(v) : NULL;
}

static bool has(struct env *e, const char *name, const char *value)
{
    CLEANUP(mem_freep) char *v = value_of(e, name);
    return value ? v && !strcmp(v, value) : !v;
}

static size_t count(struct env *e)
{
    JSON_AUTO all = informer_list(e->i, NULL);
    return json_array_size(all);
}

/* The cache, what handlers heard, and a list of the server agree. */
static bool agrees(struct env *e)
{
    struct err err = ERR_INIT;
    JSON_AUTO items = NULL;
    ASSERT_OK(client_list(e->writer, &configmaps, NULL, NULL, &items, NULL, &err));
    bool same = json_array_size(items) == count(e);
    size_t n;
    json_t *obj;
    pthread_mutex_lock(&e->lock);
    same = same && map_len(e->known) == json_array_size(items);
    json_array_foreach (items, n, obj) {
        const char *known = map_getc(e->known, json_str_or(obj, "metadata.name", ""));
        JSON_AUTO cached = informer_get(e->i, "default", json_str_or(obj, "metadata.name", ""));
        same = same && known && strtoll(known, NULL, 10) == rev(obj) && json_equal(cached, obj);
    }
    pthread_mutex_unlock(&e->lock);
    return same;
}

/* ---- the conformance, each for both clients ---- */

static void lists_in_pages(bool http)
{
    struct env e;
    char name[32];
    prepare(&e, http);
    go(&e);
    for (int n = 0; n < 1203; n++) {
        snprintf(name, sizeof(name), "c%d", n);
        put(&e, name, "1", true);
    }
    watch(&e);
    assert_int_equal(count(&e), 1203);
    assert_int_equal(e.added, 1203);
    assert_int_equal(e.modified + e.deleted, 0);
    AWAIT(atomic_load(&e.synced) == 1);
    assert_true(informer_synced(e.i));
    assert_true(clock_wall_ms() - informer_fresh_ms(e.i) < 60000);
    JSON_AUTO obj = informer_get(e.i, "default", "c7");
    assert_string_equal(json_str_or(obj, "kind", ""), "ConfigMap");
    JSON_AUTO none = informer_list(e.i, "kube-system");
    assert_int_equal(json_array_size(none), 0);
    done(&e);
}

static void hears_each_change_once(bool http)
{
    struct env e;
    prepare(&e, http);
    go(&e);
    put(&e, "old", "1", true);
    watch(&e);
    put(&e, "a", "1", true);
    put(&e, "a", "2", false);
    put(&e, "old", "2", false);
    del(&e, "old");
    put(&e, "a", "3", false);
    AWAIT(has(&e, "a", "3"));
    AWAIT(agrees(&e)); /* handlers hear after the cache has it */
    assert_int_equal(e.added, 2);
    assert_int_equal(e.modified, 3);
    assert_int_equal(e.deleted, 1);
    done(&e);
}

static void resumes_where_it_was(bool http)
{
    struct env e;
    char value[16] = "";
    prepare(&e, http);
    go(&e);
    put(&e, "a", "0", true);
    watch(&e);
    for (int n = 1; n <= 5; n++) {
        snprintf(value, sizeof(value), "%d", n);
        api_peer_do(&e.p, api_peer_end_watches);
        put(&e, "a", value, false);
        AWAIT(has(&e, "a", value));
    }
    put(&e, "b", "1", true);
    api_peer_do(&e.p, api_peer_end_watches);
    del(&e, "b");
    AWAIT(agrees(&e));
    assert_int_equal(e.synced, 1); /* never listed again */
    done(&e);
}

/* While the handler is busy the watch ends, things happen, and history is dropped: a list tells what went. */
static void lists_again_after_410(bool http)
{
    struct env e;
    prepare(&e, http);
    go(&e);
    put(&e, "goes", "1", true);
    put(&e, "stays", "1", true);
    put(&e, "remade", "1", true);
    watch(&e);
    atomic_store(&e.hold, true);
    put(&e, "busy", "1", true);
    AWAIT(atomic_load(&e.held));
    api_peer_do(&e.p, api_peer_end_watches);
    del(&e, "goes");
    del(&e, "remade");
    put(&e, "remade", "2", true);
    put(&e, "comes", "1", true);
    api_peer_do(&e.p, api_peer_compact);
    atomic_store(&e.hold, false);
    AWAIT(atomic_load(&e.synced) == 2);
    assert_true(agrees(&e));
    assert_true(has(&e, "goes", NULL));
    assert_int_equal(e.deleted, 2); /* "goes", and the first "remade" */
    assert_int_equal(e.added, 6);
    assert_int_equal(e.modified, 0);
    done(&e);
}

/* A slow handler delays what comes, and loses nothing. Over HTTPS the server lets go of the feed meanwhile: its buffers are small here. */
static void a_slow_handler_loses_nothing(bool http)
{
    struct env e;
    char *large = xcalloc(1, 200001), name[32];
    memset(large, 'x', 200000);
    prepare(&e, http);
    e.p.watch_buffer_bytes = 1024 * 1024;
    go(&e);
    watch(&e);
    atomic_store(&e.hold, true);
    put(&e, "first", "1", true);
    AWAIT(atomic_load(&e.held));
    for (int n = 0; n < 100; n++) {
        snprintf(name, sizeof(name), "c%d", n);
        put(&e, name, large, true);
    }
    atomic_store(&e.hold, false);
    AWAIT(count(&e) == 101);
    AWAIT(agrees(&e));
    done(&e);
    mem_free(large);
}

static void churn(bool http)
{
    struct env e;
    unsigned seed = 7;
    bool there[20] = {false};
    prepare(&e, http);
    go(&e);
    watch(&e);
    for (int step = 0; step < 600; step++) {
        int n = rand_r(&seed) % 20;
        char name[32], value[32];
        snprintf(name, sizeof(name), "c%d", n);
        snprintf(value, sizeof(value), "%d", step);
        if (there[n] && rand_r(&seed) % 3 == 0) {
            del(&e, name);
            there[n] = false;
        } else {
            put(&e, name, value, !there[n]);
            there[n] = true;
        }
        if (rand_r(&seed) % 40 == 0)
            api_peer_do(&e.p, api_peer_end_watches);
        if (rand_r(&seed) % 60 == 0)
            api_peer_do(&e.p, api_peer_compact);
    }
    AWAIT(agrees(&e));
    done(&e);
}

#define BOTH(f)                                                                                                        \
    static void f##_http(void **state)                                                                                 \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        f(true);                                                                                                       \
    }                                                                                                                  \
    static void f##_local(void **state)                                                                                \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        f(false);                                                                                                      \
    }
BOTH(lists_in_pages)
BOTH(hears_each_change_once)
BOTH(resumes_where_it_was)
BOTH(lists_again_after_410)
BOTH(a_slow_handler_loses_nothing)
BOTH(churn)

/* ---- over HTTPS only: a client in process ends with its server ---- */

static void survives_restarts_of_the_server(void **state)
{
    (void)state;
    struct env e;
    char db[160], value[16];
    prepare(&e, true);
    snprintf(db, sizeof(db), "%s", peer_path("restart.db"));
    e.p.db = db;
    go(&e);
    put(&e, "a", "0", true);
    put(&e, "goes", "0", true);
    watch(&e);
    for (int n = 1; n <= 3; n++) {
        client_free(e.writer);
        api_peer_stop(&e.p);
        api_peer_start(&e.p);
        e.writer = api_peer_local(&e.p);
        snprintf(value, sizeof(value), "%d", n);
        put(&e, "a", value, false);
        if (n == 2)
            del(&e, "goes");
        AWAIT(has(&e, "a", value));
    }
    AWAIT(agrees(&e));
    assert_int_equal(e.deleted, 1);
    done(&e);
}

#define TESTS(f) cmocka_unit_test(f##_local), cmocka_unit_test(f##_http)

int main(void)
{
    const struct CMUnitTest tests[] = {TESTS(lists_in_pages),        TESTS(hears_each_change_once),       TESTS(resumes_where_it_was),
                                       TESTS(lists_again_after_410), TESTS(a_slow_handler_loses_nothing), TESTS(churn),
                                       cmocka_unit_test(survives_restarts_of_the_server)};
    return cmocka_run_group_tests(tests, tls_peer_setup, tls_peer_teardown);
}
