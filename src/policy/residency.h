/* The border: whether what belongs to a tenant may be worked on at a site. Pure functions; threads: any.
 *
 * A rule is the residency of a Tenant, or a ResidencyPolicy of a project. Several rules hold together, so one that is added can only narrow what is allowed. Within a rule each list that is
 * not empty must be met: the site's jurisdiction is one of `jurisdictions`, the site is one of `sites`, the site has all `clearances`. A place of which no Site is known meets no rule; where
 * there is no rule, everything is allowed. A rule that could not be read (broken) allows nothing.
 */
#ifndef SEKI_POLICY_RESIDENCY_H
#define SEKI_POLICY_RESIDENCY_H

#include "base/arena.h"
#include "json/json.h"

struct residency_site {
    const char *name, *jurisdiction; /* ISO 3166-1 alpha-2: "JP" */
    const char *const *clearances;   /* ends in NULL */
    const char *const *servers;      /* "HOST" or "HOST:PORT" of servers elsewhere that stand there; ends in NULL */
};

struct residency_rule {
    const char *name; /* "Tenant acme", "ResidencyPolicy clinic/only-japan": what a refusal names */
    const char *const *jurisdictions, *const *sites, *const *clearances; /* each ends in NULL */
    const char *const *models, *const *keys; /* whom it is for: served names, APIKeys; empty: all */
    bool broken;
};

/* From a Site; false: it cannot be read, and is none. Texts are copied. */
bool residency_site_read(struct arena *a, const json_t *obj, struct residency_site *ret);
/* From a ResidencyPolicy's spec, or a Tenant's spec.residency. What has a wrong shape is broken. */
void residency_rule_read(struct arena *a, const json_t *spec, const char *name, struct residency_rule *ret);

/* The site with this server among those that stand there; authority: "models.example.com:8443", as in a URL. NULL: none, or several claim
 * it. */
const struct residency_site *residency_site_of_server(const struct residency_site *sites, size_t count, const char *authority);
bool residency_applies(const struct residency_rule *r, const char *model, const char *key);
/* site: NULL: unknown. */
bool residency_allows(const struct residency_rule *r, const struct residency_site *site);

#endif
