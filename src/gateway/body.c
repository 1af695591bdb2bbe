#include "gateway/body.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/schema_bound.h"
#include "kinds/inference.h"

#define ANSWERS_MAX 1000
#define TOKENS_MAX 1000000000   /* of one answer */
#define ALL_ANSWERS_MAX 1000000 /* to all prompts */

_Static_assert(MODEL_NAME_MAX == SERVED_NAME_MAX + 1, "whatever is served can be asked for");

enum { AT_MODEL, AT_STREAM, AT_OPTIONS, AT_USAGE, AT_PROMPT, AT_MAX_TOKENS, AT_MAX_COMPLETION, AT_MAX_OUTPUT, AT_N_PREDICT, AT_N, AT_N_CMPL, AT_TIER, AT_SYSTEM, AT_INSTRUCTIONS, AT_SCHEMAS };

/* What engines make grammars of, and, from "tools" to "text", put into prompts. Of OpenAI, Anthropic, llama.cpp, vLLM and SGLang. */
static const char *const SCHEMAS[] = {"tools",       "functions",          "response_format", "text",         "output_format", "output_config", "json_schema", "grammar",
                                      "structured_outputs", "guided_json", "guided_regex",    "guided_grammar", "regex",       "ebnf"};
#define SCHEMAS_IN_PROMPT 6 /* the first ones */

/* What an engine makes, or keeps, so much of for each token that others wait for it, or that its memory ends. Of OpenAI, llama.cpp and vLLM. */
static const struct {
    const char *name;
    int64_t max;
} BOUNDED[] = {{"top_logprobs", BODY_LOGPROBS_MAX}, {"logprobs", BODY_LOGPROBS_MAX},         {"n_probs", BODY_LOGPROBS_MAX}, {"prompt_logprobs", BODY_LOGPROBS_MAX},
               {"repeat_last_n", BODY_LAST_N_MAX},  {"dry_penalty_last_n", BODY_LAST_N_MAX}};
enum { AT_BOUNDED = AT_SCHEMAS + ARRAY_LEN(SCHEMAS), AT_TAKEN_OUT = AT_BOUNDED + ARRAY_LEN(BOUNDED) };

