/* Bodies: counted, chunked (decoded by llhttp) or until the connection closes. */
#include <llhttp.h>

#include "base/mem.h"
#include "net/http.h"

enum kind { BODY_NONE, BODY_COUNTED, BODY_CHUNKED, BODY_UNTIL_CLOSE };

/* Chunk headers, extensions and trailers: bytes that are no payload. More of them than this between two payload bytes is an attack. */
#define OVERHEAD_MAX (16 * 1024)

struct http_body {
    enum kind kind;
    int64_t left;
    llhttp_t parser;
    llhttp_settings_t settings;
    struct str payload; /* found by the parser in this call */
    bool done;
    size_t overhead;
};

static int on_payload(llhttp_t *p, const char *at, size_t length)
{
    struct http_body *b = p->data;
    b->payload = str_n(at, length);
    return HPE_PAUSED; /* one slice a call */
}

static int on_complete(llhttp_t *p)
{
    ((struct http_body *)p->data)->done = true;
    return HPE_PAUSED;
}

/* llhttp reads bodies only after a head, so it is given one. */
static void start_chunked(struct http_body *b, bool is_response)
{
    static const char request[] = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char response[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    llhttp_settings_init(&b->settings);
    b->settings.on_body = on_payload;
    b->settings.on_message_complete = on_complete;
    llhttp_init(&b->parser, is_response ? HTTP_RESPONSE : HTTP_REQUEST, &b->settings);
    b->parser.data = b;
    llhttp_execute(&b->parser, is_response ? response : request, is_response ? sizeof(response) - 1 : sizeof(request) - 1);
}

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
        start_chunked(b, is_response);
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

static int feed_chunked(struct http_body *b, struct str in, struct str *ret_payload, size_t *ret_used, struct err *err)
{
    b->payload = STR_NULL;
    llhttp_errno_t e = llhttp_execute(&b->parser, in.ptr, in.len);
    size_t used = in.len;
    if (e == HPE_PAUSED) {
        used = (size_t)(llhttp_get_error_pos(&b->parser) - in.ptr);
        llhttp_resume(&b->parser);
    } else if (e != HPE_OK) {
        return err_set(err, ERR_PROTOCOL, "chunked body: %s", llhttp_get_error_reason(&b->parser));
    }
    if (b->payload.len) {
        /* The parser may stop on the slice's first byte or behind it; either way it is consumed here. */
        size_t end = (size_t)(b->payload.ptr + b->payload.len - in.ptr);
        if (used < end)
            used = end;
        b->overhead = 0;
    } else if ((b->overhead += used) > OVERHEAD_MAX) {
        return err_set(err, ERR_PROTOCOL, "chunked body: too many bytes that are no content");
    }
    *ret_payload = b->payload;
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
