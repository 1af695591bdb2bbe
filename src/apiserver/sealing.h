/* Sealed objects: what a kind's table marks secret is in the store as one sealed text, the last member of the object, and in no other form.
 *
 *   {"metadata":{…},…,"$sealed":"BASE64"}
 * What is sealed are the members with FIELD_SECRET, and, of kinds whose clients write such, the annotations: kubectl puts the whole object into one. The sealed text is bound to the
 * object's key in the store (kind, namespace, name), to its tenant, and byte for byte to everything else that is stored of it, uid and generation included: another object's, or
 * another version's, does not open. Who may see an object sees it whole: everything past object.c has documents in which nothing is sealed.
 * A document whose sealed text does not open is `shut`: it lacks those members, cannot be written, and is not shown to clients.
 */
#ifndef SEKI_APISERVER_SEALING_H
#define SEKI_APISERVER_SEALING_H

#include "apiserver/keyring.h"
#include "kinds/kind.h"

#define SEALED_MEMBER "$sealed"
#define SEALED_TENANT_MAX 256
#define CLUSTER_TENANT "system:cluster" /* of objects in no namespace */

/* Takes out of obj what is to be sealed, as a document of the same shape; NULL: nothing. obj is changed at its top and in `metadata`, which must be its own; what lies below is copied. */
json_t *sealing_take(const struct kind *k, json_t *obj);
/* Puts it back. */
void sealing_put(json_t *obj, const json_t *secrets);
/* Whether a kind may have something to seal. */
bool sealing_concerns(const struct kind *k);

/* text, an object without its secrets, becomes the object with them sealed. text may pass its maximum by what sealing adds. */
int sealing_close(struct keyring *k, struct str key, const char *tenant, const json_t *secrets, struct sbuf *text, struct err *err) NODISCARD;
/* Whether a stored text has a sealed part, and the id of its key (all zero when it is malformed; may be NULL). */
bool sealing_is_sealed(struct str text, uint8_t ret_id[ENVELOPE_ID_BYTES]);
/* A stored text as a document with its secrets; or as a document that is shut. A text that is no JSON is an empty object. */
json_t *sealing_open(struct str key, struct str text);
/* Why a document is shut, or NULL. */
const char *sealing_shut(const json_t *obj);

#endif
