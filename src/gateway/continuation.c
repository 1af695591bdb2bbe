#include "gateway/continuation.h"

#include "base/log.h"
#include "base/mem.h"
#include "json/json.h"

#define FRAME_MAX 768

struct text {
    char *ptr;
    size_t len, size;
};

struct continuation {
    struct text text;     /* what the client has, as the inside of a JSON string */
    bool unfit;           /* more than text, or too much of it */
    bool finished;        /* the event with the reason of the end was passed on */
    bool broken;          /* the engine told of its failure */
    json_t *id, *created; /* of the first event */
    /* what the last event had before and behind its text */
    char frame[FRAME_MAX];
    size_t before, behind;
    /* continuations */
    int count;
    int64_t now;      /* events with text, of this attempt */
    int64_t made;     /* of those before it */
    int64_t replays;  /* attempts that read the prompt again and failed … */
    int64_t replayed; /* … and of the text, before those */
    struct text sent; /* the body */
    struct request_body body;
};

static void text_wipe(struct text *t)
{
    if (t->ptr)
        mem_wipe(t->ptr, t->size);
    mem_free(t->ptr);
    *t = (struct text){0};
}

static bool text_add(struct text *t, struct str s, size_t max)
{
    if (s.len > max - t->len)
        return false;
    if (t->len + s.len > t->size) { /* realloc() would leave a copy behind */
        struct text bigger = {.size = MAX(2 * t->size, t->len + s.len + 256)};
        bigger.ptr = xcalloc(bigger.size, 1);
        if (t->len)
            memcpy(bigger.ptr, t->ptr, t->len);
        bigger.len = t->len;
        text_wipe(t);
        *t = bigger;
    }
    if (s.len)
        memcpy(t->ptr + t->len, s.ptr, s.len);
    t->len += s.len;
    return true;
}

static void cleanup(void *arg)
{
    struct continuation *c = arg;
    text_wipe(&c->text);
    text_wipe(&c->sent);
    json_decref(c->id);
    json_decref(c->created);
    c->id = c->created = NULL;
    mem_wipe(c->frame, sizeof(c->frame));
}

static bool is_chat(const struct request *q)
{
    return str_eqc(str_of(q->route->prompt), "messages");
}

/* ---- what goes by ---- */

static void keep_text(struct continuation *c, struct str raw)
{
    c->now += raw.len > 0;
    if (!c->unfit && !text_add(&c->text, raw, CONTINUATION_TEXT_MAX)) {
        c->unfit = true;
        text_wipe(&c->text);
    }
}

/* Length of the inside of a JSON string that begins here; SIZE_MAX: it does not end. */
static size_t inside_of(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '"')
            return i;
        i += s.ptr[i] == '\\';
    }
    return SIZE_MAX;
}

/* The event is the last one with another text. */
static bool same_but_for_text(struct continuation *c, struct str data)
{
    if (!c->before || data.len < c->before + c->behind || memcmp(data.ptr, c->frame, c->before) != 0 ||
        memcmp(data.ptr + data.len - c->behind, c->frame + c->before, c->behind) != 0)
        return false;
    struct str rest = str_skip(data, c->before);
    size_t inside = inside_of(rest);
    if (inside != rest.len - c->behind)
        return false;
    keep_text(c, str_n(rest.ptr, inside));
    return true;
}

static void learn_frame(struct continuation *c, struct str data, const char *member)
{
    char mark[32];
    size_t len = (size_t)snprintf(mark, sizeof(mark), "\"%s\":\"", member);
    const char *at = memmem(data.ptr, data.len, mark, len);
    c->before = 0;
    if (!at)
        return;
    struct str rest = str_skip(data, (size_t)(at - data.ptr) + len);
    size_t inside = inside_of(rest);
    if (inside == SIZE_MAX || memmem(rest.ptr, rest.len, mark, len) || data.len - inside > FRAME_MAX)
        return;
    c->before = data.len - rest.len;
    c->behind = rest.len - inside;
    memcpy(c->frame, data.ptr, c->before);
    memcpy(c->frame + c->before, rest.ptr + inside, c->behind);
}

/* Nothing but a role and a text. */
static bool is_text_only(const json_t *delta)
{
    const char *name;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)delta, name, v)
        if (strcmp(name, "role") != 0 && strcmp(name, "content") != 0 && !json_is_null(v))
            return false;
    return true;
}

/* What an engine says; no more than can be. */
static int64_t count_in(const json_t *usage, const char *path)
{
    return MIN(MAX(json_int(usage, path, 0), (int64_t)0), (int64_t)USAGE_SCAN_TOKENS_MAX);
}

