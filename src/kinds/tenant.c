#include "kinds/tenancy.h"
#include "kinds/borrowed.h"
#include "kinds/rate_limits.h"
#include "kinds/residency.h"

#define RBAC "rbac.authorization.k8s.io"

/* ---- rows ---- */

static const struct field contact_fields[] = {
    {.name = "role", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .values = "Billing|Technical|Security|DataProtection", .help = "what this person is asked about"},
    {.name = "name", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 128, .help = "the person's name"},
    {.name = "email", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 3, .max = 254, .help = "where to write"},
    {0},
};
static const struct field auditor_fields[] = {
    {.name = "kind", .type = FIELD_ENUM, .offset = FIELD_NO_MEMBER, .values = "User|Group|ServiceAccount", .def = "\"User\"", .help = "what the name is of"},
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = 256, .help = "as kubectl auth whoami shows it; of an account, the account's"},
    {.name = "namespace", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 63, .help = "of a ServiceAccount: its project"},
    {0},
};
static const struct field limits_fields[] = {
    {.name = "projects", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = 1, .max = 10000, .help = "how many projects it may have; absent: any number"},
    {.name = "objects", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .min = LIMIT_OBJECTS_MIN, .max = 100000000, .help = "how many objects each of its projects may have, of all kinds together but Events, Leases, UsageReports and SLOReports; absent: what this cloud allows everybody"},
    {.name = "counts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = limit_count_fields, .list_type = LIST_MAP, .list_key = "resource", .offset = FIELD_NO_MEMBER, .max = LIMIT_COUNTS_MAX, .help = "how many objects of single kinds each of its projects may have"},
    RATE_LIMIT_ROWS(FIELD_NO_MEMBER),
    {0},
};
static const struct field spec_fields[] = {
    {.name = "displayName", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 128, .help = "the company's name, for people"},
    {.name = "billingAccount", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = 128, .help = "the account in the operator's billing system"},
    {.name = "contacts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = contact_fields, .list_type = LIST_ATOMIC, .offset = FIELD_NO_MEMBER, .max = 32, .help = "whom to ask"},
    {.name = "admins", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 64, .help = "users who may do everything in the tenant, beside the members of group seki:tenant:NAME:admins"},
    {.name = "auditors", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = auditor_fields, .list_type = LIST_ATOMIC, .offset = FIELD_NO_MEMBER, .max = 64, .help = "who may read the tenant's part of the audit ledger, and nothing else"},
    {.name = "limits", .type = FIELD_OBJECT, .sub = limits_fields, .offset = FIELD_NO_MEMBER, .help = "how much it may have; a Limit in a project narrows it further"},
    {.name = "residency", .type = FIELD_OBJECT, .sub = residency_fields, .offset = FIELD_NO_MEMBER, .help = "where requests of its projects may be worked on; a ResidencyPolicy in a project narrows it further"},
    {.name = "state", .type = FIELD_ENUM, .offset = FIELD_NO_MEMBER, .values = "Active|Suspended|Closing", .def = "\"Active\"", .help = "Suspended: new requests are refused, nothing is lost. Closing: all its projects are deleted, for good"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "projects", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .max = 10000, .help = "its namespaces"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "the generation that this status is of"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "Ready; Closed"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = spec_fields, .def = "{}", .help = "the tenant as wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "the tenant as it is"},
    {0},
};
static const struct kind_column columns[] = {
    {"STATE", "string", "", "spec.state", 0, "Active, Suspended or Closing"},
    {"PROJECTS", "integer", "", "count:status.projects", 0, "how many namespaces it has"},
    {"READY", "string", "", "reason:Ready", 0, "whether it can be used, or why not"},
    {"COMPANY", "string", "", "spec.displayName", 1, "the company's name"},
    {"BILLING", "string", "", "spec.billingAccount", 1, "the account in the operator's billing system"},
    {0},
};

/* ---- what belongs to a tenant ---- */

const char *tenant_state(const json_t *tenant)
{
    return json_str_or(tenant, "spec.state", "Active");
}

bool tenant_owns_name(const char *tenant, const char *name)
{
    size_t len = strlen(tenant);
    return !strncmp(name, tenant, len) && (!name[len] || name[len] == '-');
}

static json_t *subject(const char *kind, const char *name)
{
    return json_pack("{s:s, s:s, s:s}", "kind", kind, "apiGroup", RBAC, "name", name);
}

json_t *tenant_admins(const json_t *tenant)
{
    char group[512];
    json_t *list = json_array(), *user;
    size_t i;
    snprintf(group, sizeof(group), TENANT_GROUP "%s:admins", obj_name(tenant));
    json_array_append_new(list, subject("Group", group));
    json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "kind", "ServiceAccount", "name", TENANT_ADMIN, "namespace", obj_name(tenant)));
    json_array_foreach (json_at(tenant, "spec.admins"), i, user)
        json_array_append_new(list, subject("User", json_string_value(user)));
    return list;
}

json_t *tenant_auditors(const json_t *tenant)
{
    json_t *list = json_array(), *who;
    size_t i;
    json_array_foreach (json_at(tenant, "spec.auditors"), i, who) {
        const char *kind = json_str_or(who, "kind", "User"), *name = json_str_or(who, "name", "");
        bool account = !strcmp(kind, "ServiceAccount");
        json_array_append_new(list, account ? json_pack("{s:s, s:s, s:s}", "kind", kind, "name", name, "namespace", json_str_or(who, "namespace", "")) : subject(kind, name));
    }
    return list;
}

static json_t *labelled(const struct kind *k, const char *ns, const char *name, const json_t *tenant)
{
    json_t *obj = obj_new(k, ns, name);
    json_object_set_new(json_object_get(obj, "metadata"), "labels", json_pack("{s:s}", LABEL_TENANT, obj_name(tenant)));
    return obj;
}

static void bind(json_t *binding, const json_t *tenant, const char *role)
{
    json_object_set_new(binding, "subjects", tenant_admins(tenant));
    json_object_set_new(binding, "roleRef", json_pack("{s:s, s:s, s:s}", "apiGroup", RBAC, "kind", "ClusterRole", "name", role));
}

json_t *tenant_binding(const json_t *tenant, const char *project, const char *name, const char *role)
{
    json_t *b = labelled(&kind_role_binding, project, name, tenant);
    bind(b, tenant, role);
    return b;
}

/* What goes with the tenant when it goes. */
static void own(json_t *obj, const json_t *tenant)
{
    obj_add_owner(obj, tenant);
}

static json_t *texts(const char *list)
{
    json_t *ret = json_array();
    struct str rest = str_of(list), word;
    while (str_cut(&rest, ' ', &word))
        json_array_append_new(ret, json_stringn(word.ptr, word.len));
    return ret;
}

json_t *tenant_role(const json_t *tenant)
{
    /* named: of this tenant alone. For objects that are made, who may is judged by what is in them (authorize() of their kinds), as they have no name yet. */
    static const struct {
        const char *group, *resource, *verbs;
        bool named;
    } rights[] = {
        {SEKI_GROUP, "tenants", "get list watch use update patch " TENANT_ADMINISTER, true},
        {SEKI_GROUP, "tenants/audit", "get", true},
        {"", "namespaces", "create", false},
        {"", "namespaces", "list watch", true},
        {SEKI_GROUP, "keyrotations", "create", false},
        {SEKI_GROUP, "keyrotations", "get rotate", true},
        {SEKI_GROUP, "userrevocations", "create", false},
        {SEKI_GROUP, "userrevocations", "get list watch update patch delete revoke", true},
    };
    char name[512];
    snprintf(name, sizeof(name), TENANT_GROUP "%s", obj_name(tenant));
    json_t *role = labelled(&kind_cluster_role, "", name, tenant), *rules = json_array();
    for (size_t i = 0; i < ARRAY_LEN(rights); i++) {
        json_t *rule = json_pack("{s:[s], s:[s], s:o}", "apiGroups", rights[i].group, "resources", rights[i].resource, "verbs", texts(rights[i].verbs));
        if (rights[i].named)
            json_object_set_new(rule, "resourceNames", json_pack("[s]", obj_name(tenant)));
        json_array_append_new(rules, rule);
    }
    json_object_set_new(role, "rules", rules);
    own(role, tenant);
    return role;
}

json_t *tenant_audit_role(const json_t *tenant)
{
    char name[512];
    snprintf(name, sizeof(name), TENANT_GROUP "%s" TENANT_AUDITOR, obj_name(tenant));
    json_t *role = labelled(&kind_cluster_role, "", name, tenant);
    json_object_set_new(role, "rules", json_pack("[{s:[s], s:[s], s:[s], s:[s]}]", "apiGroups", SEKI_GROUP, "resources", "tenants/audit", "verbs", "get", "resourceNames", obj_name(tenant)));
    own(role, tenant);
    return role;
}

json_t *tenant_wide_binding(const json_t *tenant, const char *role, json_t *subjects)
{
    json_t *b = labelled(&kind_cluster_role_binding, "", role, tenant);
    json_object_set_new(b, "subjects", subjects);
    json_object_set_new(b, "roleRef", json_pack("{s:s, s:s, s:s}", "apiGroup", RBAC, "kind", "ClusterRole", "name", role));
    own(b, tenant);
    return b;
}

json_t *tenant_limit(const json_t *tenant, const char *project)
{
    static const struct {
        const char *resource;
        int max;
    } sane[] = {{"apikeys.seki.cloud", 1000}, {"clusters.seki.cloud", 10}, {"configmaps", 1000}, {"modelendpoints.seki.cloud", 100}, {"models.seki.cloud", 100}, {"secrets", 1000}, {"serviceaccounts", 100}};
    json_t *limit = labelled(&kind_limit, project, LIMIT_DEFAULT, tenant), *spec = json_object(), *counts = json_array(), *c;
    const json_t *own = json_at(tenant, "spec.limits.counts");
    size_t i;
    for (size_t n = 0; n < ARRAY_LEN(sane); n++) {
        bool said = false;
        json_array_foreach (own, i, c)
            said |= !strcmp(json_str_or(c, "resource", ""), sane[n].resource);
        if (!said)
            json_array_append_new(counts, json_pack("{s:s, s:i}", "resource", sane[n].resource, "max", sane[n].max));
    }
    json_array_extend(counts, (json_t *)(uintptr_t)own);
    while (json_array_size(counts) > LIMIT_COUNTS_MAX)
        json_array_remove(counts, 0); /* of the tenant's own each holds anyway */
    if (json_at(tenant, "spec.limits.objects"))
        json_object_set(spec, "objects", json_at(tenant, "spec.limits.objects"));
    json_object_set_new(spec, "counts", counts);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 64 * 1024);
    json_write(spec, &text);
    json_object_set_new(json_object_get(limit, "metadata"), "annotations", json_pack("{s:s%}", LIMIT_MADE_AS, text.ptr, text.len));
    json_object_set_new(limit, "spec", spec);
    return limit;
}

