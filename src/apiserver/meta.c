#include "apiserver/meta.h"
#include "apiserver/types.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"

#define GENERATED_CHARS 5
#define GENERATE_NAME_MAX 58
#define ANNOTATIONS_MAX_BYTES (256 * 1024)

const struct field owner_fields[] = {
    {.name = "apiVersion", .type = FIELD_STRING, .proto = 5, .flags = FIELD_REQUIRED, .min = 1, .max = 512, .help = "of the owner"},
    {.name = "kind", .type = FIELD_STRING, .proto = 1, .flags = FIELD_REQUIRED, .min = 1, .max = 253, .help = "of the owner"},
    {.name = "name", .type = FIELD_STRING, .proto = 3, .flags = FIELD_REQUIRED, .min = 1, .max = 253, .help = "of the owner"},
    {.name = "uid", .type = FIELD_STRING, .proto = 4, .flags = FIELD_REQUIRED, .min = 1, .max = 128, .help = "of the owner"},
    {.name = "controller", .type = FIELD_BOOL, .proto = 6, .help = "the owner is the managing controller"},
    {.name = "blockOwnerDeletion", .type = FIELD_BOOL, .proto = 7, .help = "foreground deletion of the owner waits for this object"},
    {0},
};
const struct field meta_fields[] = {
    {.name = "name", .type = FIELD_STRING, .proto = 1, .max = 253, .help = "unique within the namespace"},
    {.name = "generateName", .type = FIELD_STRING, .proto = 2, .max = 253, .help = "prefix of a name that the server makes, when name is empty"},
    {.name = "namespace", .type = FIELD_STRING, .proto = 3, .max = 63, .help = "scope of the name"},
    {.name = "uid", .type = FIELD_STRING, .proto = 5, .help = "unique in space and time; set by the server"},
    {.name = "resourceVersion", .type = FIELD_STRING, .proto = 6, .help = "opaque version, for optimistic concurrency and watches"},
    {.name = "generation", .type = FIELD_INT, .proto = 7, .help = "counts changes of the desired state"},
    {.name = "creationTimestamp", .type = FIELD_TIME, .proto = 8, .flags = FIELD_NULLABLE, .help = "set by the server"},
    {.name = "deletionTimestamp", .type = FIELD_TIME, .proto = 9, .flags = FIELD_NULLABLE, .help = "set by the server when deletion was asked for and finalizers hold it"},
    {.name = "deletionGracePeriodSeconds", .type = FIELD_INT, .proto = 10, .flags = FIELD_NULLABLE, .help = "set by the server"},
    {.name = "labels", .type = FIELD_MAP, .proto = 11, .flags = FIELD_NULLABLE, .max = 1000, .help = "for selection"},
    {.name = "annotations", .type = FIELD_MAP, .proto = 12, .flags = FIELD_NULLABLE, .max = 10000, .help = "for tools"},
    {.name = "finalizers", .type = FIELD_LIST, .proto = 14, .elem = FIELD_STRING, .flags = FIELD_NULLABLE, .list_type = LIST_SET, .max = 100, .help = "who must act before the object goes"},
    {.name = "ownerReferences", .type = FIELD_LIST, .proto = 13, .elem = FIELD_OBJECT, .flags = FIELD_NULLABLE, .sub = owner_fields, .list_type = LIST_MAP, .list_key = "uid", .max = 100, .help = "when all owners are gone, the object goes too"},
    {.name = "managedFields", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_NULLABLE, .sub = managed_field_fields, .help = "who manages which fields"},
    {.name = "selfLink", .type = FIELD_STRING, .proto = 4, .help = "not used any more"},
    {0},
};

