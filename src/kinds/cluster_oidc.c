#include "kinds/cluster_oidc.h"

#include "crypto/pki.h"

#define TEXT_MAX 1024
#define PREFIX_MAX 128
#define PEM_MAX (64 * 1024)
#define AUDIENCES_MAX 16

/* Members of Kubernetes' AuthenticationConfiguration, so that what is written there can be put here. */
static const struct field issuer_fields[] = {
    {.name = "url", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 9, .max = TEXT_MAX, .help = "as tokens have it in iss; one that this cloud's operator has listed"},
    {.name = "audiences", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .list_type = LIST_SET, .min = 1, .max = AUDIENCES_MAX, .help = "for whom tokens must be: one of them is enough"},
    {.name = "certificateAuthority", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .max = PEM_MAX, .help = "who signed the certificate of the issuer; PEM; absent: authorities that the system trusts"},
    {0},
};
static const struct field mapping_fields[] = {
    {.name = "claim", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .min = 1, .max = TEXT_MAX, .help = "name of the claim"},
    {.name = "prefix", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .min = 1, .max = PREFIX_MAX, .def = "\"oidc:\"", .help = "begins the names that come from it; ends in ':' or '#'"},
    {0},
};
static const struct field mappings_fields[] = {
    {.name = "username", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = mapping_fields, .help = "the user's name"},
    {.name = "groups", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = mapping_fields, .help = "the user's groups; absent: none"},
    {0},
};
const struct field cluster_oidc_fields[] = {
    {.name = "issuer", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = issuer_fields, .help = "who makes the tokens"},
    {.name = "claimMappings", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .sub = mappings_fields, .help = "who the user of a token is"},
    {0},
};

/* ---- the operator's list ---- */

static const char *allowed = "";

void cluster_oidc_allow(const char *list)
{
    allowed = list;
}

const char *cluster_oidc_allowed(void)
{
    return allowed;
}

bool cluster_oidc_listed(const char *list, const char *url)
{
    struct str rest = str_of(list), item, issuer = str_of(url);
    while (str_cut(&rest, ',', &item)) {
        item = str_trim(item);
        while (item.len && item.ptr[item.len - 1] == '/')
            item.len--;
        if (item.len && str_starts(issuer, item) && (issuer.len == item.len || issuer.ptr[item.len] == '/'))
            return true;
    }
    return false;
}

int cluster_oidc_list_check(const char *list, struct err *err)
{
    char url[TEXT_MAX + 1];
    struct str rest = str_of(list), item;
    while (str_cut(&rest, ',', &item)) {
        item = str_trim(item);
        if (item.len && (!str_to_array(item, url, sizeof(url)) || !oidc_url_plain(url)))
            return err_set(err, ERR_INVALID, "\"%.*s\": expected URLs such as https://id.example/realms, comma-separated", (int)MIN(item.len, (size_t)100), item.ptr);
    }
    return 0;
}

/* ---- an issuer ---- */

static int wrong(struct err *err, const char *member, const char *text)
{
    char path[ERR_FIELD_MAX];
    snprintf(path, sizeof(path), "spec.oidc.%s", member);
    return err_field(err, ERR_INVALID, path, "%s", text);
}

/* What the operator's file may say, and a tenant's cluster may not: an API server does not start with it, or takes for an administrator whom nobody made one. */
static int check(const struct oidc_issuer *i, struct err *err)
{
    if (!oidc_url_plain(i->issuer.url))
        return wrong(err, "issuer.url", "expected https://HOST without user, query, fragment, escapes and steps back");
    if (i->issuer.ca_pem && pki_certificates_check(str_of(i->issuer.ca_pem)) < 0)
        return wrong(err, "issuer.certificateAuthority", "expected certificates in PEM, and nothing else");
    if (oidc_prefix_is_admins(i->mappings.username.prefix))
        return wrong(err, "claimMappings.username.prefix", "names that begin with kubeadm: are the cluster's administrators'");
    if (i->mappings.groups.claim && oidc_prefix_is_admins(i->mappings.groups.prefix))
        return wrong(err, "claimMappings.groups.prefix", "names that begin with kubeadm: are the cluster's administrators'");
    return 0;
}

int cluster_oidc_read(const json_t *cluster, struct arena *a, struct oidc_issuer *ret, struct err *err)
{
    static const char at[] = "jwt[0].";
    json_t *spec = json_at(cluster, "spec.oidc");
    struct oidc_config config = {0};
    struct err why = ERR_INIT;
    *ret = (struct oidc_issuer){0};
    if (!json_is_object(spec))
        return 0;
    if (oidc_config_one(spec, a, &config, &why) < 0) {
        /* Its texts begin with the path in that file. */
        bool named = !strncmp(why.field, at, sizeof(at) - 1);
        size_t said = named && !strncmp(why.msg, why.field, strlen(why.field)) ? strlen(why.field) + 2 : 0;
        return wrong(err, named ? why.field + sizeof(at) - 1 : "issuer", why.msg + said);
    }
    const struct oidc_issuer *i = oidc_config_at(&config, 0);
    int rc = check(i, err);
    if (rc == 0)
        *ret = *i;
    return rc;
}