static int companions(const struct kind_context *c, const json_t *obj, json_t *ret, struct err *err UNUSED)
{
    const char *name = obj_name(obj), *role = arena_printf(c->arena, TENANT_GROUP "%s", name);
    json_array_append_new(ret, labelled(&kind_namespace, "", name, obj));
    json_array_append_new(ret, labelled(&kind_service_account, name, TENANT_ADMIN, obj));
    json_array_append_new(ret, tenant_role(obj));
    json_array_append_new(ret, tenant_wide_binding(obj, role, tenant_admins(obj)));
    json_array_append_new(ret, tenant_audit_role(obj));
    json_array_append_new(ret, tenant_wide_binding(obj, arena_printf(c->arena, "%s" TENANT_AUDITOR, role), tenant_auditors(obj)));
    json_array_append_new(ret, tenant_binding(obj, name, TENANT_BINDING, "admin"));
    json_array_append_new(ret, tenant_binding(obj, name, TENANT_OWNERS, TENANT_OWNER));
    json_array_append_new(ret, tenant_limit(obj, name));
    return 0;
}

/* ---- ops ---- */

static int admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err)
{
    json_t *meta = json_object_get(obj, "metadata"), *labels = json_object_get(meta, "labels");
    if (!labels)
        json_object_set_new(meta, "labels", json_pack("{s:s}", LABEL_TENANT, obj_name(obj)));
    else if (json_is_object(labels))
        json_object_set_new(labels, LABEL_TENANT, json_string(obj_name(obj)));
    if (!old_obj)
        obj_add_finalizer(obj, TENANT_FINALIZER);
    if (old_obj && !strcmp(tenant_state(old_obj), "Closing") && strcmp(tenant_state(obj), "Closing") != 0)
        return err_field(err, ERR_INVALID, "spec.state", "Invalid value: \"%s\": a tenant that is being closed cannot be opened again; what it had is being deleted", tenant_state(obj));
    return 0;
}

