#include "json/yaml.h"

#include <math.h>
#include <yaml.h>

#define DEPTH_MAX 64

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    struct err *err;
};

static int fail(struct reader *r, const char *what)
{
    const yaml_mark_t *m = r->has_event ? &r->event.start_mark : &r->parser.problem_mark;
    return err_set(r->err, ERR_BAD_REQUEST, "line %zu, column %zu: %s", m->line + 1, m->column + 1, what);
}

static int next(struct reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = false;
    if (!yaml_parser_parse(&r->parser, &r->event))
        return fail(r, r->parser.problem ? r->parser.problem : "not YAML");
    r->has_event = true;
    return 0;
}

/* Without a tag, or with the one that says what the node is anyway. */
static bool is_tag(const yaml_char_t *tag, const char *wanted)
{
    return !tag || !strcmp((const char *)tag, wanted);
}

/* Digits with an optional sign: what the core schema calls an integer. */
static bool looks_integer(const char *s)
{
    if (*s == '-' || *s == '+')
        s++;
    return *s && strspn(s, "0123456789") == strlen(s);
}

static bool looks_float(const char *s)
{
    const char *digits = strpbrk(s, "0123456789");
    return digits && strspn(s, "0123456789+-.eE") == strlen(s) &&
           (*s == '-' || *s == '+' || *s == '.' || (*s >= '0' && *s <= '9'));
}

static json_t *plain_scalar(const char *s)
{
    if (!*s || !strcmp(s, "~") || !strcmp(s, "null") || !strcmp(s, "Null") || !strcmp(s, "NULL"))
        return json_null();
    if (!strcmp(s, "true") || !strcmp(s, "True") || !strcmp(s, "TRUE"))
        return json_true();
    if (!strcmp(s, "false") || !strcmp(s, "False") || !strcmp(s, "FALSE"))
        return json_false();
    int64_t i;
    if (looks_integer(s) && str_to_i64(str_of(*s == '+' ? s + 1 : s), INT64_MIN, INT64_MAX, &i) == 0)
        return json_integer(i);
    if (looks_float(s)) {
        char *end;
        double d = strtod(s, &end);
        if (!*end && isfinite(d))
            return json_real(d);
    }
    return json_string(s);
}

/* A scalar with a tag: the text must be of the type that the tag names. */
static int read_tagged(struct reader *r, const char *tag, const char *s, json_t **ret)
{
    static const char *const tags[] = {YAML_NULL_TAG, YAML_BOOL_TAG, YAML_INT_TAG, YAML_FLOAT_TAG};
    size_t which = 0;
    while (which < ARRAY_LEN(tags) && strcmp(tag, tags[which]) != 0)
        which++;
    if (which == ARRAY_LEN(tags))
        return fail(r, "this tag is not accepted");
    JSON_AUTO v = plain_scalar(s);
    const bool fits[] = {json_is_null(v), json_is_boolean(v), json_is_integer(v), json_is_number(v)};
    if (!fits[which])
        return fail(r, "the value is not what its tag says");
    *ret = which == 3 ? json_real(json_number_value(v)) : TAKE(v);
    return 0;
}

static int read_scalar(struct reader *r, json_t **ret)
{
    const char *s = (const char *)r->event.data.scalar.value, *tag = (const char *)r->event.data.scalar.tag;
    size_t len = r->event.data.scalar.length;
    if (strlen(s) != len)
        return fail(r, "a NUL character is not accepted");
    if (tag && strcmp(tag, YAML_STR_TAG) != 0)
        return read_tagged(r, tag, s, ret);
    *ret = tag || r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE ? json_stringn(s, len) : plain_scalar(s);
    return *ret ? 0 : fail(r, "invalid text");
}

static int read_node(struct reader *r, int depth, json_t **ret);