/* Only the server sets these. */
static const char *const server_members[] = {"uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "name", "namespace"};
static const char *const dropped_members[] = {"managedFields", "selfLink"};

#define META(obj) json_object_get((obj), "metadata")

static void find_unknown(const struct kind *k, json_t *obj, struct field_errors *e)
{
    JSON_AUTO rest = json_copy(obj);
    json_object_del(rest, "apiVersion");
    json_object_del(rest, "kind");
    json_object_del(rest, "metadata");
    field_unknown(k->fields, rest, "", e);
    field_unknown(meta_fields, META(obj), "metadata", e);
}

static bool is_blank(const json_t *v)
{
    return !v || json_is_null(v) || (json_is_string(v) && !json_string_length(v));
}

static int check_type(const struct kind *k, json_t *obj, struct err *err)
{
    char version[128];
    kind_api_version(k, version);
    if (k->native && is_blank(json_object_get(obj, "apiVersion")) && is_blank(json_object_get(obj, "kind"))) {
        json_object_set_new(obj, "apiVersion", json_string(version));
        json_object_set_new(obj, "kind", json_string(k->name));
    }
    const char *got_version = json_string_value(json_object_get(obj, "apiVersion")), *got_kind = json_string_value(json_object_get(obj, "kind"));
    if (!got_kind)
        return err_field(err, ERR_BAD_REQUEST, "kind", "Object 'Kind' is missing: expected \"%s\"", k->name);
    if (!got_version)
        return err_field(err, ERR_BAD_REQUEST, "apiVersion", "Object 'apiVersion' is missing: expected \"%s\"", version);
    if (strcmp(got_version, version) != 0 || strcmp(got_kind, k->name) != 0)
        return err_field(err, ERR_BAD_REQUEST, strcmp(got_kind, k->name) != 0 ? "kind" : "apiVersion",
                         "the object provided is unrecognized: expected kind \"%s\" of \"%s\", not \"%.64s\" of \"%.64s\"", k->name, version, got_kind, got_version);
    return 0;
}

int meta_check_shape(const struct kind *k, json_t *obj, enum meta_unknown how, struct field_errors *warnings, struct err *err)
{
    if (!json_is_object(obj))
        return err_set(err, ERR_BAD_REQUEST, "the body is no JSON object");
    int rc = check_type(k, obj, err);
    if (rc < 0)
        return rc;
    if (!META(obj) || json_is_null(META(obj)))
        json_object_set_new(obj, "metadata", json_object());
    if (!json_is_object(META(obj)))
        return err_field(err, ERR_BAD_REQUEST, "metadata", "metadata must be an object");
    find_unknown(k, obj, warnings);
    if (warnings->count && how == META_STRICT) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        sbuf_init(&text, ERR_MSG_MAX - 64);
        for (size_t i = 0; i < warnings->count; i++)
            sbuf_addf(&text, "%s%s", i ? ", " : "", warnings->items[i].message);
        return err_field(err, ERR_BAD_REQUEST, warnings->items[0].path, "strict decoding error: %s", text.ptr ? text.ptr : warnings->items[0].message);
    }
    if (warnings->count) {
        static const struct field root[] = {{.name = "apiVersion", .type = FIELD_STRING}, {.name = "kind", .type = FIELD_STRING},
                                            {.name = "metadata", .type = FIELD_OBJECT, .sub = meta_fields}, {0}};
        field_prune(k->fields, root, obj);
    }
    field_drop_nulls(k->fields, obj);
    return 0;
}

static int make_name(json_t *meta, struct err *err)
{
    const char *name = json_string_value(json_object_get(meta, "name")), *prefix = json_string_value(json_object_get(meta, "generateName"));
    if (name && *name)
        return 0;
    if (!prefix || !*prefix)
        return err_field(err, ERR_INVALID, "metadata.name", "Required value: name or generateName is required");
    char text[GENERATE_NAME_MAX + GENERATED_CHARS + 1], random[GENERATED_CHARS + 1];
    size_t len = MIN(strlen(prefix), (size_t)GENERATE_NAME_MAX);
    while (len && ((unsigned char)prefix[len] & 0xC0) == 0x80) /* a character is kept whole or not at all */
        len--;
    rnd_name(random, GENERATED_CHARS);
    snprintf(text, sizeof(text), "%.*s%s", (int)len, prefix, random);
    json_object_set_new(meta, "name", json_string(text));
    return 0;
}

