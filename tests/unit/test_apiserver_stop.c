/* The end of an apiserver while a write is on its way to the disk: the write is answered, and nothing of the server is touched afterwards. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apiserver/apiserver.h"
#include "base/file.h"
#include "json/json.h"
#include "store/store.h"

static char dir[64];
static struct loop *loop;
static struct store *store;
static struct apiserver *server;

static int setup(void **state)
{
    static char path[96];
    struct err err = ERR_INIT;
    struct store_options so = {.path = path};
    struct apiserver_options o = {.watch_timeout_ms = 1000};
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-stop-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/seki.db", dir);
    ASSERT_OK(loop_new(&loop, &err));
    ASSERT_OK(store_open_sqlite(loop, &so, &store, &err));
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(apiserver_start(loop, store, &o, &server, &err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return file_remove_tree(dir, NULL);
}

static void on_done(void *arg, int status, json_t *body)
{
    *(int *)arg = status;
    json_decref(body);
}

static void a_write_on_its_way_is_answered_first(void **state)
{
    static const char *const groups[] = {"system:masters", NULL};
    struct client_local local = apiserver_local(server);
    JSON_AUTO body = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Namespace", "metadata", "name", "late");
    int status = 0;
    struct local_call c = {.method = "POST", .target = "/api/v1/namespaces", .content_type = "application/json", .body = body, .user = "tester", .groups = groups, .arg = &status, .done = on_done};
    (void)state;
    local.call(local.ctx, &c);
    assert_int_equal(status, 0); /* accepted, not durable */
    apiserver_free(server);
    assert_int_equal(status, 201);
    store_close(store);
}

static void on_bootstrapped(void *arg, int code UNUSED, const struct err *err UNUSED)
{
    *(int *)arg = 1;
}

/* The leak check of the sanitizers judges it. */
static void first_objects_are_not_all_made(void **state)
{
    int done = 0;
    (void)state;
    apiserver_bootstrap(server, on_bootstrapped, &done);
    apiserver_free(server);
    assert_int_equal(done, 0);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_write_on_its_way_is_answered_first, setup, teardown),
        cmocka_unit_test_setup_teardown(first_objects_are_not_all_made, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