static int read_sequence(struct reader *r, int depth, json_t **ret)
{
    JSON_AUTO list = json_array();
    int rc;
    while ((rc = next(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
        json_t *item = NULL;
        if ((rc = read_node(r, depth + 1, &item)) < 0)
            return rc;
        json_array_append_new(list, item);
    }
    if (rc < 0)
        return rc;
    *ret = TAKE(list);
    return 0;
}

static int read_mapping(struct reader *r, int depth, json_t **ret)
{
    JSON_AUTO obj = json_object();
    int rc;
    while ((rc = next(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
        if (r->event.type != YAML_SCALAR_EVENT)
            return fail(r, "a key must be a string");
        if (r->event.data.scalar.anchor || !is_tag(r->event.data.scalar.tag, YAML_STR_TAG))
            return fail(r, "a key has no anchor and no tag");
        const char *text = (const char *)r->event.data.scalar.value;
        if (strlen(text) != r->event.data.scalar.length || !strcmp(text, "<<"))
            return fail(r, "this key is not accepted");
        if (json_object_get(obj, text))
            return fail(r, "this key is already there");
        JSON_AUTO key = json_string(text);
        if (!key)
            return fail(r, "invalid text");
        json_t *value = NULL;
        if ((rc = next(r)) < 0 || (rc = read_node(r, depth + 1, &value)) < 0)
            return rc;
        json_object_set_new(obj, json_string_value(key), value);
    }
    if (rc < 0)
        return rc;
    *ret = TAKE(obj);
    return 0;
}

/* The node whose first event is the current one. */
static int read_node(struct reader *r, int depth, json_t **ret)
{
    if (depth >= DEPTH_MAX && r->event.type != YAML_SCALAR_EVENT)
        return fail(r, "nested too deeply");
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        return r->event.data.scalar.anchor ? fail(r, "anchors are not accepted") : read_scalar(r, ret);
    case YAML_SEQUENCE_START_EVENT:
        if (r->event.data.sequence_start.anchor)
            return fail(r, "anchors are not accepted");
        if (!is_tag(r->event.data.sequence_start.tag, YAML_SEQ_TAG))
            return fail(r, "this tag is not accepted");
        return read_sequence(r, depth, ret);
    case YAML_MAPPING_START_EVENT:
        if (r->event.data.mapping_start.anchor)
            return fail(r, "anchors are not accepted");
        if (!is_tag(r->event.data.mapping_start.tag, YAML_MAP_TAG))
            return fail(r, "this tag is not accepted");
        return read_mapping(r, depth, ret);
    case YAML_ALIAS_EVENT:
        return fail(r, "aliases are not accepted");
    default:
        return fail(r, "expected a value");
    }
}

static int read_stream(struct reader *r, json_t *docs)
{
    int rc;
    while ((rc = next(r)) == 0 && r->event.type != YAML_STREAM_END_EVENT) {
        if (r->event.type != YAML_DOCUMENT_START_EVENT)
            continue;
        json_t *doc = NULL;
        if ((rc = next(r)) < 0 || (rc = read_node(r, 0, &doc)) < 0)
            return rc;
        json_array_append_new(docs, doc);
    }
    return rc;
}

int yaml_parse_all(struct str text, size_t max_bytes, json_t **ret, struct err *err)
{
    if (text.len > max_bytes)
        return err_set(err, ERR_TOO_LARGE, "%zu bytes, at most %zu are accepted", text.len, max_bytes);
    if (!str_utf8_valid(text))
        return err_set(err, ERR_BAD_REQUEST, "not UTF-8");
    /* YAML has no pairs of surrogates and no long keys, so what may be JSON is tried as that first. */
    struct str start = str_trim(text);
    json_t *whole;
    if (start.len && start.ptr[0] == '{' && json_parse(text, max_bytes, &whole, NULL) == 0) {
        *ret = json_pack("[o]", whole);
        return 0;
    }
    struct reader r = {.err = err};
    if (!yaml_parser_initialize(&r.parser))
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(text.ptr ? text.ptr : ""), text.len);
    JSON_AUTO docs = json_array();
    int rc = read_stream(&r, docs);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (rc == 0)
        *ret = TAKE(docs);
    return rc;
}

int yaml_parse(struct str text, size_t max_bytes, json_t **ret, struct err *err)
{
    JSON_AUTO docs = NULL;
    int rc = yaml_parse_all(text, max_bytes, &docs, err);
    if (rc < 0)
        return rc;
    if (json_array_size(docs) != 1)
        return err_set(err, ERR_BAD_REQUEST, "expected one document, found %zu", json_array_size(docs));
    *ret = json_incref(json_array_get(docs, 0));
    return 0;
}
