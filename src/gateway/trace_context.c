#include "gateway/trace_context.h"

#include <stdio.h>
#include <string.h>

#define FLAG_SAMPLED 1

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(const char *text, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
    while (n && !bytes[n - 1])
        n--;
    return !n;
}

bool trace_context_read(struct str header, struct trace_context *ret)
{
    struct trace_context c;
    uint8_t version, flags;
    const char *p = header.ptr;
    if (header.len < TRACEPARENT_LEN || p[2] != '-' || p[35] != '-' || p[52] != '-')
        return false;
    if (!read_hex(p, &version, 1) || !read_hex(p + 3, c.trace, TRACE_ID_BYTES) || !read_hex(p + 36, c.span, SPAN_ID_BYTES) || !read_hex(p + 53, &flags, 1))
        return false;
    bool longer = header.len > TRACEPARENT_LEN;
    if (version == 0xff || (longer && (!version || p[TRACEPARENT_LEN] != '-')) || is_zero(c.trace, TRACE_ID_BYTES) || is_zero(c.span, SPAN_ID_BYTES))
        return false;
    c.sampled = flags & FLAG_SAMPLED;
    *ret = c;
    return true;
}

static char *write_hex(char *to, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    return to;
}

void trace_context_write(const struct trace_context *c, char text[TRACEPARENT_LEN + 1])
{
    char *p = text;
    memcpy(p, "00-", 3);
    p = write_hex(p + 3, c->trace, TRACE_ID_BYTES);
    *p++ = '-';
    p = write_hex(p, c->span, SPAN_ID_BYTES);
    memcpy(p, c->sampled ? "-01" : "-00", 4);
}
