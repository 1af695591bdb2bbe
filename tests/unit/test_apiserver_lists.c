/* Lists over a compacted history, in process: a client that was in the middle may start anew or go on in what there is. */
#include "unit.h"

#include "apiserver/apiserver.h"
#include "base/clock.h"

#define WAIT_MS 10000
#define MAPS "/api/v1/namespaces/default/configmaps"

static struct loop *loop;
static struct store *store;
static struct apiserver *server;

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

static void wait_for(const int *flag)
{
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (!*flag) {
        if (clock_mono_ms() > end)
            fail_msg("nothing happened in %d ms", WAIT_MS);
        loop_run_once(loop, 100);
    }
}

/* The answer's body; a new reference. */
static json_t *call(const char *method, const char *target, json_t *body, int want)
{
    static const char *const groups[] = {"system:masters", NULL};
    struct client_local local = apiserver_local(server);
    struct answer a = {0};
    struct local_call c = {.method = method, .target = target, .content_type = "application/json", .body = body, .user = "tester", .groups = groups, .arg = &a, .done = on_done};
    local.call(local.ctx, &c);
    wait_for(&a.status);
    if (a.status != want)
        fail_msg("%s %s: %d %s", method, target, a.status, json_str_or(a.body, "message", ""));
    json_decref(body);
    return a.body;
}

static void on_bootstrapped(void *arg, int code, const struct err *err UNUSED)
{
    *(int *)arg = code < 0 ? code : 1;
}

static int setup(void **state UNUSED)
{
    struct err err = ERR_INIT;
    int ready = 0;
    ASSERT_OK(loop_new(&loop, &err));
    ASSERT_OK(store_open_memory(loop, &(struct store_options){0}, &store, &err));
    struct apiserver_options o = {0};
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(apiserver_start(loop, store, &o, &server, &err));
    apiserver_bootstrap(server, on_bootstrapped, &ready);
    wait_for(&ready);
    assert_int_equal(ready, 1);
    for (int i = 0; i < 5; i++) {
        char name[8];
        snprintf(name, sizeof(name), "c%d", i);
        json_decref(call("POST", MAPS, json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", name), 201));
    }
    return 0;
}

static int teardown(void **state UNUSED)
{
    apiserver_free(server);
    store_close(store);
    loop_free(loop);
    return 0;
}

static void names_are(const json_t *list, const char *wanted)
{
    char seen[256] = "";
    size_t i;
    json_t *item;
    json_array_foreach (json_object_get(list, "items"), i, item)
        snprintf(seen + strlen(seen), sizeof(seen) - strlen(seen), "%s ", json_str_or(item, "metadata.name", "?"));
    assert_string_equal(seen, wanted);
}

static const char *next_page(const json_t *body)
{
    static char target[4096];
    snprintf(target, sizeof(target), MAPS "?limit=2&continue=");
    for (const char *p = json_str_or(body, "metadata.continue", ""); *p; p++)
        snprintf(target + strlen(target), sizeof(target) - strlen(target), *p == '+' || *p == '=' || *p == '/' ? "%%%02X" : "%c", *p);
    return target;
}

static void a_page_that_is_too_old_can_be_continued(void **state UNUSED)
{
    JSON_AUTO first = call("GET", MAPS "?limit=2", NULL, 200);
    names_are(first, "c0 c1 ");
    json_decref(call("DELETE", MAPS "/c0", NULL, 200));
    json_decref(call("DELETE", MAPS "/c3", NULL, 200));
    store_compact(store, store_rev(store));
    JSON_AUTO gone = call("GET", next_page(first), NULL, 410);
    assert_string_equal(json_str_or(gone, "reason", ""), "Expired");
    assert_int_equal(json_int(gone, "code", 0), 410);
    assert_non_null(strstr(json_str_or(gone, "message", ""), "use the continue token in this response"));
    /* What there is now, from where the first page ended. */
    JSON_AUTO second = call("GET", next_page(gone), NULL, 200);
    names_are(second, "c2 c4 ");
    assert_null(json_str(second, "metadata.continue"));
}

static void pages_after_it_belong_together_again(void **state UNUSED)
{
    JSON_AUTO first = call("GET", MAPS "?limit=2", NULL, 200);
    json_decref(call("DELETE", MAPS "/c0", NULL, 200));
    store_compact(store, store_rev(store));
    JSON_AUTO gone = call("GET", next_page(first), NULL, 410);
    JSON_AUTO second = call("GET", next_page(gone), NULL, 200);
    names_are(second, "c2 c3 ");
    json_decref(call("DELETE", MAPS "/c4", NULL, 200));
    JSON_AUTO third = call("GET", next_page(second), NULL, 200);
    names_are(third, "c4 ");
    assert_string_equal(json_str_or(third, "metadata.resourceVersion", "a"), json_str_or(second, "metadata.resourceVersion", "b"));
}

static void an_exact_version_that_is_gone_is_410_without_a_way_on(void **state UNUSED)
{
    char target[128];
    JSON_AUTO list = call("GET", MAPS, NULL, 200);
    json_decref(call("DELETE", MAPS "/c0", NULL, 200));
    store_compact(store, store_rev(store));
    snprintf(target, sizeof(target), MAPS "?resourceVersion=%s&resourceVersionMatch=Exact", json_str_or(list, "metadata.resourceVersion", ""));
    JSON_AUTO gone = call("GET", target, NULL, 410);
    assert_string_equal(json_str_or(gone, "reason", ""), "Expired");
    assert_null(json_str(gone, "metadata.continue"));
    snprintf(target, sizeof(target), MAPS "?resourceVersion=%s&resourceVersionMatch=NotOlderThan", json_str_or(list, "metadata.resourceVersion", ""));
    JSON_AUTO now = call("GET", target, NULL, 200);
    names_are(now, "c1 c2 c3 c4 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_page_that_is_too_old_can_be_continued, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_after_it_belong_together_again, setup, teardown),
        cmocka_unit_test_setup_teardown(an_exact_version_that_is_gone_is_410_without_a_way_on, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
