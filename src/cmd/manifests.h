/* Manifests: YAML or JSON files of objects, applied through a client. */
#ifndef SEKI_CMD_MANIFESTS_H
#define SEKI_CMD_MANIFESTS_H

#include "client/client.h"

/* Applies all *.yaml, *.yml and *.json of dir in the order of their names: creates what is missing, merges into what is there. The error names file,
 * document and field; files before it have been applied, which is safe to repeat. ret_count may be NULL. */
int manifests_apply_dir(struct client *c, const char *dir, size_t *ret_count, struct err *err) NODISCARD;
/* Applies the documents of one text; name is for messages. */
int manifests_apply_text(struct client *c, const char *name, struct str text, size_t *ret_count, struct err *err) NODISCARD;

#endif
