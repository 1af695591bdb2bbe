/* Role-based access: who may do what, by roles, bindings, groups, names, subresources and paths. */
#include "unit.h"

#include "base/vec.h"
#include "policy/rbac.h"

static VEC(json_t *) docs;
static struct rbac *rbac;

static void doc(const char *text)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    int rc = json_parse(str_of(text), 1 << 20, &j, &err);
    if (rc < 0)
        fail_msg("%s: %s", text, err.msg);
    *VEC_PUSH(&docs) = j;
}

static void role(const char *ns, const char *name, const char *rules)
{
    char text[2048];
    if (ns)
        snprintf(text, sizeof(text), "{\"kind\":\"Role\",\"metadata\":{\"namespace\":\"%s\",\"name\":\"%s\"},\"rules\":%s}", ns, name, rules);
    else
        snprintf(text, sizeof(text), "{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"%s\"},\"rules\":%s}", name, rules);
    doc(text);
}

static void bind(const char *ns, const char *role_kind, const char *role_name, const char *subjects)
{
    char text[2048], meta[256] = "";
    if (ns)
        snprintf(meta, sizeof(meta), "\"namespace\":\"%s\",", ns);
    snprintf(text, sizeof(text), "{\"kind\":\"%s\",\"metadata\":{%s\"name\":\"b\"},\"roleRef\":{\"kind\":\"%s\",\"name\":\"%s\"},\"subjects\":%s}", ns ? "RoleBinding" : "ClusterRoleBinding", meta, role_kind,
             role_name, subjects);
    doc(text);
}

/* The snapshot is asked after the documents were dropped: it has to keep what it needs. */
static void build(void)
{
    rbac_free(rbac);
    rbac = rbac_build((const json_t *const *)docs.ptr, docs.len);
    VEC_FOREACH (&docs, d)
        json_decref(*d);
    docs.len = 0;
}

static int setup(void **state UNUSED)
{
    rbac = NULL;
    return 0;
}

static int teardown(void **state UNUSED)
{
    rbac_free(rbac);
    rbac = NULL;
    VEC_DEINIT(&docs);
    return 0;
}

static bool may(const char *user, const char *verb, const char *group, const char *resource, const char *sub, const char *ns, const char *name)
{
    static const char *const groups[] = {"system:authenticated", "team", NULL};
    return rbac_allows(rbac, &(struct rbac_request){.user = user, .groups = groups, .verb = verb, .group = group, .resource = resource, .subresource = sub, .namespace = ns, .name = name});
}

static bool may_path(const char *user, const char *verb, const char *path)
{
    return rbac_allows(rbac, &(struct rbac_request){.user = user, .verb = verb, .path = path});
}

#define ALICE "[{\"kind\":\"User\",\"name\":\"alice\"}]"
#define READ_SECRETS "[{\"verbs\":[\"get\",\"list\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets\"]}]"
#define ALL "[{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}]"

static void nothing_is_allowed_by_default(void **state UNUSED)
{
    build();
    assert_false(may("alice", "get", "", "secrets", "", "p", "s"));
    assert_false(may("", "get", "", "secrets", "", "", ""));
    assert_false(may_path("alice", "get", "/metrics"));
    rbac_free(NULL);
}

static void masters_may_do_everything(void **state UNUSED)
{
    build();
    static const char *const groups[] = {"x", "system:masters", NULL}, *const near[] = {"system:master", "system:masters2", "", NULL};
    struct rbac_request q = {.user = "root", .groups = groups, .verb = "delete", .group = "", .resource = "namespaces", .subresource = "", .namespace = "", .name = "p"};
    struct rbac_request path = {.user = "root", .groups = groups, .verb = "get", .path = "/x"};
    assert_true(rbac_allows(rbac, &q));
    assert_true(rbac_allows(rbac, &path));
    q.groups = near;
    assert_false(rbac_allows(rbac, &q));
    q.groups = NULL;
    assert_false(rbac_allows(rbac, &q));
    q.user = "system:masters";
    assert_false(rbac_allows(rbac, &q));
}

