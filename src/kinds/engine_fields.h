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

/* spec.visibility and spec.tenants, of endpoints and routes. */
void visibility_validate(const json_t *spec, struct field_errors *errors);

#endif
