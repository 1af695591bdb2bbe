/* The manager, on a real API server in this process: passes, their errors and deadlines, owners, the lease, the end. */
#include "api_peer.h"

#include <pthread.h>

#include "controller/controller.h"
#include "controller/lease.h"
#include "kinds/inference.h"

static struct api_peer peer;
static struct client *client;
static const struct client_resource configmaps = {"", "v1", "configmaps", true};

static int setup(void **state)
{
    (void)state;
    peer = (struct api_peer){0};
    api_peer_start(&peer);
    client = api_peer_local(&peer);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    client_free(client);
    api_peer_stop(&peer);
    return 0;
}

/* What the passes of a test do and see. */
struct work {
    atomic_int passes, running, most_running, fail, last_code;
    atomic_bool hold, held, wrote;
    char last[300];
    int (*act)(struct work *w, struct reconcile *r, struct err *err);
};

static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER; /* several workers may pass at a time */

static int reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct work *w = ctx;
    int running = atomic_fetch_add(&w->running, 1) + 1;
    if (running > atomic_load(&w->most_running))
        atomic_store(&w->most_running, running);
    pthread_mutex_lock(&last_lock);
    snprintf(w->last, sizeof(w->last), "%s/%s%s", r->ns, r->name, r->obj ? "" : " gone");
    pthread_mutex_unlock(&last_lock);
    int rc = w->act ? w->act(w, r, err) : 0;
    atomic_fetch_sub(&w->running, 1);
    atomic_store(&w->last_code, rc);
    atomic_fetch_add(&w->passes, 1);
    return rc;
}

static struct manager *start(const char *identity, const struct kind *primary, const struct kind *const *owned, uint64_t deadline_ms, struct work *w)
{
    struct err err = ERR_INIT;
    struct manager *m = manager_new(client, identity);
    manager_add(m, &(struct controller_ops){.name = "test", .primary = primary, .owned = owned, .workers = 4, .deadline_ms = deadline_ms, .reconcile = reconcile}, w);
    ASSERT_OK(manager_start(m, &err));
    return m;
}

static json_t *make(const struct kind *k, const char *name)
{
    struct client_resource r = kind_resource(k);
    struct err err = ERR_INIT;
    JSON_AUTO obj = obj_new(k, "default", name);
    json_t *made = NULL;
    if (k == &kind_model_endpoint)
        json_put(obj, "spec", json_pack("{s:i, s:{s:s}}", "replicas", 0, "engine", "driver", "fake"));
    ASSERT_OK(client_create(client, &r, "default", obj, &made, &err));
    return made;
}

static char *condition(const char *name)
{
    static char text[256];
    struct client_resource r = kind_resource(&kind_model_endpoint);
    struct err err = ERR_INIT;
    JSON_AUTO obj = NULL;
    ASSERT_OK(client_get(client, &r, "default", name, &obj, &err));
    const char *status = obj_condition(obj, "Reconciled"), *reason = obj_condition_reason(obj, "Reconciled");
    snprintf(text, sizeof(text), "%s %s", status ? status : "-", reason ? reason : "-");
    return text;
}

/* ---- errors ---- */

static int fail_while_told(struct work *w, struct reconcile *r, struct err *err)
{
    (void)r;
    if (atomic_load(&w->fail) <= 0)
        return 0;
    atomic_fetch_sub(&w->fail, 1);
    return err_set(err, ERR_UNAVAILABLE, "try %d", atomic_load(&w->passes)); /* never the same message twice */
}

static void errors_back_off_and_show(void **state)
{
    (void)state;
    struct work w = {.act = fail_while_told, .fail = 7};
    uint64_t began = tls_peer_now_ms();
    json_decref(make(&kind_model_endpoint, "e"));
    struct manager *m = start("a", &kind_model_endpoint, NULL, 0, &w);
    AWAIT(!strcmp(condition("e"), "False ServiceUnavailable"));
    AWAIT(!strcmp(condition("e"), "True Reconciled"));
    /* 50, 100, 200, … ms, half of each by chance; a change of the object (its condition) is looked at without delay, once. */
    assert_true(tls_peer_now_ms() - began >= 700);
    int passes = atomic_load(&w.passes);
    assert_in_range(passes, 8, 12);
    assert_int_equal(w.most_running, 1);
    manager_stop(m);
}

