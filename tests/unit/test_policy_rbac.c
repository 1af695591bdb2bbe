/* Role-based access: who may do what, by roles, bindings, groups, names, subresources and paths. */
#include "unit.h"

#include "base/vec.h"
#include "policy/rbac.h"
#include "policy/rules.h"

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
    rbac = rbac_build((const json_t *const *)docs.ptr, docs.len, 1000);
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

/* now is 1970-01-01T00:00:01Z (build()). */
static void a_binding_ends_when_it_says(void **state UNUSED)
{
    static const struct {
        const char *until;
        bool allowed;
        int64_t good_until;
    } cases[] = {{"1970-01-01T00:00:02Z", true, 2000}, {"1970-01-01T00:00:01Z", false, INT64_MAX}, {"1969-12-31T00:00:00Z", false, INT64_MAX}, {"soon", false, INT64_MAX}, {"", false, INT64_MAX}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[512];
        role(NULL, "reader", "[{\"apiGroups\":[\"\"],\"resources\":[\"secrets\"],\"verbs\":[\"get\"]}]");
        snprintf(text, sizeof(text), "{\"kind\":\"RoleBinding\",\"metadata\":{\"namespace\":\"a\",\"name\":\"b\",\"annotations\":{\"%s\":\"%s\"}},\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"reader\"},"
                 "\"subjects\":[{\"kind\":\"User\",\"name\":\"olga\"}]}", RBAC_EXPIRES_AT, cases[i].until);
        doc(text);
        build();
        struct rbac_request q = {.user = "olga", .groups = (const char *const[]){NULL}, .verb = "get", .group = "", .resource = "secrets", .subresource = "", .namespace = "a", .name = "s"};
        assert_int_equal(rbac_allows(rbac, &q), cases[i].allowed);
        assert_true(rbac_good_until(rbac) == cases[i].good_until);
    }
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
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"admin\",\"labels\":{\"to\":\"admin\"}},\"aggregationRule\":{\"clusterRoleSelectors\":[{\"matchLabels\":{\"to\":\"admin\"}},{\"matchLabels\":{\"x\":\"1\",\"y\":\"2\"}},7]},"
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

static void selectors_read_labels(void **state UNUSED)
{
    static const struct {
        const char *selector, *labels;
        bool selects;
    } cases[] = {
        {"{}", "{}", true}, /* all, as Kubernetes has it */
        {"{}", "{\"a\":\"1\"}", true},
        {"{\"matchLabels\":{}}", "{}", true},
        {"null", "{}", false},
        {"7", "{}", false},
        {"{\"matchLabels\":7}", "{}", false},
        {"{\"matchExpressions\":{}}", "{}", false},
        {"{\"matchLabels\":{\"a\":\"1\"}}", "{\"a\":\"1\",\"b\":\"2\"}", true},
        {"{\"matchLabels\":{\"a\":\"1\",\"b\":\"1\"}}", "{\"a\":\"1\",\"b\":\"2\"}", false},
        {"{\"matchLabels\":{\"a\":\"1\"}}", "{}", false},
        {"{\"matchLabels\":{\"a\":null}}", "{}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"In\",\"values\":[\"1\",\"2\"]}]}", "{\"a\":\"2\"}", true},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"In\",\"values\":[\"1\",\"2\"]}]}", "{\"a\":\"3\"}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"In\",\"values\":[\"1\"]}]}", "{}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"NotIn\",\"values\":[\"1\"]}]}", "{\"a\":\"1\"}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"NotIn\",\"values\":[\"1\"]}]}", "{}", true},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"NotIn\"}]}", "{}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Exists\"}]}", "{\"a\":\"\"}", true},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Exists\"}]}", "{\"b\":\"\"}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"DoesNotExist\"}]}", "{\"b\":\"\"}", true},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"DoesNotExist\"}]}", "{\"a\":\"\"}", false},
        {"{\"matchExpressions\":[{\"operator\":\"DoesNotExist\"}]}", "{}", false},
        {"{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Gt\",\"values\":[\"1\"]}]}", "{\"a\":\"2\"}", false},
        {"{\"matchLabels\":{\"a\":\"1\"},\"matchExpressions\":[{\"key\":\"b\",\"operator\":\"DoesNotExist\"}]}", "{\"a\":\"1\",\"b\":\"1\"}", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO selector = json_loads(cases[i].selector, JSON_DECODE_ANY, NULL);
        JSON_AUTO labels = json_loads(cases[i].labels, 0, NULL);
        if (rules_select(selector, labels) != cases[i].selects)
            fail_msg("%s on %s: expected %d", cases[i].selector, cases[i].labels, cases[i].selects);
    }
}

