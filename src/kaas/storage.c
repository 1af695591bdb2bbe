#include "kaas/storage.h"
#include "kaas/storage_kinds.h"

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "crypto/pki.h"
#include "kinds/kind.h"
#include "node/agent.h"
#include "node/claims.h"
#include "node/csi.h"
#include "node/snapshots.h"

#define RBAC "rbac.authorization.k8s.io"
#define STORAGE "storage.k8s.io"
#define WRITTEN "seki.cloud/written" /* annotation: a digest of what we have written */
#define MANAGER "seki"               /* whose fields they are */
#define TEXT_MAX 65536

static const struct client_resource cluster_roles = {RBAC, "v1", "clusterroles", false};
static const struct client_resource cluster_role_bindings = {RBAC, "v1", "clusterrolebindings", false};
static const struct client_resource drivers = {STORAGE, "v1", "csidrivers", false};
static const struct client_resource classes = {STORAGE, "v1", "storageclasses", false};
static const struct client_resource kinds = {"apiextensions.k8s.io", "v1", "customresourcedefinitions", false};
static const struct client_resource snapshot_classes = {SNAPSHOT_GROUP, "v1", "volumesnapshotclasses", false};
static const struct client_resource snapshot_contents = {SNAPSHOT_GROUP, "v1", "volumesnapshotcontents", false};
static const struct client_resource volumes = {"", "v1", "persistentvolumes", false};

static const struct {
    const struct client_resource *resource;
    bool storage; /* only where there are volumes */
    const char *text;
} objects[] = {
    {&cluster_roles, false,
     "{\"apiVersion\":\"" RBAC "/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"seki:node-agent\"},\"rules\":["
     "{\"apiGroups\":[\"\"],\"resources\":[\"pods\",\"namespaces\"],\"verbs\":[\"list\",\"watch\"]},"
     "{\"apiGroups\":[\"networking.k8s.io\"],\"resources\":[\"networkpolicies\"],\"verbs\":[\"list\",\"watch\"]},"
     "{\"apiGroups\":[\"\"],\"resources\":[\"persistentvolumeclaims\"],\"verbs\":[\"list\",\"watch\",\"patch\"]},"
     "{\"apiGroups\":[\"\"],\"resources\":[\"persistentvolumes\"],\"verbs\":[\"list\",\"watch\",\"create\",\"update\",\"delete\"]},"
     "{\"apiGroups\":[\"" STORAGE "\"],\"resources\":[\"storageclasses\"],\"verbs\":[\"get\"]},"
     "{\"apiGroups\":[\"" SNAPSHOT_GROUP "\"],\"resources\":[\"volumesnapshotclasses\"],\"verbs\":[\"get\",\"list\"]},"
     "{\"apiGroups\":[\"" SNAPSHOT_GROUP "\"],\"resources\":[\"volumesnapshots\"],\"verbs\":[\"list\",\"watch\"]},"
     "{\"apiGroups\":[\"" SNAPSHOT_GROUP "\"],\"resources\":[\"volumesnapshotcontents\"],\"verbs\":[\"get\",\"list\",\"watch\",\"create\",\"update\",\"delete\"]},"
     "{\"apiGroups\":[\"" SNAPSHOT_GROUP "\"],\"resources\":[\"volumesnapshots/status\",\"volumesnapshotcontents/status\"],\"verbs\":[\"patch\"]},"
     "{\"apiGroups\":[\"\"],\"resources\":[\"events\"],\"verbs\":[\"create\"]}]}"},
    {&cluster_role_bindings, false,
     "{\"apiVersion\":\"" RBAC "/v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"seki:node-agent\"},"
     "\"roleRef\":{\"apiGroup\":\"" RBAC "\",\"kind\":\"ClusterRole\",\"name\":\"seki:node-agent\"},"
     "\"subjects\":[{\"apiGroup\":\"" RBAC "\",\"kind\":\"Group\",\"name\":\"" AGENT_ORG "\"}]}"},
    {&drivers, true,
     "{\"apiVersion\":\"" STORAGE "/v1\",\"kind\":\"CSIDriver\",\"metadata\":{\"name\":\"" CSI_DRIVER "\"},\"spec\":{\"attachRequired\":false,\"podInfoOnMount\":false,"
     "\"storageCapacity\":false,\"fsGroupPolicy\":\"File\",\"volumeLifecycleModes\":[\"Persistent\"]}}"},
    {&classes, true,
     "{\"apiVersion\":\"" STORAGE "/v1\",\"kind\":\"StorageClass\",\"metadata\":{\"name\":\"" STORAGE_CLASS "\",\"annotations\":{\"storageclass.kubernetes.io/is-default-class\":\"true\"}},"
     "\"provisioner\":\"" CSI_DRIVER "\",\"volumeBindingMode\":\"WaitForFirstConsumer\",\"reclaimPolicy\":\"Delete\",\"allowVolumeExpansion\":false}"},
    {&kinds, true, storage_kind_class},
    {&kinds, true, storage_kind_snapshot},
    {&kinds, true, storage_kind_content},
    {&snapshot_classes, true,
     "{\"apiVersion\":\"" SNAPSHOT_GROUP "/v1\",\"kind\":\"VolumeSnapshotClass\",\"metadata\":{\"name\":\"" STORAGE_CLASS "\",\"annotations\":{"
     "\"snapshot.storage.kubernetes.io/is-default-class\":\"true\"}},\"driver\":\"" CSI_DRIVER "\",\"deletionPolicy\":\"Delete\"}"},
};

