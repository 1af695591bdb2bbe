/* The span scanner against jansson: it accepts what json_parse() accepts but for the differences that its header states, and
 * finds the same values. */
#include "fuzz.h"

#include "json/json.h"
#include "json/span.h"

#define INPUT_MAX 65536
#define MEMBERS_MAX 128
#define NUMBER_MAX 512

static const char *const paths[] = {"model", "stream", "stream_options.include_usage", "usage.prompt_tokens", "usage", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "", "x."};

/* The member at the first `parts` parts of a path; NULL: absent. */
static const json_t *walk(const json_t *j, const char *path, int parts)
{
    struct str rest = str_of(path), part;
    for (int i = 0; i < parts; i++) {
        ssize_t dot = str_find(rest, '.');
        part = dot < 0 ? rest : str_n(rest.ptr, (size_t)dot);
        j = json_object_getn(j, part.ptr, part.len);
        if (dot < 0)
            return j;
        rest = str_skip(rest, (size_t)dot + 1);
    }
    return j;
}

static bool has_crowded_object(const json_t *j)
{
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        for (int parts = 0; parts < 4; parts++)
            if (json_object_size(walk(j, paths[i], parts)) > MEMBERS_MAX)
                return true;
    return false;
}

/* A refusal of what json_parse() accepts must be one of those that the header states. */
static void check_refusal(struct str text, const json_t *j, const struct err *err)
{
    bool excused = !json_is_object(j);
    if (strstr(err->msg, "escapes"))
        excused |= str_find(text, '\\') >= 0;
    if (strstr(err->msg, "too many members"))
        excused |= has_crowded_object(j);
    if (strstr(err->msg, "a number too long"))
        excused |= text.len >= NUMBER_MAX;
    if (!excused)
        abort();
}

static void check_scalar(const struct span *s, const json_t *v)
{
    char *array = malloc(s->text.len + 1);
    int64_t n;
    if (span_string(s, array, s->text.len + 1) != json_is_string(v) || (json_is_string(v) && strcmp(array, json_string_value(v)) != 0))
        abort();
    for (size_t size = 0; json_is_string(v) && size <= MIN(json_string_length(v), (size_t)20); size++)
        if (span_string(s, array, size))
            abort();
    free(array);
    if (span_int(s, &n) != json_is_integer(v) || (json_is_integer(v) && n != json_integer_value(v)))
        abort();
    if (json_is_boolean(v) && span_bool(s, !json_is_true(v)) != json_is_true(v))
        abort();
}

static void check_value(const struct span *s, const json_t *v)
{
    static const enum span_type types[] = {
        [JSON_OBJECT] = SPAN_OBJECT, [JSON_ARRAY] = SPAN_ARRAY, [JSON_STRING] = SPAN_STRING, [JSON_INTEGER] = SPAN_NUMBER,
        [JSON_REAL] = SPAN_NUMBER, [JSON_TRUE] = SPAN_TRUE, [JSON_FALSE] = SPAN_FALSE, [JSON_NULL] = SPAN_NULL,
    };
    if (s->type != (v ? types[json_typeof(v)] : SPAN_ABSENT))
        abort();
    if (!v)
        return;
    JSON_AUTO alone = json_loadb(s->text.ptr, s->text.len, JSON_DECODE_ANY, NULL);
    if (!alone || !json_equal(alone, v))
        abort();
    check_scalar(s, v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct str text = str_n(data, size);
    struct span at[ARRAY_LEN(paths)];
    struct err err = ERR_INIT, judge = ERR_INIT;
    JSON_AUTO strict = NULL;
    int rc = span_scan(text, paths, ARRAY_LEN(paths), at, &err);
    int want = json_parse(text, INPUT_MAX, &strict, &judge);
    if (rc < 0) {
        if (want == 0)
            check_refusal(text, strict, &err);
        return 0;
    }
    if (want < 0 && !strstr(judge.msg, "duplicate"))
        abort();
    JSON_AUTO j = json_loadb(text.ptr, text.len, JSON_DECODE_ANY, NULL);
    if (!json_is_object(j))
        abort();
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        bool followed = strcmp(paths[i], "a.b.c.d.e") != 0; /* that is deeper than paths go */
        check_value(&at[i], followed ? walk(j, paths[i], 5) : NULL);
    }
    return 0;
}