static json_t *usage_whole(const struct continuation *c, const json_t *doc)
{
    json_t *usage = json_object_get(doc, "usage");
    int64_t prompt = MAX(count_in(usage, "prompt_tokens") - c->made, (int64_t)0), completion = count_in(usage, "completion_tokens") + c->made;
    json_object_set_new(usage, "prompt_tokens", json_integer(prompt));
    json_object_set_new(usage, "completion_tokens", json_integer(completion));
    json_object_set_new(usage, "total_tokens", json_integer(prompt + completion));
    if (json_int(usage, "prompt_tokens_details.cached_tokens", 0) > prompt)
        json_object_set_new(json_object_get(usage, "prompt_tokens_details"), "cached_tokens", json_integer(prompt));
    return usage;
}

static void put_event(struct request *q, const json_t *doc)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, USAGE_SCAN_EVENT_MAX * 2);
    sbuf_addc(&out, "data: ");
    json_write(doc, &out);
    sbuf_addc(&out, "\n\n");
    q->scan.out(q->scan.arg, sbuf_str(&out));
    if (out.ptr)
        mem_wipe(out.ptr, out.len);
}

/* An event of an engine that writes on: as the first one would have said it. */
static void pass_as_first(struct request *q, json_t *doc, json_t *choice, bool says_something)
{
    struct continuation *c = q->continuation;
    if (c->id)
        json_object_set(doc, "id", c->id);
    if (c->created)
        json_object_set(doc, "created", c->created);
    if (choice)
        json_object_del(json_object_get(choice, "delta"), "role");
    if (json_is_object(json_object_get(doc, "usage")))
        (void)usage_whole(c, doc);
    if (says_something)
        put_event(q, doc);
}

/* usage_scan's look: whether the event is passed on as it is. */
static bool on_event(void *arg, struct str data, bool keep)
{
    struct request *q = arg;
    struct continuation *c = q->continuation;
    JSON_AUTO doc = NULL;
    data = str_trim(data);
    if (c->broken)
        return false;
    if (!data.len || str_eqc(data, "[DONE]") || (!c->count && same_but_for_text(c, data)))
        return keep;
    if (json_parse(data, USAGE_SCAN_EVENT_MAX, &doc, NULL) < 0 || !json_is_object(doc)) {
        c->unfit = true;
        return keep;
    }
    if (json_object_get(doc, "error") && !json_object_get(doc, "choices")) {
        c->broken = q->scan.shut = !c->unfit;
        return keep && !c->broken;
    }
    const json_t *choices = json_object_get(doc, "choices");
    json_t *choice = json_array_get(choices, 0), *delta = json_object_get(choice, "delta");
    const char *member = is_chat(q) ? "content" : "text";
    const json_t *value = json_object_get(is_chat(q) ? delta : choice, member);
    if (json_array_size(choices) > 1 || (value && !json_is_null(value) && !json_is_string(value)) || !is_text_only(delta) || json_is_object(json_object_get(choice, "logprobs")))
        c->unfit = true;
    if (!c->id && json_object_get(doc, "id")) {
        c->id = json_incref(json_object_get(doc, "id"));
        c->created = json_incref(json_object_get(doc, "created"));
    }
    bool has_text = json_string_length(value) > 0, ends = json_is_string(json_object_get(choice, "finish_reason"));
    if (has_text) {
        CLEANUP(sbuf_deinit) struct sbuf raw = {0};
        sbuf_init(&raw, 16 * USAGE_SCAN_EVENT_MAX);
        sbuf_add_json(&raw, str_n(json_string_value(value), json_string_length(value)));
        if (raw.len >= 2)
            keep_text(c, str_n(raw.ptr + 1, raw.len - 2));
        if (raw.ptr)
            mem_wipe(raw.ptr, raw.len);
        learn_frame(c, data, member);
    }
    c->finished = c->finished || ends;
    if (!c->count)
        return keep;
    if (keep)
        pass_as_first(q, doc, choice, has_text || ends || !choice);
    return false;
}

void continuation_attach(struct request *q)
{
    if (!q->continuation && (!q->replica->can_continue || q->route->dialect != DIALECT_COMPLETIONS || q->route->embeddings || q->body.several))
        return;
    if (!q->continuation) {
        q->continuation = ARENA_NEW(q->http->arena, struct continuation);
        arena_on_free(q->http->arena, cleanup, q->continuation);
    }
    if (!q->continuation->count) /* an attempt of which nothing was passed on is forgotten */
        cleanup(q->continuation);
    q->continuation->now = 0;
    q->continuation->broken = false;
    q->continuation->before = 0;
    q->scan.keeps_usage = !q->scan.take_out;
    q->scan.take_out = true;
    q->scan.look = on_event;
    q->scan.rewrites = q->continuation->count > 0;
}

