/* Entries of a kubeconfig that people have: others' entries stay as they are (comments do not: it is written anew). */
#ifndef SEKI_CMD_KUBECONFIG_EDIT_H
#define SEKI_CMD_KUBECONFIG_EDIT_H

#include "base/arena.h"
#include "json/json.h"

struct kubeconfig_entry {
    const char *name;   /* of the cluster, the user and the context */
    const char *server;
    const char *ca_pem; /* or NULL: the system's */
    const char *ns;     /* or NULL */
    const json_t *exec; /* of the user */
};
/* Puts the entry there and makes it the current one. file NULL: $KUBECONFIG's first, then ~/.kube/config. The file is written whole, 0600. */
int kubeconfig_put(const char *file, const struct kubeconfig_entry *e, struct arena *a, struct err *err) NODISCARD;
/* The arguments of the current user's program for credentials, ended by NULL, in the arena; ERR_NOT_FOUND when it has none. */
int kubeconfig_exec_args(const char *file, struct arena *a, const char ***ret, struct err *err) NODISCARD;

#endif
