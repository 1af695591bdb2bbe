/* Server-sent events: how the stream is cut must not change what is found. */
#include "fuzz.h"

#include "base/mem.h"
#include "net/sse.h"

#define LOG_MAX ((size_t)16 << 20)

static void on_event(void *arg, const struct sse_event *e)
{
    struct sbuf *log = arg;
    sbuf_addf(log, "%zu %zu %d:", e->event.len, e->data.len, e->oversized);
    sbuf_add(log, e->event);
    sbuf_add(log, e->data);
}

/* Feeds pieces of sizes that follow from seed; 0: all at once. */
static bool scan(struct str bytes, size_t max, unsigned seed, struct sbuf *log)
{
    struct sse_scanner *s = sse_new(max, on_event, log);
    if (!s)
        abort();
    while (bytes.len) {
        seed = seed ? seed * 1103515245 + 12345 : 0;
        size_t n = seed ? MIN(1 + (seed >> 16) % 9, bytes.len) : bytes.len;
        char *piece = xcalloc(1, n); /* its own block: reading on is seen */
        memcpy(piece, bytes.ptr, n);
        sse_feed(s, str_n(piece, n));
        mem_free(piece);
        bytes = str_skip(bytes, n);
    }
    bool boundary = sse_at_boundary(s);
    sse_free(s);
    return boundary;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 65536)
        return 0;
    size_t max = data[0] < 128 ? data[0] : 65536;
    struct str bytes = str_n(data + 1, size - 1);
    CLEANUP(sbuf_deinit) struct sbuf whole = {0}, pieces = {0};
    sbuf_init(&whole, LOG_MAX);
    sbuf_init(&pieces, LOG_MAX);
    bool a = scan(bytes, max, 0, &whole), b = scan(bytes, max, data[1] + 1U, &pieces);
    if (a != b || !str_eq(sbuf_str(&whole), sbuf_str(&pieces)))
        abort();
    return 0;
}
