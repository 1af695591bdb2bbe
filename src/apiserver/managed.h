/* metadata.managedFields: who set which field. Pure functions on documents.
 *
 * Each entry is a manager: a name, an operation (Apply or Update) and a subresource, with the set of fields that it owns (json/fieldset.h) in the object's only
 * version. A write by Update takes what it changed from all others and gives it to the writer; a write by Apply makes the writer's set what it applied, and others lose
 * what it changed. Fields that only the server sets belong to nobody.
 */
#ifndef SEKI_APISERVER_MANAGED_H
#define SEKI_APISERVER_MANAGED_H

#include "kinds/kind.h"

#define MANAGER_NAME_MAX 128

struct managed_by {
    const char *manager, *subresource; /* "" is the object itself */
    bool apply;
};

/* The rows whose fields somebody can own by writes to that subresource: an array in the arena. */
const struct field *managed_rows(const struct kind *k, const char *subresource, struct arena *a);
/* All rows of an object, metadata's too, as apply lays one document over another. */
const struct field *managed_all_rows(const struct kind *k, struct arena *a);

/* What an applied document sets; new reference. */
json_t *managed_applied(const struct kind *k, const char *subresource, struct arena *a, const json_t *doc);
/* What `by` owns in obj; new reference. */
json_t *managed_owned(const json_t *obj, const struct managed_by *by);
/* What all others own; new reference. */
json_t *managed_owned_by_others(const json_t *obj, const struct managed_by *by);
/* The fields that differ from live in obj and that others own; new reference. */
json_t *managed_conflicting(const struct kind *k, struct arena *a, const json_t *live, const json_t *obj, const struct managed_by *by);
/* The same as causes of a Conflict; NULL: none. text gets Kubernetes' message. */
json_t *managed_conflicts(const struct kind *k, struct arena *a, const json_t *live, const json_t *obj, const struct managed_by *by, struct sbuf *text);

/* Puts managedFields into obj, which is otherwise as it will be stored. live NULL: it is created. applied: the set that an apply sets, else NULL. sent: managedFields as
 * the client sent them, or NULL: a valid list replaces live's, and one that is [{}] clears it. */
void managed_record(const struct kind *k, struct arena *a, const json_t *live, json_t *obj, const struct managed_by *by, const json_t *applied, const json_t *sent, int64_t now_ms);

#endif
