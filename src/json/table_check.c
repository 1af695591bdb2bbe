/* Validation by field tables. Messages follow Kubernetes' field errors, so that clients show them as they show its own. */
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "json/table.h"

#include <ctype.h>

#define PATH_MAX_BYTES 512

/* Texts quote what clients sent and are cut to size: what is no UTF-8 (any more) becomes '?', or no JSON could carry it. */
static char *utf8_copy(struct arena *a, const char *text)
{
    char *copy = arena_strdup(a, text);
    if (str_utf8_valid(str_of(copy)))
        return copy;
    for (char *p = copy; *p;) {
        size_t n = 1;
        while (n <= 4 && !(strnlen(p, n) == n && str_utf8_valid(str_n(p, n))))
            n++;
        if (n <= 4) {
            p += n;
        } else {
            *p++ = '?';
        }
    }
    return copy;
}

void field_errors_add(struct field_errors *e, const char *path, const char *reason, const char *fmt, ...)
{
    if (e->count == FIELD_ERRORS_MAX)
        return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    e->items[e->count++] =
        (struct field_error){utf8_copy(e->arena, path), arena_strdup(e->arena, reason), utf8_copy(e->arena, text)};
}

static void join(char out[PATH_MAX_BYTES], const char *path, const char *name)
{
    snprintf(out, PATH_MAX_BYTES, "%s%s%s", path, *path ? "." : "", name);
}

/* A value as Kubernetes quotes it in messages: strings in quotes, the rest as JSON; long ones cut. Memory is spent on errors
 * that are kept only: a document can hold as many as it has values. */
static const char *quoted(struct field_errors *e, const json_t *v)
{
    if (e->count == FIELD_ERRORS_MAX)
        return "";
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 1024 * 1024);
    json_write(v, &b);
    if (b.len > 200) {
        b.len = 200;
        while (b.len > 0 && ((unsigned char)b.ptr[b.len] & 0xC0) == 0x80)
            b.len--;
        sbuf_addc(&b, "…");
    }
    return arena_strndup(e->arena, sbuf_str(&b));
}

const char *field_type_name(enum field_type t)
{
    switch (t) {
    case FIELD_INT:
        return "integer";
    case FIELD_BOOL:
        return "boolean";
    case FIELD_NUMBER:
        return "number";
    case FIELD_OBJECT:
    case FIELD_MAP:
        return "object";
    case FIELD_LIST:
        return "array";
    default:
        return "string";
    }
}

const char *field_json_type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "number";
    case JSON_NULL:
        return "null";
    default:
        return "boolean";
    }
}

bool field_has_type(enum field_type t, const json_t *v)
{
    switch (t) {
    case FIELD_ANY:
        return true;
    case FIELD_INT:
        return json_is_integer(v);
    case FIELD_BOOL:
        return json_is_boolean(v);
    case FIELD_NUMBER:
        return json_is_number(v);
    case FIELD_OBJECT:
    case FIELD_MAP:
        return json_is_object(v);
    case FIELD_LIST:
        return json_is_array(v);
    case FIELD_QUANTITY:
        return json_is_string(v) || json_is_number(v);
    default:
        return json_is_string(v);
    }
}

/* ---- formats ---- */

bool field_dns_label(struct str s)
{
    if (!s.len || s.len > 63 || s.ptr[0] == '-' || s.ptr[s.len - 1] == '-')
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!islower((unsigned char)s.ptr[i]) && !isdigit((unsigned char)s.ptr[i]) && s.ptr[i] != '-')
            return false;
    return true;
}

bool field_dns_name(struct str s)
{
    if (!s.len || s.len > 253)
        return false;
    struct str rest = s, part;
    size_t parts = 0, used = 0;
    while (str_cut(&rest, '.', &part)) {
        /* Labels of a subdomain may be longer than 63 here, as Kubernetes has it. */
        if (!part.len || part.ptr[0] == '-' || part.ptr[part.len - 1] == '-')
            return false;
        for (size_t i = 0; i < part.len; i++)
            if (!islower((unsigned char)part.ptr[i]) && !isdigit((unsigned char)part.ptr[i]) && part.ptr[i] != '-')
                return false;
        parts++;
        used += part.len;
    }
    return used + parts - 1 == s.len;
}