bool continuation_broken(const struct request *q)
{
    return q->continuation && q->continuation->broken;
}

/* ---- going on ---- */

/* What needs more than the text: state of the engine that is lost, or another form of the answer. */
static const char *const UNFIT[] = {"tools", "functions", "tool_choice", "function_call", "response_format", "grammar", "json_schema", "guided_json", "guided_regex", "guided_grammar", "guided_choice",
                                    "structured_outputs", "regex", "ebnf", "logprobs", "top_logprobs", "n_probs", "echo", "best_of", "suffix", "continue_final_message", "add_generation_prompt",
                                    "min_tokens", "modalities"};
static const char *const MOST[] = {"max_tokens", "max_completion_tokens", "n_predict"};

static bool asks_for_nothing(const struct span *s)
{
    return s->type == SPAN_ABSENT || s->type == SPAN_NULL || s->type == SPAN_FALSE || str_eqc(s->text, "0") || str_eqc(s->text, "[]");
}

/* The prompt with the text so far behind it. False: that cannot be said. */
static bool prompt_with_text(const struct request *q, struct str *ret_before, struct str *ret_lead, struct str *ret_tail)
{
    struct str prompt = q->body.prompt;
    JSON_AUTO doc = NULL;
    *ret_before = str_n(prompt.ptr, prompt.len - 1);
    if (!is_chat(q)) {
        *ret_lead = STR("");
        *ret_tail = STR("\"");
        return *prompt.ptr == '"';
    }
    *ret_lead = STR(",{\"role\":\"assistant\",\"content\":\"");
    *ret_tail = STR("\"}]");
    if (json_parse(prompt, prompt.len, &doc, NULL) < 0 || !json_array_size(doc))
        return false;
    return !str_eqc(str_of(json_str_or(json_array_get(doc, json_array_size(doc) - 1), "role", "")), "assistant");
}

/* The client's body, but for the prompt's end and what may still be made. False: it cannot go on; *ret_full: as much was made as may be. */
static bool make_body(struct request *q, bool *ret_full)
{
    struct continuation *c = q->continuation;
    const char *paths[ARRAY_LEN(UNFIT) + ARRAY_LEN(MOST)];
    struct span at[ARRAY_LEN(paths)];
    struct str all = q->body.text, before, lead, tail;
    size_t max = all.len + CONTINUATION_TEXT_MAX + 4096, from = 0;
    memcpy(paths, MOST, sizeof(MOST));
    memcpy(paths + ARRAY_LEN(MOST), UNFIT, sizeof(UNFIT));
    if (span_scan(all, paths, ARRAY_LEN(paths), at, NULL) < 0 || !prompt_with_text(q, &before, &lead, &tail))
        return false;
    for (size_t i = ARRAY_LEN(MOST); i < ARRAY_LEN(paths); i++)
        if (!asks_for_nothing(&at[i]))
            return false;
    text_wipe(&c->sent);
    bool ok = true, prompt_done = false;
    size_t prompt_at = (size_t)(q->body.prompt.ptr - all.ptr), next;
    const char *members = is_chat(q) ? q->replica->continue_members : NULL;
    if (members && c->text.len) {
        from = (size_t)str_find(all, '{') + 1;
        ok = text_add(&c->sent, str_n(all.ptr, from), max) && text_add(&c->sent, str_of(members), max);
    }
    while (ok) { /* the next edit in the order of their places */
        const struct span *number = NULL;
        int64_t most = 0;
        next = prompt_done ? SIZE_MAX : prompt_at;
        for (size_t i = 0; i < ARRAY_LEN(MOST); i++) {
            size_t place = body_number(&at[i], &most) ? (size_t)(at[i].text.ptr - all.ptr) : SIZE_MAX;
            if (place != SIZE_MAX && place >= from && place < next) {
                next = place;
                number = &at[i];
            }
        }
        if (next == SIZE_MAX)
            break;
        ok = text_add(&c->sent, str_n(all.ptr + from, next - from), max);
        if (number) {
            char digits[32] = "";
            struct str put = number->text;
            if (body_number(number, &most) && most > 0) {
                *ret_full |= most <= c->made;
                snprintf(digits, sizeof(digits), "%lld", (long long)(most - c->made));
                put = str_of(digits);
            }
            ok = ok && text_add(&c->sent, put, max);
            from = next + number->text.len;
        } else {
            prompt_done = true;
            ok = ok && text_add(&c->sent, before, max);
            if (c->text.len)
                ok = ok && text_add(&c->sent, lead, max) && text_add(&c->sent, str_n(c->text.ptr, c->text.len), max) && text_add(&c->sent, tail, max);
            else
                ok = ok && text_add(&c->sent, str_skip(q->body.prompt, before.len), max);
            from = next + q->body.prompt.len;
        }
    }
    ok = ok && text_add(&c->sent, str_skip(all, from), max);
    return ok && request_body_read(str_n(c->sent.ptr, c->sent.len), q->route->prompt, true, &c->body, NULL) == 0;
}

