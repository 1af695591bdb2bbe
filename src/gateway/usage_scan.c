#include "gateway/usage_scan.h"

#include <string.h>

#include "json/span.h"

void usage_scan_init(struct usage_scan *u, bool take_out, void (*out)(void *arg, struct str bytes), void *arg)
{
    *u = (struct usage_scan){.take_out = take_out, .out = out, .arg = arg};
    sbuf_init(&u->carry, USAGE_SCAN_EVENT_MAX);
}

void usage_scan_deinit(struct usage_scan *u)
{
    sbuf_deinit(&u->carry);
}

/* ---- what an event says ---- */

enum { AT_PROMPT, AT_COMPLETION, AT_CACHED, AT_CREATED, AT_CHOICES, AT_TOTAL, AT_COUNT };

/* Where a usage stands: in a whole body, and in an event. */
static const char *const places[][2][AT_COUNT] = {
    [DIALECT_COMPLETIONS] = {{"usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens", "usage.none", "choices", "usage.total_tokens"},
                             {"usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens", "usage.none", "choices", "usage.total_tokens"}},
    [DIALECT_RESPONSES] = {{"usage.input_tokens", "usage.output_tokens", "usage.input_tokens_details.cached_tokens", "usage.none", "output", "usage.total_tokens"},
                           {"response.usage.input_tokens", "response.usage.output_tokens", "response.usage.input_tokens_details.cached_tokens", "usage.none", "type", "response.usage.total_tokens"}},
    [DIALECT_MESSAGES] = {{"usage.input_tokens", "usage.output_tokens", "usage.cache_read_input_tokens", "usage.cache_creation_input_tokens", "content", "usage.none"},
                          {"message.usage.input_tokens", "usage.output_tokens", "message.usage.cache_read_input_tokens", "message.usage.cache_creation_input_tokens", "type", "usage.none"}},
};

/* A count that may be believed; *ret is left alone when it may not. */
static bool read_count(const struct span *s, int64_t *ret)
{
    int64_t n;
    if (!span_int(s, &n) || n < 0 || n > USAGE_SCAN_TOKENS_MAX)
        return false;
    *ret = n;
    return true;
}

/* One of several answers has ended. */
static void add_usage(struct usage_scan *u, int64_t prompt, int64_t cached, int64_t completion)
{
    if (u->usages_seen >= u->usages) /* it is none of those that were asked for */
        return;
    u->usages_seen++;
    u->prompt_sum += prompt;
    u->cached_sum += MIN(cached, prompt);
    u->completion_sum += completion;
    u->exact = u->usages_seen == u->usages;
    u->prompt_tokens = MIN(u->prompt_sum / u->answers, (int64_t)USAGE_SCAN_TOKENS_MAX);
    u->cached_tokens = MIN(u->cached_sum / u->answers, u->prompt_tokens);
    u->completion_tokens = MIN(u->completion_sum, (int64_t)USAGE_SCAN_TOKENS_MAX);
}

/* Notes a usage whose members are all sound; half of one is not believed at all. False: the text is no JSON object. */
static bool read_usage(struct usage_scan *u, struct str json, bool event, bool *ret_usage, bool *ret_choices)
{
    struct span at[AT_COUNT];
    int64_t prompt = 0, completion = 0, cached = 0, created = 0;
    *ret_usage = *ret_choices = false;
    if (span_scan(json, places[u->dialect][event], AT_COUNT, at, NULL) < 0)
        return false;
    struct str choices = at[AT_CHOICES].text;
    *ret_choices = at[AT_CHOICES].type != SPAN_ARRAY || str_trim(str_n(choices.ptr + 1, choices.len - 2)).len;
    *ret_usage = at[AT_PROMPT].type != SPAN_ABSENT || at[AT_COMPLETION].type != SPAN_ABSENT;
    bool has_prompt = read_count(&at[AT_PROMPT], &prompt), has_completion = read_count(&at[AT_COMPLETION], &completion);
    if (u->input_only && at[AT_PROMPT].type == SPAN_ABSENT) /* rerankers may say no more than the sum */
        has_prompt = read_count(&at[AT_TOTAL], &prompt);
    (void)read_count(&at[AT_CACHED], &cached);
    (void)read_count(&at[AT_CREATED], &created);
    if (u->dialect == DIALECT_MESSAGES)
        prompt = MIN(prompt + cached + created, (int64_t)USAGE_SCAN_TOKENS_MAX);
    if (has_prompt && event && u->dialect == DIALECT_MESSAGES) { /* the answer's length comes in a later event */
        u->began = true;
        u->prompt_tokens = prompt;
        u->cached_tokens = MIN(cached, prompt);
    } else if (has_completion && event && u->dialect == DIALECT_MESSAGES && u->began) {
        u->exact = true;
        u->completion_tokens = completion;
    } else if (u->usages && event && has_prompt && has_completion) {
        add_usage(u, prompt, cached, completion);
    } else if (has_prompt && (has_completion || (u->input_only && at[AT_COMPLETION].type == SPAN_ABSENT))) {
        u->exact = true;
        u->prompt_tokens = prompt;
        u->completion_tokens = completion;
        u->cached_tokens = MIN(cached, prompt);
    }
    return true;
}