#define GATHERS(name, labels, wanted) \
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"" name "\",\"labels\":{" labels "}},\"aggregationRule\":{\"clusterRoleSelectors\":[{\"matchLabels\":{\"to\":\"" wanted "\"}}]}}")

static void what_is_gathered_is_gathered_on(void **state UNUSED)
{
    GATHERS("admin", "", "admin");
    GATHERS("edit", "\"to\":\"admin\"", "edit");
    GATHERS("view", "\"to\":\"edit\"", "view");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"a\",\"labels\":{\"to\":\"view\"}},\"rules\":" READ_SECRETS "}");
    /* A circle, and one that selects itself. */
    GATHERS("one", "\"to\":\"two\"", "one");
    GATHERS("two", "\"to\":\"one\"", "two");
    GATHERS("self", "\"to\":\"self\"", "self");
    doc("{\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"b\",\"labels\":{\"to\":\"two\"}},\"rules\":" READ_SECRETS "}");
    static const char *const names[] = {"admin", "edit", "view", "one", "two", "self"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        bind(names[i], "ClusterRole", names[i], ALICE);
    build();
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (may("alice", "get", "", "secrets", "", names[i], "s") != (i < 5))
            fail_msg("%s", names[i]);
    assert_int_equal(json_array_size(rbac_role_rules(rbac, "ClusterRole", "", "admin")), 1);
    assert_int_equal(json_array_size(rbac_role_rules(rbac, "ClusterRole", "", "self")), 0);
    assert_non_null(rbac_role_rules(rbac, "ClusterRole", "", "self"));
    assert_null(rbac_role_rules(rbac, "ClusterRole", "", "absent"));
}

static void accounts_without_a_namespace_are_of_the_binding(void **state UNUSED)
{
    role(NULL, "reader", READ_SECRETS);
    bind("p", "ClusterRole", "reader", "[{\"kind\":\"ServiceAccount\",\"name\":\"bot\"}]");
    bind(NULL, "ClusterRole", "reader", "[{\"kind\":\"ServiceAccount\",\"name\":\"bot\"}]");
    build();
    assert_true(may("system:serviceaccount:p:bot", "get", "", "secrets", "", "p", "s"));
    assert_false(may("system:serviceaccount:q:bot", "get", "", "secrets", "", "p", "s"));
    assert_false(may("system:serviceaccount:p:bot", "get", "", "secrets", "", "q", "s"));
    assert_false(may("system:serviceaccount::bot", "get", "", "secrets", "", "q", "s"));
}

/* ---- rules by rules ---- */

#define RULE(verbs, groups, resources) "{\"verbs\":[" verbs "],\"apiGroups\":[" groups "],\"resources\":[" resources "]}"
#define NAMED(verbs, groups, resources, names) "{\"verbs\":[" verbs "],\"apiGroups\":[" groups "],\"resources\":[" resources "],\"resourceNames\":[" names "]}"
#define PATHS(verbs, paths) "{\"verbs\":[" verbs "],\"nonResourceURLs\":[" paths "]}"
#define GET "\"get\""
#define CORE "\"\""
#define STAR "\"*\""

