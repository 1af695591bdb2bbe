#include "policy/rbac.h"

#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"

/* One binding, resolved: who, where, which rules. Documents are kept by reference; they are immutable. */
struct grant {
    const json_t *subjects;
    const char *ns; /* NULL: everywhere */
    const json_t *rules;
};

struct rbac {
    VEC(json_t *) kept;
    VEC(struct grant) grants;
};

static const char *str_at(const json_t *j, const char *path)
{
    return json_str_or(j, path, "");
}

/* ---- building ---- */

static void role_key(struct sbuf *b, const char *kind, const char *ns, const char *name)
{
    sbuf_reset(b);
    sbuf_addf(b, "%s/%s/%s", kind, strcmp(kind, "Role") ? "" : ns, name);
}

static bool labels_match(const json_t *labels, const json_t *wanted)
{
    const char *key;
    json_t *v;
    if (!json_object_size(wanted))
        return false;
    json_object_foreach ((json_t *)(uintptr_t)wanted, key, v) {
        const char *have = json_string_value(json_object_get(labels, key)), *want = json_string_value(v);
        if (!have || !want || strcmp(have, want))
            return false;
    }
    return true;
}

/* A ClusterRole's rules: its own, or those of all ClusterRoles that its selectors match. */
static const json_t *rules_of(struct rbac *r, const json_t *role)
{
    const json_t *selectors = json_at(role, "aggregationRule.clusterRoleSelectors");
    if (!selectors)
        return json_object_get(role, "rules");
    json_t *rules = json_array(), *s;
    size_t i;
    VEC_FOREACH (&r->kept, other) {
        if (strcmp(str_at(*other, "kind"), "ClusterRole") || *other == role)
            continue;
        json_array_foreach (selectors, i, s)
            /* Expressions would narrow the selection; they are not evaluated, so such a selector selects nothing. */
            if (!json_array_size(json_object_get(s, "matchExpressions")) && labels_match(json_at(*other, "metadata.labels"), json_object_get(s, "matchLabels"))) {
                json_array_extend(rules, json_object_get(*other, "rules"));
                break;
            }
    }
    *VEC_PUSH(&r->kept) = rules; /* freed with the rest */
    return rules;
}

struct rbac *rbac_build(const json_t *const *docs, size_t count)
{
    struct rbac *r = XNEW(struct rbac);
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 4096);
    struct map *roles = map_new(NULL);
    for (size_t i = 0; i < count; i++) {
        json_t *doc = json_incref((json_t *)(uintptr_t)docs[i]);
        *VEC_PUSH(&r->kept) = doc;
        role_key(&key, str_at(doc, "kind"), str_at(doc, "metadata.namespace"), str_at(doc, "metadata.name"));
        map_set(roles, sbuf_str(&key), doc);
    }
    for (size_t i = 0; i < count; i++) {
        const char *kind = str_at(docs[i], "kind"), *ns = str_at(docs[i], "metadata.namespace");
        bool wide = !strcmp(kind, "ClusterRoleBinding");
        /* A RoleBinding without a namespace would reach cluster-scoped resources. */
        if (!wide && (strcmp(kind, "RoleBinding") != 0 || !*ns))
            continue;
        role_key(&key, str_at(docs[i], "roleRef.kind"), ns, str_at(docs[i], "roleRef.name"));
        const json_t *role = map_get(roles, sbuf_str(&key));
        if (role)
            *VEC_PUSH(&r->grants) = (struct grant){json_object_get(docs[i], "subjects"), wide ? NULL : ns, rules_of(r, role)};
    }
    map_free(roles);
    return r;
}

void rbac_free(struct rbac *r)
{
    if (!r)
        return;
    VEC_FOREACH (&r->kept, doc)
        json_decref(*doc);
    VEC_DEINIT(&r->kept);
    VEC_DEINIT(&r->grants);
    mem_free(r);
}

/* ---- deciding ---- */

