/* What tokenizers of engines are asked, and what they answer. */
#include "engine/internal.h"
#include "json/span.h"

/* More than any text has: who says so is not believed. */
#define COUNT_MAX 1000000000

const char *engine_tokenizer_question(const struct engine_tokenizer *t, enum engine_question q, const char *model, struct str value, struct sbuf *out)
{
    const char *members = q == ENGINE_ASK_PROMPT ? t->prompt_members : q == ENGINE_ASK_TEXT ? t->text_members : NULL;
    bool chat = q == ENGINE_ASK_CHAT || q == ENGINE_ASK_TEMPLATE;
    if ((q == ENGINE_ASK_CHAT && !t->takes_chats) || (q == ENGINE_ASK_TEMPLATE && !t->template_path))
        return NULL;
    sbuf_addc(out, "{");
    if (t->named) {
        sbuf_addc(out, "\"model\":");
        sbuf_add_json(out, str_of(model));
        sbuf_addc(out, ",");
    }
    if (members)
        sbuf_addc(out, members);
    sbuf_addf(out, "\"%s\":", chat ? "messages" : t->text);
    sbuf_add(out, value);
    sbuf_addc(out, "}");
    return q == ENGINE_ASK_TEMPLATE ? t->template_path : t->path;
}

/* How many numbers a list has. False: it has something else. */
static bool count_numbers(struct str list, int64_t *ret)
{
    int64_t n = 0;
    bool in_number = false;
    list = str_trim(str_n(list.ptr + 1, list.len - 2));
    for (size_t i = 0; i < list.len; i++) {
        char c = list.ptr[i];
        bool digit = c >= '0' && c <= '9';
        if (!digit && c != ',' && c != ' ' && c != '\n' && c != '\t' && c != '\r')
            return false;
        n += digit && !in_number;
        in_number = digit;
    }
    *ret = n;
    return true;
}

bool engine_tokenizer_count(const struct engine_tokenizer *t, struct str answer, int64_t *ret)
{
    const char *const paths[] = {t->count ? t->count : "tokens"};
    struct span at;
    int64_t n;
    if (span_scan(answer, paths, 1, &at, NULL) < 0)
        return false;
    if (!(t->count ? span_int(&at, &n) : at.type == SPAN_ARRAY && count_numbers(at.text, &n)) || n < 0 || n > COUNT_MAX)
        return false;
    *ret = n;
    return true;
}

bool engine_tokenizer_prompt(struct str answer, struct str *ret)
{
    static const char *const paths[] = {"prompt"};
    struct span at;
    if (span_scan(answer, paths, 1, &at, NULL) < 0 || at.type != SPAN_STRING)
        return false;
    *ret = at.text;
    return true;
}
