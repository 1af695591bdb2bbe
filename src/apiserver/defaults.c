#include "apiserver/defaults.h"

#include "kinds/tenancy.h"
#include "policy/rules.h"

#define RBAC "rbac.authorization.k8s.io"
#define AUTOUPDATE "rbac.authorization.kubernetes.io/autoupdate"
#define AGGREGATE_TO "rbac.authorization.k8s.io/aggregate-to-"

/* ---- documents ---- */

static json_t *object_new(const char *api_version, const char *kind, const char *name)
{
    return json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", api_version, "kind", kind, "metadata", "name", name);
}

static json_t *rbac_object(const char *kind, const char *name)
{
    json_t *obj = object_new(RBAC "/v1", kind, name), *meta = json_object_get(obj, "metadata");
    json_object_set_new(meta, "labels", json_pack("{s:s}", "kubernetes.io/bootstrapping", "rbac-defaults"));
    json_object_set_new(meta, "annotations", json_pack("{s:s}", AUTOUPDATE, "true"));
    return obj;
}

static void add_role(json_t *list, const char *name, json_t *rules)
{
    json_t *role = rbac_object("ClusterRole", name);
    json_object_set_new(role, "rules", rules);
    json_array_append_new(list, role);
}

static void add_binding(json_t *list, const char *name, const char *const *groups)
{
    json_t *binding = rbac_object("ClusterRoleBinding", name), *subjects = json_array();
    for (; *groups; groups++)
        json_array_append_new(subjects, json_pack("{s:s, s:s, s:s}", "kind", "Group", "apiGroup", RBAC, "name", *groups));
    json_object_set_new(binding, "subjects", subjects);
    json_object_set_new(binding, "roleRef", json_pack("{s:s, s:s, s:s}", "apiGroup", RBAC, "kind", "ClusterRole", "name", name));
    json_array_append_new(list, binding);
}

/* A list of texts separated by spaces; "" is one empty text. */
static json_t *words(const char *text)
{
    json_t *list = json_array();
    struct str rest = str_of(text), word;
    if (!*text)
        json_array_append_new(list, json_string(""));
    while (str_cut(&rest, ' ', &word))
        json_array_append_new(list, json_stringn(word.ptr, word.len));
    return list;
}

static json_t *rule(const char *group, const char *resources, const char *verbs)
{
    return json_pack("{s:o, s:o, s:o}", "apiGroups", words(group), "resources", words(resources), "verbs", words(verbs));
}

static json_t *paths(const char *list)
{
    return json_pack("{s:o, s:[s]}", "nonResourceURLs", words(list), "verbs", "get");
}

/* ---- the roles of a project ---- */

#define READ "get list watch"
#define WRITE "create delete deletecollection patch update"

static const struct {
    const char *name;
    enum kind_role role;
    const char *aggregates_to; /* or NULL */
} tiers[] = {{"admin", ROLE_ADMIN, NULL}, {"edit", ROLE_EDIT, "admin"}, {"view", ROLE_VIEW, "edit"}};

static void add_reading(json_t *rules, const struct kind *k)
{
    char text[400];
    snprintf(text, sizeof(text), "%s%s%s%s%s%s%s", k->plural, k->has_status ? " " : "", k->has_status ? k->plural : "", k->has_status ? "/status" : "", k->has_scale ? " " : "",
             k->has_scale ? k->plural : "", k->has_scale ? "/scale" : "");
    json_array_append_new(rules, rule(k->group, text, READ));
}

static void add_views(json_t *rules, const struct kind *k, enum kind_role role)
{
    char text[400];
    for (const struct kind_subresource *s = k->ops ? k->ops->subresources : NULL; s && s->name; s++)
        if (s->view && s->readers != ROLE_NONE && (s->readers == role || role == ROLE_NONE)) {
            snprintf(text, sizeof(text), "%s/%s", k->plural, s->name);
            json_array_append_new(rules, rule(k->group, text, "get"));
        }
}