/* The text is whole, and the stream's end is missing. */
static void write_end(struct request *q, bool full, int64_t prompt_estimate)
{
    struct continuation *c = q->continuation;
    JSON_AUTO doc = json_pack("{s:s, s:s}", "object", is_chat(q) ? "chat.completion.chunk" : "text_completion", "model", q->body.model);
    json_object_set(doc, "id", c->id ? c->id : json_null());
    json_object_set(doc, "created", c->created ? c->created : json_null());
    if (full && !c->finished) {
        json_t *choice = json_pack("{s:i, s:s}", "index", 0, "finish_reason", "length");
        if (is_chat(q))
            json_object_set_new(choice, "delta", json_object());
        else
            json_object_set_new(choice, "text", json_string(""));
        json_object_set_new(doc, "choices", json_pack("[o]", choice));
        put_event(q, doc);
    }
    if (q->body.usage_wanted && !q->scan.exact) {
        json_object_set_new(doc, "choices", json_array());
        json_object_set_new(doc, "usage", json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)prompt_estimate, "completion_tokens", (json_int_t)c->made, "total_tokens",
                                                    (json_int_t)(prompt_estimate + c->made)));
        put_event(q, doc);
    }
    q->scan.out(q->scan.arg, STR("data: [DONE]\n\n"));
}

enum continuation_step continuation_next(struct request *q)
{
    struct continuation *c = q->continuation;
    bool full = false;
    if (!c || c->unfit || !q->scan.look || q->scan.unread || !usage_scan_between_events(&q->scan)) {
        if (!c || c->unfit || !c->count || q->scan.look) /* else an attempt that failed before its head */
            return CONTINUATION_NONE;
    }
    if (!c->finished || !q->scan.exact) { /* else the engine's count holds */
        if (c->count && q->scan.has_content) {
            c->replays++;
            c->replayed += c->made;
        }
        c->made += c->now;
        c->now = q->scan.content_events = 0;
        q->scan.has_content = false;
    }
    if (!c->finished && (c->count >= CONTINUATIONS_MAX || !make_body(q, &full)))
        return CONTINUATION_NONE;
    if (c->finished || full) {
        if (!q->scan.out)
            return CONTINUATION_NONE;
        write_end(q, full, q->body.prompt_tokens);
        return CONTINUATION_WHOLE;
    }
    c->count++;
    log_info("a stream goes on at another replica", KV("request", q->http->id), KV("endpoint", q->endpoint->name), KV("replica", q->replica->name), KVI("tokens", c->made));
    return CONTINUATION_SEND;
}

const struct request_body *continuation_body(const struct request *q)
{
    return q->continuation && q->continuation->count ? &q->continuation->body : &q->body;
}

bool continuation_take_text(struct request *q, char **ret, size_t *ret_len)
{
    struct continuation *c = q->continuation;
    if (!c || c->unfit || !c->text.len)
        return false;
    *ret = c->text.ptr;
    *ret_len = c->text.len;
    c->text = (struct text){0};
    return true;
}

void continuation_counts(const struct request *q, struct usage *u, int64_t prompt_estimate)
{
    const struct continuation *c = q->continuation;
    if (!c)
        return;
    if (!c->count && q->scan.exact)
        return;
    if (!q->scan.exact) {
        u->completion_tokens += c->made;
        if (!c->count)
            return;
        u->replayed_tokens = c->replays * prompt_estimate + c->replayed;
        if (q->scan.has_content)
            u->replayed_tokens += prompt_estimate + c->made;
        return;
    }
    /* The last engine counted all of the text, a part of it as prompt. */
    int64_t read = u->prompt_tokens, ours = MIN(c->made, read);
    u->prompt_tokens = read - ours;
    u->completion_tokens += ours;
    u->cached_tokens = MIN(u->cached_tokens, u->prompt_tokens);
    u->replayed_tokens = read + c->replays * u->prompt_tokens + c->replayed;
}
