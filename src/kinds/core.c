/* Namespace, Secret, ConfigMap of core/v1, and Lease of coordination.k8s.io/v1. */
#include "crypto/hash.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

#define LABEL_NAME "kubernetes.io/metadata.name"
#define VALUE_KEY_MAX 253

/* ---- Namespace: a project ---- */

static const struct field namespace_spec[] = {
    {.name = "finalizers", .type = FIELD_LIST, .proto = 1, .elem = FIELD_STRING, .list_type = LIST_ATOMIC, .help = "what must be done before it goes"},
    {0},
};
static const struct field namespace_status[] = {
    {.name = "phase", .type = FIELD_ENUM, .proto = 1, .flags = FIELD_SELECTABLE, .values = "Active|Terminating", .help = "whether it is being deleted"},
    {.name = "conditions", .type = FIELD_LIST, .proto = 2, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .help = "what deletion waits for"},
    {0},
};
static const struct field namespace_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .proto = 2, .sub = namespace_spec, .help = "the namespace as wanted"},
    {.name = "status", .type = FIELD_OBJECT, .proto = 3, .sub = namespace_status, .help = "the namespace as it is"},
    {0},
};
static const struct kind_column namespace_columns[] = {
    {"STATUS", "string", "", "status.phase", 0, "Active or Terminating"},
    {0},
};
const char *namespace_tenant(const json_t *ns, const char *name)
{
    const char *label = ns ? obj_label(ns, LABEL_TENANT) : NULL;
    return label && *label ? label : name;
}

static int namespace_admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED,
                           struct err *err)
{
    const char *tenant = obj_label(obj, LABEL_TENANT), *old_tenant = old_obj ? obj_label(old_obj, LABEL_TENANT) : NULL;
    /* Set at creation or never: whoever may label a namespace could make it another tenant's. */
    if (old_obj && strcmp(tenant ? tenant : "", old_tenant ? old_tenant : "") != 0)
        return err_field(err, ERR_INVALID, "metadata.labels[" LABEL_TENANT "]",
                         "Invalid value: \"%s\": the tenant of a namespace is set at its creation and cannot be changed", tenant ? tenant : "");
    if (!old_obj)
        json_put_str(obj, "status.phase", "Active");
    json_t *meta = json_object_get(obj, "metadata"), *labels = json_object_get(meta, "labels"); /* selectors of namespaces name one by it */
    if (!labels)
        json_object_set_new(meta, "labels", json_pack("{s:s}", LABEL_NAME, obj_name(obj)));
    else if (json_is_object(labels))
        json_object_set_new(labels, LABEL_NAME, json_string(obj_name(obj)));
    /* What is inside goes first; a client that leaves the finalizer out does not mean to take it off. */
    if (!(old_obj && obj_deleting(old_obj)))
        obj_add_finalizer(obj, NAMESPACE_FINALIZER);
    return 0;
}
/* Nothing is added to a tenant that is being closed; nor, by those whom the suspension shuts out, to one that is suspended. */
static int tenant_takes_projects(const json_t *tenant, bool serves_all, struct sbuf *why, struct err *err)
{
    const char *state = tenant ? tenant_state(tenant) : "Active";
    bool closing = !strcmp(state, "Closing");
    if (!strcmp(state, "Active") || (serves_all && !closing))
        return 0;
    sbuf_addf(why, "tenant \"%s\" is %s (rule Tenant%s): ask the operator of this cloud", obj_name(tenant), closing ? "being closed" : "suspended", state);
    return err_set(err, ERR_FORBIDDEN, "not an active tenant");
}
/* Whoever may make namespaces may make them for tenants that he may `use`: all of them, to make one of nobody. */
static int namespace_authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    const char *tenant = obj_label(obj, LABEL_TENANT);
    if (old_obj)
        return 0;
    bool all = c->access->may(c, "use", SEKI_GROUP, "tenants", "", ""), own = !all && tenant && c->access->may(c, "use", SEKI_GROUP, "tenants", "", tenant);
    JSON_AUTO found = tenant && (all || own) ? c->server->get(c->server->ctx, &kind_tenant, "", tenant) : NULL;
    if (all) {
        if (!tenant || found || !strcmp(tenant, obj_name(obj)))
            return tenant_takes_projects(found, true, why, err);
        sbuf_addf(why, "label %s: there is no tenant \"%s\"; seki tenant create makes one", LABEL_TENANT, tenant);
        return err_set(err, ERR_FORBIDDEN, "no such tenant");
    }
    if (own && !tenant_owns_name(tenant, obj_name(obj))) {
        sbuf_addf(why, "projects of tenant \"%s\" are called \"%s\" or \"%s-\u2026\" (rule ProjectNames): choose such a name, or ask the operator of this cloud", tenant, tenant, tenant);
        return err_set(err, ERR_FORBIDDEN, "not a name of this tenant");
    }
    if (own)
        return tenant_takes_projects(found, false, why, err);
    if (tenant) {
        c->access->about(c, &kind_tenant, tenant);
        sbuf_addf(why, "user \"%s\" may not use tenant \"%s\" (label %s): ask its admins", c->user->name, tenant, LABEL_TENANT);
    } else {
        sbuf_addf(why, "user \"%s\" may make projects of a tenant only: say which with the label %s", c->user->name, LABEL_TENANT);
    }
    return err_set(err, ERR_FORBIDDEN, "not this tenant");
}
static const struct kind_ops namespace_ops = {.admit = namespace_admit, .authorize = namespace_authorize};
const struct kind kind_namespace = {
    .group = "", .version = "v1", .name = "Namespace", .plural = "namespaces", .singular = "namespace", .short_names = "ns", .has_status = true, .label_names = true,
    .native = true, .listed_by_tenant = true, .readers = ROLE_VIEW, .fields = namespace_fields, .columns = namespace_columns, .ops = &namespace_ops, .help = "Namespace is a project: a scope for names, limits and access.",
};

