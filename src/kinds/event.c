/* Event: what happened to an object. Stored as core/v1 has it; events.k8s.io/v1 is a view with newer words, and asks more of who creates one. */
#include "kinds/borrowed.h"

#define TEXT_MAX 128

static const struct field reference_fields[] = {
    {.name = "apiVersion", .type = FIELD_STRING, .proto = 5, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "kind", .type = FIELD_STRING, .proto = 1, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "namespace", .type = FIELD_STRING, .proto = 2, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "name", .type = FIELD_STRING, .proto = 3, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "uid", .type = FIELD_STRING, .proto = 4, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "resourceVersion", .type = FIELD_STRING, .proto = 6, .flags = FIELD_SELECTABLE, .help = "of the object"},
    {.name = "fieldPath", .type = FIELD_STRING, .proto = 7, .flags = FIELD_SELECTABLE, .help = "part of the object"},
    {0},
};
static const struct field source_fields[] = {
    {.name = "component", .type = FIELD_STRING, .proto = 1, .flags = FIELD_SELECTABLE, .help = "who reports"},
    {.name = "host", .type = FIELD_STRING, .proto = 2, .help = "where"},
    {0},
};
static const struct field series_fields[] = {
    {.name = "count", .type = FIELD_INT, .proto = 1, .help = "how often"},
    {.name = "lastObservedTime", .type = FIELD_TIME, .proto = 2, .flags = FIELD_MICRO | FIELD_NULLABLE, .help = "when last"},
    {0},
};
/* Rows that both forms have. */
#define REASON(n) {.name = "reason", .type = FIELD_STRING, .proto = (n), .flags = FIELD_SELECTABLE, .max = 128, .help = "stable code"}
#define TYPE(n) {.name = "type", .type = FIELD_STRING, .proto = (n), .flags = FIELD_SELECTABLE, .help = "Normal or Warning"}
#define EVENT_TIME(n) {.name = "eventTime", .type = FIELD_TIME, .proto = (n), .flags = FIELD_NULLABLE | FIELD_MICRO, .help = "when, precisely"}
#define SERIES(n) {.name = "series", .type = FIELD_OBJECT, .proto = (n), .flags = FIELD_NULLABLE, .sub = series_fields, .help = "repeats"}
#define ACTION(n) {.name = "action", .type = FIELD_STRING, .proto = (n), .help = "what was tried"}
#define RELATED(n) {.name = "related", .type = FIELD_OBJECT, .proto = (n), .flags = FIELD_NULLABLE, .sub = reference_fields, .help = "another object that matters"}
#define INSTANCE(n) {.name = "reportingInstance", .type = FIELD_STRING, .proto = (n), .help = "which of those who report"}

static const struct field stored_fields[] = {
    {.name = "involvedObject", .type = FIELD_OBJECT, .proto = 2, .flags = FIELD_REQUIRED, .sub = reference_fields, .help = "what it is about"},
    RELATED(13),
    REASON(3),
    {.name = "message", .type = FIELD_STRING, .proto = 4, .max = 1024, .help = "what happened"},
    TYPE(9),
    {.name = "count", .type = FIELD_INT, .proto = 8, .help = "how often"},
    {.name = "firstTimestamp", .type = FIELD_TIME, .proto = 6, .flags = FIELD_NULLABLE, .help = "when first"},
    {.name = "lastTimestamp", .type = FIELD_TIME, .proto = 7, .flags = FIELD_NULLABLE, .help = "when last"},
    EVENT_TIME(10),
    {.name = "source", .type = FIELD_OBJECT, .proto = 5, .sub = source_fields, .help = "who reports"},
    SERIES(11),
    ACTION(12),
    {.name = "reportingComponent", .type = FIELD_STRING, .proto = 14, .flags = FIELD_SELECTABLE, .help = "who reports"},
    INSTANCE(15),
    {0},
};
static const struct field shown_fields[] = {
    {.name = "regarding", .type = FIELD_OBJECT, .proto = 8, .sub = reference_fields, .help = "what it is about"},
    RELATED(9),
    REASON(7),
    {.name = "note", .type = FIELD_STRING, .proto = 10, .max = 1024, .help = "what happened"},
    TYPE(11),
    EVENT_TIME(2),
    SERIES(3),
    ACTION(6),
    {.name = "reportingController", .type = FIELD_STRING, .proto = 4, .flags = FIELD_SELECTABLE, .help = "who reports"},
    INSTANCE(5),
    {.name = "deprecatedCount", .type = FIELD_INT, .proto = 15, .help = "how often; core/v1 has it as count"},
    {.name = "deprecatedFirstTimestamp", .type = FIELD_TIME, .proto = 13, .flags = FIELD_NULLABLE, .help = "when first; core/v1 has it as firstTimestamp"},
    {.name = "deprecatedLastTimestamp", .type = FIELD_TIME, .proto = 14, .flags = FIELD_NULLABLE, .help = "when last; core/v1 has it as lastTimestamp"},
    {.name = "deprecatedSource", .type = FIELD_OBJECT, .proto = 12, .sub = source_fields, .help = "who reports; core/v1 has it as source"},
    {0},
};
static const struct kind_rename renames[] = {
    {"involvedObject", "regarding"}, {"message", "note"}, {"reportingComponent", "reportingController"}, {"count", "deprecatedCount"},
    {"firstTimestamp", "deprecatedFirstTimestamp"}, {"lastTimestamp", "deprecatedLastTimestamp"}, {"source", "deprecatedSource"}, {0},
};