static void rules_cover_rules(void **state UNUSED)
{
    static const struct {
        const char *held, *wanted, *missing;
    } cases[] = {
        {"", "", ""},
        {"", RULE(GET, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, "\"pods\""), RULE(GET, CORE, "\"pods\""), ""},
        {RULE(GET, CORE, "\"pods\""), "", ""},
        /* Wanted together, held in parts, and the other way round. */
        {RULE(GET, CORE, "\"pods\"") "," RULE("\"list\"", CORE, "\"pods\"") "," RULE("\"list\",\"get\"", "\"b\"", "\"pods\""), RULE("\"get\",\"list\"", "\"\",\"b\"", "\"pods\""), ""},
        {RULE("\"get\",\"list\"", "\"\",\"b\"", "\"pods\",\"secrets\""), RULE("\"list\"", "\"b\"", "\"secrets\""), ""},
        {RULE(GET, CORE, "\"pods\"") "," RULE("\"list\"", "\"b\"", "\"pods\""), RULE("\"list\"", CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"},
        /* Verbs of one resource are told together, resources in order. */
        {RULE(GET, CORE, "\"pods\""), RULE("\"get\",\"list\",\"watch\"", CORE, "\"secrets\",\"pods\""),
         "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"watch\"]}"},
        /* Wildcards. */
        {RULE(STAR, STAR, STAR), RULE("\"x\"", "\"y\"", "\"z/w\"") "," NAMED(GET, CORE, "\"pods\"", "\"n\"") "," RULE(STAR, STAR, STAR), ""},
        {RULE(STAR, STAR, STAR), PATHS(GET, "\"/metrics\""), "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"},
        {RULE(GET, STAR, STAR), RULE(STAR, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"*\"]}"},
        {RULE(STAR, CORE, STAR), RULE(GET, STAR, "\"pods\""), "{APIGroups:[\"*\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {RULE(STAR, STAR, "\"pods\",\"secrets\""), RULE(GET, CORE, STAR), "{APIGroups:[\"\"], Resources:[\"*\"], Verbs:[\"get\"]}"},
        /* Subresources. */
        {RULE(GET, CORE, "\"pods\""), RULE(GET, CORE, "\"pods/status\""), "{APIGroups:[\"\"], Resources:[\"pods/status\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, "\"pods/status\""), RULE(GET, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, "\"*/status\""), RULE(GET, CORE, "\"pods/status\",\"*/status\""), ""},
        {RULE(GET, CORE, "\"*/status\""), RULE(GET, CORE, "\"pods/scale\""), "{APIGroups:[\"\"], Resources:[\"pods/scale\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, "\"pods/*\""), RULE(GET, CORE, "\"pods/status\""), "{APIGroups:[\"\"], Resources:[\"pods/status\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, STAR), RULE(GET, CORE, "\"pods/status\",\"*/scale\""), ""},
        /* Names. */
        {RULE(GET, CORE, "\"pods\""), NAMED(GET, CORE, "\"pods\"", "\"a\""), ""},
        {NAMED(GET, CORE, "\"pods\"", "\"a\",\"b\""), NAMED(GET, CORE, "\"pods\"", "\"b\""), ""},
        {NAMED(GET, CORE, "\"pods\"", "\"a\"") "," NAMED(GET, CORE, "\"pods\"", "\"b\""), NAMED(GET, CORE, "\"pods\"", "\"a\",\"b\""), ""},
        {NAMED(GET, CORE, "\"pods\"", "\"a\""), RULE(GET, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {NAMED(GET, CORE, "\"pods\"", "\"a\""), NAMED("\"get\",\"list\"", CORE, "\"pods\"", "\"b\""), "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"b\"], Verbs:[\"get\" \"list\"]}"},
        {NAMED(GET, CORE, "\"pods\"", "\"*\""), NAMED(GET, CORE, "\"pods\"", "\"a\""), "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"a\"], Verbs:[\"get\"]}"},
        {NAMED(GET, CORE, "\"pods\"", "\"a\""), NAMED(GET, CORE, "\"pods\"", ""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {NAMED(GET, CORE, "\"pods\"", "\"a\""), NAMED(GET, CORE, "\"pods\"", "\"\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        /* Paths. */
        {PATHS(GET, "\"/a\""), PATHS(GET, "\"/a\""), ""},
        {PATHS(GET, "\"/a/*\""), PATHS(GET, "\"/a/\",\"/a/b\",\"/a/b/*\",\"/a/*\""), ""},
        {PATHS(GET, "\"/a/*\""), PATHS(GET, "\"/a\""), "{NonResourceURLs:[\"/a\"], Verbs:[\"get\"]}"},
        {PATHS(GET, "\"/a/b\""), PATHS(GET, "\"/a/*\""), "{NonResourceURLs:[\"/a/*\"], Verbs:[\"get\"]}"},
        {PATHS(STAR, STAR), PATHS("\"get\",\"*\"", "\"/\",\"*\""), ""},
        {PATHS(GET, STAR), PATHS(STAR, STAR), "{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"},
        {PATHS(GET, STAR), RULE(GET, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        /* Nothing is wanted; broken rules hold nothing, and broken texts are not held. */
        {"", RULE("", CORE, "\"pods\""), ""},
        {"", RULE(GET, "", "\"pods\""), ""},
        {"7,null,[],{},{\"verbs\":\"*\",\"apiGroups\":\"*\",\"resources\":\"*\"}", RULE(GET, CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"},
        {RULE(GET, CORE, "\"pods\""), RULE("7", CORE, "\"pods\""), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"\"]}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[4096];
        CLEANUP(sbuf_deinit) struct sbuf got = {0};
        sbuf_init(&got, 1 << 16);
        snprintf(text, sizeof(text), "[%s]", cases[i].held);
        JSON_AUTO held = json_loads(text, 0, NULL);
        snprintf(text, sizeof(text), "[%s]", cases[i].wanted);
        JSON_AUTO wanted = json_loads(text, 0, NULL);
        assert_non_null(held);
        assert_non_null(wanted);
        JSON_AUTO missing = rules_missing(held, wanted);
        rules_text(missing, &got);
        if (strcmp(got.ptr ? got.ptr : "", cases[i].missing) != 0)
            fail_msg("case %zu: %s\nby %s\nmissing: %s\nexpected: %s", i, cases[i].wanted, cases[i].held, got.ptr ? got.ptr : "", cases[i].missing);
    }
}

/* A role of 1 MiB names a product of lists that nobody can go through. */
static void lists_beyond_measure_are_missing(void **state UNUSED)
{
    json_t *many = json_array();
    for (int i = 0; i < 20000; i++)
        json_array_append_new(many, json_sprintf("r%d", i));
    JSON_AUTO wanted = json_pack("[{s:o, s:O, s:O, s:O}]", "verbs", many, "apiGroups", many, "resources", many, "resourceNames", many);
    JSON_AUTO held = json_pack("[{s:[s], s:[s], s:[s]}, {s:[s], s:[s], s:[s]}]", "verbs", "get", "apiGroups", "x", "resources", "y", "verbs", "*", "apiGroups", "*", "resources", "*");
    JSON_AUTO missing = rules_missing(held, wanted);
    assert_int_equal(json_array_size(missing), 1);
    assert_true(json_array_get(missing, 0) == json_array_get(wanted, 0));
}

static void rules_of_users(void **state UNUSED)
{
    static const char *const groups[] = {"team", NULL}, *const masters[] = {"system:masters", NULL};
    CLEANUP(sbuf_deinit) struct sbuf got = {0};
    sbuf_init(&got, 1 << 16);
    role("p", "r", "[" RULE(GET, CORE, "\"secrets\"") "," PATHS(GET, "\"/p\"") "]");
    role(NULL, "c", "[" RULE("\"list\"", CORE, "\"secrets\"") "," PATHS(GET, "\"/c\"") "]");
    bind("p", "Role", "r", ALICE);
    bind(NULL, "ClusterRole", "c", "[{\"kind\":\"Group\",\"name\":\"team\"}]");
    build();
    JSON_AUTO in_p = rbac_rules(rbac, "alice", groups, "p");
    rules_text(in_p, &got);
    assert_string_equal(got.ptr, "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"list\"]}\n{NonResourceURLs:[\"/c\"], Verbs:[\"get\"]}");
    JSON_AUTO in_q = rbac_rules(rbac, "alice", groups, "q");
    JSON_AUTO nowhere = rbac_rules(rbac, "alice", NULL, "");
    JSON_AUTO all = rbac_rules(rbac, "root", masters, "");
    assert_int_equal(json_array_size(in_q), 2);
    assert_int_equal(json_array_size(nowhere), 0);
    JSON_AUTO missing = rules_missing(all, in_p);
    assert_int_equal(json_array_size(missing), 0);
    assert_int_equal(json_array_size(rbac_role_rules(rbac, "Role", "p", "r")), 2);
    assert_null(rbac_role_rules(rbac, "Role", "q", "r"));
    assert_int_equal(json_array_size(rbac_role_rules(rbac, "ClusterRole", "q", "c")), 2);
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
        rbac_each_rule(rbac, &(struct rbac_request){.user = cases[i].user, .groups = cases[i].groups, .namespace = cases[i].ns}, list_rule, seen);
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
        TEST(a_binding_ends_when_it_says),
        TEST(subjects),
        TEST(long_account_names_are_not_cut),
        TEST(wildcards_and_subresources),
        TEST(names_narrow_a_rule),
        TEST(paths),
        TEST(rules_are_joined_by_labels),
        TEST(rules_of_a_user),
        TEST(selectors_read_labels),
        TEST(what_is_gathered_is_gathered_on),
        TEST(accounts_without_a_namespace_are_of_the_binding),
        TEST(rules_cover_rules),
        TEST(lists_beyond_measure_are_missing),
        TEST(rules_of_users),
        TEST(odd_documents_give_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
