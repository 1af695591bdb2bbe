/* Tenants: who the projects of a cloud belong to. A project is a namespace; its label seki.cloud/tenant, set when it is made and never changed, names its Tenant. A project without that
 * label, or with its own name there and no Tenant of that name, is its own tenant.
 */
#ifndef SEKI_KINDS_TENANCY_H
#define SEKI_KINDS_TENANCY_H

#include "kinds/kind.h"

extern const struct kind kind_tenant, kind_access_grant, kind_limit;

#define TENANT_GROUP "seki:tenant:"       /* NAME: everybody of a tenant; NAME:admins: those who may do everything in it */
#define TENANT_ADMIN "tenant-admin"       /* the service account that is made with a tenant, in its first project */
#define TENANT_BINDING "tenant-admins"    /* the RoleBinding of a tenant's admins to `admin`, in each of its projects … */
#define TENANT_OWNERS "tenant-owners"     /* … and to TENANT_OWNER */
#define TENANT_OWNER "seki:project-owner" /* the ClusterRole of those who may change and delete the project itself */
#define TENANT_ADMINISTER "administer" /* the verb on a Tenant of those who say who its admins are */
#define TENANT_AUDITOR ":auditor"      /* ends the name of the ClusterRole, and of its binding, of those who read a tenant's part of the audit ledger */
#define CONTENT_READER "seki:content-reader" /* the ClusterRole that an AccessGrant gives */
#define TENANT_FINALIZER "seki.cloud/projects"
#define LIMIT_DEFAULT "default" /* the Limit that is made in each project of a tenant */
#define LIMIT_MADE_AS "seki.cloud/made-as" /* annotation: the spec that it was made with, as text; while it is that still, it follows the tenant's */
#define LIMIT_OBJECTS_MIN 16 /* room for what the cloud itself puts into a project */
#define LIMIT_COUNTS_MAX 64

/* "Active" | "Suspended" | "Closing" */
const char *tenant_state(const json_t *tenant);
/* Whether a name in the cluster is the tenant's own: NAME, or NAME-… What its admins make in the cluster has such a name: all names there are one space, and who is told that one is taken would learn
 * what another tenant has. */
bool tenant_owns_name(const char *tenant, const char *name);
/* Subjects of a tenant's bindings: its admins by group and by name, and the account in its first project. New reference. */
json_t *tenant_admins(const json_t *tenant);
/* The ClusterRole of its admins: they see the tenant, its projects and its part of the audit ledger, say who its admins are, end access of its people, give it new keys, and make projects in it
 * and nowhere else (Namespace asks for `use`). New reference. */
json_t *tenant_role(const json_t *tenant);
/* Subjects of spec.auditors, and the ClusterRole for them: `get` on the tenant's part of the audit ledger. New references. */
json_t *tenant_auditors(const json_t *tenant);
json_t *tenant_audit_role(const json_t *tenant);
/* The ClusterRoleBinding of a role's name to these subjects, which are taken over; it goes with the tenant. New reference. */
json_t *tenant_wide_binding(const json_t *tenant, const char *role, json_t *subjects);
/* A RoleBinding of the tenant's admins in one of its projects: to ClusterRole `role`. New reference. */
json_t *tenant_binding(const json_t *tenant, const char *project, const char *name, const char *role);
/* The Limit LIMIT_DEFAULT of a project: the tenant's numbers, sane ones where it says none. New reference. */
json_t *tenant_limit(const json_t *tenant, const char *project);

/* Numbers by resource, in a Limit's spec and in a Tenant's spec.limits: a list map. */
extern const struct field limit_count_fields[];
/* numbers: objects and counts. path: of numbers. The resources must be those of kinds whose objects lie in projects. */
void limit_check_resources(const json_t *numbers, const char *path, struct field_errors *errors);
void limit_each_number(const json_t *numbers, void (*fn)(void *arg, const char *resource, int64_t max), void *arg);

#endif
