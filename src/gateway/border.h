/* The border in the data plane: at which sites replicas stand, and which of them a request may be sent to. What is allowed is decided in policy/residency.h.
 *
 * Where a replica stands is said by whoever runs the cloud and by nobody else: engines of this cloud stand at its own site (option `site`), servers elsewhere where a Site lists them. The mask
 * that border_barred() gives goes into the request's wish before anything is scored: first choice, other replicas after a failure and those that a waiting request gets obey it alike.
 * A border belongs to a snapshot, in its arena. Threads: build on one, read on any.
 */
#ifndef SEKI_GATEWAY_BORDER_H
#define SEKI_GATEWAY_BORDER_H

#include "policy/residency.h"

struct snap_endpoint;
struct snap_key;
struct border;

/* own_site: of this cloud's engines; NULL or "": not said. Documents may be NULL. */
struct border *border_new(struct arena *a, const json_t *sites, const json_t *policies, const json_t *tenants, const char *own_site);
void border_free(struct border *b); /* what is not in the arena */
/* address: "unix:/…", "https://HOST:PORT". NULL: no Site is known for it. */
const struct residency_site *border_site(const struct border *b, const char *address);

/* A bit for each replica of the endpoint that requests of the key must not reach. asked: the model's name in the request. *ret_rule: the first rule that bars one, or NULL; may be NULL. */
uint64_t border_barred(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule);
/* The same by what b says of their addresses: for an endpoint of an older snapshot. */
uint64_t border_barred_now(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule);
/* Nothing that serves is allowed, though something may serve. *ret_rule: which rule. False too where a replica is allowed that does not serve now: that is a matter of waiting. */
bool border_shuts(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const char **ret_rule);

/* The rule that bars the site for such a request; NULL: it is allowed there. site NULL: not known. */
const char *border_rule(const struct border *b, const struct snap_key *k, const struct snap_endpoint *e, const char *asked, const struct residency_site *site);

#endif
