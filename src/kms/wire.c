#include "kms/wire.h"

#define NUMBER_MAX ((1u << 29) - 1)

static bool take_varint(struct str *rest, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 10 && i < rest->len; i++) {
        unsigned char b = (unsigned char)rest->ptr[i];
        if (i == 9 && b > 1)
            return false; /* more than 64 bits */
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (!(b & 0x80)) {
            *rest = str_skip(*rest, i + 1);
            *ret = v;
            return true;
        }
    }
    return false;
}

static int cut(struct err *err)
{
    return err_set(err, ERR_BAD_REQUEST, "the message is cut, or no protobuf");
}

int wire_next(struct str *rest, struct wire_field *ret, struct err *err)
{
    uint64_t tag, n = 0;
    if (!rest->len)
        return 0;
    if (!take_varint(rest, &tag) || !(tag >> 3) || tag >> 3 > NUMBER_MAX)
        return cut(err);
    *ret = (struct wire_field){.number = (uint32_t)(tag >> 3), .type = (enum wire_type)(tag & 7)};
    switch (tag & 7) {
    case WIRE_NUMBER:
        return take_varint(rest, &ret->value) ? 1 : cut(err);
    case WIRE_BYTES:
        if (!take_varint(rest, &n))
            return cut(err);
        break;
    case WIRE_FIXED64:
        n = 8;
        break;
    case WIRE_FIXED32:
        n = 4;
        break;
    default:
        return cut(err);
    }
    if (n > rest->len)
        return cut(err);
    ret->bytes = str_n(rest->ptr, (size_t)n);
    *rest = str_skip(*rest, (size_t)n);
    return 1;
}

static void put_varint(struct sbuf *out, uint64_t v)
{
    while (v > 0x7f) {
        sbuf_add_char(out, (char)(v | 0x80));
        v >>= 7;
    }
    sbuf_add_char(out, (char)v);
}

void wire_put_bytes(struct sbuf *out, uint32_t number, struct str bytes)
{
    if (!bytes.len)
        return;
    put_varint(out, (uint64_t)number << 3 | WIRE_BYTES);
    put_varint(out, bytes.len);
    sbuf_add(out, bytes);
}

void wire_put_number(struct sbuf *out, uint32_t number, uint64_t value)
{
    if (!value)
        return;
    put_varint(out, (uint64_t)number << 3 | WIRE_NUMBER);
    put_varint(out, value);
}
