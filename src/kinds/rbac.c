/* Role, ClusterRole, RoleBinding, ClusterRoleBinding of rbac.authorization.k8s.io/v1. */
#include "kinds/borrowed.h"

#define RBAC "rbac.authorization.k8s.io"

static const struct field rule_fields[] = {
    {.name = "verbs", .type = FIELD_LIST, .proto = 1, .elem = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "get, list, watch, create, update, patch, delete, deletecollection, use; * is all"},
    {.name = "apiGroups", .type = FIELD_LIST, .proto = 2, .elem = FIELD_STRING, .help = "\"\" is core; * is all"},
    {.name = "resources", .type = FIELD_LIST, .proto = 3, .elem = FIELD_STRING, .help = "plural names, \"plural/subresource\"; * is all"},
    {.name = "resourceNames", .type = FIELD_LIST, .proto = 4, .elem = FIELD_STRING, .help = "only objects of these names"},
    {.name = "nonResourceURLs", .type = FIELD_LIST, .proto = 5, .elem = FIELD_STRING, .help = "paths such as /metrics; a trailing * matches all below"},
    {0},
};
static const struct field selector_fields[] = {
    {.name = "matchLabels", .type = FIELD_MAP, .proto = 1, .help = "labels that must be equal"},
    {.name = "matchExpressions", .type = FIELD_ANY, .help = "label expressions"},
    {0},
};
static const struct field aggregation_fields[] = {
    {.name = "clusterRoleSelectors", .type = FIELD_LIST, .proto = 1, .elem = FIELD_OBJECT, .sub = selector_fields, .help = "ClusterRoles whose rules are joined"},
    {0},
};
static const struct field role_fields[] = {
    {.name = "rules", .type = FIELD_LIST, .proto = 2, .elem = FIELD_OBJECT, .flags = FIELD_NULLABLE, .sub = rule_fields, .max = 1000, .help = "what is allowed"},
    {0},
};
static const struct field cluster_role_fields[] = {
    {.name = "rules", .type = FIELD_LIST, .proto = 2, .elem = FIELD_OBJECT, .flags = FIELD_NULLABLE, .sub = rule_fields, .max = 1000, .help = "what is allowed"},
    {.name = "aggregationRule", .type = FIELD_OBJECT, .proto = 3, .sub = aggregation_fields, .help = "rules are joined from other ClusterRoles"},
    {0},
};
static const struct field subject_fields[] = {
    {.name = "kind", .type = FIELD_ENUM, .proto = 1, .flags = FIELD_REQUIRED, .values = "User|Group|ServiceAccount", .help = "what is named"},
    {.name = "name", .type = FIELD_STRING, .proto = 3, .flags = FIELD_REQUIRED, .min = 1, .max = 1024, .help = "its name"},
    {.name = "apiGroup", .type = FIELD_STRING, .proto = 2, .help = "group of the kind"},
    {.name = "namespace", .type = FIELD_STRING, .proto = 4, .help = "of a ServiceAccount"},
    {0},
};
static const struct field role_ref_fields[] = {
    {.name = "apiGroup", .type = FIELD_STRING, .proto = 1, .help = RBAC},
    {.name = "kind", .type = FIELD_ENUM, .proto = 2, .flags = FIELD_REQUIRED, .values = "Role|ClusterRole", .help = "what is bound"},
    {.name = "name", .type = FIELD_STRING, .proto = 3, .flags = FIELD_REQUIRED, .min = 1, .max = 253, .help = "its name"},
    {0},
};
static const struct field binding_fields[] = {
    {.name = "subjects", .type = FIELD_LIST, .proto = 2, .elem = FIELD_OBJECT, .flags = FIELD_NULLABLE, .sub = subject_fields, .max = 1000, .help = "who gets the role"},
    {.name = "roleRef", .type = FIELD_OBJECT, .proto = 3, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_ATOMIC, .sub = role_ref_fields, .help = "the role"},
    {0},
};
static const struct kind_column role_columns[] = {
    {"CREATED AT", "string", "", "metadata.creationTimestamp", 0, "when it was made"},
    {0},
};
static const struct kind_column binding_columns[] = {
    {"ROLE", "string", "", "roleRef.name", 0, "the role that is bound"},
    {"AGE", "date", "", "metadata.creationTimestamp", 0, "time since it was made"},
    {0},
};