static void a_role_is_good_in_its_namespace(void **state UNUSED)
{
    role("p", "reader", READ_SECRETS);
    role("q", "reader", ALL);
    bind("p", "Role", "reader", ALICE);
    build();
    assert_true(may("alice", "get", "", "secrets", "", "p", "s"));
    assert_true(may("alice", "list", "", "secrets", "", "p", ""));
    /* Another verb, kind, group, subresource, namespace, user. */
    assert_false(may("alice", "delete", "", "secrets", "", "p", "s"));
    assert_false(may("alice", "get", "", "configmaps", "", "p", "s"));
    assert_false(may("alice", "get", "seki.cloud", "secrets", "", "p", "s"));
    assert_false(may("alice", "get", "", "secrets", "status", "p", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "q", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "", "s"));
    assert_false(may("bob", "get", "", "secrets", "", "p", "s"));
    assert_false(may("Alice", "get", "", "secrets", "", "p", "s"));
    assert_false(may("alice", "", "", "secrets", "", "p", "s"));
}

static void cluster_roles_reach_as_far_as_their_binding(void **state UNUSED)
{
    role(NULL, "reader", READ_SECRETS);
    bind("p", "ClusterRole", "reader", ALICE);
    bind(NULL, "ClusterRole", "reader", "[{\"kind\":\"User\",\"name\":\"carol\"}]");
    build();
    assert_true(may("alice", "get", "", "secrets", "", "p", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "q", "s"));
    assert_false(may("alice", "list", "", "secrets", "", "", ""));
    assert_true(may("carol", "get", "", "secrets", "", "q", "s"));
    assert_true(may("carol", "list", "", "secrets", "", "", ""));
}

static void bindings_to_nothing_give_nothing(void **state UNUSED)
{
    role("p", "other", ALL);
    role("q", "absent", ALL);
    role(NULL, "wide", ALL);
    bind("p", "Role", "absent", ALICE);    /* only in another namespace */
    bind("p", "Role", "wide", ALICE);      /* a ClusterRole of that name */
    bind("p", "ClusterRole", "other", ALICE);
    bind(NULL, "Role", "other", ALICE);    /* a Role has a namespace */
    bind("p", "Pod", "other", ALICE);
    bind("p", "Role", "", ALICE);
    build();
    assert_false(may("alice", "get", "", "secrets", "", "p", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "q", "s"));
    assert_false(may("alice", "get", "", "namespaces", "", "", "p"));
}

static void a_binding_without_a_namespace_reaches_nothing(void **state UNUSED)
{
    role(NULL, "wide", ALL);
    doc("{\"kind\":\"RoleBinding\",\"metadata\":{\"name\":\"b\"},\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"wide\"},\"subjects\":" ALICE "}");
    build();
    assert_false(may("alice", "get", "", "namespaces", "", "", "p"));
    assert_false(may("alice", "get", "", "secrets", "", "p", "s"));
}

static void subjects(void **state UNUSED)
{
    role(NULL, "reader", READ_SECRETS);
    bind("groups", "ClusterRole", "reader", "[{\"kind\":\"Group\",\"name\":\"team\"}]");
    bind("users", "ClusterRole", "reader", "[{\"kind\":\"User\",\"name\":\"x\"},{\"kind\":\"User\",\"name\":\"alice\"}]");
    bind("usergroup", "ClusterRole", "reader", "[{\"kind\":\"User\",\"name\":\"team\"}]");
    bind("groupuser", "ClusterRole", "reader", "[{\"kind\":\"Group\",\"name\":\"alice\"}]");
    bind("accounts", "ClusterRole", "reader", "[{\"kind\":\"ServiceAccount\",\"namespace\":\"ci\",\"name\":\"bot\"}]");
    bind("none", "ClusterRole", "reader", "[]");
    bind("star", "ClusterRole", "reader", "[{\"kind\":\"User\",\"name\":\"*\"}]");
    bind("odd", "ClusterRole", "reader", "[1,null,{},{\"kind\":\"Robot\",\"name\":\"alice\"},{\"kind\":1,\"name\":\"alice\"},{\"name\":\"alice\"}]");
    bind("null", "ClusterRole", "reader", "null");
    bind("object", "ClusterRole", "reader", "{\"kind\":\"User\",\"name\":\"alice\"}");
    build();
    assert_true(may("alice", "get", "", "secrets", "", "groups", "s"));
    assert_true(may("alice", "get", "", "secrets", "", "users", "s"));
    static const char *const closed[] = {"usergroup", "groupuser", "accounts", "none", "star", "odd", "null", "object"};
    for (size_t i = 0; i < ARRAY_LEN(closed); i++)
        if (may("alice", "get", "", "secrets", "", closed[i], "s"))
            fail_msg("allowed in %s", closed[i]);
    assert_true(may("system:serviceaccount:ci:bot", "get", "", "secrets", "", "accounts", "s"));
    assert_false(may("system:serviceaccount:p:bot", "get", "", "secrets", "", "accounts", "s"));
    assert_false(may("system:serviceaccount:ci:bot2", "get", "", "secrets", "", "accounts", "s"));
    assert_false(may("bot", "get", "", "secrets", "", "accounts", "s"));
}