static bool in_groups(const char *const *groups, const char *name)
{
    for (; groups && *groups; groups++)
        if (!strcmp(*groups, name))
            return true;
    return false;
}

static bool is_subject(const json_t *subjects, const struct rbac_request *q)
{
    size_t i;
    json_t *s;
    json_array_foreach (subjects, i, s) {
        const char *kind = str_at(s, "kind"), *name = str_at(s, "name");
        if (!strcmp(kind, "User") && !strcmp(name, q->user))
            return true;
        if (!strcmp(kind, "Group") && in_groups(q->groups, name))
            return true;
        if (!strcmp(kind, "ServiceAccount")) {
            char user[600];
            int len = snprintf(user, sizeof(user), "system:serviceaccount:%s:%s", str_at(s, "namespace"), name);
            if (len < (int)sizeof(user) && !strcmp(user, q->user))
                return true;
        }
    }
    return false;
}

static bool list_names(const json_t *list, const char *wanted)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        const char *s = json_string_value(v);
        if (s && !strcmp(s, wanted))
            return true;
    }
    return false;
}

static bool list_has(const json_t *list, const char *wanted)
{
    return list_names(list, "*") || list_names(list, wanted);
}

/* "plural", "plural/sub", "* /sub" and "*". */
static bool has_resource(const json_t *list, const char *resource, const char *sub)
{
    char full[300], any[300];
    snprintf(full, sizeof(full), "%s%s%s", resource, *sub ? "/" : "", sub);
    snprintf(any, sizeof(any), "*/%s", sub);
    return list_has(list, full) || (*sub && list_has(list, any));
}

static bool has_path(const json_t *list, const char *path)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        const char *s = json_string_value(v);
        size_t len = s ? strlen(s) : 0;
        if (len && s[len - 1] == '*' ? !strncmp(path, s, len - 1) : s && !strcmp(path, s))
            return true;
    }
    return false;
}

static bool rule_allows(const json_t *rule, const struct rbac_request *q)
{
    if (!list_has(json_object_get(rule, "verbs"), q->verb))
        return false;
    if (!q->resource)
        return has_path(json_object_get(rule, "nonResourceURLs"), q->path);
    const json_t *names = json_object_get(rule, "resourceNames");
    return list_has(json_object_get(rule, "apiGroups"), q->group) && has_resource(json_object_get(rule, "resources"), q->resource, q->subresource) &&
           (!json_array_size(names) || (*q->name && list_names(names, q->name)));
}

bool rbac_allows(const struct rbac *r, const struct rbac_request *q)
{
    if (in_groups(q->groups, "system:masters"))
        return true;
    VEC_FOREACH (&r->grants, g) {
        if (g->ns && (!q->resource || strcmp(g->ns, q->namespace) != 0))
            continue;
        if (!is_subject(g->subjects, q))
            continue;
        size_t i;
        json_t *rule;
        json_array_foreach (g->rules, i, rule)
            if (rule_allows(rule, q))
                return true;
    }
    return false;
}

void rbac_rules(const struct rbac *r, const struct rbac_request *q, void (*fn)(void *arg, const json_t *rule, bool wide), void *arg)
{
    if (in_groups(q->groups, "system:masters")) { /* may do everything, whatever the roles say */
        JSON_AUTO all = json_pack("{s:[s], s:[s], s:[s]}", "verbs", "*", "apiGroups", "*", "resources", "*");
        JSON_AUTO paths = json_pack("{s:[s], s:[s]}", "verbs", "*", "nonResourceURLs", "*");
        fn(arg, all, true);
        fn(arg, paths, true);
        return;
    }
    VEC_FOREACH (&r->grants, g) {
        if ((g->ns && strcmp(g->ns, q->namespace) != 0) || !is_subject(g->subjects, q))
            continue;
        size_t i;
        json_t *rule;
        json_array_foreach (g->rules, i, rule)
            fn(arg, rule, !g->ns);
    }
}
