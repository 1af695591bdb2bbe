/* The driver of volumes: any message to any of its methods, first byte which. Nothing is called with a path or a name that is not ours. */
#include "fuzz.h"

#include <stdlib.h>

#include "node/csi.h"
#include "node/volume.h"

static void check(const char *path)
{
    if (strncmp(path, CSI_ROOT, strlen(CSI_ROOT)) != 0 || strstr(path, "/../"))
        abort();
}

static int on_stage(const char *volumes UNUSED, const char *id, const char *path, struct err *err UNUSED)
{
    if (!volume_id_valid(str_of(id)))
        abort();
    check(path);
    return 0;
}

static int on_publish(const char *from, const char *to, bool read_only UNUSED, struct err *err UNUSED)
{
    check(from);
    check(to);
    return 0;
}

static int on_unmount(const char *path, struct err *err)
{
    check(path);
    return err_set(err, ERR_BUSY, "later");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = {"/csi.v1.Node/NodeStageVolume", "/csi.v1.Node/NodePublishVolume", "/csi.v1.Node/NodeUnstageVolume", "/csi.v1.Node/NodeUnpublishVolume",
                                        "/csi.v1.Node/NodeGetInfo", "/pluginregistration.Registration/NotifyRegistrationStatus"};
    struct csi_driver d = {"node", "/volumes", on_stage, on_publish, on_unmount};
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct err why = ERR_INIT;
    sbuf_init(&out, 1 << 16);
    if (size < 1 || size > 1 << 16)
        return 0;
    enum grpc_status status = csi_answer(&d, str_of(paths[data[0] % ARRAY_LEN(paths)]), str_n(data + 1, size - 1), &out, &why);
    if (status != GRPC_OK && (out.len || !why.msg[0]))
        abort();
    return 0;
}
