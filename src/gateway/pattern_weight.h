/* What regular expressions and grammars become when their repetitions are written out: how many
 * characters, classes and references to rules an engine then compiles. Repetitions within each
 * other multiply; "*" and "+" weigh as a few. Both texts are JSON strings, with their quotes, as
 * the scan of a body finds them. Weights have an upper end. Pure; threads: any.
 *
 * Not multiplied: repetitions of rules of a grammar that refer to each other.
 */
#ifndef SEKI_GATEWAY_PATTERN_WEIGHT_H
#define SEKI_GATEWAY_PATTERN_WEIGHT_H

#include "base/str.h"

#define PATTERN_GROUPS_MAX 64 /* within each other */

/* *ret_nested: what those become of which three and more are within each other. -1: its groups are
 * nested too deeply to tell. */
int64_t pattern_weight(struct str json_string, int64_t *ret_nested);
/* The same of a grammar: llama.cpp's, XGrammar's, or Lark's. Other than patterns they have literals
 * in quotes and patterns in slashes, white space and comments between all, and "~ 2..5". Which of
 * them it is, or whether it is a pattern after all, only its engine knows: the heavier counts. */
int64_t grammar_weight(struct str json_string, int64_t *ret_nested);

#endif
