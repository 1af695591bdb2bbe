#include "base/config.h"

#include <limits.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define FILE_MAX_BYTES ((size_t)1 << 20)
#define SHOWN_VALUE_MAX 64

/* Everything is parsed into these first and stored at the end, so that a bad file changes nothing.
 */
struct value {
    char *text;
    int64_t number;
    int line; /* where the file set it; 0: not */
};

struct loader {
    const struct conf_option *schema;
    size_t schema_len;
    struct arena *arena;
    struct value *values; /* one an option */
};

static const char *full_name(const struct loader *l, const struct conf_option *o)
{
    return o->section[0] ? arena_printf(l->arena, "%s.%s", o->section, o->name) : o->name;
}

/* A bound as one would write it: "5m", "16M", "256". */
static void add_bound(struct sbuf *out, enum conf_type type, int64_t n)
{
    static const char units[] = "KMG";
    char text[CLOCK_AGE_MAX];
    if (type == CONF_DURATION) {
        clock_format_duration(n, text);
        sbuf_addc(out, text);
        return;
    }
    size_t i = 0;
    for (; type == CONF_SIZE && i < 3 && n && n % 1024 == 0; i++)
        n /= 1024;
    sbuf_addf(out, "%lld", (long long)n);
    if (i)
        sbuf_add_char(out, units[i - 1]);
}

/* What the option takes, for messages and the reference: "an integer from 1 to 65535". */
static void describe(const struct conf_option *o, struct sbuf *out)
{
    static const char *const texts[] = {
        [CONF_STR] = "a text",
        [CONF_PATH] = "a path",
        [CONF_BOOL] = "true or false",
        [CONF_INT] = "an integer",
        [CONF_SIZE] = "a size such as 64K, 10M or 2G",
        [CONF_DURATION] = "a duration such as 250ms, 90s or 1h30m",
        [CONF_ENUM] = "one of",
    };
    sbuf_addc(out, texts[o->type]);
    if (o->type == CONF_ENUM)
        sbuf_addf(out, " %s", o->values);
    if (o->min == 0 && o->max == 0)
        return;
    if (o->type == CONF_INT || o->type == CONF_SIZE || o->type == CONF_DURATION) {
        sbuf_addc(out, " from ");
        add_bound(out, o->type, o->min);
        sbuf_addc(out, " to ");
        add_bound(out, o->type, o->max);
    }
}

static bool parse_bool(struct str text, int64_t *ret)
{
    static const struct {
        const char *text;
        int value;
    } words[] = {{"true", 1},  {"yes", 1}, {"on", 1},  {"1", 1},
                 {"false", 0}, {"no", 0},  {"off", 0}, {"0", 0}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (str_eqc(text, words[i].text)) {
            *ret = words[i].value;
            return true;
        }
    }
    return false;
}

static bool parse_size(struct str text, int64_t *ret)
{
    int64_t unit = 1;
    if (text.len) {
        char c = text.ptr[text.len - 1];
        unit = c == 'K'   ? (int64_t)1 << 10
               : c == 'M' ? (int64_t)1 << 20
               : c == 'G' ? (int64_t)1 << 30
                          : 1;
    }
    if (unit > 1)
        text.len--;
    int64_t n;
    return str_to_i64(text, 0, INT64_MAX, &n) == 0 && !__builtin_mul_overflow(n, unit, ret);
}

static bool parse_enum(const char *values, struct str text, int64_t *ret)
{
    struct str rest = str_of(values), item;
    for (int64_t i = 0; str_cut(&rest, '|', &item); i++) {
        if (str_eq(item, text)) {
            *ret = i;
            return true;
        }
    }
    return false;
}

static bool parse_value(const struct conf_option *o, struct str text, int64_t *ret)
{
    switch (o->type) {
    case CONF_STR:
    case CONF_PATH:
        return true;
    case CONF_BOOL:
        return parse_bool(text, ret);
    case CONF_ENUM:
        return parse_enum(o->values, text, ret);
    case CONF_INT:
        if (str_to_i64(text, INT64_MIN, INT64_MAX, ret) < 0)
            return false;
        break;
    case CONF_SIZE:
        if (!parse_size(text, ret))
            return false;
        break;
    case CONF_DURATION:
        if (clock_parse_duration(text, ret) < 0)
            return false;
        break;
    }
    return (o->min == 0 && o->max == 0) || (*ret >= o->min && *ret <= o->max);
}

