#include "node/snapshots.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/kind.h"
#include "node/csi.h"
#include "node/volume.h"
#include "node/volume_copy.h"

static const struct client_resource contents = {SNAPSHOT_GROUP, "v1", "volumesnapshotcontents", false};
static const struct client_resource snapshots = {SNAPSHOT_GROUP, "v1", "volumesnapshots", true};
static const struct client_resource classes = {SNAPSHOT_GROUP, "v1", "volumesnapshotclasses", false};

/* ---- pure ---- */

static const json_t *by_uid(const json_t *list, const char *uid)
{
    size_t i;
    json_t *o;
    json_array_foreach (list, i, o)
        if (obj_uid(o) && !strcmp(obj_uid(o), uid))
            return o;
    return NULL;
}

static const json_t *named(const json_t *list, const char *ns, const char *name)
{
    size_t i;
    json_t *o;
    json_array_foreach (list, i, o)
        if (!strcmp(obj_name(o), name) && (!ns || !strcmp(obj_namespace(o), ns)))
            return o;
    return NULL;
}

static bool is_of(const json_t *content, const char *node)
{
    const char *label = obj_label(content, CLAIM_NODE_LABEL);
    return !strcmp(json_str_or(content, "spec.driver", ""), CSI_DRIVER) && label && !strcmp(label, node);
}

bool snapshot_is_over(const json_t *content, const json_t *all, const char *node)
{
    if (!is_of(content, node) || !obj_has_finalizer(content, SNAPSHOT_FINALIZER))
        return false;
    return obj_deleting(content) ||
           (!by_uid(all, json_str_or(content, "spec.volumeSnapshotRef.uid", "")) && !strcmp(json_str_or(content, "spec.deletionPolicy", ""), "Delete"));
}

json_t *snapshot_content(const json_t *snapshot, const json_t *class, const json_t *volume, const char *node)
{
    char name[80];
    snprintf(name, sizeof(name), "snapcontent-%.48s", obj_uid(snapshot));
    json_t *ref = json_pack("{s:s, s:s, s:s, s:s, s:s}", "apiVersion", SNAPSHOT_GROUP "/v1", "kind", "VolumeSnapshot", "namespace", obj_namespace(snapshot), "name", obj_name(snapshot), "uid",
                            obj_uid(snapshot));
    return json_pack("{s:s, s:s, s:{s:s, s:{s:s}, s:[s]}, s:{s:s, s:s, s:s, s:{s:s}, s:o}}", "apiVersion", SNAPSHOT_GROUP "/v1", "kind", "VolumeSnapshotContent", "metadata", "name", name, "labels",
                     CLAIM_NODE_LABEL, node, "finalizers", SNAPSHOT_FINALIZER, "spec", "driver", CSI_DRIVER, "deletionPolicy", json_str_or(class, "deletionPolicy", "Delete"), "volumeSnapshotClassName",
                     obj_name(class), "source", "volumeHandle", json_str_or(volume, "spec.csi.volumeHandle", ""), "volumeSnapshotRef", ref);
}

const json_t *snapshot_of_claim(const json_t *claim, const struct claims_seen *seen, const json_t **ret_content)
{
    const json_t *s = named(seen->snapshots, obj_namespace(claim), json_str_or(claim, "spec.dataSource.name", ""));
    const json_t *content = s ? named(seen->contents, NULL, json_str_or(s, "status.boundVolumeSnapshotContentName", "")) : NULL;
    /* Either may be written by others: they belong together when both say so. */
    bool good = content && json_flag(content, "status.readyToUse", false) && obj_uid(s) && !strcmp(json_str_or(content, "spec.volumeSnapshotRef.uid", ""), obj_uid(s)) && !obj_deleting(content) &&
                !obj_deleting(s);
    *ret_content = good ? content : NULL;
    return good ? s : NULL;
}

/* ---- taking ---- */

static bool put_status(struct claims *c, const struct client_resource *r, const json_t *obj, json_t *status)
{
    struct err why = ERR_INIT;
    JSON_AUTO patch = json_pack("{s:o}", "status", status);
    json_t *member;
    const char *key;
    bool same = true;
    json_object_foreach (json_object_get(patch, "status"), key, member) {
        json_t *there = json_object_get(json_object_get(obj, "status"), key);
        same = same && (there ? json_equal(there, member) : json_is_null(member));
    }
    if (same)
        return true;
    int rc = client_patch(c->client, r, obj_namespace(obj), obj_name(obj), "status", patch, NULL, &why);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        log_warn("a snapshot's status could not be written", KV("snapshot", obj_name(obj)), KVE(&why));
    return rc == 0 || rc == ERR_NOT_FOUND;
}

