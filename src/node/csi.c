#include "node/csi.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include "kms/wire.h"
#include "node/volume.h"

/* What our methods ask for, each from its own field numbers. */
struct question {
    char id[64], staging[CSI_PATH_MAX], target[CSI_PATH_MAX];
    bool block, flags, read_only, too_long;
    const char *type; /* of the file system, when it is none of ours */
};

enum { FIELD_NONE, FIELD_ID, FIELD_STAGING, FIELD_TARGET, FIELD_CAPABILITY, FIELD_READ_ONLY };
struct method {
    const char *path;
    uint8_t fields[9]; /* what a number means */
    enum grpc_status (*answer)(const struct csi_driver *d, const struct question *q, struct sbuf *out, struct err *why);
};

static enum grpc_status status_of(int rc)
{
    switch (rc) {
    case 0:
        return GRPC_OK;
    case ERR_NOT_FOUND:
        return GRPC_NOT_FOUND;
    case ERR_BUSY:
    case ERR_UNAVAILABLE:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_INTERNAL;
    }
}

static enum grpc_status refuse(struct err *why, const char *what)
{
    (void)!err_set(why, ERR_BAD_REQUEST, "%s", what);
    return GRPC_INVALID_ARGUMENT;
}

/* ---- the kubelet's registration ---- */

static enum grpc_status get_info(const struct csi_driver *d UNUSED, const struct question *q UNUSED, struct sbuf *out, struct err *why UNUSED)
{
    wire_put_bytes(out, 1, STR("CSIPlugin"));
    wire_put_bytes(out, 2, STR(CSI_DRIVER));
    wire_put_bytes(out, 3, STR(CSI_SOCKET));
    wire_put_bytes(out, 4, STR("1.0.0"));
    return GRPC_OK;
}

/* To Probe it means: ready; and that a plugin which has its node's side alone has no capabilities. */
static enum grpc_status nothing(const struct csi_driver *d UNUSED, const struct question *q UNUSED, struct sbuf *out UNUSED, struct err *why UNUSED)
{
    return GRPC_OK;
}

/* ---- Identity ---- */

static enum grpc_status plugin_info(const struct csi_driver *d UNUSED, const struct question *q UNUSED, struct sbuf *out, struct err *why UNUSED)
{
    wire_put_bytes(out, 1, STR(CSI_DRIVER));
    wire_put_bytes(out, 2, STR(SEKI_RELEASE));
    return GRPC_OK;
}

/* ---- Node ---- */

static enum grpc_status node_info(const struct csi_driver *d, const struct question *q UNUSED, struct sbuf *out, struct err *why UNUSED)
{
    wire_put_bytes(out, 1, str_of(d->node));
    return GRPC_OK;
}

static enum grpc_status node_capabilities(const struct csi_driver *d UNUSED, const struct question *q UNUSED, struct sbuf *out, struct err *why UNUSED)
{
    /* {rpc: {type}}: 1 STAGE_UNSTAGE_VOLUME, 2 GET_VOLUME_STATS */
    wire_put_bytes(out, 1, str_n("\x0a\x02\x08\x01", 4));
    wire_put_bytes(out, 1, str_n("\x0a\x02\x08\x02", 4));
    return GRPC_OK;
}

static enum grpc_status stage(const struct csi_driver *d, const struct question *q, struct sbuf *out UNUSED, struct err *why)
{
    return status_of(d->stage(d->volumes, q->id, q->staging, why));
}

static enum grpc_status publish(const struct csi_driver *d, const struct question *q, struct sbuf *out UNUSED, struct err *why)
{
    return status_of(d->publish(q->staging, q->target, q->read_only, why));
}

static enum grpc_status unstage(const struct csi_driver *d, const struct question *q, struct sbuf *out UNUSED, struct err *why)
{
    return status_of(d->unmount(q->staging, why));
}

static enum grpc_status unpublish(const struct csi_driver *d, const struct question *q, struct sbuf *out UNUSED, struct err *why)
{
    int rc = d->unmount(q->target, why);
    if (rc == 0)
        (void)rmdir(q->target); /* it was made by publish(); what is in it stays */
    return status_of(rc);
}

static void put_usage(struct sbuf *out, uint64_t total, uint64_t left, uint64_t unit)
{
    CLEANUP(sbuf_deinit) struct sbuf one = {0};
    sbuf_init(&one, 64);
    wire_put_number(&one, 1, left);
    wire_put_number(&one, 2, total);
    wire_put_number(&one, 3, total - left);
    wire_put_number(&one, 4, unit);
    wire_put_bytes(out, 1, sbuf_str(&one));
}

static enum grpc_status stats(const struct csi_driver *d UNUSED, const struct question *q, struct sbuf *out, struct err *why)
{
    struct statvfs s;
    if (statvfs(q->target, &s) < 0) {
        (void)!err_set(why, ERR_NOT_FOUND, "there is nothing at %s", q->target);
        return GRPC_NOT_FOUND;
    }
    put_usage(out, (uint64_t)s.f_blocks * s.f_frsize, (uint64_t)s.f_bavail * s.f_frsize, 1);
    put_usage(out, s.f_files, s.f_ffree, 2);
    return GRPC_OK;
}