static void long_account_names_are_not_cut(void **state UNUSED)
{
    char name[1001], subject[1200], user[1200];
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    role(NULL, "reader", READ_SECRETS);
    snprintf(subject, sizeof(subject), "[{\"kind\":\"ServiceAccount\",\"namespace\":\"ci\",\"name\":\"%s\"}]", name);
    bind("p", "ClusterRole", "reader", subject);
    build();
    snprintf(user, sizeof(user), "system:serviceaccount:ci:%s", name);
    for (size_t len = 590; len < 610; len++) {
        char shorter[1200];
        snprintf(shorter, sizeof(shorter), "%.*s", (int)len, user);
        assert_false(may(shorter, "get", "", "secrets", "", "p", "s"));
    }
}

static void wildcards_and_subresources(void **state UNUSED)
{
    role("v", "r", "[{\"verbs\":[\"*\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets\"]}]");
    role("g", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"*\"],\"resources\":[\"secrets\"]}]");
    role("r", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"seki.cloud\"],\"resources\":[\"*\"]}]");
    role("s", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"seki.cloud\"],\"resources\":[\"modelendpoints/status\",\"*/scale\"]}]");
    role("prefix", "r", "[{\"verbs\":[\"g*\"],\"apiGroups\":[\"\"],\"resources\":[\"sec*\"]}]");
    role("slash", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets/*\",\"*/\"]}]");
    role("urls", "r", "[{\"verbs\":[\"*\"],\"nonResourceURLs\":[\"*\"]}]");
    static const char *const namespaces[] = {"v", "g", "r", "s", "prefix", "slash", "urls"};
    for (size_t i = 0; i < ARRAY_LEN(namespaces); i++)
        bind(namespaces[i], "Role", "r", ALICE);
    build();
    assert_true(may("alice", "delete", "", "secrets", "", "v", "s"));
    assert_false(may("alice", "delete", "", "configmaps", "", "v", "s"));
    assert_true(may("alice", "get", "any.group", "secrets", "", "g", "s"));
    assert_false(may("alice", "list", "any.group", "secrets", "", "g", "s"));
    assert_true(may("alice", "get", "seki.cloud", "models", "", "r", "m"));
    assert_true(may("alice", "get", "seki.cloud", "models", "status", "r", "m"));
    assert_false(may("alice", "get", "", "secrets", "", "r", "m"));
    assert_true(may("alice", "get", "seki.cloud", "modelendpoints", "status", "s", "m"));
    assert_true(may("alice", "get", "seki.cloud", "anything", "scale", "s", "m"));
    assert_false(may("alice", "get", "seki.cloud", "modelendpoints", "", "s", "m"));
    assert_false(may("alice", "get", "seki.cloud", "models", "status", "s", "m"));
    assert_false(may("alice", "get", "", "secrets", "", "prefix", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "slash", "s"));
    assert_false(may("alice", "get", "", "secrets", "status", "slash", "s"));
    assert_false(may("alice", "get", "", "secrets", "", "urls", "s"));
}

