/* Bounds on what engines make grammars of: schemas, patterns, grammars and tools of a request.
 *
 * An engine that constrains its output compiles these before it answers anybody, and what is short
 * to write may be long to compile: repetitions within repetitions multiply, and of a pattern of
 * thirty bytes an engine never comes back. So what is asked for is weighed here by one scan of its
 * text, which the scan of the body has found to be JSON already, and refused where an engine would
 * be held up. What has none of these members is not looked at. Keywords are looked for in every
 * object of a schema, wherever it stands. Pure; threads: any.
 *
 * Bounded are
 * - of a request: bytes of all of it, tools, properties, references, and what its patterns become
 *   when their repetitions are written out (pattern_weight.h);
 * - of one place in a schema: the product of the repetitions around it (maxItems, minItems and the
 *   like; the types of a list that are walked through);
 * - of one object: properties; of one list: values of an enum.
 *
 * Schemas that engines take as strings are read, too: "json_schema" and "guided_json", and of
 * "structured_outputs" the members "json" and "structural_tag".
 *
 *   of a schema, or tool      alternatives in one place, with those of references (schema_refs.h)
 *   of a grammar              ways in which its rules begin at once (grammar_bound.h)
 *
 * Not multiplied: repetitions in what "$ref" leads to.
 */
#ifndef SEKI_GATEWAY_SCHEMA_BOUND_H
#define SEKI_GATEWAY_SCHEMA_BOUND_H

#include "json/span.h"

#define SCHEMA_BYTES_MAX (1024 * 1024)
#define SCHEMA_TOOLS_MAX 128 /* as OpenAI has it; likewise: */
#define SCHEMA_ENUM_MAX 1000
#define SCHEMA_PROPERTIES_MAX 5000
#define SCHEMA_OBJECT_MAX 1000
#define SCHEMA_REFERENCES_MAX 1000
#define SCHEMA_PRODUCT_MAX 1000000
#define SCHEMA_PATTERN_MAX 50000
/* Where three repetitions and more are within each other: engines take far longer for those. */
#define SCHEMA_PATTERN_NESTED_MAX 1000

/* Of one request; zero before the first. */
struct schema_weight {
    size_t bytes;
    int64_t properties, references, pattern;
};

/* value: of the request's member `field`. ERR_BAD_REQUEST, with that field, names what is too much
 * and how much there may be. */
int schema_bound_check(struct schema_weight *w, const char *field, const struct span *value,
                       struct err *err) NODISCARD;

#endif
