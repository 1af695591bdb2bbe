/* OpenAPI documents, made of the field tables. v3: one document a group version; v2: one for all, derived from those. Pure functions of the kinds: made once, kept by document.c. */
#ifndef SEKI_APISERVER_OPENAPI_H
#define SEKI_APISERVER_OPENAPI_H

#include "kinds/kind.h"

#define OPENAPI_REF "#/components/schemas/"
#define OPENAPI_V2_REF "#/definitions/"

/* The v3 document of a group version; NULL: there is no such. New reference. */
json_t *openapi_document(struct arena *a, const char *group, const char *version);
/* Paths and their operations of one kind, into paths: openapi_paths.c */
void openapi_add_paths(struct arena *a, json_t *paths, const struct kind *k);
/* "cloud.seki.v1alpha1.ModelEndpoint", "io.k8s.api.core.v1.ConfigMap" */
const char *openapi_schema_name(struct arena *a, const struct kind *k);
/* {group, version, kind} */
json_t *openapi_gvk(const char *group, const char *version, const char *kind);
/* A v3 document joined into the v2 document `all`: openapi_v2.c */
json_t *openapi_v2_new(void);
void openapi_v2_join(json_t *all, const json_t *v3);
/* The v2 document as protobuf: openapi_proto.c */
void openapi_v2_proto(const json_t *v2, struct sbuf *out);

#endif
