/* Bodies: counted, chunked or until the connection closes.
 *
 * Chunks are decoded here, to the letter of RFC 9112, 7.1: llhttp 8.1 takes a LF alone at the end, and whatever somebody calls a trailer, so that another decoder in front of us
 * or behind us could see the body end elsewhere.
 */
#include <ctype.h>

#include "base/mem.h"
#include "net/http.h"

enum kind { BODY_NONE, BODY_COUNTED, BODY_CHUNKED, BODY_UNTIL_CLOSE };

/* Chunk headers, extensions and trailers: bytes that are no payload. More of them than this between two payload bytes is an attack. */
#define OVERHEAD_MAX (16 * 1024)

enum chunk_state {
    CHUNK_SIZE_FIRST, /* a digit must come */
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILER_FIRST, /* a name, or the CR of the last line */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
};

struct http_body {
    enum kind kind;
    enum chunk_state state;
    int64_t left; /* of the body, or of the chunk */
    bool done;
    size_t overhead;
};

struct http_body *http_body_new(const struct http_head *h, bool is_response, bool response_to_head)
{
    struct http_body *b = mem_try(sizeof(*b));
    if (!b)
        return NULL;
    bool empty = is_response && (response_to_head || h->status == 204 || h->status == 304 || h->status < 200);
    if (empty) {
        b->kind = BODY_NONE;
    } else if (h->chunked) {
        b->kind = BODY_CHUNKED;
    } else if (h->content_length >= 0) {
        b->kind = BODY_COUNTED;
        b->left = h->content_length;
    } else {
        b->kind = is_response ? BODY_UNTIL_CLOSE : BODY_NONE;
    }
    b->done = b->kind == BODY_NONE || (b->kind == BODY_COUNTED && b->left == 0);
    return b;
}

void http_body_free(struct http_body *b)
{
    mem_free(b);
}

static int bad(struct err *err, const char *what)
{
    return err_set(err, ERR_PROTOCOL, "chunked body: %s", what);
}

static int take_size(struct http_body *b, unsigned char c, struct err *err)
{
    if (isxdigit(c)) {
        if (b->left > INT64_MAX >> 4)
            return bad(err, "a size out of range");
        b->left = b->left << 4 | (isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
        b->state = CHUNK_SIZE;
    } else if (b->state == CHUNK_SIZE && c == '\r') {
        b->state = CHUNK_SIZE_LF;
    } else if (b->state == CHUNK_SIZE && c == ';') {
        b->state = CHUNK_EXTENSION;
    } else {
        return bad(err, "a size must be hexadecimal digits, then CRLF or an extension");
    }
    return 0;
}

/* What is skipped: extensions, values of trailers. Only CR ends it. */
static int skip_text(struct http_body *b, unsigned char c, enum chunk_state next, struct err *err)
{
    if (c == '\r')
        b->state = next;
    else if ((c < 0x20 && c != '\t') || c == 0x7f)
        return bad(err, "a control character");
    return 0;
}

static int take_trailer_name(struct http_body *b, unsigned char c, struct err *err)
{
    if (b->state == TRAILER_FIRST && c == '\r')
        b->state = LAST_LF;
    else if (b->state == TRAILER_NAME && c == ':')
        b->state = TRAILER_VALUE;
    else if (http_is_token_char(c))
        b->state = TRAILER_NAME;
    else
        return bad(err, "a trailer's name is malformed");
    return 0;
}

/* One byte that must be just this. */
static int want(struct http_body *b, unsigned char c, char wanted, enum chunk_state next, struct err *err)
{
    if (c != wanted)
        return bad(err, wanted == '\r' ? "more bytes than the chunk's size says" : "a line does not end in CRLF");
    b->state = next;
    return 0;
}

/* One byte that is no payload. */
static int take_byte(struct http_body *b, unsigned char c, struct err *err)
{
    if (++b->overhead > OVERHEAD_MAX)
        return bad(err, "too many bytes that are no content");
    switch (b->state) {
    case CHUNK_SIZE_FIRST:
    case CHUNK_SIZE:
        return take_size(b, c, err);
    case CHUNK_EXTENSION:
        return skip_text(b, c, CHUNK_SIZE_LF, err);
    case CHUNK_SIZE_LF:
        return want(b, c, '\n', b->left ? CHUNK_DATA : TRAILER_FIRST, err);
    case CHUNK_DATA_CR:
        return want(b, c, '\r', CHUNK_DATA_LF, err);
    case CHUNK_DATA_LF:
        return want(b, c, '\n', CHUNK_SIZE_FIRST, err);
    case TRAILER_FIRST:
    case TRAILER_NAME:
        return take_trailer_name(b, c, err);
    case TRAILER_VALUE:
        return skip_text(b, c, TRAILER_LF, err);
    case TRAILER_LF:
        return want(b, c, '\n', TRAILER_FIRST, err);
    case LAST_LF:
        b->done = c == '\n';
        return want(b, c, '\n', LAST_LF, err);
    case CHUNK_DATA:
        break;
    }
    return 0;
}

static int feed_chunked(struct http_body *b, struct str in, struct str *ret_payload, size_t *ret_used, struct err *err)
{
    size_t used = 0;
    while (used < in.len && !b->done) {
        if (b->state == CHUNK_DATA) {
            size_t n = MIN(in.len - used, (size_t)b->left);
            *ret_payload = str_n(in.ptr + used, n);
            used += n;
            b->left -= (int64_t)n;
            b->overhead = 0;
            if (!b->left)
                b->state = CHUNK_DATA_CR;
            break;
        }
        int rc = take_byte(b, (unsigned char)in.ptr[used++], err);
        if (rc < 0)
            return rc;
    }
    *ret_used = used;
    return 0;
}

int http_body_feed(struct http_body *b, struct str in, struct str *ret_payload, size_t *ret_used, bool *ret_done, struct err *err)
{
    *ret_payload = STR_NULL;
    *ret_used = 0;
    if (b->done || !in.len) {
        *ret_done = b->done;
        return 0;
    }
    if (b->kind == BODY_CHUNKED) {
        int rc = feed_chunked(b, in, ret_payload, ret_used, err);
        *ret_done = b->done;
        return rc;
    }
    size_t n = in.len;
    if (b->kind == BODY_COUNTED) {
        if ((int64_t)n > b->left)
            n = (size_t)b->left;
        b->left -= (int64_t)n;
        b->done = b->left == 0;
    }
    *ret_payload = str_n(in.ptr, n);
    *ret_used = n;
    *ret_done = b->done;
    return 0;
}

int http_body_eof(struct http_body *b, struct err *err)
{
    if (b->done || b->kind == BODY_UNTIL_CLOSE)
        return 0;
    return err_set(err, ERR_PROTOCOL, "the connection closed in the middle of a body");
}
