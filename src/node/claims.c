#include "node/claims.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/kind.h"
#include "node/csi.h"
#include "node/snapshots.h"
#include "node/volume.h"
#include "node/volume_copy.h"

#define SELECTED "volume.kubernetes.io/selected-node"
#define PROVISIONER "volume.kubernetes.io/storage-provisioner"
#define PROVISIONER_BETA "volume.beta.kubernetes.io/storage-provisioner"
#define PROVISIONED_BY "pv.kubernetes.io/provisioned-by"

static const struct client_resource volumes = {"", "v1", "persistentvolumes", false};
static const struct client_resource claims = {"", "v1", "persistentvolumeclaims", true};
static const struct client_resource classes = {"storage.k8s.io", "v1", "storageclasses", false};
static const struct client_resource events = {"", "v1", "events", true};

/* ---- pure ---- */

int claim_bytes(const char *quantity, int64_t *ret, struct err *err)
{
    static const struct {
        const char *suffix;
        int64_t factor;
    } units[] = {{"", 1}, {"Ki", 1LL << 10}, {"Mi", 1LL << 20}, {"Gi", 1LL << 30}, {"Ti", 1LL << 40}, {"k", 1000}, {"M", 1000000}, {"G", 1000000000}, {"T", 1000000000000}};
    size_t whole = strspn(quantity, "0123456789"), part = quantity[whole] == '.' ? strspn(quantity + whole + 1, "0123456789") : 0;
    const char *suffix = quantity + whole + (quantity[whole] == '.' ? 1 + part : 0);
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        int64_t n, tenths = 0;
        if (strcmp(suffix, units[i].suffix) != 0 || str_to_i64(str_n(quantity, whole), 1 - (part > 0), (1LL << 60) / units[i].factor, &n) < 0)
            continue;
        n *= units[i].factor;
        int64_t unit = units[i].factor;
        for (size_t k = 0; k < part && k < 9; k++) {
            tenths = (quantity[whole + 1 + k] - '0') * unit;
            n += (tenths + 9) / 10;
            unit = (unit + 9) / 10;
        }
        *ret = n;
        return 0;
    }
    return err_field(err, ERR_INVALID, "spec.resources.requests.storage", "expected a size such as 10Gi");
}

void claim_quantity(int64_t bytes, char ret[CLAIM_QUANTITY_MAX])
{
    static const char *const suffixes[] = {"", "Ki", "Mi", "Gi", "Ti"};
    size_t i = 0;
    while (bytes > 0 && bytes % 1024 == 0 && i + 1 < ARRAY_LEN(suffixes)) {
        bytes /= 1024;
        i++;
    }
    snprintf(ret, CLAIM_QUANTITY_MAX, "%lld%s", (long long)bytes, suffixes[i]);
}

static const char *provisioner_of(const json_t *claim)
{
    const char *said = obj_annotation(claim, PROVISIONER);
    said = said && *said ? said : obj_annotation(claim, PROVISIONER_BETA);
    return said ? said : "";
}

bool claim_is_ours(const json_t *claim, const char *node)
{
    const char *selected = obj_annotation(claim, SELECTED);
    return !strcmp(provisioner_of(claim), CSI_DRIVER) && selected && !strcmp(selected, node) && !*json_str_or(claim, "spec.volumeName", "") && !obj_deleting(claim);
}

bool claim_has_snapshot(const json_t *claim)
{
    const json_t *ref = json_at(claim, "spec.dataSourceRef"); /* the API server writes one into the other, where both can say it */
    return !strcmp(json_str_or(claim, "spec.dataSource.kind", ""), "VolumeSnapshot") && !strcmp(json_str_or(claim, "spec.dataSource.apiGroup", ""), SNAPSHOT_GROUP) &&
           (!ref || (!json_at(ref, "namespace") && !strcmp(json_str_or(ref, "kind", ""), "VolumeSnapshot")));
}

