#include "apiserver/types.h"

#include "apiserver/meta.h"

#define META_V1 "io.k8s.apimachinery.pkg.apis.meta.v1."
#define TYPE_MEMBERS \
    {.name = "apiVersion", .type = FIELD_STRING, .help = "versioned schema of this document"}, {.name = "kind", .type = FIELD_STRING, .help = "name of this document's kind"}

const struct field managed_field_fields[] = {
    {.name = "manager", .type = FIELD_STRING, .help = "who manages the fields"},
    {.name = "operation", .type = FIELD_STRING, .help = "Apply or Update"},
    {.name = "apiVersion", .type = FIELD_STRING, .help = "version in which the fields are named"},
    {.name = "time", .type = FIELD_TIME, .flags = FIELD_NULLABLE, .help = "when the set of fields last changed"},
    {.name = "fieldsType", .type = FIELD_STRING, .help = "FieldsV1"},
    {.name = "fieldsV1", .type = FIELD_ANY, .flags = FIELD_NULLABLE, .help = "the fields, as a trie of \"f:NAME\", \"k:{KEYS}\" and \"v:VALUE\""},
    {.name = "subresource", .type = FIELD_STRING, .help = "through which subresource"},
    {0},
};
const struct field list_meta_fields[] = {
    {.name = "resourceVersion", .type = FIELD_STRING, .help = "version of the list, to watch from"},
    {.name = "continue", .type = FIELD_STRING, .help = "asks for the next page; empty: there is none"},
    {.name = "remainingItemCount", .type = FIELD_INT, .help = "objects on the pages to come; absent when selectors make that unknown"},
    {.name = "selfLink", .type = FIELD_STRING, .help = "not used any more"},
    {0},
};
static const struct field precondition_fields[] = {
    {.name = "uid", .type = FIELD_STRING, .proto = 1, .help = "the object must have it"},
    {.name = "resourceVersion", .type = FIELD_STRING, .proto = 2, .help = "the object must be of this version"},
    {0},
};
const struct field delete_option_fields[] = {
    TYPE_MEMBERS,
    {.name = "preconditions", .type = FIELD_OBJECT, .proto = 2, .flags = FIELD_NULLABLE, .sub = precondition_fields, .help = "what must hold, else the answer is 409"},
    {.name = "propagationPolicy", .type = FIELD_ENUM, .proto = 4, .flags = FIELD_NULLABLE, .values = "Background|Foreground|Orphan", .help = "what becomes of what the object owns"},
    {.name = "gracePeriodSeconds", .type = FIELD_INT, .proto = 1, .flags = FIELD_NULLABLE, .min = 0, .max = 1000000, .help = "kept for clients that send it"},
    {.name = "orphanDependents", .type = FIELD_BOOL, .proto = 3, .flags = FIELD_NULLABLE, .help = "older form of propagationPolicy"},
    {.name = "dryRun", .type = FIELD_LIST, .proto = 5, .elem = FIELD_STRING, .flags = FIELD_NULLABLE, .help = "All: check everything and delete nothing"},
    {.name = "ignoreStoreReadErrorWithClusterBreakingPotential", .type = FIELD_BOOL, .flags = FIELD_NULLABLE, .help = "kept for clients that send it"},
    {0},
};
static const struct field cause_fields[] = {
    {.name = "reason", .type = FIELD_STRING, .help = "stable code of the cause"},
    {.name = "message", .type = FIELD_STRING, .help = "the cause in words"},
    {.name = "field", .type = FIELD_STRING, .help = "path of the field that caused it"},
    {0},
};
static const struct field detail_fields[] = {
    {.name = "name", .type = FIELD_STRING, .help = "of the object"},
    {.name = "group", .type = FIELD_STRING, .help = "of the object's kind"},
    {.name = "kind", .type = FIELD_STRING, .help = "of the object"},
    {.name = "uid", .type = FIELD_STRING, .help = "of the object"},
    {.name = "causes", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = cause_fields, .help = "everything that was wrong"},
    {.name = "retryAfterSeconds", .type = FIELD_INT, .help = "when to try again"},
    {0},
};
const struct field status_fields[] = {
    TYPE_MEMBERS,
    {.name = "metadata", .type = FIELD_OBJECT, .sub = list_meta_fields, .help = "of a list that failed: how to go on"},
    {.name = "status", .type = FIELD_STRING, .help = "Success or Failure"},
    {.name = "message", .type = FIELD_STRING, .help = "for people"},
    {.name = "reason", .type = FIELD_STRING, .help = "stable code of the failure"},
    {.name = "details", .type = FIELD_OBJECT, .sub = detail_fields, .help = "what it is about"},
    {.name = "code", .type = FIELD_INT, .help = "HTTP status"},
    {0},
};
static const struct field scale_spec[] = {
    {.name = "replicas", .type = FIELD_INT, .min = 0, .help = "wanted"},
    {0},
};
static const struct field scale_status[] = {
    {.name = "replicas", .type = FIELD_INT, .help = "there are"},
    {.name = "selector", .type = FIELD_STRING, .help = "labels of the replicas"},
    {0},
};
const struct field scale_fields[] = {
    TYPE_MEMBERS,
    {.name = "metadata", .type = FIELD_OBJECT, .sub = meta_fields, .help = "of the object that is scaled"},
    {.name = "spec", .type = FIELD_OBJECT, .sub = scale_spec, .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .sub = scale_status, .help = "what is"},
    {0},
};
static const struct field watch_event_fields[] = {
    {.name = "type", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "ADDED, MODIFIED, DELETED, BOOKMARK or ERROR"},
    {.name = "object", .type = FIELD_ANY, .flags = FIELD_REQUIRED, .help = "the object after the change (DELETED: before), a bookmark, or a Status"},
    {0},
};
static const struct field column_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "heading"},
    {.name = "type", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "OpenAPI type of the cells; date: an age"},
    {.name = "format", .type = FIELD_STRING, .help = "name: the object's name"},
    {.name = "description", .type = FIELD_STRING, .help = "what the column shows"},
    {.name = "priority", .type = FIELD_INT, .help = "0 always, more only where there is room"},
    {0},
};
static const struct field row_fields[] = {
    {.name = "cells", .type = FIELD_ANY, .flags = FIELD_REQUIRED, .help = "one value a column"},
    {.name = "object", .type = FIELD_ANY, .help = "the object, its metadata, or null, as includeObject says"},
    {0},
};
static const struct field table_fields[] = {
    TYPE_MEMBERS,
    {.name = "metadata", .type = FIELD_OBJECT, .sub = list_meta_fields, .help = "of the list"},
    {.name = "columnDefinitions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = column_fields, .help = "the columns"},
    {.name = "rows", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = row_fields, .help = "the rows"},
    {0},
};
static const struct field audit_record_fields[] = {
    {.name = "type", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "write, read, token, impersonation, denied, refused, undone or restored"},
    {.name = "sequence", .type = FIELD_INT, .flags = FIELD_REQUIRED, .help = "its number in the ledger of all tenants"},
    {.name = "time", .type = FIELD_TIME, .flags = FIELD_REQUIRED, .help = "when it was recorded"},
    {.name = "id", .type = FIELD_STRING, .help = "of the request"},
    {.name = "user", .type = FIELD_STRING, .help = "who asked"},
    {.name = "uid", .type = FIELD_STRING, .help = "the user's"},
    {.name = "groups", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "the user's"},
    {.name = "sender", .type = FIELD_STRING, .help = "who asked in the user's name"},
    {.name = "source", .type = FIELD_STRING, .help = "the address it came from"},
    {.name = "agent", .type = FIELD_STRING, .help = "what the client calls itself"},
    {.name = "verb", .type = FIELD_STRING, .help = "as roles name it"},
    {.name = "group", .type = FIELD_STRING, .help = "of the kind"},
    {.name = "resource", .type = FIELD_STRING, .help = "the kind, in the plural"},
    {.name = "subresource", .type = FIELD_STRING, .help = "of the object"},
    {.name = "namespace", .type = FIELD_STRING, .help = "of the object"},
    {.name = "name", .type = FIELD_STRING, .help = "of the object"},
    {.name = "object", .type = FIELD_STRING, .help = "the object's uid, or the id of a token"},
    {.name = "tenant", .type = FIELD_STRING, .help = "whose it is"},
    {.name = "actor_tenant", .type = FIELD_STRING, .help = "whose user it was; absent: the cloud's own"},
    {.name = "origin", .type = FIELD_STRING, .help = "of what another process wrote first: where"},
    {.name = "rule", .type = FIELD_STRING, .help = "what allowed or refused it"},
    {.name = "status", .type = FIELD_INT, .help = "HTTP status of the answer"},
    {.name = "reason", .type = FIELD_STRING, .help = "stable code of a refusal"},
    {.name = "rev", .type = FIELD_INT, .help = "resource version of the write"},
    {.name = "last_rev", .type = FIELD_INT, .help = "of undone: the last of those writes"},
    {.name = "count", .type = FIELD_INT, .help = "how often within a second; absent: once"},
    {.name = "previous_sha256", .type = FIELD_STRING, .help = "hash of the record before it in the ledger"},
    {0},
};
static const struct field audit_list_fields[] = {
    TYPE_MEMBERS,
    {.name = "metadata", .type = FIELD_OBJECT, .sub = list_meta_fields, .help = "of the list"},
    {.name = "items", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = audit_record_fields, .help = "the records, in their order; a page may have none and yet not be the last"},
    {0},
};

static const struct field text_fields[] = {
    TYPE_MEMBERS,
    {.name = "metadata", .type = FIELD_OBJECT, .sub = list_meta_fields, .help = "continue says where the next lines begin: the query's `after`"},
    {.name = "text", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "whole lines; empty: there are no more at present"},
    {0},
};

const struct api_type api_types[] = {
    {TYPE_OBJECT_META, meta_fields, NULL, NULL, NULL, "ObjectMeta is what all objects have."},
    {META_V1 "OwnerReference", owner_fields, NULL, NULL, NULL, "OwnerReference names an object that owns this one."},
    {META_V1 "ManagedFieldsEntry", managed_field_fields, NULL, NULL, NULL, "ManagedFieldsEntry says who manages which fields."},
    {TYPE_LIST_META, list_meta_fields, NULL, NULL, NULL, "ListMeta is what all lists have."},
    {META_V1 "Preconditions", precondition_fields, NULL, NULL, NULL, "Preconditions must hold, or nothing is done."},
    {TYPE_DELETE_OPTIONS, delete_option_fields, "", "v1", "DeleteOptions", "DeleteOptions says how to delete."},
    {META_V1 "StatusCause", cause_fields, NULL, NULL, NULL, "StatusCause is one thing that was wrong."},
    {META_V1 "StatusDetails", detail_fields, NULL, NULL, NULL, "StatusDetails says what a Status is about."},
    {TYPE_STATUS, status_fields, "", "v1", "Status", "Status answers requests that have no object to answer."},
    {META_V1 "WatchEvent", watch_event_fields, "", "v1", "WatchEvent", "WatchEvent is one line of a watch."},
    {META_V1 "TableColumnDefinition", column_fields, NULL, NULL, NULL, "TableColumnDefinition describes a column."},
    {META_V1 "TableRow", row_fields, NULL, NULL, NULL, "TableRow shows one object."},
    {META_V1 "Table", table_fields, "meta.k8s.io", "v1", "Table", "Table is a list for people: Accept: application/json;as=Table;v=v1;g=meta.k8s.io."},
    {TYPE_PATCH, NULL, NULL, NULL, NULL, "Patch is a change in the form that the Content-Type names."},
    {TYPE_AUDIT_RECORD, audit_record_fields, NULL, NULL, NULL, "AuditRecord says who did what, by which rule, with what result."},
    {TYPE_AUDIT_RECORD "List", audit_list_fields, "seki.cloud", "v1alpha1", AUDIT_RECORD_LIST, "AuditRecordList is a tenant's part of the audit ledger, or a page of it."},
    {"cloud.seki.v1alpha1." OBJECT_TEXT, text_fields, "seki.cloud", "v1alpha1", OBJECT_TEXT, "ObjectText is a piece of a log that belongs to an object."},
    {TYPE_SCALE, scale_fields, "autoscaling", "v1", "Scale", "Scale is the number of replicas of an object."},
    {0},
};
