#include "ledger/usage.h"

#include <string.h>

#include "json/json.h"

#define USAGE_BODY_MAX (16 * 1024)

static int64_t at_most(int64_t n)
{
    return n < USAGE_TOKENS_MAX ? n : USAGE_TOKENS_MAX;
}

static int64_t made_by(const struct usage_work *w)
{
    return w->read + w->written;
}

int64_t usage_made(const struct usage *u)
{
    int64_t sum = 0;
    for (size_t i = 0; i < u->work_count; i++)
        sum += made_by(&u->work[i]);
    return sum;
}

int64_t usage_requests(const struct usage *u)
{
    return u->count > 1 ? u->count : 1;
}

size_t usage_inexact(const struct usage *u)
{
    size_t n = 0;
    for (size_t i = 0; i < u->work_count; i++)
        n += !u->work[i].exact;
    return n;
}

bool usage_adds_up(const struct usage *u)
{
    return !u->has_work || usage_made(u) == u->prompt_tokens + u->completion_tokens + u->hedge_loser_tokens + u->replayed_tokens + u->unseen_tokens;
}

static void encode_work(const struct usage_work *w, struct sbuf *out)
{
    const struct {
        struct str name;
        int64_t value;
    } numbers[] = {{STR(",\"start_ms\":"), w->start_ms}, {STR(",\"end_ms\":"), w->end_ms}, {STR(",\"read\":"), at_most(w->read)}, {STR(",\"cached\":"), at_most(w->cached)},
                   {STR(",\"written\":"), at_most(w->written)}};
    sbuf_add(out, STR("{\"replica\":"));
    sbuf_add_json(out, w->replica);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        sbuf_add(out, numbers[i].name);
        sbuf_add_i64(out, numbers[i].value);
    }
    if (w->loser)
        sbuf_add(out, STR(",\"loser\":true"));
    sbuf_add(out, w->exact ? STR(",\"exact\":true}") : STR(",\"exact\":false}"));
}

void usage_encode(const struct usage *u, struct sbuf *out)
{
    const struct {
        struct str name, value;
    } texts[] = {{STR("{\"id\":"), u->id}, {STR(",\"project\":"), u->project}, {STR(",\"tenant\":"), u->tenant}, {STR(",\"key\":"), u->key}, {STR(",\"endpoint\":"), u->endpoint},
                 {STR(",\"model\":"), u->model}, {STR(",\"replica\":"), u->replica}, {STR(",\"route\":"), u->route}, {STR(",\"outcome\":"), u->outcome}};
    const struct {
        struct str name;
        int64_t value;
    } numbers[] = {{STR(",\"status\":"), u->status}, {STR(",\"prompt_tokens\":"), at_most(u->prompt_tokens)}, {STR(",\"cached_tokens\":"), at_most(u->cached_tokens)},
                   {STR(",\"completion_tokens\":"), at_most(u->completion_tokens)}, {STR(",\"hedge_loser_tokens\":"), at_most(u->hedge_loser_tokens)},
                   {STR(",\"replayed_tokens\":"), at_most(u->replayed_tokens)}, {STR(",\"unseen_tokens\":"), at_most(u->unseen_tokens)}, {STR(",\"start_ms\":"), u->start_ms}, {STR(",\"ttft_ms\":"), u->ttft_ms},
                   {STR(",\"duration_ms\":"), u->duration_ms}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        sbuf_add(out, texts[i].name);
        sbuf_add_json(out, texts[i].value);
    }
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        sbuf_add(out, numbers[i].name);
        sbuf_add_i64(out, numbers[i].value);
    }
    levels_encode(&u->levels, out);
    if (u->currency.len) {
        sbuf_add(out, STR(",\"cost\":"));
        sbuf_add_i64(out, u->cost);
        sbuf_add(out, STR(",\"currency\":"));
        sbuf_add_json(out, u->currency);
    }
    if (u->has_work) {
        sbuf_add(out, STR(",\"engines\":["));
        for (size_t i = 0; i < u->work_count; i++) {
            if (i)
                sbuf_add_char(out, ',');
            encode_work(&u->work[i], out);
        }
        sbuf_add_char(out, ']');
    }
    if (u->count > 1) {
        sbuf_add(out, STR(",\"count\":"));
        sbuf_add_i64(out, u->count);
    }
    sbuf_add(out, u->stream ? STR(",\"stream\":true") : STR(",\"stream\":false"));
    if (u->tokenized)
        sbuf_add(out, STR(",\"tokenized\":true"));
    sbuf_add(out, u->exact ? STR(",\"exact\":true}") : STR(",\"exact\":false}"));
}

