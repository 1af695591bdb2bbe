#include "apiserver/selector.h"

#include <ctype.h>

#define TERMS_MAX 64
#define VALUES_MAX 256

enum op { OP_EQUALS, OP_NOT_EQUALS, OP_IN, OP_NOT_IN, OP_EXISTS, OP_NOT_EXISTS, OP_GREATER, OP_LESS };

struct term {
    bool is_field;
    enum op op;
    const char *key;
    struct str *values;
    size_t value_count;
    int64_t number; /* OP_GREATER, OP_LESS */
};

struct selector {
    struct term terms[2 * TERMS_MAX];
    size_t count;
};

/* ---- tokens of label selectors ---- */

enum token { END, WORD, COMMA, OPEN, CLOSE, NOT, EQUALS, DOUBLE_EQUALS, NOT_EQUALS, GREATER, LESS };

struct lexer {
    struct arena *arena;
    struct str rest;
    enum token token; /* the current one … */
    struct str text;  /* … as it stands there */
};

static bool is_special(char c)
{
    return c && strchr("=!(),><", c);
}

static void next(struct lexer *l)
{
    static const struct {
        const char *text;
        enum token token;
    } signs[] = {{"==", DOUBLE_EQUALS}, {"!=", NOT_EQUALS}, {"=", EQUALS}, {"!", NOT}, {",", COMMA}, {"(", OPEN}, {")", CLOSE}, {">", GREATER}, {"<", LESS}};
    size_t len = 0;
    while (l->rest.len && isspace((unsigned char)*l->rest.ptr))
        l->rest = str_skip(l->rest, 1);
    l->token = l->rest.len ? WORD : END;
    for (size_t i = 0; i < ARRAY_LEN(signs); i++)
        if (str_starts(l->rest, str_of(signs[i].text))) {
            l->token = signs[i].token;
            len = strlen(signs[i].text);
            break;
        }
    if (l->token == WORD)
        while (len < l->rest.len && !isspace((unsigned char)l->rest.ptr[len]) && !is_special(l->rest.ptr[len]))
            len++;
    l->text = str_n(l->rest.ptr, len);
    l->rest = str_skip(l->rest, len);
}

/* "found 'x', expected: …" */
static int unexpected(const struct lexer *l, const char *before, const char *expected, struct err *err)
{
    return err_set(err, ERR_BAD_REQUEST, "%sfound '%.*s', expected: %s", before, (int)(l->text.len > 128 ? 128 : l->text.len), l->text.ptr ? l->text.ptr : "", expected);
}

#define PARSING "unable to parse requirement: "

/* ---- label selectors ---- */