static void short_troubles_are_not_shown(void **state)
{
    (void)state;
    struct work w = {.act = fail_while_told, .fail = 3};
    json_decref(make(&kind_model_endpoint, "e"));
    struct manager *m = start("a", &kind_model_endpoint, NULL, 0, &w);
    AWAIT(atomic_load(&w.passes) == 4);
    assert_string_equal(condition("e"), "- -");
    manager_stop(m);
}

static int call_until_refused(struct work *w, struct reconcile *r, struct err *err)
{
    struct client_resource res = kind_resource(&kind_config_map);
    if (atomic_load(&w->fail) <= 0)
        return 0;
    for (uint64_t end = tls_peer_now_ms() + TLS_PEER_WAIT_MS; tls_peer_now_ms() < end;) {
        int rc = client_get(r->client, &res, "default", "none", NULL, err);
        if (rc != ERR_NOT_FOUND) {
            assert_true(reconcile_must_end(r));
            atomic_fetch_sub(&w->fail, 1);
            return rc;
        }
        *err = (struct err){0};
    }
    return 0;
}

static void a_pass_that_takes_too_long_is_ended_and_shown(void **state)
{
    (void)state;
    struct work w = {.act = call_until_refused, .fail = 1};
    json_decref(make(&kind_model_endpoint, "e"));
    struct manager *m = start("a", &kind_model_endpoint, NULL, 300, &w);
    AWAIT(atomic_load(&w.passes) >= 1);
    AWAIT(!strcmp(condition("e"), "True Reconciled")); /* it was False, DeadlineExceeded, before */
    manager_stop(m);
    w.fail = 1000;
    m = start("a", &kind_model_endpoint, NULL, 300, &w);
    AWAIT(!strcmp(condition("e"), "False DeadlineExceeded"));
    assert_int_equal(w.last_code, ERR_TIMEOUT);
    manager_stop(m);
}

/* ---- owners ---- */

static void the_owner_hears_of_what_it_owns(void **state)
{
    (void)state;
    static const struct kind *const owned[] = {&kind_config_map, NULL};
    struct work w = {0};
    struct err err = ERR_INIT;
    struct client_resource ns = kind_resource(&kind_namespace);
    JSON_AUTO owner = NULL;
    ASSERT_OK(client_get(client, &ns, NULL, "default", &owner, &err));
    struct manager *m = start("a", &kind_namespace, owned, 0, &w);
    AWAIT(atomic_load(&w.passes) >= 2); /* default and kube-system */
    JSON_AUTO obj = obj_new(&kind_config_map, "default", "child");
    obj_add_owner(obj, owner);
    int before = atomic_load(&w.passes);
    ASSERT_OK(client_create(client, &configmaps, "default", obj, NULL, &err));
    AWAIT(atomic_load(&w.passes) > before);
    manager_stop(m);
    assert_string_equal(w.last, "/default"); /* one key, whatever namespace the child lies in */
}

static void a_deleted_object_gets_a_last_pass(void **state)
{
    (void)state;
    struct work w = {0};
    struct err err = ERR_INIT;
    json_decref(make(&kind_config_map, "c"));
    struct manager *m = start("a", &kind_config_map, NULL, 0, &w);
    AWAIT(atomic_load(&w.passes) == 1);
    ASSERT_OK(client_delete(client, &configmaps, "default", "c", NULL, &err));
    AWAIT(atomic_load(&w.passes) == 2);
    assert_string_equal(w.last, "default/c gone");
    manager_enqueue(m, "test", "default", "other");
    AWAIT(atomic_load(&w.passes) == 3);
    manager_stop(m);
}

/* ---- the lease ---- */

static void only_the_leader_works(void **state)
{
    (void)state;
    struct work a = {0}, b = {0};
    json_decref(make(&kind_config_map, "c"));
    struct manager *ma = start("a", &kind_config_map, NULL, 0, &a);
    AWAIT(atomic_load(&a.passes) == 1);
    struct manager *mb = start("b", &kind_config_map, NULL, 0, &b);
    json_decref(make(&kind_config_map, "d"));
    AWAIT(atomic_load(&a.passes) == 2);
    assert_int_equal(b.passes, 0);
    manager_stop(ma); /* gives the lease back */
    AWAIT(atomic_load(&b.passes) == 2);
    assert_int_equal(a.passes, 2);
    manager_stop(mb);
}