static struct str text_of(const json_t *doc, struct arena *a, const char *name)
{
    const json_t *v = json_object_get(doc, name);
    return json_is_string(v) ? arena_str(a, str_n(json_string_value(v), json_string_length(v))) : STR("");
}

static bool is_count(int64_t n)
{
    return n >= 0 && n <= USAGE_TOKENS_MAX;
}

static int decode_work(const json_t *list, struct arena *a, struct usage *u, struct err *err)
{
    size_t i;
    json_t *v;
    u->has_work = json_is_array(list);
    if (json_array_size(list) > USAGE_WORK_MAX)
        return err_set(err, ERR_INVALID, "a usage record with %zu engines; at most %d", json_array_size(list), USAGE_WORK_MAX);
    struct usage_work *all = ARENA_ARRAY(a, struct usage_work, json_array_size(list) + 1);
    json_array_foreach (list, i, v) {
        all[i] = (struct usage_work){.replica = text_of(v, a, "replica"), .start_ms = json_int(v, "start_ms", 0), .end_ms = json_int(v, "end_ms", 0), .read = json_int(v, "read", 0),
                                     .cached = json_int(v, "cached", 0), .written = json_int(v, "written", 0), .exact = json_flag(v, "exact", false), .loser = json_flag(v, "loser", false)};
        if (!is_count(all[i].read) || !is_count(all[i].cached) || !is_count(all[i].written))
            return err_set(err, ERR_INVALID, "a usage record with an engine's count that is negative or above %lld", USAGE_TOKENS_MAX);
    }
    u->work = all;
    u->work_count = json_array_size(list);
    return 0;
}

/* Several requests in one record have used nothing: else nobody could tell which of them did. */
static int check_count(const struct usage *u, struct err *err)
{
    if (u->count < 1 || u->count > USAGE_COUNT_MAX)
        return err_set(err, ERR_INVALID, "a usage record of %lld requests; expected 1 to %lld", (long long)u->count, USAGE_COUNT_MAX);
    if (u->count > 1 && (u->cost || u->work_count || u->prompt_tokens || u->cached_tokens || u->completion_tokens || u->hedge_loser_tokens || u->replayed_tokens || u->unseen_tokens))
        return err_set(err, ERR_INVALID, "a usage record of %lld requests with tokens, engines or a cost", (long long)u->count);
    return 0;
}

int usage_decode(struct str body, struct arena *a, struct usage *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = json_parse(body, USAGE_BODY_MAX, &doc, err);
    if (rc < 0)
        return rc;
    *ret = (struct usage){
        .levels = levels_decode(json_object_get(doc, "slo"), a),
        .id = text_of(doc, a, "id"), .project = text_of(doc, a, "project"), .tenant = text_of(doc, a, "tenant"), .key = text_of(doc, a, "key"),
        .endpoint = text_of(doc, a, "endpoint"), .model = text_of(doc, a, "model"), .replica = text_of(doc, a, "replica"), .route = text_of(doc, a, "route"),
        .outcome = text_of(doc, a, "outcome"), .stream = json_flag(doc, "stream", false), .exact = json_flag(doc, "exact", false),
        .tokenized = json_flag(doc, "tokenized", false), .status = (int)json_int(doc, "status", 0), .count = json_int(doc, "count", 1), .prompt_tokens = json_int(doc, "prompt_tokens", 0), .cached_tokens = json_int(doc, "cached_tokens", 0),
        .completion_tokens = json_int(doc, "completion_tokens", 0), .hedge_loser_tokens = json_int(doc, "hedge_loser_tokens", 0),
        .replayed_tokens = json_int(doc, "replayed_tokens", 0), .unseen_tokens = json_int(doc, "unseen_tokens", 0), .start_ms = json_int(doc, "start_ms", 0), .ttft_ms = json_int(doc, "ttft_ms", -1),
        .duration_ms = json_int(doc, "duration_ms", 0), .currency = text_of(doc, a, "currency"), .cost = json_int(doc, "cost", 0)};
    if (!ret->id.len || !ret->project.len)
        return err_set(err, ERR_INVALID, "a usage record without id or project");
    if (!is_count(ret->prompt_tokens) || !is_count(ret->cached_tokens) || !is_count(ret->completion_tokens) || !is_count(ret->replayed_tokens) ||
        !is_count(ret->hedge_loser_tokens) || !is_count(ret->unseen_tokens))
        return err_set(err, ERR_INVALID, "a usage record with a count that is negative or above %lld", USAGE_TOKENS_MAX);
    if (ret->cost < 0)
        return err_set(err, ERR_INVALID, "a usage record with a cost that is negative");
    int work = decode_work(json_object_get(doc, "engines"), a, ret, err);
    return work < 0 ? work : check_count(ret, err);
}
