/* Label selectors (=, ==, !=, in, notin, exists, !exists) and field selectors (=, ==, !=). */
#include "apiserver/api.h"
#include "base/mem.h"

#include <ctype.h>

#define TERMS_MAX 64
#define VALUES_MAX 256

enum op { OP_EQUALS, OP_NOT_EQUALS, OP_IN, OP_NOT_IN, OP_EXISTS, OP_NOT_EXISTS };

struct term {
    bool is_field;
    enum op op;
    const char *key;
    struct str values[VALUES_MAX]; /* sorted by nothing: few */
    size_t value_count;
};

struct selector {
    struct term *terms;
    size_t count;
};

static int bad(struct err *err, struct str text)
{
    return err_set(err, ERR_BAD_REQUEST, "unable to parse requirement: %.*s", STR_ARG(text));
}

/* Splits at commas outside of parentheses. */
static bool next_term(struct str *rest, struct str *ret)
{
    if (!rest->len)
        return false;
    size_t depth = 0, i = 0;
    for (; i < rest->len; i++) {
        if (rest->ptr[i] == '(')
            depth++;
        else if (rest->ptr[i] == ')' && depth)
            depth--;
        else if (rest->ptr[i] == ',' && !depth)
            break;
    }
    *ret = str_trim(str_n(rest->ptr, i));
    *rest = str_skip(*rest, i < rest->len ? i + 1 : i);
    return true;
}

static int parse_set(struct arena *a, struct str text, struct term *t, struct err *err)
{
    size_t key_len = strcspn(arena_strndup(a, text), " \t(");
    struct str rest = str_trim(str_skip(text, key_len)), item;
    t->key = arena_strndup(a, str_n(text.ptr, key_len));
    if (!rest.len) {
        t->op = OP_EXISTS;
        return 0;
    }
    if (str_starts(rest, STR("notin"))) {
        t->op = OP_NOT_IN;
        rest = str_trim(str_skip(rest, 5));
    } else if (str_starts(rest, STR("in"))) {
        t->op = OP_IN;
        rest = str_trim(str_skip(rest, 2));
    } else {
        return bad(err, text);
    }
    if (rest.len < 2 || rest.ptr[0] != '(' || rest.ptr[rest.len - 1] != ')')
        return bad(err, text);
    rest = str_n(rest.ptr + 1, rest.len - 2);
    while (str_cut(&rest, ',', &item)) {
        if (t->value_count == VALUES_MAX)
            return bad(err, text);
        t->values[t->value_count++] = arena_str(a, str_trim(item));
    }
    return 0;
}

static int parse_term(struct arena *a, struct str text, bool is_field, struct term *t, struct err *err)
{
    t->is_field = is_field;
    const char *eq = memchr(text.ptr, '=', text.len);
    bool set = !is_field && memchr(text.ptr, '(', text.len);
    if (!is_field && text.len && text.ptr[0] == '!' && !eq) {
        t->op = OP_NOT_EXISTS;
        t->key = arena_strndup(a, str_trim(str_skip(text, 1)));
    } else if (eq && !set) {
        size_t at = (size_t)(eq - text.ptr), key_len = at;
        t->op = at && text.ptr[at - 1] == '!' ? OP_NOT_EQUALS : OP_EQUALS;
        key_len -= t->op == OP_NOT_EQUALS;
        size_t from = at + 1 + (at + 1 < text.len && text.ptr[at + 1] == '=');
        t->key = arena_strndup(a, str_trim(str_n(text.ptr, key_len)));
        t->values[0] = arena_str(a, str_trim(str_skip(text, from)));
        t->value_count = 1;
    } else if (!is_field) {
        int rc = parse_set(a, text, t, err);
        if (rc < 0)
            return rc;
    } else {
        return bad(err, text);
    }
    if (!is_field && !field_label_key(str_of(t->key)))
        return bad(err, text);
    return 0;
}

/* metadata.name and .namespace, and rows marked selectable. */
static bool is_selectable(const struct kind *k, const char *path)
{
    if (!strcmp(path, "metadata.name") || !strcmp(path, "metadata.namespace"))
        return true;
    const struct field *table = k->fields;
    struct str rest = str_of(path), part;
    while (table && str_cut(&rest, '.', &part)) {
        const struct field *f = table;
        while (f->name && !str_eqc(part, f->name))
            f++;
        if (!f->name)
            return false;
        if (!rest.len)
            return (f->flags & FIELD_SELECTABLE) != 0;
        table = f->sub;
    }
    return false;
}

static int parse_list(struct api_request *q, struct str text, bool is_field, struct selector *s, struct err *err)
{
    struct str term;
    while (next_term(&text, &term)) {
        if (!term.len)
            continue;
        if (s->count == TERMS_MAX)
            return err_set(err, ERR_BAD_REQUEST, "a selector of more than %d terms", TERMS_MAX);
        struct term *t = &s->terms[s->count++];
        int rc = parse_term(q->arena, term, is_field, t, err);
        if (rc < 0)
            return rc;
        if (is_field && !is_selectable(q->kind, t->key))
            return err_set(err, ERR_BAD_REQUEST, "field label not supported: %s", t->key);
    }
    return 0;
}

int selector_parse(struct api_request *q, struct str labels, struct str fields, struct selector **ret, struct err *err)
{
    *ret = NULL;
    if (!labels.len && !fields.len)
        return 0;
    struct selector *s = ARENA_NEW(q->arena, struct selector);
    s->terms = ARENA_ARRAY(q->arena, struct term, TERMS_MAX);
    int rc = parse_list(q, labels, false, s, err);
    if (rc == 0)
        rc = parse_list(q, fields, true, s, err);
    if (rc == 0 && s->count)
        *ret = s;
    return rc;
}

static bool among(const struct term *t, const char *value)
{
    for (size_t i = 0; i < t->value_count; i++)
        if (str_eqc(t->values[i], value))
            return true;
    return false;
}

static const char *value_of(const struct term *t, const json_t *obj)
{
    const json_t *v = t->is_field ? json_at(obj, t->key) : json_object_get(json_at(obj, "metadata.labels"), t->key);
    if (json_is_string(v))
        return json_string_value(v);
    return t->is_field ? "" : NULL;
}

bool selector_matches(const struct selector *s, const json_t *obj)
{
    for (size_t i = 0; s && i < s->count; i++) {
        const struct term *t = &s->terms[i];
        const char *v = value_of(t, obj);
        bool ok = t->op == OP_EXISTS       ? v != NULL
                  : t->op == OP_NOT_EXISTS ? v == NULL
                  : t->op == OP_EQUALS || t->op == OP_IN ? v && among(t, v)
                                                         : !v || !among(t, v);
        if (!ok)
            return false;
    }
    return true;
}
