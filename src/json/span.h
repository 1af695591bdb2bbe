/* Span scanner: finds a few members of a JSON text as byte ranges, in one pass, without building a document.
 *
 * For the gateway's hot path: a request body is forwarded byte for byte, so only positions are needed. The scanner accepts
 * what json_parse() accepts (that is fuzzed, with jansson as the judge), with these differences. The root must be an object.
 * At the top and in objects that a path leads through, duplicate members, names with escapes and more than 128 members are
 * refused; elsewhere, where nothing is read, duplicates pass. Numbers of 512 characters and more are refused.
 * No allocation. Threads: any.
 */
#ifndef SEKI_JSON_SPAN_H
#define SEKI_JSON_SPAN_H

#include "base/str.h"

enum span_type { SPAN_ABSENT, SPAN_STRING, SPAN_NUMBER, SPAN_TRUE, SPAN_FALSE, SPAN_NULL, SPAN_OBJECT, SPAN_ARRAY };

struct span {
    enum span_type type;
    struct str text; /* the value's bytes; strings with their quotes */
    size_t count;    /* of a list or an object: elements, members */
};

/* paths: dotted, "model", "stream_options.include_usage", "usage.prompt_tokens"; at most 64, at most 4 deep.
 * ret[i] belongs to paths[i]. The root must be an object. What is wrong with a member or a number, and not with JSON's form, has the member as the error's field: the one at the top, or below it
 * where a path leads there. */
int span_scan(struct str json, const char *const *paths, size_t path_count, struct span *ret, struct err *err) NODISCARD;

/* The string's value, unescaped into a caller's array with NUL; false when it does not fit or is no string. */
bool span_string(const struct span *s, char *array, size_t size);
bool span_int(const struct span *s, int64_t *ret);
bool span_bool(const struct span *s, bool def);

#endif
