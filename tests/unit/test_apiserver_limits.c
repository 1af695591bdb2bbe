/* Counting of objects: what is on its way to the disk counts until it has failed, and what is to be deleted has given back; when the disk refuses, all is as before. */
#include "store_env.h"

#include "apiserver/api.h"
#include "apiserver/limits.h"
#include "base/mem.h"
#include "json/json.h"
#include "kinds/tenancy.h"
#include "store_disk.h"

static struct store_env env;
static struct apiserver *server;

static int setup(void **state UNUSED)
{
    struct apiserver_options o = {.watch_timeout_ms = 1000, .objects_per_project = 100};
    struct err err = ERR_INIT;
    disk_reset();
    env_init(&env);
    env.open = store_open_sqlite;
    env.options.vfs = DISK_VFS;
    env_open(&env);
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(apiserver_start(env.loop, env.store, &o, &server, &err));
    return 0;
}

static int teardown(void **state UNUSED)
{
    apiserver_free(server);
    env_deinit(&env);
    disk_reset();
    return 0;
}

/* ---- requests ---- */

struct asked {
    int status; /* 0: on its way */
    json_t *body;
};

static void on_answer(void *arg, int status, json_t *body)
{
    struct asked *a = arg;
    a->status = status;
    a->body = body;
}

/* Steals body. */
static void ask(struct asked *a, const char *method, const char *path, json_t *body)
{
    static const char *const groups[] = {"system:masters", NULL};
    struct client_local local = apiserver_local(server);
    struct local_call c = {.method = method, .target = path, .content_type = strcmp(method, "PATCH") ? "application/json" : "application/merge-patch+json", .body = body, .user = "tester", .groups = groups, .arg = a,
                           .done = on_answer};
    *a = (struct asked){0};
    local.call(local.ctx, &c);
    json_decref(body);
}

static void settled(struct asked *a, int status)
{
    RUN_UNTIL(env.loop, a->status);
    if (a->status != status)
        fail_msg("%d instead of %d: %s", a->status, status, json_str_or(a->body, "message", ""));
    json_decref(a->body);
    a->body = NULL;
}

static void now(int status, const char *method, const char *path, json_t *body)
{
    struct asked a;
    ask(&a, method, path, body);
    settled(&a, status);
}

static json_t *map_named(const char *name)
{
    return json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", name);
}

static json_t *limit_of(const char *name, int max)
{
    return json_pack("{s:s, s:s, s:{s:s}, s:{s:[{s:s, s:i}]}}", "apiVersion", "seki.cloud/v1alpha1", "kind", "Limit", "metadata", "name", name, "spec", "counts", "resource", "configmaps", "max", max);
}

static json_t *namespace_of(const char *name, const char *tenant)
{
    json_t *ns = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Namespace", "metadata", "name", name);
    if (tenant)
        json_object_set_new(json_object_get(ns, "metadata"), "labels", json_pack("{s:s}", LABEL_TENANT, tenant));
    return ns;
}

#define MAPS "/api/v1/namespaces/p/configmaps"
#define LIMITS "/apis/seki.cloud/v1alpha1/namespaces/p/projectlimits"

static void disk_writes(bool fail)
{
    pthread_mutex_lock(&disk.lock);
    disk.write_fails = fail;
    pthread_mutex_unlock(&disk.lock);
}

/* ---- figures ---- */

struct figure_wanted {
    const char *resource;
    int64_t used, max;
};

static void look(void *arg, const struct limits_figure *f)
{
    struct figure_wanted *w = arg;
    if (!strcmp(f->resource, w->resource)) {
        w->used = f->used;
        w->max = f->max;
    }
}

static void assert_figure(const char *resource, int64_t used, int64_t max)
{
    struct figure_wanted w = {resource, -1, -1};
    limits_figures(server, "p", look, &w);
    assert_int_equal(w.used, used);
    assert_int_equal(w.max, max);
}

/* The standing account is made by the server itself. */
static void project(void)
{
    now(201, "POST", "/api/v1/namespaces", namespace_of("p", NULL));
    RUN_UNTIL(env.loop, store_get(env.store, STR("serviceaccounts/p/default")));
}

/* ---- tests ---- */