int claim_check(const json_t *claim, int64_t *ret_bytes, struct err *err)
{
    size_t i;
    json_t *mode;
    json_array_foreach (json_at(claim, "spec.accessModes"), i, mode) {
        const char *text = json_string_value(mode);
        if (!text || (strcmp(text, "ReadWriteOnce") != 0 && strcmp(text, "ReadWriteOncePod") != 0))
            return err_field(err, ERR_INVALID, "spec.accessModes", "a volume is one node's: ReadWriteOnce or ReadWriteOncePod");
    }
    if (strcmp(json_str_or(claim, "spec.volumeMode", "Filesystem"), "Filesystem") != 0)
        return err_field(err, ERR_INVALID, "spec.volumeMode", "volumes are file systems, not block devices");
    if ((json_at(claim, "spec.dataSource") || json_at(claim, "spec.dataSourceRef")) && !claim_has_snapshot(claim))
        return err_field(err, ERR_INVALID, "spec.dataSource", "expected a VolumeSnapshot of " SNAPSHOT_GROUP " in the claim's namespace, or nothing");
    if (json_at(claim, "spec.selector"))
        return err_field(err, ERR_INVALID, "spec.selector", "a volume is made for each claim; none can be chosen");
    if (!obj_uid(claim) || strlen(obj_uid(claim)) >= VOLUME_ID_MAX - 4)
        return err_field(err, ERR_INVALID, "metadata.uid", "it has none");
    return claim_bytes(json_str_or(claim, "spec.resources.requests.storage", ""), ret_bytes, err);
}

json_t *claim_volume(const json_t *claim, const char *node, const char *reclaim)
{
    char name[VOLUME_ID_MAX], bytes[CLAIM_QUANTITY_MAX];
    int64_t size = 0;
    (void)!claim_bytes(json_str_or(claim, "spec.resources.requests.storage", ""), &size, NULL);
    snprintf(name, sizeof(name), "pvc-%s", obj_uid(claim));
    claim_quantity(MAX(size, VOLUME_MIN_BYTES), bytes);
    json_t *ref = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "apiVersion", "v1", "kind", "PersistentVolumeClaim", "namespace", obj_namespace(claim), "name", obj_name(claim), "uid", obj_uid(claim),
                            "resourceVersion", json_str_or(claim, "metadata.resourceVersion", ""));
    json_t *affinity = json_pack("{s:{s:[{s:[{s:s, s:s, s:[s]}]}]}}", "required", "nodeSelectorTerms", "matchExpressions", "key", "kubernetes.io/hostname", "operator", "In", "values", node);
    json_t *spec = json_pack("{s:{s:s}, s:O, s:s, s:s, s:s, s:o, s:{s:s, s:s, s:s}, s:o}", "capacity", "storage", bytes, "accessModes", json_at(claim, "spec.accessModes"),
                             "persistentVolumeReclaimPolicy", reclaim, "storageClassName", json_str_or(claim, "spec.storageClassName", ""), "volumeMode", "Filesystem", "claimRef", ref, "csi", "driver",
                             CSI_DRIVER, "volumeHandle", name, "fsType", "ext4", "nodeAffinity", affinity);
    return json_pack("{s:s, s:s, s:{s:s, s:{s:s}, s:{s:s}, s:[s]}, s:o}", "apiVersion", "v1", "kind", "PersistentVolume", "metadata", "name", name, "annotations", PROVISIONED_BY, CSI_DRIVER, "labels",
                     CLAIM_NODE_LABEL, node, "finalizers", CLAIM_FINALIZER, "spec", spec);
}

bool volume_is_of(const json_t *volume, const char *node)
{
    json_t *terms = json_at(volume, "spec.nodeAffinity.required.nodeSelectorTerms");
    json_t *values = json_at(json_array_get(json_at(json_array_get(terms, 0), "matchExpressions"), 0), "values");
    const char *said = json_string_value(json_array_get(values, 0));
    return !strcmp(json_str_or(volume, "spec.csi.driver", ""), CSI_DRIVER) && said && !strcmp(said, node);
}

bool volume_is_over(const json_t *volume, const char *node)
{
    const char *phase = json_str_or(volume, "status.phase", "");
    if (!volume_is_of(volume, node) || !strcmp(phase, "Bound") || !obj_has_finalizer(volume, CLAIM_FINALIZER))
        return false;
    if (obj_deleting(volume))
        return true;
    return (!strcmp(phase, "Released") || !strcmp(phase, "Failed")) && !strcmp(json_str_or(volume, "spec.persistentVolumeReclaimPolicy", ""), "Delete");
}

/* ---- passes ---- */

struct claims *claims_new(struct client *c, struct wiper *w, const char *node, const char *dir, int64_t limit)
{
    struct claims *s = XNEW(struct claims);
    *s = (struct claims){c, w, node, dir, limit, map_new(mem_free)};
    return s;
}

void claims_free(struct claims *c)
{
    if (!c)
        return;
    map_free(c->said);
    mem_free(c);
}

