/* Accept: which form an answer takes. A pure function of the header and of what can be offered, so that it can be fuzzed.
 *
 * Clauses are judged by their q, then in their order; a clause that asks for something this server does not make (protobuf, an unknown version of a table) is passed over, as
 * Kubernetes does, and only when no clause is left the answer is ERR_NOT_ACCEPTABLE.
 */
#ifndef SEKI_APISERVER_ACCEPT_H
#define SEKI_APISERVER_ACCEPT_H

#include "base/str.h"

enum accept_form { ACCEPT_JSON, ACCEPT_YAML, ACCEPT_PROTOBUF, ACCEPT_NDJSON };
/* "as=" of a clause: something else than the object itself. */
enum accept_as { AS_ITSELF, AS_TABLE, AS_METADATA, AS_METADATA_LIST, AS_DISCOVERY };

/* What a path can give: forms, and besides itself … */
enum accept_offer {
    OFFER_YAML = 1 << 0,
    OFFER_META = 1 << 1,      /* … tables and metadata */
    OFFER_DISCOVERY = 1 << 2, /* … aggregated discovery */
    OFFER_OPENAPI_V2 = 1 << 3, /* that document as protobuf */
    OFFER_NDJSON = 1 << 4,     /* a document a line */
};

#define ACCEPT_OPENAPI_V2 "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
#define ACCEPT_OPENAPI_V2_OLD "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" /* no valid media type, but what clients sent first */

struct accept {
    enum accept_form form;
    enum accept_as as;
    const char *version; /* of `as`: "v1", "v1beta1", "v2", "v2beta1"; static */
};

/* An empty header accepts everything. */
int accept_parse(struct str header, unsigned offers, struct accept *ret, struct err *err) NODISCARD;


#endif