static void what_is_on_its_way_counts(void **state UNUSED)
{
    struct asked a, b, c, d;
    project();
    now(201, "POST", LIMITS, limit_of("l", 2));
    assert_figure("configmaps", 0, 2);
    ask(&a, "POST", MAPS, map_named("a"));
    ask(&b, "POST", MAPS, map_named("b"));
    assert_int_equal(a.status + b.status, 0);
    assert_figure("configmaps", 2, 2);
    assert_figure("", 3, 100);
    ask(&c, "POST", MAPS, map_named("c"));
    assert_int_equal(c.status, 403); /* though nothing is durable yet */
    settled(&c, 403);
    settled(&a, 201);
    settled(&b, 201);
    /* A deletion gives back as it is accepted: a creation behind it cannot become durable without it. */
    ask(&a, "DELETE", MAPS "/a", NULL);
    ask(&d, "POST", MAPS, map_named("d"));
    assert_figure("configmaps", 2, 2);
    settled(&a, 200);
    settled(&d, 201);
}

static void what_the_disk_refuses_gives_back(void **state UNUSED)
{
    struct asked a, b;
    project();
    now(201, "POST", LIMITS, limit_of("l", 2));
    now(201, "POST", MAPS, map_named("a"));
    RUN_UNTIL(env.loop, !flow_writes(server->flow));
    disk_writes(true);
    ask(&a, "DELETE", MAPS "/a", NULL);
    ask(&b, "POST", MAPS, map_named("b"));
    assert_figure("configmaps", 1, 2);
    settled(&a, 503);
    settled(&b, 503);
    assert_figure("configmaps", 1, 2);
    ask(&a, "PATCH", LIMITS "/l", json_pack("{s:{s:[]}}", "spec", "counts"));
    assert_figure("configmaps", -1, -1); /* nobody limits them … */
    settled(&a, 503);
    assert_figure("configmaps", 1, 2); /* … or so it seemed */
    disk_writes(false);
    RUN_UNTIL(env.loop, store_health(env.store, NULL) == 0);
    now(201, "POST", MAPS, map_named("b"));
    now(403, "POST", MAPS, map_named("c"));
}

static void a_project_that_could_not_be_made_leaves_room(void **state UNUSED)
{
    struct asked a;
    JSON_AUTO tenant = json_pack("{s:s, s:s, s:{s:s}, s:{s:{s:i, s:[{s:s, s:i}]}}}", "apiVersion", "seki.cloud/v1alpha1", "kind", "Tenant", "metadata", "name", "t", "spec", "limits", "projects", 2, "counts",
                                 "resource", "configmaps", "max", 1);
    now(201, "POST", "/apis/seki.cloud/v1alpha1/tenants", json_incref(tenant));
    disk_writes(true);
    ask(&a, "POST", "/api/v1/namespaces", namespace_of("p", "t"));
    now(403, "POST", "/api/v1/namespaces", namespace_of("q", "t"));
    settled(&a, 503);
    disk_writes(false);
    RUN_UNTIL(env.loop, store_health(env.store, NULL) == 0);
    now(201, "POST", "/api/v1/namespaces", namespace_of("p", "t"));
    now(403, "POST", "/api/v1/namespaces", namespace_of("q", "t"));
    /* What the tenant says holds in its projects, those that were made later too. */
    assert_figure("configmaps", 0, 1);
    now(201, "POST", MAPS, map_named("a"));
    now(403, "POST", MAPS, map_named("b"));
    now(200, "PATCH", "/apis/seki.cloud/v1alpha1/tenants/t", json_pack("{s:{s:{s:[]}}}", "spec", "limits", "counts"));
    now(201, "POST", MAPS, map_named("b"));
}

static void scopes_go_with_what_is_in_them(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct apiserver_options o = {.watch_timeout_ms = 1000, .objects_per_project = 100};
    project();
    now(201, "POST", LIMITS, limit_of("l", 3));
    for (int i = 0; i < 3; i++)
        now(201, "POST", MAPS, map_named((const char *const[]){"a", "b", "c"}[i]));
    /* Another server on the same store counts the same. */
    RUN_UNTIL(env.loop, !flow_writes(server->flow));
    apiserver_free(server);
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &o.listen, &err));
    ASSERT_OK(apiserver_start(env.loop, env.store, &o, &server, &err));
    assert_figure("configmaps", 3, 3);
    assert_figure("", 4, 100);
    now(403, "POST", MAPS, map_named("d"));
    now(200, "DELETE", "/api/v1/namespaces/p", NULL);
    RUN_UNTIL(env.loop, !store_get(env.store, STR("namespaces//p")));
    assert_figure("", -1, -1); /* nothing is kept of it */
    project();
    assert_figure("", 1, 100);
    now(201, "POST", MAPS, map_named("d"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_on_its_way_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_disk_refuses_gives_back, setup, teardown),
        cmocka_unit_test_setup_teardown(a_project_that_could_not_be_made_leaves_room, setup, teardown),
        cmocka_unit_test_setup_teardown(scopes_go_with_what_is_in_them, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