/* `where` says who set it: "seki.conf:12" or "--gateway-listen". */
static int set_value(struct loader *l, const struct conf_option *o, struct str text,
                     const char *where, struct err *err)
{
    struct value *v = &l->values[o - l->schema];
    int64_t number = 0;
    if (!parse_value(o, text, &number)) {
        CLEANUP(sbuf_deinit) struct sbuf expected = {0};
        sbuf_init(&expected, 1024);
        describe(o, &expected);
        bool cut = text.len > SHOWN_VALUE_MAX;
        text.len = MIN(text.len, (size_t)SHOWN_VALUE_MAX);
        const char *name = full_name(l, o);
        return err_field(err, ERR_INVALID, name, "%s: %s: expected %s, got \"%.*s%s\"", where, name,
                         expected.ptr ? expected.ptr : "another value", STR_ARG(text),
                         cut ? "..." : "");
    }
    v->text = arena_strndup(l->arena, text);
    v->number = number;
    return 0;
}

static const struct conf_option *find_option(const struct loader *l, struct str section,
                                             struct str name)
{
    for (size_t i = 0; i < l->schema_len; i++)
        if (str_eqc(section, l->schema[i].section) && str_eqc(name, l->schema[i].name))
            return &l->schema[i];
    return NULL;
}

static bool section_known(const struct loader *l, struct str section)
{
    for (size_t i = 0; i < l->schema_len; i++)
        if (str_eqc(section, l->schema[i].section))
            return true;
    return false;
}

