/* What exists in every Seki: namespaces, and the roles and bindings that Kubernetes' clients expect. */
#ifndef SEKI_APISERVER_DEFAULTS_H
#define SEKI_APISERVER_DEFAULTS_H

#include "json/json.h"

/* All of them, in the order in which they are made; a new list of documents. What the roles of a project (admin, edit, view) allow comes from the tables of the kinds. */
json_t *default_objects(void);

/* An object as it should be from now on: what a default has is added where it is missing (rules, subjects, selectors, labels), nothing is taken away. Objects that say
 * "rbac.authorization.kubernetes.io/autoupdate": "false" stay as they are. A new document, or NULL: nothing is to be done. */
json_t *default_merge(const json_t *existing, const json_t *wanted);
/* The binding binds another role: it is to be made anew, because that cannot change. */
bool default_rebinds(const json_t *existing, const json_t *wanted);

#endif
