#include "gateway/usage_scan.h"

#include <string.h>

#include "json/span.h"

#define EVENT_MAX (256 * 1024)

void usage_scan_init(struct usage_scan *u, bool take_out, void (*out)(void *arg, struct str bytes), void *arg)
{
    *u = (struct usage_scan){.take_out = take_out, .out = out, .arg = arg};
    sbuf_init(&u->carry, EVENT_MAX);
}

void usage_scan_deinit(struct usage_scan *u)
{
    sbuf_deinit(&u->carry);
}

static bool contains(struct str text, struct str what)
{
    return memmem(text.ptr, text.len, what.ptr, what.len) != NULL;
}

enum { AT_PROMPT, AT_COMPLETION, AT_CACHED, AT_CHOICES, AT_COUNT };

/* True when the text has a usage object. */
static bool read_usage(struct usage_scan *u, struct str json, bool *ret_only_usage)
{
    static const char *const paths[AT_COUNT] = {"usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens", "choices"};
    struct span at[AT_COUNT];
    int64_t prompt = 0, completion = 0, cached = 0;
    if (span_scan(json, paths, AT_COUNT, at, NULL) < 0)
        return false;
    struct str choices = at[AT_CHOICES].text;
    *ret_only_usage = at[AT_CHOICES].type == SPAN_ARRAY && choices.len >= 2 && !str_trim(str_n(choices.ptr + 1, choices.len - 2)).len;
    if (!span_int(&at[AT_PROMPT], &prompt) || prompt < 0)
        return false;
    if (!span_int(&at[AT_COMPLETION], &completion) || completion < 0)
        completion = 0; /* embeddings have none */
    if (!span_int(&at[AT_CACHED], &cached) || cached < 0)
        cached = 0;
    u->exact = true;
    u->prompt_tokens = prompt;
    u->completion_tokens = completion;
    u->cached_tokens = cached;
    return true;
}

void usage_scan_body(struct usage_scan *u, struct str body)
{
    bool only_usage;
    (void)read_usage(u, body, &only_usage);
}

/* One whole event. False: it is to be taken out. */
static bool look_at(struct usage_scan *u, struct str event)
{
    struct str data = event;
    bool only_usage = false;
    if (!str_starts(data, STR("data:")))
        return true; /* comments, other fields, data in several lines: passed on */
    data = str_trim(str_skip(data, 5));
    if (str_eqc(data, "[DONE]")) {
        u->done = true;
        return true;
    }
    if (contains(data, STR("\"usage\"")) && read_usage(u, data, &only_usage) && only_usage)
        return !u->take_out;
    u->content_events += contains(data, STR("\"choices\"")) && !contains(data, STR("\"finish_reason\":\""));
    return true;
}

/* Length of the first event in text, with the blank line that ends it; 0: not whole yet. */
static size_t event_length(struct str text)
{
    const char *p = text.ptr, *end = text.ptr + text.len;
    while (p < end && (p = memchr(p, '\n', (size_t)(end - p)))) {
        p++;
        if (p < end && *p == '\n')
            return (size_t)(p + 1 - text.ptr);
        if (end - p >= 2 && p[0] == '\r' && p[1] == '\n')
            return (size_t)(p + 2 - text.ptr);
    }
    return 0;
}

/* Goes through whole events of text, passes on what stays; returns what is left of it: the beginning of an event. */
static struct str take_events(struct usage_scan *u, struct str text, bool pass_on)
{
    const char *from = text.ptr; /* passed on up to here */
    size_t len;
    while ((len = event_length(text)) > 0) {
        struct str event = str_n(text.ptr, len);
        bool keep = u->skipping || look_at(u, event);
        u->skipping = false;
        if (!keep && pass_on) {
            if (event.ptr > from)
                u->out(u->arg, str_n(from, (size_t)(event.ptr - from)));
            from = event.ptr + len;
        }
        text = str_skip(text, len);
    }
    if (pass_on && text.ptr > from)
        u->out(u->arg, str_n(from, (size_t)(text.ptr - from)));
    return text;
}

void usage_scan_feed(struct usage_scan *u, struct str bytes)
{
    struct str rest;
    if (!u->take_out)
        u->out(u->arg, bytes);
    if (u->carry.len) {
        sbuf_add(&u->carry, bytes);
        if (!sbuf_ok(&u->carry)) { /* too large to hold: what is held goes out, and the rest of it unread */
            u->carry.failed = false;
            if (u->take_out) {
                u->out(u->arg, sbuf_str(&u->carry));
                u->out(u->arg, bytes);
            }
            sbuf_reset(&u->carry);
            u->skipping = true;
            return;
        }
        rest = take_events(u, sbuf_str(&u->carry), u->take_out);
        sbuf_consume(&u->carry, u->carry.len - rest.len);
        return;
    }
    rest = take_events(u, bytes, u->take_out);
    if (rest.len > EVENT_MAX || u->skipping) {
        if (u->take_out)
            u->out(u->arg, rest);
        u->skipping = true;
    } else if (rest.len) {
        sbuf_add(&u->carry, rest);
    }
}

void usage_scan_end(struct usage_scan *u)
{
    if (u->carry.len && look_at(u, sbuf_str(&u->carry)) && u->take_out)
        u->out(u->arg, sbuf_str(&u->carry));
    sbuf_reset(&u->carry);
}
