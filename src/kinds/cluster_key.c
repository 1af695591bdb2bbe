/* ClusterKey: the keys that a cluster's secrets are sealed with (docs/internals/kaas-secrets.md). Named as the Cluster's uid, owned by the Cluster, written by its controller alone. */
#include "kinds/kaas.h"

#define KEYS_MAX 16

static const struct field key_fields[] = {
    {.name = "id", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .min = 32, .max = 32, .help = "what API servers call it: 32 hexadecimal digits"},
    {.name = "key", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_SECRET, .min = 44, .max = 44, .help = "256 bits as base64"},
    {.name = "madeAt", .type = FIELD_TIME, .help = "when it became the one that seals"},
    {.name = "sealedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .help = "when all was found to lie under it or a newer one, for the first time since the last restore"},
    {.name = "tenantKey", .type = FIELD_STRING, .max = 32, .help = "id of the tenant's key that was the current one then; another one makes another key"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "keys", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = key_fields, .list_type = LIST_MAP, .list_key = "id", .min = 1, .max = KEYS_MAX, .help = "the first one seals, all of them open"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .sub = spec_fields, .help = "the keys"},
    {0},
};

const struct kind kind_cluster_key = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "ClusterKey", .plural = "clusterkeys", .singular = "clusterkey", .namespaced = true, .content = true, .uncounted = true,
    .readers = ROLE_NONE, .writers = ROLE_NONE, .fields = fields, .help = "ClusterKey has the keys that a Cluster's secrets are sealed with; it is its controller's alone.",
};
