/* Field tables: one table describes a struct's JSON form, and everything is derived from it: decoding into the struct,
 * encoding, strict unknown-field checks, validation with field paths, defaults, immutability, read-only and secret
 * fields, OpenAPI, reference documentation.
 *
 * A table is an array of rows ended by a row with name NULL. Types map to C members at `offset` in the struct:
 *   FIELD_STRING, FIELD_ENUM, FIELD_QUANTITY, FIELD_TIME   const char *      (NULL when absent; arena memory)
 *   FIELD_INT                                              int64_t
 *   FIELD_BOOL                                             bool
 *   FIELD_NUMBER                                           double
 *   FIELD_OBJECT                                           struct of `sub`, embedded; with flag FIELD_POINTER: pointer, NULL when absent
 *   FIELD_LIST       of FIELD_STRING/ENUM/INT/OBJECT (elem) struct field_list: items pointer and count
 *   FIELD_MAP        string → string                       struct field_map: keys[], values[], count
 *   FIELD_ANY        any JSON                              json_t * (borrowed from the document)
 * Rows of kinds that no C code reads as a struct (the borrowed ones) may have offset 0 and are only validated.
 */
#ifndef SEKI_JSON_TABLE_H
#define SEKI_JSON_TABLE_H

#include "json/json.h"

enum field_type {
    FIELD_STRING, FIELD_ENUM, FIELD_QUANTITY, FIELD_TIME, FIELD_INT, FIELD_BOOL, FIELD_NUMBER,
    FIELD_OBJECT, FIELD_LIST, FIELD_MAP, FIELD_ANY,
};

enum field_flags {
    FIELD_REQUIRED = 1 << 0,
    FIELD_IMMUTABLE = 1 << 1,  /* may be set at creation only */
    FIELD_READ_ONLY = 1 << 2,  /* only the server sets it; a client's value is dropped */
    FIELD_SECRET = 1 << 3,     /* never logged; to be encrypted in the store */
    FIELD_POINTER = 1 << 4,
    FIELD_SELECTABLE = 1 << 5, /* usable in field selectors */
    FIELD_OPEN = 1 << 6,       /* FIELD_OBJECT: unknown members are kept, not refused */
    FIELD_BASE64 = 1 << 7,     /* strings (or map values): base64 */
    FIELD_DNS_LABEL = 1 << 8,  /* strings: RFC 1123 label */
    FIELD_DNS_NAME = 1 << 9,   /* strings: RFC 1123 subdomain */
    FIELD_NULLABLE = 1 << 10,
    FIELD_MICRO = 1 << 13,     /* FIELD_TIME: with microseconds, as metav1.MicroTime */
    FIELD_ATOMIC = 1 << 11,    /* FIELD_OBJECT, FIELD_MAP: applied as one value */
};

/* How a list merges under apply; also in OpenAPI (x-kubernetes-list-type). */
enum field_list_type { LIST_ATOMIC, LIST_SET, LIST_MAP };

/* Offset of a row that has no member in the struct: validated, but neither decoded nor encoded. */
#define FIELD_NO_MEMBER SIZE_MAX

struct field {
    const char *name;
    enum field_type type;
    unsigned flags;
    size_t offset;
    const struct field *sub;     /* FIELD_OBJECT, and lists of objects */
    size_t sub_size;             /* sizeof of the sub struct, for lists and pointers */
    enum field_type elem;        /* FIELD_LIST */
    enum field_list_type list_type;
    const char *list_key;        /* LIST_MAP: "name" or "name,protocol" */
    int64_t min, max;            /* numbers: range (both 0: any); strings: length in bytes; lists and maps: count */
    const char *def;             /* default as JSON text: "1", "\"Project\"" */
    const char *values;          /* FIELD_ENUM, and lists of them: "A|B|C" */
    const char *ref;             /* names an object of this kind, "Model": for docs, and checks where a kind wants them */
    const char *help;
    unsigned proto;              /* number in Kubernetes' protobuf form; 0: not read from there (json/proto.h) */
};

struct field_list {
    void *items; /* array of const char *, int64_t, or sub structs */
    size_t count;
};
struct field_map {
    const char **keys;
    const char **values;
    size_t count;
};

/* Validation reports every problem, up to a bound, each with its path: Kubernetes' details.causes. */
struct field_error {
    const char *path;   /* "spec.replicas", "spec.files[0].name" */
    const char *reason; /* "FieldValueRequired" | "FieldValueInvalid" | "FieldValueNotSupported" | "FieldValueForbidden" | "FieldValueDuplicate" | "FieldValueTooLong" | "FieldValueTooMany" | "FieldValueTypeInvalid" | "FieldUnknown" */
    const char *message;/* as Kubernetes phrases it: "Required value", "Invalid value: 0: must be greater than or equal to 1", "Unsupported value: \"x\": supported values: \"A\", \"B\"", "unknown field \"spec.foo\"" */
};
#define FIELD_ERRORS_MAX 32
struct field_errors {
    struct arena *arena;
    struct field_error items[FIELD_ERRORS_MAX];
    size_t count;
};
void field_errors_add(struct field_errors *e, const char *path, const char *reason, const char *fmt, ...) PRINTF(4, 5);

/* Checks types, bounds, required, enums, unknown fields. `path` prefixes field paths ("" for a whole object). */
void field_validate(const struct field *table, const json_t *obj, const char *path, struct field_errors *errors);
/* Unknown members only, as Kubernetes' strict decoding reports them (a 400, before validation). */
void field_unknown(const struct field *table, const json_t *obj, const char *path, struct field_errors *errors);
/* Removes them. also: rows allowed at the top beside the table's (may be NULL). */
void field_prune(const struct field *table, const struct field *also, json_t *obj);
/* Immutable fields that differ. */
void field_validate_update(const struct field *table, const json_t *old_obj, const json_t *new_obj, const char *path, struct field_errors *errors);
/* Fills absent members that have defaults, at every depth; an absent object is made only when its own row has a default ("{}"). */
void field_defaults(const struct field *table, json_t *obj);
/* Removes members that are null, at every depth: null is absence, but where a row is marked nullable. */
void field_drop_nulls(const struct field *table, json_t *obj);
/* Makes read-only members those of old_obj (NULL: absent). */
void field_keep_read_only(const struct field *table, const json_t *old_obj, json_t *new_obj);
/* Removes members marked secret, for logs and bundles. */
void field_redact(const struct field *table, json_t *obj);

/* A validated document into a zeroed struct. */
int field_decode(const struct field *table, const json_t *obj, struct arena *a, void *out, struct err *err) NODISCARD;
/* The struct as a document; absent pointers and empty lists are left out. */
json_t *field_encode(const struct field *table, const void *in);

/* OpenAPI v3 schema of a table. ref_of (may be NULL) gives the "$ref" of sub tables that have a schema of their own, NULL for others, which are repeated in place. */
json_t *field_openapi(const struct field *table, const char *(*ref_of)(const struct field *table));

/* The row of that name; NULL when there is none. */
const struct field *field_find(const struct field *table, const char *name);
/* Whether a value has the JSON type of a row, and the names of both. */
bool field_has_type(enum field_type t, const json_t *v);
const char *field_type_name(enum field_type t);
const char *field_json_type_name(const json_t *v);

bool field_dns_label(struct str s);
bool field_dns_name(struct str s);
/* Label keys and values by Kubernetes' rules. */
bool field_label_key(struct str s);
bool field_label_value(struct str s);

#endif
