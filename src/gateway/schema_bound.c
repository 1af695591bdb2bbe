#include "gateway/schema_bound.h"

#include "base/mem.h"
#include "gateway/body.h"
#include "gateway/grammar_bound.h"
#include "gateway/pattern_weight.h"
#include "gateway/schema_refs.h"

#define WEIGHT_MAX INT64_C(1000000000000)
#define KEYWORD_MAX 24 /* longer than all that are known */

static int64_t times(int64_t a, int64_t b)
{
    return b && a > WEIGHT_MAX / b ? WEIGHT_MAX : a * b;
}

static int64_t plus(int64_t a, int64_t b)
{
    return MIN(a + b, WEIGHT_MAX);
}

enum place {
    IN_SCHEMA,     /* members are keywords */
    IN_PROPERTIES, /* members are names of a client's own */
    IN_DEFINITIONS, /* likewise */
    IN_ENUM,
    IN_TYPES, /* of a list of types */
};

struct walk {
    const char *p, *end;
    struct schema_weight *weight;
    const char *field;
    struct err *err;
    int rc;
    const char *tools; /* where a list begins of which each element is a schema of its own; or NULL */
    struct schema_refs refs;
    int64_t definition; /* whose own place this is */
    bool among_alternatives;
};

static int64_t refuse(struct walk *w, const char *what, int64_t max)
{
    if (w->rc == 0)
        w->rc =
            err_field(w->err, ERR_BAD_REQUEST, w->field, "\"%s\" has too %s; expected %lld at most",
                      w->field, what, (long long)max);
    return 1;
}

static void skip_space(struct walk *w)
{
    while (w->p < w->end && (*w->p == ' ' || *w->p == '\n' || *w->p == '\t' || *w->p == '\r'))
        w->p++;
}

static struct str take_string(struct walk *w)
{
    const char *from = w->p++;
    while (*w->p != '"')
        w->p += *w->p == '\\' ? 2 : 1;
    w->p++;
    return str_n(from, (size_t)(w->p - from));
}

static void weigh_ways(struct walk *w, struct str s, bool is_pattern)
{
    CLEANUP(mem_freep) char *text = xcalloc(s.len, 1);
    struct span value = {SPAN_STRING, s, 0};
    if (!span_string(&value, text, s.len))
        return;
    int64_t ways = is_pattern ? pattern_ways(str_of(text)) : strstr(text, "::=") ? grammar_ways(str_of(text)) : 0;
    if (ways < 0)
        refuse(w, "many rules and groups within each other", GRAMMAR_DEPTH_MAX);
    else if (ways > GRAMMAR_WAYS_MAX)
        refuse(w, "many ways in which a pattern, or rules of a grammar, go on at one place", GRAMMAR_WAYS_MAX);
}

static void weigh_text(struct walk *w, struct str s, bool is_grammar)
{
    int64_t nested = 0, weight = (is_grammar ? grammar_weight : pattern_weight)(s, &nested);
    if (weight < 0)
        refuse(w, "many groups within each other in a pattern", PATTERN_GROUPS_MAX - 1);
    else if (nested > SCHEMA_PATTERN_NESTED_MAX)
        refuse(w,
               "many repetitions within each other in a pattern: their product is too large where "
               "three or more are nested",
               SCHEMA_PATTERN_NESTED_MAX);
    else if ((w->weight->pattern = plus(w->weight->pattern, weight)) > SCHEMA_PATTERN_MAX)
        refuse(w, "long patterns when their repetitions are written out", SCHEMA_PATTERN_MAX);
    else
        weigh_ways(w, s, !is_grammar);
}

static const char *const grammars[] = {"grammar", "guided_grammar", "ebnf", "definition", NULL};

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (!strcmp(word, *words))
            return true;
    return false;
}

/* Where a schema has ended. */
static void end_references(struct walk *w)
{
    switch (schema_refs_end(&w->refs)) {
    case SCHEMA_REFS_TOO_MANY:
        refuse(w, "many alternatives in one place, with those that references lead to", SCHEMA_ALTERNATIVES_MAX);
        break;
    case SCHEMA_REFS_CIRCLE:
        refuse(w, "many references that lead back to themselves, without properties or items between", 0);
        break;
    case SCHEMA_REFS_ELSEWHERE:
        refuse(w, "many references among alternatives to what is in no \"$defs\"", SCHEMA_ELSEWHERE_MAX);
        break;
    case SCHEMA_REFS_FINE:
        break;
    }
}

static int64_t walk_value(struct walk *w, enum place place);

/* The elements, of which the heaviest counts; of types that are walked through how many there are.
 */
