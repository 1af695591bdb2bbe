#include "kaas/people.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "kinds/cluster_oidc.h"
#include "kinds/tenancy.h"

#define ARENA_MAX (8 * 1024 * 1024)
#define CA_MAX 65536
#define OWN_MAX (1024 * 1024)
#define OIDC_CONDITION "OIDCConfigured"
#define REVOKED_MAX 1000 /* users of one issuer */
#define RULE_MAX 16384   /* bytes of a name as JSON has it: a claim or user has 1,024 */

struct people {
    pthread_mutex_t lock;
    struct arena *arena; /* of config */
    struct oidc_config config;
    unsigned generation;
};

struct people *people_new(void)
{
    struct people *p = XNEW(struct people);
    *p = (struct people){.generation = 1};
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void people_free(struct people *p)
{
    if (!p)
        return;
    arena_free(p->arena);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

int people_load(struct people *p, const char *file, struct err *err)
{
    struct oidc_config config = {0};
    struct arena *a = arena_new(ARENA_MAX);
    int rc = file && *file ? oidc_config_load(file, a, &config, err) : 0;
    if (rc < 0) {
        arena_free(a);
        return rc;
    }
    pthread_mutex_lock(&p->lock);
    arena_free(p->arena);
    p->arena = a;
    p->config = config;
    p->generation++;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

unsigned people_generation(struct people *p)
{
    pthread_mutex_lock(&p->lock);
    unsigned n = p->generation;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void people_touch(struct people *p)
{
    pthread_mutex_lock(&p->lock);
    p->generation++;
    pthread_mutex_unlock(&p->lock);
}

/* ---- an issuer, as Kubernetes has it ---- */

static bool is_taken(const struct oidc_issuer *i)
{
    return oidc_url_plain(i->issuer.url) && (!i->issuer.discovery_url || oidc_url_plain(i->issuer.discovery_url)) && !oidc_prefix_is_admins(i->mappings.username.prefix) &&
           !(i->mappings.groups.claim && oidc_prefix_is_admins(i->mappings.groups.prefix));
}

static json_t *texts(const struct field_list *list)
{
    json_t *ret = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(ret, json_string(((const char *const *)list->items)[i]));
    return ret;
}

static void put(json_t *obj, const char *name, const char *text)
{
    if (text)
        json_object_set_new(obj, name, json_string(text));
}

static json_t *mapping(const struct oidc_mapping *m)
{
    return json_pack("{s:s, s:s}", "claim", m->claim, "prefix", m->prefix);
}

/* The same rule twice is refused by an API server. */
static json_t *rules_of(const struct oidc_issuer *i)
{
    json_t *ret = json_array();
    for (size_t n = 0; n < i->rules.count; n++) {
        const struct oidc_rule *rule = (const struct oidc_rule *)i->rules.items + n;
        bool there = false;
        for (size_t m = 0; m < n; m++)
            there |= !strcmp(((const struct oidc_rule *)i->rules.items)[m].claim, rule->claim);
        if (!there)
            json_array_append_new(ret, json_pack("{s:s, s:s}", "claim", rule->claim, "requiredValue", rule->value ? rule->value : ""));
    }
    return ret;
}

/* ---- whose access was ended ---- */

/* For each user of the issuer: tokens made before which second count no longer. */
static json_t *ended(const struct oidc_issuer *i, const char *tenant, const json_t *revocations)
{
    json_t *map = json_object(), *r;
    struct str prefix = str_of(i->mappings.username.prefix);
    size_t n;
    json_array_foreach ((json_t *)(uintptr_t)revocations, n, r) {
        struct str user = str_of(json_str_or(r, "spec.username", ""));
        const char *whose = json_str_or(r, "spec.tenant", ""), *text = json_str(r, "spec.issuedBefore");
        int64_t at_ms = 0;
        if ((*whose && strcmp(whose, tenant) != 0) || !str_starts(user, prefix) || !text || clock_parse(str_of(text), &at_ms) < 0)
            continue;
        const char *value = user.ptr + prefix.len;
        json_int_t at = (at_ms + 999) / 1000, before = json_integer_value(json_object_get(map, value));
        if (json_object_size(map) < REVOKED_MAX || before)
            json_object_set_new(map, value, json_integer(MAX(at, before)));
    }
    return map;
}

/* A rule in CEL, whose texts are written as those of JSON: it is somebody else's token, or was made later. Whoever has no such claim has no name either, and is refused before. */
static json_t *rule_against(const char *claim, const char *user, json_int_t before)
{
    CLEANUP(sbuf_deinit) struct sbuf name = {0}, who = {0};
    JSON_AUTO name_text = json_string(claim);
    JSON_AUTO who_text = json_string(user);
    sbuf_init(&name, RULE_MAX);
    sbuf_init(&who, RULE_MAX);
    json_write(name_text, &name);
    json_write(who_text, &who);
    CLEANUP(mem_freep) char *rule = xasprintf("claims[%s] != %s || (has(claims.iat) && int(claims.iat) >= %lld)", name.ptr, who.ptr, (long long)before);
    return json_pack("{s:s, s:s}", "expression", rule, "message", "access of this user was ended");
}

static json_t *issuer_document(const struct oidc_issuer *i, const char *tenant, const json_t *revocations)
{
    json_t *issuer = json_pack("{s:s, s:o, s:s}", "url", i->issuer.url, "audiences", texts(&i->issuer.audiences), "audienceMatchPolicy", "MatchAny");
    json_t *mappings = json_pack("{s:o}", "username", mapping(&i->mappings.username)), *rules = rules_of(i);
    JSON_AUTO map = ended(i, tenant, revocations);
    const char *user;
    json_t *before;
    put(issuer, "discoveryURL", i->issuer.discovery_url);
    put(issuer, "certificateAuthority", i->issuer.ca_pem);
    if (i->mappings.groups.claim)
        json_object_set_new(mappings, "groups", mapping(&i->mappings.groups));
    if (i->mappings.uid.claim)
        json_object_set_new(mappings, "uid", json_pack("{s:s}", "claim", i->mappings.uid.claim));
    json_object_foreach (map, user, before)
        json_array_append_new(rules, rule_against(i->mappings.username.claim, user, json_integer_value(before)));
    return json_pack("{s:o, s:o, s:o}", "issuer", issuer, "claimMappings", mappings, "claimValidationRules", rules);
}

static json_t *shown(const struct oidc_issuer *i)
{
    json_t *ret = json_pack("{s:s, s:o, s:s}", "url", i->issuer.url, "audiences", texts(&i->issuer.audiences), "usernamePrefix", i->mappings.username.prefix);
    if (i->mappings.groups.claim)
        put(ret, "groupsPrefix", i->mappings.groups.prefix);
    return ret;
}

json_t *people_document(const struct oidc_config *config, const struct oidc_issuer *own, const char *tenant, const json_t *revocations, json_t **ret_people, const char **ret_left_out)
{
    json_t *jwt = json_array(), *people = json_array();
    *ret_left_out = "";
    for (size_t n = 0; *tenant && n < config->issuers.count; n++) {
        const struct oidc_issuer *i = oidc_config_at(config, n);
        if (!i->tenant || strcmp(i->tenant, tenant) != 0)
            continue;
        if (!is_taken(i)) {
            *ret_left_out = **ret_left_out ? *ret_left_out : i->issuer.url;
            continue;
        }
        json_array_append_new(jwt, issuer_document(i, tenant, revocations));
        json_array_append_new(people, shown(i));
    }
    if (own) {
        json_array_append_new(jwt, issuer_document(own, tenant, revocations));
        json_array_append_new(people, shown(own));
    }
    *ret_people = people;
    /* Who has no credentials may ask for health, and for nothing else. */
    return json_pack("{s:s, s:s, s:o, s:{s:b, s:[{s:s}, {s:s}, {s:s}]}}", "apiVersion", "apiserver.config.k8s.io/v1", "kind", "AuthenticationConfiguration", "jwt", jwt, "anonymous", "enabled", 1,
                     "conditions", "path", "/livez", "path", "/readyz", "path", "/healthz");
}

const char *people_own_refused(const struct oidc_config *config, const struct oidc_issuer *own, const char *tenant, const char *list)
{
    if (!cluster_oidc_listed(list, own->issuer.url))
        return "IssuerNotAllowed";
    for (size_t n = 0; n < config->issuers.count; n++) {
        const struct oidc_issuer *i = oidc_config_at(config, n);
        if (i->tenant && !strcmp(i->tenant, tenant) && oidc_issuers_meet(own, i))
            return "IssuerTaken";
    }
    return NULL;
}

/* ---- a cluster's ---- */

const char *people_tenant(const json_t *project, const char *ns)
{
    return project ? namespace_tenant(project, ns) : "";
}

static int put_authority(json_t *obj, const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/pki/ca.crt", s->dir);
    CLEANUP(mem_freep) char *pem = NULL;
    size_t len = 0;
    int rc = file_read(path, CA_MAX, &pem, &len, err);
    if (rc == 0)
        json_put_str(obj, "status.certificateAuthority", pem);
    return rc;
}

/* The cluster's own issuer, or NULL; its condition says which and why. Who calls holds the lock. */
static const struct oidc_issuer *own_issuer(struct kaas *k, json_t *obj, const char *tenant, struct arena *a)
{
    struct oidc_issuer *own = arena_alloc(a, sizeof(*own));
    struct err why = ERR_INIT;
    if (cluster_oidc_read(obj, a, own, &why) < 0) {
        status_condition(obj, OIDC_CONDITION, "False", "Invalid", "%s: %s", why.field, why.msg);
        return NULL;
    }
    if (!own->issuer.url) {
        if (obj_condition(obj, OIDC_CONDITION))
            status_condition(obj, OIDC_CONDITION, "False", "NotWanted", "the cluster has no issuer of its own");
        return NULL;
    }
    const char *refused = people_own_refused(&k->people->config, own, tenant, cluster_oidc_allowed());
    if (refused)
        status_condition(obj, OIDC_CONDITION, "False", refused, "tokens of issuer %s are not taken: %s", own->issuer.url,
                         !strcmp(refused, "IssuerTaken") ? "it is one of the tenant's already, or its users or groups could have the same names as theirs" : "it is not one that this cloud's operator has listed");
    else
        status_condition(obj, OIDC_CONDITION, "True", "Configured", "tokens of issuer %s are taken once the API server has its keys", own->issuer.url);
    return refused ? NULL : own;
}

int people_conf_ensure(struct kaas *k, json_t *obj, const struct site *s, struct err *err)
{
    JSON_AUTO project = informer_get(k->namespaces, NULL, s->ns);
    JSON_AUTO revocations = informer_list(k->revocations, NULL);
    const char *tenant = people_tenant(project, s->ns), *left_out = "";
    json_t *people = NULL;
    struct arena *a = arena_new(OWN_MAX);
    pthread_mutex_lock(&k->people->lock);
    json_t *doc = people_document(&k->people->config, own_issuer(k, obj, tenant, a), tenant, revocations, &people, &left_out);
    if (*left_out)
        log_warn("an issuer of a tenant is not known in its cluster: its URL or prefix is nothing that Kubernetes takes", KV("namespace", s->ns), KV("cluster", s->name), KV("issuer", left_out));
    pthread_mutex_unlock(&k->people->lock);
    arena_free(a);
    json_put(obj, "status.people", people);
    int rc = cluster_conf_write(s, "authentication", doc, err);
    return rc < 0 ? rc : put_authority(obj, s, err);
}