/* One rule a kind keeps the roles readable: "what may they do with secrets?" is one line. */
static void add_kind_rules(json_t *rules, const struct kind *k, enum kind_role role)
{
    char text[400];
    if (k->readers == role)
        add_reading(rules, k);
    /* Status is what the server and its controllers say; whoever else writes it lies to those who believe it. */
    if (k->writers == role) {
        snprintf(text, sizeof(text), "%s%s%s%s", k->plural, k->has_scale ? " " : "", k->has_scale ? k->plural : "", k->has_scale ? "/scale" : "");
        json_array_append_new(rules, rule(k->group, text, WRITE));
    }
    if (role != ROLE_NONE)
        add_views(rules, k, role);
}

static void add_tier(json_t *list, size_t i)
{
    char name[64], label[96];
    size_t count;
    const struct kind *const *all = kind_all(&count);
    json_t *gathers = rbac_object("ClusterRole", tiers[i].name), *rules = json_array();
    snprintf(label, sizeof(label), AGGREGATE_TO "%s", tiers[i].name);
    json_object_set_new(gathers, "aggregationRule", json_pack("{s:[{s:{s:s}}]}", "clusterRoleSelectors", "matchLabels", label, "true"));
    if (tiers[i].aggregates_to) {
        char up[96];
        snprintf(up, sizeof(up), AGGREGATE_TO "%s", tiers[i].aggregates_to);
        json_object_set_new(json_object_get(json_object_get(gathers, "metadata"), "labels"), up, json_string("true"));
    }
    json_array_append_new(list, gathers);
    for (size_t k = 0; k < count; k++)
        add_kind_rules(rules, all[k], tiers[i].role);
    /* To act as an account of the project, or to have its tokens, is to have all that it was given: more than an editor, who cannot give. */
    if (tiers[i].role == ROLE_ADMIN) {
        json_array_append_new(rules, rule("", "serviceaccounts", "impersonate"));
        json_array_append_new(rules, rule("", "serviceaccounts/token", "create"));
        json_array_append_new(rules, rule("authorization.k8s.io", "localsubjectaccessreviews", "create"));
    }
    snprintf(name, sizeof(name), "system:aggregate-to-%s", tiers[i].name);
    add_role(list, name, rules);
    json_object_set_new(json_object_get(json_object_get(json_array_get(list, json_array_size(list) - 1), "metadata"), "labels"), label, json_string("true"));
}

/* ---- who runs the cloud ---- */

/* Sees how everything is, and nothing of what tenants put into it; makes, suspends and closes tenants, ends people's access. */
static json_t *operator_rules(void)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    json_t *rules = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        if (!k->content && !kind_is_virtual(k))
            add_reading(rules, k);
    }
    json_array_append_new(rules, rule("seki.cloud", "tenants", "use " WRITE));
    json_array_append_new(rules, rule("seki.cloud", "tenants/audit", "get"));
    json_array_append_new(rules, rule("seki.cloud", "userrevocations", "revoke " WRITE));
    return rules;
}

/* What an AccessGrant opens. */
static json_t *content_rules(void)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    json_t *rules = json_array();
    for (size_t i = 0; i < count; i++)
        if (all[i]->content && all[i]->readers != ROLE_NONE) /* keys of the cloud itself are nobody's to read */
            add_reading(rules, all[i]);
    for (size_t i = 0; i < count; i++)
        add_views(rules, all[i], ROLE_NONE); /* all of them */
    return rules;
}