bool usage_scan_body(struct usage_scan *u, struct str body)
{
    bool usage, choices;
    return read_usage(u, body, false, &usage, &choices);
}

static bool contains(struct str text, struct str what)
{
    return text.len && memmem(text.ptr, text.len, what.ptr, what.len) != NULL;
}

/* "finish_reason" with a text: the event that ends a choice has no content. */
static bool ends_choice(struct str data)
{
    static const char name[] = "\"finish_reason\"";
    const char *at = memmem(data.ptr, data.len, name, sizeof(name) - 1);
    if (!at)
        return false;
    struct str rest = str_trim(str_skip(data, (size_t)(at - data.ptr) + sizeof(name) - 1));
    if (!str_starts(rest, STR(":")))
        return false;
    return str_starts(str_trim(str_skip(rest, 1)), STR("\""));
}

/* "content" with this value, however it is spaced. */
static bool content_is(struct str data, struct str value)
{
    static const char name[] = "\"content\"";
    const char *at = memmem(data.ptr, data.len, name, sizeof(name) - 1);
    struct str rest = at ? str_trim(str_skip(data, (size_t)(at - data.ptr) + sizeof(name) - 1)) : STR("");
    return str_starts(rest, STR(":")) && str_starts(str_trim(str_skip(rest, 1)), value);
}

/* The event that only says whose turn it is: engines send it before they have anything to say. Where in doubt it is more than that. */
static bool only_begins(struct str data)
{
    return contains(data, STR("\"role\"")) && (content_is(data, STR("null")) || content_is(data, STR("\"\"")) || !contains(data, STR("content\""))) &&
           !contains(data, STR("tool_calls")) && !ends_choice(data);
}

static bool type_is(struct str data, struct str quoted)
{
    static const char *const paths[] = {"type"};
    struct span at;
    return contains(data, quoted) && span_scan(data, paths, 1, &at, NULL) == 0 && str_eq(at.text, quoted);
}

static void look_at_response(struct usage_scan *u, struct str data)
{
    bool usage, choices, content = contains(data, STR(".delta\""));
    if (contains(data, STR("\"usage\"")))
        (void)read_usage(u, data, true, &usage, &choices);
    u->done = u->done || type_is(data, STR("\"response.completed\"")) || type_is(data, STR("\"response.incomplete\"")) || type_is(data, STR("\"response.failed\""));
    u->content_events += content;
    u->has_content = u->has_content || content || u->done;
}

static void look_at_message(struct usage_scan *u, struct str data)
{
    bool usage, choices, content = type_is(data, STR("\"content_block_delta\""));
    if (contains(data, STR("\"usage\"")))
        (void)read_usage(u, data, true, &usage, &choices);
    u->done = u->done || type_is(data, STR("\"message_stop\""));
    u->content_events += content;
    u->has_content = u->has_content || content || u->done;
}

/* The data of one whole event. False: the event is to be taken out. */
static bool look_at_data(struct usage_scan *u, struct str data)
{
    bool usage = false, choices = true;
    data = str_trim(data);
    if (u->dialect != DIALECT_COMPLETIONS) {
        (u->dialect == DIALECT_RESPONSES ? look_at_response : look_at_message)(u, data);
        return true;
    }
    if (str_eqc(data, "[DONE]")) {
        u->done = true;
        return true;
    }
    if (contains(data, STR("\"usage\"")) && read_usage(u, data, true, &usage, &choices) && usage && !choices)
        return !u->take_out || u->keeps_usage;
    bool begins = only_begins(data);
    u->content_events += contains(data, STR("\"choices\"")) && !begins && !ends_choice(data);
    u->has_content = u->has_content || !begins;
    return true;
}

/* The next line without its end; LF, CRLF and CR end one. */
static bool next_line(struct str *rest, struct str *ret)
{
    if (!rest->len)
        return false;
    const char *lf = memchr(rest->ptr, '\n', rest->len);
    size_t span = lf ? (size_t)(lf - rest->ptr) : rest->len;
    const char *cr = memchr(rest->ptr, '\r', span);
    *ret = str_n(rest->ptr, cr ? (size_t)(cr - rest->ptr) : span);
    *rest = str_skip(*rest, MIN(ret->len + 1, rest->len));
    return true;
}

/* One whole event: comments and other fields are nothing to us, its data lines are one text. False: it is to be taken out. */
static bool look_at(struct usage_scan *u, struct str event)
{
    CLEANUP(sbuf_deinit) struct sbuf joined = {0};
    struct str line, data = STR_NULL;
    sbuf_init(&joined, USAGE_SCAN_EVENT_MAX);
    while (next_line(&event, &line)) {
        if (!str_starts(line, STR("data:")))
            continue;
        struct str value = str_skip(line, 5);
        if (!data.ptr) {
            data = value;
            continue;
        }
        if (!joined.len)
            sbuf_add(&joined, data);
        sbuf_add_char(&joined, '\n');
        sbuf_add(&joined, value);
    }
    data = joined.len ? sbuf_str(&joined) : data;
    bool keep = look_at_data(u, data);
    return u->look && data.ptr ? u->look(u->arg, data, keep) : keep;
}

