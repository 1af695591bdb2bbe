/* Site and ResidencyPolicy: where things stand, and where a tenant's may be worked on. What they mean is decided in policy/residency.h. */
#ifndef SEKI_KINDS_RESIDENCY_H
#define SEKI_KINDS_RESIDENCY_H

#include "kinds/kind.h"

extern const struct kind kind_site, kind_residency_policy;

/* jurisdictions, sites, clearances: of a Tenant's spec.residency; a ResidencyPolicy's spec begins with them. */
extern const struct field residency_fields[];
/* path: of the object that has them. At least one list must say something. */
void residency_validate(const json_t *obj, const char *path, struct field_errors *errors);

#endif