static void validate_auditors(const json_t *tenant, struct field_errors *errors)
{
    size_t i;
    json_t *who;
    json_array_foreach (json_at(tenant, "spec.auditors"), i, who) {
        char at[64];
        const char *name = json_str_or(who, "name", ""), *ns = json_str_or(who, "namespace", "");
        bool account = !strcmp(json_str_or(who, "kind", "User"), "ServiceAccount");
        snprintf(at, sizeof(at), "spec.auditors[%zu]", i);
        if (!strncmp(name, "system:", 7) || !strncmp(name, "seki:", 5))
            field_errors_add(errors, at, "FieldValueInvalid", "Invalid value: \"%s\": names that begin with system: or seki: are Seki's own", name);
        else if (account != (*ns != 0))
            field_errors_add(errors, at, "FieldValueInvalid", "Invalid value: \"%s\": %s", name, account ? "expected the project of the ServiceAccount as namespace" : "only a ServiceAccount has a namespace");
    }
}

/* Names of projects are one space over the cloud, and "acme-lab" is for the admins of "acme" to take: were it a tenant's, too, each of the two would hear what the other has. */
static void validate_name(const struct kind_context *c, const char *name, struct field_errors *errors)
{
    static const char rule[] = "Invalid value: \"%s\": there is tenant \"%s\", and projects of both could have the same names: no tenant's name may begin with another's and \"-\" (rule TenantNames)";
    const struct kind_server *s = c->server;
    const char *other = NULL;
    for (const char *dash = strchr(name, '-'); s && !other && dash; dash = strchr(dash + 1, '-')) {
        const char *outer = arena_strndup(c->arena, str_n(name, (size_t)(dash - name)));
        JSON_AUTO tenant = s->get ? s->get(s->ctx, &kind_tenant, "", outer) : NULL;
        other = tenant ? outer : NULL;
    }
    if (!other && s && s->first)
        other = s->first(s->ctx, c->arena, &kind_tenant, arena_printf(c->arena, "%s-", name));
    if (other)
        field_errors_add(errors, "metadata.name", "FieldValueInvalid", rule, name, other);
}

