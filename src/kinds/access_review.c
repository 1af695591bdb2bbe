/* SubjectAccessReview in its three forms, and SelfSubjectRulesReview, of authorization.k8s.io/v1: may somebody do something, and what may I do. Virtual kinds. */
#include "kinds/borrowed.h"

#define GROUP "authorization.k8s.io"

/* ---- tables ---- */

/* Selectors of a list or a watch; roles do not look at them. */
#define SELECTOR(fields) \
    static const struct field fields[] = { \
        {.name = "rawSelector", .type = FIELD_STRING, .proto = 1, .max = 4096, .help = "as it stands in a query"}, \
        {.name = "requirements", .type = FIELD_LIST, .proto = 2, .elem = FIELD_OBJECT, .max = 1000, .sub = requirement_fields, .help = "all must hold"}, \
        {0}, \
    }
static const struct field requirement_fields[] = {
    {.name = "key", .type = FIELD_STRING, .proto = 1, .flags = FIELD_REQUIRED, .help = "of a field or label"},
    {.name = "operator", .type = FIELD_STRING, .proto = 2, .flags = FIELD_REQUIRED, .help = "In, NotIn, Exists or DoesNotExist"},
    {.name = "values", .type = FIELD_LIST, .proto = 3, .elem = FIELD_STRING, .max = 1000, .help = "to compare with"},
    {0},
};
SELECTOR(field_selector_fields);
SELECTOR(label_selector_fields);
static const struct field resource_fields[] = {
    {.name = "namespace", .type = FIELD_STRING, .proto = 1, .help = "empty: the cluster, or all namespaces"},
    {.name = "verb", .type = FIELD_STRING, .proto = 2, .help = "get, list, watch, create, update, patch, delete, …; * is all"},
    {.name = "group", .type = FIELD_STRING, .proto = 3, .help = "API group; * is all"},
    {.name = "version", .type = FIELD_STRING, .proto = 4, .help = "not looked at: roles know no versions"},
    {.name = "resource", .type = FIELD_STRING, .proto = 5, .help = "plural name; * is all"},
    {.name = "subresource", .type = FIELD_STRING, .proto = 6, .help = "part of the object, such as status"},
    {.name = "name", .type = FIELD_STRING, .proto = 7, .help = "of the object; empty: all"},
    {.name = "fieldSelector", .type = FIELD_OBJECT, .proto = 8, .flags = FIELD_NULLABLE, .sub = field_selector_fields, .help = "objects that are asked for"},
    {.name = "labelSelector", .type = FIELD_OBJECT, .proto = 9, .flags = FIELD_NULLABLE, .sub = label_selector_fields, .help = "objects that are asked for"},
    {0},
};
static const struct field path_fields[] = {
    {.name = "path", .type = FIELD_STRING, .proto = 1, .help = "such as /metrics"},
    {.name = "verb", .type = FIELD_STRING, .proto = 2, .help = "method in lower case"},
    {0},
};
#define ACTION \
    {.name = "resourceAttributes", .type = FIELD_OBJECT, .proto = 1, .flags = FIELD_NULLABLE, .sub = resource_fields, .help = "what is done to a resource"}, \
    {.name = "nonResourceAttributes", .type = FIELD_OBJECT, .proto = 2, .flags = FIELD_NULLABLE, .sub = path_fields, .help = "or what is done to a path"}
static const struct field self_spec[] = {ACTION, {0}};
static const struct field subject_spec[] = {
    ACTION,
    {.name = "user", .type = FIELD_STRING, .proto = 3, .help = "whose access it is"},
    {.name = "groups", .type = FIELD_LIST, .proto = 4, .elem = FIELD_STRING, .flags = FIELD_NULLABLE, .max = 1000, .help = "of that user"},
    {.name = "extra", .type = FIELD_ANY, .flags = FIELD_NULLABLE, .help = "more about that user: lists of texts by name"},
    {.name = "uid", .type = FIELD_STRING, .proto = 6, .help = "of that user"},
    {0},
};
static const struct field access_status[] = {
    {.name = "allowed", .type = FIELD_BOOL, .flags = FIELD_REQUIRED, .help = "whether it is allowed"},
    {.name = "denied", .type = FIELD_BOOL, .help = "whether a rule forbids it; roles never do"},
    {.name = "reason", .type = FIELD_STRING, .help = "why"},
    {.name = "evaluationError", .type = FIELD_STRING, .help = "what went wrong on the way to the answer"},
    {0},
};
#define REVIEW(spec_fields, status_fields) \
    { \
        {.name = "spec", .type = FIELD_OBJECT, .proto = 2, .flags = FIELD_REQUIRED, .sub = spec_fields, .help = "the question"}, \
        {.name = "status", .type = FIELD_OBJECT, .proto = 3, .sub = status_fields, .help = "the answer"}, {0}, \
    }
