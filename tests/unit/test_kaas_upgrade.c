/* Upgrades of clusters: versions and their order, the record, what stands in the way. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "kaas/upgrade.h"

static char dir[64];
static struct arena *arena;

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-upgrade-XXXXXX");
    arena = arena_new(1 << 20);
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return file_remove_tree(dir, NULL);
}

static void test_one_minor_at_a_time_and_never_back(void **state UNUSED)
{
    char what[160];
    assert_int_equal(cluster_minor("1.37"), 37);
    assert_int_equal(cluster_minor("2.37"), -1);
    assert_int_equal(cluster_minor("1.37.2"), -1);
    assert_int_equal(cluster_minor(""), -1);
    assert_int_equal(cluster_minor(NULL), -1);
    assert_true(cluster_may_become("1.36", "1.37", what));
    assert_true(cluster_may_become("1.37", "1.37", what));
    assert_false(cluster_may_become("1.35", "1.37", what));
    assert_non_null(strstr(what, "1.36 next"));
    assert_false(cluster_may_become("1.37", "1.36", what));
    assert_non_null(strstr(what, "goes to no older version"));
}

static void test_versions_of_programs(void **state UNUSED)
{
    assert_int_equal(preflight_etcd("3.7.3"), 3007);
    assert_int_equal(preflight_etcd("3.6.0-rc.1"), 3006);
    assert_int_equal(preflight_etcd("3"), -1);
    assert_int_equal(preflight_etcd("3."), -1);
    assert_int_equal(preflight_etcd(""), -1);
    assert_int_equal(preflight_etcd_program(STR("etcd Version: 3.6.16\nGit SHA: 1\n")), 3006);
    assert_int_equal(preflight_etcd_program(STR("Git SHA: 1\netcd Version: 3.6.16\n")), -1);
    assert_int_equal(preflight_etcd_program(STR("etcd Version: 3.6.16 and much that is no version at all")), -1);
    assert_int_equal(preflight_etcd_program(STR("")), -1);
    assert_true(preflight_alarm("{\"header\":{},\"alarms\":[{\"memberID\":12418672204160889912,\"alarm\":1}]}"));
    assert_false(preflight_alarm("{\"header\":{\"revision\":7}}"));
    /* Numbers of members are greater than what JSON's integers are taken to be. */
    static const char said[] = "[{\"Endpoint\":\"https://127.1.2.3:2379\",\"Status\":{\"header\":{\"member_id\":12418672204160889912},\"version\":\"3.6.16\",\"dbSize\":20480,\"storageVersion\":\"3.6.0\"}}]";
    assert_string_equal(preflight_member(said, "version", arena), "3.6.16");
    assert_string_equal(preflight_member(said, "storageVersion", arena), "3.6.0");
    assert_string_equal(preflight_member(said, "other", arena), "");
    assert_string_equal(preflight_member("\"version\":\"cut", "version", arena), "");
    assert_int_equal(preflight_kubelet("v1.36.3"), 36);
    assert_int_equal(preflight_kubelet("v1.37.0-alpha.1+x"), 37);
    assert_int_equal(preflight_kubelet("1.36.3"), -1);
    assert_int_equal(preflight_kubelet("v2.1.0"), -1);
    assert_int_equal(preflight_kubelet(""), -1);
}

/* A stage brings its own component to the new version, and leaves those behind it. */
static void test_components_follow_the_stages(void **state UNUSED)
{
    static const struct {
        enum upgrade_stage stage;
        const char *programs;
        unsigned behind;
    } cases[] = {
        {UPGRADE_BACKUP, "/k/1.36", 0},
        {UPGRADE_STORE, "/k/1.37", 1u << APISERVER | 1u << CONTROLLERS | 1u << SCHEDULER},
        {UPGRADE_APISERVER, "/k/1.37", 1u << CONTROLLERS | 1u << SCHEDULER},
        {UPGRADE_CONTROLLERS, "/k/1.37", 1u << SCHEDULER},
        {UPGRADE_SCHEDULER, "/k/1.37", 0},
        {UPGRADE_NODES, "/k/1.37", 0},
        {UPGRADE_DONE, "/k/1.37", 0},
    };
    struct cluster c = {.spec = {.version = "1.37", .control_plane = {1, "Small"}, .network = {"10.244.0.0/16", "10.96.0.0/16", "cluster.local", NULL}}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct site s = {.ns = "demo", .name = "one", .uid = "0b5ed6b2", .dir = dir, .kms = "/k/seki-kms", .address = "127.1.2.3"};
        struct version_record v = {.minor = "1.36", .to = "1.37", .stage = cases[i].stage};
        version_apply(&v, "/k", &s, arena);
        assert_string_equal(s.programs, cases[i].programs);
        assert_int_equal(s.behind, cases[i].behind);
        for (enum component k = ETCD; k <= SCHEDULER; k++) {
            struct plan plan;
            plan_component(k, 0, &c, &s, arena, &plan);
            bool old = s.behind & (1u << k) || cases[i].stage < UPGRADE_STORE;
            assert_true(str_starts(str_of(plan.program), old ? STR("/k/1.36/") : STR("/k/1.37/")));
        }
    }
    struct site none = {.dir = dir};
    version_apply(&(struct version_record){.minor = "1.37"}, "", &none, arena);
    assert_string_equal(none.programs, "");
}