static int write_when_released(struct work *w, struct reconcile *r, struct err *err)
{
    JSON_AUTO obj = obj_new(&kind_config_map, "default", "by-pass");
    struct client_resource res = kind_resource(&kind_config_map);
    if (strcmp(r->name, "c") != 0)
        return 0;
    atomic_store(&w->held, true);
    while (atomic_load(&w->hold) && !reconcile_must_end(r))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    int rc = client_create(r->client, &res, "default", obj, NULL, err);
    atomic_store(&w->wrote, rc == 0);
    return rc;
}

static void a_pass_that_lost_the_lease_writes_nothing(void **state)
{
    (void)state;
    struct work w = {.act = write_when_released, .hold = true};
    struct client_resource leases = kind_resource(&kind_lease);
    struct err err = ERR_INIT;
    json_decref(make(&kind_config_map, "c"));
    struct manager *m = start("a", &kind_config_map, NULL, 0, &w);
    AWAIT(atomic_load(&w.held));
    JSON_AUTO robbed = json_pack("{s:{s:s}}", "spec", "holderIdentity", "somebody");
    ASSERT_OK(client_patch(client, &leases, LEASE_NAMESPACE, LEASE_NAME, NULL, robbed, NULL, &err));
    AWAIT(atomic_load(&w.passes) == 1); /* the next round finds out, and the pass is told to end */
    assert_int_equal(w.last_code, ERR_CANCELED);
    assert_false(w.wrote);
    ASSERT_ERR(client_get(client, &configmaps, "default", "by-pass", NULL, &err), ERR_NOT_FOUND);
    json_decref(make(&kind_config_map, "d"));
    /* Nothing is worked on until the lease is ours again. */
    JSON_AUTO empty = json_pack("{s:{s:s}}", "spec", "holderIdentity", "");
    atomic_store(&w.hold, false);
    assert_int_equal(w.passes, 1);
    ASSERT_OK(client_patch(client, &leases, LEASE_NAMESPACE, LEASE_NAME, NULL, empty, NULL, &err));
    AWAIT(atomic_load(&w.wrote));
    manager_stop(m);
}

static void the_end_waits_for_passes_and_then_gives_the_lease_back(void **state)
{
    (void)state;
    struct work w = {.act = write_when_released, .hold = true};
    struct client_resource leases = kind_resource(&kind_lease);
    struct err err = ERR_INIT;
    json_decref(make(&kind_config_map, "c"));
    struct manager *m = start("a", &kind_config_map, NULL, 0, &w);
    AWAIT(atomic_load(&w.held));
    manager_enqueue(m, "test", "default", "waits");
    AWAIT(atomic_load(&w.passes) >= 1);
    int passes = atomic_load(&w.passes);
    manager_stop(m); /* the pass sees that it must end, and its last write is still good */
    assert_true(w.wrote);
    assert_int_equal(w.passes, passes + 1);
    assert_int_equal(w.running, 0);
    JSON_AUTO lease = NULL;
    ASSERT_OK(client_get(client, &leases, LEASE_NAMESPACE, LEASE_NAME, &lease, &err));
    assert_string_equal(json_str_or(lease, "spec.holderIdentity", "-"), "");
}

static void a_manager_that_was_never_started_is_freed(void **state)
{
    (void)state;
    struct work w = {0};
    struct manager *m = manager_new(client, "a");
    manager_add(m, &(struct controller_ops){.name = "test", .primary = &kind_config_map, .reconcile = reconcile}, &w);
    manager_stop(m);
    manager_stop(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(errors_back_off_and_show),
                                       T(short_troubles_are_not_shown),
                                       T(a_pass_that_takes_too_long_is_ended_and_shown),
                                       T(the_owner_hears_of_what_it_owns),
                                       T(a_deleted_object_gets_a_last_pass),
                                       T(only_the_leader_works),
                                       T(a_pass_that_lost_the_lease_writes_nothing),
                                       T(the_end_waits_for_passes_and_then_gives_the_lease_back),
                                       T(a_manager_that_was_never_started_is_freed)};
    return cmocka_run_group_tests(tests, tls_peer_setup, tls_peer_teardown);
}
