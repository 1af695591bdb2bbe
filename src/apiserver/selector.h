/* Label selectors (=, ==, !=, in, notin, exists, !exists, >, <) and field selectors (=, ==, !=), as Kubernetes reads them, its errors included. Pure functions of text that
 * anybody may send: bounded, and fuzzed.
 */
#ifndef SEKI_APISERVER_SELECTOR_H
#define SEKI_APISERVER_SELECTOR_H

#include "kinds/kind.h"

struct selector;

/* Both texts may be empty; the result is NULL then. It lives in the arena. k: whose fields may be named. */
int selector_parse(struct arena *a, const struct kind *k, struct str labels, struct str fields, struct selector **ret, struct err *err) NODISCARD;
bool selector_matches(const struct selector *s, const json_t *obj);
/* The only name that an object may have to match ("metadata.name=NAME"); NULL: there may be several. */
const char *selector_only_name(const struct selector *s);
/* The only value that a label may have to match ("KEY=VALUE"); NULL: there may be several. */
const char *selector_only_label(const struct selector *s, const char *key);

#endif