static void test_the_record_is_found_again(void **state UNUSED)
{
    struct version_record v = {.minor = "1.36", .to = "1.37", .stage = UPGRADE_CONTROLLERS, .at_ms = {0, 5, 6, 7, 8}, .backup = "20260131-235959-123"}, is;
    int64_t ms = 0;
    assert_int_equal(version_load(dir, &is, NULL), ERR_NOT_FOUND);
    assert_int_equal(version_store(dir, &v, NULL), 0);
    assert_int_equal(version_load(dir, &is, NULL), 0);
    assert_memory_equal(&v, &is, sizeof(v));
    assert_false(version_wants_backup(dir, &ms));
    v.stage = UPGRADE_BACKUP;
    assert_int_equal(version_store(dir, &v, NULL), 0);
    assert_true(version_wants_backup(dir, &ms));
    assert_int_equal(ms, 5);
    CLEANUP(mem_freep) char *path = xasprintf("%s/version.json", dir);
    static const char *const broken[] = {"", "{}", "{\"minor\": \"1.x\"}", "{\"minor\": \"1.36\", \"to\": \"1.37\"}", "{\"minor\": \"1.36\", \"stage\": \"Store\"}", "{\"minor\": \"1.36\", \"to\": \"1.37\", \"stage\": \"done\"}"};
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        assert_int_equal(file_write(path, str_of(broken[i]), 0600, NULL), 0);
        if (version_load(dir, &is, NULL) != ERR_CORRUPT)
            fail_msg("%s", broken[i]);
    }
}

/* One that was made before there were records runs what its API server has said, whatever is wanted now. */
static void test_a_cluster_without_a_record(void **state UNUSED)
{
    struct version_record v;
    JSON_AUTO older = json_pack("{s:{s:s}}", "status", "version", "v1.36.3");
    JSON_AUTO fresh = json_object();
    assert_int_equal(version_of(older, "1.37", dir, &v, NULL), 0);
    assert_string_equal(v.minor, "1.36");
    assert_int_equal(version_of(fresh, "1.37", dir, &v, NULL), 0);
    assert_string_equal(v.minor, "1.37");
    assert_int_equal(v.stage, UPGRADE_NONE);
}

static void test_a_restore_of_an_older_version_ends_the_upgrade(void **state UNUSED)
{
    struct version_record v = {.minor = "1.36", .to = "1.37", .stage = UPGRADE_APISERVER, .at_ms = {0, 1, 1, 1}};
    JSON_AUTO obj = json_pack("{s:{s:{s:s}}}", "metadata", "annotations", CLUSTER_UPGRADE_ANNOTATION, "abc");
    assert_int_equal(version_store(dir, &v, NULL), 0);
    assert_int_equal(version_restored(obj, "1.36", "1.37", dir, NULL), 0);
    assert_int_equal(version_load(dir, &v, NULL), 0);
    assert_string_equal(v.minor, "1.36");
    assert_int_equal(v.stage, UPGRADE_NONE);
    assert_string_equal(v.held, "1.37");
    assert_string_equal(v.held_request, "abc");
    /* Of the version that it runs: nothing is held. */
    v = (struct version_record){.minor = "1.37"};
    assert_int_equal(version_store(dir, &v, NULL), 0);
    assert_int_equal(version_restored(obj, "1.37", "1.37", dir, NULL), 0);
    assert_int_equal(version_load(dir, &v, NULL), 0);
    assert_string_equal(v.held, "");
}

