#include "policy/rbac.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"
#include "policy/rules.h"

struct role {
    const json_t *doc;
    const json_t *rules; /* what it allows; NULL: not looked at yet, or nothing */
    bool resolved;
    unsigned seen; /* by the gathering of that number */
};

/* One binding, resolved: who, where, which rules. Documents are kept by reference; they are immutable. */
struct grant {
    const json_t *binding;
    const json_t *subjects;
    const char *ns; /* NULL: everywhere */
    const json_t *rules;
};

struct rbac {
    VEC(json_t *) kept; /* documents, and lists of rules that were gathered */
    VEC(struct grant) grants;
    VEC(struct role *) cluster_roles;
    struct map *roles; /* "KIND/NAMESPACE/NAME" → struct role * */
    json_t *none;      /* the rules of a role without rules */
    unsigned gatherings;
    int64_t now_ms, until_ms;
};

static const char *str_at(const json_t *j, const char *path)
{
    return json_str_or(j, path, "");
}

/* ---- building ---- */

static void role_key(struct sbuf *b, const char *kind, const char *ns, const char *name)
{
    sbuf_addf(b, "%s/%s/%s", kind, strcmp(kind, "Role") ? "" : ns, name);
}

static struct role *find_role(const struct rbac *r, const char *kind, const char *ns, const char *name)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 4096);
    role_key(&key, kind, ns, name);
    return sbuf_ok(&key) ? map_get(r->roles, sbuf_str(&key)) : NULL;
}

static const json_t *selectors_of(const struct role *role)
{
    return json_at(role->doc, "aggregationRule.clusterRoleSelectors");
}

/* The rules of all that role selects, and of what those select, each role once: a circle ends. */
static void gather(struct rbac *r, struct role *role, json_t *rules)
{
    const json_t *selectors = selectors_of(role), *s;
    size_t i;
    role->seen = r->gatherings;
    if (!selectors) {
        rules_add(rules, json_object_get(role->doc, "rules"));
        return;
    }
    VEC_FOREACH (&r->cluster_roles, other) {
        if ((*other)->seen == r->gatherings)
            continue;
        json_array_foreach (selectors, i, s)
            if (rules_select(s, json_at((*other)->doc, "metadata.labels"))) {
                gather(r, *other, rules);
                break;
            }
    }
}

/* What a role allows: its own rules, or, whatever those are, what it gathers. */
static const json_t *rules_of(struct rbac *r, struct role *role)
{
    if (role->resolved)
        return role->rules;
    role->resolved = true;
    role->rules = json_object_get(role->doc, "rules");
    if (selectors_of(role)) {
        json_t *gathered = json_array();
        r->gatherings++;
        gather(r, role, gathered);
        *VEC_PUSH(&r->kept) = gathered; /* freed with the rest */
        role->rules = gathered;
    }
    return role->rules;
}

static void add_role(struct rbac *r, const json_t *doc)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    const char *kind = str_at(doc, "kind");
    bool wide = !strcmp(kind, "ClusterRole");
    if (!wide && strcmp(kind, "Role") != 0)
        return;
    sbuf_init(&key, 4096);
    role_key(&key, kind, str_at(doc, "metadata.namespace"), str_at(doc, "metadata.name"));
    if (!sbuf_ok(&key))
        return;
    struct role *role = XNEW(struct role);
    role->doc = doc;
    map_set(r->roles, sbuf_str(&key), role);
    if (wide)
        *VEC_PUSH(&r->cluster_roles) = role;
}

/* Whether the binding has ended; when it will, that is noted. */
static bool has_ended(struct rbac *r, const json_t *doc)
{
    const char *text = json_string_value(json_object_get(json_at(doc, "metadata.annotations"), RBAC_EXPIRES_AT));
    int64_t at;
    if (!text)
        return false;
    if (clock_parse(str_of(text), &at) < 0 || at <= r->now_ms)
        return true;
    r->until_ms = MIN(r->until_ms, at);
    return false;
}

static void add_grant(struct rbac *r, const json_t *doc)
{
    const char *kind = str_at(doc, "kind"), *ns = str_at(doc, "metadata.namespace"), *role_kind = str_at(doc, "roleRef.kind");
    bool wide = !strcmp(kind, "ClusterRoleBinding");
    /* A RoleBinding without a namespace would reach cluster-scoped resources. */
    if (!wide && (strcmp(kind, "RoleBinding") != 0 || !*ns))
        return;
    struct role *role = wide && strcmp(role_kind, "ClusterRole") ? NULL : find_role(r, role_kind, ns, str_at(doc, "roleRef.name"));
    if (role && !has_ended(r, doc))
        *VEC_PUSH(&r->grants) = (struct grant){doc, json_object_get(doc, "subjects"), wide ? NULL : ns, rules_of(r, role)};
}

int64_t rbac_good_until(const struct rbac *r)
{
    return r->until_ms;
}

