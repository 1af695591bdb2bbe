/* Tenants: who the projects of a cloud belong to. A project is a namespace; its label seki.cloud/tenant, set when it is made and never changed, names its Tenant. A project without that
 * label, or with its own name there and no Tenant of that name, is its own tenant.
 */
#ifndef SEKI_KINDS_TENANCY_H
#define SEKI_KINDS_TENANCY_H

#include "kinds/kind.h"

extern const struct kind kind_tenant, kind_access_grant;

#define TENANT_GROUP "seki:tenant:"       /* NAME: everybody of a tenant; NAME:admins: those who may do everything in it */
#define TENANT_ADMIN "tenant-admin"       /* the service account that is made with a tenant, in its first project */
#define TENANT_BINDING "tenant-admins"    /* the RoleBinding of a tenant's admins to `admin`, in each of its projects … */
#define TENANT_OWNERS "tenant-owners"     /* … and to TENANT_OWNER */
#define TENANT_OWNER "seki:project-owner" /* the ClusterRole of those who may change and delete the project itself */
#define CONTENT_READER "seki:content-reader" /* the ClusterRole that an AccessGrant gives */
#define TENANT_FINALIZER "seki.cloud/projects"

/* "Active" | "Suspended" | "Closing" */
const char *tenant_state(const json_t *tenant);
/* Subjects of a tenant's bindings: its admins by group and by name, and the account in its first project. New reference. */
json_t *tenant_admins(const json_t *tenant);
/* A RoleBinding of the tenant's admins in one of its projects: to ClusterRole `role`. New reference. */
json_t *tenant_binding(const json_t *tenant, const char *project, const char *name, const char *role);

#endif
