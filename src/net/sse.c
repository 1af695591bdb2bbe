#include "net/sse.h"

#include "base/mem.h"

struct sse_scanner {
    size_t max;
    void (*on_event)(void *arg, const struct sse_event *e);
    void *arg;
    struct sbuf line;  /* an unfinished line */
    struct sbuf data;  /* data lines so far, joined by LF */
    struct sbuf event;
    bool has_data, oversized, after_cr, started;
    bool cut; /* the unfinished line was longer than its buffer */
};

struct sse_scanner *sse_new(size_t max_event_bytes, void (*on_event)(void *arg, const struct sse_event *e), void *arg)
{
    struct sse_scanner *s = mem_try(sizeof(*s));
    if (!s)
        return NULL;
    s->max = max_event_bytes;
    s->on_event = on_event;
    s->arg = arg;
    sbuf_init(&s->line, max_event_bytes + 64);
    sbuf_init(&s->data, max_event_bytes);
    sbuf_init(&s->event, 256);
    return s;
}

void sse_free(struct sse_scanner *s)
{
    if (!s)
        return;
    sbuf_deinit(&s->line);
    sbuf_deinit(&s->data);
    sbuf_deinit(&s->event);
    mem_free(s);
}

/* A buffer that is too small keeps what it has. False: something was cut. */
static bool keep(struct sbuf *b, struct str bytes)
{
    size_t room = b->max - b->len;
    sbuf_add(b, str_n(bytes.ptr, MIN(bytes.len, room)));
    return bytes.len <= room;
}

static void dispatch(struct sse_scanner *s, struct str only_data)
{
    if (s->has_data) {
        struct sse_event e = {sbuf_str(&s->event), s->data.len ? sbuf_str(&s->data) : only_data, s->oversized};
        s->on_event(s->arg, &e);
    }
    sbuf_reset(&s->data);
    sbuf_reset(&s->event);
    s->has_data = s->oversized = false;
}

/* A line is cut at the same length whether it came at once or in pieces. */
static void take_line(struct sse_scanner *s, struct str line, bool cut)
{
    if (line.len > s->line.max) {
        line.len = s->line.max;
        cut = true;
    }
    s->started = line.len > 0;
    if (!line.len) {
        dispatch(s, STR(""));
        return;
    }
    ssize_t colon = str_find(line, ':');
    if (colon == 0)
        return;
    struct str name = colon < 0 ? line : str_n(line.ptr, (size_t)colon);
    struct str value = colon < 0 ? STR("") : str_skip(line, (size_t)colon + 1);
    if (value.len && value.ptr[0] == ' ')
        value = str_skip(value, 1);
    if (str_eqc(name, "data")) {
        bool whole = !cut && (!s->has_data || keep(&s->data, STR("\n")));
        whole = keep(&s->data, value) && whole;
        s->oversized = s->oversized || !whole;
        s->has_data = true;
    } else if (str_eqc(name, "event")) {
        sbuf_reset(&s->event);
        s->oversized = !keep(&s->event, value) || cut || s->oversized;
    }
}

void sse_feed(struct sse_scanner *s, struct str bytes)
{
    while (bytes.len) {
        if (s->after_cr) {
            s->after_cr = false;
            if (bytes.ptr[0] == '\n') {
                bytes = str_skip(bytes, 1);
                continue;
            }
        }
        const char *lf = memchr(bytes.ptr, '\n', bytes.len);
        size_t span = lf ? (size_t)(lf - bytes.ptr) : bytes.len;
        const char *cr = memchr(bytes.ptr, '\r', span);
        size_t end = cr ? (size_t)(cr - bytes.ptr) : span;
        struct str piece = str_n(bytes.ptr, end);
        if (!cr && !lf) {
            s->cut = !keep(&s->line, piece) || s->cut;
            return;
        }
        if (s->line.len) {
            s->cut = !keep(&s->line, piece) || s->cut;
            take_line(s, sbuf_str(&s->line), s->cut);
            sbuf_reset(&s->line);
            s->cut = false;
        } else {
            take_line(s, piece, false);
        }
        s->after_cr = cr != NULL;
        bytes = str_skip(bytes, end + 1);
    }
}

bool sse_at_boundary(const struct sse_scanner *s)
{
    return !s->line.len && !s->has_data && !s->started;
}
