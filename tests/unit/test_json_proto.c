/* Kubernetes' protobuf form: what clients send is read by the table, odd bytes are refused, nothing is read past the end. */
#include "unit.h"

#include "json/proto.h"

static const struct field part_fields[] = {
    {.name = "name", .type = FIELD_STRING, .proto = 1},
    {.name = "silent", .type = FIELD_STRING},
    {0},
};
static const struct field table[] = {
    {.name = "text", .type = FIELD_STRING, .proto = 1},
    {.name = "number", .type = FIELD_INT, .proto = 2},
    {.name = "flag", .type = FIELD_BOOL, .proto = 3},
    {.name = "time", .type = FIELD_TIME, .proto = 4},
    {.name = "part", .type = FIELD_OBJECT, .sub = part_fields, .proto = 5},
    {.name = "parts", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = part_fields, .proto = 6},
    {.name = "texts", .type = FIELD_LIST, .elem = FIELD_STRING, .proto = 7},
    {.name = "map", .type = FIELD_MAP, .proto = 8},
    {.name = "secrets", .type = FIELD_MAP, .flags = FIELD_BASE64, .proto = 9},
    {.name = "anything", .type = FIELD_ANY, .proto = 10},
    {0},
};
static const struct field plain[] = {{.name = "text", .type = FIELD_STRING}, {0}};

#define BYTES(literal) str_n(literal, sizeof(literal) - 1)

/* The message in its envelope, as JSON; "" when it is refused. Read from a block of its exact size, so that a sanitizer sees what lies beyond. */
static const char *read(struct str message)
{
    static char text[1024];
    CLEANUP(sbuf_deinit) struct sbuf b = {0}, out = {0};
    struct err err = ERR_INIT;
    JSON_AUTO doc = NULL;
    sbuf_init(&b, 4096);
    sbuf_add(&b, BYTES("k8s\0\x0a\x07\x0a\x02v1\x12\x01K\x12"));
    sbuf_add_char(&b, (char)message.len);
    sbuf_add(&b, message);
    sbuf_add(&b, BYTES("\x1a\x00\x22\x00"));
    char *exact = malloc(b.len);
    memcpy(exact, b.ptr, b.len);
    int rc = proto_parse(table, str_n(exact, b.len), &doc, &err);
    free(exact);
    text[0] = 0;
    if (rc < 0)
        return text;
    sbuf_init(&out, sizeof(text));
    json_write(doc, &out);
    snprintf(text, sizeof(text), "%s", out.ptr);
    return text;
}

#define DOC(members) "{\"apiVersion\":\"v1\",\"kind\":\"K\"" members "}"

static void every_type_is_read(void **state UNUSED)
{
    assert_string_equal(read(BYTES("")), DOC(""));
    assert_string_equal(read(BYTES("\x0a\x02hi")), DOC(",\"text\":\"hi\""));
    assert_string_equal(read(BYTES("\x0a\x00")), DOC("")); /* empty is absent */
    assert_string_equal(read(BYTES("\x10\x96\x01")), DOC(",\"number\":150"));
    assert_string_equal(read(BYTES("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), DOC(",\"number\":-1"));
    assert_string_equal(read(BYTES("\x18\x01")), DOC(",\"flag\":true"));
    assert_string_equal(read(BYTES("\x18\x00")), DOC(",\"flag\":false"));
    assert_string_equal(read(BYTES("\x22\x00")), DOC(""));
    assert_string_equal(read(BYTES("\x22\x06\x08\x80\xc0\x8e\xc9\x06")), DOC(",\"time\":\"2025-11-24T00:00:00Z\""));
    assert_string_equal(read(BYTES("\x2a\x03\x0a\x01x")), DOC(",\"part\":{\"name\":\"x\"}"));
    assert_string_equal(read(BYTES("\x2a\x00")), DOC(",\"part\":{}"));
    assert_string_equal(read(BYTES("\x32\x03\x0a\x01x\x32\x00")), DOC(",\"parts\":[{\"name\":\"x\"},{}]"));
    assert_string_equal(read(BYTES("\x3a\x01" "a\x3a\x00")), DOC(",\"texts\":[\"a\",\"\"]"));
    assert_string_equal(read(BYTES("\x42\x06\x0a\x01k\x12\x01v\x42\x03\x0a\x01l")), DOC(",\"map\":{\"k\":\"v\",\"l\":\"\"}"));
    assert_string_equal(read(BYTES("\x4a\x06\x0a\x01k\x12\x01v")), DOC(",\"secrets\":{\"k\":\"dg==\"}"));
    assert_string_equal(read(BYTES("\x4a\x08\x0a\x01k\x12\x03\x00\xff\x80")), DOC(",\"secrets\":{\"k\":\"AP+A\"}"));
}

static void what_is_unknown_is_skipped(void **state UNUSED)
{
    assert_string_equal(read(BYTES("\x52\x01x\x78\x05\x7d\x01\x02\x03\x04\x79\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x01z")), DOC(",\"text\":\"z\""));
    assert_string_equal(read(BYTES("\x2a\x06\x12\x01q\x0a\x01x")), DOC(",\"part\":{\"name\":\"x\"}"));
}

static void odd_bytes_are_refused(void **state UNUSED)
{
    static const struct str bad[] = {
        {"\x0a", 1}, {"\x0a\x05hi", 4}, {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, {"\x80", 1}, {"\x00", 1}, {"\x0b", 1}, {"\x0f\x01", 2},
        {"\x08\x01", 2},          /* a text as a number */
        {"\x12\x01x", 3},         /* a number as bytes */
        {"\x0a\x01\xff", 3},      /* no UTF-8 */
        {"\x0a\x02\x61\x00", 4},  /* NUL */
        {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11}, {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, {"\x42\x02\x0a\x05", 4}, {"\x40\x01", 2},
        {"\x2a\x02\x0a\x05", 4}, {"\x22\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11}, {"\x7d\x01", 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (*read(bad[i]))
            fail_msg("case %zu: %s", i, read(bad[i]));
}

static void envelopes(void **state UNUSED)
{
    static const struct str bad[] = {{"", 0}, {"k8s", 3}, {"k8s\x01", 4}, {"{}", 2}, {"k8s\0\x0a", 5}, {"k8s\0\x12\x05", 6}, {"k8s\0\x1a\x04gzip", 10}};
    JSON_AUTO doc = NULL;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        assert_int_equal(proto_parse(table, bad[i], &doc, &err), ERR_BAD_REQUEST);
        assert_true(err.msg[0]);
    }
    assert_true(proto_has_table(table));
    assert_false(proto_has_table(plain));
}

static void values_are_bounded(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    struct err err = ERR_INIT;
    JSON_AUTO doc = NULL;
    sbuf_init(&b, 1 << 20);
    sbuf_add(&b, BYTES("k8s\0\x12\xc2\x9a\x0c")); /* 200,002 bytes */
    for (size_t i = 0; i < 100001; i++)
        sbuf_add(&b, BYTES("\x32\x00"));
    assert_int_equal(proto_parse(table, sbuf_str(&b), &doc, &err), ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_read), cmocka_unit_test(what_is_unknown_is_skipped), cmocka_unit_test(odd_bytes_are_refused), cmocka_unit_test(envelopes), cmocka_unit_test(values_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