static const struct field self_fields[] = REVIEW(self_spec, access_status);
static const struct field subject_fields[] = REVIEW(subject_spec, access_status);

static const struct field rules_spec[] = {
    {.name = "namespace", .type = FIELD_STRING, .proto = 1, .help = "where"},
    {0},
};
static const struct field resource_rule_fields[] = {
    {.name = "verbs", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "what may be done; * is all"},
    {.name = "apiGroups", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "\"\" is core; * is all"},
    {.name = "resources", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "plural names, \"plural/subresource\"; * is all"},
    {.name = "resourceNames", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "only objects of these names"},
    {0},
};
static const struct field path_rule_fields[] = {
    {.name = "verbs", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "what may be done; * is all"},
    {.name = "nonResourceURLs", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "paths; a trailing * matches all below"},
    {0},
};
static const struct field rules_status[] = {
    {.name = "resourceRules", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = resource_rule_fields, .help = "for resources"},
    {.name = "nonResourceRules", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = path_rule_fields, .help = "for paths"},
    {.name = "incomplete", .type = FIELD_BOOL, .flags = FIELD_REQUIRED, .help = "there may be more"},
    {.name = "evaluationError", .type = FIELD_STRING, .help = "what went wrong on the way to the answer"},
    {0},
};
static const struct field rules_fields[] = REVIEW(rules_spec, rules_status);

/* ---- rules across fields ---- */

void review_check_metadata(const json_t *obj, bool namespaced, struct field_errors *errors)
{
    const char *key;
    json_t *v;
    json_object_foreach (json_object_get(obj, "metadata"), key, v) {
        bool blank = json_is_null(v) || (json_is_integer(v) && !json_integer_value(v)) || (json_is_string(v) && !json_string_length(v)) || (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
        bool allowed = !strcmp(key, "managedFields") || (namespaced && !strcmp(key, "namespace"));
        if (!blank && !allowed) {
            field_errors_add(errors, "metadata", "FieldValueInvalid", "Invalid value: \"%s\": must be empty%s", key, namespaced ? " except for namespace" : "");
            return;
        }
    }
}

static void check_action(const json_t *obj, struct field_errors *errors)
{
    bool resource = json_at(obj, "spec.resourceAttributes"), path = json_at(obj, "spec.nonResourceAttributes");
    if (resource && path)
        field_errors_add(errors, "spec.nonResourceAttributes", "FieldValueInvalid", "Invalid value: cannot be specified in combination with resourceAttributes");
    if (!resource && !path)
        field_errors_add(errors, "spec.resourceAttributes", "FieldValueInvalid", "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified");
}

static void check_subject(const json_t *obj, struct field_errors *errors)
{
    const char *key;
    json_t *list, *v, *extra = json_at(obj, "spec.extra");
    size_t i;
    if (!*json_str_or(obj, "spec.user", "") && !json_array_size(json_at(obj, "spec.groups")))
        field_errors_add(errors, "spec.user", "FieldValueInvalid", "Invalid value: \"\": at least one of user or group must be specified");
    if (extra && !json_is_object(extra))
        field_errors_add(errors, "spec.extra", "FieldValueTypeInvalid", "Invalid value: expected lists of texts by name");
    json_object_foreach (extra, key, list) {
        bool ok = json_is_array(list);
        json_array_foreach (list, i, v)
            ok = ok && json_is_string(v);
        if (!ok)
            field_errors_add(errors, "spec.extra", "FieldValueTypeInvalid", "Invalid value: \"%.64s\": expected a list of texts", key);
    }
}

static void validate_self(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, false, errors);
    check_action(obj, errors);
}

static void validate_subject(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    validate_self(c, obj, old_obj, errors);
    check_subject(obj, errors);
}

static void validate_local(const struct kind_context *c, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, true, errors);
    check_action(obj, errors);
    check_subject(obj, errors);
    if (json_at(obj, "spec.nonResourceAttributes"))
        field_errors_add(errors, "spec.nonResourceAttributes", "FieldValueInvalid", "Invalid value: disallowed on this kind of request");
    const char *ns = json_str_or(obj, "spec.resourceAttributes.namespace", "");
    if (json_at(obj, "spec.resourceAttributes") && strcmp(ns, c->namespace) != 0)
        field_errors_add(errors, "spec.resourceAttributes.namespace", "FieldValueInvalid", "Invalid value: \"%.64s\": must match metadata.namespace", ns);
}

/* ---- answers ---- */

