#include "apiserver/border_check.h"

#include "apiserver/api.h"
#include "base/vec.h"
#include "kinds/borrowed.h"
#include "kinds/residency.h"
#include "kinds/tenancy.h"
#include "policy/residency.h"

#define SITES_MAX 10000
#define RULES_MAX 1000

struct found {
    struct arena *arena;
    VEC(struct residency_site) sites;
    VEC(struct residency_rule) rules;
};

static bool add_site(void *arg, struct store_value *v)
{
    struct found *f = arg;
    JSON_AUTO obj = object_of(v);
    struct residency_site site;
    if (residency_site_read(f->arena, obj, &site))
        *VEC_PUSH(&f->sites) = site;
    return f->sites.len < SITES_MAX;
}

static bool add_policy(void *arg, struct store_value *v)
{
    struct found *f = arg;
    JSON_AUTO obj = object_of(v);
    residency_rule_read(f->arena, json_object_get(obj, "spec"), arena_printf(f->arena, "ResidencyPolicy %s/%s", obj_namespace(obj), obj_name(obj)), VEC_PUSH(&f->rules));
    return f->rules.len < RULES_MAX;
}

static void each(struct apiserver *s, const struct kind *k, const char *ns, bool (*fn)(void *arg, struct store_value *v), struct found *f)
{
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    sbuf_init(&prefix, 1024);
    object_prefix(k, ns, &prefix);
    if (sbuf_ok(&prefix))
        (void)!store_range(s->store, sbuf_str(&prefix), STR_NULL, 0, 0, fn, f, NULL);
}

static json_t *get_object(struct apiserver *s, const struct kind *k, const char *name)
{
    const struct kind_server server = api_kind_server(s);
    return server.get(server.ctx, k, "", name);
}

static void add_tenant(struct apiserver *s, const char *ns, struct found *f)
{
    JSON_AUTO namespace = get_object(s, &kind_namespace, ns);
    const char *tenant = namespace ? obj_label(namespace, LABEL_TENANT) : NULL;
    JSON_AUTO obj = tenant ? get_object(s, &kind_tenant, tenant) : NULL;
    if (obj && json_at(obj, "spec.residency"))
        residency_rule_read(f->arena, json_at(obj, "spec.residency"), arena_printf(f->arena, "Tenant %s", tenant), VEC_PUSH(&f->rules));
}

/* As gateway/border.c has it: this cloud's own engines stand at its site, servers elsewhere where a Site lists them. */
static const struct residency_site *site_at(const struct apiserver *s, const struct found *f, const char *address)
{
    const char *host = strstr(address, "://");
    if (host)
        return residency_site_of_server(f->sites.ptr, f->sites.len, arena_strndup(f->arena, str_n(host + 3, strcspn(host + 3, "/"))));
    for (size_t i = 0; s->o.site && i < f->sites.len; i++)
        if (!strcmp(f->sites.ptr[i].name, s->o.site))
            return &f->sites.ptr[i];
    return NULL;
}

/* key NULL: whatever it is. */
static const char *barred_at(const struct found *f, const char *model, const char *key, const struct residency_site *site)
{
    for (size_t i = 0; i < f->rules.len; i++) {
        const struct residency_rule *r = &f->rules.ptr[i];
        if ((key || !*r->keys) && residency_applies(r, model, key ? key : "") && !residency_allows(r, site))
            return r->name;
    }
    return NULL;
}

/* The first rule that bars, where each address is barred. */
static const char *barred_everywhere(const struct apiserver *s, const struct found *f, const char *model, const char *key, const char *const *addresses)
{
    const char *first = NULL, *rule = NULL;
    for (size_t i = 0; addresses[i]; i++) {
        if (!(rule = barred_at(f, model, key, site_at(s, f, addresses[i]))))
            return NULL;
        first = first ? first : rule;
    }
    return first;
}

/* Keys of rules for some keys, of which no request is let through; *ret_keys names those of the first such rule. */
static const char *barred_keys(const struct apiserver *s, const struct found *f, const char *model, const char *const *addresses, const char **ret_keys)
{
    const char *first = NULL;
    VEC_FOREACH (&f->rules, r)
        for (const char *const *key = r->keys; *key; key++) {
            const char *rule = residency_applies(r, model, *key) ? barred_everywhere(s, f, model, *key, addresses) : NULL;
            if (!rule || (first && first != r->name))
                continue;
            *ret_keys = first ? arena_printf(f->arena, "%s, %s", *ret_keys, *key) : *key;
            first = r->name;
        }
    return first;
}

const char *border_check(void *ctx, struct arena *a, const char *ns, const char *model, const char *const *addresses, const char **ret_keys)
{
    struct apiserver *s = ctx;
    struct found f = {.arena = a};
    const char *rule;
    *ret_keys = NULL;
    add_tenant(s, ns, &f);
    each(s, &kind_residency_policy, ns, add_policy, &f);
    if (f.rules.len)
        each(s, &kind_site, NULL, add_site, &f);
    rule = barred_everywhere(s, &f, model, NULL, addresses);
    if (!rule)
        rule = barred_keys(s, &f, model, addresses, ret_keys);
    VEC_DEINIT(&f.sites);
    VEC_DEINIT(&f.rules);
    return rule;
}
