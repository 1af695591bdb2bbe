/* What a cluster with nodes is given for its volumes and its nodes' agents: roles, CSIDriver, the default StorageClass. */
#ifndef SEKI_KAAS_STORAGE_H
#define SEKI_KAAS_STORAGE_H

#include "kaas/node.h"

#define STORAGE_CLASS "local"
/* Makes what is missing, and writes anew what an older sekid has made; what a tenant has changed since stays. with_storage: nodes may have volumes. */
int storage_objects_ensure(struct client *c, bool with_storage, struct err *err) NODISCARD;
/* What the agent of a node reads: settings, which are no reason to start a node anew, and its credentials. storage: bytes that the node's volumes may have together. */
int agent_files_ensure(const struct node *n, uint64_t life_ms, int64_t storage, struct err *err) NODISCARD;
/* A node that is gone: its PersistentVolumes and contents of snapshots go, too. */
int storage_forget(struct client *c, const char *node, struct err *err) NODISCARD;

#endif
