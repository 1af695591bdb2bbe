/* Strategic merge patch, as Kubernetes has it for its own kinds: a merge patch that merges lists by what their rows say.
 *
 * Lists by key merge element by element (the row's first key is the merge key), sets of scalars are joined, all other lists are replaced. Directives: "$patch"
 * (merge, replace, delete) in objects and elements, "$retainKeys", "$deleteFromPrimitiveList/NAME", "$setElementOrder/NAME". A null deletes. The semantics are those of the
 * Kubernetes API documentation, "Use a strategic merge patch to update a Deployment" and "strategic-merge-patch.md" of its design notes.
 * The result shares nothing with the arguments; ERR_BAD_REQUEST names what is wrong with the patch. Threads: any. Fuzzed.
 */
#ifndef SEKI_JSON_STRATEGIC_H
#define SEKI_JSON_STRATEGIC_H

#include "json/fieldset.h"

int json_strategic_patch(const struct field *table, const json_t *target, const json_t *patch, json_t **ret, struct err *err) NODISCARD;

#endif
