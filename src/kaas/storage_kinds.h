/* Kinds that a cluster with volumes is given: snapshots of volumes, as upstream's snapshot.storage.k8s.io/v1 has them, as far as our driver serves them. */
#ifndef SEKI_KAAS_STORAGE_KINDS_H
#define SEKI_KAAS_STORAGE_KINDS_H

/* CustomResourceDefinitions, as JSON. */
extern const char storage_kind_class[], storage_kind_snapshot[], storage_kind_content[];

#endif
