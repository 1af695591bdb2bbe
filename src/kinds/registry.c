#include "kinds/kind.h"

/* One line a kind; the order is the order of discovery. Only kinds that other C code names are declared in a header, too. */
#define KINDS(KIND) \
    KIND(kind_namespace) \
    KIND(kind_secret) \
    KIND(kind_config_map) \
    KIND(kind_event) \
    KIND(kind_service_account) \
    KIND(kind_lease) \
    KIND(kind_event_view) \
    KIND(kind_role) \
    KIND(kind_role_binding) \
    KIND(kind_cluster_role) \
    KIND(kind_cluster_role_binding) \
    KIND(kind_custom_resource_definition) \
    KIND(kind_subject_access_review) \
    KIND(kind_self_subject_access_review) \
    KIND(kind_local_subject_access_review) \
    KIND(kind_self_subject_rules_review) \
    KIND(kind_self_subject_review) \
    KIND(kind_token_review) \
    KIND(kind_tenant) \
    KIND(kind_limit) \
    KIND(kind_site) \
    KIND(kind_residency_policy) \
    KIND(kind_access_grant) \
    KIND(kind_user_revocation) \
    KIND(kind_model) \
    KIND(kind_model_endpoint) \
    KIND(kind_model_replica) \
    KIND(kind_model_route) \
    KIND(kind_cluster) \
    KIND(kind_cluster_key) \
    KIND(kind_api_key) \
    KIND(kind_usage_report) \
    KIND(kind_slo_report) \
    KIND(kind_gateway_load) \
    KIND(kind_price) \
    KIND(kind_gateway_lease) \
    KIND(kind_key_rotation)

#define DECLARE(name) extern const struct kind name;
#define POINT(name) &(name),
KINDS(DECLARE)
static const struct kind *const kinds[] = {KINDS(POINT)};

const struct kind *const *kind_all(size_t *ret_count)
{
    *ret_count = ARRAY_LEN(kinds);
    return kinds;
}

const struct kind *kind_find(struct str group, struct str version, struct str plural)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eqc(plural, kinds[i]->plural) && str_eqc(group, kinds[i]->group) &&
            str_eqc(version, kinds[i]->version))
            return kinds[i];
    return NULL;
}

const struct kind *kind_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (!strcmp(kinds[i]->name, name))
            return kinds[i];
    return NULL;
}

const struct kind *kind_by_resource(const char *resource)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t len = strlen(kinds[i]->plural);
        bool stored = !kinds[i]->view_of && !kind_is_virtual(kinds[i]);
        if (stored && !strncmp(kinds[i]->plural, resource, len) && (*kinds[i]->group ? resource[len] == '.' && !strcmp(resource + len + 1, kinds[i]->group) : !resource[len]))
            return kinds[i];
    }
    return NULL;
}

const struct kind *kind_of_document(const json_t *doc)
{
    char version[128];
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        kind_api_version(kinds[i], version);
        if (!strcmp(kinds[i]->name, json_str_or(doc, "kind", "")) && !strcmp(version, json_str_or(doc, "apiVersion", "")))
            return kinds[i];
    }
    return NULL;
}

const struct kind_subresource *kind_subresource(const struct kind *k, const char *name)
{
    for (const struct kind_subresource *s = k->ops ? k->ops->subresources : NULL; s && s->name; s++)
        if (!strcmp(s->name, name))
            return s;
    return NULL;
}

void kind_api_version(const struct kind *k, char text[128])
{
    snprintf(text, 128, "%s%s%s", k->group, *k->group ? "/" : "", k->version);
}

void kind_path(const struct kind *k, const char *ns, const char *name, const char *sub, struct sbuf *out)
{
    if (*k->group)
        sbuf_addf(out, "/apis/%s/%s", k->group, k->version);
    else
        sbuf_addf(out, "/api/%s", k->version);
    if (k->namespaced && ns && *ns)
        sbuf_addf(out, "/namespaces/%s", ns);
    sbuf_addf(out, "/%s", k->plural);
    if (name)
        sbuf_addf(out, "/%s", name);
    if (sub)
        sbuf_addf(out, "/%s", sub);
}

struct client_resource kind_resource(const struct kind *k)
{
    return (struct client_resource){k->group, k->version, k->plural, k->namespaced};
}

int kind_decode(const struct kind *k, const json_t *obj, struct arena *a, void *out, struct err *err)
{
    memset(out, 0, k->size);
    return field_decode(k->fields, obj, a, out, err);
}
