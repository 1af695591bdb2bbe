#include "oidc/config.h"

#include "base/file.h"
#include "base/mem.h"
#include "json/yaml.h"

#define VERSION "apiserver.config.k8s.io/v1"
#define PREFIX_OPERATOR "oidc:"
#define PREFIX_ADMINS "kubeadm:" /* begins the group that is bound to cluster-admin */
#define AUDIENCES_MAX 64
#define RULES_MAX 64
#define TEXT_MAX 1024
#define PREFIX_MAX 128
#define PEM_MAX (64 * 1024)

#define ISSUER(member) offsetof(struct oidc_issuer, issuer.member) - offsetof(struct oidc_issuer, issuer)
#define MAPPING(member) offsetof(struct oidc_mapping, member)
#define MAPPINGS(member) offsetof(struct oidc_issuer, mappings.member) - offsetof(struct oidc_issuer, mappings)

/* ---- the form ---- */

static const struct field issuer_fields[] = {
    {.name = "url", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = ISSUER(url), .min = 9, .max = TEXT_MAX, .help = "as tokens have it in iss"},
    {.name = "discoveryURL", .type = FIELD_STRING, .offset = ISSUER(discovery_url), .max = TEXT_MAX, .help = "where its discovery document is, when not below url"},
    {.name = "certificateAuthority", .type = FIELD_STRING, .offset = ISSUER(ca_pem), .max = PEM_MAX, .help = "PEM; absent: the system's"},
    {.name = "audiences", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = ISSUER(audiences), .list_type = LIST_SET, .min = 1, .max = AUDIENCES_MAX, .help = "for whom tokens must be"},
    {.name = "audienceMatchPolicy", .type = FIELD_ENUM, .values = "MatchAny", .offset = ISSUER(match_policy), .help = "one of them is enough"},
    {0},
};
static const struct field mapping_fields[] = {
    {.name = "claim", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = MAPPING(claim), .min = 1, .max = TEXT_MAX, .help = "name of the claim"},
    {.name = "prefix", .type = FIELD_STRING, .offset = MAPPING(prefix), .max = PREFIX_MAX, .help = "put before its value"},
    {0},
};
static const struct field uid_fields[] = {
    {.name = "claim", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = 0, .min = 1, .max = TEXT_MAX, .help = "name of the claim"},
    {0},
};
static const struct field mappings_fields[] = {
    {.name = "username", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = MAPPINGS(username), .sub = mapping_fields, .help = "the user's name"},
    {.name = "groups", .type = FIELD_OBJECT, .offset = MAPPINGS(groups), .sub = mapping_fields, .help = "groups"},
    {.name = "uid", .type = FIELD_OBJECT, .offset = MAPPINGS(uid), .sub = uid_fields, .help = "what tells apart users of the same name"},
    {0},
};
static const struct field rule_fields[] = {
    {.name = "claim", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = offsetof(struct oidc_rule, claim), .min = 1, .max = TEXT_MAX, .help = "must be there …"},
    {.name = "requiredValue", .type = FIELD_STRING, .offset = offsetof(struct oidc_rule, value), .def = "\"\"", .max = TEXT_MAX, .help = "… and be this text"},
    {0},
};
static const struct field jwt_fields[] = {
    {.name = "issuer", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct oidc_issuer, issuer), .sub = issuer_fields, .help = "who makes the tokens"},
    {.name = "claimMappings", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct oidc_issuer, mappings), .sub = mappings_fields, .help = "who the user is"},
    {.name = "claimValidationRules", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = offsetof(struct oidc_issuer, rules), .sub = rule_fields, .sub_size = sizeof(struct oidc_rule), .max = RULES_MAX,
     .help = "what else must hold"},
    {.name = "tenant", .type = FIELD_STRING, .flags = FIELD_DNS_LABEL, .offset = offsetof(struct oidc_issuer, tenant), .min = 1, .max = 63, .help = "whose users these are; absent: the operator's"},
    {.name = "tenantAdmins", .type = FIELD_STRING, .offset = offsetof(struct oidc_issuer, admins), .min = 1, .max = TEXT_MAX, .help = "the group, as the issuer has it, whose members are the tenant's admins"},
    {0},
};
static const struct field config_fields[] = {
    {.name = "apiVersion", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .values = VERSION, .offset = offsetof(struct oidc_config, api_version), .help = VERSION},
    {.name = "kind", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .values = "AuthenticationConfiguration", .offset = offsetof(struct oidc_config, kind), .help = "AuthenticationConfiguration"},
    {.name = "jwt", .type = FIELD_LIST, .elem = FIELD_OBJECT, .offset = offsetof(struct oidc_config, issuers), .sub = jwt_fields, .sub_size = sizeof(struct oidc_issuer), .max = OIDC_ISSUERS_MAX,
     .help = "issuers of tokens"},
    {0},
};

/* ---- members that Kubernetes has and we have not ---- */