/* ---- shape ---- */

static void require(const json_t *rule, size_t i, const char *member, const char *why, struct field_errors *errors)
{
    char path[64];
    snprintf(path, sizeof(path), "rules[%zu].%s", i, member);
    if (!json_array_size(json_object_get(rule, member)))
        field_errors_add(errors, path, "FieldValueRequired", "Required value: %s", why);
}

static void check_rule(const json_t *rule, size_t i, bool namespaced, struct field_errors *errors)
{
    char path[64];
    snprintf(path, sizeof(path), "rules[%zu].nonResourceURLs", i);
    require(rule, i, "verbs", "verbs must contain at least one value", errors);
    if (!json_array_size(json_object_get(rule, "nonResourceURLs"))) {
        require(rule, i, "apiGroups", "resource rules must supply at least one api group", errors);
        require(rule, i, "resources", "resource rules must supply at least one resource", errors);
        return;
    }
    if (namespaced)
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: namespaced rules cannot apply to non-resource URLs");
    if (json_array_size(json_object_get(rule, "apiGroups")) || json_array_size(json_object_get(rule, "resources")) || json_array_size(json_object_get(rule, "resourceNames")))
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: rules cannot apply to both regular resources and non-resource URLs");
}

static void check_rules(const json_t *obj, bool namespaced, struct field_errors *errors)
{
    size_t i;
    json_t *rule;
    json_array_foreach (json_object_get(obj, "rules"), i, rule)
        check_rule(rule, i, namespaced, errors);
}

static void validate_role(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    check_rules(obj, true, errors);
}

static void check_expression(const json_t *e, const char *path, struct field_errors *errors)
{
    const char *op = json_str_or(e, "operator", "");
    bool lists = !strcmp(op, "In") || !strcmp(op, "NotIn");
    if (!*json_str_or(e, "key", ""))
        field_errors_add(errors, path, "FieldValueRequired", "Required value: key must be a label's");
    if (!lists && strcmp(op, "Exists") != 0 && strcmp(op, "DoesNotExist") != 0)
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.64s\": not a valid selector operator", op);
    else if (lists && !json_array_size(json_object_get(e, "values")))
        field_errors_add(errors, path, "FieldValueRequired", "Required value: must be specified when `operator` is 'In' or 'NotIn'");
    else if (!lists && json_array_size(json_object_get(e, "values")))
        field_errors_add(errors, path, "FieldValueForbidden", "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
}

static void validate_cluster_role(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    const json_t *aggregation = json_object_get(obj, "aggregationRule"), *selectors = json_object_get(aggregation, "clusterRoleSelectors");
    size_t i, k;
    json_t *s, *e;
    check_rules(obj, false, errors);
    if (json_is_object(aggregation) && !json_array_size(selectors))
        field_errors_add(errors, "aggregationRule.clusterRoleSelectors", "FieldValueRequired", "Required value: at least one clusterRoleSelector required if aggregationRule is non-nil");
    json_array_foreach (selectors, i, s)
        json_array_foreach (json_object_get(s, "matchExpressions"), k, e) {
            char path[96];
            snprintf(path, sizeof(path), "aggregationRule.clusterRoleSelectors[%zu].matchExpressions[%zu]", i, k);
            check_expression(e, path, errors);
        }
}

static bool is_account(const json_t *subject)
{
    return !strcmp(json_str_or(subject, "kind", ""), "ServiceAccount");
}