static void names_narrow_a_rule(void **state UNUSED)
{
    role("p", "r", "[{\"verbs\":[\"get\",\"list\",\"create\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets\"],\"resourceNames\":[\"one\",\"\",\"two\"]}]");
    role("star", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets\"],\"resourceNames\":[\"*\"]}]");
    role("empty", "r", "[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"secrets\"],\"resourceNames\":[]}]");
    bind("p", "Role", "r", ALICE);
    bind("star", "Role", "r", ALICE);
    bind("empty", "Role", "r", ALICE);
    build();
    assert_true(may("alice", "get", "", "secrets", "", "p", "two"));
    assert_false(may("alice", "get", "", "secrets", "", "p", "three"));
    assert_false(may("alice", "list", "", "secrets", "", "p", ""));
    assert_false(may("alice", "create", "", "secrets", "", "p", ""));
    /* No wildcard among names. */
    assert_false(may("alice", "get", "", "secrets", "", "star", "one"));
    assert_true(may("alice", "get", "", "secrets", "", "star", "*"));
    assert_true(may("alice", "get", "", "secrets", "", "empty", "one"));
}

static void paths(void **state UNUSED)
{
    role(NULL, "paths", "[{\"verbs\":[\"get\"],\"nonResourceURLs\":[\"/metrics\",\"/logs/*\"]}]");
    role(NULL, "all", "[{\"verbs\":[\"*\"],\"nonResourceURLs\":[\"*\"]}]");
    role(NULL, "resources", ALL);
    bind(NULL, "ClusterRole", "paths", ALICE);
    bind("p", "ClusterRole", "paths", "[{\"kind\":\"User\",\"name\":\"bob\"}]");
    bind(NULL, "ClusterRole", "all", "[{\"kind\":\"User\",\"name\":\"carol\"}]");
    bind(NULL, "ClusterRole", "resources", "[{\"kind\":\"User\",\"name\":\"dave\"}]");
    build();
    assert_true(may_path("alice", "get", "/metrics"));
    assert_true(may_path("alice", "get", "/logs/"));
    assert_true(may_path("alice", "get", "/logs/a/b"));
    assert_false(may_path("alice", "post", "/metrics"));
    assert_false(may_path("alice", "get", "/metrics/more"));
    assert_false(may_path("alice", "get", "/logs"));
    assert_false(may_path("alice", "get", "/"));
    /* A RoleBinding gives no paths; resources are no paths. */
    assert_false(may_path("bob", "get", "/metrics"));
    assert_true(may_path("carol", "put", "/anything"));
    assert_false(may("carol", "get", "", "secrets", "", "p", "s"));
    assert_false(may_path("dave", "get", "/metrics"));
}

static void rules_are_joined_by_labels(void **state UNUSED)
{
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"admin\",\"labels\":{\"to\":\"admin\"}},\"aggregationRule\":{\"clusterRoleSelectors\":[{\"matchLabels\":{\"to\":\"admin\"}},{\"matchLabels\":{\"x\":\"1\",\"y\":\"2\"}},{\"matchLabels\":{}},{}]},"
        "\"rules\":[{\"verbs\":[\"*\"],\"apiGroups\":[\"\"],\"resources\":[\"namespaces\"]}]}");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"a\",\"labels\":{\"to\":\"admin\"}},\"rules\":" READ_SECRETS "}");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"b\",\"labels\":{\"x\":\"1\",\"y\":\"2\",\"z\":\"3\"}},\"rules\":[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"configmaps\"]}]}");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"c\",\"labels\":{\"x\":\"1\"}},\"rules\":[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"events\"]}]}");
    doc("{\"kind\":\"Role\",\"metadata\":{\"namespace\":\"p\",\"name\":\"d\",\"labels\":{\"to\":\"admin\"}},\"rules\":[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"leases\"]}]}");
    bind(NULL, "ClusterRole", "admin", ALICE);
    bind("p", "ClusterRole", "admin", "[{\"kind\":\"User\",\"name\":\"bob\"}]");
    build();
    assert_true(may("alice", "get", "", "secrets", "", "p", "s"));
    assert_true(may("alice", "get", "", "configmaps", "", "p", "s"));
    assert_false(may("alice", "get", "", "events", "", "p", "s"));
    assert_false(may("alice", "get", "", "leases", "", "p", "s"));
    /* What is written beside the selectors is the server's to fill, and does not count. */
    assert_false(may("alice", "get", "", "namespaces", "", "", "p"));
    assert_true(may("bob", "get", "", "secrets", "", "p", "s"));
    assert_false(may("bob", "get", "", "secrets", "", "q", "s"));
}

