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

/* A buffer that was too small keeps what it has; the rest of the event is only counted. */
static void keep(struct sse_scanner *s, struct sbuf *b, struct str bytes)
{
    size_t room = b->max - b->len;
    if (bytes.len > room) {
        s->oversized = true;
        bytes.len = room;
    }
    sbuf_add(b, bytes);
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

static void take_line(struct sse_scanner *s, struct str line)
{
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
        if (s->has_data)
            keep(s, &s->data, STR("\n"));
        keep(s, &s->data, value);
        s->has_data = true;
    } else if (str_eqc(name, "event")) {
        sbuf_reset(&s->event);
        keep(s, &s->event, value);
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
            keep(s, &s->line, piece);
            return;
        }
        if (s->line.len) {
            keep(s, &s->line, piece);
            take_line(s, sbuf_str(&s->line));
            sbuf_reset(&s->line);
        } else {
            take_line(s, piece);
        }
        s->after_cr = cr != NULL;
        bytes = str_skip(bytes, end + 1);
    }
}

bool sse_at_boundary(const struct sse_scanner *s)
{
    return !s->line.len && !s->has_data && !s->started;
}