static int add_value(struct lexer *l, struct term *t, struct str value, struct err *err)
{
    if (t->value_count == VALUES_MAX)
        return err_set(err, ERR_BAD_REQUEST, PARSING "more than %d values", VALUES_MAX);
    if (!field_label_value(value))
        return err_set(err, ERR_BAD_REQUEST, PARSING "values[%zu][%s]: Invalid value: \"%.*s\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                                                      "and must start and end with an alphanumeric character, at most 63", t->value_count, t->key, (int)(value.len > 128 ? 128 : value.len), value.ptr);
    if (!t->values)
        t->values = ARENA_ARRAY(l->arena, struct str, t->op == OP_IN || t->op == OP_NOT_IN ? VALUES_MAX : 1);
    t->values[t->value_count++] = arena_str(l->arena, value);
    return 0;
}

/* "(a, b,)": an empty place is the empty value. */
static int parse_set(struct lexer *l, struct term *t, struct err *err)
{
    if (l->token != OPEN)
        return unexpected(l, PARSING, "'('", err);
    next(l);
    for (;;) {
        struct str value = STR("");
        if (l->token == WORD) {
            value = l->text;
            next(l);
        } else if (l->token != COMMA && l->token != CLOSE) {
            return unexpected(l, PARSING, "',', ')' or identifier", err);
        }
        int rc = add_value(l, t, value, err);
        if (rc < 0)
            return rc;
        if (l->token != COMMA && l->token != CLOSE)
            return unexpected(l, PARSING, "',' or ')'", err);
        bool last = l->token == CLOSE;
        next(l);
        if (last)
            return 0;
    }
}

static int parse_value(struct lexer *l, struct term *t, struct err *err)
{
    struct str value = STR("");
    if (l->token == WORD) {
        value = l->text;
        next(l);
    } else if (l->token != END && l->token != COMMA) {
        return unexpected(l, PARSING, "identifier", err);
    }
    if ((t->op == OP_GREATER || t->op == OP_LESS) && str_to_i64(value, INT64_MIN, INT64_MAX, &t->number) < 0)
        return err_set(err, ERR_BAD_REQUEST, PARSING "values[0][%s]: Invalid value: \"%.*s\": for 'Gt', 'Lt' operators, the value must be an integer", t->key,
                       (int)(value.len > 128 ? 128 : value.len), value.ptr);
    return add_value(l, t, value, err);
}

static bool read_op(struct lexer *l, enum op *ret)
{
    static const struct {
        enum token token;
        enum op op;
    } signs[] = {{EQUALS, OP_EQUALS}, {DOUBLE_EQUALS, OP_EQUALS}, {NOT_EQUALS, OP_NOT_EQUALS}, {GREATER, OP_GREATER}, {LESS, OP_LESS}};
    for (size_t i = 0; i < ARRAY_LEN(signs); i++)
        if (l->token == signs[i].token) {
            *ret = signs[i].op;
            return true;
        }
    if (l->token != WORD || (!str_eqc(l->text, "in") && !str_eqc(l->text, "notin")))
        return false;
    *ret = str_eqc(l->text, "in") ? OP_IN : OP_NOT_IN;
    return true;
}

static int parse_requirement(struct lexer *l, struct term *t, struct err *err)
{
    bool not = l->token == NOT;
    if (not)
        next(l);
    if (l->token != WORD)
        return unexpected(l, PARSING, "identifier", err);
    if (!field_label_key(l->text))
        return err_set(err, ERR_BAD_REQUEST, PARSING "key: Invalid value: \"%.*s\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
                                                      "alphanumeric character", (int)(l->text.len > 128 ? 128 : l->text.len), l->text.ptr);
    t->key = arena_strndup(l->arena, l->text);
    next(l);
    t->op = not ? OP_NOT_EXISTS : OP_EXISTS;
    if (not || l->token == END || l->token == COMMA)
        return 0;
    if (!read_op(l, &t->op))
        return unexpected(l, PARSING, "in, notin, =, ==, !=, gt, lt", err);
    next(l);
    return t->op == OP_IN || t->op == OP_NOT_IN ? parse_set(l, t, err) : parse_value(l, t, err);
}

static int parse_labels(struct arena *a, struct str text, struct selector *s, struct err *err)
{
    struct lexer l = {.arena = a, .rest = text};
    next(&l);
    if (l.token == END)
        return 0;
    for (;;) {
        if (l.token != WORD && l.token != NOT)
            return unexpected(&l, "", s->count ? "identifier after ','" : "!, identifier, or 'end of string'", err);
        if (s->count == TERMS_MAX)
            return err_set(err, ERR_BAD_REQUEST, "a selector of more than %d terms", TERMS_MAX);
        int rc = parse_requirement(&l, &s->terms[s->count++], err);
        if (rc < 0)
            return rc;
        if (l.token == END)
            return 0;
        if (l.token != COMMA)
            return unexpected(&l, "", "',' or 'end of string'", err);
        next(&l);
    }
}

/* ---- field selectors ---- */

static const struct field *row_of(const struct field *table, struct str name)
{
    for (const struct field *f = table; f && f->name; f++)
        if (str_eqc(name, f->name))
            return f;
    return NULL;
}

static bool has_selectable(const struct field *table)
{
    for (const struct field *f = table; f && f->name; f++)
        if ((f->flags & FIELD_SELECTABLE) || (f->type == FIELD_OBJECT && has_selectable(f->sub)))
            return true;
    return false;
}

/* metadata.name and .namespace, and rows marked selectable. */
static int check_field(const struct kind *k, const char *path, struct err *err)
{
    const struct field *table = k->fields, *f = NULL;
    struct str rest = str_of(path), part;
    if (!strcmp(path, "metadata.name") || !strcmp(path, "metadata.namespace"))
        return 0;
    while (str_cut(&rest, '.', &part)) {
        f = row_of(table, part);
        table = f && f->type == FIELD_OBJECT ? f->sub : NULL;
    }
    if (f && (f->flags & FIELD_SELECTABLE))
        return 0;
    if (has_selectable(k->fields) || strchr(k->group, '.'))
        return err_set(err, ERR_BAD_REQUEST, "field label not supported: %.200s", path);
    return err_set(err, ERR_BAD_REQUEST, "\"%.200s\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", path);
}

/* Up to a comma that no backslash takes the meaning from. */
static struct str cut_term(struct str *rest)
{
    size_t i = 0;
    while (i < rest->len && rest->ptr[i] != ',')
        i += rest->ptr[i] == '\\' && i + 1 < rest->len ? 2 : 1;
    struct str term = str_n(rest->ptr, i);
    *rest = str_skip(*rest, i < rest->len ? i + 1 : i);
    return term;
}

/* "\," is ',', "\=" is '=', "\\" is '\'; anything else after a backslash, and a bare '=' or ',', is no value. */
static bool unescape(struct arena *a, struct str in, struct str *ret)
{
    char *out = arena_strndup(a, in);
    size_t len = 0;
    for (size_t i = 0; i < in.len; i++) {
        if (in.ptr[i] == '\\') {
            if (++i == in.len || !strchr("\\,=", in.ptr[i]) || !in.ptr[i])
                return false;
        } else if (in.ptr[i] == '=' || in.ptr[i] == ',') {
            return false;
        }
        out[len++] = in.ptr[i];
    }
    out[len] = 0;
    *ret = str_n(out, len);
    return true;
}

static int parse_field(struct arena *a, struct str whole, struct str text, struct term *t, struct err *err)
{
    struct str value = STR("");
    const char *eq = memchr(text.ptr, '=', text.len);
    size_t at = eq ? (size_t)(eq - text.ptr) : 0;
    t->is_field = true;
    t->op = at && text.ptr[at - 1] == '!' ? OP_NOT_EQUALS : OP_EQUALS;
    if (eq) {
        t->key = arena_strndup(a, str_n(text.ptr, at - (t->op == OP_NOT_EQUALS)));
        value = str_skip(text, at + 1 + (t->op == OP_EQUALS && at + 1 < text.len && text.ptr[at + 1] == '='));
    }
    t->values = ARENA_ARRAY(a, struct str, 1);
    t->value_count = 1;
    if (!eq || !*t->key || !unescape(a, value, &t->values[0]))
        return err_set(err, ERR_BAD_REQUEST, "invalid selector: '%.*s'; can't understand '%.*s'", (int)(whole.len > 128 ? 128 : whole.len), whole.ptr, (int)(text.len > 128 ? 128 : text.len),
                       text.ptr);
    return 0;
}

static int parse_fields(struct arena *a, const struct kind *k, struct str text, struct selector *s, struct err *err)
{
    struct str rest = text;
    for (size_t count = 0; rest.len;) {
        struct str term = cut_term(&rest);
        if (!term.len)
            continue;
        if (count++ == TERMS_MAX)
            return err_set(err, ERR_BAD_REQUEST, "a selector of more than %d terms", TERMS_MAX);
        struct term *t = &s->terms[s->count++];
        int rc = parse_field(a, text, term, t, err);
        if (rc < 0 || (rc = check_field(k, t->key, err)) < 0)
            return rc;
    }
    return 0;
}

int selector_parse(struct arena *a, const struct kind *k, struct str labels, struct str fields, struct selector **ret, struct err *err)
{
    *ret = NULL;
    if (!labels.len && !fields.len)
        return 0;
    if ((labels.len && memchr(labels.ptr, 0, labels.len)) || (fields.len && memchr(fields.ptr, 0, fields.len)))
        return err_set(err, ERR_BAD_REQUEST, "a selector has no NUL");
    struct selector *s = ARENA_NEW(a, struct selector);
    int rc = parse_labels(a, labels, s, err);
    if (rc == 0)
        rc = parse_fields(a, k, fields, s, err);
    if (rc == 0 && s->count)
        *ret = s;
    return rc;
}

/* ---- matching ---- */

static bool among(const struct term *t, const char *value)
{
    for (size_t i = 0; i < t->value_count; i++)
        if (str_eqc(t->values[i], value))
            return true;
    return false;
}

/* The value as text; what an object does not have is empty for fields and absent for labels. */
static const char *value_of(const struct term *t, const json_t *obj, char number[24])
{
    const json_t *v = t->is_field ? json_at(obj, t->key) : json_object_get(json_at(obj, "metadata.labels"), t->key);
    if (json_is_string(v))
        return json_string_value(v);
    if (json_is_boolean(v))
        return json_is_true(v) ? "true" : "false";
    if (json_is_integer(v)) {
        snprintf(number, 24, "%lld", (long long)json_integer_value(v));
        return number;
    }
    return t->is_field ? "" : NULL;
}

static bool compares(const struct term *t, const char *value)
{
    int64_t n;
    if (!value || str_to_i64(str_of(value), INT64_MIN, INT64_MAX, &n) < 0)
        return false;
    return t->op == OP_GREATER ? n > t->number : n < t->number;
}

static bool term_matches(const struct term *t, const json_t *obj)
{
    char number[24];
    const char *v = value_of(t, obj, number);
    switch (t->op) {
    case OP_EXISTS:
        return v != NULL;
    case OP_NOT_EXISTS:
        return v == NULL;
    case OP_EQUALS:
    case OP_IN:
        return v && among(t, v);
    case OP_GREATER:
    case OP_LESS:
        return compares(t, v);
    default:
        return !v || !among(t, v);
    }
}

bool selector_matches(const struct selector *s, const json_t *obj)
{
    for (size_t i = 0; s && i < s->count; i++)
        if (!term_matches(&s->terms[i], obj))
            return false;
    return true;
}

const char *selector_only_name(const struct selector *s)
{
    for (size_t i = 0; s && i < s->count; i++)
        if (s->terms[i].is_field && s->terms[i].op == OP_EQUALS && !strcmp(s->terms[i].key, "metadata.name") && s->terms[i].value_count == 1 && s->terms[i].values[0].len)
            return s->terms[i].values[0].ptr;
    return NULL;
}

const char *selector_only_label(const struct selector *s, const char *key)
{
    for (size_t i = 0; s && i < s->count; i++)
        if (!s->terms[i].is_field && (s->terms[i].op == OP_EQUALS || s->terms[i].op == OP_IN) && !strcmp(s->terms[i].key, key) && s->terms[i].value_count == 1 && s->terms[i].values[0].len)
            return s->terms[i].values[0].ptr;
    return NULL;
}
