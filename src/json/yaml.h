/* YAML into JSON documents and back (libyaml): for manifests and kubeconfig files, which people write by hand.
 *
 * The JSON-compatible part of YAML 1.2's core schema: anchors and aliases, tags other than the core ones, merge keys and duplicate keys are refused (aliases
 * can blow a small text up). Plain scalars become null, booleans (true, false), decimal integers (floats where 64 bits are too few), floats or strings; quoted
 * ones are strings; a core tag must agree with the text. Depth at most 64. JSON objects are accepted too. Errors name line and column.
 */
#ifndef SEKI_JSON_YAML_H
#define SEKI_JSON_YAML_H

#include "json/json.h"

/* All documents of the text, as an array. */
int yaml_parse_all(struct str text, size_t max_bytes, json_t **ret, struct err *err) NODISCARD;
/* The one document of the text. */
int yaml_parse(struct str text, size_t max_bytes, json_t **ret, struct err *err) NODISCARD;
/* The document as YAML, in blocks, keys in stored order: read back it is the same document, also by readers of YAML 1.1 (for which "no" and 0x10 are no strings). */
void yaml_write(const json_t *j, struct sbuf *out);

#endif
