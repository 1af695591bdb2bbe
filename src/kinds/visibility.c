/* Names that are called: how they may be written, and who may be let call them. */
#include "kinds/borrowed.h"
#include "kinds/engine_fields.h"
#include "kinds/tenancy.h"

/* ---- names ---- */

/* Valid UTF-8 without control characters, those of Unicode (U+0080 to U+009F) included. */
static bool is_printable(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    for (; *p; p++)
        if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
            return false;
    return true;
}

static bool has_adapter(const json_t *spec, const char *name)
{
    size_t i;
    json_t *adapter;
    json_array_foreach (json_object_get(spec, "adapters"), i, adapter)
        if (!strcmp(json_str_or(adapter, "name", ""), name))
            return true;
    return false;
}

void served_names_validate(const json_t *spec, const json_t *old_spec, struct field_errors *errors)
{
    static const char says[] = "Invalid value: a name in requests has printable characters only";
    const char *served = json_str_or(spec, "servedName", "");
    char path[64];
    size_t i;
    json_t *adapter;
    if (!is_printable(served) && strcmp(served, json_str_or(old_spec, "servedName", "")) != 0)
        field_errors_add(errors, "spec.servedName", "FieldValueInvalid", "%s", says);
    json_array_foreach (json_object_get(spec, "adapters"), i, adapter) {
        const char *name = json_str_or(adapter, "name", "");
        snprintf(path, sizeof(path), "spec.adapters[%zu].name", i);
        if (!is_printable(name) && !has_adapter(old_spec, name))
            field_errors_add(errors, path, "FieldValueInvalid", "%s", says);
    }
}

/* ---- who may be let call them ---- */

void visibility_validate(const json_t *spec, struct field_errors *errors)
{
    bool named = json_array_size(json_object_get(spec, "tenants")) > 0;
    bool wanted = !strcmp(json_str_or(spec, "visibility", "Project"), "Tenants");
    if (wanted && !named)
        field_errors_add(errors, "spec.tenants", "FieldValueRequired", "Required value: visibility Tenants needs at least one tenant");
    if (!wanted && named)
        field_errors_add(errors, "spec.tenants", "FieldValueForbidden", "Forbidden: only with visibility Tenants");
    char path[64];
    size_t i;
    json_t *v;
    json_array_foreach (json_object_get(spec, "tenants"), i, v) {
        snprintf(path, sizeof(path), "spec.tenants[%zu]", i);
        if (!field_label_value(str_of(json_string_value(v)))) /* as the namespaces' label has them */
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.100s\": a tenant is named as a label value, with at most 63 bytes", json_string_value(v));
    }
}

static bool is_for(const json_t *spec, const char *visibility)
{
    return !strcmp(json_str_or(spec, "visibility", "Project"), visibility);
}

static bool reaches(const json_t *spec, const char *tenant)
{
    size_t i;
    json_t *t;
    if (is_for(spec, "Everyone"))
        return true;
    json_array_foreach (is_for(spec, "Tenants") ? json_object_get(spec, "tenants") : NULL, i, t)
        if (!strcmp(json_string_value(t), tenant))
            return true;
    return false;
}

/* tenant "": all of them. As for projects: whoever may `use` a tenant may put something before it. */
static bool may_reach(const struct kind_context *c, const char *tenant)
{
    return c->access->may(c, "use", SEKI_GROUP, "tenants", "", tenant);
}

static const char *served_as(const json_t *obj)
{
    const char *served = json_str_or(obj, "spec.servedName", "");
    return *served ? served : obj_name(obj);
}

/* The field with a name under which it was not called before; NULL: there is none. */
static const char *new_name(const json_t *obj, const json_t *old_obj)
{
    const json_t *adapter, *old_spec = json_object_get(old_obj, "spec");
    size_t i;
    if (strcmp(served_as(obj), served_as(old_obj)) != 0)
        return "spec.servedName";
    json_array_foreach (json_at(obj, "spec.adapters"), i, adapter)
        if (!has_adapter(old_spec, json_str_or(adapter, "name", "")))
            return "spec.adapters";
    return NULL;
}

/* renamed: the field that has a new name, where the others are reached already; NULL: they are reached anew. */
static int refuse(const struct kind_context *c, const char *own, const char *visibility, const char *whom, const char *renamed, struct sbuf *why, struct err *err)
{
    if (renamed)
        sbuf_addf(why, "%s: a new name would reach beyond tenant \"%s\" by spec.visibility", renamed, own);
    else
        sbuf_addf(why, "spec.visibility: it would reach beyond tenant \"%s\" with", own);
    sbuf_addf(why, " \"%s\"", visibility);
    if (strcmp(visibility, whom) != 0)
        sbuf_addf(why, " and spec.tenants \"%.64s\"", whom);
    sbuf_addf(why, ", and user \"%s\" may not share with others: ask the operator of this cloud", c->user->name);
    return err_set(err, ERR_FORBIDDEN, "not this tenant's to share");
}

int visibility_authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    const json_t *spec = json_object_get(obj, "spec"), *old_spec = json_object_get(old_obj, "spec");
    const char *renamed = old_obj ? new_name(obj, old_obj) : NULL;
    bool everyone = is_for(spec, "Everyone"), before = is_for(old_spec, "Everyone");
    size_t i;
    json_t *t;
    if (is_for(spec, "Project") || (everyone && before && !renamed) || may_reach(c, ""))
        return 0;
    JSON_AUTO project = c->server->get(c->server->ctx, &kind_namespace, "", c->namespace);
    const char *own = namespace_tenant(project, c->namespace);
    if (everyone)
        return refuse(c, own, "Everyone", "Everyone", before ? renamed : NULL, why, err);
    json_array_foreach (json_object_get(spec, "tenants"), i, t) {
        const char *tenant = json_string_value(t);
        before = reaches(old_spec, tenant);
        if (strcmp(tenant, own) != 0 && (!before || renamed) && !may_reach(c, tenant))
            return refuse(c, own, "Tenants", tenant, before ? renamed : NULL, why, err);
    }
    return 0;
}