/* A selector narrows with each part; one with a part that is not understood here gives nothing, not more. */
static void expressions_in_a_selector_select_nothing(void **state UNUSED)
{
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"admin\"},\"aggregationRule\":{\"clusterRoleSelectors\":[{\"matchLabels\":{\"to\":\"admin\"},"
        "\"matchExpressions\":[{\"key\":\"danger\",\"operator\":\"DoesNotExist\"}]}]}}");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"a\",\"labels\":{\"to\":\"admin\",\"danger\":\"yes\"}},\"rules\":" READ_SECRETS "}");
    bind(NULL, "ClusterRole", "admin", ALICE);
    build();
    assert_false(may("alice", "get", "", "secrets", "", "p", "s"));
}

static void list_rule(void *arg, const json_t *rule, bool wide)
{
    char *seen = arg;
    snprintf(seen + strlen(seen), 256 - strlen(seen), "%s%s ", json_string_value(json_array_get(json_object_get(rule, "verbs"), 0)), wide ? "!" : "");
}

static void rules_of_a_user(void **state UNUSED)
{
    static const char *const groups[] = {"team", NULL}, *const masters[] = {"system:masters", NULL};
    role("p", "r", "[{\"verbs\":[\"one\"]},{\"verbs\":[\"two\"]}]");
    role("q", "r", "[{\"verbs\":[\"three\"]}]");
    role(NULL, "w", "[{\"verbs\":[\"four\"]}]");
    bind("p", "Role", "r", ALICE);
    bind("q", "Role", "r", ALICE);
    bind("p", "ClusterRole", "w", "[{\"kind\":\"Group\",\"name\":\"team\"}]");
    bind(NULL, "ClusterRole", "w", ALICE);
    build();
    static const struct {
        const char *user, *const *groups, *ns, *want;
    } cases[] = {{"alice", NULL, "p", "one two four! "}, {"alice", NULL, "q", "three four! "}, {"alice", groups, "p", "one two four four! "}, {"alice", NULL, "", "four! "},
                 {"bob", NULL, "p", ""}, {"bob", groups, "q", ""}, {"bob", masters, "q", "*! *! "}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char seen[256] = "";
        rbac_rules(rbac, &(struct rbac_request){.user = cases[i].user, .groups = cases[i].groups, .namespace = cases[i].ns}, list_rule, seen);
        assert_string_equal(seen, cases[i].want);
    }
}

static void odd_documents_give_nothing(void **state UNUSED)
{
    static const char *const rules[] = {"null", "{}", "7", "[null,1,\"x\",[]]", "[{}]", "[{\"verbs\":\"*\",\"apiGroups\":\"*\",\"resources\":\"*\"}]", "[{\"verbs\":[\"*\"]}]", "[{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"]}]",
                                        "[{\"verbs\":[\"*\"],\"resources\":[\"*\"]}]", "[{\"verbs\":[],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}]", "[{\"verbs\":[1,null],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}]"};
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        role("p", "r", rules[i]);
        bind("p", "Role", "r", ALICE);
        doc("[]");
        doc("{\"kind\":\"RoleBinding\"}");
        doc("{\"kind\":\"ClusterRoleBinding\",\"metadata\":7,\"roleRef\":[],\"subjects\":" ALICE "}");
        doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"\"},\"aggregationRule\":{\"clusterRoleSelectors\":7}}");
        build();
        if (may("alice", "get", "", "secrets", "", "p", "s"))
            fail_msg("allowed by %s", rules[i]);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_allowed_by_default),
        TEST(masters_may_do_everything),
        TEST(a_role_is_good_in_its_namespace),
        TEST(cluster_roles_reach_as_far_as_their_binding),
        TEST(bindings_to_nothing_give_nothing),
        TEST(a_binding_without_a_namespace_reaches_nothing),
        TEST(subjects),
        TEST(long_account_names_are_not_cut),
        TEST(wildcards_and_subresources),
        TEST(names_narrow_a_rule),
        TEST(paths),
        TEST(rules_are_joined_by_labels),
        TEST(expressions_in_a_selector_select_nothing),
        TEST(rules_of_a_user),
        TEST(odd_documents_give_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
