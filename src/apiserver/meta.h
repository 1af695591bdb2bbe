/* metadata of all objects: what clients may send, what the server keeps, and its rules. Pure functions on documents; the loop's thread. */
#ifndef SEKI_APISERVER_META_H
#define SEKI_APISERVER_META_H

#include "kinds/kind.h"

extern const struct field meta_fields[];

/* The document is an object of this kind, its metadata is an object, and no member is unknown. Strict: ERR_BAD_REQUEST names the first; else unknown members are
 * removed and, when warnings is not NULL, reported there. */
enum meta_unknown { META_STRICT, META_WARN, META_IGNORE };
int meta_check_shape(const struct kind *k, json_t *obj, enum meta_unknown how, struct field_errors *warnings, struct err *err) NODISCARD;
/* A new object's metadata: name (generated when asked for), uid, creationTimestamp, generation 1. */
int meta_prepare_create(const struct kind *k, json_t *obj, const char *ns, struct err *err) NODISCARD;
/* Members that only the server changes are made those of old_obj; generation counts up when something beside metadata and status differs. */
int meta_prepare_update(const struct kind *k, json_t *obj, const json_t *old_obj, struct err *err) NODISCARD;
/* Names, labels, annotations, finalizers, owners. old_obj NULL: creation. */
void meta_validate(const struct kind *k, const json_t *obj, const json_t *old_obj, struct field_errors *e);
bool meta_has_finalizers(const json_t *obj);
/* Equal but for resourceVersion. */
bool meta_same_object(const json_t *a, const json_t *b);

#endif
