#include "gateway/body.h"

enum { AT_MODEL, AT_STREAM, AT_OPTIONS, AT_USAGE, AT_PROMPT, AT_MAX_TOKENS, AT_MAX_COMPLETION, AT_MAX_OUTPUT, AT_N, AT_TIER, AT_COUNT };

static bool absent(const struct span *s)
{
    return s->type == SPAN_ABSENT || s->type == SPAN_NULL;
}

static bool is_bool(const struct span *s)
{
    return s->type == SPAN_TRUE || s->type == SPAN_FALSE;
}

/* What the client lets the engine make. Odd values are for the engine to judge. */
static int64_t max_tokens(const struct span *at)
{
    int64_t most = 0, n = 1;
    if (!span_int(&at[AT_MAX_COMPLETION], &most) && !span_int(&at[AT_MAX_TOKENS], &most) && !span_int(&at[AT_MAX_OUTPUT], &most))
        return 0;
    if (!span_int(&at[AT_N], &n) || n < 1 || n > 1000)
        n = 1;
    return most < 1 ? 0 : MIN(most, (int64_t)1000000000) * n;
}

int request_body_read(struct str text, const char *prompt, bool ask_usage, struct request_body *ret, struct err *err)
{
    const char *const paths[AT_COUNT] = {"model", "stream", "stream_options", "stream_options.include_usage", prompt, "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "service_tier"};
    struct span at[AT_COUNT];
    if (!str_trim(text).len)
        return err_set(err, ERR_BAD_REQUEST, "the body is empty; expected a JSON object with \"model\" and \"%s\"", prompt);
    int rc = span_scan(text, paths, AT_COUNT, at, err);
    if (rc < 0)
        return rc;
    if (absent(&at[AT_MODEL]))
        return err_field(err, ERR_BAD_REQUEST, "model", "\"model\" is missing; expected the name of a model, such as one of GET /v1/models");
    if (at[AT_MODEL].type != SPAN_STRING)
        return err_field(err, ERR_BAD_REQUEST, "model", "\"model\" must be a string");
    if (!span_string(&at[AT_MODEL], ret->model, sizeof(ret->model)))
        return err_field(err, ERR_BAD_REQUEST, "model", "\"model\" must be a string of at most %d bytes", MODEL_NAME_MAX - 1);
    if (!absent(&at[AT_STREAM]) && !is_bool(&at[AT_STREAM]))
        return err_field(err, ERR_BAD_REQUEST, "stream", "\"stream\" must be true or false");
    if (!absent(&at[AT_OPTIONS]) && at[AT_OPTIONS].type != SPAN_OBJECT)
        return err_field(err, ERR_BAD_REQUEST, "stream_options", "\"stream_options\" must be an object");
    if (!absent(&at[AT_USAGE]) && !is_bool(&at[AT_USAGE]))
        return err_field(err, ERR_BAD_REQUEST, "stream_options.include_usage", "\"stream_options.include_usage\" must be true or false");
    if (absent(&at[AT_PROMPT]))
        return err_field(err, ERR_BAD_REQUEST, prompt, "\"%s\" is missing", prompt);
    ret->stream = span_bool(&at[AT_STREAM], false);
    ret->ask_usage = ask_usage;
    ret->usage_wanted = span_bool(&at[AT_USAGE], false);
    ret->prompt_bytes = at[AT_PROMPT].text.len;
    ret->prompt = at[AT_PROMPT].text;
    ret->batch = at[AT_TIER].type == SPAN_STRING && (str_eqc(at[AT_TIER].text, "\"flex\"") || str_eqc(at[AT_TIER].text, "\"batch\""));
    ret->max_tokens = max_tokens(at);
    ret->text = text;
    ret->at_model = at[AT_MODEL];
    ret->at_options = at[AT_OPTIONS];
    ret->at_usage = at[AT_USAGE];
    return 0;
}

/* One place where other bytes go instead of text[at, at + drop). */
struct edit {
    size_t at, drop;
    struct str put;
};

/* What asks for usage in a stream that does not ask itself. */
static struct edit ask_for_usage(const struct request_body *b)
{
    const char *base = b->text.ptr;
    if (b->at_usage.type != SPAN_ABSENT)
        return (struct edit){(size_t)(b->at_usage.text.ptr - base), b->at_usage.text.len, STR("true")};
    if (b->at_options.type == SPAN_NULL)
        return (struct edit){(size_t)(b->at_options.text.ptr - base), b->at_options.text.len, STR("{\"include_usage\":true}")};
    if (b->at_options.type == SPAN_OBJECT) {
        struct str inside = str_n(b->at_options.text.ptr + 1, b->at_options.text.len - 2);
        bool empty = !str_trim(inside).len;
        return (struct edit){(size_t)(inside.ptr - base), 0, empty ? STR("\"include_usage\":true") : STR("\"include_usage\":true,")};
    }
    /* The root has members ("model" is one), so a comma is right. */
    return (struct edit){(size_t)str_find(b->text, '{') + 1, 0, STR("\"stream_options\":{\"include_usage\":true},")};
}

int request_body_pieces(const struct request_body *b, const char *engine_model, struct arena *a, struct iovec pieces[BODY_PIECES_MAX])
{
    struct edit edits[2];
    int count = 0, n = 0;
    size_t from = 0;
    if (engine_model) {
        CLEANUP(sbuf_deinit) struct sbuf name = {0};
        sbuf_init(&name, 16 * MODEL_NAME_MAX);
        sbuf_add_json(&name, str_of(engine_model));
        edits[count++] = (struct edit){(size_t)(b->at_model.text.ptr - b->text.ptr), b->at_model.text.len, arena_str(a, sbuf_str(&name))};
    }
    if (b->stream && b->ask_usage && !b->usage_wanted)
        edits[count++] = ask_for_usage(b);
    if (count == 2 && edits[1].at < edits[0].at) {
        struct edit first = edits[1];
        edits[1] = edits[0];
        edits[0] = first;
    }
    for (int i = 0; i < count; i++) {
        if (edits[i].at > from)
            pieces[n++] = (struct iovec){(char *)(uintptr_t)b->text.ptr + from, edits[i].at - from};
        pieces[n++] = (struct iovec){(char *)(uintptr_t)edits[i].put.ptr, edits[i].put.len};
        from = edits[i].at + edits[i].drop;
    }
    if (from < b->text.len)
        pieces[n++] = (struct iovec){(char *)(uintptr_t)b->text.ptr + from, b->text.len - from};
    return n;
}