static void validate(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    size_t i;
    json_t *user;
    const char *name = obj_name(obj);
    static const char *const taken[] = {"default", "kube-system"};
    if (json_is_object(json_at(obj, "spec.residency")))
        residency_validate(json_at(obj, "spec.residency"), "spec.residency", errors);
    for (size_t n = 0; !old_obj && n < ARRAY_LEN(taken); n++)
        if (!strcmp(name, taken[n]))
            field_errors_add(errors, "metadata.name", "FieldValueInvalid", "Invalid value: \"%s\": a project that Seki itself has", name);
    if (!old_obj)
        validate_name(c, name, errors);
    limit_check_resources(json_at(obj, "spec.limits"), "spec.limits", errors);
    budget_check(json_at(obj, "spec.limits"), "spec.limits", errors);
    validate_auditors(obj, errors);
    json_array_foreach (json_at(obj, "spec.admins"), i, user) {
        const char *u = json_string_value(user);
        if (!*u || !strncmp(u, "system:", 7))
            field_errors_add(errors, "spec.admins", "FieldValueInvalid", "Invalid value: \"%s\": expected the name of a user; names that begin with system: are Seki's own", u);
    }
}

static bool has_admin(const json_t *tenant, const char *user)
{
    size_t i;
    json_t *u;
    json_array_foreach (json_at(tenant, "spec.admins"), i, u)
        if (!strcmp(json_string_value(u), user))
            return true;
    return false;
}

