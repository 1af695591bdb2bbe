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

const struct kind kind_role = {
    .group = RBAC, .version = "v1", .name = "Role", .plural = "roles", .singular = "role", .namespaced = true,
    .path_names = true, .native = true, .fields = role_fields, .columns = role_columns, .help = "Role allows verbs on resources of one namespace.",
};
const struct kind kind_cluster_role = {
    .group = RBAC, .version = "v1", .name = "ClusterRole", .plural = "clusterroles", .singular = "clusterrole",
    .path_names = true, .native = true, .fields = cluster_role_fields, .columns = role_columns, .help = "ClusterRole allows verbs on resources everywhere, or where a RoleBinding binds it.",
};
const struct kind kind_role_binding = {
    .group = RBAC, .version = "v1", .name = "RoleBinding", .plural = "rolebindings", .singular = "rolebinding", .namespaced = true,
    .path_names = true, .native = true, .fields = binding_fields, .columns = binding_columns, .help = "RoleBinding gives a role to subjects in its namespace.",
};
const struct kind kind_cluster_role_binding = {
    .group = RBAC, .version = "v1", .name = "ClusterRoleBinding", .plural = "clusterrolebindings", .singular = "clusterrolebinding",
    .path_names = true, .native = true, .fields = binding_fields, .columns = binding_columns, .help = "ClusterRoleBinding gives a ClusterRole to subjects everywhere.",
};
