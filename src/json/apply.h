/* Server-side apply on documents: an applied document is laid over the live object, and what its manager no longer applies is taken off.
 *
 * Which parts are merged and which are replaced whole comes from the field table (fieldset.h). Members that are null in the applied document count as absent.
 * Pure functions; results share nothing with their arguments. Threads: any. Fuzzed.
 */
#ifndef SEKI_JSON_APPLY_H
#define SEKI_JSON_APPLY_H

#include "json/fieldset.h"

/* The applied document has the types of the table, and its lists have their keys, none twice: ERR_BAD_REQUEST names the first that does not. Members without a
 * row, and what values must be like, are not looked at here. */
int apply_check(const struct field *table, const json_t *applied, struct err *err) NODISCARD;
/* live with applied over it. New elements of lists come behind those that live has. New reference. */
json_t *apply_merge(const struct field *table, const json_t *live, const json_t *applied);
/* Takes off obj what is in `last` and neither itself in `keep` nor above something that is. */
void apply_prune(const struct field *table, json_t *obj, const json_t *last, const json_t *keep);

#endif