static void say(struct claims *c, const json_t *claim, const char *type, const char *reason, const char *message)
{
    char now[CLOCK_TEXT_MAX], name[300];
    struct err ignored = ERR_INIT;
    const char *last = map_getc(c->said, obj_uid(claim));
    if (last && !strcmp(last, message))
        return;
    map_set(c->said, str_of(obj_uid(claim)), xstrdup(message));
    clock_format(clock_wall_ms(), now);
    snprintf(name, sizeof(name), "%.200s.%llx", obj_name(claim), (unsigned long long)clock_wall_ms());
    JSON_AUTO doc = json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:s}, s:s, s:s, s:s, s:{s:s, s:s}, s:s, s:s, s:i}", "apiVersion", "v1", "kind", "Event", "metadata", "name", name,
                              "namespace", obj_namespace(claim), "involvedObject", "apiVersion", "v1", "kind", "PersistentVolumeClaim", "namespace", obj_namespace(claim), "name", obj_name(claim), "uid",
                              obj_uid(claim), "type", type, "reason", reason, "message", message, "source", "component", CSI_DRIVER, "host", c->node, "firstTimestamp", now, "lastTimestamp", now, "count", 1);
    if (client_create(c->client, &events, obj_namespace(claim), doc, NULL, &ignored) < 0)
        log_info("an event could not be sent", KVE(&ignored));
}

/* Another node may have room. */
static void give_back(struct claims *c, const json_t *claim)
{
    struct err ignored = ERR_INIT;
    JSON_AUTO patch = json_pack("{s:{s:{s:n}, s:s}}", "metadata", "annotations", SELECTED, "resourceVersion", json_str_or(claim, "metadata.resourceVersion", ""));
    if (client_patch(c->client, &claims, obj_namespace(claim), obj_name(claim), NULL, patch, NULL, &ignored) < 0)
        log_info("a claim could not be given back", KVE(&ignored));
}

/* content: what it begins with; NULL: empty. */
static int make(struct claims *c, const json_t *content, const char *name, int64_t bytes, struct err *err)
{
    int64_t there = json_int(content, "status.restoreSize", 0);
    const char *id = json_str_or(content, "status.snapshotHandle", "");
    if (!content)
        return volume_make(c->dir, name, bytes, c->limit, err);
    if (MAX(bytes, VOLUME_MIN_BYTES) != there) {
        char size[CLAIM_QUANTITY_MAX];
        claim_quantity(there, size);
        return err_field(err, ERR_INVALID, "spec.resources.requests.storage", "expected %s, the size of the snapshot", size);
    }
    if (!volume_snapshot_id_valid(str_of(id)))
        return err_field(err, ERR_INVALID, "spec.dataSource", "its content names no snapshot of ours");
    return volume_restore(c->dir, id, name, c->limit, err);
}

static int fulfil(struct claims *c, const json_t *claim, const json_t *content, struct err *err)
{
    JSON_AUTO class = NULL;
    char name[VOLUME_ID_MAX];
    int64_t bytes;
    int rc = client_get(c->client, &classes, NULL, json_str_or(claim, "spec.storageClassName", ""), &class, err);
    if (rc == 0 && strcmp(json_str_or(class, "provisioner", ""), CSI_DRIVER) != 0)
        return 0; /* another driver's to refuse */
    if (rc == 0)
        rc = claim_check(claim, &bytes, err);
    if (rc < 0)
        return rc;
    if (json_array_size(json_at(class, "mountOptions")))
        return err_set(err, ERR_INVALID, "the StorageClass has mountOptions: volumes take none");
    snprintf(name, sizeof(name), "pvc-%s", obj_uid(claim));
    rc = make(c, content, name, bytes, err);
    if (rc < 0)
        return rc;
    struct err why = ERR_INIT;
    JSON_AUTO doc = claim_volume(claim, c->node, json_str_or(class, "reclaimPolicy", "Delete"));
    rc = client_create(c->client, &volumes, NULL, doc, NULL, &why);
    if (rc < 0 && rc != ERR_EXISTS)
        return err_set(err, rc, "%s", why.msg);
    say(c, claim, "Normal", "ProvisioningSucceeded", content ? "volume made on its node, from the snapshot" : "volume made on its node");
    return 0;
}

int claims_release(struct claims *c, const struct client_resource *r, const json_t *obj, const char *finalizer, struct err *err)
{
    JSON_AUTO doc = json_deep_copy(obj);
    obj_drop_finalizer(doc, finalizer);
    /* Gone first, since one without our finalizer that is not being deleted could be bound again. */
    int rc = obj_deleting(obj) ? client_update(c->client, r, doc, NULL, err) : client_delete(c->client, r, NULL, obj_name(obj), obj_uid(obj), err);
    return rc == ERR_NOT_FOUND || rc == ERR_CONFLICT ? 0 : rc; /* changed meanwhile: it is seen again */
}