/* ---- Secret ---- */

static const struct field secret_fields[] = {
    {.name = "data", .type = FIELD_MAP, .proto = 2, .flags = FIELD_SECRET | FIELD_BASE64, .max = 1000, .help = "values in base64"},
    {.name = "stringData", .type = FIELD_MAP, .proto = 4, .flags = FIELD_SECRET, .max = 1000, .help = "values as text; written into data"},
    {.name = "type", .type = FIELD_STRING, .proto = 3, .flags = FIELD_IMMUTABLE | FIELD_SELECTABLE, .def = "\"Opaque\"", .help = "what the values mean"},
    {.name = "immutable", .type = FIELD_BOOL, .proto = 5, .help = "values may not change any more"},
    {0},
};
static const struct kind_column secret_columns[] = {
    {"TYPE", "string", "", "type", 0, "what the values mean"},
    {"DATA", "integer", "", "count:data", 0, "number of values"},
    {0},
};
/* Keys are file names where they are mounted. */
static bool is_value_key(const char *key)
{
    size_t len = strlen(key);
    return len && len <= VALUE_KEY_MAX && strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == len && strcmp(key, ".") != 0 && strncmp(key, "..", 2) != 0;
}
static void check_keys(const json_t *obj, const char *member, struct field_errors *errors)
{
    const char *key;
    json_t *value;
    json_object_foreach (json_object_get(obj, member), key, value) {
        char path[320];
        snprintf(path, sizeof(path), "%s[%.253s]", member, key);
        if (!is_value_key(key))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.253s\": a valid config key must consist of alphanumeric characters, '-', '_' or '.', at most %d, and may be neither '.' nor begin with '..'", key, VALUE_KEY_MAX);
    }
}
static void validate_values(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    check_keys(obj, "data", errors);
    check_keys(obj, "binaryData", errors);
    if (!old_obj || !json_is_true(json_object_get(old_obj, "immutable")))
        return;
    if (!json_is_true(json_object_get(obj, "immutable")))
        field_errors_add(errors, "immutable", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set");
    static const char *const values[] = {"data", "binaryData"};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        const json_t *now = json_object_get(obj, values[i]), *old = json_object_get(old_obj, values[i]);
        if (json_object_size(now) + json_object_size(old) && !json_equal(now, old))
            field_errors_add(errors, values[i], "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set");
    }
}
static int secret_admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj UNUSED, json_t **ret_once UNUSED,
                        struct err *err UNUSED)
{
    json_t *texts = json_object_get(obj, "stringData"), *data = json_object_get(obj, "data"), *text;
    const char *key;
    /* What is of the wrong type stays for validation to find. */
    if (!json_is_object(texts) || (data && !json_is_null(data) && !json_is_object(data)))
        return 0;
    json_object_foreach (texts, key, text)
        if (!json_is_string(text))
            return 0;
    if (!json_is_object(data))
        json_object_set_new(obj, "data", json_object());
    json_object_foreach (texts, key, text) {
        CLEANUP(sbuf_deinit) struct sbuf encoded = {0};
        sbuf_init(&encoded, 2 * 1024 * 1024);
        base64_encode(str_n(json_string_value(text), json_string_length(text)), &encoded);
        json_object_set_new(json_object_get(obj, "data"), key, json_string(encoded.ptr ? encoded.ptr : ""));
    }
    json_object_del(obj, "stringData");
    return 0;
}
static const struct kind_ops value_ops = {.validate = validate_values};
static const struct kind_ops secret_ops = {.validate = validate_values, .admit = secret_admit};
const struct kind kind_secret = {
    .content = true, .group = "", .version = "v1", .name = "Secret", .plural = "secrets", .singular = "secret", .namespaced = true,
    .native = true, .readers = ROLE_EDIT, .writers = ROLE_EDIT, .fields = secret_fields, .columns = secret_columns, .ops = &secret_ops, .help = "Secret holds values that only those may read who may get secrets.",
};