/* What engines take for orders of their operator: by it a client would reach what is another's. Of llama.cpp, vLLM and SGLang. */
static const char *const TAKEN_OUT[] = {
    "id_slot", "cache_prompt", "n_cache_reuse", "lora",                      /* llama.cpp: slots, adapters */
    "cache_salt", "kv_transfer_params", "priority",                          /* vLLM: caches, also those of other engines; its queue */
    "extra_key", "rid", "session_params", "lora_path", "data_parallel_rank", /* SGLang: caches, others' requests and sessions */
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_logit_processor"};

static bool absent(const struct span *s)
{
    return s->type == SPAN_ABSENT || s->type == SPAN_NULL;
}

static bool is_bool(const struct span *s)
{
    return s->type == SPAN_TRUE || s->type == SPAN_FALSE;
}

/* How many answers to each prompt; 0: said oddly, or twice and differently. */
static int64_t answers(const struct span *at)
{
    const struct span *n = absent(&at[AT_N]) ? &at[AT_N_CMPL] : &at[AT_N], *other = n == &at[AT_N] ? &at[AT_N_CMPL] : n;
    int64_t count;
    if (absent(n))
        return 1;
    return span_int(n, &count) && count >= 1 && count <= ANSWERS_MAX && (absent(other) || str_eq(other->text, n->text)) ? count : 0;
}

/* Behind the JSON value at p, of a text that was scanned before. */
static const char *skip_value(const char *p, const char *end)
{
    size_t depth = 0;
    for (bool quoted = false; p < end; p++) {
        if (quoted) {
            quoted = *p != '"';
            p += *p == '\\';
            continue;
        }
        quoted = *p == '"';
        if (!depth && (*p == ',' || *p == ']'))
            break;
        depth += *p == '[' || *p == '{';
        depth -= *p == ']' || *p == '}';
    }
    return MIN(p, end);
}

/* A list with a number at its top is one prompt, of tokens, and any other list is one of prompts. */
static int64_t count_prompts(const struct span *prompt)
{
    int64_t n = 0;
    if (prompt->type != SPAN_ARRAY)
        return 1;
    const char *p = prompt->text.ptr + 1, *end = prompt->text.ptr + prompt->text.len;
    for (; p < end; p++) {
        struct str rest = str_trim(str_n(p, (size_t)(end - p)));
        if (!rest.len || rest.ptr[0] == ']')
            break;
        if (rest.ptr[0] == '-' || (rest.ptr[0] >= '0' && rest.ptr[0] <= '9'))
            return 1;
        n++;
        p = skip_value(rest.ptr, end);
    }
    return MAX(n, (int64_t)1);
}

bool body_number(const struct span *s, int64_t *ret)
{
    char digits[64], *end;
    struct str text = s->type == SPAN_STRING ? str_trim(str_n(s->text.ptr + 1, s->text.len - 2)) : s->text;
    if (s->type != SPAN_STRING && s->type != SPAN_NUMBER)
        return false;
    if (str_to_i64(text, INT64_MIN, INT64_MAX, ret) == 0)
        return true;
    if (!text.len || !str_to_array(text, digits, sizeof(digits)))
        return false;
    double d = strtod(digits, &end);
    if (*end || isnan(d))
        return false;
    d = MAX(MIN(d, 1e15), -1e15);
    *ret = (int64_t)d;
    *ret += (double)*ret < d;
    return true;
}

/* How many answers to each prompt an engine may read there: of two the larger, and of what cannot be read as many as there may be. */
static int64_t most_answers(const struct span *at)
{
    int64_t most = 1, n;
    for (int i = AT_N; i <= AT_N_CMPL; i++)
        if (!absent(&at[i]))
            most = MAX(most, body_number(&at[i], &n) ? n : ANSWERS_MAX);
    return MIN(most, (int64_t)ALL_ANSWERS_MAX);
}

/* What the client lets the engine make in one answer. Which of several members holds is for the engine to say: by the largest all are safe. One that is no number, or below 1, may mean any number
 * (llama.cpp's "n_predict": -1), and is for the engine to judge. */
static int64_t max_tokens(const struct span *at)
{
    int64_t most = 0, n;
    for (int i = AT_MAX_TOKENS; i <= AT_N_PREDICT; i++) {
        if (absent(&at[i]))
            continue;
        if (!body_number(&at[i], &n) || n < 1)
            return 0;
        most = MAX(most, n);
    }
    return MIN(most, (int64_t)TOKENS_MAX);
}

/* Said so that every reader of it agrees. */
static bool is_one(const struct span *s)
{
    return absent(s) || str_eqc(s->text, "1");
}

/* A first byte of UTF-8 from U+3000 on, where scripts begin whose characters are words or syllables (U+2E80 to U+2FFF are radicals). */
static bool is_wide(unsigned char c)
{
    return c >= 0xe3;
}

/* At a backslash before a "u": what follows is the first of four hexadecimal digits, which tells
 * likewise; unless the backslash is itself an escaped one. */
static bool is_wide_escape(struct str json, size_t at)
{
    const char *p = json.ptr + at;
    size_t backslashes = 1;
    if (at + 5 >= json.len || !((p[2] >= '3' && p[2] <= '9') || (p[2] >= 'a' && p[2] <= 'f') ||
                                (p[2] >= 'A' && p[2] <= 'F')))
        return false;
    while (backslashes <= at && p[-(ptrdiff_t)backslashes] == '\\')
        backslashes++;
    return backslashes % 2;
}

#define BLOCK 64

struct counted {
    size_t wide, long_ones, escapes;
};

/* Of one block, and whether one of its backslashes stands before a "u". A fixed number of turns and
 * counters of a byte: compilers make vectors of these. */
static bool count_block(const unsigned char *p, struct counted *ret)
{
    uint8_t wide = 0, long_ones = 0, escaped = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        wide = (uint8_t)(wide + is_wide(p[i]));
        long_ones = (uint8_t)(long_ones + (p[i] >= 0xf0));
        escaped |= (uint8_t)((p[i] == '\\') & (p[i + 1] == 'u'));
    }
    ret->wide += wide;
    ret->long_ones += long_ones;
    return escaped;
}

static void count_escapes(struct str json, size_t from, size_t to, struct counted *ret)
{
    for (size_t i = from; i < to; i++) {
        if (json.ptr[i] != '\\' || json.ptr[i + 1] != 'u')
            continue;
        bool wide = is_wide_escape(json, i);
        ret->escapes += wide;
        i += wide ? 5 : 1; /* what follows one that is none may be one */
    }
}