static bool qualified_part(struct str s)
{
    if (!s.len || s.len > 63 || !isalnum((unsigned char)s.ptr[0]) || !isalnum((unsigned char)s.ptr[s.len - 1]))
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!isalnum((unsigned char)s.ptr[i]) && !memchr("-_.", s.ptr[i], 3))
            return false;
    return true;
}

bool field_label_key(struct str s)
{
    ssize_t slash = str_find(s, '/');
    if (slash < 0)
        return qualified_part(s);
    return field_dns_name(str_n(s.ptr, (size_t)slash)) && qualified_part(str_skip(s, (size_t)slash + 1));
}

bool field_label_value(struct str s)
{
    return !s.len || qualified_part(s);
}

static bool is_quantity(const char *s)
{
    static const char *const suffixes[] = {"", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    if (*s == '+' || *s == '-')
        s++;
    size_t digits = strspn(s, "0123456789");
    s += digits;
    if (*s == '.') {
        size_t more = strspn(s + 1, "0123456789");
        digits += more;
        s += 1 + more;
    }
    if (!digits || digits > 30)
        return false;
    if ((*s == 'e' || *s == 'E') && s[1] && s[1] != 'i') {
        s += s[1] == '+' || s[1] == '-' ? 2 : 1;
        return strlen(s) >= 1 && strlen(s) <= 3 && strspn(s, "0123456789") == strlen(s);
    }
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
        if (!strcmp(s, suffixes[i]))
            return true;
    return false;
}

static bool is_base64(struct str s)
{
    if (s.len % 4)
        return false;
    size_t pad = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '=' && i + 2 >= s.len)
            pad++;
        else if (pad || (!isalnum(c) && c != '+' && c != '/'))
            return false;
    }
    return true;
}

/* ---- values ---- */

static bool in_enum(const char *values, const char *text)
{
    struct str rest = str_of(values), item;
    while (str_cut(&rest, '|', &item))
        if (str_eqc(item, text))
            return true;
    return false;
}

static const char *supported(struct field_errors *e, const char *values)
{
    if (e->count == FIELD_ERRORS_MAX)
        return "";
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 4096);
    struct str rest = str_of(values), item;
    while (str_cut(&rest, '|', &item))
        sbuf_addf(&b, "%s\"%.*s\"", b.len ? ", " : "", STR_ARG(item));
    return arena_strndup(e->arena, sbuf_str(&b));
}

static void check_string(const struct field *f, const json_t *v, const char *path, struct field_errors *e)
{
    struct str s = str_n(json_string_value(v), json_string_length(v));
    int64_t ms;
    if (f->min && (int64_t)s.len < f->min && s.len)
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: must have at least %lld bytes", quoted(e, v), (long long)f->min);
    if (f->min && !s.len)
        field_errors_add(e, path, "FieldValueRequired", "Required value");
    if (f->max && (int64_t)s.len > f->max)
        field_errors_add(e, path, "FieldValueTooLong", "Too long: may not be more than %lld bytes", (long long)f->max);
    if (f->type == FIELD_ENUM && !in_enum(f->values, s.ptr))
        field_errors_add(e, path, "FieldValueNotSupported", "Unsupported value: %s: supported values: %s", quoted(e, v), supported(e, f->values));
    if (f->type == FIELD_TIME && clock_parse(s, &ms) < 0)
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: must be an RFC 3339 time such as 2026-11-24T09:00:00Z", quoted(e, v));
    if (f->type == FIELD_QUANTITY && !is_quantity(s.ptr))
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: must be a quantity such as 500m or 2Gi", quoted(e, v));
    if ((f->flags & FIELD_DNS_LABEL) && s.len && !field_dns_label(s))
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character", quoted(e, v));
    if ((f->flags & FIELD_DNS_NAME) && s.len && !field_dns_name(s))
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character", quoted(e, v));
    if ((f->flags & FIELD_BASE64) && f->type == FIELD_STRING && !is_base64(s))
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: must be base64");
}