static struct kind_action action_of(const json_t *obj)
{
    const json_t *r = json_at(obj, "spec.resourceAttributes"), *p = json_at(obj, "spec.nonResourceAttributes");
    return (struct kind_action){.verb = json_str_or(r ? r : p, "verb", ""), .group = json_str_or(r, "group", ""), .resource = json_str_or(r, "resource", ""),
                                .subresource = json_str_or(r, "subresource", ""), .namespace = json_str_or(r, "namespace", ""), .name = json_str_or(r, "name", ""),
                                .path = r ? NULL : json_str_or(p, "path", "")};
}

static int answer_for(const struct kind_context *c, json_t *obj, const struct kind_user *u)
{
    struct kind_action a = action_of(obj);
    json_put(obj, "status.allowed", json_boolean(c->server->allows(c->server->ctx, u, &a)));
    return 0;
}

static int answer_self(const struct kind_context *c, json_t *obj, struct err *err UNUSED)
{
    return answer_for(c, obj, c->user);
}

static int answer_subject(const struct kind_context *c, json_t *obj, struct err *err UNUSED)
{
    const json_t *list = json_at(obj, "spec.groups");
    const char **groups = ARENA_ARRAY(c->arena, const char *, json_array_size(list) + 1);
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v)
        groups[i] = json_string_value(v);
    const struct kind_user u = {.name = json_str_or(obj, "spec.user", ""), .uid = json_str_or(obj, "spec.uid", ""), .groups = groups, .extra = json_at(obj, "spec.extra")};
    return answer_for(c, obj, &u);
}

struct rule_lists {
    json_t *resources, *paths;
};

static json_t *members_of(const json_t *rule, const char *const *names)
{
    json_t *ret = json_object();
    for (; *names; names++)
        if (json_array_size(json_object_get(rule, *names)))
            json_object_set(ret, *names, json_object_get(rule, *names));
    return ret;
}

static void add_rule(void *arg, const json_t *rule, bool wide)
{
    static const char *const of_resources[] = {"verbs", "apiGroups", "resources", "resourceNames", NULL}, *const of_paths[] = {"verbs", "nonResourceURLs", NULL};
    struct rule_lists *l = arg;
    if (json_array_size(json_object_get(rule, "resources")))
        json_array_append_new(l->resources, members_of(rule, of_resources));
    if (wide && json_array_size(json_object_get(rule, "nonResourceURLs")))
        json_array_append_new(l->paths, members_of(rule, of_paths));
}

static int answer_rules(const struct kind_context *c, json_t *obj, struct err *err)
{
    const char *ns = json_str_or(obj, "spec.namespace", "");
    if (!*ns)
        return err_field(err, ERR_BAD_REQUEST, "spec.namespace", "no namespace on request");
    struct rule_lists l = {json_array(), json_array()};
    c->server->rules(c->server->ctx, c->user, ns, add_rule, &l);
    json_put(obj, "status", json_pack("{s:o, s:o, s:b}", "resourceRules", l.resources, "nonResourceRules", l.paths, "incomplete", 0));
    return 0;
}

static const struct kind_ops self_ops = {.validate = validate_self, .answer = answer_self};
static const struct kind_ops subject_ops = {.validate = validate_subject, .answer = answer_subject};
static const struct kind_ops local_ops = {.validate = validate_local, .answer = answer_subject};
static const struct kind_ops rules_ops = {.answer = answer_rules};

const struct kind kind_subject_access_review = {
    .group = GROUP, .version = "v1", .name = "SubjectAccessReview", .plural = "subjectaccessreviews", .singular = "subjectaccessreview", .native = true, .fields = subject_fields,
    .ops = &subject_ops, .help = "SubjectAccessReview asks whether a user may do something.",
};
const struct kind kind_self_subject_access_review = {
    .group = GROUP, .version = "v1", .name = "SelfSubjectAccessReview", .plural = "selfsubjectaccessreviews", .singular = "selfsubjectaccessreview", .native = true,
    .fields = self_fields, .ops = &self_ops, .help = "SelfSubjectAccessReview asks whether the one who asks may do something.",
};
const struct kind kind_local_subject_access_review = {
    .group = GROUP, .version = "v1", .name = "LocalSubjectAccessReview", .plural = "localsubjectaccessreviews", .singular = "localsubjectaccessreview", .namespaced = true,
    .native = true, .fields = subject_fields, .ops = &local_ops, .help = "LocalSubjectAccessReview asks whether a user may do something in one namespace.",
};
const struct kind kind_self_subject_rules_review = {
    .group = GROUP, .version = "v1", .name = "SelfSubjectRulesReview", .plural = "selfsubjectrulesreviews", .singular = "selfsubjectrulesreview", .native = true,
    .fields = rules_fields, .ops = &rules_ops, .help = "SelfSubjectRulesReview asks what the one who asks may do in a namespace.",
};