static int set_defaults(struct loader *l, struct err *err)
{
    for (size_t i = 0; i < l->schema_len; i++) {
        const struct conf_option *o = &l->schema[i];
        if (!o->def)
            continue;
        int rc = set_value(l, o, str_of(o->def), "default", err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int parse_heading(const struct loader *l, struct str line, const char *name, int number,
                         struct str *section, struct err *err)
{
    if (line.ptr[line.len - 1] != ']')
        return err_set(err, ERR_INVALID,
                       "%s:%d: expected \"]\" at the end of the section's heading", name, number);
    *section = str_trim(str_n(line.ptr + 1, line.len - 2));
    if (!section_known(l, *section))
        return err_set(err, ERR_INVALID, "%s:%d: unknown section [%.*s]", name, number,
                       (int)MIN(section->len, (size_t)SHOWN_VALUE_MAX), section->ptr);
    return 0;
}

static int parse_line(struct loader *l, struct str line, const char *name, int number,
                      struct str *section, struct err *err)
{
    line = str_trim(line);
    if (line.len == 0 || line.ptr[0] == '#' || line.ptr[0] == ';')
        return 0;
    for (size_t i = 0; i < line.len; i++)
        if ((unsigned char)line.ptr[i] < ' ' && line.ptr[i] != '\t')
            return err_set(err, ERR_INVALID, "%s:%d: control character in the line", name, number);
    if (!str_utf8_valid(line))
        return err_set(err, ERR_INVALID, "%s:%d: the line is not UTF-8", name, number);
    if (line.ptr[0] == '[')
        return parse_heading(l, line, name, number, section, err);
    struct str key;
    struct str value = line;
    if (str_find(line, '=') < 0 || !str_cut(&value, '=', &key))
        return err_set(err, ERR_INVALID, "%s:%d: expected \"key = value\"", name, number);
    key = str_trim(key);
    const struct conf_option *o = find_option(l, *section, key);
    if (!o)
        return err_set(err, ERR_INVALID, "%s:%d: unknown option \"%.*s\" in section [%.*s]", name,
                       number, (int)MIN(key.len, (size_t)SHOWN_VALUE_MAX), key.ptr,
                       STR_ARG(*section));
    struct value *v = &l->values[o - l->schema];
    if (v->line)
        return err_field(err, ERR_INVALID, full_name(l, o),
                         "%s:%d: %s is set twice, first in line %d", name, number, full_name(l, o),
                         v->line);
    v->line = number;
    return set_value(l, o, str_trim(value), arena_printf(l->arena, "%s:%d", name, number), err);
}

static int parse_text(struct loader *l, const char *name, struct str text, struct err *err)
{
    struct str section = STR("");
    struct str line;
    for (int number = 1; str_cut(&text, '\n', &line); number++) {
        int rc = parse_line(l, line, name, number, &section, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Whether flag is "section-name"; '_' in names is '-' on the command line. */
static bool is_flag_of(const struct conf_option *o, struct str flag)
{
    size_t section_len = strlen(o->section), prefix = section_len ? section_len + 1 : 0;
    if (flag.len != prefix + strlen(o->name))
        return false;
    for (size_t i = 0; i < flag.len; i++) {
        char want = i < section_len ? o->section[i] : i < prefix ? '-' : o->name[i - prefix];
        if (flag.ptr[i] != want && !(flag.ptr[i] == '-' && want == '_'))
            return false;
    }
    return true;
}

const struct conf_option *conf_find_flag(const struct conf_option *schema, size_t schema_len,
                                         struct str flag)
{
    for (size_t i = 0; i < schema_len; i++)
        if (is_flag_of(&schema[i], flag))
            return &schema[i];
    return NULL;
}

static int set_flags(struct loader *l, const struct conf_flag *flags, size_t flag_count,
                     struct err *err)
{
    for (size_t i = 0; i < flag_count; i++) {
        const struct conf_option *o =
            conf_find_flag(l->schema, l->schema_len, str_of(flags[i].name));
        if (!o)
            return err_set(err, ERR_INVALID, "unknown flag --%s", flags[i].name);
        const char *text = flags[i].value;
        if (!text && o->type != CONF_BOOL)
            return err_set(err, ERR_INVALID, "--%s needs a value", flags[i].name);
        int rc = set_value(l, o, str_of(text ? text : "true"),
                           arena_printf(l->arena, "--%s", flags[i].name), err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void store(const struct loader *l, void *out)
{
    for (size_t i = 0; i < l->schema_len; i++) {
        void *at = (char *)out + l->schema[i].offset;
        switch (l->schema[i].type) {
        case CONF_STR:
        case CONF_PATH:
            *(char **)at = l->values[i].text;
            break;
        case CONF_BOOL:
            *(bool *)at = l->values[i].number != 0;
            break;
        case CONF_INT:
        case CONF_SIZE:
        case CONF_DURATION:
        case CONF_ENUM:
            *(int64_t *)at = l->values[i].number;
            break;
        }
    }
}

static struct loader loader_of(const struct conf_option *schema, size_t schema_len,
                               struct arena *arena)
{
    return (struct loader){schema, schema_len, arena, ARENA_ARRAY(arena, struct value, schema_len)};
}

int conf_load(const struct conf_option *schema, size_t schema_len, const char *file,
              const struct conf_flag *flags, size_t flag_count, struct arena *arena, void *out,
              struct err *err)
{
    struct loader l = loader_of(schema, schema_len, arena);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = set_defaults(&l, err);
    if (rc == 0 && file)
        rc = file_read(file, FILE_MAX_BYTES, &text, &len, err);
    if (rc == 0 && file)
        rc = parse_text(&l, file, str_n(text, len), err);
    if (rc == 0)
        rc = set_flags(&l, flags, flag_count, err);
    if (rc == 0)
        store(&l, out);
    return rc;
}

int conf_parse(const struct conf_option *schema, size_t schema_len, const char *name,
               struct str text, struct arena *arena, void *out, struct err *err)
{
    struct loader l = loader_of(schema, schema_len, arena);
    int rc = set_defaults(&l, err);
    if (rc == 0)
        rc = parse_text(&l, name, text, err);
    if (rc == 0)
        store(&l, out);
    return rc;
}

void conf_write_reference(const struct conf_option *schema, size_t schema_len, struct sbuf *out)
{
    const char *section = "";
    for (size_t i = 0; i < schema_len; i++) {
        const struct conf_option *o = &schema[i];
        if (i)
            sbuf_add_char(out, '\n');
        if (strcmp(section, o->section) != 0) {
            section = o->section;
            sbuf_addf(out, "[%s]\n\n", section);
        }
        struct str help = str_of(o->help ? o->help : ""), line;
        while (str_cut(&help, '\n', &line))
            sbuf_addf(out, "# %.*s\n", STR_ARG(line));
        sbuf_addc(out, "# Takes ");
        describe(o, out);
        if (o->unit && o->type != CONF_DURATION)
            sbuf_addf(out, " (%s)", o->unit);
        sbuf_addf(out, ". %s\n",
                  o->reloadable ? "Takes effect on reload." : "A change needs a restart.");
        sbuf_addf(out, "#%s = %s\n", o->name, o->def ? o->def : "");
    }
}