static const struct {
    const char *name, *why;
} foreign[] = {
    {"expression", "CEL expressions are not evaluated here: map a claim with a prefix, or require a value"},
    {"messageExpression", "CEL expressions are not evaluated here"},
    {"userValidationRules", "rules about users are CEL expressions, which are not evaluated here: use claimValidationRules with claim and requiredValue"},
    {"extra", "extra attributes are made by CEL expressions, which are not evaluated here"},
    {"anonymous", "nobody is served without credentials here, but for /livez and /readyz"},
    {"egressSelectorType", "issuers are reached directly: there are no egress selectors here"},
};

static int refuse_foreign(const json_t *j, const char *path, struct err *err)
{
    const char *key;
    json_t *v;
    size_t i;
    int rc;
    char sub[ERR_FIELD_MAX];
    json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
        snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "." : "", key);
        for (size_t n = 0; n < ARRAY_LEN(foreign); n++)
            if (!strcmp(key, foreign[n].name))
                return err_field(err, ERR_INVALID, sub, "%s: %s", sub, foreign[n].why);
        if ((rc = refuse_foreign(v, sub, err)) < 0)
            return rc;
    }
    json_array_foreach (j, i, v) {
        snprintf(sub, sizeof(sub), "%s[%zu]", path, i);
        if ((rc = refuse_foreign(v, sub, err)) < 0)
            return rc;
    }
    return 0;
}

/* ---- what the tables cannot say ---- */

static int wrong(struct err *err, size_t i, const char *member, const char *text)
{
    char path[ERR_FIELD_MAX];
    snprintf(path, sizeof(path), "jwt[%zu].%s", i, member);
    return err_field(err, ERR_INVALID, path, "%s: %s", path, text);
}

static bool is_https(const char *url)
{
    struct str s = str_of(url);
    return str_starts(s, STR("https://")) && s.len > 8 && !strpbrk(url, " \t\r\n\"<>\\^`{|}@?#") && url[8] != '/';
}

static int check_urls(const struct oidc_issuer *j, size_t i, struct err *err)
{
    if (!is_https(j->issuer.url))
        return wrong(err, i, "issuer.url", "expected https://HOST without user, query and fragment");
    if (j->issuer.discovery_url && !is_https(j->issuer.discovery_url))
        return wrong(err, i, "issuer.discoveryURL", "expected https://HOST without user, query and fragment");
    if (j->issuer.discovery_url && !strcmp(j->issuer.discovery_url, j->issuer.url))
        return wrong(err, i, "issuer.discoveryURL", "must differ from url; leave it out when it is the same");
    if (j->issuer.ca_pem && !strstr(j->issuer.ca_pem, "-----BEGIN CERTIFICATE-----"))
        return wrong(err, i, "issuer.certificateAuthority", "expected certificates in PEM");
    for (size_t n = 0; n < j->issuer.audiences.count; n++)
        if (!*((const char **)j->issuer.audiences.items)[n])
            return wrong(err, i, "issuer.audiences", "an audience has a name");
    return 0;
}