static int let_go(struct claims *c, const json_t *volume, struct err *err)
{
    const char *name = json_str_or(volume, "spec.csi.volumeHandle", "");
    struct err why = ERR_INIT;
    bool gone = true;
    int rc = volume_id_valid(str_of(name)) ? wiper_volume(c->wiper, c->dir, name, &gone, err) : 0;
    if (rc < 0 || !gone)
        return rc < 0 ? rc : err_set(err, ERR_BUSY, "volume %s is being wiped", name);
    rc = claims_release(c, &volumes, volume, CLAIM_FINALIZER, &why);
    return rc < 0 ? err_set(err, rc, "%s", why.msg) : 0;
}

static void look_at_claim(struct claims *c, const json_t *claim, const struct claims_seen *seen, bool *ret_good)
{
    struct err err = ERR_INIT;
    const json_t *content = NULL;
    bool from = claim_has_snapshot(claim), ours = claim_is_ours(claim, c->node);
    if (from && (obj_deleting(claim) || *json_str_or(claim, "spec.volumeName", "")))
        return;
    if (from) {
        bool there = snapshot_of_claim(claim, seen, &content) != NULL;
        if (!there && ours && seen->snapshots) /* whoever was chosen says so: nobody else knows that it is theirs */
            say(c, claim, "Warning", "ProvisioningFailed", "spec.dataSource: expected a VolumeSnapshot that is ready to use");
        ours = there && obj_label(content, CLAIM_NODE_LABEL) && !strcmp(obj_label(content, CLAIM_NODE_LABEL), c->node) && !strcmp(json_str_or(content, "spec.driver", ""), CSI_DRIVER);
    }
    if (!ours || fulfil(c, claim, content, &err) == 0)
        return;
    CLEANUP(mem_freep) char *said = xasprintf("%s%s%s", from ? err.field : "", from && *err.field ? ": " : "", err.msg);
    say(c, claim, "Warning", "ProvisioningFailed", said);
    if (err.code == ERR_NO_SPACE && !from)
        give_back(c, claim);
    *ret_good &= err.code == ERR_INVALID; /* what is refused stays so until it is written anew */
}

struct orphans {
    struct claims *c;
    const struct claims_seen *seen;
    bool good;
};

static bool is_known(const struct claims_seen *seen, const char *id)
{
    size_t i;
    json_t *obj;
    if (volume_snapshot_id_valid(str_of(id))) {
        json_array_foreach (seen->contents, i, obj)
            if (!strcmp(json_str_or(obj, "spec.volumeSnapshotRef.uid", ""), id + 5))
                return true;
        json_array_foreach (seen->snapshots, i, obj) /* its content was made in this pass */
            if (obj_uid(obj) && !strcmp(obj_uid(obj), id + 5))
                return true;
        return !seen->contents;
    }
    json_array_foreach (seen->volumes, i, obj)
        if (!strcmp(json_str_or(obj, "spec.csi.volumeHandle", ""), id))
            return true;
    json_array_foreach (seen->claims, i, obj)
        if (obj_uid(obj) && !strcmp(obj_uid(obj), id + 4))
            return true;
    return false;
}

static void look_for_owner(void *arg, const char *id)
{
    struct orphans *o = arg;
    struct err err = ERR_INIT;
    if (is_known(o->seen, id))
        return;
    if (volume_snapshot_id_valid(str_of(id)) || !volume_unused(o->c->dir, id)) {
        if (!map_getc(o->c->said, id))
            log_warn("the cluster knows nothing of a volume, which is kept", KV("volume", id));
        map_set(o->c->said, str_of(id), xstrdup("kept"));
        return;
    }
    bool gone = false;
    o->good &= wiper_volume(o->c->wiper, o->c->dir, id, &gone, &err) == 0 && gone;
}

bool claims_pass(struct claims *c, const struct claims_seen *seen)
{
    struct orphans o = {c, seen, true};
    size_t i;
    json_t *obj;
    bool good = true;
    /* Room first. */
    json_array_foreach (seen->volumes, i, obj) {
        struct err err = ERR_INIT;
        if (!volume_is_over(obj, c->node) || let_go(c, obj, &err) == 0)
            continue;
        if (err.code != ERR_BUSY)
            log_warn("a volume is not let go yet", KV("volume", obj_name(obj)), KVE(&err));
        good = false;
    }
    if (seen->snapshots && seen->contents)
        good &= snapshots_pass(c, seen);
    json_array_foreach (seen->claims, i, obj)
        look_at_claim(c, obj, seen, &good);
    volumes_each(c->dir, look_for_owner, &o);
    return good && o.good;
}