static int check_namespace(const struct kind *k, json_t *meta, const char *ns, struct err *err)
{
    const char *given = json_string_value(json_object_get(meta, "namespace"));
    if (given && *given && strcmp(given, ns) != 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.namespace", "the namespace of the provided object does not match the namespace sent on the request");
    if (k->namespaced)
        json_object_set_new(meta, "namespace", json_string(ns));
    else
        json_object_del(meta, "namespace");
    return 0;
}

static void drop(json_t *meta)
{
    static const char *const maybe_null[] = {"labels", "annotations", "finalizers", "ownerReferences"};
    for (size_t i = 0; i < ARRAY_LEN(dropped_members); i++)
        json_object_del(meta, dropped_members[i]);
    for (size_t i = 0; i < ARRAY_LEN(maybe_null); i++) {
        json_t *v = json_object_get(meta, maybe_null[i]);
        if (json_is_null(v) || (json_is_array(v) && !json_array_size(v)))
            json_object_del(meta, maybe_null[i]);
    }
}

int meta_prepare_create(const struct kind *k, json_t *obj, const char *ns, struct err *err)
{
    json_t *meta = META(obj);
    const char *rv = json_string_value(json_object_get(meta, "resourceVersion"));
    char now[CLOCK_TEXT_MAX], uid[UUID_TEXT_MAX];
    int rc;
    if (rv && *rv)
        return err_field(err, ERR_BAD_REQUEST, "metadata.resourceVersion", "resourceVersion should not be set on objects to be created");
    if ((rc = check_namespace(k, meta, ns, err)) < 0 || (rc = make_name(meta, err)) < 0)
        return rc;
    drop(meta);
    json_object_del(meta, "deletionTimestamp");
    json_object_del(meta, "deletionGracePeriodSeconds");
    json_object_del(meta, "resourceVersion");
    rnd_uuid(uid);
    clock_format(clock_wall_ms(), now);
    json_object_set_new(meta, "uid", json_string(uid));
    json_object_set_new(meta, "creationTimestamp", json_string(now));
    json_object_set_new(meta, "generation", json_integer(1));
    return 0;
}

/* Something that is wanted differs: any member but metadata and status. */
static bool spec_differs(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)a, key, v)
        if (strcmp(key, "metadata") != 0 && strcmp(key, "status") != 0 && !json_equal(v, json_object_get(b, key)))
            return true;
    json_object_foreach ((json_t *)(uintptr_t)b, key, v)
        if (strcmp(key, "metadata") != 0 && strcmp(key, "status") != 0 && !json_object_get(a, key))
            return true;
    return false;
}