struct rbac *rbac_build(const json_t *const *docs, size_t count, int64_t now_ms)
{
    struct rbac *r = XNEW(struct rbac);
    r->now_ms = now_ms;
    r->until_ms = INT64_MAX;
    r->roles = map_new(mem_free);
    r->none = json_array();
    for (size_t i = 0; i < count; i++) {
        *VEC_PUSH(&r->kept) = json_incref((json_t *)(uintptr_t)docs[i]);
        add_role(r, docs[i]);
    }
    VEC_FOREACH (&r->cluster_roles, role)
        (void)rules_of(r, *role); /* from here on nothing changes */
    for (size_t i = 0; i < count; i++)
        add_grant(r, docs[i]);
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
    VEC_DEINIT(&r->cluster_roles);
    map_free(r->roles);
    json_decref(r->none);
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

/* A service account without a namespace is one of the binding's. */
static bool is_account(const json_t *subject, const char *ns, const char *user)
{
    struct str rest = str_of(user), account_ns;
    const char *own = str_at(subject, "namespace");
    if (!*own && ns)
        own = ns;
    if (!*own || !str_starts(rest, STR(RBAC_ACCOUNT_USER)))
        return false;
    rest = str_skip(rest, strlen(RBAC_ACCOUNT_USER));
    return str_cut(&rest, ':', &account_ns) && str_eqc(account_ns, own) && str_eqc(rest, str_at(subject, "name"));
}

static bool is_subject(const struct grant *g, const char *user, const char *const *groups)
{
    size_t i;
    json_t *s;
    json_array_foreach (g->subjects, i, s) {
        const char *kind = str_at(s, "kind"), *name = str_at(s, "name");
        if ((!strcmp(kind, "User") && !strcmp(name, user)) || (!strcmp(kind, "Group") && in_groups(groups, name)) || (!strcmp(kind, "ServiceAccount") && is_account(s, g->ns, user)))
            return true;
    }
    return false;
}

static const struct grant *deciding(const struct rbac *r, const struct rbac_request *q)
{
    VEC_FOREACH (&r->grants, g) {
        if (g->ns && (!q->resource || strcmp(g->ns, q->namespace) != 0))
            continue;
        if (!is_subject(g, q->user, q->groups))
            continue;
        size_t i;
        json_t *rule;
        json_array_foreach (g->rules, i, rule)
            if (rule_allows(rule, q))
                return g;
    }
    return NULL;
}

bool rbac_allows(const struct rbac *r, const struct rbac_request *q)
{
    return in_groups(q->groups, RBAC_MASTERS) || deciding(r, q);
}

bool rbac_decide(const struct rbac *r, const struct rbac_request *q, struct rbac_rule *ret)
{
    *ret = (struct rbac_rule){"", "", "", "", ""};
    if (in_groups(q->groups, RBAC_MASTERS)) {
        ret->kind = "Group";
        ret->name = RBAC_MASTERS;
        return true;
    }
    const struct grant *g = deciding(r, q);
    if (!g)
        return false;
    *ret = (struct rbac_rule){str_at(g->binding, "kind"), g->ns ? g->ns : "", str_at(g->binding, "metadata.name"), str_at(g->binding, "roleRef.kind"), str_at(g->binding, "roleRef.name")};
    return true;
}

void rbac_each_rule(const struct rbac *r, const struct rbac_request *q, void (*fn)(void *arg, const json_t *rule, bool wide), void *arg)
{
    if (in_groups(q->groups, "system:masters")) { /* may do everything, whatever the roles say */
        JSON_AUTO all = json_pack("{s:[s], s:[s], s:[s]}", "verbs", "*", "apiGroups", "*", "resources", "*");
        JSON_AUTO paths = json_pack("{s:[s], s:[s]}", "verbs", "*", "nonResourceURLs", "*");
        fn(arg, all, true);
        fn(arg, paths, true);
        return;
    }
    VEC_FOREACH (&r->grants, g) {
        if ((g->ns && strcmp(g->ns, q->namespace) != 0) || !is_subject(g, q->user, q->groups))
            continue;
        size_t i;
        json_t *rule;
        json_array_foreach (g->rules, i, rule)
            fn(arg, rule, !g->ns);
    }
}

json_t *rbac_rules(const struct rbac *r, const char *user, const char *const *groups, const char *ns)
{
    json_t *all = json_array();
    if (in_groups(groups, RBAC_MASTERS)) {
        json_array_append_new(all, json_pack("{s:[s], s:[s], s:[s]}", "verbs", "*", "apiGroups", "*", "resources", "*"));
        json_array_append_new(all, json_pack("{s:[s], s:[s]}", "verbs", "*", "nonResourceURLs", "*"));
    }
    VEC_FOREACH (&r->grants, g) {
        size_t i;
        json_t *rule;
        if ((g->ns && strcmp(g->ns, ns) != 0) || !is_subject(g, user, groups))
            continue;
        json_array_foreach (g->rules, i, rule)
            if (!g->ns || !json_array_size(json_object_get(rule, "nonResourceURLs"))) /* a RoleBinding gives no paths */
                json_array_append(all, rule);
    }
    return all;
}

const json_t *rbac_role_rules(const struct rbac *r, const char *kind, const char *ns, const char *name)
{
    const struct role *role = find_role(r, kind, ns, name);
    if (!role)
        return NULL;
    const json_t *rules = role->resolved ? role->rules : json_object_get(role->doc, "rules");
    return json_is_array(rules) ? rules : r->none;
}