static void check_number(const struct field *f, const json_t *v, const char *path, struct field_errors *e)
{
    if (!f->min && !f->max)
        return;
    double n = json_number_value(v);
    bool exact = json_is_integer(v);
    if (exact ? json_integer_value(v) < f->min : n < (double)f->min)
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: must be greater than or equal to %lld", quoted(e, v), (long long)f->min);
    else if (f->max && (exact ? json_integer_value(v) > f->max : n > (double)f->max))
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: %s: must be less than or equal to %lld", quoted(e, v), (long long)f->max);
}

static void check_value(const struct field *f, const json_t *v, const char *path, struct field_errors *e);

/* Lists by key and sets: no element twice. Quadratic, so bounded by a map for long ones. */
static void check_duplicates(const struct field *f, const json_t *list, const char *path, struct field_errors *e)
{
    if (f->list_type == LIST_ATOMIC)
        return;
    struct map *seen = map_new(NULL);
    size_t i;
    json_t *item;
    json_array_foreach (list, i, item) {
        CLEANUP(sbuf_deinit) struct sbuf key = {0};
        sbuf_init(&key, (size_t)8 << 20);
        if (f->list_type == LIST_SET) {
            json_write(item, &key);
        } else {
            struct str rest = str_of(f->list_key), part;
            while (str_cut(&rest, ',', &part)) {
                char name[64];
                const json_t *value = str_to_array(part, name, sizeof(name)) ? json_object_get(item, name) : NULL;
                if (value)
                    json_write(value, &key);
                sbuf_add_char(&key, ',');
            }
        }
        if (map_get(seen, sbuf_str(&key))) {
            char at[PATH_MAX_BYTES];
            snprintf(at, sizeof(at), "%s[%zu]", path, i);
            field_errors_add(e, at, "FieldValueDuplicate", "Duplicate value: %s", quoted(e, item));
        } else {
            map_set(seen, sbuf_str(&key), item);
        }
    }
    map_free(seen);
}

static void check_list(const struct field *f, const json_t *v, const char *path, struct field_errors *e)
{
    size_t count = json_array_size(v), i;
    if (f->min && (int64_t)count < f->min)
        field_errors_add(e, path, "FieldValueInvalid", "Invalid value: must have at least %lld items", (long long)f->min);
    if (f->max && (int64_t)count > f->max) {
        field_errors_add(e, path, "FieldValueTooMany", "Too many: %zu: must have at most %lld items", count, (long long)f->max);
        return;
    }
    const struct field element = {.name = "", .type = f->elem, .sub = f->sub, .values = f->values, .flags = f->flags & ~(unsigned)(FIELD_REQUIRED | FIELD_NULLABLE)};
    json_t *item;
    json_array_foreach (v, i, item) {
        char at[PATH_MAX_BYTES];
        snprintf(at, sizeof(at), "%s[%zu]", path, i);
        if (!field_has_type(f->elem, item))
            field_errors_add(e, at, "FieldValueTypeInvalid", "Invalid value: \"%s\": must be of type %s", field_json_type_name(item), field_type_name(f->elem));
        else
            check_value(&element, item, at, e);
    }
    check_duplicates(f, v, path, e);
}

static void check_map(const struct field *f, const json_t *v, const char *path, struct field_errors *e)
{
    const char *key;
    json_t *value;
    if (f->max && (int64_t)json_object_size(v) > f->max)
        field_errors_add(e, path, "FieldValueTooMany", "Too many: %zu: must have at most %lld items", json_object_size(v), (long long)f->max);
    json_object_foreach ((json_t *)(uintptr_t)v, key, value) {
        char at[PATH_MAX_BYTES];
        snprintf(at, sizeof(at), "%s[%.200s]", path, key);
        if (!json_is_string(value))
            field_errors_add(e, at, "FieldValueTypeInvalid", "Invalid value: \"%s\": must be of type string", field_json_type_name(value));
        else if ((f->flags & FIELD_BASE64) && !is_base64(str_n(json_string_value(value), json_string_length(value))))
            field_errors_add(e, at, "FieldValueInvalid", "Invalid value: must be base64");
    }
}

