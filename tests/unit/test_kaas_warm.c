/* The warm pool: which Clusters a place fits, when others go first, and what lies on the disk before and after a claim. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kaas/warm.h"

static char dir[64];
static struct arena *arena;
static struct site place;

static struct cluster cluster_of(const char *spec)
{
    struct cluster c;
    struct err err = ERR_INIT;
    JSON_AUTO obj = obj_new(&kind_cluster, "demo", "one");
    json_t *doc = NULL;
    ASSERT_OK(json_parse(str_of(spec), strlen(spec), &doc, &err));
    json_object_set_new(obj, "spec", doc);
    field_defaults(kind_cluster.fields, obj);
    ASSERT_OK(kind_decode(&kind_cluster, obj, arena, &c, &err));
    return c;
}

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-warm-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    arena = arena_new(16 << 20);
    place = (struct site){.ns = "", .name = "", .older = "", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir, .minor = "1.37", .programs = "/k/1.37", .kms = "/k/seki-kms", .self = "/k/sekid",
                          .address = "127.96.3.4", .members = 1, .warm = true, .with_nodes = true, .gate = "10.201.0.1", .node_network = "10.201.0.0/24"};
    return 0;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return file_remove_tree(dir, NULL);
}

static void test_a_place_fits_whoever_would_get_the_same_command_lines(void **state UNUSED)
{
    static const struct {
        const char *spec;
        bool fits;
    } cases[] = {
        {"{}", true},
        {"{\"endpointNames\": [\"api.acme.example\"]}", true},
        {"{\"backup\": {\"intervalSeconds\": 0}}", true},
        {"{\"oidc\": {\"issuer\": {\"url\": \"https://id.example\", \"audiences\": [\"a\"]}, \"claimMappings\": {\"username\": {\"claim\": \"sub\", \"prefix\": \"x:\"}}}}", true},
        {"{\"maintenanceWindow\": {\"days\": [\"Sunday\"], \"start\": \"02:00\", \"durationMinutes\": 60}}", true},
        {"{\"network\": {\"podCIDR\": \"10.245.0.0/16\"}}", true}, /* which is a matter of nodes */
        {"{\"network\": {\"serviceCIDR\": \"10.97.0.0/16\"}}", false},
        {"{\"network\": {\"serviceDomain\": \"acme.local\"}}", false},
        {"{\"network\": {\"nodeCIDR\": \"10.202.0.0/24\"}}", false},
        {"{\"network\": {\"podCIDR\": \"10.201.0.0/16\"}}", false}, /* the nodes' is another then */
        {"{\"controlPlane\": {\"size\": \"Medium\"}}", false},
        {"{\"controlPlane\": {\"replicas\": 3}}", false},
        {"{\"audit\": {\"policy\": \"None\"}}", false},
        {"{\"audit\": {\"policy\": \"Request\"}}", false},
        {"{\"version\": \"1.36\"}", false},
    };
    struct cluster have = cluster_of("{}");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct cluster want = cluster_of(cases[i].spec);
        if (warm_fits(&want, &have, &place, "/k", arena) != cases[i].fits)
            fail_msg("%s", cases[i].spec);
    }
}

static void test_a_claim_changes_no_command_line_and_no_workload(void **state UNUSED)
{
    struct cluster c = cluster_of("{\"endpointNames\": [\"api.acme.example\"]}");
    struct site claimed = place;
    claimed.ns = "demo";
    claimed.name = "one";
    for (enum component part = 0; part < RELAY; part++) {
        struct plan a = {0}, b = {0};
        char before[WORKLOAD_NAME_MAX], after[WORKLOAD_NAME_MAX];
        plan_component(part, 0, &c, &place, arena, &a);
        plan_component(part, 0, &c, &claimed, arena, &b);
        for (size_t i = 0; a.argv[i] || b.argv[i]; i++)
            assert_string_equal(a.argv[i], b.argv[i]);
        component_workload(&place, part, 0, before);
        component_workload(&claimed, part, 0, after);
        assert_string_equal(before, after);
        assert_true(strstr(before, "kc-warm--0b5ed6b2-") == before);
        assert_int_equal(workload_is_store(before), part == ETCD);
    }
    /* No project and name give that of another: neither is empty. */
    char other[WORKLOAD_NAME_MAX];
    component_workload(&(struct site){.ns = "warm", .name = "0b5ed6b2", .uid = "11111111-7c1c"}, ETCD, 0, other);
    assert_string_equal(other, "kc-warm-0b5ed6b2-11111111-etcd");
}

static json_t *cluster_at(const char *made, const char *more)
{
    json_t *c = json_pack("{s:{s:s, s:s}, s:{}}", "metadata", "name", "one", "creationTimestamp", made, "status");
    if (!strcmp(more, "ready"))
        json_put_int(c, "status.createMilliseconds", 1);
    if (!strcmp(more, "claimed"))
        json_put(c, CLUSTER_CLAIMED, json_true());
    if (!strcmp(more, "deleting"))
        json_put_str(c, "metadata.deletionTimestamp", made);
    return c;
}