int64_t body_estimate_tokens(struct str json)
{
    struct counted n = {0};
    size_t i = 0;
    for (; i + BLOCK < json.len; i += BLOCK)
        if (count_block((const unsigned char *)json.ptr + i, &n))
            count_escapes(json, i, i + BLOCK, &n);
    if (json.len)
        count_escapes(json, i, json.len - 1, &n);
    for (; i < json.len; i++) {
        n.wide += is_wide((unsigned char)json.ptr[i]);
        n.long_ones += (unsigned char)json.ptr[i] >= 0xf0;
    }
    size_t bytes = n.wide * 3 + n.long_ones + n.escapes * 6;
    return (int64_t)(n.wide + n.escapes + (bytes < json.len ? json.len - bytes : 0) / 4 + 1);
}

/* Engines read them all before they answer anybody. */
static int check_prompts(const char *prompt, const struct span *at, struct err *err)
{
    size_t max = !strcmp(prompt, "messages") ? BODY_MESSAGES_MAX : BODY_PROMPTS_MAX;
    struct str inside = at->type == SPAN_ARRAY ? str_trim(str_skip(at->text, 1)) : STR_NULL;
    bool is_tokens = inside.len && (inside.ptr[0] == '-' || (inside.ptr[0] >= '0' && inside.ptr[0] <= '9'));
    if (at->type != SPAN_ARRAY || is_tokens || at->count <= max)
        return 0;
    return err_field(err, ERR_BAD_REQUEST, prompt, "\"%s\" has %zu elements; expected %zu at most", prompt, at->count, max);
}

static int check_schemas(const struct span *at, struct request_body *ret, struct err *err)
{
    struct schema_weight weight = {0};
    for (size_t i = 0; i < ARRAY_LEN(SCHEMAS); i++) {
        if (absent(&at[i]))
            continue;
        int rc = schema_bound_check(&weight, SCHEMAS[i], &at[i], err);
        if (rc < 0)
            return rc;
        ret->prompt_tokens += i < SCHEMAS_IN_PROMPT ? body_estimate_tokens(at[i].text) : 0;
    }
    return 0;
}

static int check_bounded(const struct span *at, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(BOUNDED); i++) {
        int64_t n = INT64_MAX; /* of a number with more digits than are read */
        if (absent(&at[i]) || (!body_number(&at[i], &n) && at[i].type != SPAN_NUMBER) || n <= BOUNDED[i].max)
            continue;
        return err_field(err, ERR_BAD_REQUEST, BOUNDED[i].name, "\"%s\" is too large; expected %lld at most", BOUNDED[i].name, (long long)BOUNDED[i].max);
    }
    return 0;
}

