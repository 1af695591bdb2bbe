#include "kaas/storage_kinds.h"

#include "node/snapshots.h"

/* Kinds of k8s.io's groups carry who has approved them; these are written here, with what of upstream's our driver serves. */
#define KIND(plural, kind, singular, scope, columns, status, schema)                                                                                                                                       \
    "{\"apiVersion\":\"apiextensions.k8s.io/v1\",\"kind\":\"CustomResourceDefinition\",\"metadata\":{\"name\":\"" plural "." SNAPSHOT_GROUP "\",\"annotations\":{"                                        \
    "\"api-approved.kubernetes.io\":\"unapproved, the part of v1 that this cloud serves\"}},\"spec\":{\"group\":\"" SNAPSHOT_GROUP "\",\"scope\":\"" scope "\",\"names\":{\"kind\":\"" kind                  \
    "\",\"listKind\":\"" kind "List\",\"plural\":\"" plural "\",\"singular\":\"" singular "\"},\"versions\":[{\"name\":\"v1\",\"served\":true,\"storage\":true,"                                             \
    "\"additionalPrinterColumns\":[" columns "{\"name\":\"Age\",\"type\":\"date\",\"jsonPath\":\".metadata.creationTimestamp\"}]," status                                                                \
    "\"schema\":{\"openAPIV3Schema\":{\"type\":\"object\"," schema "}}}]}}"
#define COLUMN(name, type, path) "{\"name\":\"" name "\",\"type\":\"" type "\",\"jsonPath\":\"" path "\"},"
#define WITH_STATUS "\"subresources\":{\"status\":{}},"
#define TEXT "{\"type\":\"string\"}"
#define YES_NO "{\"type\":\"boolean\"}"
#define POLICY "{\"type\":\"string\",\"enum\":[\"Delete\",\"Retain\"]}"
#define ERROR_SCHEMA "{\"type\":\"object\",\"properties\":{\"message\":" TEXT ",\"time\":{\"type\":\"string\",\"format\":\"date-time\"}}}"
#define REF_SCHEMA                                                                                                                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"apiVersion\":" TEXT ",\"kind\":" TEXT ",\"namespace\":" TEXT ",\"name\":" TEXT ",\"uid\":" TEXT ",\"resourceVersion\":" TEXT ",\"fieldPath\":" TEXT "}}"
#define SAME "\"x-kubernetes-validations\":[{\"rule\":\"self == oldSelf\",\"message\":\"cannot be changed\"}]"

const char storage_kind_class[] =
    KIND("volumesnapshotclasses", "VolumeSnapshotClass", "volumesnapshotclass", "Cluster", COLUMN("Driver", "string", ".driver") COLUMN("DeletionPolicy", "string", ".deletionPolicy"), "",
         "\"required\":[\"driver\",\"deletionPolicy\"],\"properties\":{\"driver\":" TEXT ",\"deletionPolicy\":" POLICY ",\"parameters\":{\"type\":\"object\",\"additionalProperties\":" TEXT "}}");

const char storage_kind_snapshot[] =
    KIND("volumesnapshots", "VolumeSnapshot", "volumesnapshot", "Namespaced",
         COLUMN("ReadyToUse", "boolean", ".status.readyToUse") COLUMN("SourcePVC", "string", ".spec.source.persistentVolumeClaimName") COLUMN("RestoreSize", "string", ".status.restoreSize")
             COLUMN("SnapshotClass", "string", ".spec.volumeSnapshotClassName") COLUMN("Error", "string", ".status.error.message"),
         WITH_STATUS,
         "\"required\":[\"spec\"],\"properties\":{\"spec\":{\"type\":\"object\",\"required\":[\"source\"],\"properties\":{\"source\":{\"type\":\"object\",\"required\":[\"persistentVolumeClaimName\"],"
         "\"properties\":{\"persistentVolumeClaimName\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":253}}," SAME "},\"volumeSnapshotClassName\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":253}}},"
         "\"status\":{\"type\":\"object\",\"properties\":{\"boundVolumeSnapshotContentName\":" TEXT ",\"creationTime\":{\"type\":\"string\",\"format\":\"date-time\"},\"readyToUse\":" YES_NO
         ",\"restoreSize\":" TEXT ",\"error\":" ERROR_SCHEMA "}}}");

const char storage_kind_content[] =
    KIND("volumesnapshotcontents", "VolumeSnapshotContent", "volumesnapshotcontent", "Cluster",
         COLUMN("ReadyToUse", "boolean", ".status.readyToUse") COLUMN("RestoreSize", "integer", ".status.restoreSize") COLUMN("DeletionPolicy", "string", ".spec.deletionPolicy")
             COLUMN("Driver", "string", ".spec.driver") COLUMN("VolumeSnapshot", "string", ".spec.volumeSnapshotRef.name") COLUMN("Namespace", "string", ".spec.volumeSnapshotRef.namespace"),
         WITH_STATUS,
         "\"required\":[\"spec\"],\"properties\":{\"spec\":{\"type\":\"object\",\"required\":[\"driver\",\"deletionPolicy\",\"source\",\"volumeSnapshotRef\"],\"properties\":{\"driver\":" TEXT
         ",\"deletionPolicy\":" POLICY ",\"volumeSnapshotClassName\":" TEXT ",\"source\":{\"type\":\"object\",\"properties\":{\"volumeHandle\":" TEXT "}," SAME "},\"volumeSnapshotRef\":" REF_SCHEMA "}},"
         "\"status\":{\"type\":\"object\",\"properties\":{\"snapshotHandle\":" TEXT ",\"creationTime\":{\"type\":\"integer\",\"format\":\"int64\"},\"restoreSize\":{\"type\":\"integer\",\"format\":\"int64\"},"
         "\"readyToUse\":" YES_NO ",\"error\":" ERROR_SCHEMA "}}}");
