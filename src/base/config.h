/* Configuration: one schema table gives names, types, ranges, defaults, units and help, for the file and the flags.
 *
 * File format: `key = value` lines under `[section]` headings; `#` and `;` start a comment line; the option
 * "listen" of section "gateway" is the flag --gateway-listen; options of section "" have no prefix. Values are stored in a
 * caller's struct at `offset`: CONF_STR and CONF_PATH as char * (owned by the config's arena), CONF_BOOL as bool, CONF_INT,
 * CONF_SIZE (suffixes K, M, G: powers of 1024) and CONF_DURATION (ms; texts as in clock.h) as int64_t.
 * Errors name file, line and key, and say what was expected; nothing is changed then.
 */
#ifndef SEKI_BASE_CONFIG_H
#define SEKI_BASE_CONFIG_H

#include "base/arena.h"

enum conf_type { CONF_STR, CONF_PATH, CONF_BOOL, CONF_INT, CONF_SIZE, CONF_DURATION, CONF_ENUM };

struct conf_option {
    const char *section;
    const char *name;
    enum conf_type type;
    size_t offset;
    const char *def;      /* default, as text */
    int64_t min, max;     /* numbers: inclusive; both 0 = any */
    const char *values;   /* CONF_ENUM: "a|b|c"; stored as int64_t index */
    const char *unit;     /* for the help */
    bool reloadable;      /* takes effect on SIGHUP; else a restart is needed and said so */
    const char *help;
};

/* Fills *out from the defaults, then file (NULL: none), then flags: pairs "section-name" → text. */
struct conf_flag {
    const char *name; /* without the leading dashes */
    const char *value;
};
int conf_load(const struct conf_option *schema, size_t schema_len, const char *file,
              const struct conf_flag *flags, size_t flag_count, struct arena *arena, void *out,
              struct err *err) NODISCARD;
/* From a text instead of a file; `name` is for messages. This is the parser; it is fuzzed. */
int conf_parse(const struct conf_option *schema, size_t schema_len, const char *name, struct str text,
               struct arena *arena, void *out, struct err *err) NODISCARD;
const struct conf_option *conf_find_flag(const struct conf_option *schema, size_t schema_len, struct str flag);
/* The reference as a commented sample file. */
void conf_write_reference(const struct conf_option *schema, size_t schema_len, struct sbuf *out);

#endif