int request_body_read(struct str text, const char *prompt, bool ask_usage, struct request_body *ret, struct err *err)
{
    _Static_assert(ARRAY_LEN(TAKEN_OUT) <= BODY_TAKEN_OUT_MAX, "each has its place");
    const char *paths[AT_TAKEN_OUT + ARRAY_LEN(TAKEN_OUT)] = {"model", "stream", "stream_options", "stream_options.include_usage", prompt, "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "n", "n_cmpl", "service_tier", "system", "instructions"};
    struct span at[ARRAY_LEN(paths)];
    memcpy(paths + AT_SCHEMAS, SCHEMAS, sizeof(SCHEMAS));
    for (size_t i = 0; i < ARRAY_LEN(BOUNDED); i++)
        paths[AT_BOUNDED + i] = BOUNDED[i].name;
    memcpy(paths + AT_TAKEN_OUT, TAKEN_OUT, sizeof(TAKEN_OUT));
    if (!str_trim(text).len)
        return err_set(err, ERR_BAD_REQUEST, "the body is empty; expected a JSON object with \"model\" and \"%s\"", prompt);
    int rc = span_scan(text, paths, ARRAY_LEN(paths), at, err);
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
    if ((rc = check_prompts(prompt, &at[AT_PROMPT], err)) < 0)
        return rc;
    ret->stream = span_bool(&at[AT_STREAM], false);
    ret->ask_usage = ask_usage;
    ret->usage_wanted = span_bool(&at[AT_USAGE], false);
    ret->prompt_tokens = body_estimate_tokens(at[AT_PROMPT].text);
    for (int i = AT_SYSTEM; i <= AT_INSTRUCTIONS; i++)
        ret->prompt_tokens += absent(&at[i]) ? 0 : body_estimate_tokens(at[i].text);
    if ((rc = check_bounded(at + AT_BOUNDED, err)) < 0 || (rc = check_schemas(at + AT_SCHEMAS, ret, err)) < 0)
        return rc;
    ret->prompt = at[AT_PROMPT].text;
    ret->batch = at[AT_TIER].type == SPAN_STRING && (str_eqc(at[AT_TIER].text, "\"flex\"") || str_eqc(at[AT_TIER].text, "\"batch\""));
    ret->answers = answers(at);
    ret->prompts = !strcmp(prompt, "prompt") ? count_prompts(&at[AT_PROMPT]) : 1;
    ret->most_answers = MIN(most_answers(at) * MIN(ret->prompts, (int64_t)ALL_ANSWERS_MAX), (int64_t)ALL_ANSWERS_MAX);
    ret->max_tokens = max_tokens(at) * ret->most_answers;
    ret->several = !is_one(&at[AT_N]) || !is_one(&at[AT_N_CMPL]);
    for (size_t i = 0; i < ARRAY_LEN(TAKEN_OUT); i++)
        ret->taken_out[i] = at[AT_TAKEN_OUT + i].text;
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

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* The member whose value this is, from the comma before it, or else to behind the comma after it. Its name holds no quotes: span_scan() has seen to that. */
static struct edit take_out(const struct request_body *b, struct str value)
{
    const char *from = value.ptr, *to = from + value.len, *end = b->text.ptr + b->text.len;
    for (int quotes = 0; quotes < 2;)
        quotes += *--from == '"';
    const char *before = from, *after = to;
    while (is_space(before[-1]))
        before--;
    while (after < end && is_space(*after))
        after++;
    if (before[-1] == ',')
        from = before - 1;
    else if (*after == ',')
        to = after + 1;
    return (struct edit){(size_t)(from - b->text.ptr), (size_t)(to - from), STR("")};
}

/* In order of their places; of two at the same place the first stays first. */
static void add_edit(struct edit *edits, int *count, struct edit e)
{
    int i = (*count)++;
    for (; i > 0 && edits[i - 1].at > e.at; i--)
        edits[i] = edits[i - 1];
    edits[i] = e;
}

/* Two members that are neighbours, the first of all among them: what is between them was taken for the comma after the one and the comma before the other. The second then is the first. */
static struct edit behind(const struct request_body *b, struct edit e, size_t from)
{
    if (e.at >= from)
        return e;
    size_t end = e.at + e.drop;
    while (end < b->text.len && is_space(b->text.ptr[end]))
        end++;
    if (end < b->text.len && b->text.ptr[end] == ',')
        end++;
    return (struct edit){from, end - from, e.put};
}

static int make_edits(const struct request_body *b, const char *engine_model, struct str put_in, struct arena *a, struct edit *edits)
{
    int count = 0;
    if (put_in.len) /* the root has members ("model" is one), so a comma is right */
        add_edit(edits, &count, (struct edit){(size_t)str_find(b->text, '{') + 1, 0, str_of(arena_printf(a, "%.*s,", STR_ARG(put_in)))});
    if (engine_model) {
        CLEANUP(sbuf_deinit) struct sbuf name = {0};
        sbuf_init(&name, 16 * MODEL_NAME_MAX);
        sbuf_add_json(&name, str_of(engine_model));
        add_edit(edits, &count, (struct edit){(size_t)(b->at_model.text.ptr - b->text.ptr), b->at_model.text.len, arena_str(a, sbuf_str(&name))});
    }
    if (b->stream && b->ask_usage && !b->usage_wanted)
        add_edit(edits, &count, ask_for_usage(b));
    for (size_t i = 0; i < ARRAY_LEN(TAKEN_OUT); i++)
        if (b->taken_out[i].ptr)
            add_edit(edits, &count, take_out(b, b->taken_out[i]));
    return count;
}

int request_body_pieces(const struct request_body *b, const char *engine_model, struct str put_in, struct arena *a, struct iovec pieces[BODY_PIECES_MAX])
{
    struct edit edits[BODY_TAKEN_OUT_MAX + 3];
    int count = make_edits(b, engine_model, put_in, a, edits), n = 0;
    size_t from = 0;
    for (int i = 0; i < count; i++) {
        struct edit e = behind(b, edits[i], from);
        if (e.at > from)
            pieces[n++] = (struct iovec){(char *)(uintptr_t)b->text.ptr + from, e.at - from};
        if (e.put.len)
            pieces[n++] = (struct iovec){(char *)(uintptr_t)e.put.ptr, e.put.len};
        from = e.at + e.drop;
    }
    if (from < b->text.len)
        pieces[n++] = (struct iovec){(char *)(uintptr_t)b->text.ptr + from, b->text.len - from};
    return n;
}
