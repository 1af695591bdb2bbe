/* CustomResourceDefinition of apiextensions.k8s.io/v1: there are none, and none can be made: all kinds are this program's own. Clients that look through them before anything else
 * (Terraform's kubernetes_manifest) find an empty list. */
#include "kinds/kind.h"

static const struct field fields[] = {
    {.name = "spec", .type = FIELD_ANY, .help = "what the kind is; there are none"},
    {.name = "status", .type = FIELD_ANY, .help = "whether it is served"},
    {0},
};

const struct kind kind_custom_resource_definition = {
    .group = "apiextensions.k8s.io", .version = "v1", .name = "CustomResourceDefinition", .plural = "customresourcedefinitions", .singular = "customresourcedefinition", .short_names = "crd,crds",
    .native = true, .read_only = true, .fields = fields, .help = "CustomResourceDefinition would make a kind; here are none, and none can be made.",
};
