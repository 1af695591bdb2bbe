/* Documents that depend on the program alone (discovery, OpenAPI): made once, kept as text with an entity tag, so that clients that have one are told so in a few bytes. */
#include "apiserver/api.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define DOCUMENT_MAX (16u * 1024 * 1024)

struct document {
    struct str text;
    char hash[SHA256_HEX_MAX];
    char etag[SHA256_HEX_MAX + 2];
};

static void document_free(void *p)
{
    struct document *d = p;
    mem_free((char *)(uintptr_t)d->text.ptr);
    mem_free(d);
}

const struct document *document_find(struct apiserver *s, const char *key)
{
    return s->documents ? map_getc(s->documents, key) : NULL;
}

const struct document *document_put(struct apiserver *s, const char *key, struct str text)
{
    struct document *d = XNEW(struct document);
    struct sbuf copy;
    uint8_t digest[SHA256_BYTES];
    sbuf_init(&copy, DOCUMENT_MAX);
    sbuf_add(&copy, text);
    hash_sha256(text, digest);
    hash_hex(digest, sizeof(digest), d->hash);
    snprintf(d->etag, sizeof(d->etag), "\"%s\"", d->hash);
    d->text = str_n(copy.ptr, copy.len);
    if (!s->documents)
        s->documents = map_new(document_free);
    map_set(s->documents, str_of(key), d);
    return d;
}

const struct document *document_put_json(struct apiserver *s, const char *key, json_t *doc)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, DOCUMENT_MAX);
    json_write(doc, &text);
    json_decref(doc);
    return document_put(s, key, sbuf_str(&text));
}

const char *document_hash(const struct document *d)
{
    return d->hash;
}

struct str document_text(const struct document *d)
{
    return d->text;
}

/* If-None-Match: '*', or a list of tags, weak ones included. */
static bool has_tag(struct str header, const char *etag)
{
    struct str item;
    while (str_cut(&header, ',', &item)) {
        item = str_trim(item);
        if (str_starts(item, STR("W/")))
            item = str_skip(item, 2);
        if (str_eqc(item, etag) || str_eqc(item, "*"))
            return true;
    }
    return false;
}

void document_reply(struct api_request *q, const struct document *d, const char *type, const char *keep)
{
    bool as_is = (q->wants.form == ACCEPT_JSON && !q->pretty) || q->wants.form == ACCEPT_PROTOBUF;
    if (!as_is || !q->http) {
        api_reply_json(q, 200, d->text);
        return;
    }
    struct str known = http_header_get(&q->http->head, "if-none-match");
    api_header(q, "ETag", str_of(d->etag));
    api_header(q, "Cache-Control", str_of(keep));
    api_header(q, "Vary", STR("Accept"));
    if (known.ptr && has_tag(known, d->etag))
        api_reply_text(q, 304, NULL, STR_NULL);
    else
        api_reply_text(q, 200, type, d->text);
}
