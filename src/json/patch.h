/* Patches: RFC 7396 merge patch and RFC 6902 JSON patch, on a copy of the target.
 *
 * Work is bounded: at most 10,000 operations, which together copy, move and compare at most 16 * max_bytes; the result is refused
 * over max_bytes (estimated) and over depth 64 (ERR_TOO_LARGE). What cannot be applied is ERR_INVALID. Fuzzed.
 */
#ifndef SEKI_JSON_PATCH_H
#define SEKI_JSON_PATCH_H

#include "json/json.h"

int json_merge_patch(const json_t *target, const json_t *patch, json_t **ret, struct err *err) NODISCARD;
int json_apply_patch(const json_t *target, const json_t *ops, size_t max_bytes, json_t **ret, struct err *err) NODISCARD;

#endif
