/* Manifests: YAML or JSON files of objects, loaded and checked as a whole, then applied through a client.
 *
 * Loading parses every file and checks every object against its kind's table, so that a bad file is named before anything is made. Applying makes cluster-scoped
 * objects first, then the others in the order of files and documents: creates what is missing, merges into what is there; repeating it changes nothing. An object that
 * is no longer in a file stays. Errors name file, document and field. Threads: any; calls block.
 */
#ifndef SEKI_CMD_MANIFESTS_H
#define SEKI_CMD_MANIFESTS_H

#include "base/vec.h"
#include "client/client.h"
#include "kinds/kind.h"

struct manifest {
    const struct kind *kind;
    json_t *object;
    char *origin; /* "dir/a.yaml: document 2: ModelEndpoint chat" */
};

struct manifests {
    VEC(struct manifest) items;
};

struct manifests_result {
    size_t created, present;
};

/* All *.yaml, *.yml and *.json of dir, in the order of their names. The caller deinits m, after a failure too. */
int manifests_load_dir(const char *dir, struct manifests *m, struct err *err) NODISCARD;
/* The documents of one text, added to m; name is for messages. */
int manifests_load_text(const char *name, struct str text, struct manifests *m, struct err *err) NODISCARD;
void manifests_deinit(struct manifests *m);

/* A secret that the API shows once (an APIKey's) is written to keys_dir/NAMESPACE/NAME, mode 0600; NULL: it is not wanted. ret may be NULL. */
int manifests_apply(struct client *c, const struct manifests *m, const char *keys_dir, struct manifests_result *ret, struct err *err) NODISCARD;

#endif
