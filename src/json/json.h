/* JSON documents: jansson behind caps, with the helpers that everybody needs.
 *
 * Parsing refuses duplicate keys, depth over 64, NUL, invalid UTF-8, trailing bytes, numbers outside int64/double. Documents
 * pass through all layers as json_t; who shares one across threads treats it as immutable (jansson's counts are atomic).
 */
#ifndef SEKI_JSON_JSON_H
#define SEKI_JSON_JSON_H

#include <jansson.h>

#include "base/arena.h"

/* A reference that is dropped at the end of its scope (json_decrefp is jansson's). */
#define JSON_AUTO CLEANUP(json_decrefp) json_t *

int json_parse(struct str text, size_t max_bytes, json_t **ret, struct err *err) NODISCARD;
/* A whole file. What file_read() says; ERR_CORRUPT: it is no JSON. The message has the path. */
int json_read_file(const char *path, size_t max_bytes, json_t **ret, struct err *err) NODISCARD;
/* Compact, keys in stored order. */
void json_write(const json_t *j, struct sbuf *out);
void json_write_pretty(const json_t *j, struct sbuf *out);

/* Dotted lookup: json_at(obj, "metadata.labels"); keys with dots cannot be reached. NULL when absent or null. */
json_t *json_at(const json_t *j, const char *path);
const char *json_str(const json_t *j, const char *path);              /* NULL when absent or no string */
const char *json_str_or(const json_t *j, const char *path, const char *def);
int64_t json_int(const json_t *j, const char *path, int64_t def);
bool json_flag(const json_t *j, const char *path, bool def);
/* Sets along a dotted path, making objects on the way; steals value. Nothing happens where j is no object. */
void json_put(json_t *j, const char *path, json_t *value);
void json_put_str(json_t *j, const char *path, const char *value);
void json_put_int(json_t *j, const char *path, int64_t value);
void json_remove(json_t *j, const char *path);

#endif