/* An admin reads all that is in the tenant. So who runs the cloud names the first ones of a new tenant, but not himself, and nobody of one that is there: it may hold something. */
static int appoint(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    size_t i;
    json_t *user;
    json_array_foreach (json_at(obj, "spec.admins"), i, user) {
        const char *u = json_string_value(user);
        if (!old_obj && !strcmp(u, c->user->name))
            sbuf_addf(why, "user \"%s\" cannot make himself an admin of tenant \"%s\" (spec.admins)", u, obj_name(obj));
        else if (old_obj && !has_admin(old_obj, u))
            sbuf_addf(why, "user \"%s\" may not make \"%s\" an admin of tenant \"%s\" (spec.admins), who could read what is in it: ask an admin of the tenant, or somebody with cluster-admin", c->user->name,
                      u, obj_name(obj));
        else
            continue;
        return err_set(err, ERR_FORBIDDEN, "not an operator's to give");
    }
    return 0;
}

/* The tenant but for what is its admins' own. */
static json_t *the_operators(const json_t *tenant)
{
    static const char *const kept[] = {"labels", "annotations", "finalizers", "ownerReferences"};
    json_t *ret = json_pack("{s:o}", "spec", json_deep_copy(json_object_get(tenant, "spec"))), *v;
    json_remove(ret, "spec.admins");
    json_remove(ret, "spec.auditors");
    json_remove(ret, "spec.contacts");
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if ((v = json_object_get(json_object_get(tenant, "metadata"), kept[i])) && (json_array_size(v) || json_object_size(v)))
            json_object_set(ret, kept[i], v);
    return ret;
}

/* Its admins say who they are and whom to ask, and nothing else; and do not leave it without any. */
static int administer(const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    JSON_AUTO was = the_operators(old_obj);
    JSON_AUTO is = the_operators(obj);
    const char *state = tenant_state(old_obj);
    if (strcmp(state, "Active") != 0)
        sbuf_addf(why, "tenant \"%s\" is %s (rule Tenant%s): ask the operator of this cloud", obj_name(obj), !strcmp(state, "Closing") ? "being closed" : "suspended", state);
    else if (!json_equal(was, is))
        sbuf_addf(why, "admins of tenant \"%s\" change spec.admins, spec.auditors and spec.contacts; ask the operator of this cloud for the rest", obj_name(obj));
    else if (json_array_size(json_at(old_obj, "spec.admins")) && !json_array_size(json_at(obj, "spec.admins")))
        sbuf_addf(why, "tenant \"%s\" would have no admin by name any more (spec.admins): name another one first, or ask the operator of this cloud", obj_name(obj));
    else
        return 0;
    return err_set(err, ERR_FORBIDDEN, "not an admin's to change");
}

static int authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    if (c->access->may(c, "bind", RBAC, "clusterroles", "", "admin"))
        return 0;
    /* Who may do everything with all tenants ("*") is who runs the cloud, not of the tenant. */
    bool own = old_obj && c->access->may(c, TENANT_ADMINISTER, SEKI_GROUP, "tenants", "", obj_name(obj)) && !c->access->may(c, TENANT_ADMINISTER, SEKI_GROUP, "tenants", "", "");
    if (own && c->access->may(c, "use", SEKI_GROUP, "tenants", "", ""))
        return 0; /* somebody who is both */
    return own ? administer(obj, old_obj, why, err) : appoint(c, obj, old_obj, why, err);
}

static void limits(const json_t *obj, void (*fn)(void *arg, const char *resource, int64_t max), void *arg)
{
    const json_t *own = json_at(obj, "spec.limits"), *projects = json_object_get(own, "projects");
    if (json_is_integer(projects))
        fn(arg, kind_namespace.plural, json_integer_value(projects));
    limit_each_number(own, fn, arg);
}

static const struct kind_subresource parts[] = {{.name = "audit", .view = VIEW_AUDIT}, {0}};
static const struct kind_ops ops = {.admit = admit, .validate = validate, .authorize = authorize, .companions = companions, .subresources = parts, .limits = limits};

const struct kind kind_tenant = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Tenant", .plural = "tenants", .singular = "tenant", .short_names = "tn", .categories = "seki",
    .has_status = true, .label_names = true, .fields = fields, .columns = columns, .ops = &ops,
    .help = "Tenant is a customer: whose the projects are, and whether they may be used.",
};