/* ---- cutting the stream into events ---- */

/* Length of the beginning of bytes that ends in a blank line; 0: it goes on. Remembers where it stands between calls. */
static size_t find_end(struct usage_scan *u, struct str bytes)
{
    const char *p = bytes.ptr, *end = bytes.ptr + bytes.len;
    while (p < end) {
        bool lf_of_crlf = u->after_cr && *p == '\n';
        u->after_cr = *p == '\r';
        if (lf_of_crlf) {
            u->crlf = true;
            p++;
        } else if (*p == '\n' || *p == '\r') {
            bool blank = !u->mid_line;
            u->mid_line = false;
            p++;
            if (!blank)
                continue;
            if (u->after_cr && p < end && *p == '\n') {
                u->after_cr = false;
                p++;
            }
            return (size_t)(p - bytes.ptr);
        } else {
            u->mid_line = true;
            const char *lf = memchr(p, '\n', (size_t)(end - p));
            const char *stop = lf ? lf : end, *cr = memchr(p, '\r', (size_t)(stop - p));
            p = cr ? cr : stop;
        }
    }
    return 0;
}

static void emit(struct usage_scan *u, struct str bytes)
{
    if (u->take_out && bytes.len)
        u->out(u->arg, bytes);
}

/* The end of an event, or a piece of one, that lies in bytes[0, len). True: it stays where it is and is to be passed on from there; else it was dealt with. */
static bool take_piece(struct usage_scan *u, struct str piece, bool whole)
{
    if (u->skipping) {
        u->skipping = !whole;
        return u->kept = true;
    }
    if (u->carry.len + piece.len > USAGE_SCAN_EVENT_MAX) {
        u->unread = true;
        emit(u, sbuf_str(&u->carry));
        sbuf_reset(&u->carry);
        u->skipping = !whole;
        return u->kept = true;
    }
    if (whole && !u->carry.len)
        return u->kept = look_at(u, piece);
    sbuf_add(&u->carry, piece);
    if (!sbuf_ok(&u->carry)) { /* memory is short: as if it were too large */
        u->carry.failed = false;
        u->unread = true;
        emit(u, sbuf_str(&u->carry));
        sbuf_reset(&u->carry);
        u->skipping = !whole;
        return u->kept = true;
    }
    if (!whole)
        return false;
    u->kept = look_at(u, sbuf_str(&u->carry));
    if (u->kept)
        emit(u, sbuf_str(&u->carry));
    sbuf_reset(&u->carry);
    return false;
}

void usage_scan_feed(struct usage_scan *u, struct str bytes)
{
    struct str kept = str_n(bytes.ptr, 0); /* neighbours go out together */
    struct str all = bytes;
    if (!u->shut && u->ended && u->after_cr && bytes.len && *bytes.ptr == '\n') {
        u->after_cr = false;
        bytes = str_skip(bytes, 1);
        kept = u->kept ? str_n(kept.ptr, 1) : str_n(bytes.ptr, 0);
    }
    while (bytes.len && !u->shut) {
        size_t n = find_end(u, bytes);
        u->ended = n == bytes.len;
        struct str piece = str_n(bytes.ptr, n ? n : bytes.len);
        bytes = str_skip(bytes, piece.len);
        if (u->rewrites) {
            emit(u, kept);
            kept = str_n(piece.ptr, 0);
        }
        if (take_piece(u, piece, n > 0)) {
            kept.len += piece.len;
        } else {
            emit(u, kept);
            kept = str_n(bytes.ptr, 0);
        }
    }
    emit(u, kept);
    if (!u->take_out) /* what it says is known before anybody has it */
        u->out(u->arg, all);
}

bool usage_scan_end(struct usage_scan *u)
{
    int64_t content_events = u->content_events;
    bool (*look)(void *arg, struct str data, bool keep) = u->look;
    u->look = NULL; /* what is cut was not passed on, and counts for nothing there */
    bool keep = u->carry.len && look_at(u, sbuf_str(&u->carry)); /* the last blank line may be missing */
    u->look = look;
    if (!u->done) {
        u->content_events = look ? content_events : u->content_events;
        return false;
    }
    if (keep)
        emit(u, sbuf_str(&u->carry));
    sbuf_reset(&u->carry);
    return true;
}

bool usage_scan_over(const struct usage_scan *u)
{
    return u->done && !(u->crlf && u->after_cr);
}

bool usage_scan_between_events(const struct usage_scan *u)
{
    return !u->skipping && (u->take_out || !u->carry.len); /* what is held back was not seen by anybody */
}
