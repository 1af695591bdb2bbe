/* How many alternatives a schema has in one place, with those that its references lead to.
 *
 * An engine that begins a value tries all that may stand there at once, and compares each with
 * each: with 1,000 llama.cpp takes seconds a token, with 4,000 it does not come back, and meanwhile
 * nobody else is answered. A list of alternatives whose members refer to the next such list doubles
 * that with each step. So what stands in the place of a definition itself, or in "anyOf", "oneOf",
 * "allOf" and "enum" there, is counted, and references among it are followed. Those below
 * "properties", "items" and the like begin behind a bracket: they are taken one after the other.
 *
 * Definitions are found by their name, the last part of "#/$defs/NAME" or "#/definitions/NAME"; of
 * those of one name the heaviest counts. Other places may be referred to, too, but not often from
 * within alternatives. Threads: no sharing.
 */
#ifndef SEKI_GATEWAY_SCHEMA_REFS_H
#define SEKI_GATEWAY_SCHEMA_REFS_H

#include "base/map.h"
#include "base/vec.h"

#define SCHEMA_ALTERNATIVES_MAX 1000
/* References from alternatives to what is no definition: two of them a step are a thousand. */
#define SCHEMA_ELSEWHERE_MAX 20

struct schema_definition;
struct schema_reference;

/* Of one schema, or tool; zero before the first. */
struct schema_refs {
    VEC(struct schema_definition) definitions;
    VEC(struct schema_reference) references;
};

#define SCHEMA_NOWHERE (-1) /* in no definition's own place */

/* name: as it stands in JSON, with its quotes; empty: of another place with alternatives. Its
 * number, `in` of what follows. */
int64_t schema_refs_define(struct schema_refs *r, struct str name);
/* So many things more may stand there. */
void schema_refs_alternatives(struct schema_refs *r, int64_t in, int64_t n);
/* What changes with each alternative, and each reference. */
int64_t schema_refs_mark(const struct schema_refs *r, int64_t in);
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
