/* A request: head and body. How the bytes are cut must not change the outcome, and no slice may leave the input. */
#include "fuzz.h"

#include "base/mem.h"
#include "net/http.h"

#ifndef IS_REQUEST
#define IS_REQUEST true
#endif

#define BODY_MAX ((size_t)1 << 20)

static void inside(struct str bytes, struct str part)
{
    if (part.len && (part.ptr < bytes.ptr || part.ptr + part.len > bytes.ptr + bytes.len))
        abort();
}

/* What must hold of every head that was accepted, whatever the parser says about it. */
static void check(struct str bytes, const struct http_head *h)
{
    size_t lengths = 0, codings = 0, hosts = 0;
    if (h->header_count > HTTP_HEADERS_MAX)
        abort();
    for (size_t i = 0; i < h->header_count; i++) {
        struct str name = h->headers[i].name, value = h->headers[i].value;
        inside(bytes, name);
        inside(bytes, value);
        for (size_t k = 0; k < value.len; k++)
            if (!value.ptr[k] || value.ptr[k] == '\r' || value.ptr[k] == '\n')
                abort();
        if (!name.len || memchr(name.ptr, ' ', name.len) || memchr(name.ptr, '\r', name.len))
            abort();
        lengths += str_ieq(name, STR("content-length"));
        codings += str_ieq(name, STR("transfer-encoding"));
        hosts += str_ieq(name, STR("host"));
    }
    if (lengths + codings > 1 || (codings == 1) != h->chunked || (lengths == 1) != (h->content_length >= 0))
        abort();
    if (IS_REQUEST && (hosts > 1 || (!hosts && h->minor_version == 1) || h->path.ptr[0] != '/'))
        abort();
    if (IS_REQUEST) {
        inside(bytes, h->target);
        inside(bytes, h->path);
        inside(bytes, h->query);
    }
}

/* Reads the body in pieces (seed 0: at once). Returns 1 done, 0 not yet, -1 refused; *ret_used without what a refusal took. */
static int read_body(const struct http_head *h, struct str bytes, unsigned seed, struct sbuf *payload, size_t *ret_used)
{
    struct http_body *b = http_body_new(h, !IS_REQUEST, false);
    struct err err = ERR_INIT;
    bool done = false;
    size_t used_total = 0;
    int rc = 0;
    if (!b)
        abort();
    while (rc == 0 && !done && used_total < bytes.len) {
        seed = seed ? seed * 1103515245 + 12345 : 0;
        size_t n = seed ? MIN(1 + (seed >> 16) % 9, bytes.len - used_total) : bytes.len - used_total;
        char *piece = xcalloc(1, n);
        memcpy(piece, bytes.ptr + used_total, n);
        struct str in = str_n(piece, n), part;
        size_t used = 0;
        rc = http_body_feed(b, in, &part, &used, &done, &err);
        if (rc == 0) {
            inside(in, part);
            if (used > n || (!used && !done))
                abort();
            sbuf_add(payload, part);
            used_total += used;
        }
        mem_free(piece);
    }
    if (rc == 0 && !done && !bytes.len) {
        struct str part;
        size_t used;
        rc = http_body_feed(b, STR(""), &part, &used, &done, &err);
    }
    if (http_body_eof(b, &err) < 0 && done)
        abort();
    http_body_free(b);
    *ret_used = used_total;
    return rc < 0 ? -1 : done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    struct str bytes = str_n(data + 1, size - 1);
    size_t end = http_head_end(bytes);
    if (!end)
        return 0;
    static struct http_head h;
    static struct http_header headers[HTTP_HEADERS_MAX];
    struct err err = ERR_INIT;
    struct str head = str_n(bytes.ptr, end);
    if (http_head_parse(head, IS_REQUEST, headers, &h, &err) < 0) {
        if (!err.code || !err.msg[0])
            abort();
        return 0;
    }
    check(head, &h);
    CLEANUP(sbuf_deinit) struct sbuf whole = {0}, pieces = {0};
    sbuf_init(&whole, BODY_MAX);
    sbuf_init(&pieces, BODY_MAX);
    size_t used_whole, used_pieces;
    int a = read_body(&h, str_skip(bytes, end), 0, &whole, &used_whole);
    int b = read_body(&h, str_skip(bytes, end), data[0] + 1U, &pieces, &used_pieces);
    if (a != b || (a >= 0 && (used_whole != used_pieces || !str_eq(sbuf_str(&whole), sbuf_str(&pieces)))))
        abort();
    return 0;
}
