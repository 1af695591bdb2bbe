#include "kinds/inference.h"

#define SPEC(member) offsetof(struct model, spec.member) - offsetof(struct model, spec)
#define FILE_(member) offsetof(struct model_file, member)
#define LICENSE(member) offsetof(struct model, spec.license.member) - offsetof(struct model, spec.license)

static const struct field file_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FILE_(name), .min = 1, .max = 1024, .help = "path below the source directory"},
    {.name = "digest", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FILE_(digest), .min = 71, .max = 71, .help = "sha256: and 64 hexadecimal digits"},
    {.name = "sizeBytes", .type = FIELD_INT, .flags = FIELD_REQUIRED, .offset = FILE_(size_bytes), .min = 1, .max = INT64_MAX, .help = "size of the file"},
    {0},
};
static const struct field license_fields[] = {
    {.name = "id", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = LICENSE(id), .min = 1, .max = 256, .help = "SPDX identifier, or the licence's own name"},
    {.name = "digest", .type = FIELD_STRING, .offset = LICENSE(digest), .max = 71, .help = "digest of the licence's text"},
    {.name = "commercialUse", .type = FIELD_ENUM, .offset = LICENSE(commercial_use), .values = "Allowed|AllowedWithTerms|Forbidden|Unknown", .def = "\"Unknown\"", .help = "whether the licence lets it be sold as a service"},
    {.name = "url", .type = FIELD_STRING, .offset = LICENSE(url), .max = 2048, .help = "where the text can be read"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "source", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = SPEC(source), .min = 8, .max = 4096, .help = "directory with the files: file:///absolute/path"},
    {.name = "format", .type = FIELD_ENUM, .offset = SPEC(format), .values = "GGUF|Safetensors", .def = "\"GGUF\"", .help = "format of the files"},
    {.name = "contextLength", .type = FIELD_INT, .offset = SPEC(context_length), .min = 1, .max = 1 << 30, .help = "tokens it was trained for"},
    {.name = "files", .type = FIELD_LIST, .elem = FIELD_OBJECT, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE, .offset = SPEC(files), .sub = file_fields, .sub_size = sizeof(struct model_file), .list_type = LIST_MAP, .list_key = "name", .min = 1, .max = 1000, .help = "the files; the first is the one that engines load"},
    {.name = "capabilities", .type = FIELD_LIST, .elem = FIELD_STRING, .offset = SPEC(capabilities), .list_type = LIST_SET, .max = 16, .help = "Completion, Chat, Embedding, Rerank"},
    {.name = "instructionTuned", .type = FIELD_BOOL, .offset = SPEC(instruction_tuned), .def = "false", .help = "whether it follows instructions; a base model only continues text"},
    {.name = "license", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = SPEC(license), .sub = license_fields, .help = "under which terms it may be used"},
    {0},
};
static const struct field verified_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .help = "the file"},
    {.name = "digest", .type = FIELD_STRING, .help = "the digest that was found"},
    {.name = "sizeBytes", .type = FIELD_INT, .help = "its size then"},
    {.name = "modifiedNs", .type = FIELD_INT, .help = "its modification time then"},
    {.name = "inode", .type = FIELD_INT, .help = "its inode then"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "totalBytes", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "size of all files"},
    {.name = "verified", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = verified_fields, .list_type = LIST_MAP, .list_key = "name", .offset = FIELD_NO_MEMBER, .help = "what was hashed, and how the file looked then"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "generation that the controller has acted on"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "Verified"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = offsetof(struct model, spec), .sub = spec_fields, .help = "the manifest"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "what was found"},
    {0},
};
static const struct kind_column columns[] = {
    {"FORMAT", "string", "", "spec.format", 0, "format of the files"},
    {"VERIFIED", "string", "", "condition:Verified", 0, "whether the files are what the manifest says"},
    {"LICENSE", "string", "", "spec.license.id", 0, "its licence"},
    {"FILES", "integer", "", "count:spec.files", 1, "number of files"},
    {"BYTES", "integer", "", "status.totalBytes", 1, "size of all files"},
    {0},
};

static bool is_digest(const char *text)
{
    return strlen(text) == 71 && !strncmp(text, "sha256:", 7) && strspn(text + 7, "0123456789abcdef") == 64;
}

/* Inside the source directory: relative, without empty, "." and ".." parts. */
static bool is_inner_path(const char *text)
{
    struct str rest = str_of(text), part;
    while (str_cut(&rest, '/', &part))
        if (!part.len || str_eqc(part, ".") || str_eqc(part, ".."))
            return false;
    return *text && text[strlen(text) - 1] != '/';
}

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    const char *source = json_str_or(obj, "spec.source", "");
    char path[96];
    size_t i;
    json_t *file;
    if (strncmp(source, "file:///", 8) != 0)
        field_errors_add(errors, "spec.source", "FieldValueInvalid", "Invalid value: \"%s\": must be file:/// and an absolute path", source);
    json_array_foreach (json_at(obj, "spec.files"), i, file) {
        const char *digest = json_str_or(file, "digest", ""), *name = json_str_or(file, "name", "");
        snprintf(path, sizeof(path), "spec.files[%zu].digest", i);
        if (strlen(digest) == 71 && !is_digest(digest))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%s\": must be sha256: and 64 lower-case hexadecimal digits", digest);
        snprintf(path, sizeof(path), "spec.files[%zu].name", i);
        if (*name && !is_inner_path(name))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%s\": must be a path inside the source directory", name);
    }
    json_array_foreach (json_at(obj, "spec.capabilities"), i, file) {
        const char *v = json_string_value(file);
        snprintf(path, sizeof(path), "spec.capabilities[%zu]", i);
        if (v && strcmp(v, "Completion") && strcmp(v, "Chat") && strcmp(v, "Embedding") && strcmp(v, "Rerank"))
            field_errors_add(errors, path, "FieldValueNotSupported", "Unsupported value: \"%s\": supported values: \"Completion\", \"Chat\", \"Embedding\", \"Rerank\"", v);
    }
}
static const struct kind_ops ops = {.validate = validate};

const struct kind kind_model = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Model", .plural = "models", .singular = "model", .categories = "seki", .namespaced = true,
    .has_status = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct model), .columns = columns, .ops = &ops,
    .help = "Model is a manifest of files with digests, and the licence they are under. Files that differ are never served.",
};