static int64_t walk_array(struct walk *w, enum place place)
{
    int64_t heaviest = 1, count = 0, walked = 0;
    bool is_tools = w->p == w->tools;
    w->p++;
    for (skip_space(w); *w->p != ']' && w->rc == 0; skip_space(w)) {
        struct str at = str_n(w->p, (size_t)(w->end - w->p));
        walked += place == IN_TYPES &&
                  (str_starts(at, STR("\"object\"")) || str_starts(at, STR("\"array\"")));
        int64_t weight = walk_value(w, place == IN_TYPES ? IN_ENUM : place);
        heaviest = MAX(heaviest, weight);
        count++;
        if (is_tools)
            end_references(w);
        skip_space(w);
        w->p += *w->p == ',';
    }
    w->p++;
    if (place == IN_ENUM && w->definition >= 0)
        schema_refs_alternatives(&w->refs, w->definition, count);
    if (place == IN_ENUM && count > SCHEMA_ENUM_MAX)
        return refuse(w, "many values in an enum", SCHEMA_ENUM_MAX);
    return place == IN_TYPES ? MAX(walked, (int64_t)1) : heaviest;
}

/* How the value of a member changes what its object weighs. */
struct object_weight {
    int64_t repeats, types, heaviest;
};

static void take_reference(struct walk *w, struct str to)
{
    if (++w->weight->references > SCHEMA_REFERENCES_MAX)
        refuse(w, "many references", SCHEMA_REFERENCES_MAX);
    else if (w->definition >= 0)
        schema_refs_add(&w->refs, w->definition, w->among_alternatives, to);
}

static void walk_member(struct walk *w, enum place place, struct object_weight *o)
{
    static const char *const names[] = {"properties", "patternProperties", NULL};
    static const char *const definitions[] = {"$defs", "definitions", NULL};
    static const char *const alternatives[] = {"anyOf", "oneOf", "allOf", NULL};
    static const char *const repeats[] = {
        "maxItems",    "minItems", "maxProperties", "minProperties", "maxContains",
        "minContains", NULL};
    static const char *const patterns[] = {"pattern", "regex", NULL};
    char key[KEYWORD_MAX];
    struct span name = {SPAN_STRING, take_string(w), 0};
    if (place != IN_SCHEMA || !span_string(&name, key, sizeof(key)))
        *key = 0;
    skip_space(w);
    w->p++;
    skip_space(w);
    const char *from = w->p;
    char first = *from;
    enum place below = is_one_of(key, names)         ? IN_PROPERTIES
                       : is_one_of(key, definitions) ? IN_DEFINITIONS
                       : !strcmp(key, "enum")        ? IN_ENUM
                       : !strcmp(key, "type")        ? IN_TYPES
                                                     : IN_SCHEMA;
    int64_t definition = w->definition;
    bool among_alternatives = w->among_alternatives, is_union = is_one_of(key, alternatives);
    if (place == IN_DEFINITIONS)
        w->definition = schema_refs_define(&w->refs, name.text);
    else if (!is_union && below != IN_ENUM)
        w->definition = SCHEMA_NOWHERE;
    else if (is_union && definition < 0)
        w->definition = schema_refs_define(&w->refs, STR_NULL);
    w->among_alternatives = is_union;
    int64_t weight = walk_value(w, below), n;
    w->definition = definition;
    w->among_alternatives = among_alternatives;
    struct span number = {SPAN_NUMBER, str_n(from, (size_t)(w->p - from)), 0};
    if (first == '"' && (is_one_of(key, patterns) || is_one_of(key, grammars)))
        weigh_text(w, number.text, is_one_of(key, grammars));
    else if (first == '"' && !strcmp(key, "$ref"))
        take_reference(w, str_n(from, (size_t)(w->p - from)));
    if (first == '[' && below == IN_TYPES)
        o->types = MAX(o->types, weight);
    else if (is_one_of(key, repeats) && body_number(&number, &n))
        o->repeats = MAX(o->repeats, n);
    else
        o->heaviest = MAX(o->heaviest, weight);
}

static int64_t walk_object(struct walk *w, enum place place)
{
    struct object_weight o = {1, 1, 1};
    int64_t count = 0;
    int64_t in = place == IN_SCHEMA ? w->definition : SCHEMA_NOWHERE;
    int64_t mark = in < 0 ? 0 : schema_refs_mark(&w->refs, in);
    w->p++;
    for (skip_space(w); *w->p != '}' && w->rc == 0; skip_space(w)) {
        walk_member(w, place, &o);
        count++;
        skip_space(w);
        w->p += *w->p == ',';
    }
    w->p++;
    if (in >= 0 && schema_refs_mark(&w->refs, in) == mark) /* it is one itself */
        schema_refs_alternatives(&w->refs, in, 1);
    bool has_names = place == IN_PROPERTIES || place == IN_DEFINITIONS;
    if (has_names && count > SCHEMA_OBJECT_MAX)
        return refuse(w, "many properties in one object", SCHEMA_OBJECT_MAX);
    if (has_names && (w->weight->properties += count) > SCHEMA_PROPERTIES_MAX)
        return refuse(w, "many properties", SCHEMA_PROPERTIES_MAX);
    int64_t weight = times(times(o.heaviest, o.repeats), o.types);
    return weight > SCHEMA_PRODUCT_MAX
               ? refuse(w,
                        "many repetitions within each other (\"maxItems\", \"minItems\" and the "
                        "like): their product is too large",
                        SCHEMA_PRODUCT_MAX)
               : weight;
}