/* ---- reading ---- */

static const struct method methods[] = {
    {"/pluginregistration.Registration/GetInfo", {0}, get_info},
    {"/pluginregistration.Registration/NotifyRegistrationStatus", {0}, nothing},
    {"/csi.v1.Identity/GetPluginInfo", {0}, plugin_info},
    {"/csi.v1.Identity/GetPluginCapabilities", {0}, nothing},
    {"/csi.v1.Identity/Probe", {0}, nothing},
    {"/csi.v1.Node/NodeGetInfo", {0}, node_info},
    {"/csi.v1.Node/NodeGetCapabilities", {0}, node_capabilities},
    {"/csi.v1.Node/NodeStageVolume", {0, FIELD_ID, 0, FIELD_STAGING, FIELD_CAPABILITY}, stage},
    {"/csi.v1.Node/NodeUnstageVolume", {0, FIELD_ID, FIELD_STAGING}, unstage},
    {"/csi.v1.Node/NodePublishVolume", {0, FIELD_ID, 0, FIELD_STAGING, FIELD_TARGET, FIELD_CAPABILITY, FIELD_READ_ONLY}, publish},
    {"/csi.v1.Node/NodeUnpublishVolume", {0, FIELD_ID, FIELD_TARGET}, unpublish},
    {"/csi.v1.Node/NodeGetVolumeStats", {0, FIELD_ID, FIELD_TARGET}, stats},
};

/* VolumeCapability: 1 block; 2 mount {1 type, 2 flags} */
static int read_capability(struct str message, struct question *q, struct err *err)
{
    struct wire_field f, inner;
    int rc;
    while ((rc = wire_next(&message, &f, err)) > 0) {
        q->block |= f.number == 1;
        struct str rest = f.number == 2 && f.type == WIRE_BYTES ? f.bytes : STR_NULL;
        while ((rc = wire_next(&rest, &inner, err)) > 0) {
            if (inner.number == 1 && inner.type == WIRE_BYTES && inner.bytes.len && !str_eqc(inner.bytes, "ext4"))
                q->type = "other";
            q->flags |= inner.number == 2;
        }
        if (rc < 0)
            return rc;
    }
    return rc;
}

static int read_question(const struct method *m, struct str message, struct question *q, struct err *err)
{
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&message, &f, err)) > 0) {
        int what = f.number < sizeof(m->fields) ? m->fields[f.number] : FIELD_NONE;
        if (what != FIELD_NONE && (what == FIELD_READ_ONLY ? f.type != WIRE_NUMBER : f.type != WIRE_BYTES))
            return err_set(err, ERR_BAD_REQUEST, "field %u has another type than v1 of the interface gives it", f.number);
        if (what == FIELD_ID)
            q->too_long |= !str_to_array(f.bytes, q->id, sizeof(q->id));
        else if (what == FIELD_STAGING)
            q->too_long |= !str_to_array(f.bytes, q->staging, sizeof(q->staging));
        else if (what == FIELD_TARGET)
            q->too_long |= !str_to_array(f.bytes, q->target, sizeof(q->target));
        else if (what == FIELD_READ_ONLY)
            q->read_only = f.value != 0;
        else if (what == FIELD_CAPABILITY && (rc = read_capability(f.bytes, q, err)) < 0)
            return rc;
    }
    return rc;
}

static bool path_good(const char *path)
{
    return str_starts(str_of(path), STR(CSI_ROOT)) && !strstr(path, "/../") && !str_ends(str_of(path), STR("/.."));
}

static bool asks(const struct method *m, int what)
{
    return memchr(m->fields, what, sizeof(m->fields)) != NULL;
}

enum grpc_status csi_answer(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    const struct method *m = NULL;
    struct question q = {0};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (str_eqc(path, methods[i].path))
            m = &methods[i];
    if (!m) {
        (void)!err_set(why, ERR_NOT_FOUND, "there is no such method");
        return GRPC_UNIMPLEMENTED;
    }
    if (read_question(m, message, &q, why) < 0)
        return GRPC_INVALID_ARGUMENT;
    if (q.too_long)
        return refuse(why, "a name is too long");
    if (asks(m, FIELD_ID) && !volume_id_valid(str_of(q.id)))
        return refuse(why, "it names no volume of ours");
    if ((asks(m, FIELD_STAGING) && !path_good(q.staging)) || (asks(m, FIELD_TARGET) && !path_good(q.target)))
        return refuse(why, "paths are below " CSI_ROOT);
    if (q.block)
        return refuse(why, "volumes are file systems, not block devices");
    if (q.flags || q.type)
        return refuse(why, "volumes are ext4, without mount options");
    return m->answer(arg, &q, out, why);
}