static int check_prefix(const char *prefix, size_t i, const char *member, struct err *err)
{
    static const char *const reserved[] = {"system:", "seki:"};
    size_t len = strlen(prefix);
    if (!len || (prefix[len - 1] != ':' && prefix[len - 1] != '#'))
        return wrong(err, i, member, "expected a text that ends in ':' or '#', so that no name can be that of somebody else");
    for (const char *p = prefix; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return wrong(err, i, member, "expected a text without spaces");
    for (size_t n = 0; n < ARRAY_LEN(reserved); n++)
        if (str_starts(str_of(prefix), str_of(reserved[n])) || str_starts(str_of(reserved[n]), str_of(prefix)))
            return wrong(err, i, member, "names that begin with system: or seki: are the system's own");
    return 0;
}

static bool overlap(const char *a, const char *b)
{
    return str_starts(str_of(a), str_of(b)) || str_starts(str_of(b), str_of(a));
}

static int check_apart(const struct oidc_config *c, size_t i, struct err *err)
{
    const struct oidc_issuer *a = oidc_config_at(c, i);
    for (size_t n = 0; n < i; n++) {
        const struct oidc_issuer *b = oidc_config_at(c, n);
        bool same_owner = a->tenant && b->tenant ? !strcmp(a->tenant, b->tenant) : a->tenant == b->tenant;
        char text[160];
        snprintf(text, sizeof(text), "one of this prefix and that of jwt[%zu] begins with the other: their users could have the same names", n);
        if (!strcmp(a->issuer.url, b->issuer.url))
            return wrong(err, i, "issuer.url", "this issuer is there already: one issuer belongs to one tenant");
        if (overlap(a->mappings.username.prefix, b->mappings.username.prefix))
            return wrong(err, i, "claimMappings.username.prefix", text);
        if (!same_owner && a->mappings.groups.claim && b->mappings.groups.claim && overlap(a->mappings.groups.prefix, b->mappings.groups.prefix))
            return wrong(err, i, "claimMappings.groups.prefix", text);
    }
    return 0;
}

static int finish(struct oidc_config *c, struct arena *a, struct err *err)
{
    int rc;
    for (size_t i = 0; i < c->issuers.count; i++) {
        struct oidc_issuer *j = (struct oidc_issuer *)c->issuers.items + i;
        const char *own = j->tenant ? arena_printf(a, "%s:", j->tenant) : PREFIX_OPERATOR;
        if (!j->mappings.username.prefix)
            j->mappings.username.prefix = own;
        if (j->mappings.groups.claim && !j->mappings.groups.prefix)
            j->mappings.groups.prefix = own;
        if ((rc = check_urls(j, i, err)) < 0 || (rc = check_prefix(j->mappings.username.prefix, i, "claimMappings.username.prefix", err)) < 0)
            return rc;
        if (j->admins && (!j->tenant || !j->mappings.groups.claim))
            return wrong(err, i, "tenantAdmins", "expected together with tenant and claimMappings.groups only");
        if (j->mappings.groups.claim && (rc = check_prefix(j->mappings.groups.prefix, i, "claimMappings.groups.prefix", err)) < 0)
            return rc;
        if ((rc = check_apart(c, i, err)) < 0)
            return rc;
    }
    return 0;
}

static int first_error(const struct field_errors *e, struct err *err)
{
    return err_field(err, ERR_INVALID, e->items[0].path, "%s: %s", e->items[0].path, e->items[0].message);
}

static int read_config(json_t *j, struct arena *a, struct oidc_config *ret, struct err *err)
{
    struct field_errors errors = {.arena = a};
    struct oidc_config c = {0};
    int rc;
    if (!json_is_object(j))
        return err_set(err, ERR_INVALID, "expected an AuthenticationConfiguration");
    if ((rc = refuse_foreign(j, "", err)) < 0)
        return rc;
    field_unknown(config_fields, j, "", &errors);
    if (errors.count)
        return first_error(&errors, err);
    field_defaults(config_fields, j);
    field_validate(config_fields, j, "", &errors);
    if (errors.count)
        return first_error(&errors, err);
    if ((rc = field_decode(config_fields, j, a, &c, err)) < 0 || (rc = finish(&c, a, err)) < 0)
        return rc;
    *ret = c;
    return 0;
}

int oidc_config_one(const json_t *jwt, struct arena *a, struct oidc_config *ret, struct err *err)
{
    JSON_AUTO j = json_pack("{s:s, s:s, s:[o]}", "apiVersion", VERSION, "kind", "AuthenticationConfiguration", "jwt", json_deep_copy(jwt));
    return read_config(j, a, ret, err);
}

bool oidc_url_plain(const char *url)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    struct str rest = str_of(url);
    int64_t port = 0;
    if (!str_starts(rest, STR("https://")))
        return false;
    const char *host = url + 8;
    size_t len = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/"), good = 0;
    if (*host == '[' && (host[len - 1] != ']' || strspn(host + 1, "0123456789abcdefABCDEF:.") != len - 2))
        return false;
    for (; *host != '[' && good < len && (strchr(letters, host[good]) || strchr("-.", host[good])); good++)
        ;
    if (len < 1 || (*host != '[' && good != len))
        return false;
    const char *path = host + len;
    if (*path == ':') {
        size_t digits = strspn(path + 1, "0123456789");
        if (str_to_i64(str_n(path + 1, digits), 1, 65535, &port) < 0)
            return false;
        path += 1 + digits;
    }
    if (*path && *path != '/')
        return false;
    for (; *path; path++)
        if (!strchr(letters, *path) && !strchr("/-._~", *path))
            return false;
    return !strstr(host, "/../") && !str_ends(str_of(host), STR("/.."));
}

bool oidc_prefix_is_admins(const char *prefix)
{
    return prefix && overlap(prefix, PREFIX_ADMINS);
}

bool oidc_issuers_meet(const struct oidc_issuer *a, const struct oidc_issuer *b)
{
    return !strcmp(a->issuer.url, b->issuer.url) || overlap(a->mappings.username.prefix, b->mappings.username.prefix) ||
           (a->mappings.groups.claim && b->mappings.groups.claim && overlap(a->mappings.groups.prefix, b->mappings.groups.prefix));
}

int oidc_config_parse(struct str text, const char *name, struct arena *a, struct oidc_config *ret, struct err *err)
{
    JSON_AUTO j = NULL;
    struct err inner = ERR_INIT;
    int rc = yaml_parse(text, OIDC_FILE_MAX, &j, &inner);
    if (rc == 0)
        rc = read_config(j, a, ret, &inner);
    return rc < 0 ? err_field(err, rc, inner.field, "%s: %s", name, inner.msg) : 0;
}

int oidc_config_load(const char *path, struct arena *a, struct oidc_config *ret, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(path, OIDC_FILE_MAX, &text, &len, err);
    return rc < 0 ? rc : oidc_config_parse(str_n(text, len), path, a, ret, err);
}