static bool refuse(struct claims *c, const json_t *snapshot, const char *message)
{
    char now[CLOCK_TEXT_MAX];
    clock_format(clock_wall_ms(), now);
    if (!strcmp(json_str_or(snapshot, "status.error.message", ""), message))
        return true;
    return put_status(c, &snapshots, snapshot, json_pack("{s:b, s:{s:s, s:s}}", "readyToUse", false, "error", "message", message, "time", now));
}

/* The one that it names, or the default of our driver. */
static int class_of(struct claims *c, const json_t *snapshot, json_t **ret, struct err *err)
{
    const char *name = json_str(snapshot, "spec.volumeSnapshotClassName");
    JSON_AUTO list = NULL;
    size_t i;
    json_t *o;
    if (name)
        return client_get(c->client, &classes, NULL, name, ret, err);
    int rc = client_list(c->client, &classes, NULL, NULL, &list, NULL, err);
    json_array_foreach (list, i, o) {
        const char *is = obj_annotation(o, "snapshot.storage.kubernetes.io/is-default-class");
        if (is && !strcmp(is, "true") && !strcmp(json_str_or(o, "driver", ""), CSI_DRIVER)) {
            *ret = json_incref(o);
            return 0;
        }
    }
    return rc < 0 ? rc : err_field(err, ERR_INVALID, "spec.volumeSnapshotClassName", "there is no default VolumeSnapshotClass of " CSI_DRIVER ": expected the name of one");
}

static void copy_id(const json_t *snapshot, char id[VOLUME_ID_MAX])
{
    snprintf(id, VOLUME_ID_MAX, "snap-%.40s", obj_uid(snapshot));
}

/* What was copied is written at the content first: it is the record; the other says the same. */
static int tell(struct claims *c, const json_t *snapshot, const json_t *content, int64_t bytes)
{
    char id[VOLUME_ID_MAX], at[CLOCK_TEXT_MAX], size[CLAIM_QUANTITY_MAX];
    int64_t now = clock_wall_ms();
    copy_id(snapshot, id);
    if (!json_flag(content, "status.readyToUse", false) &&
        !put_status(c, &contents, content, json_pack("{s:s, s:I, s:I, s:b}", "snapshotHandle", id, "creationTime", (json_int_t)now * 1000000, "restoreSize", (json_int_t)bytes, "readyToUse", true)))
        return ERR_UNAVAILABLE;
    clock_format(json_int(content, "status.creationTime", now * 1000000) / 1000000, at);
    claim_quantity(json_int(content, "status.restoreSize", bytes), size);
    json_t *status = json_pack("{s:s, s:s, s:s, s:b, s:n}", "boundVolumeSnapshotContentName", obj_name(content), "creationTime", at, "restoreSize", size, "readyToUse", true, "error");
    return put_status(c, &snapshots, snapshot, status) ? 0 : ERR_UNAVAILABLE;
}

/* The content, made when it is not there. */
static int content_of(struct claims *c, const json_t *snapshot, const json_t *volume, const struct claims_seen *seen, json_t **ret, struct err *err)
{
    JSON_AUTO class = NULL;
    char name[80];
    struct err why = ERR_INIT;
    snprintf(name, sizeof(name), "snapcontent-%.48s", obj_uid(snapshot));
    const json_t *there = named(seen->contents, NULL, name);
    if (there) {
        *ret = json_incref((json_t *)(uintptr_t)there);
        return 0;
    }
    if (json_str(snapshot, "status.boundVolumeSnapshotContentName")) /* another copy now would be of another time */
        return err_set(err, ERR_INVALID, "its content is gone");
    int rc = class_of(c, snapshot, &class, &why);
    if (rc < 0)
        return why.field[0] ? err_field(err, rc, why.field, "%s", why.msg) : err_set(err, rc, "%s", why.msg);
    if (strcmp(json_str_or(class, "driver", ""), CSI_DRIVER) != 0)
        return err_field(err, ERR_INVALID, "spec.volumeSnapshotClassName", "expected a class of " CSI_DRIVER ", as the volume is");
    JSON_AUTO doc = snapshot_content(snapshot, class, volume, c->node);
    rc = client_create(c->client, &contents, NULL, doc, ret, &why);
    if (rc == ERR_EXISTS)
        rc = client_get(c->client, &contents, NULL, name, ret, &why);
    return rc == 0 ? 0 : err_set(err, rc, "%s", why.msg);
}

