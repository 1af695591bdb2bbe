#include "json/proto.h"

#include "base/clock.h"

#define MAGIC "k8s\0"
#define VALUES_MAX 100000

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* One field of a message. */
struct item {
    uint64_t number;
    enum wire wire;
    uint64_t value;    /* WIRE_VARINT */
    struct str bytes;  /* WIRE_BYTES */
};

struct reader {
    size_t values;
    struct err *err;
};

static int malformed(struct err *err)
{
    return err_set(err, ERR_BAD_REQUEST, "the body is no protobuf message as Kubernetes sends it");
}

static bool take_varint(struct str *rest, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 10 && i < rest->len; i++) {
        uint8_t b = (uint8_t)rest->ptr[i];
        if (i == 9 && b > 1)
            return false;
        v |= (uint64_t)(b & 0x7F) << (7 * i);
        if (!(b & 0x80)) {
            *rest = str_skip(*rest, i + 1);
            *ret = v;
            return true;
        }
    }
    return false;
}

/* The next field; false at the end and when the bytes make no sense (then *ret_bad). */
static bool take_item(struct str *rest, struct item *ret, bool *ret_bad)
{
    uint64_t tag, size = 0;
    if (!rest->len)
        return false;
    *ret_bad = true;
    if (!take_varint(rest, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF)
        return false;
    *ret = (struct item){.number = tag >> 3, .wire = tag & 7};
    switch (ret->wire) {
    case WIRE_VARINT:
        *ret_bad = !take_varint(rest, &ret->value);
        return !*ret_bad;
    case WIRE_64:
        size = 8;
        break;
    case WIRE_32:
        size = 4;
        break;
    case WIRE_BYTES:
        if (!take_varint(rest, &size))
            return false;
        break;
    default: /* groups are not used */
        return false;
    }
    if (size > rest->len)
        return false;
    ret->bytes = str_n(rest->ptr, size);
    *rest = str_skip(*rest, size);
    *ret_bad = false;
    return true;
}

static json_t *text_of(struct str s)
{
    return memchr(s.len ? s.ptr : "", 0, s.len) ? NULL : json_stringn(s.len ? s.ptr : "", s.len); /* NULL also when it is no UTF-8 */
}

static json_t *base64_of(struct str s);

/* google.protobuf.Timestamp and its like: {1: seconds, 2: nanoseconds}. */
static json_t *time_of(const struct field *f, struct str bytes)
{
    struct item it;
    bool bad = false;
    int64_t seconds = 0, nanos = 0;
    char text[CLOCK_TEXT_MAX];
    while (take_item(&bytes, &it, &bad))
        if (it.number <= 2 && it.wire == WIRE_VARINT)
            *(it.number == 1 ? &seconds : &nanos) = (int64_t)it.value;
    if (bad || seconds < -62135596800 || seconds > 253402300799 || nanos < 0 || nanos > 999999999) /* the years 1 to 9999 */
        return NULL;
    if (f->flags & FIELD_MICRO)
        clock_format_micro(seconds * 1000000 + nanos / 1000, text);
    else
        clock_format(seconds * 1000, text);
    return json_string(text);
}

static int read_message(struct reader *r, const struct field *table, struct str bytes, json_t *obj);

static int read_entry(const struct field *f, struct str bytes, json_t *map, struct err *err)
{
    struct str key = STR(""), value = STR("");
    struct item it;
    bool bad = false;
    while (take_item(&bytes, &it, &bad))
        if (it.wire == WIRE_BYTES && it.number == 1)
            key = it.bytes;
        else if (it.wire == WIRE_BYTES && it.number == 2)
            value = it.bytes;
    JSON_AUTO name = bad ? NULL : text_of(key);
    json_t *v = !name ? NULL : f->flags & FIELD_BASE64 ? base64_of(value) : text_of(value);
    return v ? json_object_set_new(map, json_string_value(name), v) : malformed(err);
}

/* A value that is no list and no map; *ret NULL: as good as absent. */
static int read_value(struct reader *r, const struct field *f, enum field_type type, const struct item *it, json_t **ret)
{
    bool number = type == FIELD_INT || type == FIELD_BOOL;
    *ret = NULL;
    if (++r->values > VALUES_MAX)
        return err_set(r->err, ERR_TOO_LARGE, "the body has more than %d values", VALUES_MAX);
    if (type == FIELD_ANY || type == FIELD_NUMBER || type == FIELD_QUANTITY)
        return 0;
    if (it->wire != (number ? WIRE_VARINT : WIRE_BYTES))
        return malformed(r->err);
    if (type == FIELD_OBJECT) {
        *ret = json_object();
        return read_message(r, f->sub, it->bytes, *ret);
    }
    if (!number && !it->bytes.len && f->type != FIELD_LIST)
        return 0;
    *ret = type == FIELD_INT ? json_integer((json_int_t)it->value) : type == FIELD_BOOL ? json_boolean(it->value) : type == FIELD_TIME ? time_of(f, it->bytes) : text_of(it->bytes);
    return *ret ? 0 : malformed(r->err);
}

/* The list, map or object of that name; made when it is not there. */
static json_t *member(json_t *obj, const struct field *f)
{
    json_t *v = json_object_get(obj, f->name);
    if (!v) {
        v = f->type == FIELD_LIST ? json_array() : json_object();
        json_object_set_new(obj, f->name, v);
    }
    return v;
}

static int read_item(struct reader *r, const struct field *f, const struct item *it, json_t *obj)
{
    json_t *v = NULL;
    if (f->type == FIELD_OBJECT && it->wire == WIRE_BYTES)
        return read_message(r, f->sub, it->bytes, member(obj, f)); /* parts of a message are joined */
    if (f->type == FIELD_MAP && ++r->values <= VALUES_MAX)
        return it->wire == WIRE_BYTES ? read_entry(f, it->bytes, member(obj, f), r->err) : malformed(r->err);
    int rc = read_value(r, f, f->type == FIELD_LIST ? f->elem : f->type, it, &v);
    if (rc < 0 || !v)
        json_decref(v);
    else if (f->type == FIELD_LIST)
        json_array_append_new(member(obj, f), v);
    else
        json_object_set_new(obj, f->name, v);
    return rc;
}

static const struct field *row_of(const struct field *table, uint64_t number)
{
    for (; table && table->name; table++)
        if (table->proto && table->proto == number)
            return table;
    return NULL;
}

static int read_message(struct reader *r, const struct field *table, struct str bytes, json_t *obj)
{
    struct item it;
    bool bad = false;
    while (take_item(&bytes, &it, &bad)) {
        const struct field *f = row_of(table, it.number);
        int rc = f ? read_item(r, f, &it, obj) : 0;
        if (rc < 0)
            return rc;
    }
    return bad ? malformed(r->err) : 0;
}

bool proto_has_table(const struct field *table)
{
    for (; table && table->name; table++)
        if (table->proto)
            return true;
    return false;
}

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* crypto/ has this too, but lies below. */
static json_t *base64_of(struct str s)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, s.len * 2 + 8);
    for (size_t i = 0; i < s.len; i += 3) {
        size_t left = s.len - i;
        const uint8_t *p = (const uint8_t *)s.ptr + i;
        uint32_t v = (uint32_t)p[0] << 16 | (left > 1 ? (uint32_t)p[1] << 8 : 0) | (left > 2 ? p[2] : 0);
        sbuf_add_char(&b, base64_alphabet[v >> 18]);
        sbuf_add_char(&b, base64_alphabet[v >> 12 & 63]);
        sbuf_add_char(&b, left > 1 ? base64_alphabet[v >> 6 & 63] : '=');
        sbuf_add_char(&b, left > 2 ? base64_alphabet[v & 63] : '=');
    }
    return sbuf_ok(&b) ? json_stringn(b.ptr ? b.ptr : "", b.len) : NULL;
}

