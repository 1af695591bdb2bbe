/* Sets of field paths: which members of an object somebody has set. metadata.managedFields keeps them, server-side apply is decided by them.
 *
 * A set is a document: one object a node, with a member a child. Children are named as FieldsV1 names them: "f:NAME" a member of an object, "k:{…}" the element
 * of a list by key, "v:…" the element of a set. The node itself is in the set when it has the member "." (FieldsV1 leaves that out where nothing is below; decode
 * and encode convert). An object without members is the empty set. Sets are values: operations make new ones, which may share parts with their operands and are
 * therefore immutable. NULL is accepted as the empty set.
 *
 * Which parts of an object are atomic comes from its field table: a row of FIELD_OBJECT is entered unless it is FIELD_ATOMIC, maps by key, lists by their list type;
 * everything else is one leaf. Members without a row belong to nobody. Threads: any, as jansson.
 *
 * The form is that of FieldsV1 in the Kubernetes API reference (ObjectMeta, ManagedFieldsEntry).
 */
#ifndef SEKI_JSON_FIELDSET_H
#define SEKI_JSON_FIELDSET_H

#include "json/table.h"

/* From and to FieldsV1; new references. decode: NULL when it is no such form. */
json_t *fieldset_decode(const json_t *fields_v1);
json_t *fieldset_encode(const json_t *set);

bool fieldset_is_empty(const json_t *set);
json_t *fieldset_union(const json_t *a, const json_t *b);
json_t *fieldset_minus(const json_t *a, const json_t *b); /* exact paths: a child stays when only its parent is in b */
json_t *fieldset_common(const json_t *a, const json_t *b);

/* What an applied document sets: its leaves, its list elements, its empty objects. New reference. */
json_t *fieldset_of(const struct field *table, const json_t *obj);
/* What differs: paths that are new or have another value in b, and paths that only a has, each with all below. a NULL: everything is new. New references. */
struct fieldset_diff {
    json_t *changed, *removed;
};
struct fieldset_diff fieldset_compare(const struct field *table, const json_t *a, const json_t *b);

/* Each path as people read it: ".spec.files[name=\"x\"].digest". Until fn returns false. */
void fieldset_each(const json_t *set, bool (*fn)(void *arg, const char *path), void *arg);

/* How a row is entered, and the names of list elements: shared with apply.c. */
enum field_shape { SHAPE_LEAF, SHAPE_OBJECT, SHAPE_MAP, SHAPE_SET, SHAPE_KEYED };
enum field_shape field_shape(const struct field *f, const json_t *value);
/* The row of an object's member: rows that maps and elements do not have are made up in *scratch. NULL: no row. */
const struct field *field_child(const struct field *f, const char *name, struct field *scratch);
/* "k:{…}" or "v:…" of an element; false: it lacks a key. */
bool field_element_name(const struct field *f, const json_t *item, struct sbuf *out);
/* Whether all elements of a list have names, and none twice. */
bool field_elements_named(const struct field *f, const json_t *list);

#endif