/* Kinds that others have made, such as upstream's, are as good as ours. */
static bool differs(const struct client_resource *r, const json_t *there, const char *digest)
{
    const char *written = obj_annotation(there, WRITTEN);
    return written ? strcmp(written, digest) != 0 : r != &kinds;
}

static int one(struct client *c, const struct client_resource *r, const char *text, struct err *err)
{
    JSON_AUTO doc = NULL;
    JSON_AUTO there = NULL;
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    struct err why = ERR_INIT;
    int rc = json_parse(str_of(text), TEXT_MAX, &doc, err);
    if (rc < 0)
        return rc;
    hash_sha256(str_of(text), digest);
    hash_hex(digest, sizeof(digest), hex);
    hex[16] = 0;
    json_t *annotations = json_at(doc, "metadata.annotations");
    if (!annotations)
        json_put(doc, "metadata.annotations", annotations = json_object());
    json_object_set_new(annotations, WRITTEN, json_string(hex));
    rc = client_get(c, r, NULL, obj_name(doc), &there, &why);
    /* Applied, so that what a later release does not have any more goes from what an earlier one
     * has made. And an API server sleeps two seconds before it creates the first of a kind that it
     * has known for less; not so when it is applied. */
    if (rc == ERR_NOT_FOUND || (rc == 0 && differs(r, there, hex))) {
        rc = client_apply(c, r, doc, MANAGER, there != NULL, NULL, &why);
        rc = rc == ERR_CONFLICT && !there ? 0 : rc; /* somebody was faster */
    }
    return rc == 0 ? 0 : err_set(err, rc, "%s", why.msg);
}

int storage_objects_ensure(struct client *c, bool with_storage, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(objects); i++)
        if (with_storage || !objects[i].storage)
            rc = one(c, objects[i].resource, objects[i].text, err);
    return rc;
}

int agent_files_ensure(const struct node *n, uint64_t life_ms, int64_t storage, struct err *err)
{
    CLEANUP(mem_freep) char *etc = xasprintf("%s/etc", n->dir);
    CLEANUP(mem_freep) char *path = xasprintf("%s/agent.json", etc);
    CLEANUP(mem_freep) char *pki = xasprintf("%s/pki", n->site->dir);
    CLEANUP(mem_freep) char *text = xasprintf("{\"storageBytes\": %lld, \"podCIDR\": \"%s\"}\n", (long long)storage, n->pod_cidr);
    CLEANUP(mem_freep) char *name = xasprintf("seki:node-agent:%s", n->name);
    CLEANUP(mem_freep) char *there = NULL;
    const char *const orgs[] = {AGENT_ORG, NULL};
    const struct pki_leaf leaf = {.common_name = name, .orgs = orgs, .usage = PKI_CLIENT, .days = (int)(life_ms / 86400000u), .seconds = life_ms < 86400000u ? (int)(life_ms / 1000) : 0};
    struct pki_ca *ca = NULL;
    size_t len = 0;
    int rc = file_read(path, TEXT_MAX, &there, &len, NULL) == 0 && str_eqc(str_n(there, len), text) ? 0 : file_write(path, str_of(text), 0600, err);
    if (rc == 0)
        rc = pki_ca_ensure(pki, "ca", "kubernetes", &ca, err);
    if (rc == 0)
        rc = pki_leaf_ensure(ca, etc, "agent", &leaf, NULL, err);
    pki_ca_free(ca);
    return rc;
}

static int forget(struct client *c, const struct client_resource *r, const char *node,
                  struct err *err)
{
    JSON_AUTO list = NULL;
    char selector[128];
    size_t i;
    json_t *one;
    snprintf(selector, sizeof(selector), CLAIM_NODE_LABEL "=%s", node);
    int rc = client_list(c, r, NULL, selector, &list, NULL, err);
    json_array_foreach (list, i, one) {
        struct err why = ERR_INIT;
        JSON_AUTO patch = json_pack("{s:{s:[]}}", "metadata", "finalizers");
        int one_rc = client_delete(c, r, NULL, obj_name(one), obj_uid(one), &why);
        if (one_rc == 0)
            one_rc = client_patch(c, r, NULL, obj_name(one), NULL, patch, NULL, &why);
        if (one_rc < 0 && one_rc != ERR_NOT_FOUND)
            rc = err_set(err, one_rc, "%s", why.msg);
    }
    return rc;
}

int storage_forget(struct client *c, const char *node, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = forget(c, &volumes, node, err);
    if (rc == 0)
        rc = forget(c, &snapshot_contents, node, &why);
    if (rc == ERR_NOT_FOUND) /* a cluster without volumes has no such kind */
        return 0;
    return rc < 0 && why.code ? err_set(err, rc, "%s", why.msg) : rc;
}