static void check_subject(const json_t *subject, size_t i, bool namespaced, struct field_errors *errors)
{
    const char *group = json_str_or(subject, "apiGroup", ""), *wanted = is_account(subject) ? "" : RBAC;
    char path[64];
    snprintf(path, sizeof(path), "subjects[%zu].apiGroup", i);
    if (strcmp(group, wanted) != 0)
        field_errors_add(errors, path, "FieldValueNotSupported", "Unsupported value: \"%.128s\": supported values: \"%s\"", group, wanted);
    if (!is_account(subject))
        return;
    snprintf(path, sizeof(path), "subjects[%zu].name", i);
    if (!field_dns_name(str_of(json_str_or(subject, "name", ""))))
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.253s\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
                         json_str_or(subject, "name", ""));
    snprintf(path, sizeof(path), "subjects[%zu].namespace", i);
    if (!namespaced && !*json_str_or(subject, "namespace", ""))
        field_errors_add(errors, path, "FieldValueRequired", "Required value");
}

static void check_binding(const json_t *obj, bool namespaced, struct field_errors *errors)
{
    const char *group = json_str_or(obj, "roleRef.apiGroup", ""), *kind = json_str_or(obj, "roleRef.kind", "");
    size_t i;
    json_t *subject;
    if (*group && strcmp(group, RBAC) != 0)
        field_errors_add(errors, "roleRef.apiGroup", "FieldValueNotSupported", "Unsupported value: \"%.128s\": supported values: \"" RBAC "\"", group);
    if (!namespaced && strcmp(kind, "ClusterRole") != 0)
        field_errors_add(errors, "roleRef.kind", "FieldValueNotSupported", "Unsupported value: \"%s\": supported values: \"ClusterRole\"", kind);
    json_array_foreach (json_object_get(obj, "subjects"), i, subject)
        check_subject(subject, i, namespaced, errors);
}

static void validate_binding(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    check_binding(obj, true, errors);
}

static void validate_cluster_binding(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    check_binding(obj, false, errors);
}

static void default_group(json_t *of)
{
    const json_t *group = json_object_get(of, "apiGroup");
    if (json_is_object(of) && (!group || json_is_null(group) || (json_is_string(group) && !json_string_length(group))))
        json_object_set_new(of, "apiGroup", json_string(RBAC));
}

/* Groups that were left out are those of the only kinds that there are. */
static int binding_admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    size_t i;
    json_t *subject;
    if (!old_obj || json_at(old_obj, "roleRef.apiGroup")) /* what was stored without one may not change */
        default_group(json_object_get(obj, "roleRef"));
    json_array_foreach (json_object_get(obj, "subjects"), i, subject)
        if (json_is_object(subject) && !is_account(subject))
            default_group(subject);
    return 0;
}

/* ---- who may grant what: nobody gives what he has not, unless he may escalate, or bind that role ---- */

/* Finalizers, owners and what goes with them may be changed by those who collect garbage. */
static bool grants_the_same(const json_t *obj, const json_t *old_obj)
{
    static const char *const members[] = {"finalizers", "ownerReferences", "managedFields", "resourceVersion", "generation"};
    if (!old_obj)
        return false;
    JSON_AUTO a = json_copy((json_t *)(uintptr_t)obj);
    JSON_AUTO b = json_copy((json_t *)(uintptr_t)old_obj);
    JSON_AUTO a_meta = json_copy(json_object_get(a, "metadata"));
    JSON_AUTO b_meta = json_copy(json_object_get(b, "metadata"));
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        json_object_del(a_meta, members[i]);
        json_object_del(b_meta, members[i]);
    }
    json_object_set(a, "metadata", a_meta);
    json_object_set(b, "metadata", b_meta);
    return json_equal(a, b);
}

static bool may_escalate(const struct kind_context *c, const char *plural, const json_t *old_obj)
{
    return c->access->may(c, "escalate", RBAC, plural, c->namespace, old_obj ? obj_name(old_obj) : "");
}

