/* Usage read in passing: how the stream is cut must change neither what is found nor a byte of what is passed on. */
#include "fuzz.h"

#include "base/mem.h"
#include "gateway/usage_scan.h"

#define OUT_MAX ((size_t)4 << 20)

static void collect(void *arg, struct str bytes)
{
    sbuf_add(arg, bytes);
}

/* Feeds pieces of sizes that follow from seed; 0: all at once. */
static void scan(struct str bytes, enum usage_dialect dialect, bool take_out, unsigned seed, struct sbuf *out, struct usage_scan *ret)
{
    usage_scan_init(ret, take_out, collect, out);
    ret->dialect = dialect;
    while (bytes.len) {
        seed = seed ? seed * 1103515245 + 12345 : 0;
        size_t n = seed ? MIN(1 + (seed >> 16) % 11, bytes.len) : bytes.len;
        char *piece = xcalloc(1, n); /* its own block: reading on is seen */
        memcpy(piece, bytes.ptr, n);
        usage_scan_feed(ret, str_n(piece, n));
        mem_free(piece);
        bytes = str_skip(bytes, n);
    }
    bool ended = usage_scan_end(ret);
    if (ended != ret->done)
        abort();
    usage_scan_deinit(ret);
}

static bool same(const struct usage_scan *a, const struct usage_scan *b)
{
    return a->exact == b->exact && a->done == b->done && a->prompt_tokens == b->prompt_tokens && a->completion_tokens == b->completion_tokens &&
           a->cached_tokens == b->cached_tokens && a->content_events == b->content_events;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    struct str bytes = str_n(data + 1, size - 1);
    CLEANUP(sbuf_deinit) struct sbuf as_is = {0}, whole = {0}, pieces = {0};
    struct usage_scan a, b, c;
    sbuf_init(&as_is, OUT_MAX);
    sbuf_init(&whole, OUT_MAX);
    sbuf_init(&pieces, OUT_MAX);
    enum usage_dialect dialect = (enum usage_dialect)(data[0] % 3);
    scan(bytes, dialect, false, data[0] + 1U, &as_is, &a);
    scan(bytes, dialect, true, 0, &whole, &b);
    scan(bytes, dialect, true, data[0] + 1U, &pieces, &c);
    if (!str_eq(sbuf_str(&as_is), bytes) || whole.len > bytes.len || !same(&a, &b) || !same(&b, &c))
        abort();
    if (!str_eq(sbuf_str(&whole), sbuf_str(&pieces)))
        abort();
    if (a.exact && (a.cached_tokens > a.prompt_tokens || a.prompt_tokens > USAGE_SCAN_TOKENS_MAX))
        abort();
    return 0;
}
