/* Objects as a client asked to see them: themselves, rows of a table, or their metadata alone. */
#include "apiserver/api.h"

int shape_check(struct api_request *q, bool is_list, struct err *err)
{
    static const char *const names[] = {[AS_METADATA] = "PartialObjectMetadata", [AS_METADATA_LIST] = "PartialObjectMetadataList"};
    struct str include = api_query(q, "includeObject");
    enum accept_as as = q->wants.as;
    q->include = include;
    bool fits = (as != AS_METADATA || !is_list) && (as != AS_METADATA_LIST || is_list);
    if (!fits) {
        q->wants.as = AS_ITSELF;
        return err_set(err, ERR_NOT_ACCEPTABLE, "you requested %s, but the requested object is %s", names[as], is_list ? "a list" : "not a list");
    }
    if (as == AS_TABLE && include.len && !str_eqc(include, "None") && !str_eqc(include, "Metadata") && !str_eqc(include, "Object"))
        return err_field(err, ERR_BAD_REQUEST, "includeObject", "unrecognized includeObject value: \"%.*s\": supported values: \"None\", \"Metadata\", \"Object\"",
                         (int)(include.len > 64 ? 64 : include.len), include.ptr);
    return 0;
}

json_t *shape_metadata(const char *version, const json_t *obj)
{
    char text[64];
    snprintf(text, sizeof(text), "meta.k8s.io/%s", version);
    return json_pack("{s:s, s:s, s:O}", "kind", "PartialObjectMetadata", "apiVersion", text, "metadata", json_object_get(obj, "metadata"));
}

json_t *shape_object(const struct api_request *q, const json_t *obj, int64_t rev, bool with_columns)
{
    if (q->wants.as == AS_METADATA)
        return shape_metadata(q->wants.version, obj);
    if (q->wants.as != AS_TABLE)
        return json_incref((json_t *)(uintptr_t)obj);
    json_t *table = table_start(q, rev, with_columns);
    table_row(table, q, obj);
    return table;
}