json_t *default_objects(void)
{
    static const char *const masters[] = {"system:masters", NULL}, *const known[] = {"system:authenticated", NULL};
    static const char *const everybody[] = {"system:authenticated", "system:unauthenticated", NULL};
    json_t *list = json_array();
    json_array_append_new(list, object_new("v1", "Namespace", "default"));
    json_array_append_new(list, object_new("v1", "Namespace", "kube-system"));
    add_role(list, "cluster-admin", json_pack("[o, {s:[s], s:[s]}]", rule("*", "*", "*"), "nonResourceURLs", "*", "verbs", "*"));
    add_binding(list, "cluster-admin", masters);
    for (size_t i = 0; i < ARRAY_LEN(tiers); i++)
        add_tier(list, i);
    add_role(list, "operator", operator_rules());
    add_role(list, CONTENT_READER, content_rules());
    add_role(list, "system:discovery", json_pack("[o]", paths("/ /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")));
    add_binding(list, "system:discovery", known);
    add_role(list, "system:basic-user", json_pack("[o, o]", rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
                                                  rule("authentication.k8s.io", "selfsubjectreviews", "create")));
    add_binding(list, "system:basic-user", known);
    add_role(list, "seki:custom-resource-viewer", json_pack("[o]", rule("apiextensions.k8s.io", "customresourcedefinitions", READ))); /* there are none */
    add_binding(list, "seki:custom-resource-viewer", known);
    add_role(list, "system:public-info-viewer", json_pack("[o]", paths("/healthz /livez /readyz /version /version/")));
    add_binding(list, "system:public-info-viewer", everybody);
    return list;
}

/* ---- those that are there already ---- */

static void add_texts(json_t *obj, const json_t *wanted, const char *member)
{
    json_t *meta = json_object_get(obj, "metadata"), *have = json_object_get(meta, member);
    const json_t *more = json_object_get(json_object_get(wanted, "metadata"), member);
    if (!json_object_size(more))
        return;
    if (!json_is_object(have))
        json_object_set_new(meta, member, json_deep_copy(more));
    else
        json_object_update_missing(have, (json_t *)(uintptr_t)more);
}

static json_t *list_in(json_t *obj, const char *member)
{
    json_t *list = json_object_get(obj, member);
    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(obj, member, list);
    }
    return list;
}

static bool same_subject(const json_t *a, const json_t *b)
{
    static const char *const members[] = {"kind", "name", "namespace"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        if (strcmp(json_str_or(a, members[i], ""), json_str_or(b, members[i], "")) != 0)
            return false;
    return true;
}

static void add_subjects(json_t *obj, const json_t *wanted)
{
    size_t i, k;
    json_t *have, *want;
    json_array_foreach (json_object_get(wanted, "subjects"), i, want) {
        bool found = false;
        json_t *list = list_in(obj, "subjects");
        json_array_foreach (list, k, have)
            found |= same_subject(have, want);
        if (!found)
            json_array_append(list, want);
    }
}

static void add_rules(json_t *obj, const json_t *wanted)
{
    const json_t *selectors = json_at(wanted, "aggregationRule.clusterRoleSelectors");
    if (selectors) {
        if (!json_is_object(json_object_get(obj, "aggregationRule")))
            json_object_set_new(obj, "aggregationRule", json_object());
        rules_add(list_in(json_object_get(obj, "aggregationRule"), "clusterRoleSelectors"), selectors);
        return;
    }
    JSON_AUTO missing = rules_missing(json_object_get(obj, "rules"), json_object_get(wanted, "rules"));
    if (json_array_size(missing))
        json_array_extend(list_in(obj, "rules"), missing);
}

json_t *default_merge(const json_t *existing, const json_t *wanted)
{
    const char *update = obj_annotation(existing, AUTOUPDATE);
    if (update && !strcmp(update, "false"))
        return NULL;
    json_t *obj = json_deep_copy(existing);
    add_texts(obj, wanted, "labels");
    add_texts(obj, wanted, "annotations");
    add_rules(obj, wanted);
    add_subjects(obj, wanted);
    if (!json_equal(obj, existing))
        return obj;
    json_decref(obj);
    return NULL;
}

bool default_rebinds(const json_t *existing, const json_t *wanted)
{
    const char *update = obj_annotation(existing, AUTOUPDATE);
    const json_t *ref = json_object_get(wanted, "roleRef"), *old = json_object_get(existing, "roleRef");
    bool same = !strcmp(json_str_or(ref, "kind", ""), json_str_or(old, "kind", "")) && !strcmp(json_str_or(ref, "name", ""), json_str_or(old, "name", ""));
    return ref && !same && !(update && !strcmp(update, "false"));
}
