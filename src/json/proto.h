/* Documents in Kubernetes' protobuf form, which typed clients of its own kinds send (kubectl does for access reviews and tokens, and offers nothing else).
 *
 * Rows of a field table that have a number (`proto`) are read; others and unknown numbers are skipped, as protobuf has it. What protobuf cannot tell from absence (empty texts,
 * empty times) is left out. Bounded: the caller caps the bytes, this the values made of them; depth is that of the table.
 */
#ifndef SEKI_JSON_PROTO_H
#define SEKI_JSON_PROTO_H

#include "json/table.h"

#define PROTO_TYPE "application/vnd.kubernetes.protobuf"

/* Whether a table has numbers. */
bool proto_has_table(const struct field *table);
/* A document in its envelope: "k8s\0", then a message of type and content. ERR_BAD_REQUEST, ERR_TOO_LARGE. */
int proto_parse(const struct field *table, struct str bytes, json_t **ret, struct err *err) NODISCARD;

#endif