static int hold(const struct kind_context *c, const json_t *rules, struct sbuf *why, struct err *err)
{
    return c->access->holds(c, rules, why) ? 0 : err_set(err, ERR_FORBIDDEN, "these rules are not the writer's to give");
}

static int authorize_role(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    if (grants_the_same(obj, old_obj) || may_escalate(c, "roles", old_obj))
        return 0;
    return hold(c, json_object_get(obj, "rules"), why, err);
}

/* Who gathers rules gets whatever anybody labels later. */
static int authorize_cluster_role(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    if (grants_the_same(obj, old_obj) || may_escalate(c, "clusterroles", old_obj))
        return 0;
    int rc = hold(c, json_object_get(obj, "rules"), why, err);
    if (rc < 0 || (!json_at(obj, "aggregationRule") && !json_at(old_obj, "aggregationRule")))
        return rc;
    JSON_AUTO everything = json_pack("[{s:[s], s:[s], s:[s]}, {s:[s], s:[s]}]", "verbs", "*", "apiGroups", "*", "resources", "*", "verbs", "*", "nonResourceURLs", "*");
    rc = hold(c, everything, why, err);
    if (rc < 0) {
        sbuf_reset(why);
        sbuf_addc(why, "must have cluster-admin privileges to use an aggregationRule");
    }
    return rc;
}

static int authorize_binding(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    const char *kind = json_str_or(obj, "roleRef.kind", ""), *name = json_str_or(obj, "roleRef.name", "");
    const char *plural = strcmp(kind, "Role") ? "clusterroles" : "roles";
    if (grants_the_same(obj, old_obj) || c->access->may(c, "bind", RBAC, plural, c->namespace, name))
        return 0;
    const json_t *rules = c->access->role_rules(c, kind, name);
    if (!rules)
        return err_set(err, ERR_NOT_FOUND, "%s." RBAC " \"%.253s\" not found", plural, name);
    return hold(c, rules, why, err);
}

static const struct kind_ops role_ops = {.validate = validate_role, .authorize = authorize_role};
static const struct kind_ops cluster_role_ops = {.validate = validate_cluster_role, .authorize = authorize_cluster_role};
static const struct kind_ops binding_ops = {.validate = validate_binding, .admit = binding_admit, .authorize = authorize_binding};
static const struct kind_ops cluster_binding_ops = {.validate = validate_cluster_binding, .admit = binding_admit, .authorize = authorize_binding};

const struct kind kind_role = {
    .group = RBAC, .version = "v1", .name = "Role", .plural = "roles", .singular = "role", .namespaced = true,
    .path_names = true, .native = true, .readers = ROLE_ADMIN, .writers = ROLE_ADMIN, .fields = role_fields, .columns = role_columns, .ops = &role_ops, .help = "Role allows verbs on resources of one namespace.",
};
const struct kind kind_cluster_role = {
    .group = RBAC, .version = "v1", .name = "ClusterRole", .plural = "clusterroles", .singular = "clusterrole",
    .path_names = true, .native = true, .fields = cluster_role_fields, .columns = role_columns, .ops = &cluster_role_ops, .help = "ClusterRole allows verbs on resources everywhere, or where a RoleBinding binds it.",
};
const struct kind kind_role_binding = {
    .group = RBAC, .version = "v1", .name = "RoleBinding", .plural = "rolebindings", .singular = "rolebinding", .namespaced = true,
    .path_names = true, .native = true, .readers = ROLE_ADMIN, .writers = ROLE_ADMIN, .fields = binding_fields, .columns = binding_columns, .ops = &binding_ops, .help = "RoleBinding gives a role to subjects in its namespace.",
};
const struct kind kind_cluster_role_binding = {
    .group = RBAC, .version = "v1", .name = "ClusterRoleBinding", .plural = "clusterrolebindings", .singular = "clusterrolebinding",
    .path_names = true, .native = true, .fields = binding_fields, .columns = binding_columns, .ops = &cluster_binding_ops, .help = "ClusterRoleBinding gives a ClusterRole to subjects everywhere.",
};