/* A backup of behind the store's stage is of the new version: nothing of the upgrade is lost, so that nodes go on one at a time. */
static void test_a_restore_of_the_new_version_leaves_the_upgrade(void **state UNUSED)
{
    JSON_AUTO obj = json_object();
    for (enum upgrade_stage s = UPGRADE_STORE; s <= UPGRADE_DONE; s++) {
        struct version_record v = {.minor = "1.36", .to = "1.37", .stage = s, .at_ms = {0, 1, 1}, .backup = "20260131-235959-123"}, is;
        assert_int_equal(version_store(dir, &v, NULL), 0);
        assert_int_equal(version_restored(obj, "1.37", "1.37", dir, NULL), 0);
        assert_int_equal(version_load(dir, &is, NULL), 0);
        assert_memory_equal(&v, &is, sizeof(v));
    }
    assert_string_equal(upgrade_ended_as("Nodes", "1.37", "1.36"), "RolledBack");
    assert_string_equal(upgrade_ended_as("Nodes", "1.37", "1.37"), "Done");
    assert_string_equal(upgrade_ended_as("Backup", "1.37", "1.36"), "Cancelled");
    assert_string_equal(upgrade_ended_as("Cancelled", "1.37", "1.36"), "Cancelled");
}

static void test_deprecated_apis_in_use(void **state UNUSED)
{
#define LINE(group, removed, end) "apiserver_requested_deprecated_apis{group=\"" group "\",removed_release=\"" removed "\",resource=\"things\",subresource=\"\",version=\"v1beta1\"} " end "\n"
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"# HELP x y\n" LINE("old.example", "1.37", "1"), "things of old.example/v1beta1"},
        {LINE("old.example", "1.38", "1"), NULL},
        {LINE("old.example", "1.36", "1"), "things of old.example/v1beta1"},
        {LINE("old.example", "", "1"), NULL},
        {LINE("old.example", "1.37", "0"), NULL},
        {LINE("", "1.37", "1"), "things of v1beta1"},
        {"apiserver_requested_deprecated_apis{", NULL},
        {"apiserver_requested_deprecated_apis{} 1", NULL},
        {"apiserver_requested_deprecated_apis{removed_release=\"1.37} 1", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *said = preflight_deprecated(str_of(cases[i].text), 37, arena);
        if (!said != !cases[i].said || (said && strcmp(said, cases[i].said) != 0))
            fail_msg("case %zu: %s", i, said ? said : "nothing");
    }
}

static void test_webhooks_that_would_be_in_the_way(void **state UNUSED)
{
#define HOOK(policy, config, groups, resources, more) "{\"failurePolicy\": \"" policy "\", \"clientConfig\": {" config "}, \"rules\": [{\"apiGroups\": [\"" groups "\"], \"resources\": [\"" resources "\"]}]" more "}"
#define SERVICE "\"service\": {\"name\": \"a\"}"
    static const struct {
        const char *text;
        bool blocks;
    } cases[] = {
        {HOOK("Fail", SERVICE, "*", "*/*", ""), true},
        {HOOK("Fail", SERVICE, "*", "*", ""), true},
        {HOOK("Ignore", SERVICE, "*", "*", ""), false},
        {HOOK("Fail", "\"url\": \"https://a\"", "*", "*", ""), false},
        {HOOK("Fail", SERVICE, "apps", "*", ""), false},
        {HOOK("Fail", SERVICE, "*", "pods", ""), false},
        {HOOK("Fail", SERVICE, "*", "*", ", \"namespaceSelector\": {}"), true},
        {HOOK("Fail", SERVICE, "*", "*", ", \"namespaceSelector\": {\"matchLabels\": {\"a\": \"b\"}}"), false},
        {"{}", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO hook = NULL;
        assert_int_equal(json_parse(str_of(cases[i].text), 65536, &hook, NULL), 0);
        if (preflight_webhook_blocks(hook) != cases[i].blocks)
            fail_msg("case %zu", i);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(one_minor_at_a_time_and_never_back), TEST(versions_of_programs), TEST(components_follow_the_stages), TEST(the_record_is_found_again), TEST(a_cluster_without_a_record),
        TEST(a_restore_of_an_older_version_ends_the_upgrade), TEST(a_restore_of_the_new_version_leaves_the_upgrade), TEST(deprecated_apis_in_use), TEST(webhooks_that_would_be_in_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