#define COLUMNS(object, last, first, component, count, message) \
    { \
        {"LAST SEEN", "date", "", "series.lastObservedTime|" last "|eventTime|metadata.creationTimestamp", 0, "when last"}, \
        {"TYPE", "string", "", "type", 0, "Normal or Warning"}, \
        {"REASON", "string", "", "reason", 0, "stable code"}, \
        {"OBJECT", "string", "", "ref:" object, 0, "what it is about"}, \
        {"SUBOBJECT", "string", "", object ".fieldPath", 1, "part of it"}, \
        {"SOURCE", "string", "", component, 1, "who reports"}, \
        {"MESSAGE", "string", "", message, 0, "what happened"}, \
        {"FIRST SEEN", "date", "", first "|eventTime|metadata.creationTimestamp", 1, "when first"}, \
        {"COUNT", "integer", "", "series.count|" count, 1, "how often"}, \
        {"NAME", "string", "name", "metadata.name", 1, "name of the event"}, \
        {0}, \
    }
static const struct kind_column stored_columns[] = COLUMNS("involvedObject", "lastTimestamp", "firstTimestamp", "source.component|reportingComponent", "count", "message");
static const struct kind_column shown_columns[] = COLUMNS("regarding", "deprecatedLastTimestamp", "deprecatedFirstTimestamp", "reportingController|deprecatedSource.component", "deprecatedCount", "note");

/* An event lies where its object lies; those about the cluster's objects lie in the default namespace. */
static void check_place(const json_t *obj, const char *about, struct field_errors *errors)
{
    char path[64];
    snprintf(path, sizeof(path), "%s.namespace", about);
    const char *ns = json_str_or(obj, path, ""), *own = obj_namespace(obj);
    if (strcmp(*ns ? ns : "default", own) != 0)
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%s\": does not match event.namespace", ns);
}

static void validate_stored(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    if (!old_obj)
        check_place(obj, "involvedObject", errors);
}

static void need_text(const json_t *obj, const char *name, struct field_errors *errors)
{
    const char *text = json_str_or(obj, name, "");
    if (!*text)
        field_errors_add(errors, name, "FieldValueRequired", "Required value");
    else if (strlen(text) > TEXT_MAX)
        field_errors_add(errors, name, "FieldValueInvalid", "Invalid value: \"%.20s…\": can have at most %d characters", text, TEXT_MAX);
}

static void validate_shown(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    static const char *const needed[] = {"reportingController", "reportingInstance", "action", "reason"};
    const char *type = json_str_or(obj, "type", "");
    if (old_obj)
        return;
    check_place(obj, "regarding", errors);
    if (!json_str(obj, "eventTime"))
        field_errors_add(errors, "eventTime", "FieldValueRequired", "Required value");
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        need_text(obj, needed[i], errors);
    if (strcmp(type, "Normal") != 0 && strcmp(type, "Warning") != 0)
        field_errors_add(errors, "type", "FieldValueNotSupported", "Unsupported value: \"%.64s\": supported values: \"Normal\", \"Warning\"", type);
}

static const struct kind_ops stored_ops = {.validate = validate_stored}, shown_ops = {.validate = validate_shown};

const struct kind kind_event = {
    .group = "", .version = "v1", .name = "Event", .plural = "events", .singular = "event", .short_names = "ev", .namespaced = true,
    .native = true, .uncounted = true, .most = 50000, .unaudited = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = stored_fields, .columns = stored_columns, .ops = &stored_ops, .help = "Event tells what happened to an object.",
};
const struct kind kind_event_view = {
    .group = "events.k8s.io", .version = "v1", .name = "Event", .plural = "events", .singular = "event", .short_names = "ev", .namespaced = true,
    .native = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = shown_fields, .columns = shown_columns, .ops = &shown_ops, .view_of = &kind_event, .renames = renames, .help = "Event tells what happened to an object.",
};