/* The text is JSON, and not nested more deeply than span_scan() takes. */
static int64_t walk_value(struct walk *w, enum place place)
{
    if (w->rc < 0)
        return 1;
    switch (*w->p) {
    case '{':
        return walk_object(w, place == IN_PROPERTIES || place == IN_DEFINITIONS ? place : IN_SCHEMA);
    case '[':
        return walk_array(w, place == IN_PROPERTIES || place == IN_DEFINITIONS ? IN_SCHEMA : place);
    case '"':
        take_string(w);
        return 1;
    default:
        while (w->p < w->end && !strchr(",]} \n\t\r", *w->p))
            w->p++;
        return 1;
    }
}

/* ---- schemas as text ---- */

/* vLLM and SGLang take a schema also as a string that holds its JSON. Read by itself, as what one
 * member of an object is: of what is within it no members are compared. */
static void walk_text(struct walk *w, const struct span *text)
{
    static const char *const path[] = {"a"};
    CLEANUP(sbuf_deinit) struct sbuf json = {0};
    struct span inside;
    sbuf_init(&json, text->text.len + 16);
    sbuf_addc(&json, "{\"a\":");
    size_t from = json.len;
    sbuf_reserve(&json, text->text.len + 2);
    bool ok = sbuf_ok(&json) && span_string(text, json.ptr + from, text->text.len + 1);
    if (ok) {
        sbuf_commit(&json, strlen(json.ptr + from));
        sbuf_addc(&json, "}");
        ok = span_scan(sbuf_str(&json), path, 1, &inside, NULL) == 0;
    }
    if (!ok) {
        w->rc = err_field(w->err, ERR_BAD_REQUEST, w->field,
                          "\"%s\" has a schema as a string that is no JSON; expected an object, or "
                          "its JSON",
                          w->field);
        return;
    }
    struct walk within = {inside.text.ptr, inside.text.ptr + inside.text.len, w->weight, w->field, w->err, .definition = SCHEMA_NOWHERE};
    walk_value(&within, IN_SCHEMA);
    end_references(&within);
    w->rc = within.rc;
}

/* vLLM's "structured_outputs". */
static void walk_texts_within(struct walk *w, struct str object)
{
    static const char *const paths[] = {"json", "structural_tag"};
    struct span at[ARRAY_LEN(paths)];
    if (span_scan(object, paths, ARRAY_LEN(paths), at, NULL) < 0)
        w->rc = err_field(w->err, ERR_BAD_REQUEST, w->field,
                          "\"%s\" has a member twice, or too many; expected an object of an "
                          "engine's few",
                          w->field);
    for (size_t i = 0; i < ARRAY_LEN(paths) && w->rc == 0; i++)
        if (at[i].type == SPAN_STRING)
            walk_text(w, &at[i]);
}

/* ---- what is asked for ---- */

int schema_bound_check(struct schema_weight *weight, const char *field, const struct span *value,
                       struct err *err)
{
    static const char *const tools[] = {"tools", "functions", NULL};
    static const char *const texts[] = {"json_schema", "guided_json", NULL};
    struct walk w = {value->text.ptr, value->text.ptr + value->text.len, weight, field, err, .definition = SCHEMA_NOWHERE};
    w.tools = is_one_of(field, tools) ? value->text.ptr : NULL;
    if ((weight->bytes += value->text.len) > SCHEMA_BYTES_MAX)
        refuse(&w, "many bytes together with other schemas of the request", SCHEMA_BYTES_MAX);
    else if (is_one_of(field, tools) && value->type == SPAN_ARRAY &&
             value->count > SCHEMA_TOOLS_MAX)
        refuse(&w, "many elements", SCHEMA_TOOLS_MAX);
    else if (value->type == SPAN_STRING && is_one_of(field, texts))
        walk_text(&w, value);
    else if (value->type == SPAN_STRING)
        weigh_text(&w, value->text, is_one_of(field, grammars));
    else
        walk_value(&w, IN_SCHEMA);
    if (w.rc == 0 && value->type == SPAN_OBJECT && !strcmp(field, "structured_outputs"))
        walk_texts_within(&w, value->text);
    end_references(&w);
    return w.rc;
}
