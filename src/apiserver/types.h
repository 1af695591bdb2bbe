/* Types that the API has beside its kinds: what requests and answers are made of. For checks of such documents, and for OpenAPI, where each has a schema of its own. */
#ifndef SEKI_APISERVER_TYPES_H
#define SEKI_APISERVER_TYPES_H

#include "json/table.h"

extern const struct field owner_fields[]; /* meta.c */
extern const struct field managed_field_fields[], list_meta_fields[], delete_option_fields[], status_fields[], scale_fields[];

struct api_type {
    const char *name;          /* of the schema: "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta" */
    const struct field *table; /* NULL: any object */
    const char *group, *version, *kind; /* kind NULL: no document of its own */
    const char *help;
};

#define TYPE_OBJECT_META "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
#define TYPE_LIST_META "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
#define TYPE_DELETE_OPTIONS "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
#define TYPE_STATUS "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
#define TYPE_PATCH "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
#define TYPE_AUDIT_RECORD "cloud.seki.v1alpha1.AuditRecord"
#define OBJECT_TEXT "ObjectText"
#define AUDIT_RECORD_LIST "AuditRecordList"
#define TYPE_SCALE "io.k8s.api.autoscaling.v1.Scale"

extern const struct api_type api_types[]; /* ends with name NULL */

#endif
