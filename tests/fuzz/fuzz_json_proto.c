/* Kubernetes' protobuf form: any bytes are a document or an error; what is a document is JSON that can be written and read again. */
#include "fuzz.h"

#include "json/proto.h"

static const struct field part_fields[] = {
    {.name = "a", .type = FIELD_STRING, .proto = 1}, {.name = "b", .type = FIELD_TIME, .proto = 2}, {.name = "c", .type = FIELD_MAP, .flags = FIELD_BASE64, .proto = 3}, {0},
};
static const struct field table[] = {
    {.name = "metadata", .type = FIELD_OBJECT, .sub = part_fields, .proto = 1},
    {.name = "spec", .type = FIELD_OBJECT, .sub = part_fields, .proto = 2},
    {.name = "list", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = part_fields, .proto = 3},
    {.name = "texts", .type = FIELD_LIST, .elem = FIELD_STRING, .proto = 4},
    {.name = "numbers", .type = FIELD_LIST, .elem = FIELD_INT, .proto = 5},
    {.name = "map", .type = FIELD_MAP, .proto = 6},
    {.name = "flag", .type = FIELD_BOOL, .proto = 7},
    {0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = NULL;
    JSON_AUTO again = NULL;
    if (size > 65536)
        return 0;
    if (proto_parse(table, str_n(data, size), &doc, &err) < 0) {
        if (!err.msg[0] || doc)
            abort();
        return 0;
    }
    sbuf_init(&text, 64u * 1024 * 1024);
    json_write(doc, &text);
    if (!sbuf_ok(&text) || json_parse(sbuf_str(&text), 64u * 1024 * 1024, &again, &err) < 0 || !json_equal(doc, again))
        abort();
    return 0;
}
