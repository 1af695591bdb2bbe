/* The table of struct engine_spec, shared by ModelEndpoint and ModelReplica, and the check that goes with it. */
#ifndef SEKI_KINDS_ENGINE_FIELDS_H
#define SEKI_KINDS_ENGINE_FIELDS_H

#include "kinds/inference.h"

extern const struct field engine_fields[];

/* Rules across fields: which driver needs a model, which a url. path: "spec". */
void engine_validate(const json_t *spec, const char *path, struct field_errors *errors);

extern const struct field adapter_fields[];
/* spec.adapters: which drivers have them, and names that are not taken. path: "spec". */
void adapters_validate(const json_t *spec, const char *path, struct field_errors *errors);

/* Of endpoints and routes (visibility.c). Names that are called: spec.servedName, spec.adapters[].name. What old_spec (NULL: a creation) has already may stay. */
void served_names_validate(const json_t *spec, const json_t *old_spec, struct field_errors *errors);
/* spec.visibility and spec.tenants. */
void visibility_validate(const json_t *spec, struct field_errors *errors);
/* kind_ops.authorize: nobody lets tenants call it that he may not `use`, but its own. What they could call already may stay so under its names, or be
 * narrowed. */
int visibility_authorize(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err);

#endif