static void test_clusters_that_are_made_go_first(void **state UNUSED)
{
    static const struct {
        const char *made, *more;
        bool any, from_nothing;
    } cases[] = {
        {"2026-01-01T00:09:50Z", "", true, true},
        {"2026-01-01T00:09:50Z", "claimed", true, false},
        {"2026-01-01T00:09:50Z", "ready", false, false},
        {"2026-01-01T00:09:50Z", "deleting", false, false},
        {"2025-12-31T23:50:00Z", "", false, false}, /* it waits for something else */
    };
    int64_t now;
    assert_int_equal(clock_parse(STR("2026-01-01T00:10:00Z"), &now), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO list = json_pack("[o, o]", cluster_at("2026-01-01T00:00:01Z", "ready"), cluster_at(cases[i].made, cases[i].more));
        bool any, from_nothing;
        warm_busy(list, now, &any, &from_nothing);
        if (any != cases[i].any || from_nothing != cases[i].from_nothing)
            fail_msg("case %zu", i);
    }
}

static bool lies(const char *name)
{
    return file_exists(arena_printf(arena, "%s/%s", dir, name));
}

static const char *text_of(const char *name)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read(arena_printf(arena, "%s/%s", dir, name), 65536, &text, &len, NULL), 0);
    const char *kept = arena_strdup(arena, text);
    mem_free(text);
    return kept;
}

static void test_what_lies_there_before_and_after_a_claim(void **state UNUSED)
{
    struct cluster have = cluster_of("{}"), want = cluster_of("{\"endpointNames\": [\"api.acme.example\"]}");
    struct err err = ERR_INIT;
    char before[PKI_PIN_MAX], after[PKI_PIN_MAX];
    bool made;
    ASSERT_OK(place_keep(&place, &err));
    assert_true(place_is_warm(dir) && place_has_nodes(dir));
    ASSERT_OK(cluster_pki_ensure(&have, &place, 86400000, NULL, &err));
    assert_true(lies("pki/apiserver.crt") && lies("pki/super-admin.crt"));
    assert_false(lies("pki/admin.crt") || lies("pki/admin.key"));
    ASSERT_OK(cluster_pki_pin(&place, before, &err));
    assert_int_equal(strncmp(before, "sha256//", 8), 0);
    assert_int_equal(strlen(before), 8 + 44);
    const char *authority = text_of("pki/ca.crt"), *etcd = text_of("pki/etcd.crt");

    struct site its = place;
    its.ns = "demo";
    its.name = "one";
    its.claiming = true;
    ASSERT_OK(cluster_pki_ensure(&want, &its, 86400000, &made, &err));
    ASSERT_OK(cluster_pki_pin(&its, after, &err));
    assert_true(made && lies("pki/admin.crt"));
    assert_string_not_equal(before, after);
    assert_true(place_is_warm(dir)); /* until its record says otherwise */
    ASSERT_OK(place_keep(&its, &err));
    assert_false(place_is_warm(dir));
    assert_true(place_has_nodes(dir) && strstr(text_of("cluster.json"), "\"one\""));

    its.claiming = false;
    ASSERT_OK(cluster_pki_ensure(&want, &its, 86400000, &made, &err));
    assert_false(made);
    assert_string_equal(authority, text_of("pki/ca.crt"));
    assert_string_equal(etcd, text_of("pki/etcd.crt"));
    /* One that was claimed for the same names is issued anew all the same. */
    its.claiming = true;
    ASSERT_OK(cluster_pki_ensure(&want, &its, 86400000, &made, &err));
    ASSERT_OK(cluster_pki_pin(&its, before, &err));
    assert_string_not_equal(before, after);
}

static void test_an_audit_log_is_emptied_while_it_is_written(void **state UNUSED)
{
    struct cluster have = cluster_of("{}");
    struct err err = ERR_INIT;
    int files;
    ASSERT_OK(cluster_conf_ensure(&place, &err));
    ASSERT_OK(cluster_audit_ensure(&have, &place, &err));
    assert_int_equal(cluster_audit_size(&place, &files), 0);
    ASSERT_OK(cluster_audit_empty(&place, &err)); /* there is none yet */
    int fd = open(arena_printf(arena, "%s/audit/audit.log", dir), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "before\n", 7), 7);
    assert_int_equal(cluster_audit_size(&place, &files), 7);
    assert_int_equal(files, 1);
    ASSERT_OK(cluster_audit_empty(&place, &err));
    assert_int_equal(write(fd, "after\n", 6), 6);
    close(fd);
    assert_string_equal(text_of("audit/audit.log"), "after\n");
}

static void test_rests_are_removed(void **state UNUSED)
{
    struct err err = ERR_INIT;
    ASSERT_OK(file_mkdirs(arena_printf(arena, "%s/" WARM_RESTS "x/pki", dir), 0700, &err));
    ASSERT_OK(file_write(arena_printf(arena, "%s/" WARM_RESTS "x/pki/ca.key", dir), STR("key"), 0600, &err));
    warm_remove_rests(dir, WARM_RESTS "x");
    assert_false(lies(WARM_RESTS "x"));
    warm_remove_rests(dir, WARM_RESTS "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_place_fits_whoever_would_get_the_same_command_lines),
        cmocka_unit_test(test_a_claim_changes_no_command_line_and_no_workload),
        cmocka_unit_test(test_clusters_that_are_made_go_first),
        cmocka_unit_test(test_what_lies_there_before_and_after_a_claim),
        cmocka_unit_test(test_an_audit_log_is_emptied_while_it_is_written),
        cmocka_unit_test(test_rests_are_removed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
