/* How many alternatives a schema's references multiply to.
 *
 * An engine that begins a value tries all that may stand there at once. A list of alternatives
 * whose members refer to the next such list doubles that with each step: forty definitions of two
 * references each, three kilobytes, are more than any engine can count, and while it tries nobody
 * else is answered. So references that stand in the place of a definition itself, or in its
 * "anyOf", "oneOf" or "allOf", are followed, and what they come to is counted. Those below
 * "properties", "items" and the like begin behind a bracket: they are taken one after the other,
 * and multiply nothing.
 *
 * Definitions are found by their name, the last part of "#/$defs/NAME" or "#/definitions/NAME"; of
 * those of one name the heaviest counts. Other places may be referred to, too, but not often from
 * within alternatives. Threads: no sharing.
 */
#ifndef SEKI_GATEWAY_SCHEMA_REFS_H
#define SEKI_GATEWAY_SCHEMA_REFS_H

#include "base/map.h"
#include "base/vec.h"

#define SCHEMA_ALTERNATIVES_MAX 1000000
#define SCHEMA_ELSEWHERE_MAX                                                                       \
    32 /* references from alternatives to what is no definition: three of them a step are half a   \
          million */

struct schema_definition;
struct schema_reference;

/* Of one schema, or tool; zero before the first. */
struct schema_refs {
    VEC(struct schema_definition) definitions;
    VEC(struct schema_reference) references;
};

#define SCHEMA_NOWHERE (-1) /* in no definition's own place */

/* name: as it stands in JSON, with its quotes. The definition's number. */
int64_t schema_refs_define(struct schema_refs *r, struct str name);
/* One thing more that may stand in the place of definition `in`. */
void schema_refs_alternative(struct schema_refs *r, int64_t in);
/* to: the value of "$ref", as it stands in JSON, with its quotes. */
void schema_refs_add(struct schema_refs *r, int64_t in, bool among_alternatives, struct str to);
enum schema_refs_fault {
    SCHEMA_REFS_FINE,
    SCHEMA_REFS_TOO_MANY,
    SCHEMA_REFS_CIRCLE,
    SCHEMA_REFS_ELSEWHERE
};
/* What is wrong with all of them. They are forgotten. */
enum schema_refs_fault schema_refs_end(struct schema_refs *r);

#endif