static void check_value(const struct field *f, const json_t *v, const char *path, struct field_errors *e)
{
    switch (f->type) {
    case FIELD_INT:
    case FIELD_NUMBER:
        check_number(f, v, path, e);
        break;
    case FIELD_OBJECT:
        field_validate(f->sub, v, path, e);
        break;
    case FIELD_LIST:
        check_list(f, v, path, e);
        break;
    case FIELD_MAP:
        check_map(f, v, path, e);
        break;
    case FIELD_ANY:
    case FIELD_BOOL:
        break;
    default:
        if (json_is_string(v))
            check_string(f, v, path, e);
    }
}

void field_validate(const struct field *table, const json_t *obj, const char *path, struct field_errors *errors)
{
    for (const struct field *f = table; f && f->name; f++) {
        char at[PATH_MAX_BYTES];
        join(at, path, f->name);
        const json_t *v = json_object_get(obj, f->name);
        if (!v || json_is_null(v)) {
            if (f->flags & FIELD_REQUIRED)
                field_errors_add(errors, at, "FieldValueRequired", "Required value");
            continue;
        }
        if (!field_has_type(f->type, v))
            field_errors_add(errors, at, "FieldValueTypeInvalid", "Invalid value: \"%s\": must be of type %s", field_json_type_name(v), field_type_name(f->type));
        else
            check_value(f, v, at, errors);
    }
}

const struct field *field_find(const struct field *table, const char *name)
{
    for (const struct field *f = table; f && f->name; f++)
        if (!strcmp(f->name, name))
            return f;
    return NULL;
}

void field_unknown(const struct field *table, const json_t *obj, const char *path, struct field_errors *errors)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)obj, key, v) {
        char at[PATH_MAX_BYTES];
        join(at, path, key);
        const struct field *f = field_find(table, key);
        if (!f) {
            field_errors_add(errors, at, "FieldUnknown", "unknown field \"%s\"", at);
        } else if (f->type == FIELD_OBJECT && f->sub && !(f->flags & FIELD_OPEN) && json_is_object(v)) {
            field_unknown(f->sub, v, at, errors);
        } else if (f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub && json_is_array(v)) {
            size_t i;
            json_t *item;
            json_array_foreach (v, i, item) {
                char inner[PATH_MAX_BYTES];
                snprintf(inner, sizeof(inner), "%s[%zu]", at, i);
                if (json_is_object(item))
                    field_unknown(f->sub, item, inner, errors);
            }
        }
    }
}

void field_prune(const struct field *table, const struct field *also, json_t *obj)
{
    const char *key;
    json_t *v, *item;
    void *next;
    json_object_foreach_safe (obj, next, key, v) {
        const struct field *f = field_find(table, key);
        size_t i;
        if (!f)
            f = field_find(also, key);
        if (!f)
            json_object_del(obj, key);
        else if (f->type == FIELD_OBJECT && f->sub && !(f->flags & FIELD_OPEN) && json_is_object(v))
            field_prune(f->sub, NULL, v);
        else if (f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub && json_is_array(v))
            json_array_foreach (v, i, item)
                field_prune(f->sub, NULL, item);
    }
}

void field_validate_update(const struct field *table, const json_t *old_obj, const json_t *new_obj, const char *path,
                           struct field_errors *errors)
{
    for (const struct field *f = table; f && f->name; f++) {
        char at[PATH_MAX_BYTES];
        join(at, path, f->name);
        const json_t *a = json_object_get(old_obj, f->name), *b = json_object_get(new_obj, f->name);
        if (f->flags & FIELD_IMMUTABLE) {
            /* A field that was never set may be filled in later. */
            if (a && !json_is_null(a) && !(b && json_equal(a, b)))
                field_errors_add(errors, at, "FieldValueInvalid", "Invalid value: %s: field is immutable", b ? quoted(errors, b) : "null");
        } else if (f->type == FIELD_OBJECT && f->sub && json_is_object(a) && (json_is_object(b) || !(f->flags & FIELD_REQUIRED))) {
            /* Leaving the whole object out would take its immutable members away too; a required one is missed already. */
            field_validate_update(f->sub, a, b, at, errors);
        }
    }
}