/* Of a claim that is bound to a volume of this node. */
static int take(struct claims *c, const json_t *snapshot, const json_t *volume, const struct claims_seen *seen, struct err *err)
{
    JSON_AUTO content = NULL;
    char id[VOLUME_ID_MAX];
    const char *handle = json_str_or(volume, "spec.csi.volumeHandle", "");
    int64_t bytes = 0;
    bool gone = false;
    copy_id(snapshot, id);
    if (!volume_snapshot_id_valid(str_of(id)) || !volume_id_valid(str_of(handle)))
        return err_set(err, ERR_INVALID, "it names no volume of ours");
    int rc = content_of(c, snapshot, volume, seen, &content, err);
    if (rc < 0)
        return rc;
    if (!json_flag(content, "status.readyToUse", false)) {
        rc = wiper_volume(c->wiper, c->dir, id, &gone, err); /* what a kill has left half done */
        if (rc == 0 && !gone)
            return err_set(err, ERR_BUSY, "what is left of an earlier attempt is being wiped");
        if (rc == 0)
            rc = volume_snapshot(c->dir, handle, id, c->limit, &bytes, err);
        if (rc < 0)
            return rc;
    }
    return tell(c, snapshot, content, bytes);
}

static bool look_at(struct claims *c, const json_t *snapshot, const struct claims_seen *seen)
{
    struct err err = ERR_INIT;
    const json_t *claim = named(seen->claims, obj_namespace(snapshot), json_str_or(snapshot, "spec.source.persistentVolumeClaimName", ""));
    const json_t *volume = claim ? named(seen->volumes, NULL, json_str_or(claim, "spec.volumeName", "")) : NULL;
    if (obj_deleting(snapshot) || !obj_uid(snapshot) || json_flag(snapshot, "status.readyToUse", false) || !volume || !volume_is_of(volume, c->node))
        return true;
    if (strcmp(json_str_or(volume, "spec.claimRef.uid", ""), obj_uid(claim)) != 0) /* bound by both sides, or by none */
        return true;
    int rc = take(c, snapshot, volume, seen, &err);
    if (rc == 0)
        return true;
    CLEANUP(mem_freep) char *said = xasprintf("%s%s%s", err.field, *err.field ? ": " : "", err.msg);
    if (rc != ERR_BUSY && *said && !refuse(c, snapshot, said))
        return false;
    return rc == ERR_INVALID; /* what is refused stays so until it is written anew */
}

/* ---- letting go ---- */

static int let_go(struct claims *c, const json_t *content, struct err *err)
{
    char id[VOLUME_ID_MAX];
    struct err why = ERR_INIT;
    bool gone = true;
    snprintf(id, sizeof(id), "snap-%.40s", json_str_or(content, "spec.volumeSnapshotRef.uid", ""));
    int rc = volume_snapshot_id_valid(str_of(id)) ? wiper_volume(c->wiper, c->dir, id, &gone, err) : 0;
    if (rc < 0 || !gone)
        return rc < 0 ? rc : err_set(err, ERR_BUSY, "snapshot %s is being wiped", id);
    return claims_release(c, &contents, content, SNAPSHOT_FINALIZER, &why) < 0 ? err_set(err, why.code, "%s", why.msg) : 0;
}

bool snapshots_pass(struct claims *c, const struct claims_seen *seen)
{
    bool good = true;
    size_t i;
    json_t *o;
    json_array_foreach (seen->contents, i, o) {
        struct err err = ERR_INIT;
        if (!snapshot_is_over(o, seen->snapshots, c->node) || let_go(c, o, &err) == 0)
            continue;
        if (err.code != ERR_BUSY)
            log_warn("a snapshot is not let go yet", KV("content", obj_name(o)), KVE(&err));
        good = false;
    }
    json_array_foreach (seen->snapshots, i, o)
        good &= look_at(c, o, seen);
    return good;
}