int proto_parse(const struct field *table, struct str bytes, json_t **ret, struct err *err)
{
    static const struct field type_fields[] = {{.name = "apiVersion", .type = FIELD_STRING, .proto = 1}, {.name = "kind", .type = FIELD_STRING, .proto = 2}, {0}};
    struct reader r = {.err = err};
    struct str content = STR("");
    struct item it;
    bool bad = false;
    if (!str_starts(bytes, STR(MAGIC)))
        return malformed(err);
    JSON_AUTO obj = json_object();
    bytes = str_skip(bytes, sizeof(MAGIC) - 1);
    while (take_item(&bytes, &it, &bad)) {
        if (it.number == 1 && it.wire == WIRE_BYTES) {
            int rc = read_message(&r, type_fields, it.bytes, obj);
            if (rc < 0)
                return rc;
        } else if (it.number == 2 && it.wire == WIRE_BYTES) {
            content = it.bytes;
        } else if (it.number == 3 && it.wire == WIRE_BYTES && it.bytes.len) {
            return err_set(err, ERR_BAD_REQUEST, "the body is encoded in a way that is not known here");
        }
    }
    if (bad)
        return malformed(err);
    int rc = read_message(&r, table, content, obj);
    if (rc == 0)
        *ret = json_incref(obj);
    return rc;
}