/* ---- ConfigMap ---- */

static const struct field config_map_fields[] = {
    {.name = "data", .type = FIELD_MAP, .proto = 2, .max = 10000, .help = "values as text"},
    {.name = "binaryData", .type = FIELD_MAP, .proto = 3, .flags = FIELD_BASE64, .max = 10000, .help = "values in base64"},
    {.name = "immutable", .type = FIELD_BOOL, .proto = 4, .help = "values may not change any more"},
    {0},
};
static const struct kind_column config_map_columns[] = {
    {"DATA", "integer", "", "count:data", 0, "number of values"},
    {0},
};
const struct kind kind_config_map = {
    .content = true, .group = "", .version = "v1", .name = "ConfigMap", .plural = "configmaps", .singular = "configmap", .short_names = "cm", .namespaced = true,
    .native = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = config_map_fields, .columns = config_map_columns, .ops = &value_ops, .help = "ConfigMap holds values that are no secrets.",
};

/* ---- Lease ---- */

static const struct field lease_spec[] = {
    {.name = "holderIdentity", .type = FIELD_STRING, .proto = 1, .help = "who holds it"},
    {.name = "leaseDurationSeconds", .type = FIELD_INT, .proto = 2, .min = 1, .max = 86400, .help = "how long after renewTime it is held"},
    {.name = "acquireTime", .type = FIELD_TIME, .proto = 3, .flags = FIELD_MICRO | FIELD_NULLABLE, .help = "when it was taken"},
    {.name = "renewTime", .type = FIELD_TIME, .proto = 4, .flags = FIELD_MICRO | FIELD_NULLABLE, .help = "when it was renewed"},
    {.name = "leaseTransitions", .type = FIELD_INT, .proto = 5, .help = "how often it changed hands"},
    {.name = "strategy", .type = FIELD_STRING, .proto = 6, .help = "how a holder is chosen"},
    {.name = "preferredHolder", .type = FIELD_STRING, .proto = 7, .help = "who should hold it"},
    {0},
};
static const struct field lease_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .proto = 2, .sub = lease_spec, .help = "the lease"},
    {0},
};
static const struct kind_column lease_columns[] = {
    {"HOLDER", "string", "", "spec.holderIdentity", 0, "who holds it"},
    {0},
};
const struct kind kind_lease = {
    .group = "coordination.k8s.io", .version = "v1", .name = "Lease", .plural = "leases", .singular = "lease", .namespaced = true,
    .native = true, .uncounted = true, .most = 10000, .unaudited = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = lease_fields, .columns = lease_columns, .help = "Lease is held by one of several at a time.",
};
