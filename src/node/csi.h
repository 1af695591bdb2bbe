/* The node's side of the Container Storage Interface, and the kubelet's registration of plugins: from a method and a message to an answer.
 *
 * csi_answer() is what grpc_conn_new() takes; it reads foreign bytes, checks paths (below /var/lib/kubelet only) and ids, and calls ops. csi_serve() listens at both sockets, one thread, until
 * the process ends. Volumes are made and wiped by claims.c, not by calls: there is no Controller service. Source: container-storage-interface/spec, csi.proto (v1); k8s.io/kubelet,
 * pluginregistration/v1/api.proto.
 */
#ifndef SEKI_NODE_CSI_H
#define SEKI_NODE_CSI_H

#include "kms/service.h"

#define CSI_DRIVER "local.storage.seki.cloud"
#define CSI_SOCKET "/var/lib/kubelet/plugins/" CSI_DRIVER "/csi.sock"
#define CSI_REGISTRATION "/var/lib/kubelet/plugins_registry/" CSI_DRIVER "-reg.sock"
#define CSI_ROOT "/var/lib/kubelet/"
#define CSI_PATH_MAX 1024
#define CSI_CONNS_MAX 8

struct csi_driver {
    const char *node;    /* its id: the node's name */
    const char *volumes; /* their directory */
    /* As in volume.h; others in tests. */
    int (*stage)(const char *volumes, const char *id, const char *path, struct err *err);
    int (*publish)(const char *from, const char *to, bool read_only, struct err *err);
    int (*unmount)(const char *path, struct err *err);
};
/* arg: a struct csi_driver. Threads: one at a time. */
enum grpc_status csi_answer(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why);
/* Never returns but with an error. */
int csi_serve(struct csi_driver *d, struct err *err) NODISCARD;

#endif