int meta_prepare_update(const struct kind *k, json_t *obj, const json_t *old_obj, struct err *err)
{
    json_t *meta = META(obj), *old_meta = META(old_obj);
    const char *name = json_string_value(json_object_get(meta, "name")), *uid = json_string_value(json_object_get(meta, "uid"));
    int rc = check_namespace(k, meta, obj_namespace(old_obj), err);
    if (rc < 0)
        return rc;
    if (name && strcmp(name, obj_name(old_obj)) != 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.name", "the name of the object (%.64s) does not match the name on the URL (%s)", name, obj_name(old_obj));
    if (uid && *uid && strcmp(uid, obj_uid(old_obj)) != 0)
        return err_field(err, ERR_CONFLICT, "metadata.uid", "Precondition failed: UID in precondition: %.64s, UID in object meta: %s", uid, obj_uid(old_obj));
    drop(meta);
    for (size_t i = 0; i < ARRAY_LEN(server_members); i++) {
        json_t *v = json_object_get(old_meta, server_members[i]);
        if (v)
            json_object_set(meta, server_members[i], v);
        else
            json_object_del(meta, server_members[i]);
    }
    if (spec_differs(obj, old_obj))
        json_object_set_new(meta, "generation", json_integer(obj_generation(old_obj) + 1));
    return 0;
}

static void validate_labels(const json_t *meta, struct field_errors *e)
{
    const char *key;
    json_t *v;
    json_object_foreach (json_object_get(meta, "labels"), key, v) {
        if (!field_label_key(str_of(key)))
            field_errors_add(e, "metadata.labels", "FieldValueInvalid", "Invalid value: \"%.300s\": a label key is [PREFIX/]NAME, NAME of at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", key);
        else if (!json_is_string(v) || !field_label_value(str_of(json_string_value(v))))
            field_errors_add(e, "metadata.labels", "FieldValueInvalid", "Invalid value: \"%.100s\": a label value is at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
                             json_is_string(v) ? json_string_value(v) : key);
    }
    size_t total = 0;
    json_object_foreach (json_object_get(meta, "annotations"), key, v) {
        total += strlen(key) + json_string_length(v);
        if (!field_label_key(str_of(key)))
            field_errors_add(e, "metadata.annotations", "FieldValueInvalid", "Invalid value: \"%.300s\": an annotation key is [PREFIX/]NAME as for labels", key);
    }
    if (total > ANNOTATIONS_MAX_BYTES)
        field_errors_add(e, "metadata.annotations", "FieldValueTooLong", "Too long: must have at most %d bytes", ANNOTATIONS_MAX_BYTES);
}

void meta_validate(const struct kind *k, const json_t *obj, const json_t *old_obj, struct field_errors *e)
{
    const json_t *meta = META(obj);
    const char *name = obj_name(obj);
    size_t i, before = e->count;
    json_t *f;
    field_validate(meta_fields, meta, "metadata", e);
    if (e->count > before)
        return; /* wrong types: the rest would only repeat it */
    if (!old_obj) {
        bool ok = k->path_names ? *name && !strpbrk(name, "/%") && strcmp(name, ".") != 0 && strcmp(name, "..") != 0
                  : k->label_names ? field_dns_label(str_of(name)) : field_dns_name(str_of(name));
        if (!ok)
            field_errors_add(e, "metadata.name", "FieldValueInvalid", "Invalid value: \"%.253s\": %s", name,
                             k->path_names    ? "may not be empty, '.' or '..', nor contain '/' or '%'"
                             : k->label_names ? "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character, at most 63 characters"
                                              : "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character");
    }
    validate_labels(meta, e);
    json_array_foreach (json_object_get(meta, "finalizers"), i, f) {
        const char *text = json_string_value(f);
        bool standard = !strcmp(text, "orphan") || !strcmp(text, "foregroundDeletion");
        if (!standard && (!strchr(text, '/') || !field_label_key(str_of(text))))
            field_errors_add(e, "metadata.finalizers", "FieldValueInvalid", "Invalid value: \"%.253s\": name is neither a standard finalizer name nor is it fully qualified", text);
        else if (old_obj && obj_deleting(old_obj) && !obj_has_finalizer(old_obj, text))
            field_errors_add(e, "metadata.finalizers", "FieldValueForbidden", "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizer \"%.253s\"", text);
    }
}

bool meta_has_finalizers(const json_t *obj)
{
    return json_array_size(json_object_get(META(obj), "finalizers")) > 0;
}

bool meta_same_object(const json_t *a, const json_t *b)
{
    JSON_AUTO x = json_copy((json_t *)(uintptr_t)a);
    JSON_AUTO y = json_copy((json_t *)(uintptr_t)b);
    JSON_AUTO mx = json_copy(META(a));
    JSON_AUTO my = json_copy(META(b));
    json_object_del(mx, "resourceVersion");
    json_object_del(my, "resourceVersion");
    json_object_set(x, "metadata", mx);
    json_object_set(y, "metadata", my);
    return json_equal(x, y);
}
